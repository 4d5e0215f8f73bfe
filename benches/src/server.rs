//! A server that runs, as the kernel sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

/// The proportional set size of a server's processes in kB, by what they are: `checkpointer`, …. A child that ends
/// meanwhile, as workers of autovacuum do, is not counted.
///
/// # Errors
/// If the postmaster `pid` does not run, or is another user's.
pub fn memory(pid: u32) -> Result<BTreeMap<String, u64>> {
    let gone = || format!("the server {pid} does not run");
    let mut parts = BTreeMap::from([(title(pid)?.ok_or_else(gone)?, pss(pid)?.ok_or_else(gone)?)]);
    for child in children(pid)? {
        if let (Some(title), Some(pss)) = (title(child)?, pss(child)?) {
            *parts.entry(title).or_insert(0) += pss;
        }
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

/// What a process is called, unless it is gone.
fn title(pid: u32) -> Result<Option<String>> {
    let Some(line) = read(pid, "cmdline")? else { return Ok(None) };
    let text = line.trim_end_matches(['\0', ' ']);
    Ok(Some(match text.strip_prefix("postgres: ") {
        Some(title) => title.to_owned(),
        None => "postmaster".to_owned(),
    }))
}

/// The same of its proportional set size.
fn pss(pid: u32) -> Result<Option<u64>> {
    let Some(text) = read(pid, "smaps_rollup")? else { return Ok(None) };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    Ok(Some(line.ok_or("no PSS in smaps_rollup")?.parse()?))
}

/// A file of a process's; none of one that is gone, or whose parent has only to notice.
fn read(pid: u32, file: &str) -> Result<Option<String>> {
    match std::fs::read(format!("/proc/{pid}/{file}")) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn the_memory_of_a_process_that_has_ended_is_none() -> Result<()> {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        let pid = child.id();
        assert!(memory(pid)?.contains_key("postmaster"), "it runs");
        drop(child.stdin.take());
        let raw = i32::try_from(pid)?;
        let id = WaitId::Pid(rustix::process::Pid::from_raw(raw).ok_or("no process")?);
        waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        assert_eq!(pss(pid)?, None, "its parent has not noticed yet");
        child.wait()?;
        assert_eq!(pss(pid)?, None, "it is gone");
        assert!(memory(pid).is_err(), "no server is there");
        Ok(())
    }
}
