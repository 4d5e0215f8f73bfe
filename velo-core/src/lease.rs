//! Who something belongs to: a lock file that its holder keeps locked.
//!
//! A process holds one lease for each home, taken at the first use. Records that live under it
//! (ephemeral branches, and everything while it is worked on) are nobody's once the lock is free,
//! whatever ended the holder. Whether a process lives is a lock it holds, not a PID that exists.
//!
//! Its file is there before any record names it, and stays until somebody has found nothing left under
//! it. A record under a lease without a file is therefore not of this home as it is: it came with a
//! `state.db` that was restored from a backup, and what it says is half done may long be whole.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::lock::{Lock, Mode};

/// A lease that this process holds until it ends.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: Id,
    _lock: Lock,
}

fn path(dir: &Path, id: Id) -> PathBuf {
    dir.join(id.to_string())
}

impl Lease {
    /// A new lease under the folder `dir`. No record names it before it is locked, so nobody can
    /// take it for a dead one.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        loop {
            let id = Id::generate();
            let path = path(dir, id);
            // Between its making and its locking a sweeper may take the file for a dead one's.
            if let Some(lock) = Lock::try_take(&path, Mode::Exclusive)?
                && lock.is_linked()
            {
                return Ok(Self { id, _lock: lock });
            }
        }
    }

    /// Ends it where nothing is left under it.
    #[cfg(feature = "docker")]
    pub(crate) fn end(self, dir: &Path) -> Result<()> {
        // Removed before it is unlocked, or a sweeper could be holding what has no name any more.
        crate::disk::remove("end a lease", &path(dir, self.id))
    }
}

/// Every lease that has a file, dead or alive.
pub(crate) fn all(dir: &Path) -> Result<Vec<Id>> {
    let entries =
        std::fs::read_dir(dir).map_err(|e| Error::io(format!("list {}", dir.display()), e))?;
    // Links and folders are nobody's leases.
    let files =
        entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    Ok(files.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether no file says that `id` was ever held here.
pub(crate) fn is_lost(dir: &Path, id: Id) -> bool {
    path(dir, id).symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Whether the holder of `id` is dead. Changes nothing.
pub(crate) fn is_dead(dir: &Path, id: Id) -> Result<bool> {
    Lock::is_free(&path(dir, id), Mode::Exclusive)
}

/// A dead holder's lease, which this process has taken over in order to undo what was left.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) id: Id,
    path: PathBuf,
    _lock: Lock,
}

impl Dead {
    /// Takes `id`, which has a file, over if its holder is dead.
    pub(crate) fn claim(dir: &Path, id: Id) -> Result<Option<Self>> {
        let path = path(dir, id);
        Ok(Lock::try_take(&path, Mode::Exclusive)?.map(|lock| Self { id, path, _lock: lock }))
    }

    /// Everything under it was undone.
    pub(crate) fn bury(self) -> Result<()> {
        crate::disk::remove("bury a dead lease", &self.path)
    }
}
