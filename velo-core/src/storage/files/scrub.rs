//! One walk over a fresh clone of a whole folder, which nothing changes yet.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::CloneSpec;

use super::beneath::{Folder, open_dir, read_dir};
use super::links::check_link;
use super::remove::remove_at;
use super::skip::Patterns;

/// How deep folders may be nested: each level holds a descriptor.
const DEPTH: usize = 64;

/// Removes what a clone is to leave out, and refuses links that leave it.
pub(in crate::storage) struct Scrub<'a> {
    clone: &'a Folder,
    /// The source's folder, for messages.
    source: &'a Path,
    skip: Patterns<'a>,
}

impl<'a> Scrub<'a> {
    pub(in crate::storage) fn new(
        clone: &'a Folder,
        source: &'a Path,
        spec: &'a CloneSpec,
    ) -> Self {
        Self { clone, source, skip: Patterns::new(&spec.skip) }
    }

    /// Walks. `folder` may refuse a folder by its path and inode.
    pub(in crate::storage) fn run(&self, folder: impl Fn(&Path, u64) -> Result<()>) -> Result<()> {
        self.walk(&self.clone.fd, Path::new(""), 0, &folder)
    }

    fn walk(
        &self,
        fd: &OwnedFd,
        rel: &Path,
        depth: usize,
        folder: &impl Fn(&Path, u64) -> Result<()>,
    ) -> Result<()> {
        let at = |rel: &Path| self.clone.path.join(rel).display().to_string();
        if depth > DEPTH {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!("{} is nested too deeply", at(rel)),
            )
            .with_hint("PostgreSQL makes no such folder; move it out of the data folder"));
        }
        let fault = |e| Error::io(format_args!("look through {}", at(rel)), e);
        for entry in read_dir(fd).map_err(fault)? {
            let path = rel.join(OsStr::from_bytes(entry.name.to_bytes()));
            if self.skip.matches(path.as_os_str().as_bytes()) {
                remove_at(fd, entry.name.as_c_str())
                    .map_err(|e| Error::io(format_args!("remove {}", at(&path)), e))?;
                continue;
            }
            match entry.kind {
                FileType::Directory => {
                    let inner = open_dir(fd, &entry.name).map_err(fault)?;
                    let inode = rustix::fs::fstat(&inner).map_err(fault)?.st_ino;
                    folder(&path, inode)?;
                    self.walk(&inner, &path, depth + 1, folder)?;
                }
                FileType::Symlink => {
                    let target =
                        rustix::fs::readlinkat(fd, &entry.name, Vec::new()).map_err(fault)?;
                    check_link(self.source, &path, target.to_bytes())?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
