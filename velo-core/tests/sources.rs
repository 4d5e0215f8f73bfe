//! Whatever a branch can start from, on each storage: parents that are in recovery, have crashed or
//! hold unlogged tables and prepared transactions, snapshots, branches of branches, and resets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::fs_dir;
use common::home::{TestHome, eventually};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, ErrorKind, Method, Project, ResetTarget};

fn installations() -> Vec<PathBuf> {
    common::installations().unwrap_or_default()
}

/// The first column of what the statements give, on a connection of their own.
async fn attempt(url: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let rows = client.simple_query(sql).await?;
    Ok(rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect())
}

async fn sql(branch: &Branch, sql: &str) -> String {
    attempt(&branch.url(), sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).join(" ")
}

async fn ephemeral(project: &Project, parent: &Branch) -> Branch {
    Branch::create(project, BranchSpec::ephemeral().from(parent)).await.unwrap()
}

async fn lasting(project: &Project, name: &str, parent: &Branch) -> Branch {
    Branch::create(project, BranchSpec::named(name).from(parent)).await.unwrap()
}

async fn method(branch: &Branch) -> Method {
    branch.info().await.unwrap().cut.unwrap().method
}

/// Where a branch's server works.
async fn data(branch: &Branch) -> PathBuf {
    let pid = branch.info().await.unwrap().pid.unwrap();
    std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

/// Kills the server's first process, and nothing else of it.
async fn crash(branch: &Branch) {
    let pid = i32::try_from(branch.info().await.unwrap().pid.unwrap()).unwrap();
    // SAFETY: a plain system call; the number is that of a server that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    let gone = || !Path::new(&format!("/proc/{pid}/stat")).exists() || is_zombie(pid);
    assert!(eventually(Duration::from_secs(10), gone), "it lives");
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

async fn unlogged_tables(project: &Project, _: StorageKind) {
    let main = project.main().await.unwrap();
    let fill = "CREATE UNLOGGED TABLE u AS SELECT x FROM generate_series(1, 1000) x; \
                CREATE UNLOGGED SEQUENCE s; CREATE INDEX ON u (x); \
                CREATE TABLE l AS SELECT x FROM generate_series(1, 1000) x";
    sql(&main, fill).await;
    let count = "SELECT (SELECT count(*) FROM u)::text || ' ' || (SELECT count(*) FROM l)";
    // Whether its pages have reached the disk or not.
    for before in ["SELECT 1", "CHECKPOINT"] {
        sql(&main, before).await;
        let branch = ephemeral(project, &main).await;
        assert_eq!(sql(&branch, count).await, "0 1000", "empty in a branch of a running parent");
        sql(&branch, "INSERT INTO u SELECT generate_series(1, 10)").await;
        assert_eq!(sql(&branch, "SELECT count(*) FROM u WHERE x < 6").await, "5");
        let second = ephemeral(project, &branch).await;
        assert_eq!(sql(&second, count).await, "0 1000");
        second.close().await.unwrap();
        branch.close().await.unwrap();
    }
    assert_eq!(sql(&main, count).await, "1000 1000", "the parent's are as they were");
    main.stop().await.unwrap();
    let branch = ephemeral(project, &main).await;
    assert_eq!(method(&branch).await, Method::Stopped);
    assert_eq!(sql(&branch, count).await, "1000 1000", "full in a branch of a stopped parent");
    branch.close().await.unwrap();
}

async fn prepared_transactions(project: &Project, _: StorageKind) {
    let spec = BranchSpec::named("prepared").set("max_prepared_transactions", "5");
    let parent = Branch::create(project, spec).await.unwrap();
    sql(&parent, "CREATE TABLE t (x int PRIMARY KEY)").await;
    sql(&parent, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'").await;
    sql(&parent, "CHECKPOINT").await;
    sql(&parent, "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two'").await;
    let pending = "SELECT gid FROM pg_prepared_xacts ORDER BY gid";
    let check = async |branch: &Branch| {
        assert_eq!(sql(branch, pending).await, "one two");
        assert_eq!(sql(branch, "SELECT count(*) FROM t").await, "0");
        sql(branch, "COMMIT PREPARED 'one'").await;
        sql(branch, "ROLLBACK PREPARED 'two'").await;
        assert_eq!(sql(branch, "SELECT x FROM t").await, "1");
    };
    let branch = ephemeral(project, &parent).await;
    let second = ephemeral(project, &branch).await;
    check(&branch).await;
    check(&second).await;
    let child = lasting(project, "child", &parent).await;
    check(&child).await;
    child.reset().await.unwrap();
    check(&child).await;
    assert_eq!(sql(&parent, pending).await, "one two", "the parent's still wait");
    parent.stop().await.unwrap();
    check(&ephemeral(project, &parent).await).await;
    child.reset().await.unwrap();
    check(&child).await;
}

async fn a_crashed_parent(project: &Project, _: StorageKind) {
    let parent = lasting(project, "parent", &project.main().await.unwrap()).await;
    sql(&parent, "CREATE TABLE t (x bigint PRIMARY KEY)").await;
    sql(&parent, "CHECKPOINT").await;
    for x in 0..200 {
        sql(&parent, &format!("INSERT INTO t VALUES ({x})")).await;
    }
    crash(&parent).await;
    let branch = ephemeral(project, &parent).await;
    assert_eq!(method(&branch).await, Method::Crashed);
    let child = lasting(project, "child", &parent).await;
    for branch in [&branch, &child] {
        assert_eq!(sql(branch, "SELECT count(*) FROM t").await, "200", "committed rows");
        sql(branch, "INSERT INTO t SELECT generate_series(1000, 2000)").await;
        sql(branch, "VACUUM t").await;
    }
    parent.start().await.unwrap();
    assert_eq!(sql(&parent, "SELECT count(*) FROM t").await, "200");
    child.reset().await.unwrap();
    assert_eq!(sql(&child, "SELECT count(*) FROM t").await, "200");
}

/// A session that waits for nothing outlives the postmaster, and writes on: its data is no state
/// that could be cloned.
async fn a_crashed_parent_that_writes(project: &Project, _: StorageKind) {
    let parent = lasting(project, "parent", &project.main().await.unwrap()).await;
    sql(&parent, "CREATE TABLE t (x bigint PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    sql(&parent, "CREATE SEQUENCE seen").await;
    let (volume, url) = (data(&parent).await, parent.url());
    let endless = tokio::spawn(async move {
        let endless = "DO $$ BEGIN LOOP PERFORM nextval('seen'); END LOOP; END $$";
        attempt(&url, endless).await
    });
    let writes = "SELECT count(*) FROM pg_stat_activity \
                  WHERE query LIKE 'DO $$%' AND state = 'active'";
    while sql(&parent, writes).await != "1" {
        assert!(!endless.is_finished());
    }
    crash(&parent).await;
    let error = Branch::create(project, BranchSpec::ephemeral().from(&parent)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(!endless.is_finished(), "branching ended a session of the parent");
    assert!(!working_in(&volume).is_empty());
    parent.stop().await.unwrap();
    assert_eq!(working_in(&volume), [0; 0]);
    assert!(endless.await.unwrap().is_err());
    let branch = ephemeral(project, &parent).await;
    assert_eq!(sql(&branch, "SELECT x FROM t").await, "1");
    parent.start().await.unwrap();
    assert_eq!(sql(&parent, "SELECT x FROM t").await, "1");
}

fn working_in(volume: &Path) -> Vec<u32> {
    common::home::servers_in(volume)
}

/// A server in recovery that nobody feeds.
async fn a_standby(project: &Project, _: StorageKind) {
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x").await;
    let signal = data(&main).await.join("standby.signal");
    main.stop().await.unwrap();
    std::fs::write(&signal, "").unwrap();
    main.start().await.unwrap();
    assert_eq!(sql(&main, "SELECT pg_is_in_recovery()").await, "t");
    let branch = ephemeral(project, &main).await;
    let child = lasting(project, "child", &main).await;
    for branch in [&branch, &child] {
        assert!(branch.info().await.unwrap().cut.unwrap().in_recovery);
        assert_eq!(sql(branch, "SELECT pg_is_in_recovery()").await, "f");
        assert_eq!(sql(branch, "SELECT count(*) FROM t").await, "1000");
        sql(branch, "INSERT INTO t VALUES (0)").await;
    }
    let second = ephemeral(project, &child).await;
    assert_eq!(sql(&second, "SELECT count(*) FROM t").await, "1001");
    child.reset().await.unwrap();
    assert_eq!(sql(&child, "SELECT count(*) FROM t").await, "1000");
    assert_eq!(sql(&main, "SELECT pg_is_in_recovery()").await, "t", "it still follows");
    main.stop().await.unwrap();
    let branch = ephemeral(project, &main).await;
    assert_eq!(sql(&branch, "SELECT pg_is_in_recovery(), count(*) FROM t").await, "f");
}

async fn branches_of_branches(project: &Project, _: StorageKind) {
    let mut line = vec![project.main().await.unwrap()];
    sql(&line[0], "CREATE TABLE t (x int); INSERT INTO t VALUES (0)").await;
    for depth in 1..=4 {
        let child = lasting(project, &format!("d{depth}"), &line[depth - 1]).await;
        sql(&child, &format!("INSERT INTO t VALUES ({depth})")).await;
        line.push(child);
    }
    // What comes later in one reaches no other.
    for (depth, branch) in line.iter().enumerate() {
        sql(branch, &format!("INSERT INTO t VALUES (10 + {depth})")).await;
    }
    let held = "SELECT string_agg(x::text, ',' ORDER BY x) FROM t";
    for (depth, branch) in line.iter().enumerate() {
        let mut all: Vec<String> = (0..=depth).map(|x| x.to_string()).collect();
        all.push((10 + depth).to_string());
        assert_eq!(sql(branch, held).await, all.join(","));
        let throwaway = ephemeral(project, branch).await;
        assert_eq!(sql(&throwaway, held).await, all.join(","));
    }
    let error = line[1].delete(false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    for depth in 2..=4 {
        assert!(error.to_string().contains(&format!("d{depth}")), "{error}");
    }
    // The last in line needs none of those above it.
    let leaf = lasting(project, "leaf", &line[4]).await;
    for branch in &line[1..4] {
        branch.stop().await.unwrap();
    }
    leaf.restart().await.unwrap();
    assert_eq!(sql(&leaf, held).await, "0,1,2,3,4,14");
    line[1].delete(true).await.unwrap();
    assert_eq!(project.branches().await.unwrap().len(), 1);
}

async fn a_snapshot(project: &Project, _: StorageKind) {
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT 1 AS x").await;
    let running = main.snapshot("running").await.unwrap();
    sql(&main, "UPDATE t SET x = 2").await;
    main.stop().await.unwrap();
    let stopped = main.snapshot("stopped").await.unwrap();
    main.start().await.unwrap();
    sql(&main, "DROP TABLE t").await;
    for (snapshot, x) in [(&running, "1"), (&stopped, "2")] {
        for round in 0..2 {
            let branch =
                Branch::create(project, BranchSpec::ephemeral().from(snapshot)).await.unwrap();
            assert_eq!(sql(&branch, "UPDATE t SET x = x + 10 RETURNING x - 10").await, x);
            assert_eq!(sql(&branch, "SELECT x - 10 FROM t").await, x, "round {round}");
            branch.close().await.unwrap();
        }
        let name = format!("main@{}", snapshot.name());
        let spec = BranchSpec::named(format!("of/{x}")).from(name);
        let branch = Branch::create(project, spec).await.unwrap();
        assert_eq!(sql(&branch, "SELECT x FROM t").await, x);
        assert_eq!(snapshot.delete().await.unwrap_err().kind(), ErrorKind::Conflict);
        branch.delete(false).await.unwrap();
        snapshot.delete().await.unwrap();
    }
    assert!(project.snapshots().await.unwrap().is_empty());
}

async fn ten_at_once(project: &Project, _: StorageKind) {
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t (x int PRIMARY KEY)").await;
    let url = main.url();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let (acknowledged, seen) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        for x in 1.. {
            client.simple_query(&format!("INSERT INTO t VALUES ({x})")).await.unwrap();
            acknowledged.send_replace(x);
            if stopped.try_recv().is_ok() {
                return;
            }
        }
    });
    let mut made = tokio::task::JoinSet::new();
    for i in 0..10 {
        let (project, main, seen) = (project.clone(), main.clone(), seen.clone());
        made.spawn(async move {
            let before = *seen.borrow();
            let spec = match i % 2 {
                0 => BranchSpec::ephemeral(),
                _ => BranchSpec::named(format!("b{i}")),
            };
            (before, Branch::create(&project, spec.from(&main)).await.unwrap())
        });
    }
    let made = made.join_all().await;
    stop.send(()).unwrap();
    writer.await.unwrap();
    let mut urls: Vec<String> = made.iter().map(|(_, branch)| branch.url()).collect();
    urls.sort();
    urls.dedup();
    assert_eq!(urls.len(), 10);
    for (before, branch) in &made {
        // All that was acknowledged before, and no holes.
        let holds =
            format!("SELECT count(*) >= {before} AND count(*) = coalesce(max(x), 0) FROM t");
        assert_eq!(sql(branch, &holds).await, "t");
        sql(branch, "TRUNCATE t").await;
    }
    assert_eq!(sql(&main, "SELECT count(*) > 0 FROM t").await, "t");
    assert_eq!(sql(&main, "SELECT count(*) FROM pg_replication_slots").await, "0");
}

async fn resets_under_one_url(project: &Project, kind: StorageKind) {
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT 1 AS x").await;
    let branch = lasting(project, "b", &main).await;
    let url = branch.url();
    sql(&branch, "UPDATE t SET x = 2").await;
    branch.snapshot("two").await.unwrap();
    sql(&branch, "UPDATE t SET x = 3").await;
    sql(&main, "UPDATE t SET x = 4").await;
    main.snapshot("four").await.unwrap();
    sql(&main, "UPDATE t SET x = 5").await;
    let targets = [
        (ResetTarget::Source, "5"),
        (ResetTarget::Snapshot("two".into()), "2"),
        (ResetTarget::Snapshot("main@four".into()), "4"),
        (ResetTarget::Snapshot("two".into()), "2"),
        (ResetTarget::Source, "5"),
    ];
    for (target, x) in targets {
        // A client of before is sent away, and comes back under the same URL.
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let ended = tokio::spawn(connection);
        client.batch_execute("UPDATE t SET x = 99").await.unwrap();
        branch.reset_to(target.clone()).await.unwrap();
        assert!(ended.await.unwrap().is_err(), "{target:?}: the old server still serves");
        assert_eq!(branch.url(), url);
        assert_eq!(attempt(&url, "SELECT x FROM t").await.unwrap(), [x], "{target:?}");
        // What the record says is what another process finds.
        assert_eq!(project.branch("b").await.unwrap().url(), url);
    }
    let origin = branch.reset_to(ResetTarget::Origin).await;
    if kind == StorageKind::Copy {
        assert_eq!(origin.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(sql(&branch, "SELECT x FROM t").await, "5", "an error changes nothing");
    } else {
        origin.unwrap();
        assert_eq!(sql(&branch, "SELECT x FROM t").await, "1");
    }
    let nowhere = branch.reset_to(ResetTarget::Snapshot("nope".into())).await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::NotFound);
    // One that is stopped stays so.
    branch.stop().await.unwrap();
    branch.reset().await.unwrap();
    assert_eq!(branch.info().await.unwrap().pid, None);
    branch.start().await.unwrap();
    assert_eq!(attempt(&url, "SELECT x FROM t").await.unwrap(), ["5"]);
    let throwaway = ephemeral(project, &branch).await;
    let its_url = throwaway.url();
    sql(&throwaway, "UPDATE t SET x = 6").await;
    throwaway.reset().await.unwrap();
    assert_eq!(attempt(&its_url, "SELECT x FROM t").await.unwrap(), ["5"]);
    // With its parent gone down, too.
    main.stop().await.unwrap();
    branch.reset().await.unwrap();
    assert_eq!(attempt(&url, "SELECT x FROM t").await.unwrap(), ["5"]);
}

async fn a_reset_with_children(project: &Project, _: StorageKind) {
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT 1 AS x").await;
    let branch = lasting(project, "b", &main).await;
    sql(&branch, "UPDATE t SET x = 2").await;
    let child = lasting(project, "b/child", &branch).await;
    let throwaway = ephemeral(project, &branch).await;
    let snapshot = branch.snapshot("s").await.unwrap();
    for round in 0..2 {
        branch.reset().await.unwrap();
        assert_eq!(sql(&branch, "SELECT x FROM t").await, "1", "round {round}");
    }
    // They keep what they began with, also over a restart, which reads all of it anew.
    child.restart().await.unwrap();
    for branch in [&child, &throwaway] {
        assert_eq!(sql(branch, "SELECT x FROM t").await, "2");
    }
    let of_snapshot =
        Branch::create(project, BranchSpec::named("old").from(&snapshot)).await.unwrap();
    assert_eq!(sql(&of_snapshot, "SELECT x FROM t").await, "2");
    child.reset().await.unwrap();
    assert_eq!(sql(&child, "SELECT x FROM t").await, "1");
    branch.reset_to(ResetTarget::Snapshot("s".into())).await.unwrap();
    assert_eq!(sql(&branch, "SELECT x FROM t").await, "2");
    throwaway.close().await.unwrap();
    branch.delete(true).await.unwrap();
    assert_eq!(project.branches().await.unwrap().len(), 1, "all of it hung from the branch");
}

async fn whole_pages_to_and_fro(project: &Project, kind: StorageKind) {
    let parent = lasting(project, "parent", &project.main().await.unwrap()).await;
    sql(&parent, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS x").await;
    // The settings are read anew; each new session has them.
    let set = async |statement: &str, wanted: &str| {
        sql(&parent, statement).await;
        sql(&parent, "SELECT pg_reload_conf()").await;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while sql(&parent, "SHOW full_page_writes").await != wanted {
            assert!(std::time::Instant::now() < deadline, "it is not {wanted}");
        }
    };
    // ZFS keeps the order of writes, and needs no whole pages.
    let (quick, without) = match kind {
        StorageKind::Zfs => (Method::Checkpoint, Method::Checkpoint),
        StorageKind::Btrfs => (Method::Checkpoint, Method::Backup),
        StorageKind::Reflink => (Method::Wal, Method::Backup),
        _ => (Method::Backup, Method::Backup),
    };
    let check = async |wanted: Method, checkpoint: bool| {
        let last = "SELECT checkpoint_lsn FROM pg_control_checkpoint()";
        let before = sql(&parent, last).await;
        let branch = ephemeral(project, &parent).await;
        assert_eq!(method(&branch).await, wanted);
        assert_eq!(sql(&branch, "SELECT count(*), sum(x) FROM t").await, "1000");
        let written = sql(&parent, last).await != before;
        assert_eq!(written, checkpoint || wanted == Method::Backup, "a checkpoint: {wanted:?}");
        branch.close().await.unwrap();
    };
    set("ALTER SYSTEM SET full_page_writes = off", "off").await;
    sql(&parent, "UPDATE t SET x = x").await;
    check(without, kind != StorageKind::Zfs).await;
    set("ALTER SYSTEM RESET full_page_writes", "on").await;
    // What was changed until now was not logged as whole pages, though the setting is on again.
    check(quick, kind != StorageKind::Zfs).await;
    // A second after it was read, a checkpoint is known to be later than the setting.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while sql(&parent, "SELECT now() > pg_conf_load_time() + '2 s'").await != "t" {
        assert!(std::time::Instant::now() < deadline);
    }
    sql(&parent, "CHECKPOINT").await;
    sql(&parent, "UPDATE t SET x = x WHERE x < 10").await;
    check(quick, false).await;
}

async fn on_each(
    var: &str,
    kind: StorageKind,
    name: &str,
    work: impl AsyncFn(&Project, StorageKind),
) {
    let Some(base) = fs_dir(var) else { return };
    for bin in common::todays(installations(), &format!("{name} on {kind}")) {
        let home = TestHome::with(Some(&base), |b| b.pg_bin(&bin).storage(kind));
        let project = home.project("sources").await;
        work(&project, kind).await;
    }
}

/// What is ZFS's own: snapshots that never change and need their volume, and what is hidden. (Its
/// standby is in `zfs/servers.rs`.) An emulated machine takes minutes for each; the rest is for long runs.
const ON_ZFS: [&str; 2] = ["a_snapshot", "a_reset_with_children"];

async fn on_zfs(name: &str, work: impl AsyncFn(&Project, StorageKind)) {
    let Some(place) = common::zfs::place() else { return };
    if std::env::var_os("VELO_TEST_LONG").is_none() && !ON_ZFS.contains(&name) {
        return;
    }
    for bin in common::newest(installations()) {
        let home = place.home(|b| b.pg_bin(&bin));
        let project = home.project("sources").await;
        work(&project, StorageKind::Zfs).await;
    }
}

macro_rules! tests {
    ($($name:ident)*) => { $(
        mod $name {
            use super::{StorageKind, on_each, on_zfs};

            #[tokio::test]
            async fn zfs() {
                on_zfs(stringify!($name), super::$name).await;
            }

            #[tokio::test]
            async fn btrfs() {
                on_each("VELO_TEST_BTRFS", StorageKind::Btrfs, stringify!($name), super::$name).await;
            }

            #[tokio::test]
            async fn reflink() {
                on_each("VELO_TEST_XFS", StorageKind::Reflink, stringify!($name), super::$name).await;
            }

            #[tokio::test]
            async fn copy() {
                on_each("VELO_TEST_EXT4", StorageKind::Copy, stringify!($name), super::$name).await;
            }
        }
    )* };
}

tests! {
    unlogged_tables prepared_transactions a_crashed_parent a_crashed_parent_that_writes a_standby
    branches_of_branches a_snapshot ten_at_once resets_under_one_url a_reset_with_children
    whole_pages_to_and_fro
}
