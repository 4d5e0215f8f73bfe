//! What runs `postgres`: the trait [`Runtime`].
//!
//! An *instance* is one `postgres` on one volume. The runtime starts and stops it and says whether
//! it lives. Whether it is *ready* is PostgreSQL's business (`postgres/readiness.rs`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::postgres::Installation;
use crate::storage::Location;

#[cfg(all(feature = "docker", unix))]
pub(crate) mod docker;
#[cfg(unix)]
pub(crate) mod log;
#[cfg(all(feature = "process", unix))]
pub(crate) mod process;

/// What a runtime can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeCapability {
    /// The backend's name in settings, records and output: `process`, ….
    pub name: &'static str,
    /// Whether it needs the volume as a folder of this machine.
    pub needs_host_path: bool,
    /// Whether a Unix socket in the endpoint can be reached from this machine.
    pub unix_socket: bool,
    /// Whether a server has a network of its own, with a port of this machine led into it: it must
    /// listen on all of its addresses, and sees clients come from that network.
    pub bridged: bool,
    /// Whether it brings a server that died, and was not to, up again by itself.
    pub restarts: bool,
    /// Whether it can hold a server to [`Limits`].
    pub limits: bool,
}

impl RuntimeCapability {
    /// What a server must listen on for its port on 127.0.0.1 to be reached.
    #[must_use]
    pub fn listen_addresses(&self) -> &'static str {
        if self.bridged { "0.0.0.0" } else { "127.0.0.1" }
    }
}

/// The most that a server may take of the machine; `None` is what the runtime gives unless told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors, in thousandths of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Shared memory of parallel queries (`/dev/shm`), in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<u64>,
}

impl Limits {
    /// Bytes, from `2G`, `512M`, `64k` (powers of 1024) or a plain number of them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else.
    pub fn parse_size(text: &str) -> Result<u64> {
        crate::config::size(text)
    }

    /// Thousandths of a processor, from `1.5`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else.
    pub fn parse_cpus(text: &str) -> Result<u32> {
        crate::config::millicpus(text)
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where they say nothing `other`'s.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            cpus: self.cpus.or(other.cpus),
            shm: self.shm.or(other.shm),
        }
    }
}

/// How long an instance may live.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifeline {
    /// Until somebody stops it.
    Detached,
    /// Until this process ends, however it ends.
    Process,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients, rolls back, writes a checkpoint: PostgreSQL's fast shutdown. The next
    /// start needs no recovery.
    Fast,
    /// Ends at once: PostgreSQL's immediate shutdown. The next start recovers.
    Immediate,
}

/// Whether an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// A server runs on the volume.
    Running {
        /// The postmaster's process id, where there is one on this machine.
        pid: Option<u32>,
    },
    /// A server ended, and the runtime is about to start it again.
    Restarting,
    /// No server runs on the volume.
    Stopped,
}

/// Which instance is meant: its identity, and the volume it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// The identity of the instance (the branch's).
    pub id: Id,
    /// The volume it runs on.
    pub location: Location,
}

/// A server to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InstanceSpec {
    /// The instance.
    pub instance: InstanceRef,
    /// The PostgreSQL to run.
    pub postgres: Installation,
    /// Settings for the command line, in order; a later one wins.
    pub settings: Vec<(String, String)>,
    /// The folder of its Unix socket.
    pub socket_dir: PathBuf,
    /// The TCP port on 127.0.0.1, and the number in the socket's name.
    pub port: u16,
    /// Whether TCP connections are taken at all.
    pub tcp: bool,
    /// The file that its output is appended to.
    pub log: PathBuf,
    /// How long it may live.
    pub lifeline: Lifeline,
    /// Files and folders beside the volume that it reads.
    pub reads: Vec<PathBuf>,
    /// Folders beside the volume that it writes to.
    pub writes: Vec<PathBuf>,
    /// What it may take of the machine.
    pub limits: Limits,
    /// What it is part of, for people who look at the runtime's own lists: `project`, `branch`.
    pub labels: Vec<(&'static str, String)>,
}

/// Where a server takes connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host for TCP.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The folder of the Unix socket, where it can be reached from this machine.
    pub socket_dir: Option<PathBuf>,
}

/// A started server.
pub struct Started {
    /// Where it will take connections once it is ready.
    pub endpoint: Endpoint,
    /// Resolves, with a description (`exit status: 1`), when the server's main process ends.
    pub exited: BoxFuture<'static, String>,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A PostgreSQL program to run against a volume, to its end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ToolSpec {
    /// The PostgreSQL it belongs to.
    pub postgres: Installation,
    /// Its name: `initdb`, `pg_checksums`, ….
    pub tool: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
    /// The volume it works on, which stands for a `{}` that an argument begins with, or its value after
    /// `=`.
    pub location: Location,
    /// Files and folders beside the volume that it reads.
    pub reads: Vec<PathBuf>,
    /// Folders beside the volume that it writes to.
    pub writes: Vec<PathBuf>,
    /// Variables of its environment, beside `LC_ALL=C`.
    pub env: Vec<(&'static str, String)>,
    /// The file that is its standard input.
    pub input: Option<PathBuf>,
    /// Whether it reaches servers elsewhere.
    pub network: bool,
    /// How long it may take; then it is killed. `None` is as long as it takes.
    pub limit: Option<Duration>,
    /// The wish that it stops: then it is killed, and gone when [`Runtime::run`] returns.
    pub cancel: Cancel,
}

impl ToolSpec {
    /// A program without arguments, which may take ten minutes.
    #[must_use]
    pub fn new(postgres: Installation, tool: &'static str, location: Location) -> Self {
        Self {
            postgres,
            tool,
            args: Vec::new(),
            location,
            reads: Vec::new(),
            writes: Vec::new(),
            env: Vec::new(),
            input: None,
            network: false,
            limit: Some(Duration::from_secs(600)),
            cancel: Cancel::default(),
        }
    }

    /// Its arguments, where the volume is at `volume`.
    #[must_use]
    pub fn args_at(&self, volume: &str) -> Vec<String> {
        // Nowhere else: a path may hold it as well.
        let there = |arg: &String| {
            let value =
                if arg.starts_with("{}") { 0 } else { arg.find('=').map_or(0, |at| at + 1) };
            let (name, value) = arg.split_at(value);
            match value.strip_prefix("{}") {
                Some(rest) => format!("{name}{volume}{rest}"),
                None => arg.clone(),
            }
        };
        self.args.iter().map(there).collect()
    }
}

/// What a tool printed.
#[derive(Debug, Clone)]
pub struct ToolOutput {
    /// Whether it ended with status 0.
    pub success: bool,
    /// How it ended, in words.
    pub status: String,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A way to run servers.
///
/// Every method may be called at the same time from several tasks and processes. A backend keeps no
/// records.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do.
    fn capability(&self) -> RuntimeCapability;

    /// Starts a server. Returns when it runs, not when it is ready.
    async fn start(&self, spec: InstanceSpec) -> Result<Started>;

    /// Stops a server and waits until it is gone. Missing is fine.
    async fn stop(&self, instance: &InstanceRef, mode: StopMode) -> Result<()>;

    /// Whether the server lives.
    async fn status(&self, instance: &InstanceRef) -> Result<Status>;

    /// Whether processes of a server outlive its first one, which was killed. They may still write,
    /// until they end or [`stop`](Runtime::stop) ends them.
    async fn orphans(&self, instance: &InstanceRef) -> Result<bool>;

    /// Runs a PostgreSQL program to its end, or until that is not wanted any more.
    async fn run(&self, spec: ToolSpec) -> Result<ToolOutput>;

    /// The last `lines` lines that the server printed.
    async fn logs(&self, log: &Path, lines: usize) -> Result<String>;

    /// The volumes under `root` on which a server runs.
    async fn list(&self, root: &Path) -> Result<Vec<Location>>;
}

/// Which runtime to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuntimeKind {
    /// `docker` where an image is named, else `process`. Never in a record.
    #[default]
    Auto,
    /// A local process for each server.
    Process,
    /// A container of Docker or Podman for each server.
    Docker,
}

impl RuntimeKind {
    /// The name in settings and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RuntimeKind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "process" => Ok(Self::Process),
            "docker" => Ok(Self::Docker),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{s:?} is not a runtime"))
                .with_hint("use auto, process or docker")),
        }
    }
}

/// The backend `kind` for servers on volumes of `home`. Where this process is root, local processes
/// run as the user named `user`; unless told as `postgres`, or else `nobody`. Containers run as their
/// image's user `postgres`.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such user, [`ErrorKind::InvalidInput`] if it is root, or for
/// `auto`; [`ErrorKind::Unsupported`] if the backend is not part of this build.
pub fn build(kind: RuntimeKind, home: &Path, user: Option<&str>) -> Result<Arc<dyn Runtime>> {
    let user = match kind {
        RuntimeKind::Process => crate::os_user::OsUser::for_servers(user)?,
        _ => None,
    };
    attach(kind, home, user)
}

/// Whether a process of a server works on a volume, whatever started it.
pub(crate) fn has_processes(location: &Location) -> bool {
    #[cfg(all(feature = "process", unix))]
    return !process::processes_in(location.host_path()).is_empty();
    #[cfg(not(all(feature = "process", unix)))]
    {
        let _ = location;
        false
    }
}

/// An error where an engine sees something else at a path than this process does.
pub(crate) fn unseen(path: &Path) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the engine does not see {}, which is here", path.display()),
    )
    .with_hint(
        "it has other mounts than Velo (it is in a virtual machine or a container, or was started before \
         something was mounted there): start it anew, give it the same folders under the same paths, or put \
         the home where both see it (VELO_HOME)",
    )
}

/// The backend `kind`, running local processes as `user`, or as this process's own.
pub(crate) fn attach(
    kind: RuntimeKind,
    home: &Path,
    user: Option<crate::os_user::OsUser>,
) -> Result<Arc<dyn Runtime>> {
    let _ = (home, &user); // each backend needs one of the two, and its feature may be off
    match kind {
        #[cfg(all(feature = "process", unix))]
        RuntimeKind::Process => Ok(Arc::new(process::Process::new(user))),
        #[cfg(all(feature = "docker", unix))]
        RuntimeKind::Docker => Ok(Arc::new(docker::Docker::new(home)?)),
        RuntimeKind::Auto => Err(Error::new(ErrorKind::InvalidInput, "auto is no runtime itself")
            .with_hint("use process or docker")),
        #[allow(unreachable_patterns)] // the feature may be off
        kind => Err(Error::new(
            ErrorKind::Unsupported,
            format!("runtime {kind} is not part of this build"),
        )
        .with_hint(format!("build velo-core with the feature {kind}"))),
    }
}
