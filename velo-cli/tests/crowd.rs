//! Many processes at once in one project, some of which are killed: they create, reset and delete
//! branches, some of them the same ones. Nobody fails but by a conflict that is to be expected, what
//! somebody was told is so, and afterwards records, disk and processes agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;
#[path = "crowd/running.rs"]
mod running;
#[path = "crowd/worker.rs"]
mod worker;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::whole::{DIFFERENCES, doctor_agrees, locks_but, names};
use common::{Home, prepared, wait_until};
use running::Commands;
use worker::Worker;

/// How many there are, for how long, and how often one of them is killed.
struct Size {
    crowd: usize,
    length: Duration,
    kills: Duration,
}

fn size() -> Size {
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    match std::env::var_os("VELO_TEST_LONG") {
        Some(_) => Size { crowd: 32, length: seconds(120), kills: seconds(1) },
        None => Size { crowd: 16, length: seconds(12), kills: millis(250) },
    }
}

/// What is to be done at least once, and what is to be killed in the middle.
const DONE: [&str; 4] = ["branch create", "branch reset", "branch delete", "run"];
const KILLED: [&str; 2] = ["branch create", "run"];

/// A small generator of its own for each worker.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn of(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
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
    let orphaned = locks_but(home, &(&strings("id") | &names(home, "snapshots")));
    assert!(orphaned.is_empty(), "orphaned locks: {orphaned:?}");

    doctor_agrees(home, &DIFFERENCES, "at the end");
}

#[test]
fn many_processes_in_one_project_agree_at_the_end() {
    let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
    let home = Home::under(&base);
    home.ok(&["project", "create", "api", "--storage", "btrfs"]);
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100) x");
    home.ok(&["branch", "create", "api/shared"]);
    home.sql("api/shared", "CREATE TABLE told (worker int, n int, PRIMARY KEY (worker, n))");
    let shared = home.ok(&["branch", "url", "api/shared"]).trim().to_owned();

    let (size, commands, end) = (size(), Commands::default(), AtomicBool::new(false));
    let until = Instant::now() + size.length;
    let workers: Vec<Worker<'_>> = std::thread::scope(|scope| {
        let killer = scope.spawn(|| commands.kill_some(size.kills, Dice::of(0), &end));
        let workers: Vec<_> = (0..size.crowd)
            .map(|number| {
                let (home, commands, shared) = (&home, &commands, &shared);
                scope.spawn(move || {
                    let mut worker = Worker::new(home, commands, shared, number);
                    // A machine that is busy elsewhere comes to it later.
                    let last = until + size.length * 6;
                    worker.work(|| {
                        let now = Instant::now();
                        now < until || (now < last && !commands.all_happened(&DONE, &KILLED))
                    });
                    worker
                })
            })
            .collect();
        let workers: Vec<_> =
            workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        // Before anybody's panic is passed on, or the killer would go on for ever.
        end.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        workers.into_iter().map(|worker| worker.unwrap()).collect()
    });

    // One opening, by whomever it is, and all agrees.
    agree(&home);
    for worker in &workers {
        worker.holds();
    }
    let told: u64 = workers.iter().map(|worker| worker.acknowledged).sum();
    assert_eq!(home.sql("api/shared", "SELECT count(*) FROM told"), told.to_string());
    drop(workers);
    for branch in home.branches().iter().filter(|branch| !branch.starts_with("api/own/")) {
        assert_eq!(home.sql(branch, "SELECT sum(x) FROM t"), "5050", "{branch}");
    }

    let tallies = commands.tallies();
    println!("{} workers for {:?}; {told} rows acknowledged", size.crowd, size.length);
    for (kind, tally) in &tallies {
        println!("{kind}: {tally:?}");
    }
    for kind in DONE {
        assert!(tallies.get(kind).is_some_and(|tally| tally.done > 0), "{kind}: {tallies:?}");
    }
    for kind in KILLED {
        assert!(tallies[kind].killed > 0, "{kind}: {tallies:?}");
    }
    assert!(tallies.values().any(|tally| tally.refused > 0), "nobody met anybody");

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
