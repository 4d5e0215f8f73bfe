//! The proof that clones are consistent: a parent under load, durable and not, while another session
//! checkpoints, is branched again and again on each storage. Each clone passes `pg_amcheck`, holds
//! every transaction that was acknowledged before the call, and pgbench's sums agree in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use common::client::session;
use common::fs_dir;
use common::home::TestHome;
use rustix::process::{Pid, Signal};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Method, Project};

/// Branches of each parent. An emulated machine takes a minute for each.
fn rounds(kind: StorageKind) -> usize {
    match kind {
        _ if is_long() => 50,
        StorageKind::Zfs => 2,
        _ => 3,
    }
}

fn is_long() -> bool {
    std::env::var_os("VELO_TEST_LONG").is_some()
}

/// Runs a PostgreSQL program to its end.
fn tool(bin: &Path, name: &str, args: &[&str]) {
    let output = Command::new(bin.join(name)).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{name} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writers of a parent; they stop on drop.
struct Load {
    pgbench: Child,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    acknowledged: Arc<AtomicI64>,
    /// Held while they rest.
    rest: Arc<Mutex<()>>,
}

impl Load {
    fn on(bin: &Path, url: &str) -> Self {
        let pgbench = Command::new(bin.join("pgbench"))
            .args(["-n", "-c", "4", "-j", "2", "-T", "3600", url])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicI64::new(0));
        let rest = Arc::new(Mutex::new(()));
        let ledger = {
            let (url, stop, acknowledged) = (url.to_owned(), stop.clone(), acknowledged.clone());
            let rest = rest.clone();
            std::thread::spawn(move || {
                let mut n = 0;
                session(&url, |run| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(rest.lock());
                        n += 1;
                        run(&format!("INSERT INTO ledger VALUES ({n})"));
                        acknowledged.store(n, Ordering::Release);
                    }
                });
            })
        };
        let checkpoints = {
            let (url, stop, rest) = (url.to_owned(), stop.clone(), rest.clone());
            std::thread::spawn(move || {
                session(&url, |run| {
                    while !stop.load(Ordering::Relaxed) {
                        drop(rest.lock());
                        run("CHECKPOINT; SELECT pg_sleep(0.2)");
                    }
                });
            })
        };
        Self { pgbench, stop, threads: vec![ledger, checkpoints], acknowledged, rest }
    }

    /// The writers rest until what this gives is dropped.
    fn rest(&self) -> Rest<'_> {
        self.signal(Signal::STOP);
        Rest { load: self, _held: self.rest.lock().unwrap() }
    }

    fn signal(&self, signal: Signal) {
        let pgbench = Pid::from_raw(self.pgbench.id().cast_signed()).unwrap();
        rustix::process::kill_process(pgbench, signal).unwrap();
    }
}

struct Rest<'a> {
    load: &'a Load,
    _held: MutexGuard<'a, ()>,
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.load.signal(Signal::CONT);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.pgbench.kill();
        let _ = self.pgbench.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What must hold in every clone.
fn check(bin: &Path, branch: &Branch, acknowledged: i64) {
    let url = branch.url();
    session(&url, |run| {
        let held = run(&format!("SELECT count(*) FROM ledger WHERE n <= {acknowledged}"));
        assert_eq!(held, [acknowledged.to_string()], "acknowledged transactions are missing");
        let sums =
            run("SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts
               UNION ALL SELECT sum(bbalance) FROM pgbench_branches
               UNION ALL SELECT sum(tbalance) FROM pgbench_tellers
               UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) x");
        assert_eq!(sums, ["1"], "the sums of pgbench's tables differ");
        run("UPDATE pgbench_branches SET bbalance = bbalance");
    });
    // It takes no URL.
    let to = branch.connection();
    let output = Command::new(bin.join("pg_amcheck"))
        .args(["--install-missing", "--heapallindexed", "--all", "-w", "-h", &to.host])
        .args(["-p", &to.port.to_string(), "-U", &to.user])
        .env("PGPASSWORD", &to.password)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pg_amcheck: {said}");
}

fn prepare(bin: &Path, url: &str, kind: StorageKind) {
    // Larger than the buffers in any case; an emulated machine takes its time for each row.
    let scale = if kind == StorageKind::Zfs && !is_long() { "1" } else { "5" };
    tool(bin, "pgbench", &["-i", "-q", "-s", scale, url]);
    session(url, |run| {
        run("CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY); TRUNCATE ledger");
    });
}

async fn proof(var: &str, kind: StorageKind) {
    let Some(base) = fs_dir(var) else { return };
    proof_in(kind, |bin| TestHome::with(Some(&base), |b| b.pg_bin(bin).storage(kind))).await;
}

async fn proof_in(kind: StorageKind, home: impl Fn(&Path) -> TestHome) {
    let Some(installations) = common::installations() else { return };
    let installations = match kind {
        StorageKind::Zfs => common::newest(installations),
        _ => installations,
    };
    for bin in installations {
        let home = home(&bin);
        let project = home.project("proof").await;
        // Small buffers: the working set is larger, so the parent writes pages all the time.
        let spec = BranchSpec::named("durable").set("shared_buffers", "4MB");
        let durable = Branch::create(&project, spec).await.unwrap();
        let unsafe_spec = BranchSpec::ephemeral().set("shared_buffers", "4MB");
        let unsafely = Branch::create(&project, unsafe_spec).await.unwrap();
        for parent in [&durable, &unsafely] {
            branch_under_load(&project, parent, &bin, kind).await;
        }
        let lasting = {
            prepare(&bin, &durable.url(), kind);
            let _load = Load::on(&bin, &durable.url());
            Branch::create(&project, BranchSpec::named("lasting").from(&durable)).await.unwrap()
        };
        let pid = lasting.info().await.unwrap().pid.unwrap();
        let data = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        lasting.stop().await.unwrap();
        tool(&bin, "pg_checksums", &["--check", "-D", data.to_str().unwrap()]);
    }
}

async fn branch_under_load(project: &Project, parent: &Branch, bin: &Path, kind: StorageKind) {
    prepare(bin, &parent.url(), kind);
    let load = Load::on(bin, &parent.url());
    let mut quick = 0;
    for round in 0..rounds(kind) {
        let acknowledged = load.acknowledged.load(Ordering::Acquire);
        let branch = Branch::create(project, BranchSpec::ephemeral().from(parent)).await.unwrap();
        let cut = branch.info().await.unwrap().cut.unwrap();
        let durable = !parent.is_ephemeral();
        match (kind, cut.method) {
            (StorageKind::Zfs, Method::Checkpoint) => quick += 1,
            (StorageKind::Btrfs, Method::Checkpoint) | (StorageKind::Reflink, Method::Wal) => {
                assert!(durable, "round {round}: {cut:?}");
                quick += 1;
            }
            // Where one of the checkpoints recycles WAL in between, it is done again.
            (StorageKind::Reflink, Method::Backup) => {}
            (_, Method::Backup) => assert!(kind == StorageKind::Copy || !durable, "{cut:?}"),
            _ => panic!("round {round}: {cut:?}"),
        }
        // An emulated machine has no time for both.
        let rest = (kind == StorageKind::Zfs && !is_long()).then(|| load.rest());
        check(bin, &branch, acknowledged);
        // A branch of the branch holds the same.
        if round == 0 {
            let second =
                Branch::create(project, BranchSpec::ephemeral().from(&branch)).await.unwrap();
            check(bin, &second, acknowledged);
            second.close().await.unwrap();
        }
        drop(rest);
        branch.close().await.unwrap();
    }
    assert!(load.acknowledged.load(Ordering::Acquire) > 0, "the load did nothing");
    println!("{kind}: {quick} of {} clones without backup mode", rounds(kind));
    assert!(quick > 0 || kind == StorageKind::Copy || parent.is_ephemeral(), "all in backup mode");
    // No slot is left on the parent, and it is in no backup.
    session(&parent.url(), |run| {
        assert_eq!(run("SELECT count(*) FROM pg_replication_slots"), ["0"]);
    });
}

#[tokio::test]
async fn zfs() {
    let Some(place) = common::zfs::place() else { return };
    proof_in(StorageKind::Zfs, |bin| place.home(|b| b.pg_bin(bin))).await;
}

#[tokio::test]
async fn btrfs() {
    proof("VELO_TEST_BTRFS", StorageKind::Btrfs).await;
}

#[tokio::test]
async fn reflink() {
    proof("VELO_TEST_XFS", StorageKind::Reflink).await;
}

#[tokio::test]
async fn copy() {
    proof("VELO_TEST_EXT4", StorageKind::Copy).await;
}
