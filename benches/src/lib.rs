//! What the benchmarks share: the one client, the machine's description, figures and their tables.

mod args;
pub mod client;
pub mod engine;
pub mod extents;
pub mod figures;
pub mod floor;
pub mod machine;
pub mod process;
pub mod server;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use args::Args;
pub use table::Table;
use velo_core::storage::StorageKind;
use velo_core::{Config, Project};

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

/// Prints a report; writes its data to `json`, and with `write` the text to `results/<name>.md`, above what stands there
/// after a line `<!-- notes -->`.
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
    keep(name, text, data, json, write)
}

/// The same of a run that is not over yet, without printing anything of it.
///
/// # Errors
/// If a file cannot be written.
pub fn keep(
    name: &str,
    text: &str,
    data: &serde_json::Value,
    json: Option<&Path>,
    write: bool,
) -> Result<()> {
    if let Some(path) = json {
        std::fs::write(path, format!("{data:#}\n"))?;
    }
    if write {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let path = results.join(format!("{name}.md"));
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, with_notes(text, &before))?;
        eprintln!("wrote benches/results/{name}.md");
    }
    Ok(())
}

/// Begins what people have written below a report, and no run replaces.
const NOTES: &str = "<!-- notes -->";

/// The text with the notes that stood below the one before.
fn with_notes(text: &str, before: &str) -> String {
    match before.split_once(&format!("\n{NOTES}\n")) {
        Some((_, notes)) => format!("{}\n\n{NOTES}\n{notes}", text.trim_end()),
        None => text.to_owned(),
    }
}

/// The PostgreSQLs of `VELO_TEST_PG` (`15=/…/bin 18=/…/bin`): major, folder of programs.
#[must_use]
pub fn all_postgres() -> Vec<(u32, PathBuf)> {
    let list = std::env::var("VELO_TEST_PG").unwrap_or_default();
    list.split_whitespace()
        .filter_map(|item| {
            let (major, dir) = item.split_once('=')?;
            Some((major.parse::<u32>().ok()?, PathBuf::from(dir)))
        })
        .collect()
}

/// The newest PostgreSQL of `VELO_TEST_PG`.
#[must_use]
pub fn postgres() -> Option<PathBuf> {
    all_postgres().into_iter().max().map(|(_, dir)| dir)
}

/// Measures something in a project of its own, with the newest PostgreSQL, in a home that is not there yet. Whatever
/// comes of it, nothing stays.
///
/// # Errors
/// Those of `measure`, or if the project cannot be made or deleted.
pub async fn in_project<T>(
    home: &Path,
    storage: StorageKind,
    measure: impl AsyncFnOnce(&Project) -> Result<T>,
) -> Result<T> {
    let mut config = Config::builder().home(home).storage(storage);
    if let Some(bin) = postgres() {
        config = config.pg_bin(bin);
    }
    let project = Project::builder("api").config(config.build()?).create().await?;
    let measured = measure(&project).await;
    let deleted = project.delete(true).await;
    let measured = measured?;
    deleted?;
    std::fs::remove_dir_all(home)?;
    Ok(measured)
}

/// The storages that clone, and the folders that the environment names for them; one that it names none for is said
/// to be skipped.
pub fn cloning_places() -> impl Iterator<Item = (StorageKind, PathBuf)> {
    let all = [(StorageKind::Btrfs, "VELO_TEST_BTRFS"), (StorageKind::Reflink, "VELO_TEST_XFS")];
    all.into_iter().filter_map(|(storage, var)| {
        let folder = std::env::var_os(var).map(PathBuf::from);
        if folder.is_none() {
            println!("skipped: {storage}: {var} names no folder");
        }
        Some((storage, folder?))
    })
}

#[cfg(test)]
mod tests {
    use super::with_notes;

    #[test]
    fn notes_stay_where_a_report_is_written_anew() {
        let first = with_notes("# Report\n\n| 1 |\n", "");
        assert_eq!(first, "# Report\n\n| 1 |\n");
        let noted = format!("{first}\n<!-- notes -->\n\n## Why\n\nBy hand.\n");
        let second = with_notes("# Report\n\n| 2 |\n", &noted);
        assert_eq!(second, "# Report\n\n| 2 |\n\n<!-- notes -->\n\n## Why\n\nBy hand.\n");
        assert_eq!(with_notes("# Report\n\n| 2 |\n", &second), second);
    }
}
