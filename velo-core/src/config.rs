//! Settings: a file, under the environment, under the builder.
//!
//! | key | variable | meaning | default |
//! |---|---|---|---|
//! | `home` | `VELO_HOME` | the folder that holds all of Velo's state and data | `/var/lib/velo` as root, else `$XDG_DATA_HOME/velo` or `~/.local/share/velo` |
//! | `cache` | `VELO_CACHE` | the folder for fetched PostgreSQL installations | `/var/cache/velo` as root, else `$XDG_CACHE_HOME/velo` or `~/.cache/velo` |
//! | `storage` | `VELO_STORAGE` | storage of new projects: `auto`, `zfs`, `btrfs`, `reflink`, `copy` | `auto` |
//! | `zfs_dataset` | `VELO_ZFS_DATASET` | the dataset whose children ZFS volumes are | the one that the home is on |
//! | `zfs_properties` | | a table of properties of ZFS volumes | `recordsize = "8k"`, `compression = "lz4"`, `atime = "off"` |
//! | `runtime` | `VELO_RUNTIME` | runtime of new projects: `auto` (`docker` where an image is named, else `process`), `process`, `docker` | `auto` |
//! | `image` | `VELO_IMAGE` | the image that servers of new projects run in containers: `postgres:18`, … | `postgres` with the major as its tag |
//! | `memory` | `VELO_MEMORY` | the most memory of each server of a new project, in containers: `2G`, … | no limit |
//! | `cpus` | `VELO_CPUS` | the most processors of each, in containers: `1.5`, … | no limit |
//! | `shm_size` | `VELO_SHM_SIZE` | the most shared memory for parallel queries of each, in containers | `1G` |
//! | `pg_bin` | `VELO_PG_BIN` | the folder of the `postgres` to use for new projects | found |
//! | `pg_version` | `VELO_PG_VERSION` | the major version for new projects | the newest found |
//! | `user` | `VELO_USER` | the user that servers run as where Velo is root | `postgres`, else `nobody` |
//! | `ports` | `VELO_PORTS` | the TCP ports of servers, `first-last` | `21000-29999` |
//! | `start_timeout` | `VELO_START_TIMEOUT` | how long a server may take until it answers, in seconds | `120` |
//! | `max_running` | `VELO_MAX_RUNNING` | the most servers of the home that may live at once | no limit |
//! | `max_memory` | `VELO_MAX_MEMORY` | the most memory that its servers may be given together: `8G`, … | no limit |
//! | `slot_timeout` | `VELO_SLOT_TIMEOUT` | how long a new server waits where these are reached, in seconds; `0` is not at all | `60` |
//! | `keep_free` | `VELO_KEEP_FREE` | the space that a clone must leave free in the home, `48M` at least | `48M` |
//!
//! The file is `$VELO_CONFIG`, else `/etc/velo.toml` as root, else `$XDG_CONFIG_HOME/velo.toml` or
//! `~/.config/velo.toml`; it may be missing. An unknown key, or a variable `VELO_…` that is none of
//! these, is an error (but for `VELO_TEST_…`, which tests use).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{Limits, RuntimeKind};
use crate::storage::StorageKind;

/// Every variable, for whoever has misspelt one.
const VARIABLES: [&str; 19] = [
    "VELO_HOME",
    "VELO_CACHE",
    "VELO_STORAGE",
    "VELO_ZFS_DATASET",
    "VELO_RUNTIME",
    "VELO_IMAGE",
    "VELO_MEMORY",
    "VELO_CPUS",
    "VELO_SHM_SIZE",
    "VELO_PG_BIN",
    "VELO_PG_VERSION",
    "VELO_USER",
    "VELO_PORTS",
    "VELO_START_TIMEOUT",
    "VELO_MAX_RUNNING",
    "VELO_MAX_MEMORY",
    "VELO_SLOT_TIMEOUT",
    "VELO_KEEP_FREE",
    "VELO_CONFIG",
];

/// The settings that everything is done with.
///
/// ```
/// use velo_core::{Config, storage::StorageKind};
/// let config = Config::builder().home("/srv/velo").storage(StorageKind::Btrfs).build()?;
/// assert_eq!(config.home(), std::path::Path::new("/srv/velo"));
/// # Ok::<(), velo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) home: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) storage: StorageKind,
    pub(crate) zfs_dataset: Option<String>,
    pub(crate) zfs_properties: BTreeMap<String, String>,
    pub(crate) runtime: RuntimeKind,
    pub(crate) image: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) pg_bin: Option<PathBuf>,
    /// `pg_bin` came from the environment, not from the file or the caller.
    pub(crate) pg_bin_from_env: bool,
    pub(crate) pg_version: Option<u32>,
    pub(crate) user: Option<String>,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) start_timeout: Duration,
    pub(crate) max_running: Option<u32>,
    /// In bytes.
    pub(crate) max_memory: Option<u64>,
    pub(crate) slot_timeout: Duration,
    /// In bytes.
    pub(crate) keep_free: u64,
}

/// What a clone may need beside its data: the parent's checkpoint, a segment of WAL for the parent
/// and one for the clone. A server that meets a full disk in the middle of it panics.
pub(crate) const ROOM: u64 = 48 << 20;

/// The longest wait for a slot, in seconds: a day.
const MAX_WAIT: u64 = 86_400;

impl Config {
    /// The settings of the file and the environment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an unknown key, variable or value.
    pub fn load() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings that the caller gives, over those of the environment and the file.
    #[must_use]
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The folder that holds all of Velo's state and data.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder for fetched PostgreSQL installations.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The storage of new projects.
    #[must_use]
    pub fn storage(&self) -> StorageKind {
        self.storage
    }

    /// The runtime of new projects.
    #[must_use]
    pub fn runtime(&self) -> RuntimeKind {
        self.runtime
    }

    /// The runtime that new projects get: never `auto`.
    #[must_use]
    pub fn chosen_runtime(&self) -> RuntimeKind {
        match (self.runtime, &self.image) {
            (RuntimeKind::Auto, Some(_)) => RuntimeKind::Docker,
            (RuntimeKind::Auto, None) => RuntimeKind::Process,
            (named, _) => named,
        }
    }

    /// The image that servers of new projects run in containers.
    #[must_use]
    pub fn image(&self) -> String {
        self.image.clone().unwrap_or_else(|| {
            let newest = *crate::postgres::binaries::SUPPORTED.end();
            format!("postgres:{}", self.pg_version.unwrap_or(newest))
        })
    }

    /// The major version of PostgreSQL for new projects, if it is set.
    #[must_use]
    pub fn pg_version(&self) -> Option<u32> {
        self.pg_version
    }

    /// The TCP ports that servers may take.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }
}

/// One source of settings, with what it does not say left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    home: Option<PathBuf>,
    cache: Option<PathBuf>,
    storage: Option<StorageKind>,
    zfs_dataset: Option<String>,
    zfs_properties: Option<BTreeMap<String, String>>,
    runtime: Option<RuntimeKind>,
    image: Option<String>,
    memory: Option<String>,
    cpus: Option<String>,
    shm_size: Option<String>,
    pg_bin: Option<PathBuf>,
    pg_version: Option<u32>,
    user: Option<String>,
    ports: Option<String>,
    start_timeout: Option<u64>,
    max_running: Option<u32>,
    max_memory: Option<String>,
    slot_timeout: Option<u64>,
    keep_free: Option<String>,
}

/// Makes a [`Config`].
#[derive(Debug, Clone, Default)]
pub struct ConfigBuilder {
    layer: Layer,
    file: Option<PathBuf>,
}

impl ConfigBuilder {
    /// The folder that holds all of Velo's state and data.
    #[must_use]
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.layer.home = Some(home.into());
        self
    }

    /// The folder for fetched PostgreSQL installations.
    #[must_use]
    pub fn cache(mut self, cache: impl Into<PathBuf>) -> Self {
        self.layer.cache = Some(cache.into());
        self
    }

    /// The storage of new projects.
    #[must_use]
    pub fn storage(mut self, storage: StorageKind) -> Self {
        self.layer.storage = Some(storage);
        self
    }

    /// The dataset whose children ZFS volumes are. A home keeps the one that it began with.
    #[must_use]
    pub fn zfs_dataset(mut self, dataset: impl Into<String>) -> Self {
        self.layer.zfs_dataset = Some(dataset.into());
        self
    }

    /// A property of ZFS volumes, beside or instead of Velo's own (`recordsize=8k`,
    /// `compression=lz4`, `atime=off`).
    #[must_use]
    pub fn zfs_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let properties = self.layer.zfs_properties.get_or_insert_default();
        properties.insert(name.into(), value.into());
        self
    }

    /// The runtime of new projects.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeKind) -> Self {
        self.layer.runtime = Some(runtime);
        self
    }

    /// The image that servers of new projects run in containers: `postgres:18`.
    #[must_use]
    pub fn image(mut self, reference: impl Into<String>) -> Self {
        self.layer.image = Some(reference.into());
        self
    }

    /// The most memory of each server of a new project, where its runtime can hold to it: `2G`,
    /// `512M`, or bytes. [`BranchSpec::memory`](crate::BranchSpec::memory) is for one branch.
    #[must_use]
    pub fn memory(mut self, size: impl Into<String>) -> Self {
        self.layer.memory = Some(size.into());
        self
    }

    /// The most processors of each server of a new project: `1.5`.
    #[must_use]
    pub fn cpus(mut self, number: impl Into<String>) -> Self {
        self.layer.cpus = Some(number.into());
        self
    }

    /// The most shared memory for parallel queries of each server of a new project: `1G`.
    #[must_use]
    pub fn shm_size(mut self, size: impl Into<String>) -> Self {
        self.layer.shm_size = Some(size.into());
        self
    }

    /// The folder that holds `postgres` and `initdb`.
    #[must_use]
    pub fn pg_bin(mut self, bin_dir: impl Into<PathBuf>) -> Self {
        self.layer.pg_bin = Some(bin_dir.into());
        self
    }

    /// The major version for new projects.
    #[must_use]
    pub fn pg_version(mut self, major: u32) -> Self {
        self.layer.pg_version = Some(major);
        self
    }

    /// The user that servers run as where Velo is root.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.layer.user = Some(name.into());
        self
    }

    /// The TCP ports that servers may take.
    #[must_use]
    pub fn ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.layer.ports = Some(format!("{}-{}", ports.start(), ports.end()));
        self
    }

    /// How long a server may take until it answers a query (rounded up to seconds). Not zero.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.layer.start_timeout = Some(whole_seconds(timeout));
        self
    }

    /// The most servers of the home that may live at once; not zero. Whoever wants one more waits, if
    /// an ephemeral branch holds a place that will come free, and else is refused. Each process goes by
    /// its own settings, so that what is to hold for all of them belongs into the file.
    #[must_use]
    pub fn max_running(mut self, servers: u32) -> Self {
        self.layer.max_running = Some(servers);
        self
    }

    /// The most memory that the home's servers may be given together: `8G`. Counted is a container's
    /// limit; where there is none, `shared_buffers` as the branch was given it (else 16 MB for an
    /// ephemeral branch and 128 MB for a lasting one) and 32 MB more. What many sessions or a large
    /// `work_mem` take above that is not counted.
    #[must_use]
    pub fn max_memory(mut self, size: impl Into<String>) -> Self {
        self.layer.max_memory = Some(size.into());
        self
    }

    /// How long a new server waits for its turn where the home has as many as it may (rounded up to
    /// seconds, at most a day). Zero is not at all.
    #[must_use]
    pub fn slot_timeout(mut self, timeout: Duration) -> Self {
        self.layer.slot_timeout = Some(whole_seconds(timeout));
        self
    }

    /// The space that a clone must leave free: `10G`; at least 48 MB.
    #[must_use]
    pub fn keep_free(mut self, size: impl Into<String>) -> Self {
        self.layer.keep_free = Some(size.into());
        self
    }

    /// The settings file, which must exist then.
    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Reads the file and the environment, and puts what was set here over them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an unknown key, variable or value.
    pub fn build(self) -> Result<Config> {
        resolve(self, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v))))
    }
}

/// Parses a variable's text.
fn parsed<T: std::str::FromStr>(key: &str, value: &std::ffi::OsStr, want: &str) -> Result<T> {
    value.to_str().and_then(|v| v.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{key}={} is not {want}", value.display()))
            .with_hint(format!("set {key} to {want}, or unset it"))
    })
}

fn resolve(
    builder: ConfigBuilder,
    vars: impl Iterator<Item = (String, std::ffi::OsString)>,
) -> Result<Config> {
    let mut env = Layer::default();
    let mut named = None;
    let mut system = std::collections::HashMap::new();
    for (key, value) in vars {
        if !key.starts_with("VELO_") {
            if matches!(
                key.as_str(),
                "HOME" | "XDG_DATA_HOME" | "XDG_CACHE_HOME" | "XDG_CONFIG_HOME"
            ) && Path::new(&value).is_absolute()
            {
                system.insert(key, PathBuf::from(value));
            }
            continue;
        }
        if value.is_empty() {
            continue; // as if it were not set
        }
        match key.as_str() {
            "VELO_CONFIG" => named = Some(PathBuf::from(value)),
            "VELO_HOME" => env.home = Some(value.into()),
            "VELO_CACHE" => env.cache = Some(value.into()),
            "VELO_STORAGE" => {
                env.storage = Some(parsed(&key, &value, "auto, zfs, btrfs, reflink or copy")?);
            }
            "VELO_ZFS_DATASET" => {
                env.zfs_dataset = Some(parsed(&key, &value, "a dataset like tank/velo")?);
            }
            "VELO_RUNTIME" => {
                env.runtime = Some(parsed(&key, &value, "auto, process or docker")?);
            }
            "VELO_IMAGE" => env.image = Some(parsed(&key, &value, "the name of an image")?),
            "VELO_MEMORY" => env.memory = Some(parsed(&key, &value, "a size like 2G")?),
            "VELO_CPUS" => env.cpus = Some(parsed(&key, &value, "a number like 1.5")?),
            "VELO_SHM_SIZE" => env.shm_size = Some(parsed(&key, &value, "a size like 1G")?),
            "VELO_PG_BIN" => env.pg_bin = Some(value.into()),
            "VELO_PG_VERSION" => env.pg_version = Some(parsed(&key, &value, "a major version")?),
            "VELO_USER" => env.user = Some(parsed(&key, &value, "a user name")?),
            "VELO_PORTS" => env.ports = Some(parsed(&key, &value, "a range like 21000-29999")?),
            "VELO_START_TIMEOUT" => {
                env.start_timeout = Some(parsed(&key, &value, "a number of seconds")?);
            }
            "VELO_MAX_RUNNING" => {
                env.max_running = Some(parsed(&key, &value, "a number of servers")?);
            }
            "VELO_MAX_MEMORY" => env.max_memory = Some(parsed(&key, &value, "a size like 8G")?),
            "VELO_SLOT_TIMEOUT" => {
                env.slot_timeout = Some(parsed(&key, &value, "a number of seconds")?);
            }
            "VELO_KEEP_FREE" => env.keep_free = Some(parsed(&key, &value, "a size like 10G")?),
            key if key.starts_with("VELO_TEST_") => {}
            key => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{key} is not a variable that Velo knows"),
                )
                .with_hint(format!("unset it; there are {}", VARIABLES.join(", "))));
            }
        }
    }
    let root = rustix::process::geteuid().is_root();
    let folder = |xdg: &str, below: &str| {
        system.get(xdg).cloned().or_else(|| Some(system.get("HOME")?.join(below)))
    };
    let (file, must_exist) = match builder.file.or(named) {
        Some(file) => (Some(file), true),
        None if root => (Some(PathBuf::from("/etc/velo.toml")), false),
        None => (folder("XDG_CONFIG_HOME", ".config").map(|f| f.join("velo.toml")), false),
    };
    let file = match &file {
        Some(path) => read_file(path, must_exist)?,
        None => Layer::default(),
    };
    let layers = [builder.layer, env, file];
    macro_rules! first {
        ($field:ident) => {
            layers.iter().find_map(|layer| layer.$field.clone())
        };
    }
    let own = |key: &str, for_root: &str, xdg: &str, below: &str| {
        if root {
            return Ok(PathBuf::from(for_root));
        }
        folder(xdg, below).map(|f| f.join("velo")).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "HOME is not set").with_hint(format!("set {key}"))
        })
    };
    let home = match first!(home) {
        Some(home) => home,
        None => own("VELO_HOME", "/var/lib/velo", "XDG_DATA_HOME", ".local/share")?,
    };
    let cache = match first!(cache) {
        Some(cache) => cache,
        None => own("VELO_CACHE", "/var/cache/velo", "XDG_CACHE_HOME", ".cache")?,
    };
    Ok(Config {
        home: absolute(&home, "VELO_HOME")?,
        cache: absolute(&cache, "VELO_CACHE")?,
        storage: first!(storage).unwrap_or_default(),
        zfs_dataset: first!(zfs_dataset).map(checked_dataset).transpose()?,
        zfs_properties: first!(zfs_properties)
            .map(checked_properties)
            .transpose()?
            .unwrap_or_default(),
        runtime: first!(runtime).unwrap_or_default(),
        image: first!(image),
        limits: Limits {
            memory: first!(memory).as_deref().map(size).transpose()?,
            cpus: first!(cpus).as_deref().map(millicpus).transpose()?,
            shm: first!(shm_size).as_deref().map(size).transpose()?,
        },
        pg_bin: first!(pg_bin).map(|dir| absolute(&dir, "VELO_PG_BIN")).transpose()?,
        pg_bin_from_env: layers[0].pg_bin.is_none() && layers[1].pg_bin.is_some(),
        pg_version: first!(pg_version),
        user: first!(user),
        ports: ports(first!(ports).as_deref().unwrap_or("21000-29999"))?,
        start_timeout: start_timeout(first!(start_timeout))?,
        max_running: max_running(first!(max_running))?,
        max_memory: first!(max_memory).as_deref().map(size).transpose()?,
        slot_timeout: slot_timeout(first!(slot_timeout))?,
        keep_free: keep_free(first!(keep_free).as_deref())?,
    })
}

/// A dataset's name, which no program sees unchecked.
fn checked_dataset(name: String) -> Result<String> {
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    crate::storage::zfs::check_dataset(&name)?;
    Ok(name)
}

fn checked_properties(properties: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    crate::storage::zfs::check_properties(&properties)?;
    Ok(properties)
}

/// The path from the root. It must be UTF-8: it stands in settings of PostgreSQL, in URLs and in
/// JSON.
fn absolute(path: &Path, variable: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(path)
        .map_err(|e| Error::io(format!("resolve {}", path.display()), e))?;
    if whole.to_str().is_some_and(|text| !text.chars().any(char::is_control)) {
        return Ok(whole);
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("the path {whole:?} is not plain text in UTF-8"),
    )
    .with_hint(format!("set {variable} to a folder whose path is")))
}

fn start_timeout(seconds: Option<u64>) -> Result<Duration> {
    match seconds {
        Some(0) => Err(Error::new(ErrorKind::InvalidInput, "a start timeout of 0 seconds is none")
            .with_hint("give servers at least a second to start (VELO_START_TIMEOUT)")),
        seconds => Ok(Duration::from_secs(seconds.unwrap_or(120))),
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn max_running(servers: Option<u32>) -> Result<Option<u32>> {
    if servers == Some(0) {
        return Err(Error::new(ErrorKind::InvalidInput, "a maximum of 0 servers lets none start")
            .with_hint("set VELO_MAX_RUNNING to 1 or more, or unset it"));
    }
    Ok(servers)
}

fn slot_timeout(seconds: Option<u64>) -> Result<Duration> {
    match seconds.unwrap_or(60) {
        seconds if seconds <= MAX_WAIT => Ok(Duration::from_secs(seconds)),
        seconds => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("a wait of {seconds} seconds for a slot is longer than a day"),
        )
        .with_hint("set VELO_SLOT_TIMEOUT to 86400 or less")),
    }
}

fn keep_free(text: Option<&str>) -> Result<u64> {
    let bytes = text.map_or(Ok(ROOM), size)?;
    if bytes < ROOM {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{bytes} bytes of free space are too few: a clone needs {} MB", ROOM >> 20),
        )
        .with_hint("set VELO_KEEP_FREE to 48M or more, or unset it"));
    }
    Ok(bytes)
}

fn ports(text: &str) -> Result<RangeInclusive<u16>> {
    text.split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?))
        .filter(|range| !range.is_empty() && *range.start() >= 1024)
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("ports {text:?} is not a range of ports"))
                .with_hint("use first-last with first at least 1024, like 21000-29999")
        })
}

/// Bytes, from `2G`, `512M`, `64k` (powers of 1024) or a plain number of them.
pub(crate) fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches(['b', 'i']) {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1u64 << 40),
        _ => None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|number| plain && *number > 0);
    unit.zip(number).and_then(|(unit, number)| number.checked_mul(unit)).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a size"))
            .with_hint("write 2G, 512M, or a number of bytes")
    })
}

/// Thousandths of a processor, from `1.5`.
pub(crate) fn millicpus(text: &str) -> Result<u32> {
    let number = text.parse::<f64>().ok().filter(|n| (0.01..=4096.0).contains(n));
    number.map(|n| (n * 1000.0).round() as u32).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a number of processors"))
            .with_hint("write 2, or 0.5")
    })
}

fn layer(text: &str) -> std::result::Result<Layer, toml::de::Error> {
    toml::from_str(text)
}

/// For a fuzzer: whatever a file or a variable says is refused or makes sense.
#[cfg(feature = "testing")]
pub(crate) fn any_text(text: &str) -> std::result::Result<(), String> {
    let _ = (layer(text), millicpus(text), checked_dataset(text.to_owned()));
    if size(text).is_ok_and(|bytes| bytes == 0) {
        return Err(format!("{text:?} is a size of nothing"));
    }
    match ports(text) {
        Ok(range) if range.is_empty() || *range.start() == 0 => Err(format!("ports {range:?}")),
        _ => Ok(()),
    }
}

fn read_file(path: &Path, must_exist: bool) -> Result<Layer> {
    let refused = |what: String, hint: &str| {
        Error::new(ErrorKind::InvalidInput, format!("the settings file {}{what}", path.display()))
            .with_hint(hint)
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok(Layer::default());
        }
        Err(e) => {
            let hint = match must_exist {
                true => "set VELO_CONFIG to a TOML file that can be read, or unset it",
                false => "make it a TOML file that can be read, or move it away",
            };
            return Err(refused(format!(" cannot be read: {e}"), hint).with_source(e));
        }
    };
    layer(&text).map_err(|e| {
        // The message alone names no key where a value is wrong; the line does.
        let reason = e.message().lines().next().unwrap_or_default();
        let at = e.span().and_then(|span| {
            let before = text.get(..span.start)?;
            let number = before.matches('\n').count();
            Some((number + 1, text.lines().nth(number)?.trim()))
        });
        let what = match at {
            Some((number, line)) => format!(", line {number} ({line}): {reason}"),
            None => format!(": {reason}"),
        };
        refused(what, "mend or remove that line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)], builder: ConfigBuilder) -> Result<Config> {
        let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).into()));
        resolve(builder, std::iter::once(("HOME".to_owned(), "/h".into())).chain(vars))
    }

    #[test]
    fn file_under_environment_under_builder() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("velo.toml");
        std::fs::write(&file, "storage = \"copy\"\nports = \"3000-3001\"\npg_version = 15")
            .unwrap();
        let file = file.to_str().unwrap();
        let config = with(
            &[("VELO_CONFIG", file), ("VELO_STORAGE", "reflink"), ("VELO_PG_VERSION", "16")],
            Config::builder().storage(StorageKind::Btrfs),
        )
        .unwrap();
        assert_eq!(config.storage, StorageKind::Btrfs);
        assert_eq!(config.pg_version, Some(16));
        assert_eq!(config.ports, 3000..=3001);
    }

    #[cfg(all(feature = "zfs", target_os = "linux"))]
    #[test]
    fn names_of_zfs_are_checked() {
        let set = |name| with(&[("VELO_ZFS_DATASET", name)], Config::builder());
        assert_eq!(set("tank/velo").unwrap().zfs_dataset.as_deref(), Some("tank/velo"));
        for bad in ["-r", "tank/", "/tank", "tank@x", "tank/a b", "tank/../x"] {
            assert_eq!(set(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        let property =
            |name, value| with(&[], Config::builder().zfs_property(name, value)).map(drop);
        property("compression", "zstd-3").unwrap();
        for (name, value) in [("mountpoint", "/etc"), ("compression", "a b"), ("-o", "x")] {
            assert_eq!(
                property(name, value).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{name}"
            );
        }
    }

    #[test]
    fn an_image_makes_auto_docker() {
        let chosen = |vars: &[(&str, &str)]| {
            let config = with(vars, Config::builder()).unwrap();
            (config.chosen_runtime(), config.image())
        };
        let (process, docker) = (RuntimeKind::Process, RuntimeKind::Docker);
        assert_eq!(chosen(&[]).0, process);
        assert_eq!(chosen(&[("VELO_IMAGE", "a/b:1")]), (docker, "a/b:1".into()));
        assert_eq!(chosen(&[("VELO_IMAGE", "a"), ("VELO_RUNTIME", "process")]).0, process);
        let major = [("VELO_RUNTIME", "docker"), ("VELO_PG_VERSION", "16")];
        assert_eq!(chosen(&major), (docker, "postgres:16".into()));
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(size("2G").unwrap(), 2 << 30);
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("4096").unwrap(), 4096);
        assert_eq!(millicpus("1.5").unwrap(), 1500);
        for bad in ["", "G", "-1", "+1G", "0", "1.5G", "2X", "99999999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "-1", "x", "NaN"] {
            assert!(millicpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_keys_and_bad_values_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("velo.toml");
        std::fs::write(&file, "storrage = \"copy\"").unwrap();
        assert!(
            with(&[], Config::builder().file(&file)).unwrap_err().to_string().contains("storrage")
        );
        assert!(with(&[], Config::builder().file(dir.path().join("none"))).is_err());
        for (key, value) in [
            ("VELO_HOEM", "/x"),
            ("VELO_STORAGE", "tape"),
            ("VELO_PORTS", "9-1"),
            ("VELO_PORTS", "80-90"),
            ("VELO_PG_VERSION", "x"),
            ("VELO_RUNTIME", "podman"),
            ("VELO_MEMORY", "much"),
            ("VELO_MAX_RUNNING", "0"),
            ("VELO_MAX_RUNNING", "-1"),
            ("VELO_MAX_RUNNING", "99999999999"),
            ("VELO_MAX_MEMORY", "0"),
            ("VELO_MAX_MEMORY", "99999999T"),
            ("VELO_SLOT_TIMEOUT", "-1"),
            ("VELO_SLOT_TIMEOUT", "86401"),
            ("VELO_SLOT_TIMEOUT", "18446744073709551615"),
            ("VELO_KEEP_FREE", "0"),
            ("VELO_KEEP_FREE", "1M"),
        ] {
            let error = with(&[(key, value)], Config::builder()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{key}");
        }
        assert!(with(&[("VELO_TEST_X", "1")], Config::builder()).is_ok());
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("velo.toml");
        std::fs::write(&file, "pg_version = 15\nstorage = 5\n").unwrap();
        let error = with(&[], Config::builder().file(&file)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("line 2 (storage = 5): "), "{message}");
        assert_eq!(message.lines().count(), 1);
    }

    #[test]
    fn a_start_timeout_is_rounded_up_and_not_nothing() {
        let of = |timeout| with(&[], Config::builder().start_timeout(timeout));
        assert_eq!(of(Duration::from_millis(1)).unwrap().start_timeout, Duration::from_secs(1));
        assert_eq!(of(Duration::from_millis(2500)).unwrap().start_timeout, Duration::from_secs(3));
        assert_eq!(of(Duration::from_secs(2)).unwrap().start_timeout, Duration::from_secs(2));
        assert_eq!(of(Duration::ZERO).unwrap_err().kind(), ErrorKind::InvalidInput);
        let none = with(&[("VELO_START_TIMEOUT", "0")], Config::builder()).unwrap_err();
        assert!(none.hint().unwrap().contains("VELO_START_TIMEOUT"));
    }

    #[test]
    fn limits_of_the_home_are_read() {
        let vars = [
            ("VELO_MAX_RUNNING", "8"),
            ("VELO_MAX_MEMORY", "2G"),
            ("VELO_SLOT_TIMEOUT", "0"),
            ("VELO_KEEP_FREE", "1G"),
        ];
        let config = with(&vars, Config::builder().max_running(3)).unwrap();
        assert_eq!((config.max_running, config.max_memory), (Some(3), Some(2 << 30)));
        assert_eq!((config.slot_timeout, config.keep_free), (Duration::ZERO, 1 << 30));
        let plain = with(&[], Config::builder()).unwrap();
        assert_eq!((plain.max_running, plain.max_memory), (None, None));
        assert_eq!((plain.slot_timeout, plain.keep_free), (Duration::from_secs(60), ROOM));
        let longest = Config::builder().slot_timeout(Duration::MAX);
        assert_eq!(with(&[], longest).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_misspelt_variable_is_answered_with_those_that_are() {
        let error = with(&[("VELO_HOEM", "/x")], Config::builder()).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(VARIABLES.iter().all(|variable| hint.contains(variable)), "{hint}");
        for variable in VARIABLES {
            // None of them is unknown, whatever else is wrong with the value.
            if let Err(error) = with(&[(variable, "/nonexistent")], Config::builder()) {
                assert!(!error.to_string().contains("not a variable"), "{error}");
            }
        }
    }
}
