//! What Velo knows of PostgreSQL.

pub(crate) mod backup;
pub mod binaries;
pub(crate) mod collation;
pub(crate) mod control;
pub(crate) mod data_file;
pub(crate) mod hba;
pub mod image;
pub mod install;
pub mod lsn;
pub(crate) mod outgoing;
pub(crate) mod readiness;
pub(crate) mod scram;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod subscriptions;
pub(crate) mod tablespaces;

pub use binaries::{Installation, Source, Version};
pub use image::{Image, Libc};
pub use lsn::Lsn;
