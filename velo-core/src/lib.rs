//! Git branches for PostgreSQL.
//!
//! A [`Project`] is a repository, a [`Branch`] is a complete, isolated PostgreSQL on a
//! copy-on-write clone of its parent's data, a [`Snapshot`] is a commit. A branch of a large
//! database takes as long as one of a small one, and almost no space, where the file system clones
//! (ZFS, btrfs, XFS); elsewhere Velo copies, and says so.
//!
//! ```no_run
//! use velo_core::{Branch, BranchSpec, Project};
//!
//! # async fn example() -> velo_core::Result<()> {
//! let project = Project::builder("api").open_or_create().await?;
//! let branch = Branch::create(&project, BranchSpec::ephemeral().label("my test")).await?;
//! println!("{} in {:?}", branch.url(), branch.timings().total);
//! branch.close().await?;
//! # Ok(()) }
//! ```
//!
//! Every `async` function works under any executor, because Velo's work runs on a thread of its
//! own; [`blocking`] has the same without one. Nothing is downloaded unless
//! [`postgres::install`] is asked to.
//!
//! # Features
//! | feature | what | default |
//! |---|---|---|
//! | `process` | servers as local processes | yes |
//! | `docker` | servers as containers of Docker or Podman | no |
//! | `btrfs`, `reflink`, `copy` | storages | yes |
//! | `zfs` | the storage on OpenZFS, through its program; needs no library | no |
//! | `libzetta` | the same with the calls that every branch makes through libzfs_core: builds only where its headers are, and a program with it starts only where the library is | no |
//! | `macros` | the attribute [`test`](macro@test) | yes |
//! | `sqlx-0_8` | [`FromBranch`] for sqlx 0.8's `PgPool` and `PgConnection` | no |
//! | `testing` | suites for backends of your own | no |

#[cfg(feature = "macros")]
mod attribute;
pub mod blocking;
mod boot;
mod branch;
pub mod cancel;
mod care;
mod clone;
mod command;
mod config;
mod create;
mod cut;
mod deletions;
mod disk;
pub mod doctor;
mod effect;
mod engine;
mod error;
mod follow;
mod from_branch;
pub mod gc;
mod home;
mod id;
pub mod import;
#[cfg(target_os = "linux")]
mod keeper;
mod lease;
mod lock;
mod lookup;
mod os_user;
mod pool;
mod port;
pub mod postgres;
mod project;
mod reconcile;
mod record;
mod refresh;
mod reserve;
mod reset;
mod retention;
mod room;
#[cfg(target_os = "linux")]
mod run;
mod run_dir;
pub mod runtime;
mod seed;
pub mod setup;
mod slots;
mod snapshot;
mod source;
mod spec;
mod state;
pub mod storage;
mod strays;
#[cfg(any(feature = "macros", target_os = "linux"))]
mod suite;
mod switch;
mod teardown;
#[cfg(feature = "macros")]
mod test_case;
#[cfg(feature = "testing")]
pub mod testing;
mod timings;
mod wal;

#[cfg(feature = "macros")]
pub use attribute::test;
pub use branch::{Branch, BranchInfo, Connection, Outcome, State};
pub use care::Deed;
pub use config::{Config, ConfigBuilder};
pub use cut::{Cut, Method};
pub use error::{Error, ErrorKind, Result};
pub use follow::Following;
pub use from_branch::FromBranch;
pub use id::{BranchName, Id, ProjectName, SnapshotName};
pub use pool::{Pool, PoolInfo};
pub use project::{FollowSpec, Project, ProjectBuilder, ProjectInfo, RefreshSpec};
pub use reset::ResetTarget;
pub use retention::{Fate, Retention};
pub use seed::{Seed, SeedInfo, SeedKey};
pub use snapshot::{Snapshot, SnapshotInfo};
pub use spec::{BranchSource, BranchSpec};
pub use timings::Timings;
pub use wal::{Incarnation, Progress, Pruned, Reached, RestorePoint, Target, WalInfo, Window};

#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod __binding {
    //! What a binding to another language needs, for no one else.
    pub use crate::keeper::{serve_if_asked, use_program};
    pub use crate::run::use_parents_run;
    pub use crate::seed::outside::{AskedSeed, NextOfSeed, WantedSeed};
    pub use crate::seed::tell_waits;
    pub use crate::suite::{find_postgres, refuse_other_settings};
    pub use crate::wal::wanted::WantedMoment;

    /// See `postgres::install::use_package`.
    pub fn use_package(folder: std::path::PathBuf) {
        crate::postgres::install::use_package(folder);
    }
}

#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __test {
    //! What `#[velo_core::test]` needs, for no one else.
    pub use crate::test_case::{Build, Case, made, run, run_blocking, taken};
}
