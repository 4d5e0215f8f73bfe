//! What is run on a copy before anybody can branch it.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio_postgres::NoTls;

use super::bring::Import;
use super::progress::{Stage, begin};
use super::source::Transform;
use crate::command::Program;
use crate::effect::step;
use crate::error::{Error, ErrorKind, Result};

impl Import<'_> {
    /// Runs the files that somebody has given, in their order, and notes what they were.
    pub(super) async fn transform(&mut self) -> Result<()> {
        for at in 0..self.recipe.transforms.len() {
            self.op.cancel.check()?;
            let Some(transform) = self.recipe.transforms.get(at).cloned() else { break };
            let sha256 = self.noted(&transform)?;
            begin(self.watch, Stage::Transform, &transform.path.display().to_string());
            let is_sql = transform.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql"));
            let run = async {
                match is_sql {
                    true => self.run_sql(&transform.path).await,
                    false => self.run_program(&transform.path).await,
                }
            };
            self.op.steps.run("transform", step("transform a copy", run)).await?;
            if let Some(transform) = self.recipe.transforms.get_mut(at) {
                transform.sha256 = Some(sha256);
            }
        }
        Ok(())
    }

    /// What a file holds now, as it is recorded; it is noted if that was something else before.
    pub(super) fn noted(&mut self, file: &Transform) -> Result<String> {
        let path = &file.path;
        let hash = sha256(path)?;
        if file.sha256.as_ref().is_some_and(|before| *before != hash) {
            self.note(format!("{} is not what it was the last time", path.display()));
        }
        Ok(hash)
    }

    /// The URL by which Velo's own processes reach the copy; nobody else gets in.
    fn private_url(&self) -> String {
        crate::branch::private_url(
            &self.project.role,
            &self.project.database,
            &self.run_dir.socket(),
            self.branch.port,
        )
    }

    async fn run_sql(&self, path: &Path) -> Result<()> {
        let cannot = |e: tokio_postgres::Error| {
            let what = format!("the copy takes no connection: {e}");
            Error::new(ErrorKind::Postgres, what).with_source(e)
        };
        let url = self.private_url();
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.map_err(cannot)?;
        let run = crate::seed::sql::run_file(path, &client);
        let work = async {
            tokio::select! {
                biased;
                done = run => done,
                ended = connection => Err(match ended {
                    Err(e) => cannot(e),
                    Ok(()) => Error::new(ErrorKind::Postgres, "the server ended meanwhile"),
                }),
            }
        };
        self.op.cancel.guard(work).await?.map_err(|error| {
            let own = error.hint().map(str::to_owned);
            let hint = "correct it, and try again; nothing of the copy is kept";
            Error::new(ErrorKind::Postgres, format!("a transform failed: {error}"))
                .with_hint(own.unwrap_or_else(|| hint.to_owned()))
                .with_source(error)
        })
    }

    async fn run_program(&self, path: &Path) -> Result<()> {
        let socket_dir = self.run_dir.socket().display().to_string();
        let program = Program::new(path)
            .inherit_env()
            .current_dir(path.parent().unwrap_or(Path::new("/")))
            .env("DATABASE_URL", self.private_url())
            .env("PGHOST", socket_dir)
            .env("PGPORT", self.branch.port.to_string())
            .env("PGUSER", &self.project.role)
            .env("PGDATABASE", &self.project.database)
            // The caller's own could lead elsewhere.
            .without_env(&[
                "PGPASSWORD",
                "PGPASSFILE",
                "PGSERVICE",
                "PGHOSTADDR",
                "PGOPTIONS",
                "PGSSLMODE",
            ])
            .detached()
            .dies_with_us();
        let output = program.output_unless(None, &self.op.cancel).await?;
        if output.success {
            return Ok(());
        }
        let said = output.stderr.lines().chain(output.stdout.lines());
        let last = said.map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("");
        let what = format!("the transform {} failed ({}): {last}", path.display(), output.status);
        Err(Error::new(ErrorKind::Postgres, what)
            .with_hint("correct it, and try again; nothing of the copy is kept")
            .with_context("stderr", output.stderr))
    }
}

/// The hash of a file's content, in hexadecimal.
fn sha256(path: &Path) -> Result<String> {
    let failure = |e: std::io::Error| Error::io(format!("read {}", path.display()), e);
    let mut file = std::fs::File::open(path).map_err(failure)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(failure)? {
            0 => break,
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
