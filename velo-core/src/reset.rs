//! A branch's data renewed under the same name, URL and password.
//!
//! The new data is made, recovered and checked on a private socket, and its server stopped, before
//! the old server goes. Then the old one stops, the record names the new volume, and the new one
//! starts on the port without recovery; if that fails, the record names the old one again, before
//! anything else is done, and that is started. A process that is killed in between leaves the phase
//! `Resetting`, and whoever finds it starts the volume that the record names and destroys the other.

use crate::boot::{self, Boot, Doors};
use crate::branch::refuse_protected;
use crate::clone::{NewClone, clone_source};
use crate::cut::Cut;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::{self, Follow};
use crate::home::Home;
use crate::id::Id;
use crate::lock::Mode;
use crate::record::{Before, BranchRecord, Origin, Phase, ProjectRecord, VolumeRecord, now};
use crate::run_dir::RunDir;
use crate::runtime::{Status, StopMode};
use crate::source::{self, SourceRecord};
use crate::spec::BranchSource;
use crate::state::Tx;
use crate::storage::Object;
use crate::switch::Switch;
use crate::teardown::{self, Patience};
use crate::wal::{self, Reached};

/// What [`Branch::reset_to`](crate::Branch::reset_to) resets to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ResetTarget {
    /// The parent's current state, or the snapshot it was made from.
    Source,
    /// The state it began with. Only persistent branches on a storage that clones keep it.
    Origin,
    /// A snapshot of the same project, `branch@name`; or the name alone of one of its own.
    Snapshot(String),
}

/// What a reset starts from.
pub(crate) async fn source(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    target: ResetTarget,
) -> Result<SourceRecord> {
    let shown = format!("{}/{}", project.name, branch.shown());
    let source = match target {
        ResetTarget::Snapshot(name) if name.contains('@') => BranchSource::Named(name),
        ResetTarget::Snapshot(name) => BranchSource::Named(format!("{}@{name}", branch.id)),
        ResetTarget::Origin => match branch.origin {
            Some(origin) => BranchSource::Snapshot(origin),
            None => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{shown} keeps no snapshot of the state it began with"),
                )
                .with_hint("only persistent branches on a storage that clones do"));
            }
        },
        ResetTarget::Source => match branch.made_from {
            Origin::Branch(id) => BranchSource::Branch(id),
            Origin::Snapshot(id) => BranchSource::Snapshot(id),
            // It is what recovery came to.
            Origin::Moment(_) => match branch.origin {
                Some(origin) => BranchSource::Snapshot(origin),
                None => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("{shown} keeps no snapshot of the moment it began with"),
                    )
                    .with_hint("delete it, and branch from that moment again"));
                }
            },
            Origin::Initdb => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{shown} has no parent to be reset to"),
                )
                .with_hint("reset it to a snapshot of its own"));
            }
        },
    };
    let project = project.clone();
    home.state().read(move |tx| source::resolve(tx, &project, &source)).await
}

/// Renews `branch` from `source`. Returns the new record.
pub(crate) async fn reset(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    source: &SourceRecord,
    op: &Op,
) -> Result<BranchRecord> {
    let shown = format!("the branch {}/{}", project.name, branch.shown());
    let _lock = home.lock(branch.id, Mode::Exclusive, &shown, &op.cancel).await?;
    op.cancel.check()?;
    finish_locked(home, project, branch.id).await?;
    // Where it fails the old server starts again, in another container.
    Switch { home, project, op }.nothing_is_lost(branch.id).await?;
    let (old, new) = begin(home, project, branch.id, &shown, source).await?;
    let done = renew(home, project, &old, new, source, op).await;
    match done {
        Ok(done) => Ok(done),
        Err(error) => {
            let error = home.explain(error);
            match undo(home, project, &old, new).await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// Another operation is at work on what `shown` names, or was when its process died.
pub(crate) fn being_changed(shown: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{shown} is being changed"))
        .with_hint("wait until that has ended, and try again")
}

/// Records the intent: the new volume, and the phase.
async fn begin(
    home: &Home,
    project: &ProjectRecord,
    id: Id,
    shown: &str,
    source: &SourceRecord,
) -> Result<(BranchRecord, Id)> {
    let lease = home.lease()?;
    let shown = shown.to_owned();
    let source = source.object();
    let owned = project.clone();
    home.state()
        .write("record a reset", move |tx| {
            let branch = tx.update(id, |branch: &mut BranchRecord| {
                if branch.phase != Phase::Ready {
                    return Err(being_changed(&shown));
                }
                branch.must_be_own(lease)?;
                refuse_protected(&owned, [&*branch], "reset")?;
                follow::refuse(&owned, branch, "reset")?;
                branch.phase = Phase::Resetting;
                branch.lease = Some(lease);
                Ok(())
            })?;
            let volume = VolumeRecord {
                id: Id::generate(),
                project: branch.project,
                branch: Some(id),
                source: Some(source),
            };
            tx.insert(&volume)?;
            Ok((branch, volume.id))
        })
        .await
}

async fn renew(
    home: &Home,
    project: &ProjectRecord,
    old: &BranchRecord,
    new: Id,
    source: &SourceRecord,
    op: &Op,
) -> Result<BranchRecord> {
    let runtime = home.runtime(project.runtime)?;
    let storage = home.storage(project.storage)?;
    let target = NewClone::of(project, old, Object::Volume(new), "data");
    let mut cut = clone_source(home, project, source, &target, op).await?;
    op.cancel.check()?;
    // A clone that starts without recovery and has the right password needs no rehearsal, where
    // durability is not asked for: the server that clients get checks the rest.
    if !(old.ephemeral && cut.is_clean() && source.password() == &old.password) {
        let fresh = BranchRecord { cut: Some(cut.clone()), ..old.clone() };
        let rehearsal = Boot {
            home,
            project,
            branch: &fresh,
            volume: new,
            doors: Doors::Private,
            fresh_clone: true,
            replay: None,
            loading: None,
        };
        let came_up = op.steps.run("rehearse", rehearsal.run(&*runtime, op)).await;
        let stopped = boot::stop(home, project, old.id, new, StopMode::Fast).await;
        RunDir::of(home, new).remove()?;
        came_up?;
        stopped?;
        // Velo's role is in it now.
        cut.superuser = None;
        if !old.ephemeral {
            op.steps.run("sync", storage.sync(Object::Volume(new))).await?;
        }
    }
    op.cancel.check()?;
    // The moment that it was recovered to is that of what it began with, and of nothing else.
    let is_own = matches!(source, SourceRecord::Snapshot(from) if Some(from.id) == old.origin);
    let reached = old.reached.clone().filter(|_| is_own);
    let stopped_at =
        swap(home, project, old, new, Held { cut, follows: None, reached, returns: false }, op)
            .await?;
    let branch = ready(home, old.id, &[old.volume], true).await?;
    forget(home, project, old.volume, stopped_at).await;
    Ok(branch)
}

/// What is known of new data.
pub(crate) struct Held {
    pub(crate) cut: Cut,
    pub(crate) follows: Option<Follow>,
    pub(crate) reached: Option<Reached>,
    /// Whether the branch has its old data again where its process dies before the caller records that all is done.
    pub(crate) returns: bool,
}

/// Puts a volume whose data is known to come up in the place of a branch's own: the old server stops, and where it
/// ran, or ought to, the new one starts; if that fails, the branch has its old data again, and whoever called it
/// [undoes](undo) the rest.
///
/// It goes through from here on: the old server is gone, and nobody is asked any more whether he still waits. When that
/// server had stopped, in milliseconds since 1970.
pub(crate) async fn swap(
    home: &Home,
    project: &ProjectRecord,
    old: &BranchRecord,
    new: Id,
    held: Held,
    op: &Op,
) -> Result<u64> {
    let runtime = home.runtime(project.runtime)?;
    let running = matches!(boot::status(home, project, old).await?, Status::Running { .. });
    let mode = if old.ephemeral { StopMode::Immediate } else { StopMode::Fast };
    op.steps.run("stop", boot::stop(home, project, old.id, old.volume, mode)).await?;
    let stopped_at = now();
    let Held { cut, follows, reached, returns } = held;
    // What clients write would be lost, should its process die before all is recorded.
    let doors = if returns && follows.is_none() { Doors::OpenWhenReady } else { Doors::Open };
    // Whether it starts with all that it loads, and follows, is seen once it runs here.
    let before = returns.then(|| Box::new(Before::of(old)));
    let to = BranchRecord {
        volume: new,
        cut: Some(cut),
        settled: true,
        follows,
        reached,
        before,
        ..old.clone()
    };
    let branch = point(home, to).await?;
    if running || old.wanted {
        let last = Op { cancel: Default::default(), steps: op.steps.clone() };
        let boot = Boot {
            home,
            project,
            branch: &branch,
            volume: new,
            doors,
            fresh_clone: true,
            replay: None,
            loading: None,
        };
        if let Err(error) = boot.run(&*runtime, &last).await {
            // The record first: whatever fails after that, or is killed, costs the new data and not the old.
            let back = turn_back(home, old, new).await;
            let stop = boot::stop(home, project, old.id, new, StopMode::Immediate).await;
            for (what, done) in [("its record", back), ("its server", stop)] {
                if let Err(error) = done {
                    tracing::warn!(%error, branch = %old.id, what, "a reset is undone once more");
                }
            }
            return Err(error);
        }
    }
    Ok(stopped_at)
}

/// Destroys a volume that is a branch's no more, and whose server has stopped by then. Where something is in the way, it
/// stays hidden, and whoever cleans up after dead processes tries again.
pub(crate) async fn forget(home: &Home, project: &ProjectRecord, volume: Id, stopped_at: u64) {
    let gone = async {
        // Moments before the reset can be reached still.
        wal::archive::seal(home, project, volume, stopped_at).await?;
        teardown::volume(home, project, volume, Patience::Usual).await
    };
    if let Err(error) = gone.await {
        tracing::warn!(%error, "the old data of a reset stays for now");
    }
}

/// The record names the volume of `to` from now on, and what is in it.
async fn point(home: &Home, to: BranchRecord) -> Result<BranchRecord> {
    home.state()
        .write_durable("point a branch to a volume", move |tx| {
            tx.update(to.id, |branch: &mut BranchRecord| {
                still_resetting(branch)?;
                name(branch, to);
                Ok(())
            })
        })
        .await
}

/// Lets a record name the volume of another, and what is in it.
fn name(branch: &mut BranchRecord, to: BranchRecord) {
    branch.volume = to.volume;
    branch.cut = to.cut;
    branch.settled = to.settled;
    branch.follows = to.follows;
    branch.reached = to.reached;
    branch.before = to.before;
}

/// The record names the old volume again, if it names the new one. Nothing happens once somebody has ended the reset:
/// the old volume is the branch's no more then, and may be gone.
async fn turn_back(home: &Home, old: &BranchRecord, new: Id) -> Result<()> {
    // What failed may have been for want of space.
    home.make_way().await;
    let (id, volume) = (old.id, old.volume);
    let can = move |tx: &Tx<'_>| {
        let is_own = tx.get::<VolumeRecord>(volume)?.is_some_and(|v| v.branch == Some(id));
        let branch = tx.get::<BranchRecord>(id)?;
        let is_swapped = |b: BranchRecord| b.phase == Phase::Resetting && b.volume == new;
        Ok(is_own && branch.is_some_and(is_swapped))
    };
    // Looked at first: mostly there is nothing to write.
    if !home.state().read(can).await? {
        return Ok(());
    }
    let old = old.clone();
    let work = move |tx: &Tx<'_>| match can(tx)? {
        true => tx
            .update(id, |branch: &mut BranchRecord| {
                name(branch, old);
                Ok(())
            })
            .map(drop),
        false => Ok(()),
    };
    home.state().write_durable("point a branch to a volume", work).await
}

/// Undoes a reset that failed, under the branch's lock: the branch has its old data, under a server if it ought to.
pub(crate) async fn undo(
    home: &Home,
    project: &ProjectRecord,
    old: &BranchRecord,
    new: Id,
) -> Result<()> {
    // Where that cannot be recorded the rest waits: it would take the new data for the branch's, and destroy the old.
    turn_back(home, old, new).await?;
    finish_locked(home, project, old.id).await
}

/// Somebody may have marked it to go; that must not be written over.
pub(crate) fn still_resetting(branch: &BranchRecord) -> Result<()> {
    if branch.phase == Phase::Resetting {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("the branch {} was deleted while it was reset", branch.shown()),
    )
    .with_hint("create it again"))
}

/// The commit point: the branch is whole, and `others` are its volumes no more. With `free` it is
/// nobody's any more; otherwise its server is still to be switched.
async fn ready(home: &Home, id: Id, others: &[Id], free: bool) -> Result<BranchRecord> {
    let others = others.to_vec();
    home.state()
        .write("end a reset", move |tx| {
            for other in others {
                if tx.get::<VolumeRecord>(other)?.is_some() {
                    tx.update(other, |volume: &mut VolumeRecord| {
                        volume.branch = None;
                        Ok(())
                    })?;
                }
            }
            tx.update(id, |branch: &mut BranchRecord| {
                still_resetting(branch)?;
                branch.phase = Phase::Ready;
                branch.before = None;
                if free && !branch.ephemeral {
                    branch.lease = None;
                }
                Ok(())
            })
        })
        .await
}

/// Ends a reset that was killed, under the branch's lock: the volume that the record names is the branch's, every
/// other one goes, and the server runs if it ought to.
pub(crate) async fn finish(home: &Home, project: &ProjectRecord, id: Id) -> Result<()> {
    let branch = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
    match branch {
        // Its holder is dead.
        Some(branch) if branch.ephemeral => {
            teardown::branch(home, project, id, Patience::None).await
        }
        Some(_) => finish_locked(home, project, id).await,
        None => Ok(()),
    }
}

/// The same for whoever holds the lock anyway: a reset that is recorded as going on is nobody's any more, also
/// where it was this process's own and could not be [undone](undo).
pub(crate) async fn finish_locked(home: &Home, project: &ProjectRecord, id: Id) -> Result<()> {
    let found = home
        .state()
        .read(move |tx| {
            let Some(mut branch) = tx.get::<BranchRecord>(id)? else {
                return Ok(None);
            };
            let before = branch.before.take();
            let is_back = before.is_some();
            if let Some(before) = before {
                before.back_in(&mut branch);
            }
            let volumes = tx.of::<VolumeRecord>(id)?.into_iter().map(|volume| volume.id);
            let others: Vec<Id> = volumes.filter(|volume| *volume != branch.volume).collect();
            Ok(Some((branch, others, is_back)))
        })
        .await?;
    let Some((branch, others, is_back)) =
        found.filter(|(branch, ..)| branch.phase == Phase::Resetting)
    else {
        // It is gone, or whoever deletes it waits for the lock.
        return Ok(());
    };
    // A refresh brings new data beside a branch that goes on, and holds the lock of that alone.
    let mut locks = Vec::new();
    for other in &others {
        match home.lock_now(*other, "new data").await {
            Ok(lock) => locks.push(lock),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                return Err(being_changed(&format!(
                    "the branch {}/{}",
                    project.name,
                    branch.shown()
                )));
            }
            Err(error) => return Err(error),
        }
        home.remove_lock(*other)?;
    }
    // What failed may have been for want of space.
    home.make_way().await;
    if is_back {
        // Nobody has seen the new data serve, or follow its source.
        point(home, branch.clone()).await?;
    }
    for other in &others {
        boot::stop(home, project, id, *other, StopMode::Immediate).await?;
        RunDir::of(home, *other).remove()?;
    }
    let run_dir = RunDir::of(home, id);
    match branch.follows {
        Some(_) => {
            let user = home.server_user(&project.postgres);
            run_dir.restore_pass_file(user.as_ref())?;
        }
        // Of one that was to follow.
        None => {
            run_dir.forget_pass_file()?;
            run_dir.forget_old_pass_file()?;
        }
    }
    // Before the start: one that fails leaves a branch that is whole, and can be started later.
    let branch = ready(home, id, &others, false).await?;
    for other in others {
        forget(home, project, other, now()).await;
    }
    let switch = Switch { home, project, op: &Op::default() };
    switch.as_recorded(&branch).await.map(drop)
}
