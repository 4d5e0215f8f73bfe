//! Time travel: branches hold exactly what was committed up to a moment, whatever it is named by and
//! whatever became of their parent since. What was committed when is known from PostgreSQL itself:
//! `track_commit_timestamp` says when, and `pg_waldump` in which order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub, clippy::disallowed_methods, clippy::print_stdout)]

mod common;

#[path = "time/bad.rs"]
mod bad;
#[path = "time/ddl.rs"]
mod ddl;
#[path = "time/kept.rs"]
mod kept;
#[path = "time/lives.rs"]
mod lives;
#[path = "time/oracle.rs"]
mod oracle;
#[path = "time/rig.rs"]
mod rig;
