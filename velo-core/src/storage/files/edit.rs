//! Carries out [`FileOp`]s.
//!
//! A file is written beside its place and renamed over it. So nobody sees it half-written, and what
//! is there (a link, or another name of a file elsewhere) is replaced and never written through.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, Stat};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::storage::{FileOp, Object};

use super::beneath::{Folder, open_file};
use super::{CloneFn, Files, remove, tree};

pub(super) fn edit(files: &Files, object: Object, ops: &[FileOp], clone: CloneFn) -> Result<()> {
    let folder = files.open(object)?;
    for op in ops {
        match op {
            FileOp::Remove { path } => {
                if let Some((parent, name)) = folder.parent(path)? {
                    remove::remove_at(&parent, name)
                        .map_err(|e| Error::io(format_args!("remove {}", folder.show(path)), e))?;
                }
            }
            FileOp::Write { path, content } => write(&folder, path, content)?,
            FileOp::CloneFile { source, from, to } => {
                let source = files.open(*source)?;
                clone_file(&source, from, &folder, to, clone)?;
            }
            FileOp::Rename { from, to } => {
                let (old, name) = folder.existing_parent(from)?;
                let (new, to_name) = folder.existing_parent(to)?;
                rustix::fs::renameat(&old, name, &new, to_name).map_err(|e| {
                    Error::io(
                        format_args!("rename {} to {}", folder.show(from), folder.show(to)),
                        e,
                    )
                })?;
            }
        }
    }
    Ok(())
}

fn write(folder: &Folder, path: &str, content: &[u8]) -> Result<()> {
    let fault = |e: Errno| Error::io(format_args!("write {}", folder.show(path)), e);
    // The owner of the folder, with a mode of its own.
    let mut stat = rustix::fs::fstat(&folder.fd).map_err(fault)?;
    stat.st_mode = 0o100_600;
    place(folder, path, &stat, "write", |to| write_all(to, content).map_err(fault))
}

fn write_all(to: &OwnedFd, mut content: &[u8]) -> rustix::io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(to, content) {
            Ok(n) => content = content.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn clone_file(
    source: &Folder,
    from: &str,
    folder: &Folder,
    to: &str,
    clone: CloneFn,
) -> Result<()> {
    let (parent, name) = source.existing_parent(from)?;
    let (file, stat) = open_file(&parent, name)
        .map_err(|e| Error::io(format_args!("clone {}", source.show(from)), e))?;
    place(folder, to, &stat, "clone", |target| {
        if stat.st_size == 0 {
            return Ok(());
        }
        let path = source.path.join(from);
        clone(file.as_fd(), target.as_fd(), stat.st_size as u64, &path, &Cancel::new())
    })
}

/// Makes a file with the owner and mode of `stat`, lets `fill` fill it, and puts it at `path`.
fn place(
    folder: &Folder,
    path: &str,
    stat: &Stat,
    what: &str,
    fill: impl FnOnce(&OwnedFd) -> Result<()>,
) -> Result<()> {
    let fault = |e: Errno| Error::io(format_args!("{what} {}", folder.show(path)), e);
    let (parent, name) = folder.existing_parent(path)?;
    let new = format!(".velo-{}", Id::generate());
    let fd = tree::create(&parent, &new, Mode::from_raw_mode(stat.st_mode)).map_err(fault)?;
    let done = fill(&fd)
        .and_then(|()| tree::dress(fd.as_fd(), stat, super::is_root()).map_err(fault))
        .and_then(|()| rustix::fs::renameat(&parent, &new, &parent, name).map_err(fault));
    if done.is_err() {
        // The first error is what counts.
        let _ = rustix::fs::unlinkat(&parent, &new, rustix::fs::AtFlags::empty());
    }
    done
}
