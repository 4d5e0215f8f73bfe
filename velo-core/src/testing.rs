//! Suites for backends of your own (feature `testing`).
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use velo_core::{postgres::{Installation, Source}, runtime::Runtime, storage::Storage};
//! # async fn example(storage: Arc<dyn Storage>, runtime: Arc<dyn Runtime>) -> velo_core::Result<()> {
//! use velo_core::testing::{RuntimePlace, runtime_suite, storage_suite};
//!
//! storage_suite(storage.clone()).await?;
//!
//! let postgres = Installation::at("/usr/lib/postgresql/18/bin", Source::Explicit).await?;
//! // As root, servers run as another user: say so with `RuntimePlace::owner`.
//! let place = RuntimePlace::new(storage, postgres, "/var/tmp/suite");
//! runtime_suite(runtime, place).await
//! # }
//! ```

mod data;
pub(crate) mod faults;
mod fuzz;
mod runtime;
mod server;
mod storage;

pub use fuzz::{ENTRIES, Entry, Verdict, fuzz};
pub use runtime::runtime_suite;
pub use server::RuntimePlace;
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
