//! `velo` killed at any moment: what it worked on is whole afterwards, the next command undoes or
//! finishes what it left, and the parent never notices.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::whole::{main_is_well, names, nothing_else, processes};
use common::{Home, client, prepared, psql, wait_until};

/// After how many milliseconds. The last ones are seldom reached.
const MOMENTS: [u64; 16] = [1, 3, 6, 10, 15, 20, 25, 32, 40, 60, 80, 110, 150, 200, 300, 450];

/// How often each moment is tried.
fn rounds() -> usize {
    if std::env::var_os("VELO_TEST_LONG").is_some() { 10 } else { 1 }
}

/// Starts `velo` and kills it after a while. Whether it was done before.
fn kill_after(home: &Home, args: &[&str], after: Duration) -> bool {
    let mut child =
        home.command().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The moment itself is what is tested: this waits for no event.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap().success()
}

fn prepare(base: &str, storage: &str) -> Option<Home> {
    let home = Home::under(&prepared(base)?);
    home.ok(&["project", "create", "api", "--storage", storage]);
    home.sql(
        "api/main",
        "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x; \
         CREATE TABLE beat AS SELECT 0 AS n",
    );
    Some(home)
}

fn url(home: &Home, branch: &str) -> String {
    home.ok(&["branch", "url", branch]).trim().to_owned()
}

fn each_moment(mut work: impl FnMut(Duration, &str)) {
    for round in 0..rounds() {
        for millis in MOMENTS {
            // Another part of the millisecond in each round.
            let after = Duration::from_micros(millis * 1000 + round as u64 * 97);
            work(after, &format!("killed after {after:?}"));
        }
    }
}

fn branching(base: &str, storage: &str) {
    let Some(home) = prepare(base, storage) else { return };
    let main = url(&home, "api/main");
    let mut undone = 0;
    each_moment(|after, what| {
        let done = kill_after(&home, &["branch", "create", "api/b"], after);
        main_is_well(&main, what);
        let there = home.branches().contains(&"api/b".to_owned());
        assert!(there || !done, "{what}: it was done, and is not there");
        if there {
            nothing_else(&home, &["api/main", "api/b"], what);
            assert_eq!(home.sql("api/b", "SELECT sum(x) FROM t"), "500500", "{what}");
            home.ok(&["branch", "delete", "api/b"]);
        } else {
            undone += 1;
        }
        nothing_else(&home, &["api/main"], what);
        // The name is free.
        if !there {
            home.ok(&["branch", "create", "api/b"]);
            home.ok(&["branch", "delete", "api/b"]);
        }
    });
    assert!(undone > 2, "nothing was killed half-way");
}

fn resetting(base: &str, storage: &str) {
    let Some(home) = prepare(base, storage) else { return };
    let main = url(&home, "api/main");
    home.ok(&["branch", "create", "api/b"]);
    let branch = url(&home, "api/b");
    let mut old = 0;
    each_moment(|after, what| {
        psql(&branch, "DROP TABLE IF EXISTS mine; CREATE TABLE mine (x int); DELETE FROM t");
        let done = kill_after(&home, &["branch", "reset", "api/b"], after);
        main_is_well(&main, what);
        nothing_else(&home, &["api/main", "api/b"], what);
        assert_eq!(url(&home, "api/b"), branch, "{what}");
        // Old or new, and all of it.
        let state = psql(&branch, "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t");
        assert!(state == "f|1000" || (state == "t|0" && !done), "{what}: {state}");
        old += usize::from(state == "t|0");
        psql(&branch, "CREATE TABLE usable (x int); INSERT INTO usable VALUES (1)");
        home.ok(&["branch", "reset", "api/b"]);
        assert_eq!(psql(&branch, "SELECT count(*) FROM t"), "1000", "{what}");
        psql(&branch, "UPDATE t SET x = x");
    });
    assert!(old > 2, "nothing was killed before it was done");
}

fn deleting(base: &str, storage: &str) {
    let Some(home) = prepare(base, storage) else { return };
    let main = url(&home, "api/main");
    let mut kept = 0;
    each_moment(|after, what| {
        home.ok(&["branch", "create", "api/b"]);
        let branch = url(&home, "api/b");
        let done = kill_after(&home, &["branch", "delete", "api/b"], after);
        main_is_well(&main, what);
        if home.branches().contains(&"api/b".to_owned()) {
            assert!(!done, "{what}: it was done, and is there");
            kept += 1;
            nothing_else(&home, &["api/main", "api/b"], what);
            assert_eq!(psql(&branch, "SELECT sum(x) FROM t"), "500500", "{what}");
            home.ok(&["branch", "delete", "api/b"]);
        }
        nothing_else(&home, &["api/main"], what);
    });
    assert!(kept > 0, "nothing was killed before it began");
}

macro_rules! on {
    ($($name:ident: $work:ident($base:literal, $storage:literal);)*) => { $(
        #[test]
        fn $name() { $work($base, $storage); }
    )* };
}

on! {
    a_killed_branching_is_undone_on_btrfs: branching("VELO_TEST_BTRFS", "btrfs");
    a_killed_branching_is_undone_on_xfs: branching("VELO_TEST_XFS", "reflink");
    a_killed_branching_is_undone_on_ext4: branching("VELO_TEST_EXT4", "copy");
    a_killed_reset_is_old_or_new_on_btrfs: resetting("VELO_TEST_BTRFS", "btrfs");
    a_killed_reset_is_old_or_new_on_xfs: resetting("VELO_TEST_XFS", "reflink");
    a_killed_reset_is_old_or_new_on_ext4: resetting("VELO_TEST_EXT4", "copy");
    a_killed_deletion_finishes_on_btrfs: deleting("VELO_TEST_BTRFS", "btrfs");
    a_killed_deletion_finishes_on_xfs: deleting("VELO_TEST_XFS", "reflink");
    a_killed_deletion_finishes_on_ext4: deleting("VELO_TEST_EXT4", "copy");
}

/// What a process leaves that dies between the removal of a record and that of its lock, or while it
/// locks the name of a project that is not there yet.
#[test]
fn locks_of_nothing_go_with_a_dead_process() {
    let home = Home::with_project();
    let locks = home.path().join("locks");
    let orphans = ["01M85Q712A381HG2QDVG2FJSJY", "create-ghost"].map(|name| locks.join(name));
    for orphan in &orphans {
        std::fs::write(orphan, "").unwrap();
    }
    let held = locks.join("create-alive");
    let file = std::fs::File::create(&held).unwrap();
    file.lock().unwrap();
    let mut run = home.command();
    let mut run =
        run.args(["run", "api", "--", "sh", "-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
    wait_until("it has a branch", || home.branches().len() == 2);
    run.kill().unwrap();
    // Its command ends with its input.
    drop(run.stdin.take());
    run.wait().unwrap();
    assert_eq!(home.branches(), ["api/main"]);
    assert!(!orphans.iter().any(|orphan| orphan.exists()), "{:?}", names(&home, "locks"));
    assert!(held.exists());
}

/// Whether `initdb` makes the data of a project of the home.
fn initdb_runs(home: &Home) -> bool {
    let home = home.dir().file_name().unwrap().to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let program = line.split('\0').next().unwrap();
        program.ends_with("initdb") && line.contains(home)
    })
}

#[test]
fn initdb_ends_with_the_process_that_runs_it() {
    let home = Home::new();
    let volumes = home.path().join("volumes");
    let mut create = home.command_with(&["project", "create", "api"]);
    let create = create.stdout(Stdio::null()).stderr(Stdio::null());
    let mut create = create.spawn().unwrap();
    let is_at_work = || initdb_runs(&home) && volumes.exists() && !processes(&volumes).is_empty();
    wait_until("initdb is in the middle of its work", || {
        is_at_work() || create.try_wait().unwrap().is_some_and(|ended| panic!("{ended}"))
    });
    create.kill().unwrap();
    let begun = Instant::now();
    create.wait().unwrap();
    wait_until("initdb has ended", || !initdb_runs(&home));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    wait_until("the server that it ran has ended", || processes(&volumes).is_empty());
    // It was not done before: that makes three databases.
    for volume in names(&home, "volumes") {
        let base = std::fs::read_dir(volumes.join(volume).join("base"));
        let databases = base.map_or(0, Iterator::count);
        assert!(databases < 3, "initdb has gone on to its end");
    }
    assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
    assert!(names(&home, "volumes").is_empty());
    home.ok(&["project", "create", "api"]);
}

#[test]
fn an_import_that_was_interrupted_begins_anew_and_says_so() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x");
    let main = url(&home, "api/main");
    let volumes = names(&home, "volumes").len();
    // A dump waits for whoever has the table, and so is in the middle when its process is killed.
    let mut holder = Command::new(client())
        .args(["-XAtq", "-c", "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)", &main])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let locks = |granted: bool| {
        let of = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted =";
        psql(&main, &format!("{of} {granted}"))
    };
    wait_until("the table is locked", || locks(true) == "1");
    let create = ["project", "create", "copy", "--from", &main, "--method", "dump"];
    let mut import =
        home.command().args(create).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the dump waits", || locks(false) != "0" || import.try_wait().unwrap().is_some());
    assert_ne!(locks(false), "0", "the import has ended");
    import.kill().unwrap();
    import.wait().unwrap();
    assert_eq!(names(&home, "volumes").len(), volumes + 1, "nothing had come");
    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE relation = 't'::regclass";
    psql(&main, end);
    holder.wait().unwrap();

    let ran = home.run(&create);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("the import of copy was interrupted"), "{ran:?}");
    assert_eq!(home.sql("copy/main", "SELECT count(*), sum(x) FROM t"), "1000|500500");
    assert_eq!(names(&home, "volumes").len(), volumes + 1);
    nothing_else(&home, &["api/main", "copy/main"], "after an import that began anew");
    let ran = home.run(&["status"]);
    assert!(!ran.stderr.contains("interrupted"), "{ran:?}");
}
