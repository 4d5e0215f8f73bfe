//! A home that may have only so many servers: never one more, whoever asks; who waits is served in the
//! order of arrival, and no waiter or holder that dies keeps the others waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::whole::{doctor_agrees, names, working};
use common::{Home, wait_until};

/// A home whose `main` is stopped, so that every slot is free.
fn home() -> Home {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100) x");
    home.ok(&["branch", "stop", "api/main"]);
    home
}

/// `velo run` with a shell script, under a limit of servers.
fn run(home: &Home, servers: u32, script: &str) -> Command {
    let mut velo = home.command();
    velo.env("VELO_MAX_RUNNING", servers.to_string())
        .args(["-v", "run", "api", "--", "sh", "-ec", script])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    velo
}

/// A process that waits for a slot.
struct Waiter {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Waiter {
    /// Starts it, and returns as soon as it has its place in the line.
    #[track_caller]
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut waiter = Self { child, stderr, said: String::new() };
        while !waiter.said.contains("waiting for a slot") {
            let read = waiter.stderr.read_line(&mut waiter.said).unwrap();
            assert!(read > 0, "it did not wait: {}", waiter.said);
        }
        waiter
    }

    #[track_caller]
    fn ends_well(mut self) {
        std::io::Read::read_to_string(&mut self.stderr, &mut self.said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.said);
    }

    #[track_caller]
    fn fails(mut self, why: &str) {
        std::io::Read::read_to_string(&mut self.stderr, &mut self.said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(1), "{}", self.said);
        assert!(self.said.contains(why), "{}", self.said);
    }
}

/// A process that holds a slot until the file `free` is there.
struct Holder(Child);

impl Holder {
    fn start(home: &Home, servers: u32, free: &str) -> Self {
        let dir = home.dir().display();
        let held = home.dir().join(format!("{free}.held"));
        let script =
            format!("touch {0}; until [ -e {dir}/{free} ]; do sleep 0.02; done", held.display());
        let mut child = run(home, servers, &script).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a holder holds", || {
            held.exists() || child.try_wait().unwrap().is_some_and(|s| panic!("{s}"))
        });
        Self(child)
    }

    fn free(mut self, home: &Home, free: &str) {
        std::fs::write(home.dir().join(free), "").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

fn line(home: &Home, number: usize) -> String {
    format!("echo {number} >> {}", home.dir().join("order").display())
}

fn order(home: &Home) -> Vec<usize> {
    let text = std::fs::read_to_string(home.dir().join("order")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn nothing_is_left(home: &Home) {
    wait_until("every server is gone", || working(home).is_empty());
    assert_eq!(home.branches(), ["api/main"]);
    assert_eq!(names(home, "volumes").len(), 1);
    doctor_agrees(home, &["state", "disk", "servers", "leases"], "at the end");
}

#[test]
fn a_crowd_is_served_two_at_a_time() {
    let home = home();
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(working(&home).len());
                // What is sampled: there is no event for it.
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let script = "test $(psql -XAtqc 'SELECT sum(x) FROM t') = 5050; sleep 0.05";
        let crowd: Vec<_> = (0..12).map(|_| run(&home, 2, script).spawn().unwrap()).collect();
        let outputs: Vec<_> = crowd.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        for output in outputs {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
        }
        watched.join().unwrap()
    });
    // Two that live at once for a moment may be missed, but three never are there.
    assert!((1..=2).contains(&most), "{most} servers at once");
    nothing_is_left(&home);
}

#[test]
fn who_comes_first_is_served_first() {
    let home = home();
    let holder = Holder::start(&home, 1, "go");
    let waiters: Vec<_> = (0..6).map(|n| Waiter::start(run(&home, 1, &line(&home, n)))).collect();
    holder.free(&home, "go");
    for waiter in waiters {
        waiter.ends_well();
    }
    assert_eq!(order(&home), [0, 1, 2, 3, 4, 5]);
    nothing_is_left(&home);
}

/// Who waits for a slot to start a branch holds nothing that one who is ahead of him needs.
#[test]
fn a_branch_is_cloned_by_those_ahead_of_its_start() {
    let home = home();
    home.ok(&["branch", "create", "api/dev", "--stopped"]);
    let one_at_a_time = |args: &[&str]| {
        let mut velo = home.command_with(&[&["-v"], args].concat());
        velo.env("VELO_MAX_RUNNING", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        velo
    };
    let starts: [(&[&str], &[&str]); 3] = [
        (&["branch", "start", "api/dev"], &["branch", "stop", "api/dev"]),
        (&["branch", "restart", "api/dev"], &["stop", "--all"]),
        (&["start", "--all"], &["stop", "--all"]),
    ];
    for (n, (start, stop)) in starts.into_iter().enumerate() {
        let free = format!("go-{n}");
        let holder = Holder::start(&home, 1, &free);
        let ahead = Waiter::start(one_at_a_time(&["run", "api/dev", "--", "true"]));
        let start = Waiter::start(one_at_a_time(start));
        let begun = Instant::now();
        holder.free(&home, &free);
        ahead.ends_well();
        start.ends_well();
        // Much less than a slot, or a lock, is waited for.
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert_eq!(home.sql("api/dev", "SELECT sum(x) FROM t"), "5050");
        home.ok(stop);
    }
    // Of two who start the same one, the one that comes later finds it started: it needs no slot any more.
    let holder = Holder::start(&home, 1, "go-both");
    let both = [["branch", "start", "api/dev"]; 2].map(|args| Waiter::start(one_at_a_time(&args)));
    let begun = Instant::now();
    holder.free(&home, "go-both");
    both.into_iter().for_each(Waiter::ends_well);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    home.ok(&["branch", "stop", "api/dev"]);
    // Nor for one that is deleted meanwhile.
    let holder = Holder::start(&home, 1, "go-none");
    let start = Waiter::start(one_at_a_time(&["branch", "start", "api/dev"]));
    home.ok(&["branch", "delete", "api/dev"]);
    start.fails("is gone");
    holder.free(&home, "go-none");
    // Nobody keeps a place: what is free is taken at once.
    let ran = home.run_with(&["run", "api", "--", "true"], |velo| {
        velo.env("VELO_MAX_RUNNING", "1").env("VELO_SLOT_TIMEOUT", "0");
    });
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Nor does who waits to branch from a moment hold the branch that it is a moment of.
#[test]
fn a_branch_is_changed_while_one_of_its_moments_waits() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100) x");
    let wait = |servers: &str, branch: &str, from: &str| {
        let args = ["-v", "branch", "create", branch, "--from", from, "--at", "now"];
        let mut velo = home.command_with(&args);
        velo.env("VELO_MAX_RUNNING", servers).stdout(Stdio::null()).stderr(Stdio::piped());
        Waiter::start(velo)
    };
    let begun = Instant::now();
    let holder = Holder::start(&home, 2, "go-kept");
    let waiter = wait("2", "api/kept", "main");
    home.ok(&["branch", "restart", "api/main"]);
    home.sql("api/main", "DELETE FROM t");
    holder.free(&home, "go-kept");
    waiter.ends_well();
    assert_eq!(home.sql("api/kept", "SELECT sum(x) FROM t"), "5050");
    home.ok(&["branch", "delete", "api/kept"]);
    // Nor is anything lost that a reset gives another volume.
    home.ok(&["branch", "create", "api/dev"]);
    home.sql("api/dev", "INSERT INTO t VALUES (1), (2)");
    let holder = Holder::start(&home, 3, "go-reset");
    let waiter = wait("3", "api/kept", "dev");
    home.ok(&["branch", "reset", "api/dev"]);
    assert_eq!(home.sql("api/dev", "SELECT count(*) FROM t"), "0");
    holder.free(&home, "go-reset");
    waiter.ends_well();
    assert_eq!(home.sql("api/kept", "SELECT sum(x) FROM t"), "3");
    home.ok(&["branch", "delete", "api/dev", "--force"]);
    // What is removed meanwhile is not there any more, and nothing is made.
    let holder = Holder::start(&home, 2, "go-gone");
    let waiter = wait("2", "api/gone", "main");
    home.ok(&["project", "set", "api", "--wal-retention", "none", "--restart"]);
    home.ok(&["wal", "prune", "api"]);
    holder.free(&home, "go-gone");
    waiter.fails("that leads to this moment was removed meanwhile");
    // Much less than a slot, or a lock, is waited for.
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    home.ok(&["branch", "stop", "api/main"]);
    nothing_is_left(&home);
}

#[test]
fn the_dead_keep_nobody_waiting() {
    let home = home();
    let mut holder = Holder::start(&home, 1, "never");
    let mut waiters: Vec<_> =
        (0..4).map(|n| Waiter::start(run(&home, 1, &line(&home, n)))).collect();
    // The first two of the line die in it: one at once, one as Ctrl-C lets it.
    waiters[0].child.kill().unwrap();
    let second = rustix::process::Pid::from_child(&waiters[1].child);
    rustix::process::kill_process(second, rustix::process::Signal::INT).unwrap();
    for waiter in &mut waiters[..2] {
        assert!(!waiter.child.wait().unwrap().success());
    }
    let begun = Instant::now();
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    for waiter in waiters.drain(2..) {
        waiter.ends_well();
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(order(&home), [2, 3]);
    // The script of the killed holder goes on in its own process.
    std::fs::write(home.dir().join("never"), "").unwrap();
    nothing_is_left(&home);
}

#[test]
fn a_deadline_says_who_holds_the_slots() {
    let home = home();
    let holder = Holder::start(&home, 1, "go");
    for (seconds, least) in [("0", 0), ("1", 1)] {
        let begun = Instant::now();
        let ran = home.run_with(&["branch", "create", "api/b"], |velo| {
            velo.env("VELO_MAX_RUNNING", "1").env("VELO_SLOT_TIMEOUT", seconds);
        });
        ran.is_error(1, "api/~");
        assert!(ran.stderr.contains("no slot came free within"), "{ran:?}");
        assert!(ran.stderr.contains("VELO_MAX_RUNNING"), "{ran:?}");
        assert!(begun.elapsed() >= Duration::from_secs(least));
    }
    // Nobody who gave up keeps a place: with two slots there is one for who comes now.
    let two = home.run_with(&["branch", "create", "api/b"], |velo| {
        velo.env("VELO_MAX_RUNNING", "2");
    });
    assert_eq!(two.code, 0, "{two:?}");
    holder.free(&home, "go");
}

#[test]
fn what_lasting_branches_hold_is_not_waited_for() {
    let home = home();
    let limit = |velo: &mut Command| {
        velo.env("VELO_MAX_RUNNING", "2");
    };
    let done = |args: &[&str]| {
        let ran = home.run_with(args, limit);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    };
    done(&["branch", "create", "api/a"]);
    done(&["branch", "start", "api/main"]);
    // One that runs already takes no second slot, and one without a server none.
    done(&["branch", "start", "api/main"]);
    done(&["branch", "restart", "api/a"]);
    done(&["branch", "reset", "api/a"]);
    done(&["branch", "create", "api/b", "--stopped"]);
    let before = home.everything();
    let begun = Instant::now();
    for args in [
        &["branch", "create", "api/c"][..],
        &["branch", "start", "api/b"],
        &["run", "api", "--", "true"],
        &["project", "create", "other"],
    ] {
        home.fails_with(args, 1, "api/main, api/a", limit);
        let ran = home.run_with(&[args, &["--json"]].concat(), limit);
        // `velo run` hands its arguments on.
        assert!(args[0] == "run" || ran.stderr.contains("\"exhausted\""), "{ran:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "somebody waited");
    assert_eq!(home.everything(), before);
    done(&["branch", "stop", "api/a"]);
    done(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT sum(x) FROM t"), "5050");
}

#[test]
fn what_was_stopped_with_all_comes_back_where_there_is_a_slot() {
    let home = home();
    let limited = |args: &[&str]| {
        home.run_with(args, |velo| {
            velo.env("VELO_MAX_RUNNING", "2");
        })
    };
    let done = |args: &[&str]| {
        let ran = limited(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    };
    done(&["branch", "create", "api/a"]);
    done(&["branch", "create", "api/b"]);
    done(&["stop", "--all"]);
    done(&["branch", "create", "api/c"]);
    let ran = limited(&["start", "--all"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no slot is free"), "{ran:?}");
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap().iter();
    let running = || list.clone().filter(|b| b["state"] == "running").count();
    assert_eq!(running(), 2, "{ran:?}");
    // The other one waits for its turn, and has it once there is a slot.
    done(&["branch", "stop", "api/c"]);
    done(&["start", "--all"]);
    assert_eq!(home.sql("api/a", "SELECT sum(x) FROM t"), "5050");
    assert_eq!(home.sql("api/b", "SELECT sum(x) FROM t"), "5050");
}

#[test]
fn memory_is_shared_out_as_well() {
    let home = home();
    let within = |megabytes: &str, args: &[&str]| {
        home.run_with(args, |velo| {
            velo.env("VELO_MAX_MEMORY", megabytes);
        })
    };
    // 128 MB of shared buffers, and 32 beside them.
    within("159M", &["branch", "create", "api/a"]).is_error(1, "160 MB does not fit");
    let small = within("159M", &["branch", "create", "api/a", "--set", "shared_buffers=64MB"]);
    assert_eq!(small.code, 0, "{small:?}");
    within("200M", &["branch", "create", "api/b"]).is_error(1, "hold them: api/a");
    let ephemeral = within("144M", &["run", "api", "--", "true"]);
    assert_eq!(ephemeral.code, 0, "{ephemeral:?}");
    within("143M", &["run", "api", "--", "true"]).is_error(1, "hold them: api/a");
}

#[test]
fn absurd_limits_are_refused() {
    let home = home();
    for (name, value) in [
        ("VELO_MAX_RUNNING", "0"),
        ("VELO_MAX_RUNNING", "many"),
        ("VELO_MAX_MEMORY", "0"),
        ("VELO_MAX_MEMORY", "-1G"),
        ("VELO_SLOT_TIMEOUT", "999999999999"),
        ("VELO_KEEP_FREE", "1"),
        ("VELO_KEEP_FREE", "99999999999T"),
    ] {
        home.run_with(&["status"], |velo| {
            velo.env(name, value);
        })
        .is_error(2, "");
    }
    // More than any disk has is an honest wish, which is not met.
    let ran = home.run_with(&["branch", "create", "api/b"], |velo| {
        velo.env("VELO_KEEP_FREE", "1000000T");
    });
    ran.is_error(1, "No space left");
    assert!(ran.stderr.contains("VELO_KEEP_FREE"), "{ran:?}");
    assert_eq!(home.branches(), ["api/main"]);
}
