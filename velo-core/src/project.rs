//! [`Project`]: a repository of branches.

use std::sync::Arc;

use crate::branch::{self, Branch, BranchInfo};
use crate::cancel::Cancel;
use crate::config::Config;
use crate::engine::{self, Call, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{Id, ProjectName};
use crate::lock::Mode;
use crate::lookup::{BranchRef, Named};
use crate::postgres::binaries::{self, Installation, Search};
use crate::postgres::image;
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord};
use crate::runtime::{Runtime, RuntimeKind};
use crate::snapshot::{Snapshot, SnapshotInfo};
use crate::state::Tx;
use crate::storage::{self, Object, Storage, StorageKind};
use crate::teardown::{self, Patience};
use crate::timings::Timings;

mod builder;
mod create;
mod follow;
pub(crate) mod initdb;
mod refresh;
mod set;

pub use builder::ProjectBuilder;
pub use follow::FollowSpec;
pub use refresh::RefreshSpec;

/// A project: branches and snapshots of one PostgreSQL cluster, beginning with the branch `main`.
///
/// A handle is cheap to clone, and dropping it changes nothing.
///
/// ```no_run
/// # async fn example() -> velo_core::Result<()> {
/// use velo_core::{Branch, BranchSpec, Project};
/// let project = Project::create("api").await?;
/// let branch = Branch::create(&project, BranchSpec::ephemeral()).await?;
/// println!("{}", branch.url());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Project(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) record: ProjectRecord,
    timings: Timings,
}

impl Inner {
    pub(crate) fn of(config: Config, record: ProjectRecord) -> Self {
        Self { config, record, timings: Timings::default() }
    }
}

/// What is known of a project.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProjectInfo {
    /// Its name.
    pub name: ProjectName,
    /// Its identity.
    pub id: Id,
    /// The storage that its branches really use; never `auto`.
    pub storage: StorageKind,
    /// The runtime of its servers.
    pub runtime: RuntimeKind,
    /// The PostgreSQL that its servers run.
    pub postgres: crate::postgres::Installation,
    /// The role that URLs name.
    pub role: String,
    /// The database that URLs name.
    pub database: String,
    /// How long the WAL of its lasting branches is kept, in seconds; `None` is not at all.
    pub wal_retention: Option<u64>,
    /// What its `main` was brought from; `None` is an empty cluster.
    pub source: Option<crate::import::SourceInfo>,
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
}

impl Project {
    /// Opens the project `name` with the settings of the environment.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn open(name: impl Into<String>) -> Result<Self> {
        Self::builder(name).open().await
    }

    /// Creates the project `name` with the settings of the environment: an empty PostgreSQL
    /// cluster (`initdb`), whose branch `main` runs.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::PostgresMissing`], ….
    pub async fn create(name: impl Into<String>) -> Result<Self> {
        Self::builder(name).create().await
    }

    /// Opens or creates with other settings.
    pub fn builder(name: impl Into<String>) -> ProjectBuilder {
        ProjectBuilder {
            name: name.into(),
            config: None,
            role: None,
            database: None,
            locale: None,
            main_runs: true,
            wal_retention: None,
            source: None,
        }
    }

    /// Every project of the home, oldest first.
    ///
    /// # Errors
    /// If the home cannot be opened.
    pub async fn list(config: &Config) -> Result<Vec<ProjectInfo>> {
        Self::list_call(config).await
    }

    pub(crate) fn list_call(config: &Config) -> Call<Vec<ProjectInfo>> {
        let config = config.clone();
        engine::call(move |_| async move {
            // A look changes nothing: a home that is not there is not made.
            let Some(home) = Engine::get()?.existing_home(&config).await? else {
                return Ok(Vec::new());
            };
            let records = home.state().read(|tx| tx.list::<ProjectRecord>("")).await?;
            Ok(records.iter().filter(|r| r.phase == Phase::Ready).map(info).collect())
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.record.name.as_str()
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.record.id
    }

    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> ProjectInfo {
        info(&self.0.record)
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What each step of its creation took; empty if it was only opened.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        &self.0.timings
    }

    /// Its branch `main`.
    ///
    /// # Errors
    /// If the project is gone.
    pub async fn main(&self) -> Result<Branch> {
        self.branch("main").await
    }

    /// The branch with this name or id, or an ephemeral one as lists show it (`~label.id`).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn branch(&self, name: impl Into<String>) -> Result<Branch> {
        self.branch_call(name.into()).await
    }

    pub(crate) fn branch_call(&self, name: String) -> Call<Branch> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let record = find_branch(&home, &project.record, &name).await?;
            Ok(Branch::of(&project, record, Timings::default(), false))
        })
    }

    /// Every branch, oldest first: ephemeral ones too, and those being made or deleted. One that was
    /// closed is none any more, even if its files are still being removed.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub async fn branches(&self) -> Result<Vec<BranchInfo>> {
        self.branches_call().await
    }

    pub(crate) fn branches_call(&self) -> Call<Vec<BranchInfo>> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let scope = project.record.id.to_string();
            let mut records = home.state().read(move |tx| tx.list::<BranchRecord>(&scope)).await?;
            records.retain(|branch| !branch.is_closed());
            branch::infos(&home, &project.record, records).await
        })
    }

    /// The snapshot `branch@name`, or with this id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot> {
        self.snapshot_call(name.into()).await
    }

    pub(crate) fn snapshot_call(&self, name: String) -> Call<Snapshot> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let wanted = match name.parse::<Id>() {
                Ok(id) => crate::spec::BranchSource::Snapshot(id),
                Err(_) if name.parse::<Named>()?.snapshot.is_none() => {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        format!("{name:?} names no snapshot"),
                    )
                    .with_hint("write branch@snapshot, like main@before"));
                }
                Err(_) => crate::spec::BranchSource::Named(name),
            };
            let record = project.record.clone();
            let (snapshot, branch) = home
                .state()
                .read(move |tx| match crate::source::resolve(tx, &record, &wanted)? {
                    crate::source::SourceRecord::Snapshot(snapshot) => {
                        let branch = tx.get::<BranchRecord>(snapshot.branch)?;
                        Ok((snapshot, branch))
                    }
                    crate::source::SourceRecord::Branch(_) => {
                        Err(Error::new(ErrorKind::NotFound, "no such snapshot"))
                    }
                })
                .await?;
            Ok(Snapshot::of(&project, snapshot, branch.as_ref()))
        })
    }

    /// Every named snapshot, oldest first.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.snapshots_call().await
    }

    pub(crate) fn snapshots_call(&self) -> Call<Vec<SnapshotInfo>> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            crate::snapshot::infos(&home, &project.record).await
        })
    }

    /// Waits until no files of branches that this process closed, or whose last handle it dropped, are
    /// left to be removed. For the end of a process: what it leaves, the next `open` removes.
    ///
    /// # Errors
    /// If the home cannot be opened. What could not be removed is logged, and `velo doctor` names it.
    pub async fn finish_deletions(&self) -> Result<()> {
        self.finish_deletions_call().await
    }

    pub(crate) fn finish_deletions_call(&self) -> Call<()> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            Engine::get()?.home(&project.config).await?.finish_deletions().await;
            Ok(())
        })
    }

    /// How many volumes and snapshots are kept only because clones need them: those of branches that
    /// were reset or closed, and snapshots that were deleted, on a storage where clones need their
    /// source. Each goes with the last that needs it.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub async fn hidden(&self) -> Result<usize> {
        self.hidden_call().await
    }

    pub(crate) fn hidden_call(&self) -> Call<usize> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let scope = project.record.id.to_string();
            home.state().read(move |tx| Ok(teardown::hidden(tx, &scope)?.len())).await
        })
    }

    /// Deletes the project with everything in it. Without `force` only if `main` is its only
    /// branch, and it has no snapshot; with neither if one of its branches is
    /// [protected](Branch::protect).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming the branches, or while its data is being [refreshed](Self::refresh).
    pub async fn delete(&self, force: bool) -> Result<()> {
        self.delete_call(force).await
    }

    pub(crate) fn delete_call(&self, force: bool) -> Call<()> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            home.make_way().await;
            // Whoever gave up waiting still wants it to be gone.
            let shown = format!("the project {}", project.record.name);
            let through = Cancel::default();
            let _lock = home.lock(project.record.id, Mode::Exclusive, &shown, &through).await?;
            let (record, lease) = (project.record.clone(), home.lease()?);
            let whose = home.clone();
            let claim = move |tx: &Tx<'_>| claim(tx, &whose, &record, force, lease);
            home.state().write_durable("mark a project to go", claim).await?;
            home.finish_deletions().await;
            let gone = teardown::project(&home, &project.record, Patience::Usual).await;
            gone.map_err(Error::with_the_rest_later)
        })
    }
}

/// Marks a project as one that goes, unless something but `main` lives in it. In one transaction, so
/// that nothing can come into it meanwhile.
fn claim(tx: &Tx<'_>, home: &Home, project: &ProjectRecord, force: bool, lease: Id) -> Result<()> {
    let scope = project.id.to_string();
    let branches = tx.list::<BranchRecord>(&scope)?;
    crate::refresh::refuse_coming(tx, home, &branches)?;
    let of = |id: Id| branches.iter().find(|b| b.id == id).map(BranchRecord::shown);
    let lasting = branches.iter().filter(|b| b.parent.is_some() && !b.is_closed());
    let mut others: Vec<String> =
        lasting.map(|b| format!("{}/{}", project.name, b.shown())).collect();
    others.extend(tx.list::<SnapshotRecord>(&scope)?.iter().filter_map(|snapshot| {
        let name = snapshot.name.as_ref().filter(|_| snapshot.role == Role::Named)?;
        Some(format!("the snapshot {}/{}@{name}", project.name, of(snapshot.branch)?))
    }));
    crate::branch::refuse_protected(project, branches.iter(), "deleted")?;
    if !force && !others.is_empty() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("project {} is not empty: {}", project.name, others.join(", ")),
        )
        .with_hint("delete them first, or use force (--force) to delete all of it"));
    }
    if tx.get::<ProjectRecord>(project.id)?.is_some() {
        tx.update(project.id, |project: &mut ProjectRecord| {
            project.phase = Phase::Deleting;
            project.lease = Some(lease);
            Ok(())
        })?;
    }
    Ok(())
}

/// The project of this name, if it is whole.
async fn ready(home: &Home, name: &ProjectName) -> Result<Option<ProjectRecord>> {
    let wanted = name.to_string();
    let found = home.state().read(move |tx| tx.named::<ProjectRecord>("", &wanted)).await?;
    Ok(found.filter(|project| project.phase == Phase::Ready))
}

/// The PostgreSQL for an existing project: the recorded one, as long as it is there and of the same
/// major, else any of that major. One that the caller names must fit. Looked for only when a program
/// of it is to be run: what is there can be listed and deleted without any.
pub(crate) async fn installed(record: &ProjectRecord, home: &Home) -> Result<Installation> {
    let major = record.postgres.version.major;
    if let Some(known) = &record.postgres.image {
        return image::still(&home.config, &record.postgres, known).await;
    }
    let search = Search::from(&home.config);
    if let Some((dir, source)) = search.named() {
        let named = Installation::at(dir, source).await?;
        if named.version.major != major {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "project {} is of PostgreSQL {major}, and {source} names PostgreSQL {}",
                    record.name, named.version
                ),
            )
            .with_hint(format!(
                "name the folder of a PostgreSQL {major}, or none; or another project; or, if nothing \
                 in it is needed, have it made anew: velo project delete {}",
                record.name
            )));
        }
    }
    match Installation::at(&record.postgres.bin_dir, record.postgres.source).await {
        Ok(found) if found.version.major == major => Ok(found),
        _ => binaries::find(&search.of_major(major), home.host_user()).await.map_err(|error| {
            let hint = error.hint().filter(|_| error.kind() == ErrorKind::PostgresMissing);
            let Some(hint) = hint.map(str::to_owned) else { return error };
            let name = &record.name;
            error.with_hint(format!(
                "{hint}; or, if nothing in project {name} is needed, have it made anew with another \
                 PostgreSQL: velo project delete {name}"
            ))
        }),
    }
}

/// Refuses a storage and a runtime that cannot work together.
fn fits(storage: &dyn Storage, runtime: &dyn Runtime) -> Result<()> {
    let probe = storage.location(Object::Volume(Id::generate()));
    let on_host = matches!(probe, storage::Location::HostPath(_));
    if runtime.capability().needs_host_path && !on_host {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "the runtime {} needs folders of this machine, and the storage {} has none",
                runtime.capability().name,
                storage.capability().name
            ),
        ));
    }
    Ok(())
}

fn info(record: &ProjectRecord) -> ProjectInfo {
    ProjectInfo {
        name: record.name.clone(),
        id: record.id,
        storage: record.storage,
        runtime: record.runtime,
        postgres: record.postgres.clone(),
        role: record.role.clone(),
        database: record.database.clone(),
        wal_retention: record.wal_retention,
        source: record.source.as_ref().and_then(crate::import::Recipe::info),
        created_at: record.created_at,
    }
}

/// A branch by any of its names.
async fn find_branch(home: &Home, project: &ProjectRecord, name: &str) -> Result<BranchRecord> {
    let wanted: BranchRef = name.parse()?;
    let owned = project.clone();
    let found = home.state().read(move |tx| wanted.find(tx, &owned)).await?;
    found.filter(|b| b.phase != Phase::Creating && b.phase != Phase::Deleting).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no branch {}/{name}", project.name))
            .with_hint(format!("velo branch list {}", project.name))
    })
}
