//! A run: the processes that test together, and end together.
//!
//! A runner that starts a process for each test, or several workers, says so in the environment of what it
//! starts. All of these draw on one pool, which their keeper holds ([`crate::keeper`]); it ends with the
//! process at the root of the run, which is the runner.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::record::now;

/// What a runner calls its run, in the environment of its tests: nextest, pytest-xdist.
const OF_RUNNERS: [&str; 2] = ["NEXTEST_RUN_ID", "PYTEST_XDIST_TESTRUNUID"];

/// The same for any other: a name, and the process that the run ends with, else the one that started this.
const NAME: &str = "VELO_RUN";
const ROOT: &str = "VELO_RUN_ROOT";

/// Whether a binding has said that whoever started this process runs it, with others.
static OF_PARENT: AtomicBool = AtomicBool::new(false);

/// Has this process be of one run with all others of the process that started it: for runners that say in no variable
/// of their own which run it is. A variable goes before it.
pub fn use_parents_run() {
    OF_PARENT.store(true, Ordering::Relaxed);
}

/// A run that this process is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// The process that it ends with.
    pub(crate) root: i32,
    /// When that was started, as the kernel counts: its number may be another one's later.
    pub(crate) started: u64,
}

/// Whether a binding has said that this process is of its parent's run, and that one has ended: then there is nobody to
/// test for. What a variable names may be meant for whoever comes later.
pub(crate) fn is_over() -> bool {
    let is_named = [NAME].iter().chain(&OF_RUNNERS).any(|name| variable(name).is_some());
    OF_PARENT.load(Ordering::Relaxed) && !is_named && is_orphan()
}

/// What whoever asks for a branch is told then.
pub(crate) fn over() -> Error {
    let what = "the run that this process is of has ended: whoever started it is gone";
    Error::new(ErrorKind::Canceled, what).with_hint("end this process as well")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Run {
    /// The run that this process is of, where a runner says that there is one and its root lives.
    pub(crate) fn of_this_process() -> Option<Self> {
        let (name, root) = match variable(NAME) {
            Some(name) => {
                let told = variable(ROOT).and_then(|root| root.parse().ok());
                (name, told.or_else(parent)?)
            }
            None => match OF_RUNNERS.iter().find_map(|name| variable(name)) {
                Some(name) => (name, parent()?),
                None if OF_PARENT.load(Ordering::Relaxed) => ("parent".to_owned(), parent()?),
                None => return None,
            },
        };
        Some(Self { name, root, started: started(root)? })
    }

    /// The process at its root, if it lives. One that has ended and that nobody has waited for is in the list still.
    pub(crate) fn root(&self) -> Option<Pid> {
        let (pid, stat) = (Pid::from_raw(self.root)?, stat(self.root)?);
        (number(&stat, 22)? == self.started && !has_ended(&stat)).then_some(pid)
    }
}

/// The kernel's ticks in a second, as proc(5) counts them: the same wherever Velo runs.
const TICKS: f64 = 100.0;

/// This process and the one that started it, as they were when this code was loaded.
static OWN: AtomicI32 = AtomicI32::new(0);
static STARTED_BY: AtomicI32 = AtomicI32::new(0);

/// To be called as early as can be: later nobody can tell who started this process from who took it over.
pub(crate) fn note_parent() {
    STARTED_BY.store(parent_now().unwrap_or(0), Ordering::Relaxed);
    OWN.store(own(), Ordering::Relaxed);
}

/// The process that started this one, if it lives. Whoever takes this one over when that has ended is no runner: the
/// first process of a container, or another session's.
fn parent() -> Option<i32> {
    let parent = parent_now()?;
    if is_orphan() {
        return None;
    }
    (session(parent)? == session(own())?).then_some(parent)
}

/// Whether the process that started this one has ended.
fn is_orphan() -> bool {
    // What was forked off since then has another parent from its beginning.
    let is_noted = OWN.load(Ordering::Relaxed) == own();
    is_noted && STARTED_BY.load(Ordering::Relaxed) != parent_now().unwrap_or(0)
}

fn parent_now() -> Option<i32> {
    Some(rustix::process::getppid()?.as_raw_nonzero().get())
}

fn own() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// When the run began that this process is of, or else this process, in milliseconds since 1970.
pub(crate) fn begun() -> u64 {
    let of_run = Run::of_this_process().map(|run| run.started);
    let ago = || {
        let since_boot = of_run.or_else(|| started(own()))? as f64 / TICKS;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        Some(((uptime - since_boot).max(0.0) * 1000.0) as u64)
    };
    now().saturating_sub(ago().unwrap_or(0))
}

/// The session of a process; 0 if its leader is out of sight.
fn session(pid: i32) -> Option<u64> {
    number(&stat(pid)?, 6)
}

/// When a process was started, in ticks since the machine was.
pub(crate) fn started(pid: i32) -> Option<u64> {
    number(&stat(pid)?, 22)
}

fn stat(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

fn has_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    matches!(state, Some("Z" | "X"))
}

/// A field, as proc(5) counts them. The second one, the program's name in parentheses, may hold anything.
fn number(stat: &str, field: usize) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_the_next_of_its_number() {
        let stat = "7 (a) b) S 1 7 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!((number(stat, 22), number(stat, 6)), (Some(4711), Some(9)));
        assert_eq!(number("7 (a", 22), None);
        assert!(!has_ended(stat) && !has_ended("7 (Z) S 1") && has_ended("7 (a) b) Z 1 7"));
        let own = std::process::id().cast_signed();
        let run = Run { name: "run".into(), root: own, started: started(own).unwrap() };
        assert!(run.root().is_some());
        assert!(Run { started: run.started + 1, ..run }.root().is_none());
    }
}
