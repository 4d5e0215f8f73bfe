//! The process runtime, with every PostgreSQL that `VELO_TEST_PG` names.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are no tests to the lint

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use velo_core::postgres::{Installation, Source};
use velo_core::runtime::{self, RuntimeKind};
use velo_core::storage::{self, StorageKind};
use velo_core::testing::{RuntimePlace, runtime_suite};

/// The user and the group `nobody`, which every machine has.
const NOBODY: u32 = 65534;

/// Runs the suite in `dir`, and checks that it leaves nothing.
async fn suite(bin: &Path, dir: &Path, owner: Option<u32>) {
    let storage = storage::build(StorageKind::Auto, &dir.join("h")).await.unwrap();
    suite_on(storage, bin, dir, owner).await;
}

async fn suite_on(
    storage: std::sync::Arc<dyn storage::Storage>,
    bin: &Path,
    dir: &Path,
    owner: Option<u32>,
) {
    let postgres = Installation::at(bin, Source::Explicit).await.unwrap();
    let run = dir.join("r");
    std::fs::create_dir(&run).unwrap();
    let mut place = RuntimePlace::new(storage.clone(), postgres, &run);
    if let Some(id) = owner {
        place = place.owner(id, id);
    }
    let runtime = runtime::build(RuntimeKind::Process, dir, owner.map(|_| "nobody")).unwrap();
    runtime_suite(runtime, place).await.unwrap_or_else(|e| {
        let context: Vec<_> = e.context().collect();
        panic!("{}: {e}: {context:?}", bin.display());
    });
    assert_eq!(storage.list().await.unwrap(), []);
    assert_eq!(std::fs::read_dir(run).unwrap().count(), 0);
    assert_eq!(common::home::servers_in(dir), [0; 0]);
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("velo.").tempdir_in(common::home::base()).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(dir.path().join("h")).unwrap();
    dir
}

/// As root, its servers run as another user.
#[tokio::test]
async fn process() {
    let owner = rustix::process::geteuid().is_root().then_some(NOBODY);
    for bin in common::installations().unwrap_or_default() {
        let dir = folder();
        suite(&bin, dir.path(), owner).await;
    }
}

#[cfg(feature = "zfs")]
#[tokio::test]
async fn process_on_zfs() {
    let Some(place) = common::zfs::place() else { return };
    // An emulated machine runs it with containers, which are as much at home there.
    if std::env::var_os("VELO_TEST_LONG").is_none() {
        return;
    }
    for bin in common::newest(common::installations().unwrap_or_default()) {
        let dir = folder();
        let config = place.config(&dir.path().join("h"));
        let storage = storage::build(StorageKind::Zfs, config).await.unwrap();
        suite_on(storage, &bin, dir.path(), Some(NOBODY)).await;
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // the test starts itself as another user
async fn a_normal_user_can_do_it_all() {
    if !rustix::process::geteuid().is_root() {
        return; // The other test runs as one already.
    }
    for bin in common::installations().unwrap_or_default() {
        let dir = folder();
        // A place where that user may read it.
        let program = dir.path().join("test");
        common::copy_program(&std::env::current_exe().unwrap(), &program);
        let own = dir.path().join("o");
        std::fs::create_dir_all(own.join("h")).unwrap();
        for path in [own.clone(), own.join("h")] {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let out = std::process::Command::new(&program)
            .args(["--exact", "as_a_normal_user", "--ignored", "--nocapture"])
            .env("VELO_TEST_HOME", &own)
            .env("VELO_TEST_BIN", &bin)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: {said}", bin.display());
        assert!(said.contains("done as 65534"), "{}: {said}", bin.display());
    }
}

#[tokio::test]
#[ignore = "started by a_normal_user_can_do_it_all"]
async fn as_a_normal_user() {
    let home = std::path::PathBuf::from(std::env::var_os("VELO_TEST_HOME").unwrap());
    let bin = std::path::PathBuf::from(std::env::var_os("VELO_TEST_BIN").unwrap());
    suite(&bin, &home, None).await;
    eprintln!("done as {}", rustix::process::geteuid().as_raw());
}
