//! Which storages work in a folder. No question answers that: it is tried.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::storage::StorageKind;

use super::{beneath, read_dir, remove};

/// How the names of the folders begin in which storages are tried.
const PREFIX: &str = ".velo-probe-";

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
    sweep(&root_fd);
    let name = format!("{PREFIX}{}", Id::generate());
    rustix::fs::mkdirat(&root_fd, &name, Mode::RWXU).map_err(fault)?;
    let found = beneath::open_dir(&root_fd, &name).map(|folder| works(&folder));
    // Also after an error, also what a half-done try left.
    remove::remove_at(&root_fd, name.as_str()).map_err(fault)?;
    found.map_err(fault)
}

/// Removes what a killed try left. One that still goes on is over within seconds.
fn sweep(root: &OwnedFd) {
    const DEAD: u64 = 3600;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for entry in read_dir(root).unwrap_or_default() {
        if !entry.name.to_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let removed = rustix::fs::statat(root, &entry.name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| u64::try_from(stat.st_mtime).unwrap_or(0) + DEAD < now)
            .and_then(|dead| if dead { remove::remove_at(root, &entry.name) } else { Ok(()) });
        if let Err(error) = removed {
            tracing::warn!(%error, name = %entry.name.to_string_lossy(), "cannot be removed");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_try_left_goes_and_a_living_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("x"), "").unwrap();
            path
        };
        let (dead, living) = (make(".velo-probe-1"), make(".velo-probe-2"));
        let long_ago = UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::open(&dead).unwrap().set_modified(long_ago).unwrap();
        assert!(try_all(dir.path()).unwrap().contains(&StorageKind::Copy));
        assert!(!dead.exists() && living.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
