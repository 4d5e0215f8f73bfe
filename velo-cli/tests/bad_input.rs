//! What bad input gets: one line, a hint, exit code 1 or 2, and nothing changed.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, Ran, program};

#[test]
fn bad_names() {
    let home = Home::with_project();
    let before = home.everything();
    let long = "a".repeat(300);
    for bad in ["../x", "", &long, "a b"] {
        home.fails(&["project", "create", bad], 2, "project");
        home.fails(&["project", "get", bad], 2, "project");
        home.fails(&["project", "delete", bad], 2, "project");
        let branch = format!("api/{bad}");
        home.fails(&["branch", "create", &branch], 2, "branch");
        home.fails(&["branch", "get", &branch], 2, "branch");
        home.fails(&["branch", "delete", &branch], 2, "branch");
        home.fails(&["run", &branch, "--", "true"], 2, "branch");
        let from = ["branch", "create", "api/x", "--from", bad];
        home.fails(&from, 2, "branch");
        home.fails(&["snapshot", "create", "api/main", bad], 2, "snapshot");
        let snapshot = format!("api/main@{bad}");
        home.fails(&["snapshot", "create", &snapshot], 2, "snapshot");
        home.fails(&["snapshot", "delete", &snapshot], 2, "snapshot");
    }
    // A leading dash: an option that there is none of, or behind `--` a bad name.
    for command in [["project", "create"], ["branch", "create"]] {
        home.fails(&[command[0], command[1], "-x"], 2, "'-x'");
    }
    home.fails(&["project", "create", "--", "-x"], 2, "-x");
    home.fails(&["branch", "create", "--", "-x/y"], 2, "-x");
    home.fails(&["branch", "create", "api/-x"], 2, "-x");
    home.fails(&["snapshot", "create", "api/main@-x"], 2, "-x");
    // Not the form that is asked for.
    home.fails(&["branch", "create", "api"], 2, "names no branch");
    home.fails(&["branch", "url", "api"], 2, "names no branch");
    home.fails(&["snapshot", "create", "api/main"], 2, "name is missing");
    home.fails(&["snapshot", "delete", "api/main"], 2, "names no snapshot");
    assert_eq!(home.everything(), before);
}

#[test]
fn wrong_usage() {
    let home = Home::new();
    home.fails(&["frob"], 2, "frob");
    home.fails(&["branch", "list", "--bogus"], 2, "--bogus");
    home.fails(&["project", "create"], 2, "NAME");
    home.fails(&["project", "create", "x", "--storage", "tape"], 2, "tape");
    home.fails(&["project", "create", "x", "--pg-version", "new"], 2, "new");
    home.fails(&["branch", "create", "a/b", "--set", "x"], 2, "'x'");
    let both = ["branch", "reset", "a/b", "--to", "x", "--to-origin"];
    home.fails(&both, 2, "--to-origin");
    home.fails_with(&["status"], 2, "VELO_HOEM", |c| {
        c.env("VELO_HOEM", "/x");
    });
    home.fails_with(&["status"], 2, "tape", |c| {
        c.env("VELO_STORAGE", "tape");
    });
    std::fs::write(home.dir().join("velo.toml"), "colour = 1\n").unwrap();
    home.fails(&["status"], 2, "colour");
    std::fs::write(home.dir().join("velo.toml"), "").unwrap();
    assert!(!home.path().exists());

    // The same as JSON, on standard error.
    for args in [
        &["project", "get", "nope", "--json"][..],
        &["project", "get", "a b", "--json"],
        &["frob", "--json"],
    ] {
        let ran = home.run(args);
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        let error = error["error"].as_object().unwrap();
        let keys: Vec<&String> = error.keys().collect();
        assert_eq!(keys, ["hint", "kind", "left_behind", "message"]);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn what_is_missing_or_there_already() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev"]);
    home.ok(&["snapshot", "create", "api/main@s"]);
    let before = home.everything();
    home.fails(&["project", "get", "nope"], 1, "nope");
    home.fails(&["project", "delete", "nope"], 1, "nope");
    home.fails(&["branch", "list", "nope"], 1, "nope");
    home.fails(&["branch", "create", "nope/x"], 1, "nope");
    home.fails(&["branch", "create", "api/x", "--from", "nope"], 1, "nope");
    home.fails(&["branch", "create", "api/x", "--from", "main@nope"], 1, "nope");
    home.fails(&["branch", "create", "api/x", "--from", "nope@s"], 1, "nope");
    for command in ["get", "delete", "reset", "start", "stop", "restart", "url"] {
        home.fails(&["branch", command, "api/nope"], 1, "nope");
        home.fails(&["branch", command, "api/~nope.12345678"], 1, "nope");
    }
    home.fails(&["branch", "reset", "api/dev", "--to", "nope"], 1, "nope");
    home.fails(&["branch", "reset", "api/main"], 2, "no parent");
    home.fails(&["snapshot", "create", "api/nope@x"], 1, "nope");
    home.fails(&["snapshot", "delete", "api/main@nope"], 1, "nope");
    home.fails(&["snapshot", "list", "nope"], 1, "nope");

    home.fails(&["project", "create", "api"], 1, "exists already");
    home.fails(&["branch", "create", "api/dev"], 1, "exists already");
    home.fails(&["branch", "create", "api/main"], 1, "exists already");
    home.fails(&["snapshot", "create", "api/main@s"], 1, "exists already");
    home.fails(&["branch", "create", "api/x", "--set", "port=1"], 2, "port");
    home.fails(&["branch", "create", "api/x", "--set", "a-b=1"], 2, "a-b");
    home.fails(&["branch", "create", "api/x", "--set", "work_mem=lots"], 1, "work_mem");
    assert_eq!(home.everything(), before);
}

#[test]
fn postgres_of_another_major_or_none() {
    let home = Home::new();
    home.fails(&["project", "create", "x", "--pg-version", "9"], 1, "9");
    home.fails_with(&["project", "create", "x"], 1, "PostgreSQL", |c| {
        c.env("VELO_PG_BIN", "/nonexistent").env("PATH", "");
    });
    assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
    home.ok(&["project", "create", "api"]);
    // A project keeps the PostgreSQL it was made with, whatever the settings say now.
    let other = |c: &mut std::process::Command| {
        c.env("VELO_PG_VERSION", "99");
    };
    let ran = home.run_with(&["branch", "create", "api/x"], other);
    assert_eq!(ran.code, 0, "{ran:?}");

    // Data of another major under the project's PostgreSQL is refused.
    home.ok(&["branch", "stop", "api/x"]);
    let id = home.json(&["branch", "get", "api/x"]);
    let data = data_of(&home, id["port"].as_u64().unwrap());
    let file = data.join("PG_VERSION");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "9\n").unwrap();
    home.fails(&["branch", "start", "api/x"], 1, "incompatible");
    std::fs::write(&file, whole).unwrap();
    home.ok(&["branch", "start", "api/x"]);
}

/// A version that is asked for counts over the folder that the environment names, which is used where it is of that one.
#[test]
fn a_folder_below_a_version_that_is_asked_for() {
    let all = std::env::var("VELO_TEST_PG").unwrap_or_default();
    let all: Vec<_> = all.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let [(named, folder), .., (other, on_path)] = all[..] else {
        assert!(std::env::var_os("VELO_TEST_REQUIRE").is_none(), "VELO_TEST_PG names no two");
        println!("skipped: VELO_TEST_PG names no two PostgreSQLs");
        return;
    };
    let home = Home::new();
    for (name, major) in [("same", named), ("another", other)] {
        let create = ["project", "create", name, "--pg-version", major];
        let ran = home.run_with(&create, |c| {
            c.env("VELO_PG_BIN", folder).env("PATH", on_path);
        });
        assert_eq!(ran.code, 0, "{ran:?}");
        let made = home.json(&["project", "get", name]);
        let version = made["postgres"]["version"].as_str().unwrap();
        assert_eq!(version.split_once('.').unwrap().0, major, "{made}");
        if name == "same" {
            let folder = std::fs::canonicalize(folder).unwrap();
            assert_eq!(made["postgres"]["bin_dir"], folder.to_str().unwrap(), "{made}");
        }
    }
}

/// The data folder of the branch that had this port when it ran last.
fn data_of(home: &Home, port: u64) -> std::path::PathBuf {
    let opts = |path: &std::path::Path| std::fs::read_to_string(path.join("postmaster.opts"));
    std::fs::read_dir(home.path().join("volumes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| opts(path).is_ok_and(|text| text.contains(&format!("port={port}"))))
        .unwrap()
}

#[test]
fn a_link_that_leaves_the_parent() {
    let home = Home::with_project();
    let port = home.json(&["branch", "get", "api/main"])["port"].as_u64();
    let data = data_of(&home, port.unwrap());
    let before = home.everything();
    let link = data.join("strange.conf");
    std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
    home.fails(&["branch", "create", "api/x"], 1, "strange.conf");
    home.fails(&["run", "api", "--", "true"], 1, "strange.conf");
    home.fails(&["snapshot", "create", "api/main@s"], 1, "strange.conf");
    std::fs::remove_file(&link).unwrap();
    assert_eq!(home.everything(), before);
    home.ok(&["branch", "create", "api/x"]);
}

#[test]
fn a_port_that_somebody_holds() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev", "--stopped"]);
    let port = home.json(&["branch", "get", "api/dev"])["port"].as_u64();
    let port = u16::try_from(port.unwrap()).unwrap();
    let held = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    home.fails(&["branch", "start", "api/dev"], 1, &port.to_string());
    drop(held);
    home.ok(&["branch", "start", "api/dev"]);
    assert_eq!(home.sql("api/dev", "SELECT 1"), "1");
}

#[test]
fn a_process_with_too_few_files_is_told_so() {
    let home = Home::with_project();
    let mut told = 0;
    for files in 10..=40 {
        let script = format!("ulimit -n {files}; exec \"$0\" branch create api/b --stopped");
        let mut velo = home.command_of(std::path::Path::new("sh"));
        let ran: Ran = velo.arg("-c").arg(script).arg(program()).output().unwrap().into();
        if ran.code == 0 {
            home.ok(&["branch", "delete", "api/b"]);
            continue;
        }
        told += u32::from(ran.stderr.contains("Too many open files"));
        assert!(!ran.stderr.contains("every port"), "{files}: {ran:?}");
    }
    assert!(told > 0, "there were always enough");
    assert_eq!(home.branches(), ["api/main"]);
}
