//! How far a recovery is.

use std::fmt;
use std::sync::Arc;

/// How far a recovery is, for [`BranchSpec::watch`](crate::BranchSpec::watch).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The bytes of WAL that were replayed.
    pub replayed: u64,
    /// The bytes that are to be replayed.
    pub total: u64,
    /// When the last transaction was committed of what was replayed, in microseconds since 1970, UTC,
    /// where it is known.
    pub committed_at: Option<i64>,
}

impl Progress {
    /// The moment that was reached, in UTC.
    #[must_use]
    pub fn time(&self) -> Option<String> {
        self.committed_at.map(super::time::shown)
    }
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Watch(pub(crate) Arc<dyn Fn(Progress) + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Watch {}
