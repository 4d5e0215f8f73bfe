//! Where PostgreSQL is installed, and which version it is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A version of PostgreSQL: `15.8` is major 15, minor 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// 14, 15, ….
    pub major: u32,
    /// The number behind the point; 0 for a beta.
    pub minor: u32,
}

/// How an installation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// The caller named it.
    Explicit,
    /// `VELO_PG_BIN`.
    Environment,
    /// `pg_config` on `PATH`.
    Path,
    /// One of the usual folders of the system.
    System,
    /// Velo's own cache.
    Cache,
}

/// A PostgreSQL of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The folder that holds `postgres` and `initdb`.
    pub bin_dir: PathBuf,
    /// Its version.
    pub version: Version,
    /// How it was found.
    pub source: Source,
}

impl Installation {
    /// The path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        Path::new(&self.bin_dir).join(name)
    }
}
