//! The one undo. Every function here may be called again after it failed or was killed half-way,
//! and by another process than the one that made the thing.

use crate::boot;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord};
use crate::run_dir::RunDir;
use crate::runtime::StopMode;
use crate::state::Tx;
use crate::storage::Object;
use crate::wal;

/// Collects the errors of steps that must all be tried: the first one leads.
#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, "cleaning up failed; the next open tries again");
            self.0 = Some(match self.0.take() {
                None => error,
                Some(first) => first.with_cleanup(error),
            });
        }
    }

    fn result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Marks a branch as one that goes, and stops whatever runs of it. Missing is fine.
pub(crate) async fn end(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
) -> Result<Option<(BranchRecord, Vec<VolumeRecord>)>> {
    // To mark it is a write too, and what it takes may be all of the disk.
    home.make_way().await;
    let lease = home.lease()?;
    let found = home
        .state()
        .write("mark a branch to go", move |tx| {
            if tx.get::<BranchRecord>(id)?.is_none() {
                return Ok(None);
            }
            let branch = tx.update(id, |branch: &mut BranchRecord| {
                branch.phase = Phase::Deleting;
                branch.lease = Some(lease);
                Ok(())
            })?;
            let volumes = tx.of::<VolumeRecord>(id)?;
            Ok(Some((branch, volumes)))
        })
        .await?;
    let mut errors = Errors::default();
    for volume in found.iter().flat_map(|(_, volumes)| volumes) {
        errors.note(boot::stop(home, project, id, volume.id, StopMode::Immediate).await);
    }
    errors.result()?;
    Ok(found)
}

/// How long whoever makes, changes or clones what has to go is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as any lock: somebody wants it to be gone.
    Usual,
    /// Not at all: whoever opens a home does not wait for a long copy of what has to go.
    None,
}

impl Patience {
    async fn lock(self, home: &Home, id: Id, shown: &str) -> Result<Lock> {
        match self {
            Self::Usual => home.lock(id, Mode::Exclusive, shown, &Cancel::default()).await,
            Self::None => home.lock_now(id, shown).await,
        }
    }
}

/// Undoes a branch under its lock, once nobody makes, changes or clones it any more. Missing is fine.
pub(crate) async fn locked(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    patience: Patience,
) -> Result<()> {
    let found = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
    let Some(found) = found else { return Ok(()) };
    let shown = format!("the branch {}/{}", project.name, found.shown());
    let _lock = patience.lock(home, id, &shown).await?;
    branch(home, project, id, patience).await
}

/// Whether a branch whose last handle is gone is still this process's to undo, and not kept meanwhile
/// through another handle. The caller holds its lock.
pub(crate) async fn is_discarded(home: &Home, id: Id) -> Result<bool> {
    let own = home.lease()?;
    let found = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
    Ok(found.is_some_and(|branch| branch.ephemeral && branch.lease == Some(own)))
}

/// Undoes a branch, whatever of it exists. Missing is fine. The caller holds its lock.
pub(crate) async fn branch(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    patience: Patience,
) -> Result<()> {
    // A server that still runs must keep its files, or nobody could name it any more.
    let Some((record, volumes)) = end(home, project, id).await? else {
        return Ok(());
    };
    let mut errors = Errors::default();
    for volume in &volumes {
        errors.note(self::volume(home, project, volume.id, patience).await);
        errors.note(RunDir::of(home, volume.id).remove());
    }
    // Its origin, and those that were taken of it, which nobody could name any more.
    let snapshots = home.state().read(move |tx| tx.of::<SnapshotRecord>(id)).await?;
    for taken in snapshots {
        let gone = locked_snapshot(home, project, taken.id, taken.phase, patience);
        errors.note(gone.await);
    }
    if !record.ephemeral {
        errors.note(wal::archive::remove_all(home, id).await);
    }
    errors.note(RunDir::of(home, id).remove());
    errors.result()?;
    let forget = move |tx: &Tx<'_>| tx.remove::<BranchRecord>(id);
    home.state().write("forget a branch", forget).await?;
    home.remove_lock(id)
}

/// Destroys a volume and its record; while clones or snapshots need it, it is only hidden.
pub(crate) async fn volume(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    patience: Patience,
) -> Result<()> {
    let storage = home.storage(project.storage)?;
    let needed = storage.capability().clones_need_source;
    let hidden = home
        .state()
        .write("hide a volume or let it go", move |tx| {
            let Some(record) = tx.get::<VolumeRecord>(id)? else {
                return Ok(false);
            };
            give_up_slot(tx, record.branch)?;
            let hide = needed && tx.has_clones(id)?;
            if hide {
                tx.update(id, |volume: &mut VolumeRecord| {
                    volume.branch = None;
                    Ok(())
                })?;
            }
            Ok(hide)
        })
        .await?;
    if hidden {
        return Ok(());
    }
    storage.destroy_volume(id).await?;
    let source = home
        .state()
        .write("forget a volume", move |tx| {
            let source = tx.get::<VolumeRecord>(id)?.and_then(|volume| volume.source);
            tx.remove::<VolumeRecord>(id)?;
            Ok(source)
        })
        .await?;
    match source {
        Some(source) if needed => Box::pin(release(home, project, source, patience)).await,
        _ => Ok(()),
    }
}

/// The server of a branch that goes is gone before its volumes are: from here on another one may live
/// in its place, however long its files take.
fn give_up_slot(tx: &Tx<'_>, branch: Option<Id>) -> Result<()> {
    let Some(id) = branch else { return Ok(()) };
    let goes = |branch: &BranchRecord| branch.phase == Phase::Deleting && branch.wanted;
    if tx.get::<BranchRecord>(id)?.is_some_and(|branch| goes(&branch)) {
        tx.update(id, |branch: &mut BranchRecord| {
            branch.wanted = false;
            Ok(())
        })?;
    }
    Ok(())
}

/// Undoes a snapshot under its lock, once nobody clones it or removes it any more. Whoever is still making it
/// has its lock, perhaps for the whole of a seed's build, and is not waited for: he finds that it went.
async fn locked_snapshot(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    phase: Phase,
    patience: Patience,
) -> Result<()> {
    const SHOWN: &str = "the snapshot";
    let _lock = match phase {
        Phase::Creating => None,
        _ => Some(patience.lock(home, id, SHOWN).await?),
    };
    snapshot(home, project, id, patience).await
}

/// Destroys a snapshot and its record; while clones need it, it is only hidden. Missing is fine.
pub(crate) async fn snapshot(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    patience: Patience,
) -> Result<()> {
    home.make_way().await;
    let storage = home.storage(project.storage)?;
    let needed = storage.capability().clones_need_source;
    let lease = home.lease()?;
    let goes = home
        .state()
        .write("hide a snapshot or let it go", move |tx| {
            if tx.get::<SnapshotRecord>(id)?.is_none() {
                return Ok(false);
            }
            let hide = needed && tx.has_clones(id)?;
            tx.update(id, |snapshot: &mut SnapshotRecord| {
                if hide {
                    snapshot.role = Role::Hidden;
                    snapshot.name = None;
                    snapshot.seed = None;
                    snapshot.phase = Phase::Ready;
                    snapshot.lease = None;
                } else {
                    snapshot.phase = Phase::Deleting;
                    snapshot.lease = Some(lease);
                }
                Ok(())
            })?;
            Ok(!hide)
        })
        .await?;
    if !goes {
        return Ok(());
    }
    storage.destroy_snapshot(id).await?;
    let source = home
        .state()
        .write("forget a snapshot", move |tx| {
            let source = tx.get::<SnapshotRecord>(id)?.and_then(|snapshot| snapshot.source);
            tx.remove::<SnapshotRecord>(id)?;
            Ok(source)
        })
        .await?;
    home.remove_lock(id)?;
    match source {
        Some(source) if needed => Box::pin(release(home, project, source, patience)).await,
        _ => Ok(()),
    }
}

/// Destroys what is hidden and not needed any more: the last dependent takes it along.
pub(crate) async fn release(
    home: &Home,
    project: &ProjectRecord,
    object: Object,
    patience: Patience,
) -> Result<()> {
    let hidden = home
        .state()
        .read(move |tx| match object {
            Object::Volume(id) => {
                Ok(tx.get::<VolumeRecord>(id)?.is_some_and(|v| v.branch.is_none()))
            }
            Object::Snapshot(id) => {
                Ok(tx.get::<SnapshotRecord>(id)?.is_some_and(|s| s.role == Role::Hidden))
            }
        })
        .await?;
    match object {
        _ if !hidden => Ok(()),
        // Where somebody works on its branch it stays until the next time.
        Object::Volume(id) => match wal::archive::seal_left(home, project, id).await {
            Ok(true) => volume(home, project, id, patience).await,
            Ok(false) => Ok(()),
            // What needed it is gone all the same.
            Err(error) => {
                tracing::warn!(%error, "old data stays until its WAL is kept");
                Ok(())
            }
        },
        Object::Snapshot(id) => locked_snapshot(home, project, id, Phase::Ready, patience).await,
    }
}

/// Destroys all that is hidden in a project and that nothing needs: who died between the removal of
/// the last dependent and that of what it needed left it so. What went.
pub(crate) async fn sweep(
    home: &Home,
    project: &ProjectRecord,
    patience: Patience,
) -> Result<Vec<Object>> {
    let scope = project.id.to_string();
    let look = move |tx: &Tx<'_>| hidden(tx, &scope);
    let mut before = home.state().read(look.clone()).await?;
    if before.is_empty() {
        return Ok(before);
    }
    let mut errors = Errors::default();
    for object in &before {
        errors.note(release(home, project, *object, patience).await);
    }
    errors.result()?;
    let after = home.state().read(look).await?;
    before.retain(|object| !after.contains(object));
    Ok(before)
}

/// What of a project is hidden and goes with the next sweep.
pub(crate) async fn needless(home: &Home, project: &ProjectRecord) -> Result<Vec<Object>> {
    let needed = home.storage(project.storage)?.capability().clones_need_source;
    let id = project.id;
    let look = move |tx: &Tx<'_>| {
        let mut found = Vec::new();
        for object in hidden(tx, &id.to_string())? {
            if !needed || !tx.has_clones(object.id())? {
                found.push(object);
            }
        }
        Ok(found)
    };
    home.state().read(look).await
}

/// What of a project is kept only because clones need it, the youngest first.
pub(crate) fn hidden(tx: &Tx<'_>, scope: &str) -> Result<Vec<Object>> {
    let volumes = tx.list::<VolumeRecord>(scope)?.into_iter().filter(|v| v.branch.is_none());
    let snapshots =
        tx.list::<SnapshotRecord>(scope)?.into_iter().filter(|s| s.role == Role::Hidden);
    let mut all: Vec<Object> = volumes.map(|v| Object::Volume(v.id)).collect();
    all.extend(snapshots.map(|s| Object::Snapshot(s.id)));
    all.sort_by_key(|object| std::cmp::Reverse(object.id()));
    Ok(all)
}

/// Undoes a project with all that it holds. Missing is fine. The caller holds its lock.
pub(crate) async fn project(home: &Home, record: &ProjectRecord, patience: Patience) -> Result<()> {
    home.make_way().await;
    let (id, lease) = (record.id, home.lease()?);
    let found = home
        .state()
        .write("mark what is in a project", move |tx| {
            if tx.get::<ProjectRecord>(id)?.is_none() {
                return Ok(None);
            }
            tx.update(id, |project: &mut ProjectRecord| {
                project.phase = Phase::Deleting;
                project.lease = Some(lease);
                Ok(())
            })?;
            let scope = id.to_string();
            Ok(Some((tx.list::<BranchRecord>(&scope)?, tx.list::<SnapshotRecord>(&scope)?)))
        })
        .await?;
    let Some((mut branches, snapshots)) = found else {
        return Ok(());
    };
    let mut errors = Errors::default();
    // Children are younger than their parents, unless the clock was set back; then what they need of
    // those is only hidden until they are gone.
    branches.sort_by_key(|b| std::cmp::Reverse(b.id));
    for branch in branches {
        errors.note(locked(home, record, branch.id, patience).await);
    }
    for snapshot in snapshots.iter().filter(|s| matches!(s.role, Role::Named | Role::Seed)) {
        let gone = locked_snapshot(home, record, snapshot.id, snapshot.phase, patience);
        errors.note(gone.await);
    }
    errors.note(sweep(home, record, patience).await.map(drop));
    errors.result()?;
    let forget = move |tx: &Tx<'_>| tx.remove::<ProjectRecord>(id);
    home.state().write_durable("forget a project", forget).await?;
    home.remove_lock(id)
}
