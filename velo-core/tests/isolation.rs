//! The proof that a branch cannot act on its parent or on the world, whatever the parent's settings
//! and data say. Each parent is branched while it runs and while it is stopped, each time into an
//! ephemeral branch and a lasting one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "isolation/bytes.rs"]
mod bytes;
mod common;
#[path = "isolation/cron.rs"]
mod cron;
#[path = "isolation/data.rs"]
mod data;
#[path = "isolation/recovery.rs"]
mod recovery;
#[path = "isolation/rig.rs"]
mod rig;
#[path = "isolation/sessions.rs"]
mod sessions;
#[path = "isolation/settings.rs"]
mod settings;
#[path = "isolation/subscriptions.rs"]
mod subscriptions;
