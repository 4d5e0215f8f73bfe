//! A project's `main` brought anew from where its data came from.
//!
//! The new data is brought, transformed and masked beside the old, whose server and branches go on meanwhile. Then
//! it takes the place of the old under `main`'s name, URL and password, as a reset's does; branches stay on what
//! they came from. Meanwhile whoever would stop, start or reset `main` is told that it is being changed: the new
//! volume's lock is held. A failure changes nothing, also one of the new server's start: then `main` has its old data
//! again. A process that is killed leaves the phase `Resetting`, and whoever finds it lets `main` have its old data again:
//! until all is recorded nobody knows that the new data serves.
//!
//! A `main` that is to follow its source, or does, comes in the same way, as a standby ([`crate::follow`]).

use std::time::Duration;

use crate::branch::refuse_protected;
use crate::cancel::Cancel;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::{Wish, main_of};
use crate::home::{Home, LOCK_WAIT};
use crate::id::{Id, ProjectName};
use crate::import::{self, Method, Place, Recipe, Source};
use crate::lock::{Lock, Mode};
use crate::lookup::alive;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord, VolumeRecord};
use crate::reset::{self, Held, being_changed, still_resetting};
use crate::run_dir::{OLD_PASS_FILE, PASS_FILE, RunDir};
use crate::state::Tx;
use crate::switch::Switch;
use crate::wal;

/// Brings `main` anew, to follow from now on where somebody wishes that. The project's record as it is then.
pub(crate) async fn refresh(
    home: &Home,
    project: &ProjectRecord,
    tune: impl FnOnce(Recipe) -> Source,
    wish: Option<Wish>,
    op: &Op,
) -> Result<ProjectRecord> {
    let (project, main, (new, lock)) = {
        let owned = project.clone();
        let main = home.state().read(move |tx| main_of(tx, &owned)).await?;
        // Whoever stops, starts or resets it is done before.
        let _lock = lock_main(home, project, main.id, COPIES, &op.cancel).await?;
        // What one left that could not be undone. In a box: the callers' futures would be nested too deep.
        Box::pin(reset::finish_locked(home, project, main.id)).await?;
        RunDir::of(home, main.id).forget_old_pass_file()?;
        begin(home, project, wish.clone()).await?
    };
    // One that follows goes on with that.
    let again = main.follows.as_ref().map(|follow| Wish { slot: follow.slot.clone() });
    let new = New { volume: new, wish: wish.or(again) };
    let volume = new.volume;
    let done = renew(home, &project, &main, new, tune, op).await;
    match done {
        Ok(project) => Ok(project),
        Err(error) => {
            drop(lock);
            let error = home.explain(error);
            let undone = async {
                let never = Cancel::default();
                let _lock = lock_main(home, &project, main.id, LOCK_WAIT, &never).await?;
                reset::undo(home, &project, &main, volume).await
            };
            match undone.await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// What is to take the place of the old data.
struct New {
    volume: Id,
    /// Whether it follows.
    wish: Option<Wish>,
}

/// An error unless the project's data is such that it can follow.
fn can_follow(project: &ProjectRecord, main: &BranchRecord, wish: &Wish) -> Result<()> {
    wish.check()?;
    let name = &project.name;
    let Some(recipe) = &project.source else { return Ok(()) };
    if !matches!(recipe.place, Place::Server(_)) {
        let what =
            format!("project {name} came from {}, and only a server can be followed", recipe.place);
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .with_hint("velo project create NAME --from postgres://… makes one that can follow"));
    }
    if recipe.masking.is_some() || !recipe.transforms.is_empty() {
        let what = format!(
            "project {name} is masked or transformed, and a standby is what its source is, to the byte"
        );
        return Err(Error::new(ErrorKind::Unsupported, what)
            .with_hint(format!("velo project refresh {name}, as often as it is to be new")));
    }
    if main.follows.is_some() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("project {name} follows its source already"),
        )
        .with_hint(format!("velo project get {name} tells how far it is")));
    }
    Ok(())
}

/// An error where a `main` that follows is told to come from what cannot be followed.
fn can_go_on(name: &ProjectName, recipe: &Recipe) -> Result<()> {
    let is_changed = recipe.masking.is_some() || !recipe.transforms.is_empty() || recipe.reindex;
    let is_dumped = recipe.method == Some(Method::Dump);
    if matches!(recipe.place, Place::Server(_)) && !is_changed && !is_dumped {
        return Ok(());
    }
    let what = format!(
        "project {name} follows its source, and can come from no other than a server, as that is, to the byte"
    );
    Err(Error::new(ErrorKind::Conflict, what).with_hint(format!(
        "velo project follow {name} --stop ends that it follows: then it comes from anywhere"
    )))
}

/// Hints name options of what makes a project. What is about its source a refresh takes as well, and nobody the rest.
fn hinted(error: Error, name: &ProjectName) -> Error {
    const OF_A_SOURCE: [&str; 8] = [
        "--from",
        "--method",
        "--databases",
        "--schemas",
        "--roles",
        "--transform",
        "--mask",
        "--reindex",
    ];
    const OF_A_PROJECT: [&str; 4] = ["--role", "--image", "--runtime", "--pg-version"];
    let Some(hint) = error.hint().map(str::to_owned) else { return error };
    if hint.contains("velo project refresh") {
        return error;
    }
    let names = |options: &[&str]| {
        let mut words = hint.split(|c: char| c != '-' && !c.is_ascii_alphanumeric());
        words.any(|word| options.contains(&word))
    };
    let mut said = hint.clone();
    if names(&OF_A_SOURCE) {
        said += &format!("; velo project refresh {name} takes options of the source, with --from");
    }
    if names(&OF_A_PROJECT) {
        said += "; what a project was made with stays as it is: make another one for that";
    }
    error.with_hint(said)
}

/// Records the intent: the volume that is to come, and the phase.
async fn begin(
    home: &Home,
    project: &ProjectRecord,
    wish: Option<Wish>,
) -> Result<(ProjectRecord, BranchRecord, (Id, Lock))> {
    let lease = home.lease()?;
    let (id, owned, locks) = (project.id, project.clone(), home.clone());
    let work = move |tx: &Tx<'_>| {
        alive(tx, &owned)?;
        let project = tx.get::<ProjectRecord>(id)?.unwrap_or(owned);
        let main = main_of(tx, &project)?;
        if project.source.is_none() {
            let what = format!("project {} was not made from a source", project.name);
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .with_hint("velo project create NAME --from … makes one that is"));
        }
        if let Some(wish) = &wish {
            can_follow(&project, &main, wish)?;
        }
        refuse_protected(&project, [&main], "refreshed")?;
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
        // Held until it is main's or undone: meanwhile nobody takes it for what a dead process has left.
        Ok((project, main, (volume.id, locks.lock_new(volume.id)?)))
    };
    home.state().write("record a refresh", work).await
}

async fn renew(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    new: New,
    tune: impl FnOnce(Recipe) -> Source,
    op: &Op,
) -> Result<ProjectRecord> {
    let recipe = project.source.clone().ok_or_else(|| {
        Error::new(ErrorKind::Internal, "a project without a source is not refreshed")
    })?;
    let source = tune(recipe);
    if source.is_new && new.wish.is_some() {
        can_go_on(&project.name, &source.recipe)?;
    }
    let volume = new.volume;
    // In boxes: the callers' futures would be nested too deep for the compiler.
    let (cut, recipe, standby) = match &new.wish {
        None => {
            let bring = import::bring(home, project, main, volume, &source, false, op);
            let brought = Box::pin(bring).await.map_err(|error| hinted(error, &project.name))?;
            (brought.cut, brought.recipe, None)
        }
        Some(wish) => {
            let bring = import::bring_standby(home, project, main, volume, &source, wish, op);
            let came = Box::pin(bring).await.map_err(|error| hinted(error, &project.name))?;
            (came.cut, came.recipe, Some((came.follow, came.pass_file)))
        }
    };
    // Meanwhile the source removes WAL that a standby needs.
    let patience = if standby.is_some() { LOCK_WAIT } else { COPIES };
    let _lock = lock_main(home, project, main.id, patience, &op.cancel).await?;
    op.cancel.check()?;
    may_still_go(home, project, main).await?;
    Switch { home, project, op }.nothing_is_lost(main.id).await?;
    let follow = match standby {
        Some((follow, pass_file)) => {
            put_password(home, project, main, &pass_file)?;
            Some(follow)
        }
        None => None,
    };
    let held = Held { cut, follows: follow, reached: None, returns: true };
    let stopped_at = Box::pin(reset::swap(home, project, main, volume, held, op)).await?;
    // Nobody would look for it once this is recorded. Until then the branch's own lock keeps others off.
    home.remove_lock(volume)?;
    let project = commit(home, project, main, recipe).await?;
    if let Err(error) = RunDir::of(home, main.id).forget_old_pass_file() {
        tracing::warn!(%error, "an old password of the source stays until the next refresh");
    }
    take_base(home, &project, main.id, op).await;
    reset::forget(home, &project, main.volume, stopped_at).await;
    Ok(project)
}

/// Takes what recovery of the new data's WAL begins with, where that is kept.
async fn take_base(home: &Home, project: &ProjectRecord, main: Id, op: &Op) {
    let work = move |tx: &Tx<'_>| {
        let Some(main) = tx.get::<BranchRecord>(main)? else { return Ok(None) };
        let archive = tx.get::<ArchiveRecord>(main.volume)?;
        Ok(archive.is_some_and(|archive| archive.archiving && archive.wants_base).then_some(main))
    };
    match home.state().read(work).await {
        Ok(Some(main)) => wal::base::try_to_take(home, project, &main, main.volume, op).await,
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "whether WAL is kept cannot be read"),
    }
}

/// How long a copy of `main` is waited for.
const COPIES: Duration = Duration::from_secs(86_400);

/// Locks `main`. On a storage that copies, whoever makes a branch of it holds it as long as that takes; what has come for
/// hours is not thrown away for that.
async fn lock_main(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    patience: Duration,
    cancel: &Cancel,
) -> Result<Lock> {
    let shown = format!("the branch {}/main", project.name);
    home.lock_within(patience, id, Mode::Exclusive, &shown, cancel).await
}

/// An error if somebody has said meanwhile that the old data is to stay.
async fn may_still_go(home: &Home, project: &ProjectRecord, main: &BranchRecord) -> Result<()> {
    let (owned, id) = (project.clone(), main.id);
    let work = move |tx: &Tx<'_>| {
        alive(tx, &owned)?;
        let Some(now) = tx.get::<BranchRecord>(id)? else { return Ok(()) };
        refuse_protected(&owned, [&now], "refreshed")
    };
    home.state().read(work).await
}

/// An error while data comes to one of these branches: its program would go on, and write it anew.
pub(crate) fn refuse_coming(tx: &Tx<'_>, home: &Home, branches: &[BranchRecord]) -> Result<()> {
    for branch in branches.iter().filter(|branch| branch.phase == Phase::Resetting) {
        for volume in tx.of::<VolumeRecord>(branch.id)? {
            let lock = home.lock_path(&volume.id.to_string());
            if volume.id != branch.volume && !Lock::is_free(&lock, Mode::Exclusive)? {
                return Err(being_changed(&format!("the branch {}", branch.shown())));
            }
        }
    }
    Ok(())
}

/// What is in the file that a standby reads its password in.
fn passwords(home: &Home, main: &BranchRecord) -> String {
    std::fs::read_to_string(RunDir::of(home, main.id).pass_file()).unwrap_or_default()
}

/// Writes the file that a standby reads its password in, for nobody else to read.
fn put_password(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    pass_file: &str,
) -> Result<()> {
    let run_dir = RunDir::of(home, main.id);
    let user = home.server_user(&project.postgres);
    run_dir.make(user.as_ref())?;
    // One that follows has it again where this comes to nothing. Before the one in its place is written.
    run_dir.put(OLD_PASS_FILE, &passwords(home, main), user.as_ref())?;
    if pass_file.is_empty() {
        return run_dir.forget_pass_file();
    }
    run_dir.put(PASS_FILE, pass_file, user.as_ref()).map(drop)
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
            branch.before = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_of_a_refresh_can_be_followed() {
        let name = ProjectName::new("api").unwrap();
        let told = |hint: &str| {
            let error = Error::new(ErrorKind::Postgres, "x").with_hint(hint);
            hinted(error, &name).hint().unwrap().strip_prefix(hint).unwrap().to_owned()
        };
        let (refresh, another) = ("velo project refresh api takes", "make another one");
        for (hint, takes, stays) in [
            ("ALTER ROLE … REPLICATION in the source, or use --method dump", true, false),
            ("give them (--roles FILE), as pg_dumpall --roles-only writes them", true, false),
            ("dump it with pg_dump --no-tablespaces", false, false),
            ("give Velo's another name (--role), or name that one", false, true),
            ("use PostgreSQL 16 (--pg-version 16), or use --method dump", true, true),
            ("use --method dump: velo project refresh api --from …", false, false),
        ] {
            let more = told(hint);
            assert_eq!((more.contains(refresh), more.contains(another)), (takes, stays), "{hint}");
        }
    }
}
