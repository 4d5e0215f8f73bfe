//! Velo, with its defaults; and the floor under it.

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use velo_benches::floor::Floor;
use velo_benches::server::data_of;
use velo_benches::{Result, client};
use velo_core::runtime::RuntimeKind;
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Config, Pool, Project, Seed as Made, SeedKey};

use crate::row::{Held, Instance, Kind, Row};
use crate::seed::Seed;

/// How long a pool may take until it is full, where each branch is a copy of a gigabyte too.
const FILLED: Duration = Duration::from_secs(300);

/// A home of its own, with one project and one seed.
pub(crate) struct Velo {
    home: PathBuf,
    storage: StorageKind,
    /// The folder of programs, or the image.
    with: With,
    /// What ends with it, whether there is a seed yet or not.
    project: Option<Project>,
    made: Rc<OnceCell<(Project, Made)>>,
    pool: RefCell<Option<Pool>>,
}

/// What its servers are made of.
pub(crate) enum With {
    Programs(PathBuf),
    Image(String),
}

impl Velo {
    pub(crate) fn new(home: PathBuf, storage: StorageKind, with: With) -> Self {
        let (made, pool) = (Rc::default(), RefCell::default());
        Self { home, storage, with, project: None, made, pool }
    }

    /// The least that its branches could cost: bare clones of the same seed and bare servers on them.
    pub(crate) fn floor(&self) -> Bare {
        let dir = self.home.with_extension("floor");
        Bare { dir, storage: self.storage, made: self.made.clone(), source: None, floor: None }
    }

    fn seed(&self) -> Result<&(Project, Made)> {
        Ok(self.made.get().ok_or("Velo has no seed yet")?)
    }

    fn pool(&self) -> Result<Pool> {
        let mut pool = self.pool.borrow_mut();
        if pool.is_none() {
            *pool = Some(self.seed()?.1.pool()?);
        }
        Ok(pool.clone().ok_or("there is no pool")?)
    }

    fn branch(instance: &Instance) -> Result<&Branch> {
        match &instance.held {
            Held::Branch(branch) => Ok(branch),
            _ => Err("this is no branch".into()),
        }
    }

    async fn server(instance: &Instance) -> Result<u32> {
        Ok(Self::branch(instance)?.info().await?.pid.ok_or("a branch does not run")?)
    }
}

fn instance(branch: Branch) -> Instance {
    Instance { to: Some(client::config(&branch.connection())), held: Held::Branch(branch) }
}

/// A new project in a home that is not there yet.
pub(crate) async fn project(home: &Path, storage: StorageKind, with: &With) -> Result<Project> {
    let config = Config::builder().home(home).storage(storage);
    let config = match with {
        With::Programs(bin) => config.pg_bin(bin),
        With::Image(image) => config.runtime(RuntimeKind::Docker).image(image),
    };
    Ok(Project::builder("compare").config(config.build()?).create().await?)
}

#[async_trait(?Send)]
impl Row for Velo {
    fn kind(&self) -> Kind {
        match self.with {
            With::Programs(_) => Kind::Velo,
            With::Image(_) => Kind::VeloDocker,
        }
    }

    fn settings(&self) -> String {
        let servers = match self.with {
            With::Programs(_) => "processes",
            With::Image(_) => "containers",
        };
        format!(
            "Velo's defaults (password, SCRAM with one iteration), called as a library; storage {}, {servers}",
            self.storage
        )
    }

    fn postgres(&self) -> String {
        self.made.get().map_or_else(String::new, |(p, _)| p.info().postgres.version.to_string())
    }

    fn clones(&self) -> bool {
        self.storage != StorageKind::Copy
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        let project = project(&self.home, self.storage, &self.with).await?;
        self.project = Some(project.clone());
        let key = SeedKey::new().text(seed.script()).label("compare");
        let made = project
            .seed(key, async |branch| {
                let session = client::connect(&branch.connection()).await?;
                for statement in &seed.statements {
                    session.batch_execute(statement).await?;
                }
                Ok::<_, tokio_postgres::Error>(())
            })
            .await?;
        project.main().await?.stop().await?;
        self.made.set((project, made)).map_err(|_| "it was prepared before")?;
        Ok(())
    }

    async fn create(&self) -> Result<Instance> {
        Ok(instance(self.seed()?.1.branch().await?))
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        match instance.held {
            Held::Branch(branch) => Ok(branch.close().await?),
            _ => Err("this is no branch".into()),
        }
    }

    async fn settle(&self) -> Result<()> {
        Ok(self.seed()?.0.finish_deletions().await?)
    }

    fn steps(&self, instance: &Instance) -> Vec<(String, Duration)> {
        Self::branch(instance).map_or_else(|_| Vec::new(), |branch| branch.timings().steps)
    }

    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>> {
        Ok(vec![Self::server(instance).await?])
    }

    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>> {
        let data = data_of(Self::server(instance).await?)?;
        Ok(Some(data))
    }

    fn has_ready(&self) -> bool {
        true
    }

    async fn fill(&self, count: usize) -> Result<()> {
        let (pool, begun) = (self.pool()?, Instant::now());
        loop {
            // Each time: a pool whose start has failed keeps none ready until it is told again.
            pool.keep_ready(count, 2 * count).await?;
            let info = pool.info().await?;
            if info.ready >= count && info.starting == 0 {
                return Ok(());
            }
            if begun.elapsed() > FILLED {
                let (ready, late) = (info.ready, FILLED.as_secs());
                return Err(format!("a pool has {ready} of {count} ready after {late} s").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ready(&self) -> Result<Instance> {
        Ok(instance(self.pool()?.acquire().await?))
    }

    async fn empty(&self) -> Result<()> {
        drop(self.pool.borrow_mut().take());
        self.settle().await
    }

    async fn take(&self) -> Result<Instance> {
        self.ready().await
    }

    async fn end(&mut self) -> Result<()> {
        drop(self.pool.borrow_mut().take());
        let Some(project) = self.project.take() else {
            // One whose creation was broken off is undone behind it.
            return gone(&self.home).await;
        };
        project.finish_deletions().await?;
        project.delete(true).await?;
        remove(&self.home)
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Waits until somebody else has let go of a home, and removes it.
async fn gone(home: &Path) -> Result<()> {
    let (begun, volumes) = (Instant::now(), home.join("volumes"));
    while std::fs::read_dir(&volumes).is_ok_and(|mut all| all.next().is_some()) {
        if begun.elapsed() > FILLED {
            return Err(format!("a project stays in {}", home.display()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    remove(home)
}

/// The floor, on the file system and with the data of Velo's row.
pub(crate) struct Bare {
    dir: PathBuf,
    storage: StorageKind,
    made: Rc<OnceCell<(Project, Made)>>,
    /// A stopped branch of the seed, whose data is cloned.
    source: Option<Branch>,
    floor: Option<Floor>,
}

impl Bare {
    fn floor(&self) -> Result<&Floor> {
        Ok(self.floor.as_ref().ok_or("the floor is not prepared")?)
    }
}

#[async_trait(?Send)]
impl Row for Bare {
    fn kind(&self) -> Kind {
        Kind::Floor
    }

    fn settings(&self) -> String {
        "one clone call, one postgres with the settings of a branch of Velo's".to_owned()
    }

    fn postgres(&self) -> String {
        self.made.get().map_or_else(String::new, |(p, _)| p.info().postgres.version.to_string())
    }

    fn clones(&self) -> bool {
        self.storage != StorageKind::Copy
    }

    async fn prepare(&mut self, _: &Seed) -> Result<()> {
        let (project, seed) = self.made.get().ok_or("Velo's row comes first")?;
        let source = Branch::create(project, BranchSpec::named("floor").from(seed)).await?;
        let data = data_of(source.info().await?.pid.ok_or("the floor's source does not run")?)?;
        // A branch, for its command line.
        let real = seed.branch().await?;
        let pid = real.info().await?.pid.ok_or("the branch does not run")?;
        let floor = Floor::new(self.storage, self.dir.clone(), data, pid, source.connection());
        real.close().await?;
        source.stop().await?;
        self.floor = Some(floor?);
        self.source = Some(source);
        Ok(())
    }

    async fn create(&self) -> Result<Instance> {
        let running = self.floor()?.start()?;
        Ok(Instance { to: Some(client::config(&running.connection)), held: Held::Bare(running) })
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        match instance.held {
            Held::Bare(running) => self.floor()?.end(running),
            _ => Err("this is no bare server".into()),
        }
    }

    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>> {
        match &instance.held {
            Held::Bare(running) => Ok(vec![running.pid()]),
            _ => Err("this is no bare server".into()),
        }
    }

    async fn data(&self, _: &Instance) -> Result<Option<PathBuf>> {
        Ok(Some(self.floor()?.clone_path()))
    }

    /// Its source goes with the project of Velo's row, which ends after it.
    async fn end(&mut self) -> Result<()> {
        drop(self.floor.take());
        match self.source.take() {
            Some(source) => Ok(source.delete(true).await?),
            None => Ok(()),
        }
    }
}
