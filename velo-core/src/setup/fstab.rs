//! Lines of `/etc/fstab`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::journal::replace;
use crate::error::{Error, Result};

fn read(fstab: &Path) -> Result<String> {
    match std::fs::read_to_string(fstab) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|e| Error::io(format!("read {}", fstab.display()), e)),
    }
}

fn write(fstab: &Path, text: &str) -> Result<()> {
    let mode = std::fs::metadata(fstab).map_or(0o644, |m| m.permissions().mode() & 0o777);
    replace(fstab, text.as_bytes(), mode)
}

/// Whether the line is there.
pub(super) fn has(fstab: &Path, line: &str) -> Result<bool> {
    Ok(read(fstab)?.lines().any(|there| there == line))
}

/// Adds the line at the end.
pub(super) fn add(fstab: &Path, line: &str) -> Result<()> {
    write(fstab, &with(&read(fstab)?, line))
}

/// Removes the line, and no other.
pub(super) fn remove(fstab: &Path, line: &str) -> Result<()> {
    write(fstab, &without(&read(fstab)?, line))
}

pub(crate) fn with(text: &str, line: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{line}\n")
}

pub(crate) fn without(text: &str, line: &str) -> String {
    text.split_inclusive('\n').filter(|there| there.trim_end_matches('\n') != line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_and_goes_and_the_rest_stays() {
        for text in ["", "/dev/vda / ext4 defaults 0 1\n", "# a\n\n/dev/vda / ext4 defaults 0 1"] {
            let line = "/a.img /a btrfs loop 0 0";
            let there = with(text, line);
            assert!(there.lines().any(|l| l == line), "{there:?}");
            assert_eq!(without(&there, line).trim_end(), text.trim_end());
        }
    }
}
