//! `velo project create --from` and `refresh`: where passwords are taken from, what Ctrl-C leaves, what is printed. What
//! comes, and how, is tried in velo-core's `tests/import.rs`, and with faults in `faults.rs`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::whole::nothing_else;
use common::{Home, Ran, client, psql, wait_until};

fn url(home: &Home, branch: &str) -> String {
    home.ok(&["branch", "url", branch]).trim().to_owned()
}

/// A file beside the home, which everybody may read.
fn file(home: &Home, name: &str, text: &str) -> String {
    let path = home.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The files of a home that hold a text, but those of its servers' data.
fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if path.ends_with("volumes") {
            continue;
        }
        if kind.is_dir() {
            found.extend(holding(&path, text));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_password_is_taken_from_where_libpq_takes_it_and_kept_only_where_asked() {
    let source = Home::with_project();
    source.sql("api/main", "CREATE TABLE t AS SELECT 7 AS x");
    let whole = url(&source, "api/main");
    let (login, place) = whole.split_once('@').unwrap();
    let (begin, password) = login.rsplit_once(':').unwrap();
    let bare = format!("{begin}@{place}");
    let port = place.split(['/', ':']).nth(1).unwrap();

    let home = Home::new();
    let write = |name: &str, text: String| {
        let path = home.dir().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    write(".pgpass", format!("127.0.0.1:{port}:*:postgres:{password}\n"));
    let service = write(
        "services",
        format!(
            "[shop]\nhost=127.0.0.1\nport={port}\nuser=postgres\ndbname=postgres\npassword={password}\n"
        ),
    );
    let nowhere = |velo: &mut Command| {
        velo.env("HOME", "/nonexistent");
    };
    let create = ["project", "create", "none", "--from", &bare, "--json"];
    home.run_with(&create, nowhere).is_json_error(1, "password");
    assert!(home.branches().is_empty());

    let (folder, service) = (home.dir().to_str().unwrap(), service.to_str().unwrap());
    for (name, from, key, value) in [
        ("url", whole.as_str(), "HOME", "/nonexistent"),
        ("variable", &bare, "PGPASSWORD", password),
        ("file", &bare, "HOME", folder),
        ("service", "service=shop", "PGSERVICEFILE", service),
    ] {
        let create = ["project", "create", name, "--from", from];
        let ran = home.run_with(&create, |velo| {
            velo.env(key, value);
        });
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        assert!(!ran.stdout.contains(password) && !ran.stderr.contains(password), "{name}");
        assert_eq!(home.sql(&format!("{name}/main"), "SELECT x FROM t"), "7", "{name}");
    }
    // Those of the branches are others.
    assert_eq!(holding(home.path(), password), Vec::<PathBuf>::new());
    let refresh = ["project", "refresh", "url", "--json"];
    home.run_with(&refresh, nowhere).is_json_error(1, "password");

    source.sql("api/main", "UPDATE t SET x = 8");
    let ran = home.run_with(&["project", "refresh", "file"], |velo| {
        velo.env("HOME", folder);
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(home.sql("file/main", "SELECT x FROM t"), "8");
    home.ok(&["project", "create", "kept", "--from", &whole, "--save-password"]);
    let ran = home.run_with(&["project", "refresh", "kept"], nowhere);
    assert_eq!(ran.code, 0, "{ran:?}");
    let files = holding(home.path(), password);
    let is_state = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("state.db") && file.metadata().unwrap().permissions().mode() & 0o077 == 0
    };
    assert!(!files.is_empty() && files.iter().all(is_state), "{files:?}");
}

#[test]
fn a_recorded_password_is_replaced_by_the_variables() {
    let source = Home::with_project();
    source.sql("api/main", "CREATE TABLE t AS SELECT 7 AS x; CREATE ROLE ann SUPERUSER LOGIN");
    let whole = url(&source, "api/main");
    let place = whole.split_once('@').unwrap().1;
    let home = Home::new();
    let refresh = |password: Option<&str>| {
        home.run_with(&["project", "refresh", "copy", "--json"], |velo| {
            velo.env("HOME", "/nonexistent");
            if let Some(password) = password {
                velo.env("PGPASSWORD", password);
            }
        })
    };
    source.sql("api/main", "ALTER ROLE ann PASSWORD 'one'");
    let from = format!("postgres://ann:one@{place}");
    home.ok(&["project", "create", "copy", "--from", &from, "--save-password"]);
    source.sql("api/main", "ALTER ROLE ann PASSWORD 'two'");
    refresh(None).is_json_error(1, "password");
    // A variable that is there for something else is in nobody's way.
    for password in [Some("two"), None, Some("another"), None] {
        let ran = refresh(password);
        assert_eq!(ran.code, 0, "{password:?}: {ran:?}");
    }
}

#[test]
fn a_refresh_comes_to_the_same_server_whatever_its_variables_say() {
    let source = Home::with_project();
    source.sql("api/main", "CREATE TABLE t AS SELECT 7 AS x");
    let whole = url(&source, "api/main");
    let (login, place) = whole.split_once('@').unwrap();
    let password = login.rsplit_once(':').unwrap().1;
    let port = place.split(['/', ':']).nth(1).unwrap();
    let home = Home::new();
    let ran = home.run_with(&["project", "create", "copy", "--from", "postgres:///"], |velo| {
        velo.env("PGHOST", "127.0.0.1").env("PGPORT", port).env("PGUSER", "postgres");
        velo.env("PGDATABASE", "postgres").env("PGPASSWORD", password);
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    let from = format!("dbname='postgres' host='127.0.0.1' port='{port}' user='postgres'");
    assert_eq!(home.json(&["project", "get", "copy"])["source"]["from"], from.as_str());
    assert_eq!(holding(home.path(), password), Vec::<PathBuf>::new());
    source.sql("api/main", "UPDATE t SET x = 8");
    for (host, port) in [("/nonexistent", "1"), ("", "")] {
        let ran = home.run_with(&["project", "refresh", "copy"], |velo| {
            velo.env("PGHOST", host).env("PGPORT", port).env("PGUSER", "nobody");
            velo.env("PGHOSTADDR", "192.0.2.1").env("PGDATABASE", "nowhere");
            velo.env("PGSERVICE", "none").env("PGPASSWORD", password);
        });
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(home.json(&["project", "get", "copy"])["source"]["from"], from.as_str());
        assert_eq!(home.sql("copy/main", "SELECT x FROM t"), "8");
    }
}

/// A main that is brought anew, and a branch that is reset, have their old data where the new server does not start, also
/// if something else fails then, or the process is killed once it is recorded.
#[test]
fn data_whose_server_does_not_start_takes_no_place() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT 7 AS x");
    let main = url(&home, "api/main");
    home.ok(&["project", "create", "copy", "--from", &main, "--save-password"]);
    home.ok(&["branch", "create", "copy/b"]);
    let steps = home.dir().join("steps");
    for (args, branch) in
        [(["project", "refresh", "copy"], "copy/main"), (["branch", "reset", "copy/b"], "copy/b")]
    {
        home.sql(branch, "CREATE TABLE mine (x int)");
        let before = url(&home, branch);
        // At 2 and 3 the record is turned back.
        let errors = (2..=10).map(|moment| ("error", moment));
        for (fault, moment) in errors.chain([("kill", 4), ("kill", 6), ("kill", 8)]) {
            let what = format!("{args:?} with {fault}@{moment}");
            let _ = std::fs::remove_file(&steps);
            let ran = home.run_with(&args, |velo| {
                velo.env("VELO_TEST_FAULT_SINCE", "after point a branch to a volume");
                // The first of them is the start's.
                velo.env("VELO_TEST_FAULT", format!("error@1,{fault}@{moment}"));
                velo.env("VELO_TEST_STEPS", &steps);
            });
            let went = std::fs::read_to_string(&steps).unwrap();
            let pointed = |line: &&str| line.ends_with(" after point a branch to a volume");
            assert!(went.lines().any(|line| pointed(&line)), "{what}: {ran:?}");
            assert_ne!(ran.code, 0, "{what}: {ran:?}");
            home.ok(&["status"]);
            assert_eq!(url(&home, branch), before, "{what}");
            assert_eq!(home.sql(branch, "SELECT count(*) FROM mine"), "0", "{what}: {ran:?}");
        }
    }
    nothing_else(&home, &["api/main", "copy/main", "copy/b"], "after all of them");
    home.ok(&["project", "refresh", "copy"]);
    assert_eq!(home.sql("copy/main", "SELECT to_regclass('mine') IS NULL"), "t");
}

#[test]
fn a_project_says_where_its_data_came_from() {
    let source = Home::with_project();
    source.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 10) x");
    let from = url(&source, "api/main");
    let home = Home::new();
    let trim = home.dir().join("trim.sql");
    std::fs::write(&trim, "DELETE FROM t WHERE x > 5").unwrap();
    let trim = trim.to_str().unwrap();
    let made = home.json(&[
        "project",
        "create",
        "copy",
        "--from",
        &from,
        "--method",
        "dump",
        "--jobs",
        "1",
        "--transform",
        trim,
    ]);
    assert_eq!(made["source"]["method"], "dump", "{}", made["source"]);
    let told = &home.json(&["project", "get", "copy"])["source"];
    assert_eq!(told, &made["source"]);
    assert_eq!(told["transforms"], serde_json::json!([trim]));
    assert!(told["masking"].is_null() && told["brought_at"].as_u64().unwrap() > 0, "{told}");
    assert!(told["from"].as_str().unwrap().contains("host='127.0.0.1'"), "{told}");
    assert!(home.ok(&["project", "get", "copy"]).contains("(dump), "));
    assert_eq!(home.sql("copy/main", "SELECT count(*) FROM t"), "5");
    // An empty one came from nowhere.
    assert!(source.json(&["project", "get", "api"])["source"].is_null());

    let create = |more: &[&'static str]| [&["project", "create", "wrong"], more].concat();
    home.fails(&create(&["--from", "/nonexistent"]), 1, "/nonexistent");
    home.fails(&create(&["--from", "/usr"]), 2, "/usr");
    home.fails(&create(&["--from", "postgres://h/d", "--method", "files"]), 2, "method files");
    for only in ["--databases", "--schemas", "--schema"] {
        let chosen = ["--from", "postgres://h/d", "--method", "basebackup", only, "a"];
        home.fails(&create(&chosen), 2, "databases");
    }
    for usage in [&["--jobs", "2"][..], &["--from", "postgres://h/d", "--method", "ftp"]] {
        assert_eq!(home.run(&create(usage)).code, 2, "{usage:?}");
    }
    assert_eq!(home.branches(), ["copy/main"]);
}

/// A log that is no terminal has a line for each step of an import, and none of how far that is.
#[test]
fn a_log_has_a_line_for_each_step() {
    let source = Home::with_project();
    source.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100000) x");
    let from = url(&source, "api/main");
    let home = Home::new();
    let create = |name: &'static str, more: &[&'static str]| {
        let create = ["project", "create", name, "--from", &from, "--method", "dump"];
        let ran = home.run(&[&create[..], more].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    };
    let ran = create("copy", &[]);
    let told = |line: &str| line.strip_prefix("creating copy: ").map(str::to_owned);
    let steps: Vec<_> = ran.stderr.lines().filter_map(told).collect();
    for step in ["checking 127.0.0.1", "dumping postgres", "restoring postgres"] {
        assert_eq!(steps.iter().filter(|told| *told == step).count(), 1, "{step}: {ran:?}");
    }
    assert!(!ran.stderr.contains("B/s"), "{ran:?}");
    let ran = create("quiet", &["--json"]);
    assert!(!ran.stderr.contains("creating"), "{ran:?}");
}

/// A refresh that is told another source has that from then on, with what belongs to it.
#[test]
fn a_refresh_can_have_another_source() {
    let home = Home::new();
    let old = file(&home, "old.sql", "CREATE TABLE t AS SELECT 1 AS x;\n");
    let other = file(&home, "other.sql", "CREATE TABLE t AS SELECT 2 AS x;\n");
    let more = file(&home, "t.sql", "INSERT INTO t VALUES (30);\n");
    home.ok(&["project", "create", "copy", "--from", &old]);
    let rows = || home.sql("copy/main", "SELECT string_agg(x::text, ' ' ORDER BY x) FROM t");
    let source = || home.json(&["project", "get", "copy"])["source"].clone();
    assert_eq!((rows().as_str(), source()["from"].as_str().unwrap()), ("1", old.as_str()));

    let refresh = ["project", "refresh", "copy"];
    let elsewhere = [&refresh[..], &["--from", &other, "--transform", &more]].concat();
    let told = home.json(&elsewhere);
    assert_eq!(told["source"]["from"], other.as_str(), "{}", told["source"]);
    assert_eq!(rows(), "2 30");
    file(&home, "other.sql", "CREATE TABLE t AS SELECT 3 AS x;\n");
    home.ok(&refresh);
    assert_eq!(rows(), "3 30");
    let recorded = source();
    assert_eq!(recorded["from"], other.as_str(), "{recorded}");
    assert_eq!(recorded["transforms"], serde_json::json!([more]));

    // What cannot be brought is not recorded.
    let broken = file(&home, "broken.sql", "SELECT 1 / 0;\n");
    let ran = home.run(&[&refresh[..], &["--from", &broken]].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    home.fails(&[&refresh[..], &["--from", "/nonexistent"]].concat(), 1, "/nonexistent");
    for alone in [&["--transform", more.as_str()][..], &["--jobs", "2"], &["--reindex"]] {
        let ran = home.run(&[&refresh[..], alone].concat());
        assert!(ran.code == 2 && ran.stderr.contains("--from"), "{alone:?}: {ran:?}");
    }
    assert_eq!((rows().as_str(), source()), ("3 30", recorded));
}

/// Somebody who has the table `t` of a server, so that a dump of it waits.
struct Holder {
    psql: Child,
    url: String,
}

impl Holder {
    fn of(url: &str) -> Self {
        let lock = ["-XAtq", "-c", "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)", url];
        let mut psql = Command::new(client());
        psql.args(lock).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let holder = Self { psql: psql.spawn().unwrap(), url: url.to_owned() };
        wait_until("the table is locked", || holder.count("granted") == "1");
        holder
    }

    fn count(&self, which: &str) -> String {
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND";
        psql(&self.url, &format!("{locks} {which}"))
    }

    /// Begins with this, and ends it as Ctrl-C does, once it waits for the table. What it says then.
    fn gives_up(&self, home: &Home, args: &[&str]) -> String {
        let mut velo = home.command_with(args);
        let mut velo = velo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the dump waits", || {
            velo.try_wait().unwrap().is_some() || self.count("NOT granted") != "0"
        });
        assert!(velo.try_wait().unwrap().is_none(), "{args:?} has ended");
        let pid = rustix::process::Pid::from_child(&velo);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = velo.wait_with_output().unwrap();
        assert!(!ended.status.success(), "{args:?}");
        String::from_utf8(ended.stderr).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE relation = 't'::regclass";
        let _ = common::try_psql(&self.url, end);
        let _ = self.psql.wait();
    }
}

/// From the moment on at which the new data is in the place of the old, a refresh is done, and says so.
#[test]
fn ctrl_c_takes_no_data_back_that_is_in_its_place() {
    let home = Home::new();
    let dump = file(&home, "dump.sql", "CREATE TABLE t AS SELECT 1 AS x;\n");
    home.ok(&["project", "create", "copy", "--from", &dump]);
    file(&home, "dump.sql", "CREATE TABLE t AS SELECT 2 AS x;\n");
    let (gate, steps) = (home.dir().join("gate"), home.dir().join("steps"));
    let at = "after point a branch to a volume";
    let mut velo = home.command_with(&["project", "refresh", "copy"]);
    velo.env("VELO_TEST_GATE_AT", at).env("VELO_TEST_GATE", &gate).env("VELO_TEST_STEPS", &steps);
    let velo = velo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(at, || std::fs::read_to_string(&steps).is_ok_and(|told| told.contains(at)));
    let pid = rustix::process::Pid::from_child(&velo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    std::fs::write(&gate, "").unwrap();
    let ran = Ran::from(velo.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("copy refreshed in "), "{ran:?}");
    assert_eq!(home.sql("copy/main", "SELECT x FROM t"), "2");
    nothing_else(&home, &["copy/main"], "after a refresh that could not be given up any more");
}

#[test]
fn a_refresh_that_goes_on_is_nothing_that_was_left() {
    let home = Home::new();
    let dump = file(&home, "dump.sql", "CREATE TABLE t AS SELECT 1 AS x;\n");
    let packed = std::process::Command::new("gzip").arg(&dump).status().unwrap();
    assert!(packed.success());
    home.ok(&["project", "create", "copy", "--from", &format!("{dump}.gz")]);
    let (gate, steps) = (home.dir().join("gate"), home.dir().join("steps"));
    let at = "after make the folder of a dump";
    let mut velo = home.command_with(&["project", "refresh", "copy"]);
    velo.env("VELO_TEST_GATE_AT", at).env("VELO_TEST_GATE", &gate).env("VELO_TEST_STEPS", &steps);
    let velo = velo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(at, || std::fs::read_to_string(&steps).is_ok_and(|told| told.contains(at)));
    for args in [&["status"][..], &["gc"], &["branch", "list"]] {
        let ran = home.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}: {ran:?}");
    }
    let doctor = home.run(&["doctor", "--fix"]);
    let told = doctor.stdout + &doctor.stderr;
    assert!(!told.contains("copy/main") && !told.contains("given up"), "{told}");
    for args in [&["project", "delete", "copy", "--force"][..], &["branch", "stop", "copy/main"]] {
        let ran = home.run(args);
        assert!(ran.code == 1 && ran.stderr.contains("is being changed"), "{args:?}: {ran:?}");
    }
    std::fs::write(&gate, "").unwrap();
    let ran = Ran::from(velo.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(home.sql("copy/main", "SELECT x FROM t"), "1");
    nothing_else(&home, &["copy/main"], "after a refresh beside others");
}

#[test]
fn ctrl_c_leaves_nothing_of_an_import_and_the_old_main_of_a_refresh() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x");
    let main = url(&home, "api/main");
    let create =
        ["project", "create", "copy", "--from", &main, "--method", "dump", "--save-password"];
    let holder = Holder::of(&main);
    let said = holder.gives_up(&home, &create);
    assert!(said.contains("error: "), "{said}");
    drop(holder);
    nothing_else(&home, &["api/main"], "after an import that was given up");
    assert_eq!(home.json(&["project", "list"]).as_array().unwrap().len(), 1);

    home.ok(&create);
    home.sql("copy/main", "CREATE TABLE mine (x int)");
    let before = url(&home, "copy/main");
    let holder = Holder::of(&main);
    let said = holder.gives_up(&home, &["project", "refresh", "copy"]);
    assert!(said.contains("error: "), "{said}");
    drop(holder);
    nothing_else(&home, &["api/main", "copy/main"], "after a refresh that was given up");
    assert_eq!(url(&home, "copy/main"), before);
    assert_eq!(home.sql("copy/main", "SELECT count(*) FROM mine"), "0");
    home.ok(&["project", "refresh", "copy"]);
    assert_eq!(home.sql("copy/main", "SELECT to_regclass('mine') IS NULL"), "t");
}
