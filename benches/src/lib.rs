//! What the benchmarks share: the one client, the machine's description, figures and their tables.

pub mod client;
pub mod figures;
pub mod machine;
pub mod server;
mod table;

use std::path::PathBuf;

pub use table::Table;

/// Whatever went wrong.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

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
