//! What Velo knows of PostgreSQL.

pub mod binaries;
pub mod install;

pub(crate) mod control;
pub(crate) mod scram;

pub use binaries::{Installation, Source, Version};
