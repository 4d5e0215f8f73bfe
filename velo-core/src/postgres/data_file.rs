//! Small files in a server's data, read by Velo.
//!
//! The data belongs to the user that `postgres` runs as, who is everybody with a superuser's password,
//! and Velo may be root. So whatever is there instead of a file is neither followed nor waited for, and
//! no more is read than the file can have.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The most of `postmaster.pid` and `pg_control`, by far.
pub(crate) const SMALL: u64 = 64 << 10;
/// The most of a file of settings.
pub(crate) const SETTINGS: u64 = 16 << 20;

/// Opens `path`, which is no link; a pipe does not block.
pub(crate) fn open(path: &Path) -> Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The content of the file `path`, which may have `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidData, "it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::InvalidData, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// What `postmaster.pid` in the folder `data` says, if it is there.
pub(crate) fn postmaster(data: &Path) -> Option<String> {
    String::from_utf8(read(&data.join("postmaster.pid"), SMALL).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        assert_eq!(read(&at("file"), 5).unwrap(), b"12345");
        assert_eq!(read(&at("file"), 4).unwrap_err().kind(), ErrorKind::InvalidData);
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert_eq!(read(&at("pipe"), 5).unwrap_err().kind(), ErrorKind::InvalidData);
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert_eq!(read(&at("link"), 5).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
