//! Files from elsewhere on this machine, taken into a volume.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Gid, Uid};

use super::Folder;
use super::tree::{Owner, clone_tree_as};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::{CloneSpec, Object};

/// How files were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Adopted {
    /// By the file system, without their bytes.
    pub(crate) cloned: u64,
    /// Byte by byte.
    pub(crate) copied: u64,
}

/// What belongs to a server that ran there: also what it wrote of its work, which names rows.
const SKIP: [&str; 12] = [
    "postmaster.pid",
    "postmaster.opts",
    "current_logfiles",
    "log",
    "pg_log",
    "pg_replslot/*",
    "pg_dynshmem/*",
    "pg_notify/*",
    "pg_stat/*",
    "pg_stat_tmp/*",
    "base/pgsql_tmp*",
    "lost+found",
];

/// Takes all that is in `from` into the empty folder `to`, for the user and group `owner`, or as whoever it
/// belongs to. `pg_wal` may be a link to another folder; its files come too.
pub(crate) fn adopt(
    from: &Path,
    to: &Path,
    owner: Option<(u32, u32)>,
    cancel: &Cancel,
) -> Result<Adopted> {
    let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
    let counts = Counts::default();
    let wal = from.join("pg_wal");
    let linked = wal.is_symlink();
    let mut skip = SKIP.to_vec();
    if linked {
        skip.push("pg_wal");
    }
    take(from, to, &skip, owner, &counts, cancel)?;
    if linked {
        let real =
            wal.canonicalize().map_err(|e| Error::io(format!("follow {}", wal.display()), e))?;
        let place = to.join("pg_wal");
        std::fs::create_dir(&place)
            .map_err(|e| Error::io(format!("make {}", place.display()), e))?;
        take(&real, &place, &[], owner, &counts, cancel)?;
    }
    Ok(Adopted { cloned: counts.cloned.into_inner(), copied: counts.copied.into_inner() })
}

/// Whether `file` can be cloned into a folder. No question answers that: it is tried, with a file that has no name
/// and is gone afterwards.
#[cfg(all(any(feature = "btrfs", feature = "reflink"), target_os = "linux"))]
pub(crate) fn can_clone(file: &Path, folder: &Path) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let reads = OFlags::RDONLY | OFlags::CLOEXEC;
    let tried = openat(CWD, file, reads, Mode::empty()).and_then(|from| {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let to = openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::ioctl_ficlone(to, from)
    });
    tried.is_ok()
}

/// The same where nothing clones.
#[cfg(not(all(any(feature = "btrfs", feature = "reflink"), target_os = "linux")))]
pub(crate) fn can_clone(_: &Path, _: &Path) -> bool {
    false
}

fn take(
    from: &Path,
    to: &Path,
    skip: &[&'static str],
    owner: Option<Owner>,
    counts: &Counts,
    cancel: &Cancel,
) -> Result<()> {
    let object = Object::Volume(Id::generate());
    let open = |path: &Path| Folder::open(PathBuf::from(path), object);
    let spec = CloneSpec::new(object, Id::generate()).skip(skip);
    clone_tree_as(
        &open(from)?,
        &open(to)?,
        &spec,
        &|from, to, len, path, cancel| counts.clone_or_copy(from, to, len, path, cancel),
        owner,
        cancel,
    )
}

/// How many files were taken so far, by several threads.
#[derive(Default)]
struct Counts {
    cloned: AtomicU64,
    copied: AtomicU64,
}

impl Counts {
    /// Clones a file where that can be, and copies it elsewhere.
    fn clone_or_copy(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        len: u64,
        path: &Path,
        cancel: &Cancel,
    ) -> Result<()> {
        #[cfg(all(any(feature = "btrfs", feature = "reflink"), target_os = "linux"))]
        match super::ficlone(from, to, len, path, cancel) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            done => {
                self.cloned.fetch_add(1, Ordering::Relaxed);
                return done;
            }
        }
        self.copied.fetch_add(1, Ordering::Relaxed);
        copy(from, to, len, path, cancel)
    }
}

#[cfg(any(feature = "copy", feature = "zfs"))]
use super::copy_file as copy;

#[cfg(not(any(feature = "copy", feature = "zfs")))]
fn copy(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: u64, path: &Path, _: &Cancel) -> Result<()> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("{} cannot be cloned, and this build does not copy", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_wrote_of_its_work_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in ["log/a.log", "pg_log/a", "pg_stat/pgstat.stat", "base/1/1", "current_logfiles"]
        {
            std::fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
            std::fs::write(from.join(path), "x").unwrap();
        }
        std::fs::create_dir(&to).unwrap();
        let taken = adopt(&from, &to, None, &Cancel::new()).unwrap();
        assert_eq!(taken.cloned + taken.copied, 1);
        assert!(to.join("base/1/1").exists() && to.join("pg_stat").is_dir());
        assert!(!to.join("log").exists() && !to.join("pg_log").exists());
    }

    #[test]
    fn nothing_is_left_of_a_try_to_clone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("from"), [1; 8192]).unwrap();
        let to = dir.path().join("to");
        std::fs::create_dir(&to).unwrap();
        can_clone(&dir.path().join("from"), &to);
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
        assert!(!can_clone(&dir.path().join("none"), &to));
    }

    #[test]
    fn two_at_once_count_their_own_files() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for (name, files) in [("a", 300_u64), ("b", 500)] {
                let (from, to) = (dir.path().join(name), dir.path().join(format!("{name}-to")));
                std::fs::create_dir_all(from.join("base")).unwrap();
                std::fs::create_dir(&to).unwrap();
                for n in 0..files {
                    std::fs::write(from.join("base").join(n.to_string()), "x").unwrap();
                }
                scope.spawn(move || {
                    let taken = adopt(&from, &to, None, &Cancel::new()).unwrap();
                    assert_eq!(taken.cloned + taken.copied, files);
                });
            }
        });
    }
}
