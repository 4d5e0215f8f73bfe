//! Removes folders, without ever following a link.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::error::{Error, Result};

use super::beneath::{open_dir, read_dir};
use super::pool::{self, Feed};

const BATCH: usize = 64;

/// Removes the folder `name` in the folder `at` (which is `shelf`), with several threads. Missing is
/// fine.
pub(super) fn remove_tree(at: &OwnedFd, name: &str, shelf: &Path) -> Result<()> {
    let fault = |e: Errno| {
        let error = Error::io(format_args!("remove {}", shelf.join(name).display()), e);
        match e {
            Errno::NOTEMPTY => error.with_hint("is a server still running on it?"),
            Errno::BUSY => error.with_hint("is something mounted in it? findmnt says; unmount it"),
            _ => error,
        }
    };
    let top = match enter(at.as_fd(), name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return remove_at(at, name).map_err(fault),
        Err(e) => return Err(fault(e)),
    };
    // Files are most of the work. The folders, and whatever came meanwhile, are left to one thread.
    pool::run(
        |feed| empty(&Arc::new(top), feed, fault),
        |(folder, names): (Arc<OwnedFd>, Vec<CString>)| {
            names.iter().try_for_each(|name| unlink(&folder, name).map_err(fault))
        },
    )?;
    remove_at(at, name).map_err(fault)
}

/// Finds every file below `folder`.
fn empty(
    folder: &Arc<OwnedFd>,
    feed: &Feed<'_, (Arc<OwnedFd>, Vec<CString>)>,
    fault: impl Fn(Errno) -> Error + Copy,
) -> Result<()> {
    let (folders, files): (Vec<_>, Vec<_>) = read_dir(folder)
        .map_err(fault)?
        .into_iter()
        .partition(|entry| entry.kind == FileType::Directory);
    for names in files.chunks(BATCH) {
        let names = names.iter().map(|entry| entry.name.clone()).collect();
        feed.send((folder.clone(), names))?;
    }
    for entry in folders {
        match enter(folder.as_fd(), &entry.name) {
            Ok(fd) => empty(&Arc::new(fd), feed, fault)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(fault(e)),
        }
    }
    Ok(())
}

/// Opens a folder whose content is to go, and which nothing is mounted on. Where its mode forbids that,
/// it is changed first.
fn enter<P: rustix::path::Arg + Copy>(at: BorrowedFd<'_>, name: P) -> rustix::io::Result<OwnedFd> {
    let fd = match open_dir(at, name) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            open_dir(at, name)?
        }
        other => other?,
    };
    if is_mounted(&fd)? {
        return Err(Errno::BUSY);
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
    }
    Ok(fd)
}

/// Whether a folder is what is mounted there: its content is somebody else's. A subvolume is not.
#[cfg(target_os = "linux")]
fn is_mounted(fd: &OwnedFd) -> rustix::io::Result<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mounted(_: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(false)
}

fn unlink(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes the file, link or whole folder `name`. Missing is fine.
pub(in crate::storage) fn remove_at<P: rustix::path::Arg + Copy>(
    at: impl AsFd,
    name: P,
) -> rustix::io::Result<()> {
    match unlink(&at, name) {
        // What the systems say of a folder.
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    // Something may be put into it meanwhile (a server that is just ending): not forever.
    for attempt in 0..3 {
        let fd = match enter(at.as_fd(), name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in read_dir(&fd)? {
            remove_at(&fd, entry.name.as_c_str())?;
        }
        match rustix::fs::unlinkat(&at, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if attempt < 2 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
