//! [`Project`] and [`ProjectBuilder`].

use super::{Branch, Project, ProjectBuilder, Seed, Snapshot};
use crate::branch::BranchInfo;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::error::Result;
use crate::follow::Following;
use crate::import::Source;
use crate::project::{FollowSpec, ProjectInfo, RefreshSpec};
use crate::seed::{self, Claim, SeedInfo, SeedKey};
use crate::snapshot::SnapshotInfo;
use crate::timings::Timings;
use crate::wal::Pruned;

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

    /// See [`crate::Project::set_wal_retention`].
    ///
    /// # Errors
    /// As there.
    pub fn set_wal_retention(&self, time: Option<std::time::Duration>) -> Result<Vec<String>> {
        self.0.set_wal_retention_call(time).wait()
    }

    /// See [`crate::Project::refresh`].
    ///
    /// # Errors
    /// As there.
    pub fn refresh(&self, spec: RefreshSpec) -> Result<Self> {
        self.0.refresh_call(spec, Cancel::default()).wait().map(Self)
    }

    /// See [`crate::Project::follow`].
    ///
    /// # Errors
    /// As there.
    pub fn follow(&self, spec: FollowSpec) -> Result<Self> {
        self.0.follow_call(spec, Cancel::default()).wait().map(Self)
    }

    /// See [`crate::Project::stop_following`].
    ///
    /// # Errors
    /// As there.
    pub fn stop_following(&self) -> Result<()> {
        self.0.stop_following_call().wait()
    }

    /// See [`crate::Project::following`].
    ///
    /// # Errors
    /// As there.
    pub fn following(&self) -> Result<Option<Following>> {
        self.0.following_call().wait()
    }

    /// See [`crate::Project::prune_wal`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_wal(&self, dry_run: bool) -> Result<Vec<Pruned>> {
        self.0.prune_wal_call(dry_run).wait()
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

impl From<crate::Project> for Project {
    fn from(project: crate::Project) -> Self {
        Self(project)
    }
}

impl ProjectBuilder {
    /// The async builder with the same settings.
    pub fn into_async(self) -> crate::ProjectBuilder {
        self.0
    }

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

    /// See [`crate::ProjectBuilder::main_stopped`].
    pub fn main_stopped(self) -> Self {
        Self(self.0.main_stopped())
    }

    /// See [`crate::ProjectBuilder::wal_retention`].
    pub fn wal_retention(self, time: std::time::Duration) -> Self {
        Self(self.0.wal_retention(time))
    }

    /// See [`crate::ProjectBuilder::from`].
    pub fn from(self, source: Source) -> Self {
        Self(self.0.from(source))
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
