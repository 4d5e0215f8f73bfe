//! Whether ZFS works here, tried: before the first volume is made, no question answers that as well.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::StorageConfig;
use crate::storage::zfs::faults::Fault;
use crate::storage::zfs::names::{Found, Parent};
use crate::storage::zfs::properties::Properties;
use crate::storage::zfs::{Zfs, mounts, program, properties, would_work};

/// A try that is older was killed.
const DEAD: Duration = Duration::from_secs(3600);

/// Whether there is a dataset to try: one that the settings name, or that the folder is on.
#[must_use]
pub(crate) fn is_wanted(config: &StorageConfig) -> bool {
    config.zfs_dataset.is_some()
        || crate::storage::zfs::layout::recorded(&config.root).is_ok_and(|found| found.is_some())
        || mounts::all().is_ok_and(|mounts| {
            let root = config.root.canonicalize().unwrap_or_else(|_| config.root.clone());
            mounts::dataset_of(&mounts, &root).is_some()
        })
}

/// Makes a volume, mounts it, and destroys it.
pub(crate) async fn works_in(config: &StorageConfig) -> Result<()> {
    // What can be read has better errors than a program that fails.
    would_work(config).await?;
    let zfs = Zfs::new(config)?;
    sweep(&zfs).await?;
    let id = Id::generate();
    let name = zfs.parent().probe(id);
    let folder = zfs.probe_folder(id);
    let tried = try_it(&zfs, &name, &folder).await;
    let undone = undo(&zfs, &name, &folder).await;
    match (tried, undone) {
        (Ok(()), undone) => undone,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(cleanup)) => Err(error.with_cleanup(cleanup)),
    }
}

async fn try_it(zfs: &Zfs, name: &str, folder: &std::path::Path) -> Result<()> {
    let doing = format!("make a volume in {}", zfs.parent().as_str());
    let properties = zfs.properties_at(folder, None, None);
    if let Err(fault) = program::create(name, &properties).await {
        return Err(match fault {
            Fault::Missing => zfs.no_parent().await,
            fault => zfs.explain(fault, &doing, name, folder).await,
        });
    }
    zfs.mount_at(name, folder, &doing).await?;
    let file = folder.join("file");
    std::fs::write(&file, "x").map_err(|e| Error::io(format_args!("write {}", file.display()), e))
}

async fn undo(zfs: &Zfs, name: &str, folder: &std::path::Path) -> Result<()> {
    let doing = format!("remove the try {name}");
    if let Err(fault) = mounts::unmount(name, folder).await? {
        return Err(zfs.explain(fault, &doing, name, folder).await);
    }
    match program::ask("zfs", &["destroy", name]).await {
        // Where nothing could be made, the first error says why.
        Ok(_) | Err(Fault::Missing | Fault::NoProgram | Fault::NoModule) => {}
        Err(fault) => return Err(zfs.explain(fault, &doing, name, folder).await),
    }
    mounts::remove_point(folder).await
}

/// Removes what killed tries left.
async fn sweep(zfs: &Zfs) -> Result<()> {
    let parent = zfs.parent();
    let args = ["-d", "1", "-t", "filesystem", "-s", properties::OWN, "-o", "name,value"];
    let args = [&args[..], &[properties::HOME, parent.as_str()]].concat();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for [name, home] in properties::rows(&program::get(&args).await.unwrap_or_default()) {
        if let Some(Found::Probe(id)) = parent.parse(name)
            && home == zfs.home()
            && Duration::from_millis(id.made_at()) + DEAD < now
        {
            undo(zfs, name, &zfs.probe_folder(id)).await?;
        }
    }
    Ok(())
}

/// What doctor says of ZFS on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Examined {
    /// The dataset of this installation.
    pub(crate) dataset: String,
    /// The versions of OpenZFS's program and module, as `zfs version` prints them.
    pub(crate) version: String,
    /// How full the pool is, in per cent.
    pub(crate) capacity: u64,
    pub(crate) free: u64,
    pub(crate) health: String,
    /// Datasets below the parent that are no installation's.
    pub(crate) foreign: Vec<String>,
    /// `sync=disabled` reaches the volumes: nothing is durable.
    pub(crate) unsynced: bool,
    /// The settings give it to new volumes.
    pub(crate) unsynced_by_settings: bool,
}

/// A pool's name, how full it is in per cent, and the bytes that are free in it.
pub(crate) async fn fullness(config: &StorageConfig) -> Result<(String, u64, u64)> {
    let zfs = Zfs::new(config)?;
    let pool = zfs.parent().pool();
    match super::explain::pool(pool).await {
        Ok(found) => Ok((pool.to_owned(), found.capacity, found.free)),
        Err(fault) => Err(zfs.explain(fault, "look at the pool", pool, &config.root).await),
    }
}

pub(crate) const NEARLY_FULL: u64 = super::explain::FULL;

/// Looks at what is there, and tries nothing.
pub(crate) async fn examine(config: &StorageConfig) -> Result<Examined> {
    let zfs = Zfs::new(config)?;
    let parent: &Parent = zfs.parent();
    let shown = format!("look at {}", parent.as_str());
    let version = match program::ask("zfs", &["version"]).await {
        Ok(text) => text.lines().collect::<Vec<_>>().join(", "),
        Err(fault) => return Err(zfs.explain(fault, &shown, parent.as_str(), &config.root).await),
    };
    if let Some(error) = super::explain::machine(parent).await {
        return Err(error);
    }
    let pool = match super::explain::pool(parent.pool()).await {
        Ok(pool) => pool,
        Err(fault) => return Err(zfs.explain(fault, &shown, parent.as_str(), &config.root).await),
    };
    let args = ["list", "-H", "-d", "1", "-t", "filesystem,volume", "-o", "name", parent.as_str()];
    let children = match program::ask("zfs", &args).await {
        Ok(text) => text,
        Err(Fault::Missing) => return Err(zfs.no_parent().await),
        Err(fault) => return Err(zfs.explain(fault, &shown, parent.as_str(), &config.root).await),
    };
    let args = ["-d", "1", "-t", "filesystem", "-s", properties::OWN, "-o", "name"];
    let args = [&args[..], &[properties::HOME, parent.as_str()]].concat();
    let marked = program::get(&args).await.unwrap_or_default();
    let marked: std::collections::HashSet<&str> = marked.lines().collect();
    let foreign = children
        .lines()
        .filter(|name| *name != parent.as_str() && !marked.contains(name))
        // The home itself may be a child, as may whatever it is in.
        .filter(|name| !zfs.holds_home(name))
        .map(str::to_owned)
        .collect();
    let sync = program::get(&["-o", "value", "sync", parent.as_str()]).await.unwrap_or_default();
    Ok(Examined {
        dataset: parent.as_str().to_owned(),
        version,
        capacity: pool.capacity,
        free: pool.free,
        health: pool.health,
        foreign,
        unsynced: sync.trim() == "disabled",
        unsynced_by_settings: sets_no_sync(&zfs.properties),
    })
}

fn sets_no_sync(volumes: &Properties) -> bool {
    volumes.iter().any(|(name, value)| name == "sync" && value == "disabled")
}

/// Why there is nothing to try.
pub(crate) fn no_dataset(root: &std::path::Path) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("no ZFS dataset is set, and {} is not on one", root.display()),
    )
    .with_hint("make one (zfs create tank/velo), and set VELO_ZFS_DATASET to its name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_can_make_volumes_that_are_not_durable() {
        for (value, wanted) in [("disabled", true), ("standard", false), ("always", false)] {
            let settings = [("sync".to_owned(), value.to_owned())].into();
            assert_eq!(sets_no_sync(&properties::of_volumes(&settings)), wanted, "{value}");
        }
        assert!(!sets_no_sync(&properties::of_volumes(&[].into())));
    }
}
