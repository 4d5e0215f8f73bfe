//! Bare servers: as whom they run, that they end with this thread, and when they are ready.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use crate::Result;

/// Has a program run as this user, where root starts it, and end with the thread that starts it.
pub fn tie(command: &mut Command, owner: Option<(u32, u32)>) {
    if let Some((uid, gid)) = owner
        && rustix::process::geteuid().is_root()
    {
        command.uid(uid).gid(gid);
    }
    // SAFETY: between fork and exec it makes one system call (prctl) and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            let quit = Some(rustix::process::Signal::QUIT);
            Ok(rustix::process::set_parent_process_death_signal(quit)?)
        });
    }
}

/// The user that servers of peers run as where root measures: `postgres`.
///
/// # Errors
/// If there is none.
pub fn server_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.ok_or("there is no user postgres")?.split(':').skip(2);
    let (Some(uid), Some(gid)) = (fields.next(), fields.next()) else {
        return Err("the user postgres has no numbers".into());
    };
    Ok(Some((uid.parse()?, gid.parse()?)))
}

/// Whether the server on `data` says so in its `postmaster.pid`: a connection attempt before that would cost it
/// a process.
#[must_use]
pub fn is_ready(data: &Path) -> bool {
    std::fs::read_to_string(data.join("postmaster.pid"))
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
}

/// Ends a server at once.
///
/// # Errors
/// If it cannot be told to, or be waited for.
pub fn quit(child: &mut Child) -> Result<()> {
    signal(child.id(), rustix::process::Signal::QUIT)?;
    child.wait()?;
    Ok(())
}

/// Sends a signal; to one that is gone it makes no difference.
///
/// # Errors
/// If it is another user's.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Err(format!("{pid} is no process").into());
    };
    match rustix::process::kill_process(pid, signal) {
        Err(e) if e != rustix::io::Errno::SRCH => Err(e.into()),
        _ => Ok(()),
    }
}
