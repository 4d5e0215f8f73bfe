//! How a seed is built once, whoever asks for it.

use std::fs::File;
use std::io::Write;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::hashed::hashed;
use super::{Seed, SeedKey};
use crate::boot;
use crate::branch::Branch;
use crate::create;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::lookup::alive;
use crate::postgres::control;
use crate::postgres::session::Session;
use crate::project;
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SeedMark, SnapshotRecord, now};
use crate::run_dir::RunDir;
use crate::runtime::StopMode;
use crate::snapshot;
use crate::source::resolve;
use crate::spec::BranchSpec;
use crate::state::Tx;
use crate::storage::Object;
use crate::teardown::{self, Patience};
use crate::timings::Timings;

/// How seldom it is recorded that a seed was used: a look at it should not cost a write.
const USED: Duration = Duration::from_secs(600);

/// How long somebody waits for a seed that another builds without being told why.
const LONG: Duration = Duration::from_secs(2);

/// How long clients of what builds a seed are waited for: one that stays does not end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What there is of a seed that somebody asks for.
pub(crate) enum Claim {
    There(Seed),
    Build(Box<Building>),
}

/// A seed that this process builds. Dropped before its end, as by a panic, it leaves nothing.
pub(crate) struct Building {
    /// What is built in.
    pub(crate) branch: Branch,
    place: Option<Place>,
}

/// The record of a seed that is not there yet, and the lock that all others wait for.
struct Place {
    project: Arc<project::Inner>,
    record: SnapshotRecord,
    key: SeedKey,
    /// The process whose it is: what was forked from that has no say.
    pid: u32,
    _lock: Lock,
}

impl Place {
    async fn give_up(self, home: &Home) -> Result<()> {
        teardown::snapshot(home, &self.project.record, self.record.id, Patience::Usual).await
    }
}

impl Building {
    /// What is to be finished or undone, if that is for this process to do.
    fn place(&mut self) -> Option<Place> {
        self.place.take_if(|place| place.pid == std::process::id())
    }

    /// Takes what was built for the seed.
    pub(crate) fn finish_call(mut self: Box<Self>) -> Call<Seed> {
        engine::call(move |op| async move {
            let Some(place) = self.place() else {
                let what = "a seed is finished once, and by the process that began it";
                return Err(Error::new(ErrorKind::Conflict, what)
                    .with_hint("have what was forked in the build end by itself (os._exit)"));
            };
            let home = Engine::get()?.home(&place.project.config).await?;
            let (project, branch) = (place.project.clone(), self.branch.clone());
            let taken = take(&home, &place, &branch, &op).await;
            let closed = branch.close_now(&home).await;
            match taken.and_then(|record| closed.map(|()| record)) {
                Ok(record) => Seed::of(&project, &record, &[])
                    .ok_or_else(|| Error::new(ErrorKind::Internal, "a seed without a key")),
                Err(error) => {
                    let error = home.explain(error);
                    match place.give_up(&home).await {
                        Ok(()) => Err(error),
                        Err(cleanup) => Err(error.with_cleanup(cleanup)),
                    }
                }
            }
        })
    }

    /// Undoes what was built.
    pub(crate) fn give_up_call(mut self: Box<Self>) -> Call<()> {
        let (place, branch) = (self.place(), self.branch.clone());
        engine::call(move |_| async move {
            let Some(place) = place else { return Ok(()) };
            let home = Engine::get()?.home(&place.project.config).await?;
            let closed = branch.close_now(&home).await;
            place.give_up(&home).await.and(closed)
        })
    }
}

/// What is told of a build that failed, and was undone or not.
pub(crate) fn failed(
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    undone: Result<()>,
) -> Error {
    let cause = cause.into();
    let error = Error::new(ErrorKind::Seed, format!("the seed cannot be built: {cause}"))
        .with_hint("correct what builds it; nothing of it is left")
        .with_source(cause);
    match undone {
        Ok(()) => error,
        Err(cleanup) => error.with_cleanup(cleanup),
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let Some(place) = self.place() else { return };
        let branch = self.branch.clone();
        engine::spawn(async move {
            let work = async {
                let home = Engine::get()?.home(&place.project.config).await?;
                let closed = branch.close_now(&home).await;
                place.give_up(&home).await.and(closed)
            };
            if let Err(error) = work.await {
                tracing::warn!(%error, "cannot undo a seed; it goes when this process has ended");
            }
        });
    }
}

/// The seed, or the right to build it. Waits as long as somebody else builds.
pub(super) async fn claim(
    home: &Arc<Home>,
    project: &Arc<project::Inner>,
    key: SeedKey,
    op: &Op,
) -> Result<Claim> {
    let installation = project::installed(&project.record, home).await?;
    let text = hashed(home, project, &key, &installation).await?;
    let shown = format!("the seed {}", &text[..12]);
    let mut pause = Duration::from_millis(5);
    loop {
        op.cancel.check()?;
        let (record, lock) = match placed(home, project, &key, &text).await? {
            (record, Some(lock)) => (record, lock),
            (record, None) if record.phase == Phase::Ready => {
                used(home, &record).await?;
                let seed = Seed::of(project, &record, &[])
                    .ok_or_else(|| Error::new(ErrorKind::Internal, "a seed without a key"))?;
                return Ok(Claim::There(seed));
            }
            (record, None) => {
                tracing::info!(seed = %shown, "somebody else builds it: waiting");
                // Whoever makes or removes it holds this until that is done, or dies.
                let path = home.lock_path(&record.id.to_string());
                let wait = Lock::take(&path, Mode::Shared, Duration::MAX, &shown, &op.cancel);
                drop(told_of(wait, &record, &shown).await?);
                if still(home, &record).await? {
                    crate::reconcile::run(home).await;
                    crate::reconcile::see_to(home, record.id).await?;
                    refuse_lost(home, &record, &shown).await?;
                    // Another process may be the one who cleans up.
                    op.cancel.guard(tokio::time::sleep(pause)).await?;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                continue;
            }
        };
        let pid = std::process::id();
        let place = Place { project: project.clone(), record, key: key.clone(), pid, _lock: lock };
        let label = key.label.as_deref().unwrap_or("seed");
        let spec = BranchSpec::ephemeral().label(label).from(key.from.clone());
        tracing::info!(seed = %shown, "building it");
        return match create::create(home, &project.record, &spec, op).await {
            Ok(branch) => {
                let branch = Branch::of(project, branch, Timings::default(), true);
                Ok(Claim::Build(Box::new(Building { branch, place: Some(place) })))
            }
            Err(error) => match place.give_up(home).await {
                Ok(()) => Err(error),
                Err(cleanup) => Err(error.with_cleanup(cleanup)),
            },
        };
    }
}

/// Where whoever waits in this process for a seed that another one builds is told so; nobody is unless it is set.
static TOLD_ON: OnceLock<File> = OnceLock::new();

/// Has them be told on standard error as it is now, for hooks of test runners: later those may keep what is written
/// there until a test has failed.
#[cfg(any(feature = "macros", target_os = "linux"))]
pub fn tell_waits() {
    use std::os::fd::AsFd;
    if TOLD_ON.get().is_none()
        && let Ok(errors) = std::io::stderr().as_fd().try_clone_to_owned()
    {
        let _ = TOLD_ON.set(errors.into());
    }
}

/// Waits, and tells of it once that takes long.
async fn told_of<T>(wait: impl Future<Output = T>, record: &SnapshotRecord, shown: &str) -> T {
    let mut wait = pin!(wait);
    if let Ok(done) = tokio::time::timeout(LONG, wait.as_mut()).await {
        return done;
    }
    if let Some(mut errors) = TOLD_ON.get() {
        let label = record.seed.as_ref().and_then(|seed| seed.label.as_deref()).unwrap_or("seed");
        let seconds = now().saturating_sub(record.created_at) / 1000;
        let what = format!(
            "velo: waiting for {shown} ({label}), which another process has been building for {seconds} s\n"
        );
        // Nobody may be there to read it.
        let _ = errors.write_all(what.as_bytes());
    }
    wait.await
}

/// The record of the seed; with its lock if it was made just now.
async fn placed(
    home: &Home,
    project: &project::Inner,
    key: &SeedKey,
    text: &str,
) -> Result<(SnapshotRecord, Option<Lock>)> {
    let scope = project.record.id.to_string();
    let (name, wanted) = (text.to_owned(), scope.clone());
    let there = home.state().read(move |tx| tx.named::<SnapshotRecord>(&wanted, &name)).await?;
    if let Some(record) = there {
        return Ok((record, None));
    }
    let (lease, locks, owned) = (home.lease()?, home.clone(), project.record.clone());
    let (text, label, from) = (text.to_owned(), key.label.clone(), key.from.clone());
    home.state()
        .write("record a seed", move |tx| {
            if let Some(record) = tx.named::<SnapshotRecord>(&scope, &text)? {
                return Ok((record, None));
            }
            alive(tx, &owned)?;
            let source = resolve(tx, &owned, &from)?;
            let record = SnapshotRecord {
                id: Id::generate(),
                project: owned.id,
                // It goes with the branch that it starts from, not with the one it is built in.
                branch: source.tree_parent(),
                name: None,
                role: Role::Seed,
                phase: Phase::Creating,
                lease: Some(lease),
                source: None,
                password: source.password().clone(),
                settings: source.settings().clone(),
                limits: source.limits(),
                cut: None,
                seed: Some(SeedMark { key: text, label, used_at: now() }),
                scheduled: false,
                created_at: now(),
            };
            tx.insert(&record)?;
            let lock = locks.lock_new(record.id)?;
            Ok((record, Some(lock)))
        })
        .await
}

/// Whether a seed that was waited for is as it was: nobody works on it any more.
async fn still(home: &Home, before: &SnapshotRecord) -> Result<bool> {
    let id = before.id;
    let now = home.state().read(move |tx| tx.get::<SnapshotRecord>(id)).await?;
    if now.is_none() {
        // Whoever waited may have made the file anew.
        home.remove_lock(id)?;
    }
    Ok(now.is_some_and(|now| now.phase != Phase::Ready))
}

/// An error where nobody knows who was building it: that is never finished, and nothing is removed unasked.
async fn refuse_lost(home: &Home, record: &SnapshotRecord, shown: &str) -> Result<()> {
    if !record.lease.is_some_and(|lease| crate::lease::is_lost(&home.leases(), lease)) {
        return Ok(());
    }
    // A lease that somebody has buried meanwhile has no records any more.
    let (id, lease) = (record.id, record.lease);
    let now = home.state().read(move |tx| tx.get::<SnapshotRecord>(id)).await?;
    if now.is_none_or(|now| now.lease != lease || now.phase == Phase::Ready) {
        return Ok(());
    }
    let what = format!("{shown} was being built by a process that this home knows nothing of");
    Err(Error::new(ErrorKind::Conflict, what).with_hint(
        "as after a restored backup: velo gc --unrecorded removes it, and it is built anew",
    ))
}

/// Notes that somebody asked for it.
async fn used(home: &Home, record: &SnapshotRecord) -> Result<()> {
    let id = record.id;
    let last = record.seed.as_ref().map_or(0, |seed| seed.used_at);
    if now().saturating_sub(last) < USED.as_millis() as u64 {
        return Ok(());
    }
    home.state()
        .write("note that a seed is used", move |tx: &Tx<'_>| {
            if tx.get::<SnapshotRecord>(id)?.is_none() {
                return Ok(());
            }
            tx.update(id, |snapshot: &mut SnapshotRecord| {
                if let Some(seed) = &mut snapshot.seed {
                    seed.used_at = now();
                }
                Ok(())
            })
            .map(drop)
        })
        .await
}

/// Waits until no client is on the server. A pool that says it has ended has sent its farewell, and no more: told in between
/// that the server goes, node-postgres ends the whole program with an error that nobody waits for.
async fn clients_gone(home: &Home, project: &ProjectRecord, branch: &BranchRecord) -> Result<()> {
    const CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity \
                           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let socket_dir = RunDir::of(home, branch.id).socket();
    let session = Session::connect(boot::target(&socket_dir, project, branch)).await?;
    while session.value("look for clients", CLIENTS).await? != "0" {
        // Nobody tells when one ends.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Stops the server that a seed was built in, and takes its data.
async fn take(home: &Home, place: &Place, branch: &Branch, op: &Op) -> Result<SnapshotRecord> {
    let (project, id) = (&place.project.record, place.record.id);
    let built = branch.current(home).await?;
    let farewell = clients_gone(home, project, &built);
    match tokio::time::timeout(FAREWELL, farewell).await {
        // Whether the server lives is seen when it is stopped.
        Ok(Err(error)) => tracing::debug!(%error, "cannot see whether clients are gone"),
        Err(_) => tracing::debug!("what builds a seed has left clients open"),
        Ok(Ok(())) => {}
    }
    let stop = boot::stop(home, project, built.id, built.volume, StopMode::Fast);
    op.steps.run("stop", stop).await?;
    let key = place.key.clone();
    engine::blocking(move || key.is_of_its_files()).await?;
    let volume = built.volume;
    let location = home.storage(project.storage)?.open(Object::Volume(volume)).await?;
    let control = control::read(&location.host_path().join(control::FILE))?;
    if !control.was_shut_down() {
        // What a client was told is committed may never have been written.
        return Err(Error::new(
            ErrorKind::Seed,
            "the server in which the seed was built had ended before it was stopped",
        )
        .with_hint("what was built may have gone with it, so none of it is kept; build it again"));
    }
    let record = home.state().write("record what a seed is taken from", move |tx| {
        tx.update(id, |snapshot: &mut SnapshotRecord| {
            snapshot.source = Some(Object::Volume(volume));
            Ok(())
        })
    });
    snapshot::fill(home, project, &built, &record.await?, op).await
}
