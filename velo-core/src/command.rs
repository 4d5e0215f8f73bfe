//! The one place that spawns a program. `clippy.toml` keeps it so.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;

/// The variables that a program inherits; nothing else reaches it, so that no `PG*` variable of
/// the caller's changes what a PostgreSQL program does.
const INHERITED: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
];

/// A program to spawn.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<OsUser>,
    stdin: Option<File>,
    log: Option<File>,
    stdout: Option<File>,
    inherits_env: bool,
    unset: &'static [&'static str],
    current_dir: PathBuf,
    detached: bool,
    dies_with_us: bool,
    is_killed: bool,
    called: Option<&'static str>,
}

/// What a program that ended has printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) status: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            args: Vec::new(),
            env: vec![("LC_ALL".into(), "C".into())],
            user: None,
            stdin: None,
            log: None,
            stdout: None,
            inherits_env: false,
            unset: &[],
            // The caller's folder may be one that the server's user cannot enter.
            current_dir: "/".into(),
            detached: false,
            dies_with_us: false,
            is_killed: false,
            called: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Runs it as `user`; `None` is this process's own user.
    pub(crate) fn user(mut self, user: Option<&OsUser>) -> Self {
        self.user = user.cloned();
        self
    }

    /// One more variable.
    pub(crate) fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// What it is shown as among the processes.
    pub(crate) fn called(mut self, name: &'static str) -> Self {
        self.called = Some(name);
        self
    }

    /// Gives it this file as its standard input.
    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    /// Gives it this file as its standard output.
    pub(crate) fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    /// Appends its output to `log`.
    pub(crate) fn log(mut self, log: File) -> Self {
        self.log = Some(log);
        self
    }

    /// Hands down the caller's whole environment: package managers are set up by it.
    pub(crate) fn inherit_env(mut self) -> Self {
        self.inherits_env = true;
        self
    }

    /// But for these of them.
    pub(crate) fn without_env(mut self, keys: &'static [&'static str]) -> Self {
        self.unset = keys;
        self
    }

    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.current_dir = dir.to_path_buf();
        self
    }

    /// Gives it a session of its own, so that Ctrl-C in a terminal does not reach it.
    pub(crate) fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Sends it SIGQUIT when the *thread* that spawns it ends. Spawn it from the engine's thread,
    /// which lives as long as the process.
    pub(crate) fn dies_with_us(mut self) -> Self {
        self.dies_with_us = true;
        self
    }

    /// The same by SIGKILL, for one that puts off what a signal asks of it: `initdb` looks for one only when the
    /// server that it runs has ended. That ends with its input.
    #[cfg(feature = "process")]
    pub(crate) fn killed_with_us(mut self) -> Self {
        self.is_killed = true;
        self.dies_with_us()
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Spawns it and returns at once. The child is not killed when the handle is dropped.
    pub(crate) fn spawn(self) -> Result<Child> {
        let shown = self.path.display().to_string();
        let mut command = self.command()?;
        command.spawn().map_err(|e| Error::io(format!("start {shown}"), e))
    }

    /// Runs it to its end, at most `limit`; then it is killed.
    pub(crate) async fn output(self, limit: Duration) -> Result<Output> {
        self.output_with(limit, |_| {}).await
    }

    /// Runs it to its end, or until `cancel` asks it to stop: then it is killed with all that it has started,
    /// and gone when this returns. It is to be [`detached`](Self::detached), so that they are one group.
    pub(crate) async fn output_unless(
        self,
        limit: Option<Duration>,
        cancel: &Cancel,
    ) -> Result<Output> {
        let name = self.name();
        let to_file = self.stdout.is_some();
        let mut command = self.command()?;
        if !to_file {
            command.stdout(Stdio::piped());
        }
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| Error::io(format!("start {name}"), e))?;
        // It holds the other end of a pipe that it was given.
        drop(command);
        let (out, Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Internal, format!("{name} has no output pipe")));
        };
        let group = child.id().and_then(|pid| i32::try_from(pid).ok());
        let group = group.and_then(rustix::process::Pid::from_raw);
        // To the ends of both pipes, which come when nobody of the group is left.
        let mut work = std::pin::pin!(async {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let read_out = async {
                match out {
                    Some(mut out) => out.read_to_end(&mut stdout).await,
                    None => Ok(0),
                }
            };
            let (out, err, status) =
                tokio::join!(read_out, err.read_to_end(&mut stderr), child.wait());
            out?;
            err?;
            Ok::<_, std::io::Error>((status?, stdout, stderr))
        });
        let over = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let stopped = tokio::select! {
            biased;
            done = &mut work => Ok(done),
            () = cancel.canceled() => Err(None),
            () = over => Err(limit),
        };
        let (status, stdout, stderr) = match stopped {
            Ok(done) => done.map_err(|e| Error::io(format!("run {name}"), e))?,
            Err(limit) => {
                if let Some(group) = group {
                    let _ =
                        rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = work.await;
                cancel.check()?;
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{name} did not end within {seconds} s and was killed"),
                ));
            }
        };
        Ok(Output {
            success: status.success(),
            status: status.to_string(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Like [`output`](Self::output), and hands each line of its output to `line` as it comes.
    pub(crate) async fn output_with(
        self,
        limit: Duration,
        mut line: impl FnMut(&str) + Send,
    ) -> Result<Output> {
        let name = self.name();
        let mut command = self.command()?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| Error::io(format!("start {name}"), e))?;
        let (Some(out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Internal, format!("{name} has no output pipe")));
        };
        let mut stdout = String::new();
        let mut stderr = Vec::new();
        let work = async {
            let read_out = async {
                let mut lines = BufReader::new(out);
                let mut buffer = Vec::new();
                while lines.read_until(b'\n', &mut buffer).await? > 0 {
                    let text = String::from_utf8_lossy(&buffer);
                    line(text.trim_end());
                    stdout.push_str(&text);
                    buffer.clear();
                }
                Ok::<(), std::io::Error>(())
            };
            let read_err = err.read_to_end(&mut stderr);
            let (out, err, status) = tokio::join!(read_out, read_err, child.wait());
            out?;
            err?;
            status
        };
        let status = match tokio::time::timeout(limit, work).await {
            Ok(status) => status.map_err(|e| Error::io(format!("run {name}"), e))?,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{name} did not end within {} s and was killed", limit.as_secs()),
                ));
            }
        };
        Ok(Output {
            success: status.success(),
            status: status.to_string(),
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    #[allow(clippy::disallowed_methods)] // this is the one place
    fn command(self) -> Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.args).stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        if !self.inherits_env {
            command.env_clear();
            for key in INHERITED {
                if let Some(value) = std::env::var_os(key) {
                    command.env(key, value);
                }
            }
        }
        for key in self.unset {
            command.env_remove(key);
        }
        command.envs(self.env);
        command.current_dir(self.current_dir);
        match self.log {
            Some(log) => {
                let second = log.try_clone().map_err(|e| Error::io("duplicate a log file", e))?;
                command.stdout(second).stderr(log);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        if let Some(file) = self.stdout {
            command.stdout(file);
        }
        #[cfg(unix)]
        {
            if let Some(name) = self.called {
                command.arg0(name);
            }
            if let Some(user) = &self.user {
                // As root std drops the supplementary groups with the uid.
                command.uid(user.uid).gid(user.gid);
            }
            let Self { detached, dies_with_us, is_killed, .. } = self;
            let parent = rustix::process::getpid();
            // SAFETY: between fork and exec only async-signal-safe calls are made (close_range, fcntl,
            // signal, setsid, prctl, getppid), and nothing is allocated.
            unsafe {
                command.pre_exec(move || {
                    keep_files_to_ourselves();
                    heed_quit();
                    if detached {
                        rustix::process::setsid()?;
                    }
                    #[cfg(target_os = "linux")]
                    if dies_with_us {
                        // After the change of uid, which would clear it. SIGQUIT is
                        // PostgreSQL's immediate shutdown, which frees shared memory.
                        let signal = match is_killed {
                            true => rustix::process::Signal::KILL,
                            false => rustix::process::Signal::QUIT,
                        };
                        rustix::process::set_parent_process_death_signal(Some(signal))?;
                        // The parent may have ended before the call above.
                        if rustix::process::getppid() != Some(parent) {
                            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                        }
                    }
                    #[cfg(not(target_os = "linux"))]
                    let _ = (dies_with_us, is_killed, parent);
                    Ok(())
                });
            }
        }
        Ok(command)
    }
}

/// A shell has what it starts in the background ignore SIGQUIT, and that is inherited: a server whose parent ends before it
/// has a handler of its own would never hear of it. Safe between fork and exec.
#[cfg(unix)]
fn heed_quit() {
    // SAFETY: a plain system call, and no handler is given.
    unsafe {
        libc::signal(libc::SIGQUIT, libc::SIG_DFL);
    }
}

/// Whatever this process has open, its callers' files too, ends here: a server would hold a lock or a
/// pipe that a script gave to `velo` for as long as it lives. Safe between fork and exec.
#[cfg(unix)]
fn keep_files_to_ourselves() {
    const FIRST: libc::c_int = 3;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a plain system call, which changes flags of descriptors alone.
        let done = unsafe {
            let cloexec = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, cloexec)
        };
        if done == 0 {
            return;
        }
    }
    // Before Linux 5.11: those that there are, as far as anybody has.
    const MOST: libc::c_int = 4096;
    for fd in FIRST..MOST {
        // SAFETY: plain system calls; on a number that is not open they fail and change nothing.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if flags >= 0 {
                libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC);
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_heeds_what_is_ignored_here() {
        // SAFETY: no handler is given, and nothing in this program waits for the signal.
        let before = unsafe { libc::signal(libc::SIGQUIT, libc::SIG_IGN) };
        let status = Program::new("cat").arg("/proc/self/status").output(Duration::from_secs(60));
        let status = status.await;
        // SAFETY: as it was.
        unsafe { libc::signal(libc::SIGQUIT, before) };
        let status = status.unwrap().stdout;
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!(ignored & (1 << (libc::SIGQUIT - 1)), 0, "{ignored:x}");
    }
}
