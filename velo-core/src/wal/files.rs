//! Segments of WAL as files, in folders that belong to the servers' user: no link is followed, and
//! nothing but a file is read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::reader::Segments;
use super::timeline::Timelines;
use crate::effect::step_now;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::backup::Segment;

const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// An open folder of segments.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// None if it is not there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        match rustix::fs::openat(CWD, path, DIR, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_path_buf() })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io(format!("open {}", path.display()), e)),
        }
    }

    /// The folder `pg_wal` of the data in `path`.
    pub(super) fn of_data(path: &Path) -> Result<Option<Self>> {
        // On ZFS the place of a snapshot is a link, of Velo's own.
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("look at {}", path.display()), e)),
        };
        match Self::open(&path)? {
            Some(data) => data.folder("pg_wal"),
            None => Ok(None),
        }
    }

    /// A folder in it.
    pub(super) fn folder(&self, name: &str) -> Result<Option<Self>> {
        match rustix::fs::openat(&self.fd, name, DIR, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.path.join(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.fault("open", name)(e)),
        }
    }

    fn fault(&self, what: &str, name: &str) -> impl FnOnce(Errno) -> Error {
        let what = format!("{what} {}", self.path.join(name).display());
        move |e| Error::io(what, e)
    }

    /// A file in it, and its length.
    pub(super) fn file(&self, name: &str) -> Result<Option<(File, u64)>> {
        let fd = match rustix::fs::openat(&self.fd, name, FILE, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.fault("open", name)(e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(self.fault("look at", name))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some((File::from(fd), stat.st_size as u64))),
            _ => {
                let what = format!("{} is not a file", self.path.join(name).display());
                Err(Error::new(ErrorKind::Corrupt, what).with_hint("see who put it there"))
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Everything in it, in order.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(self.fault("list", ""))? {
            let entry = entry.map_err(self.fault("list", ""))?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The numbers of the segments in it that lead to a timeline, in order. One that is too short or too long is none.
    pub(super) fn segments(&self, timelines: &Timelines, size: u32) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for name in self.names()? {
            let Some(segment) = Segment::parse(&name) else { continue };
            let number = segment.number(size);
            if segment.timeline == timelines.of_segment(number, size)
                && self.bytes_of(&name)? == Some(u64::from(size))
            {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    /// The length of the segments in it, by the first one.
    pub(super) fn size_of_segments(&self) -> Result<Option<u32>> {
        let name = self.names()?.into_iter().find(|name| Segment::parse(name).is_some());
        let bytes = name.map(|name| self.bytes_of(&name)).transpose()?.flatten();
        Ok(bytes.and_then(|bytes| u32::try_from(bytes).ok()).filter(|size| size.is_power_of_two()))
    }

    /// The length of a file.
    pub(super) fn bytes_of(&self, name: &str) -> Result<Option<u64>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_size as u64)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.fault("look at", name)(e)),
        }
    }

    /// The bytes that its files take.
    pub(super) fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in self.names()? {
            let stat = rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW);
            bytes += stat.map_or(0, |stat| stat.st_size as u64);
        }
        Ok(bytes)
    }

    /// Removes a file; missing is fine.
    pub(super) fn remove(&self, step: &str, name: &str) -> Result<()> {
        step_now(step, || match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(e) if e != Errno::NOENT => Err(self.fault("remove", name)(e)),
            _ => Ok(()),
        })
    }

    /// Another name of a file of `from`'s, which nobody changes.
    pub(super) fn link(&self, from: &Self, name: &str) -> Result<()> {
        rustix::fs::linkat(&from.fd, name, &self.fd, name, AtFlags::empty())
            .map_err(self.fault("link", name))
    }

    /// Writes a file anew, whole or not at all, for the user who has this number.
    pub(super) fn write(
        &self,
        name: &str,
        owner: Option<(u32, u32)>,
        durable: bool,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let new = format!("{name}.new");
        let fault = || self.fault("write", name);
        match rustix::fs::unlinkat(&self.fd, &new, AtFlags::empty()) {
            Err(e) if e != Errno::NOENT => return Err(fault()(e)),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(&self.fd, &new, flags | OFlags::CLOEXEC, mode);
        let mut file = File::from(fd.map_err(fault())?);
        let io = |e| Error::io(format!("write {}", self.path.join(name).display()), e);
        let filled = fill(&mut file).and_then(|()| {
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            if durable { file.sync_all() } else { Ok(()) }
        });
        if let Err(e) = filled {
            // The first error is what counts.
            let _ = rustix::fs::unlinkat(&self.fd, &new, AtFlags::empty());
            return Err(io(e));
        }
        rustix::fs::renameat(&self.fd, &new, &self.fd, name).map_err(fault())?;
        if durable { rustix::fs::fsync(&self.fd).map_err(fault()) } else { Ok(()) }
    }

    /// Who it belongs to.
    pub(super) fn owner(&self) -> Result<(u32, u32)> {
        let stat = rustix::fs::fstat(&self.fd).map_err(self.fault("look at", ""))?;
        Ok((stat.st_uid, stat.st_gid))
    }
}

/// The segments of one incarnation: those in its archive, and those that its server
/// still has.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) archive: Option<Folder>,
    pub(super) pg_wal: Option<Folder>,
    pub(super) timelines: Timelines,
    pub(super) size: u32,
}

impl Places {
    pub(super) fn name(&self, number: u64) -> String {
        Segment::name(self.timelines.of_segment(number, self.size), number, self.size)
    }

    /// The number of the last segment that there is, whatever it holds.
    pub(super) fn last(&self) -> Result<Option<u64>> {
        let mut last = None;
        for folder in [&self.archive, &self.pg_wal].into_iter().flatten() {
            last = last.max(folder.segments(&self.timelines, self.size)?.last().copied());
        }
        Ok(last)
    }
}

impl Segments for Places {
    fn read(&mut self, number: u64, into: &mut Vec<u8>) -> Result<bool> {
        let name = self.name(number);
        // A server recycles a segment once it is archived: what is in neither at first may have gone
        // from the one to the other in between.
        for folder in [&self.archive, &self.pg_wal, &self.archive].into_iter().flatten() {
            into.clear();
            let Some((file, length)) = folder.file(&name)? else { continue };
            if length != u64::from(self.size) {
                continue;
            }
            let most = u64::from(self.size);
            file.take(most)
                .read_to_end(into)
                .map_err(|e| Error::io(format!("read {}", folder.path.join(&name).display()), e))?;
            // It loses its name before it becomes another one.
            if into.len() == self.size as usize && folder.has(&name) {
                return Ok(true);
            }
        }
        into.clear();
        Ok(false)
    }
}

/// Copies so many bytes of a segment, and fills what is behind them with zeros.
pub(super) fn copy_until(
    mut from: &File,
    to: &mut File,
    bytes: u64,
    size: u64,
) -> std::io::Result<()> {
    let copied = std::io::copy(&mut Read::take(&mut from, bytes), to)?;
    if copied < bytes {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    to.flush()?;
    to.set_len(size)
}
