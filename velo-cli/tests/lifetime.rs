//! How long a branch stays: times to live, and protection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Home;
use common::whole::{names, outlive};
use serde_json::{Value, json};

#[track_caller]
fn finding(home: &Home, name: &str) -> Option<Value> {
    let all = home.json(&["doctor"]);
    all.as_array().unwrap().iter().find(|finding| finding["name"] == name).cloned()
}

#[test]
fn a_branch_whose_time_is_up_goes_at_the_next_use() {
    let home = Home::with_project();
    let made = home.json(&["branch", "create", "api/b", "--ttl", "2h"]);
    let (created, expires) = (made["created_at"].as_u64(), made["expires_at"].as_u64());
    let time = expires.unwrap() - created.unwrap();
    assert!((7_190_000..7_210_000).contains(&time), "{made}");
    assert!(home.ok(&["branch", "list"]).contains("2h"));

    let timeless = home.json(&["branch", "ttl", "api/b", "none"]);
    assert_eq!(timeless["expires_at"], Value::Null);
    outlive(&home, "api/b");
    assert_eq!(home.branches(), ["api/main"]);
    assert_eq!(names(&home, "volumes").len(), 1);
    assert_eq!(names(&home, "snapshots").len(), 0);
    // Its name is free.
    home.ok(&["branch", "create", "api/b"]);
}

#[test]
fn what_others_depend_on_stays_until_they_are_gone() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    home.ok(&["branch", "create", "api/c", "--from", "b"]);
    home.ok(&["snapshot", "create", "api/b@s"]);
    outlive(&home, "api/b");
    let kept = home.json(&["branch", "get", "api/b"]);
    assert_eq!(kept["kept_by"], json!(["api/c", "api/b@s"]));
    let list = home.ok(&["branch", "list"]);
    assert!(list.contains("over, needed by api/c, api/b@s"), "{list}");
    let found = finding(&home, "expired").unwrap();
    assert!(found["what"].as_str().unwrap().contains("api/b (by api/c, api/b@s)"), "{found}");

    home.ok(&["snapshot", "delete", "api/b@s"]);
    assert_eq!(home.branches(), ["api/main", "api/b", "api/c"]);
    // Both at once, the child first.
    outlive(&home, "api/c");
    assert_eq!(home.branches(), ["api/main"]);
    assert_eq!(finding(&home, "expired"), None);
}

#[test]
fn a_protected_branch_is_neither_deleted_nor_reset() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b"]);
    home.ok(&["branch", "create", "api/c", "--from", "b"]);
    assert_eq!(home.json(&["branch", "protect", "api/c"])["protected"], true);
    assert!(home.ok(&["branch", "list"]).contains("protected"));
    for args in [
        &["branch", "delete", "api/c"][..],
        &["branch", "delete", "api/c", "--force"],
        &["branch", "delete", "api/b", "--force"],
        &["branch", "reset", "api/c"],
        &["branch", "reset", "api/c", "--to", "main@s"],
        &["project", "delete", "api", "--force"],
    ] {
        let ran = home.run(args);
        if args.contains(&"main@s") {
            assert_eq!(ran.code, 1, "{ran:?}");
            continue;
        }
        ran.is_error(1, "protected");
        assert!(ran.stderr.contains("velo branch unprotect api/c"), "{args:?}: {ran:?}");
    }
    // Its time is never up.
    outlive(&home, "api/c");
    home.ok(&["gc"]);
    assert_eq!(home.branches(), ["api/main", "api/b", "api/c"]);
    assert_eq!(home.sql("api/c", "SELECT 1"), "1");
    // Nor is it gone at once because somebody lifts that.
    home.fails(&["branch", "unprotect", "api/c"], 1, "the time of api/c is over");
    assert_eq!(home.branches(), ["api/main", "api/b", "api/c"]);
    home.ok(&["branch", "ttl", "api/c", "1h"]);
    home.ok(&["branch", "unprotect", "api/c"]);
    outlive(&home, "api/c");
    assert_eq!(home.branches(), ["api/main", "api/b"]);

    // With main the whole project is protected.
    home.ok(&["branch", "protect", "api/main"]);
    home.fails(&["project", "delete", "api", "--force"], 1, "api/main");
    home.ok(&["branch", "unprotect", "api/main"]);
    home.ok(&["project", "delete", "api", "--force"]);
}

#[test]
fn not_every_branch_has_a_time_and_not_every_text_is_one() {
    let home = Home::with_project();
    home.fails(&["branch", "ttl", "api/main", "1h"], 1, "goes with its project");
    home.ok(&["branch", "ttl", "api/main", "none"]);
    for bad in ["", "2", "0s", "-1h", "soon", "1m1h"] {
        let ran = home.run(&["branch", "ttl", "api/main", "--", bad]);
        assert_eq!(ran.code, 2, "{bad}: {ran:?}");
    }
    home.fails(&["branch", "create", "api/b", "--ttl", "x"], 2, "--ttl");
    home.fails(&["branch", "ttl", "api/none", "1h"], 1, "api/none");
    home.fails(&["branch", "protect", "api/none"], 1, "api/none");
}
