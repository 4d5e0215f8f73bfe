//! The command's main path on real ZFS, where `VELO_TEST_ZFS` names a dataset (`.ci/zfs-vm`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::Home;
use serde_json::Value;

/// What a program printed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    // The history of a pool holds bytes that are no text.
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A dataset of a test's own, which must be empty at the end.
struct Dataset(String);

impl Dataset {
    /// None where there is no ZFS, and for a normal user: root's tests start one.
    fn new(name: &str) -> Option<Self> {
        let parent = std::env::var("VELO_TEST_ZFS").ok()?;
        let name = format!("{parent}/{name}-{}", std::process::id());
        common::is_root().then(|| {
            run("zfs", &["create", &name]);
            Self(name)
        })
    }

    /// How often a try was made below it, since the machine began.
    fn tries(&self) -> usize {
        let history = run("zpool", &["history", "-i", "tank"]);
        let probe = format!("{}/v-probe-", self.0);
        history.lines().filter(|line| line.contains(&probe)).count()
    }
}

impl Drop for Dataset {
    fn drop(&mut self) {
        let destroyed = Command::new("zfs").args(["destroy", &self.0]).output().unwrap();
        assert!(destroyed.status.success() || std::thread::panicking(), "{destroyed:?}");
    }
}

fn bin() -> String {
    let bin = std::env::var("VELO_TEST_PG").unwrap();
    bin.split_whitespace().last().unwrap().split_once('=').unwrap().1.to_owned()
}

/// A home whose settings name the dataset and a property of volumes.
fn home_on(dataset: &Dataset, property: &str) -> Home {
    let home = Home::under(Path::new(&std::env::var("VELO_TEST_RIG").unwrap()));
    let (bin, dataset) = (bin(), &dataset.0);
    std::fs::write(
        home.dir().join("velo.toml"),
        format!(
            "storage = \"zfs\"\nzfs_dataset = \"{dataset}\"\npg_bin = \"{bin}\"\n\
             start_timeout = 600\n[zfs_properties]\n{property}\n"
        ),
    )
    .unwrap();
    home
}

fn finding<'a>(findings: &'a Value, name: &str) -> &'a Value {
    let mut all = findings.as_array().unwrap().iter();
    all.find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name}: {findings}"))
}

/// A `zpool` that notes what it was asked, before the real one is.
fn noting_zpool(home: &Home) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (folder, log) = (home.dir().join("bin"), home.dir().join("asked"));
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("zpool");
    let script =
        format!("#!/bin/sh\necho \"$1\" >>{}\nexec /usr/sbin/zpool \"$@\"\n", log.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, log)
}

#[test]
fn zfs_from_a_projects_creation_to_its_deletion() {
    let Some(below) = Dataset::new("main-path") else { return };
    let (dataset, bin) = (below.0.clone(), bin());
    let home = home_on(&below, "compression = \"zstd\"");
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
    assert_eq!(status["warnings"], serde_json::json!([]));
    home.fails(&["snapshot", "delete", "api/dev@two"], 1, "api/child");
    let size = home.json(&["branch", "get", "api/child"])["size"].clone();
    assert!(size["shared"].as_u64() > size["exclusive"].as_u64(), "{size}");

    // A list is counted once, however many rows it has: as often as ZFS counts by itself.
    let (folder, log) = noting_zpool(&home);
    let begun = Instant::now();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let listed = home.run_with(&["branch", "list", "--size", "--json"], |command| {
        command.env("PATH", &path);
    });
    let took = begun.elapsed();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert!(listed.as_array().unwrap().iter().all(|b| !b["size"].is_null()), "{listed}");
    let asked = std::fs::read_to_string(log).unwrap();
    let syncs = asked.lines().filter(|verb| *verb == "sync").count();
    assert!(syncs >= 1 && syncs <= 1 + took.as_secs() as usize / 5, "{syncs} in {took:?}");

    // A look makes nothing in the pool, but a project's creation has tried it.
    let tries = below.tries();
    assert!(tries > 0);
    home.ok(&["status"]);
    let findings = home.json(&["doctor"]);
    assert_eq!(below.tries(), tries, "status and doctor only look");
    for finding in findings.as_array().unwrap() {
        assert_ne!(finding["status"], "fail", "{finding}");
    }
    assert!(findings.to_string().contains(&dataset), "{findings}");
    // Settings that name another dataset than the home's volumes are in.
    let elsewhere = home.run_with(&["doctor", "--json"], |command| {
        command.env("VELO_ZFS_DATASET", "tank/elsewhere");
    });
    let findings: Value = serde_json::from_str(&elsewhere.stdout).unwrap();
    let disk = finding(&findings, "disk");
    assert_eq!(disk["status"], "fail", "{findings}");
    assert!(disk["what"].as_str().unwrap().contains(&dataset), "{findings}");
    assert!(disk["fix"].as_str().unwrap().contains("VELO_ZFS_DATASET"), "{findings}");

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

/// A normal user, from what the errors say to a branch's end.
#[test]
fn zfs_for_a_user_whom_root_gave_a_dataset() {
    const USER: &str = "velo-ci";
    let Some(own) = Dataset::new("given") else { return };
    let (dataset, bin) = (own.0.clone(), bin());
    let home = home_on(&own, "logbias = \"throughput\"");
    let (uid, gid) = (run("id", &["-u", USER]), run("id", &["-g", USER]));
    let (uid, gid) = (uid.parse().unwrap(), gid.parse().unwrap());
    std::os::unix::fs::chown(home.dir(), Some(uid), Some(gid)).unwrap();
    let user = &|args: &[&str]| {
        home.run_with(args, |command| {
            command.uid(uid).gid(gid).env("HOME", home.dir()).current_dir("/");
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        })
    };
    let ok = |args: &[&str]| -> Value {
        let ran = user(&[args, &["--json"]].concat());
        assert_eq!(ran.code, 0, "velo {args:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let refused = |what: &str, line: &str| {
        let ran = user(&["project", "create", "api"]);
        ran.is_error(1, what);
        assert!(ran.stderr.contains(line), "{line:?} is not in {ran:?}");
        let ran = user(&["doctor", "--json"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let findings = serde_json::from_str(&ran.stdout).unwrap();
        let fix = finding(&findings, "zfs")["fix"].as_str().unwrap();
        assert!(fix.contains(line), "{line:?} is not in {findings}");
        assert_ne!(ok(&["status"])["storage"], "zfs");
    };
    let allow = format!("as root: zfs allow -l -u {USER} create,mount {dataset} && zfs allow -d");
    refused("the user velo-ci may not", &allow);
    let delegate = ["setup", "--delegate", &dataset, "--owner", USER, "--yes"];
    let done = home.json(&delegate);
    assert!(done["commands"].to_string().contains(",logbias,"), "{done}");
    let rules = || std::fs::read_dir("/etc/sudoers.d").unwrap().map(|rule| rule.unwrap().path());
    let rule = rules().find(|path| path.to_str().unwrap().contains("given_2d")).unwrap();
    std::fs::remove_file(&rule).unwrap();
    refused("on Linux only root mounts", "as root: echo 'velo-ci ALL=(root) NOPASSWD: ");
    assert_eq!(home.json(&delegate)["commands"].as_array().unwrap().len(), 1);

    let sql = |branch: &str, query: &str| {
        let url = ok(&["branch", "url", branch])["url"].as_str().unwrap().to_owned();
        run(&format!("{bin}/psql"), &["-XAtqc", query, &url])
    };
    assert_eq!(ok(&["project", "create", "api"])["storage"], "zfs");
    let tries = own.tries();
    assert_eq!(ok(&["status"])["storage"], "zfs");
    for finding in ok(&["doctor"]).as_array().unwrap() {
        assert_ne!(finding["status"], "fail", "{finding}");
    }
    assert_eq!(own.tries(), tries, "status and doctor only look");
    sql("api/main", "CREATE TABLE t AS SELECT 1 AS x");
    // After a restart of the machine nothing is mounted: of many at once one mounts it, for all.
    ok(&["branch", "stop", "api/main"]);
    let volumes = run("zfs", &["list", "-H", "-o", "name", "-r", &dataset]);
    for volume in volumes.lines().filter(|name| *name != dataset) {
        run("zfs", &["unmount", volume]);
    }
    let names = ["api/a", "api/b", "api/c"];
    let made = std::thread::scope(|scope| {
        let create = |name| scope.spawn(move || user(&["branch", "create", name, "--stopped"]));
        names.map(create).map(|made| made.join().unwrap())
    });
    assert!(made.iter().all(|ran| ran.code == 0), "{made:?}");
    for name in names {
        ok(&["branch", "delete", name]);
    }
    ok(&["branch", "start", "api/main"]);
    assert_eq!(ok(&["branch", "create", "api/dev"])["cut"]["method"], "checkpoint");
    sql("api/dev", "INSERT INTO t VALUES (2)");
    ok(&["snapshot", "create", "api/dev@two"]);
    ok(&["branch", "create", "api/child", "--from", "dev@two"]);
    assert_eq!(sql("api/child", "SELECT count(*) FROM t"), "2");
    ok(&["branch", "reset", "api/dev"]);
    assert_eq!(sql("api/dev", "SELECT count(*) FROM t"), "1");
    ok(&["branch", "delete", "api/child"]);
    ok(&["snapshot", "delete", "api/dev@two"]);
    ok(&["branch", "delete", "api/dev"]);
    ok(&["project", "delete", "api", "--force"]);
    assert_eq!(run("zfs", &["list", "-H", "-o", "name", "-t", "all", "-r", &dataset]), dataset);
    assert_eq!(std::fs::read_dir(format!("/{dataset}")).unwrap().count(), 0);
    home.json(&[&delegate[..], &["--undo"]].concat());
    assert!(!rule.exists());
    // It is empty, and root's servers could not live in it.
    std::fs::remove_dir_all(home.path()).unwrap();
}
