//! A standby's start, and that of what was one: what it may not go on with, and Velo's role in its data.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Boot;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::{self, Follow};
use crate::postgres::scram;
use crate::postgres::session::{Session, Target, ident, literal};
use crate::run_dir::RunDir;
use crate::storage::{FileOp, Object, Storage};

/// How long a new standby may take until WAL comes: PostgreSQL tries every five seconds.
const FIRST_WAL: Duration = Duration::from_secs(40);

impl Boot<'_> {
    /// Where Velo goes in first.
    pub(super) fn entry<'a>(&'a self, target: Target<'a>) -> Target<'a> {
        match self.stranger() {
            Some(role) => Target { role, ..target },
            None => target,
        }
    }

    /// Data that followed, and is to do so no more, recovers what it has and goes its own way.
    pub(super) async fn unfollow(&self, storage: &dyn Storage, data: &Path) -> Result<()> {
        if self.stranger().is_none() {
            return Ok(());
        }
        // Whoever ended it may have been killed before this.
        let run_dir = RunDir::of(self.home, self.branch.id);
        run_dir.forget_pass_file()?;
        run_dir.forget_old_pass_file()?;
        if !data.join("standby.signal").exists() {
            return Ok(());
        }
        let ops = vec![
            // First, so that a server never starts on it as after a crash.
            FileOp::Write { path: "recovery.signal".into(), content: Vec::new() },
            FileOp::Remove { path: "standby.signal".into() },
        ];
        storage.edit(Object::Volume(self.volume), ops).await
    }

    /// The folders that the server reads beside its data.
    pub(super) fn reads(&self, run_dir: &RunDir) -> Vec<PathBuf> {
        let socket = self.branch.follows.as_ref().and_then(Follow::socket_dir);
        [run_dir.path().to_path_buf()].into_iter().chain(socket).collect()
    }

    /// How much longer a new standby may take than any other start: it replays what was written while it was copied.
    pub(super) fn first_replay(&self, data: &Path) -> Duration {
        if !self.fresh_clone || self.branch.follows.is_none() {
            return Duration::ZERO;
        }
        let files = std::fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
        let bytes: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        Duration::from_secs(bytes >> 20)
    }

    /// An error unless WAL comes, where it is to come for the first time: a later start may find the source
    /// away, and waits for it.
    pub(super) async fn streams(&self, session: &Session) -> Result<()> {
        if !self.fresh_clone {
            return Ok(());
        }
        let begun = Instant::now();
        let streaming = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        while session.value("look at what it follows", streaming).await? == "0" {
            if begun.elapsed() > FIRST_WAL {
                let log = RunDir::of(self.home, self.branch.id).log();
                let runtime = self.home.runtime(self.project.runtime)?;
                let tail = runtime.logs(&log, follow::LINES).await.unwrap_or_default();
                let why = follow::explain(&tail, self.project.name.as_str());
                return Err(Error::new(
                    ErrorKind::Postgres,
                    format!("the data came, and WAL does not: {why}"),
                )
                .with_hint(
                    "a standby connects as the servers' user, from where they run: can it reach the source \
                     from there, and read what its URL names?",
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Makes Velo's role in data that came as it is from elsewhere.
    pub(super) async fn make_role(&self, session: &Session) -> Result<()> {
        let name = &self.project.role;
        let found = format!(
            "SELECT rolpassword FROM pg_authid WHERE rolname = {} \
             UNION ALL SELECT '' FROM pg_authid WHERE rolname = {0} AND NOT rolsuper",
            literal(name)
        );
        let found = session.rows("look at its role", &found).await?;
        let told = self.project.source.as_ref().is_some_and(|source| source.role_is_told);
        // Velo's own, whose maker was killed, is a superuser, without a password yet or with the branch's.
        let is_own = |row: &Vec<Option<String>>| match row.first().and_then(Option::as_deref) {
            Some(known) => scram::matches(known, &self.branch.password),
            None => true,
        };
        if !told && !found.iter().all(is_own) {
            let what = format!("the source has a role {name:?} now, which is to be Velo's own");
            return Err(Error::new(ErrorKind::Conflict, what)
                .with_hint("rename it there; or make the project anew, with --role"));
        }
        let role = ident(name);
        let create = match found.is_empty() {
            true => format!("CREATE ROLE {role} SUPERUSER LOGIN; "),
            false => String::new(),
        };
        let make = format!("{create}ALTER ROLE {role} RESET ALL");
        session.execute("make Velo's role", &make).await?;
        let verifier = literal(&scram::verifier(&self.branch.password)?);
        let sql = format!(
            "ALTER ROLE {role} SUPERUSER LOGIN CREATEDB CREATEROLE REPLICATION CONNECTION LIMIT -1 \
             PASSWORD {verifier} VALID UNTIL 'infinity'"
        );
        session.execute_secret("set the password of its role", &sql).await
    }
}
