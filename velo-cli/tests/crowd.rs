//! Many processes at once in one project: they create, reset and delete branches, some of them the
//! same ones. Nobody fails but by a conflict that is to be expected, and afterwards records, disk and
//! processes agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::whole::{doctor_agrees, names};
use common::{Home, Ran, prepared, wait_until};
use serde_json::Value;

const CROWD: usize = 16;

fn length() -> Duration {
    let long = std::env::var_os("VELO_TEST_LONG").is_some();
    Duration::from_secs(if long { 60 } else { 8 })
}

/// A small generator of its own for each worker, so that a run can be told by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The kind of the error that it printed as JSON.
fn kind(ran: &Ran) -> String {
    let error = ran.stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    error.and_then(|e| Some(e["error"]["kind"].as_str()?.to_owned())).unwrap_or_default()
}

/// What the workers did, for the test to see that it was something.
#[derive(Debug, Default)]
struct Counts {
    created: usize,
    reset: usize,
    deleted: usize,
    conflicts: usize,
}

struct Worker<'a> {
    home: &'a Home,
    counts: &'a Mutex<Counts>,
    number: usize,
    dice: Dice,
}

impl Worker<'_> {
    /// Runs a command, which may fail by one of these kinds alone. Whether it was done.
    fn velo(&self, args: &[&str], conflicts: &[&str]) -> bool {
        let mut all = args.to_vec();
        all.push("--json");
        let ran = self.home.run(&all);
        if ran.code == 0 {
            return true;
        }
        assert!(ran.code == 1 && conflicts.contains(&kind(&ran).as_str()), "{args:?}: {ran:?}");
        self.counts.lock().unwrap().conflicts += 1;
        false
    }

    fn create(&self, name: &str, from: &str, conflicts: &[&str]) -> bool {
        let done = self.velo(&["branch", "create", name, "--from", from], conflicts);
        self.counts.lock().unwrap().created += usize::from(done);
        done
    }

    fn reset(&self, name: &str, conflicts: &[&str]) {
        let done = self.velo(&["branch", "reset", name], conflicts);
        self.counts.lock().unwrap().reset += usize::from(done);
    }

    fn delete(&self, name: &str, options: &[&str], conflicts: &[&str]) {
        let done = self.velo(&[&["branch", "delete", name], options].concat(), conflicts);
        self.counts.lock().unwrap().deleted += usize::from(done);
    }

    /// Nobody else knows this name, so nothing may fail.
    fn alone(&self) {
        let name = format!("api/own/{}", self.number);
        self.create(&name, "main", &[]);
        assert_eq!(self.home.sql(&name, "SELECT sum(x) FROM t"), "5050");
        self.home.sql(&name, "DELETE FROM t");
        self.reset(&name, &[]);
        assert_eq!(self.home.sql(&name, "SELECT sum(x) FROM t"), "5050");
        self.delete(&name, &[], &[]);
    }

    /// Everybody wants these names, and makes branches of each other's.
    fn together(&mut self) {
        let ours = |n: u64| format!("ours/{n}");
        let name = format!("api/{}", ours(self.dice.below(6)));
        match self.dice.below(5) {
            0 => {
                self.create(&name, "main", &["already_exists", "not_found"]);
            }
            1 => {
                let from = ours(self.dice.below(6));
                self.create(&name, &from, &["already_exists", "not_found"]);
            }
            2 => self.reset(&name, &["not_found", "conflict"]),
            3 => self.delete(&name, &[], &["not_found", "conflict"]),
            // With what others are just making of it.
            _ => self.delete(&name, &["--force"], &["not_found"]),
        }
    }

    fn work(&mut self, until: Instant) {
        while Instant::now() < until {
            match self.dice.below(4) {
                0 => self.alone(),
                1 => assert!(self.home.branches().contains(&"api/main".to_owned())),
                _ => self.together(),
            }
        }
    }
}

/// The processes that work in the home's volumes and were not started by another such process.
fn servers(home: &Home) -> BTreeSet<i64> {
    let volumes = home.path().join("volumes").canonicalize().unwrap();
    let inside = |pid: &str| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&volumes))
    };
    let parent = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned())
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter(|pid| pid.parse::<i64>().is_ok() && inside(pid))
        .filter(|pid| parent(pid).is_some_and(|parent| !inside(&parent)))
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Records, disk and processes say the same. Every branch here is a lasting one that runs.
fn agree(home: &Home) {
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap();
    let strings = |key: &str| -> BTreeSet<String> {
        list.iter().map(|b| b[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(strings("state"), ["running".to_owned()].into(), "{list:?}");
    let pids: BTreeSet<i64> = list.iter().map(|b| b["pid"].as_i64().unwrap()).collect();
    assert_eq!(pids.len(), list.len(), "two branches with one server: {list:?}");
    assert_eq!(servers(home), pids, "servers that no branch has, or the other way round");

    // A server works in its volume, and there is no other volume.
    let worked_in: BTreeSet<String> = pids
        .iter()
        .map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap())
        .map(|cwd| cwd.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names(home, "volumes"), worked_in);
    for volume in &worked_in {
        let file = home.path().join("volumes").join(volume).join("postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(pids.contains(&text.lines().next().unwrap().parse().unwrap()), "{text}");
    }
    // Each but main keeps the state it began with.
    assert_eq!(names(home, "snapshots").len(), list.len() - 1);
    assert_eq!(names(home, "run"), strings("id"));
    // A lock is made when it is first needed.
    let mut locks = names(home, "locks");
    locks.remove("reconcile");
    let known = &strings("id") | &names(home, "snapshots");
    assert!(locks.is_subset(&known), "orphaned locks: {:?}", &locks - &known);

    doctor_agrees(home, &["state", "disk", "servers", "leases"], "at the end");
}

#[test]
fn many_processes_in_one_project_agree_at_the_end() {
    let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
    let home = Home::under(&base);
    home.ok(&["project", "create", "api", "--storage", "btrfs"]);
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100) x");

    let counts = Mutex::new(Counts::default());
    let until = Instant::now() + length();
    std::thread::scope(|scope| {
        for number in 0..CROWD {
            let (home, counts) = (&home, &counts);
            scope.spawn(move || {
                let dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1));
                Worker { home, counts, number, dice }.work(until);
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    assert!(counts.created > CROWD / 2 && counts.reset > 0 && counts.deleted > 0, "{counts:?}");
    assert!(counts.conflicts > 0, "nobody met anybody: {counts:?}");

    agree(&home);
    for branch in home.branches() {
        assert_eq!(home.sql(&branch, "SELECT sum(x) FROM t"), "5050", "{branch}");
    }

    // From the leaves on.
    wait_until("every branch but main is deleted", || {
        let list = home.branches();
        for branch in list.iter().filter(|b| *b != "api/main") {
            home.run(&["branch", "delete", branch]);
        }
        list.len() == 1
    });
    agree(&home);
    home.ok(&["project", "delete", "api"]);
    assert_eq!(servers(&home), BTreeSet::new());
    for folder in ["volumes", "snapshots", "run"] {
        assert_eq!(names(&home, folder), BTreeSet::new(), "{folder}");
    }
}
