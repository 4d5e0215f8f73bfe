//! Suites for backends of your own (feature `testing`).
//!
//! ```no_run
//! # async fn example(storage: std::sync::Arc<dyn velo_core::storage::Storage>) -> velo_core::Result<()> {
//! velo_core::testing::storage_suite(storage).await
//! # }
//! ```

mod data;
mod storage;

pub use storage::storage_suite;

use crate::error::{Error, ErrorKind, Result};

/// An error of the kind [`ErrorKind::Internal`] unless `right`: `what` says what should be so.
fn ensure(right: bool, what: impl FnOnce() -> String) -> Result<()> {
    if right {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Internal, format!("the suite expects that {}", what())))
}

/// An error unless `result` is an error of `kind`.
fn ensure_kind<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => {
            Err(Error::new(ErrorKind::Internal, format!("{what} should be refused as {kind}"))
                .with_source(error))
        }
        Ok(_) => {
            Err(Error::new(ErrorKind::Internal, format!("{what} should be refused as {kind}")))
        }
    }
}
