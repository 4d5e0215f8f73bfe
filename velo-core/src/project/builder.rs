//! What a project is opened or made with.

use std::sync::Arc;
use std::time::Duration;

use super::create::taken;
use super::{Inner, Project, fits, ready};
use crate::cancel::Cancel;
use crate::config::Config;
use crate::disk;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::NAMED;
use crate::id::ProjectName;
use crate::import::{Place, Source};
use crate::lock::{Lock, Mode};
use crate::timings::Timings;

/// Opens or creates a [`Project`] with other settings than the environment's.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProjectBuilder {
    pub(super) name: String,
    pub(super) config: Option<Config>,
    pub(super) role: Option<String>,
    pub(super) database: Option<String>,
    pub(super) locale: Option<String>,
    /// Whether `main` of a new project runs once that is made.
    pub(super) main_runs: bool,
    pub(super) wal_retention: Option<Duration>,
    pub(super) source: Option<Source>,
}

impl ProjectBuilder {
    /// The settings to use instead of those of the file and the environment.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// For a new project: the superuser that URLs name (`postgres` unless told; `velo` in data that is brought
    /// [from](Self::from) elsewhere, where it is Velo's own).
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// For a new project: the database that URLs name. Unless told it is `postgres`; in data that is brought
    /// [from](Self::from) elsewhere the only one that was [chosen](Source::databases), else that of the source's URL or
    /// of the dump, or the only one beside `postgres`.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// For a new project: the locale of its databases, as `initdb --locale` takes it. Unless told
    /// it is `C.UTF-8`, which sorts by code point and does not depend on the system's version. Data that is brought
    /// [from](Self::from) elsewhere has its own; only of a dump in a file it is that of the databases whose locale the
    /// dump does not name.
    pub fn locale(mut self, locale: impl Into<String>) -> Self {
        self.locale = Some(locale.into());
        self
    }

    /// For a new project: `main` is stopped before the project is there, so that nobody who is killed leaves it running.
    /// For suites, whose seeds are cloned from its files.
    pub fn main_stopped(mut self) -> Self {
        self.main_runs = false;
        self
    }

    /// For a new project: keeps the WAL of its lasting branches for so long, and with it every moment of
    /// theirs. See [`BranchSpec::at`](crate::BranchSpec::at), and
    /// [`Project::set_wal_retention`] for one that is there.
    pub fn wal_retention(mut self, time: Duration) -> Self {
        self.wal_retention = Some(time);
        self
    }

    /// For a new project: real data that its `main` begins with, instead of an empty cluster. It is there, masked
    /// and transformed, before anybody can branch it, and [`Project::refresh`] brings it anew.
    pub fn from(mut self, source: Source) -> Self {
        self.source = Some(source);
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
    ///
    /// With a [source](Self::from), whose data does not come: [`ErrorKind::InvalidInput`] for a locale that it cannot
    /// be given, [`ErrorKind::PermissionDenied`] for a wrong password or too few rights, [`ErrorKind::NotFound`] for a
    /// database that it has not, [`ErrorKind::Incompatible`] for what does not fit this machine,
    /// [`ErrorKind::Exhausted`], [`ErrorKind::Postgres`]. Nothing is left then.
    pub async fn create(self) -> Result<Project> {
        self.create_call().await
    }

    /// The same until `cancel` asks it to stop: then what was done is undone, and that is waited for.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`ErrorKind::Canceled`].
    pub async fn create_unless(self, cancel: &Cancel) -> Result<Project> {
        let work = move |op: Op| async move { self.create_here(&op).await };
        engine::call_unless(cancel.clone(), work).await
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
            match self.clone().open_here().await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
            let config = self.settings()?;
            let home = Engine::get()?.home(&config).await?;
            let name = ProjectName::new(self.name.clone())?;
            // Before the lock: one that a dead process leaves is found by its lease.
            home.lease()?;
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
            // Whoever held it may have made it.
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

    pub(super) fn settings(&self) -> Result<Config> {
        self.config.clone().map_or_else(Config::load, Ok)
    }

    /// Its names, checked.
    pub(super) fn names(&self) -> Result<ProjectName> {
        let name = ProjectName::new(self.name.clone())?;
        check_identifier("role", self.role_name())?;
        check_identifier("database", self.database.as_deref().unwrap_or("postgres"))?;
        if let Some(time) = self.wal_retention {
            retention(time)?;
        }
        self.check_locale()?;
        Ok(name)
    }

    /// An error where somebody wishes a locale that data which has its own could not be given.
    fn check_locale(&self) -> Result<()> {
        let (Some(locale), Some(source)) = (&self.locale, &self.source) else { return Ok(()) };
        if matches!(source.recipe.place, Place::Sql(_)) {
            return Ok(());
        }
        let place = &source.recipe.place;
        let what = format!("the data of {place} has its own locale, and is not given {locale:?}");
        Err(Error::new(ErrorKind::InvalidInput, what).with_hint(
            "leave the locale out (--locale): it is for an empty project, and for a dump in a file that names none",
        ))
    }

    pub(super) fn role_name(&self) -> &str {
        let own = if self.source.is_some() { "velo" } else { "postgres" };
        self.role.as_deref().unwrap_or(own)
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
}

/// The longest time that WAL is kept, in seconds.
const LONGEST: u64 = 8000 * 366 * 86_400;

/// How long WAL is kept, in seconds.
pub(super) fn retention(time: Duration) -> Result<u64> {
    match time.as_secs() {
        0 => Err(Error::new(ErrorKind::InvalidInput, "WAL is kept for at least a second")
            .with_hint("name a time like 7d, or none")),
        // Others than Velo, such as Python, know no longer time.
        seconds if seconds > LONGEST => {
            Err(Error::new(ErrorKind::InvalidInput, "WAL is kept for 8000 years at most")
                .with_hint("name a time like 7d, or none"))
        }
        seconds => Ok(seconds),
    }
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
