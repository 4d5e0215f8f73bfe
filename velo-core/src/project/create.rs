//! The creation of a project, from top to bottom: record it and its `main`, make the data, start the
//! server, commit.

use std::sync::Arc;

use super::initdb::Cluster;
use super::{Inner, Project, ProjectBuilder, fits};
use crate::boot::{self, Doors};
use crate::create::{can_limit, first_start};
use crate::cut::Cut;
use crate::engine::{Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::{BranchName, Id, ProjectName};
use crate::import::{self, Recipe, Source};
use crate::lock::Lock;
use crate::lookup::vacant;
use crate::port;
use crate::postgres::scram::Password;
use crate::postgres::session::{Session, Target, ident, literal};
use crate::postgres::{control, image, install};
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, VolumeRecord, now};
use crate::reserve;
use crate::run_dir::RunDir;
use crate::runtime::{Limits, Runtime, RuntimeKind, StopMode};
use crate::slots::{self, Turn};
use crate::state::Tx;
use crate::storage::{self, Label, Object, Storage, VolumeSpec};
use crate::teardown::{self, Patience};
use crate::timings::Timings;

impl ProjectBuilder {
    pub(super) async fn create_here(self, op: &Op) -> Result<Project> {
        let config = self.settings()?;
        let name = self.names()?;
        let mut source = self.source.clone().map(Source::anchored).transpose()?;
        if let Some(source) = &mut source {
            source.recipe.role_is_told = self.role.is_some();
            source.recipe.database_is_told = self.database.is_some();
            source.recipe.locale.clone_from(&self.locale);
        }
        let home = Engine::get()?.home(&config).await?;
        let runtime_kind = config.chosen_runtime();
        let runtime = home.runtime(runtime_kind)?;
        can_limit(&*runtime, config.limits)?;
        let postgres = match runtime_kind {
            RuntimeKind::Docker => image::find(&config).await?,
            _ => install::find_or_unpack(&config, home.host_user(), op).await?,
        };
        let storage = storage::build(config.storage, &config).await?;
        fits(&*storage, &*runtime)?;
        let kind = storage.capability().name.parse()?;
        let storage = home.storage(kind)?;

        let share_dir = match &postgres.image {
            Some(_) => None,
            None => postgres.share_dir(home.host_user()).await,
        };
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
            share_dir,
            limits: config.limits,
            role: self.role_name().to_owned(),
            database: self.database.clone().unwrap_or_else(|| "postgres".to_owned()),
            wal_retention: self.wal_retention.map(super::builder::retention).transpose()?,
            // Whoever finds it half-way knows by this that it is an import.
            source: source.as_ref().map(|source| source.recipe.clone()),
            created_at: now(),
        };
        let recorded = self.record(&home, &project, lease, op).await;
        let (main, lock, locked_main) = match recorded {
            // What holds the name may be the ruin of a dead process.
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists
                    && crate::reconcile::run(&home).await =>
            {
                self.record(&home, &project, lease, op).await?
            }
            other => other?,
        };
        let done = match &source {
            Some(source) => self.import(&home, &project, &main, source, op).await,
            None => match self.fill(&home, &project, &main, &*storage, &*runtime, op).await {
                Ok(cut) => commit(&home, &project, &main, cut, None, self.main_runs, op).await,
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(record) => {
                drop((lock, locked_main));
                let timings = op.steps.timings();
                Ok(Project(Arc::new(Inner { config, record, timings })))
            }
            Err(error) => {
                let error = home.explain(error);
                // It goes as every branch of a project that goes does, under its own lock.
                drop(locked_main);
                match teardown::project(&home, &project, Patience::Usual).await {
                    Ok(()) => Err(error),
                    Err(cleanup) => Err(error.with_cleanup(cleanup)),
                }
            }
        }
    }

    /// Records the project and its `main` before anything is made. With the locks of both.
    async fn record(
        &self,
        home: &Home,
        project: &ProjectRecord,
        lease: Id,
        op: &Op,
    ) -> Result<(BranchRecord, Lock, Lock)> {
        let password = Password::generate()?;
        slots::taken(home, op, None, |asker| {
            let (project, password, locks) = (project.clone(), password.clone(), home.clone());
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
                    port: port::find(tx, candidates)?,
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
                    follows: None,
                    reached: None,
                    before: None,
                    created_at: now(),
                    timings: Timings::default(),
                };
                tx.insert(&main)?;
                // Held until both are ready or undone: meanwhile they are nobody else's to undo.
                let locks = (locks.lock_new(project.id)?, locks.lock_new(id)?);
                Ok(Turn::Now((main, locks.0, locks.1)))
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
        reserve::keep(home.config.home())?;
        let volume = Object::Volume(main.volume);
        let label = Label::new(project.name.as_str(), main.shown(), "data");
        let mut spec = VolumeSpec::new(main.volume).label(label);
        if let Some(user) = home.server_user(&project.postgres) {
            spec = spec.owner(user.uid, user.gid);
        }
        op.steps.run("volume", storage.create_volume(spec)).await?;
        let run_dir = RunDir::of(home, main.id);
        let cluster = Cluster {
            home,
            project,
            run_dir: &run_dir,
            volume: main.volume,
            role: &project.role,
            password: Some(&main.password),
            locale: self.locale.as_deref(),
            is_for_dump: false,
            cancel: op.cancel.clone(),
        };
        op.steps.run("initdb", cluster.make(storage, runtime)).await?;
        op.cancel.check()?;
        let control =
            control::read(&storage.location(volume).host_path().join("global/pg_control"))?;
        // initdb was told not to sync: all of it is synced at once, while the server starts.
        let (came_up, synced) = tokio::join!(
            first_start(home, project, main, Doors::Open, false, op),
            op.steps.run("sync", storage.sync(volume))
        );
        synced?;
        self.make_database(home, project, &came_up?).await?;
        self.stop_if_told(home, project, main, op).await?;
        Ok(Cut::of_stopped(&control, project.libc))
    }

    /// Brings the data of a source into `main`, and starts its server.
    async fn import(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
        source: &Source,
        op: &Op,
    ) -> Result<ProjectRecord> {
        op.cancel.check()?;
        reserve::keep(home.config.home())?;
        // In a box: the callers' futures would be nested too deep for the compiler.
        let bring = import::bring(home, project, main, main.volume, source, true, op);
        let brought = Box::pin(bring).await?;
        let project = brought.project;
        first_start(home, &project, main, Doors::Open, false, op).await?;
        self.stop_if_told(home, &project, main, op).await?;
        let recipe = Some(brought.recipe);
        commit(home, &project, main, brought.cut, recipe, self.main_runs, op).await
    }

    /// Stops `main` where it is not to run.
    async fn stop_if_told(
        &self,
        home: &Home,
        project: &ProjectRecord,
        main: &BranchRecord,
        op: &Op,
    ) -> Result<()> {
        if self.main_runs {
            return Ok(());
        }
        let stop = boot::stop(home, project, main.id, main.volume, StopMode::Fast);
        op.steps.run("stop", stop).await
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

pub(super) fn taken(name: &ProjectName) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("a project {name} exists already"))
        .with_hint(format!("take another name, or delete it: velo project delete {name}"))
}

async fn commit(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    cut: Cut,
    recipe: Option<Recipe>,
    main_runs: bool,
    op: &Op,
) -> Result<ProjectRecord> {
    op.cancel.check()?;
    let (made, main, timings) = (project.clone(), main.id, op.steps.timings());
    let project = made.id;
    home.state()
        .write_durable("commit a project", move |tx| {
            let gone = || {
                Error::new(ErrorKind::NotFound, "the project was deleted while it was made")
                    .with_hint("create it anew")
            };
            tx.update(main, |branch: &mut BranchRecord| {
                if branch.phase != Phase::Creating {
                    return Err(gone());
                }
                branch.phase = Phase::Ready;
                branch.lease = None;
                branch.wanted = main_runs;
                branch.cut = Some(cut);
                branch.settled = true;
                branch.timings = timings;
                Ok(())
            })?;
            tx.update(project, |project: &mut ProjectRecord| {
                if project.phase != Phase::Creating {
                    return Err(gone());
                }
                // What an import has found out.
                project.postgres = made.postgres;
                project.share_dir = made.share_dir;
                project.libc = made.libc;
                project.database = made.database;
                project.source = recipe;
                project.phase = Phase::Ready;
                project.lease = None;
                Ok(())
            })
        })
        .await
}
