//! Servers on ZFS: a standby, what is hidden, and what doctor says.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use velo_core::{Branch, BranchSpec, ErrorKind, Method, Project, SeedKey};

use crate::common::zfs::{place, place_in_turn, run};
use crate::common::{installations, newest};

async fn attempt(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let rows = client.simple_query(sql).await?;
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

pub async fn sql(branch: &Branch, sql: &str) -> String {
    attempt(&branch.url(), sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// Ships a primary's WAL to a standby, again and again.
struct Shipping {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shipping {
    fn from(primary: PathBuf, standby: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut shipped = HashMap::new();
            while !ended.load(Ordering::Relaxed) {
                ship(&primary.join("pg_wal"), &standby.join("pg_wal"), &mut shipped);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Copies every segment that has changed: one that is there grows in place, as a receiver lets it.
fn ship(from: &Path, to: &Path, shipped: &mut HashMap<OsString, SystemTime>) {
    let owner = to.metadata().unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        let Ok(changed) = entry.metadata().and_then(|m| m.modified()) else { continue };
        if name.len() != 24 || shipped.get(&name) == Some(&changed) {
            continue;
        }
        let Ok(content) = std::fs::read(entry.path()) else { continue };
        shipped.insert(name.clone(), changed);
        let path = to.join(&name);
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(&path) {
            file.write_all(&content).unwrap();
            continue;
        }
        let new = to.join("shipped.new");
        std::fs::write(&new, &content).unwrap();
        std::os::unix::fs::chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }
}

fn amcheck(bin: &Path, branch: &Branch) {
    let to = branch.connection();
    let output = std::process::Command::new(bin.join("pg_amcheck"))
        .args(["--install-missing", "--heapallindexed", "-w", "-h", &to.host, "-U", &to.user])
        .args(["-p", &to.port.to_string(), &to.database])
        .env("PGPASSWORD", &to.password)
        .output()
        .unwrap();
    assert!(output.status.success(), "pg_amcheck: {}", String::from_utf8_lossy(&output.stdout));
}

/// A standby that replays while it is branched. ZFS keeps the order of writes, so that one snapshot
/// holds all that the standby's data needs.
#[tokio::test]
async fn zfs_branches_of_a_standby_need_no_backup_mode() {
    let Some(place) = place_in_turn("standby") else { return };
    for bin in newest(installations().unwrap_or_default()) {
        let home = place.home(|b| b.pg_bin(&bin));
        let project = home.project("standby").await;
        // The primary is a branch of main, which then follows it: of a parent that is stopped, so
        // that its WAL goes on where main's ends.
        let standby = project.main().await.unwrap();
        let data = data_of(&home, &standby).await;
        standby.stop().await.unwrap();
        let primary = Branch::create(&project, BranchSpec::named("primary")).await.unwrap();
        let owner = data.metadata().unwrap();
        let signal = data.join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        std::os::unix::fs::chown(signal, Some(owner.uid()), Some(owner.gid())).unwrap();
        let conf = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        let settings = "\nwal_retrieve_retry_interval = 50ms\nshared_buffers = 2MB\n";
        std::fs::write(&conf, text + settings).unwrap();
        standby.start().await.unwrap();
        assert_eq!(sql(&standby, "SELECT pg_is_in_recovery()").await, "t");
        sql(&primary, "CREATE TABLE t (x int PRIMARY KEY, filler text)").await;

        let pid = primary.info().await.unwrap().pid.unwrap();
        let _shipping =
            Shipping::from(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), data);
        let url = primary.url();
        let writer = tokio::spawn(async move {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            for n in 0.. {
                let rows = format!(
                    "INSERT INTO t SELECT x, repeat('f', 500) \
                     FROM generate_series({}, {}) x; UPDATE t SET filler = 'g' WHERE x % 97 = {}; \
                     SELECT pg_sleep(0.1)",
                    n * 100,
                    n * 100 + 99,
                    n % 97
                );
                client.batch_execute(&rows).await.unwrap();
            }
        });
        // With what it replays it takes over the primary's password, too.
        let url =
            standby.url().replace(&standby.connection().password, &primary.connection().password);
        let count = async || -> u64 {
            let counted = "SELECT count(*) FROM t";
            let found = attempt(&url, counted).await.unwrap_or_default();
            found.parse().unwrap_or(0)
        };
        let mut seen = 0;
        // An emulated machine takes minutes for each.
        let rounds = if std::env::var_os("VELO_TEST_LONG").is_some() { 3 } else { 1 };
        for round in 0..rounds {
            // It has replayed more since the last one.
            let begun = Instant::now();
            while count().await <= seen {
                assert!(!writer.is_finished());
                assert!(begun.elapsed() < Duration::from_secs(180), "round {round}: no replay");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let taken = standby.snapshot(format!("taken-{round}")).await.unwrap();
            let cut = taken.info().cut.clone().unwrap();
            assert_eq!((cut.method, cut.in_recovery), (Method::Checkpoint, true));
            seen = count().await;
            let live =
                Branch::create(&project, BranchSpec::ephemeral().from(&standby)).await.unwrap();
            let old = Branch::create(&project, BranchSpec::ephemeral().from(&taken)).await.unwrap();
            for branch in [&live, &old] {
                let cut = branch.info().await.unwrap().cut.unwrap();
                assert_eq!((cut.method, cut.in_recovery), (Method::Checkpoint, true));
                assert_eq!(sql(branch, "SELECT pg_is_in_recovery()").await, "f");
                let whole =
                    "SELECT count(*) = coalesce(max(x) + 1, 0) AND count(*) % 100 = 0 FROM t";
                assert_eq!(sql(branch, whole).await, "t", "round {round}");
                amcheck(&bin, branch);
                sql(branch, "INSERT INTO t VALUES (-1)").await;
            }
            let held: u64 = sql(&live, "SELECT count(*) - 1 FROM t").await.parse().unwrap();
            assert!(held >= seen, "what was replayed before is missing: {held} of {seen}");
            let follows = attempt(&url, "SELECT pg_is_in_recovery()").await.unwrap();
            assert_eq!(follows, "t", "it still follows");
        }
        writer.abort();
    }
}

async fn data_of(home: &crate::common::home::TestHome, branch: &Branch) -> std::path::PathBuf {
    // A stopped branch's folder, by the mark of its dataset.
    let name = branch.name().unwrap();
    let all = run(
        "zfs",
        &[
            "get",
            "-H",
            "-s",
            "local",
            "-t",
            "filesystem",
            "-o",
            "name,value",
            "-r",
            "velo:branch",
            &std::env::var("VELO_TEST_ZFS").unwrap(),
        ],
    );
    let home = home.config().home().to_str().unwrap().to_owned();
    all.lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, value)| *value == name)
        .map(|(dataset, _)| run("zfs", &["get", "-H", "-o", "value", "mountpoint", dataset]))
        .find(|path| path.starts_with(&home))
        .map(Into::into)
        .expect("the branch's dataset")
}

#[tokio::test]
async fn zfs_keeps_what_clones_need_and_counts_it() {
    let Some(place) = place_in_turn("hidden") else { return };
    let Some(bin) = newest(installations().unwrap_or_default()).pop() else { return };
    let home = place.home(|b| b.pg_bin(&bin));
    let project: Project = home.project("hidden").await;
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT 1 AS x").await;
    let dev = Branch::create(&project, BranchSpec::named("dev").quota(1 << 30)).await.unwrap();
    let other = Branch::create(&project, BranchSpec::named("other")).await.unwrap();
    let child = Branch::create(&project, BranchSpec::named("child").from(&dev)).await.unwrap();
    assert_eq!(
        dev.usage().await.unwrap().available >> 20,
        1023 - (dev.usage().await.unwrap().referenced >> 20)
    );
    assert_eq!(project.hidden().await.unwrap(), 0);
    let two = dev.snapshot("two").await.unwrap();
    // The volume is needed: by the child, the snapshot, and the state that it began with.
    dev.reset().await.unwrap();
    assert_eq!(project.hidden().await.unwrap(), 1);
    other.reset_to(velo_core::ResetTarget::Snapshot("dev@two".into())).await.unwrap();
    // `other` is a branch of main, but its data needs the snapshot.
    two.delete().await.unwrap();
    assert!(project.snapshots().await.unwrap().is_empty());
    let hidden = project.hidden().await.unwrap();
    assert_eq!(hidden, 3, "two volumes, and the snapshot");
    let gone = project.snapshot("dev@two").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    other.restart().await.unwrap();
    assert_eq!(sql(&other, "SELECT x FROM t").await, "1");
    child.delete(false).await.unwrap();
    other.delete(false).await.unwrap();
    assert_eq!(project.hidden().await.unwrap(), 1, "what the origin of dev is of");
    dev.delete(false).await.unwrap();
    assert_eq!(project.hidden().await.unwrap(), 0);
    records_may_be_smaller_than_pages(&project).await;
}

#[tokio::test]
async fn zfs_branches_of_a_seed_begin_small() {
    let Some(place) = place() else { return };
    let Some(bin) = newest(installations().unwrap_or_default()).pop() else { return };
    let home = place.home(|b| b.pg_bin(&bin));
    let project: Project = home.project("small").await;
    let fill = "CREATE TABLE t AS SELECT x, md5(x::text) FROM generate_series(1, 100000) x";
    let build = async |branch: Branch| attempt(&branch.url(), fill).await.map(drop);
    let seed = project.seed(SeedKey::new().text(fill), build).await.unwrap();
    // What was written counts once it has reached the pool.
    let own = async |branch: &Branch| {
        run("zpool", &["sync"]);
        branch.usage().await.unwrap().exclusive / 1000
    };
    let mut all = Vec::new();
    for _ in 0..3 {
        let branch = seed.branch().await.unwrap();
        let created = own(&branch).await;
        assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "100000");
        all.push((created, own(&branch).await));
    }
    println!("kB of their own when created, and after the first query: {all:?}");
    assert!(all.iter().all(|(_, queried)| *queried <= 500), "{all:?}");
}

/// ZFS may write each half of a page in a transaction group of its own then, and an ephemeral branch logs no whole ones.
async fn records_may_be_smaller_than_pages(project: &Project) {
    let parent = Branch::create(project, BranchSpec::ephemeral()).await.unwrap();
    let pid = parent.info().await.unwrap().pid.unwrap();
    let data = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    let dataset = run("zfs", &["list", "-H", "-o", "name", data.to_str().unwrap()]);
    for (size, method) in [("4k", Method::Backup), ("8k", Method::Checkpoint)] {
        run("zfs", &["set", &format!("recordsize={size}"), &dataset]);
        sql(&parent, "INSERT INTO t VALUES (2)").await;
        let child = Branch::create(project, BranchSpec::ephemeral().from(&parent)).await.unwrap();
        assert_eq!(child.info().await.unwrap().cut.unwrap().method, method, "{size}");
        let count = "SELECT count(*) FROM t";
        assert_eq!(sql(&child, count).await, sql(&parent, count).await, "{size}");
        child.close().await.unwrap();
        let taken = parent.snapshot("taken").await;
        match method {
            Method::Backup => {
                let refused = taken.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused:?}");
                assert!(refused.hint().unwrap().contains("recordsize"), "{refused:?}");
            }
            _ => taken.unwrap().delete().await.unwrap(),
        }
    }
    parent.close().await.unwrap();
}
