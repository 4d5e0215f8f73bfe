//! Libraries that the source's server loads at its start, and those that extensions of a dump cannot be made without.

use super::auto_conf;
use super::bring::Import;
use super::check;
use super::remote::Facts;
use crate::boot::{self, Loading};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::session::literal;
use crate::postgres::settings::{self, short};
use crate::runtime::StopMode;

/// The setting that names them.
const SETTING: &str = "shared_preload_libraries";

/// Extensions that are not made unless their library was loaded at the start: the first wants to be the first there.
const NEEDED: [&str; 8] =
    ["citus", "pgaudit", "pglogical", "spock", "bdr", "pgactive", "pg_tle", CRON];

/// It wants to know the database in which jobs are.
const CRON: &str = "pg_cron";

/// What a dump is restored with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Preload {
    /// Libraries as the setting has them, each with a database that needs it.
    libraries: Vec<(String, String)>,
}

/// What the source wants, whose server is there.
pub(super) async fn of_source(import: &Import<'_>, facts: &Facts) -> Result<Preload> {
    let mut found = Vec::new();
    for database in import.wanted(facts)? {
        let names = check::extensions(import, &database.name).await?;
        found.push((database.name.clone(), names));
    }
    Preload::of(&found, facts.preloaded())?.that_are_here(import).await
}

impl Preload {
    /// For databases with these extensions, of a server that loads those libraries, as far as that is known.
    pub(super) fn of(found: &[(String, Vec<String>)], loaded: &str) -> Result<Self> {
        let who_has = |name: &str| {
            let has = |(_, names): &&(String, Vec<String>)| names.iter().any(|own| own == name);
            found.iter().find(has).map(|(database, _)| database.clone())
        };
        if let Some(database) = who_has("timescaledb") {
            let what = format!(
                "the database {database:?} has timescaledb, and a dump of that is restored by a procedure of its own"
            );
            return Err(Error::new(ErrorKind::Unsupported, what).with_hint(
                "copy its files: --method basebackup, or the data folder of a server that is stopped",
            ));
        }
        let loaded = || loaded.split(',').map(|name| name.trim().trim_matches('"'));
        let is_loaded = |name: &str| loaded().any(|own| short(own) == name);
        let more = NEEDED.into_iter().filter(|name| !is_loaded(name));
        let libraries = more
            .chain(loaded())
            .filter_map(|name| Some((name.to_owned(), who_has(short(name))?)))
            .collect();
        Ok(Self { libraries })
    }

    /// Without those that are not here: an error, where an extension cannot be made so.
    async fn that_are_here(mut self, import: &Import<'_>) -> Result<Self> {
        let Some(folder) = check::library_folder(import).await else { return Ok(self) };
        let is_here = |(name, _): &(String, String)| check::has_library(&folder, name);
        let (here, missing): (Vec<_>, Vec<_>) = self.libraries.into_iter().partition(is_here);
        self.libraries = here;
        match missing.iter().find(|(name, _)| NEEDED.contains(&short(name))) {
            Some((name, database)) => Err(check::extension_missing(import, short(name), database)),
            None => Ok(self),
        }
    }

    /// The list of them.
    fn list(&self) -> Vec<&str> {
        self.libraries.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Those that stay, in the data's own settings.
    fn lasting(&self) -> Vec<&str> {
        self.list().into_iter().filter(|name| !settings::acts(name)).collect()
    }

    /// The others, which would act as the source.
    fn acting(&self) -> Vec<&str> {
        self.list().into_iter().filter(|name| settings::acts(name)).collect()
    }

    /// The database in which jobs are.
    fn cron(&self) -> Option<&str> {
        let cron = self.libraries.iter().find(|(name, _)| short(name) == CRON);
        cron.map(|(_, database)| database.as_str())
    }
}

impl Import<'_> {
    /// Has the server load what extensions need, before they are made in it: for good, but for what would act as the
    /// source, which no other server of such data loads. That is there for the restore alone, in a server that starts no
    /// worker.
    pub(super) async fn preload(&mut self, wanted: Preload) -> Result<()> {
        let wanted = wanted.that_are_here(self).await?;
        if wanted.libraries.is_empty() {
            return Ok(());
        }
        let session = self.session("template1").await?;
        let lasting = wanted.lasting();
        if !lasting.is_empty() {
            let list = lasting.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
            let sql = format!("ALTER SYSTEM SET {SETTING} = {list}");
            session.execute("have libraries loaded", &sql).await?;
            self.note(format!("{SETTING} is {}: extensions need it", lasting.join(", ")));
        }
        // As it was started, and with more.
        let now =
            "SELECT name, current_setting(name) FROM pg_settings WHERE source = 'command line'";
        let rows = session.rows("look at its settings", now).await?;
        let own = rows.into_iter().filter_map(|row| match <[_; 2]>::try_from(row) {
            Ok([Some(name), Some(value)]) if !settings::is_forced(&name) => Some((name, value)),
            _ => None,
        });
        let mut given: Vec<(String, String)> = own.collect();
        if !wanted.acting().is_empty() {
            let quoted = |name: &&str| format!("\"{name}\"");
            let all = wanted.list().iter().map(quoted).collect::<Vec<_>>().join(",");
            let cron = wanted.cron().map(|database| ("cron.database_name", database));
            let more = [(SETTING, all.as_str()), ("max_worker_processes", "0")];
            let more = more.into_iter().chain(cron);
            given.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        for name in wanted.acting().into_iter().map(short) {
            self.note(match name {
                CRON => "the jobs of pg_cron came, and do not run here".to_owned(),
                name => {
                    format!("{name} came, and is not loaded: its workers would act as the source's")
                }
            });
        }
        drop(session);
        self.restart(given).await
    }

    /// Starts the server that data is brought into anew.
    async fn restart(&self, settings: Vec<(String, String)>) -> Result<()> {
        let stop =
            boot::stop(self.home, &self.project, self.branch.id, self.volume, StopMode::Fast);
        self.op.steps.run("stop", stop).await?;
        let loading = Loading { settings, any_collation: self.recipe.reindex };
        self.up(&loading).await
    }

    /// Adds those to a copy's settings that the source's server was given on its command line, as containers and
    /// cluster managers give them; what its files say has come with these.
    pub(super) fn take_libraries(&mut self, facts: &Facts, text: &mut Vec<u8>) {
        match &facts.preload {
            Some(known) if known.on_command_line => {
                auto_conf::add(text, SETTING, &known.list);
                self.note(format!(
                    "{SETTING} is '{}', as the source's command line has it",
                    known.list
                ));
            }
            Some(_) => {}
            None => self.note(format!(
                "{SETTING} came only as far as the source's files have it: its role may not see it (GRANT \
                 pg_read_all_settings)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(extensions: &[&str], loaded: &str) -> Preload {
        let names = extensions.iter().map(|name| (*name).to_owned()).collect();
        let other = ("other".to_owned(), vec!["plpgsql".to_owned()]);
        Preload::of(&[other, ("shop".to_owned(), names)], loaded).unwrap()
    }

    #[test]
    fn what_extensions_need_is_loaded_in_the_sources_order() {
        assert_eq!(of(&["plpgsql", "citext"], "auto_explain, pg_cron"), Preload::default());
        let source = "citus,\"$libdir/pg_cron\", auto_explain, pg_stat_statements.so";
        let wanted = of(&["pg_stat_statements", "citus", "pg_cron", "citus_columnar"], source);
        assert_eq!(wanted.list(), ["citus", "$libdir/pg_cron", "pg_stat_statements.so"]);
        assert_eq!(wanted.lasting(), ["citus", "pg_stat_statements.so"]);
        assert_eq!(wanted.cron(), Some("shop"));
        assert_eq!(wanted.acting(), ["$libdir/pg_cron"]);
        let wanted = of(&["spock", "pglogical", "pgaudit"], "pgaudit, spock");
        assert_eq!(wanted.list(), ["pglogical", "pgaudit", "spock"]);
        assert_eq!((wanted.lasting(), wanted.cron()), (vec!["pgaudit"], None));
        assert_eq!(wanted.acting(), ["pglogical", "spock"]);
        // Who dumps it may not see the setting, and a file has none.
        let wanted = of(&["pg_cron", "pg_stat_statements", "citus"], "");
        assert_eq!(wanted.list(), ["citus", "pg_cron"]);
    }

    #[test]
    fn what_no_dump_brings_is_refused() {
        let found = [("shop".to_owned(), vec!["timescaledb".to_owned()])];
        let error = Preload::of(&found, "timescaledb").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.hint().is_some_and(|hint| hint.contains("basebackup")), "{error:?}");
    }
}
