//! The story of a branch, from top to bottom.
//!
//! 1. Everything is checked, and every id is made.
//! 2. One transaction records the branch as `Creating`, under this process's lease. No side effect
//!    comes before it, but for a place in the line where there is a limit to servers
//!    ([`crate::slots`]).
//! 3. The parent is brought to a state that can be cloned, and
//! 4. its volume is cloned ([`crate::clone`]). Of a moment that is over it is a snapshot from before it,
//!    whose clone is then recovered to that moment ([`crate::wal`]).
//! 5. The clone is prepared: what belonged to the parent's server goes.
//! 6. A server is started on it, and answers ([`crate::boot`]).
//! 7. One transaction says `Ready`: the commit point.
//!
//! A failure anywhere, or a caller who no longer waits, runs the one teardown. A killed process
//! leaves `Creating` under a dead lease, which the next `open` of any process undoes.

use crate::boot::{self, Boot, Doors};
use crate::clone::{NewClone, clone_source};
use crate::cut::Cut;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{BranchName, Id};
use crate::lock::{Lock, Mode};
use crate::lookup::{alive, vacant};
use crate::port;
use crate::postgres::scram::Password;
use crate::record::{
    BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord, now,
};
use crate::runtime::{Limits, Runtime, StopMode};
use crate::slots::{self, Turn};
use crate::source::{SourceRecord, resolve};
use crate::spec::{BranchSource, BranchSpec};
use crate::state::Tx;
use crate::storage::{CloneSpec, Label, Object};
use crate::teardown::{self, Patience};
use crate::timings::Timings;
use crate::wal::{self, Plan, Target, Watch};

/// How often another port is tried when somebody takes one between the look and the start.
const PORT_TRIES: usize = 5;

/// Creates a branch.
pub(crate) async fn create(
    home: &Home,
    project: &ProjectRecord,
    spec: &BranchSpec,
    op: &Op,
) -> Result<BranchRecord> {
    let name = spec.check()?;
    can_limit(&*home.runtime(project.runtime)?, spec.limits)?;
    let moment = match &spec.at {
        Some(target) => Some(op.steps.run("plan", plan(home, project, spec, target, op)).await?),
        None => None,
    };
    let at = moment.as_ref();
    let planned = op.steps.run("record", record(home, project, spec, name.as_ref(), at, op)).await;
    let (mut branch, source, _lock) = match planned {
        // What holds the name may be the ruin of a dead process.
        Err(error)
            if error.kind() == ErrorKind::AlreadyExists && crate::reconcile::run(home).await =>
        {
            record(home, project, spec, name.as_ref(), at, op).await?
        }
        other => other?,
    };
    let made = fill(home, project, &mut branch, &source, moment, spec.start, op).await;
    let settled = spec.start || spec.at.is_some();
    let done = match made {
        Ok(cut) => commit(home, branch.clone(), cut, settled, op).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(branch) => Ok(branch),
        Err(error) => {
            // Before what was made is gone: it may be what fills the disk.
            let error = home.explain(error);
            match teardown::branch(home, project, branch.id, Patience::Usual).await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// A moment of a branch, and how to come to it.
struct Moment {
    plan: Plan,
    parent: BranchRecord,
    watch: Option<Watch>,
}

/// Finds the moment that is wanted before anything is made.
async fn plan(
    home: &Home,
    project: &ProjectRecord,
    spec: &BranchSpec,
    target: &Target,
    op: &Op,
) -> Result<Moment> {
    let (owned, from) = (project.clone(), spec.from.clone());
    let parent = match home.state().read(move |tx| resolve(tx, &owned, &from)).await? {
        SourceRecord::Branch(branch) => branch,
        SourceRecord::Snapshot(_) => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a snapshot is one moment, and has no other",
            )
            .with_hint("start from the branch it was taken of, or leave the moment out"));
        }
    };
    let shown = format!("the branch {}/{}", project.name, parent.shown());
    let _lock = home.lock(parent.id, Mode::Shared, &shown, &op.cancel).await?;
    // A reset may have given it another volume before the lock was ours.
    let (owned, id) = (project.clone(), BranchSource::Branch(parent.id));
    let SourceRecord::Branch(parent) =
        home.state().read(move |tx| resolve(tx, &owned, &id)).await?
    else {
        return Err(Error::new(ErrorKind::Internal, "a branch became something else"));
    };
    let plan = wal::plan(home, project, &parent, target, op).await?;
    Ok(Moment { plan, parent, watch: spec.watch.clone() })
}

/// Keeps a moment's WAL as it is. While a slot was waited for nobody kept it: those ahead may have needed
/// the lock.
async fn hold(home: &Home, project: &ProjectRecord, moment: &Moment, op: &Op) -> Result<Lock> {
    let Moment { plan, parent, .. } = moment;
    let what = format!("the branch {}/{}", project.name, parent.shown());
    let lock = home.lock(parent.id, Mode::Shared, &what, &op.cancel).await?;
    match plan.is_there(home).await? {
        true => Ok(lock),
        false => Err(removed_meanwhile(project, parent)),
    }
}

fn removed_meanwhile(project: &ProjectRecord, parent: &BranchRecord) -> Error {
    let shown = format!("{}/{}", project.name, parent.shown());
    let what = format!("the WAL of {shown} that leads to this moment was removed meanwhile");
    Error::new(ErrorKind::NotFound, what)
        .with_hint(format!("velo wal info {shown} shows what can be reached"))
}

/// Steps 1 and 2: looks everything up and records the intent, in one transaction; where the home has as
/// many servers as it may, once there is a slot ([`crate::slots`]).
async fn record(
    home: &Home,
    project: &ProjectRecord,
    spec: &BranchSpec,
    name: Option<&BranchName>,
    at: Option<&Moment>,
    op: &Op,
) -> Result<(BranchRecord, SourceRecord, Lock)> {
    op.cancel.check()?;
    let lease = home.lease()?;
    let own_password = Password::generate()?;
    let (project, spec, name) = (project.clone(), spec.clone(), name.cloned());
    let locks = home.clone();
    let capability = home.storage(project.storage)?.capability();
    if spec.quota.is_some() && !capability.quota {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the storage {} cannot hold a branch to a quota", capability.name),
        )
        .with_hint("leave the quota out, or make the project on storage zfs"));
    }
    let origin = capability.copy_on_write && name.is_some();
    let at = at.map(|at| (at.plan.base.id, at.parent.clone(), at.plan.reached.clone()));
    slots::taken(home, op, None, |asker| {
        let (project, spec, name) = (project.clone(), spec.clone(), name.clone());
        let at = at.clone();
        let (locks, own_password) = (locks.clone(), own_password.clone());
        let candidates = home.port_candidates();
        let work = move |tx: &Tx<'_>| {
            alive(tx, &project)?;
            if let Some(name) = &name {
                vacant(tx, &project, name)?;
            }
            let source = match &at {
                Some((base, parent, _)) => {
                    // Who deletes the parent looks for what was made from it.
                    resolve(tx, &project, &BranchSource::Branch(parent.id))?;
                    resolve(tx, &project, &BranchSource::Snapshot(*base))
                        .map_err(|error| removed_meanwhile(&project, parent).with_source(error))?
                }
                None => resolve(tx, &project, &spec.from)?,
            };
            let ephemeral = name.is_none();
            // What its parent needs to come up (as many replication slots as its data has
            // origins, say) it needs as well.
            let (parent, made_from, reached) = match at {
                Some((_, parent, reached)) => {
                    (SourceRecord::Branch(parent.clone()), Origin::Moment(parent.id), Some(reached))
                }
                None => (source.clone(), source.origin(), None),
            };
            let settings = parent.settings().clone().into_iter().chain(spec.settings).collect();
            let limits = spec.limits.or(parent.limits());
            let memory = slots::memory(&project, limits, &settings, ephemeral);
            if spec.start && !asker.ask(tx, memory)? {
                return Ok(Turn::Later(memory));
            }
            let id = Id::generate();
            let volume = VolumeRecord {
                id: Id::generate(),
                project: project.id,
                branch: Some(id),
                source: Some(source.object()),
            };
            let origin = origin.then(Id::generate);
            let branch = BranchRecord {
                id,
                project: project.id,
                name,
                label: spec.label,
                phase: Phase::Creating,
                ephemeral,
                lease: Some(lease),
                parent: Some(parent.tree_parent()),
                made_from,
                origin,
                volume: volume.id,
                port: port::find(tx, candidates)?,
                // An ephemeral branch shares its source's password, so that its start changes
                // nothing. A lasting one has its own.
                password: if ephemeral { source.password().clone() } else { own_password },
                wanted: spec.start,
                resumes: false,
                expires: spec.ttl.map(crate::branch::from_now),
                protected: false,
                settings,
                limits,
                quota: spec.quota,
                cut: None,
                settled: false,
                follows: None,
                reached,
                before: None,
                created_at: now(),
                timings: Timings::default(),
            };
            tx.insert(&volume)?;
            tx.insert(&branch)?;
            let recovered = branch.reached.is_some();
            if let Some(origin) = origin {
                tx.insert(&SnapshotRecord {
                    id: origin,
                    project: project.id,
                    branch: id,
                    name: None,
                    role: Role::Origin,
                    phase: Phase::Creating,
                    lease: Some(lease),
                    source: Some(Object::Volume(volume.id)),
                    password: match recovered {
                        true => branch.password.clone(),
                        false => source.password().clone(),
                    },
                    settings: branch.settings.clone(),
                    limits: branch.limits,
                    cut: None,
                    seed: None,
                    scheduled: false,
                    created_at: now(),
                })?;
            }
            // Held until it is ready or undone: whoever deletes its parent with all below waits.
            let lock = locks.lock_new(id)?;
            Ok(Turn::Now((branch, source, lock)))
        };
        home.state().write("record a branch", work)
    })
    .await
}

/// Steps 3 to 6.
async fn fill(
    home: &Home,
    project: &ProjectRecord,
    branch: &mut BranchRecord,
    source: &SourceRecord,
    moment: Option<Moment>,
    start: bool,
    op: &Op,
) -> Result<Cut> {
    op.cancel.check()?;
    let storage = home.storage(project.storage)?;
    let volume = Object::Volume(branch.volume);
    let target = NewClone::of(project, branch, volume, "data");
    // What recovery leaves has the branch's own password.
    let recovered = moment.is_some();
    let cut = match moment {
        Some(moment) => {
            let lock = hold(home, project, &moment, op).await?;
            clone_source(home, project, source, &target, op).await?;
            op.cancel.check()?;
            let Moment { plan, watch, .. } = moment;
            wal::replay(home, project, branch, &plan, lock, watch.as_ref(), op).await?
        }
        None => clone_source(home, project, source, &target, op).await?,
    };
    if let Some(origin) = branch.origin {
        let label = Label { role: "origin", ..target.label };
        let spec = CloneSpec::new(volume, origin).label(label);
        op.steps.run("origin", storage.snapshot(spec, &op.cancel)).await?;
    }
    op.cancel.check()?;
    // Nobody has synced a clone, and a lasting branch must survive a crash of the machine.
    let sync = async {
        match branch.ephemeral {
            true => Ok(()),
            false => op.steps.run("sync", storage.sync(volume)).await,
        }
    };
    if !start {
        sync.await?;
        return Ok(cut);
    }
    let known = recovered || source.password() == &branch.password;
    branch.cut = Some(cut.clone());
    let (port, synced) = tokio::join!(start_fresh(home, project, branch, known, op), sync);
    synced?;
    branch.port = port?;
    Ok(cut)
}

/// An error if there are limits that the runtime cannot keep a server to.
pub(crate) fn can_limit(runtime: &dyn Runtime, limits: Limits) -> Result<()> {
    let capability = runtime.capability();
    if limits.is_empty() || capability.limits {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("the runtime {} limits neither memory nor processors", capability.name),
    )
    .with_hint("leave the limits out, or make the project with --runtime docker"))
}

/// Step 6. The port that it has then. `known` is whether the data has the branch's password.
async fn start_fresh(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    known: bool,
    op: &Op,
) -> Result<u16> {
    let doors = if known { Doors::Open } else { Doors::OpenWhenReady };
    Ok(first_start(home, project, branch, doors, true, op).await?.port)
}

/// Starts the server of a branch that is being made; on another port where somebody took the one that was
/// free when it was recorded. The branch as it is then.
pub(crate) async fn first_start(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    doors: Doors,
    fresh_clone: bool,
    op: &Op,
) -> Result<BranchRecord> {
    let runtime = home.runtime(project.runtime)?;
    let mut branch = branch.clone();
    for attempt in 1.. {
        let volume = branch.volume;
        let boot = Boot {
            home,
            project,
            branch: &branch,
            volume,
            doors,
            fresh_clone,
            replay: None,
            loading: None,
        };
        match boot.run(&*runtime, op).await {
            Ok(()) => return Ok(branch),
            Err(error)
                if attempt < PORT_TRIES
                    && error.kind() == ErrorKind::Conflict
                    && !port::is_free(branch.port) =>
            {
                boot::stop(home, project, branch.id, branch.volume, StopMode::Immediate).await?;
                let (id, candidates) = (branch.id, home.port_candidates());
                let moved = home
                    .state()
                    .write("record another port", move |tx| {
                        let port = port::find(tx, candidates)?;
                        tx.update(id, |branch: &mut BranchRecord| {
                            branch.port = port;
                            Ok(())
                        })
                    })
                    .await?;
                // What it was cut from is recorded at the end.
                branch = BranchRecord { cut: branch.cut, ..moved };
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Internal, "unreachable: the loop above returns"))
}

/// Step 7.
async fn commit(
    home: &Home,
    made: BranchRecord,
    cut: Cut,
    started: bool,
    op: &Op,
) -> Result<BranchRecord> {
    op.cancel.check()?;
    let ephemeral = made.ephemeral;
    let timings = op.steps.timings();
    let work = move |tx: &Tx<'_>| {
        if let Some(origin) = made.origin {
            tx.update(origin, |snapshot: &mut SnapshotRecord| {
                snapshot.phase = Phase::Ready;
                snapshot.lease = None;
                snapshot.cut = Some(cut.clone());
                Ok(())
            })?;
        }
        tx.update(made.id, |branch: &mut BranchRecord| {
            if branch.phase != Phase::Creating {
                let what = format!("the branch {} was deleted while it was made", branch.shown());
                return Err(Error::new(ErrorKind::NotFound, what).with_hint("create it anew"));
            }
            branch.phase = Phase::Ready;
            if !branch.ephemeral {
                branch.lease = None;
            }
            branch.cut = Some(cut.clone());
            branch.settle(started);
            branch.timings = timings;
            Ok(())
        })
    };
    let state = home.state();
    match ephemeral {
        true => state.write("commit a branch", work).await,
        false => state.write_durable("commit a branch", work).await,
    }
}
