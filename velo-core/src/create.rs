//! The story of a branch, from top to bottom.
//!
//! 1. Everything is checked, and every id is made.
//! 2. One transaction records the branch as `Creating`, under this process's lease. No side effect
//!    comes before it, but for a place in the line where there is a limit to servers
//!    ([`crate::slots`]).
//! 3. The parent is brought to a state that can be cloned, and
//! 4. its volume is cloned ([`crate::cut`]).
//! 5. The clone is prepared: what belonged to the parent's server goes.
//! 6. A server is started on it, and answers ([`crate::boot`]).
//! 7. One transaction says `Ready`: the commit point.
//!
//! A failure anywhere, or a caller who no longer waits, runs the one teardown. A killed process
//! leaves `Creating` under a dead lease, which the next `open` of any process undoes.

use std::collections::BTreeMap;

use crate::boot::{self, Boot, Doors, RunDir, port_is_free, try_port};
use crate::config::ROOM;
use crate::cut::{Cut, From, Tools};
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{BranchName, Id};
use crate::lock::{Lock, Mode};
use crate::lookup::Named;
use crate::postgres::scram::Password;
use crate::record::{
    BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord, now,
};
use crate::runtime::{InstanceRef, Limits, Runtime, StopMode};
use crate::slots::{self, Turn};
use crate::spec::{BranchSource, BranchSpec};
use crate::state::Tx;
use crate::storage::{CloneSpec, Label, Object, Storage};
use crate::teardown;
use crate::timings::Timings;

/// How often another port is tried when somebody takes one between the look and the start.
const PORT_TRIES: usize = 5;

/// What a branch is made from, as the records say.
#[derive(Debug, Clone)]
pub(crate) enum SourceRecord {
    Branch(BranchRecord),
    Snapshot(SnapshotRecord),
}

impl SourceRecord {
    fn origin(&self) -> Origin {
        match self {
            Self::Branch(branch) => Origin::Branch(branch.id),
            Self::Snapshot(snapshot) => Origin::Snapshot(snapshot.id),
        }
    }

    /// The branch that the new one hangs from in the tree.
    pub(crate) fn tree_parent(&self) -> Id {
        match self {
            Self::Branch(branch) => branch.id,
            Self::Snapshot(snapshot) => snapshot.branch,
        }
    }

    pub(crate) fn object(&self) -> Object {
        match self {
            Self::Branch(branch) => Object::Volume(branch.volume),
            Self::Snapshot(snapshot) => Object::Snapshot(snapshot.id),
        }
    }

    /// Settings that were given for the server of its branch.
    pub(crate) fn settings(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Branch(branch) => &branch.settings,
            Self::Snapshot(snapshot) => &snapshot.settings,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Branch(branch) => branch.limits,
            Self::Snapshot(snapshot) => snapshot.limits,
        }
    }

    /// The password that Velo's role has in it.
    pub(crate) fn password(&self) -> &Password {
        match self {
            Self::Branch(branch) => &branch.password,
            Self::Snapshot(snapshot) => &snapshot.password,
        }
    }
}

/// Creates a branch.
pub(crate) async fn create(
    home: &Home,
    project: &ProjectRecord,
    spec: &BranchSpec,
    op: &Op,
) -> Result<BranchRecord> {
    let name = spec.check()?;
    can_limit(&*home.runtime(project.runtime)?, spec.limits)?;
    let planned = op.steps.run("record", record(home, project, spec, name.as_ref(), op)).await;
    let (mut branch, source, _lock) = match planned {
        // What holds the name may be the ruin of a dead process.
        Err(error)
            if error.kind() == ErrorKind::AlreadyExists && crate::reconcile::run(home).await =>
        {
            record(home, project, spec, name.as_ref(), op).await?
        }
        other => other?,
    };
    let made = fill(home, project, &mut branch, &source, spec.start, op).await;
    let done = match made {
        Ok(cut) => commit(home, branch.clone(), cut, spec.start, op).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(branch) => Ok(branch),
        Err(error) => {
            // Before what was made is gone: it may be what fills the disk.
            let error = home.explain(error);
            match teardown::branch(home, project, branch.id).await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            }
        }
    }
}

/// Steps 1 and 2: looks everything up and records the intent, in one transaction; where the home has as
/// many servers as it may, once there is a slot ([`crate::slots`]).
async fn record(
    home: &Home,
    project: &ProjectRecord,
    spec: &BranchSpec,
    name: Option<&BranchName>,
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
    slots::taken(home, op, |asker| {
        let (project, spec, name) = (project.clone(), spec.clone(), name.clone());
        let (locks, own_password) = (locks.clone(), own_password.clone());
        let candidates = home.port_candidates();
        let work = move |tx: &Tx<'_>| {
            alive(tx, &project)?;
            if let Some(name) = &name {
                vacant(tx, &project, name)?;
            }
            let source = resolve(tx, &project, &spec.from)?;
            let ephemeral = name.is_none();
            // What its parent needs to come up (as many replication slots as its data has
            // origins, say) it needs as well.
            let settings = source.settings().clone().into_iter().chain(spec.settings).collect();
            let limits = spec.limits.or(source.limits());
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
                parent: Some(source.tree_parent()),
                made_from: source.origin(),
                origin,
                volume: volume.id,
                port: free_port(tx, candidates)?,
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
                created_at: now(),
                timings: Timings::default(),
            };
            tx.insert(&volume)?;
            tx.insert(&branch)?;
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
                    password: source.password().clone(),
                    settings: branch.settings.clone(),
                    limits: branch.limits,
                    cut: None,
                    seed: None,
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
    start: bool,
    op: &Op,
) -> Result<Cut> {
    op.cancel.check()?;
    let storage = home.storage(project.storage)?;
    let volume = Object::Volume(branch.volume);
    let target = NewClone::of(project, branch, volume, "data");
    let cut = clone_source(home, project, source, &target, op).await?;
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
    let (port, synced) = tokio::join!(start_fresh(home, project, branch, source, op), sync);
    synced?;
    branch.port = port?;
    Ok(cut)
}

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

/// Steps 3 to 5: clones `source` into `target`, whose record exists, as it is now.
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
            room(home, &*storage, object).await?;
            let cut = tools.clone(From::Snapshot(snapshot.id, cut), target, op).await?;
            // Whoever undoes a branch takes its snapshots along without their locks, having recorded it
            // first: what was cloned meanwhile may lack files.
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
            if object != source.object() && storage.capability().clones_need_source {
                // What it needs is another volume than was recorded.
                repoint(home, project, target.object, source.object(), object).await?;
            }
            let location = opened(&*storage, object, &shown).await?;
            room(home, &*storage, object).await?;
            let socket_dir = RunDir::of(home, branch.id).socket();
            let server = boot::target(&socket_dir, project, &branch);
            let instance = InstanceRef { id: branch.id, location };
            let from = From::Branch { instance, volume: branch.volume, target: server };
            tools.clone(from, target, op).await
        }
    }
}

/// Opens what is to be worked on. Somebody may have removed it by hand.
pub(crate) async fn opened(
    storage: &dyn Storage,
    object: Object,
    shown: &str,
) -> Result<crate::storage::Location> {
    storage.open(object).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let what = format!("the data of {shown} is gone: {error}");
            Error::new(ErrorKind::NotFound, what)
                .with_hint(format!("bring it back, or delete {shown}"))
        }
        _ => error,
    })
}

/// Whether a clone of `source` leaves what must stay free: a server that meets a full disk panics, so
/// it is looked at before.
async fn room(home: &Home, storage: &dyn Storage, source: Object) -> Result<()> {
    let keep = home.config.keep_free;
    match storage.available(source).await {
        Ok(free) if free >= keep => return Ok(()),
        Err(error) if error.kind() != ErrorKind::Exhausted => return Err(error),
        _ => {}
    }
    // What was closed a moment ago may still be on its way out.
    home.finish_deletions().await;
    enough(storage.available(source).await?, keep, home.config.home())
}

/// Whether there is room in the folder, `keep` bytes at least.
pub(crate) fn check_room(folder: &std::path::Path, keep: u64) -> Result<()> {
    match rustix::fs::statvfs(folder) {
        Ok(fs) => enough(fs.f_bavail * fs.f_frsize, keep, folder),
        Err(e) => Err(Error::io(format!("look at the free space of {}", folder.display()), e)),
    }
}

fn enough(free: u64, keep: u64, folder: &std::path::Path) -> Result<()> {
    if free >= keep {
        return Ok(());
    }
    let hint = match keep {
        ROOM => "free some space and try again",
        _ => "free some space, or lower VELO_KEEP_FREE",
    };
    Err(Error::new(
        ErrorKind::Exhausted,
        format!(
            "No space left in {}: {} MB are free beside a clone's data, and {} MB must be",
            folder.display(),
            free >> 20,
            keep >> 20
        ),
    )
    .with_hint(hint))
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

/// Records that `target` is a clone of `now`, and not of `before`, which a reset has replaced.
async fn repoint(
    home: &Home,
    project: &ProjectRecord,
    target: Object,
    before: Object,
    now: Object,
) -> Result<()> {
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
        .await?;
    teardown::release(home, project, before).await
}

/// Step 6. The port that it has then.
async fn start_fresh(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    source: &SourceRecord,
    op: &Op,
) -> Result<u16> {
    let known = source.password() == &branch.password;
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
        let boot = Boot { home, project, branch: &branch, volume, doors, fresh_clone };
        match boot.run(&*runtime, op).await {
            Ok(()) => return Ok(branch),
            Err(error)
                if attempt < PORT_TRIES
                    && error.kind() == ErrorKind::Conflict
                    && !port_is_free(branch.port) =>
            {
                boot::stop(home, project, branch.id, branch.volume, StopMode::Immediate).await?;
                let (id, candidates) = (branch.id, home.port_candidates());
                branch = home
                    .state()
                    .write("record another port", move |tx| {
                        let port = free_port(tx, candidates)?;
                        tx.update(id, |branch: &mut BranchRecord| {
                            branch.port = port;
                            Ok(())
                        })
                    })
                    .await?;
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
            branch.settled = started;
            branch.timings = timings;
            Ok(())
        })
    };
    let (state, step) = (home.state(), "commit a branch");
    if ephemeral { state.write(step, work).await } else { state.write_durable(step, work).await }
}

/// Whether a branch's volume is whole. While it is reset, the volume that its record names is.
fn settled(branch: &BranchRecord) -> bool {
    matches!(branch.phase, Phase::Ready | Phase::Resetting)
}

/// The project is there and not on its way out.
pub(crate) fn alive(tx: &Tx<'_>, project: &ProjectRecord) -> Result<()> {
    match tx.get::<ProjectRecord>(project.id)? {
        Some(record) if record.phase == Phase::Ready => Ok(()),
        _ => Err(Error::new(ErrorKind::NotFound, format!("project {} is gone", project.name))
            .with_hint(format!(
                "somebody deleted it meanwhile; create it anew: velo project create {}",
                project.name
            ))),
    }
}

/// No branch has the name.
pub(crate) fn vacant(tx: &Tx<'_>, project: &ProjectRecord, name: &BranchName) -> Result<()> {
    match tx.named::<BranchRecord>(&project.id.to_string(), name.as_str())? {
        None => Ok(()),
        Some(taken) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("a branch {}/{name} exists already", project.name),
        )
        .with_hint(match taken.parent {
            None => "take another name: this is the project's first branch".to_owned(),
            // It cannot be deleted by its name, and may be nobody's that this home knows.
            Some(_) if !settled(&taken) => {
                "take another name, or wait until it is made or gone; velo doctor says if it is left \
                 by a process that is not there"
                    .to_owned()
            }
            Some(_) => format!(
                "take another name, or delete it: velo branch delete {}/{name}",
                project.name
            ),
        })),
    }
}

/// The records of what a branch is to start from.
pub(crate) fn resolve(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    source: &BranchSource,
) -> Result<SourceRecord> {
    let missing = |what: String| {
        Error::new(ErrorKind::NotFound, what)
            .with_hint(format!("velo branch list {0}; velo snapshot list {0}", project.name))
    };
    let branch = |id: Id| {
        tx.get::<BranchRecord>(id)?
            .filter(|b| b.project == project.id && settled(b))
            .ok_or_else(|| missing("the branch to start from is gone".into()))
    };
    match source {
        BranchSource::Branch(id) => Ok(SourceRecord::Branch(branch(*id)?)),
        BranchSource::Snapshot(id) => tx
            .get::<SnapshotRecord>(*id)?
            .filter(|s| s.project == project.id && s.phase == Phase::Ready)
            .filter(|s| s.role != Role::Hidden)
            .map(SourceRecord::Snapshot)
            .ok_or_else(|| missing("the snapshot to start from is gone".into())),
        BranchSource::Named(text) => {
            let named: Named = text.parse()?;
            let parent = named.branch.find(tx, project)?.ok_or_else(|| {
                missing(format!("there is no branch {}/{}", project.name, named.branch))
            })?;
            if !settled(&parent) {
                return Err(missing(format!(
                    "the branch {}/{} is just being made or deleted",
                    project.name, named.branch
                )));
            }
            let Some(snapshot) = named.snapshot else {
                return Ok(SourceRecord::Branch(parent));
            };
            find_snapshot(tx, &parent, snapshot.as_str())?
                .filter(|s| s.phase == Phase::Ready)
                .map(SourceRecord::Snapshot)
                .ok_or_else(|| {
                    missing(format!(
                        "there is no snapshot {}/{}@{snapshot}",
                        project.name, named.branch
                    ))
                })
        }
    }
}

/// The named snapshot of a branch.
pub(crate) fn find_snapshot(
    tx: &Tx<'_>,
    branch: &BranchRecord,
    name: &str,
) -> Result<Option<SnapshotRecord>> {
    let mut all = tx.of::<SnapshotRecord>(branch.id)?.into_iter();
    Ok(all.find(|s| s.name.as_ref().is_some_and(|n| n.as_str() == name)))
}

/// A port that no record names and that nobody listens on.
pub(crate) fn free_port(tx: &Tx<'_>, candidates: impl Iterator<Item = u16>) -> Result<u16> {
    let taken = tx.ports()?;
    for port in candidates.filter(|port| !taken.contains(port)) {
        if try_port(port)? {
            return Ok(port);
        }
    }
    Err(Error::new(ErrorKind::Exhausted, "every port of the range is taken")
        .with_hint("delete branches, or set VELO_PORTS to a larger range"))
}
