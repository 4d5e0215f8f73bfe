//! A server that runs, as the kernel sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

/// The proportional set size of a server's processes in kB, by what they are: `checkpointer`, ….
///
/// # Errors
/// If the postmaster `pid` does not run, or is another user's.
pub fn memory(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut parts = BTreeMap::new();
    for pid in children(pid)?.into_iter().chain([pid]) {
        *parts.entry(title(pid)?).or_insert(0) += pss(pid)?;
    }
    Ok(parts)
}

/// PGDATA of the postmaster `pid`: its working folder.
///
/// # Errors
/// If it does not run, or is another user's.
pub fn data_of(pid: u32) -> Result<PathBuf> {
    Ok(std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("cwd"))?)
}

/// The processor time that the threads of the process `pid` have had, those that are there.
///
/// # Errors
/// If it does not run.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // One may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanoseconds = text.split_whitespace().next().ok_or("an empty schedstat")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn title(pid: u32) -> Result<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8_lossy(&line);
    let text = text.trim_end_matches(['\0', ' ']);
    Ok(match text.strip_prefix("postgres: ") {
        Some(title) => title.to_owned(),
        None => "postmaster".to_owned(),
    })
}

fn pss(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| "no PSS in smaps_rollup".into())
}
