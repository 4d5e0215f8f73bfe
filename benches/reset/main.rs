//! How long a URL does not answer while its branch is reset: `cargo bench -p velo-benches --bench reset`.
//!
//! A client connects to a persistent branch and asks again and again, as fast as it is answered. The *gap* of
//! an operation is the longest time between two answers in a row meanwhile. In turn are measured, on the same
//! branch:
//! - `Branch::restart`: a clean stop and a clean start of the same server, which a reset cannot do without;
//! - `Branch::reset`: the parent's data under the same URL.
//!
//! ```text
//! cargo bench -p velo-benches --bench reset -- [--short] [--samples N] [--json FILE] [--write]
//! ```
//! In the folders that `VELO_TEST_BTRFS` and `VELO_TEST_XFS` name; PostgreSQL is the newest of `VELO_TEST_PG`,
//! else the one that Velo finds. `--write` renews `benches/results/reset.md`.

mod gap;

use std::path::Path;

use serde_json::{Value, json};
use velo_benches::figures::{Times, ms};
use velo_benches::{Args, Result, Table, client, cloning_places, in_project, machine, publish};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project};

/// What was measured of one storage.
struct Measured {
    storage: StorageKind,
    file_system: String,
    /// The gap of a restart, that of a reset, and all of a reset.
    restart: Times,
    reset: Times,
    whole: Times,
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&[], &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Vec::new();
    for (storage, folder) in cloning_places() {
        all.push(runtime.block_on(measure(storage, &folder, args.samples(5, 25, 1)))?);
    }
    if all.is_empty() {
        return Ok(());
    }
    publish("reset", &render(&all), &data(&all), args.json.as_deref(), args.write)
}

async fn measure(storage: StorageKind, folder: &Path, samples: usize) -> Result<Measured> {
    let home = folder.join(format!("velo-reset-{}", std::process::id()));
    in_project(&home, storage, async |project| sample(project, storage, folder, samples).await)
        .await
}

async fn sample(
    project: &Project,
    storage: StorageKind,
    folder: &Path,
    samples: usize,
) -> Result<Measured> {
    let branch = Branch::create(project, BranchSpec::named("b")).await?;
    let mut measured = Measured {
        storage,
        file_system: machine::file_system(folder),
        restart: Times::default(),
        reset: Times::default(),
        whole: Times::default(),
    };
    for _ in 0..samples {
        let (gap, _) = gap::of(&branch.connection(), branch.restart()).await?;
        measured.restart.add(gap);
        let session = client::connect(&branch.connection()).await?;
        session.batch_execute("CREATE TABLE mine AS SELECT 1").await?;
        drop(session);
        let (gap, whole) = gap::of(&branch.connection(), branch.reset()).await?;
        measured.reset.add(gap);
        measured.whole.add(whole);
        let session = client::first_answer(&branch.connection()).await?;
        let row = session.query_one("SELECT to_regclass('mine') IS NULL", &[]).await?;
        if !row.get::<_, bool>(0) {
            return Err("a reset left what was made in the branch".into());
        }
    }
    Ok(measured)
}

fn render(all: &[Measured]) -> String {
    let mut table = Table::new(&[
        "storage",
        "samples",
        "restart",
        "p95",
        "reset",
        "p95",
        "ratio",
        "(whole reset)",
        "p95",
    ]);
    let mut systems = String::new();
    for one in all {
        systems.push_str(&format!("- {}: {}\n", one.storage, one.file_system));
        table.row(vec![
            one.storage.to_string(),
            one.reset.0.len().to_string(),
            ms(one.restart.median()),
            ms(one.restart.at(0.95)),
            ms(one.reset.median()),
            ms(one.reset.at(0.95)),
            format!("{:.2}", one.reset.median() / one.restart.median()),
            ms(one.whole.median()),
            ms(one.whole.at(0.95)),
        ]);
    }
    format!(
        "# How long a URL does not answer while its branch is reset\n\n\
         Written by `cargo bench -p velo-benches --bench reset -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n{systems}\n\
         The longest time between two answers in a row to a client that asks without a pause, over TCP and \
         with\na new connection each time, of a fresh cluster. A restart is a clean stop and a clean start of \
         the same\nserver; the ratio is that of a reset to it. Milliseconds; samples were taken in turn.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        table.render()
    )
}

fn data(all: &[Measured]) -> Value {
    let rows = all.iter().map(|one| {
        json!({
            "storage": one.storage.to_string(),
            "file_system": one.file_system,
            "restart_gap": one.restart.json(),
            "reset_gap": one.reset.json(),
            "reset": one.whole.json(),
        })
    });
    json!({"date": machine::today(), "machine": machine::describe(), "rows": rows.collect::<Vec<_>>()})
}
