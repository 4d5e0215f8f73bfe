//! Settings: a file, under the environment, under the builder.
//!
//! | key | variable | meaning | default |
//! |---|---|---|---|
//! | `home` | `VELO_HOME` | the folder that holds all of Velo's state and data | `/var/lib/velo` as root, else `$XDG_DATA_HOME/velo` or `~/.local/share/velo` |
//! | `cache` | `VELO_CACHE` | the folder for fetched PostgreSQL installations | `/var/cache/velo` as root, else `$XDG_CACHE_HOME/velo` or `~/.cache/velo` |
//! | `storage` | `VELO_STORAGE` | storage of new projects: `auto`, `zfs`, `btrfs`, `reflink`, `copy` | `auto` |
//! | `zfs_dataset` | `VELO_ZFS_DATASET` | the dataset whose children ZFS volumes are | the one that the home is on |
//! | `zfs_properties` | | a table of properties of ZFS volumes | `recordsize = "8k"`, `compression = "lz4"`, `atime = "off"` |
//! | `runtime` | `VELO_RUNTIME` | runtime of new projects: `process` | `process` |
//! | `pg_bin` | `VELO_PG_BIN` | the folder of the `postgres` to use for new projects | found |
//! | `pg_version` | `VELO_PG_VERSION` | the major version for new projects | the newest found |
//! | `user` | `VELO_USER` | the user that servers run as where Velo is root | `postgres`, else `nobody` |
//! | `ports` | `VELO_PORTS` | the TCP ports of servers, `first-last` | `21000-29999` |
//! | `start_timeout` | `VELO_START_TIMEOUT` | how long a server may take until it answers, in seconds | `120` |
//!
//! The file is `$VELO_CONFIG`, else `/etc/velo.toml` as root, else `$XDG_CONFIG_HOME/velo.toml` or
//! `~/.config/velo.toml`; it may be missing. An unknown key, or a variable `VELO_…` that is none of
//! these, is an error (but for `VELO_RUN`, `VELO_BIN` and `VELO_TEST_…`, which mean other things).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::RuntimeKind;
use crate::storage::StorageKind;

/// Variables with the prefix `VELO_` that are no settings.
const NOT_SETTINGS: [&str; 3] = ["VELO_CONFIG", "VELO_RUN", "VELO_BIN"];

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
    pub(crate) pg_bin: Option<PathBuf>,
    /// `pg_bin` came from the environment, not from the file or the caller.
    pub(crate) pg_bin_from_env: bool,
    pub(crate) pg_version: Option<u32>,
    pub(crate) user: Option<String>,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) start_timeout: Duration,
}

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
    pg_bin: Option<PathBuf>,
    pg_version: Option<u32>,
    user: Option<String>,
    ports: Option<String>,
    start_timeout: Option<u64>,
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

    /// How long a server may take until it answers a query (rounded up to seconds).
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.layer.start_timeout = Some(timeout.as_secs().max(1));
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
            "VELO_RUNTIME" => env.runtime = Some(parsed(&key, &value, "process")?),
            "VELO_PG_BIN" => env.pg_bin = Some(value.into()),
            "VELO_PG_VERSION" => env.pg_version = Some(parsed(&key, &value, "a major version")?),
            "VELO_USER" => env.user = Some(parsed(&key, &value, "a user name")?),
            "VELO_PORTS" => env.ports = Some(parsed(&key, &value, "a range like 21000-29999")?),
            "VELO_START_TIMEOUT" => {
                env.start_timeout = Some(parsed(&key, &value, "a number of seconds")?);
            }
            key if NOT_SETTINGS.contains(&key) || key.starts_with("VELO_TEST_") => {}
            key => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{key} is not a variable that Velo knows"),
                )
                .with_hint("unset it; `velo doctor` and the documentation list the variables"));
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
        home: absolute(&home)?,
        cache: absolute(&cache)?,
        storage: first!(storage).unwrap_or_default(),
        zfs_dataset: first!(zfs_dataset).map(checked_dataset).transpose()?,
        zfs_properties: first!(zfs_properties)
            .map(checked_properties)
            .transpose()?
            .unwrap_or_default(),
        runtime: first!(runtime).unwrap_or_default(),
        pg_bin: first!(pg_bin),
        pg_bin_from_env: layers[0].pg_bin.is_none() && layers[1].pg_bin.is_some(),
        pg_version: first!(pg_version),
        user: first!(user),
        ports: ports(first!(ports).as_deref().unwrap_or("21000-29999"))?,
        start_timeout: Duration::from_secs(first!(start_timeout).unwrap_or(120).max(1)),
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

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(format!("resolve {}", path.display()), e))
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

fn read_file(path: &Path, must_exist: bool) -> Result<Layer> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok(Layer::default());
        }
        Err(e) => {
            return Err(Error::io(format!("read the settings file {}", path.display()), e));
        }
    };
    toml::from_str(&text).map_err(|e| {
        let line = e.message().lines().next().unwrap_or_default().to_owned();
        Error::new(ErrorKind::InvalidInput, format!("settings file {}: {line}", path.display()))
            .with_hint("mend or remove the key that is named")
            .with_source(e)
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
        ] {
            let error = with(&[(key, value)], Config::builder()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{key}");
        }
        assert!(with(&[("VELO_TEST_X", "1"), ("VELO_RUN", "1")], Config::builder()).is_ok());
    }
}
