//! Plain copies. They work on every file system, and take time and space for every byte.

use std::path::Path;

use async_trait::async_trait;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::id::Id;
use crate::storage::files::{Files, copy_file};
use crate::storage::{
    CloneSpec, Cut, FileOp, Location, Object, Storage, StorageCapability, Usage, VolumeSpec,
};

/// Copies of folders.
#[derive(Debug)]
pub(crate) struct Copy(Files);

impl Copy {
    pub(crate) fn new(root: &Path) -> Self {
        Self(Files::new(root))
    }
}

#[async_trait]
impl Storage for Copy {
    fn capability(&self) -> StorageCapability {
        StorageCapability {
            name: "copy",
            copy_on_write: false,
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
        self.0.clone_tree(spec, target, copy_file, cancel).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Snapshot(spec.target);
        self.0.clone_tree(spec, target, copy_file, cancel).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        self.0.edit(object, ops, copy_file).await
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

    async fn available(&self, source: Object) -> Result<u64> {
        let size = self.0.usage(source).await?.referenced;
        Ok(self.0.available()?.saturating_sub(size))
    }
}
