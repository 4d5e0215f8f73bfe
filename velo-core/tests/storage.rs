//! Every backend on every file system that it is for.
//!
//! `VELO_TEST_BTRFS`, `VELO_TEST_XFS` and `VELO_TEST_EXT4` name a folder on each.
#![cfg(all(feature = "testing", feature = "zfs"))]
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are no tests to the lint

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{copy_program, fs_dir};
use velo_core::cancel::Cancel;
use velo_core::storage::{
    CloneSpec, FileOp, Object, Storage, StorageKind, VolumeSpec, build, detect,
};
use velo_core::{ErrorKind, Id};

/// A root of its own on the file system that `var` names. It removes itself.
fn root(var: &str) -> Option<tempfile::TempDir> {
    let root = tempfile::Builder::new().prefix("velo-test-").tempdir_in(fs_dir(var)?).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
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

/// The settings may name no dataset any more: that of the home is what is wanted.
#[tokio::test]
async fn auto_makes_no_copies_where_a_home_began_on_zfs() {
    let root = tempfile::tempdir().unwrap();
    assert!(build(StorageKind::Auto, root.path()).await.is_ok());
    let began = r#"{"dataset":"velo-no-such-pool/velo","folder":"/nowhere","inherited":false}"#;
    fs::write(root.path().join("zfs.json"), began).unwrap();
    let error = build(StorageKind::Auto, root.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(build(StorageKind::Copy, root.path()).await.is_ok());
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

async fn zfs_suite(by_program: bool) {
    let Some(place) = common::zfs::place() else { return };
    let root = place.folder();
    let mut config = place.config(root.path());
    if by_program {
        config = config.zfs_by_program();
    }
    let storage = build(StorageKind::Zfs, config).await.unwrap();
    velo_core::testing::storage_suite(storage.clone()).await.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(storage.list().await.unwrap(), []);
    assert_eq!(fs::read_dir(root.path().join("volumes")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.path().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn zfs_program() {
    zfs_suite(true).await;
}

#[cfg(feature = "libzetta")]
#[tokio::test]
async fn zfs_libzetta() {
    zfs_suite(false).await;
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
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "{var}");
    }
}

/// The backends that work on the three file systems, each on a root of its own.
async fn all() -> Vec<(StorageKind, tempfile::TempDir, Arc<dyn Storage>)> {
    let mut out = Vec::new();
    for (kind, var) in [
        (StorageKind::Btrfs, "VELO_TEST_BTRFS"),
        (StorageKind::Reflink, "VELO_TEST_XFS"),
        (StorageKind::Copy, "VELO_TEST_EXT4"),
    ] {
        let Some(root) = root(var) else { continue };
        let storage = open(kind, root.path()).await;
        out.push((kind, root, storage));
    }
    out
}

async fn volume(storage: &dyn Storage) -> (Object, PathBuf) {
    let volume = Object::Volume(Id::generate());
    storage.create_volume(VolumeSpec::new(volume.id())).await.unwrap();
    (volume, storage.location(volume).host_path().to_path_buf())
}

async fn branch(storage: &dyn Storage, source: Object) -> (Object, velo_core::Result<PathBuf>) {
    let target = Object::Volume(Id::generate());
    let spec = CloneSpec::new(source, target.id());
    let done = storage.branch_volume(spec, &Cancel::new()).await;
    (target, done.map(|()| storage.location(target).host_path().to_path_buf()))
}

async fn destroy(storage: &dyn Storage, objects: &[Object]) {
    for object in objects {
        storage.destroy_volume(object.id()).await.unwrap();
    }
    assert_eq!(storage.list().await.unwrap(), []);
}

#[tokio::test]
async fn owners_and_modes_are_kept() {
    if !rustix::process::geteuid().is_root() {
        common::skip("only root can give files away");
        return;
    }
    for (kind, _root, storage) in all().await {
        let id = Id::generate();
        storage.create_volume(VolumeSpec::new(id).owner(1234, 5678)).await.unwrap();
        let source = Object::Volume(id);
        let from = storage.location(source).host_path().to_path_buf();
        fs::create_dir(from.join("closed")).unwrap();
        fs::write(from.join("closed/file"), "x").unwrap();
        std::os::unix::fs::symlink("closed/file", from.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            from.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for (name, uid) in [("closed", 4321), ("closed/file", 8765), ("link", 99)] {
            std::os::unix::fs::lchown(from.join(name), Some(uid), Some(uid + 1)).unwrap();
        }
        fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o2550)).unwrap();
        let (target, to) = branch(&*storage, source).await;
        let to = to.unwrap();
        for name in ["", "closed", "closed/file", "link"] {
            let look = |root: &Path| {
                let meta = fs::symlink_metadata(root.join(name)).unwrap();
                (meta.mode(), meta.uid(), meta.gid())
            };
            assert_eq!(look(&to), look(&from), "{kind} {name}");
        }
        let root = fs::metadata(&to).unwrap();
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1234, 5678, 0o700), "{kind}");
        storage
            .edit(target, vec![FileOp::Write { path: "written".into(), content: vec![1] }])
            .await
            .unwrap();
        let written = fs::metadata(to.join("written")).unwrap();
        assert_eq!((written.uid(), written.gid()), (1234, 5678), "{kind}");
        destroy(&*storage, &[source, target]).await;
    }
}

/// A home in a shared folder hands its set-group-ID bit down to whatever is made in it.
#[tokio::test]
async fn a_set_group_id_bit_is_not_taken_over() {
    for (kind, root, storage) in all().await {
        let (source, from) = volume(&*storage).await;
        fs::create_dir_all(from.join("base/1")).unwrap();
        for name in ["base", "base/1"] {
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::set_permissions(root.path().join("volumes"), fs::Permissions::from_mode(0o2711))
            .unwrap();
        let (target, to) = branch(&*storage, source).await;
        let to = to.unwrap();
        for name in ["", "base", "base/1"] {
            let mode = |root: &Path| fs::metadata(root.join(name)).unwrap().mode();
            assert_eq!(mode(&to), mode(&from), "{kind} {name}");
        }
        destroy(&*storage, &[source, target]).await;
    }
}

#[tokio::test]
async fn links_of_a_running_source_may_vanish() {
    use std::sync::atomic::{AtomicBool, Ordering};
    for (kind, _root, storage) in all().await {
        let (source, from) = volume(&*storage).await;
        fs::write(from.join("file"), "x").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let churn = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for i in 0..8 {
                    let _ = std::os::unix::fs::symlink("file", from.join(format!("link{i}")));
                }
                for i in 0..8 {
                    let _ = fs::remove_file(from.join(format!("link{i}")));
                }
            }
        });
        let mut failed = None;
        for _ in 0..100 {
            let target = Object::Volume(Id::generate());
            let spec = CloneSpec::new(source, target.id()).live(&[]);
            let done = storage.branch_volume(spec, &Cancel::new()).await;
            storage.destroy_volume(target.id()).await.unwrap();
            failed = failed.or(done.err());
        }
        over.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        assert!(failed.is_none(), "{kind}: {failed:?}");
        destroy(&*storage, &[source]).await;
    }
}

#[tokio::test]
async fn a_subvolume_inside_is_refused() {
    let Some(root) = root("VELO_TEST_BTRFS") else {
        return;
    };
    let storage = open(StorageKind::Btrfs, root.path()).await;
    let (source, from) = volume(&*storage).await;
    fs::create_dir(from.join("base")).unwrap();
    // A volume of the same storage is a subvolume: it is put inside.
    let (_, inner) = volume(&*storage).await;
    fs::write(inner.join("file"), "x").unwrap();
    fs::rename(&inner, from.join("base/nested")).unwrap();
    let (target, refused) = branch(&*storage, source).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("base/nested"), "{error}");
    assert!(error.hint().is_some());
    destroy(&*storage, &[source, target]).await;
}

#[tokio::test]
async fn what_is_half_made_or_half_destroyed_goes_too() {
    for (kind, root, storage) in all().await {
        let volumes = root.path().join("volumes");
        let (whole, path) = volume(&*storage).await;
        // Destroyed half-way.
        fs::write(path.join("file"), "x").unwrap();
        fs::rename(&path, volumes.join(format!(".gone-{}", whole.id()))).unwrap();
        // Half made: a plain folder, on btrfs too; and one with both.
        let half = Object::Volume(Id::generate());
        fs::create_dir_all(volumes.join(half.id().to_string()).join("base/1")).unwrap();
        fs::create_dir_all(volumes.join(format!(".gone-{}", half.id())).join("base/2")).unwrap();
        // Not ours.
        fs::create_dir(volumes.join("other")).unwrap();
        fs::create_dir(volumes.join(half.id().to_string().to_lowercase())).unwrap();
        let mut wanted = vec![whole, half];
        wanted.sort();
        assert_eq!(storage.list().await.unwrap(), wanted, "{kind}");
        let usage = storage.usage(whole).await;
        assert_eq!(usage.unwrap_err().kind(), ErrorKind::NotFound, "{kind}");
        destroy(&*storage, &wanted).await;
        assert_eq!(fs::read_dir(&volumes).unwrap().count(), 2, "{kind}");
    }
}

/// What somebody has mounted; unmounted on drop.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn what_is_mounted_inside_keeps_its_content() {
    for (kind, root, storage) in all().await {
        let (whole, path) = volume(&*storage).await;
        let precious = root.path().join("precious");
        fs::create_dir_all(precious.join("folder")).unwrap();
        fs::write(precious.join("folder/file"), "precious").unwrap();
        let at = path.join("base/mounted");
        fs::create_dir_all(&at).unwrap();
        if rustix::mount::mount_bind(&precious, &at).is_err() {
            return eprintln!("SKIP: no right to mount");
        }
        let gone = root.path().join(format!("volumes/.gone-{}/base/mounted", whole.id()));
        let mounted = Mounted(gone);
        let destroyed = storage.destroy_volume(whole.id()).await;
        let content = fs::read(precious.join("folder/file"));
        assert_eq!(content.unwrap(), b"precious", "{kind}");
        match destroyed {
            // The kernel unmounts what is in a subvolume that goes.
            Ok(()) => assert_eq!(kind, StorageKind::Btrfs),
            Err(error) => {
                assert!(error.hint().unwrap().contains("unmount"), "{kind}: {error}");
                assert_eq!(storage.list().await.unwrap(), [whole], "{kind}");
            }
        }
        drop(mounted);
        destroy(&*storage, &[whole]).await;
        assert_eq!(fs::read(precious.join("folder/file")).unwrap(), b"precious", "{kind}");
    }
}

/// A normal user may not delete subvolumes unless the mount says so; and owns no other's files.
#[tokio::test]
#[allow(clippy::disallowed_methods)] // the test starts itself as another user
async fn a_normal_user_can_do_it_all() {
    if !rustix::process::geteuid().is_root() {
        return; // The other tests run as one already.
    }
    for (kind, root, _) in all().await {
        // A place where that user may read it.
        let program = root.path().join("test");
        copy_program(&std::env::current_exe().unwrap(), &program);
        let home = root.path().join("home");
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
        let out = std::process::Command::new(&program)
            .args(["--exact", "as_a_normal_user", "--ignored", "--nocapture"])
            .env("VELO_TEST_HOME", &home)
            .env("VELO_TEST_KIND", kind.as_str())
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{kind}: {said}");
        assert!(said.contains("done as 65534"), "{kind}: {said}");
    }
}

#[tokio::test]
#[ignore = "started by a_normal_user_can_do_it_all"]
async fn as_a_normal_user() {
    let home = PathBuf::from(std::env::var_os("VELO_TEST_HOME").unwrap());
    let kind: StorageKind = std::env::var("VELO_TEST_KIND").unwrap().parse().unwrap();
    assert!(detect(&home).await.unwrap().contains(&kind));
    let storage = open(kind, &home).await;
    velo_core::testing::storage_suite(storage.clone()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
    // A folder that its owner may not write.
    let (source, from) = volume(&*storage).await;
    fs::create_dir(from.join("closed")).unwrap();
    fs::write(from.join("closed/file"), "x").unwrap();
    fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    let (target, to) = branch(&*storage, source).await;
    let mode = fs::metadata(to.unwrap().join("closed")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o500);
    destroy(&*storage, &[source, target]).await;
    assert_eq!(fs::read_dir(&home).unwrap().count(), 2);
    eprintln!("done as {}", rustix::process::geteuid().as_raw());
}

/// Says how long 1,000 files take.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure() {
    for (kind, _root, storage) in all().await {
        let (source, from) = volume(&*storage).await;
        for folder in 0..4 {
            fs::create_dir_all(from.join(format!("base/{folder}"))).unwrap();
            for file in 0..250 {
                let content = vec![7; if file == 0 { 4 << 20 } else { 8192 * (1 + file % 12) }];
                fs::write(from.join(format!("base/{folder}/{file}")), content).unwrap();
            }
        }
        storage.sync(source).await.unwrap();
        let (mut clone, mut usage, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..15 {
            let start = std::time::Instant::now();
            let (target, done) = branch(&*storage, source).await;
            done.unwrap();
            clone.push(start.elapsed());
            let start = std::time::Instant::now();
            storage.usage(target).await.unwrap();
            usage.push(start.elapsed());
            let start = std::time::Instant::now();
            storage.destroy_volume(target.id()).await.unwrap();
            gone.push(start.elapsed());
        }
        for (what, times) in [("clone", &mut clone), ("usage", &mut usage), ("destroy", &mut gone)]
        {
            times.sort();
            eprintln!("{kind} {what}: median {:?}, least {:?}", times[7], times[0]);
        }
        destroy(&*storage, &[source]).await;
    }
}
