//! A branch of a large database beside one of a small one: `cargo bench -p velo-benches --bench large`.
//!
//! Two projects in one home on btrfs, which differ in nothing but the rows of one table, are branched in
//! turn: of a running main, of a stopped one and of a snapshot; reset and deleted; and what a branch takes
//! of its own is asked of Velo and of the file system.
//!
//! ```text
//! cargo bench -p velo-benches --bench large -- [--short] [--size 100GB] [--beside 100MB]
//!     [--samples N] [--home DIR] [--load] [--json FILE] [--write]
//! ```
//! The home is made in the folder that `VELO_TEST_BTRFS` names, and removed at the end. With `--home` it is
//! that folder, on btrfs, and stays: another run uses the databases that it finds there. `--load` only makes
//! them (so that they can be loaded under `nice`). PostgreSQL is the newest of `VELO_TEST_PG`, else the one
//! that Velo finds. `.ci/large` makes a btrfs that compresses, in a sparse file, and runs this on it; 100 GB
//! are about 16 GB there. `--short` is 256 MB beside 64 MB with few samples. `--write` renews
//! `benches/results/large.md`. What only root may ask of btrfs is left out for others.

mod load;
mod measure;
mod report;
mod rows;
mod space;

use std::path::PathBuf;

use velo_benches::figures::{GB, size};
use velo_benches::{Result, postgres, publish};

/// What the command line says.
struct Args {
    sizes: [u64; 2],
    samples: usize,
    home: Option<PathBuf>,
    load: bool,
    json: Option<PathBuf>,
    write: bool,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let (mut large, mut small, mut samples, mut home) = (None, None, None, None);
        let (mut load, mut json, mut write, mut short) = (false, None, false, false);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--bench" => {} // cargo's
                "--short" => short = true,
                "--load" => load = true,
                "--write" => write = true,
                "--size" => large = Some(size(&value()?)?),
                "--beside" => small = Some(size(&value()?)?),
                "--samples" => samples = Some(value()?.parse()?),
                "--home" => home = Some(std::path::absolute(value()?)?),
                "--json" => json = Some(value()?.into()),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        let (some, more) = if short { (64 << 20, 256 << 20) } else { (100 << 20, GB) };
        let sizes = [small.unwrap_or(some), large.unwrap_or(more)];
        if sizes[0] >= sizes[1] {
            return Err("--size must be larger than --beside".into());
        }
        if load && home.is_none() {
            return Err("--load wants --home: what it loads would be removed".into());
        }
        let samples = samples.unwrap_or(if short { 2 } else { 15 }).max(1);
        Ok(Self { sizes, samples, home, load, json, write })
    }
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    let (folder, keep) = match (&args.home, std::env::var_os("VELO_TEST_BTRFS")) {
        (Some(home), _) => (home.clone(), true),
        (None, Some(folder)) => {
            (PathBuf::from(folder).join(format!("velo-large-{}", std::process::id())), false)
        }
        (None, None) => {
            println!("skipped: neither --home nor VELO_TEST_BTRFS names a folder");
            return Ok(());
        }
    };
    let plan = measure::Plan {
        folder,
        keep,
        postgres: postgres(),
        sizes: args.sizes,
        samples: args.samples,
        load: args.load,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(report) = runtime.block_on(measure::all(&plan))? else { return Ok(()) };
    let (text, data) = (report.render(), report.json());
    publish("large", &text, &data, args.json.as_deref(), args.write)
}
