//! What a branch costs over the least that it could cost: `cargo bench -p velo-benches --bench create`.
//!
//! For each storage and size the same data is measured in one run, one sample of each in turn:
//! - the *floor*: one bare clone call, one bare `postgres` on it with the settings that a branch
//!   really has, one connection with the same authentication, until its first query is answered;
//! - `Branch::create`, until its first query is answered by the same client code.
//!
//! For containers the floor is the engine's own start of the same container (image, mounts, limits and
//! command line) on a clone that is there already.
//!
//! ```text
//! cargo bench -p velo-benches --bench create -- [--short | --long] [--sizes 40MB,1GB,5GB]
//!     [--samples N] [--backends btrfs,reflink,copy,docker] [--json FILE] [--write]
//! ```
//! Storages are measured in the folders that `VELO_TEST_BTRFS`, `VELO_TEST_XFS` and
//! `VELO_TEST_EXT4` name; PostgreSQL is the newest of `VELO_TEST_PG` (`15=/…/bin 18=/…/bin`), else
//! the one that Velo finds. Containers are measured on btrfs, with the engine of `DOCKER_HOST` and the
//! image of `VELO_TEST_IMAGE_DEBIAN`. `--short` is the fresh cluster with few samples; a copy is measured up
//! to 1 GB unless `--long`. `--write` renews `benches/results/create.md`. A missed target is said,
//! and is no failure.

mod container;
mod measure;
mod report;

use std::path::PathBuf;

use velo_benches::figures::GB;
use velo_benches::{Args, Result, postgres, publish};
use velo_core::storage::StorageKind;

/// One storage to measure, and where.
struct Backend {
    kind: StorageKind,
    var: &'static str,
}

const BACKENDS: [Backend; 3] = [
    Backend { kind: StorageKind::Btrfs, var: "VELO_TEST_BTRFS" },
    Backend { kind: StorageKind::Reflink, var: "VELO_TEST_XFS" },
    Backend { kind: StorageKind::Copy, var: "VELO_TEST_EXT4" },
];

/// The storages to measure, and whether containers are.
fn backends(args: &Args) -> Result<(Vec<StorageKind>, bool)> {
    let Some(list) = args.option::<String>("--backends")? else {
        return Ok((BACKENDS.iter().map(|b| b.kind).collect(), true));
    };
    let storages = list.split(',').filter(|name| *name != "docker");
    let storages = storages.map(str::parse).collect::<velo_core::Result<_>>()?;
    Ok((storages, list.split(',').any(|name| name == "docker")))
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--sizes", "--backends"], &["--long"])?;
    let (storages, docker) = backends(&args)?;
    let all = args.sizes("--sizes", if args.short { "40MB" } else { "40MB,1GB,5GB" })?;
    let samples = args.samples(7, 25, 1);
    // One thread, which lives as long as the process: bare servers end with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let postgres = postgres();
        let mut report = report::Report::new();
        for backend in BACKENDS.iter().filter(|b| storages.contains(&b.kind)) {
            let Some(folder) = std::env::var_os(backend.var).map(PathBuf::from) else {
                report.skip(format!("{}: {} names no folder", backend.kind, backend.var));
                continue;
            };
            let most = if backend.kind == StorageKind::Copy && !args.has("--long") {
                GB
            } else {
                u64::MAX
            };
            let sizes: Vec<u64> = all.iter().copied().filter(|s| *s <= most).collect();
            if sizes.len() < all.len() {
                report.skip(format!("{}: over 1 GB only with --long", backend.kind));
            }
            let plan = measure::Plan {
                kind: backend.kind,
                folder,
                postgres: postgres.clone(),
                image: None,
                sizes,
                samples,
                short: args.short,
            };
            measure::backend(&plan, &mut report).await?;
        }
        if docker {
            let image = std::env::var("VELO_TEST_IMAGE_DEBIAN");
            let folder = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from);
            match (image, folder) {
                (Ok(image), Some(folder)) => {
                    let plan = measure::Plan {
                        kind: StorageKind::Btrfs,
                        folder,
                        postgres: None,
                        image: Some(image),
                        sizes: vec![report::MB40],
                        samples,
                        short: args.short,
                    };
                    measure::backend(&plan, &mut report).await?;
                }
                _ => report.skip(
                    "docker: VELO_TEST_IMAGE_DEBIAN or VELO_TEST_BTRFS is not set".to_owned(),
                ),
            }
        }
        let (text, data) = (report.render(), report.json());
        publish("create", &text, &data, args.json.as_deref(), args.write)
    })
}
