//! One project used from everywhere at once: many tests' runtimes that come and go, a
//! current-thread runtime, another executor, blocking callers, futures dropped half-way, a fork.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use common::home::{TestHome, eventually};
use velo_core::{Branch, BranchSpec, Config, Project, blocking};

/// Shared by every test of this file, as a test suite would share it.
static HOME: LazyLock<Mutex<Option<TestHome>>> =
    LazyLock::new(|| Mutex::new(Some(TestHome::new(None))));

fn config() -> Config {
    HOME.lock().unwrap().as_ref().unwrap().config().clone()
}

static PROJECT: LazyLock<Project> = LazyLock::new(|| {
    let project = blocking::Project::builder("shared").config(config()).create().unwrap();
    project.main().unwrap().stop().unwrap();
    // A static is not dropped: the end of the process clears the home.
    extern "C" fn clear() {
        drop(HOME.lock().unwrap().take());
    }
    // SAFETY: registers a plain function.
    unsafe { libc::atexit(clear) };
    project.as_async().clone()
});

async fn works() {
    let branch =
        Branch::create(&PROJECT, BranchSpec::ephemeral().label("executors")).await.unwrap();
    assert_eq!(query(&branch.url(), "SELECT 1 + 1").await, "2");
    branch.close().await.unwrap();
}

/// Asks over a connection that needs no tokio of the caller's.
async fn query(url: &str, sql: &str) -> String {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let rows = client.simple_query(&sql).await.unwrap();
            rows.iter()
                .find_map(|m| match m {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .unwrap_or_default()
        })
    })
    .join()
    .unwrap()
}

macro_rules! tests {
    ($($name:ident)*) => { $(
        #[tokio::test]
        async fn $name() { works().await; }
    )* };
}

// Each is a runtime of its own that comes and goes.
tests! {
    t01 t02 t03 t04 t05 t06 t07 t08 t09 t10 t11 t12 t13 t14 t15 t16 t17 t18 t19 t20 t21 t22 t23 t24
    t25 t26 t27 t28 t29 t30 t31 t32 t33 t34 t35 t36 t37 t38 t39 t40 t41 t42 t43 t44 t45 t46 t47 t48
    t49 t50
}

#[test]
fn under_another_executor() {
    smol::block_on(works());
}

#[test]
fn blocking_without_a_runtime() {
    let project = blocking::Project::builder("shared").config(config());
    LazyLock::force(&PROJECT);
    let project = project.open().unwrap();
    let branch = blocking::Branch::create(&project, BranchSpec::ephemeral()).unwrap();
    assert!(branch.info().unwrap().pid.is_some());
    branch.close().unwrap();
}

#[tokio::test]
async fn blocking_inside_a_runtime() {
    LazyLock::force(&PROJECT);
    let project = blocking::Project::builder("shared").config(config()).open().unwrap();
    let branch = blocking::Branch::create(&project, BranchSpec::ephemeral()).unwrap();
    branch.close().unwrap();
}

/// A future dropped at any moment leaves nothing; the test's own home shows it.
#[tokio::test]
async fn dropped_futures_leave_nothing() {
    let home = TestHome::new(None);
    let project = home.project("dropped").await;
    project.main().await.unwrap().stop().await.unwrap();
    for millis in [0, 1, 2, 5, 10, 20, 40, 80, 160] {
        let create = Branch::create(&project, BranchSpec::ephemeral());
        if let Ok(made) = tokio::time::timeout(Duration::from_millis(millis), create).await {
            drop(made.unwrap());
        }
    }
    let only_main = || {
        let branches = blocking::Project::builder("dropped")
            .config(home.config().clone())
            .open()
            .unwrap()
            .branches()
            .unwrap();
        branches.len() == 1 && home.servers().is_empty()
    };
    assert!(eventually(Duration::from_secs(30), only_main), "left: {:?}", home.left());
}

/// A handle that the runtime of its maker did not outlive still discards its branch.
#[test]
fn dropped_outside_of_any_runtime() {
    LazyLock::force(&PROJECT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let branch = runtime.block_on(Branch::create(&PROJECT, BranchSpec::ephemeral())).unwrap();
    let (id, clone) = (branch.id(), branch.clone());
    drop(runtime);
    drop(branch);
    let there = || PROJECT.clone();
    let listed = || smol::block_on(there().branches()).unwrap().iter().any(|b| b.id == id);
    assert!(listed(), "a clone of the handle is still there");
    drop(clone);
    assert!(eventually(Duration::from_secs(20), || !listed()));
}

/// In the child of a fork Velo works, and the child's copies of handles discard nothing.
#[test]
fn after_a_fork() {
    LazyLock::force(&PROJECT);
    let parents = smol::block_on(Branch::create(&PROJECT, BranchSpec::ephemeral())).unwrap();
    // SAFETY: the child uses only what this test is about, and leaves without destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = std::panic::catch_unwind(|| {
            drop(parents);
            let own = smol::block_on(Branch::create(&PROJECT, BranchSpec::ephemeral())).unwrap();
            smol::block_on(own.close()).unwrap();
        });
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(code.is_err())) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
    assert!(smol::block_on(parents.info()).unwrap().pid.is_some(), "the child discarded it");
    smol::block_on(parents.close()).unwrap();
}
