//! Branches that are ready before somebody asks: each one somebody's alone, no more of them than are
//! asked for, and none that is dead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::client::{attempt, sql};
use common::home::{TestHome, eventually};
use rustix::process::{Pid, Signal};
use velo_core::{Branch, Config, ErrorKind, Pool, Project, Seed, SeedKey};

const LONG: Duration = Duration::from_secs(60);

async fn seed(project: &Project) -> Seed {
    let key = SeedKey::new().code("tests/pool.rs").label("pool");
    let build = async |branch: Branch| {
        let fill = "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x";
        attempt(&branch.url(), fill).await.map(drop)
    };
    project.seed(key, build).await.unwrap()
}

async fn are_ready(pool: &Pool, count: usize) -> bool {
    let begun = std::time::Instant::now();
    loop {
        let info = pool.info().await.unwrap();
        if info.ready == count && info.starting == 0 {
            return true;
        }
        if begun.elapsed() > LONG {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_acquired_is_nobody_elses_and_another_is_made_ready() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let seed = seed(&project).await;
    let pool = seed.pool().unwrap();
    let info = pool.info().await.unwrap();
    assert_eq!((info.ready, info.wanted), (0, 0), "nobody has asked yet");
    pool.keep_ready(2, 3).await.unwrap();
    assert!(are_ready(&pool, 2).await, "{:?}", pool.info().await);

    // From any handle, and from the calls that block.
    let same = project.seeds().await.unwrap().remove(0).pool().unwrap();
    assert_eq!(same.info().await.unwrap().ready, 2);
    let first = same.acquire().await.unwrap();
    sql(&first, "DELETE FROM t").await;
    let taken = first.id();
    first.close().await.unwrap();
    assert!(are_ready(&pool, 2).await, "{:?}", pool.info().await);
    let second = pool.acquire().await.unwrap();
    assert_eq!(sql(&second, "SELECT count(*) FROM t").await, "1000");
    assert_ne!(second.id(), taken);

    // More at once than there are.
    let many = (0..9).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.acquire().await.unwrap() })
    });
    let mut branches = vec![second];
    for branch in many.collect::<Vec<_>>() {
        branches.push(branch.await.unwrap());
    }
    let urls: BTreeSet<String> = branches.iter().map(Branch::url).collect();
    assert_eq!(urls.len(), 10);
    for branch in &branches {
        sql(branch, "DELETE FROM t WHERE x > 1").await;
        assert_eq!(sql(branch, "SELECT count(*) FROM t").await, "1");
    }
    assert!(are_ready(&pool, 3).await, "{:?}", pool.info().await);

    // With the last handle go those that nobody has taken, and only those.
    drop((pool, same));
    let servers = || home.servers_of_branches();
    assert!(eventually(LONG, || servers() == 11), "main and ten: {}", servers());
    assert_eq!(sql(&branches[0], "SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn what_is_ready_is_warm_and_of_that_nothing_is_seen() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let seed = seed(&project).await;
    let pool = seed.pool().unwrap();
    pool.keep_ready(1, 1).await.unwrap();
    assert!(are_ready(&pool, 1).await, "{:?}", pool.info().await);
    let (ready, cold) = (pool.acquire().await.unwrap(), seed.branch().await.unwrap());
    // No session of Velo's is left; one that has said good-bye may take a moment.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                  AND pid <> pg_backend_pid()";
    let mut alone = false;
    for _ in 0..500 {
        alone = sql(&ready, others).await == "0";
        if alone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(alone, "a session of Velo's stays");
    // What it takes to read a query and to plan it is in memory.
    let explain = "EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM pg_class WHERE relname = 't'";
    let plans = async |branch| {
        let text = sql(branch, explain).await;
        let (_, planning) = text.split_once("Planning:").unwrap_or_else(|| panic!("{text}"));
        planning.to_owned()
    };
    let planned = plans(&ready).await;
    assert!(!planned.contains(" read="), "{planned}");
    // Else that would say nothing.
    let planned = plans(&cold).await;
    assert!(planned.contains(" read="), "{planned}");
    for what in [
        "SELECT pg_current_xact_id()",
        "SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_user_tables",
    ] {
        assert_eq!(sql(&ready, what).await, sql(&cold, what).await, "{what}");
    }
}

#[tokio::test]
async fn one_that_nobody_asks_keeps_none() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let pool = seed(&project).await.pool().unwrap();
    let first = pool.acquire().await.unwrap();
    assert!(are_ready(&pool, 1).await, "{:?}", pool.info().await);
    drop(first);
    assert!(are_ready(&pool, 0).await && eventually(LONG, || home.servers_of_branches() == 1));
    // And is there again when it is asked.
    let again = pool.acquire().await.unwrap();
    assert_eq!(sql(&again, "SELECT count(*) FROM t").await, "1000");
    // So does what is not to be ready any more.
    pool.keep_ready(2, 4).await.unwrap();
    assert!(are_ready(&pool, 2).await, "{:?}", pool.info().await);
    pool.keep_ready(0, 4).await.unwrap();
    assert!(are_ready(&pool, 0).await, "{:?}", pool.info().await);
}

#[tokio::test]
async fn one_that_died_while_it_waited_is_given_to_nobody() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let pool = seed(&project).await.pool().unwrap();
    pool.keep_ready(2, 2).await.unwrap();
    assert!(are_ready(&pool, 2).await, "{:?}", pool.info().await);
    let ready: Vec<_> = project.branches().await.unwrap();
    let mut ready = ready.iter().filter(|branch| branch.ephemeral);
    let (killed, deleted) = (ready.next().unwrap(), ready.next().unwrap());
    let pid = Pid::from_raw(killed.pid.unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    project.branch(deleted.id.to_string()).await.unwrap().delete(false).await.unwrap();
    for _ in 0..2 {
        let branch = pool.acquire().await.unwrap();
        assert!(![killed.id, deleted.id].contains(&branch.id()));
        assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000");
    }
}

/// Nobody asks, and what stood in the way goes.
#[tokio::test]
async fn what_is_to_be_ready_is_tried_again() {
    let Some(base) = common::fs_dir("VELO_TEST_EXT4") else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = TestHome::new(Some(&base));
    let project = home.project("pool").await;
    let pool = seed(&project).await.pool().unwrap();
    let volumes = home.config().home().join("volumes");
    let change = |flag: &str| {
        assert!(Command::new("chattr").arg(flag).arg(&volumes).status().unwrap().success());
    };
    change("+i");
    let told = pool.keep_ready(1, 2).await;
    let failed = are_ready(&pool, 0).await;
    let info = pool.info().await;
    change("-i");
    told.unwrap();
    assert!(failed, "{info:?}");
    assert_eq!(info.unwrap().wanted, 1);
    assert!(are_ready(&pool, 1).await, "{:?}", pool.info().await);
}

#[tokio::test]
async fn who_asks_is_told_why_there_is_none() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let seed = seed(&project).await;
    let pool = seed.pool().unwrap();
    assert_eq!(pool.keep_ready(3, 2).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    seed.delete().await.unwrap();
    let asks = (0..5).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.acquire().await.unwrap_err() })
    });
    for ask in asks.collect::<Vec<_>>() {
        let error = ask.await.unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(pool.info().await.unwrap().wanted, 0, "none is tried ahead of time");
    // Who gives up in between takes nothing from the others.
    let seed = self::seed(&project).await;
    let pool = seed.pool().unwrap();
    let (impatient, patient) = (pool.acquire(), pool.acquire());
    let impatient = tokio::time::timeout(Duration::from_millis(1), impatient);
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert!(impatient.is_err());
    assert_eq!(sql(&patient.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

// ----------------------------------------------------------------------------------- another process

const HOME: &str = "VELO_TEST_POOL_HOME";

/// No test but where another one starts it, as a process with a pool.
#[tokio::test]
async fn has_a_pool() {
    let Ok(home) = std::env::var(HOME) else { return };
    let config = Config::builder().home(&home).build().unwrap();
    let project = Project::builder("pool").config(config).open().await.unwrap();
    let pool = seed(&project).await.pool().unwrap();
    pool.keep_ready(2, 2).await.unwrap();
    let _branch = pool.acquire().await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn it_ends_with_a_killed_process() {
    let home = TestHome::new(None);
    let project = home.project("pool").await;
    let seed = seed(&project).await;
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "has_a_pool", "--nocapture"])
        .env(HOME, home.config().home())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(LONG, || home.servers_of_branches() == 4), "main, two, and the one it took");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(eventually(Duration::from_secs(10), || home.servers_of_branches() == 1));
    // What it had on disk goes with whoever cleans up: `main`'s volume, its folder and the seed stay.
    velo_core::gc::collect(home.config(), velo_core::gc::GcSpec::default()).await.unwrap();
    assert_eq!(home.left().len(), 3, "{:?}", home.left());
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}
