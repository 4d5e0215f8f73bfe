//! Handles that are kept, closed, dropped and deleted while others work on the same branch, and
//! parents that do not answer: nothing is lost, and nothing stays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::client::{attempt, sql};
use common::fs_dir;
use common::home::{TestHome, eventually};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Config, ErrorKind, Project, ResetTarget, State};

async fn ephemeral(project: &Project) -> Branch {
    Branch::create(project, BranchSpec::ephemeral().label("x")).await.unwrap()
}

async fn state(branch: &Branch) -> State {
    branch.info().await.unwrap().state
}

#[tokio::test]
async fn a_branch_that_is_kept_outlives_every_handle() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let maker = ephemeral(&project).await;
    sql(&maker, "CREATE TABLE t AS SELECT 1 AS x").await;
    let other = project.branch(&maker.id().to_string()).await.unwrap();
    other.keep_as("kept").await.unwrap();
    let url = other.url();
    maker.close().await.unwrap();
    assert_eq!(attempt(&url, "SELECT x FROM t").await.unwrap(), "1");
    let maker = ephemeral(&project).await;
    project.branch(&maker.id().to_string()).await.unwrap().keep_as("too").await.unwrap();
    drop(maker);
    // What a drop does comes later: another operation under the same lock is behind it.
    let too = project.branch("too").await.unwrap();
    too.restart().await.unwrap();
    assert_eq!(state(&too).await, State::Running);
}

#[tokio::test]
async fn a_name_that_is_taken_keeps_nothing_and_stops_nothing() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let branch = ephemeral(&project).await;
    let started = sql(&branch, "SELECT pg_postmaster_start_time()").await;
    let error = branch.keep_as("main").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(sql(&branch, "SELECT pg_postmaster_start_time()").await, started);
    assert!(branch.is_ephemeral());
}

#[tokio::test]
async fn a_branch_that_would_take_more_memory_than_there_is_is_not_kept() {
    // For main, with 160 MB, and an ephemeral branch with 48.
    let home = TestHome::with(None, |builder| builder.max_memory("208M"));
    let project = home.project("handles").await;
    let branch = ephemeral(&project).await;
    let started = sql(&branch, "SELECT pg_postmaster_start_time()").await;
    let error = branch.keep_as("kept").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert!(error.to_string().contains("handles/main"), "{error}");
    assert_eq!(sql(&branch, "SELECT pg_postmaster_start_time()").await, started);
    assert!(branch.is_ephemeral());
    project.main().await.unwrap().stop().await.unwrap();
    branch.keep_as("kept").await.unwrap();
    assert_eq!(sql(&branch, "SHOW shared_buffers").await, "128MB");
}

#[tokio::test]
async fn a_close_that_nobody_waits_for_is_done() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let branch = ephemeral(&project).await;
    sql(&branch, "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 200000)")
        .await;
    // As long as somebody copies it, it cannot go.
    let copying = tokio::spawn({
        let (project, from) = (project.clone(), branch.clone());
        async move { Branch::create(&project, BranchSpec::ephemeral().from(&from)).await }
    });
    assert!(wait_for(|| async { project.branches().await.unwrap().len() == 3 }).await);
    let id = branch.id();
    let _ = tokio::time::timeout(Duration::from_millis(1), branch.close()).await;
    copying.await.unwrap().unwrap().close().await.unwrap();
    let gone = || async { !project.branches().await.unwrap().iter().any(|b| b.id == id) };
    assert!(wait_for(gone).await, "it is there");
}

/// How long a server may outlive the last handle of a throwaway branch, or who waited for one.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_panic_discards_the_branch_at_once() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let branch = ephemeral(&project).await;
    let panics = std::thread::spawn(move || {
        let _held = branch;
        panic!("as a test that fails");
    });
    assert!(panics.join().is_err());
    // Soon, and not when the process ends or another one opens the home.
    assert!(eventually(SOON, || home.servers_of_branches() == 1), "{:?}", home.servers());
    project.finish_deletions().await.unwrap();
    assert!(wait_for(|| async { home.left().len() == 2 }).await, "{:?}", home.left());
}

#[tokio::test]
async fn what_was_dropped_is_waited_for_with_what_was_closed() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    drop([ephemeral(&project).await, ephemeral(&project).await]);
    project.finish_deletions().await.unwrap();
    // The volume of main and the folder of its server.
    assert_eq!(home.left().len(), 2, "{:?}", home.left());
}

#[tokio::test]
async fn a_dropped_future_leaves_no_server() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    project.main().await.unwrap().stop().await.unwrap();
    assert!(eventually(SOON, || home.servers().is_empty()));
    for millis in [5, 20, 40, 60, 80, 100] {
        let making = Branch::create(&project, BranchSpec::ephemeral());
        if let Ok(made) = tokio::time::timeout(Duration::from_millis(millis), making).await {
            drop(made.unwrap());
        }
        let gone = || async {
            let branches = project.branches().await.unwrap();
            branches.len() == 1 && home.servers().is_empty()
        };
        let dropped = Instant::now();
        assert!(wait_for(gone).await, "dropped after {millis} ms: {:?}", home.servers());
        let took = dropped.elapsed();
        assert!(took < common::scaled(SOON), "dropped after {millis} ms: only after {took:?}");
    }
}

/// Polls `condition` until it holds, at most half a minute.
async fn wait_for<F: Future<Output = bool>>(condition: impl Fn() -> F) -> bool {
    let begun = Instant::now();
    while !condition().await {
        if begun.elapsed() > Duration::from_secs(30) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

#[tokio::test]
async fn a_reset_whose_port_is_taken_leaves_a_branch_that_can_be_started() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let branch = Branch::create(&project, BranchSpec::named("b")).await.unwrap();
    let (url, port) = (branch.url(), branch.connection().port);
    // Somebody who waits for the port to become free takes it in the gap.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let thief = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok(taken) = std::net::TcpListener::bind(("127.0.0.1", port)) {
                    return Some(taken);
                }
            }
            None
        }
    });
    let mut failed = None;
    for _ in 0..20 {
        match branch.reset().await {
            Ok(()) => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let taken = thief.join().unwrap();
    let error = failed.expect("the port was never caught");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("port"), "{error}");
    assert_eq!(state(&branch).await, State::Stopped);
    drop(taken);
    branch.start().await.unwrap();
    assert_eq!(attempt(&url, "SELECT 1").await.unwrap(), "1");
    branch.reset().await.unwrap();
}

#[tokio::test]
async fn a_project_whose_port_is_taken_while_it_is_made_gets_another() {
    let (first, taken) = loop {
        let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = one.local_addr().unwrap().port();
        // The next one must be free as well, and is the one that is recorded.
        if first < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", first + 1)).is_ok() {
            break (first, one);
        }
    };
    let home = TestHome::with(None, |builder| builder.ports(first..=first + 1));
    let volumes = home.config().home().join("volumes");
    let thief = std::thread::spawn(move || {
        let begun = Instant::now();
        while std::fs::read_dir(&volumes).map_or(0, Iterator::count) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is made");
            std::thread::sleep(Duration::from_millis(1));
        }
        let other = std::net::TcpListener::bind(("127.0.0.1", first + 1)).unwrap();
        drop(taken);
        other
    });
    let project = home.project("handles").await;
    let _held = thief.join().unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(main.connection().port, first);
    assert_eq!(attempt(&main.url(), "SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn a_branch_deleted_while_it_is_reset_stays_deleted() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    for round in 0..5 {
        let branch = Branch::create(&project, BranchSpec::named("b")).await.unwrap();
        let resetting = tokio::spawn({
            let branch = branch.clone();
            async move { branch.reset().await }
        });
        let begun = wait_for(|| async {
            let branches = project.branches().await.unwrap();
            branches.iter().any(|b| b.state == State::Resetting) || resetting.is_finished()
        });
        assert!(begun.await);
        branch.delete(false).await.unwrap();
        // It was done before, or it is told.
        if let Err(error) = resetting.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::NotFound, "round {round}: {error:?}");
        }
        assert_eq!(project.branches().await.unwrap().len(), 1, "round {round}");
    }
}

/// Sends a signal to the first process of a branch's server.
/// Whoever finds a name taken, or waits for a slot, looks for what was left half done; what another task of
/// the same process is just making is none of it.
#[tokio::test]
async fn operations_of_one_process_leave_each_other_alone() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let dev = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    let looks = async {
        loop {
            let taken = Branch::create(&project, BranchSpec::named("dev")).await.unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");
        }
    };
    let makes = async {
        for n in 0..3 {
            let other = home.project(&format!("other{n}")).await;
            assert_eq!(sql(&other.main().await.unwrap(), "SELECT 1").await, "1");
            dev.snapshot(&format!("s{n}")).await.unwrap();
            let branch = BranchSpec::named(format!("b{n}"));
            let branch = Branch::create(&project, branch).await.unwrap();
            assert_eq!(sql(&branch, "SELECT 1").await, "1");
            branch.reset().await.unwrap();
            branch.delete(false).await.unwrap();
        }
    };
    tokio::select! {
        () = looks => {}
        () = makes => {}
    }
    assert_eq!(project.snapshots().await.unwrap().len(), 3);
    let twice = [(); 2].map(|()| Project::builder("twice").config(home.config().clone()).create());
    let made = futures_util::future::join_all(twice).await;
    let errors: Vec<_> = made.iter().filter_map(|made| made.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].kind(), ErrorKind::AlreadyExists);
    let main = made.into_iter().flatten().next().unwrap().main().await.unwrap();
    assert_eq!(sql(&main, "SELECT 1").await, "1");
}

async fn signal(branch: &Branch, signal: i32) {
    let pid = i32::try_from(branch.info().await.unwrap().pid.unwrap()).unwrap();
    // SAFETY: a plain system call; the number is that of a server that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[tokio::test]
async fn a_parent_that_does_not_answer_is_given_up() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let main = project.main().await.unwrap();
    signal(&main, libc::SIGSTOP).await;
    let waiting = Branch::create(&project, BranchSpec::ephemeral());
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    // The dropped future's teardown does not wait for the parent either.
    let gone = || async { project.branches().await.unwrap().len() == 1 };
    assert!(wait_for(gone).await, "a branch is there that nobody holds");
    signal(&main, libc::SIGCONT).await;
    ephemeral(&project).await.close().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_slow_to_let_in_is_given_up_in_time() {
    let limit = Duration::from_secs(3);
    let home = TestHome::with(None, |b| b.start_timeout(limit));
    let project = home.project("handles").await;
    let begun = Instant::now();
    let spec = BranchSpec::ephemeral().set("post_auth_delay", "20");
    let error = Branch::create(&project, spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
    assert!(error.hint().is_some_and(|hint| hint.contains("VELO_START_TIMEOUT")), "{error:?}");
}

#[tokio::test]
async fn a_role_that_may_not_log_in_is_no_held_port() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let branch = Branch::create(&project, BranchSpec::named("b")).await.unwrap();
    sql(&branch, "ALTER ROLE postgres NOLOGIN").await;
    let error = branch.restart().await.unwrap_err();
    assert!(!error.to_string().contains("held by another program"), "{error}");
    assert!(error.to_string().contains("not permitted to log in"), "{error}");
    let error = Branch::create(&project, BranchSpec::ephemeral().from(&branch)).await.unwrap_err();
    assert!(!error.to_string().contains("held by another program"), "{error}");
    let error = Branch::create(&project, BranchSpec::ephemeral()).await;
    error.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_branch_has_the_settings_of_its_parent() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    // 18 has a setting of its own for origins.
    let name = match project.info().postgres.version.major {
        18.. => "max_active_replication_origins",
        _ => "max_replication_slots",
    };
    let spec = BranchSpec::named("b").set(name, "30").set("work_mem", "9MB");
    let parent = Branch::create(&project, spec).await.unwrap();
    // Each origin needs a slot when its state is read at a start.
    let origins =
        "SELECT count(pg_replication_origin_create('o' || n)) FROM generate_series(1, 15) n";
    sql(&parent, origins).await;
    sql(
        &parent,
        "SELECT pg_replication_origin_advance('o' || n, '0/1') FROM generate_series(1, 15) n",
    )
    .await;
    sql(&parent, "CHECKPOINT").await;
    let snapshot = parent.snapshot("s").await.unwrap();
    for spec in [
        BranchSpec::ephemeral().from(&parent),
        BranchSpec::named("child").from(&parent),
        BranchSpec::ephemeral().from(&snapshot),
    ] {
        let branch = Branch::create(&project, spec).await.unwrap();
        assert_eq!(sql(&branch, &format!("SHOW {name}")).await, "30");
        assert_eq!(sql(&branch, "SHOW work_mem").await, "9MB");
        branch.close().await.unwrap();
    }
    let own = BranchSpec::ephemeral().from(&parent).set("work_mem", "5MB");
    let own = Branch::create(&project, own).await.unwrap();
    assert_eq!(sql(&own, "SHOW work_mem").await, "5MB");
    own.close().await.unwrap();
}

#[tokio::test]
async fn a_throwaway_branch_goes_back_to_a_snapshot_of_its_own() {
    for (var, kind) in
        [("VELO_TEST_BTRFS", StorageKind::Btrfs), ("VELO_TEST_EXT4", StorageKind::Copy)]
    {
        let Some(base) = fs_dir(var) else { continue };
        let home = TestHome::with(Some(&base), |b| b.storage(kind));
        let project = home.project("handles").await;
        let branch = ephemeral(&project).await;
        sql(&branch, "CREATE TABLE t AS SELECT 1 AS x").await;
        branch.snapshot("before").await.unwrap();
        sql(&branch, "UPDATE t SET x = 2").await;
        branch.reset_to(ResetTarget::Snapshot("before".into())).await.unwrap();
        assert_eq!(sql(&branch, "SELECT x FROM t").await, "1");
        let missing = branch.reset_to(ResetTarget::Snapshot("nope".into())).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing:?}");
        branch.close().await.unwrap();
        project.finish_deletions().await.unwrap();
        assert!(project.snapshots().await.unwrap().is_empty());

        // A snapshot can go as soon as a close of its last branch has returned.
        let snapshot = project.main().await.unwrap().snapshot("s").await.unwrap();
        let of_it =
            Branch::create(&project, BranchSpec::ephemeral().from(&snapshot)).await.unwrap();
        assert_eq!(snapshot.delete().await.unwrap_err().kind(), ErrorKind::Conflict);
        of_it.close().await.unwrap();
        snapshot.delete().await.unwrap();
        let left = || std::fs::read_dir(home.config().home().join("snapshots")).unwrap().count();
        assert!(eventually(Duration::from_secs(10), || left() == 0));
    }
}

#[tokio::test]
async fn an_emptied_state_is_an_error_and_not_a_new_home() {
    let home = TestHome::new(None);
    let project = home.project("handles").await;
    let state = home.config().home().join("state.db");
    // Another process's view, so that this one's open file does not matter.
    let copy = TestHome::new(None);
    std::fs::create_dir_all(
        copy.config().home().join("volumes").join(project.main().await.unwrap().id().to_string()),
    )
    .unwrap();
    std::fs::write(copy.config().home().join("state.db"), "").unwrap();
    let error = Project::list(copy.config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.hint().is_some());
    std::fs::remove_dir_all(copy.config().home()).unwrap();
    assert!(state.metadata().unwrap().len() > 0);
}

#[tokio::test]
async fn a_home_may_have_an_odd_name() {
    let around = TestHome::new(None);
    let home = around.config().home().with_file_name("o{}d = d'o\"dd");
    let config = Config::builder().home(&home).build().unwrap();
    let project = Project::builder("handles").config(config).create().await.unwrap();
    let branch = ephemeral(&project).await;
    assert_eq!(attempt(&branch.url(), "SELECT 1").await.unwrap(), "1");
    branch.close().await.unwrap();
    project.delete(true).await.unwrap();
}
