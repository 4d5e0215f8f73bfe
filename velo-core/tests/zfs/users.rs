//! A normal user: what `zfs allow` and one rule of sudo give, and what each error says without.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use velo_core::storage::zfs::delegate;
use velo_core::storage::{StorageConfig, StorageKind, build};
use velo_core::{ErrorKind, Id};

use crate::common::zfs::{Place, place, run};

const USER: &str = "velo-ci";

fn sh(script: &str) {
    run("sh", &["-ec", script]);
}

fn id(what: &str) -> u32 {
    run("id", &[what, USER]).parse().unwrap()
}

/// Runs a test of this file as the user.
fn as_user(test: &str, home: &Path, place: &Place) {
    let (uid, gid) = (id("-u"), id("-g"));
    let program = home.with_extension("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::create_dir_all(home).unwrap();
    std::os::unix::fs::chown(home, Some(uid), Some(gid)).unwrap();
    let output = Command::new(&program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("VELO_TEST_HOME", home)
        .env("VELO_TEST_DATASET", &place.dataset)
        .env("HOME", home)
        // As a normal user's is.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    std::fs::remove_file(&program).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
}

#[tokio::test]
async fn zfs_as_a_normal_user() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let folder = place.folder();
    let mountpoint = format!("/{}", own.place.dataset);
    let home = folder.path().join("h");
    as_user("users::without_delegation", &home, &own.place);
    let [allow, sudoers] =
        delegate::commands(USER, &own.place.dataset, Path::new(&mountpoint)).try_into().unwrap();
    sh(&allow);
    as_user("users::without_sudo", &home, &own.place);
    sh(&sudoers);
    run("visudo", &["-c"]);
    as_user("users::with_all", &home, &own.place);
    sh(&format!("rm /etc/sudoers.d/{}", delegate::rule_name(USER, &own.place.dataset)));
    assert_eq!(std::fs::read_dir(&mountpoint).unwrap().count(), 0, "empty folders are left");
}

fn inner() -> StorageConfig {
    let root = std::env::var_os("VELO_TEST_HOME").unwrap();
    StorageConfig::new(root).zfs_dataset(std::env::var("VELO_TEST_DATASET").unwrap())
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn without_delegation() {
    let error = build(StorageKind::Zfs, inner()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    let line = delegate::allow(USER, inner().zfs_dataset.as_deref().unwrap());
    assert!(error.hint().unwrap().contains(&line), "{error:?}");
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn without_sudo() {
    let error = build(StorageKind::Zfs, inner()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    let dataset = inner().zfs_dataset.unwrap();
    let line = delegate::install_sudoers(USER, &dataset, Path::new(&format!("/{dataset}")));
    assert!(error.hint().unwrap().contains(&line), "{error:?}");
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn with_all() {
    let storage = build(StorageKind::Zfs, inner()).await.unwrap_or_else(|e| panic!("{e:?}"));
    velo_core::testing::storage_suite(storage.clone()).await.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(storage.list().await.unwrap(), []);
    // What the rule is not for is refused.
    let zfs = ["/usr/sbin/zfs", "mount"];
    for target in ["tank", "-a", &format!("tank/velo-test/v-{}", Id::generate())] {
        let tried = Command::new("sudo").arg("-n").args(zfs).arg(target).output().unwrap();
        assert!(!tried.status.success(), "{target}");
    }
}
