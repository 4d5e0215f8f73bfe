//! Servers in another PID namespace (a container that shares the home, a sandbox).
//!
//! `/proc` shows nothing of them, and their `postmaster.pid` looks like a ruin: a second server on the
//! same data would start. So each server holds a lock on a file of its data, through its standard
//! input, which all of its processes have. A lock knows no namespaces.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::postgres::data_file;

/// It is never replaced as long as a cluster lives.
const FILE: &str = "PG_VERSION";

/// How long others may look at the lock at the same moment.
const LOOKS: Duration = Duration::from_millis(200);

/// How long the lock of a process that ends may be there when the process is seen no more.
const ENDING: Duration = Duration::from_millis(500);

fn open(data: &Path) -> std::io::Result<File> {
    data_file::open(&data.join(FILE))
}

fn fault(what: &str, data: &Path, e: std::io::Error) -> Error {
    Error::io(format!("{what} {}", data.join(FILE).display()), e)
}

/// The file to be a server's standard input, locked.
pub(super) fn mark(data: &Path) -> Result<File> {
    let file = open(data).map_err(|e| fault("open", data, e))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Something that a server once started still has it, and is no server.
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOOKS => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::Error(e)) => {
                return Err(fault("lock", data, e));
            }
        }
    }
}

/// Whether certainly no server holds `data`: the quick look.
pub(super) fn is_free(data: &Path) -> bool {
    open(data).is_ok_and(|file| file.try_lock_shared().is_ok())
}

/// Whether a server that is not among the processes here holds `data`.
pub(super) fn holds(data: &Path) -> Result<bool> {
    let file = match open(data) {
        Ok(file) => file,
        // Half made or half gone.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fault("open", data, e)),
    };
    let begun = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(false),
            Err(TryLockError::WouldBlock) if has_visible_holder(&file) => return Ok(false),
            Err(TryLockError::WouldBlock) if begun.elapsed() > ENDING => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::Error(e)) => return Err(fault("lock", data, e)),
        }
    }
}

/// Whether a process that can be seen has the file as its standard input: what a server left, or one
/// that is just starting.
fn has_visible_holder(file: &File) -> bool {
    let (Ok(wanted), Ok(processes)) = (file.metadata(), std::fs::read_dir("/proc")) else {
        return true;
    };
    processes.flatten().any(|process| {
        let input = process.path().join("fd/0");
        let look = || std::fs::metadata(&input);
        #[cfg(target_os = "linux")]
        let found = super::owner::seen_by(&wanted, look);
        #[cfg(not(target_os = "linux"))]
        let found = look();
        found.is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
    })
}
