//! How a branch goes: closed, discarded with its last handle, or deleted by the tree's rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::refuse_protected;
use crate::cancel::Cancel;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord};
use crate::state::Tx;
use crate::teardown::{self, Patience};

/// How long the caller of a close waits for its files.
const FILES: Duration = Duration::from_millis(4);

/// Ends a branch under its lock. Its record stays until its files are gone, so that whoever finds it
/// after a crash finishes it.
pub(super) async fn close_now(home: Arc<Home>, project: ProjectRecord, id: Id) -> Result<()> {
    // Whoever gave up waiting still wants it to be gone.
    let lock = home.lock(id, Mode::Exclusive, "the branch", &Cancel::default()).await?;
    if !teardown::is_discarded(&home, id).await? {
        return Ok(());
    }
    teardown::end(&home, &project, id).await?;
    let pending = home.deletion();
    let files = tokio::spawn(async move {
        let gone = teardown::branch(&home, &project, id, Patience::Usual).await;
        drop((lock, pending));
        gone
    });
    match tokio::time::timeout(FILES, files).await {
        Ok(gone) => gone.map_err(|e| {
            Error::new(ErrorKind::Internal, "the removal of files panicked").with_source(e)
        })?,
        Err(_) => Ok(()),
    }
}

/// Undoes a branch that nobody holds any more. A long copy of it may be in the way for a while.
pub(super) async fn discard_now(home: &Home, project: &ProjectRecord, id: Id) -> Result<()> {
    let cancel = Cancel::default();
    // Whoever waits for deletions waits for this one too.
    let _pending = home.deletion();
    let _lock = loop {
        match home.lock(id, Mode::Exclusive, "the branch", &cancel).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::warn!(%error, branch = %id, "a branch waits to be discarded");
            }
            other => break other?,
        }
    };
    if teardown::is_discarded(home, id).await? {
        teardown::branch(home, project, id, Patience::Usual).await?;
    }
    Ok(())
}

/// Deletes a branch by the tree's rules. What goes is decided and marked in one transaction, so
/// that no child can be added meanwhile.
pub(super) async fn delete(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    force: bool,
    op: &Op,
) -> Result<()> {
    home.make_way().await;
    let lease = home.lease()?;
    let owned = project.clone();
    let locks = home.clone();
    let (branches, mut locked, snapshots) = home
        .state()
        .write_durable("mark branches to go", move |tx| {
            let Some(branch) = tx.get::<BranchRecord>(id)? else {
                return Ok((Vec::new(), HashMap::new(), Vec::new()));
            };
            let (subtree, mut snapshots) = subtree(tx, &owned, branch, force)?;
            // Whoever takes one that is not ready holds its lock, and may wait for its branch's: it goes with that,
            // and he finds that it went.
            snapshots.retain(|snapshot| snapshot.phase != Phase::Creating);
            let snapshots: Vec<Id> = snapshots.iter().map(|snapshot| snapshot.id).collect();
            for snapshot in &snapshots {
                tx.update(*snapshot, |snapshot: &mut SnapshotRecord| {
                    snapshot.phase = Phase::Deleting;
                    snapshot.lease = Some(lease);
                    Ok(())
                })?;
            }
            // Held until they are gone: meanwhile they are nobody else's to delete.
            let mut locked = HashMap::new();
            for branch in &subtree {
                let path = locks.lock_path(&branch.to_string());
                if let Some(lock) = Lock::try_take(&path, Mode::Exclusive)? {
                    locked.insert(*branch, lock);
                }
                tx.update(*branch, |branch: &mut BranchRecord| {
                    branch.phase = Phase::Deleting;
                    branch.lease = Some(lease);
                    Ok(())
                })?;
            }
            // Who makes or resets a branch holds its lock, and may wait for its parent's, to find that it goes.
            // What somebody else finishes meanwhile is found to be gone.
            if locked.len() < subtree.len() {
                locked.clear();
            }
            Ok((subtree, locked, snapshots))
        })
        .await?;
    // Children first; and from here on it goes through, wanted or not.
    let through = Op::default();
    for id in branches.into_iter().rev() {
        let gone = match locked.remove(&id) {
            Some(_lock) => teardown::branch(home, project, id, Patience::Usual).await,
            None => teardown::locked(home, project, id, Patience::Usual).await,
        };
        gone.map_err(Error::with_the_rest_later)?;
    }
    for id in snapshots {
        let _lock = home.lock(id, Mode::Exclusive, "the snapshot", &through.cancel).await?;
        teardown::snapshot(home, project, id, Patience::Usual)
            .await
            .map_err(Error::with_the_rest_later)?;
    }
    op.cancel.check()
}

/// A branch and all that hangs from it, parents before children, and their snapshots; without `force` it
/// must be alone.
fn subtree(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    branch: BranchRecord,
    force: bool,
) -> Result<(Vec<Id>, Vec<SnapshotRecord>)> {
    if branch.parent.is_none() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{}/main cannot be deleted alone", project.name),
        )
        .with_hint(format!("delete the whole project: velo project delete {}", project.name)));
    }
    // Each level behind the one above it. Ids would tell the order, were clocks never set back.
    let (id, shown) = (branch.id, branch.shown());
    let (mut subtree, mut named) = (vec![branch], Vec::new());
    let mut done = 0;
    while let Some(parent) = subtree.get(done).map(|branch| branch.id) {
        subtree.extend(tx.of::<BranchRecord>(parent)?);
        let snapshots = tx.of::<SnapshotRecord>(parent)?.into_iter();
        named.extend(snapshots.filter(|snapshot| snapshot.role == Role::Named));
        done += 1;
    }
    refuse_protected(project, &subtree, "deleted")?;
    let children = subtree.iter().skip(1).filter(|b| !b.is_closed());
    let snapshots = named.iter().filter(|s| s.branch == id);
    let dependents: Vec<String> = children
        .map(|b| format!("{}/{}", project.name, b.shown()))
        .chain(snapshots.filter_map(|s| Some(format!("the snapshot @{}", s.name.as_ref()?))))
        .collect();
    if force || dependents.is_empty() {
        let branches = subtree.iter().map(|branch| branch.id).collect();
        return Ok((branches, named));
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("{}/{shown} has dependents: {}", project.name, dependents.join(", ")),
    )
    .with_hint("delete them first, or use force (--force) to delete the subtree"))
}
