//! What a branch costs whoever works in it: pgbench in a branch, and in its parent while it has branches, beside a
//! server with the same settings that Velo knows nothing of, on the same file system.

use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use velo_benches::figures::Times;
use velo_benches::{Result, client};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project};

use crate::bounds::{LONG, STEP, Signals, within};
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::row::Place;
use crate::velo::{With, project};

/// What of a branch is called.
pub(crate) const IN_A_BRANCH: &str = "in a branch";

/// How many branches the parent has meanwhile.
const BRANCHES: usize = 10;

/// Settings of a branch that say where it is.
const PLACES: [&str; 8] = [
    "port",
    "listen_addresses",
    "data_directory",
    "hba_file",
    "ident_file",
    "config_file",
    "unix_socket_directories",
    "external_pid_file",
];

/// Transactions a second, in turn.
pub(crate) struct Throughput {
    pub(crate) place: Place,
    pub(crate) what: String,
    pub(crate) velo: Times,
    pub(crate) bare: Times,
}

impl Throughput {
    pub(crate) fn ratio(&self) -> f64 {
        self.velo.median() / self.bare.median()
    }
}

/// Measures on one file system, in a folder that is there.
pub(crate) async fn measure(
    place: Place,
    bin: &Path,
    base: &Path,
    plan: &Plan,
    signals: &mut Signals,
) -> Result<Vec<Throughput>> {
    let storage = match place {
        Place::Btrfs => StorageKind::Btrfs,
        Place::Xfs => StorageKind::Reflink,
        Place::Ext4 | Place::Memory => StorageKind::Copy,
    };
    let home = base.join("pgbench");
    let with = With::Programs(bin.to_owned());
    let project = within(STEP, project(&home, storage, &with)).await?;
    let measured = signals.unless(within(LONG, both(&project, place, bin, base, plan))).await;
    within(STEP, async { Ok(project.delete(true).await?) }).await?;
    std::fs::remove_dir_all(&home)?;
    measured.unwrap_or_else(|| Err("ended by a signal".into()))
}

async fn both(
    project: &Project,
    place: Place,
    bin: &Path,
    base: &Path,
    plan: &Plan,
) -> Result<Vec<Throughput>> {
    let main = project.main().await?;
    let parent = client::config(&main.connection());
    fill(bin, &parent, plan).await?;
    client::open(&parent).await?.batch_execute("CHECKPOINT").await?;
    let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
    let like_branch = like(&branch, bin, base.join("bare-branch"), plan).await?;
    branch.close().await?;
    let like_parent = like(&main, bin, base.join("bare-parent"), plan).await?;

    let mut one = Throughput {
        place,
        what: IN_A_BRANCH.to_owned(),
        velo: Times::default(),
        bare: Times::default(),
    };
    for round in 0..plan.rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
                let to = client::config(&branch.connection());
                one.velo.0.push(transactions(bin, &to, plan).await?);
                branch.close().await?;
            } else {
                // A fresh copy, as the branch is a fresh clone.
                like_branch.manage("CREATE DATABASE copy TEMPLATE bench").await?;
                like_branch.manage("CHECKPOINT").await?;
                one.bare.0.push(transactions(bin, &like_branch.to("copy"), plan).await?);
                like_branch.manage("DROP DATABASE copy WITH (FORCE)").await?;
            }
        }
    }
    drop(like_branch);

    let mut other = Throughput {
        place,
        what: format!("in a parent with {BRANCHES} branches"),
        velo: Times::default(),
        bare: Times::default(),
    };
    for round in 0..plan.rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                // New ones each time: what was written before is shared with nobody any more.
                let mut branches = Vec::new();
                for _ in 0..BRANCHES {
                    branches.push(Branch::create(project, BranchSpec::ephemeral()).await?);
                }
                other.velo.0.push(transactions(bin, &parent, plan).await?);
                for branch in branches {
                    branch.close().await?;
                }
            } else {
                other.bare.0.push(transactions(bin, &like_parent.to("bench"), plan).await?);
            }
        }
    }
    Ok(vec![one, other])
}

/// A bare server with a branch's settings and a database `bench`, filled in the same way.
async fn like(branch: &Branch, bin: &Path, dir: PathBuf, plan: &Plan) -> Result<Cluster> {
    let pid = branch.info().await?.pid.ok_or("the branch does not run")?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let settings: Vec<(String, String)> = String::from_utf8_lossy(&line)
        .split('\0')
        .filter_map(|arg| arg.split_once('='))
        .filter(|(name, _)| !PLACES.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // What is decided when a cluster is made.
    let session = client::connect(&branch.connection()).await?;
    let ask = "SELECT (setting::bigint / 1048576)::text, current_setting('data_checksums')
                 FROM pg_settings WHERE name = 'wal_segment_size'";
    let row = session.query_one(ask, &[]).await?;
    let (segment, checksums): (String, String) = (row.get(0), row.get(1));
    let mut initdb = vec![format!("--wal-segsize={segment}")];
    match checksums.as_str() {
        "on" => initdb.push("--data-checksums".to_owned()),
        _ => initdb.push("--no-data-checksums".to_owned()),
    }
    let cluster = Cluster::start(bin, dir, &initdb, &settings).await?;
    cluster.manage("CREATE DATABASE bench").await?;
    fill(bin, &cluster.to("bench"), plan).await?;
    cluster.manage("CHECKPOINT").await?;
    Ok(cluster)
}

async fn fill(bin: &Path, to: &Config, plan: &Plan) -> Result<()> {
    let mut pgbench = pgbench(bin, to)?;
    said(pgbench.args(["-i", "-q", "-s"]).arg(plan.scale.to_string())).await.map(drop)
}

async fn transactions(bin: &Path, to: &Config, plan: &Plan) -> Result<f64> {
    let cores = std::thread::available_parallelism()?.get().to_string();
    let seconds = plan.pgbench.as_secs().max(1).to_string();
    let mut pgbench = pgbench(bin, to)?;
    let said = said(pgbench.args(["-n", "-c", &cores, "-j", &cores, "-T", &seconds])).await?;
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("pgbench says: {said}"))?.parse()?)
}

fn pgbench(bin: &Path, to: &Config) -> Result<Command> {
    let mut command = Command::new(bin.join("pgbench"));
    let (Some(Host::Tcp(host)), Some(port)) = (to.get_hosts().first(), to.get_ports().first())
    else {
        return Err("pgbench goes over TCP".into());
    };
    command.kill_on_drop(true).arg("-h").arg(host).arg("-p").arg(port.to_string());
    command.arg("-U").arg(to.get_user().unwrap_or("postgres")).env("LC_ALL", "C");
    if let Some(password) = to.get_password() {
        command.env("PGPASSWORD", String::from_utf8_lossy(password).into_owned());
    }
    command.env("PGDATABASE", to.get_dbname().unwrap_or("postgres"));
    Ok(command)
}

async fn said(command: &mut Command) -> Result<String> {
    let out = command.output().await?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        return Err(format!("pgbench: {}", why.trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
