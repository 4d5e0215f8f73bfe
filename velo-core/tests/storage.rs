//! Every backend on every file system that it is for.
//!
//! `VELO_TEST_BTRFS`, `VELO_TEST_XFS` and `VELO_TEST_EXT4` name a folder on each.
#![cfg(feature = "testing")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use common::fs_dir;
use velo_core::storage::{Storage, StorageKind, build, detect};

/// A root of its own on the file system that `var` names. It removes itself.
fn root(var: &str) -> Option<tempfile::TempDir> {
    let root = tempfile::Builder::new().prefix("velo-test-").tempdir_in(fs_dir(var)?).unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(root)
}

async fn open(kind: StorageKind, root: &Path) -> Arc<dyn Storage> {
    build(kind, root).await.unwrap()
}

async fn suite(kind: StorageKind, var: &str) {
    let Some(root) = root(var) else { return };
    let storage = open(kind, root.path()).await;
    velo_core::testing::storage_suite(storage.clone()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

#[tokio::test]
async fn btrfs_on_btrfs() {
    suite(StorageKind::Btrfs, "VELO_TEST_BTRFS").await;
}

#[tokio::test]
async fn reflink_on_btrfs() {
    suite(StorageKind::Reflink, "VELO_TEST_BTRFS").await;
}

#[tokio::test]
async fn reflink_on_xfs() {
    suite(StorageKind::Reflink, "VELO_TEST_XFS").await;
}

#[tokio::test]
async fn copy_on_ext4() {
    suite(StorageKind::Copy, "VELO_TEST_EXT4").await;
}

#[tokio::test]
async fn copy_on_xfs() {
    suite(StorageKind::Copy, "VELO_TEST_XFS").await;
}

#[tokio::test]
async fn the_best_storage_is_found_and_nothing_is_left() {
    use StorageKind::{Btrfs, Copy, Reflink};
    for (var, wanted) in [
        ("VELO_TEST_BTRFS", &[Btrfs, Reflink, Copy][..]),
        ("VELO_TEST_XFS", &[Reflink, Copy]),
        ("VELO_TEST_EXT4", &[Copy]),
    ] {
        let Some(root) = root(var) else { continue };
        assert_eq!(detect(root.path()).await.unwrap(), wanted, "{var}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "{var}");
    }
}
