//! Programs of peers, which run as the user of servers.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use velo_benches::{Result, process};

/// One that finds PostgreSQL's programs, and has a home that is its own.
pub(crate) fn command(program: &Path, bin: &Path, home: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null());
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
