//! [`Seed`]: data that is prepared once.
//!
//! A seed is a snapshot that is known by a hash of all that it is made from ([`SeedKey`]). Its record is
//! also what makes its building happen once: the key is unique in the project, and whoever has recorded
//! it holds the record's lock until the data is there. All others wait for that lock. A builder that dies
//! leaves a record under a dead lease, which the next one undoes.
//!
//! It is built in an ephemeral branch, whose server is stopped cleanly before its data is taken: branches
//! of a seed need no recovery.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::boot;
use crate::branch::Branch;
use crate::create::{self, alive, resolve};
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::postgres::Installation;
use crate::project::{self, Project};
use crate::record::{BranchRecord, Origin, Phase, Role, SeedMark, SnapshotRecord, now};
use crate::runtime::StopMode;
use crate::snapshot;
use crate::spec::{BranchSource, BranchSpec};
use crate::state::Tx;
use crate::storage::{Object, Usage};
use crate::teardown;
use crate::timings::Timings;

mod key;
mod sql;

pub use key::SeedKey;

/// How seldom it is recorded that a seed was used: a look at it should not cost a write.
const USED: Duration = Duration::from_secs(600);

/// A seed: data that is prepared once, for any number of branches. See [`Project::seed`].
///
/// A handle is cheap to clone, and dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Seed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    project: Arc<project::Inner>,
    info: SeedInfo,
}

/// What is known of a seed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeedInfo {
    /// Its identity.
    pub id: Id,
    /// The project's name.
    pub project: String,
    /// The hash that it is known by, in hexadecimal.
    pub key: String,
    /// What it is called.
    pub label: Option<String>,
    /// Whether it is whole; else somebody is building it.
    pub ready: bool,
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
    /// When somebody last asked for it, to ten minutes, in milliseconds since 1970, UTC.
    pub used_at: u64,
    /// How many branches were made from it that are there.
    pub branches: usize,
}

impl Project {
    /// The seed that `key` is of. Where there is none, `build` makes it: it is given an empty branch, or
    /// one of what the key [starts from](SeedKey::from), and whatever it leaves there is the seed.
    ///
    /// It is called once for each key, whoever asks, in this process or in others; the others wait until
    /// it is there, or take over where the one who builds fails or dies. Nothing half made is left.
    ///
    /// ```no_run
    /// # async fn example(project: velo_core::Project) -> velo_core::Result<()> {
    /// use velo_core::SeedKey;
    /// let key = SeedKey::new().files("migrations/*.sql")?.code(include_str!("lib.rs"));
    /// let seed = project
    ///     .seed(key, async |branch| {
    ///         let (client, connection) =
    ///             tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await?;
    ///         tokio::spawn(connection);
    ///         client.batch_execute("CREATE TABLE users (id int PRIMARY KEY)").await
    ///     })
    ///     .await?;
    /// let branch = seed.branch().await?;
    /// # let _ = branch;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Seed`] if `build` fails, with its error as the source; [`ErrorKind::NotFound`] if what
    /// it starts from does not exist; and as [`Branch::create`].
    pub async fn seed<E>(
        &self,
        key: SeedKey,
        build: impl AsyncFnOnce(Branch) -> Result<(), E>,
    ) -> Result<Seed>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.seed_or_build_call(key).await? {
            Claim::There(seed) => Ok(seed),
            Claim::Build(building) => match build(building.branch.clone()).await {
                Ok(()) => building.finish_call().await,
                Err(error) => Err(failed(error, building.give_up_call().await)),
            },
        }
    }

    pub(crate) fn seed_or_build_call(&self, key: SeedKey) -> Call<Claim> {
        let project = self.0.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            claim(&home, &project, key, &op).await
        })
    }

    /// Every seed, oldest first, those that are being built among them.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub async fn seeds(&self) -> Result<Vec<Seed>> {
        self.seeds_call().await
    }

    pub(crate) fn seeds_call(&self) -> Call<Vec<Seed>> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let scope = project.record.id.to_string();
            let (snapshots, branches) = home
                .state()
                .read(move |tx| {
                    let snapshots = tx.list::<SnapshotRecord>(&scope)?;
                    Ok((snapshots, tx.list::<BranchRecord>(&scope)?))
                })
                .await?;
            let seeds = snapshots.into_iter().filter(|s| s.role == Role::Seed);
            let there = seeds.filter(|s| s.phase != Phase::Deleting);
            Ok(there.filter_map(|seed| Seed::of(&project, &seed, &branches)).collect())
        })
    }

    /// Deletes the seeds that nobody has asked for in so long a time, but those from which branches were
    /// made that are there. What was deleted.
    ///
    /// # Errors
    /// What could not be deleted; the rest is.
    pub async fn prune_seeds(&self, unused_for: Duration) -> Result<Vec<SeedInfo>> {
        self.prune_seeds_call(unused_for).await
    }

    pub(crate) fn prune_seeds_call(&self, unused_for: Duration) -> Call<Vec<SeedInfo>> {
        let project = self.clone();
        engine::call(move |_| async move {
            let limit = u64::try_from(unused_for.as_millis()).unwrap_or(u64::MAX);
            let (mut gone, mut failed) = (Vec::new(), None);
            for seed in project.seeds_call().await? {
                let info = seed.info();
                let unused = info.ready && info.branches == 0;
                if !unused || now().saturating_sub(info.used_at) < limit {
                    continue;
                }
                match seed.delete_call().await {
                    Ok(()) => gone.push(info.clone()),
                    // Somebody uses it again.
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(gone), Err)
        })
    }
}

impl Seed {
    fn of(
        project: &Arc<project::Inner>,
        record: &SnapshotRecord,
        branches: &[BranchRecord],
    ) -> Option<Self> {
        let mark = record.seed.clone()?;
        let made = |b: &&BranchRecord| b.made_from == Origin::Snapshot(record.id) && !b.is_closed();
        let info = SeedInfo {
            id: record.id,
            project: project.record.name.to_string(),
            key: mark.key,
            label: mark.label,
            ready: record.phase == Phase::Ready,
            created_at: record.created_at,
            used_at: mark.used_at,
            branches: branches.iter().filter(made).count(),
        };
        Some(Self(Arc::new(Inner { project: project.clone(), info })))
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.info.id
    }

    /// The hash that it is known by, in hexadecimal.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.info.key
    }

    /// What was known of it when the handle was made.
    #[must_use]
    pub fn info(&self) -> &SeedInfo {
        &self.0.info
    }

    /// The project it belongs to.
    #[must_use]
    pub fn project(&self) -> Project {
        Project(self.0.project.clone())
    }

    /// An ephemeral branch of it. For another kind of branch give the seed to
    /// [`BranchSpec::from`](crate::BranchSpec::from).
    ///
    /// # Errors
    /// As [`Branch::create`].
    pub async fn branch(&self) -> Result<Branch> {
        Branch::create(&self.project(), BranchSpec::ephemeral().from(self)).await
    }

    /// How much space it takes, in bytes.
    ///
    /// # Errors
    /// If its files cannot be looked at.
    pub async fn usage(&self) -> Result<Usage> {
        self.usage_call().await
    }

    pub(crate) fn usage_call(&self) -> Call<Usage> {
        let inner = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&inner.project.config).await?;
            let storage = home.storage(inner.project.record.storage)?;
            storage.usage(Object::Snapshot(inner.info.id)).await
        })
    }

    /// Deletes it, unless branches were made from it. Whoever asks for it next builds it anew.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming the branches, or if it is being built.
    pub async fn delete(&self) -> Result<()> {
        self.delete_call().await
    }

    pub(crate) fn delete_call(&self) -> Call<()> {
        let inner = self.0.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&inner.project.config).await?;
            let shown = format!("the seed {}", inner.info.shown());
            snapshot::delete(&home, &inner.project.record, inner.info.id, &shown, &op).await
        })
    }
}

impl SeedInfo {
    /// What people call it: its label and the begin of its key.
    #[must_use]
    pub fn shown(&self) -> String {
        let key: String = self.key.chars().take(12).collect();
        match &self.label {
            Some(label) => format!("{label}-{key}"),
            None => key,
        }
    }
}

impl From<&Seed> for BranchSource {
    fn from(seed: &Seed) -> Self {
        Self::Snapshot(seed.id())
    }
}

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
    _lock: Lock,
}

impl Place {
    async fn give_up(self, home: &Home) -> Result<()> {
        teardown::snapshot(home, &self.project.record, self.record.id).await
    }
}

impl Building {
    /// Takes what was built for the seed.
    pub(crate) fn finish_call(mut self: Box<Self>) -> Call<Seed> {
        engine::call(move |op| async move {
            let Some(place) = self.place.take() else {
                return Err(Error::new(ErrorKind::Internal, "a seed is finished twice"));
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
        let (place, branch) = (self.place.take(), self.branch.clone());
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
        let Some(place) = self.place.take() else { return };
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
async fn claim(
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
                drop(Lock::take(&path, Mode::Shared, Duration::MAX, &shown, &op.cancel).await?);
                if still(home, &record).await? {
                    crate::reconcile::run(home).await;
                    // Another process may be the one who cleans up, or the one who could not undo it may
                    // live on.
                    op.cancel.guard(tokio::time::sleep(pause)).await?;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                continue;
            }
        };
        let place = Place { project: project.clone(), record, _lock: lock };
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

/// The key with what Velo knows.
async fn hashed(
    home: &Home,
    project: &project::Inner,
    key: &SeedKey,
    installation: &Installation,
) -> Result<String> {
    let (record, from) = (project.record.clone(), key.from.clone());
    let source = home.state().read(move |tx| resolve(tx, &record, &from)).await?;
    let (key, postgres) = (key.clone(), installation.clone());
    engine::blocking(move || {
        let programs = match &postgres.image {
            Some(image) => image.id.clone(),
            None => extensions(&postgres)?,
        };
        key.finish(&[
            ("postgres", postgres.version.to_string()),
            ("extensions", programs),
            ("from", source.object().to_string()),
        ])
    })
    .await
}

/// What the extensions beside an installation say of their versions, as a hash.
fn extensions(installation: &Installation) -> Result<String> {
    let bin = &installation.bin_dir;
    let beside = |path: &str| bin.parent().map(|prefix| prefix.join(path));
    let debian =
        PathBuf::from(format!("/usr/share/postgresql/{}/extension", installation.version.major));
    let folders = [
        beside("share/extension"),
        beside("share/postgresql/extension"),
        bin.starts_with("/usr/lib/postgresql").then_some(debian),
    ];
    let mut hash = Sha256::new();
    for folder in folders.iter().flatten() {
        for (name, content) in controls(folder)? {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn controls(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let fault = |e| Error::io(format!("look at the extensions in {}", folder.display()), e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fault)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".control") {
            found.push((name, std::fs::read(entry.path()).map_err(fault)?));
        }
    }
    found.sort();
    Ok(found)
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

/// Stops the server that a seed was built in, and takes its data.
async fn take(home: &Home, place: &Place, branch: &Branch, op: &Op) -> Result<SnapshotRecord> {
    let (project, id) = (&place.project.record, place.record.id);
    let built = branch.current(home).await?;
    let stop = boot::stop(home, project, built.id, built.volume, StopMode::Fast);
    op.steps.run("stop", stop).await?;
    let volume = built.volume;
    let record = home.state().write("record what a seed is taken from", move |tx| {
        tx.update(id, |snapshot: &mut SnapshotRecord| {
            snapshot.source = Some(Object::Volume(volume));
            Ok(())
        })
    });
    snapshot::fill(home, project, &built, &record.await?, op).await
}
