//! What is ZFS's own: the failures that each have their error, quotas, two homes in one dataset, what
//! a killed process leaves, a normal user, and a standby that needs no backup mode.
#![cfg(all(feature = "testing", feature = "zfs"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(unreachable_pub)]

mod common;
#[path = "zfs/doctor.rs"]
mod doctor;
#[path = "zfs/failures.rs"]
mod failures;
#[path = "zfs/files.rs"]
mod files;
#[path = "zfs/objects.rs"]
mod objects;
#[allow(dead_code)] // not all of it is needed here
#[path = "import/server.rs"]
mod server;
#[path = "zfs/servers.rs"]
mod servers;
#[path = "zfs/users.rs"]
mod users;
