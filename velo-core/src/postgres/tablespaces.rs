//! Tablespaces of a data directory, as its files show them.

use std::path::Path;

/// What stands for the tablespaces of the data: a folder for one in place, a link for one elsewhere.
fn all(data: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten()
}

/// Whether the data has a tablespace that lies elsewhere.
pub(crate) fn has_one_elsewhere(data: &Path) -> bool {
    all(data).any(|entry| {
        let target = std::fs::read_link(entry.path());
        target.is_ok_and(|target| !target.starts_with(data))
    })
}

/// Whether it has one that lies within.
pub(crate) fn has_one_in_place(data: &Path) -> bool {
    all(data).any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}
