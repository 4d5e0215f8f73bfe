//! From the creation of a project to its deletion, and the shapes of JSON on the way.
#![allow(clippy::unwrap_used)]

mod common;

use common::Home;
use serde_json::Value;

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const BRANCH: [&str; 19] = [
    "branch",
    "created_at",
    "cut",
    "ephemeral",
    "expires_at",
    "from_snapshot",
    "id",
    "kept_by",
    "name",
    "parent",
    "pid",
    "port",
    "problem",
    "project",
    "protected",
    "reached",
    "runtime",
    "state",
    "storage",
];

#[track_caller]
fn has_keys(value: &Value, base: &[&str], more: &[&str]) {
    let mut wanted: Vec<&str> = base.iter().chain(more).copied().collect();
    wanted.sort_unstable();
    let mut found = keys(value);
    found.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn a_project_from_its_creation_to_its_deletion() {
    let home = Home::new();
    let project = home.json(&["project", "create", "api", "--database", "shop"]);
    let shape = [
        "created_at",
        "database",
        "id",
        "name",
        "postgres",
        "role",
        "runtime",
        "source",
        "storage",
        "wal_retention",
    ];
    has_keys(&project, &shape, &["timings_ms", "url"]);
    assert_eq!(project["name"], "api");
    assert_eq!(project["database"], "shop");
    assert!(project["timings_ms"]["total"].as_f64().unwrap() > 0.0);
    has_keys(&home.json(&["project", "get", "api"]), &shape, &["follows", "url"]);
    let list = home.json(&["project", "list"]);
    has_keys(&list[0], &shape, &[]);

    home.sql("api/main", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)");
    let branch = home.json(&["branch", "create", "api/feature/x", "--set", "work_mem=9MB"]);
    has_keys(&branch, &BRANCH, &["outgoing", "socket_url", "timings_ms", "url"]);
    assert_eq!(branch["name"], "api/feature/x");
    assert_eq!(branch["parent"], "api/main");
    assert_eq!(branch["state"], "running");
    assert_eq!(branch["outgoing"], serde_json::json!([]));
    assert!(branch["timings_ms"]["total"].as_f64().unwrap() > 0.0);
    assert_eq!(home.sql("api/feature/x", "SHOW work_mem"), "9MB");

    // The branch's changes stay its own, and a reset takes them back under the same URL.
    home.sql("api/feature/x", "INSERT INTO t VALUES (2)");
    assert_eq!(home.sql("api/main", "SELECT count(*) FROM t"), "1");
    let reset = home.json(&["branch", "reset", "api/feature/x"]);
    has_keys(&reset, &BRANCH, &["outgoing", "socket_url", "timings_ms", "url"]);
    assert_eq!(reset["url"], branch["url"]);
    assert_eq!(home.sql("api/feature/x", "SELECT count(*) FROM t"), "1");

    // Snapshots, in both ways to name them.
    let snapshot = home.json(&["snapshot", "create", "api/main@one"]);
    let shape = ["branch", "created_at", "cut", "id", "name", "project", "scheduled", "snapshot"];
    has_keys(&snapshot, &shape, &["timings_ms"]);
    assert_eq!(snapshot["name"], "api/main@one");
    home.ok(&["snapshot", "create", "api/main", "two"]);
    home.sql("api/main", "DELETE FROM t");
    let snapshots = home.json(&["snapshot", "list", "api", "--size"]);
    has_keys(&snapshots[0], &shape, &["size"]);
    has_keys(&snapshots[0]["size"], &["exclusive", "referenced", "shared"], &[]);
    home.ok(&["branch", "create", "api/old", "--from", "main@one"]);
    assert_eq!(home.sql("api/old", "SELECT count(*) FROM t"), "1");
    home.ok(&["branch", "reset", "api/feature/x", "--to", "main@two"]);
    assert_eq!(home.sql("api/feature/x", "SELECT count(*) FROM t"), "1");
    assert_eq!(home.json(&["branch", "get", "api/old"])["from_snapshot"], "one");

    // Stop, start, restart: the URL stays.
    let url = home.ok(&["branch", "url", "api/old"]);
    let stopped = home.json(&["branch", "stop", "api/old"]);
    assert_eq!(stopped["state"], "stopped");
    // Only a server that runs can tell.
    assert_eq!(stopped["outgoing"], Value::Null);
    home.ok(&["branch", "stop", "api/old"]);
    assert_eq!(home.json(&["branch", "start", "api/old"])["state"], "running");
    assert_eq!(home.json(&["branch", "restart", "api/old"])["state"], "running");
    assert_eq!(home.ok(&["branch", "url", "api/old"]), url);
    assert!(home.ok(&["branch", "url", "api/old", "--socket"]).contains("host="));

    // The tree.
    home.ok(&["branch", "create", "api/child", "--from", "old", "--stopped"]);
    let tree = home.ok(&["branch", "list", "api", "--size"]);
    assert!(tree.contains("api/main"), "{tree}");
    assert!(tree.contains("├─ feature/x"), "{tree}");
    assert!(tree.contains("└─ old (@one)"), "{tree}");
    assert!(tree.contains("   └─ child"), "{tree}");
    let list = home.json(&["branch", "list", "--size"]);
    has_keys(&list[0], &BRANCH, &["size"]);
    let get = home.json(&["branch", "get", "api/main"]);
    has_keys(&get, &BRANCH, &["size", "socket_url", "url"]);

    let status = home.json(&["status"]);
    assert_eq!(status["branches"], 4);
    assert_eq!(status["running"], 3);
    assert_eq!(status["snapshots"], 2);
    assert_eq!(status["storage"], get["storage"]);

    let findings = home.json(&["doctor"]);
    let state = findings.as_array().unwrap().iter().find(|f| f["name"] == "state").unwrap();
    assert_eq!(state["what"], "1 projects, 4 branches, 2 snapshots");
    for finding in findings.as_array().unwrap() {
        has_keys(finding, &["fix", "name", "status", "what"], &[]);
        assert_ne!(finding["status"], "fail", "{finding}");
    }

    // The tree's rules.
    home.fails(&["branch", "delete", "api/main"], 1, "cannot be deleted alone");
    home.fails(&["branch", "delete", "api/main", "--force"], 1, "alone");
    home.fails(&["branch", "delete", "api/old"], 1, "api/child");
    home.fails(&["snapshot", "delete", "api/main@one"], 1, "api/old");
    home.fails(&["project", "delete", "api"], 1, "api/feature/x");
    let deleted = home.json(&["branch", "delete", "api/old", "--force"]);
    has_keys(&deleted, &["deleted", "id", "name", "timings_ms"], &[]);
    assert_eq!(home.branches(), ["api/main", "api/feature/x"]);
    home.ok(&["snapshot", "delete", "api/main@one"]);
    let deleted = home.json(&["project", "delete", "api", "--force"]);
    has_keys(&deleted, &["deleted", "id", "name"], &[]);
    assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
    for shelf in ["volumes", "snapshots", "run"] {
        let left = std::fs::read_dir(home.path().join(shelf)).unwrap().count();
        assert_eq!(left, 0, "{shelf}");
    }
}

#[test]
fn a_reset_to_the_origin_or_a_clear_refusal() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev"]);
    home.sql("api/dev", "CREATE TABLE t (x int)");
    if home.json(&["branch", "get", "api/dev"])["storage"] == "copy" {
        home.fails(&["branch", "reset", "api/dev", "--to-origin"], 1, "keeps no snapshot");
    } else {
        home.ok(&["branch", "reset", "api/dev", "--to-origin"]);
        assert_eq!(home.sql("api/dev", "SELECT to_regclass('t') IS NULL"), "t");
    }
}

#[test]
fn what_needs_no_project() {
    let home = Home::new();
    let status = home.json(&["status"]);
    assert_eq!(status["home_exists"], false);
    assert!(!home.path().exists(), "status made the home");
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&["completions", shell]).contains("velo"));
    }
    let found = home.json(&["pg", "list"]);
    has_keys(&found[0], &["bin_dir", "image", "major", "source", "version"], &[]);
    assert!(home.ok(&["--version"]).starts_with("velo "));
    assert!(home.ok(&["branch", "create", "--help"]).contains("--from"));
    assert_eq!(home.json(&["branch", "list"]), serde_json::json!([]));
}

#[test]
fn what_can_reach_out_is_told() {
    let home = Home::with_project();
    home.sql(
        "api/main",
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'far.invalid')",
    );
    let branch = home.json(&["branch", "create", "api/dev"]);
    assert!(branch["outgoing"].to_string().contains("far"), "{branch}");
    let ran = home.run(&["branch", "create", "api/dev2"]);
    assert!(ran.stderr.contains("note: ") && ran.stderr.contains("far"), "{ran:?}");
    // A database that is damaged: the branch is there all the same.
    home.sql("api/main", "CREATE DATABASE odd");
    home.sql("api/main", "CHECKPOINT");
    let oid = home.sql("api/main", "SELECT oid FROM pg_database WHERE datname = 'odd'");
    let main = std::fs::read_dir(home.path().join("volumes")).unwrap();
    let main = main.map(|entry| entry.unwrap().path()).min().unwrap();
    std::fs::remove_dir_all(main.join("base").join(oid.trim())).unwrap();
    let ran = home.run(&["branch", "create", "api/dev3", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("is not known"), "{ran:?}");
    assert!(ran.stdout.contains("\"outgoing\": null"), "{ran:?}");
}
