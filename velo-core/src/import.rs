//! Real data: what a project's `main` is brought from, and how.
//!
//! | method | from | what comes |
//! |---|---|---|
//! | [`Basebackup`](Method::Basebackup) | a running server of the same major | the files, of all databases |
//! | [`Dump`](Method::Dump) | a running server, of an older major too | databases or schemas, by SQL |
//! | [`Files`](Method::Files) | the data folder of a server that is stopped | the files, cloned where the file system can |
//! | [`Sql`](Method::Sql) | a dump in a file or folder | what is in it |
//!
//! ```no_run
//! # async fn example() -> velo_core::Result<()> {
//! use velo_core::{Project, import::Source};
//! let source = Source::new("postgres://ann@db.example/shop")?.transform("trim.sql").masking("masking.toml");
//! let project = Project::builder("api").from(source).create().await?;
//! # let _ = project;
//! # Ok(()) }
//! ```
//!
//! `import/bring.rs` reads from top to bottom as the story of one import.

mod auto_conf;
mod basebackup;
mod bring;
mod check;
mod conninfo;
mod contents;
mod dump;
mod files;
mod masking;
mod own_role;
mod pass_file;
mod preload;
mod progress;
mod remote;
mod scale;
mod source;
mod sql;
mod standby;
mod tools;
mod traces;
mod transform;

pub(crate) use bring::bring;
pub(crate) use conninfo::Conninfo;
pub(crate) use progress::Watch;
pub use progress::{Progress, Stage};
pub use source::{Method, Source, SourceInfo};
pub(crate) use source::{Place, Recipe, Secret};
pub(crate) use standby::bring_standby;
