//! A clone of a whole folder, file by file.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::CloneSpec;

use super::beneath::{Folder, open_dir, open_file, read_dir};
use super::links::check_link;
use super::pool::{self, Feed};
use super::skip::Patterns;

/// Gives an empty file the content of another, of which so many bytes are wanted. The path is the
/// source's, for messages.
pub(in crate::storage) type CloneFn =
    fn(BorrowedFd<'_>, BorrowedFd<'_>, u64, &Path, &Cancel) -> Result<()>;

/// One that keeps something of its own.
pub(super) type CloneWith<'a> =
    &'a (dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>, u64, &Path, &Cancel) -> Result<()> + Sync);

/// How many files a worker takes at once.
const BATCH: usize = 32;
/// How deep folders may be nested: each level holds two descriptors.
const DEPTH: usize = 64;

/// A folder and its clone, both open.
struct Pair {
    from: OwnedFd,
    to: OwnedFd,
    rel: PathBuf,
}

/// Files of one folder.
struct Batch {
    pair: Arc<Pair>,
    names: Vec<CString>,
}

struct Work<'a> {
    root: &'a Path,
    skip: Patterns<'a>,
    last: &'a [&'static str],
    live: bool,
    clone: CloneWith<'a>,
    cancel: &'a Cancel,
    chown: bool,
    /// Whose it becomes; else as it is in the source.
    owner: Option<Owner>,
}

/// A user and a group.
pub(super) type Owner = (Uid, Gid);

/// Clones all of `from` into the empty folder `to`.
pub(super) fn clone_tree(
    from: &Folder,
    to: &Folder,
    spec: &CloneSpec,
    clone: CloneFn,
    cancel: &Cancel,
) -> Result<()> {
    clone_tree_as(from, to, spec, &clone, None, cancel)
}

/// The same, where all of it becomes `owner`'s.
pub(super) fn clone_tree_as(
    from: &Folder,
    to: &Folder,
    spec: &CloneSpec,
    clone: CloneWith<'_>,
    owner: Option<Owner>,
    cancel: &Cancel,
) -> Result<()> {
    let work = Work {
        root: &from.path,
        skip: Patterns::new(&spec.skip),
        last: &spec.last,
        live: spec.live,
        clone,
        cancel,
        chown: super::is_root(),
        owner,
    };
    let fault = |e: Errno| Error::io(format_args!("clone {}", from.path.display()), e);
    let stat = rustix::fs::fstat(&from.fd).map_err(fault)?;
    let root = Arc::new(Pair {
        from: open_dir(&from.fd, ".").map_err(fault)?,
        to: open_dir(&to.fd, ".").map_err(fault)?,
        rel: PathBuf::new(),
    });
    let mut closed = Vec::new();
    pool::run(
        |feed| work.walk(&root, 0, feed, &mut closed),
        |batch: Batch| batch.names.iter().try_for_each(|name| work.file(&batch.pair, name)),
    )?;
    for rel in &spec.last {
        cancel.check()?;
        let (Some((from, name)), Some((to, _))) = (from.parent(rel)?, to.parent(rel)?) else {
            if spec.live {
                continue;
            }
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} does not exist", from.show(rel)),
            ));
        };
        let rel = Path::new(rel).parent().unwrap_or(Path::new("")).to_path_buf();
        let name = CString::new(name)
            .map_err(|e| Error::new(ErrorKind::InvalidInput, "a path with NUL").with_source(e))?;
        work.file(&Pair { from, to, rel }, &name)?;
    }
    // Folders that their owner may not write come last, the innermost first.
    for (fd, mode) in closed.iter().rev() {
        rustix::fs::fchmod(fd, *mode).map_err(fault)?;
    }
    // Until here nobody else can enter the clone.
    work.dress(to.fd.as_fd(), &stat).map_err(fault)?;
    rustix::fs::fchmod(&to.fd, Mode::from_raw_mode(stat.st_mode)).map_err(fault)
}

impl Work<'_> {
    fn fault(&self, rel: &Path, e: Errno) -> Error {
        Error::io(format_args!("clone {}", self.root.join(rel).display()), e)
    }

    /// Makes the folders and links, and hands the files on.
    fn walk(
        &self,
        pair: &Arc<Pair>,
        depth: usize,
        feed: &Feed<'_, Batch>,
        closed: &mut Vec<(OwnedFd, Mode)>,
    ) -> Result<()> {
        self.cancel.check()?;
        if depth > DEPTH {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!("{} is nested too deeply", self.root.join(&pair.rel).display()),
            )
            .with_hint("PostgreSQL makes no such folder; move it out of the data folder"));
        }
        let mut names = Vec::new();
        let mut folders = Vec::new();
        for entry in read_dir(&pair.from).map_err(|e| self.fault(&pair.rel, e))? {
            let rel = pair.rel.join(OsStr::from_bytes(entry.name.to_bytes()));
            let bytes = rel.as_os_str().as_bytes();
            if self.skip.matches(bytes) || self.last.iter().any(|l| l.as_bytes() == bytes) {
                continue;
            }
            match entry.kind {
                FileType::RegularFile => {
                    names.push(entry.name);
                    if names.len() == BATCH {
                        let names = std::mem::take(&mut names);
                        feed.send(Batch { pair: pair.clone(), names })?;
                    }
                }
                FileType::Directory => folders.push((entry.name, rel)),
                FileType::Symlink => self.link(pair, &entry.name, &rel)?,
                kind => tracing::debug!(path = %rel.display(), ?kind, "not cloned: no file"),
            }
        }
        if !names.is_empty() {
            feed.send(Batch { pair: pair.clone(), names })?;
        }
        for (name, rel) in folders {
            let Some(pair) = self.folder(pair, &name, rel, closed)? else {
                continue;
            };
            self.walk(&Arc::new(pair), depth + 1, feed, closed)?;
        }
        Ok(())
    }

    fn folder(
        &self,
        parent: &Pair,
        name: &CString,
        rel: PathBuf,
        closed: &mut Vec<(OwnedFd, Mode)>,
    ) -> Result<Option<Pair>> {
        let fault = |e| self.fault(&rel, e);
        let from = match open_dir(&parent.from, name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if self.live => return Ok(None),
            Err(e) => return Err(fault(e)),
        };
        let stat = rustix::fs::fstat(&from).map_err(fault)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        rustix::fs::mkdirat(&parent.to, name, mode | Mode::RWXU).map_err(fault)?;
        let to = open_dir(&parent.to, name).map_err(fault)?;
        self.dress(to.as_fd(), &stat).map_err(fault)?;
        // Always: a folder takes over the set-group-ID bit of the one that it is made in.
        rustix::fs::fchmod(&to, mode | Mode::RWXU).map_err(fault)?;
        if !mode.contains(Mode::RWXU) {
            closed.push((open_dir(&parent.to, name).map_err(fault)?, mode));
        }
        Ok(Some(Pair { from, to, rel }))
    }

    fn link(&self, pair: &Pair, name: &CString, rel: &Path) -> Result<()> {
        let fault = |e| self.fault(rel, e);
        let target = match rustix::fs::readlinkat(&pair.from, name, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT) if self.live => return Ok(()),
            Err(e) => return Err(fault(e)),
        };
        check_link(self.root, rel, target.to_bytes())?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        // Its owner is asked for before it is made: it may vanish between the two looks.
        let stat = match self.chown.then(|| rustix::fs::statat(&pair.from, name, nofollow)) {
            Some(Err(Errno::NOENT)) if self.live => return Ok(()),
            stat => stat.transpose().map_err(fault)?,
        };
        rustix::fs::symlinkat(&target, &pair.to, name).map_err(fault)?;
        if let Some(stat) = stat {
            let (uid, gid) = self.owner.unwrap_or_else(|| owner(&stat));
            rustix::fs::chownat(&pair.to, name, Some(uid), Some(gid), nofollow).map_err(fault)?;
        }
        Ok(())
    }

    fn file(&self, pair: &Pair, name: &CString) -> Result<()> {
        self.cancel.check()?;
        let path = || self.root.join(&pair.rel).join(OsStr::from_bytes(name.to_bytes()));
        let fault = |e| Error::io(format_args!("clone {}", path().display()), e);
        let (from, stat) = match open_file(&pair.from, name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) if self.live => return Ok(()),
            Err(e) => return Err(fault(e)),
        };
        let to = create(&pair.to, name, Mode::from_raw_mode(stat.st_mode)).map_err(fault)?;
        if stat.st_size > 0 {
            (self.clone)(from.as_fd(), to.as_fd(), stat.st_size as u64, &path(), self.cancel)?;
        }
        self.dress(to.as_fd(), &stat).map_err(fault)
    }

    fn dress(&self, fd: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
        let mut stat = *stat;
        if let Some((uid, gid)) = self.owner {
            (stat.st_uid, stat.st_gid) = (uid.as_raw(), gid.as_raw());
        }
        dress(fd, &stat, self.chown)
    }
}

/// Makes the file `name`, which must not exist.
pub(super) fn create(
    at: impl AsFd,
    name: impl rustix::path::Arg,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, mode)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Gives a new file or folder the owner and the mode of its source.
pub(super) fn dress(fd: BorrowedFd<'_>, stat: &Stat, chown: bool) -> rustix::io::Result<()> {
    if chown {
        let (uid, gid) = owner(stat);
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    // It was made with this mode; what the process's umask took away is given back, and what a
    // change of owner takes away.
    if mode.intersects(!Mode::RWXU) {
        rustix::fs::fchmod(fd, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::storage::Object;

    /// Clones `files` files with `clone`; says how it ended and how many there are then.
    fn run(files: usize, clone: CloneFn) -> (Result<()>, usize) {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        for i in 0..files {
            std::fs::write(from.join(i.to_string()), "x").unwrap();
        }
        let object = Object::Volume(Id::generate());
        let spec = CloneSpec::new(object, Id::generate());
        let open = |path: &Path| Folder::open(path.to_path_buf(), object).unwrap();
        let done = clone_tree(&open(&from), &open(&to), &spec, clone, &Cancel::new());
        (done, std::fs::read_dir(&to).unwrap().count())
    }

    #[test]
    fn a_clone_ends_where_it_is_canceled() {
        let (done, made) = run(5000, |_, _, _, _, cancel| {
            cancel.cancel();
            Ok(())
        });
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Canceled);
        assert!(made < 100, "{made}");
    }

    #[test]
    fn the_first_error_is_returned_and_names_the_file() {
        let (done, made) = run(5000, |_, _, _, path, _| {
            Err(Error::io(format_args!("clone {}", path.display()), Errno::NOSPC))
        });
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("/from/"), "{error}");
        assert!(made < 100, "{made}");
    }
}
