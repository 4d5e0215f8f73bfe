//! A fault at every step: each operation is killed, and made to fail, before and after each of its side
//! effects; afterwards the next command finds or makes everything whole, and the one after that has
//! nothing to do.
//!
//! How many moments an operation has is not written down: it is run with the fault at the first, the
//! second, …, until it ends before the fault comes. A step that no operation here goes through without
//! a fault, or with the fault at it, fails the test, so that a new one cannot be forgotten.
//!
//! All of it is tried on btrfs with processes, elsewhere a sample that differs from run to run.
//! `VELO_TEST_SEED`, which each run prints, makes the same one again; `VELO_TEST_FAULTS_OF` tries those
//! operations alone whose line has that text in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

mod common;

#[path = "faults/library.rs"]
mod library;
#[path = "faults/operations.rs"]
mod operations;
#[path = "faults/place.rs"]
mod place;
#[path = "faults/steps.rs"]
mod steps;
#[path = "faults/suite.rs"]
mod suite;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{engine, is_root, prepared};
use place::{Place, Storage};
use steps::named;

/// Runs every operation where processes work, on two homes at a time.
fn suite(variable: &str, storage: Storage, stride: usize) -> Option<BTreeSet<String>> {
    let place = Place::new(storage, prepared(variable)?);
    suite::suite(&place, FAULTS, stride, 2)
}

/// A sample with a full disk, which two would share; in long runs all of it.
fn full(variable: &str, storage: Storage) {
    if !tries_all_places() {
        return;
    }
    let Some(base) = prepared(variable) else { return };
    let place = Place::new(storage, base);
    match is_long() {
        true => suite::suite(&place, FULL, if is_root() { 83 } else { 197 }, 1),
        false => suite::sample(&place, FULL, Duration::from_secs(25)),
    };
}

const FAULTS: &[&str] = &["kill", "error"];
const FULL: &[&str] = &["full"];

/// Whether other file systems than btrfs are tried: what is another user's differs on none of them.
fn tries_all_places() -> bool {
    is_root() || is_long()
}

fn is_long() -> bool {
    std::env::var_os("VELO_TEST_LONG").is_some()
}

#[test]
fn a_fault_at_every_step_on_btrfs() {
    // Root's run tries them all; what another user's differs in is met in a sample.
    if !is_root() {
        let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
        let place = Place::new(Storage::Btrfs, base);
        match is_long() {
            true => suite::suite(&place, FAULTS, 31, 2),
            false => suite::sample(&place, FAULTS, Duration::from_secs(60)),
        };
        return;
    }
    let Some(seen) = suite("VELO_TEST_BTRFS", Storage::Btrfs, 1) else { return };
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(step, _)| step.to_string()).collect();
    let named = named();
    assert!(named.len() > 30, "these cannot be all: {named:?}");
    let known = &seen | &elsewhere;
    let missing = named.difference(&known).cloned();
    let missing: Vec<_> = missing.filter(|step| !SOMETIMES.contains(&step.as_str())).collect();
    assert!(missing.is_empty(), "no operation here has the steps {missing:?}");
    let needless: Vec<_> = elsewhere.intersection(&seen).cloned().collect();
    assert!(needless.is_empty(), "excused, and met here: {needless:?}");
}

#[test]
fn a_fault_at_every_step_on_xfs() {
    if !tries_all_places() {
        return;
    }
    if is_long() {
        suite("VELO_TEST_XFS", Storage::Reflink, if is_root() { 29 } else { 97 });
    } else if let Some(base) = prepared("VELO_TEST_XFS") {
        let place = Place::new(Storage::Reflink, base);
        suite::sample(&place, FAULTS, Duration::from_secs(60));
    }
}

#[test]
fn a_fault_at_every_step_on_ext4() {
    if !tries_all_places() {
        return;
    }
    let seen = suite("VELO_TEST_EXT4", Storage::Copy, if is_root() { 43 } else { 97 });
    meets_its_own("a_fault_at_every_step_on_ext4", seen);
}

/// A sample, but in long runs: whatever is deleted there comes back after a commit alone.
#[test]
fn a_disk_that_is_full_at_a_step_on_btrfs() {
    let Some(base) = prepared("VELO_TEST_FULL_BTRFS") else { return };
    let place = Place::new(Storage::Btrfs, base);
    match is_long() {
        true => suite::suite(&place, FULL, 1, 1),
        false => suite::sample(&place, FULL, Duration::from_secs(if is_root() { 25 } else { 10 })),
    };
}

#[test]
fn a_disk_that_is_full_at_a_step_on_xfs() {
    full("VELO_TEST_FULL_XFS", Storage::Reflink);
}

#[test]
fn a_disk_that_is_full_at_a_step_on_ext4() {
    full("VELO_TEST_FULL_EXT4", Storage::Copy);
}

/// A sample, but in long runs.
#[test]
fn a_fault_at_every_step_docker_on_btrfs() {
    // Another user's containers differ in nothing that matters here.
    if !is_root() {
        return;
    }
    let (Some(base), Some((engine, image))) = (prepared("VELO_TEST_BTRFS"), engine()) else {
        return;
    };
    let place = Place::new(Storage::Btrfs, base).with_containers(engine, image);
    let seen = match is_long() {
        true => suite::suite(&place, FAULTS, 1, 2),
        false => suite::sample(&place, FAULTS, Duration::from_secs(30)),
    };
    meets_its_own("a_fault_at_every_step_docker_on_btrfs", seen);
}

/// In the machine with ZFS (`.ci/zfs-vm`), where everything takes its time: always a sample.
#[test]
fn a_fault_at_every_step_on_zfs() {
    let (Ok(parent), true) = (std::env::var("VELO_TEST_ZFS"), is_root()) else { return };
    let place = Place::on_zfs(&parent, std::env::var_os("VELO_TEST_RIG").unwrap().into());
    let seen =
        suite::sample(&place, FAULTS, Duration::from_secs(if is_long() { 1800 } else { 40 }));
    place.end();
    meets_its_own("a_fault_at_every_step_on_zfs", seen);
}

/// The steps that the test `name` answers for were gone through.
#[track_caller]
fn meets_its_own(name: &str, seen: Option<BTreeSet<String>>) {
    let Some(seen) = seen else { return };
    let mut own = ELSEWHERE.iter().filter(|(_, test)| *test == name);
    assert!(own.all(|(step, _)| seen.contains(*step)), "{name}: {seen:?}");
}

/// Steps that an operation has on another backend alone, and the test that meets them.
const ELSEWHERE: [(&str, &str); 4] = [
    ("end a lease", "a_fault_at_every_step_docker_on_btrfs"),
    ("keep its WAL for the time of a backup", "a_fault_at_every_step_on_ext4"),
    ("record another source", "a_fault_at_every_step_on_zfs"),
    ("remove an unrecorded container", "a_fault_at_every_step_docker_on_btrfs"),
];

/// Steps that depend on how much the parent has just written, and on whether ten minutes are over; those
/// of a pool, which go on behind its back; those of a run's keeper, which velo-core's `tests/run.rs`
/// kills; that of a home which somebody removed under its containers (`tests/docker.rs`); of a disk that is full
/// (`tests/bad_places.rs`); and of a dump whose extensions want libraries (velo-core's `tests/import.rs`).
const SOMETIMES: [&str; 11] = [
    "give up a reserve",
    "have libraries loaded",
    "stop an unrecorded container",
    "flush its WAL",
    "write a checkpoint",
    "note that a seed is used",
    "record a label",
    "make the folder of a keeper",
    "remove a socket of a dead keeper",
    "remove the socket of a keeper",
    "remove the folder of a keeper",
];
