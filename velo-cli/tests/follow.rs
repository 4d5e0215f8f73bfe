//! `velo project follow`: what it prints, and what `project get` tells of it. What it does is tried in velo-core's
//! `tests/import.rs`, and with faults in `faults.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Home, wait_until};

/// What `project get` tells of what the main of `copy` follows.
fn follows(home: &Home) -> serde_json::Value {
    home.json(&["project", "get", "copy"])["follows"].clone()
}

#[test]
fn a_main_that_follows_is_shown_until_it_stops() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT 1 AS x");
    let url = home.ok(&["branch", "url", "api/main"]).trim().to_owned();
    let password = url.split(':').nth(2).unwrap().split('@').next().unwrap();
    home.ok(&["project", "create", "copy", "--from", &url, "--save-password"]);
    assert!(follows(&home).is_null());
    assert!(home.ok(&["project", "get", "copy"]).contains("nothing"));

    let made = home.json(&["project", "follow", "copy"]);
    assert_eq!(made["follows"]["streams"], true, "{}", made["follows"]);
    assert!(made["follows"]["slot"].is_null());
    let from = made["follows"]["from"].as_str().unwrap();
    assert!(from.contains("host='127.0.0.1'") && !from.contains(password), "{}", from.len());
    home.sql("api/main", "INSERT INTO t VALUES (2)");
    wait_until("it has come", || home.sql("copy/main", "SELECT count(*) FROM t") == "2");
    wait_until("there is no lag", || {
        let state = follows(&home);
        state["lag_bytes"] == 0 && state["lag_seconds"] == 0 && state["problem"].is_null()
    });
    let line =
        |text: String| text.lines().find(|line| line.contains("follows")).unwrap().to_owned();
    let shown = line(home.ok(&["project", "get", "copy"]));
    assert!(shown.contains("lag") && !shown.contains(password), "{}", shown.len());
    // It is as well as any other, though nobody knows a password of Velo's role in it.
    let doctor = home.run(&["doctor", "--json"]).stdout;
    assert!(!doctor.contains("let no client in"), "{doctor}");

    let again = home.run(&["project", "follow", "copy"]);
    assert!(again.code == 1 && again.stderr.contains("follows its source already"), "{again:?}");
    let own = home.run(&["project", "follow", "api"]);
    assert!(own.code == 2 && own.stderr.contains("was not made from a source"), "{own:?}");
    assert_eq!(home.run(&["project", "follow", "copy", "--stop", "--slot", "a"]).code, 2);

    home.ok(&["branch", "stop", "api/main"]);
    wait_until("the source is away", || {
        let state = follows(&home);
        state["streams"] == false && state["problem"].is_string() && state["lag_bytes"].is_null()
    });
    let shown = line(home.ok(&["project", "get", "copy"]));
    assert!(shown.contains("its last commit is"), "{shown}");
    // What has come stays, whether the source is there or not.
    let stopped = home.json(&["project", "follow", "copy", "--stop"]);
    assert!(stopped["follows"].is_null());
    assert!(stopped["url"].as_str().unwrap().contains("//velo:"));
    assert_eq!(
        home.sql("copy/main", "INSERT INTO t VALUES (3) RETURNING pg_is_in_recovery()"),
        "f"
    );
    assert_eq!(home.sql("copy/main", "SELECT count(*) FROM t"), "3");
    assert!(follows(&home).is_null());
    let nothing = home.run(&["project", "follow", "copy", "--stop"]);
    assert!(nothing.code == 1 && nothing.stderr.contains("follows nothing"), "{nothing:?}");
}

/// What a following main has put aside is what its server connects with, and no more than that.
#[test]
fn a_password_that_was_corrected_in_its_file_is_taken() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t AS SELECT 1 AS x; CREATE ROLE ann SUPERUSER LOGIN");
    let url = home.ok(&["branch", "url", "api/main"]).trim().to_owned();
    let port = url.split_once('@').unwrap().1.split(['/', ':']).nth(1).unwrap();
    let from = format!("postgres://ann@127.0.0.1:{port}/postgres");
    let (folder, file) = (home.dir().to_str().unwrap(), home.dir().join(".pgpass"));
    let changes = |password: &str| {
        home.sql("api/main", &format!("ALTER ROLE ann PASSWORD '{password}'"));
        let text = format!("elsewhere:5432:*:ann:another\n127.0.0.1:{port}:*:ann:{password}\n");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let ok = |args: &[&str]| {
        let ran = home.run_with(args, |velo| {
            velo.env("HOME", folder);
        });
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    };
    changes("one");
    ok(&["project", "create", "copy", "--from", &from]);
    ok(&["project", "follow", "copy"]);
    changes("two");
    ok(&["project", "refresh", "copy"]);
    assert_eq!(follows(&home)["streams"], true);
    // Without the file what was put aside is taken. It has the lines of the source alone.
    std::fs::remove_file(&file).unwrap();
    ok(&["project", "refresh", "copy"]);
    let main = home.json(&["branch", "get", "copy/main"])["id"].as_str().unwrap().to_owned();
    let kept = home.path().join("run").join(main).join("passfile");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), format!("127.0.0.1:{port}:*:ann:two\n"));
}
