//! The shared memory that a killed server left.
//!
//! PostgreSQL frees it at its next start on the same data, if that finds it by the data's inode, which all roots of
//! subvolumes have in common. Where it does not, or the data goes before that, it would stay until the machine is booted
//! anew: a segment of System V, of which there are 4096, and files in `/dev/shm`, which are memory.
//! The segment names the file that lists the other files ("control segment", `dsm.c`).

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::owner;
use crate::postgres::data_file;

/// Of `PGShmemHeader` (`pg_shmem.h`): the magic number, and what it has in bytes on a system of 64 bits.
const SEGMENT_MAGIC: u32 = 679_834_894;
const HEADER: usize = 56;
/// Of `dsm_control_header` (`dsm.c`).
const CONTROL_MAGIC: u32 = 0x9a50_3d32;

/// Frees the memory of the server on `data` if one was killed there and none runs. None is fine.
///
/// It is done as the data's owner, who may have written anything into `postmaster.pid`.
pub(super) fn free(data: &Path) -> Result<()> {
    // A server that ended itself has removed it.
    let Some(text) = data_file::postmaster(data) else { return Ok(()) };
    let Some(id) = segment(&text) else { return Ok(()) };
    let folder = std::fs::metadata(data)?;
    let server = super::named(&text).map(|pid| pid.as_raw_nonzero().get());
    owner::done_by(&folder, || {
        let Some(header) = unused(id)? else { return Ok(()) };
        let of_this = Header::parse(&header).filter(|header| {
            Some(header.creator) == server
                && (header.device, header.inode) == (folder.dev(), folder.ino())
        });
        let Some(header) = of_this else { return Ok(()) };
        for file in header.files() {
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        remove(id)
    })
}

/// The segment that a `postmaster.pid` names: the second number of its seventh line.
fn segment(text: &str) -> Option<i32> {
    text.lines().nth(6)?.split_whitespace().nth(1)?.parse().ok()
}

/// The first bytes of a segment that no process has in its memory, if there is one.
fn unused(id: i32) -> Result<Option<[u8; HEADER]>> {
    let mut facts = std::mem::MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the kernel writes one shmid_ds, for which there is room; all zeros are one too.
    let facts = unsafe {
        if libc::shmctl(id, libc::IPC_STAT, facts.as_mut_ptr()) != 0 {
            return gone(Error::last_os_error());
        }
        facts.assume_init()
    };
    if facts.shm_nattch > 0 || facts.shm_segsz < HEADER {
        return Ok(None);
    }
    // SAFETY: the kernel chooses a free place, and nothing is written there.
    let at = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) };
    if at.addr().wrapping_add(1) == 0 {
        return gone(Error::last_os_error());
    }
    let mut header = [0; HEADER];
    // SAFETY: the segment has at least so many bytes, and is there until it is let go, once.
    unsafe {
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), header.as_mut_ptr(), HEADER);
        libc::shmdt(at);
    }
    Ok(Some(header))
}

/// A segment that is no more, or another user's, is none of this server's.
fn gone<T>(e: Error) -> Result<Option<T>> {
    match e.raw_os_error() {
        Some(libc::EINVAL | libc::EIDRM | libc::EACCES) => Ok(None),
        _ => Err(e),
    }
}

fn remove(id: i32) -> Result<()> {
    // SAFETY: removal takes no memory.
    if unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) } == 0 {
        return Ok(());
    }
    gone::<()>(Error::last_os_error()).map(drop)
}

/// What the segment says of whose it is, and the number of the file that lists the others.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    creator: i32,
    control: u32,
    device: u64,
    inode: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let header = Self {
            creator: i32::from_ne_bytes(at(bytes, 4)?),
            control: u32::from_ne_bytes(at(bytes, 24)?),
            device: u64::from_ne_bytes(at(bytes, 40)?),
            inode: u64::from_ne_bytes(at(bytes, 48)?),
        };
        (u32::from_ne_bytes(at(bytes, 0)?) == SEGMENT_MAGIC).then_some(header)
    }

    /// The files in memory, that which lists them last: who is killed here leaves it for the next.
    fn files(&self) -> Vec<PathBuf> {
        // Also where the files are elsewhere, by another `dynamic_shared_memory_type`.
        if self.control == 0 {
            return Vec::new();
        }
        let control = file(self.control);
        let listed = data_file::read(&control, data_file::SETTINGS).unwrap_or_default();
        let mut files: Vec<PathBuf> = handles(&listed).into_iter().map(file).collect();
        files.push(control);
        files
    }
}

fn file(handle: u32) -> PathBuf {
    format!("/dev/shm/PostgreSQL.{handle}").into()
}

/// The segments that a control segment lists: after three numbers, of which the second and third are
/// how many entries are in use and how many there are, entries of `(handle, references, …)`.
fn handles(control: &[u8]) -> Vec<u32> {
    /// Where the entries start, and what each has: since PostgreSQL 14 also a place in the server's own
    /// memory, where those are whose handle is odd.
    const ENTRIES: usize = 16;
    const ENTRY_13: usize = 24;
    const ENTRY: usize = 40;
    let number = |offset: usize| at(control, offset).map(u32::from_ne_bytes);
    let (Some(CONTROL_MAGIC), Some(used), Some(all)) = (number(0), number(4), number(8)) else {
        return Vec::new();
    };
    let room = control.len().saturating_sub(ENTRIES);
    let size = match usize::try_from(all).ok().and_then(|all| room.checked_div(all)) {
        Some(size @ (ENTRY_13 | ENTRY)) => size,
        _ => return Vec::new(),
    };
    let entries = control.get(ENTRIES..).unwrap_or_default().chunks_exact(size);
    entries
        .take(used.min(all) as usize)
        .filter_map(|entry| {
            let handle = u32::from_ne_bytes(at(entry, 0)?);
            let references = u32::from_ne_bytes(at(entry, 4)?);
            (references > 0 && (size == ENTRY_13 || handle % 2 == 0)).then_some(handle)
        })
        .collect()
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// Every parser here, for any bytes.
#[cfg(feature = "testing")]
pub(super) fn any_bytes(data: &[u8]) {
    let _ = segment(&String::from_utf8_lossy(data));
    let _ = data.first_chunk().map(Header::parse);
    let _ = handles(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_that_a_pid_file_names() {
        let text =
            "4711\n/data\n1795907929\n5432\n/run\n127.0.0.1\n     8830  23199744\nready   \n";
        assert_eq!(segment(text), Some(23_199_744));
        for bad in ["", "1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\n5\n6\n8830\n", "1\n2\n3\n4\n5\n6\n1 x\n"]
        {
            assert_eq!(segment(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_a_control_segment_lists() {
        let control = |size: usize, entries: &[(u32, u32)]| {
            let mut bytes = Vec::new();
            for number in [CONTROL_MAGIC, u32::try_from(entries.len()).unwrap(), 8, 0] {
                bytes.extend(number.to_ne_bytes());
            }
            for index in 0..8 {
                let (handle, references) = entries.get(index).copied().unwrap_or((6, 2));
                let mut entry = [handle.to_ne_bytes(), references.to_ne_bytes()].concat();
                entry.resize(size, 0xff);
                bytes.extend(entry);
            }
            bytes
        };
        let entries = [(2, 2), (3, 1), (4, 0), (8, 1)];
        assert_eq!(handles(&control(40, &entries)), [2, 8], "of the files that are in use");
        assert_eq!(handles(&control(24, &entries)), [2, 3, 8], "of PostgreSQL 13");
        assert_eq!(handles(&control(32, &entries)), [0; 0], "of one that nobody knows");
        assert_eq!(handles(&control(40, &entries)[..100]), [0; 0]);
        assert_eq!(handles(&[]), [0; 0]);
    }
}
