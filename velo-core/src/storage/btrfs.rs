//! Subvolumes of btrfs and their snapshots.
//!
//! Linux only. A snapshot stays writable: a user who is not root can delete no other. Clones and
//! snapshots need their source for nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

use crate::cancel::Cancel;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::files::{
    Files, Folder, Scrub, check_quota, ficlone, not_made, open_dir, remove_at,
};
use crate::storage::{
    CloneSpec, Cut, FileOp, Location, Object, Storage, StorageCapability, Usage, VolumeSpec,
};

/// Below so much free space it is asked for what it has still to give back.
const SCARCE: u64 = 128 << 20;

/// How long it may take for that, and how long nothing may change meanwhile.
const GIVING: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(300);

/// Subvolumes.
#[derive(Debug)]
pub(crate) struct Btrfs(Files);

impl Btrfs {
    pub(crate) fn new(root: &Path) -> Self {
        Self(Files::new(root))
    }

    async fn clone(&self, spec: CloneSpec, target: Object, cancel: &Cancel) -> Result<()> {
        check_quota(&spec)?;
        let (files, cancel) = (self.0.clone(), cancel.clone());
        blocking(move || {
            cancel.check()?;
            let source = files.open(spec.source)?;
            let shelf = files.open_shelf(target)?;
            snapshot(&shelf, &source.fd, &target.id().to_string()).map_err(|e| match e {
                Errno::EXIST => not_made(target, e),
                Errno::INVAL | Errno::XDEV | Errno::NOTTY => Error::new(
                    ErrorKind::Incompatible,
                    format!(
                        "{} is not a btrfs subvolume of the same file system",
                        source.path.display()
                    ),
                )
                .with_source(std::io::Error::from(e))
                .with_hint(
                    "it was made by another storage, or copied file by file: make a subvolume of its name \
                     (btrfs subvolume create), and copy what it holds into that (cp -a --reflink)",
                ),
                e => Error::io(format_args!("snapshot {}", source.path.display()), e),
            })?;
            let clone = files.open(target)?;
            let inside = Inside::new(&source)?;
            Scrub::new(&clone, &source.path, &spec).run(|rel, inode| inside.check(rel, inode))
        })
        .await
    }

    async fn destroy(&self, object: Object) -> Result<()> {
        let files = self.0.clone();
        blocking(move || {
            if let Ok(shelf) = open_dir(rustix::fs::CWD, files.shelf(object)) {
                let name = object.id().to_string();
                if is_placeholder(&files, object) {
                    return rustix::fs::unlinkat(&shelf, &name, AtFlags::REMOVEDIR)
                        .map_err(|e| Error::io(format_args!("remove {object}"), e));
                }
                match destroy(&shelf, &name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    // A normal user without `user_subvol_rm_allowed`, or a subvolume inside: an
                    // emptied subvolume can be removed like a folder.
                    Err(error) => tracing::debug!(%object, %error, "removed file by file"),
                }
            }
            // Also what an earlier attempt left.
            files.remove(object)
        })
        .await
    }
}

#[async_trait]
impl Storage for Btrfs {
    fn capability(&self) -> StorageCapability {
        StorageCapability {
            name: "btrfs",
            copy_on_write: true,
            cut: Cut::Synced,
            clones_need_source: false,
            editable_snapshots: true,
            quota: false,
        }
    }

    fn location(&self, object: Object) -> Location {
        self.0.location(object)
    }

    async fn open(&self, object: Object) -> Result<Location> {
        if is_placeholder(&self.0, object) {
            let path = self.0.path(object);
            let what =
                format!("{} is what a snapshot of btrfs leaves of a subvolume", path.display());
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        self.0.open_location(object).await
    }

    async fn create_volume(&self, spec: VolumeSpec) -> Result<()> {
        let files = self.0.clone();
        blocking(move || {
            let object = Object::Volume(spec.id);
            let shelf = files.open_shelf(object)?;
            create(&shelf, &object.id().to_string()).map_err(|e| not_made(object, e))?;
            files.own(object, &spec)
        })
        .await
    }

    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Volume(spec.target);
        self.clone(spec, target, cancel).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Snapshot(spec.target);
        self.clone(spec, target, cancel).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        self.0.edit(object, ops, ficlone).await
    }

    async fn sync(&self, object: Object) -> Result<()> {
        self.0.sync(object).await
    }

    async fn destroy_volume(&self, id: Id) -> Result<()> {
        self.destroy(Object::Volume(id)).await
    }

    async fn destroy_snapshot(&self, id: Id) -> Result<()> {
        self.destroy(Object::Snapshot(id)).await
    }

    async fn list(&self) -> Result<Vec<Object>> {
        let mut found = self.0.list().await?;
        found.retain(|object| !is_placeholder(&self.0, *object));
        Ok(found)
    }

    async fn usage(&self, object: Object) -> Result<Usage> {
        self.0.usage(object).await
    }

    async fn available(&self, source: Object) -> Result<u64> {
        let mut free = self.0.available()?;
        if free >= SCARCE {
            return Ok(free);
        }
        // What was deleted is given back after a commit, which comes by itself every half minute.
        let files = self.0.clone();
        let asked = blocking(move || {
            let shelf = files.open_shelf(source)?;
            commit(&shelf).map_err(|e| Error::io("commit what was deleted", e))
        });
        if let Err(error) = asked.await {
            tracing::debug!(%error, "space of what was deleted may come back later");
            return Ok(free);
        }
        let begun = Instant::now();
        let mut changed = begun;
        while free < SCARCE && begun.elapsed() < GIVING && changed.elapsed() < QUIET {
            // Nobody tells when its cleaner is done: a bounded poll.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.0.available()?;
            if now != free {
                (free, changed) = (now, Instant::now());
            }
        }
        Ok(free)
    }
}

/// Refuses what a snapshot holds nothing of: the subvolumes and the file systems inside its source,
/// whose folders would be silently empty.
struct Inside<'a> {
    source: &'a Folder,
    device: u64,
}

/// The inode of the empty folder that stands in a snapshot for a subvolume of its source.
const PLACEHOLDER: u64 = 2;

/// Whether a snapshot was made of the folder around it, and this is the snapshot.
fn is_placeholder(files: &Files, object: Object) -> bool {
    rustix::fs::lstat(files.path(object)).is_ok_and(|stat| stat.st_ino == PLACEHOLDER)
}

impl<'a> Inside<'a> {
    fn new(source: &'a Folder) -> Result<Self> {
        let device = rustix::fs::fstat(&source.fd)
            .map_err(|e| Error::io(format_args!("look at {}", source.path.display()), e))?
            .st_dev;
        Ok(Self { source, device })
    }

    fn check(&self, rel: &Path, inode: u64) -> Result<()> {
        let other_device = || {
            rustix::fs::statat(&self.source.fd, rel, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_dev != self.device)
        };
        if inode != PLACEHOLDER && !other_device() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "{} is a subvolume or a mounted file system of its own, which a snapshot would \
                 leave empty",
                self.source.path.join(rel).display()
            ),
        )
        .with_hint("replace it by a plain folder with the same content, or use storage reflink"))
    }
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const _: () = assert!(size_of::<VolArgs>() == 4096 && size_of::<VolArgsV2>() == 4096);

const SUBVOL_CREATE: Opcode = opcode::write::<VolArgs>(0x94, 14);
const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(0x94, 15);
const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(0x94, 23);

const SYNC: Opcode = opcode::none(0x94, 8);

/// `name` with zeros behind it.
fn name<const N: usize>(name: &str) -> rustix::io::Result<[u8; N]> {
    let mut out = [0; N];
    match out.get_mut(..name.len()) {
        Some(to) if name.len() < N => to.copy_from_slice(name.as_bytes()),
        _ => return Err(Errno::NAMETOOLONG),
    }
    Ok(out)
}

/// Makes the subvolume `new` in the folder `at`.
fn create(at: &OwnedFd, new: &str) -> rustix::io::Result<()> {
    let args = VolArgs { fd: 0, name: name(new)? };
    // SAFETY: the opcode is that of BTRFS_IOC_SUBVOL_CREATE, which reads a `VolArgs` and writes
    // nothing; the name in it ends with a zero.
    unsafe { ioctl(at, Setter::<SUBVOL_CREATE, _>::new(args)) }
}

/// Makes `new` in the folder `at` as a snapshot of the subvolume `source`.
fn snapshot(at: &OwnedFd, source: &OwnedFd, new: &str) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let fd = i64::from(source.as_fd().as_raw_fd());
    let args = VolArgsV2 { fd, transid: 0, flags: 0, unused: [0; 4], name: name(new)? };
    // SAFETY: the opcode is that of BTRFS_IOC_SNAP_CREATE_V2, which reads a `VolArgsV2` (and
    // without a flag for it writes nothing); `source` is open until it returns, and the name ends
    // with a zero.
    unsafe { ioctl(at, Setter::<SNAP_CREATE_V2, _>::new(args)) }
}

/// Deletes the subvolume `old` in the folder `at`.
fn destroy(at: &OwnedFd, old: &str) -> rustix::io::Result<()> {
    let args = VolArgs { fd: 0, name: name(old)? };
    // SAFETY: as for `create`, with BTRFS_IOC_SNAP_DESTROY.
    unsafe { ioctl(at, Setter::<SNAP_DESTROY, _>::new(args)) }
}

/// Commits the file system of `at`, and wakes what cleans up after deleted subvolumes.
fn commit(at: &OwnedFd) -> rustix::io::Result<()> {
    // SAFETY: the opcode is that of BTRFS_IOC_SYNC, which takes no argument.
    unsafe { ioctl(at, NoArg::<SYNC>::new()) }
}

/// Tries it in `folder`.
pub(super) fn works_in(folder: &OwnedFd) -> rustix::io::Result<()> {
    create(folder, "volume")?;
    let made = open_dir(folder, "volume").and_then(|source| snapshot(folder, &source, "clone"));
    for name in ["volume", "clone"] {
        match destroy(folder, name) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Emptied, a subvolume is removed like a folder; whether that works is part of it.
            Err(_) => remove_at(folder, name)?,
        }
    }
    made
}
