//! Datasets and snapshots: their marks, whose they are, and what goes with what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use velo_core::cancel::Cancel;
use velo_core::storage::{CloneSpec, Label, Object, Storage, StorageKind, VolumeSpec, build};
use velo_core::{ErrorKind, Id};

use crate::common::zfs::{Place, place, run};

pub async fn open(place: &Place, root: &Path) -> Arc<dyn Storage> {
    build(StorageKind::Zfs, place.config(root)).await.unwrap_or_else(|e| panic!("{e:?}"))
}

pub async fn volume(storage: &dyn Storage) -> Object {
    let id = Id::generate();
    storage.create_volume(VolumeSpec::new(id)).await.unwrap_or_else(|e| panic!("{e:?}"));
    Object::Volume(id)
}

pub async fn branch(storage: &dyn Storage, source: Object) -> velo_core::Result<Object> {
    let id = Id::generate();
    storage.branch_volume(CloneSpec::new(source, id), &Cancel::new()).await?;
    Ok(Object::Volume(id))
}

pub async fn snapshot(storage: &dyn Storage, source: Object) -> Object {
    let id = Id::generate();
    storage.snapshot(CloneSpec::new(source, id), &Cancel::new()).await.unwrap();
    Object::Snapshot(id)
}

pub fn path(storage: &dyn Storage, object: Object) -> PathBuf {
    storage.location(object).host_path().to_path_buf()
}

pub fn dataset(place: &Place, object: Object) -> String {
    format!("{}/v-{}", place.dataset, object.id().to_string().to_lowercase())
}

/// Its volumes go on under the mark that they were made with, and are mounted where the home is.
#[tokio::test]
async fn zfs_home_that_was_moved_works_on() {
    let Some(place) = place() else { return };
    let around = place.folder();
    let (before, after) = (around.path().join("before"), around.path().join("after"));
    std::fs::create_dir(&before).unwrap();
    let storage = open(&place, &before).await;
    let main = volume(&*storage).await;
    std::fs::write(path(&*storage, main).join("file"), "there").unwrap();
    let stopped = volume(&*storage).await;
    run("umount", &[path(&*storage, stopped).to_str().unwrap()]);
    std::fs::rename(&before, &after).unwrap();

    let storage = open(&place, &after).await;
    let mut wanted = vec![main, stopped];
    wanted.sort();
    assert_eq!(storage.list().await.unwrap(), wanted);
    for object in [main, stopped] {
        storage.open(object).await.unwrap();
        assert!(path(&*storage, object).starts_with(&after));
    }
    let clone = branch(&*storage, main).await.unwrap();
    assert_eq!(std::fs::read_to_string(path(&*storage, clone).join("file")).unwrap(), "there");
    for object in [clone, main, stopped] {
        storage.destroy_volume(object.id()).await.unwrap();
    }
    assert_eq!(storage.list().await.unwrap(), []);
    assert!(!before.exists());
}

#[tokio::test]
async fn zfs_objects_are_marked_and_two_homes_see_their_own() {
    let Some(place) = place() else { return };
    let (one, two) = (place.folder(), place.folder());
    let (a, b) = (open(&place, one.path()).await, open(&place, two.path()).await);
    let label = Label::new("api", "dev", "data");
    let id = Id::generate();
    a.create_volume(VolumeSpec::new(id).label(label.clone())).await.unwrap();
    let source = Object::Volume(id);
    let clone = Id::generate();
    let spec = CloneSpec::new(source, clone).label(label).quota(Some(64 << 20));
    a.branch_volume(spec, &Cancel::new()).await.unwrap();
    let clone = Object::Volume(clone);
    let other = volume(&*b).await;

    let get = |property: &str, object| {
        run(
            "zfs",
            &["get", "-Hp", "-s", "local", "-o", "value", property, &dataset(&place, object)],
        )
    };
    for object in [source, clone] {
        for (property, value) in [
            ("velo:project", "api"),
            ("velo:branch", "dev"),
            ("velo:role", "data"),
            ("recordsize", "8192"),
            ("compression", "lz4"),
            ("atime", "off"),
            ("canmount", "noauto"),
        ] {
            assert_eq!(get(property, object), value, "{object} {property}");
        }
        let home = one.path().canonicalize().unwrap();
        assert_eq!(get("velo:home", object), home.to_str().unwrap());
    }
    assert_eq!(get("refquota", clone), (64 << 20).to_string());
    assert_eq!(get("refquota", source), "", "a quota is the clone's alone");
    assert_eq!(a.usage(clone).await.unwrap().available >> 20, 63);

    let mut wanted = [source, clone];
    wanted.sort();
    assert_eq!(a.list().await.unwrap(), wanted);
    assert_eq!(b.list().await.unwrap(), [other]);
    // Not even by its id.
    let refused = b.destroy_volume(source.id()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    for (storage, object) in [(&a, clone), (&a, source), (&b, other)] {
        storage.destroy_volume(object.id()).await.unwrap();
    }
    // The home keeps the dataset that it began with.
    let named = build(StorageKind::Zfs, one.path()).await.unwrap();
    assert_eq!(named.list().await.unwrap(), []);
    let elsewhere = place.config(one.path()).zfs_dataset("tank/elsewhere");
    let refused = build(StorageKind::Zfs, elsewhere).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
}

/// What the settings say of times of access holds, however a volume is mounted.
#[tokio::test]
async fn zfs_times_of_access_are_the_settings() {
    use std::os::unix::fs::MetadataExt;
    let Some(place) = place() else { return };
    for atime in ["off", "on"] {
        let root = place.folder();
        let mut config = place.config(root.path());
        config.zfs_properties.insert("atime".into(), atime.into());
        let storage = build(StorageKind::Zfs, config).await.unwrap();
        let source = volume(&*storage).await;
        let file = path(&*storage, source).join("file");
        std::fs::write(&file, "x").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let times = std::fs::FileTimes::new().set_accessed(long_ago);
        std::fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        std::fs::read(&file).unwrap();
        assert_eq!(file.metadata().unwrap().atime() > 1, atime == "on", "atime={atime}");
        storage.destroy_volume(source.id()).await.unwrap();
    }
}

/// A quota that the data is larger than already.
#[tokio::test]
async fn zfs_quotas_hold() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let storage = open(&place, root.path()).await;
    let source = volume(&*storage).await;
    let mut state = 1u64;
    let noise: Vec<u8> = (0..4 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    std::fs::write(path(&*storage, source).join("big"), &noise).unwrap();
    storage.sync(source).await.unwrap();
    run("zpool", &["sync", "tank"]);
    let id = Id::generate();
    let small = CloneSpec::new(source, id).quota(Some(1 << 20));
    let refused = storage.branch_volume(small, &Cancel::new()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused:?}");
    assert!(refused.hint().is_some());
    assert_eq!(storage.list().await.unwrap(), [source], "nothing is left");
    let id = Id::generate();
    let fits = CloneSpec::new(source, id).quota(Some(6 << 20));
    storage.branch_volume(fits, &Cancel::new()).await.unwrap();
    // The limit holds once what was written has reached the pool.
    let folder = path(&*storage, Object::Volume(id));
    let write = |n: u32| {
        let file = folder.join(format!("more-{n}"));
        std::fs::write(&file, &noise)?;
        std::fs::File::open(&file)?.sync_all()?;
        run("zpool", &["sync", "tank"]);
        Ok::<(), std::io::Error>(())
    };
    let full = (0..8).find_map(|n| write(n).err()).expect("it takes eight times its quota");
    assert_eq!(full.kind(), std::io::ErrorKind::QuotaExceeded, "{full}");
    storage.destroy_volume(id).await.unwrap();
    storage.destroy_volume(source.id()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

/// A process that was killed between the snapshot and the clone, or between the removal of the clone
/// and that of its snapshot.
#[tokio::test]
async fn zfs_orphaned_snapshots_go_with_their_clones() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let storage = open(&place, root.path()).await;
    let source = volume(&*storage).await;
    let half = Id::generate();
    let home = format!("velo:home={}", root.path().canonicalize().unwrap().display());
    let name = format!("{}@b-{}", dataset(&place, source), half.to_string().to_lowercase());
    run("zfs", &["snapshot", "-o", &home, &name]);
    let mut wanted = [source, Object::Volume(half)];
    wanted.sort();
    assert_eq!(storage.list().await.unwrap(), wanted, "what is half made is listed");
    storage.destroy_volume(half).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), [source]);

    let clone = branch(&*storage, source).await.unwrap();
    let needed = storage.destroy_volume(source.id()).await.unwrap_err();
    assert_eq!(needed.kind(), ErrorKind::Conflict, "{needed}");
    storage.destroy_volume(clone.id()).await.unwrap();
    let kept = snapshot(&*storage, source).await;
    let of_snapshot = branch(&*storage, kept).await.unwrap();
    let needed = storage.destroy_snapshot(kept.id()).await.unwrap_err();
    assert_eq!(needed.kind(), ErrorKind::Conflict, "{needed}");
    // The link that says which volume a snapshot is of may be lost.
    std::fs::remove_file(path(&*storage, kept)).unwrap();
    storage.destroy_volume(of_snapshot.id()).await.unwrap();
    storage.destroy_snapshot(kept.id()).await.unwrap();
    storage.destroy_volume(source.id()).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

/// After a reboot nothing is mounted.
#[tokio::test]
async fn zfs_volumes_are_mounted_when_they_are_used() {
    let Some(place) = place() else { return };
    let root = place.folder();
    let storage = open(&place, root.path()).await;
    let source = volume(&*storage).await;
    std::fs::write(path(&*storage, source).join("file"), "x").unwrap();
    let kept = snapshot(&*storage, source).await;
    run("umount", &[path(&*storage, source).to_str().unwrap()]);
    assert!(!path(&*storage, source).join("file").exists());
    let clone = branch(&*storage, source).await.unwrap();
    let at = storage.open(source).await.unwrap();
    for folder in [at.host_path(), &path(&*storage, clone), &path(&*storage, kept)] {
        assert!(folder.join("file").exists(), "{}", folder.display());
    }
    for object in [clone, source] {
        run("umount", &[path(&*storage, object).to_str().unwrap()]);
    }
    storage.open(kept).await.unwrap();
    assert!(path(&*storage, kept).join("file").exists());
    storage.destroy_volume(clone.id()).await.unwrap();
    storage.destroy_snapshot(kept.id()).await.unwrap();
    storage.destroy_volume(source.id()).await.unwrap();
    let gone = storage.open(source).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    assert_eq!(std::fs::read_dir(root.path().join("volumes")).unwrap().count(), 0);
}
