//! How much space an object takes, and how much of it is shared with others (FIEMAP).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::error::{Error, Result};
use crate::storage::Usage;
use crate::storage::files::{open_dir, open_file, read_dir};

/// `struct fiemap` without its extents.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const EXTENTS: usize = 128;

/// `struct fiemap` with room for some extents; more are read page by page.
#[repr(C)]
struct Page {
    header: Header,
    extents: [Extent; EXTENTS],
}

const _: () = assert!(size_of::<Header>() == 32 && size_of::<Extent>() == 56);

const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);
/// Written out first, so that what is not yet allocated counts.
const SYNC: u32 = 1;
const LAST: u32 = 1;
const SHARED: u32 = 0x2000;
/// Its bytes lie among those of the folders, of which nobody tells whether they are shared.
const INLINE: u32 = 0x200;

/// The bytes of `file` that it shares with no other.
fn exclusive(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let mut sum = 0;
    let mut start = 0;
    loop {
        let mut page = Page {
            header: Header {
                start,
                length: u64::MAX - start,
                flags: if start == 0 { SYNC } else { 0 },
                count: EXTENTS as u32,
                ..Header::default()
            },
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the opcode is that of FS_IOC_FIEMAP, whose argument is a `struct fiemap` followed
        // by `count` extents, which is what `Page` is; the kernel writes within it only, and any
        // bytes are valid values of its integers.
        unsafe { ioctl(file, Updater::<FIEMAP, Page>::new(&mut page))? };
        let mapped = page.extents.get(..page.header.mapped as usize).unwrap_or(&page.extents);
        let own = mapped.iter().filter(|e| e.flags & (SHARED | INLINE) == 0);
        sum += own.map(|e| e.length).sum::<u64>();
        match mapped.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            _ => return Ok(sum),
        }
    }
}

/// How much space the folder takes, at `path`. Files that vanish meanwhile are not counted.
pub(super) fn usage(folder: &OwnedFd, path: &Path) -> Result<Usage> {
    let fault = |e: Errno| Error::io(format_args!("measure {}", path.display()), e);
    let free = rustix::fs::fstatvfs(folder).map_err(fault)?;
    let mut usage = Usage { referenced: 0, exclusive: 0, available: free.f_bavail * free.f_frsize };
    count(folder, &mut usage).map_err(fault)?;
    Ok(usage)
}

fn count(folder: &OwnedFd, usage: &mut Usage) -> rustix::io::Result<()> {
    let own = allocated(&rustix::fs::fstat(folder)?);
    usage.referenced += own;
    usage.exclusive += own;
    for entry in read_dir(folder)? {
        let counted = match entry.kind {
            FileType::Directory => {
                open_dir(folder, &entry.name).and_then(|folder| count(&folder, usage))
            }
            FileType::RegularFile => file(folder, &entry.name, usage),
            _ => rustix::fs::statat(folder, &entry.name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| {
                usage.referenced += allocated(&stat);
                usage.exclusive += allocated(&stat);
            }),
        };
        match counted {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn file(folder: &OwnedFd, name: &std::ffi::CStr, usage: &mut Usage) -> rustix::io::Result<()> {
    let (file, mut stat) = open_file(folder, name)?;
    let exclusive = match exclusive(file.as_fd()) {
        Ok(bytes) => {
            // What was written out just now has blocks only now.
            stat = rustix::fs::fstat(&file)?;
            bytes.min(allocated(&stat))
        }
        // A file system without extents shares none.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => allocated(&stat),
        Err(e) => return Err(e),
    };
    usage.referenced += allocated(&stat);
    usage.exclusive += exclusive;
    Ok(())
}

fn allocated(stat: &rustix::fs::Stat) -> u64 {
    stat.st_blocks as u64 * 512
}
