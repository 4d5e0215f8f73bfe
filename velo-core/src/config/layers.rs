//! Where settings come from: a file, the environment over it, the builder over both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::values::{
    absolute, checked_dataset, checked_properties, keep_free, max_running, millicpus, ports,
    resolved, size, slot_timeout, start_timeout,
};
use super::{Config, ConfigBuilder};
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

/// One source of settings, with what it does not say left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layer {
    pub(super) home: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
    pub(super) storage: Option<StorageKind>,
    pub(super) zfs_dataset: Option<String>,
    pub(super) zfs_properties: Option<BTreeMap<String, String>>,
    pub(super) runtime: Option<RuntimeKind>,
    pub(super) image: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) cpus: Option<String>,
    pub(super) shm_size: Option<String>,
    pub(super) pg_bin: Option<PathBuf>,
    pub(super) pg_version: Option<u32>,
    pub(super) user: Option<String>,
    pub(super) ports: Option<String>,
    pub(super) start_timeout: Option<u64>,
    pub(super) max_running: Option<u32>,
    pub(super) max_memory: Option<String>,
    pub(super) slot_timeout: Option<u64>,
    pub(super) keep_free: Option<String>,
}

/// Parses a variable's text.
fn parsed<T: std::str::FromStr>(key: &str, value: &std::ffi::OsStr, want: &str) -> Result<T> {
    value.to_str().and_then(|v| v.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{key}={} is not {want}", value.display()))
            .with_hint(format!("set {key} to {want}, or unset it"))
    })
}

pub(super) fn resolve(
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
            // Of a run or a test, and no settings: see `run.rs`, `keeper/program.rs` and `test_case.rs`.
            "VELO_RUN" | "VELO_RUN_ROOT" | "VELO_KEEPER" | "VELO_KEEP_FAILED" => {}
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
    // A folder is of one version, and so says more than a version below it; one that is below a version is the
    // first to be looked into, and no more.
    let bin = layers.iter().position(|layer| layer.pg_bin.is_some());
    let version = layers.iter().position(|layer| layer.pg_version.is_some());
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
    let mut config = Config {
        home: resolved(&absolute(&home, "VELO_HOME")?),
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
        pg_bin_from_env: bin == Some(1),
        pg_bin_binds: version.is_none_or(|version| bin <= Some(version)),
        pg_version: first!(pg_version),
        user: first!(user),
        ports: ports(first!(ports).as_deref().unwrap_or("21000-29999"))?,
        start_timeout: start_timeout(first!(start_timeout))?,
        max_running: max_running(first!(max_running))?,
        max_memory: first!(max_memory).as_deref().map(size).transpose()?,
        slot_timeout: slot_timeout(first!(slot_timeout))?,
        keep_free: keep_free(first!(keep_free).as_deref())?,
    };
    // What runs in containers is of no folder.
    if bin.is_some() && bin < version && config.chosen_runtime() != RuntimeKind::Docker {
        config.pg_version = None;
    }
    Ok(config)
}

pub(super) fn layer(text: &str) -> std::result::Result<Layer, toml::de::Error> {
    toml::from_str(text)
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
    use std::time::Duration;

    use super::*;
    use crate::config::ROOM;

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

    #[test]
    fn the_higher_of_a_folder_and_a_version_counts() {
        use crate::postgres::binaries::{Search, Source};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("velo.toml");
        let file = path.to_str().unwrap();
        // What must be used, what is looked into first, the version, and that of containers.
        let of = |vars: &[(&str, &str)], builder: ConfigBuilder| {
            let config = with(&[&[("VELO_CONFIG", file)], vars].concat(), builder).unwrap();
            let search = Search::from(&config);
            let of = |(dir, source): (&Path, Source)| (dir.to_str().unwrap().to_owned(), source);
            let named = search.named().map(of);
            let first = search.preferred.as_ref().map(|(dir, source)| of((dir, *source)));
            (named, first, search.major, config.image())
        };
        let folder = |dir: &str, source| Some((dir.to_owned(), source));
        let (env, given) = (folder("/e", Source::Environment), folder("/b", Source::Explicit));
        let (env_bin, docker) = (("VELO_PG_BIN", "/e"), ("VELO_RUNTIME", "docker"));
        let image = |major| format!("postgres:{major}");

        std::fs::write(&path, "pg_version = 16").unwrap();
        assert_eq!(of(&[env_bin], Config::builder()), (env.clone(), None, None, image(18)));
        let bin = Config::builder().pg_bin("/b");
        assert_eq!(of(&[env_bin], bin), (given.clone(), None, None, image(18)));
        let version = Config::builder().pg_version(15);
        assert_eq!(of(&[env_bin], version.clone()), (None, env, Some(15), image(15)));
        // Whoever gives both is told where they differ.
        let both = version.clone().pg_bin("/b");
        assert_eq!(of(&[env_bin], both), (given, None, Some(15), image(15)));
        // Of an image there is no folder.
        assert_eq!(of(&[env_bin, docker], Config::builder()).3, image(16));
        assert_eq!(of(&[env_bin, docker], version).3, image(15));

        std::fs::write(&path, "pg_bin = \"/f\"").unwrap();
        let (vars, of_file) = ([("VELO_PG_VERSION", "15")], folder("/f", Source::Explicit));
        assert_eq!(of(&vars, Config::builder()), (None, of_file, Some(15), image(15)));
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
        for bad in ["", "G", "-1", "+1G", "0", "1.5G", "2X", "99999999999999T", "9000000T"] {
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
