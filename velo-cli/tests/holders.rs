//! Whose a branch is, and what is left of one whose process or program is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Home, is_root, prepared, program, psql, whole};
use rustix::process::{Pid, Signal};

#[test]
fn a_throwaway_branch_is_changed_by_its_holder_alone() {
    let home = Home::with_project();
    let velo = program();
    // The name of the branch that `velo run` made, then what another process may do to it.
    let script = format!(
        "name=$({velo} branch list | grep -o '~[^ ]*'); \
         for what in reset restart start; do {velo} branch $what api/$name || echo $what $?; done; \
         psql -XAtqc 'SELECT 1'; {velo} snapshot create api/$name@s && psql -XAtqc 'SELECT 2'",
        velo = velo.display()
    );
    let ran = home.run(&["run", "api", "--", "bash", "-c", &script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for refused in ["reset 1", "restart 1", "start 1"] {
        assert!(ran.stdout.contains(refused), "{ran:?}");
    }
    assert!(ran.stdout.starts_with("reset 1\nrestart 1\nstart 1\n1\n"), "{ran:?}");
    assert!(ran.stdout.ends_with("\n2\n"), "{ran:?}");
    assert!(ran.stderr.contains("another process's"), "{ran:?}");
    // A snapshot of it goes with it: nobody could name it any more.
    assert_eq!(home.json(&["snapshot", "list", "api"]), serde_json::json!([]));
    assert_eq!(std::fs::read_dir(home.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn a_start_that_was_killed_is_finished_by_the_next() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let url = home.ok(&["branch", "url", "api/b"]).trim().to_owned();
    let mut cut_short = 0;
    for after in (2..=60).step_by(2) {
        home.ok(&["branch", "stop", "api/b"]);
        let mut start = home.command();
        let start = start.args(["branch", "start", "api/b"]).stdout(Stdio::null());
        let mut start = start.stderr(Stdio::null()).spawn().unwrap();
        // The moment itself is what is tested: this waits for no event.
        std::thread::sleep(Duration::from_millis(after));
        start.kill().unwrap();
        cut_short += u32::from(!start.wait().unwrap().success());
        home.ok(&["branch", "start", "api/b"]);
        assert_eq!(psql(&url, "SELECT 1"), "1", "after {after} ms");
    }
    assert!(cut_short > 0, "every start was done before it was killed");
    // One that is up and open is not touched, whatever its user made of the password.
    let started = psql(&url, "SELECT pg_postmaster_start_time()");
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(psql(&url, "SELECT pg_postmaster_start_time()"), started);
    psql(&url, "ALTER ROLE postgres PASSWORD 'another'");
    home.ok(&["branch", "start", "api/b"]);
    let socket = home.ok(&["branch", "url", "--socket", "api/b"]).trim().to_owned();
    assert_eq!(psql(&socket, "SELECT pg_postmaster_start_time()"), started);
}

#[test]
fn a_server_that_says_nothing_delays_those_who_ask_for_it() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let data = home.sql("api/b", "SHOW data_directory");
    let pid = std::fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let steps = home.dir().join("steps");
    let mut start = home.command_with(&["branch", "start", "api/b"]);
    let start = start.env("VELO_TEST_STEPS", &steps).stderr(Stdio::null());
    let mut start = start.stdout(Stdio::null()).spawn().unwrap();
    let recorded = "after record whether a server ought to run";
    common::wait_until("it is recorded", || {
        std::fs::read_to_string(&steps).is_ok_and(|steps| steps.contains(recorded))
    });
    start.kill().unwrap();
    start.wait().unwrap();
    // Whoever comes next looks whether it answers by now, and no longer.
    let begun = std::time::Instant::now();
    home.ok(&["branch", "list"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    home.ok(&["branch", "list"]);
    whole::doctor_agrees(&home, &whole::DIFFERENCES, "once it answers");
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
}

#[test]
fn a_server_that_was_ending_when_its_restart_was_killed_is_started_again() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let id = home.json(&["branch", "get", "api/b"])["id"].as_str().unwrap().to_owned();
    let log = home.path().join("run").join(id).join("postgres.log");
    let data = home.sql("api/b", "SHOW data_directory");
    let checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let pid = Pid::from_raw(home.sql("api/b", checkpointer).parse().unwrap()).unwrap();
    let says = |file: &Path, text: &str| {
        std::fs::read_to_string(file).is_ok_and(|content| content.contains(text))
    };

    // Its end takes its time, as on a busy disk.
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let mut restart = home.command_with(&["branch", "restart", "api/b"]).spawn().unwrap();
    let pid_file = Path::new(&data).join("postmaster.pid");
    common::wait_until("it ends", || says(&pid_file, "stopping"));
    restart.kill().unwrap();
    restart.wait().unwrap();
    let mut next = home.command_with(&["branch", "list"]).spawn().unwrap();
    common::wait_until("the next one asks it", || says(&log, "is shutting down"));
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    assert!(next.wait().unwrap().success());
    let state = home.json(&["branch", "get", "api/b"])["state"].clone();
    assert_eq!(state, "running", "{}", std::fs::read_to_string(log).unwrap());
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
}

/// A server whose folder somebody removed goes on for a while, and is ended by who deletes its branch.
#[test]
fn a_server_whose_data_was_removed_ends_with_its_branch() {
    let Some(base) = prepared("VELO_TEST_BTRFS").filter(|_| is_root()) else { return };
    for by in [
        &["branch", "delete", "api/dev"][..],
        &["project", "delete", "api", "--force"],
        &["branch", "stop", "api/dev"],
    ] {
        let home = Home::under(&base);
        home.ok(&["project", "create", "api"]);
        home.ok(&["branch", "create", "api/dev"]);
        let dev = home.json(&["branch", "get", "api/dev"]);
        let pid = dev["pid"].as_u64().unwrap();
        let data = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        let deleted =
            Command::new("btrfs").args(["subvolume", "delete"]).arg(&data).output().unwrap();
        assert!(deleted.status.success(), "{deleted:?}");
        let doctor = home.run(&["doctor"]);
        assert!(!doctor.stdout.contains("other programs"), "{doctor:?}");
        home.run(by);
        let gone =
            std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
        assert!(gone, "after {by:?} its server lives");
    }
}

/// PostgreSQL would free it at its next start on the data, which never comes.
#[test]
fn the_shared_memory_of_a_killed_server_goes_with_its_branch() {
    // Of subvolumes PostgreSQL does not find it either.
    let home = match prepared("VELO_TEST_BTRFS") {
        Some(base) => {
            let home = Home::under(&base);
            home.ok(&["project", "create", "api"]);
            home
        }
        None => Home::with_project(),
    };
    for by in [
        &["branch", "delete", "api/dev"][..],
        &["branch", "start", "api/dev"],
        &["branch", "stop", "api/dev"],
    ] {
        if home.branches().len() < 2 {
            home.ok(&["branch", "create", "api/dev"]);
        }
        let pid = home.json(&["branch", "get", "api/dev"])["pid"].as_i64().unwrap();
        let data = home.sql("api/dev", "SHOW data_directory");
        let file = std::fs::read_to_string(Path::new(&data).join("postmaster.pid")).unwrap();
        let segment = file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        let segment_is_there = || {
            let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
            all.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment))
        };
        let mut shared: Vec<PathBuf> = Vec::new();
        for (process, _) in whole::processes(&home.path().join("volumes")) {
            let of_process = |name| Path::new("/proc").join(process.to_string()).join(name);
            // The process of the connection above may just be ending.
            let (Ok(maps), Ok(cwd)) = (
                std::fs::read_to_string(of_process("maps")),
                std::fs::read_link(of_process("cwd")),
            ) else {
                continue;
            };
            if cwd == Path::new(&data) {
                let paths = maps.lines().filter_map(|line| Some(&line[line.find("/dev/shm/")?..]));
                shared.extend(paths.map(PathBuf::from));
            }
        }
        assert!(segment_is_there() && shared.iter().any(|file| file.exists()), "{shared:?}");
        if by[1] == "start" {
            // The first key is free then, and the next server takes that.
            home.ok(&["branch", "stop", "api/main"]);
        }
        let parent = home.json(&["branch", "get", "api/main"])["pid"].clone();

        rustix::process::kill_process(
            Pid::from_raw(pid.try_into().unwrap()).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        home.ok(by);
        assert!(!segment_is_there(), "after {by:?} the segment {segment} stays");
        shared.retain(|file| file.exists());
        assert!(shared.is_empty(), "after {by:?} there is {shared:?}");
        // Nobody else's goes.
        assert_eq!(home.json(&["branch", "get", "api/main"])["pid"], parent);
        home.ok(&["branch", "start", "api/main"]);
        assert_eq!(home.sql("api/main", "SELECT 1"), "1");
    }
}

/// People remove it by hand; a server notices after a minute.
#[test]
fn a_server_whose_pid_file_was_removed_is_one_still() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    home.sql("api/b", "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x");
    let data = home.sql("api/b", "SHOW data_directory");
    let started = home.sql("api/b", "SELECT pg_postmaster_start_time()");
    std::fs::remove_file(Path::new(&data).join("postmaster.pid")).unwrap();
    assert_eq!(home.json(&["branch", "get", "api/b"])["state"], "running");
    // Not as one that is stopped, whose files are taken as they are.
    let made = home.json(&["branch", "create", "api/of-b", "--from", "b"]);
    assert_ne!(made["cut"]["method"], "stopped");
    assert_eq!(home.sql("api/of-b", "SELECT count(*) FROM t"), "1000");
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT pg_postmaster_start_time()"), started);
    home.ok(&["branch", "stop", "api/b"]);
    let control = home.json(&["branch", "create", "api/last", "--from", "b"]);
    assert_eq!(control["cut"]["method"], "stopped", "it was stopped cleanly");
}

/// A script's lock or pipe ends with the script.
#[test]
fn a_server_holds_no_file_of_whoever_started_it() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    let lock = home.dir().join("lock");
    let script = format!("exec {} branch start api/b 9>'{}'", program().display(), lock.display());
    let mut shell = home.command_of(Path::new("sh"));
    assert!(shell.args(["-c", &script]).stdout(Stdio::null()).status().unwrap().success());
    let pid = home.json(&["branch", "get", "api/b"])["pid"].as_u64().unwrap();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let held: Vec<_> =
        files.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    assert!(held.len() > 3 && !held.contains(&lock), "{held:?}");
}

#[test]
fn a_server_that_only_rehearses_ends_with_a_killed_reset() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let steps = home.dir().join("steps");
    let traced = home.run_with(&["branch", "reset", "api/b"], |command| {
        command.env("VELO_TEST_STEPS", &steps);
    });
    assert_eq!(traced.code, 0, "{traced:?}");
    let steps = std::fs::read_to_string(steps).unwrap();
    let started = steps.lines().find(|line| line.ends_with(" after runtime: start")).unwrap();
    let moment = started.split(' ').next().unwrap().to_owned();
    let before = whole::working(&home);
    let killed = home.run_with(&["branch", "reset", "api/b"], |command| {
        command.env("VELO_TEST_FAULT", format!("kill@{moment}"));
    });
    let since = std::time::Instant::now();
    assert_eq!(killed.code, -9, "{killed:?}");
    assert!(common::eventually(|| whole::working(&home) == before), "it outlives its process");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
}

#[test]
fn a_pid_file_of_single_user_mode_is_no_riddle() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    home.ok(&["branch", "stop", "api/b"]);
    let volumes = home.path().join("volumes");
    let stopped = std::fs::read_dir(volumes).unwrap().map(|entry| entry.unwrap().path());
    let mut stopped = stopped.filter(|volume| !volume.join("postmaster.pid").exists());
    // What a server of that kind leaves when it is killed: its number is negative.
    let pid_file = stopped.next().unwrap().join("postmaster.pid");
    std::fs::write(&pid_file, "-4194301\n/nowhere\n").unwrap();
    let list = home.json(&["branch", "list"]);
    assert_eq!(list[1]["state"], "stopped", "{list}");
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
}

#[test]
fn what_is_there_needs_no_program_to_be_looked_at_and_deleted() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    home.ok(&["branch", "stop", "api/b"]);
    let nowhere = |command: &mut std::process::Command| {
        command.env("VELO_PG_BIN", "/nonexistent").env_remove("VELO_PG_VERSION");
    };
    for args in [
        &["branch", "list"][..],
        &["status"],
        &["project", "get", "api"],
        &["branch", "get", "api/b"],
        &["branch", "url", "api/b"],
    ] {
        let ran = home.run_with(args, nowhere);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    }
    home.fails_with(&["branch", "start", "api/b"], 1, "/nonexistent", nowhere);
    let doctor = home.run_with(&["doctor", "--json"], nowhere);
    assert!(doctor.stdout.contains("for the project api"), "{doctor:?}");
    let ran = home.run_with(&["project", "delete", "api", "--force"], nowhere);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn an_id_is_no_name() {
    let home = Home::with_project();
    let created = home.json(&["branch", "create", "api/a"]);
    let id = created["id"].as_str().unwrap();
    home.fails(&["branch", "create", &format!("api/{id}")], 2, "is an id");
    home.ok(&["branch", "delete", &format!("api/{id}")]);
    assert_eq!(home.branches(), ["api/main"]);
}

#[test]
fn a_server_in_another_pid_namespace_is_not_taken_for_dead() {
    if !common::is_root() {
        return;
    }
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT generate_series(1, 100) AS x; CHECKPOINT");
    let started = home.sql("api/main", "SELECT pg_postmaster_start_time()");
    // The command in a container, which sees none of the host's processes.
    let inside = |args: &[&str]| -> common::Ran {
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--pid", "--ipc", "--fork", "--mount-proc"]).arg(common::program()).args(args);
        let command = home.command();
        outer.env_clear().envs(std::env::vars_os());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(key, value),
                None => outer.env_remove(key),
            };
        }
        outer.stdin(Stdio::null()).output().unwrap().into()
    };
    let list = inside(&["branch", "list", "--json"]);
    assert!(list.stdout.contains("\"running\""), "{list:?}");
    let created = inside(&["branch", "create", "api/inside", "--json"]);
    assert_eq!(created.code, 0, "{created:?}");
    assert!(!created.stdout.contains("\"crashed\""), "{created:?}");
    inside(&["branch", "stop", "api/main"]).is_error(1, "cannot be seen from here");
    let start = inside(&["branch", "start", "api/main"]);
    assert_eq!(start.code, 0, "it runs, and lets clients in: {start:?}");
    assert_eq!(home.sql("api/main", "SELECT pg_postmaster_start_time()"), started);
    // The branch's server ended with its namespace; seen from here it crashed.
    home.ok(&["branch", "start", "api/inside"]);
    assert_eq!(home.sql("api/inside", "SELECT count(*) FROM t"), "100");
}
