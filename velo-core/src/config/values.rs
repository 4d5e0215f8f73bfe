//! What a setting's text or number means, and which ones are refused.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::ROOM;
#[cfg(feature = "testing")]
use super::layers::layer;
use crate::error::{Error, ErrorKind, Result};

/// The longest wait for a slot, in seconds: a day.
const MAX_WAIT: u64 = 86_400;

/// A dataset's name, which no program sees unchecked.
pub(super) fn checked_dataset(name: String) -> Result<String> {
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    crate::storage::zfs::check_dataset(&name)?;
    Ok(name)
}

pub(super) fn checked_properties(
    properties: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    crate::storage::zfs::check_properties(&properties)?;
    Ok(properties)
}

/// The path from the root. It must be UTF-8: it stands in settings of PostgreSQL, in URLs and in
/// JSON.
pub(super) fn absolute(path: &Path, variable: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(path)
        .map_err(|e| Error::io(format!("resolve {}", path.display()), e))?;
    if whole.to_str().is_some_and(|text| !text.chars().any(char::is_control)) {
        return Ok(whole);
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("the path {whole:?} is not plain text in UTF-8"),
    )
    .with_hint(format!("set {variable} to a folder whose path is")))
}

/// The same place by its one real path, whatever links and `..` lead there: engines and labels know it by that.
/// What is not there yet, or cannot be looked at, stays as it is written.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let mut real = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(real.pop()),
            Component::CurDir => {}
            part => {
                real.push(part);
                real = real.canonicalize().unwrap_or(real);
            }
        }
    }
    real
}

pub(super) fn start_timeout(seconds: Option<u64>) -> Result<Duration> {
    match seconds {
        Some(0) => Err(Error::new(ErrorKind::InvalidInput, "a start timeout of 0 seconds is none")
            .with_hint("give servers at least a second to start (VELO_START_TIMEOUT)")),
        seconds => Ok(Duration::from_secs(seconds.unwrap_or(120))),
    }
}

pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

pub(super) fn max_running(servers: Option<u32>) -> Result<Option<u32>> {
    if servers == Some(0) {
        return Err(Error::new(ErrorKind::InvalidInput, "a maximum of 0 servers lets none start")
            .with_hint("set VELO_MAX_RUNNING to 1 or more, or unset it"));
    }
    Ok(servers)
}

pub(super) fn slot_timeout(seconds: Option<u64>) -> Result<Duration> {
    match seconds.unwrap_or(60) {
        seconds if seconds <= MAX_WAIT => Ok(Duration::from_secs(seconds)),
        seconds => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("a wait of {seconds} seconds for a slot is longer than a day"),
        )
        .with_hint("set VELO_SLOT_TIMEOUT to 86400 or less")),
    }
}

pub(super) fn keep_free(text: Option<&str>) -> Result<u64> {
    let bytes = text.map_or(Ok(ROOM), size)?;
    if bytes < ROOM {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{bytes} bytes of free space are too few: a clone needs {} MB", ROOM >> 20),
        )
        .with_hint("set VELO_KEEP_FREE to 48M or more, or unset it"));
    }
    Ok(bytes)
}

pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>> {
    text.split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?))
        .filter(|range| !range.is_empty() && *range.start() >= 1024)
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("ports {text:?} is not a range of ports"))
                .with_hint("use first-last with first at least 1024, like 21000-29999")
        })
}

/// Bytes, from `2G`, `512M`, `64k` (powers of 1024) or a plain number of them.
pub(crate) fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches(['b', 'i']) {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1u64 << 40),
        _ => None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|number| plain && *number > 0);
    let bytes = unit.zip(number).and_then(|(unit, number)| number.checked_mul(unit));
    // What engines and file systems count with has a sign.
    bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a size"))
            .with_hint("write 2G, 512M, or a number of bytes")
    })
}

/// Thousandths of a processor, from `1.5`.
pub(crate) fn millicpus(text: &str) -> Result<u32> {
    let number = text.parse::<f64>().ok().filter(|n| (0.01..=4096.0).contains(n));
    number.map(|n| (n * 1000.0).round() as u32).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a number of processors"))
            .with_hint("write 2, or 0.5")
    })
}

/// For a fuzzer: whatever a file or a variable says is refused or makes sense.
#[cfg(feature = "testing")]
pub(crate) fn any_text(text: &str) -> std::result::Result<(), String> {
    let _ = (layer(text), millicpus(text), checked_dataset(text.to_owned()));
    if size(text).is_ok_and(|bytes| bytes == 0) {
        return Err(format!("{text:?} is a size of nothing"));
    }
    match ports(text) {
        Ok(range) if range.is_empty() || *range.start() == 0 => Err(format!("ports {range:?}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_path() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink(real.join("a/b"), real.join("link")).unwrap();
        for (path, place) in [
            ("a/b", "a/b"),
            ("a/../a/./b", "a/b"),
            ("link", "a/b"),
            ("link/..", "a"),
            ("link/not/yet", "a/b/not/yet"),
            ("not/../yet", "yet"),
        ] {
            assert_eq!(resolved(&dir.path().join(path)), real.join(place), "{path}");
        }
    }
}
