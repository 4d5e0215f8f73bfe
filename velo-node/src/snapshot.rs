//! Snapshots.

use napi_derive::napi;

use crate::branch::Source;
use crate::call::Call;
use crate::info::{SnapshotInfo, Usage};
use crate::project::Project;

/// A named, immutable state that branches start from.
#[napi]
pub struct Snapshot(pub(crate) velo_core::Snapshot);

#[napi]
impl Snapshot {
    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[napi(getter)]
    pub fn name(&self) -> String {
        self.0.name().to_owned()
    }

    #[napi(getter)]
    pub fn project(&self) -> Project {
        Project(self.0.project())
    }

    #[napi]
    pub fn source(&self) -> Source {
        Source((&self.0).into())
    }

    #[napi]
    pub fn info(&self) -> SnapshotInfo {
        self.0.info().clone().into()
    }

    #[napi]
    pub fn usage(&self) -> Call {
        let snapshot = self.0.clone();
        Call::new(async move { snapshot.usage().await }, Usage::from)
    }

    #[napi]
    pub fn delete(&self) -> Call {
        let snapshot = self.0.clone();
        Call::nothing(async move { snapshot.delete().await })
    }
}
