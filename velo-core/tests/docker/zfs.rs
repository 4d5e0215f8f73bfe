//! What every runtime must do, on ZFS: in the machine that `.ci/zfs-vm` boots. The life of a project
//! there is a test of the command's.

use velo_core::storage::{self, StorageKind};

use crate::common::zfs::place;
use crate::engine::{engine, images, with_docker};
use crate::suite::suite_on;
use crate::time::moments;

#[tokio::test]
async fn docker_suite_on_zfs() {
    let Some(place) = place() else { return };
    let (Some(_), Some(image)) = (engine().await, images().into_iter().next()) else { return };
    let dir = place.folder();
    let home = dir.path().join("h");
    std::fs::create_dir(&home).unwrap();
    let storage = storage::build(StorageKind::Zfs, place.config(&home)).await.unwrap();
    suite_on(storage, &image, dir.path(), &home).await;
}

/// In long runs: in that machine it takes twelve minutes. Containers reach moments on btrfs in every run, and processes
/// do on ZFS.
#[tokio::test]
async fn docker_reaches_moments_on_zfs() {
    if std::env::var_os("VELO_TEST_LONG").is_none() {
        return;
    }
    let Some(place) = place() else { return };
    let (Some(_), Some(image)) = (engine().await, images().into_iter().next()) else { return };
    moments(&place.home(with_docker(&image))).await;
}
