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
//! Places are the folders that `VELO_TEST_BTRFS`, `VELO_TEST_XFS` and `VELO_TEST_EXT4` name, and `VELO_TEST_MEMORY`, or
//! /dev/shm. The servers
//! are those of `VELO_TEST_PG`; Velo's is the newest of them. Containers are of the engine of `DOCKER_HOST` and of the
//! image `VELO_TEST_IMAGE_DEBIAN`. `VELO_TEST_PEER_MITOSIS` and `VELO_TEST_PEER_PG_TMP` name programs,
//! `VELO_TEST_PEER_PGLITE` a folder with `pglite.mjs` and its modules. A row whose peer is not there is in the table of
//! what was not measured, with the reason; so is a seed for which a place has no room. `--short` is the small seed with few samples, as CI runs it: several callers,
//! memory, tests and pgbench on btrfs alone, extents where files share any. `--write`
//! renews `benches/results/compare.md` and the plots beside it. A missed target is said, and is no failure; a row that
//! breaks is one. Results are kept after each place with each seed; a signal ends the run, and what was made.

mod behind;
mod bounds;
mod catalog;
mod cluster;
mod container;
mod measure;
mod mitosis;
mod pg_tmp;
mod pgbench;
mod pglite;
mod plan;
mod plot;
mod program;
mod report;
mod row;
mod seed;
mod space;
mod suite;
mod targets;
mod template;
mod velo;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use velo_benches::figures::label;
use velo_benches::{Args, Result, machine};

use bounds::{STEP, Signals, within};
use catalog::Catalog;
use measure::Subject;
use pgbench::Throughput;
use plan::Plan;
use report::Report;
use row::{Kind, Place};
use seed::Seed;

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--sizes", "--places", "--tests"], &[])?;
    let plan = Plan::of(&args)?;
    if args.write && plan.short {
        return Err(
            "--write is for a whole run: --short shows that it works, and measures little".into()
        );
    }
    let (arguments, commit, load) = (arguments(), machine::commit(), machine::load());
    let mut report = Report { arguments, commit, load, ..Report::default() };
    let output = Output { json: args.json, write: args.write };
    // One thread, which lives as long as the process: bare servers end with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let compared =
        tokio::task::LocalSet::new().block_on(&runtime, compare(&plan, &output, &mut report));
    if let Err(error) = compared {
        report.failed.push(error.to_string());
    } else {
        report.whole = true;
    }
    output.keep(&mut report);
    println!("{}", report.render(&report.plots()));
    if report.is_empty() && output.write {
        report.failed.push("nothing was measured: compare.md is as it was".to_owned());
    }
    match report.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(failures.join("\n").into()),
    }
}

/// The command line, without what is cargo's, and what names a file of this machine.
fn arguments() -> String {
    let mut all: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(at) = all.iter().position(|arg| arg == "--json") {
        all.drain(at..all.len().min(at + 2));
    }
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

/// Where results go.
struct Output {
    json: Option<PathBuf>,
    write: bool,
}

impl Output {
    /// Keeps all that is known by now: whatever comes later, hours of measuring are not lost.
    fn keep(&self, report: &mut Report) {
        if report.is_empty() {
            return;
        }
        if let Err(error) = self.written(report) {
            report.fail("results cannot be written", &error);
        }
    }

    fn written(&self, report: &Report) -> Result<()> {
        let plots = report.plots();
        let (text, data) = (report.render(&plots), report.json());
        velo_benches::keep("compare", &text, &data, self.json.as_deref(), self.write)?;
        if !self.write {
            return Ok(());
        }
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        // Those of an earlier run may be of sizes that this one does not have.
        for entry in std::fs::read_dir(&results)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let name = name.to_string_lossy();
            if name.starts_with("compare-") && name.ends_with(".svg") {
                std::fs::remove_file(path)?;
            }
        }
        for (name, svg) in plots {
            std::fs::write(results.join(name), svg)?;
        }
        Ok(())
    }
}

/// Measures all that is there. What breaks is in the report, and the rest goes on; an error is what ends the run.
async fn compare(plan: &Plan, output: &Output, report: &mut Report) -> Result<()> {
    let mut signals = Signals::listen()?;
    let catalog = Catalog::of_environment();
    if catalog.postgres.is_empty() {
        println!("skipped: VELO_TEST_PG names no PostgreSQL");
        return Ok(());
    }
    let mut there = Vec::new();
    for place in plan.places.iter().copied() {
        match place.folder() {
            Some(folder) => {
                report.file_systems.push((place, machine::file_system(&folder)));
                there.push((place, folder));
            }
            None => {
                let why = format!("{} names no folder", place.variable());
                println!("skipped: {place}: {why}");
                let (row, size) = ("all".to_owned(), plan.smallest());
                report.skipped.push(catalog::Skip { row, place, size, why });
            }
        }
    }
    let (huge, others): (Vec<u64>, Vec<u64>) =
        plan.sizes.iter().copied().partition(|size| Seed::sized(*size).is_huge());
    seeds(&others, &catalog, plan, &there, output, &mut signals, report).await?;
    for (place, folder) in &there {
        eprintln!("a suite on {place}");
        let run = Run { catalog: &catalog, plan, place: *place, folder };
        let measured = suites(&run, output, &mut signals, report).await;
        if let Err(error) = &measured {
            report.fail(&format!("the suite on {place}"), error);
        }
        output.keep(report);
        signals.unless(async {}).await.ok_or("ended by a signal")?;
    }
    for (place, folder) in there.iter().filter(|(place, _)| place.clones()) {
        if plan.short && *place != Place::Btrfs {
            continue;
        }
        eprintln!("pgbench on {place}");
        match throughput(&catalog, *place, folder, plan, &mut signals).await {
            Ok(measured) => report.throughput.extend(measured),
            Err(error) => report.fail(&format!("pgbench on {place}"), &error),
        }
        output.keep(report);
        signals.unless(async {}).await.ok_or("ended by a signal")?;
    }
    // They take longest, and tell least.
    seeds(&huge, &catalog, plan, &there, output, &mut signals, report).await
}

/// All rows in each place, with a seed of each size.
async fn seeds(
    sizes: &[u64],
    catalog: &Catalog,
    plan: &Plan,
    there: &[(Place, PathBuf)],
    output: &Output,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<()> {
    for size in sizes.iter().copied() {
        for (place, folder) in there {
            eprintln!("{place}, {}", label(size));
            let folders = there.iter().map(|(_, folder)| folder.as_path());
            let run = Run { catalog, plan, place: *place, folder };
            let measured = rows(&run, folders, size, signals, report).await;
            if let Err(error) = &measured {
                report.fail(&format!("{place}, {}", label(size)), error);
            }
            output.keep(report);
            signals.unless(async {}).await.ok_or("ended by a signal")?;
        }
    }
    Ok(())
}

/// What is measured in one place.
struct Run<'a> {
    catalog: &'a Catalog,
    plan: &'a Plan,
    place: Place,
    folder: &'a Path,
}

/// All rows of a place with one seed. Those of all `folders` may have what is missing of the disk.
async fn rows(
    run: &Run<'_>,
    folders: impl Iterator<Item = &Path> + Clone,
    size: u64,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<()> {
    let Run { catalog, plan, place, folder } = *run;
    let seed = Seed::sized(size);
    let base = Base::new(folder)?;
    let rows = catalog.rows(place, &seed, &base.0);
    report.skipped.extend(rows.skipped);
    let mut left_out = |what: &str, why: &str| {
        let (row, why) = (what.to_owned(), why.to_owned());
        report.skipped.push(catalog::Skip { row, place, size, why });
    };
    if !plan.tests_in(Some(place), &seed) {
        left_out("tests", "counted on btrfs and ext4, and in memory with the smallest seed");
    }
    if size != plan.smallest() {
        left_out(
            "memory of idle branches",
            "counted with the smallest seed: it does not depend on it",
        );
    }
    // The short form is small wherever it runs.
    if !plan.short {
        let lacks = space::lacks(folder, folders, space::needed(&rows.rows, place, &seed));
        let lacks = signals.unless(lacks).await.ok_or("ended by a signal")??;
        if let Some(why) = lacks {
            eprintln!("  skipped: {why}");
            report.skipped.push(catalog::Skip { row: "all".to_owned(), place, size, why });
            return Ok(());
        }
    }
    let mut subjects: Vec<Subject> =
        rows.rows.into_iter().map(|row| Subject::new(row, place, size)).collect();
    let interrupted = signals.unless(measure::all(&mut subjects, &seed, plan)).await.is_none();
    measure::end(&mut subjects).await;
    // What was cut off has its figures all the same.
    if interrupted {
        let cut = |subject: &mut Subject| subject.measured.notes.push("cut off by a signal".into());
        subjects.iter_mut().for_each(cut);
    }
    report.rows.extend(subjects.into_iter().map(|subject| subject.measured));
    Ok(())
}

/// The suite with each row, alone and from nothing.
async fn suites(
    run: &Run<'_>,
    output: &Output,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<()> {
    let Run { catalog, plan, place, folder } = *run;
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
        // In short whether it works is enough: once for Velo, and for two of its peers.
        let wanted = match kind {
            Kind::Floor => false,
            _ if !plan.short => true,
            Kind::Velo | Kind::Template(15, row::Strategy::WalLog) => place == Place::Btrfs,
            Kind::Pglite => true,
            _ => false,
        };
        if !wanted {
            continue;
        }
        let limit = plan.suite_limit + 2 * STEP;
        let suite = within(limit, suite::shop(&mut *row, plan.suite, plan.suite_limit));
        let done = signals.unless(suite).await;
        let ended = within(STEP, row.end()).await;
        if let Err(error) = ended {
            report.fail(&format!("the end of the suite with {kind} on {place}"), &error);
        }
        match done {
            Some(Ok(done)) => report.suites.push((kind, place, done)),
            Some(Err(error)) => report.fail(&format!("the suite with {kind} on {place}"), &error),
            None => return Ok(()),
        }
        output.keep(report);
    }
    Ok(())
}

/// pgbench on one file system.
async fn throughput(
    catalog: &Catalog,
    place: Place,
    folder: &Path,
    plan: &Plan,
    signals: &mut Signals,
) -> Result<Vec<Throughput>> {
    let Some((_, bin)) = catalog.newest() else { return Ok(Vec::new()) };
    let base = Base::new(folder)?;
    pgbench::measure(place, bin, &base.0, plan, signals).await
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
