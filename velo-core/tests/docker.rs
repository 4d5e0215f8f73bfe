//! Servers in containers, on the engine that `VELO_TEST_DOCKER` names, with PostgreSQL from the images
//! `VELO_TEST_IMAGE_DEBIAN` (glibc, uid 999) and `VELO_TEST_IMAGE_ALPINE` (uid 70).
#![cfg(all(feature = "testing", feature = "docker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(dead_code, unreachable_pub)] // helpers of tests are no tests to the lint

mod common;

#[path = "docker/branches.rs"]
mod branches;
#[path = "docker/engine.rs"]
mod engine;
#[path = "docker/holder.rs"]
mod holder;
#[path = "docker/images.rs"]
mod images;
#[path = "docker/import.rs"]
mod import;
#[path = "import/server.rs"]
mod server;
#[path = "docker/suite.rs"]
mod suite;
#[path = "docker/time.rs"]
mod time;
#[path = "docker/tools.rs"]
mod tools;
#[cfg(feature = "zfs")]
#[path = "docker/zfs.rs"]
mod zfs;
