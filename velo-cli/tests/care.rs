//! `velo gc`, `velo doctor --fix` and `velo start --all`: records, disk and servers are made to agree,
//! and nothing that anybody could want is lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(clippy::print_stderr)]

mod common;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::whole::{DIFFERENCES, cut_power, doctor_agrees, names, outlive, processes};
use common::{Home, eventually, is_root, prepared, psql, wait_until};
use serde_json::Value;

const STRAY: &str = "01M85Q712A381HG2QDVG2FJSJX";

/// What a list of deeds is about, and why it was not done.
#[track_caller]
fn deeds(value: &Value) -> Vec<(String, String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = value.as_array().unwrap_or_else(|| panic!("no list: {value}")).iter();
    all.map(|deed| {
        let what = format!("{} {}", text(&deed["deed"]).unwrap(), text(&deed["kind"]).unwrap());
        (what, text(&deed["name"]).unwrap(), text(&deed["error"]))
    })
    .collect()
}

#[track_caller]
fn findings(value: &Value) -> Vec<String> {
    let all = value.as_array().unwrap().iter().filter(|finding| finding["status"] != "ok");
    all.map(|f| format!("{}: {}", f["name"].as_str().unwrap(), f["what"].as_str().unwrap()))
        .collect()
}

#[track_caller]
fn finds(home: &Home, name: &str, part: &str) {
    let ran = home.run(&["doctor", "--json"]);
    let found = findings(&serde_json::from_str(&ran.stdout).unwrap());
    assert!(
        found.iter().any(|line| line.starts_with(&format!("{name}: ")) && line.contains(part)),
        "{name}: {part} is not in {found:?}"
    );
}

/// Whether doctor finds that records, disk and servers agree.
#[track_caller]
fn agree(home: &Home) {
    doctor_agrees(home, &DIFFERENCES, "afterwards");
}

fn shelves(home: &Home) -> Vec<std::collections::BTreeSet<String>> {
    ["volumes", "snapshots", "run", "locks"].map(|shelf| names(home, shelf)).into()
}

fn folder(home: &Home, branch: &str) -> PathBuf {
    let id = home.json(&["branch", "get", branch])["id"].as_str().unwrap().to_owned();
    home.path().join("run").join(id)
}

fn socket(home: &Home, branch: &str) -> PathBuf {
    let port = home.json(&["branch", "get", branch])["port"].to_string();
    folder(home, branch).join("s").join(format!(".s.PGSQL.{port}"))
}

/// Puts something that Velo did not make, or has forgotten, on every shelf.
fn plant(home: &Home) {
    // No project of the home keeps WAL.
    std::fs::create_dir(home.path().join("wal")).unwrap();
    for shelf in ["volumes", "snapshots", "run", "wal"] {
        for name in [STRAY, "mine"] {
            let folder = home.path().join(shelf).join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("file"), "x").unwrap();
        }
    }
    for name in [STRAY, "create-ghost", "mine"] {
        std::fs::write(home.path().join("locks").join(name), "").unwrap();
    }
}

#[test]
fn gc_removes_what_nothing_needs_and_only_that() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let mut run = home.command();
    let mut run =
        run.args(["run", "api", "--", "sh", "-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
    wait_until("it has a branch", || home.branches().len() == 3);
    outlive(&home, "api/b");
    run.kill().unwrap();
    drop(run.stdin.take());
    run.wait().unwrap();
    plant(&home);

    // A try changes nothing, of what every other command would remove neither.
    let before = shelves(&home);
    for args in [&["gc", "--dry-run"][..], &["gc", "--dry-run", "--unrecorded"]] {
        let tried = home.json(args);
        assert_eq!(tried["dry_run"], true);
        let would = deeds(&tried["deeds"]);
        let kinds: Vec<&str> = would.iter().map(|(kind, ..)| kind.as_str()).collect();
        let recorded = ["branch", "branch", "run", "lock", "lock"];
        let strays = if args.len() == 3 { &["volume", "snapshot", "wal"][..] } else { &[] };
        let wanted = recorded.iter().chain(strays);
        let wanted: Vec<String> = wanted.map(|kind| format!("removed {kind}")).collect();
        assert_eq!(kinds, wanted, "{would:?}");
        assert_eq!(shelves(&home), before);
    }
    {
        // Or the opening of the home would remove it.
        let file = std::fs::File::create(home.path().join("locks/reconcile")).unwrap();
        file.lock().unwrap();
        finds(&home, "locks", "create-ghost");
        finds(&home, "expired", "api/b");
    }
    finds(&home, "run", STRAY);
    finds(&home, "disk", STRAY);
    finds(&home, "wal", STRAY);

    // The look around has undone what lay under the dead lease, and what had expired.
    let done = home.json(&["gc"]);
    let removed = deeds(&done["deeds"]);
    let kinds: Vec<&str> = removed.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["removed run"], "{done}");
    let left = deeds(&done["unrecorded"]);
    assert_eq!(left.len(), 3, "{done}");
    assert!(left.iter().all(|(_, name, _)| name.ends_with(STRAY)), "{done}");
    let said = home.run(&["gc"]);
    assert!(said.stdout.contains("nothing to remove"), "{said:?}");
    assert!(said.stderr.contains("restored from a backup"), "{said:?}");

    let tried = home.run(&["gc", "--unrecorded", "--dry-run"]);
    assert!(tried.stderr.contains("restored from a backup"), "{tried:?}");
    let done = home.json(&["gc", "--unrecorded"]);
    assert_eq!(deeds(&done["deeds"]).len(), 3, "{done}");
    let empty = home.json(&["gc", "--unrecorded"]);
    assert_eq!(empty["deeds"], serde_json::json!([]));
    assert_eq!(empty["unrecorded"], serde_json::json!([]));
    agree(&home);
    assert_eq!(home.branches(), ["api/main"]);
    assert_eq!(home.sql("api/main", "SELECT 1"), "1");
    for shelf in ["volumes", "snapshots", "run", "wal"] {
        assert!(home.path().join(shelf).join("mine/file").exists(), "{shelf}");
        std::fs::remove_dir_all(home.path().join(shelf).join("mine")).unwrap();
    }
    assert!(home.path().join("locks/mine").exists());
}

#[test]
fn a_try_names_what_goes_with_the_last_of_its_dependents() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/a", "--stopped"]);
    home.ok(&["branch", "create", "api/b", "--stopped", "--from", "a"]);
    let mut run = home.command();
    let run = run.args(["run", "api/b", "--", "sh", "-c", "read x"]);
    let mut run = run.stdin(Stdio::piped()).spawn().unwrap();
    wait_until("it has a branch", || home.branches().len() == 4);
    home.ok(&["branch", "ttl", "api/a", "1s"]);
    outlive(&home, "api/b");
    run.kill().unwrap();
    drop(run.stdin.take());
    run.wait().unwrap();
    let deeds = |args: &[&str]| {
        let mut deeds = deeds(&home.json(args)["deeds"]);
        deeds.retain(|(what, ..)| what == "removed branch");
        deeds
    };
    let would = deeds(&["gc", "--dry-run"]);
    assert_eq!(would.len(), 3, "{would:?}");
    assert_eq!(deeds(&["gc"]), would);
    assert_eq!(home.branches(), ["api/main"]);
}

#[test]
fn gc_itself_ends_what_the_dead_left_and_says_so() {
    let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
    let home = Home::under(&base);
    home.ok(&["project", "create", "api"]);
    let mut run = home.command();
    let mut run =
        run.args(["run", "api", "--", "sh", "-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
    // One that is still being made may have no data yet to be measured.
    let runs = |branch: &Value| branch["ephemeral"] == true && branch["state"] == "running";
    let list = || home.json(&["branch", "list"]);
    wait_until("it has a branch", || list().as_array().unwrap().iter().any(runs));
    run.kill().unwrap();
    drop(run.stdin.take());
    run.wait().unwrap();
    let done = home.json(&["gc"]);
    let removed = deeds(&done["deeds"]);
    assert_eq!(removed.len(), 1, "{done}");
    assert!(removed[0].1.starts_with("api/~"), "{done}");
    // It is told where that is quick, which depends on what else the machine does.
    let bytes = &done["deeds"][0]["bytes"];
    assert!(bytes.is_null() || bytes.as_u64().unwrap() > 0, "{done}");
    assert_eq!(done["freed"].as_u64(), Some(bytes.as_u64().unwrap_or(0)), "{done}");
    assert_eq!(home.json(&["gc"])["deeds"], serde_json::json!([]));
    agree(&home);
}

#[test]
fn a_link_in_the_home_leads_nowhere() {
    let home = Home::with_project();
    let outside = home.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "x").unwrap();
    for shelf in ["volumes", "snapshots", "run", "locks", "leases"] {
        std::os::unix::fs::symlink(&outside, home.path().join(shelf).join(STRAY)).unwrap();
    }
    let done = home.json(&["gc", "--unrecorded"]);
    assert_eq!(deeds(&done["deeds"]).len(), 3, "{done}");
    assert!(outside.join("file").exists());
    for shelf in ["volumes", "snapshots", "run"] {
        assert!(!names(&home, shelf).contains(STRAY), "{shelf}");
    }
}

/// Copies the records: no process has them open between two commands.
fn copy_state(from: &Path, to: &Path) {
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", to.display()));
        let file = PathBuf::from(format!("{}{end}", from.display()));
        if file.exists() {
            std::fs::copy(&file, format!("{}{end}", to.display())).unwrap();
        }
    }
    std::fs::copy(from, to).unwrap();
}

#[test]
fn yesterdays_records_cost_none_of_todays_data() {
    let home = Home::with_project();
    let (state, backup) = (home.path().join("state.db"), home.dir().join("backup.db"));
    copy_state(&state, &backup);
    home.ok(&["branch", "create", "api/today"]);
    home.sql("api/today", "CREATE TABLE t AS SELECT 1 AS x");
    let url = home.ok(&["branch", "url", "api/today"]);
    let today = home.dir().join("today.db");
    copy_state(&state, &today);
    copy_state(&backup, &state);

    let volumes = names(&home, "volumes");
    assert_eq!(home.branches(), ["api/main"]);
    finds(&home, "disk", "there, and not recorded");
    finds(&home, "servers", "run on data that no record names");
    home.ok(&["gc"]);
    // Its server runs, and is not even asked.
    let ran = home.run(&["gc", "--unrecorded", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("a server runs on it"), "{ran:?}");
    assert_eq!(names(&home, "volumes"), volumes);
    assert_eq!(psql(url.trim(), "SELECT x FROM t"), "1");
    // It ought not to run; its data stays.
    let fixed = home.json(&["doctor", "--fix"]);
    let done = deeds(&fixed["deeds"]);
    assert!(done.iter().any(|(what, _, error)| what == "stopped server" && error.is_none()));
    assert_eq!(names(&home, "volumes"), volumes);
    assert_eq!(
        processes(&home.path().join("volumes"))
            .iter()
            .map(|p| &p.1)
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        1
    );

    // The right records come back: all is there.
    copy_state(&today, &state);
    home.ok(&["start", "--all"]);
    assert_eq!(psql(url.trim(), "SELECT x FROM t"), "1");
    home.ok(&["branch", "delete", "api/today"]);
    home.ok(&["gc"]);
    agree(&home);
}

#[test]
fn an_archive_that_yesterdays_records_do_not_know_is_its_servers() {
    let home = Home::with_project();
    let (state, backup) = (home.path().join("state.db"), home.dir().join("backup.db"));
    copy_state(&state, &backup);
    home.ok(&["project", "set", "api", "--wal-retention", "7d", "--restart"]);
    copy_state(&backup, &state);
    let archives = names(&home, "wal");
    assert_eq!(archives.len(), 1);
    finds(&home, "wal", "there, and not recorded");
    let ran = home.run(&["gc", "--unrecorded", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("the server of api/main may be adding to it"), "{ran:?}");
    assert_eq!(names(&home, "wal"), archives);
    home.ok(&["branch", "stop", "api/main"]);
    home.ok(&["gc", "--unrecorded"]);
    assert!(names(&home, "wal").is_empty());
    home.ok(&["branch", "start", "api/main"]);
    agree(&home);
}

/// Writes the number of a process that lives, and is none of a server's, into what a crash left.
fn reuse_pid(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(path, format!("{}\n{rest}", std::process::id())).unwrap();
}

#[test]
fn after_a_reboot_all_comes_back_under_the_same_urls() {
    let home = Home::with_project();
    home.ok(&["project", "create", "other"]);
    for branch in ["api/a", "api/b", "api/off"] {
        home.ok(&["branch", "create", branch]);
        home.sql(branch, "CREATE TABLE t AS SELECT 1 AS x");
    }
    home.ok(&["branch", "stop", "api/off"]);
    let running = ["api/main", "api/a", "api/b", "other/main"];
    let urls: Vec<String> = running.map(|branch| home.ok(&["branch", "url", branch])).into();
    cut_power(&home);
    for branch in ["api/a", "api/b"] {
        let data = std::fs::read_dir(home.path().join("volumes")).unwrap();
        for volume in data {
            let pid = volume.unwrap().path().join("postmaster.pid");
            if pid.exists() {
                reuse_pid(&pid);
            }
        }
        let socket = socket(&home, branch);
        assert!(socket.exists(), "a crash leaves its socket");
        reuse_pid(Path::new(&format!("{}.lock", socket.display())));
    }
    finds(&home, "servers", "ought to run, and do not");

    // One whose port is taken keeps no other down.
    let port = home.json(&["branch", "get", "api/b"])["port"].as_u64().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port as u16)).unwrap();
    finds(&home, "ports", "api/b");
    let some = home.json_of(&["start", "--all"], 1);
    let done: Vec<(&str, bool)> = some
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["done"].as_bool().unwrap()))
        .collect();
    assert_eq!(
        done,
        [("api/main", true), ("api/a", true), ("api/b", false), ("other/main", true)],
        "{some}"
    );
    assert_eq!(some[2]["error"]["kind"], "conflict", "{some}");
    drop(taken);
    // It says what it started, and what ran.
    let rest = home.json(&["start", "--all"]);
    let changed: Vec<_> = rest.as_array().unwrap().iter().map(|one| &one["changed"]).collect();
    assert_eq!(changed, [false, false, true, false], "{rest}");
    assert!(rest.as_array().unwrap().iter().all(|one| one["done"] == true), "{rest}");
    let text = home.ok(&["start", "--all"]);
    assert!(text.contains("0 started in ") && text.contains(", 4 ran already"), "{text}");
    assert!(text.contains("api/b ran already"), "{text}");
    for (branch, url) in running.iter().zip(&urls) {
        assert_eq!(&home.ok(&["branch", "url", branch]), url);
        assert_eq!(psql(url.trim(), "SELECT 1"), "1");
    }
    assert_eq!(psql(urls[1].trim(), "SELECT x FROM t"), "1");
    assert_eq!(home.json(&["branch", "get", "api/off"])["state"], "stopped");
    agree(&home);

    // Stopped with all others, they come back; who was stopped alone does not.
    assert_eq!(home.json(&["stop", "--all"]).as_array().unwrap().len(), 4);
    assert!(processes(&home.path().join("volumes")).is_empty());
    agree(&home);
    home.ok(&["stop", "--all"]);
    home.ok(&["branch", "stop", "api/a"]);
    assert_eq!(home.json(&["start", "--all"]).as_array().unwrap().len(), 3);
    assert_eq!(home.json(&["branch", "get", "api/a"])["state"], "stopped");
    assert_eq!(psql(urls[0].trim(), "SELECT 1"), "1");
    home.fails(&["start"], 2, "--all");
}

#[test]
fn a_start_that_fails_does_not_forget_that_all_are_to_come_back() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    let port = home.json(&["branch", "get", "api/b"])["port"].as_u64().unwrap();
    home.ok(&["stop", "--all"]);
    let held = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    home.fails(&["branch", "start", "api/b"], 1, "held by another program");
    drop(held);
    home.ok(&["start", "--all"]);
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
}

#[test]
fn doctor_sets_right_what_it_names() {
    let home = Home::with_project();
    for branch in ["api/down", "api/off", "api/deaf", "api/was"] {
        home.ok(&["branch", "create", branch]);
    }
    home.ok(&["branch", "stop", "api/off"]);
    home.ok(&["branch", "stop", "api/was"]);
    // One that runs though the records say that it was stopped.
    let (state, backup) = (home.path().join("state.db"), home.dir().join("backup.db"));
    copy_state(&state, &backup);
    home.ok(&["branch", "start", "api/was"]);
    copy_state(&backup, &state);
    // One that was killed, and one whose socket somebody removed.
    let pid = home.json(&["branch", "get", "api/down"])["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    wait_until("it is gone", || home.json(&["branch", "get", "api/down"])["state"] == "stopped");
    let deaf = socket(&home, "api/deaf");
    std::fs::remove_file(&deaf).unwrap();
    // A socket on which nobody listens.
    let off = socket(&home, "api/off");
    drop(UnixListener::bind(&off).unwrap());
    plant(&home);

    finds(&home, "servers", "ought to run, and do not: api/down");
    finds(&home, "servers", "run, and were stopped: api/was");
    finds(&home, "sockets", "gone: api/deaf");
    finds(&home, "sockets", "left by servers that do not run: api/off");

    let fixed = home.json(&["doctor", "--fix"]);
    let mut done = deeds(&fixed["deeds"]);
    done.retain(|(what, ..)| !what.ends_with(" run") && !what.ends_with(" lock"));
    done.sort();
    let wanted = [
        ("removed socket", "api/off"),
        ("restarted server", "api/deaf"),
        ("started server", "api/down"),
        ("stopped server", "api/was"),
    ];
    let wanted = wanted.map(|(what, name)| (what.to_owned(), name.to_owned(), None));
    assert_eq!(done, wanted, "{fixed}");
    assert!(deaf.exists() && !off.exists());
    assert_eq!(home.sql("api/down", "SELECT 1"), "1");
    // What no record names is left, and said.
    let left = findings(&fixed["findings"]);
    assert!(left.iter().any(|line| line.starts_with("disk: there, and not recorded")), "{left:?}");
    assert!(names(&home, "volumes").contains(STRAY));
    assert!(!names(&home, "run").contains(STRAY) && !names(&home, "locks").contains(STRAY));
    home.ok(&["gc", "--unrecorded"]);
    agree(&home);
    assert_eq!(home.json(&["doctor", "--fix"])["deeds"], serde_json::json!([]));

    // Data that is gone takes a decision.
    home.ok(&["branch", "stop", "api/off"]);
    home.ok(&["branch", "stop", "api/was"]);
    let volumes = names(&home, "volumes");
    home.ok(&["branch", "create", "api/lost", "--stopped"]);
    let lost = names(&home, "volumes").difference(&volumes).next().unwrap().clone();
    let place = home.path().join("volumes").join(&lost);
    std::fs::rename(&place, home.dir().join("away")).unwrap();
    let ran = home.run(&["doctor", "--fix"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("recorded, and not there: the branch api/lost"), "{ran:?}");
    std::fs::rename(home.dir().join("away"), &place).unwrap();
    agree(&home);
    for shelf in ["volumes", "snapshots", "run"] {
        std::fs::remove_dir_all(home.path().join(shelf).join("mine")).unwrap();
    }
}

#[test]
fn a_home_that_is_not_there_is_not_made() {
    let home = Home::new();
    for args in [&["gc"][..], &["gc", "--dry-run"], &["start", "--all"], &["stop", "--all"]] {
        home.ok(args);
    }
    home.run(&["doctor", "--fix"]);
    assert!(!home.path().exists());
}

/// With `+i` nothing can be removed from the folder, with `-i` it can again.
fn change(flag: &str, folder: &Path) {
    let changed = std::process::Command::new("chattr").arg(flag).arg(folder).status();
    assert!(changed.unwrap().success());
}

#[test]
fn what_cannot_be_undone_is_a_finding() {
    let Some(base) = prepared("VELO_TEST_EXT4") else { return };
    if !is_root() {
        eprintln!("SKIP: only root can make a file that cannot be removed");
        return;
    }
    let home = Home::under(&base);
    home.ok(&["project", "create", "api"]);
    let mut run = home.command();
    let mut run =
        run.args(["run", "api", "--", "sh", "-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
    let runs = |list: &Value| list.as_array().unwrap().iter().all(|b| b["state"] == "running");
    wait_until("it has a branch", || {
        let list = home.json(&["branch", "list"]);
        list.as_array().unwrap().len() == 2 && runs(&list)
    });
    let volumes = home.path().join("volumes");
    change("+i", &volumes);
    run.kill().unwrap();
    drop(run.stdin.take());
    run.wait().unwrap();
    // It is nobody's once what it started has noticed its end.
    let found =
        eventually(|| home.run(&["doctor", "--json"]).stdout.contains("begun to be undone"));
    change("-i", &volumes);
    assert!(found);
    home.ok(&["gc"]);
    agree(&home);
}

/// A service or a notebook lives on for days: what it could not delete keeps nobody from its name.
#[test]
fn what_a_living_process_could_not_delete_others_do() {
    let Some(base) = prepared("VELO_TEST_EXT4") else { return };
    if !is_root() {
        eprintln!("SKIP: only root can make a file that cannot be removed");
        return;
    }
    let home = Home::under(&base);
    home.ok(&["project", "create", "api"]);
    home.ok(&["snapshot", "create", "api/main@s1"]);
    // This process itself lives on.
    let config = velo_core::Config::builder().home(home.path()).build().unwrap();
    let opened = velo_core::blocking::Project::builder("api").config(config).open().unwrap();
    let fails = |folder: &str, delete: &dyn Fn() -> velo_core::Result<()>| {
        let folder = home.path().join(folder);
        change("+i", &folder);
        let failed = delete();
        let doctor = home.run(&["doctor", "--json"]).stdout;
        change("-i", &folder);
        failed.unwrap_err();
        assert!(doctor.contains("begun to be undone"), "{doctor}");
    };
    let snapshot = opened.snapshot("main@s1").unwrap();
    fails("snapshots", &|| snapshot.delete());
    home.ok(&["snapshot", "create", "api/main@s1"]);
    fails("volumes", &|| opened.delete(true));
    home.ok(&["project", "create", "api"]);
    assert_eq!(home.sql("api/main", "SELECT 1"), "1");
    home.ok(&["gc"]);
    agree(&home);
}
