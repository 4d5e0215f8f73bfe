//! Settings: a file, under the environment, under the builder. Of `pg_bin` and `pg_version` the one that is given higher
//! counts: a folder hides a version below it (but not that of containers, which have no folder), and one that is below a
//! version is used where it is of that version.
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

use crate::error::Result;
use crate::runtime::{Limits, RuntimeKind};
use crate::storage::StorageKind;

mod builder;
mod layers;
mod values;

pub use builder::ConfigBuilder;
#[cfg(feature = "testing")]
pub(crate) use values::any_text;
pub(crate) use values::{millicpus, resolved, size};

/// The settings that everything is done with.
///
/// ```
/// use velo_core::{Config, storage::StorageKind};
/// let config = Config::builder().home("/srv/velo").storage(StorageKind::Btrfs).build()?;
/// assert_eq!(config.home(), std::path::Path::new("/srv/velo"));
/// # Ok::<(), velo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// No version was asked for over it: it is used or refused, and never passed over.
    pub(crate) pg_bin_binds: bool,
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

impl Config {
    /// The settings of the file and the environment.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown key, variable or value.
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
