//! Settings.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::raised;

/// The settings that everything is done with: what is given here stands over the environment, and that over the settings
/// file. All are named, and each may be left out.
///
/// - home, cache: the folder of all state and data; that of fetched PostgreSQLs
/// - file: another settings file
/// - storage: "auto", "zfs", "btrfs", "reflink" or "copy", of new projects
/// - zfs_dataset, zfs_properties: the dataset below which volumes are made; properties that they get
/// - runtime: "auto", "process" or "docker"; image: what containers of new projects run
/// - memory, cpus, shm_size: the most that a container may take ("2G", 1.5, "1G")
/// - pg_bin, pg_version: the folder of PostgreSQL's programs; its major version
/// - user: whom servers run as, where this is root
/// - ports: the first and the last that branches may have
/// - start_timeout: the seconds that a server may take to start
/// - max_running, max_memory, slot_timeout: how many servers may run, with how much memory, and for how many seconds a
///   place is waited for
/// - keep_free: what stays free on the disk ("10G")
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Config(pub(crate) velo_core::Config);

#[pymethods]
impl Config {
    /// What is given here stands over the environment, and that over the settings file.
    #[new]
    #[pyo3(signature = (**settings))]
    fn new(settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut config = velo_core::Config::builder();
        for (name, value) in settings.into_iter().flatten() {
            if value.is_none() {
                continue;
            }
            let name: String = name.extract()?;
            config = match name.as_str() {
                "home" => config.home(value.extract::<PathBuf>()?),
                "cache" => config.cache(value.extract::<PathBuf>()?),
                "file" => config.file(value.extract::<PathBuf>()?),
                "storage" => config.storage(value.extract::<String>()?.parse().map_err(raised)?),
                "zfs_dataset" => config.zfs_dataset(value.extract::<String>()?),
                "runtime" => config.runtime(value.extract::<String>()?.parse().map_err(raised)?),
                "image" => config.image(value.extract::<String>()?),
                "memory" => config.memory(value.extract::<String>()?),
                "cpus" => config.cpus(value.str()?.to_string()),
                "shm_size" => config.shm_size(value.extract::<String>()?),
                "pg_bin" => config.pg_bin(value.extract::<PathBuf>()?),
                "pg_version" => config.pg_version(value.extract::<u32>()?),
                "user" => config.user(value.extract::<String>()?),
                "ports" => {
                    let (first, last) = value.extract::<(u16, u16)>()?;
                    config.ports(first..=last)
                }
                "start_timeout" => config.start_timeout(seconds(value.extract()?)?),
                "max_running" => config.max_running(value.extract()?),
                "max_memory" => config.max_memory(value.extract::<String>()?),
                "slot_timeout" => config.slot_timeout(seconds(value.extract()?)?),
                "keep_free" => config.keep_free(value.extract::<String>()?),
                "zfs_properties" => value
                    .extract::<std::collections::BTreeMap<String, String>>()?
                    .into_iter()
                    .fold(config, |config, (name, value)| config.zfs_property(name, value)),
                other => return Err(PyValueError::new_err(format!("there is no setting {other}"))),
            };
        }
        Ok(Self(config.build().map_err(raised)?))
    }

    /// The folder of all state and data.
    #[getter]
    fn home(&self) -> PathBuf {
        self.0.home().to_owned()
    }

    /// The major version of PostgreSQL for new projects, where one was set.
    #[getter]
    fn pg_version(&self) -> Option<u32> {
        self.0.pg_version()
    }

    /// The storage of new projects, as it was set.
    #[getter]
    fn storage(&self) -> String {
        self.0.storage().to_string()
    }
}

/// The settings that were given, or those of the environment.
pub(crate) fn given(config: Option<&Bound<'_, Config>>) -> PyResult<velo_core::Config> {
    match config {
        Some(config) => Ok(config.get().0.clone()),
        None => velo_core::Config::load().map_err(raised),
    }
}

/// A number of seconds.
pub(crate) fn seconds(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number)
        .map_err(|_| PyValueError::new_err(format!("{number} is no number of seconds")))
}
