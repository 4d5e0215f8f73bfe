//! What a branch costs when many live already: `cargo bench -p velo-benches --bench scale`.
//!
//! Ephemeral branches of one seed are made until so many are alive. At both ends, with few and with all of
//! them alive, are measured, each on branches that go again at once:
//! - *create*: `Seed::branch`, and its steps;
//! - *info*: `Branch::info` of it; *list*: `Project::branches`, for each branch in the list;
//! - *close*: `Branch::close`; *gone*: the same until its files are gone too;
//! - *delete*: `Branch::delete` of a lasting branch whose server does not run.
//!
//! Few is measured before and after, because a machine may change meanwhile. On the way up, with so many
//! idle branches alive, their memory is counted (PSS), and at the beginning the extents that a branch has
//! of its own.
//!
//! ```text
//! cargo bench -p velo-benches --bench scale -- [--short] [--branches N] [--samples N] [--json FILE] [--write]
//! ```
//! In the folders that `VELO_TEST_BTRFS` and `VELO_TEST_XFS` name; PostgreSQL is the newest of `VELO_TEST_PG`,
//! else the one that Velo finds. `--write` renews `benches/results/scale.md`.

mod keys;
mod measure;
mod report;

use std::time::Duration;

use velo_benches::{Args, Result, cloning_places, publish};

/// How many idle branches' memory is counted.
const IDLE: usize = 100;

/// What the command line says.
pub(crate) struct Plan {
    branches: usize,
    samples: usize,
    short: bool,
}

impl Plan {
    fn of(args: &Args) -> Result<Self> {
        let branches = args.option("--branches")?.unwrap_or(if args.short { 60 } else { 500 });
        let samples = args.samples(6, 40, 2);
        Ok(Self { branches: branches.max(2), samples, short: args.short })
    }

    fn branches(&self) -> usize {
        self.branches
    }

    /// How long all are left alone before anything is measured beside them. What belongs to a server that was
    /// just started wakes up several times a second, until it has had nothing to do for ten seconds.
    fn rest(&self) -> Duration {
        Duration::from_secs(if self.short { 1 } else { 15 })
    }

    /// How many are alive when memory is counted.
    fn idle(&self) -> usize {
        self.branches.min(IDLE)
    }
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--branches"], &[])?;
    let plan = Plan::of(&args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Vec::new();
    for (storage, folder) in cloning_places() {
        all.push(runtime.block_on(measure::all(storage, &folder, &plan))?);
    }
    if all.is_empty() {
        return Ok(());
    }
    let text = report::render(&all, &plan);
    publish("scale", &text, &report::data(&all), args.json.as_deref(), args.write)
}
