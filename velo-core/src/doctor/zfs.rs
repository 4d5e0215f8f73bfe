//! What ZFS does for this home, or why it does nothing.

use super::Finding;
use crate::config::Config;
use crate::storage::zfs::{Examined, NEARLY_FULL, examine, is_wanted, would_work};
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
    if examined.capacity >= NEARLY_FULL {
        found.push(Finding::warn(
            "zfs",
            format!(
                "the pool {pool} is {} % full, which makes it slow: {} MB are free",
                examined.capacity,
                examined.free >> 20
            ),
            format!("zfs list -o space -t all {pool}"),
        ));
    }
    if examined.unsynced {
        found.push(Finding::warn(
            "zfs",
            format!("{} has sync=disabled: a crash loses what was committed", examined.dataset),
            format!("zfs set sync=standard {}", examined.dataset),
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
        };
        assert_eq!(of_pool(&fine), []);
        let bad = Examined {
            capacity: 91,
            health: "DEGRADED".into(),
            foreign: vec!["tank/velo/mine".into()],
            unsynced: true,
            ..fine
        };
        let found = of_pool(&bad);
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|f| f.fix.is_some()), "{found:?}");
        assert!(found.iter().any(|f| f.what.contains("tank/velo/mine")), "{found:?}");
    }
}
