//! A fault at every step: each operation is killed, and made to fail, before and after each of its side
//! effects; afterwards the next command finds or makes everything whole, and the one after that has
//! nothing to do.
//!
//! How many moments an operation has is not written down: it is run with the fault at the first, the
//! second, …, until it ends before the fault comes. A step that no operation here goes through fails
//! the test, so that a new one cannot be forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use common::whole::{DIFFERENCES, cut_power, doctor_agrees, main_is_well, names, outlive, working};
use common::{Home, Ran, answers, is_root, prepared, psql, try_psql, wait_until};
use serde_json::Value;

/// An operation, what it needs, and what may be there after it.
struct Operation {
    args: &'static [&'static str],
    /// What is made before each try.
    prepare: fn(&Home),
    /// Whether what is there is right, after an end that was a success or not.
    outcome: fn(&Home, bool, &str),
    /// What brings to its end what is left half-way, where every opening of the home does not.
    ends: &'static [&'static str],
}

const ROWS: &str = "SELECT count(*), sum(x) FROM t";
const WHOLE: &str = "1000|500500";

fn nothing(_: &Home) {}

fn branch(home: &Home) {
    home.ok(&["branch", "create", "api/b"]);
}

/// A branch whose data is not its parent's any more.
fn changed_branch(home: &Home) {
    branch(home);
    home.sql("api/b", "DELETE FROM t; CREATE TABLE mine (x int)");
}

fn stopped_branch(home: &Home) {
    changed_branch(home);
    home.ok(&["branch", "stop", "api/b"]);
}

fn snapshot(home: &Home) {
    home.ok(&["snapshot", "create", "api/main@s"]);
}

fn tree(home: &Home) {
    branch(home);
    home.ok(&["snapshot", "create", "api/b@s"]);
    home.ok(&["branch", "create", "api/c", "--from", "b@s"]);
}

fn project(home: &Home) {
    home.ok(&["project", "create", "other"]);
    home.ok(&["branch", "create", "other/b"]);
    home.ok(&["snapshot", "create", "other/b@s"]);
}

/// Processes that died in the middle of these; all are found at once.
fn died(home: &Home, operations: &[(&[&str], usize)]) {
    changed_branch(home);
    // Held by the one who cleans up, so that none of these undoes what those before it left.
    let lock = home.path().join("locks/reconcile");
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(lock);
    let lock = lock.unwrap();
    lock.lock().unwrap();
    for (args, moment) in operations {
        let mut velo = home.command();
        velo.args(*args).env("VELO_TEST_FAULT", format!("kill@{moment}"));
        let ran = velo.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(!ran.success(), "{args:?} has fewer moments than {moment}");
    }
}

const SNAPSHOT: (&[&str], usize) = (&["snapshot", "create", "api/main@s"], 8);

fn dead(home: &Home) {
    died(home, &[SNAPSHOT]);
}

fn is_there(home: &Home, branch: &str) -> bool {
    home.branches().contains(&branch.to_owned())
}

/// It was made, and all of it, or it is not there.
fn made(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "api/b");
    assert!(there || !done, "{what}: it was done, and is not there");
    if there {
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

fn gone(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "api/b");
    assert!(!there || !done, "{what}: it was done, and is there");
    if there {
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

/// The tree went as a whole.
fn tree_gone(home: &Home, done: bool, what: &str) {
    gone(home, done, what);
    assert_eq!(is_there(home, "api/b"), is_there(home, "api/c"), "{what}");
}

fn alone(home: &Home, _: bool, what: &str) {
    assert_eq!(home.branches(), ["api/main"], "{what}");
}

/// The URL answers with the old data or the new, and with the whole of it.
fn old_or_new(home: &Home, done: bool, what: &str) {
    let state = home.sql("api/b", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t");
    assert!(state == "f|1000" || (state == "t|0" && !done), "{what}: {state}");
    home.sql("api/b", "CREATE TABLE usable AS SELECT 1 AS x");
}

fn state_of(home: &Home, branch: &str) -> String {
    home.json(&["branch", "get", branch])["state"].as_str().unwrap().to_owned()
}

fn stopped(home: &Home, done: bool, what: &str) {
    assert!(!done || state_of(home, "api/b") == "stopped", "{what}");
    kept(home, what);
}

fn started(home: &Home, done: bool, what: &str) {
    assert!(!done || state_of(home, "api/b") == "running", "{what}");
    kept(home, what);
}

/// Its data is what it was, once it runs.
fn kept(home: &Home, what: &str) {
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(
        home.sql("api/b", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t"),
        "t|0",
        "{what}"
    );
}

fn snapshots(home: &Home, project: &str) -> usize {
    home.json(&["snapshot", "list", project]).as_array().unwrap().len()
}

fn snapshot_made(home: &Home, done: bool, what: &str) {
    assert!(snapshots(home, "api") == 1 || !done, "{what}");
    if snapshots(home, "api") == 1 {
        home.ok(&["branch", "create", "api/b", "--from", "main@s"]);
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

fn snapshot_gone(home: &Home, done: bool, what: &str) {
    assert!(snapshots(home, "api") == 0 || !done, "{what}");
    snapshot_made(home, false, what);
}

fn has_project(home: &Home) -> bool {
    let list = home.json(&["project", "list"]);
    list.as_array().unwrap().iter().any(|p| p["name"] == "other")
}

fn project_made(home: &Home, done: bool, what: &str) {
    assert!(has_project(home) || !done, "{what}");
    if has_project(home) {
        assert_eq!(home.sql("other/main", "SELECT 1"), "1", "{what}");
    }
}

fn project_gone(home: &Home, done: bool, what: &str) {
    assert!(!has_project(home) || !done, "{what}");
    if has_project(home) {
        assert_eq!(home.sql("other/b", "SELECT 1"), "1", "{what}");
        assert_eq!(snapshots(home, "other"), 1, "{what}");
    }
}

/// What the dead left is finished or undone, whoever died over it as well.
fn cleaned(home: &Home, _: bool, what: &str) {
    assert_eq!(home.branches(), ["api/main", "api/b"], "{what}");
    assert_eq!(snapshots(home, "api"), 0, "{what}");
    old_or_new(home, false, what);
}

fn timed(home: &Home, done: bool, what: &str) {
    let expires = &home.json(&["branch", "get", "api/b"])["expires_at"];
    assert!(expires.is_u64() || !done, "{what}");
}

fn is_protected(home: &Home) -> bool {
    home.json(&["branch", "get", "api/b"])["protected"].as_bool().unwrap()
}

fn protected_branch(home: &Home) {
    branch(home);
    home.ok(&["branch", "protect", "api/b"]);
}

fn protected(home: &Home, done: bool, what: &str) {
    assert!(is_protected(home) || !done, "{what}");
    home.ok(&["branch", "unprotect", "api/b"]);
}

fn unprotected(home: &Home, done: bool, what: &str) {
    assert!(!is_protected(home) || !done, "{what}");
    home.ok(&["branch", "unprotect", "api/b"]);
}

/// A branch whose time is up.
fn expired(home: &Home) {
    branch(home);
    outlive(home, "api/b");
}

/// What dead processes left, a branch whose time is up, and files of what is not there.
fn leftovers(home: &Home) {
    dead(home);
    let [folder, lock] =
        [("run", "01M85Q712A381HG2QDVG2FJSJX"), ("locks", "01M85Q712A381HG2QDVG2FJSJY")]
            .map(|(shelf, name)| home.path().join(shelf).join(name));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("postgres.log"), "").unwrap();
    std::fs::write(lock, "").unwrap();
}

/// Data that no record names.
fn strays(home: &Home) {
    for shelf in ["volumes", "snapshots"] {
        let folder = home.path().join(shelf).join("01M85Q712A381HG2QDVG2FJSJX");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("PG_VERSION"), "15").unwrap();
    }
}

/// A server that ought to run and does not, and a socket of one that ought not to.
fn at_odds(home: &Home) {
    changed_branch(home);
    home.ok(&["branch", "create", "api/c"]);
    cut_power(home);
    home.ok(&["branch", "start", "api/main"]);
    home.ok(&["branch", "stop", "api/c"]);
    let get = home.json(&["branch", "get", "api/c"]);
    let folder = home.path().join("run").join(get["id"].as_str().unwrap()).join("s");
    assert!(folder.join(format!(".s.PGSQL.{}", get["port"])).exists());
}

fn in_accord(home: &Home, _: bool, what: &str) {
    assert_eq!(state_of(home, "api/b"), "running", "{what}");
    assert_eq!(state_of(home, "api/c"), "stopped", "{what}");
    kept(home, what);
}

fn all_stopped(home: &Home) {
    changed_branch(home);
    home.ok(&["stop", "--all"]);
}

fn all_run(home: &Home, _: bool, what: &str) {
    assert_eq!(state_of(home, "api/b"), "running", "{what}");
    kept(home, what);
}

const OPERATIONS: &[Operation] = &[
    Operation { args: &["branch", "create", "api/b"], prepare: nothing, outcome: made, ends: &[] },
    Operation {
        args: &["branch", "create", "api/b", "--from", "main@s"],
        prepare: snapshot,
        outcome: made,
        ends: &[],
    },
    Operation { args: &["run", "api", "--", "true"], prepare: nothing, outcome: alone, ends: &[] },
    Operation {
        args: &["branch", "reset", "api/b"],
        prepare: changed_branch,
        outcome: old_or_new,
        ends: &[],
    },
    Operation {
        args: &["branch", "reset", "api/b", "--to-origin"],
        prepare: changed_branch,
        outcome: old_or_new,
        ends: &[],
    },
    Operation {
        args: &["branch", "stop", "api/b"],
        prepare: changed_branch,
        outcome: stopped,
        ends: &[],
    },
    Operation {
        args: &["branch", "start", "api/b"],
        prepare: stopped_branch,
        outcome: started,
        ends: &[],
    },
    Operation {
        args: &["branch", "restart", "api/b"],
        prepare: changed_branch,
        outcome: started,
        ends: &[],
    },
    Operation { args: &["branch", "delete", "api/b"], prepare: branch, outcome: gone, ends: &[] },
    Operation {
        args: &["branch", "delete", "api/b", "--force"],
        prepare: tree,
        outcome: tree_gone,
        ends: &[],
    },
    Operation {
        args: &["snapshot", "create", "api/main@s"],
        prepare: nothing,
        outcome: snapshot_made,
        ends: &[],
    },
    Operation {
        args: &["snapshot", "delete", "api/main@s"],
        prepare: snapshot,
        outcome: snapshot_gone,
        ends: &[],
    },
    Operation {
        args: &["project", "create", "other"],
        prepare: nothing,
        outcome: project_made,
        ends: &[],
    },
    Operation {
        args: &["project", "create", "other", "--database", "app"],
        prepare: nothing,
        outcome: project_made,
        ends: &[],
    },
    Operation {
        args: &["project", "delete", "other", "--force"],
        prepare: project,
        outcome: project_gone,
        ends: &[],
    },
    Operation { args: &["status"], prepare: dead, outcome: cleaned, ends: &[] },
    Operation {
        args: &["branch", "ttl", "api/b", "2h"],
        prepare: branch,
        outcome: timed,
        ends: &[],
    },
    Operation {
        args: &["branch", "protect", "api/b"],
        prepare: branch,
        outcome: protected,
        ends: &[],
    },
    Operation {
        args: &["branch", "unprotect", "api/b"],
        prepare: protected_branch,
        outcome: unprotected,
        ends: &[],
    },
    Operation { args: &["status"], prepare: expired, outcome: alone, ends: &[] },
    Operation { args: &["gc"], prepare: leftovers, outcome: cleaned, ends: &["gc"] },
    Operation {
        args: &["gc", "--unrecorded"],
        prepare: strays,
        outcome: alone,
        ends: &["gc", "--unrecorded"],
    },
    Operation {
        args: &["doctor", "--fix"],
        prepare: at_odds,
        outcome: in_accord,
        ends: &["doctor", "--fix"],
    },
    Operation {
        args: &["start", "--all"],
        prepare: all_stopped,
        outcome: all_run,
        ends: &["start", "--all"],
    },
    Operation {
        args: &["stop", "--all"],
        prepare: changed_branch,
        outcome: all_run,
        ends: &["start", "--all"],
    },
];

/// Records, disk and processes agree, whatever there is.
#[track_caller]
fn agrees(home: &Home, what: &str) {
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap();
    let text = |b: &Value, key: &str| b[key].as_str().unwrap().to_owned();
    for branch in list {
        let state = text(branch, "state");
        assert!(["running", "stopped"].contains(&state.as_str()), "{what}: {branch}");
        let url = home.ok(&["branch", "url", &text(branch, "name")]);
        if state == "running" {
            assert_eq!(try_psql(url.trim(), "SELECT 1").as_deref(), Ok("1"), "{what}");
        }
    }
    let ids: BTreeSet<String> = list.iter().map(|b| text(b, "id")).collect();
    let volumes = names(home, "volumes");
    assert_eq!(volumes.len(), list.len(), "{what}: {volumes:?}");
    let run = names(home, "run");
    assert!(run.is_subset(&ids), "{what}: {run:?}");
    let running = list.iter().filter(|b| b["state"] == "running").count();
    // A process that ends may still be there for a moment.
    wait_until("only servers of branches run", || working(home).len() == running);
    let projects: BTreeSet<String> = list.iter().map(|b| text(b, "project")).collect();
    let named: usize = projects.iter().map(|project| snapshots(home, project)).sum();
    let lasting = list.iter().filter(|b| b["parent"].is_string() && b["storage"] != "copy");
    let there = names(home, "snapshots");
    assert_eq!(there.len(), named + lasting.count(), "{what}: {there:?}");
    let mut locks = names(home, "locks");
    locks.remove("reconcile");
    assert!(locks.is_subset(&(&ids | &there)), "{what}: orphaned locks {locks:?}");
    doctor_agrees(home, &DIFFERENCES, what);
}

/// The steps that a command went through.
fn steps(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.splitn(3, ' ').last().unwrap().to_owned()).collect()
}

/// Who opens a home whose processes have all ended well does this, and nothing else.
const HOUSEKEEPING: [&str; 2] = ["sweep locks", "bury a dead lease"];

struct Suite {
    home: Home,
    /// Where the steps are noted: on another disk than the one that is filled.
    notes: tempfile::TempDir,
    /// What is done at each moment.
    faults: &'static [&'static str],
    main: String,
    /// Every so many moments one is tried, beginning with a random one.
    stride: usize,
    kill_every: usize,
    beats: std::cell::Cell<usize>,
}

impl Suite {
    fn new(base: &Path, storage: &str, faults: &'static [&'static str], stride: usize) -> Self {
        let home = Home::under(base);
        home.ok(&["project", "create", "api", "--storage", storage]);
        home.sql(
            "api/main",
            "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x; \
             CREATE TABLE beat AS SELECT 0 AS n",
        );
        let main = home.ok(&["branch", "url", "api/main"]).trim().to_owned();
        let notes = tempfile::tempdir().unwrap();
        let long = std::env::var_os("VELO_TEST_LONG").is_some();
        let kill_every = if long { 1 } else { 2 };
        Self { home, notes, faults, main, stride, kill_every, beats: 0.into() }
    }

    /// Back to `main` alone.
    fn clear(&self) {
        for branch in self.home.branches() {
            if branch.starts_with("api/") && branch != "api/main" && is_there(&self.home, &branch) {
                self.home.ok(&["branch", "delete", &branch, "--force"]);
            }
        }
        for snapshot in self.home.json(&["snapshot", "list", "api"]).as_array().unwrap() {
            self.home.ok(&["snapshot", "delete", snapshot["name"].as_str().unwrap()]);
        }
        if has_project(&self.home) {
            self.home.ok(&["project", "delete", "other", "--force"]);
        }
    }

    /// Tries an operation with a fault at a moment; false if it has fewer moments.
    fn attempt(&self, operation: &Operation, fault: &str, moment: usize) -> (bool, Vec<String>) {
        let file = self.notes.path().join("steps");
        (operation.prepare)(&self.home);
        let _ = std::fs::remove_file(&file);
        let what = format!("{:?} with {fault}@{moment}", operation.args);
        let filler = self.home.dir().join("filler");
        let leaves = LEAVES[moment % LEAVES.len()];
        let ran = self.home.run_with(operation.args, |velo| {
            velo.env("VELO_TEST_FAULT", format!("{fault}@{moment}"))
                .env("VELO_TEST_STEPS", &file)
                .env("VELO_TEST_FILLER", &filler)
                .env("VELO_TEST_FILLER_LEAVES", leaves.to_string());
        });
        let _ = std::fs::remove_file(filler);
        let went = steps(&file);
        let hit = went.len() >= moment;
        let step = went.get(moment - 1).cloned().unwrap_or_default();
        let what = format!("{what} ({step})");
        match fault {
            "kill" if hit => assert_eq!(ran.code, -9, "{what}: {ran:?}"),
            "full" => {
                says_that_it_is_full(&ran, &what);
                start_again(&self.home);
            }
            // What is in the way of cleaning up may be left to the next one.
            _ => assert!([0, 1].contains(&ran.code), "{what}: {ran:?}"),
        }
        assert!(hit || ran.code == 0, "{what}: {ran:?}");
        if !operation.ends.is_empty() {
            self.home.ok(operation.ends);
        }
        agrees(&self.home, &what);
        main_is_well(&self.main, &what);
        self.beats.set(self.beats.get() + 1);
        let beats = self.beats.get().to_string();
        assert_eq!(psql(&self.main, "SELECT n FROM beat"), beats, "{what}: main has lost a write");
        (operation.outcome)(&self.home, ran.code == 0, &what);
        let _ = std::fs::remove_file(&file);
        self.home.run_with(&["status"], |velo| {
            velo.env("VELO_TEST_STEPS", &file);
        });
        let more = steps(&file);
        assert!(
            more.iter().all(|step| HOUSEKEEPING.contains(&step.as_str())),
            "{what}: there was more to do: {more:?}"
        );
        self.clear();
        agrees(&self.home, &what);
        (hit, went)
    }

    /// All of an operation: how many faults were tried, and the steps that it has.
    fn run(&self, operation: &Operation) -> (usize, BTreeSet<String>) {
        let (mut tried, mut seen) = (0, BTreeSet::new());
        for fault in self.faults {
            // Between the end of a step and the beginning of the next nothing happens that outlives a
            // process: to be killed in either is the same.
            let stride = if *fault == "kill" { self.stride * self.kill_every } else { self.stride };
            let mut moment = 1 + first(stride);
            loop {
                let (hit, steps) = self.attempt(operation, fault, moment);
                seen.extend(steps);
                if !hit {
                    break;
                }
                tried += 1;
                moment += stride;
            }
        }
        (tried, seen)
    }
}

/// A number below `stride`, another one in each run.
fn first(stride: usize) -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.subsec_nanos() as usize / 1000 % stride
}

/// How much is left free where a fault fills the disk, in bytes: nothing, enough for a record, for a
/// file of a server's, and for a segment of WAL.
const LEAVES: [u64; 4] = [0, 128 << 10, 1 << 20, 5 << 20];

/// It was done all the same, or says what is the matter and what to do.
#[track_caller]
fn says_that_it_is_full(ran: &Ran, what: &str) {
    if ran.code != 0 {
        // `doctor` says it among its findings.
        let text = format!("{}{}", ran.stdout, ran.stderr);
        let said = ["No space left", "disk is full"].iter().any(|words| text.contains(words));
        let hint =
            ["\nhint: ", " fix: ", "; free some space"].iter().any(|words| text.contains(words));
        assert!(ran.code == 1 && said && hint, "{what}: {ran:?}");
    }
}

/// Brings up the servers that died of the full disk, until every one that ought to run lets clients in.
/// A file system may take a moment to have space again, and one of them die until then.
fn start_again(home: &Home) {
    home.ok(&["status"]);
    wait_until("every server is up again", || {
        let doctor = home.run(&["doctor", "--json"]).stdout;
        let findings: Value = serde_json::from_str(&doctor).unwrap();
        for finding in findings.as_array().unwrap() {
            let what = finding["what"].as_str().unwrap();
            for says in ["ought to run, and do not: ", "run, and let no client in: "] {
                for name in what.strip_prefix(says).into_iter().flat_map(|n| n.split(", ")) {
                    home.run(&["branch", "start", name]);
                }
            }
        }
        let list = home.json(&["branch", "list"]);
        let mut running = list.as_array().unwrap().iter().filter(|b| b["state"] == "running");
        running.all(|branch| {
            let url = home.run(&["branch", "url", branch["name"].as_str().unwrap()]).stdout;
            answers(url.trim())
        }) && !doctor.contains("ought to run")
    });
}

/// Runs every operation, on two homes at a time. Returns the steps that they have.
fn suite(variable: &str, storage: &str, stride: usize) -> Option<BTreeSet<String>> {
    suite_of(variable, storage, &["kill", "error"], stride, 2)
}

fn suite_of(
    variable: &str,
    storage: &str,
    faults: &'static [&'static str],
    stride: usize,
    homes: usize,
) -> Option<BTreeSet<String>> {
    let base = prepared(variable)?;
    let stride = if std::env::var_os("VELO_TEST_LONG").is_some() { 1 } else { stride };
    let only = std::env::var("VELO_TEST_FAULTS_OF").ok();
    let chosen = |operation: &&Operation| {
        // A copy keeps no state that it began with.
        let has = storage != "copy" || !operation.args.contains(&"--to-origin");
        has && only.as_ref().is_none_or(|o| operation.args.join(" ").contains(o))
    };
    let operations = Mutex::new(OPERATIONS.iter().filter(chosen).collect::<Vec<_>>());
    let (all, tried) = (Mutex::new(BTreeSet::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..homes {
            scope.spawn(|| {
                let suite = Suite::new(&base, storage, faults, stride);
                loop {
                    let Some(operation) = operations.lock().unwrap().pop() else { break };
                    let (faults, steps) = suite.run(operation);
                    println!("{storage}: velo {}: {faults} faults", operation.args.join(" "));
                    all.lock().unwrap().extend(steps);
                    *tried.lock().unwrap() += faults;
                }
            });
        }
    });
    println!("{storage}: {} faults in all", tried.into_inner().unwrap());
    only.is_none().then(|| all.into_inner().unwrap())
}

#[test]
fn a_fault_at_every_step_on_btrfs() {
    // Root's run tries them all; what another user's differs in is met in a sample.
    if !is_root() {
        suite("VELO_TEST_BTRFS", "btrfs", 19);
        return;
    }
    let Some(seen) = suite("VELO_TEST_BTRFS", "btrfs", 1) else { return };
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|&step| step.to_owned()).collect();
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
    suite("VELO_TEST_XFS", "reflink", if is_root() { 11 } else { 61 });
}

#[test]
fn a_fault_at_every_step_on_ext4() {
    suite("VELO_TEST_EXT4", "copy", if is_root() { 17 } else { 61 });
}

/// Of long runs alone: after a btrfs was full its servers may not come up for minutes.
#[test]
fn a_disk_that_is_full_at_a_step_on_btrfs() {
    if std::env::var_os("VELO_TEST_LONG").is_none() {
        return;
    }
    suite_of("VELO_TEST_FULL_BTRFS", "btrfs", &["full"], if is_root() { 19 } else { 61 }, 1);
}

#[test]
fn a_disk_that_is_full_at_a_step_on_xfs() {
    suite_of("VELO_TEST_FULL_XFS", "reflink", &["full"], if is_root() { 19 } else { 61 }, 1);
}

#[test]
fn a_disk_that_is_full_at_a_step_on_ext4() {
    suite_of("VELO_TEST_FULL_EXT4", "copy", &["full"], if is_root() { 19 } else { 61 }, 1);
}

/// Steps that an operation has on another backend or in the library alone, or in a case that another
/// test makes.
const ELSEWHERE: [&str; 11] = [
    "begin a backup",
    "end a backup",
    "join the line for a slot",
    "keep its WAL for the time of a backup",
    "leave the line for a slot",
    "record a branch as kept",
    "record another port",
    "record another source",
    "remove a lock by name",
    "remove an unrecorded container",
    "storage: edit",
];

/// Steps that depend on how much the parent has just written.
const SOMETIMES: [&str; 2] = ["flush its WAL", "write a checkpoint"];

/// Every step that the library's sources name.
fn named() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../velo-core/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("src/testing") {
                // The suites for others are no operation of Velo's; what is watched there is.
                let watched = std::fs::read_to_string(path.join("faults.rs")).unwrap();
                found.extend(steps_in(&watched));
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                found.extend(steps_in(&source));
            }
        }
    }
    found
}

/// The names that are given to what makes a step, wherever the line breaks.
fn steps_in(source: &str) -> Vec<String> {
    const CALLS: [&str; 10] = [
        "step(",
        "step_now(",
        ".write(",
        ".write_durable(",
        ".execute(",
        ".execute_secret(",
        "disk::write(",
        "disk::remove(",
        "disk::remove_folder(",
        "disk::make_folder(",
    ];
    let mut found = Vec::new();
    for call in CALLS {
        for (at, _) in source.match_indices(call) {
            let rest = source[at + call.len()..].trim_start();
            if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                found.push(name.to_owned());
            }
        }
    }
    found
}
