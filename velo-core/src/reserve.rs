//! A little space that is kept for a disk that is full: who deletes has to write as well.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::effect::step_now;
use crate::error::{Error, Result};

/// What some deletions write at most, by far: records, locks, and the log of a server that is stopped.
const SIZE: u64 = 4 << 20;

/// What there is less of where something may fail for want of space.
const FULL: u64 = 2 << 20;

fn path(home: &Path) -> PathBuf {
    home.join("reserve")
}

/// Keeps it, where there is room for it and more. Without it nothing is worse but a disk that is full.
pub(crate) fn keep(home: &Path) -> Result<()> {
    let path = path(home);
    if path.symlink_metadata().is_ok_and(|file| file.len() >= SIZE) {
        return Ok(());
    }
    step_now("keep a reserve", || {
        let make = || {
            let file = crate::disk::open(&path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE)?;
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = make() {
            // ZFS knows no such thing, and keeps space for deletions itself.
            tracing::debug!(%error, "no space is kept in reserve");
        }
        Ok(())
    })
}

/// Gives it up, if the disk is full: called by who deletes or stops something, before anything else.
pub(crate) fn give_up_if_full(home: &Path) -> Result<()> {
    let is_full =
        rustix::fs::statvfs(home).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < FULL);
    if !is_full || path(home).symlink_metadata().is_err() {
        return Ok(());
    }
    tracing::info!(home = %home.display(), "the disk is full: what was kept in reserve is given up");
    crate::disk::remove("give up a reserve", &path(home))?;
    // Some file systems have the space only then.
    let folder = File::open(home).map_err(|e| Error::io(format!("open {}", home.display()), e))?;
    rustix::fs::syncfs(&folder)
        .map_err(|e| Error::io(format!("sync the file system of {}", home.display()), e))
}
