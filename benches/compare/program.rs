//! Programs of peers, which run as the user of servers.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use velo_benches::{Result, process, server};

/// One that finds PostgreSQL's programs, and has a home that is its own.
pub(crate) fn command(program: &Path, bin: &Path, home: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some((uid, gid)) = process::server_user()? {
        command.uid(uid).gid(gid).env("USER", "postgres").env("LOGNAME", "postgres");
    }
    Ok(command)
}

/// What it prints, if it succeeds. It may leave programs behind that hold its error output, so that this goes to a
/// file.
pub(crate) async fn output(command: &mut Command, home: &Path) -> Result<String> {
    let log = home.join("stderr");
    command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
    let out = command.spawn()?.wait_with_output().await?;
    if !out.status.success() {
        let why = std::fs::read_to_string(&log).unwrap_or_default();
        let what = command.as_std().get_program().to_string_lossy().into_owned();
        return Err(format!("{what}: {}: {}", out.status, why.trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The process at the head of the server on `data`.
pub(crate) fn postmaster(data: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid"))?;
    Ok(text.lines().next().ok_or("an empty postmaster.pid")?.trim().parse()?)
}

/// Ends the servers whose data is below `dir`: a command that was broken off may have left some.
pub(crate) async fn end_servers(dir: &Path) -> Result<()> {
    let (mut servers, mut folders) = (Vec::new(), vec![dir.canonicalize()?]);
    while let Some(folder) = folders.pop() {
        if folder.join("PG_VERSION").exists() {
            // A number that was written by a server that is gone may be another process's.
            let pid = postmaster(&folder).ok();
            servers
                .extend(pid.filter(|pid| server::data_of(*pid).is_ok_and(|data| data == folder)));
            continue;
        }
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let entries = entries.flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    for pid in servers {
        let begun = Instant::now();
        process::signal(pid, rustix::process::Signal::QUIT)?;
        while server::data_of(pid).is_ok() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(format!("the server {pid} of a peer's does not end").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}
