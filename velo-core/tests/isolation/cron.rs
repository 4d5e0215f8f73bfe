//! Jobs of pg_cron in the parent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use velo_core::{Branch, BranchSpec, ResetTarget};

use crate::common::home::servers_in;
use crate::rig::{Parent, Sql};

const LAUNCHERS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%cron%' OR query LIKE '%cron%'
     AND pid <> pg_backend_pid()";

/// A job that runs at each start of the server: pg_cron's others wait for the next minute.
async fn parent_with_a_job(bin: &std::path::Path, form: &str) -> Parent {
    let parent = Parent::new(15, bin).await;
    let libraries = "auto_explain, pg_cron";
    if form == "ALTER SYSTEM" {
        let sql = Sql::on(&parent.main).await;
        sql.run(&format!("ALTER SYSTEM SET shared_preload_libraries = {libraries}")).await;
        parent.main.restart().await.unwrap();
    }
    let mut settings = "cron.use_background_workers = on\n".to_owned();
    if form == "an included file" {
        settings.push_str(&format!("shared_preload_libraries = '{libraries}'\n"));
    }
    parent.configure(&settings).await;
    let sql = Sql::on(&parent.main).await;
    sql.run("CREATE EXTENSION pg_cron").await;
    sql.run("CREATE TABLE ran (at timestamptz DEFAULT now())").await;
    sql.run("SELECT cron.schedule('job', '@reboot', 'INSERT INTO ran DEFAULT VALUES')").await;
    drop(sql);
    parent.main.restart().await.unwrap();
    parent
}

async fn count(branch: &Branch) -> u64 {
    Sql::on(branch).await.one("SELECT count(*) FROM ran").await.parse().unwrap()
}

/// Waits until the job has run in the parent, which shows that it would run in a branch.
async fn ran(parent: &Parent, times: u64) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while count(&parent.main).await < times {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("the job does not even run in the parent");
}

#[tokio::test]
async fn jobs_of_the_parent_do_not_run_in_a_branch() {
    let Some(bin) = std::env::var_os("VELO_TEST_PG_CRON").map(PathBuf::from) else {
        crate::common::missing("VELO_TEST_PG_CRON is not set");
        return;
    };
    for form in ["ALTER SYSTEM", "an included file"] {
        let parent = parent_with_a_job(&bin, form).await;
        ran(&parent, 1).await;
        let idle = async |branch: &Branch, what: &str| {
            let sql = Sql::on(branch).await;
            assert_eq!(sql.show("shared_preload_libraries").await, "auto_explain", "{what}");
            assert_eq!(sql.one(LAUNCHERS).await, "0", "{what}");
        };
        parent
            .each(async |branch, what| {
                let what = format!("{form}: {what}");
                let before = count(branch).await;
                idle(branch, &what).await;
                // Nor in a branch of the branch, nor after a start of its own.
                let spec = BranchSpec::ephemeral().from(branch);
                let second = parent.branch(spec).await;
                idle(&second, &what).await;
                second.close().await.unwrap();
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                    idle(branch, &what).await;
                }
                assert_eq!(count(branch).await, before, "{what}");
                Sql::on(branch).await.run("DROP EXTENSION pg_cron").await;
            })
            .await;
        // `each` started the parent once more, and there the job ran again.
        ran(&parent, 2).await;
        assert_ne!(Sql::on(&parent.main).await.one(LAUNCHERS).await, "0", "{form}");
    }
}

/// The command lines of postmasters that took no clients while `work` went on.
async fn private_servers(parent: &Parent, work: impl Future<Output = ()>) -> BTreeSet<String> {
    let home = parent.home.config().home().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let done = done.clone();
        std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for pid in servers_in(&home) {
                    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    if line.contains(" listen_addresses= ") {
                        seen.insert(line);
                    }
                }
            }
            seen
        })
    };
    work.await;
    done.store(true, Ordering::Relaxed);
    watcher.join().unwrap()
}

#[tokio::test]
async fn a_rehearsal_of_the_parent_s_reset_runs_no_job() {
    let Some(bin) = std::env::var_os("VELO_TEST_PG_CRON").map(PathBuf::from) else {
        crate::common::missing("VELO_TEST_PG_CRON is not set");
        return;
    };
    let parent = parent_with_a_job(&bin, "ALTER SYSTEM").await;
    ran(&parent, 1).await;
    parent.main.snapshot("one").await.unwrap();
    let reset = parent.main.reset_to(ResetTarget::Snapshot("one".into()));
    let seen = private_servers(&parent, async { reset.await.unwrap() }).await;
    assert!(!seen.is_empty(), "no rehearsal was seen");
    for line in seen {
        assert!(line.contains(" shared_preload_libraries=auto_explain "), "{line}");
    }
    // The parent itself does again what it did.
    assert_ne!(Sql::on(&parent.main).await.show("shared_preload_libraries").await, "auto_explain");
}
