//! What a branch that is ready costs whoever asks: `cargo bench -p velo-benches --bench ready`.
//!
//! Measured in one run, for each size of a seed:
//! - *handover*: `Pool::acquire` until it returns, ten times a second;
//! - *of a run*: the same in two processes of a run, each five times a second, from the pool of their keeper;
//! - *saturated*: the same without a pause, so that each one has to be started first;
//! - *cold*: `Seed::branch`, where nothing is ready;
//! - *tests*: a thousand small tests, each with a branch from the pool, as many at a time as there are cores;
//! - the first answer of a branch that was handed over, and in turn with it that of a server that is warm,
//!   each over a new connection, and by turns the one or the other first: what comes first meets the start of
//!   the branch that replaces the one that was handed over.
//!
//! ```text
//! cargo bench -p velo-benches --bench ready -- [--short] [--sizes 40MB,1GB] [--samples N] [--tests N]
//!     [--json FILE] [--write]
//! ```
//! In the folder that `VELO_TEST_BTRFS` names; PostgreSQL is the newest of `VELO_TEST_PG`, else the one that
//! Velo finds. `--write` renews `benches/results/ready.md`.

mod shared;
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use velo_benches::figures::{Times, label, ms};
use velo_benches::{Args, Result, Table, client, in_project, machine, publish};
use velo_core::storage::StorageKind;
use velo_core::{Branch, Pool, Project, Seed, SeedKey};

/// What is to be reached, in milliseconds, of one process and of a run.
const HANDOVER_MS: f64 = 1.0;
const HANDOVER_P99_MS: f64 = 5.0;
/// And over a warm server.
const FIRST_RATIO: f64 = 1.1;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(100);

/// What was measured of a seed.
struct Measured {
    size: u64,
    handover: Times,
    /// The handover in processes of a run.
    of_run: Times,
    saturated: Times,
    cold: Times,
    first: Times,
    warm: Times,
    tests: tests::Done,
}

fn main() -> std::process::ExitCode {
    match std::env::var_os(shared::HOME) {
        Some(home) => velo_benches::ended(shared::asks(Path::new(&home))),
        None => velo_benches::ended(run()),
    }
}

fn run() -> Result<()> {
    let args = Args::parse(&["--sizes", "--tests"], &[])?;
    let samples = args.samples(20, 200, 2);
    let tests = args.option("--tests")?.unwrap_or(if args.short { 50 } else { 1000 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(folder) = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from) else {
        println!("skipped: VELO_TEST_BTRFS names no folder");
        return Ok(());
    };
    let mut all = Vec::new();
    for size in args.sizes("--sizes", if args.short { "40MB" } else { "40MB,1GB" })? {
        all.push(runtime.block_on(measure(&folder, size, samples, tests))?);
    }
    publish("ready", &render(&all, &folder), &data(&all), args.json.as_deref(), args.write)
}

async fn measure(folder: &Path, size: u64, samples: usize, tests: usize) -> Result<Measured> {
    let home = folder.join(format!("velo-ready-{}-{}", std::process::id(), size >> 20));
    let sample = async |project: &Project| sample(project, &home, size, samples, tests).await;
    in_project(&home, StorageKind::Btrfs, sample).await
}

/// A seed of about this size, with the data that every cluster has.
async fn seed(project: &Project, size: u64) -> Result<Seed> {
    let rows = size.saturating_sub(40 << 20) / 1024;
    let key = SeedKey::new().code(include_str!("main.rs")).text(label(size)).label("ready");
    let seed = project.seed(key, async |branch| {
        let session = client::connect(&branch.connection()).await?;
        let fill = format!(
            "CREATE TABLE filler AS SELECT x, repeat(md5(x::text), 30) FROM generate_series(1, {rows}) x"
        );
        session.batch_execute(&fill).await
    });
    Ok(seed.await?)
}

async fn sample(
    project: &Project,
    home: &Path,
    size: u64,
    samples: usize,
    tests: usize,
) -> Result<Measured> {
    let seed = seed(project, size).await?;
    let mut measured = Measured {
        size,
        handover: Times::default(),
        of_run: Times::default(),
        saturated: Times::default(),
        cold: Times::default(),
        first: Times::default(),
        warm: Times::default(),
        tests: tests::Done::default(),
    };
    for _ in 0..samples.div_ceil(4) {
        let begun = Instant::now();
        let branch = seed.branch().await?;
        measured.cold.add(begun.elapsed());
        branch.close().await?;
    }
    let pool = filled(&seed).await?;
    let warm = seed.branch().await?;
    client::first_answer(&warm.connection()).await?;
    let mut next = Instant::now();
    for sample in 0..samples {
        next += PAUSE;
        tokio::time::sleep_until(next.into()).await;
        let begun = Instant::now();
        let branch = pool.acquire().await?;
        measured.handover.add(begun.elapsed());
        if sample % 2 == 0 {
            measured.first.add(answered(&branch).await?);
            measured.warm.add(answered(&warm).await?);
        } else {
            measured.warm.add(answered(&warm).await?);
            measured.first.add(answered(&branch).await?);
        }
        tokio::spawn(branch.close());
    }
    drop((pool, warm));
    project.finish_deletions().await?;
    // Before so many at once: btrfs goes on for a while with what they leave.
    measured.of_run = shared::measure(home, samples)?;
    let pool = filled(&seed).await?;
    for _ in 0..samples.div_ceil(2) {
        let begun = Instant::now();
        let branch = pool.acquire().await?;
        measured.saturated.add(begun.elapsed());
        tokio::spawn(branch.close());
    }
    drop(pool);
    project.finish_deletions().await?;
    // At last, for the same reason.
    measured.tests = tests::run(&filled(&seed).await?, tests).await?;
    Ok(measured)
}

/// Its pool, when four branches are ready.
async fn filled(seed: &Seed) -> Result<Pool> {
    let pool = seed.pool()?;
    pool.keep_ready(4, 8).await?;
    while pool.info().await?.ready < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(pool)
}

/// How long the first answer over a new connection takes.
async fn answered(branch: &Branch) -> Result<Duration> {
    let begun = Instant::now();
    client::first_answer(&branch.connection()).await?;
    Ok(begun.elapsed())
}

fn render(all: &[Measured], folder: &Path) -> String {
    let mut table = Table::new(&[
        "seed",
        "samples",
        "handover",
        "p99",
        "of a run",
        "p99",
        "saturated",
        "p99",
        "cold",
        "first answer",
        "warm",
        "ratio",
        "tests a second",
    ]);
    for one in all {
        table.row(vec![
            label(one.size),
            one.handover.0.len().to_string(),
            format!("{:.2}", one.handover.median()),
            format!("{:.2}", one.handover.at(0.99)),
            format!("{:.2}", one.of_run.median()),
            format!("{:.2}", one.of_run.at(0.99)),
            ms(one.saturated.median()),
            ms(one.saturated.at(0.99)),
            ms(one.cold.median()),
            ms(one.first.median()),
            ms(one.warm.median()),
            format!("{:.2}", one.first.median() / one.warm.median()),
            format!("{:.0} ({})", one.tests.a_second(), one.tests.count),
        ]);
    }
    format!(
        "# What a branch that is ready costs whoever asks\n\n\
         Written by `cargo bench -p velo-benches --bench ready -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n- File system: {}\n\n\
         Handover: `Pool::acquire`, ten times a second, from one process; of a run: the same from two that \
         share a pool;\nsaturated: from one without a pause; cold: `Seed::branch`. First answer: a new connection \
         and `SELECT 1`, of a\nbranch that was just handed over, and in turn with it of a server that has answered \
         before, by turns the one or\nthe other at once, while a replacement is started; the ratio is that of the \
         two. Milliseconds, medians.\nTests a second: of so many, each with a branch from the pool, a connection \
         and a table of its own, as many at a\ntime as there are cores.\n\n{}\n## Targets\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        machine::file_system(folder),
        table.render(),
        targets(all).render()
    )
}

/// What is to be reached. A cold branch beside its floor is the benchmark `create`'s.
fn targets(all: &[Measured]) -> Table {
    let mut table = Table::new(&["target", "seed", "figure", ""]);
    for one in all {
        let ratio = one.first.median() / one.warm.median();
        for (what, figure, most, unit) in [
            ("handover", one.handover.median(), HANDOVER_MS, " ms"),
            ("handover, p99", one.handover.at(0.99), HANDOVER_P99_MS, " ms"),
            ("handover of a run", one.of_run.median(), HANDOVER_MS, " ms"),
            ("handover of a run, p99", one.of_run.at(0.99), HANDOVER_P99_MS, " ms"),
            ("first answer over a warm one", ratio, FIRST_RATIO, ""),
        ] {
            table.row(vec![
                format!("{what}: {most}{unit} at most"),
                label(one.size),
                format!("{figure:.2}{unit}"),
                if figure <= most { "met" } else { "MISSED" }.to_owned(),
            ]);
        }
    }
    table
}

fn data(all: &[Measured]) -> Value {
    let rows = all.iter().map(|one| {
        json!({
            "seed": label(one.size),
            "handover": one.handover.json(),
            "handover_of_run": one.of_run.json(),
            "saturated": one.saturated.json(),
            "cold": one.cold.json(),
            "first_answer": one.first.json(),
            "warm_answer": one.warm.json(),
            "tests": one.tests.count,
            "tests_a_second": one.tests.a_second(),
        })
    });
    json!({"date": machine::today(), "machine": machine::describe(), "rows": rows.collect::<Vec<_>>()})
}
