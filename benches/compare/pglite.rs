//! PGlite: PostgreSQL as WebAssembly, within a process of Node's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use velo_benches::Result;

use crate::row::{Held, Instance, Kind, Row};
use crate::seed::Seed;

pub(crate) struct Pglite {
    /// Where `npm install` put it.
    modules: PathBuf,
    worker: Option<Mutex<Worker>>,
    version: String,
    /// Its own, and Node's.
    about: String,
}

struct Worker {
    process: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// The script stands beside what it imports, or Node would not find it.
    fn start(modules: &Path) -> Result<Self> {
        let mut command = Command::new("node");
        command.arg("--expose-gc").arg(modules.join("pglite.mjs"));
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let (Some(asks), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the worker has no pipes".into());
        };
        Ok(Self { process, asks, answers: BufReader::new(answers).lines() })
    }

    async fn ask(&mut self, request: &Value) -> Result<Value> {
        self.asks.write_all(format!("{request}\n").as_bytes()).await?;
        let line = self.answers.next_line().await?.ok_or("the worker ended, and said why")?;
        let mut answer: Value = serde_json::from_str(&line)?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned().into()),
            None => Ok(answer.get_mut("done").map_or(Value::Null, Value::take)),
        }
    }
}

impl Pglite {
    pub(crate) fn new(modules: PathBuf) -> Self {
        Self { modules, worker: None, version: String::new(), about: String::new() }
    }

    async fn ask(&self, request: Value) -> Result<Value> {
        let worker = self.worker.as_ref().ok_or("its process is not there")?;
        worker.lock().await.ask(&request).await
    }

    fn id(instance: &Instance) -> Result<u64> {
        match instance.held {
            Held::Number(id) => Ok(id),
            _ => Err("this is none of PGlite's".into()),
        }
    }
}

#[async_trait(?Send)]
impl Row for Pglite {
    fn kind(&self) -> Kind {
        Kind::Pglite
    }

    fn settings(&self) -> String {
        format!(
            "{}; a dump without compression, restored into memory for each; one process, queries within it",
            self.about
        )
    }

    fn postgres(&self) -> String {
        self.version.clone()
    }

    fn clones(&self) -> bool {
        false
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        self.worker = Some(Mutex::new(Worker::start(&self.modules)?));
        let known = self.ask(json!({"request": "version"})).await?;
        let said = |what: &str| known[what].as_str().unwrap_or_default().to_owned();
        self.version = said("postgres");
        self.about = format!("PGlite {}, Node {}", said("pglite"), said("node"));
        let statements = &seed.statements;
        self.ask(json!({"request": "prepare", "statements": statements})).await.map(drop)
    }

    async fn create(&self) -> Result<Instance> {
        let id = self.ask(json!({"request": "create"})).await?;
        let id = id.as_u64().ok_or("PGlite's process gave no number")?;
        Ok(Instance { to: None, held: Held::Number(id) })
    }

    async fn run(&self, instance: &Instance, sql: &str) -> Result<()> {
        let id = Self::id(instance)?;
        self.ask(json!({"request": "run", "id": id, "sql": sql})).await.map(drop)
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        let id = Self::id(&instance)?;
        self.ask(json!({"request": "delete", "id": id})).await.map(drop)
    }

    async fn settle(&self) -> Result<()> {
        self.ask(json!({"request": "collect"})).await.map(drop)
    }

    /// All are in this one.
    async fn servers(&self, _: &Instance) -> Result<Vec<u32>> {
        let worker = self.worker.as_ref().ok_or("its process is not there")?.lock().await;
        Ok(vec![worker.process.id().ok_or("its process has ended")?])
    }

    async fn data(&self, _: &Instance) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    async fn end(&mut self) -> Result<()> {
        if let Some(worker) = self.worker.take() {
            let Worker { mut process, asks, .. } = worker.into_inner();
            drop(asks);
            // It ends when it has answered, unless it does not.
            if tokio::time::timeout(Duration::from_secs(10), process.wait()).await.is_err() {
                process.kill().await?;
            }
        }
        Ok(())
    }
}
