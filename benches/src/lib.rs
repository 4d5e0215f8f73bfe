//! What the benchmarks share: the one client, the machine's description, figures and their tables.

pub mod client;
pub mod figures;
pub mod machine;
pub mod server;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use table::Table;

/// Whatever went wrong.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs a benchmark, and says why it failed.
pub fn ended(run: Result<()>) -> ExitCode {
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a report; writes its data to `json`, and with `write` the text to `results/<name>.md`.
///
/// # Errors
/// If a file cannot be written.
pub fn publish(
    name: &str,
    text: &str,
    data: &serde_json::Value,
    json: Option<&Path>,
    write: bool,
) -> Result<()> {
    println!("{text}");
    if let Some(path) = json {
        std::fs::write(path, format!("{data:#}\n"))?;
    }
    if write {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        std::fs::write(results.join(format!("{name}.md")), text)?;
        eprintln!("wrote benches/results/{name}.md");
    }
    Ok(())
}

/// The newest PostgreSQL of `VELO_TEST_PG` (`15=/…/bin 18=/…/bin`).
#[must_use]
pub fn postgres() -> Option<PathBuf> {
    let list = std::env::var("VELO_TEST_PG").ok()?;
    list.split_whitespace()
        .filter_map(|item| {
            let (major, dir) = item.split_once('=')?;
            Some((major.parse::<u32>().ok()?, PathBuf::from(dir)))
        })
        .max()
        .map(|(_, dir)| dir)
}
