//! Folders whose files are cloned one by one with `FICLONE` (XFS, btrfs, ZFS 2.3, bcachefs).
//!
//! Linux only. A file that the file system refuses to clone is an error, never a silent copy.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use async_trait::async_trait;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::id::Id;
use crate::storage::files::{Files, ficlone};
use crate::storage::{
    CloneSpec, Cut, FileOp, Location, Object, Storage, StorageCapability, Usage, VolumeSpec,
};

/// Clones of folders, file by file.
#[derive(Debug)]
pub(crate) struct Reflink(Files);

impl Reflink {
    pub(crate) fn new(root: &Path) -> Self {
        Self(Files::new(root))
    }
}

#[async_trait]
impl Storage for Reflink {
    fn capability(&self) -> StorageCapability {
        StorageCapability {
            name: "reflink",
            copy_on_write: true,
            cut: Cut::FileByFile,
            clones_need_source: false,
            editable_snapshots: true,
            quota: false,
        }
    }

    fn location(&self, object: Object) -> Location {
        self.0.location(object)
    }

    async fn open(&self, object: Object) -> Result<Location> {
        self.0.open_location(object).await
    }

    async fn create_volume(&self, spec: VolumeSpec) -> Result<()> {
        self.0.create(spec).await
    }

    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Volume(spec.target);
        self.0.clone_tree(spec, target, ficlone, cancel).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Snapshot(spec.target);
        self.0.clone_tree(spec, target, ficlone, cancel).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        self.0.edit(object, ops, ficlone).await
    }

    async fn sync(&self, object: Object) -> Result<()> {
        self.0.sync(object).await
    }

    async fn destroy_volume(&self, id: Id) -> Result<()> {
        self.0.destroy(Object::Volume(id)).await
    }

    async fn destroy_snapshot(&self, id: Id) -> Result<()> {
        self.0.destroy(Object::Snapshot(id)).await
    }

    async fn list(&self) -> Result<Vec<Object>> {
        self.0.list().await
    }

    async fn usage(&self, object: Object) -> Result<Usage> {
        self.0.usage(object).await
    }

    async fn available(&self, _source: Object) -> Result<u64> {
        self.0.available()
    }
}

/// Tries it in `folder`; whoever calls removes what is left there.
pub(super) fn works_in(folder: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let from = rustix::fs::openat(folder, "from", flags, mode)?;
    // More than what a file system may keep inline.
    rustix::io::write(&from, &[1; 64 << 10])?;
    let to = rustix::fs::openat(folder, "to", flags, mode)?;
    rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
}
