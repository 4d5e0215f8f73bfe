//! Settings.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use napi::Env;
use napi::bindgen_prelude::Either;
use napi_derive::napi;
use velo_core::{ConfigBuilder, Error, ErrorKind, Result};

use crate::error::raised;

/// What can be set. The names are looked at in JavaScript: whatever else an object has would be passed over here.
#[napi(object, object_to_js = false)]
pub struct Settings {
    pub home: Option<String>,
    pub cache: Option<String>,
    pub file: Option<String>,
    pub storage: Option<String>,
    pub zfs_dataset: Option<String>,
    pub zfs_properties: Option<HashMap<String, String>>,
    pub runtime: Option<String>,
    pub image: Option<String>,
    pub memory: Option<String>,
    pub cpus: Option<Either<f64, String>>,
    pub shm_size: Option<String>,
    pub pg_bin: Option<String>,
    pub pg_version: Option<u32>,
    pub user: Option<String>,
    pub ports: Option<Vec<u32>>,
    pub start_timeout: Option<f64>,
    pub max_running: Option<u32>,
    pub max_memory: Option<String>,
    pub slot_timeout: Option<f64>,
    pub keep_free: Option<String>,
}

/// The settings that everything is done with.
#[napi]
pub struct Config(pub(crate) velo_core::Config);

#[napi]
impl Config {
    /// What is given here stands over the environment, and that over the settings file.
    #[napi(constructor)]
    pub fn new(env: &Env, settings: Settings) -> napi::Result<Self> {
        built(settings).map(Self).map_err(|error| raised(*env, &error))
    }

    #[napi(getter)]
    pub fn home(&self) -> String {
        self.0.home().to_string_lossy().into_owned()
    }

    #[napi(getter)]
    pub fn pg_version(&self) -> Option<u32> {
        self.0.pg_version()
    }

    #[napi(getter)]
    pub fn storage(&self) -> String {
        self.0.storage().to_string()
    }
}

fn built(settings: Settings) -> Result<velo_core::Config> {
    let mut config = velo_core::Config::builder();
    /// Hands on what is given.
    fn with<T>(
        config: ConfigBuilder,
        value: Option<T>,
        set: impl FnOnce(ConfigBuilder, T) -> ConfigBuilder,
    ) -> ConfigBuilder {
        match value {
            Some(value) => set(config, value),
            None => config,
        }
    }
    config = with(config, settings.home, ConfigBuilder::home);
    config = with(config, settings.cache, ConfigBuilder::cache);
    config = with(config, settings.file, ConfigBuilder::file);
    config = with(config, settings.zfs_dataset, ConfigBuilder::zfs_dataset);
    config = with(config, settings.image, ConfigBuilder::image);
    config = with(config, settings.memory, ConfigBuilder::memory);
    config = with(config, settings.shm_size, ConfigBuilder::shm_size);
    config = with(config, settings.pg_bin, ConfigBuilder::pg_bin);
    config = with(config, settings.pg_version, ConfigBuilder::pg_version);
    config = with(config, settings.user, ConfigBuilder::user);
    config = with(config, settings.max_running, ConfigBuilder::max_running);
    config = with(config, settings.max_memory, ConfigBuilder::max_memory);
    config = with(config, settings.keep_free, ConfigBuilder::keep_free);
    if let Some(storage) = settings.storage {
        config = config.storage(storage.parse()?);
    }
    if let Some(runtime) = settings.runtime {
        config = config.runtime(runtime.parse()?);
    }
    if let Some(cpus) = settings.cpus {
        config = config.cpus(match cpus {
            Either::A(number) => number.to_string(),
            Either::B(text) => text,
        });
    }
    if let Some(ports) = settings.ports {
        config = match ports.as_slice() {
            &[first, last] => config.ports(port(first)?..=port(last)?),
            _ => return Err(invalid("ports are a first and a last one: [21000, 29999]")),
        };
    }
    if let Some(milliseconds) = settings.start_timeout {
        config = config.start_timeout(time(milliseconds)?);
    }
    if let Some(milliseconds) = settings.slot_timeout {
        config = config.slot_timeout(time(milliseconds)?);
    }
    // In an order of their own, so that one setting is one text.
    let properties: BTreeMap<_, _> = settings.zfs_properties.into_iter().flatten().collect();
    for (name, value) in properties {
        config = config.zfs_property(name, value);
    }
    config.build()
}

/// The settings that were given, or those of the environment.
pub(crate) fn given(config: Option<&Config>) -> Result<velo_core::Config> {
    config.map_or_else(velo_core::Config::load, |config| Ok(config.0.clone()))
}

/// A number of milliseconds.
pub(crate) fn time(milliseconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(milliseconds / 1000.0)
        .map_err(|_| invalid(format!("{milliseconds} is no number of milliseconds")))
}

/// A number of bytes, or of anything else that is whole and not negative.
pub(crate) fn whole<T: TryFrom<u64>>(number: f64) -> Result<T> {
    let not = || invalid(format!("{number} is no number that is wanted here"));
    if number.fract() != 0.0 || !(0.0..=9_007_199_254_740_991.0).contains(&number) {
        return Err(not());
    }
    // It is whole and within what a double holds exactly.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    T::try_from(number as u64).map_err(|_| not())
}

fn port(number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| invalid(format!("{number} is no port")))
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
