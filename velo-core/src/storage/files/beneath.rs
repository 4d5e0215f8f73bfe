//! Paths that never leave an object's folder.
//!
//! A PGDATA belongs to the user that `postgres` runs as, and Velo may be root: that user could plant
//! a link to a file that only root may change. So a path is opened one component at a time, each
//! relative to the folder before it, never through a symbolic link and never through `..`. (That is
//! what `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` does, and it also works where a
//! sandbox forbids that call and on other systems.)

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::Object;

const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the folder `name`, which must not be a link.
pub(in crate::storage) fn open_dir(
    at: impl AsFd,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, DIR, Mode::empty())
}

/// Opens the regular file `name` for reading. A pipe that someone put there does not block.
pub(in crate::storage) fn open_file(
    at: impl AsFd,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<(OwnedFd, rustix::fs::Stat)> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((fd, stat)),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

/// What a folder holds.
pub(in crate::storage) struct Entry {
    pub(in crate::storage) name: CString,
    pub(in crate::storage) kind: FileType,
}

/// Everything in a folder, without `.` and `..`.
pub(in crate::storage) fn read_dir(fd: impl AsFd) -> rustix::io::Result<Vec<Entry>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not say it in the folder itself.
            FileType::Unknown => match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            },
            kind => kind,
        };
        out.push(Entry { name: name.to_owned(), kind });
    }
    Ok(out)
}

/// An object's open folder.
#[derive(Debug)]
pub(in crate::storage) struct Folder {
    pub(in crate::storage) fd: OwnedFd,
    pub(in crate::storage) path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: PathBuf, object: Object) -> Result<Self> {
        match open_dir(CWD, &path) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOENT) => Err(Error::new(
                ErrorKind::NotFound,
                format!("{object} does not exist ({})", path.display()),
            )
            .with_hint("`velo doctor` says what is on disk and what is recorded")),
            Err(e) => Err(Error::io(format_args!("open {object} ({})", path.display()), e)),
        }
    }

    /// The open folder that the file `rel` is in, and the file's name there. `None` if a folder on
    /// the way does not exist.
    pub(super) fn parent<'a>(&self, rel: &'a str) -> Result<Option<(OwnedFd, &'a str)>> {
        let parts: Vec<&str> = rel.split('/').collect();
        if let Some(bad) = parts.iter().find(|p| matches!(**p, "" | "." | "..") || p.contains('\0'))
        {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{rel:?} is not a path within {}: {bad:?}", self.path.display()),
            )
            .with_hint("use a relative path without '.', '..' and empty parts"));
        }
        let (name, folders) = match parts.split_last() {
            Some((name, folders)) => (*name, folders),
            None => return Ok(None), // `split` gives at least one part
        };
        let fault = |e| Error::io(format_args!("open the folder of {}", self.show(rel)), e);
        let mut fd = open_dir(&self.fd, ".").map_err(fault)?;
        for folder in folders {
            fd = match open_dir(&fd, *folder) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(Error::new(
                        ErrorKind::Incompatible,
                        format!("{}: {folder:?} is a link or a file, not a folder", self.show(rel)),
                    )
                    .with_hint("replace the link by the folder itself; Velo follows none here"));
                }
                Err(e) => return Err(fault(e)),
            };
        }
        Ok(Some((fd, name)))
    }

    /// The same, where a missing folder is an error.
    pub(super) fn existing_parent<'a>(&self, rel: &'a str) -> Result<(OwnedFd, &'a str)> {
        self.parent(rel)?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("the folder of {} does not exist", self.show(rel)),
            )
        })
    }

    /// `rel` as messages show it.
    pub(super) fn show(&self, rel: &str) -> String {
        self.path.join(rel.trim_start_matches('/')).display().to_string()
    }
}
