//! Velo beside its peers: `cargo bench -p velo-benches --bench compare`, or `.ci/compare`, which gets the peers first.
//!
//! Each way to a fresh database is a row; rows of one place (btrfs, XFS, ext4, memory) and with one seed take turns in
//! one run, so that their ratios are fair. Measured are:
//! - from the request to the endpoint, and to the first query answered, with nothing ready and with some ready; delete;
//! - the same for several callers at once;
//! - data extents of its own: when created, after the first query, after one row in a hundred was updated;
//! - memory (PSS) of idle branches;
//! - small tests a second, and a suite of 300 tests from end to end;
//! - pgbench in a branch, and in a parent that has branches, beside a bare server.
//!
//! ```text
//! cargo bench -p velo-benches --bench compare -- [--short] [--sizes 10MB,1GB,10GB] [--places btrfs,XFS,ext4,memory]
//!     [--samples N] [--tests N] [--json FILE] [--write]
//! ```
//! Places are the folders that `VELO_TEST_BTRFS`, `VELO_TEST_XFS` and `VELO_TEST_EXT4` name, and /dev/shm. The servers
//! are those of `VELO_TEST_PG`; Velo's is the newest of them. Containers are of the engine of `DOCKER_HOST` and of the
//! image `VELO_TEST_IMAGE_DEBIAN`. `VELO_TEST_PEER_MITOSIS` and `VELO_TEST_PEER_PG_TMP` name programs,
//! `VELO_TEST_PEER_PGLITE` a folder with `pglite.mjs` and its modules. A row whose peer is not there is in the table of
//! what was not measured, with the reason. `--short` is the small seed with few samples, as CI runs it: several callers,
//! memory, tests and pgbench on btrfs alone, extents where files share any. `--write`
//! renews `benches/results/compare.md` and the plots beside it. A missed target is said, and is no failure; a row that
//! breaks is one.

mod bounds;
mod catalog;
mod cluster;
mod container;
mod measure;
mod mitosis;
mod pg_tmp;
mod pgbench;
mod pglite;
mod plot;
mod program;
mod report;
mod row;
mod seed;
mod suite;
mod targets;
mod template;
mod velo;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use velo_benches::figures::label;
use velo_benches::{Args, Result, machine, publish};

use bounds::{STEP, within};
use catalog::Catalog;
use measure::Subject;
use report::Report;
use row::{Kind, Place};
use seed::Seed;

/// How much is measured.
pub(crate) struct Plan {
    short: bool,
    sizes: Vec<u64>,
    places: Vec<Place>,
    samples: usize,
    /// So many samples are taken however long they take.
    least: usize,
    /// How long the samples of one row may take in one stage.
    budget: Duration,
    /// How many are ready before one is asked for, as in a pool that has had the time to fill.
    ready: usize,
    callers: Vec<usize>,
    /// How many branches all callers together make.
    calls: usize,
    /// How often extents are looked at.
    looks: usize,
    /// How many idle branches memory is counted with, and how long they rest before.
    idle: Vec<usize>,
    rest: Duration,
    tests: usize,
    tests_limit: Duration,
    suite: usize,
    suite_limit: Duration,
    /// pgbench: so many rounds of so long, with so much data.
    rounds: usize,
    pgbench: Duration,
    scale: usize,
}

impl Plan {
    fn of(args: &Args) -> Result<Self> {
        let short = args.short;
        let sizes = args.sizes("--sizes", if short { "10MB" } else { "10MB,1GB,10GB" })?;
        let mut places = Place::ALL.to_vec();
        if let Some(list) = args.option::<String>("--places")? {
            places.retain(|place| {
                list.split(',').any(|name| name.eq_ignore_ascii_case(&place.to_string()))
            });
        }
        let seconds = Duration::from_secs;
        Ok(Self {
            short,
            sizes,
            places,
            samples: args.samples(2, 100, 1),
            least: if short { 1 } else { 4 },
            budget: if short { seconds(2) } else { seconds(60) },
            ready: if short { 1 } else { 4 },
            callers: if short { vec![1, 4] } else { vec![1, 4, 16] },
            calls: if short { 4 } else { 64 },
            looks: if short { 1 } else { 3 },
            idle: if short { vec![1, 3] } else { vec![1, 10, 100] },
            rest: if short { Duration::from_millis(200) } else { seconds(3) },
            tests: args.option("--tests")?.unwrap_or(if short { 6 } else { 1000 }),
            tests_limit: if short { seconds(2) } else { seconds(120) },
            suite: if short { 10 } else { 300 },
            suite_limit: if short { seconds(4) } else { seconds(300) },
            rounds: if short { 1 } else { 7 },
            pgbench: if short { seconds(1) } else { seconds(15) },
            scale: if short { 1 } else { 20 },
        })
    }

    fn smallest(&self) -> u64 {
        self.sizes.first().copied().unwrap_or_default()
    }

    /// Whether tests are counted there: where a target is, and where templates may win.
    fn tests_in(&self, place: Option<Place>, seed: &Seed) -> bool {
        match place {
            None => false,
            Some(_) if seed.is_huge() => false,
            Some(Place::Btrfs) => true,
            Some(Place::Ext4 | Place::Xfs) => !self.short,
            // It would be full of copies.
            Some(Place::Memory) => !self.short && seed.is_small(),
        }
    }
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--sizes", "--places", "--tests"], &[])?;
    let plan = Plan::of(&args)?;
    // One thread, which lives as long as the process: bare servers end with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, compare(&plan))?;
    let plots = report.plots();
    let (text, data) = (report.render(&plots), report.json());
    publish("compare", &text, &data, args.json.as_deref(), args.write)?;
    if args.write {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        for (name, svg) in plots {
            std::fs::write(results.join(name), svg)?;
        }
    }
    match report.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(failures.join("\n").into()),
    }
}

async fn compare(plan: &Plan) -> Result<Report> {
    let catalog = Catalog::of_environment();
    let mut report = Report::default();
    if catalog.postgres.is_empty() {
        println!("skipped: VELO_TEST_PG names no PostgreSQL");
        return Ok(report);
    }
    let mut there = Vec::new();
    for place in plan.places.iter().copied() {
        match place.folder() {
            Some(folder) => {
                report.file_systems.push((place, machine::file_system(&folder)));
                there.push((place, folder));
            }
            None => {
                let why = format!("{} names no folder", place.variable().unwrap_or_default());
                println!("skipped: {place}: {why}");
                let (row, size) = ("all".to_owned(), plan.smallest());
                report.skipped.push(catalog::Skip { row, place, size, why });
            }
        }
    }
    for size in plan.sizes.iter().copied() {
        let seed = Seed::sized(size);
        for (place, folder) in &there {
            eprintln!("{place}, {}", label(size));
            let base = Base::new(folder)?;
            let rows = catalog.rows(*place, &seed, &base.0);
            report.skipped.extend(rows.skipped);
            let mut subjects: Vec<Subject> =
                rows.rows.into_iter().map(|row| Subject::new(row, *place, size)).collect();
            let interrupted = tokio::select! {
                () = measure::all(&mut subjects, &seed, plan) => None,
                interrupt = tokio::signal::ctrl_c() => Some(interrupt),
            };
            measure::end(&mut subjects).await;
            if let Some(interrupt) = interrupted {
                interrupt?;
                return Err("interrupted".into());
            }
            report.rows.extend(subjects.into_iter().map(|subject| subject.measured));
        }
    }
    for (place, folder) in &there {
        eprintln!("a suite on {place}");
        suites(&catalog, *place, folder, plan, &mut report).await?;
    }
    for (place, folder) in there.iter().filter(|(place, _)| place.clones()) {
        if plan.short && *place != Place::Btrfs {
            continue;
        }
        eprintln!("pgbench on {place}");
        let Some((_, bin)) = catalog.newest() else { continue };
        let base = Base::new(folder)?;
        match pgbench::measure(*place, bin, &base.0, plan).await {
            Ok(measured) => report.throughput.extend(measured),
            Err(error) => report.failed.push(format!("pgbench on {place}: {error}")),
        }
    }
    Ok(report)
}

/// The suite with each row, alone and from nothing.
async fn suites(
    catalog: &Catalog,
    place: Place,
    folder: &Path,
    plan: &Plan,
    report: &mut Report,
) -> Result<()> {
    let seed = Seed::shop();
    for number in 0.. {
        let base = Base::new(folder)?;
        let mut rows = catalog.rows(place, &seed, &base.0).rows;
        if number >= rows.len() {
            return Ok(());
        }
        let mut row = rows.swap_remove(number);
        drop(rows);
        let kind = row.kind();
        // In short whether it works is enough: once for Velo, once for a peer.
        let wanted = match kind {
            Kind::Floor => false,
            _ if !plan.short => true,
            Kind::Velo | Kind::Template(15, row::Strategy::WalLog) => place == Place::Btrfs,
            _ => false,
        };
        if !wanted {
            continue;
        }
        let limit = plan.suite_limit + 2 * STEP;
        let done = within(limit, suite::shop(&mut *row, plan.suite, plan.suite_limit)).await;
        let ended = within(STEP, row.end()).await;
        match done.and_then(|done| ended.map(|()| done)) {
            Ok(done) => report.suites.push((kind, place, done)),
            Err(error) => report.failed.push(format!("the suite with {kind} on {place}: {error}")),
        }
    }
    Ok(())
}

/// A folder of this process's, which goes with it. None is used twice: Velo knows a home as open.
struct Base(PathBuf);

impl Base {
    fn new(folder: &Path) -> Result<Self> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = folder.join(format!("cmp-{}-{number}", std::process::id()));
        std::fs::create_dir(&base)?;
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(base))
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
