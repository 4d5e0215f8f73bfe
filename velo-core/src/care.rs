//! What was done so that records, storage, runtime and processes agree.

use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::home::Home;
use crate::storage::{Object, Storage, StorageKind};

/// One thing that was removed, finished or set right; or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Deed {
    /// What was done: `removed`, `finished`, `started`, `stopped`, `opened` (a start was brought to its
    /// end) or `restarted`. Stable.
    pub deed: &'static str,
    /// To what: `project`, `branch`, `snapshot`, `reset`, `hidden`, `run`, `lock`, `socket`, `volume`,
    /// `container` or `server`. Stable.
    pub kind: &'static str,
    /// What people call it: its name, or where it is.
    pub name: String,
    /// Why, in a few words.
    pub why: &'static str,
    /// The bytes that only it took, where that is quickly told.
    pub bytes: Option<u64>,
    /// Why it could not be done; then it is as it was, or half gone and tried again the next time.
    pub error: Option<String>,
}

impl Deed {
    pub(crate) fn new(
        deed: &'static str,
        kind: &'static str,
        name: impl Into<String>,
        why: &'static str,
    ) -> Self {
        Self { deed, kind, name: name.into(), why, bytes: None, error: None }
    }

    pub(crate) fn removed(kind: &'static str, name: impl Into<String>, why: &'static str) -> Self {
        Self::new("removed", kind, name, why)
    }

    pub(crate) fn of_bytes(mut self, bytes: Option<u64>) -> Self {
        self.bytes = bytes;
        self
    }

    /// With what came of it.
    pub(crate) fn came_to(mut self, result: &Result<()>) -> Self {
        self.error = result.as_ref().err().map(told);
        self
    }
}

/// An error in one line, with what to do about it.
fn told(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// How long something may be measured: what takes longer is not cheap.
const MEASURE: Duration = Duration::from_secs(3);

/// The bytes that would become free if only this went, if that is quickly told.
pub(crate) async fn measured(storage: &dyn Storage, object: Object) -> Option<u64> {
    let usage = tokio::time::timeout(MEASURE, storage.usage(object)).await;
    match usage {
        Ok(Ok(usage)) => Some(usage.exclusive),
        Ok(Err(error)) => {
            tracing::debug!(%error, %object, "cannot be measured");
            None
        }
        Err(_) => None,
    }
}

/// The same for a volume of a branch.
pub(crate) async fn measured_in(home: &Home, kind: StorageKind, object: Object) -> Option<u64> {
    measured(&*home.storage(kind).ok()?, object).await
}
