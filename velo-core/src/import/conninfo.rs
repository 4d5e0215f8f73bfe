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
    /// As it was given, for this time.
    password: Option<String>,
    /// As it is recorded.
    recorded: Option<String>,
    /// The password file of a server that follows this one.
    kept_in: Option<PathBuf>,
}

/// A server as programs reach it.
pub(crate) struct Reached {
    pub(crate) server: Conninfo,
    /// Words that lead to it in a process with other variables, too. Without a password.
    pub(crate) named: String,
    /// The lines of a password file that are meant for it.
    pub(crate) pass_file: String,
    /// The password in them, unless they are a file's of somebody's own.
    pub(crate) password: Option<String>,
    /// Another one, to be tried where a recorded one is refused.
    pub(crate) other: Option<String>,
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

    /// The same for a source that is recorded: which server and database it is has been said.
    pub(crate) fn of_a_record() -> Self {
        Self {
            var: |name| match name {
                "PGSERVICE" => None,
                name if VARIABLES.iter().any(|(own, key)| *own == name && is_place(key)) => None,
                name => (Self::of_this_process().var)(name),
            },
        }
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

/// Whether a parameter says which server and database it is, and as whom.
fn is_place(key: &str) -> bool {
    ["host", "hostaddr", "port", "dbname", "user"].contains(&key)
}

/// What libpq takes beside the secrets. Anything else may be a part of a password.
const PARAMETERS: &[&str] = &[
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
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
        // What it is instead is not told again.
        if !params.keys().all(|name| PARAMETERS.contains(&name.as_str())) {
            return Err(bad("it names what is no parameter of a connection"));
        }
        let password = params.remove("password").filter(|password| !password.is_empty());
        Ok(Self { params, password, ..Self::default() })
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.params.get(key).map(String::as_str)
    }

    /// The same with another password, and one that is recorded: that goes before those in files, and behind what
    /// somebody gives.
    pub(crate) fn with_password(mut self, given: Option<String>, recorded: Option<String>) -> Self {
        self.password = given.or(self.password);
        self.recorded = recorded;
        self
    }

    /// The same, where the password is in this file if it is nowhere else.
    pub(crate) fn with_pass_file(mut self, path: &Path) -> Self {
        self.kept_in = Some(path.to_path_buf());
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

    /// The same with what the service file and this process's variables say where it says nothing.
    pub(crate) fn resolved(mut self, around: &Surroundings) -> Result<Reached> {
        let mut named = self.params.clone();
        let mut of_service = None;
        let service = self.params.remove("service").or_else(|| (around.var)("PGSERVICE"));
        if let Some(name) = service {
            let more = service_of(&name, around)?;
            for (key, value) in more {
                match key.as_str() {
                    "password" => of_service = Some(value),
                    _ => drop(self.params.entry(key).or_insert(value)),
                }
            }
            self.params.remove("service");
            self.params.remove("servicefile");
            refuse_secrets(&self.params)?;
            // What is in it stays there.
            named.insert("service".into(), name);
        }
        for (variable, key) in VARIABLES {
            if let (None, Some(value)) = (self.get(key), (around.var)(variable)) {
                if is_place(key) {
                    named.insert(key.into(), value.clone());
                }
                self.params.insert(key.into(), value);
            }
        }
        for (key, value) in PATIENCE {
            self.params.entry(key.into()).or_insert_with(|| value.into());
        }
        if self.get("user").is_none() {
            // Programs may run as another user than this process.
            let own = crate::os_user::OsUser::name_of(rustix::process::geteuid().as_raw())?;
            named.insert("user".into(), own.clone());
            self.params.insert("user".into(), own);
        }
        self.params.entry("application_name".into()).or_insert_with(|| "velo".into());
        let own_file = self.params.remove("passfile");
        let variable = (around.var)("PGPASSWORD");
        // One that is recorded was given, and goes before what stands elsewhere: that may be another server's, as the
        // variable in what `velo run` starts is. libpq takes that of a service before the variable's.
        let (password, other) = match (self.password.take(), self.recorded.take()) {
            (Some(given), _) => (Some(given), None),
            (None, Some(recorded)) => {
                let of_service = of_service.filter(|own| *own != recorded);
                (Some(recorded), of_service.or(variable))
            }
            (None, None) => (of_service.or(variable), None),
        };
        let pass_file = match &password {
            Some(password) => pass_file::of_everybody(password),
            None => self.in_files(own_file, around)?,
        };
        let named = Self { params: named, ..Self::default() }.shown();
        Ok(Reached { server: self, named, pass_file, password, other })
    }

    /// The lines for this server in the first password file that has any.
    fn in_files(&self, own: Option<String>, around: &Surroundings) -> Result<String> {
        let own = own.or_else(|| (around.var)("PGPASSFILE")).map(PathBuf::from);
        let own = own.or_else(|| around.file_in_home(".pgpass"));
        for path in own.iter().chain(&self.kept_in) {
            let text = pass_file::read(path)?.unwrap_or_default();
            let lines = pass_file::of_server(&text, self);
            if !lines.is_empty() {
                return Ok(lines);
            }
        }
        Ok(String::new())
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

/// A URL whose parts make no sense. There may be a password in any of them, and none is told again.
fn cut_short() -> Error {
    bad("its port is no number, or an @ stands behind its host").with_hint(
        "write / in a password as %2F, ? as %3F and % as %25, and @ in a database's name as %40",
    )
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
    // It is taken for the rest of a password, in which something else ended the host.
    if database.contains('@') {
        return Err(cut_short());
    }
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
        // The same of its beginning.
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(cut_short());
        }
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
        let reached = parsed.clone().resolved(&around).unwrap();
        assert_eq!(reached.pass_file, "*:*:*:*:se\\:cret\\\\\n");
        let Reached { server, named, .. } = reached;
        for text in [format!("{parsed:?}"), server.shown(), server.to("x"), named] {
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
        // What ends a part of the URL cuts a password in two.
        for text in [
            "postgres://ann:s3/cret@h/d",
            "postgres://ann:s3?cret@h/d",
            "postgres://ann:s3?cret=x@h/d",
            "postgres://ann:/s3cret@h/d",
            "postgres://ann:1/s3cret@h/d",
            "postgres://ann:1?s3cret@h/d",
            "postgres://ann:1?cret=s3@h/d",
            "postgres://ann:x@s3/cret@h/d",
            "postgres://ann:s3/cret",
            "postgres://[::1]:s3/cret@h/d",
            "host=h password=s3 cret=x",
        ] {
            let error = Conninfo::parse(text).unwrap_err();
            let told = format!("{error} {error:?}").to_lowercase();
            let is_told = told.contains("s3") || told.contains("cret");
            assert!(!is_told && error.hint().is_some(), "{text}: {told}");
        }
        for (url, password) in [
            ("postgres://ann:s3%2Fc%3Fr%40t@h/a%40b", "s3/c?r@t"),
            ("postgres://ann:s3@c#r,t@h:5432/d", "s3@c#r,t"),
        ] {
            assert_eq!(Conninfo::parse(url).unwrap().password(), Some(password), "{url}");
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
        let reached = Conninfo::parse("service=shop").unwrap().resolved(&around);
        std::fs::remove_file(service_file()).unwrap();
        let error = reached.err().unwrap();
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
        let reached = Conninfo::parse("host=h user=u").unwrap().resolved(&around).unwrap();
        let server = &reached.server;
        assert_eq!((server.get("host"), server.get("port")), (Some("h"), Some("1")));
        assert_eq!(reached.pass_file, "*:*:*:*:p\n");
        let text = "# x\n[a]\nhost=one\n[b]\nhost = two\nuser=ann\n";
        let found = in_service_file(text, "b").unwrap();
        assert_eq!(found.get("host").map(String::as_str), Some("two"));
        assert!(in_service_file(text, "c").is_none());
    }

    #[test]
    fn what_is_recorded_leads_to_the_same_server_from_everywhere() {
        let around = Surroundings {
            var: |name| match name {
                "PGHOST" => Some("h".into()),
                "PGHOSTADDR" => Some("10.0.0.1".into()),
                "PGPORT" => Some("1".into()),
                "PGDATABASE" => Some("shop".into()),
                "PGSSLMODE" => Some("require".into()),
                "PGPASSWORD" => Some("s3cret".into()),
                "PGSERVICEFILE" => Some(other_service_file().display().to_string()),
                _ => None,
            },
        };
        let reached = Conninfo::parse("postgres://ann@/").unwrap().resolved(&around).unwrap();
        let named = "dbname='shop' host='h' hostaddr='10.0.0.1' port='1' user='ann'";
        assert_eq!(reached.named, named);
        let own = Conninfo::parse("host=h port=1 dbname=d").unwrap();
        let nothing = Surroundings { var: |_| None };
        let reached = own.resolved(&nothing).unwrap();
        let user = format!("user='{}'", reached.server.get("user").unwrap());
        assert_eq!(reached.named, format!("dbname='d' host='h' port='1' {user}"));
        // What a service says is asked of it each time, and its password stays there.
        let text = "[shop]\nhost=one\nport=2\nuser=ben\npassword=s3cret\n";
        std::fs::write(other_service_file(), text).unwrap();
        let reached = Conninfo::parse("service=shop").unwrap().resolved(&around);
        std::fs::remove_file(other_service_file()).unwrap();
        let reached = reached.unwrap();
        assert_eq!(reached.named, "dbname='shop' hostaddr='10.0.0.1' service='shop'");
        assert_eq!(reached.server.get("host"), Some("one"));
    }

    fn other_service_file() -> PathBuf {
        std::env::temp_dir().join(format!("velo-service-2-{}.conf", std::process::id()))
    }

    /// The home of somebody with a password file.
    fn somebody() -> PathBuf {
        std::env::temp_dir().join(format!("velo-home-{}", std::process::id()))
    }

    #[test]
    fn a_password_is_looked_for_in_an_order() {
        use std::os::unix::fs::PermissionsExt;
        let around =
            Surroundings { var: |name| (name == "HOME").then(|| somebody().display().to_string()) };
        let with_variable = Surroundings {
            var: |name| match name {
                "HOME" => Some(somebody().display().to_string()),
                "PGPASSWORD" => Some("variable".into()),
                _ => None,
            },
        };
        let write = |name: &str, text: &str| {
            let path = somebody().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        std::fs::create_dir_all(somebody()).unwrap();
        let kept = write("kept", "h:*:*:ann:kept\n");
        let of = |given: Option<&str>, recorded: Option<&str>| {
            let own = Conninfo::parse("host=h user=ann").unwrap().with_pass_file(&kept);
            own.with_password(given.map(str::to_owned), recorded.map(str::to_owned))
        };
        let found = |own: Conninfo, around: &Surroundings| {
            let reached = own.resolved(around).unwrap();
            (reached.pass_file, reached.password, reached.other)
        };
        let line = |password: &str| format!("*:*:*:*:{password}\n");
        let some = |text: &str| Some(text.to_owned());
        let all = found(of(Some("given"), Some("old")), &with_variable);
        assert_eq!(all, (line("given"), some("given"), None));
        let all = found(of(None, Some("old")), &with_variable);
        assert_eq!(all, (line("old"), some("old"), some("variable")));
        assert_eq!(found(of(None, Some("old")), &around), (line("old"), some("old"), None));
        let all = found(of(None, None), &with_variable);
        assert_eq!(all, (line("variable"), some("variable"), None));
        // That of a service goes before the variable's, and is no other one where it is recorded.
        write(".pg_service.conf", "[shop]\nhost=h\nuser=ann\npassword=service\n");
        let of_service = |recorded: Option<&str>| {
            let own = Conninfo::parse("service=shop").unwrap();
            found(own.with_password(None, recorded.map(str::to_owned)), &with_variable)
        };
        assert_eq!(of_service(None), (line("service"), some("service"), None));
        assert_eq!(of_service(Some("old")), (line("old"), some("old"), some("service")));
        let all = of_service(Some("service"));
        assert_eq!(all, (line("service"), some("service"), some("variable")));
        // Of the user's own file nothing is taken that is for another server, and it goes before a standby's.
        let kept = || ("h:*:*:ann:kept\n".to_owned(), None, None);
        assert_eq!(found(of(None, None), &around), kept());
        write(".pgpass", "other:*:*:ann:a\nh:*:*:ben:b\nh:*:*:ann:own\n");
        assert_eq!(found(of(None, None), &around), ("h:*:*:ann:own\n".into(), None, None));
        write(".pgpass", "other:*:*:ann:a\n");
        assert_eq!(found(of(None, None), &around), kept());
        std::fs::remove_dir_all(somebody()).unwrap();
    }
}
