//! Undoing or finishing what dead processes left.
//!
//! Whatever is recorded under a lease whose holder is dead is nobody's: a branch that was being
//! made, an ephemeral one, a deletion or a reset half done. Whoever takes the dead lease finishes
//! it from the record alone.

use std::time::{Duration, Instant};

use crate::disk;
use crate::error::{Error, Result};
use crate::home::{Home, NAMED};
use crate::id::Id;
use crate::lease::{self, Dead};
use crate::lock::{Lock, Mode};
use crate::record::{BranchRecord, Phase, PlaceRecord, ProjectRecord, SnapshotRecord};
use crate::state::Tx;
use crate::{reset, slots, teardown};

/// How long one `open` may spend on it; the next one goes on.
const LIMIT: Duration = Duration::from_secs(20);

/// What one round did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Records that were undone or finished.
    pub(crate) undone: usize,
}

/// At the opening of a home: one process does it, and the others do not wait for it.
pub(crate) async fn at_open(home: &Home) {
    run(home).await;
}

/// One bounded round. Its errors are logged: what could not be undone stays recorded under a dead
/// lease, and `velo doctor` names it.
pub(crate) async fn run(home: &Home) -> Outcome {
    match round(home).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::warn!(%error, "cannot clean up after dead processes now");
            Outcome::default()
        }
    }
}

async fn round(home: &Home) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    // Those that records name, and those of processes that ended without leaving a record.
    let mut leases = home.state().read(|tx| tx.leases()).await?;
    leases.extend(lease::all(&home.leases())?);
    leases.sort();
    leases.dedup();
    if leases.is_empty() {
        return Ok(outcome);
    }
    let own = home.lease()?;
    let Some(_one) = Lock::try_take(&home.lock_path("reconcile"), Mode::Exclusive)? else {
        return Ok(outcome);
    };
    let begun = Instant::now();
    for id in leases {
        if id == own {
            continue;
        }
        let Some(dead) = Dead::claim(&home.leases(), id)? else {
            continue;
        };
        let mut clean = true;
        let left = under(home, dead.id).await?;
        // A process that ended well leaves its lock file, and nothing under it.
        if !left.is_empty() {
            tracing::info!(lease = %id, "undoing what a dead process left");
        }
        for record in left {
            if begun.elapsed() > LIMIT {
                clean = false;
                break;
            }
            match record.finish(home).await {
                Ok(()) => outcome.undone += 1,
                Err(error) => {
                    tracing::warn!(%error, "cannot undo what a dead process left");
                    clean = false;
                }
            }
        }
        if clean {
            sweep_hidden(home).await;
            sweep_locks(home).await?;
            dead.bury()?;
        }
    }
    Ok(outcome)
}

/// Destroys what only dead processes' clones needed. What is in the way of one must keep no other from
/// going.
async fn sweep_hidden(home: &Home) {
    let projects = home.state().read(|tx| tx.list::<ProjectRecord>("")).await;
    let swept = async {
        for project in projects? {
            if let Err(error) = teardown::sweep(home, &project).await {
                tracing::warn!(%error, project = %project.name, "hidden data stays for now");
            }
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = swept.await {
        tracing::warn!(%error, "cannot look for hidden data");
    }
}

/// Removes the lock files that nobody will: a process may die between the removal of a record and
/// that of its lock, and before a project that it locks by name is made.
async fn sweep_locks(home: &Home) -> Result<()> {
    let folder = home.lock_path("");
    let sweep = move |tx: &Tx<'_>| {
        let fault = |e| Error::io(format!("sweep {}", folder.display()), e);
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let unknown = match name.parse::<Id>() {
                Ok(id) => {
                    tx.get::<BranchRecord>(id)?.is_none() && tx.get::<SnapshotRecord>(id)?.is_none()
                }
                Err(_) => name.starts_with(NAMED),
            };
            if !unknown {
                continue;
            }
            // Whoever holds it removes it; and the one held here may have lost its name since.
            match Lock::try_take(&path, Mode::Exclusive)? {
                Some(lock) if lock.is_linked() => disk::remove("remove an orphaned lock", &path)?,
                _ => {}
            }
        }
        Ok(())
    };
    // In a writing transaction: the lock of a new branch is made in that which records it.
    home.state().write("sweep locks", sweep).await
}

/// Something that lives under a dead lease.
enum Left {
    Project(ProjectRecord),
    Branch(ProjectRecord, Box<BranchRecord>),
    Snapshot(ProjectRecord, Id),
    Place(Id),
}

impl Left {
    async fn finish(self, home: &Home) -> Result<()> {
        match self {
            Self::Project(project) => teardown::project(home, &project).await,
            Self::Branch(project, branch) => {
                // Whoever opens a home does not wait for a long copy of what has to go.
                let _lock = home.lock_now(branch.id, &branch.shown()).await?;
                match branch.phase {
                    Phase::Resetting => reset::finish(home, &project, branch.id).await,
                    _ => teardown::branch(home, &project, branch.id).await,
                }
            }
            Self::Snapshot(project, id) => teardown::snapshot(home, &project, id).await,
            Self::Place(id) => slots::leave(home, id).await,
        }
    }
}

async fn under(home: &Home, lease: Id) -> Result<Vec<Left>> {
    home.state()
        .read(move |tx| {
            let mut left = Vec::new();
            for project in tx.leased::<ProjectRecord>()? {
                if project.lease == Some(lease) {
                    left.push(Left::Project(project));
                }
            }
            for branch in tx.leased::<BranchRecord>()? {
                if branch.lease == Some(lease)
                    && let Some(project) = tx.get(branch.project)?
                {
                    left.push(Left::Branch(project, Box::new(branch)));
                }
            }
            for snapshot in tx.leased::<SnapshotRecord>()? {
                // An origin goes with its branch.
                if snapshot.lease == Some(lease)
                    && let Some(project) = tx.get(snapshot.project)?
                {
                    left.push(Left::Snapshot(project, snapshot.id));
                }
            }
            let places = tx.leased::<PlaceRecord>()?.into_iter().filter(|p| p.lease == lease);
            left.extend(places.map(|place| Left::Place(place.id)));
            Ok(left)
        })
        .await
}
