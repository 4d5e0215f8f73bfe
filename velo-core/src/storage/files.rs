//! What the backends of this crate share: objects are folders under one root, named by their ids.
//!
//! Linux is what this is tested on. Elsewhere only copies work, without their usage, and untested.
// btrfs alone clones no folders, and without any backend only the probe is left.
#![cfg_attr(not(any(feature = "reflink", feature = "copy")), allow(dead_code))]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{CWD, Gid, Mode, Uid};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::{CloneSpec, FileOp, Location, Object, Usage, VolumeSpec};

mod adopt;
mod beneath;
#[cfg(any(feature = "copy", feature = "zfs"))]
mod bytes;
mod edit;
#[cfg(all(any(feature = "btrfs", feature = "reflink"), target_os = "linux"))]
mod ficlone;
mod links;
mod pool;
mod probe;
mod remove;
#[cfg(all(any(feature = "btrfs", feature = "zfs"), target_os = "linux"))]
mod scrub;
mod skip;
mod tree;

pub(crate) use adopt::{adopt, can_clone};
#[allow(unused_imports)] // btrfs alone needs it outside
pub(super) use beneath::Folder;
#[cfg(target_os = "linux")]
pub(super) use beneath::{open_dir, open_file, read_dir};
#[cfg(any(feature = "copy", feature = "zfs"))]
pub(super) use bytes::copy_file;
#[cfg(all(any(feature = "btrfs", feature = "reflink"), target_os = "linux"))]
pub(super) use ficlone::ficlone;
pub(super) use probe::probe;
#[cfg(all(feature = "btrfs", target_os = "linux"))]
pub(super) use remove::remove_at;
#[cfg(all(any(feature = "btrfs", feature = "zfs"), target_os = "linux"))]
pub(super) use scrub::Scrub;
pub(super) use tree::CloneFn;

const VOLUMES: &str = "volumes";
const SNAPSHOTS: &str = "snapshots";

/// What a destroyed object is called until the last of it is gone.
const GONE: &str = ".gone-";

/// The folders of one installation.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
    volumes: PathBuf,
    /// What a volume's folder is called.
    leaf: fn(Id) -> String,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self::with_volumes(root, root.join(VOLUMES), |id| id.to_string())
    }

    /// Whose volumes are in another folder, or are called otherwise.
    pub(super) fn with_volumes(root: &Path, volumes: PathBuf, leaf: fn(Id) -> String) -> Self {
        Self { root: root.to_path_buf(), volumes, leaf }
    }

    /// The folder that objects of this kind are in.
    pub(super) fn shelf(&self, object: Object) -> PathBuf {
        match object {
            Object::Volume(_) => self.volumes.clone(),
            Object::Snapshot(_) => self.root.join(SNAPSHOTS),
        }
    }

    pub(super) fn path(&self, object: Object) -> PathBuf {
        self.shelf(object).join(match object {
            Object::Volume(id) => (self.leaf)(id),
            Object::Snapshot(id) => id.to_string(),
        })
    }

    pub(super) fn location(&self, object: Object) -> Location {
        Location::HostPath(self.path(object))
    }

    /// The folder of an object that must exist.
    pub(super) async fn open_location(&self, object: Object) -> Result<Location> {
        let this = self.clone();
        blocking(move || this.open(object).map(|folder| Location::HostPath(folder.path))).await
    }

    /// What is free on the file system.
    pub(super) fn available(&self) -> Result<u64> {
        free(&self.root)
    }

    /// Opens the folder that objects of this kind are in, and makes it first if it is missing.
    pub(super) fn open_shelf(&self, object: Object) -> Result<OwnedFd> {
        let shelf = self.shelf(object);
        // Passable for the user that `postgres` runs as, and listable for nobody else.
        match rustix::fs::mkdir(&shelf, Mode::from_raw_mode(0o711)) {
            // Whatever the umask is: with 077 that user could not pass.
            Ok(()) => beneath::open_dir(CWD, &shelf).and_then(|fd| {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o711))?;
                Ok(fd)
            }),
            Err(Errno::EXIST) => beneath::open_dir(CWD, &shelf),
            Err(e) => Err(e),
        }
        .map_err(|e| Error::io(format_args!("open {}", shelf.display()), e))
    }

    pub(super) async fn create(&self, spec: VolumeSpec) -> Result<()> {
        let this = self.clone();
        blocking(move || {
            let object = Object::Volume(spec.id);
            let shelf = this.open_shelf(object)?;
            let name = object.id().to_string();
            rustix::fs::mkdirat(&shelf, &name, Mode::RWXU).map_err(|e| not_made(object, e))?;
            this.own(object, &spec)
        })
        .await
    }

    /// Gives a new volume's folder its mode and owner.
    pub(super) fn own(&self, object: Object, spec: &VolumeSpec) -> Result<()> {
        let path = self.path(object);
        let fault = |e: Errno| Error::io(format_args!("prepare {}", path.display()), e);
        let fd = beneath::open_dir(CWD, &path).map_err(fault)?;
        rustix::fs::fchmod(&fd, Mode::RWXU).map_err(fault)?;
        let Some((uid, gid)) = spec.owner else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(|e| {
            Error::io(format_args!("give {} to user {uid}", path.display()), e)
                .with_hint("only root may make a volume for another user")
        })
    }

    /// Clones file by file, each with `clone`.
    pub(super) async fn clone_tree(
        &self,
        spec: CloneSpec,
        target: Object,
        clone: CloneFn,
        cancel: &Cancel,
    ) -> Result<()> {
        check_quota(&spec)?;
        let (this, cancel) = (self.clone(), cancel.clone());
        blocking(move || {
            cancel.check()?;
            let from = this.open(spec.source)?;
            let shelf = this.open_shelf(target)?;
            let name = target.id().to_string();
            rustix::fs::mkdirat(&shelf, &name, Mode::RWXU).map_err(|e| not_made(target, e))?;
            let to = this.open(target)?;
            tree::clone_tree(&from, &to, &spec, clone, &cancel)
        })
        .await
    }

    /// An object's folder.
    pub(super) fn open(&self, object: Object) -> Result<beneath::Folder> {
        beneath::Folder::open(self.path(object), object)
    }

    pub(super) async fn edit(
        &self,
        object: Object,
        ops: Vec<FileOp>,
        clone: CloneFn,
    ) -> Result<()> {
        let this = self.clone();
        blocking(move || edit::edit(&this, object, &ops, clone)).await
    }

    pub(super) async fn sync(&self, object: Object) -> Result<()> {
        let this = self.clone();
        blocking(move || {
            let folder = this.open(object)?;
            #[cfg(target_os = "linux")]
            let done = rustix::fs::syncfs(&folder.fd);
            // Untested there: sync() is what POSIX has.
            #[cfg(not(target_os = "linux"))]
            let done = {
                rustix::fs::sync();
                Ok::<(), Errno>(())
            };
            done.map_err(|e| Error::io(format_args!("sync {}", folder.path.display()), e))
        })
        .await
    }

    pub(super) async fn destroy(&self, object: Object) -> Result<()> {
        let this = self.clone();
        blocking(move || this.remove(object)).await
    }

    /// Renames the object out of the way, so that a half-destroyed one never looks whole, and
    /// removes it. Finishes what an earlier attempt left.
    pub(super) fn remove(&self, object: Object) -> Result<()> {
        let shelf = self.shelf(object);
        let fault =
            |e: Errno| Error::io(format_args!("destroy {object} in {}", shelf.display()), e);
        let fd = match beneath::open_dir(CWD, &shelf) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(fault(e)),
        };
        let name = object.id().to_string();
        let gone = format!("{GONE}{name}");
        // The remains of an earlier attempt would be in the way of the rename.
        remove::remove_tree(&fd, &gone, &shelf)?;
        match rustix::fs::renameat(&fd, &name, &fd, &gone) {
            Ok(()) => remove::remove_tree(&fd, &gone, &shelf),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(fault(e)),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<Object>> {
        let this = self.clone();
        blocking(move || {
            let mut found = std::collections::BTreeSet::new();
            for shelf in [VOLUMES, SNAPSHOTS] {
                let object = if shelf == VOLUMES { Object::Volume } else { Object::Snapshot };
                let shelf = this.root.join(shelf);
                let fault = |e: Errno| Error::io(format_args!("list {}", shelf.display()), e);
                let fd = match beneath::open_dir(CWD, &shelf) {
                    Ok(fd) => fd,
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(fault(e)),
                };
                for entry in beneath::read_dir(&fd).map_err(fault)? {
                    let Ok(name) = entry.name.to_str() else {
                        continue;
                    };
                    let name = name.strip_prefix(GONE).unwrap_or(name);
                    // A ULID is read in either case and written in one: others are not ours.
                    if let Ok(id) = Id::from_str(name)
                        && id.to_string() == name
                    {
                        found.insert(object(id));
                    }
                }
            }
            Ok(found.into_iter().collect())
        })
        .await
    }

    pub(super) async fn usage(&self, object: Object) -> Result<Usage> {
        let this = self.clone();
        blocking(move || {
            let folder = this.open(object)?;
            #[cfg(target_os = "linux")]
            return crate::storage::extents::usage(&folder.fd, &folder.path);
            #[cfg(not(target_os = "linux"))]
            Err(Error::new(ErrorKind::Unsupported, "the usage of a volume is known on Linux only"))
        })
        .await
    }
}

/// What is free on the file system of `path`, in bytes.
pub(super) fn free(path: &Path) -> Result<u64> {
    match rustix::fs::statvfs(path) {
        Ok(fs) => Ok(fs.f_bavail * fs.f_frsize),
        Err(e) => Err(Error::io(format_args!("look at the free space of {}", path.display()), e)),
    }
}

/// An error if `spec` asks for what folders cannot give.
pub(super) fn check_quota(spec: &CloneSpec) -> Result<()> {
    match spec.quota {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Unsupported, "folders cannot be held to a quota")
            .with_hint("use storage zfs, or leave the quota out")),
    }
}

/// Why an object could not be made.
pub(super) fn not_made(object: Object, e: Errno) -> Error {
    if e == Errno::EXIST {
        return Error::new(ErrorKind::AlreadyExists, format!("{object} exists already"));
    }
    Error::io(format_args!("make {object}"), e)
}

/// Whether files must be given to the owner that they have in the source.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
