//! The state's file, which a process closes once, and last.
//!
//! POSIX drops every lock of a process on a file when it closes any of its descriptors, SQLite's locks among
//! them. Another process would then take itself for the last one, and remove the WAL that this one writes to.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;

/// Those that are open. Under this lock alone they are opened and closed.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Open {
    key: Key,
    holders: usize,
    /// Several only where a path came to lead to it while it was being opened.
    files: Vec<File>,
}

/// What a file is known by: device and inode.
type Key = (u64, u64);

fn key(found: &Metadata) -> Key {
    (found.dev(), found.ino())
}

/// As long as one of these is there, the file stays open.
#[derive(Debug)]
pub(super) struct Held(Key);

impl Held {
    /// Opens the file, or makes it, for its user alone.
    pub(super) fn open(path: &Path) -> Result<Self> {
        with_all(|all| {
            if let Ok(found) = path.symlink_metadata()
                && let Some(open) = all.iter_mut().find(|open| open.key == key(&found))
            {
                open.holders += 1;
                return Ok(Self(open.key));
            }
            let file = crate::disk::open(path)?;
            let key = key(&file.metadata()?);
            match all.iter_mut().find(|open| open.key == key) {
                Some(open) => {
                    open.holders += 1;
                    open.files.push(file);
                }
                None => all.push(Open { key, holders: 1, files: vec![file] }),
            }
            Ok(Self(key))
        })
    }

    /// Whether the path leads to it still.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|found| key(&found) == self.0)
    }

    pub(super) fn is_file(&self) -> bool {
        self.look(|file| Ok(file.metadata()?.is_file())).unwrap_or(false)
    }

    /// What it begins with, at most so many bytes.
    pub(super) fn begin(&self, bytes: usize) -> Result<Vec<u8>> {
        self.look(|file| {
            let mut begin = vec![0; bytes];
            let read = file.read_at(&mut begin, 0)?;
            begin.truncate(read);
            Ok(begin)
        })
    }

    fn look<T>(&self, look: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        with_all(|all| {
            let open = all.iter().find(|open| open.key == self.0);
            open.and_then(|open| open.files.first()).map_or(Err(ErrorKind::NotFound.into()), look)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        with_all(|all| {
            if let Some(open) = all.iter_mut().find(|open| open.key == self.0) {
                open.holders -= 1;
            }
            all.retain(|open| open.holders > 0);
        });
    }
}

fn with_all<T>(work: impl FnOnce(&mut Vec<Open>) -> T) -> T {
    work(&mut OPEN.lock().unwrap_or_else(|e| e.into_inner()))
}
