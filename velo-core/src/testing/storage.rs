//! What every [`Storage`] must do, whatever is below it.
//!
//! It looks at files through [`Location::host_path`](crate::storage::Location::host_path).

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data::{Tree, fill, noise, put, read, same, stat, tree, unlink};
use super::{ensure, ensure_kind};
use crate::cancel::Cancel;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::{CloneSpec, FileOp, Object, Storage, VolumeSpec};

/// Runs every check on `storage`. The first that fails is the error, which says what was expected.
///
/// It makes volumes and snapshots of its own and destroys them, also after a failure, and looks at no
/// others: several suites may run on one storage at the same time. Call it in a tokio runtime.
///
/// # Errors
/// What `storage` does not do as the trait asks; or its own error.
pub async fn storage_suite(storage: Arc<dyn Storage>) -> Result<()> {
    let mut bench = Bench { storage, made: Vec::new() };
    let result = bench.run().await;
    let made = std::mem::take(&mut bench.made);
    for object in made {
        if let Err(cleanup) = bench.destroy(object).await {
            return match result {
                Ok(()) => Err(cleanup),
                Err(error) => Err(error.with_cleanup(cleanup)),
            };
        }
    }
    result
}

struct Bench {
    storage: Arc<dyn Storage>,
    made: Vec<Object>,
}

impl Bench {
    async fn run(&mut self) -> Result<()> {
        self.a_volume_is_made_once().await?;
        self.a_clone_is_the_same_and_apart().await?;
        self.a_clone_leaves_out_what_is_named().await?;
        self.a_running_source_may_change().await?;
        self.links_must_stay_inside().await?;
        self.edits_are_carried_out_in_order().await?;
        self.edits_never_leave_the_object().await?;
        self.destroying_is_repeatable().await?;
        self.a_canceled_clone_is_removed().await?;
        self.space_is_counted().await
    }

    fn volume(&mut self) -> Object {
        self.keep(Object::Volume(Id::generate()))
    }

    fn keep(&mut self, object: Object) -> Object {
        // Clones before what they may need.
        self.made.insert(0, object);
        object
    }

    fn path(&self, object: Object) -> PathBuf {
        self.storage.location(object).host_path().to_path_buf()
    }

    async fn destroy(&self, object: Object) -> Result<()> {
        match object {
            Object::Volume(id) => self.storage.destroy_volume(id).await,
            Object::Snapshot(id) => self.storage.destroy_snapshot(id).await,
        }
    }

    async fn place(&self, target: Object, spec: CloneSpec) -> Result<()> {
        let cancel = Cancel::new();
        match target {
            Object::Volume(_) => self.storage.branch_volume(spec, &cancel).await,
            Object::Snapshot(_) => self.storage.snapshot(spec, &cancel).await,
        }
    }

    /// A volume with some files.
    async fn filled(&mut self) -> Result<(Object, PathBuf)> {
        let volume = self.volume();
        self.storage.create_volume(VolumeSpec::new(volume.id())).await?;
        let path = self.path(volume);
        let at = path.clone();
        blocking(move || fill(&at)).await?;
        Ok((volume, path))
    }

    async fn a_volume_is_made_once(&mut self) -> Result<()> {
        let volume = self.volume();
        self.storage.create_volume(VolumeSpec::new(volume.id())).await?;
        let path = self.path(volume);
        let mode = stat(&path)?.mode() & 0o7777;
        ensure(mode == 0o700, || format!("a new volume has mode 0700, not {mode:o}"))?;
        ensure(tree(&path)?.is_empty(), || "a new volume is empty".into())?;
        let again = self.storage.create_volume(VolumeSpec::new(volume.id())).await;
        ensure_kind(again, ErrorKind::AlreadyExists, "a volume that exists")?;
        self.storage.sync(volume).await?;
        let listed = self.storage.list().await?;
        ensure(listed.contains(&volume), || "list has a new volume".into())
    }

    async fn a_clone_is_the_same_and_apart(&mut self) -> Result<()> {
        let (source, from) = self.filled().await?;
        let before = tree(&from)?;
        let snapshot = self.keep(Object::Snapshot(Id::generate()));
        self.place(snapshot, CloneSpec::new(source, snapshot.id())).await?;
        let of_snapshot = self.volume();
        self.place(of_snapshot, CloneSpec::new(snapshot, of_snapshot.id())).await?;
        let of_volume = self.volume();
        self.place(of_volume, CloneSpec::new(source, of_volume.id())).await?;
        for clone in [snapshot, of_snapshot, of_volume] {
            same(&before, &tree(&self.path(clone))?, &format!("{clone} is like its source"))?;
        }
        let again = self.place(of_volume, CloneSpec::new(source, of_volume.id())).await;
        ensure_kind(again, ErrorKind::AlreadyExists, "a clone that exists")?;
        let nothing = Object::Volume(Id::generate());
        let target = self.volume();
        let missing = self.place(target, CloneSpec::new(nothing, target.id())).await;
        ensure_kind(missing, ErrorKind::NotFound, "a clone of nothing")?;

        put(&self.path(of_volume), "base/1/1259", b"changed in the clone")?;
        unlink(&self.path(of_volume), "PG_VERSION")?;
        same(&before, &tree(&from)?, "a source stays as it is when its clone changes")?;
        put(&from, "base/1/1259", b"changed in the source")?;
        put(&from, "new", b"new")?;
        same(&before, &tree(&self.path(of_snapshot))?, "a clone stays as its source changes")?;
        if !self.storage.capability().clones_need_source {
            self.destroy(source).await?;
            self.destroy(snapshot).await?;
            same(&before, &tree(&self.path(of_snapshot))?, "a clone outlives its source")?;
        }
        Ok(())
    }

    async fn a_clone_leaves_out_what_is_named(&mut self) -> Result<()> {
        let (source, from) = self.filled().await?;
        let before = tree(&from)?;
        let target = self.volume();
        let spec = CloneSpec::new(source, target.id())
            .skip(&["PG_VERSION", "pg_wal/*", "base/pgsql_tmp*"])
            .live(&["global/pg_control", "not/there"]);
        self.place(target, spec).await?;
        let wanted: Tree = before
            .into_iter()
            .filter(|(path, _)| {
                path != "PG_VERSION"
                    && !path.starts_with("pg_wal/")
                    && !path.starts_with("base/pgsql_tmp")
            })
            .collect();
        ensure(wanted.contains_key("pg_wal"), || "the suite's own pattern is right".into())?;
        same(&wanted, &tree(&self.path(target))?, "a clone has all but what was left out")
    }

    async fn a_running_source_may_change(&mut self) -> Result<()> {
        let (source, from) = self.filled().await?;
        let before = tree(&from)?;
        let over = Arc::new(AtomicBool::new(false));
        let (stop, folder) = (over.clone(), from.join("base/1"));
        let churn = tokio::task::spawn_blocking(move || -> std::io::Result<u64> {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = folder.join(format!("churn-{}", rounds % 100));
                fs::write(&name, b"x")?;
                let inner = folder.join(format!("gone-{}", rounds % 10));
                fs::create_dir_all(&inner)?;
                fs::remove_dir(&inner)?;
                fs::remove_file(&name)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let mut result = Ok(());
        let mut targets = Vec::new();
        for _ in 0..10 {
            let target = self.volume();
            targets.push(target);
            let spec = CloneSpec::new(source, target.id()).live(&["global/pg_control"]);
            result = self.place(target, spec).await;
            if result.is_err() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let churned = churn
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "the churn panicked").with_source(e))?;
        result?;
        churned.map_err(|e| Error::io("change the source", e))?;
        for target in targets {
            let mut clone = tree(&self.path(target))?;
            clone.retain(|path, _| !path.contains("churn-") && !path.contains("gone-"));
            same(&before, &clone, "what did not change is in the clone")?;
        }
        Ok(())
    }

    async fn links_must_stay_inside(&mut self) -> Result<()> {
        for (name, to) in
            [("pg_tblspc/16384", "/var"), ("base/up", "../../x"), ("base/1/in", "../../base/../..")]
        {
            let (source, from) = self.filled().await?;
            let link = from.join(name);
            symlink(to, &link).map_err(|e| Error::io("make a link", e))?;
            let target = self.volume();
            let refused = self.place(target, CloneSpec::new(source, target.id())).await;
            let message = refused.as_ref().err().map(ToString::to_string).unwrap_or_default();
            ensure_kind(refused, ErrorKind::Incompatible, &format!("a link to {to}"))?;
            ensure(message.contains(name), || format!("{message:?} names the link {name}"))?;
            self.destroy(target).await?;
            ensure(fs::symlink_metadata(self.path(target)).is_err(), || {
                "what a failed clone left is removed".into()
            })?;
        }
        Ok(())
    }

    async fn edits_are_carried_out_in_order(&mut self) -> Result<()> {
        let (source, _) = self.filled().await?;
        let target = self.volume();
        self.place(target, CloneSpec::new(source, target.id())).await?;
        let path = self.path(target);
        let ops = vec![
            FileOp::Remove { path: "pg_wal".into() },
            FileOp::Remove { path: "pg_wal".into() },
            FileOp::Remove { path: "no/such/file".into() },
            FileOp::Write { path: "base/1/a".into(), content: b"1".to_vec() },
            FileOp::Rename { from: "base/1/a".into(), to: "b".into() },
            FileOp::Write { path: "b".into(), content: b"22".to_vec() },
            FileOp::CloneFile { source, from: "base/1/1259".into(), to: "PG_VERSION".into() },
        ];
        self.storage.edit(target, ops).await?;
        let now = tree(&path)?;
        ensure(!now.contains_key("pg_wal"), || "a folder is removed whole".into())?;
        ensure(!now.contains_key("base/1/a"), || "a renamed file is not where it was".into())?;
        let folder = stat(&path)?;
        let b = stat(&path.join("b"))?;
        ensure(read(&path, "b")? == b"22", || "a file is written anew".into())?;
        ensure(b.mode() & 0o7777 == 0o600, || "a written file has mode 0600".into())?;
        ensure((b.uid(), b.gid()) == (folder.uid(), folder.gid()), || {
            "a written file belongs to the owner of the object's folder".into()
        })?;
        let same = read(&path, "PG_VERSION")? == read(&self.path(source), "base/1/1259")?;
        ensure(same, || "a cloned file replaces what was there".into())?;
        let missing = vec![FileOp::CloneFile { source, from: "x".into(), to: "y".into() }];
        ensure_kind(self.storage.edit(target, missing).await, ErrorKind::NotFound, "no file")
    }

    async fn edits_never_leave_the_object(&mut self) -> Result<()> {
        let (source, _) = self.filled().await?;
        let (target, path) = self.filled().await?;
        let (_, outside) = self.filled().await?;
        let before = tree(&outside)?;
        let link = |to: &Path, name: &str| {
            symlink(to, path.join(name)).map_err(|e| Error::io("make a link", e))
        };
        link(&outside, "folder")?;
        link(&outside.join("PG_VERSION"), "file")?;
        let outside_path = outside.join("PG_VERSION").display().to_string();
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "base/../../x",
            "/x",
            "base//1",
            "folder/PG_VERSION",
            &outside_path,
        ] {
            let path = || bad.to_owned();
            for op in [
                FileOp::Write { path: path(), content: b"bad".to_vec() },
                FileOp::Remove { path: path() },
                FileOp::CloneFile { source, from: "PG_VERSION".into(), to: path() },
                FileOp::CloneFile { source: target, from: path(), to: "x".into() },
                FileOp::Rename { from: "PG_VERSION".into(), to: path() },
                FileOp::Rename { from: path(), to: "x".into() },
            ] {
                let shown = format!("{op:?} is refused");
                ensure(self.storage.edit(target, vec![op]).await.is_err(), || shown)?;
            }
        }
        let read = FileOp::CloneFile { source: target, from: "file".into(), to: "x".into() };
        ensure(self.storage.edit(target, vec![read]).await.is_err(), || {
            "a link is not read through".into()
        })?;
        // These replace the link itself.
        let write = FileOp::Write { path: "file".into(), content: b"mine".to_vec() };
        self.storage.edit(target, vec![write, FileOp::Remove { path: "folder".into() }]).await?;
        same(&before, &tree(&outside)?, "nothing outside of the object changes")
    }

    async fn destroying_is_repeatable(&mut self) -> Result<()> {
        let (volume, path) = self.filled().await?;
        let snapshot = self.keep(Object::Snapshot(Id::generate()));
        self.place(snapshot, CloneSpec::new(volume, snapshot.id())).await?;
        let listed = self.storage.list().await?;
        ensure(listed.contains(&volume) && listed.contains(&snapshot), || {
            "list has volumes and snapshots".into()
        })?;
        for object in [snapshot, volume] {
            self.destroy(object).await?;
            self.destroy(object).await?;
            let listed = self.storage.list().await?;
            ensure(!listed.contains(&object), || format!("list no longer has {object}"))?;
        }
        ensure(fs::symlink_metadata(&path).is_err(), || "a destroyed volume is gone".into())?;
        let gone = self.storage.usage(volume).await;
        ensure_kind(gone, ErrorKind::NotFound, "the usage of what is gone")
    }

    async fn a_canceled_clone_is_removed(&mut self) -> Result<()> {
        let (source, _) = self.filled().await?;
        let target = self.volume();
        let cancel = Cancel::new();
        cancel.cancel();
        let spec = CloneSpec::new(source, target.id());
        let refused = self.storage.branch_volume(spec, &cancel).await;
        ensure_kind(refused, ErrorKind::Canceled, "a clone that is no longer wanted")?;
        self.destroy(target).await
    }

    async fn space_is_counted(&mut self) -> Result<()> {
        const MB: u64 = 1 << 20;
        let (source, from) = self.filled().await?;
        put(&from, "big", &noise(4 * MB as usize))?;
        self.storage.sync(source).await?;
        let target = self.volume();
        self.place(target, CloneSpec::new(source, target.id())).await?;
        self.storage.sync(target).await?;
        let fresh = self.storage.usage(target).await?;
        let shown = format!("{fresh:?}");
        ensure(fresh.referenced >= 4 * MB && fresh.available > 0, || {
            format!("a clone refers to what its source holds: {shown}")
        })?;
        if self.storage.capability().copy_on_write {
            ensure(fresh.exclusive < MB, || format!("a fresh clone takes little: {shown}"))?;
        }
        put(&self.path(target), "more", &noise(2 * MB as usize))?;
        self.storage.sync(target).await?;
        let grown = self.storage.usage(target).await?;
        let more = grown.exclusive.saturating_sub(fresh.exclusive);
        ensure((2 * MB..3 * MB).contains(&more), || {
            format!("what is written is exclusive: {fresh:?} then {grown:?}")
        })
    }
}
