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

use velo_benches::{Args, Result, postgres, publish};

/// What the command line says.
struct Told {
    sizes: [u64; 2],
    home: Option<PathBuf>,
    load: bool,
}

impl Told {
    fn by(args: &Args) -> Result<Self> {
        let (some, more) = if args.short { ("64MB", "256MB") } else { ("100MB", "1GB") };
        let sizes = [args.size("--beside", some)?, args.size("--size", more)?];
        if sizes[0] >= sizes[1] {
            return Err("--size must be larger than --beside".into());
        }
        let home = args.option::<PathBuf>("--home")?.map(std::path::absolute).transpose()?;
        let load = args.has("--load");
        if load && home.is_none() {
            return Err("--load wants --home: what it loads would be removed".into());
        }
        Ok(Self { sizes, home, load })
    }
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--size", "--beside", "--home"], &["--load"])?;
    let told = Told::by(&args)?;
    let (folder, keep) = match (&told.home, std::env::var_os("VELO_TEST_BTRFS")) {
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
        sizes: told.sizes,
        samples: args.samples(2, 15, 1),
        load: told.load,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(report) = runtime.block_on(measure::all(&plan))? else { return Ok(()) };
    let (text, data) = (report.render(), report.json());
    publish("large", &text, &data, args.json.as_deref(), args.write)
}
