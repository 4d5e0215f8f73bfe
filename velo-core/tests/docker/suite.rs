//! What every runtime must do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use velo_core::Config;
use velo_core::postgres::install;
use velo_core::runtime::{self, RuntimeKind};
use velo_core::storage::{self, Storage, StorageKind};
use velo_core::testing::{RuntimePlace, runtime_suite};

use crate::common::fs_dir;
use crate::engine::{containers, engine, images, told};

async fn suite(image: &str, base: &Path) {
    let dir = tempfile::Builder::new().prefix("velo.").tempdir_in(base).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.path().join("h");
    std::fs::create_dir(&home).unwrap();
    let storage = storage::build(StorageKind::Auto, &home).await.unwrap();
    suite_on(storage, image, dir.path(), &home).await;
}

/// On volumes of `storage`, which belongs to `home` in the folder `dir`.
pub(crate) async fn suite_on(storage: Arc<dyn Storage>, image: &str, dir: &Path, home: &Path) {
    let config =
        Config::builder().home(home).runtime(RuntimeKind::Docker).image(image).build().unwrap();
    let postgres = install::find_or_install(&config, |_| {}).await.unwrap();
    let of_image = postgres.image.clone().unwrap();
    let run = dir.join("r");
    std::fs::create_dir(&run).unwrap();
    let mut place = RuntimePlace::new(storage.clone(), postgres, &run);
    if rustix::process::geteuid().is_root() {
        place = place.owner(of_image.uid, of_image.gid);
    }
    let runtime = runtime::build(RuntimeKind::Docker, home, None).unwrap();
    runtime_suite(runtime, place).await.unwrap_or_else(|e| panic!("{image}: {}", told(&e)));
    assert_eq!(storage.list().await.unwrap(), []);
    assert_eq!(std::fs::read_dir(run).unwrap().count(), 0);
    let engine = engine().await.unwrap();
    assert!(containers(&engine, home).await.is_empty());
}

#[tokio::test]
async fn docker_suite_on_btrfs() {
    if engine().await.is_none() {
        return;
    }
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    for image in images() {
        suite(&image, &base).await;
    }
}

#[tokio::test]
async fn docker_suite_on_xfs() {
    if engine().await.is_none() {
        return;
    }
    let Some(base) = fs_dir("VELO_TEST_XFS") else { return };
    for image in images() {
        suite(&image, &base).await;
    }
}
