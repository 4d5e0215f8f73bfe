//! A server's log: a file that it appends to, whatever runs it.

use std::fs::File;
#[cfg(any(feature = "process", feature = "docker"))]
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Result};

/// How much of a log is looked at.
#[cfg(any(feature = "process", feature = "docker"))]
const TAIL: u64 = 64 * 1024;

/// Opens it to append to, making it if it is missing.
pub(crate) fn open(log: &Path) -> Result<File> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(log)
        .map_err(|e| Error::io(format!("open the log {}", log.display()), e))
}

/// Its last `lines` lines.
#[cfg(any(feature = "process", feature = "docker"))]
pub(super) fn tail(log: &Path, lines: usize) -> Result<String> {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().map_err(|e| Error::io(format!("read the log {}", log.display()), e))?;
    let all: Vec<_> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}
