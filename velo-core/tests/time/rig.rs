//! Projects that keep WAL, and who writes in them.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project, Target};

use crate::common::client::{session, sql};
use crate::common::fs_dir;
use crate::common::home::TestHome;

pub const DAY: Duration = Duration::from_secs(86_400);

/// A home with a project whose WAL is kept.
pub struct Rig {
    // Dropped first.
    pub project: Project,
    pub home: TestHome,
    pub bin: PathBuf,
}

impl Rig {
    pub async fn new(bin: &Path, storage: StorageKind, base: &Path) -> Self {
        Self::in_home(bin, TestHome::with(Some(base), |b| b.pg_bin(bin).storage(storage))).await
    }

    pub async fn in_home(bin: &Path, home: TestHome) -> Self {
        let builder = Project::builder("time").config(home.config().clone());
        let project = builder.wal_retention(DAY).create().await.unwrap();
        let main = project.main().await.unwrap();
        sql(&main, "ALTER SYSTEM SET track_commit_timestamp = on").await;
        main.restart().await.unwrap();
        sql(&main, "CREATE TABLE rows (n bigint PRIMARY KEY, xid xid8)").await;
        Self { project, home, bin: bin.to_path_buf() }
    }

    /// On btrfs, with the newest PostgreSQL.
    pub async fn on_btrfs() -> Option<Self> {
        let base = fs_dir("VELO_TEST_BTRFS")?;
        let bin = crate::common::newest(crate::common::installations()?);
        Some(Self::new(bin.first()?, StorageKind::Btrfs, &base).await)
    }

    pub async fn main(&self) -> Branch {
        self.project.main().await.unwrap()
    }

    /// A throwaway branch of `main` at a moment.
    pub async fn at(&self, target: Target) -> Branch {
        let spec = BranchSpec::ephemeral().at(target.clone());
        let made = Branch::create(&self.project, spec).await;
        made.unwrap_or_else(|e| panic!("{target:?}: {e} ({:?}) {e:?}", e.hint()))
    }

    pub fn archives(&self) -> PathBuf {
        self.home.config().home().join("wal")
    }

    /// Where the data of a branch is.
    pub async fn data(&self, branch: &Branch) -> PathBuf {
        let pid = branch.info().await.unwrap().pid.expect("it runs");
        std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
    }

    /// A folder outside of the data for a tablespace of a branch's server, in one that goes with the first.
    pub async fn outside(&self, branch: &Branch) -> (tempfile::TempDir, PathBuf) {
        let owner = self.data(branch).await.metadata().unwrap();
        let world = tempfile::tempdir_in(crate::common::home::base()).unwrap();
        std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let space = world.path().join("space");
        std::fs::create_dir(&space).unwrap();
        std::os::unix::fs::chown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
        (world, space)
    }

    /// The commits in the WAL of a branch that runs, in their order: position and transaction.
    pub async fn commits(&self, branch: &Branch) -> Vec<(u64, u64)> {
        let data = self.data(branch).await;
        let archive = self.archives().join(data.file_name().unwrap());
        let all = tempfile::tempdir().unwrap();
        let mut names = BTreeSet::new();
        for folder in [data.join("pg_wal"), archive] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if name.len() == 24 && path.is_file() {
                    std::fs::copy(&path, all.path().join(&name)).unwrap();
                    names.insert(name);
                }
            }
        }
        // Whole ones alone, the first without a gap behind it.
        let first = names.first().unwrap();
        let output = Command::new(self.bin.join("pg_waldump"))
            .args(["--rmgr=Transaction", "-p"])
            .args([all.path().as_os_str(), first.as_ref()])
            .arg(names.last().unwrap())
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let commits: Vec<_> = text
            .lines()
            .filter(|line| line.contains("desc: COMMIT"))
            .map(|line| {
                let after = |key: &str| {
                    let rest = line.split(key).nth(1).unwrap().trim_start();
                    rest.split([',', ' ']).next().unwrap().to_owned()
                };
                (lsn(&after("lsn:")), after("tx:").parse().unwrap())
            })
            .collect();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!commits.is_empty(), "pg_waldump: {told}");
        commits
    }
}

pub fn lsn(text: &str) -> u64 {
    text.parse::<velo_core::postgres::Lsn>().unwrap().0
}

/// Writes the rows `from` to `to`, a transaction each; every so often with a table that comes, one
/// that goes and one that is emptied, and a vacuum.
pub async fn write(branch: &Branch, from: u64, to: u64) {
    let url = branch.url();
    let writes = move || {
        session(&url, |run| {
            for n in from..to {
                let insert = format!("INSERT INTO rows VALUES ({n}, pg_current_xact_id())");
                if n % 25 == 0 {
                    let drop = match n {
                        0 => "SELECT 1".to_owned(),
                        _ => format!("DROP TABLE IF EXISTS t_{}", n - 25),
                    };
                    run(&format!(
                        "BEGIN; {insert}; CREATE TABLE t_{n} AS SELECT x FROM generate_series(1, 500) x;
                         CREATE INDEX ON t_{n} (x); {drop}; COMMIT"
                    ));
                    run("CREATE TABLE IF NOT EXISTS e (x int); INSERT INTO e VALUES (1)");
                    run("TRUNCATE e");
                    run("VACUUM rows");
                } else {
                    run(&insert);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    };
    tokio::task::spawn_blocking(writes).await.unwrap();
}

/// The rows of a branch.
pub async fn rows(branch: &Branch) -> BTreeSet<u64> {
    let text = sql(branch, "SELECT n FROM rows ORDER BY n").await;
    text.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// That one writer's rows in it are those before `end`, and everything else is of that moment too.
pub async fn holds(branch: &Branch, end: u64, what: &str) {
    let rows = rows(branch).await;
    assert_eq!(rows.len() as u64, end, "{what}: {:?}", rows.last());
    assert_eq!(rows.last().copied(), end.checked_sub(1), "{what}");
    let last = (0..end).rev().find(|n| n % 25 == 0);
    let tables = sql(branch, "SELECT relname FROM pg_class WHERE relname ~ '^t_[0-9]+$'").await;
    assert_eq!(tables, last.map(|n| format!("t_{n}")).unwrap_or_default(), "{what}");
    if let Some(n) = last {
        assert_eq!(sql(branch, &format!("SELECT sum(x) FROM t_{n}")).await, "125250", "{what}");
    }
    // What is written to that table is gone before the next row comes.
    let there = sql(branch, "SELECT to_regclass('e') IS NOT NULL").await == "t";
    assert!(there || end <= 1, "{what}");
    if there {
        let left = sql(branch, "SELECT count(*) FROM e").await;
        let may_be = if last == end.checked_sub(1) { &["0", "1"][..] } else { &["0"] };
        assert!(may_be.contains(&left.as_str()), "{what}: {left}");
    }
    // It can be written to, and nothing of the recovery is left.
    sql(branch, "INSERT INTO rows VALUES (1000000)").await;
    let left = sql(
        branch,
        "SELECT string_agg(name, ' ') FROM pg_settings WHERE name ~ '^recovery_target' \
         AND name !~ '_(action|inclusive|timeline)$' AND setting <> ''",
    )
    .await;
    assert_eq!(left, "", "{what}");
    assert_eq!(sql(branch, "SHOW restore_command").await, "", "{what}");
    let files = "SELECT count(*) FROM pg_file_settings WHERE name ~ '^(restore_command|recovery_)'";
    assert_eq!(sql(branch, files).await, "0", "{what}");
}

/// Some number below `end`, another one each time.
pub fn chosen(end: u64) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static STATE: AtomicU64 = AtomicU64::new(0);
    let seed = || {
        let given = std::env::var("VELO_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64 | 1
        });
        println!("VELO_TEST_SEED={seed}");
        seed
    };
    let next = |mut x: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    };
    if STATE.load(Ordering::Relaxed) == 0 {
        let _ = STATE.compare_exchange(0, seed(), Ordering::Relaxed, Ordering::Relaxed);
    }
    let before = STATE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(next(x)));
    next(before.unwrap()) % end
}

/// How many targets of each kind are tried.
pub fn tries() -> usize {
    if std::env::var_os("VELO_TEST_LONG").is_some() { 100 } else { 5 }
}
