//! Lock files: `flock` between processes, and between tasks of one process.
//!
//! A lock belongs to an open file, so a `fork` would make the child a second holder, and a holder
//! that died would look alive. So every file that is locked here is closed in a forked child, and so
//! is a connection that something lives by.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

/// A locked file; unlocked on drop.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    slot: Option<&'static AtomicI32>,
    pid: u32,
}

/// The descriptors to close in a forked child. A fixed table: the handler between `fork` and the
/// child's first instruction must not allocate or take a lock.
const FREE: RawFd = -1;
static HELD: [AtomicI32; 4096] = [const { AtomicI32::new(FREE) }; 4096];
static HANDLER: Once = Once::new();

extern "C" fn close_in_child() {
    for slot in &HELD {
        let fd = slot.swap(FREE, Ordering::Relaxed);
        if fd != FREE {
            // SAFETY: close is async-signal-safe. The owning `Lock` in this child sees that its
            // pid is another one and does not close the number again.
            unsafe { libc::close(fd) };
        }
    }
}

impl Lock {
    /// Takes the lock on `path` (made if missing, mode 0600) if it is free.
    pub(crate) fn try_take(path: &Path, mode: Mode) -> Result<Option<Self>> {
        let file = crate::disk::open(path)
            .map_err(|e| Error::io(format!("open the lock file {}", path.display()), e))?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Self::register(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => {
                Err(Error::io(format!("lock {}", path.display()), e))
            }
        }
    }

    /// Whether the lock on `path` could be taken. A file that is missing is not made.
    pub(crate) fn is_free(path: &Path, mode: Mode) -> Result<bool> {
        match path.symlink_metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
            _ => Ok(Self::try_take(path, mode)?.is_some()),
        }
    }

    /// Takes the lock, waiting at most `limit`. `what` names the object in the error.
    pub(crate) async fn take(
        path: &Path,
        mode: Mode,
        limit: Duration,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Self> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = Self::try_take(path, mode)? {
                return Ok(lock);
            }
            if begun.elapsed() > limit {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{what} is in use by another operation"),
                )
                .with_hint("wait until it ends, and try again"));
            }
            // flock tells nobody that it is free without blocking a thread: a bounded poll.
            cancel.guard(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Whether the file still has its name.
    pub(crate) fn is_linked(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    fn register(file: File) -> Self {
        Self { slot: close_in_children(file.as_raw_fd()), file, pid: std::process::id() }
    }
}

/// A connection whose other end must see when this process is gone: a forked child closes it, and must not
/// close its number again. Drop it before the connection, whose number may then be another file's.
#[cfg(any(feature = "docker", target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct NotInChildren {
    slot: Option<&'static AtomicI32>,
    pid: u32,
}

#[cfg(any(feature = "docker", target_os = "linux"))]
impl NotInChildren {
    pub(crate) fn of(connection: &impl AsRawFd) -> Self {
        Self { slot: close_in_children(connection.as_raw_fd()), pid: std::process::id() }
    }
}

#[cfg(any(feature = "docker", target_os = "linux"))]
impl Drop for NotInChildren {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.filter(|_| self.pid == std::process::id()) {
            slot.store(FREE, Ordering::Relaxed);
        }
    }
}

/// From now on a forked child closes `fd`.
fn close_in_children(fd: RawFd) -> Option<&'static AtomicI32> {
    HANDLER.call_once(|| {
        // SAFETY: the handler is a plain function that only makes async-signal-safe calls.
        unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) };
    });
    let slot = HELD
        .iter()
        .find(|slot| slot.compare_exchange(FREE, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok());
    if slot.is_none() {
        tracing::warn!("too many locks at once: a fork now would keep this one alive");
    }
    slot
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            // Closing is not enough: between a fork and the child's handler the child holds it too.
            let _ = self.file.unlock();
            if let Some(slot) = self.slot {
                slot.store(FREE, Ordering::Relaxed);
            }
        } else if self.slot.is_some() {
            // A forked child: the number was closed by the handler and may be another file's now.
            // Give the field a descriptor that may be closed.
            if let Ok(null) = File::open("/dev/null") {
                let closed = std::mem::replace(&mut self.file, null);
                std::mem::forget(closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let a = Lock::try_take(&path, Mode::Shared).unwrap().unwrap();
        let b = Lock::try_take(&path, Mode::Shared).unwrap().unwrap();
        assert!(Lock::try_take(&path, Mode::Exclusive).unwrap().is_none());
        drop((a, b));
        let c = Lock::try_take(&path, Mode::Exclusive).unwrap().unwrap();
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_none());
        drop(c);
    }

    #[test]
    fn a_forked_child_is_no_second_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let lock = Lock::try_take(&path, Mode::Exclusive).unwrap().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child only reads from a pipe and leaves without running destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(writer);
            let _ = std::io::Read::read(&mut &reader, &mut [0]);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        drop(lock);
        assert!(Lock::try_take(&path, Mode::Exclusive).unwrap().is_some(), "the child holds it");
        drop(writer);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    }
}
