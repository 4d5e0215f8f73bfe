//! [`Branch`]: a complete, isolated PostgreSQL.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::boot;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::create;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
#[cfg(target_os = "linux")]
use crate::keeper::Held;
use crate::lock::{Lock, Mode};
use crate::postgres::outgoing;
use crate::project::{self, Project};
use crate::record::{BranchRecord, Phase};
use crate::run_dir::RunDir;
use crate::snapshot::Snapshot;
use crate::spec::BranchSpec;
use crate::state::Tx;
use crate::storage::{Object, Usage};
use crate::timings::Timings;

mod all;
mod change;
mod connection;
mod delete;
mod failed;
mod info;
mod keep;
mod lifetime;

pub use all::Outcome;
pub(crate) use all::{Settled, each, lets_clients_in, persistent};
#[cfg(target_os = "linux")]
pub(crate) use change::Change;
pub use connection::Connection;
pub(crate) use connection::private_url;
#[cfg(feature = "macros")]
pub(crate) use failed::FAILED_KEPT;
pub(crate) use info::infos;
pub use info::{BranchInfo, State};
#[cfg(target_os = "linux")]
pub(crate) use keep::Keep;
pub(crate) use lifetime::{check_ttl, due, expire, expired, from_now, refuse_protected};

/// A branch: a complete, isolated PostgreSQL on a clone of its parent's data.
///
/// A handle is cheap to clone. Dropping the last clone of the handle that created an *ephemeral*
/// branch discards the branch, without waiting for it; [`close`](Branch::close) waits. A handle of a
/// persistent branch has no effect when it is dropped.
///
/// ```no_run
/// # async fn example(project: velo_core::Project) -> Result<(), Box<dyn std::error::Error>> {
/// use velo_core::{Branch, BranchSpec};
/// let branch = Branch::create(&project, BranchSpec::ephemeral()).await?;
/// let (client, connection) = tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await?;
/// tokio::spawn(connection);
/// client.batch_execute("DROP SCHEMA public CASCADE").await?; // main is untouched
/// branch.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Branch(Arc<Inner>);

struct Inner {
    project: Arc<project::Inner>,
    record: Mutex<BranchRecord>,
    timings: Mutex<Timings>,
    /// Whether the drop of this discards the branch.
    discard: AtomicBool,
    /// The connection that holds it, where it is a keeper's: see [`crate::keeper`].
    #[cfg(target_os = "linux")]
    held: Option<Arc<Held>>,
    /// The process that made the handle. A forked child's copy discards nothing.
    pid: u32,
}

impl Inner {
    fn new(
        project: &Arc<project::Inner>,
        record: BranchRecord,
        timings: Timings,
        discard: bool,
    ) -> Self {
        Self {
            project: project.clone(),
            record: Mutex::new(record),
            timings: Mutex::new(timings),
            discard: AtomicBool::new(discard),
            #[cfg(target_os = "linux")]
            held: None,
            pid: std::process::id(),
        }
    }
}

impl Branch {
    /// Creates a branch of `project`.
    ///
    /// If the returned future is dropped before it is ready, what was done is undone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a bad name or setting, [`ErrorKind::NotFound`] if what it
    /// starts from does not exist, [`ErrorKind::AlreadyExists`], [`ErrorKind::Exhausted`],
    /// [`ErrorKind::Postgres`] if the server does not come up. Nothing is left behind.
    pub async fn create(project: &Project, spec: BranchSpec) -> Result<Self> {
        Self::create_call(project, spec).await
    }

    /// The same until `cancel` asks it to stop: then what was done is undone, and that is waited for.
    ///
    /// # Errors
    /// As [`create`](Branch::create), and [`ErrorKind::Canceled`].
    pub async fn create_unless(
        project: &Project,
        spec: BranchSpec,
        cancel: &Cancel,
    ) -> Result<Self> {
        Self::create_unless_call(project, spec, cancel.clone()).await
    }

    pub(crate) fn create_call(project: &Project, spec: BranchSpec) -> Call<Self> {
        Self::create_unless_call(project, spec, Cancel::default())
    }

    fn create_unless_call(project: &Project, spec: BranchSpec, cancel: Cancel) -> Call<Self> {
        let project = project.0.clone();
        engine::call_unless(cancel, move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let branch = create::create(&home, &project.record, &spec, &op).await?;
            let discard = branch.ephemeral;
            Ok(Self::of(&project, branch, op.steps.timings(), discard))
        })
    }

    pub(crate) fn of(
        project: &Arc<project::Inner>,
        record: BranchRecord,
        timings: Timings,
        discard: bool,
    ) -> Self {
        Self(Arc::new(Inner::new(project, record, timings, discard)))
    }

    /// One that the keeper of this process's run discards when the last handle is gone.
    #[cfg(target_os = "linux")]
    pub(crate) fn held_by_keeper(
        project: &Arc<project::Inner>,
        record: BranchRecord,
        held: Arc<Held>,
    ) -> Self {
        let timings = record.timings.clone();
        let mut inner = Inner::new(project, record, timings, false);
        inner.held = Some(held);
        Self(Arc::new(inner))
    }

    /// The record as it was when it was last looked at.
    pub(crate) fn record(&self) -> BranchRecord {
        self.0.record.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> Id {
        self.record().id
    }

    /// Its name; an ephemeral branch has none.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.record().name.map(String::from)
    }

    /// What people call it: `project/name`, or for an ephemeral branch `project/~label.id`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.0.project.record.name, self.record().shown())
    }

    /// Whether it ends with its handles and this process.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.record().ephemeral
    }

    /// The project it belongs to.
    #[must_use]
    pub fn project(&self) -> Project {
        Project(self.0.project.clone())
    }

    /// The file that its server logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.0.project.config.home.join("run").join(self.id().to_string()).join("postgres.log")
    }

    pub(crate) fn project_record(&self) -> crate::record::ProjectRecord {
        self.0.project.record.clone()
    }

    /// What each step took of what this handle did last: creation, a reset, a start.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.0.timings.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What in the branch's databases can still reach out to other servers when a session asks it
    /// to: foreign servers, subscriptions, and extensions such as `dblink`. Its server is asked, and
    /// must run.
    ///
    /// # Errors
    /// [`ErrorKind::Postgres`] if the server does not answer.
    pub async fn outgoing(&self) -> Result<Vec<String>> {
        self.outgoing_call().await
    }

    pub(crate) fn outgoing_call(&self) -> Call<Vec<String>> {
        self.call(|branch, home, op| async move {
            let shown = format!("the branch {}", branch.full_name());
            // Shared: a reset or a deletion would take the server away in the middle.
            let _lock = home.lock(branch.id(), Mode::Shared, &shown, &op.cancel).await?;
            let record = branch.current(&home).await?;
            let project = &branch.0.project.record;
            let socket_dir = RunDir::of(&home, record.id).socket();
            outgoing::list(boot::target(&socket_dir, project, &record)).await
        })
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is gone.
    pub async fn info(&self) -> Result<BranchInfo> {
        self.info_call().await
    }

    pub(crate) fn info_call(&self) -> Call<BranchInfo> {
        self.call(|branch, home, _| async move {
            let record = branch.current(&home).await?;
            let infos = infos(&home, &branch.0.project.record, vec![record]).await?;
            infos.into_iter().next().ok_or_else(|| gone(&branch))
        })
    }

    /// How much space it takes, in bytes; on ZFS as of some time within the last five seconds.
    ///
    /// The file system is asked about every extent of every file, but for ZFS, which knows: on a
    /// branch of 100 GB that takes a second or more.
    ///
    /// # Errors
    /// If its files cannot be looked at.
    pub async fn usage(&self) -> Result<Usage> {
        self.usage_call().await
    }

    pub(crate) fn usage_call(&self) -> Call<Usage> {
        self.call(|branch, home, _| async move {
            let record = branch.current(&home).await?;
            let storage = home.storage(branch.0.project.record.storage)?;
            storage.usage(Object::Volume(record.volume)).await
        })
    }

    /// Takes a snapshot of its current state, while clients go on.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the branch has a snapshot of that name.
    pub async fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot> {
        self.snapshot_call(name.into()).await
    }

    pub(crate) fn snapshot_call(&self, name: String) -> Call<Snapshot> {
        self.call(|branch, home, op| async move {
            let record = branch.current(&home).await?;
            crate::snapshot::take(&home, &branch.0.project, &record, &name, false, &op).await
        })
    }

    /// Discards an ephemeral branch and waits until its server is gone. Its files are waited for a
    /// few milliseconds at most; where a file system takes longer, they are removed behind the
    /// caller, and [`Project::finish_deletions`] waits for them. A persistent branch is left as it is:
    /// see [`delete`](Branch::delete).
    ///
    /// # Errors
    /// What could not be undone; the next `open` tries again.
    pub async fn close(self) -> Result<()> {
        self.close_call().await
    }

    pub(crate) fn close_call(self) -> Call<()> {
        let discard =
            self.0.discard.swap(false, Ordering::AcqRel) && self.0.pid == std::process::id();
        self.call(move |branch, home, _| async move {
            #[cfg(target_os = "linux")]
            if let Some(held) =
                branch.0.held.as_ref().filter(|_| branch.0.pid == std::process::id())
            {
                return held.close().await;
            }
            if !discard {
                return Ok(());
            }
            let closed =
                delete::close_now(home, branch.0.project.record.clone(), branch.id()).await;
            // The last handle tries again.
            branch.0.discard.store(closed.is_err(), Ordering::Release);
            closed
        })
    }

    /// Deletes it. Without `force` only if no branch was made from it and it has no snapshot; with
    /// it, they are deleted too. `main` is never deleted alone, and what is
    /// [protected](Branch::protect) not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming what depends on it, or what is protected.
    pub async fn delete(&self, force: bool) -> Result<()> {
        self.delete_call(force).await
    }

    pub(crate) fn delete_call(&self, force: bool) -> Call<()> {
        self.call(move |branch, home, op| async move {
            delete::delete(&home, &branch.0.project.record, branch.id(), force, &op).await?;
            branch.0.discard.store(false, Ordering::Release);
            Ok(())
        })
    }

    // How the calls above reach the engine.

    pub(crate) fn call<T, F, W>(&self, work: W) -> Call<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
        W: FnOnce(Self, Arc<Home>, Op) -> F + Send + 'static,
    {
        let branch = self.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&branch.0.project.config).await?;
            work(branch, home, op).await
        })
    }

    /// An operation that holds the branch's lock alone.
    fn change<T, F, W>(&self, work: W) -> Call<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
        W: FnOnce(Self, Arc<Home>, Op, Arc<Lock>) -> F + Send + 'static,
    {
        self.call(move |branch, home, op| async move {
            let shown = format!("the branch {}", branch.full_name());
            let lock = home.lock(branch.id(), Mode::Exclusive, &shown, &op.cancel).await?;
            work(branch, home, op, Arc::new(lock)).await
        })
    }

    /// Discards it on the engine, as [`close`](Branch::close) does for a caller.
    pub(crate) async fn close_now(&self, home: &Arc<Home>) -> Result<()> {
        let project = self.0.project.record.clone();
        let closed = delete::close_now(home.clone(), project, self.id()).await;
        // The last handle tries again.
        self.0.discard.store(closed.is_err(), Ordering::Release);
        closed
    }

    /// The record as it is now.
    pub(crate) async fn current(&self, home: &Home) -> Result<BranchRecord> {
        let id = self.id();
        let found = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
        let record = found.filter(|b| b.phase != Phase::Deleting).ok_or_else(|| gone(self))?;
        self.remember(record.clone());
        Ok(record)
    }

    /// Calls it something else, as long as it is nobody's. That is recorded behind the caller's back,
    /// since only lists tell it.
    pub(crate) fn relabel(&self, label: String) {
        let mut record = self.record();
        record.label = Some(label.clone());
        let (id, config) = (record.id, self.0.project.config.clone());
        self.remember(record);
        engine::spawn(async move {
            let work = async {
                let home = Engine::get()?.home(&config).await?;
                let write = move |tx: &Tx<'_>| {
                    tx.update(id, |branch: &mut BranchRecord| {
                        branch.label = Some(label);
                        Ok(())
                    })
                };
                home.state().write("record a label", write).await
            };
            if let Err(error) = work.await {
                tracing::debug!(%error, "a branch is not called after who has it");
            }
        });
    }

    fn remember(&self, record: BranchRecord) {
        *self.0.record.lock().unwrap_or_else(|e| e.into_inner()) = record;
    }

    fn renewed(&self, record: BranchRecord, op: &Op) {
        self.became(record, op.steps.timings());
    }

    fn became(&self, record: BranchRecord, timings: Timings) {
        self.remember(record);
        *self.0.timings.lock().unwrap_or_else(|e| e.into_inner()) = timings;
    }
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let record = self.record();
        f.debug_struct("Branch")
            .field("name", &self.full_name())
            .field("id", &record.id)
            .field("port", &record.port)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.discard.swap(false, Ordering::AcqRel) || self.pid != std::process::id() {
            return;
        }
        let config: Config = self.project.config.clone();
        let project = self.project.record.clone();
        let id = self.record.lock().unwrap_or_else(|e| e.into_inner()).id;
        engine::spawn(async move {
            let work = async {
                let home = Engine::get()?.home(&config).await?;
                delete::discard_now(&home, &project, id).await
            };
            if let Err(error) = work.await {
                tracing::warn!(%error, branch = %id, "cannot discard a branch; it goes when this process has ended");
            }
        });
    }
}

fn gone(branch: &Branch) -> Error {
    Error::new(ErrorKind::NotFound, format!("the branch {} is gone", branch.full_name()))
        .with_hint(format!("velo branch list {}", branch.0.project.record.name))
}
