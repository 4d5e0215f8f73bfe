//! [`Branch`] and [`Snapshot`].

use super::{Branch, Project, Snapshot};
use crate::branch::{BranchInfo, Connection};
use crate::config::Config;
use crate::error::Result;
use crate::id::Id;
use crate::reset::ResetTarget;
use crate::retention::{Fate, Retention};
use crate::snapshot::SnapshotInfo;
use crate::spec::BranchSpec;
use crate::storage::Usage;
use crate::timings::Timings;
use crate::wal::{RestorePoint, WalInfo};

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

    /// See [`crate::Branch::start_all`]. Each with whether it had to be started.
    ///
    /// # Errors
    /// As there.
    pub fn start_all(config: &Config) -> Result<Vec<(Self, Result<bool>)>> {
        Ok(each(crate::Branch::start_all_call(config).wait()?))
    }

    /// See [`crate::Branch::stop_all`]. Each with whether it had to be stopped.
    ///
    /// # Errors
    /// As there.
    pub fn stop_all(config: &Config) -> Result<Vec<(Self, Result<bool>)>> {
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

    /// See [`crate::Branch::scheduled_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn scheduled_snapshot(&self) -> Result<Snapshot> {
        self.0.scheduled_snapshot_call().wait().map(Snapshot)
    }

    /// See [`crate::Branch::prune_snapshots`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_snapshots(&self, retention: Retention, dry_run: bool) -> Result<Vec<Fate>> {
        self.0.prune_snapshots_call(retention, dry_run).wait()
    }

    /// See [`crate::Branch::wal`].
    ///
    /// # Errors
    /// As there.
    pub fn wal(&self) -> Result<WalInfo> {
        self.0.wal_call().wait()
    }

    /// See [`crate::Branch::restore_point`].
    ///
    /// # Errors
    /// As there.
    pub fn restore_point(&self, name: impl Into<String>) -> Result<RestorePoint> {
        self.0.restore_point_call(name.into()).wait()
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

fn each(outcomes: Vec<crate::Outcome>) -> Vec<(Branch, Result<bool>)> {
    outcomes.into_iter().map(|outcome| (Branch(outcome.branch), outcome.result)).collect()
}
