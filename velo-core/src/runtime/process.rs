//! A local process for each server.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;

use crate::command::Program;
use crate::engine;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;
use crate::postgres::data_file;
use crate::runtime::{
    Endpoint, InstanceRef, InstanceSpec, Lifeline, Runtime, RuntimeCapability, Started, Status,
    StopMode, ToolOutput, ToolSpec,
};
use crate::storage::Location;

#[cfg(target_os = "linux")]
mod owner;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod shared_memory;
mod unseen;

/// How long a fast shutdown may take (it writes a checkpoint) before it becomes an immediate one.
const FAST: Duration = Duration::from_secs(60);
/// How long an immediate shutdown may take before the processes are killed. The postmaster itself
/// kills its children after 5 s.
const IMMEDIATE: Duration = Duration::from_secs(10);
/// How long another start may remove what a crash left.
const FORGETTING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Process {
    user: Option<OsUser>,
}

impl Process {
    pub(crate) fn new(user: Option<OsUser>) -> Self {
        Self { user }
    }
}

#[async_trait]
impl Runtime for Process {
    fn capability(&self) -> RuntimeCapability {
        RuntimeCapability {
            name: "process",
            needs_host_path: true,
            unix_socket: true,
            bridged: false,
            restarts: false,
            limits: false,
        }
    }

    async fn start(&self, spec: InstanceSpec) -> Result<Started> {
        let (spec, log) = engine::blocking(move || {
            let data = spec.instance.location.host_path();
            refuse_unseen(data, "end it there before it is started here")?;
            // PostgreSQL frees it itself where it finds it: not on a subvolume, which has its inode in common with
            // all others.
            free_shared_memory(data);
            forget_crash(&spec)?;
            let log = super::log::open(&spec.log)?;
            Ok((spec, log))
        })
        .await?;
        let data = spec.instance.location.host_path();
        // With nothing between this and the spawn that others of this process could run in: they would see a server
        // that has no process.
        let mark = unseen::mark(data)?;
        let mut program = Program::new(spec.postgres.program("postgres"))
            .arg("-D")
            .arg(data)
            .user(self.user.as_ref())
            // From its first moment on it is known by where it works.
            .current_dir(data)
            .stdin(mark)
            .log(log)
            .detached();
        for (name, value) in &spec.settings {
            program = program.arg("-c").arg(format!("{name}={value}"));
        }
        if spec.lifeline == Lifeline::Process {
            program = program.dies_with_us();
        }
        let mut child = program.spawn()?;
        Ok(Started {
            endpoint: Endpoint {
                host: "127.0.0.1".into(),
                port: spec.port,
                socket_dir: Some(spec.socket_dir),
            },
            // Dropped, it leaves the child to tokio, which reaps it when it ends.
            exited: Box::pin(async move {
                match child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(e) => format!("cannot be waited for: {e}"),
                }
            }),
        })
    }

    async fn stop(&self, instance: &InstanceRef, mode: StopMode) -> Result<()> {
        let data = instance.location.host_path();
        end(data, mode).await?;
        free_shared_memory(data);
        Ok(())
    }

    async fn status(&self, instance: &InstanceRef) -> Result<Status> {
        let data = instance.location.host_path();
        Ok(match postmaster(data) {
            Some(pid) => Status::Running { pid: u32::try_from(pid.as_raw_nonzero().get()).ok() },
            None if unseen::holds(data)? => Status::Running { pid: None },
            None => Status::Stopped,
        })
    }

    async fn orphans(&self, instance: &InstanceRef) -> Result<bool> {
        Ok(has_orphans(instance.location.host_path()))
    }

    async fn run(&self, spec: ToolSpec) -> Result<ToolOutput> {
        let path = spec.location.host_path().display().to_string();
        let program = spec.postgres.program(spec.tool);
        if !program.exists() {
            return Err(Error::new(
                ErrorKind::PostgresMissing,
                format!("{} has no {}", spec.postgres.bin_dir.display(), spec.tool),
            )
            .with_hint(
                "use a PostgreSQL with all of its programs: velo pg list, velo pg install",
            ));
        }
        let mut program = Program::new(program)
            .args(spec.args_at(&path))
            .user(self.user.as_ref())
            // A group of its own, so that what it starts ends with it; and it never outlives who wants it.
            .detached()
            .killed_with_us();
        for (key, value) in &spec.env {
            program = program.env(key, value);
        }
        if let Some(input) = &spec.input {
            let file = std::fs::File::open(input)
                .map_err(|e| Error::io(format!("read {}", input.display()), e))?;
            program = program.stdin(file);
        }
        let output = program.output_unless(spec.limit, &spec.cancel).await?;
        Ok(ToolOutput {
            success: output.success,
            status: output.status,
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    async fn logs(&self, log: &Path, lines: usize) -> Result<String> {
        super::log::tail(log, lines)
    }

    async fn list(&self, root: &Path) -> Result<Vec<Location>> {
        let entries = std::fs::read_dir(root)
            .map_err(|e| Error::io(format!("list {}", root.display()), e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(format!("list {}", root.display()), e))?;
            if postmaster(&entry.path()).is_some() {
                found.push(Location::HostPath(entry.path()));
            }
        }
        Ok(found)
    }
}

/// Ends the server on `data`, and what one that was killed left of processes. Missing is fine.
async fn end(data: &Path, mode: StopMode) -> Result<()> {
    let Some(pid) = postmaster(data) else {
        // The quick look: as long as anything of a server is there, it holds the lock.
        if !data.join("postmaster.pid").exists() && unseen::is_free(data) {
            return Ok(());
        }
        // One that was started a moment ago has not written its number yet, and children of one
        // that was killed outlive it.
        kill_all(data).await?;
        return refuse_unseen(data, "stop it there");
    };
    let failed = |what: &str, e: rustix::io::Errno| {
        Error::io(format!("{what} the server on {}", data.display()), e)
    };
    let fd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return end_orphans(data).await,
        Err(e) => return Err(failed("watch", e)),
    };
    // Between reading the pid and opening it another process may have taken the number.
    if postmaster(data) != Some(pid) {
        return end_orphans(data).await;
    }
    // SAFETY: the descriptor is owned by the AsyncFd, and so stays open and the same.
    let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| Error::io("watch a process", e))?;
    let mut attempts = vec![(Signal::QUIT, IMMEDIATE)];
    if mode == StopMode::Fast {
        attempts.insert(0, (Signal::INT, FAST));
    }
    for (signal, limit) in attempts {
        match rustix::process::pidfd_send_signal(fd.get_ref(), signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return end_orphans(data).await,
            Err(e) => return Err(failed("stop", e)),
        }
        if tokio::time::timeout(limit, fd.readable()).await.is_ok() {
            return end_orphans(data).await;
        }
        tracing::warn!(data = %data.display(), ?signal, "the server does not stop in time");
    }
    kill_all(data).await
}

/// Frees what a killed server left. What stays is little and harms nobody soon, so that it is no reason
/// to keep its data.
fn free_shared_memory(data: &Path) {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    if let Err(error) = shared_memory::free(data) {
        tracing::warn!(data = %data.display(), %error, "the shared memory of a killed server stays");
    }
    // Untested: elsewhere it stays until the next start on the same data, or the next boot.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    let _ = data;
}

/// The server that runs on `data`, if one does.
///
/// `postmaster.pid` alone says nothing: it is left by a crash, and its number may be another
/// process's by now. A postmaster's working folder is its data folder, which is looked at by
/// identity, not by path. Nor does it say anything where it is missing: somebody may have removed it
/// under a server.
fn postmaster(data: &Path) -> Option<Pid> {
    match data_file::postmaster(data) {
        Some(text) => named(&text).filter(|pid| is_of(*pid, data)),
        // Somebody has removed it under a server.
        None if !data.exists() => processes_in(data).into_iter().find(|pid| is_first(*pid)),
        None if unseen::is_free(data) => None,
        None => {
            let processes = processes_in(data);
            // Alone it is just starting, and nothing is lost with it.
            let up = processes.len() > 1;
            processes.into_iter().find(|pid| up && is_first(*pid))
        }
    }
}

/// Whether a process of PostgreSQL is no other one's child, by what it calls itself.
fn is_first(pid: Pid) -> bool {
    let title = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    title.is_ok_and(|title| !title.is_empty() && !title.starts_with(b"postgres: "))
}

/// The process that a `postmaster.pid` names. A server in single-user mode, like that which `initdb`
/// starts, writes its number negative; it holds the data as any other does.
pub(crate) fn named(text: &str) -> Option<Pid> {
    let number = text.lines().next()?.trim().parse::<i32>().ok()?;
    Pid::from_raw(number.checked_abs()?)
}

/// Removes the lock files that a server which crashed left: where another process has its number by
/// now, PostgreSQL takes that for the server and does not start. Nothing is removed while any process
/// of a server is there; PostgreSQL then decides itself.
fn forget_crash(spec: &InstanceSpec) -> Result<()> {
    let data = spec.instance.location.host_path();
    let socket_lock = spec.socket_dir.join(format!(".s.PGSQL.{}.lock", spec.port));
    let mut left = vec![data.join("postmaster.pid"), socket_lock];
    let crashed = left.iter().any(|path| path.exists());
    // Without /proc nobody can tell who is there.
    if !crashed || !Path::new("/proc/self/cwd").exists() {
        return Ok(());
    }
    // Of two starts at the same time the second looks when the first has removed what was left: what
    // is there then is of a server that is already in its folder.
    let lock =
        std::fs::File::open(data).map_err(|e| Error::io(format!("open {}", data.display()), e))?;
    let begun = Instant::now();
    while let Err(e) = lock.try_lock() {
        match e {
            TryLockError::WouldBlock if begun.elapsed() < FORGETTING => {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Whoever has it is no start: what the server's user runs may hold it for ever.
            TryLockError::WouldBlock => return Ok(()),
            TryLockError::Error(e) => {
                return Err(Error::io(format!("lock {}", data.display()), e));
            }
        }
    }
    left.retain(|path| path.exists());
    if !processes_in(data).is_empty() {
        return Ok(());
    }
    for path in left {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An error if a server works on `data` that this process cannot see.
fn refuse_unseen(data: &Path, hint: &str) -> Result<()> {
    if !unseen::holds(data)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "a server that cannot be seen from here (it runs in another container or PID \
             namespace) works on {}",
            data.display()
        ),
    )
    .with_hint(hint))
}

/// Whether children of a postmaster that was killed are there. One that computes does not notice,
/// works on, and keeps the next server from starting.
fn has_orphans(data: &Path) -> bool {
    // The quick looks first: after any other end neither the file nor the lock is left.
    (data.join("postmaster.pid").exists() || !unseen::is_free(data))
        && postmaster(data).is_none()
        && !processes_in(data).is_empty()
}

async fn end_orphans(data: &Path) -> Result<()> {
    if has_orphans(data) { kill_all(data).await } else { Ok(()) }
}

/// Kills what is left of a server and waits until it is gone.
async fn kill_all(data: &Path) -> Result<()> {
    for pid in processes_in(data) {
        let gone = |e| Error::io(format!("end a process of the server on {}", data.display()), e);
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => continue,
            Err(e) => return Err(gone(e)),
        };
        // Between the look and the opening another process may have taken the number.
        if !is_of(pid, data) {
            continue;
        }
        match rustix::process::pidfd_send_signal(&fd, Signal::KILL) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => continue,
            Err(e) => return Err(gone(e)),
        }
        // SAFETY: the descriptor is owned by the AsyncFd, and so stays open and the same.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| Error::io("watch a process", e))?;
        if tokio::time::timeout(IMMEDIATE, fd.readable()).await.is_err() {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("the server on {} does not end, even killed", data.display()),
            )
            .with_context("pid", pid.as_raw_nonzero())
            .with_hint("its disk may not answer; look at the kernel's log"));
        }
    }
    Ok(())
}

/// Every process of a server on `data`: the postmaster and its children.
pub(super) fn processes_in(data: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| is_of(*pid, data))
        .collect()
}

/// Whether `pid` is a process of a server on `data`, and not, say, a shell in that folder, whose number
/// the server's user may have written into `postmaster.pid`.
#[cfg(target_os = "linux")]
fn is_of(pid: Pid, data: &Path) -> bool {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    // Some distributions wrap it: `.postgres-wrapped`.
    let is_postgres = || {
        let name = std::fs::read(format!("{process}/comm"));
        name.is_ok_and(|name| name.windows(8).any(|part| part == b"postgres"))
    };
    let folder = format!("{process}/cwd");
    let found = std::fs::metadata(data);
    let works = || std::fs::metadata(&folder);
    let works = match &found {
        Ok(data) => owner::seen_by(data, works),
        Err(_) => works(),
    };
    let Ok(works) = works else { return false };
    if found.is_ok_and(|data| (works.dev(), works.ino()) == (data.dev(), data.ino())) {
        return is_postgres();
    }
    // The folder is gone, or another one is in its place; it has its name still for whoever works in it.
    let Ok(works) = std::fs::read_link(&folder) else { return false };
    // The quick look first: most work in folders that are there.
    works.as_os_str().as_encoded_bytes().ends_with(REMOVED.as_bytes())
        && was(data) == works
        && is_postgres()
}

/// What the kernel adds to the name of a folder that was removed.
#[cfg(target_os = "linux")]
const REMOVED: &str = " (deleted)";

/// How the kernel calls a folder that was removed.
#[cfg(target_os = "linux")]
fn was(data: &Path) -> PathBuf {
    let parent = data.parent().and_then(|parent| parent.canonicalize().ok()).unwrap_or_default();
    let mut path = parent.join(data.file_name().unwrap_or_default()).into_os_string();
    path.push(REMOVED);
    path.into()
}

/// Untested: without /proc a live process with the number is taken for the server.
#[cfg(not(target_os = "linux"))]
fn is_of(pid: Pid, _data: &Path) -> bool {
    rustix::process::test_kill_process(pid).is_ok()
}

/// Every parser of what a server leaves, for any bytes.
#[cfg(feature = "testing")]
pub(crate) fn any_bytes(data: &[u8]) {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    shared_memory::any_bytes(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_a_pid_file_names() {
        let pid = |text: &str| named(text).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(pid("4711\n/data\n"), Some(4711));
        assert_eq!(pid("-4711\n/data\n"), Some(4711), "a server in single-user mode");
        for bad in ["", "\n", "0\n", "-0\n", "x\n", "-2147483648\n", "2147483648\n"] {
            assert_eq!(pid(bad), None, "{bad:?}");
        }
    }
}
