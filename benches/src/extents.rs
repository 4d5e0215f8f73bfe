//! What a folder has of its own, as the file system tells it (FIEMAP).
//!
//! All is written out once before (`syncfs`), and then no file is asked for with FIEMAP_FLAG_SYNC: that would
//! have each of a thousand files written out by itself.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::Result;

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

const EXTENTS: usize = 256;

/// `struct fiemap` with room for some extents; more are read page by page.
#[repr(C)]
struct Page {
    header: Header,
    extents: [Extent; EXTENTS],
}

const _: () = assert!(size_of::<Header>() == 32 && size_of::<Extent>() == 56);

const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);
const LAST: u32 = 1;
/// It lies among the file system's own blocks.
const INLINE: u32 = 0x200;
const SHARED: u32 = 0x2000;

/// The bytes of data extents that the files below `folder` share with no other.
///
/// # Errors
/// If one of them cannot be looked at; one that is gone meanwhile has nothing.
pub fn own(folder: &Path) -> Result<u64> {
    rustix::fs::syncfs(File::open(folder)?)?;
    let (mut sum, mut folders) = (0, vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                match File::open(entry.path()) {
                    Ok(file) => sum += of(&file)?,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    Ok(sum)
}

fn of(file: &File) -> Result<u64> {
    let meta = file.metadata()?;
    if meta.blocks() == 0 {
        return Ok(0);
    }
    let (mut sum, mut start) = (0, 0);
    loop {
        let header =
            Header { start, length: u64::MAX - start, count: EXTENTS as u32, ..Header::default() };
        let mut page = Page { header, extents: [Extent::default(); EXTENTS] };
        // SAFETY: the opcode is that of FS_IOC_FIEMAP, whose argument is a `struct fiemap` followed by `count`
        // extents, which is what `Page` is; the kernel writes within it only, and any bytes are valid values of
        // its integers.
        match unsafe { ioctl(file.as_fd(), Updater::<FIEMAP, Page>::new(&mut page)) } {
            Ok(()) => {}
            // A file system without extents (tmpfs) shares none.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => {
                return Ok(meta.blocks() * 512);
            }
            Err(e) => return Err(e.into()),
        }
        let mapped = page.extents.get(..page.header.mapped as usize).unwrap_or(&page.extents);
        let own = mapped.iter().filter(|extent| extent.flags & (SHARED | INLINE) == 0);
        sum += own.map(|extent| extent.length).sum::<u64>();
        match mapped.last() {
            Some(last) if last.flags & LAST == 0 => start = last.logical + last.length,
            _ => return Ok(sum),
        }
    }
}
