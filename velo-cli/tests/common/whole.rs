//! Whether everything is whole: what the records say, what is on disk, and who runs.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Home, psql, wait_until};

pub fn names(home: &Home, folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(home.path().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The processes that work under `dir`.
pub fn processes(dir: &Path) -> Vec<(u32, String)> {
    let dir = dir.canonicalize().unwrap();
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let volume = cwd.strip_prefix(&dir).ok()?.to_str()?.to_owned();
        Some((pid, volume))
    })
    .collect()
}

/// Kills every server of the home as a power cut would, and waits until all are gone.
#[track_caller]
pub fn cut_power(home: &Home) {
    let volumes = home.path().join("volumes");
    for (pid, _) in processes(&volumes) {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    wait_until("all servers are gone", || processes(&volumes).is_empty());
}

/// Waits until the time of a branch is up, without a look at the home.
#[track_caller]
pub fn outlive(home: &Home, branch: &str) {
    let then = home.json(&["branch", "ttl", branch, "1s"])["expires_at"].as_u64().unwrap();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    wait_until("its time is up", || now().as_millis() as u64 > then);
}

/// The volumes in which servers work.
pub fn working(home: &Home) -> BTreeSet<String> {
    processes(&home.path().join("volumes")).into_iter().map(|(_, volume)| volume).collect()
}

/// All that `doctor` says of how records, storage, runtime and processes differ.
pub const DIFFERENCES: [&str; 8] =
    ["state", "disk", "servers", "leases", "sockets", "run", "locks", "expired"];

/// `doctor` has nothing to say against what it calls by these names.
#[track_caller]
pub fn doctor_agrees(home: &Home, names: &[&str], what: &str) {
    for finding in home.json(&["doctor"]).as_array().unwrap() {
        if names.contains(&finding["name"].as_str().unwrap()) {
            assert_eq!(finding["status"], "ok", "{what}: {finding}");
        }
    }
}

/// The locks of a home but those of its projects and of `known`.
pub fn locks_but(home: &Home, known: &BTreeSet<String>) -> BTreeSet<String> {
    let mut locks = &names(home, "locks") - known;
    locks.remove("reconcile");
    if !locks.is_empty() {
        let projects = home.json(&["project", "list"]);
        for project in projects.as_array().unwrap() {
            locks.remove(project["id"].as_str().unwrap());
        }
    }
    locks
}

/// Nothing is there but these branches, all of which run or are said to be stopped; one command has
/// run since the killed one.
#[track_caller]
pub fn nothing_else(home: &Home, branches: &[&str], what: &str) {
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap();
    let text = |b: &Value, key: &str| b[key].as_str().unwrap().to_owned();
    let there: BTreeSet<String> = list.iter().map(|b| text(b, "name")).collect();
    let wanted: BTreeSet<String> = branches.iter().map(|&b| b.to_owned()).collect();
    assert_eq!(there, wanted, "{what}");
    if !list.iter().all(|b| b["state"] == "running") {
        panic!("{what}: {list:?}\n{}", home.run(&["doctor"]).stdout);
    }

    let volumes = names(home, "volumes");
    assert_eq!(volumes.len(), list.len(), "{what}: {volumes:?}");
    let ids: BTreeSet<String> = list.iter().map(|b| text(b, "id")).collect();
    assert_eq!(names(home, "run"), ids, "{what}");
    // A process that ends may still be there for a moment.
    wait_until("only servers of branches run", || working(home) == volumes);

    let snapshots = names(home, "snapshots");
    let lasting = list.iter().filter(|b| b["parent"].is_string()).count();
    let origins = if list[0]["storage"] == "copy" { 0 } else { lasting };
    assert_eq!(snapshots.len(), origins, "{what}: {snapshots:?}");
    let locks = locks_but(home, &(&ids | &snapshots));
    assert!(locks.is_empty(), "{what}: orphaned locks {locks:?}");
    doctor_agrees(home, &["state", "disk", "servers", "leases"], what);
}

/// `main` answers, has its data, takes a write, and is in no backup: its sessions are the test's.
/// Returns how many writes it has taken.
#[track_caller]
pub fn main_is_well(url: &str, what: &str) -> usize {
    // In one go, for this is asked a thousand times.
    let all = "UPDATE beat SET n = n + 1; \
               SELECT count(*), sum(x) FROM t; \
               SELECT n FROM beat; \
               SHOW data_directory; \
               SELECT (SELECT count(*) FROM pg_replication_slots), count(*) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let said = psql(url, all);
    let [whole, beats, data, idle] = said.lines().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(whole, "1000|500500", "{what}");
    // The session of a process that was killed ends when its server notices, and its slot with it.
    if idle != "0|0" {
        wait_until("no slot and no session of velo's is left on main", || {
            psql(url, all.rsplit(';').next().unwrap()) == "0|0"
        });
    }
    // A backup that is not over keeps WAL and full pages for nobody; one of an older kind would leave
    // its label behind.
    assert!(!Path::new(data).join("backup_label").exists(), "{what}: {data}");
    beats.parse().unwrap()
}
