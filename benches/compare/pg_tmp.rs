//! pg_tmp (ephemeralpg): a cluster of its own for each, which an earlier call has made, and which loads its data anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use velo_benches::{Result, client, process, server};

use crate::cluster::make_folder;
use crate::program;
use crate::row::{Held, Instance, Kind, Row};
use crate::seed::Seed;

pub(crate) struct PgTmp {
    program: PathBuf,
    bin: PathBuf,
    dir: PathBuf,
    seed: Option<Seed>,
    version: String,
    release: String,
    /// Two calls at once may take the same cluster, and one of them fails.
    calls: tokio::sync::Mutex<()>,
}

impl PgTmp {
    pub(crate) fn new(program: PathBuf, bin: PathBuf, dir: PathBuf) -> Self {
        let (version, release, calls) = (String::new(), String::new(), Default::default());
        Self { program, bin, dir, seed: None, version, release, calls }
    }

    /// A program of the server's, or of pg_tmp's, which finds its own others beside it.
    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = program::command(program, &self.bin, &self.dir)?;
        let beside = self.program.parent().unwrap_or(Path::new("/usr/bin"));
        let path = format!("{}:{}:/usr/bin:/bin", self.bin.display(), beside.display());
        // Its folders go where their size is known to be paid for.
        command.env("PATH", path).env("SYSTMP", &self.dir).env("TMPDIR", &self.dir);
        Ok(command)
    }

    fn folder(instance: &Instance) -> Result<&Path> {
        match &instance.held {
            Held::Folder(folder) => Ok(folder),
            _ => Err("this is no folder".into()),
        }
    }

    /// PGDATA, which is called after the version.
    fn data_in(folder: &Path) -> Result<PathBuf> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.join("PG_VERSION").exists() {
                return Ok(path);
            }
        }
        Err(format!("there is no data in {}", folder.display()).into())
    }
}

#[async_trait(?Send)]
impl Row for PgTmp {
    fn kind(&self) -> Kind {
        Kind::PgTmp
    }

    fn settings(&self) -> String {
        let own = "its own settings (fsync, synchronous_commit and full_page_writes off, shared_buffers = 12MB), a cluster that \
         the call before made, Unix socket, one call at a time (two at once may take the same cluster); the seed loaded \
         into each";
        format!("pg_tmp {}; {own}", self.release)
    }

    fn postgres(&self) -> String {
        self.version.clone()
    }

    fn clones(&self) -> bool {
        false
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        make_folder(&self.dir, process::server_user()?)?;
        self.seed = Some(seed.clone());
        // Its usage begins with it, and is no success.
        let usage = self.command(&self.program)?.arg("-h").output().await?;
        let usage = String::from_utf8_lossy(&usage.stderr).into_owned();
        let release = usage.lines().find_map(|line| line.strip_prefix("release: "));
        self.release = release.unwrap_or("of an unknown release").to_owned();
        // The first has a cluster made for the next.
        let first = self.create().await?;
        let session = client::open(first.to.as_ref().ok_or("it has no address")?).await?;
        self.version = session.query_one("SHOW server_version", &[]).await?.get(0);
        drop(session);
        self.delete(first).await
    }

    async fn create(&self) -> Result<Instance> {
        // Without an end of its own: it would be a process that sleeps for a minute.
        let call = self.calls.lock().await;
        let said =
            program::output(self.command(&self.program)?.args(["-w", "0"]), &self.dir).await?;
        drop(call);
        let mut to: Config = said.trim().parse()?;
        to.user("postgres");
        let folder = match to.get_hosts() {
            [Host::Unix(folder)] => folder.clone(),
            _ => return Err(format!("pg_tmp says: {said}").into()),
        };
        let instance = Instance { to: Some(to), held: Held::Folder(folder) };
        let session = client::open(instance.to.as_ref().ok_or("it has no address")?).await?;
        for statement in &self.seed.as_ref().ok_or("it has no seed")?.statements {
            session.batch_execute(statement).await?;
        }
        Ok(instance)
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        let folder = Self::folder(&instance)?;
        let data = Self::data_in(folder)?;
        let server = program::postmaster(&data)?;
        let mut stop = self.command(&self.bin.join("pg_ctl"))?;
        // As pg_tmp does; with -w it would look ten times a second.
        stop.arg("-D").arg(&data).args(["-m", "immediate", "-W", "stop"]);
        program::output(&mut stop, &self.dir).await?;
        // Whoever reaps it may take his time.
        while server::data_of(server).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// A cluster is being made for the next one, as slowly as it may.
    async fn settle(&self) -> Result<()> {
        for _ in 0..200 {
            let made = std::fs::read_dir(&self.dir)?.filter_map(std::result::Result::ok);
            if made.into_iter().any(|entry| entry.path().join("NEW").exists()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>> {
        Ok(vec![program::postmaster(&Self::data_in(Self::folder(instance)?)?)?])
    }

    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>> {
        Ok(Some(Self::data_in(Self::folder(instance)?)?))
    }

    async fn end(&mut self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        // What it still makes would be made into a folder that is gone.
        self.settle().await?;
        program::end_servers(&self.dir).await?;
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }
}
