//! [`Project`]: a repository of branches.

use std::sync::Arc;

use crate::boot::{self, Boot, Doors, RunDir};
use crate::branch::{self, Branch, BranchInfo};
use crate::config::Config;
use crate::create::{can_limit, free_port, vacant};
use crate::cut::{Cut, Method};
use crate::disk;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, NAMED};
use crate::id::{BranchName, Id, ProjectName};
use crate::lock::{Lock, Mode};
use crate::lookup::{BranchRef, Named};
use crate::postgres::binaries::{self, Installation, Search};
use crate::postgres::scram::{self, Password};
use crate::postgres::session::{Session, Target, ident, literal};
use crate::postgres::{control, image};
use crate::record::{
    BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord, now,
};
use crate::runtime::{Limits, Runtime, RuntimeKind, ToolSpec};
use crate::slots::{self, Turn};
use crate::snapshot::{Snapshot, SnapshotInfo};
use crate::state::Tx;
use crate::storage::{self, Label, Object, Storage, StorageKind, VolumeSpec};
use crate::teardown;
use crate::timings::Timings;

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
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
}

/// Opens or creates a [`Project`] with other settings than the environment's.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProjectBuilder {
    name: String,
    config: Option<Config>,
    role: String,
    database: String,
    locale: Option<String>,
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
            role: "postgres".into(),
            database: "postgres".into(),
            locale: None,
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
                .read(move |tx| match crate::create::resolve(tx, &record, &wanted)? {
                    crate::create::SourceRecord::Snapshot(snapshot) => {
                        let branch = tx.get::<BranchRecord>(snapshot.branch)?;
                        Ok((snapshot, branch))
                    }
                    crate::create::SourceRecord::Branch(_) => {
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

    /// Waits until no files of branches that this process closed are left to be removed. For the end
    /// of a process: what it leaves, the next `open` removes.
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
    /// [`ErrorKind::Conflict`], naming the branches.
    pub async fn delete(&self, force: bool) -> Result<()> {
        self.delete_call(force).await
    }

    pub(crate) fn delete_call(&self, force: bool) -> Call<()> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let (record, lease) = (project.record.clone(), home.lease()?);
            let claim = move |tx: &Tx<'_>| claim(tx, &record, force, lease);
            home.state().write("mark a project to go", claim).await?;
            home.finish_deletions().await;
            teardown::project(&home, &project.record).await
        })
    }
}

/// Marks a project as one that goes, unless something but `main` lives in it. In one transaction, so
/// that nothing can come into it meanwhile.
fn claim(tx: &Tx<'_>, project: &ProjectRecord, force: bool, lease: Id) -> Result<()> {
    let scope = project.id.to_string();
    let branches = tx.list::<BranchRecord>(&scope)?;
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

impl ProjectBuilder {
    /// The settings to use instead of those of the file and the environment.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// For a new project: the superuser that URLs name (`postgres` unless told).
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = role.into();
        self
    }

    /// For a new project: the database that URLs name (`postgres` unless told).
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// For a new project: the locale of its databases, as `initdb --locale` takes it. Unless told
    /// it is `C.UTF-8`, which sorts by code point and does not depend on the system's version.
    pub fn locale(mut self, locale: impl Into<String>) -> Self {
        self.locale = Some(locale.into());
        self
    }

    /// Opens the project.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn open(self) -> Result<Project> {
        self.open_call().await
    }

    /// Creates the project.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the name is taken, [`ErrorKind::PostgresMissing`] if no
    /// PostgreSQL is found, [`ErrorKind::Unsupported`] if the storage does not work in the home.
    pub async fn create(self) -> Result<Project> {
        self.create_call().await
    }

    /// Checks what can be checked before a PostgreSQL is looked for, and makes nothing: the names,
    /// and that there is no such project yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a bad name, [`ErrorKind::AlreadyExists`] if it is taken.
    pub async fn check(&self) -> Result<()> {
        self.check_call().await
    }

    pub(crate) fn check_call(&self) -> Call<()> {
        let builder = self.clone();
        engine::call(move |_| async move {
            let config = builder.settings()?;
            let name = builder.names()?;
            let home = Engine::get()?.existing_home(&config).await?;
            match home {
                Some(home) if ready(&home, &name).await?.is_some() => Err(taken(&name)),
                _ => Ok(()),
            }
        })
    }

    /// Opens the project, or creates it if there is none. Of several processes that do so at once
    /// one creates it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn open_or_create(self) -> Result<Project> {
        self.open_or_create_call().await
    }

    pub(crate) fn open_call(self) -> Call<Project> {
        engine::call(move |_| self.open_here())
    }

    pub(crate) fn create_call(self) -> Call<Project> {
        engine::call(move |op| async move { self.create_here(&op).await })
    }

    pub(crate) fn open_or_create_call(self) -> Call<Project> {
        engine::call(move |op| async move {
            let config = self.settings()?;
            let home = Engine::get()?.home(&config).await?;
            let name = ProjectName::new(self.name.clone())?;
            let path = home.lock_path(&format!("{NAMED}{name}"));
            let _lock = loop {
                let lock = Lock::take(
                    &path,
                    Mode::Exclusive,
                    home.config.start_timeout * 2,
                    &format!("the project {name}"),
                    &op.cancel,
                )
                .await?;
                // The one who held it may have removed it: then it locks nothing.
                if lock.is_linked() {
                    break lock;
                }
            };
            let project = match self.clone().open_here().await {
                Err(error) if error.kind() == ErrorKind::NotFound => self.create_here(&op).await,
                other => other,
            };
            // Names come and go; the locks folder must not grow with them.
            if let Err(error) = disk::remove("remove a lock by name", &path) {
                tracing::warn!(%error, "the lock of a name stays for now");
            }
            project
        })
    }

    fn settings(&self) -> Result<Config> {
        self.config.clone().map_or_else(Config::load, Ok)
    }

    /// Its names, checked.
    fn names(&self) -> Result<ProjectName> {
        let name = ProjectName::new(self.name.clone())?;
        check_identifier("role", &self.role)?;
        check_identifier("database", &self.database)?;
        Ok(name)
    }

    async fn open_here(self) -> Result<Project> {
        let config = self.settings()?;
        let name = ProjectName::new(self.name)?;
        let missing = |why: String| {
            Error::new(ErrorKind::NotFound, format!("there is no project {name}{why}"))
                .with_hint(format!("create it: velo project create {name}"))
                .with_context("home", config.home.display())
        };
        let Some(home) = Engine::get()?.existing_home(&config).await? else {
            return Err(missing(format!(": nothing was made in {} yet", config.home.display())));
        };
        let record = ready(&home, &name).await?.ok_or_else(|| missing(String::new()))?;
        // Fails now, with the reason, if this build or machine lacks what the project needs.
        fits(&*home.storage(record.storage)?, &*home.runtime(record.runtime)?)?;
        Ok(Project(Arc::new(Inner { config, record, timings: Timings::default() })))
    }

    async fn create_here(self, op: &Op) -> Result<Project> {
        let config = self.settings()?;
        let name = self.names()?;
        let home = Engine::get()?.home(&config).await?;
        let runtime_kind = config.chosen_runtime();
        let runtime = home.runtime(runtime_kind)?;
        can_limit(&*runtime, config.limits)?;
        let postgres = match runtime_kind {
            RuntimeKind::Docker => image::find(&config).await?,
            _ => binaries::find(&Search::from(&config), home.host_user()).await?,
        };
        let storage = storage::build(config.storage, &config).await?;
        fits(&*storage, &*runtime)?;
        let kind = storage.capability().name.parse()?;
        let storage = home.storage(kind)?;

        let lease = home.lease()?;
        let project = ProjectRecord {
            id: Id::generate(),
            name: name.clone(),
            phase: Phase::Creating,
            lease: Some(lease),
            storage: kind,
            runtime: runtime_kind,
            libc: postgres.libc(),
            postgres,
            limits: config.limits,
            role: self.role.clone(),
            database: self.database.clone(),
            created_at: now(),
        };
        let main = self.record(&home, &project, lease, op).await;
        let main = match main {
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists
                    && crate::reconcile::run(&home).await =>
            {
                self.record(&home, &project, lease, op).await?
            }
            other => other?,
        };
        let made = self.fill(&home, &project, &main, &*storage, &*runtime, op).await;
        let done = match made {
            Ok(cut) => commit(&home, &project, &main, cut, op).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(record) => {
                let timings = op.steps.timings();
                Ok(Project(Arc::new(Inner { config, record, timings })))
            }
            Err(error) => {
                let error = home.explain(error);
                match teardown::project(&home, &project).await {
                    Ok(()) => Err(error),
                    Err(cleanup) => Err(error.with_cleanup(cleanup)),
                }
            }
        }
    }

    /// Records the project and its `main` before anything is made.
    async fn record(
        &self,
        home: &Home,
        project: &ProjectRecord,
        lease: Id,
        op: &Op,
    ) -> Result<BranchRecord> {
        let password = Password::generate()?;
        slots::taken(home, op, |asker| {
            let (project, password) = (project.clone(), password.clone());
            let candidates = home.port_candidates();
            let work = move |tx: &Tx<'_>| {
                let name = project.name.as_str();
                if tx.named::<ProjectRecord>("", name)?.is_some() {
                    return Err(taken(&project.name));
                }
                let memory = slots::memory(&project, Limits::default(), &Default::default(), false);
                if !asker.ask(tx, memory)? {
                    return Ok(Turn::Later(memory));
                }
                tx.insert(&project)?;
                vacant(tx, &project, &BranchName::main())?;
                let id = Id::generate();
                let volume = VolumeRecord {
                    id: Id::generate(),
                    project: project.id,
                    branch: Some(id),
                    source: None,
                };
                tx.insert(&volume)?;
                let main = BranchRecord {
                    id,
                    project: project.id,
                    name: Some(BranchName::main()),
                    label: None,
                    phase: Phase::Creating,
                    ephemeral: false,
                    lease: Some(lease),
                    parent: None,
                    made_from: Origin::Initdb,
                    origin: None,
                    volume: volume.id,
                    port: free_port(tx, candidates)?,
                    password,
                    wanted: true,
                    resumes: false,
                    expires: None,
                    protected: false,
                    settings: Default::default(),
                    limits: Default::default(),
                    quota: None,
                    cut: None,
                    settled: false,
                    created_at: now(),
                    timings: Timings::default(),
                };
                tx.insert(&main)?;
                Ok(Turn::Now(main))
            };
            home.state().write("record a project", work)
        })
        .await
    }

    async fn fill(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
        storage: &dyn Storage,
        runtime: &dyn Runtime,
        op: &Op,
    ) -> Result<Cut> {
        op.cancel.check()?;
        let volume = Object::Volume(main.volume);
        let label = Label::new(project.name.as_str(), main.shown(), "data");
        let mut spec = VolumeSpec::new(main.volume).label(label);
        if let Some(user) = home.server_user(&project.postgres) {
            spec = spec.owner(user.uid, user.gid);
        }
        op.steps.run("volume", storage.create_volume(spec)).await?;
        op.steps.run("initdb", self.initdb(home, project, main, storage, runtime)).await?;
        op.cancel.check()?;
        let control =
            control::read(&storage.location(volume).host_path().join("global/pg_control"))?;
        // initdb was told not to sync: all of it is synced at once, while the server starts.
        let boot = Boot {
            home,
            project,
            branch: main,
            volume: main.volume,
            doors: Doors::Open,
            fresh_clone: false,
        };
        let (came_up, synced) =
            tokio::join!(boot.run(runtime, op), op.steps.run("sync", storage.sync(volume)));
        synced?;
        came_up?;
        self.make_database(home, project, main).await?;
        Ok(Cut {
            method: Method::Stopped,
            lsn: control.checkpoint,
            next_xid: control.next_xid,
            oldest_active_xid: control.oldest_active_xid,
            timeline: control.timeline,
            at: now(),
            system_identifier: control.system_identifier,
            major: control.major,
            in_recovery: false,
            libc: project.libc,
        })
    }

    async fn initdb(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
        storage: &dyn Storage,
        runtime: &dyn Runtime,
    ) -> Result<()> {
        let user = home.server_user(&project.postgres);
        // The password reaches initdb as a verifier in a file that only the server's user reads.
        let verifier = scram::verifier(&main.password)?;
        let secret = RunDir::of(home, main.id).secret(&verifier, user.as_ref())?;
        let location = storage.location(Object::Volume(main.volume));
        let mut output = None;
        for locale in locales(self.locale.as_deref(), project.postgres.version.major) {
            let mut args: Vec<String> = [
                "-D",
                "{}",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-sync",
                "--no-instructions",
                WAL_SEGMENT,
                "--auth-local=peer",
                "--auth-host=reject",
            ]
            .map(str::to_owned)
            .to_vec();
            args.push(format!("--username={}", project.role));
            args.push(format!("--pwfile={}", secret.display()));
            args.extend(locale);
            let spec = ToolSpec {
                postgres: project.postgres.clone(),
                tool: "initdb",
                args,
                location: location.clone(),
                reads: vec![secret.clone()],
            };
            let ran = runtime.run(spec).await?;
            let again = !ran.success && self.locale.is_none() && ran.stderr.contains("locale");
            output = Some(ran);
            if !again {
                break;
            }
        }
        RunDir::of(home, main.id).forget_secret()?;
        match output {
            Some(output) if output.success => Ok(()),
            Some(output) => {
                let line = |l: &&str| l.contains("error:") || l.contains("FATAL:");
                let text = output.stderr;
                let why = text.lines().find(line).or(text.lines().last()).unwrap_or_default();
                let kind = if text.contains("No space left on device") {
                    ErrorKind::Exhausted
                } else {
                    ErrorKind::Postgres
                };
                // A server that initdb starts says when, and who it is, in front of it.
                let why = why.split_once("FATAL:").map_or(why, |(_, rest)| rest).trim();
                let why = why.strip_prefix("initdb: error:").unwrap_or(why).trim();
                let hint = match (&self.locale, kind) {
                    (_, ErrorKind::Exhausted) => "free some space and try again",
                    (Some(_), _) if why.contains("locale") => {
                        "name a locale that this machine has; it lists them: locale -a"
                    }
                    _ => "is this PostgreSQL whole? velo pg list shows the others",
                };
                Err(Error::new(kind, format!("initdb failed ({}): {why}", output.status))
                    .with_hint(hint)
                    .with_context("stderr", text))
            }
            None => Err(Error::new(ErrorKind::Internal, "no locale to try")),
        }
    }

    /// The project's database, if it is not the one that initdb makes.
    async fn make_database(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
    ) -> Result<()> {
        if project.database == "postgres" {
            return Ok(());
        }
        let socket_dir = RunDir::of(home, main.id).socket();
        let server = boot::target(&socket_dir, project, main);
        let session = Session::connect(Target { database: "postgres", ..server }).await?;
        let exists = format!(
            "SELECT count(*) FROM pg_database WHERE datname = {}",
            literal(&project.database)
        );
        if session.value("look for the database", &exists).await? == "0" {
            let sql = format!("CREATE DATABASE {}", ident(&project.database));
            session.execute("create the project's database", &sql).await?;
        }
        Ok(())
    }
}

/// In MB instead of PostgreSQL's 16. A running parent is branched file by file in backup mode, which
/// twice fills what is left of a segment with zeros: a quarter of the bytes, and of the time. And a
/// small cluster takes a third less space.
const WAL_SEGMENT: &str = "--wal-segsize=4";

/// The locale arguments to try, best first.
fn locales(chosen: Option<&str>, major: u32) -> Vec<Vec<String>> {
    match chosen {
        Some(locale) => vec![vec![format!("--locale={locale}")]],
        None if major >= 17 => vec![vec![
            "--locale=C".into(),
            "--locale-provider=builtin".into(),
            "--builtin-locale=C.UTF-8".into(),
        ]],
        None => vec![vec!["--locale=C.UTF-8".into()], vec!["--locale=C".into()]],
    }
}

/// The project of this name, if it is whole.
async fn ready(home: &Home, name: &ProjectName) -> Result<Option<ProjectRecord>> {
    let wanted = name.to_string();
    let found = home.state().read(move |tx| tx.named::<ProjectRecord>("", &wanted)).await?;
    Ok(found.filter(|project| project.phase == Phase::Ready))
}

fn taken(name: &ProjectName) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("a project {name} exists already"))
        .with_hint(format!("take another name, or delete it: velo project delete {name}"))
}

fn check_identifier(what: &str, name: &str) -> Result<()> {
    if name.is_empty()
        || name.len() > 63
        || name.chars().any(char::is_control)
        || name.starts_with("pg_")
    {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} is not a {what} name"))
            .with_hint("PostgreSQL's names have 1 to 63 bytes and do not begin with pg_"));
    }
    // Older versions know no way to write a quote in the rules of who may connect, and no extension
    // may belong to a role with one of the others: initdb makes one.
    if what == "role" && name.contains(['"', '\'', '$', '\\']) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{name:?} is not a role for Velo"),
        )
        .with_hint("name a role without quotes, dollar signs and backslashes"));
    }
    Ok(())
}

async fn commit(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    cut: Cut,
    op: &Op,
) -> Result<ProjectRecord> {
    op.cancel.check()?;
    let (project, main, timings) = (project.id, main.id, op.steps.timings());
    home.state()
        .write_durable("commit a project", move |tx| {
            tx.update(main, |branch: &mut BranchRecord| {
                branch.phase = Phase::Ready;
                branch.lease = None;
                branch.cut = Some(cut);
                branch.settled = true;
                branch.timings = timings;
                Ok(())
            })?;
            tx.update(project, |project: &mut ProjectRecord| {
                project.phase = Phase::Ready;
                project.lease = None;
                Ok(())
            })
        })
        .await
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
            .with_hint(format!("name the folder of a PostgreSQL {major}, or none")));
        }
    }
    match Installation::at(&record.postgres.bin_dir, record.postgres.source).await {
        Ok(found) if found.version.major == major => Ok(found),
        _ => binaries::find(&search.of_major(major), home.host_user()).await,
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
