//! [`Seed`]: data that is prepared once.
//!
//! A seed is a snapshot that is known by a hash of all that it is made from ([`SeedKey`]). Its record is
//! also what makes its building happen once: the key is unique in the project, and whoever has recorded
//! it holds the record's lock until the data is there. All others wait for that lock. A builder that dies
//! leaves a record under a dead lease, which the next one undoes.
//!
//! It is built in an ephemeral branch, whose server is stopped cleanly before its data is taken: branches
//! of a seed need no recovery.

use std::sync::Arc;
use std::time::Duration;

use crate::branch::Branch;
use crate::engine::{self, Call, Engine};
use crate::error::{ErrorKind, Result};
use crate::id::Id;
use crate::project::{self, Project};
use crate::record::{BranchRecord, Origin, Phase, Role, SnapshotRecord, now};
use crate::snapshot;
use crate::spec::{BranchSource, BranchSpec};
use crate::storage::{Object, Usage};

mod build;
mod files;
mod hashed;
mod key;
#[cfg(target_os = "linux")]
pub(crate) mod outside;
pub(crate) mod sql;

use build::claim;
#[cfg(any(feature = "macros", target_os = "linux"))]
pub use build::tell_waits;
pub(crate) use build::{Building, Claim, failed};
pub(crate) use files::pattern_in;
pub use key::SeedKey;

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
    /// The seed that `key` is of. Where there is none, `build` makes it: it is given a branch of `main`,
    /// which is empty unless somebody has worked in it, or of what the key [starts from](SeedKey::from), and
    /// whatever it leaves there is the seed.
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
        self.prune_call(unused_for, None)
    }

    /// The same of those that are called `label`, where one is given.
    pub(crate) fn prune_call(
        &self,
        unused_for: Duration,
        label: Option<String>,
    ) -> Call<Vec<SeedInfo>> {
        let project = self.clone();
        engine::call(move |_| async move {
            let limit = u64::try_from(unused_for.as_millis()).unwrap_or(u64::MAX);
            let (mut gone, mut failed) = (Vec::new(), None);
            for seed in project.seeds_call().await? {
                let info = seed.info();
                let unused = info.ready && info.branches == 0;
                let other = label.is_some() && info.label != label;
                if other || !unused || now().saturating_sub(info.used_at) < limit {
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
