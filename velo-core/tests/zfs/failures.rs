//! Each failure has an error of its own, which says what to do, and leaves what it found.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use velo_core::cancel::Cancel;
use velo_core::doctor::Status;
use velo_core::storage::{CloneSpec, Storage, StorageConfig, StorageKind, VolumeSpec, build};
use velo_core::{Config, Error, ErrorKind, Id};

use super::objects::{branch, dataset, open, path, snapshot, volume};
use crate::common::home::eventually;
use crate::common::zfs::{Place, attempt, place, place_in_turn, run};

/// It is of this kind, names `part`, and its hint has `mends` in it.
#[track_caller]
fn is(error: &Error, kind: ErrorKind, part: &str, mends: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(part), "{part:?} is not in {error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(mends), "{mends:?} is not in the hint of {error:?}");
}

/// The same storage by the way to the kernel that this build takes, and by the program alone: their
/// errors are the same.
async fn both_ways(place: &Place, root: &Path) -> [Arc<dyn Storage>; 2] {
    let by_program = place.config(root).zfs_by_program();
    [open(place, root).await, build(StorageKind::Zfs, by_program).await.unwrap()]
}

#[tokio::test]
async fn zfs_busy_held_and_foreign_things_are_left_alone() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let ways = both_ways(&place, root.path()).await;
    let storage = ways[0].clone();
    let source = volume(&*storage).await;

    // An open file.
    let file = path(&*storage, source).join("open");
    let opened = std::fs::File::create(&file).unwrap();
    for storage in &ways {
        let busy = storage.destroy_volume(source.id()).await.unwrap_err();
        is(&busy, ErrorKind::Conflict, "in use by zfs", "end what uses it");
        assert!(file.exists(), "it is as it was");
    }
    drop(opened);

    // A hold.
    let kept = snapshot(&*storage, source).await;
    let name = format!("{}@{}", dataset(&place, source), kept.id().to_string().to_lowercase());
    run("zfs", &["hold", "backup", &name]);
    for storage in &ways {
        let held = storage.destroy_snapshot(kept.id()).await.unwrap_err();
        is(&held, ErrorKind::Conflict, "backup", &format!("zfs release backup {name}"));
    }
    run("zfs", &["release", "backup", &name]);

    // A clone.
    let clone = branch(&*storage, kept).await.unwrap();
    for storage in &ways {
        let needed = storage.destroy_snapshot(kept.id()).await.unwrap_err();
        is(&needed, ErrorKind::Conflict, "clones need it", "destroy what was made from it");
    }
    storage.destroy_volume(clone.id()).await.unwrap();
    storage.destroy_snapshot(kept.id()).await.unwrap();

    // A snapshot that somebody made.
    let by_hand = format!("{}@by-hand", dataset(&place, source));
    run("zfs", &["snapshot", &by_hand]);
    for storage in &ways {
        let in_the_way = storage.destroy_volume(source.id()).await.unwrap_err();
        is(&in_the_way, ErrorKind::Conflict, "by-hand", "zfs list");
    }
    run("zfs", &["destroy", &by_hand]);

    // A file system in a volume.
    let inner = path(&*storage, source).join("base");
    std::fs::create_dir_all(&inner).unwrap();
    run("mount", &["-t", "tmpfs", "inner", inner.to_str().unwrap()]);
    let nested = branch(&*storage, source).await.unwrap_err();
    run("umount", &[inner.to_str().unwrap()]);
    is(&nested, ErrorKind::Incompatible, "base", "plain folder");

    // A dataset that somebody made, under a name that could be Velo's.
    let id = Id::generate();
    let mine = format!("{}/v-{}", place.dataset, id.to_string().to_lowercase());
    run("zfs", &["create", "-o", "canmount=noauto", &mine]);
    assert_eq!(storage.list().await.unwrap(), [source]);
    let foreign = storage.destroy_volume(id).await.unwrap_err();
    is(&foreign, ErrorKind::Conflict, "not made by Velo", &format!("zfs destroy {mine}"));
    run("zfs", &["destroy", &mine]);

    storage.destroy_volume(source.id()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

#[tokio::test]
async fn zfs_without_its_parent_or_key_says_so() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let missing = place.config(root.path()).zfs_dataset(format!("{}/nowhere", place.dataset));
    let error = build(StorageKind::Zfs, missing).await.unwrap_err();
    is(&error, ErrorKind::Unsupported, "nowhere does not exist", "zfs create");
    let no_pool = place.config(root.path()).zfs_dataset("nopool/velo");
    let error = build(StorageKind::Zfs, no_pool).await.unwrap_err();
    is(&error, ErrorKind::Unsupported, "nopool is not imported", "zpool import nopool");
    let unset = StorageConfig::new(root.path());
    let error = build(StorageKind::Zfs, unset).await.unwrap_err();
    is(&error, ErrorKind::Unsupported, "no ZFS dataset", "VELO_ZFS_DATASET");

    let block = format!("{}/block", place.dataset);
    run("zfs", &["create", "-s", "-V", "8M", &block]);
    let in_block = place.config(root.path()).zfs_dataset(&block);
    let error = build(StorageKind::Zfs, in_block).await.unwrap_err();
    run("zfs", &["destroy", &block]);
    is(&error, ErrorKind::Unsupported, "it is a block device", "VELO_ZFS_DATASET");

    let key = root.path().join("key");
    std::fs::write(&key, "correct horse battery").unwrap();
    let location = format!("keylocation=file://{}", key.display());
    let own = place.own(&["-o", "encryption=on", "-o", "keyformat=passphrase", "-o", &location]);
    let ways = both_ways(&own.place, root.path()).await;
    let storage = ways[0].clone();
    let source = volume(&*storage).await;
    let kept = snapshot(&*storage, source).await;
    run("umount", &[path(&*storage, source).to_str().unwrap()]);
    run("zfs", &["unmount", &own.place.dataset]);
    // What was written last is encrypted a moment after the file system is unmounted.
    let mut said = String::new();
    let unloaded = eventually(Duration::from_secs(10), || {
        let done = attempt("zfs", &["unload-key", &own.place.dataset]);
        done.map_err(|error| said = error).is_ok()
    });
    assert!(unloaded, "{said}");
    let hint = format!("zfs load-key {}", own.place.dataset);
    let no_key = |error: Error| {
        is(&error, ErrorKind::PermissionDenied, "key is not loaded", &hint);
    };
    for storage in &ways {
        no_key(storage.open(source).await.unwrap_err());
        let id = Id::generate();
        no_key(storage.create_volume(VolumeSpec::new(id)).await.unwrap_err());
        for from in [source, kept] {
            let id = Id::generate();
            let spec = CloneSpec::new(from, id);
            no_key(storage.branch_volume(spec, &Cancel::new()).await.unwrap_err());
            // What is half made goes without the key.
            storage.destroy_volume(id).await.unwrap();
        }
    }
    no_key(build(StorageKind::Zfs, own.place.config(root.path())).await.unwrap_err());
    no_key(
        build(StorageKind::Zfs, own.place.config(root.path()).zfs_by_program()).await.unwrap_err(),
    );
    let settings = Config::builder().home(root.path()).storage(StorageKind::Zfs);
    let settings = settings.zfs_dataset(&own.place.dataset).build().unwrap();
    let works = velo_core::doctor::storages(&settings).unwrap();
    assert!(!works.contains(&StorageKind::Zfs), "{works:?}");
    run("zfs", &["load-key", &own.place.dataset]);
    assert_eq!(velo_core::doctor::storages(&settings).unwrap()[0], StorageKind::Zfs);
    storage.open(source).await.unwrap();
    storage.destroy_snapshot(kept.id()).await.unwrap();
    storage.destroy_volume(source.id()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

/// A small pool, which is soon full. There is one at a time.
pub struct Pool {
    pub place: Place,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Pool {
    pub async fn make(place: &Place) -> Self {
        static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let alone = ALONE.lock().await;
        let file = place.base.join("pool.img");
        let file = file.to_str().unwrap();
        // Of which it keeps 128 MB for itself.
        run("truncate", &["-s", "400M", file]);
        run("zpool", &["create", "-o", "cachefile=none", "-m", "none", "small", file]);
        run("zfs", &["create", "small/velo"]);
        Self { place: Place { dataset: "small/velo".into(), ..place.clone() }, _alone: alone }
    }

    pub fn export(&self) {
        run("zpool", &["export", "small"]);
    }

    pub fn import(&self) {
        let folder = self.place.base.to_str().unwrap();
        run("zpool", &["import", "-o", "cachefile=none", "-d", folder, "small"]);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let destroyed = attempt("zpool", &["destroy", "small"]);
        let _ = std::fs::remove_file(self.place.base.join("pool.img"));
        if !std::thread::panicking() {
            destroyed.unwrap();
        }
    }
}

#[tokio::test]
async fn zfs_pools_that_are_full_or_gone_say_so() {
    let Some(place) = place_in_turn("full pools") else { return };
    let pool = Pool::make(&place).await;
    let root = place.folder();
    let ways = both_ways(&pool.place, root.path()).await;
    let storage = ways[0].clone();
    let source = volume(&*storage).await;
    let kept = snapshot(&*storage, source).await.id();
    assert!(storage.available(source).await.unwrap() > 100 << 20);
    let settings = Config::builder().home(root.path()).storage(StorageKind::Zfs);
    let settings = settings.zfs_dataset(&pool.place.dataset).build().unwrap();
    assert_eq!(velo_core::doctor::space(&settings), []);

    let mut seed = 1u64;
    let mut noise = || {
        let mut block = Vec::with_capacity(1 << 20);
        while block.len() < 1 << 20 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            block.extend_from_slice(&seed.to_be_bytes()[..5]);
        }
        block
    };
    let mut file = std::fs::File::create(path(&*storage, source).join("big")).unwrap();
    let free = || {
        let text = run("zfs", &["get", "-Hp", "-o", "value", "available", "small"]);
        text.parse::<u64>().unwrap()
    };
    while free() > 20 << 20 {
        for _ in 0..8 {
            std::io::Write::write_all(&mut file, &noise()).unwrap();
        }
        file.sync_all().unwrap();
        run("zpool", &["sync", "small"]);
    }
    drop(file);
    for storage in &ways {
        let full = storage.available(source).await.unwrap_err();
        is(&full, ErrorKind::Exhausted, "% full", "zfs list -o space");
    }
    let warned = velo_core::doctor::space(&settings);
    let warned = warned.first().unwrap();
    assert_eq!((warned.name, warned.status), ("zfs", Status::Warn), "{warned:?}");
    assert!(warned.what.contains("the pool small is 9"), "{warned:?}");

    run("umount", &[path(&*storage, source).to_str().unwrap()]);
    pool.export();
    for storage in &ways {
        for error in [
            storage.open(source).await.unwrap_err(),
            storage.list().await.unwrap_err(),
            // What cannot be looked at is not taken for gone.
            storage.destroy_volume(source.id()).await.unwrap_err(),
            storage.destroy_snapshot(kept).await.unwrap_err(),
            branch(&**storage, source).await.unwrap_err(),
            storage.usage(source).await.unwrap_err(),
        ] {
            is(&error, ErrorKind::Unsupported, "small is not imported", "zpool import small");
        }
    }
    pool.import();
    run("zfs", &["rename", &pool.place.dataset, "small/elsewhere"]);
    for storage in &ways {
        let error = storage.destroy_snapshot(kept).await.unwrap_err();
        is(&error, ErrorKind::Unsupported, "does not exist", "zfs rename it back");
    }
    run("zfs", &["rename", "small/elsewhere", &pool.place.dataset]);
    storage.destroy_snapshot(kept).await.unwrap();
    storage.destroy_volume(source.id()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

/// Runs a test of this file in a mount namespace that was changed before.
fn in_namespace(change: &str, test: &str, root: &Path, dataset: &str) {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    let script = format!("{change}\nexec \"$@\"");
    command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(&program);
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    let output = command
        .env("VELO_TEST_HOME", root)
        .env("VELO_TEST_DATASET", dataset)
        .gid(0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{change}: {said}");
}

fn inner() -> StorageConfig {
    let root = std::env::var_os("VELO_TEST_HOME").unwrap();
    StorageConfig::new(root).zfs_dataset(std::env::var("VELO_TEST_DATASET").unwrap())
}

#[tokio::test]
async fn zfs_needs_its_program_and_its_module() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let hide = "for zfs in /usr/sbin/zfs /sbin/zfs; do mount --bind /dev/null $zfs; done";
    in_namespace(hide, "failures::without_the_program", root.path(), &place.dataset);
    let no_device = "mkdir -p /run/empty; mount -t tmpfs none /dev; mknod /dev/null c 1 3";
    in_namespace(no_device, "failures::without_the_module", root.path(), &place.dataset);
}

#[tokio::test]
#[ignore = "started by zfs_needs_its_program_and_its_module"]
async fn without_the_program() {
    let error = build(StorageKind::Zfs, inner()).await.unwrap_err();
    is(&error, ErrorKind::Unsupported, "no program zfs", "zfsutils-linux");
}

#[tokio::test]
#[ignore = "started by zfs_needs_its_program_and_its_module"]
async fn without_the_module() {
    let error = build(StorageKind::Zfs, inner()).await.unwrap_err();
    is(&error, ErrorKind::Unsupported, "module is not loaded", "modprobe zfs");
}
