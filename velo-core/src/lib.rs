//! Git branches for PostgreSQL.

pub mod cancel;
mod command;
mod error;
mod id;
mod os_user;
pub mod postgres;
pub mod runtime;
pub mod storage;

pub use error::{Error, ErrorKind, Result};
pub use id::{BranchName, Id, ProjectName, SnapshotName};
