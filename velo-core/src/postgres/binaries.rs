//! Where PostgreSQL is installed, and which version it is.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::command::Program;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::{OsUser, check_passable};
use crate::postgres::image::{Image, Libc};

/// The majors that Velo is tested with.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;

/// How long a program may take to say its version, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A version of PostgreSQL: `15.8` is major 15, minor 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// 14, 15, ….
    pub major: u32,
    /// The number behind the point; 0 for a beta.
    pub minor: u32,
}

impl Version {
    /// The version in what `postgres --version` prints: `postgres (PostgreSQL) 15.8 (Debian …)`.
    pub(crate) fn of_output(text: &str) -> Option<Self> {
        let number = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
        let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
        let mut parts = number.split('.');
        Some(Self {
            major: digits(parts.next()?).parse().ok()?,
            minor: parts.next().and_then(|minor| digits(minor).parse().ok()).unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How an installation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// The caller or the settings file named it.
    Explicit,
    /// `VELO_PG_BIN`.
    Environment,
    /// `pg_config` on `PATH`.
    Path,
    /// One of the usual folders of the system.
    System,
    /// Velo's own cache.
    Cache,
    /// A container image.
    Image,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "pg_bin",
            Self::Environment => "VELO_PG_BIN",
            Self::Path => "pg_config on PATH",
            Self::System => "system",
            Self::Cache => "Velo's cache",
            Self::Image => "image",
        })
    }
}

/// A PostgreSQL of this machine, or in a container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The folder that holds `postgres` and `initdb`; in the image, if there is one.
    pub bin_dir: PathBuf,
    /// Its version.
    pub version: Version,
    /// How it was found.
    pub source: Source,
    /// The image that holds it; `None` is this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

impl Installation {
    /// The installation whose programs are in `bin_dir`.
    ///
    /// # Errors
    /// [`ErrorKind::PostgresMissing`] if `postgres` or `initdb` is not there or does not run.
    pub async fn at(bin_dir: impl AsRef<Path>, source: Source) -> Result<Self> {
        let bin_dir = bin_dir.as_ref().to_path_buf();
        let missing = |why: String| {
            Error::new(
                ErrorKind::PostgresMissing,
                format!("{} holds no PostgreSQL that runs: {why}", bin_dir.display()),
            )
            .with_hint("name the folder that holds `postgres` and `initdb`")
        };
        // It is recorded, and stands in JSON.
        if bin_dir.to_str().is_none() {
            return Err(missing("its path is not UTF-8".into()));
        }
        let postgres = bin_dir.join("postgres");
        if !bin_dir.join("initdb").is_file() {
            return Err(missing("initdb is not there".into()));
        }
        let changed = std::fs::metadata(&postgres)
            .and_then(|m| m.modified())
            .map_err(|e| missing(format!("postgres: {e}")))?;
        if let Some(version) = remembered(&postgres, changed) {
            return Ok(Self { bin_dir, version, source, image: None });
        }
        let output = Program::new(&postgres)
            .arg("--version")
            .output(LIMIT)
            .await
            .map_err(|e| missing(e.to_string()))?;
        let version = Version::of_output(&output.stdout).ok_or_else(|| {
            missing(format!(
                "postgres --version: {}",
                output.stderr.lines().next().unwrap_or("nothing")
            ))
        })?;
        VERSIONS
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get_or_insert_default()
            .insert(postgres, (changed, version));
        Ok(Self { bin_dir, version, source, image: None })
    }

    /// The folder of what is no program, such as the control files of extensions, as it says itself. Each packager has
    /// another place for it.
    pub(crate) async fn share_dir(&self, user: Option<&OsUser>) -> Option<PathBuf> {
        let shown = Program::new(self.program("initdb"))
            .args(["--show", "-D", "/nonexistent"])
            .user(user)
            .output(LIMIT)
            .await
            .ok()?;
        let mut lines = shown.stderr.lines().chain(shown.stdout.lines());
        lines.find_map(|line| line.strip_prefix("share_path=")).map(PathBuf::from)
    }

    /// The C library it is linked with, where that is known.
    #[must_use]
    pub fn libc(&self) -> Option<Libc> {
        self.image.as_ref().map(|image| image.libc)
    }

    /// Where its programs are, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.image {
            Some(image) => format!("image {}", image.reference),
            None => self.bin_dir.display().to_string(),
        }
    }

    /// The path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Versions that were asked for in this process, by program and time of its last change.
type Versions = HashMap<PathBuf, (SystemTime, Version)>;
static VERSIONS: Mutex<Option<Versions>> = Mutex::new(None);

fn remembered(postgres: &Path, changed: SystemTime) -> Option<Version> {
    let versions = VERSIONS.lock().unwrap_or_else(|e| e.into_inner());
    let (time, version) = versions.as_ref()?.get(postgres)?;
    (*time == changed).then_some(*version)
}

/// Where to look for a PostgreSQL, and for which.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Search {
    /// The folder that the caller or the settings file names.
    pub explicit: Option<PathBuf>,
    /// The folder that `VELO_PG_BIN` names.
    pub environment: Option<PathBuf>,
    /// A folder that is looked into before others, and passed over where it does not fit: one that the settings name
    /// below a version.
    pub(crate) preferred: Option<(PathBuf, Source)>,
    /// Velo's cache.
    pub cache: PathBuf,
    /// The major version that is wanted.
    pub major: Option<u32>,
}

impl From<&Config> for Search {
    fn from(config: &Config) -> Self {
        let dir = config.pg_bin.clone();
        let (explicit, environment, preferred) = match (config.pg_bin_from_env, config.pg_bin_binds)
        {
            (true, true) => (None, dir, None),
            (false, true) => (dir, None, None),
            (true, false) => (None, None, dir.map(|dir| (dir, Source::Environment))),
            (false, false) => (None, None, dir.map(|dir| (dir, Source::Explicit))),
        };
        let (cache, major) = (config.cache.clone(), config.pg_version);
        Self { explicit, environment, preferred, cache, major }
    }
}

impl Search {
    /// The same search for one major.
    #[must_use]
    pub fn of_major(mut self, major: u32) -> Self {
        self.major = Some(major);
        self
    }

    /// The folder that somebody named, which is used or refused but never passed over.
    #[must_use]
    pub fn named(&self) -> Option<(&Path, Source)> {
        let explicit = self.explicit.as_deref().map(|dir| (dir, Source::Explicit));
        let environment = self.environment.as_deref();
        explicit.or(environment.map(|dir| (dir, Source::Environment)))
    }

    /// Every PostgreSQL that runs, best first.
    pub async fn list(&self) -> Vec<Installation> {
        let mut found: Vec<Installation> = Vec::new();
        for (dir, source) in self.candidates().await {
            let Ok(dir) = dir.canonicalize() else {
                continue;
            };
            if found.iter().any(|f| f.bin_dir == dir) {
                continue;
            }
            match Installation::at(&dir, source).await {
                Ok(installation) => found.push(installation),
                Err(error) => tracing::debug!(%error, "passed over"),
            }
        }
        found
    }

    /// The folders to look into, best first.
    async fn candidates(&self) -> Vec<(PathBuf, Source)> {
        let mut dirs = Vec::new();
        dirs.extend(self.explicit.iter().map(|dir| (dir.clone(), Source::Explicit)));
        dirs.extend(self.environment.iter().map(|dir| (dir.clone(), Source::Environment)));
        dirs.extend(self.preferred.clone());
        dirs.extend(on_path().await.map(|dir| (dir, Source::Path)));
        for pattern in [
            "/usr/lib/postgresql/{}/bin",
            "/usr/pgsql-{}/bin",
            "/opt/homebrew/opt/postgresql@{}/bin",
            "/usr/local/opt/postgresql@{}/bin",
        ] {
            let newest_first = SUPPORTED.rev();
            dirs.extend(newest_first.map(|major| {
                (PathBuf::from(pattern.replace("{}", &major.to_string())), Source::System)
            }));
        }
        dirs.push(("/usr/local/pgsql/bin".into(), Source::System));
        dirs.push(("/usr/lib/postgresql/bin".into(), Source::System));
        dirs.extend(cached(&self.cache).into_iter().map(|dir| (dir, Source::Cache)));
        dirs
    }
}

/// The folders of the cache, newest version first.
pub(crate) fn cached(cache: &Path) -> Vec<PathBuf> {
    let number = |name: &str| -> Option<(u32, u32)> {
        let (major, minor) = name.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let mut versions: Vec<_> = std::fs::read_dir(cache.join("pg"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((number(entry.file_name().to_str()?)?, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

async fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let pg_config =
        std::env::split_paths(&path).map(|dir| dir.join("pg_config")).find(|p| p.is_file())?;
    let output = Program::new(pg_config).arg("--bindir").output(LIMIT).await.ok()?;
    output.success.then(|| PathBuf::from(output.stdout.trim()))
}

/// The PostgreSQL to use, which servers can run as `user`.
pub(crate) async fn find(search: &Search, user: Option<&OsUser>) -> Result<Installation> {
    let passable =
        |dir: &Path| user.map_or(Ok(()), |user| check_passable(dir, user, "VELO_PG_BIN"));
    if let Some((dir, source)) = search.named() {
        let found = Installation::at(dir, source).await?;
        passable(&found.bin_dir)?;
        check_supported(&found)?;
        if let Some(major) = search.major
            && major != found.version.major
        {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!("{source} names PostgreSQL {}, and {major} is wanted", found.version),
            )
            .with_context("folder", dir.display())
            .with_hint(match source {
                Source::Environment => "unset VELO_PG_BIN or VELO_PG_VERSION",
                _ => "give `pg_bin` or `pg_version`, not both",
            }));
        }
        return Ok(found);
    }
    let mut passed_over = None;
    for found in search.list().await {
        if search.major.is_some_and(|major| major != found.version.major) {
            continue;
        }
        match passable(&found.bin_dir).and_then(|()| check_supported(&found)) {
            Ok(()) => return Ok(found),
            Err(error) => passed_over = Some(error),
        }
    }
    let (first, last) = (SUPPORTED.start(), SUPPORTED.end());
    let (what, hint) = match search.major {
        Some(major) if major < *first => (
            format!("PostgreSQL {major}"),
            format!("Velo needs {first} or later: name a major from {first} to {last}, or none"),
        ),
        Some(major) if major > *last => (
            format!("PostgreSQL {major}"),
            format!(
                "name a major from {first} to {last}, or set VELO_PG_BIN to the folder that holds \
                 a `postgres` of that version"
            ),
        ),
        major => {
            let number = major.map_or_else(String::new, |major| format!(" {major}"));
            let hint = format!(
                "velo pg install{number}; or install the package postgresql; or set VELO_PG_BIN to \
                 the folder that holds `postgres`"
            );
            (format!("PostgreSQL{number}"), hint)
        }
    };
    let error =
        Error::new(ErrorKind::PostgresMissing, format!("no {what} was found")).with_hint(hint);
    Err(match passed_over {
        Some(passed_over) => error.with_source(passed_over),
        None => error,
    })
}

pub(crate) fn check_supported(found: &Installation) -> Result<()> {
    let major = found.version.major;
    if major > *SUPPORTED.end() {
        tracing::warn!(version = %found.version, "Velo is not tested with this PostgreSQL");
    }
    if major >= *SUPPORTED.start() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!("PostgreSQL {} in {} is too old", found.version, found.place()),
    )
    .with_hint("Velo needs 14 or later: velo pg install"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_what_postgres_prints() {
        for (text, major, minor) in [
            ("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n", 15, 8),
            ("postgres (PostgreSQL) 18.6\n", 18, 6),
            ("postgres (PostgreSQL) 19beta1\n", 19, 0),
            ("postgres (PostgreSQL) 16devel\n", 16, 0),
        ] {
            assert_eq!(Version::of_output(text), Some(Version { major, minor }), "{text}");
        }
        assert_eq!(Version::of_output("psql 15"), None);
    }

    #[test]
    fn records_from_before_images_are_read() {
        let old = r#"{"bin_dir":"/b","version":{"major":15,"minor":8},"source":"system"}"#;
        let found: Installation = serde_json::from_str(old).unwrap();
        assert_eq!((found.image.as_ref(), found.place().as_str()), (None, "/b"));
        assert_eq!(serde_json::to_string(&found).unwrap(), old);
    }

    #[test]
    fn the_cache_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9.6", "15.10", "15.9", "18.1", ".tmp-1", "x"] {
            std::fs::create_dir_all(dir.path().join("pg").join(name)).unwrap();
        }
        let names: Vec<_> = cached(dir.path())
            .iter()
            .map(|p| p.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["18.1", "15.10", "15.9", "9.6"]);
    }
}
