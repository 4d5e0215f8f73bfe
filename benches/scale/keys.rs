//! The search for a key that PostgreSQL does at each start, done again.
//!
//! Beside its shared memory a server has a small segment of System V, by which the next one on the same data
//! sees that processes are left. Its key begins at the inode of PGDATA, and goes up as long as others have it;
//! each of theirs is looked into. The roots of all subvolumes of btrfs have the same inode.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use velo_benches::Result;

/// The size of what PostgreSQL keeps in it.
const HEADER: usize = 56;

/// How long the search takes for a server on `data`.
///
/// # Errors
/// If there are no keys left, or `data` cannot be looked at.
pub(crate) fn search(data: &Path) -> Result<Duration> {
    let own = std::fs::metadata(data)?;
    let begun = Instant::now();
    let mut key = own.ino() as libc::key_t;
    // SAFETY: plain system calls. What is attached is a segment of at least a page, of which one byte is read
    // before it is detached; what is made is nobody else's yet, and is removed at once.
    unsafe {
        loop {
            let made = libc::shmget(key, HEADER, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
            if made >= 0 {
                let took = begun.elapsed();
                libc::shmctl(made, libc::IPC_RMID, std::ptr::null_mut());
                return Ok(took);
            }
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EEXIST) {
                return Err(error.into());
            }
            let theirs = libc::shmget(key, HEADER, 0);
            if theirs >= 0 {
                let mut state = std::mem::zeroed();
                libc::shmctl(theirs, libc::IPC_STAT, &mut state);
                std::fs::metadata(data)?;
                let at = libc::shmat(theirs, std::ptr::null(), libc::SHM_RDONLY);
                if at.addr() != usize::MAX {
                    at.cast::<u8>().read_volatile();
                    libc::shmdt(at);
                }
            }
            key = key.wrapping_add(1);
        }
    }
}
