//! Time travel: WAL that is kept, and branches from any moment of it.
//!
//! | file | what |
//! |---|---|
//! | [`archive`] | the WAL of one incarnation of a branch, kept beside it |
//! | [`base`] | what recovery begins with |
//! | [`target`], [`time`] | which moment is meant |
//! | [`plan`], [`search`] | where it is in the WAL, and what leads there |
//! | [`unreachable`], [`uncovered`] | why nothing does |
//! | [`recover`] | a clone brought to it |
//! | [`info`], [`prune`] | what can be reached; what is not to be kept any longer |
//! | [`reader`], [`files`], [`timeline`] | records; segments as files; whose names they have |

pub(crate) mod archive;
pub(crate) mod base;
mod files;
mod info;
mod plan;
mod progress;
mod prune;
mod reader;
mod recover;
mod restore_point;
mod search;
mod target;
mod time;
mod timeline;
mod uncovered;
mod unreachable;
#[cfg(target_os = "linux")]
pub(crate) mod wanted;

pub(crate) use archive::Archive;
pub(crate) use info::behind;
pub use info::{Incarnation, WalInfo, Window};
pub use plan::Reached;
pub(crate) use plan::{Plan, plan};
pub use progress::Progress;
pub(crate) use progress::Watch;
pub use prune::Pruned;
pub(crate) use prune::{cannot_go, has_to_stay, is_overdue, needed};
pub(crate) use recover::{Replay, replay};
pub use restore_point::RestorePoint;
pub use target::Target;
pub(crate) use time::{compact, month, zone_of_machine};
