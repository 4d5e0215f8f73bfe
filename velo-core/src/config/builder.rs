//! Settings that a caller gives.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::layers::{Layer, resolve};
use super::values::whole_seconds;
use crate::error::Result;
use crate::runtime::RuntimeKind;
use crate::storage::StorageKind;

/// Makes a [`Config`].
#[derive(Debug, Clone, Default)]
pub struct ConfigBuilder {
    pub(super) layer: Layer,
    pub(super) file: Option<PathBuf>,
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
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown key, variable or value.
    pub fn build(self) -> Result<Config> {
        resolve(self, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v))))
    }
}
