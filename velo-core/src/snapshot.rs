//! [`Snapshot`]: a named, immutable state that branches start from.

use std::sync::Arc;

use crate::clone::{NewClone, clone_source};
use crate::cut::Cut;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{Id, SnapshotName};
use crate::lock::Mode;
use crate::project::{self, Project};
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::source::{SourceRecord, find_snapshot};
use crate::state::Tx;
use crate::storage::{Object, Usage};
use crate::teardown::{self, Patience};
use crate::wal;

/// A snapshot: a named, immutable state of a branch.
///
/// A handle is cheap to clone, and dropping it changes nothing.
///
/// ```no_run
/// # async fn example(project: velo_core::Project) -> velo_core::Result<()> {
/// use velo_core::{Branch, BranchSpec};
/// let before = project.main().await?.snapshot("before").await?;
/// let branch = Branch::create(&project, BranchSpec::ephemeral().from(&before)).await?;
/// # let _ = branch;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    project: Arc<project::Inner>,
    info: SnapshotInfo,
}

/// What is known of a snapshot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its identity.
    pub id: Id,
    /// The project's name.
    pub project: String,
    /// The branch it was taken of.
    pub branch: String,
    /// Its name, unique among the branch's.
    pub name: String,
    /// Whether a schedule took it, so that a [`Retention`](crate::Retention) may remove it.
    pub scheduled: bool,
    /// The moment that it holds.
    pub cut: Option<Cut>,
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
}

impl Snapshot {
    pub(crate) fn of(
        project: &Arc<project::Inner>,
        record: SnapshotRecord,
        branch: Option<&BranchRecord>,
    ) -> Self {
        let info = info(&project.record, &record, branch);
        Self(Arc::new(Inner { project: project.clone(), info }))
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.info.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.info.name
    }

    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        &self.0.info
    }

    /// The project it belongs to.
    #[must_use]
    pub fn project(&self) -> Project {
        Project(self.0.project.clone())
    }

    /// How much space it takes, in bytes.
    ///
    /// # Errors
    /// If its files cannot be looked at.
    pub async fn usage(&self) -> Result<Usage> {
        self.usage_call().await
    }

    pub(crate) fn usage_call(&self) -> Call<Usage> {
        let inner = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&inner.project.config).await?;
            let storage = home.storage(inner.project.record.storage)?;
            storage.usage(Object::Snapshot(inner.info.id)).await
        })
    }

    /// Deletes it. Branches that were made from it must be deleted first. Where moments are reached from it
    /// whose WAL is kept, its data stays until they are too old, and [`Project::prune_wal`] removes it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming the branches.
    pub async fn delete(&self) -> Result<()> {
        self.delete_call().await
    }

    pub(crate) fn delete_call(&self) -> Call<()> {
        let inner = self.0.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&inner.project.config).await?;
            let project = &inner.project.record;
            let shown = format!("{}/{}@{}", project.name, inner.info.branch, inner.info.name);
            delete(&home, project, inner.info.id, &shown, &op).await
        })
    }
}

/// Deletes a snapshot, which is called `shown`, unless branches were made from it.
pub(crate) async fn delete(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    shown: &str,
    op: &Op,
) -> Result<()> {
    home.make_way().await;
    let (is_base, _branch) = wal::has_to_stay(home, project, id, op).await?;
    let _lock = home.lock(id, Mode::Exclusive, shown, &op.cancel).await?;
    let (owned, lease, name) = (project.clone(), home.lease()?, shown.to_owned());
    let claim = move |tx: &Tx<'_>| claim(tx, &owned, id, lease, &name, is_base);
    if home.state().write_durable("mark a snapshot to go", claim).await? {
        let gone = teardown::snapshot(home, project, id, Patience::Usual).await;
        return gone.map_err(Error::with_the_rest_later);
    }
    tracing::warn!(
        "{shown} is deleted; its data stays as long as moments are reached from it whose WAL is kept, and goes \
         with velo wal prune"
    );
    Ok(())
}

/// Marks a snapshot as one that goes, unless branches were made from it. In one transaction, so that
/// none can be made from it meanwhile. Whether it goes: what recovery begins with loses its name only.
fn claim(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    id: Id,
    lease: Id,
    shown: &str,
    is_base: bool,
) -> Result<bool> {
    let branches = tx.list::<BranchRecord>(&project.id.to_string())?;
    let dependents: Vec<String> = branches
        .iter()
        .filter(|b| b.made_from == Origin::Snapshot(id) && !b.is_closed())
        .map(|b| format!("{}/{}", project.name, b.shown()))
        .collect();
    if !dependents.is_empty() {
        let dependents = dependents.join(", ");
        let what = format!("branches were made from {shown}: {dependents}");
        return Err(Error::new(ErrorKind::Conflict, what).with_hint("delete them first"));
    }
    let Some(found) = tx.get::<SnapshotRecord>(id)? else { return Ok(true) };
    let stays = is_base && found.phase == Phase::Ready;
    tx.update(id, |snapshot: &mut SnapshotRecord| {
        if stays {
            snapshot.role = Role::Base;
            snapshot.name = None;
            snapshot.scheduled = false;
        } else {
            snapshot.phase = Phase::Deleting;
            snapshot.lease = Some(lease);
        }
        Ok(())
    })?;
    Ok(!stays)
}

/// Takes a snapshot of a branch: the intent, the clone, the commit.
pub(crate) async fn take(
    home: &Home,
    project: &Arc<project::Inner>,
    branch: &BranchRecord,
    name: &str,
    scheduled: bool,
    op: &Op,
) -> Result<Snapshot> {
    let name = SnapshotName::new(name)?;
    let (lease, locks) = (home.lease()?, home.clone());
    let (id, shown) = (branch.id, format!("{}/{}", project.record.name, branch.shown()));
    let (snapshot, _lock) = home
        .state()
        .write("record a snapshot", move |tx| {
            let found = tx.get::<BranchRecord>(id)?.filter(|b| b.phase != Phase::Deleting);
            let branch = found.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("the branch {shown} is gone"))
                    .with_hint("somebody deleted it meanwhile: velo branch list")
            })?;
            if find_snapshot(tx, &branch, name.as_str())?.is_some() {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("a snapshot {shown}@{name} exists already"),
                )
                .with_hint(format!(
                    "take another name, or delete it: velo snapshot delete {shown}@{name}"
                )));
            }
            let snapshot = SnapshotRecord {
                id: Id::generate(),
                project: branch.project,
                branch: id,
                name: Some(name),
                role: Role::Named,
                phase: Phase::Creating,
                lease: Some(lease),
                source: Some(Object::Volume(branch.volume)),
                password: branch.password,
                settings: branch.settings,
                limits: branch.limits,
                cut: None,
                seed: None,
                scheduled,
                created_at: now(),
            };
            tx.insert(&snapshot)?;
            // Held until it is ready or undone: meanwhile it is nobody else's to undo.
            let lock = locks.lock_new(snapshot.id)?;
            Ok((snapshot, lock))
        })
        .await?;
    // Of the volume that was recorded, which may be another than the caller knows.
    let volume = match snapshot.source {
        Some(Object::Volume(volume)) => volume,
        _ => branch.volume,
    };
    let branch = &BranchRecord { volume, ..branch.clone() };
    let done = fill(home, &project.record, branch, &snapshot, op).await;
    match done {
        Ok(record) => Ok(Snapshot::of(project, record, Some(branch))),
        Err(error) => {
            let error = home.explain(error);
            match teardown::snapshot(home, &project.record, snapshot.id, Patience::Usual).await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// Takes the data of a snapshot or a seed, whose record exists, and commits it.
pub(crate) async fn fill(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    snapshot: &SnapshotRecord,
    op: &Op,
) -> Result<SnapshotRecord> {
    let source = SourceRecord::Branch(branch.clone());
    let target = target(project, branch, snapshot);
    let cut = clone_source(home, project, &source, &target, op).await?;
    commit(home, project, snapshot, cut, op).await
}

/// What a snapshot's data becomes.
pub(crate) fn target(
    project: &ProjectRecord,
    branch: &BranchRecord,
    snapshot: &SnapshotRecord,
) -> NewClone {
    let role = if snapshot.role == Role::Seed { "seed" } else { "snapshot" };
    NewClone::of(project, branch, Object::Snapshot(snapshot.id), role)
}

/// Makes what was taken durable, and whole.
pub(crate) async fn commit(
    home: &Home,
    project: &ProjectRecord,
    snapshot: &SnapshotRecord,
    cut: Cut,
    op: &Op,
) -> Result<SnapshotRecord> {
    let object = Object::Snapshot(snapshot.id);
    let gone = match snapshot.role {
        Role::Seed => "the seed was deleted while it was built",
        _ => "the snapshot was deleted while it was taken",
    };
    op.steps.run("sync", home.storage(project.storage)?.sync(object)).await?;
    op.cancel.check()?;
    let id = snapshot.id;
    home.state()
        .write_durable("commit a snapshot", move |tx| {
            tx.update(id, |snapshot: &mut SnapshotRecord| {
                if snapshot.phase != Phase::Creating {
                    return Err(Error::new(ErrorKind::NotFound, gone));
                }
                snapshot.phase = Phase::Ready;
                snapshot.lease = None;
                snapshot.cut = Some(cut);
                Ok(())
            })
        })
        .await
}

/// Every named snapshot of a project.
pub(crate) async fn infos(home: &Home, project: &ProjectRecord) -> Result<Vec<SnapshotInfo>> {
    let owned = project.clone();
    home.state()
        .read(move |tx| {
            let mut snapshots = tx.list::<SnapshotRecord>(&owned.id.to_string())?;
            snapshots.retain(|s| s.role == Role::Named && s.phase == Phase::Ready);
            let told = |s: &SnapshotRecord| {
                Ok(info(&owned, s, tx.get::<BranchRecord>(s.branch)?.as_ref()))
            };
            snapshots.iter().map(told).collect()
        })
        .await
}

fn info(
    project: &ProjectRecord,
    record: &SnapshotRecord,
    branch: Option<&BranchRecord>,
) -> SnapshotInfo {
    SnapshotInfo {
        id: record.id,
        project: project.name.to_string(),
        branch: branch.map_or_else(|| record.branch.to_string(), BranchRecord::shown),
        name: record.name.as_ref().map_or_else(|| record.id.to_string(), ToString::to_string),
        scheduled: record.scheduled,
        cut: record.cut.clone(),
        created_at: record.created_at,
    }
}
