//! How a server is reached, from what libpq takes: a URL or words `key=value`, the variables `PG…` of this
//! process, the service file and the password file.
//!
//! It is all taken apart here, and not left to the programs that connect, because these run as another user
//! and without the caller's variables, and because a password has to be told from the rest: it reaches
//! them in a file, and is in no list of processes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::pass_file;
use crate::error::{Error, ErrorKind, Result};

/// What somebody wrote, or what a record keeps of it. The password is apart.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Conninfo {
    params: BTreeMap<String, String>,
    password: Option<String>,
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Conninfo").field(&self.shown()).finish()
    }
}

/// Where this process's own settings are.
pub(crate) struct Surroundings {
    pub(crate) var: fn(&str) -> Option<String>,
}

impl Surroundings {
    pub(crate) fn of_this_process() -> Self {
        Self { var: |name| std::env::var(name).ok().filter(|value| !value.is_empty()) }
    }

    fn file_in_home(&self, name: &str) -> Option<PathBuf> {
        (self.var)("HOME").map(|home| Path::new(&home).join(name))
    }
}

/// Variables, and what they stand for where nothing else is said.
const VARIABLES: [(&str, &str); 16] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGOPTIONS", "options"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Secrets beside the password, for which libpq has no file: programs would be given them on their command lines.
const SECRETS: [(&str, &str); 4] = [
    ("sslpassword", "use a client key without a password"),
    ("oauth_client_secret", "connect with a password or a client certificate"),
    ("scram_client_key", "give the password itself"),
    ("scram_server_key", "give the password itself"),
];

/// So that a server which is not there any more is noticed, unless somebody says otherwise.
const PATIENCE: [(&str, &str); 5] = [
    ("connect_timeout", "20"),
    ("keepalives_idle", "30"),
    ("keepalives_interval", "10"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "60000"),
];

impl Conninfo {
    /// Takes a URL or words apart.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = ["postgresql://", "postgres://"].iter().find_map(|s| text.strip_prefix(s));
        let params = match url {
            Some(rest) => of_url(rest)?,
            None => of_words(text)?,
        };
        Self::of(params)
    }

    fn of(mut params: BTreeMap<String, String>) -> Result<Self> {
        refuse_secrets(&params)?;
        let bad_name = |name: &String| {
            name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        // It may be a part of a password, and is not told again.
        if params.keys().any(bad_name) {
            return Err(bad("it names what is no parameter of a connection"));
        }
        let password = params.remove("password").filter(|password| !password.is_empty());
        Ok(Self { params, password })
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.params.get(key).map(String::as_str)
    }

    /// The same with another password.
    pub(crate) fn with_password(mut self, password: Option<String>) -> Self {
        self.password = password.or(self.password);
        self
    }

    /// The same, where the password is in this file if nobody gives one.
    pub(crate) fn with_pass_file(mut self, path: &Path) -> Self {
        self.params.entry("passfile".into()).or_insert_with(|| path.display().to_string());
        self
    }

    /// Without the password: what may be recorded and shown.
    pub(crate) fn shown(&self) -> String {
        let words = self.params.iter().map(|(key, value)| format!("{key}={}", quoted(value)));
        words.collect::<Vec<_>>().join(" ")
    }

    /// For one database, as a program takes it.
    pub(crate) fn to(&self, database: &str) -> String {
        let mut to = self.clone();
        to.params.insert("dbname".into(), database.into());
        to.shown()
    }

    /// As a standby takes it, which reads its password in a file.
    pub(crate) fn to_follow(&self, pass_file: Option<&Path>) -> String {
        let mut to = self.clone();
        // It is of no database.
        to.params.remove("dbname");
        if let Some(path) = pass_file {
            to.params.insert("passfile".into(), path.display().to_string());
        }
        // The servers' user may not be able to look into the home of who started it, and libpq takes that for
        // an error.
        to.params.entry("sslcert".into()).or_insert_with(|| "/nonexistent/postgresql.crt".into());
        to.shown()
    }

    /// The same with what the service file and this process's variables say where it says nothing. And the
    /// content of a password file: that of its password, or the user's own.
    pub(crate) fn resolved(mut self, around: &Surroundings) -> Result<(Self, Option<String>)> {
        let service = self.params.remove("service").or_else(|| (around.var)("PGSERVICE"));
        if let Some(name) = service {
            let more = service_of(&name, around)?;
            for (key, value) in more {
                match key.as_str() {
                    "password" => self.password = self.password.or(Some(value)),
                    _ => drop(self.params.entry(key).or_insert(value)),
                }
            }
            self.params.remove("service");
            self.params.remove("servicefile");
            refuse_secrets(&self.params)?;
        }
        for (variable, key) in VARIABLES {
            if let (None, Some(value)) = (self.get(key), (around.var)(variable)) {
                self.params.insert(key.into(), value);
            }
        }
        for (key, value) in PATIENCE {
            self.params.entry(key.into()).or_insert_with(|| value.into());
        }
        if self.get("user").is_none() {
            // Programs may run as another user than this process.
            let own = crate::os_user::OsUser::name_of(rustix::process::geteuid().as_raw())?;
            self.params.insert("user".into(), own);
        }
        self.params.entry("application_name".into()).or_insert_with(|| "velo".into());
        let named = self.params.remove("passfile").or_else(|| (around.var)("PGPASSFILE"));
        let password = self.password.clone().or_else(|| (around.var)("PGPASSWORD"));
        let file = match password {
            Some(password) => Some(pass_file::of_everybody(&password)),
            None => {
                let path = named.map(PathBuf::from).or_else(|| around.file_in_home(".pgpass"));
                path.map(|path| pass_file::read(&path)).transpose()?.flatten()
            }
        };
        Ok((self, file))
    }
}

fn refuse_secrets(params: &BTreeMap<String, String>) -> Result<()> {
    match SECRETS.iter().find(|(name, _)| params.contains_key(*name)) {
        Some((name, hint)) => {
            Err(bad(format!("{name} cannot be given: it would be seen among the processes"))
                .with_hint(*hint))
        }
        None => Ok(()),
    }
}

/// What a service file says of a service.
fn service_of(name: &str, around: &Surroundings) -> Result<BTreeMap<String, String>> {
    let own = (around.var)("PGSERVICEFILE").map(PathBuf::from);
    let own = own.or_else(|| around.file_in_home(".pg_service.conf"));
    let system = (around.var)("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".into());
    let system = Path::new(&system).join("pg_service.conf");
    for path in own.into_iter().chain([system]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                if let Some(found) = in_service_file(&text, name) {
                    return Ok(found);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("there is no service {name:?}"))
        .with_hint("name one of ~/.pg_service.conf, or of the file that PGSERVICEFILE names"))
}

fn in_service_file(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = section == name && found.is_none();
            if inside {
                found = Some(BTreeMap::new());
            }
        } else if let (true, Some((key, value)), false) =
            (inside, line.split_once('='), line.starts_with('#'))
            && let Some(found) = &mut found
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
        .with_hint("write it as for psql, like postgres://user@host:5432/database")
}

/// What stands behind `postgres://`.
fn of_url(rest: &str) -> Result<BTreeMap<String, String>> {
    let mut params = BTreeMap::new();
    let mut put = |key: &str, text: &str| -> Result<()> {
        if !text.is_empty() {
            params.insert(key.to_owned(), decoded(text)?);
        }
        Ok(())
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    put("dbname", database)?;
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    put("user", user)?;
    put("password", password)?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(v6) => {
                let (name, after) = v6.split_once(']').ok_or_else(|| bad("a [ without its ]"))?;
                (name, after.strip_prefix(':').unwrap_or_default())
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(name);
        ports.push(port);
    }
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| bad("a parameter without a value"))?;
        match (key, value) {
            ("ssl", "true") => put("sslmode", "require")?,
            _ => put(&decoded(key)?, value)?,
        }
    }
    Ok(params)
}

fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(bad("a % without two digits behind it"));
        };
        bytes.push((high * 16 + low) as u8);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(bad("a part of the URL is no text in UTF-8")),
    }
}

/// `key=value` and `key='a value'`, as libpq takes them.
fn of_words(text: &str) -> Result<BTreeMap<String, String>> {
    let mut params = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        // What it is instead is not told again: there may be a password in it.
        let no_words = || bad("it is no URL of PostgreSQL's and no words key=value");
        let (key, after) = rest.split_once('=').ok_or_else(no_words)?;
        let mut value = String::new();
        let after = after.trim_start();
        let is_quoted = after.starts_with('\'');
        let mut letters = after.char_indices().skip(usize::from(is_quoted));
        let mut end = after.len();
        let mut closed = !is_quoted;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
                '\'' if is_quoted => {
                    (end, closed) = (at + 1, true);
                    break;
                }
                space if !is_quoted && space.is_whitespace() => {
                    end = at;
                    break;
                }
                letter => value.push(letter),
            }
        }
        if !closed {
            return Err(bad("a quote without its end"));
        }
        params.insert(key.trim().to_owned(), value);
        rest = after.get(end..).unwrap_or_default().trim_start();
    }
    Ok(params)
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Conninfo::parse(text).unwrap().shown()
    }

    #[test]
    fn urls_are_taken_apart_as_libpq_does() {
        assert_eq!(
            shown("postgres://ann:s%40c@db.example:5433/shop?sslmode=require"),
            "dbname='shop' host='db.example' port='5433' sslmode='require' user='ann'"
        );
        assert_eq!(shown("postgresql://h1:1,h2:2/d"), "dbname='d' host='h1,h2' port='1,2'");
        assert_eq!(shown("postgresql://[::1]:5432/"), "host='::1' port='5432'");
        assert_eq!(shown("postgresql:///d?host=/run/x"), "dbname='d' host='/run/x'");
        assert_eq!(shown("postgresql://%2Frun%2Fx/d"), "dbname='d' host='/run/x'");
        assert_eq!(shown("host=a user='x y' options='-c a=\\'b\\''"), {
            "host='a' options='-c a=\\'b\\'' user='x y'"
        });
        for bad in ["postgres://a%zz/", "x", "host='a", "postgres://h/?x", "postgres://h/d?Ab=1"] {
            assert!(Conninfo::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_nowhere_but_in_the_file() {
        let url = "postgres://ann:se%3Acret%5C@h/d";
        let parsed = Conninfo::parse(url).unwrap();
        let around = Surroundings { var: |_| None };
        let (resolved, file) = parsed.clone().resolved(&around).unwrap();
        assert_eq!(file.unwrap(), "*:*:*:*:se\\:cret\\\\\n");
        for text in [format!("{parsed:?}"), resolved.shown(), resolved.to("x")] {
            assert!(!text.contains("cret"), "{text}");
        }
    }

    #[test]
    fn what_is_mistyped_is_not_told_again() {
        for text in [
            "postgress://ann:s3cret@h/d",
            "postgress://ann:s3cret@h/d?sslmode=require",
            "psql postgres://ann:s3cret@h/d",
            "psql postgres://ann:s3cret@h/d?sslmode=require",
            "host=h S3CRET=x",
            "host=h password=x s3cret",
            "host=h password='s3cret",
            "postgres://ann:x@h/d?S3cret=x",
            "postgres://ann:x@h/d?s3cret",
            "postgres://ann:s3cret%zz@h/d",
        ] {
            let error = Conninfo::parse(text).unwrap_err();
            let told = format!("{error} {error:?}").to_lowercase();
            assert!(!told.contains("s3cret") && error.hint().is_some(), "{text}: {told}");
        }
    }

    #[test]
    fn secrets_that_would_be_on_a_command_line_are_refused() {
        for (name, _) in SECRETS {
            let error = Conninfo::parse(&format!("host=h {name}=s3cret")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
            assert!(Conninfo::parse(&format!("postgres://h/d?{name}=s3cret")).is_err(), "{name}");
        }
    }

    fn service_file() -> PathBuf {
        std::env::temp_dir().join(format!("velo-service-{}.conf", std::process::id()))
    }

    #[test]
    fn secrets_of_a_service_are_refused_too() {
        let around = Surroundings {
            var: |name| (name == "PGSERVICEFILE").then(|| service_file().display().to_string()),
        };
        let text = "[shop]\nhost=h\nuser=u\noauth_client_secret=s3cret\n";
        std::fs::write(service_file(), text).unwrap();
        let resolved = Conninfo::parse("service=shop").unwrap().resolved(&around);
        std::fs::remove_file(service_file()).unwrap();
        let error = resolved.err().unwrap();
        assert!(error.to_string().contains("oauth_client_secret"), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn a_standby_is_told_of_no_database_and_where_its_password_is() {
        let own = Conninfo::parse("postgres://ann:x@db.example/shop").unwrap();
        let to = own.to_follow(Some(Path::new("/run/p")));
        assert!(to.contains("passfile='/run/p'") && to.contains("user='ann'"), "{to}");
        assert!(!to.contains("dbname") && !to.contains("password"), "{to}");
        assert!(!own.to_follow(None).contains("passfile"));
    }

    #[test]
    fn variables_and_services_fill_in_what_is_not_said() {
        let around = Surroundings {
            var: |name| match name {
                "PGPORT" => Some("1".into()),
                "PGHOST" => Some("elsewhere".into()),
                "PGPASSWORD" => Some("p".into()),
                _ => None,
            },
        };
        let (resolved, file) = Conninfo::parse("host=h user=u").unwrap().resolved(&around).unwrap();
        assert_eq!((resolved.get("host"), resolved.get("port")), (Some("h"), Some("1")));
        assert_eq!(file.as_deref(), Some("*:*:*:*:p\n"));
        let text = "# x\n[a]\nhost=one\n[b]\nhost = two\nuser=ann\n";
        let found = in_service_file(text, "b").unwrap();
        assert_eq!(found.get("host").map(String::as_str), Some("two"));
        assert!(in_service_file(text, "c").is_none());
    }
}
