//! Copying the content of one file.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// How much is copied between two looks at whether it is still wanted.
const CHUNK: usize = 16 << 20;
const BUFFER: usize = 256 << 10;

/// Copies the first `len` bytes, which is what the file had when it was opened: a file that a server
/// keeps extending would have no end. Holes stay holes.
pub(in crate::storage) fn copy_file(
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
