//! A clone of a branch or a snapshot, as it is when nobody else changes it.

use crate::boot;
use crate::cut::{Cut, From, Tools};
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::lock::Mode;
use crate::record::{BranchRecord, Phase, ProjectRecord, SnapshotRecord, VolumeRecord};
use crate::reserve;
use crate::room;
use crate::run_dir::RunDir;
use crate::runtime::InstanceRef;
use crate::source::{SourceRecord, settled};
use crate::storage::{Label, Location, Object, Storage};
use crate::teardown::{self, Patience};

/// What a clone becomes.
#[derive(Debug, Clone)]
pub(crate) struct NewClone {
    pub(crate) object: Object,
    pub(crate) label: Label,
    pub(crate) quota: Option<u64>,
}

impl NewClone {
    /// `object`, which is `role` to the branch.
    pub(crate) fn of(
        project: &ProjectRecord,
        branch: &BranchRecord,
        object: Object,
        role: &'static str,
    ) -> Self {
        let label = Label::new(project.name.as_str(), branch.shown(), role);
        // A snapshot takes what its branch may hold anyway.
        let quota = branch.quota.filter(|_| matches!(object, Object::Volume(_)));
        Self { object, label, quota }
    }
}

/// Clones `source` into `target`, whose record exists, as it is now.
pub(crate) async fn clone_source(
    home: &Home,
    project: &ProjectRecord,
    source: &SourceRecord,
    target: &NewClone,
    op: &Op,
) -> Result<Cut> {
    let storage = home.storage(project.storage)?;
    let runtime = home.runtime(project.runtime)?;
    let tools = Tools { storage: &*storage, runtime: &*runtime, libc: project.libc };
    match source {
        SourceRecord::Snapshot(snapshot) => {
            let cut = snapshot.cut.as_ref().ok_or_else(|| {
                Error::new(ErrorKind::Conflict, "the snapshot is not complete")
                    .with_context("snapshot", snapshot.id)
            })?;
            let _lock = home.lock(snapshot.id, Mode::Shared, "the snapshot", &op.cancel).await?;
            let object = source.object();
            opened(&*storage, object, "the snapshot").await?;
            room::enough_beside(home, &*storage, object).await?;
            reserve::keep(home.config.home())?;
            let cut = tools.clone(From::Snapshot(snapshot.id, cut), target, op).await?;
            // It may have begun to go before the lock was ours, and what was cloned then lacks files.
            let id = snapshot.id;
            let now = home.state().read(move |tx| tx.get::<SnapshotRecord>(id)).await?;
            now.filter(|snapshot| snapshot.phase == Phase::Ready).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the snapshot is gone")
                    .with_context("snapshot", id)
                    .with_hint("its branch was deleted meanwhile, and took it along")
            })?;
            Ok(cut)
        }
        SourceRecord::Branch(branch) => {
            let shown = format!("the branch {}/{}", project.name, branch.shown());
            let _lock = home.lock(branch.id, Mode::Shared, &shown, &op.cancel).await?;
            // A reset may have given it another volume before the lock was ours.
            let id = branch.id;
            let now = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
            let branch = now.filter(settled).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("{shown} is gone")).with_hint(format!(
                    "somebody deleted it meanwhile: velo branch list {}",
                    project.name
                ))
            })?;
            let object = Object::Volume(branch.volume);
            if object != source.object() {
                // What it is of is another volume than was recorded.
                repoint(home, target.object, object).await?;
                if storage.capability().clones_need_source {
                    teardown::release(home, project, source.object(), Patience::Usual).await?;
                }
            }
            clone_held(home, project, &branch, target, op).await
        }
    }
}

/// Clones a branch, which stays as it is because the caller holds its lock.
pub(crate) async fn clone_held(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    target: &NewClone,
    op: &Op,
) -> Result<Cut> {
    let storage = home.storage(project.storage)?;
    let runtime = home.runtime(project.runtime)?;
    let tools = Tools { storage: &*storage, runtime: &*runtime, libc: project.libc };
    let shown = format!("the branch {}/{}", project.name, branch.shown());
    let object = Object::Volume(branch.volume);
    let location = opened(&*storage, object, &shown).await?;
    room::enough_beside(home, &*storage, object).await?;
    // It may have been given up when the disk was full.
    reserve::keep(home.config.home())?;
    let socket_dir = RunDir::of(home, branch.id).socket();
    let server = boot::target(&socket_dir, project, branch);
    let instance = InstanceRef { id: branch.id, location };
    let from = From::Branch { instance, volume: branch.volume, target: server };
    let cut = tools.clone(from, target, op).await?;
    Ok(Cut { superuser: branch.superuser().map(str::to_owned), ..cut })
}

/// Opens what is to be worked on. Somebody may have removed it by hand.
pub(crate) async fn opened(storage: &dyn Storage, object: Object, shown: &str) -> Result<Location> {
    storage.open(object).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let what = format!("the data of {shown} is gone: {error}");
            Error::new(ErrorKind::NotFound, what)
                .with_hint(format!("bring it back, or delete {shown}"))
        }
        _ => error,
    })
}

/// Records that `target` is a clone of `now`, and not of what a reset has replaced.
async fn repoint(home: &Home, target: Object, now: Object) -> Result<()> {
    home.state()
        .write("record another source", move |tx| match target {
            Object::Volume(id) => tx
                .update(id, |volume: &mut VolumeRecord| {
                    volume.source = Some(now);
                    Ok(())
                })
                .map(drop),
            Object::Snapshot(id) => tx
                .update(id, |snapshot: &mut SnapshotRecord| {
                    snapshot.source = Some(now);
                    Ok(())
                })
                .map(drop),
        })
        .await
}
