//! A branch deleted with all below it while somebody works there: both come to an end, for who makes, resets or
//! takes something may need what goes, and finds that it went.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::whole::nothing_else;
use common::{Home, Ran, wait_until};

/// How long both may take in the end: much less than a lock is waited for.
const SOON: Duration = Duration::from_secs(40);

fn started(mut velo: Command) -> Child {
    velo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the command that notes its steps in `file` has come to a moment.
#[track_caller]
fn comes_to(file: &Path, moment: &str) {
    wait_until(moment, || {
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!(" {moment}\n")))
    });
}

/// The command has come to a moment when `branch` is marked to go with all below it, and goes on then. It finds
/// that what it needs is gone, and nothing of either is left.
fn gives_way(home: &Home, args: &[&str], moment: &str, branch: &str) {
    let [gate, made, deleted] = ["gate", "made", "deleted"].map(|name| home.dir().join(name));
    let mut maker = home.command_with(args);
    maker.env("VELO_TEST_STEPS", &made);
    maker.env("VELO_TEST_GATE_AT", moment).env("VELO_TEST_GATE", &gate);
    let maker = started(maker);
    comes_to(&made, moment);
    let mut deleter = home.command_with(&["branch", "delete", branch, "--force"]);
    deleter.env("VELO_TEST_STEPS", &deleted);
    let deleter = started(deleter);
    comes_to(&deleted, "after mark branches to go");
    let begun = Instant::now();
    std::fs::write(gate, "").unwrap();
    let [maker, deleter] = [maker, deleter].map(|velo| Ran::from(velo.wait_with_output().unwrap()));
    assert!(begun.elapsed() < SOON, "{:?}: {maker:?}, {deleter:?}", begun.elapsed());
    assert_eq!(deleter.code, 0, "{deleter:?}");
    maker.is_error(1, "is gone");
    nothing_else(home, &["api/main"], moment);
}

#[test]
fn a_child_that_is_just_being_made_goes_with_its_parent() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/p"]);
    let args = ["branch", "create", "api/y", "--from", "p"];
    gives_way(&home, &args, "after record a branch", "api/p");
}

#[test]
fn a_child_that_is_just_being_reset_goes_with_its_parent() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/p"]);
    home.ok(&["branch", "create", "api/rx", "--from", "p"]);
    gives_way(&home, &["branch", "reset", "api/rx"], "after record a reset", "api/p");
}

#[test]
fn a_snapshot_that_is_just_being_taken_goes_with_its_branch() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/q"]);
    gives_way(&home, &["snapshot", "create", "api/q@s"], "after record a snapshot", "api/q");
}
