//! What the integration tests share.
#![allow(dead_code, unreachable_pub)] // no test uses all of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};

pub mod client;
pub mod home;
pub mod zfs;

/// The folder that the environment variable `var` names: a mounted file system of a certain kind.
/// `None`, said loudly, if it is missing; a failure if `VELO_TEST_REQUIRE=1`.
#[allow(clippy::panic)]
pub fn fs_dir(var: &str) -> Option<PathBuf> {
    let why = match std::env::var_os(var).map(PathBuf::from) {
        None => format!("{var} is not set"),
        Some(path) if !path.is_dir() => format!("{var}={} is no folder", path.display()),
        Some(path) => return Some(path),
    };
    missing(&why);
    None
}

/// Copies a program that is to be run. Another one does it: a child that some other test starts at that moment
/// would hold a file of this process's open for writing, and what is open so cannot be run.
#[allow(clippy::disallowed_methods)]
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} cannot be copied", from.display());
}

/// The bin folders of the PostgreSQLs to test with: `VELO_TEST_PG="15=/…/bin 18=/…/bin"`. `None` as
/// for [`fs_dir`].
pub fn installations() -> Option<Vec<PathBuf>> {
    let Ok(text) = std::env::var("VELO_TEST_PG") else {
        missing("VELO_TEST_PG is not set");
        return None;
    };
    Some(text.split_whitespace().map(|pair| pair.split_once('=').unwrap().1.into()).collect())
}

/// A time limit, longer on a machine that `VELO_TEST_SLOW` calls so many times slower.
pub fn scaled(limit: std::time::Duration) -> std::time::Duration {
    let slow = std::env::var("VELO_TEST_SLOW").ok().and_then(|text| text.parse::<u32>().ok());
    limit * slow.unwrap_or(1).max(1)
}

/// Those to test with where each takes long: the newest, or all with `VELO_TEST_LONG`.
pub fn newest(mut bins: Vec<PathBuf>) -> Vec<PathBuf> {
    if std::env::var_os("VELO_TEST_LONG").is_none() && bins.len() > 1 {
        bins.drain(..bins.len() - 1);
    }
    bins
}

/// One of them, another from day to day, for what is tested in many forms; all with `VELO_TEST_LONG`.
pub fn todays(mut bins: Vec<PathBuf>, form: &str) -> Vec<PathBuf> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if std::env::var_os("VELO_TEST_LONG").is_none() && bins.len() > 1 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut hasher = DefaultHasher::new();
        form.hash(&mut hasher);
        let turn = (hasher.finish() % 1000 + now.as_secs() / 86_400) as usize % bins.len();
        bins = vec![bins.swap_remove(turn)];
        println!("{form}: {}", bins[0].display());
    }
    bins
}

/// Says that a test does nothing for want of what the machine should have; a failure if
/// `VELO_TEST_REQUIRE=1`.
#[allow(clippy::panic)]
pub fn missing(why: &str) {
    if std::env::var_os("VELO_TEST_REQUIRE").is_some_and(|v| v == "1") {
        panic!("{why}, and VELO_TEST_REQUIRE=1");
    }
    skip(why);
}

/// Says that a test does nothing. Written past the macros, whose output the test harness swallows
/// when a test passes: what is not tested must not look as if it were.
pub fn skip(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIP: {why}");
}
