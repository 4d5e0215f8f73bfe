//! The story of an import, from top to bottom.
//!
//! 1. The volume is made, empty, and the source is looked at: what does not fit is refused before a byte
//!    comes.
//! 2. The data comes: files, or a cluster that is made here and that a dump is read into.
//! 3. A superuser of Velo's own is made in it, without a server. All other roles stay as they are.
//! 4. A server is started on it that lets in nobody but Velo; dumps are read into that one.
//! 5. What reaches out is cut off, transforms are run, columns are masked.
//! 6. The server is stopped cleanly, and all is on disk.
//!
//! Whoever called it makes `main` of that volume, and nobody can branch it before. A failure anywhere, or a
//! caller who no longer waits, leaves what the teardown of the project, or of the reset, removes.

use super::basebackup::Logs;
use super::check;
use super::conninfo::{Conninfo, Surroundings};
use super::own_role;
use super::pass_file;
use super::progress::{self, Stage, Watch};
use super::remote::Facts;
use super::source::{Method, Place, Recipe, Secret, Source};
use crate::boot::{self, Boot, Doors, Loading};
use crate::cut::Cut;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::postgres::session::{Session, Target};
use crate::postgres::{control, install, subscriptions};
use crate::record::{BranchRecord, ProjectRecord, now};
use crate::run_dir::RunDir;
use crate::runtime::{Runtime, RuntimeKind, StopMode};
use crate::storage::{FileOp, Label, Location, Object, Storage, VolumeSpec};
use std::sync::Arc;

/// What has come.
pub(crate) struct Brought {
    /// With the PostgreSQL, the role and the database that fit it.
    pub(crate) project: ProjectRecord,
    pub(crate) cut: Cut,
    /// As it is to be recorded.
    pub(crate) recipe: Recipe,
}

/// What an import works with.
pub(super) struct Import<'a> {
    pub(super) home: &'a Home,
    pub(super) project: ProjectRecord,
    pub(super) branch: &'a BranchRecord,
    pub(super) volume: Id,
    pub(super) recipe: Recipe,
    pub(super) watch: Option<&'a Watch>,
    pub(super) op: &'a Op,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) location: Location,
    pub(super) run_dir: RunDir,
    /// Whether Velo's role may be one that is there.
    pub(super) role_is_told: bool,
    /// Whether it is the first import, which finds out what fits: its PostgreSQL, and its database.
    pub(super) is_first: bool,
    /// Whether the source was named now, and not recorded.
    pub(super) is_new: bool,
    /// Whether its password is to be recorded.
    saves_password: bool,
    /// The server that it comes from.
    pub(super) server: Option<Conninfo>,
    /// The lines of the password file for that one, where there are any.
    pub(super) secret: Option<String>,
    /// Where that one's logs are.
    pub(super) logs: Logs,
}

/// Brings the data of `source` into the volume, whose record exists and which is not made yet.
pub(crate) async fn bring(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    volume: Id,
    source: &Source,
    is_first: bool,
    op: &Op,
) -> Result<Brought> {
    let mut import = Import::new(home, project, branch, volume, source, is_first, op)?;
    import.prepare_files()?;
    import.make_volume().await?;
    let facts = match import.recipe.place.clone() {
        Place::Server(words) => Some(import.look(conninfo(source, &words)?).await?),
        Place::Files(_) | Place::Sql(_) => None,
    };
    let method = match (&import.recipe.place, &facts) {
        (Place::Files(_), _) => Method::Files,
        (Place::Sql(_), _) => Method::Sql,
        (Place::Server(_), Some(facts)) => import.choose(facts).await?,
        (Place::Server(_), None) => {
            return Err(Error::new(ErrorKind::Internal, "a server that was not looked at"));
        }
    };
    op.cancel.check()?;
    match (method, &facts) {
        (Method::Basebackup, Some(facts)) => import.basebackup(facts).await?,
        (Method::Files, _) => import.adopt().await?,
        (_, facts) => import.new_cluster(facts.as_ref()).await?,
    }
    op.cancel.check()?;
    op.steps.run("role", own_role::make(&import)).await?;
    let loading =
        Loading { settings: import.loading_settings(method), any_collation: import.recipe.reindex };
    import.up(&loading).await?;
    match (method, &facts) {
        (Method::Dump, Some(facts)) => import.load_dump(facts).await?,
        (Method::Sql, _) => import.load_sql().await?,
        _ => {}
    }
    op.cancel.check()?;
    import.check_database().await?;
    if method.is_physical() {
        import.check_libraries().await?;
        match import.recipe.reindex {
            true => import.reindex().await?,
            false => import.check_collations().await?,
        }
    }
    import.cut_off().await?;
    import.transform().await?;
    import.mask().await?;
    if method == Method::Dump || method == Method::Sql {
        import.analyze().await?;
    }
    op.cancel.check()?;
    let old = match method.is_physical() {
        true => {
            import.forget_rows().await?;
            op.cancel.guard(import.old_files()).await??
        }
        false => Vec::new(),
    };
    let cut = import.down(old).await?;
    import.recipe.used = Some(method);
    import.recipe.brought_at = Some(now());
    Ok(Brought { project: import.project, cut, recipe: import.recipe })
}

/// How the server of a source is reached, with the password that somebody gave, and the one that is recorded.
pub(super) fn conninfo(source: &Source, words: &str) -> Result<Conninfo> {
    let text = |password: &Option<Secret>| password.as_ref().map(|password| password.0.clone());
    Ok(Conninfo::parse(words)?.with_password(text(&source.password), text(&source.recipe.password)))
}

impl<'a> Import<'a> {
    /// One into this volume.
    pub(super) fn new(
        home: &'a Home,
        project: &ProjectRecord,
        branch: &'a BranchRecord,
        volume: Id,
        source: &'a Source,
        is_first: bool,
        op: &'a Op,
    ) -> Result<Self> {
        let storage = home.storage(project.storage)?;
        let mut recipe = source.recipe.clone();
        recipe.notes.clear();
        Ok(Self {
            home,
            project: project.clone(),
            branch,
            volume,
            recipe,
            watch: source.watch.as_ref(),
            op,
            runtime: home.runtime(project.runtime)?,
            location: storage.location(Object::Volume(volume)),
            storage,
            run_dir: RunDir::of(home, volume),
            role_is_told: source.recipe.role_is_told,
            is_first,
            is_new: source.is_new,
            saves_password: source.saves_password,
            server: None,
            secret: None,
            logs: Logs::default(),
        })
    }
}

impl Import<'_> {
    pub(super) async fn make_volume(&self) -> Result<()> {
        let label = Label::new(self.project.name.as_str(), self.branch.shown(), "data");
        let mut spec = VolumeSpec::new(self.volume).label(label);
        let user = self.home.server_user(&self.project.postgres);
        if let Some(user) = &user {
            spec = spec.owner(user.uid, user.gid);
        }
        self.op.steps.run("volume", self.storage.create_volume(spec)).await?;
        self.run_dir.make(user.as_ref())
    }

    /// Looks at the server that it comes from. What led to it is recorded, so that each refresh comes to the same one.
    pub(super) async fn look(&mut self, conninfo: Conninfo) -> Result<Facts> {
        let around = match self.is_new {
            true => Surroundings::of_this_process(),
            false => Surroundings::of_a_record(),
        };
        let reached = conninfo.resolved(&around)?;
        self.secret = Some(reached.pass_file).filter(|lines| !lines.is_empty());
        let server = reached.server;
        if !self.recipe.database_is_told
            && self.is_first
            && let Some(name) = server.get("dbname")
        {
            self.project.database = name.to_owned();
        }
        let shown = server.get("host").unwrap_or("the server").to_owned();
        progress::begin(self.watch, Stage::Check, &shown);
        self.server = Some(server);
        let mut let_in = reached.password;
        let facts = match (self.op.steps.run("look", self.facts()).await, reached.other) {
            // The recorded one is out of date.
            (Err(error), Some(other)) if error.kind() == ErrorKind::PermissionDenied => {
                self.secret = Some(pass_file::of_everybody(&other));
                self.run_dir.forget_secret()?;
                let_in = Some(other);
                self.op.steps.run("look", self.facts()).await?
            }
            (facts, _) => facts?,
        };
        self.recipe.place = Place::Server(reached.named);
        self.recipe.keep_password(self.saves_password, let_in);
        tracing::info!(major = facts.major(), bytes = facts.bytes(), "the source was looked at");
        Ok(facts)
    }

    /// The way that fits, or the one that was told, if it can be gone.
    async fn choose(&mut self, facts: &Facts) -> Result<Method> {
        match self.recipe.method {
            Some(Method::Dump) => {}
            Some(_) => {
                self.can_basebackup(facts).await?;
                return Ok(Method::Basebackup);
            }
            None => match self.can_basebackup(facts).await {
                Ok(()) => return Ok(Method::Basebackup),
                // What is not there would be missing in a dump, too.
                Err(error) if matches!(error.kind(), ErrorKind::Canceled | ErrorKind::NotFound) => {
                    return Err(error);
                }
                Err(error) => {
                    self.note(format!("it was dumped, for it cannot be copied: {error}"));
                }
            },
        }
        check::dump(self, facts).await?;
        Ok(Method::Dump)
    }

    async fn can_basebackup(&mut self, facts: &Facts) -> Result<()> {
        check::rights(self, facts).await?;
        self.use_major(facts.major()).await?;
        check::basebackup(self, facts).await
    }

    /// Takes a PostgreSQL of the source's major.
    pub(super) async fn use_major(&mut self, major: u32) -> Result<()> {
        let have = self.project.postgres.version;
        if have.major == major {
            return Ok(());
        }
        // A folder is no server that could be dumped.
        let is_dumped = matches!(self.recipe.place, Place::Server(_)) && have.major > major;
        let or = if is_dumped { ", or use --method dump" } else { "" };
        let refused = |hint: String| {
            let what = format!("the source is PostgreSQL {major}, and the project's is {have}");
            Err(Error::new(ErrorKind::Incompatible, what).with_hint(hint))
        };
        if self.project.runtime == RuntimeKind::Docker {
            return refused(format!(
                "files fit their own major alone: name an image of it (--image postgres:{major}){or}"
            ));
        }
        let config = &self.home.config;
        if !self.is_first || config.pg_version.is_some_and(|wanted| wanted != major) {
            return refused(format!(
                "files fit their own major alone: use PostgreSQL {major} (--pg-version {major}){or}"
            ));
        }
        let mut wanted = config.clone();
        wanted.pg_version = Some(major);
        let user = self.home.host_user();
        let found = install::find_or_unpack(&wanted, user, self.op).await.map_err(|error| {
            match error.kind() {
                ErrorKind::PostgresMissing => Error::new(
                    ErrorKind::PostgresMissing,
                    format!("the source is PostgreSQL {major}, and none of it is here"),
                )
                .with_hint(format!("install it (velo pg install {major}){or}"))
                .with_source(error),
                _ => error,
            }
        })?;
        if found.version.major != major {
            return refused(format!("use PostgreSQL {major}: velo pg install {major}"));
        }
        self.project.share_dir = found.share_dir(user).await;
        self.project.libc = found.libc();
        self.project.postgres = found;
        Ok(())
    }

    pub(super) fn note(&mut self, what: String) {
        tracing::info!(what, "of an import");
        self.recipe.notes.push(what);
    }

    /// Where Velo connects to its server.
    pub(super) fn target<'a>(&'a self, socket_dir: &'a std::path::Path) -> Target<'a> {
        boot::target(socket_dir, &self.project, self.branch)
    }

    /// A session in a database of its server.
    pub(super) async fn session(&self, database: &str) -> Result<Session> {
        Session::connect_to(self.target(&self.run_dir.socket()), database).await
    }

    /// The databases of its server that take connections.
    pub(super) async fn databases(&self) -> Result<Vec<String>> {
        let session = Session::connect(self.target(&self.run_dir.socket())).await?;
        let rows = session
            .rows(
                "list its databases",
                "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 \
                 ORDER BY datname",
            )
            .await?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// Nobody needs what is on disk before all of it is there.
    fn loading_settings(&self, method: Method) -> Vec<(String, String)> {
        let mut settings = vec![
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("max_wal_size", "4GB"),
            // WAL that nothing needs goes, with the rows that are in it, and no segment is used again.
            ("wal_recycle", "off"),
            ("wal_keep_size", "0"),
            // While it looks at rows, those that are masked meanwhile cannot be removed.
            ("autovacuum", "off"),
        ];
        settings.push(match method.is_physical() {
            // No worker of a library's works on a copy before transforms have seen it. It has recovered: no recovery
            // asks for as many as there were.
            true => ("max_worker_processes", "0"),
            false => ("maintenance_work_mem", "256MB"),
        });
        if self.project.postgres.version.major >= 17 {
            // It would keep WAL.
            settings.push(("summarize_wal", "off"));
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Starts the server that data is brought into.
    pub(super) async fn up(&self, loading: &Loading) -> Result<()> {
        let boot = Boot {
            home: self.home,
            project: &self.project,
            branch: self.branch,
            volume: self.volume,
            doors: Doors::Private,
            fresh_clone: true,
            replay: None,
            loading: Some(loading),
        };
        // In a box: the callers' futures would be nested too deep for the compiler.
        let up = Box::pin(boot.run(&*self.runtime, self.op));
        self.op.steps.run("boot", up).await.map_err(check::explain)
    }

    /// The project's database has to be there. Where nobody named one, it is the only one beside those that every
    /// cluster has.
    async fn check_database(&mut self) -> Result<()> {
        let found = self.databases().await?;
        let own = |name: &&String| !["postgres", "template1"].contains(&name.as_str());
        let mut users = found.iter().filter(own);
        let only = users.next().filter(|_| users.next().is_none());
        if self.database_is_open() {
            let first = only.or_else(|| found.iter().find(|name| *name == "postgres"));
            if let Some(name) = first.or_else(|| found.first()) {
                self.project.database.clone_from(name);
            }
        }
        if found.contains(&self.project.database) {
            return Ok(());
        }
        Err(check::no_database(&self.project.database, &found))
    }

    /// Whether nobody has said, in any way, which database URLs name, so that the data will.
    pub(super) fn database_is_open(&self) -> bool {
        let of_url = self.server.as_ref().is_some_and(|server| server.get("dbname").is_some());
        let is_told = self.recipe.database_is_told || of_url;
        self.is_first && !is_told && self.project.database == "postgres"
    }

    /// Subscriptions of the source's would be Velo's to end, with the slots of their publishers.
    async fn cut_off(&self) -> Result<()> {
        let socket_dir = self.run_dir.socket();
        let target = self.target(&socket_dir);
        let session = Session::connect(target).await?;
        if !session.copy("look for subscriptions", "pg_subscription (oid)").await?.is_empty() {
            subscriptions::cut_off(&session, target).await?;
        }
        Ok(())
    }

    /// Gathers what the planner goes by, which no dump holds.
    async fn analyze(&self) -> Result<()> {
        for database in self.databases().await? {
            self.op.cancel.check()?;
            let session = self.session(&database).await?;
            let work = super::masking::gather(&session);
            self.op.steps.run("analyze", self.op.cancel.guard(work)).await??;
        }
        Ok(())
    }

    /// Stops its server, removes `old` files, and gives the moment that the data holds.
    async fn down(&self, old: Vec<FileOp>) -> Result<Cut> {
        let stop =
            boot::stop(self.home, &self.project, self.branch.id, self.volume, StopMode::Fast);
        self.op.steps.run("stop", stop).await?;
        self.run_dir.remove()?;
        if !old.is_empty() {
            self.storage.edit(Object::Volume(self.volume), old).await?;
        }
        self.op.steps.run("sync", self.storage.sync(Object::Volume(self.volume))).await?;
        let control = control::read(&self.location.host_path().join(control::FILE))?;
        if !control.was_shut_down() {
            let what = "the server that data was brought into ended before it was stopped";
            return Err(Error::new(ErrorKind::Postgres, what).with_hint("try again"));
        }
        Ok(Cut::of_stopped(&control, self.project.libc))
    }
}
