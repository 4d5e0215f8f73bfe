//! Which storages work in a folder. No question answers that: it is tried.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::storage::StorageKind;

use super::{beneath, remove};

/// The storages that work under `root`, best first. Leaves nothing behind.
pub(in crate::storage) async fn probe(root: PathBuf) -> Result<Vec<StorageKind>> {
    blocking(move || try_all(&root)).await
}

fn try_all(root: &Path) -> Result<Vec<StorageKind>> {
    let fault =
        |e: Errno| Error::io(format_args!("try which storages work in {}", root.display()), e);
    let root_fd = rustix::fs::openat(
        CWD,
        root,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(fault)?;
    let name = format!(".velo-probe-{}", Id::generate());
    rustix::fs::mkdirat(&root_fd, &name, Mode::RWXU).map_err(fault)?;
    let found = beneath::open_dir(&root_fd, &name).map(|folder| works(&folder));
    // Also after an error, also what a half-done try left.
    remove::remove_at(&root_fd, name.as_str()).map_err(fault)?;
    found.map_err(fault)
}

#[allow(clippy::vec_init_then_push, unused_mut, unused_variables)] // features decide what is pushed
fn works(folder: &OwnedFd) -> Vec<StorageKind> {
    let mut kinds = Vec::new();
    #[cfg(all(feature = "btrfs", target_os = "linux"))]
    match crate::storage::btrfs::works_in(folder) {
        Ok(()) => kinds.push(StorageKind::Btrfs),
        Err(error) => tracing::debug!(%error, "no btrfs here"),
    }
    #[cfg(all(feature = "reflink", target_os = "linux"))]
    match crate::storage::reflink::works_in(folder) {
        Ok(()) => kinds.push(StorageKind::Reflink),
        Err(error) => tracing::debug!(%error, "no reflink here"),
    }
    #[cfg(feature = "copy")]
    kinds.push(StorageKind::Copy);
    kinds
}
