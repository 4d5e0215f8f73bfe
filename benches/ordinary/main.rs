//! A branch on machines without a file system that clones: `cargo bench -p velo-benches --bench ordinary`.
//!
//! What most test suites run on, one sample of each in turn:
//! - the *floor*: one copy by as many threads as there are cores, one bare `postgres` on it with the settings that
//!   a branch really has, one connection, until its first query is answered;
//! - `Seed::branch`, where nothing is ready, until its first query is answered by the same client code.
//!
//! They are measured on ext4, and in a container without any privilege, whose files are on overlayfs and whose
//! /dev/shm has 64 MB; and each of them once more with the home in memory (tmpfs), to show what that would bring.
//!
//! ```text
//! cargo bench -p velo-benches --bench ordinary -- [--short] [--samples N] [--json FILE] [--write]
//! ```
//! On ext4 in the folder that `VELO_TEST_EXT4` names, with the newest PostgreSQL of `VELO_TEST_PG`, else the one that
//! Velo finds; the container by the engine of `DOCKER_HOST`, of the image `VELO_TEST_IMAGE_DEBIAN`, with the image's
//! PostgreSQL. `--write` renews `benches/results/ordinary.md`.

mod container;
mod measure;

use std::path::Path;

use measure::Measured;
use serde_json::{Value, json};
use velo_benches::figures::ms;
use velo_benches::{Args, Result, Table, machine, publish};

/// How much more than the floor a branch may take, in milliseconds.
const BEYOND_MS: f64 = 60.0;

/// Says to a process that it measures in this folder, and nothing else.
const FOLDER: &str = "VELO_TEST_ORDINARY";

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&[], &[])?;
    let samples = args.samples(5, 40, 2);
    // One thread, which lives as long as the process: bare servers end with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let measured = measure::measure("", Path::new(&folder), samples).await?;
            println!("{}", serde_json::to_string(&measured)?);
            return Ok(());
        }
        let mut all = Vec::new();
        match std::env::var_os("VELO_TEST_EXT4") {
            Some(folder) => {
                all.push(measure::measure("ext4", Path::new(&folder), samples).await?);
                let memory = Path::new("/dev/shm");
                all.push(measure::measure("memory", memory, samples).await?);
            }
            None => println!("skipped: VELO_TEST_EXT4 names no folder"),
        }
        match std::env::var("VELO_TEST_IMAGE_DEBIAN") {
            Ok(image) => {
                for memory in [false, true] {
                    all.push(container::measure(&image, memory, samples).await?);
                }
            }
            Err(_) => println!("skipped: VELO_TEST_IMAGE_DEBIAN names no image"),
        }
        publish("ordinary", &render(&all), &data(&all), args.json.as_deref(), args.write)
    })
}

fn render(all: &[Measured]) -> String {
    let mut table = Table::new(&[
        "place",
        "samples",
        "floor",
        "p95",
        "(copy)",
        "Velo",
        "p95",
        "(copy)",
        "beyond",
        "close",
        "at most 60 ms",
    ]);
    for one in all {
        let beyond = one.velo.median() - one.floor.median();
        table.row(vec![
            one.place.clone(),
            one.velo.0.len().to_string(),
            ms(one.floor.median()),
            ms(one.floor.at(0.95)),
            ms(one.floor_clone.median()),
            ms(one.velo.median()),
            ms(one.velo.at(0.95)),
            ms(one.clone.median()),
            ms(beyond),
            ms(one.close.median()),
            if beyond <= BEYOND_MS { "met" } else { "MISSED" }.to_owned(),
        ]);
    }
    let places: Vec<String> = all
        .iter()
        .map(|one| format!("- {}: {}, PostgreSQL {}\n", one.place, one.file_system, one.postgres))
        .collect();
    format!(
        "# A branch without a file system that clones\n\n\
         Written by `cargo bench -p velo-benches --bench ordinary -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n{}\n\
         A seed of 40 MB, nothing ready, until the first answer over TCP. The floor is one copy by as many threads as \
         there are\ncores, one bare `postgres` on it with a branch's own settings, and the same connection. The container \
         has no\ncapability, an ordinary user, and 64 MB of /dev/shm. Milliseconds, medians; samples were taken in \
         turn.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        places.concat(),
        table.render()
    )
}

fn data(all: &[Measured]) -> Value {
    json!({"date": machine::today(), "machine": machine::describe(), "rows": all})
}
