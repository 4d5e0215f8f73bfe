//! The kernel's call that clones one file.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};

/// Clones one file whole, however long it has become since.
pub(in crate::storage) fn ficlone(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    _len: u64,
    path: &Path,
    _cancel: &Cancel,
) -> Result<()> {
    loop {
        return match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(e @ (Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY)) => {
                Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the file system refuses to clone {}: {e}", path.display()),
                )
                .with_source(std::io::Error::from(e))
                .with_hint(
                    "keep all files on one file system, without `chattr +C`, or use storage copy",
                ))
            }
            Err(e) => Err(Error::io(format_args!("clone {}", path.display()), e)),
        };
    }
}
