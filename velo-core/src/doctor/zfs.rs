//! What ZFS does for this home, or why it does nothing.

use super::Finding;
use crate::config::Config;
use crate::storage::zfs::{self, Examined, NEARLY_FULL, examine, is_wanted, would_work};
use crate::storage::{StorageConfig, StorageKind};

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let storage = StorageConfig::from(config);
    if !is_wanted(&storage) && config.storage != StorageKind::Zfs {
        let home = config.home.display();
        let why = format!("not used: {home} is on no dataset, and VELO_ZFS_DATASET names none");
        return vec![Finding::ok("zfs", why)];
    }
    let examined = match examine(&storage).await {
        Ok(examined) => examined,
        Err(error) => return vec![Finding::error("zfs", &error)],
    };
    let mut found = of_pool(&examined);
    // Read, not tried: a look makes no dataset. The first project tries it, before anything is made.
    if let Err(error) = would_work(&storage).await {
        found.push(Finding::error("zfs", &error));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "zfs",
            format!(
                "{}; volumes are in {}, the pool is {} % full",
                examined.version, examined.dataset, examined.capacity
            ),
        ));
    }
    found
}

/// The warning of a pool that is nearly full.
pub(super) async fn space(config: &Config) -> Option<Finding> {
    let storage = StorageConfig::from(config);
    if !is_wanted(&storage) {
        return None;
    }
    // What is wrong with a pool that does not answer is said by whoever needs it.
    let (pool, capacity, free) = zfs::fullness(&storage).await.ok()?;
    nearly_full(&pool, capacity, free)
}

fn nearly_full(pool: &str, capacity: u64, free: u64) -> Option<Finding> {
    (capacity >= NEARLY_FULL).then(|| {
        Finding::warn(
            "zfs",
            format!(
                "the pool {pool} is {capacity} % full, {} MB are left: from {NEARLY_FULL} % on ZFS is \
                 slow, and deleting, which writes too, may fail",
                free >> 20
            ),
            format!("free some while it can be done: zfs list -o space -t all {pool}"),
        )
    })
}

fn of_pool(examined: &Examined) -> Vec<Finding> {
    let mut found = Vec::new();
    let pool = examined.dataset.split('/').next().unwrap_or_default();
    if examined.health != "ONLINE" {
        found.push(Finding::warn(
            "zfs",
            format!("the pool {pool} is {}", examined.health),
            format!("zpool status {pool}"),
        ));
    }
    found.extend(nearly_full(pool, examined.capacity, examined.free));
    if examined.unsynced {
        found.push(Finding::warn(
            "zfs",
            format!("{} has sync=disabled: a crash loses what was committed", examined.dataset),
            format!("zfs set sync=standard {}", examined.dataset),
        ));
    }
    if examined.unsynced_by_settings {
        found.push(Finding::warn(
            "zfs",
            "zfs_properties have sync=disabled: a crash loses what was committed",
            format!(
                "take sync out of them, and off the volumes that are there: zfs inherit -r sync {}",
                examined.dataset
            ),
        ));
    }
    if !examined.foreign.is_empty() {
        found.push(Finding::warn(
            "zfs",
            format!("not made by Velo, and left alone: {}", examined.foreign.join(", ")),
            "move them elsewhere: zfs rename",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_pool_has_its_line() {
        let fine = Examined {
            dataset: "tank/velo".into(),
            version: "zfs-2.1.11".into(),
            capacity: 12,
            free: 1 << 40,
            health: "ONLINE".into(),
            foreign: Vec::new(),
            unsynced: false,
            unsynced_by_settings: false,
        };
        assert_eq!(of_pool(&fine), []);
        let bad = Examined {
            capacity: 91,
            health: "DEGRADED".into(),
            foreign: vec!["tank/velo/mine".into()],
            unsynced: true,
            unsynced_by_settings: true,
            ..fine
        };
        let found = of_pool(&bad);
        assert_eq!(found.len(), 5);
        assert!(found.iter().any(|f| f.what.contains("tank/velo has sync=disabled")), "{found:?}");
        assert!(found.iter().any(|f| f.what.contains("zfs_properties have sync")), "{found:?}");
        assert!(found.iter().all(|f| f.fix.is_some()), "{found:?}");
        assert!(found.iter().any(|f| f.what.contains("tank/velo/mine")), "{found:?}");
        assert!(found.iter().any(|f| f.what.contains("91 % full")), "{found:?}");
        assert_eq!(nearly_full("tank", 89, 1 << 40), None);
        // However much that is in bytes.
        assert!(nearly_full("tank", 90, 1 << 40).is_some());
    }
}
