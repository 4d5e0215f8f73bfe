//! The first data of a project.

use super::ProjectBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::postgres::scram;
use crate::record::{BranchRecord, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::{Runtime, ToolSpec};
use crate::storage::{Object, Storage};

impl ProjectBuilder {
    pub(super) async fn initdb(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
        storage: &dyn Storage,
        runtime: &dyn Runtime,
    ) -> Result<()> {
        let user = home.server_user(&project.postgres);
        // The password reaches initdb as a verifier in a file that only the server's user reads.
        let verifier = scram::verifier(&main.password)?;
        let secret = RunDir::of(home, main.id).secret(&verifier, user.as_ref())?;
        let location = storage.location(Object::Volume(main.volume));
        let mut output = None;
        for locale in locales(self.locale.as_deref(), project.postgres.version.major) {
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
            args.push(format!("--username={}", project.role));
            args.push(format!("--pwfile={}", secret.display()));
            args.extend(locale);
            let spec = ToolSpec {
                postgres: project.postgres.clone(),
                tool: "initdb",
                args,
                location: location.clone(),
                reads: vec![secret.clone()],
            };
            let ran = runtime.run(spec).await?;
            let again = !ran.success && self.locale.is_none() && ran.stderr.contains("locale");
            output = Some(ran);
            if !again {
                break;
            }
        }
        RunDir::of(home, main.id).forget_secret()?;
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
                let hint = match (&self.locale, kind) {
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
