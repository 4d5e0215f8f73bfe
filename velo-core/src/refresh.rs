//! A project's `main` brought anew from where its data came from.
//!
//! The new data is brought, transformed and masked beside the old, whose server and branches go on meanwhile. Then
//! it takes the place of the old under `main`'s name, URL and password, as a reset's does; branches stay on what
//! they came from. A failure before that changes nothing. A process that is killed leaves the phase `Resetting`, and whoever
//! finds it keeps the volume that the record names and destroys the other.

use crate::branch::refuse_protected;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::import::{self, Recipe, Source};
use crate::lock::Mode;
use crate::lookup::alive;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, VolumeRecord};
use crate::reset::{self, being_changed, still_resetting};
use crate::state::Tx;
use crate::switch::Switch;

/// Brings `main` anew. The project's record as it is then.
pub(crate) async fn refresh(
    home: &Home,
    project: &ProjectRecord,
    tune: impl FnOnce(Recipe) -> Source,
    op: &Op,
) -> Result<ProjectRecord> {
    let (project, main, new) = begin(home, project).await?;
    let done = renew(home, &project, &main, new, tune, op).await;
    match done {
        Ok(project) => Ok(project),
        Err(error) => {
            let error = home.explain(error);
            let undone = async {
                let shown = format!("the branch {}/main", project.name);
                let never = Default::default();
                let _lock = home.lock(main.id, Mode::Exclusive, &shown, &never).await?;
                reset::finish_locked(home, &project, main.id).await
            };
            match undone.await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// Records the intent: the volume that is to come, and the phase.
async fn begin(home: &Home, project: &ProjectRecord) -> Result<(ProjectRecord, BranchRecord, Id)> {
    let lease = home.lease()?;
    let (id, owned) = (project.id, project.clone());
    let work = move |tx: &Tx<'_>| {
        alive(tx, &owned)?;
        let project = tx.get::<ProjectRecord>(id)?.unwrap_or(owned);
        let branches = tx.list::<BranchRecord>(&id.to_string())?;
        let main = branches.iter().find(|branch| branch.made_from == Origin::Initdb);
        let main = main.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("project {} has no main", project.name))
        })?;
        if project.source.is_none() {
            let what = format!("project {} was not made from a source", project.name);
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .with_hint("velo project create NAME --from … makes one that is"));
        }
        refuse_protected(&project, [main], "refreshed")?;
        let shown = format!("the branch {}/{}", project.name, main.shown());
        let main = tx.update(main.id, |branch: &mut BranchRecord| {
            if branch.phase != Phase::Ready {
                return Err(being_changed(&shown));
            }
            branch.phase = Phase::Resetting;
            branch.lease = Some(lease);
            Ok(())
        })?;
        let volume =
            VolumeRecord { id: Id::generate(), project: id, branch: Some(main.id), source: None };
        tx.insert(&volume)?;
        Ok((project, main, volume.id))
    };
    home.state().write("record a refresh", work).await
}

async fn renew(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    new: Id,
    tune: impl FnOnce(Recipe) -> Source,
    op: &Op,
) -> Result<ProjectRecord> {
    let recipe = project.source.clone().ok_or_else(|| {
        Error::new(ErrorKind::Internal, "a project without a source is not refreshed")
    })?;
    let source = tune(recipe);
    // In a box: the callers' futures would be nested too deep for the compiler.
    let bring = import::bring(home, project, main, new, &source, false, op);
    let brought = Box::pin(bring).await?;
    let shown = format!("the branch {}/{}", project.name, main.shown());
    let _lock = home.lock(main.id, Mode::Exclusive, &shown, &op.cancel).await?;
    op.cancel.check()?;
    Switch { home, project, op }.nothing_is_lost(main.id).await?;
    let stopped_at = reset::swap(home, project, main, new, brought.cut, op).await?;
    let project = commit(home, project, main, brought.recipe).await?;
    reset::forget(home, &project, main.volume, stopped_at).await;
    Ok(project)
}

/// The commit point: `main` is whole, and the old volume is its no more.
async fn commit(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    recipe: Recipe,
) -> Result<ProjectRecord> {
    let (id, main, old) = (project.id, main.id, main.volume);
    let work = move |tx: &Tx<'_>| {
        if tx.get::<VolumeRecord>(old)?.is_some() {
            tx.update(old, |volume: &mut VolumeRecord| {
                volume.branch = None;
                Ok(())
            })?;
        }
        tx.update(main, |branch: &mut BranchRecord| {
            still_resetting(branch)?;
            branch.phase = Phase::Ready;
            branch.lease = None;
            Ok(())
        })?;
        tx.update(id, |project: &mut ProjectRecord| {
            project.source = Some(recipe);
            Ok(())
        })
    };
    home.state().write_durable("end a refresh", work).await
}
