//! `CREATE DATABASE … TEMPLATE`: what pgtestdb, IntegreSQL, sqlx::test and pytest-postgresql rest on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use velo_benches::{Result, client};

use crate::cluster::Cluster;
use crate::row::{Held, Instance, Kind, Row, Strategy};
use crate::seed::Seed;

/// What the guide of IntegreSQL starts a server of tests with; that of pgtestdb, of these, has `fsync` off.
const SETTINGS: [(&str, &str); 4] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "128MB"),
];

/// How long a session may take to end before it is ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// One server for all strategies of a major in a place.
pub(crate) struct Server {
    pub(crate) major: u32,
    pub(crate) bin: PathBuf,
    pub(crate) dir: PathBuf,
    running: RefCell<Option<Rc<Cluster>>>,
    version: RefCell<String>,
    next: Cell<u64>,
}

impl Server {
    pub(crate) fn new(major: u32, bin: PathBuf, dir: PathBuf) -> Rc<Self> {
        let (running, version) = (RefCell::default(), RefCell::default());
        Rc::new(Self { major, bin, dir, running, version, next: Cell::new(0) })
    }

    fn settings(&self) -> Vec<(String, String)> {
        let clone = (self.major >= 18).then_some(("file_copy_method", "clone"));
        let all = SETTINGS.into_iter().chain(clone);
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The server with the template in it, which the first who asks makes.
    async fn prepared(&self, seed: &Seed) -> Result<()> {
        if self.running.borrow().is_some() {
            return Ok(());
        }
        let settings = self.settings();
        let cluster = Cluster::start(&self.bin, self.dir.clone(), &[], &settings).await?;
        cluster.manage("CREATE DATABASE seed").await?;
        let session = client::open(&cluster.to("seed")).await?;
        for statement in &seed.statements {
            session.batch_execute(statement).await?;
        }
        let version = session.query_one("SHOW server_version", &[]).await?.get(0);
        *self.version.borrow_mut() = version;
        drop(session);
        cluster.manage("ALTER DATABASE seed IS_TEMPLATE true ALLOW_CONNECTIONS false").await?;
        cluster.manage("CHECKPOINT").await?;
        *self.running.borrow_mut() = Some(Rc::new(cluster));
        Ok(())
    }

    fn cluster(&self) -> Result<Rc<Cluster>> {
        Ok(self.running.borrow().clone().ok_or("its server is not prepared")?)
    }
}

/// One strategy.
pub(crate) struct Template(Rc<Inner>);

struct Inner {
    server: Rc<Server>,
    strategy: Strategy,
    /// Whether files on its file system share what they hold.
    shares: bool,
    ready: RefCell<VecDeque<Instance>>,
    /// How many are being made behind the caller.
    making: Cell<usize>,
    /// Why one was not.
    failed: RefCell<Option<String>>,
    /// How many tests find ready at most.
    ahead: Cell<usize>,
}

impl Template {
    pub(crate) fn new(server: Rc<Server>, strategy: Strategy, shares: bool) -> Self {
        let (ready, making, ahead) = (RefCell::default(), Cell::new(0), Cell::new(0));
        let failed = RefCell::default();
        Self(Rc::new(Inner { server, strategy, shares, ready, making, failed, ahead }))
    }

    fn name(instance: &Instance) -> Result<&str> {
        match &instance.held {
            Held::Name(name) => Ok(name),
            _ => Err("this is no database".into()),
        }
    }
}

impl Inner {
    async fn create(&self) -> Result<Instance> {
        let cluster = self.server.cluster()?;
        let name = format!("test_{}", self.server.next.replace(self.server.next.get() + 1));
        let strategy = match self.strategy {
            Strategy::WalLog => "WAL_LOG",
            Strategy::FileCopy | Strategy::Clone => "FILE_COPY",
        };
        cluster
            .manage(&format!("CREATE DATABASE {name} TEMPLATE seed STRATEGY = {strategy}"))
            .await?;
        Ok(Instance { to: Some(cluster.to(&name)), held: Held::Name(name) })
    }

    fn next_ready(&self) -> Option<Instance> {
        self.ready.borrow_mut().pop_front()
    }

    /// Makes one more behind the caller.
    fn make(self: &Rc<Self>) {
        let inner = self.clone();
        inner.making.set(inner.making.get() + 1);
        tokio::task::spawn_local(async move {
            let made = inner.create().await;
            inner.making.set(inner.making.get() - 1);
            match made {
                Ok(one) => inner.ready.borrow_mut().push_back(one),
                Err(error) => *inner.failed.borrow_mut() = Some(error.to_string()),
            }
        });
    }

    /// Waits until none is being made behind the caller.
    async fn made(&self) -> Result<()> {
        while self.making.get() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.works()
    }

    /// An error if one was not made.
    fn works(&self) -> Result<()> {
        match self.failed.borrow_mut().take() {
            Some(error) => Err(format!("a database is not made ready: {error}").into()),
            None => Ok(()),
        }
    }
}

#[async_trait(?Send)]
impl Row for Template {
    fn kind(&self) -> Kind {
        Kind::Template(self.0.server.major, self.0.strategy)
    }

    fn settings(&self) -> String {
        let settings = self.0.server.settings();
        let all: Vec<String> = settings
            .iter()
            .filter(|(name, _)| name != "file_copy_method" || self.0.strategy == Strategy::Clone)
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        format!(
            "{}; password (SCRAM with one iteration, as Velo's), the session that manages stays open; a database is \
             dropped once its last session has ended, for PostgreSQL would wait 100 ms for that",
            all.join(", ")
        )
    }

    fn postgres(&self) -> String {
        self.0.server.version.borrow().clone()
    }

    fn clones(&self) -> bool {
        self.0.strategy == Strategy::Clone && self.0.shares
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        // As many as Velo's pool at most. Of copies of much data those that nobody takes any more would cost tests that
        // wait: each is made when it is asked for.
        if self.clones() || seed.is_small() {
            self.0.ahead.set(2 * std::thread::available_parallelism()?.get());
        }
        self.0.server.prepared(seed).await
    }

    async fn create(&self) -> Result<Instance> {
        self.0.create().await
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        let name = Self::name(&instance)?;
        let cluster = self.0.server.cluster()?;
        // A session that was closed just now may still be ending. PostgreSQL looks for it ten times a second, and nobody
        // is to pay for that.
        let begun = Instant::now();
        while cluster.sessions(name).await? > 0 && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.manage(&format!("DROP DATABASE {name} WITH (FORCE)")).await
    }

    /// All databases have this one.
    async fn servers(&self, _: &Instance) -> Result<Vec<u32>> {
        Ok(vec![self.0.server.cluster()?.pid()])
    }

    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>> {
        Ok(Some(self.0.server.cluster()?.folder(Self::name(instance)?).await?))
    }

    fn has_ready(&self) -> bool {
        true
    }

    async fn fill(&self, count: usize) -> Result<()> {
        while self.0.ready.borrow().len() + self.0.making.get() < count {
            let one = self.create().await?;
            self.0.ready.borrow_mut().push_back(one);
        }
        self.0.made().await
    }

    async fn empty(&self) -> Result<()> {
        self.0.made().await?;
        while let Some(one) = self.0.next_ready() {
            self.delete(one).await?;
        }
        Ok(())
    }

    async fn ready(&self) -> Result<Instance> {
        let ready = self.0.next_ready();
        // As IntegreSQL does: the next is made behind the caller, and none of its requests is counted.
        self.0.make();
        Ok(ready.ok_or("no database is ready")?)
    }

    /// One that is ready, or one that is made now; and behind the caller those that are missing.
    async fn take(&self) -> Result<Instance> {
        self.0.works()?;
        let ready = self.0.next_ready();
        // Of Velo's pool, too, no more are made at a time than there are cores.
        let cores = std::thread::available_parallelism()?.get();
        let lacks = || self.0.ready.borrow().len() + self.0.making.get() < self.0.ahead.get();
        while lacks() && self.0.making.get() < cores {
            self.0.make();
        }
        match ready {
            Some(one) => Ok(one),
            None => self.create().await,
        }
    }

    async fn end(&mut self) -> Result<()> {
        let made = self.0.made().await;
        self.0.ready.borrow_mut().clear();
        // It ends with the last who has it.
        drop(self.0.server.running.borrow_mut().take());
        made
    }
}
