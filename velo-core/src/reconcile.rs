//! Undoing or finishing what dead processes left.
//!
//! Whatever is recorded under a lease whose holder is dead is nobody's: a branch that was being
//! made, an ephemeral one, a deletion or a reset half done. Whoever takes the dead lease finishes
//! it from the record alone. What is recorded under a lease that was never held here is left alone:
//! see [`crate::lease`].

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::care::{Deed, measured_in};
use crate::disk;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{Id, ProjectName};
use crate::lease::{self, Dead};
use crate::lock::{Lock, Mode};
use crate::record::{BranchRecord, Phase, PlaceRecord, ProjectRecord, Role, SnapshotRecord};
use crate::runtime::{RuntimeKind, Status, StopMode};
use crate::state::{Record, Tx};
use crate::storage::Object;
use crate::switch::Switch;
use crate::teardown::Patience;
use crate::{boot, branch, refresh, reset, slots, strays, teardown};

/// How long one `open` may spend on it; the next one goes on.
const LIMIT: Duration = Duration::from_secs(20);

/// The name of the lock that the one process holds that cleans up.
const LOCK: &str = "reconcile";

/// How long another process that cleans up is waited for, by somebody who wants to do it himself.
const WAIT: Duration = Duration::from_secs(120);

/// Why something is left alone whose record says that it is half done or somebody's.
pub(crate) const UNKNOWN: &str = "it is recorded under a process that this home never had";

/// Why something is undone or finished whose process may live.
pub(crate) const UNFINISHED: &str = "the process that began it does not work on it";

/// One round: how long it may take, and what it did.
#[derive(Debug)]
pub(crate) struct Round {
    begun: Instant,
    limit: Option<Duration>,
    /// The runtimes that did not say in time whether a server lives: they are not asked again.
    silent: Vec<RuntimeKind>,
    pub(crate) deeds: Vec<Deed>,
}

impl Round {
    fn bounded() -> Self {
        Self { limit: Some(LIMIT), ..Self::unbounded() }
    }

    /// For somebody who waits for it, and wants to know what becomes free.
    pub(crate) fn unbounded() -> Self {
        Self { begun: Instant::now(), limit: None, silent: Vec::new(), deeds: Vec::new() }
    }

    /// Whether the servers of `left` can be looked at. Whoever opens a home does not wait for an engine
    /// that hangs on one of its containers, and not once for each of them.
    async fn can_see(&mut self, home: &Home, left: &Left) -> Result<()> {
        let Some(runtime) = left.runtime() else { return Ok(()) };
        if self.silent.contains(&runtime) {
            let text = format!("the runtime {runtime} did not answer a moment ago");
            return Err(Error::new(ErrorKind::Timeout, text));
        }
        match left.served(home).await {
            Err(error) if error.kind() == ErrorKind::Timeout => {
                tracing::warn!(%error, "what dead processes left there stays for now");
                self.silent.push(runtime);
                Err(error)
            }
            // What else is the matter is found again by whoever finishes it.
            _ => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.begun.elapsed() > limit)
    }

    /// What is measured, where somebody wants to know.
    async fn bytes(&self, measured: impl Future<Output = Option<u64>>) -> Option<u64> {
        if self.limit.is_none() { measured.await } else { None }
    }

    fn note(&mut self, deed: Deed, result: &Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, kind = deed.kind, name = deed.name, "cannot be cleaned up now");
        }
        self.deeds.push(deed.came_to(result));
    }

    /// What is not tried, for a runtime that was silent: that was said when it was found.
    fn leave(&mut self, deed: Deed, error: Error) {
        self.deeds.push(deed.came_to(&Err(error)));
    }

    /// Whether what a deed is about was seen to in this round.
    fn has_tried(&self, deed: &Deed) -> bool {
        self.deeds.iter().any(|done| done.kind == deed.kind && done.name == deed.name)
    }

    /// Whether anything was undone or finished.
    pub(crate) fn has_done(&self) -> bool {
        self.deeds.iter().any(|deed| deed.error.is_none())
    }
}

/// Held by the one who cleans up: for whoever waits until it is its turn.
pub(crate) async fn alone(home: &Home, cancel: &Cancel) -> Result<Lock> {
    let what = "the cleaning up of the home";
    Lock::take(&home.lock_path(LOCK), Mode::Exclusive, WAIT, what, cancel).await
}

/// At the opening of a home: one process does it, and the others do not wait for it.
pub(crate) async fn at_open(home: &Home) {
    run(home).await;
    #[cfg(all(feature = "docker", unix))]
    containers(home).await;
}

/// The containers of programs that dead processes ran in them, and those that an engine goes on making.
#[cfg(all(feature = "docker", unix))]
async fn containers(home: &Home) {
    use crate::runtime::docker::{making, tool};
    let root = home.config.home();
    let sweep = async { tool::sweep(root).await.and(making::sweep(root).await) };
    match tokio::time::timeout(LIMIT, sweep).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "containers of dead processes may be left"),
        Err(_) => {
            tracing::warn!("the engine is too slow: containers of dead processes may be left")
        }
    }
}

/// One bounded round; whether it did anything. Its errors are logged: what could not be undone stays
/// recorded under a dead lease, and `velo doctor` names it.
pub(crate) async fn run(home: &Home) -> bool {
    match round(home).await {
        Ok(round) => round.has_done(),
        Err(error) => {
            tracing::warn!(%error, "cannot clean up after dead processes now");
            false
        }
    }
}

/// Every lease that was held here, but this process's own, oldest first.
fn leases(home: &Home) -> Result<Vec<Id>> {
    let mut leases = lease::all(&home.leases())?;
    let own = home.own_lease();
    leases.retain(|id| Some(*id) != own);
    leases.sort();
    Ok(leases)
}

/// What lives under leases whose holder is dead, lease by lease. Changes nothing.
pub(crate) async fn of_the_dead(home: &Home) -> Result<Vec<(Id, Vec<Left>)>> {
    let mut found = Vec::new();
    for id in leases(home)? {
        if lease::is_dead(&home.leases(), id)? {
            found.push((id, under(home, id).await?));
        }
    }
    found.retain(|(_, left)| !left.is_empty());
    Ok(found)
}

/// What a process that lives, this one or another, left half done, and nobody works on any more: something
/// was in the way of its undoing. While anything is made, changed or undone, its lock is held, from the
/// transaction on that records it.
pub(crate) async fn given_up(home: &Home) -> Result<Vec<Left>> {
    let own = home.own_lease();
    let mut found = Vec::new();
    for id in home.state().read(|tx| tx.leases()).await? {
        let dir = home.leases();
        // What the dead left is seen to as such, and of what was never here nobody knows.
        if Some(id) == own || !(lease::is_lost(&dir, id) || lease::is_dead(&dir, id)?) {
            found.extend(under(home, id).await?.into_iter().filter(Left::is_half_done));
        }
    }
    found.retain(|left| is_unlocked(home, left));
    let locks = home.clone();
    let work = move |tx: &Tx<'_>| {
        found.retain(|left| match left {
            // Whoever brings its data holds the new volume's lock, and not the branch's.
            Left::Branch(_, branch) => {
                refresh::refuse_coming(tx, &locks, std::slice::from_ref(&**branch)).is_ok()
            }
            _ => true,
        });
        Ok(found)
    };
    home.state().read(work).await
}

/// Whether nobody works on it. What this version makes or deletes has a lock file from its record on, to its
/// end; a process of an earlier one, which may live on, locks branches alone.
fn is_unlocked(home: &Home, left: &Left) -> bool {
    let path = home.lock_path(&left.id().to_string());
    let known = matches!(left, Left::Branch(..)) || path.symlink_metadata().is_ok();
    known && Lock::is_free(&path, Mode::Exclusive).unwrap_or(false)
}

/// Finishes what was given up under this id, for somebody who waits for it: what is in the way is an error.
pub(crate) async fn see_to(home: &Home, id: Id) -> Result<()> {
    for left in given_up(home).await?.into_iter().filter(|left| left.id() == id) {
        let path = home.lock_path(&id.to_string());
        match left.finish(home).await {
            // Somebody else sees to it.
            Err(error)
                if error.kind() == ErrorKind::Conflict
                    && !Lock::is_free(&path, Mode::Exclusive)? => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// What is under leases that were never held here.
pub(crate) async fn lost(home: &Home) -> Result<Vec<Left>> {
    let mut lost = home.state().read(|tx| tx.leases()).await?;
    lost.retain(|id| lease::is_lost(&home.leases(), *id));
    if !lost.is_empty() {
        // One that was buried meanwhile has no records any more.
        let named = home.state().read(|tx| tx.leases()).await?;
        lost.retain(|id| named.contains(id));
    }
    let mut left = Vec::new();
    for id in lost {
        left.extend(under(home, id).await?);
    }
    Ok(left)
}

async fn round(home: &Home) -> Result<Round> {
    let mut round = Round::bounded();
    let nothing = home.state().read(branch::due).await?.is_empty()
        && leases(home)?.is_empty()
        && lost(home).await?.is_empty()
        && given_up(home).await?.is_empty();
    if nothing {
        return Ok(round);
    }
    let Some(_one) = Lock::try_take(&home.lock_path(LOCK), Mode::Exclusive)? else {
        return Ok(round);
    };
    home.make_way().await;
    dead(home, &mut round).await?;
    expire(home, &mut round).await?;
    Ok(round)
}

/// Finishes what lives under dead leases. The caller is the one who cleans up.
///
/// Nothing of this process's own is made for it: who looks and finds nothing to do leaves nothing for
/// the next one to find. Should it die, the dead leases that are not buried yet bring the next one here.
pub(crate) async fn dead(home: &Home, round: &mut Round) -> Result<()> {
    // The one that is not buried before all is done. One at a time: there may be more of them than this
    // process may have open files.
    let mut last: Option<Dead> = None;
    for id in leases(home)? {
        if round.is_over() {
            break;
        }
        let dead = match Dead::claim(&home.leases(), id) {
            Ok(Some(dead)) => dead,
            Ok(None) => continue,
            // It must keep no other from being finished.
            Err(error) => {
                tracing::warn!(%error, lease = %id, "cannot look at a lease");
                continue;
            }
        };
        if finish(home, round, dead.id).await?
            && let Some(before) = last.replace(dead)
        {
            before.bury()?;
        }
    }
    let lost = lost(home).await?.into_iter().filter(Left::keeps_data);
    let lost = lost.map(|record| (record.deed_because(UNKNOWN), record));
    let given_up = given_up(home).await?.into_iter();
    let given_up = given_up.map(|record| (record.deed_because(UNFINISHED), record));
    for (deed, record) in given_up.chain(lost) {
        if round.is_over() {
            break;
        }
        if round.has_tried(&deed) {
            continue;
        }
        if let Err(error) = round.can_see(home, &record).await {
            round.leave(deed, error);
            continue;
        }
        finish_one(home, round, record, deed).await;
    }
    if let Some(last) = last {
        sweep_hidden(home, round).await;
        sweep_locks(home, round).await?;
        #[cfg(target_os = "linux")]
        sweep_keepers(home).await?;
        last.bury()?;
    }
    Ok(())
}

/// Finishes what lives under a dead lease. Whether nothing is left of it.
async fn finish(home: &Home, round: &mut Round, lease: Id) -> Result<bool> {
    let mut clean = true;
    let left = under(home, lease).await?;
    // A process that ended well leaves its lock file, and nothing under it.
    if !left.is_empty() {
        tracing::info!(%lease, "undoing what a dead process left");
    }
    for record in left {
        if round.is_over() {
            return Ok(false);
        }
        let bytes = round.bytes(record.measured(home)).await;
        let deed = record.deed().of_bytes(bytes);
        if let Err(error) = round.can_see(home, &record).await {
            round.leave(deed, error);
            clean = false;
            continue;
        }
        clean &= finish_one(home, round, record, deed).await;
    }
    Ok(clean)
}

/// Finishes what was left, unless somebody else has meanwhile. Whether nothing is left of it.
async fn finish_one(home: &Home, round: &mut Round, record: Left, deed: Deed) -> bool {
    let import = record.import().map(ToString::to_string);
    match record.finish(home).await {
        Ok(false) => true,
        result => {
            let result = result.map(drop);
            if let (Ok(()), Some(name)) = (&result, import) {
                tracing::warn!(
                    "the import of {name} was interrupted: what had come is removed, and the next begins anew"
                );
            }
            round.note(deed, &result);
            result.is_ok()
        }
    }
}

/// Deletes the branches whose time is up, children before their parents. One that somebody works on at
/// this moment is left to the next round.
pub(crate) async fn expire(home: &Home, round: &mut Round) -> Result<()> {
    loop {
        let due = home.state().read(branch::due).await?;
        let mut gone = false;
        for (project, record) in due {
            if round.is_over() {
                return Ok(());
            }
            let shown = of_expired(&project, &record);
            if round.has_tried(&shown) {
                continue;
            }
            let volume = Object::Volume(record.volume);
            let bytes = round.bytes(measured_in(home, project.storage, volume)).await;
            let left = Left::Branch(project.clone(), Box::new(record.clone()));
            if let Err(error) = round.can_see(home, &left).await {
                round.leave(shown, error);
                continue;
            }
            match branch::expire(home, &project, &record).await {
                Ok(false) => {}
                result => {
                    gone |= result.is_ok();
                    round.note(shown.of_bytes(bytes), &result.map(drop));
                }
            }
        }
        // What it was made from may have been waiting for it.
        if !gone {
            return Ok(());
        }
    }
}

pub(crate) fn of_expired(project: &ProjectRecord, branch: &BranchRecord) -> Deed {
    let name = format!("{}/{}", project.name, branch.shown());
    Deed::removed("branch", name, "its time was up")
}

pub(crate) fn of_hidden(object: &Object) -> Deed {
    Deed::removed("hidden", object.to_string(), "no clone needs it any more")
}

pub(crate) fn of_lock(name: String) -> Deed {
    Deed::removed("lock", name, "what it locked is not there")
}

/// Destroys what only dead processes' clones needed. What is in the way of one must keep no other from
/// going.
pub(crate) async fn sweep_hidden(home: &Home, round: &mut Round) {
    let projects = match home.state().read(|tx| tx.every::<ProjectRecord>()).await {
        Ok(projects) => projects,
        Err(error) => return tracing::warn!(%error, "cannot look for hidden data"),
    };
    for project in projects {
        match teardown::sweep(home, &project, Patience::None).await {
            Ok(gone) => round.deeds.extend(gone.iter().map(of_hidden)),
            Err(error) => {
                tracing::warn!(%error, project = %project.name, "hidden data stays for now");
                let name = format!("data of {}", project.name);
                let deed = Deed::removed("hidden", name, "no clone needs it any more");
                let deed = deed.came_to(&Err(error));
                if !round.deeds.contains(&deed) {
                    round.deeds.push(deed);
                }
            }
        }
    }
}

/// Removes the lock files that nobody will: a process may die between the removal of a record and
/// that of its lock, and before a project that it locks by name is made.
pub(crate) async fn sweep_locks(home: &Home, round: &mut Round) -> Result<()> {
    let folder = home.lock_path("");
    let sweep = move |tx: &Tx<'_>| {
        let fault = |e| Error::io(format!("sweep {}", folder.display()), e);
        let mut gone = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !strays::is_of_nothing(tx, &name)? {
                continue;
            }
            // Whoever holds it removes it; and the one held here may have lost its name since.
            match Lock::try_take(&path, Mode::Exclusive) {
                Ok(Some(lock)) if lock.is_linked() => {
                    disk::remove("remove an orphaned lock", &path)?;
                    gone.push(name);
                }
                _ => {}
            }
        }
        Ok(gone)
    };
    // In a writing transaction: the lock of a new branch is made in that which records it.
    let gone = home.state().write("sweep locks", sweep).await?;
    round.deeds.extend(gone.into_iter().map(of_lock));
    Ok(())
}

/// Removes the folders of keepers that were killed.
#[cfg(target_os = "linux")]
async fn sweep_keepers(home: &Home) -> Result<()> {
    let folders = home.config.home().join("keepers");
    crate::engine::blocking(move || {
        crate::keeper::sweep(&folders);
        Ok(())
    })
    .await
}

/// Something that was left.
pub(crate) enum Left {
    Project(ProjectRecord),
    Branch(ProjectRecord, Box<BranchRecord>),
    /// With what it is called.
    Snapshot(ProjectRecord, Box<SnapshotRecord>, String),
    /// In the line for a slot.
    Place(Id),
}

impl Left {
    /// What finishing it is.
    pub(crate) fn deed(&self) -> Deed {
        const WHY: &str = "left by a process that is dead";
        match self {
            Self::Project(project) => Deed::removed("project", project.name.to_string(), WHY),
            Self::Branch(project, branch) => {
                let name = format!("{}/{}", project.name, branch.shown());
                match branch.phase {
                    Phase::Resetting if !branch.ephemeral => {
                        Deed::new("finished", "reset", name, WHY)
                    }
                    Phase::Ready if !branch.ephemeral => {
                        let deed = if branch.wanted { "started" } else { "stopped" };
                        Deed::new(deed, "server", name, WHY)
                    }
                    _ => Deed::removed("branch", name, WHY),
                }
            }
            Self::Snapshot(_, _, name) => Deed::removed("snapshot", name.clone(), WHY),
            Self::Place(id) => Deed::removed("place in line", id.to_string(), WHY),
        }
    }

    /// The same of what no dead process left.
    pub(crate) fn deed_because(&self, why: &'static str) -> Deed {
        Deed { why, ..self.deed() }
    }

    /// The bytes that its data takes alone, where that is quickly told.
    pub(crate) async fn measured(&self, home: &Home) -> Option<u64> {
        match self {
            Self::Project(_) | Self::Place(_) => None,
            Self::Branch(project, branch) => {
                measured_in(home, project.storage, Object::Volume(branch.volume)).await
            }
            Self::Snapshot(project, snapshot, _) => {
                measured_in(home, project.storage, Object::Snapshot(snapshot.id)).await
            }
        }
    }

    /// Whether finishing it destroys nothing.
    pub(crate) fn keeps_data(&self) -> bool {
        match self {
            Self::Branch(_, branch) => branch.phase == Phase::Ready && !branch.ephemeral,
            Self::Place(_) => true,
            Self::Project(_) | Self::Snapshot(..) => false,
        }
    }

    fn id(&self) -> Id {
        match self {
            Self::Project(project) => project.id,
            Self::Branch(_, branch) => branch.id,
            Self::Snapshot(_, snapshot, _) => snapshot.id,
            Self::Place(id) => *id,
        }
    }

    /// Whether it is something that somebody works on, or has given up.
    fn is_half_done(&self) -> bool {
        match self {
            Self::Project(project) => project.phase != Phase::Ready,
            Self::Branch(_, branch) => match branch.phase {
                Phase::Ready => false,
                // Whoever has a throwaway branch finishes its reset when it is used next.
                Phase::Resetting => !branch.ephemeral,
                Phase::Creating | Phase::Deleting => true,
            },
            // An origin is made and goes with its branch, under that one's lock.
            Self::Snapshot(_, snapshot, _) => {
                snapshot.phase != Phase::Ready && snapshot.role != Role::Origin
            }
            Self::Place(_) => false,
        }
    }

    /// Whether it is the reset of a branch that is to stay.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Branch(_, branch)
            if branch.phase == Phase::Resetting && !branch.ephemeral)
    }

    /// The project whose data was coming.
    fn import(&self) -> Option<&ProjectName> {
        match self {
            Self::Project(project) if project.phase == Phase::Creating => {
                project.source.as_ref().map(|_| &project.name)
            }
            _ => None,
        }
    }

    /// What its servers run in, if it has any.
    fn runtime(&self) -> Option<RuntimeKind> {
        match self {
            Self::Project(project) | Self::Branch(project, _) => Some(project.runtime),
            Self::Snapshot(..) | Self::Place(_) => None,
        }
    }

    /// The branches in it whose servers run.
    async fn served(&self, home: &Home) -> Result<Vec<(ProjectRecord, BranchRecord)>> {
        let (project, branches) = match self {
            Self::Branch(project, branch) => (project, vec![(**branch).clone()]),
            Self::Project(project) => {
                let scope = project.id.to_string();
                (project, home.state().read(move |tx| tx.list::<BranchRecord>(&scope)).await?)
            }
            Self::Snapshot(..) | Self::Place(_) => return Ok(Vec::new()),
        };
        let mut served = Vec::new();
        for branch in branches {
            if boot::look(home, project, &branch, boot::end_of_look()).await? != Status::Stopped {
                served.push((project.clone(), branch));
            }
        }
        Ok(served)
    }

    /// What keeps it from being removed where nobody knows what became of it.
    pub(crate) async fn refuse_unsure(&self, home: &Home) -> Result<()> {
        let (why, hint) = if self.is_reset() {
            let hint = "velo branch delete removes it, whichever it is";
            ("its data may be the old or the new", hint)
        } else if !self.served(home).await?.is_empty() {
            ("a server runs on it", "velo doctor --fix stops it")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Conflict, why).with_hint(hint))
    }

    /// Stops its servers, cleanly: their data may be worth something to somebody. What was done.
    pub(crate) async fn stop(&self, home: &Home) -> Result<Vec<Deed>> {
        let mut deeds = Vec::new();
        for (project, branch) in self.served(home).await? {
            let name = format!("{}/{}", project.name, branch.shown());
            let result = stop(home, &project, &branch).await;
            deeds.push(Deed::new("stopped", "server", name, UNKNOWN).came_to(&result));
        }
        Ok(deeds)
    }

    /// Finishes it under its lock. Whether it was still as it is known here: whoever worked on it, or finished
    /// it, in the meantime has had his way.
    pub(crate) async fn finish(self, home: &Home) -> Result<bool> {
        // Whoever opens a home does not wait for a long copy of what has to go.
        match self {
            Self::Project(project) => {
                let _lock = home.lock_now(project.id, project.name.as_str()).await?;
                let as_known = |now: &ProjectRecord| (now.phase, now.lease);
                if !is_still(home, project.id, as_known(&project), as_known).await? {
                    return Ok(false);
                }
                teardown::project(home, &project, Patience::None).await?;
            }
            Self::Branch(project, branch) => {
                let _lock = home.lock_now(branch.id, &branch.shown()).await?;
                let as_known = |now: &BranchRecord| (now.phase, now.lease);
                if !is_still(home, branch.id, as_known(&branch), as_known).await? {
                    return Ok(false);
                }
                match branch.phase {
                    Phase::Resetting => reset::finish(home, &project, branch.id).await?,
                    Phase::Ready if !branch.ephemeral => switch(home, &project, branch.id).await?,
                    _ => teardown::branch(home, &project, branch.id, Patience::None).await?,
                }
            }
            Self::Snapshot(project, snapshot, name) => {
                let _lock = home.lock_now(snapshot.id, &name).await?;
                let as_known = |now: &SnapshotRecord| (now.phase, now.lease);
                if !is_still(home, snapshot.id, as_known(&snapshot), as_known).await? {
                    return Ok(false);
                }
                teardown::snapshot(home, &project, snapshot.id, Patience::None).await?;
            }
            Self::Place(id) => slots::leave(home, id).await?,
        }
        Ok(true)
    }
}

/// Whether a record still has the phase and the lease that it was found with. The caller holds its lock.
async fn is_still<R: Record>(
    home: &Home,
    id: Id,
    then: (Phase, Option<Id>),
    as_known: impl Fn(&R) -> (Phase, Option<Id>) + Send + 'static,
) -> Result<bool> {
    home.state()
        .read(move |tx| Ok(tx.get::<R>(id)?.is_some_and(|now| as_known(&now) == then)))
        .await
}

/// Stops a server of which nobody knows whether it was to be stopped.
async fn stop(home: &Home, project: &ProjectRecord, branch: &BranchRecord) -> Result<()> {
    let instance = boot::instance(home, project, branch.id, branch.volume)?;
    crate::strays::refuse_loss(&*home.runtime(project.runtime)?, &instance.location)?;
    boot::stop(home, project, branch.id, branch.volume, StopMode::Fast).await
}

/// Ends the start or the stop of a server, under the branch's lock.
async fn switch(home: &Home, project: &ProjectRecord, id: Id) -> Result<()> {
    let found = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
    match found.filter(|branch| branch.phase == Phase::Ready) {
        Some(branch) => {
            let switch = Switch { home, project, op: &Op::default() };
            switch.as_recorded(&branch).await.map(drop)
        }
        None => Ok(()),
    }
}

/// What lives under a lease.
async fn under(home: &Home, lease: Id) -> Result<Vec<Left>> {
    home.state()
        .read(move |tx| {
            let mut left = Vec::new();
            for project in tx.under::<ProjectRecord>(lease)? {
                left.push(Left::Project(project));
            }
            for branch in tx.under::<BranchRecord>(lease)? {
                if let Some(project) = tx.get(branch.project)? {
                    left.push(Left::Branch(project, Box::new(branch)));
                }
            }
            for snapshot in tx.under::<SnapshotRecord>(lease)? {
                // An origin goes with its branch.
                if let Some(project) = tx.get::<ProjectRecord>(snapshot.project)? {
                    let branch = tx.get::<BranchRecord>(snapshot.branch)?;
                    let branch = branch.map_or_else(|| "?".to_owned(), |branch| branch.shown());
                    let own = snapshot.name.as_ref().map(ToString::to_string);
                    let own = own.unwrap_or_else(|| snapshot.id.to_string());
                    let name = format!("{}/{branch}@{own}", project.name);
                    left.push(Left::Snapshot(project, Box::new(snapshot), name));
                }
            }
            let places = tx.under::<PlaceRecord>(lease)?;
            left.extend(places.into_iter().map(|place| Left::Place(place.id)));
            Ok(left)
        })
        .await
}
