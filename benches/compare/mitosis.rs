//! mitosis-db: its command, its daemon, and clones with a server each.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::process::Command;
use velo_benches::{Result, process};

use crate::cluster::make_folder;
use crate::program;
use crate::row::{Held, Instance, Kind, Row};
use crate::seed::Seed;

pub(crate) struct Mitosis {
    program: PathBuf,
    bin: PathBuf,
    major: u32,
    dir: PathBuf,
    version: String,
}

/// What of `mitosis clone --json` is used.
#[derive(Deserialize)]
struct Cloned {
    id: String,
    direct_url: String,
}

impl Mitosis {
    pub(crate) fn new(program: PathBuf, bin: PathBuf, major: u32, dir: PathBuf) -> Self {
        Self { program, bin, major, dir, version: String::new() }
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = program::command(&self.program, &self.bin, &self.dir)?;
        // Eight clones are its default, and what waits for memory that is there would be no figure of its own.
        command.env("MITOSIS_HOME", self.dir.join("m")).env("MITOSIS_MAX_CLONES", "200");
        command.args(args);
        Ok(command)
    }

    async fn said(&self, args: &[&str]) -> Result<String> {
        program::output(&mut self.command(args)?, &self.dir).await
    }

    /// They outlive its daemon.
    async fn end_clones(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Listed {
            id: String,
        }
        let mut ended = Ok(());
        // Where it cannot tell it was never prepared.
        if let Ok(list) = self.said(&["list", "--json"]).await {
            for clone in serde_json::from_str::<Vec<Listed>>(&list)? {
                let destroyed = self.said(&["destroy", "--force", &clone.id]).await;
                ended = ended.and(destroyed.map(drop));
            }
        }
        ended.and(self.said(&["daemon", "stop"]).await.map(drop))
    }

    fn data_of(&self, instance: &Instance) -> Result<PathBuf> {
        match &instance.held {
            Held::Name(id) => Ok(self.dir.join("m/clones").join(id)),
            _ => Err("this is no clone".into()),
        }
    }
}

#[async_trait(?Send)]
impl Row for Mitosis {
    fn kind(&self) -> Kind {
        Kind::Mitosis
    }

    fn settings(&self) -> String {
        format!(
            "{}; its defaults (shared_buffers = 32MB, max_connections = 20; fsync, synchronous_commit and \
             full_page_writes off), but 200 clones may run; a run of its command for each; its direct URL \
             (SCRAM with the 4,096 iterations that it has)",
            self.version
        )
    }

    fn postgres(&self) -> String {
        self.major.to_string()
    }

    fn clones(&self) -> bool {
        true
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        make_folder(&self.dir, process::server_user()?)?;
        self.version = self.said(&["--version"]).await?.trim().to_owned();
        let script = self.dir.join("seed.sql");
        std::fs::write(&script, seed.script())?;
        let load = format!("psql \"$DATABASE_URL\" -qX -v ON_ERROR_STOP=1 -f {}", script.display());
        let major = self.major.to_string();
        self.said(&["template", "init", "--pg-major", &major, "--seed", &load]).await?;
        Ok(())
    }

    async fn create(&self) -> Result<Instance> {
        let said = self.said(&["clone", "--json"]).await?;
        let cloned: Cloned = serde_json::from_str(&said)?;
        Ok(Instance { to: Some(cloned.direct_url.parse()?), held: Held::Name(cloned.id) })
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        match &instance.held {
            Held::Name(id) => self.said(&["destroy", id]).await.map(drop),
            _ => Err("this is no clone".into()),
        }
    }

    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>> {
        Ok(vec![program::postmaster(&self.data_of(instance)?)?])
    }

    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>> {
        Ok(Some(self.data_of(instance)?))
    }

    async fn end(&mut self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let ended = self.end_clones().await;
        program::end_servers(&self.dir).await?;
        std::fs::remove_dir_all(&self.dir)?;
        ended
    }
}
