//! What a dump in a file says of itself before it is read: which roles, databases and extensions it makes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// How a dump of a database begins.
pub(super) const DATABASE: &str = "PostgreSQL database dump";
/// How a dump of a whole cluster begins, and one of roles.
pub(super) const CLUSTER: &str = "PostgreSQL database cluster dump";

/// An archive, by the list of what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Archive {
    /// The database that was dumped.
    pub(super) database: Option<String>,
    /// Whether it can be made as it was, with its locale and encoding.
    pub(super) makes_database: bool,
    pub(super) extensions: Vec<String>,
}

impl Archive {
    /// Of what `pg_restore --list` prints.
    pub(super) fn of(list: &str) -> Self {
        let name = list.lines().find_map(|line| line.strip_prefix(";     dbname: "));
        let entries = || list.lines().filter(|line| !line.starts_with(';'));
        let extensions = list.lines().filter_map(|line| line.split_once(" EXTENSION - "));
        Self {
            database: name.map(|name| name.trim().to_owned()),
            makes_database: entries().any(|line| line.contains(" DATABASE - ")),
            extensions: extensions.map(|(_, name)| name.trim().to_owned()).collect(),
        }
    }
}

/// Plain SQL, as `pg_dump` and `pg_dumpall` write it: what they make begins a line of its own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    roles: Vec<Role>,
    grants: Vec<Grant>,
    /// The databases that it makes.
    pub(super) databases: Vec<String>,
    /// Whether it goes on in another database than that in which it begins.
    pub(super) connects: bool,
    /// Extensions, each behind the database that it is made in, unless that is the one in which it begins.
    extensions: Vec<(Option<String>, String)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Role {
    name: String,
    superuser: bool,
}

/// A role that is granted to another.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    role: String,
    member: String,
    /// Whether the member may pass it on.
    admin: bool,
    by: Option<String>,
}

impl Script {
    /// Adds the roles that a file makes: one of roles, or the beginning of a cluster's.
    pub(super) fn add_roles(&mut self, path: &Path) -> Result<()> {
        let of_database = format!("-- {DATABASE}");
        each_line(path, |line| {
            if line.trim_end() == of_database {
                return ControlFlow::Break(());
            }
            self.take_role(line);
            ControlFlow::Continue(())
        })
    }

    /// The databases and extensions that a file makes. One of a single database has them before any data.
    pub(super) fn read(path: &Path, is_cluster: bool) -> Result<Self> {
        let mut script = Self::default();
        let (mut is_data, mut database) = (false, None);
        each_line(path, |line| {
            if is_data {
                is_data = line.trim_end() != "\\.";
            } else if is_copy(line) {
                if !is_cluster {
                    return ControlFlow::Break(());
                }
                is_data = true;
            } else if let Some(rest) = line.strip_prefix("CREATE DATABASE ") {
                script.databases.extend(words(rest).into_iter().next().map(|word| word.text));
            } else if let Some(rest) = line.strip_prefix("CREATE EXTENSION ") {
                let is_name = |word: &Word| !["if", "not", "exists"].iter().any(|w| word.is(w));
                let name = words(rest).into_iter().find(is_name);
                script.extensions.extend(name.map(|name| (database.clone(), name.text)));
            } else if let Some(rest) = line.strip_prefix("\\connect ") {
                script.connects = true;
                database = connected(rest);
            }
            ControlFlow::Continue(())
        })?;
        Ok(script)
    }

    fn take_role(&mut self, line: &str) {
        // A comment may say as much.
        if line.starts_with("--") {
            return;
        }
        let is_role = |word: &Word| word.is("role") || word.is("user") || word.is("group");
        let is_said = |words: &[Word], keyword: &str| words.iter().any(|word| word.is(keyword));
        match words(line).as_slice() {
            [verb, kind, name, rest @ ..]
                if (verb.is("create") || verb.is("alter"))
                    && is_role(kind)
                    && !name.is("mapping") =>
            {
                let superuser = is_said(rest, "superuser");
                match self.roles.iter_mut().find(|role| role.name == name.text) {
                    Some(role) => role.superuser |= superuser,
                    None => self.roles.push(Role { name: name.text.clone(), superuser }),
                }
            }
            [verb, role, to, member, rest @ ..] if verb.is("grant") && to.is("to") => {
                let is_admin = |pair: &[Word]| match pair {
                    [admin, value] => admin.is("admin") && (value.is("option") || value.is("true")),
                    _ => false,
                };
                let by = rest.iter().skip_while(|word| !word.is("granted")).nth(2);
                self.grants.push(Grant {
                    role: role.text.clone(),
                    member: member.text.clone(),
                    admin: rest.windows(2).any(is_admin),
                    by: by.map(|word| word.text.clone()),
                });
            }
            _ => {}
        }
    }

    /// Whether it makes or changes a role of this name, and if so whether that is a superuser.
    pub(super) fn superuser(&self, name: &str) -> Option<bool> {
        self.roles.iter().find(|role| role.name == name).map(|role| role.superuser)
    }

    /// The superuser that `initdb` has made in the source, as far as that can be told. Nobody else grants a role that he
    /// may not pass on, and since 16 nobody else is taken for who did.
    pub(super) fn bootstrap(&self, major: u32) -> Result<Option<&str>> {
        let passes_on = |role: &str, member: &str| {
            self.grants.iter().any(|g| g.admin && g.role == role && g.member == member)
        };
        let granted = self.grants.iter().filter_map(|grant| Some((grant, grant.by.as_deref()?)));
        let first: BTreeSet<&str> = granted
            .filter(|(grant, by)| !passes_on(&grant.role, by))
            .map(|(_, by)| by)
            .filter(|by| self.superuser(by) != Some(false))
            .collect();
        if first.len() > 1 && major >= 16 {
            let names = first.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!(
                "several superusers have granted roles ({names}), and PostgreSQL {major} takes that of one alone"
            );
            return Err(Error::new(ErrorKind::Incompatible, what).with_hint(
                "have pg_dumpall of 16 or newer write the roles, or leave GRANTED BY out of the file",
            ));
        }
        let superusers = || self.roles.iter().filter(|role| role.superuser);
        Ok(match (first.len(), superusers().count()) {
            (1, _) => first.first().copied(),
            (_, 1) => superusers().next().map(|role| role.name.as_str()),
            _ => None,
        })
    }

    /// The extensions of each database, where it is begun in this one.
    pub(super) fn extensions_in(&self, database: &str) -> Vec<(String, Vec<String>)> {
        let named = self.extensions.iter().map(|(of, name)| {
            (of.clone().unwrap_or_else(|| database.to_owned()), vec![name.clone()])
        });
        named.collect()
    }
}

/// Whether rows follow. Of a long line there is only the beginning.
fn is_copy(line: &str) -> bool {
    let is_whole = line.ends_with('\n');
    line.starts_with("COPY ") && (!is_whole || line.trim_end().ends_with(" FROM stdin;"))
}

/// The database that psql goes to.
fn connected(rest: &str) -> Option<String> {
    match rest.split_once("dbname='") {
        Some((_, name)) => name.split('\'').next().map(str::to_owned),
        None => words(rest).into_iter().next().map(|word| word.text),
    }
}

/// How much is looked at of a line: those that make something are short, and one row may have a gigabyte.
const MOST: usize = 4096;

/// Gives the beginning of each line, with its end if that is near, until it is enough.
fn each_line(path: &Path, mut take: impl FnMut(&str) -> ControlFlow<()>) -> Result<()> {
    let failure = |e: std::io::Error| Error::io(format!("read {}", path.display()), e);
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failure)?);
    let mut line = Vec::new();
    loop {
        let part = file.fill_buf().map_err(failure)?;
        let end = part.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let length = end.unwrap_or(part.len());
        let taken = length.min(MOST.saturating_sub(line.len()));
        line.extend_from_slice(part.get(..taken).unwrap_or_default());
        file.consume(length);
        if length > 0 && end.is_none() {
            continue;
        }
        if !line.is_empty() && take(&String::from_utf8_lossy(&line)).is_break() {
            return Ok(());
        }
        if length == 0 {
            return Ok(());
        }
        line.clear();
    }
}

/// A word of SQL; a keyword or name is in lower case unless it is quoted.
#[derive(Debug)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

/// The words of a line, without strings, which name nothing.
fn words(line: &str) -> Vec<Word> {
    let is_of_word = |letter: &char| letter.is_alphanumeric() || matches!(letter, '_' | '$');
    let mut words = Vec::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let mut text = String::new();
        if letter == '"' || letter == '\'' {
            while let Some(next) = letters.next() {
                // One that is meant stands twice.
                if next == letter && letters.next_if_eq(&letter).is_none() {
                    break;
                }
                text.push(next);
            }
            if letter == '"' {
                words.push(Word { text, is_quoted: true });
            }
        } else if is_of_word(&letter) {
            text.push(letter.to_ascii_lowercase());
            while let Some(next) = letters.next_if(is_of_word) {
                text.push(next.to_ascii_lowercase());
            }
            words.push(Word { text, is_quoted: false });
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(text: &str) -> Script {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roles.sql");
        std::fs::write(&path, text).unwrap();
        let mut script = Script::default();
        script.add_roles(&path).unwrap();
        script
    }

    #[test]
    fn the_first_superuser_is_found_in_what_makes_roles() {
        // As 18 writes it of a container with POSTGRES_USER=app.
        let text = "-- PostgreSQL database cluster dump\n-- CREATE ROLE nobody;\n\\restrict x\n\
            CREATE ROLE \"Zoë Müller\";\nALTER ROLE \"Zoë Müller\" WITH NOSUPERUSER INHERIT NOLOGIN;\n\
            CREATE ROLE app;\nALTER ROLE app WITH SUPERUSER INHERIT LOGIN PASSWORD 'it''s superuser';\n\
            CREATE ROLE velo;\nALTER ROLE velo WITH SUPERUSER LOGIN;\n\
            GRANT reader TO ann WITH ADMIN OPTION, INHERIT TRUE GRANTED BY app;\n\
            GRANT reader TO ben WITH INHERIT TRUE GRANTED BY ann;\n\
            GRANT \"Zoë Müller\" TO app WITH ADMIN FALSE GRANTED BY app;\n\
            --\n-- PostgreSQL database dump\n--\nCREATE ROLE late;\n";
        let script = roles(text);
        assert_eq!(script.bootstrap(18).unwrap(), Some("app"));
        assert_eq!(script.superuser("velo"), Some(true));
        assert_eq!(script.superuser("Zoë Müller"), Some(false));
        for name in ["nobody", "late", "ann"] {
            assert_eq!(script.superuser(name), None, "{name}");
        }
        // Where nobody was granted anything.
        assert_eq!(roles("create user app superuser;\n").bootstrap(18).unwrap(), Some("app"));
        assert_eq!(roles("CREATE ROLE ann LOGIN;\n").bootstrap(18).unwrap(), None);
        let two = "CREATE ROLE app SUPERUSER;\nCREATE ROLE postgres SUPERUSER;\n";
        assert_eq!(roles(two).bootstrap(18).unwrap(), None);
        // Before 16 every superuser granted in his own name.
        let several =
            format!("{two}GRANT a TO b GRANTED BY app;\nGRANT c TO b GRANTED BY postgres;");
        assert_eq!(roles(&several).bootstrap(15).unwrap(), None);
        let error = roles(&several).bootstrap(16).unwrap_err();
        assert!(error.to_string().contains("app, postgres"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn databases_and_extensions_are_found_and_not_in_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.sql");
        let long = "x".repeat(5000);
        let text = format!(
            "CREATE DATABASE \"an other\" WITH TEMPLATE = template0;\nCREATE DATABASE shop;\n\
             \\connect -reuse-previous=on \"dbname='an other'\"\n\
             CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public;\n\
             COPY t (x) FROM stdin;\nCREATE DATABASE no;\n{long}\nCREATE EXTENSION citus;\n\\.\n\
             \\connect shop\nCREATE EXTENSION IF NOT EXISTS pg_cron WITH SCHEMA pg_catalog;"
        );
        std::fs::write(&path, &text).unwrap();
        let script = Script::read(&path, true).unwrap();
        assert_eq!(script.databases, ["an other", "shop"]);
        assert!(script.connects);
        let found = script.extensions_in("postgres");
        let wanted = [("an other", "uuid-ossp"), ("shop", "pg_cron")];
        let wanted = wanted.map(|(database, name)| (database.to_owned(), vec![name.to_owned()]));
        assert_eq!(found, wanted);
        assert_eq!(Script::read(&path, false).unwrap().extensions_in("x").len(), 1);
    }

    #[test]
    fn an_archive_is_known_by_its_list() {
        let list = ";\n; Archive created at 2025-01-01\n;     dbname: an other\n;\n\
            3370; 1262 16384 DATABASE - an other postgres\n2; 3079 16385 EXTENSION - pg_cron \n\
            3371; 0 0 COMMENT - EXTENSION pg_cron \n215; 1259 16390 TABLE public t postgres\n";
        let archive = Archive::of(list);
        assert_eq!(archive.database.as_deref(), Some("an other"));
        assert!(archive.makes_database);
        assert_eq!(archive.extensions, ["pg_cron"]);
        let parts = ";     dbname: shop\n;\n3371; 0 0 ACL - DATABASE shop postgres\n";
        assert!(!Archive::of(parts).makes_database);
    }
}
