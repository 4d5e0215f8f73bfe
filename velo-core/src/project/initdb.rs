//! The first data of a project, or what a dump is read into.

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::postgres::scram::{self, Password};
use crate::record::ProjectRecord;
use crate::run_dir::RunDir;
use crate::runtime::{Runtime, ToolSpec};
use crate::storage::{Object, Storage};

/// A cluster to make.
pub(crate) struct Cluster<'a> {
    pub(crate) home: &'a Home,
    pub(crate) project: &'a ProjectRecord,
    /// The folder of the files that are made for it, and that go with it.
    pub(crate) run_dir: &'a RunDir,
    pub(crate) volume: Id,
    /// Its first superuser, and the password of that.
    pub(crate) role: &'a str,
    pub(crate) password: Option<&'a Password>,
    pub(crate) locale: Option<&'a str>,
    /// Whether a dump is to be read into it, of which each database brings its own locale.
    pub(crate) is_for_dump: bool,
    pub(crate) cancel: Cancel,
}

impl Cluster<'_> {
    pub(crate) async fn make(&self, storage: &dyn Storage, runtime: &dyn Runtime) -> Result<()> {
        let Self { home, project, run_dir, .. } = self;
        let user = home.server_user(&project.postgres);
        // The password reaches initdb as a verifier in a file that only the server's user reads.
        let secret = match self.password {
            Some(password) => Some(run_dir.secret(&scram::verifier(password)?, user.as_ref())?),
            None => None,
        };
        let location = storage.location(Object::Volume(self.volume));
        let mut output = None;
        let major = if self.is_for_dump { 0 } else { project.postgres.version.major };
        for locale in locales(self.locale, major) {
            let mut args: Vec<String> = [
                "-D",
                "{}",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-sync",
                "--no-instructions",
                WAL_SEGMENT,
                "--auth-local=peer",
                "--auth-host=reject",
            ]
            .map(str::to_owned)
            .to_vec();
            args.push(format!("--username={}", self.role));
            args.extend(secret.iter().map(|secret| format!("--pwfile={}", secret.display())));
            args.extend(locale);
            let spec = ToolSpec {
                args,
                reads: secret.iter().cloned().collect(),
                cancel: self.cancel.clone(),
                ..ToolSpec::new(project.postgres.clone(), "initdb", location.clone())
            };
            let ran = runtime.run(spec).await?;
            let again = !ran.success && self.locale.is_none() && ran.stderr.contains("locale");
            output = Some(ran);
            if !again {
                break;
            }
        }
        if secret.is_some() {
            run_dir.forget_secret()?;
        }
        match output {
            Some(output) if output.success => Ok(()),
            Some(output) => {
                let line = |l: &&str| l.contains("error:") || l.contains("FATAL:");
                let text = output.stderr;
                let why = text.lines().find(line).or(text.lines().last()).unwrap_or_default();
                let kind = if text.contains("No space left on device") {
                    ErrorKind::Exhausted
                } else {
                    ErrorKind::Postgres
                };
                // A server that initdb starts says when, and who it is, in front of it.
                let why = why.split_once("FATAL:").map_or(why, |(_, rest)| rest).trim();
                let why = why.strip_prefix("initdb: error:").unwrap_or(why).trim();
                let hint = match (self.locale, kind) {
                    (_, ErrorKind::Exhausted) => "free some space and try again",
                    (Some(_), _) if why.contains("locale") => {
                        "name a locale that this machine has; it lists them: locale -a"
                    }
                    _ => "is this PostgreSQL whole? velo pg list shows the others",
                };
                Err(Error::new(kind, format!("initdb failed ({}): {why}", output.status))
                    .with_hint(hint)
                    .with_context("stderr", text))
            }
            None => Err(Error::new(ErrorKind::Internal, "no locale to try")),
        }
    }
}

/// In MB instead of PostgreSQL's 16. A running parent is branched file by file in backup mode, which
/// twice fills what is left of a segment with zeros: a quarter of the bytes, and of the time. And a
/// small cluster takes a third less space.
const WAL_SEGMENT: &str = "--wal-segsize=4";

/// The locale arguments to try, best first.
fn locales(chosen: Option<&str>, major: u32) -> Vec<Vec<String>> {
    match chosen {
        Some(locale) => vec![vec![format!("--locale={locale}")]],
        None if major >= 17 => vec![vec![
            "--locale=C".into(),
            "--locale-provider=builtin".into(),
            "--builtin-locale=C.UTF-8".into(),
        ]],
        None => vec![vec!["--locale=C.UTF-8".into()], vec!["--locale=C".into()]],
    }
}
