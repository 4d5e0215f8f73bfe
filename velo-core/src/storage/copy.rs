//! Plain copies. They work on every file system, and take time and space for every byte.

use std::os::fd::BorrowedFd;
use std::path::Path;

use async_trait::async_trait;
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::storage::files::Files;
use crate::storage::{
    CloneSpec, Cut, FileOp, Location, Object, Storage, StorageCapability, Usage, VolumeSpec,
};

/// How much is copied between two looks at whether it is still wanted.
const CHUNK: usize = 16 << 20;
const BUFFER: usize = 256 << 10;

/// Copies of folders.
#[derive(Debug)]
pub(crate) struct Copy(Files);

impl Copy {
    pub(crate) fn new(root: &Path) -> Self {
        Self(Files::new(root))
    }
}

#[async_trait]
impl Storage for Copy {
    fn capability(&self) -> StorageCapability {
        StorageCapability {
            name: "copy",
            copy_on_write: false,
            cut: Cut::FileByFile,
            clones_need_source: false,
            quota: false,
        }
    }

    fn location(&self, object: Object) -> Location {
        self.0.location(object)
    }

    async fn create_volume(&self, spec: VolumeSpec) -> Result<()> {
        self.0.create(spec).await
    }

    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Volume(spec.target);
        self.0.clone_tree(spec, target, copy_file, cancel).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        let target = Object::Snapshot(spec.target);
        self.0.clone_tree(spec, target, copy_file, cancel).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        self.0.edit(object, ops, copy_file).await
    }

    async fn sync(&self, object: Object) -> Result<()> {
        self.0.sync(object).await
    }

    async fn destroy_volume(&self, id: Id) -> Result<()> {
        self.0.destroy(Object::Volume(id)).await
    }

    async fn destroy_snapshot(&self, id: Id) -> Result<()> {
        self.0.destroy(Object::Snapshot(id)).await
    }

    async fn list(&self) -> Result<Vec<Object>> {
        self.0.list().await
    }

    async fn usage(&self, object: Object) -> Result<Usage> {
        self.0.usage(object).await
    }
}

/// Copies the first `len` bytes, which is what the file had when it was opened: a file that a server
/// keeps extending would have no end. Holes stay holes.
fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: u64,
    path: &Path,
    cancel: &Cancel,
) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        let stat = rustix::fs::fstat(from)
            .map_err(|e| Error::io(format_args!("copy {}", path.display()), e))?;
        // Fewer blocks than bytes: holes, or compression, which is one range without any.
        if (stat.st_blocks as u64) * 512 < len {
            return copy_ranges(from, to, len, path, cancel);
        }
    }
    copy_bytes(from, to, len, path, cancel)
}

/// Copies what lies between the holes.
#[cfg(target_os = "linux")]
fn copy_ranges(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: u64,
    path: &Path,
    cancel: &Cancel,
) -> Result<()> {
    use rustix::fs::{SeekFrom, seek};
    let fault = |e: Errno| Error::io(format_args!("copy {}", path.display()), e);
    let mut end = 0;
    while end < len {
        let start = match seek(from, SeekFrom::Data(end)) {
            Ok(start) if start < len => start,
            // No data from here on.
            Ok(_) | Err(Errno::NXIO) => break,
            // A file system that knows no holes says so of the first: everything is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if end == 0 => {
                return copy_bytes(from, to, len, path, cancel);
            }
            Err(e) => return Err(fault(e)),
        };
        end = match seek(from, SeekFrom::Hole(start)) {
            Ok(hole) => hole.min(len),
            // The file was cut short meanwhile.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(fault(e)),
        };
        seek(from, SeekFrom::Start(start)).map_err(fault)?;
        seek(to, SeekFrom::Start(start)).map_err(fault)?;
        copy_bytes(from, to, end - start, path, cancel)?;
    }
    // A hole at the end; but no longer than the file is by now.
    let now = rustix::fs::fstat(from).map_err(fault)?.st_size as u64;
    rustix::fs::ftruncate(to, len.min(now)).map_err(fault)
}

/// Copies `len` bytes from where both files stand, or up to the end.
fn copy_bytes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: u64,
    path: &Path,
    cancel: &Cancel,
) -> Result<()> {
    let fault = |e: Errno| Error::io(format_args!("copy {}", path.display()), e);
    let mut left = len;
    #[cfg(target_os = "linux")]
    while left > 0 {
        cancel.check()?;
        match rustix::fs::copy_file_range(from, None, to, None, chunk(left, CHUNK)) {
            // The end; or one of the file systems that say so of a file which has more.
            Ok(0) => break,
            Ok(n) => left -= n as u64,
            Err(Errno::INTR) => {}
            // Not between these two, or forbidden by a sandbox. Nothing of this chunk was copied.
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BADF,
            ) => break,
            Err(e) => return Err(fault(e)),
        }
    }
    if left == 0 {
        return Ok(());
    }
    // Both offsets are where the loop above stopped.
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        cancel.check()?;
        let wanted = chunk(left, BUFFER);
        let n = match rustix::io::read(from, buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(fault(e)),
        };
        let mut rest = buffer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(fault(e)),
            }
        }
        left -= n as u64;
    }
    Ok(())
}

fn chunk(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_of_its_source() {
        const MB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        for (i, (len, data)) in [
            (16 * MB, vec![]),
            (16 * MB, vec![0]),
            (16 * MB, vec![3 * MB, 9 * MB]),
            (16 * MB + 5, vec![16 * MB]),
            (5, vec![0]),
        ]
        .into_iter()
        .enumerate()
        {
            let (from, to) = (dir.path().join(format!("f{i}")), dir.path().join(format!("t{i}")));
            let file = File::create(&from).unwrap();
            file.set_len(len).unwrap();
            for at in data {
                file.write_all_at(&vec![7; 4096.min((len - at) as usize)], at).unwrap();
            }
            file.sync_all().unwrap();
            let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
            copy_file(source.as_fd(), target.as_fd(), len, &from, &Cancel::new()).unwrap();
            target.sync_all().unwrap();
            assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{i}");
            let blocks = |path| fs::metadata(path).unwrap().blocks();
            // A file system may say nothing of holes; then the source has them not either.
            assert!(blocks(&to) <= blocks(&from) + 256, "{i}");
        }
    }

    #[test]
    fn no_more_is_copied_than_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "0123456789").unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        copy_file(source.as_fd(), target.as_fd(), 4, &from, &Cancel::new()).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"0123");
    }
}
