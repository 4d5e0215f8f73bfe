//! The same without an async runtime: every call waits for its result.
//!
//! It is the same channel to the same thread that the async API uses, so it works inside an async
//! runtime too (where it blocks the calling thread).
//!
//! ```no_run
//! use velo_core::BranchSpec;
//! use velo_core::blocking::{Branch, Project};
//!
//! # fn example() -> velo_core::Result<()> {
//! let project = Project::open("api")?;
//! let branch = Branch::create(&project, BranchSpec::ephemeral())?;
//! println!("{}", branch.url());
//! branch.close()?;
//! # Ok(()) }
//! ```

use crate::branch::{BranchInfo, Connection};
use crate::config::Config;
use crate::error::Result;
use crate::id::Id;
use crate::pool::PoolInfo;
use crate::project::{ProjectBuilder as AsyncBuilder, ProjectInfo};
use crate::reset::ResetTarget;
use crate::seed::{self, Claim, SeedInfo, SeedKey};
use crate::snapshot::SnapshotInfo;
use crate::spec::BranchSpec;
use crate::storage::Usage;
use crate::timings::Timings;

/// [`crate::Project`], blocking.
#[derive(Debug, Clone)]
pub struct Project(crate::Project);

/// [`crate::ProjectBuilder`], blocking.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProjectBuilder(AsyncBuilder);

/// [`crate::Branch`], blocking.
#[derive(Debug, Clone)]
pub struct Branch(crate::Branch);

/// [`crate::Snapshot`], blocking.
#[derive(Debug, Clone)]
pub struct Snapshot(crate::Snapshot);

/// [`crate::Seed`], blocking.
#[derive(Debug, Clone)]
pub struct Seed(crate::Seed);

/// [`crate::Pool`], blocking.
#[derive(Debug, Clone)]
pub struct Pool(crate::Pool);

impl Project {
    /// See [`crate::Project::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(name: impl Into<String>) -> Result<Self> {
        Self::builder(name).open()
    }

    /// See [`crate::Project::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        Self::builder(name).create()
    }

    /// See [`crate::Project::builder`].
    pub fn builder(name: impl Into<String>) -> ProjectBuilder {
        ProjectBuilder(crate::Project::builder(name))
    }

    /// See [`crate::Project::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(config: &Config) -> Result<Vec<ProjectInfo>> {
        crate::Project::list_call(config).wait()
    }

    /// The async handle of the same project.
    #[must_use]
    pub fn as_async(&self) -> &crate::Project {
        &self.0
    }

    /// See [`crate::Project::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// See [`crate::Project::info`].
    #[must_use]
    pub fn info(&self) -> ProjectInfo {
        self.0.info()
    }

    /// See [`crate::Project::timings`].
    #[must_use]
    pub fn timings(&self) -> &Timings {
        self.0.timings()
    }

    /// See [`crate::Project::main`].
    ///
    /// # Errors
    /// As there.
    pub fn main(&self) -> Result<Branch> {
        self.branch("main")
    }

    /// See [`crate::Project::branch`].
    ///
    /// # Errors
    /// As there.
    pub fn branch(&self, name: impl Into<String>) -> Result<Branch> {
        self.0.branch_call(name.into()).wait().map(Branch)
    }

    /// See [`crate::Project::branches`].
    ///
    /// # Errors
    /// As there.
    pub fn branches(&self) -> Result<Vec<BranchInfo>> {
        self.0.branches_call().wait()
    }

    /// See [`crate::Project::snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot> {
        self.0.snapshot_call(name.into()).wait().map(Snapshot)
    }

    /// See [`crate::Project::snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.0.snapshots_call().wait()
    }

    /// See [`crate::Project::seed`].
    ///
    /// # Errors
    /// As there.
    pub fn seed<E>(
        &self,
        key: SeedKey,
        build: impl FnOnce(&Branch) -> Result<(), E>,
    ) -> Result<Seed>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let seed = match self.0.seed_or_build_call(key).wait()? {
            Claim::There(seed) => seed,
            Claim::Build(building) => match build(&Branch(building.branch.clone())) {
                Ok(()) => building.finish_call().wait()?,
                Err(error) => return Err(seed::failed(error, building.give_up_call().wait())),
            },
        };
        Ok(Seed(seed))
    }

    /// See [`crate::Project::seed_sql`].
    ///
    /// # Errors
    /// As there.
    pub fn seed_sql(&self, pattern: impl AsRef<str>) -> Result<Seed> {
        self.0.seed_sql_call(pattern.as_ref().to_owned()).wait().map(Seed)
    }

    /// See [`crate::Project::seeds`].
    ///
    /// # Errors
    /// As there.
    pub fn seeds(&self) -> Result<Vec<Seed>> {
        Ok(self.0.seeds_call().wait()?.into_iter().map(Seed).collect())
    }

    /// See [`crate::Project::prune_seeds`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_seeds(&self, unused_for: std::time::Duration) -> Result<Vec<SeedInfo>> {
        self.0.prune_seeds_call(unused_for).wait()
    }

    /// See [`crate::Project::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, force: bool) -> Result<()> {
        self.0.delete_call(force).wait()
    }

    /// See [`crate::Project::hidden`].
    ///
    /// # Errors
    /// As there.
    pub fn hidden(&self) -> Result<usize> {
        self.0.hidden_call().wait()
    }

    /// See [`crate::Project::finish_deletions`].
    ///
    /// # Errors
    /// As there.
    pub fn finish_deletions(&self) -> Result<()> {
        self.0.finish_deletions_call().wait()
    }
}

impl ProjectBuilder {
    /// See [`crate::ProjectBuilder::config`].
    pub fn config(self, config: Config) -> Self {
        Self(self.0.config(config))
    }

    /// See [`crate::ProjectBuilder::check`].
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<()> {
        self.0.check_call().wait()
    }

    /// See [`crate::ProjectBuilder::role`].
    pub fn role(self, role: impl Into<String>) -> Self {
        Self(self.0.role(role))
    }

    /// See [`crate::ProjectBuilder::database`].
    pub fn database(self, database: impl Into<String>) -> Self {
        Self(self.0.database(database))
    }

    /// See [`crate::ProjectBuilder::locale`].
    pub fn locale(self, locale: impl Into<String>) -> Self {
        Self(self.0.locale(locale))
    }

    /// See [`crate::ProjectBuilder::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(self) -> Result<Project> {
        self.0.open_call().wait().map(Project)
    }

    /// See [`crate::ProjectBuilder::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(self) -> Result<Project> {
        self.0.create_call().wait().map(Project)
    }

    /// See [`crate::ProjectBuilder::open_or_create`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create(self) -> Result<Project> {
        self.0.open_or_create_call().wait().map(Project)
    }
}

impl From<crate::Branch> for Branch {
    fn from(branch: crate::Branch) -> Self {
        Self(branch)
    }
}

impl Branch {
    /// See [`crate::Branch::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(project: &Project, spec: BranchSpec) -> Result<Self> {
        crate::Branch::create_call(&project.0, spec).wait().map(Self)
    }

    /// The async handle of the same branch.
    #[must_use]
    pub fn as_async(&self) -> &crate::Branch {
        &self.0
    }

    /// See [`crate::Branch::id`].
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.id()
    }

    /// See [`crate::Branch::name`].
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.0.name()
    }

    /// See [`crate::Branch::full_name`].
    #[must_use]
    pub fn full_name(&self) -> String {
        self.0.full_name()
    }

    /// See [`crate::Branch::url`].
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// See [`crate::Branch::socket_url`].
    #[must_use]
    pub fn socket_url(&self) -> String {
        self.0.socket_url()
    }

    /// See [`crate::Branch::connection`].
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.0.connection()
    }

    /// See [`crate::Branch::timings`].
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.0.timings()
    }

    /// See [`crate::Branch::start_all`]. Each with whether it runs.
    ///
    /// # Errors
    /// As there.
    pub fn start_all(config: &Config) -> Result<Vec<(Self, Result<()>)>> {
        Ok(each(crate::Branch::start_all_call(config).wait()?))
    }

    /// See [`crate::Branch::stop_all`]. Each with whether it is stopped.
    ///
    /// # Errors
    /// As there.
    pub fn stop_all(config: &Config) -> Result<Vec<(Self, Result<()>)>> {
        Ok(each(crate::Branch::stop_all_call(config).wait()?))
    }

    /// See [`crate::Branch::protect`].
    ///
    /// # Errors
    /// As there.
    pub fn protect(&self, protected: bool) -> Result<()> {
        self.0.protect_call(protected).wait()
    }

    /// See [`crate::Branch::set_ttl`].
    ///
    /// # Errors
    /// As there.
    pub fn set_ttl(&self, time: Option<std::time::Duration>) -> Result<()> {
        self.0.set_ttl_call(time).wait()
    }

    /// See [`crate::Branch::outgoing`].
    ///
    /// # Errors
    /// As there.
    pub fn outgoing(&self) -> Result<Vec<String>> {
        self.0.outgoing_call().wait()
    }

    /// See [`crate::Branch::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<BranchInfo> {
        self.0.info_call().wait()
    }

    /// See [`crate::Branch::usage`].
    ///
    /// # Errors
    /// As there.
    pub fn usage(&self) -> Result<Usage> {
        self.0.usage_call().wait()
    }

    /// See [`crate::Branch::start`].
    ///
    /// # Errors
    /// As there.
    pub fn start(&self) -> Result<()> {
        self.0.start_call().wait()
    }

    /// See [`crate::Branch::stop`].
    ///
    /// # Errors
    /// As there.
    pub fn stop(&self) -> Result<()> {
        self.0.stop_call().wait()
    }

    /// See [`crate::Branch::restart`].
    ///
    /// # Errors
    /// As there.
    pub fn restart(&self) -> Result<()> {
        self.0.restart_call().wait()
    }

    /// See [`crate::Branch::reset`].
    ///
    /// # Errors
    /// As there.
    pub fn reset(&self) -> Result<()> {
        self.reset_to(ResetTarget::Source)
    }

    /// See [`crate::Branch::reset_to`].
    ///
    /// # Errors
    /// As there.
    pub fn reset_to(&self, target: ResetTarget) -> Result<()> {
        self.0.reset_call(target).wait()
    }

    /// See [`crate::Branch::snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot> {
        self.0.snapshot_call(name.into()).wait().map(Snapshot)
    }

    /// See [`crate::Branch::keep`].
    ///
    /// # Errors
    /// As there.
    pub fn keep(&self) -> Result<()> {
        self.0.keep_call(None, None).wait()
    }

    /// See [`crate::Branch::keep_as`].
    ///
    /// # Errors
    /// As there.
    pub fn keep_as(&self, name: impl Into<String>) -> Result<()> {
        self.0.keep_call(Some(name.into()), None).wait()
    }

    /// See [`crate::Branch::keep_for`].
    ///
    /// # Errors
    /// As there.
    pub fn keep_for(&self, time: std::time::Duration) -> Result<()> {
        self.0.keep_call(None, Some(time)).wait()
    }

    /// See [`crate::Branch::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<()> {
        self.0.close_call().wait()
    }

    /// See [`crate::Branch::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, force: bool) -> Result<()> {
        self.0.delete_call(force).wait()
    }
}

impl Snapshot {
    /// See [`crate::Snapshot::id`].
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.id()
    }

    /// See [`crate::Snapshot::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// See [`crate::Snapshot::info`].
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        self.0.info()
    }

    /// See [`crate::Snapshot::usage`].
    ///
    /// # Errors
    /// As there.
    pub fn usage(&self) -> Result<Usage> {
        self.0.usage_call().wait()
    }

    /// See [`crate::Snapshot::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self) -> Result<()> {
        self.0.delete_call().wait()
    }
}

impl Seed {
    /// See [`crate::Seed::id`].
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.id()
    }

    /// See [`crate::Seed::info`].
    #[must_use]
    pub fn info(&self) -> &SeedInfo {
        self.0.info()
    }

    /// See [`crate::Seed::branch`].
    ///
    /// # Errors
    /// As there.
    pub fn branch(&self) -> Result<Branch> {
        let spec = BranchSpec::ephemeral().from(&self.0);
        crate::Branch::create_call(&self.0.project(), spec).wait().map(Branch)
    }

    /// See [`crate::Seed::pool`].
    ///
    /// # Errors
    /// As there.
    pub fn pool(&self) -> Result<Pool> {
        self.0.pool().map(Pool)
    }

    /// See [`crate::Seed::usage`].
    ///
    /// # Errors
    /// As there.
    pub fn usage(&self) -> Result<Usage> {
        self.0.usage_call().wait()
    }

    /// See [`crate::Seed::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self) -> Result<()> {
        self.0.delete_call().wait()
    }
}

impl Pool {
    /// See [`crate::Pool::acquire`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire(&self) -> Result<Branch> {
        self.0.acquire_call(None).wait().map(Branch)
    }

    /// See [`crate::Pool::acquire_as`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire_as(&self, label: impl AsRef<str>) -> Result<Branch> {
        self.0.acquire_call(Some(label.as_ref().to_owned())).wait().map(Branch)
    }

    /// See [`crate::Pool::keep_ready`].
    ///
    /// # Errors
    /// As there.
    pub fn keep_ready(&self, least: usize, most: usize) -> Result<()> {
        self.0.keep_ready_call(least, most).wait()
    }

    /// See [`crate::Pool::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<PoolInfo> {
        self.0.info_call().wait()
    }
}

fn each(outcomes: Vec<crate::Outcome>) -> Vec<(Branch, Result<()>)> {
    outcomes.into_iter().map(|outcome| (Branch(outcome.branch), outcome.result)).collect()
}

impl From<&Branch> for crate::BranchSource {
    fn from(branch: &Branch) -> Self {
        Self::Branch(branch.id())
    }
}

impl From<&Snapshot> for crate::BranchSource {
    fn from(snapshot: &Snapshot) -> Self {
        Self::Snapshot(snapshot.id())
    }
}

impl From<&Seed> for crate::BranchSource {
    fn from(seed: &Seed) -> Self {
        Self::from(&seed.0)
    }
}

/// Removing what nothing needs: [`crate::gc`], blocking.
pub mod gc {
    pub use crate::gc::{Collected, GcSpec};

    use crate::config::Config;
    use crate::error::Result;

    /// See [`crate::gc::collect`].
    ///
    /// # Errors
    /// As there.
    pub fn collect(config: &Config, spec: GcSpec) -> Result<Collected> {
        crate::gc::collect_call(config, spec).wait()
    }
}

/// Fetching a PostgreSQL where there is none: [`crate::postgres::install`], blocking.
pub mod install {
    pub use crate::postgres::install::Wanted;

    use crate::config::Config;
    use crate::error::Result;
    use crate::postgres::{Installation, Version, install};

    /// See [`crate::postgres::install::install`].
    ///
    /// # Errors
    /// As there.
    pub fn install(
        config: &Config,
        wanted: Wanted,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Installation> {
        install::install_call(config, wanted, progress).wait()
    }

    /// See [`crate::postgres::install::find_or_install`].
    ///
    /// # Errors
    /// As there.
    pub fn find_or_install(
        config: &Config,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Installation> {
        install::find_or_install_call(config, progress).wait()
    }

    /// See [`crate::postgres::install::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(config: &Config, version: Version) -> Result<()> {
        install::remove_call(config, version).wait()
    }
}

/// Giving a machine a file system that clones: [`crate::setup`], blocking.
pub mod setup {
    pub use crate::setup::{LoopKind, LoopSpec, image_of};

    use crate::error::Result;

    /// See [`crate::setup::Setup`].
    #[derive(Debug, Clone)]
    pub struct Setup(crate::setup::Setup);

    impl Setup {
        /// See [`crate::setup::Setup::on_loop`].
        ///
        /// # Errors
        /// As there.
        pub fn on_loop(spec: &LoopSpec) -> Result<Self> {
            crate::setup::Setup::on_loop_call(spec).wait().map(Self)
        }

        /// See [`crate::setup::Setup::undo`].
        ///
        /// # Errors
        /// As there.
        pub fn undo(image: impl Into<std::path::PathBuf>) -> Result<Self> {
            crate::setup::Setup::undo_call(image.into()).wait().map(Self)
        }

        /// See [`crate::setup::Setup::delegation`].
        ///
        /// # Errors
        /// As there.
        #[cfg(all(feature = "zfs", target_os = "linux"))]
        pub fn delegation(delegation: &crate::setup::Delegation) -> Result<Self> {
            crate::setup::Setup::delegation_call(delegation).wait().map(Self)
        }

        /// See [`crate::setup::Setup::undo_delegation`].
        ///
        /// # Errors
        /// As there.
        #[cfg(all(feature = "zfs", target_os = "linux"))]
        pub fn undo_delegation(delegation: &crate::setup::Delegation) -> Result<Self> {
            crate::setup::Setup::undo_delegation_call(delegation).wait().map(Self)
        }

        /// See [`crate::setup::Setup::commands`].
        pub fn commands(&self) -> impl Iterator<Item = String> {
            self.0.commands()
        }

        /// See [`crate::setup::Setup::run`].
        ///
        /// # Errors
        /// As there.
        pub fn run(self, say: impl FnMut(&str) + Send + 'static) -> Result<()> {
            self.0.run_call(say).wait()
        }
    }
}
