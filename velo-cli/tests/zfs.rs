//! The command's main path on real ZFS, where `VELO_TEST_ZFS` names a dataset (`.ci/zfs-vm`).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::path::Path;
use std::process::Command;

use common::Home;

/// What a program printed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn zfs_from_a_projects_creation_to_its_deletion() {
    let Ok(dataset) = std::env::var("VELO_TEST_ZFS") else { return };
    if !common::is_root() {
        return; // the tests of velo-core start a normal user
    }
    let home = Home::under(Path::new(&std::env::var("VELO_TEST_RIG").unwrap()));
    let bin = std::env::var("VELO_TEST_PG").unwrap();
    let bin = bin.split_whitespace().last().unwrap().split_once('=').unwrap().1;
    std::fs::write(
        home.dir().join("velo.toml"),
        format!(
            "storage = \"zfs\"\nzfs_dataset = \"{dataset}\"\npg_bin = \"{bin}\"\n\
             start_timeout = 600\n[zfs_properties]\ncompression = \"zstd\"\n"
        ),
    )
    .unwrap();
    let sql = |branch: &str, query: &str| {
        let url = home.ok(&["branch", "url", branch]);
        run(&format!("{bin}/psql"), &["-XAtqc", query, url.trim()])
    };

    let project = home.json(&["project", "create", "api"]);
    assert_eq!(project["storage"], "zfs");
    sql("api/main", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)");
    let dev = home.json(&["branch", "create", "api/dev", "--quota", "1G"]);
    assert_eq!(dev["storage"], "zfs");
    assert_eq!(dev["cut"]["method"], "checkpoint");
    sql("api/dev", "INSERT INTO t VALUES (2)");
    assert_eq!(sql("api/main", "SELECT count(*) FROM t"), "1");
    let marked = run(
        "zfs",
        &[
            "get",
            "-H",
            "-s",
            "local",
            "-t",
            "filesystem",
            "-d",
            "1",
            "-o",
            "name,value",
            "velo:branch",
            &dataset,
        ],
    );
    let own = marked.lines().filter_map(|line| line.split_once('\t'));
    let own: Vec<&str> = own.filter(|(_, branch)| *branch == "dev").map(|(name, _)| name).collect();
    assert!(!own.is_empty(), "{marked}");
    let get = |property| run("zfs", &["get", "-Hp", "-o", "value", property, own[0]]);
    assert_eq!(get("compression"), "zstd");
    assert_eq!(get("refquota"), (1u64 << 30).to_string());

    home.ok(&["snapshot", "create", "api/dev@two"]);
    home.ok(&["branch", "create", "api/child", "--from", "dev@two"]);
    assert_eq!(sql("api/child", "SELECT count(*) FROM t"), "2");
    home.ok(&["branch", "reset", "api/dev"]);
    assert_eq!(sql("api/dev", "SELECT count(*) FROM t"), "1");
    let status = home.json(&["status"]);
    assert_eq!(status["hidden"], 1, "{status}");
    assert_eq!(status["storage"], "zfs");
    home.fails(&["snapshot", "delete", "api/dev@two"], 1, "api/child");
    let size = home.json(&["branch", "get", "api/child"])["size"].clone();
    assert!(size["shared"].as_u64() > size["exclusive"].as_u64(), "{size}");

    let findings = home.json(&["doctor"]);
    for finding in findings.as_array().unwrap() {
        assert_ne!(finding["status"], "fail", "{finding}");
    }
    assert!(findings.to_string().contains(&dataset), "{findings}");

    home.ok(&["branch", "delete", "api/dev", "--force"]);
    assert_eq!(home.json(&["status"])["hidden"], 0);
    home.ok(&["project", "delete", "api", "--force"]);
    for shelf in ["volumes", "snapshots", "run"] {
        let left = std::fs::read_dir(home.path().join(shelf)).unwrap().count();
        assert_eq!(left, 0, "{shelf}");
    }
}

/// Refused before anything is made.
#[test]
fn a_quota_is_refused_on_folders() {
    let home = Home::with_project();
    if home.json(&["project", "get", "api"])["storage"] != "zfs" {
        home.fails(&["branch", "create", "api/dev", "--quota", "1G"], 1, "quota");
        assert_eq!(home.branches(), ["api/main"]);
    }
}
