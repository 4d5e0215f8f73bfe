//! What recovery begins with: a snapshot that Velo takes by itself where WAL begins to be kept.

use crate::clone::clone_held;
use crate::engine::Op;
use crate::error::Result;
use crate::home::Home;
use crate::id::Id;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::snapshot;
use crate::state::Tx;
use crate::storage::Object;
use crate::teardown::{self, Patience};

/// Takes what recovery of a server's WAL begins with. Without it the server is as good, and the next start tries again.
pub(crate) async fn try_to_take(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    volume: Id,
    op: &Op,
) {
    // In a box: the callers' futures would be nested too deep for the compiler.
    let take = Box::pin(take(home, project, branch, volume, op));
    if let Err(error) = op.steps.run("base", take).await {
        let shown = format!("{}/{}", project.name, branch.shown());
        tracing::warn!(%error, "no moment of {shown} can be reached yet: velo branch restart {shown} tries again");
    }
}

/// Takes a base of a branch that runs on `volume`, and whose lock the caller holds.
pub(crate) async fn take(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    volume: Id,
    op: &Op,
) -> Result<()> {
    let branch = BranchRecord { volume, ..branch.clone() };
    let base = SnapshotRecord {
        id: Id::generate(),
        project: project.id,
        branch: branch.id,
        name: None,
        role: Role::Base,
        phase: Phase::Creating,
        lease: Some(home.lease()?),
        source: Some(Object::Volume(volume)),
        password: branch.password.clone(),
        settings: branch.settings.clone(),
        limits: branch.limits,
        cut: None,
        seed: None,
        scheduled: false,
        created_at: now(),
    };
    let (new, locks) = (base.clone(), home.clone());
    let record = move |tx: &Tx<'_>| {
        tx.insert(&new)?;
        // Held until it is ready or undone: meanwhile it is nobody else's to undo.
        locks.lock_new(new.id)
    };
    let _lock = home.state().write("record a base", record).await?;
    let made = async {
        let target = snapshot::target(project, &branch, &base);
        let cut = clone_held(home, project, &branch, &target, op).await?;
        snapshot::commit(home, project, &base, cut, op).await
    };
    if let Err(error) = made.await {
        return Err(match teardown::snapshot(home, project, base.id, Patience::Usual).await {
            Ok(()) => error,
            Err(cleanup) => error.with_cleanup(cleanup),
        });
    }
    home.state()
        .write("note that an archive has a base", move |tx| {
            if tx.get::<ArchiveRecord>(volume)?.is_some() {
                tx.update(volume, |archive: &mut ArchiveRecord| {
                    archive.wants_base = false;
                    Ok(())
                })?;
            }
            Ok(())
        })
        .await
}
