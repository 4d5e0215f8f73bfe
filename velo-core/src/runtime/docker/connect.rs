//! The way to an engine: its socket.

use std::path::{Path, PathBuf};

use bollard::models::SystemInfoCgroupVersionEnum;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Limits;

/// Seconds that one request may take; long waits are streams, whose head comes at once.
const TIMEOUT: u64 = 120;

/// An engine that answered.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) api: Docker,
    pub(super) socket: PathBuf,
    /// How users of this machine are mapped into containers that run as one of them.
    pub(super) userns: &'static str,
    pub(super) podman: bool,
    /// Whether it runs as a normal user, who is the only one that its containers know.
    rootless: bool,
    name: String,
}

/// An engine, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// `Docker 20.10.24`, `rootless Podman 4.3.1`.
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    /// The command that people give it orders with.
    pub(crate) program: &'static str,
}

impl Engine {
    /// The engine that `DOCKER_HOST` names, or else the first of the usual sockets that answers.
    pub(super) async fn connect() -> Result<Self> {
        let named = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let sockets = match &named {
            Some(host) => vec![of_host(host)?],
            None => usual(
                rustix::process::geteuid().is_root(),
                std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref(),
            ),
        };
        Self::first_of(&sockets).await
    }

    async fn first_of(sockets: &[PathBuf]) -> Result<Self> {
        let mut tried = Vec::new();
        for socket in sockets {
            match Self::at(socket).await {
                Ok(engine) => return engine.usable().await,
                Err(why) => tried.push(format!("{}: {why}", socket.display())),
            }
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("no container engine answers ({})", tried.join("; ")),
        )
        .with_hint(
            "start Docker or Podman, or set DOCKER_HOST to its socket: unix:///run/docker.sock",
        ))
    }

    async fn at(socket: &Path) -> std::result::Result<Self, String> {
        let path = socket.to_str().ok_or("its path is not UTF-8")?;
        // Tells a missing socket from one that may not be used.
        let answers = tokio::net::UnixStream::connect(socket).await;
        answers.map_err(|e| e.to_string())?;
        let api = Docker::connect_with_unix(path, TIMEOUT, API_DEFAULT_VERSION)
            .map_err(|e| e.to_string())?;
        let api = api.negotiate_version().await.map_err(|e| e.to_string())?;
        Ok(Self {
            api,
            socket: socket.to_path_buf(),
            userns: "host",
            podman: false,
            rootless: false,
            name: "Docker".into(),
        })
    }

    /// Finds out what kind of engine it is, as far as that matters to who calls.
    async fn usable(mut self) -> Result<Self> {
        let failed = |e| super::errors::failed("say what it is", e);
        let version = self.api.version().await.map_err(failed)?;
        self.podman = version.components.iter().flatten().any(|c| c.name.contains("Podman"));
        let kind = if self.podman { "Podman" } else { "Docker" };
        let version = version.version.as_deref().unwrap_or("of an unknown version").to_owned();
        let root = rustix::process::geteuid().is_root();
        // An engine that is root's own needs not be asked: to tell takes it a while.
        self.rootless = !(root && is_roots(&self.socket)) && {
            if self.podman {
                let socket = self.socket.clone();
                crate::engine::blocking(move || podman_is_rootless(&socket)).await?
            } else {
                let info = self.api.info().await.map_err(failed)?;
                info.security_options.iter().flatten().any(|o| o.contains("name=rootless"))
            }
        };
        self.name = format!("{}{kind} {version}", if self.rootless { "rootless " } else { "" });
        let why = match (self.rootless, self.podman, root) {
            (false, ..) => return Ok(self),
            (true, true, false) => {
                self.userns = "keep-id";
                return Ok(self);
            }
            (true, _, true) => {
                "only its own user has files in its containers, and Velo runs as root"
            }
            // There you are root in a container, as whom postgres does not run, and everybody else
            // is nobody who could read your files.
            (true, false, false) => {
                "in its containers nobody but root has your files, and postgres does not run as root"
            }
        };
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("the {kind} at {} is rootless: {why}", self.socket.display()),
        )
        .with_hint(if root {
            "run Velo as that user, or set DOCKER_HOST to an engine that runs as root"
        } else {
            "use rootless Podman (systemctl --user start podman.socket), a Docker that runs as root, \
             or the runtime process"
        }))
    }

    /// Refuses limits that the engine would forget without a word.
    pub(super) async fn can_limit(&self, limits: Limits) -> Result<()> {
        if limits.memory.is_none() && limits.cpus.is_none() {
            return Ok(());
        }
        let info = self.api.info().await;
        let info = info.map_err(|e| super::errors::failed("say what it can limit", e))?;
        // There a normal user may limit nothing, whatever the kernel can do.
        let denied = self.rootless && info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1);
        for (asked, able, what) in [
            (limits.memory.is_some(), info.memory_limit, "memory"),
            (limits.cpus.is_some(), info.cpu_cfs_quota, "processors"),
        ] {
            if asked && (denied || able == Some(false)) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the {} here cannot limit the {what} of a container", self.name),
                )
                .with_hint(if self.rootless {
                    "leave the limit out, or give your user the cgroup's controllers (cgroup v2 and \
                     systemd's Delegate=)"
                } else {
                    "leave the limit out, or start a kernel that has this cgroup controller"
                }));
            }
        }
        Ok(())
    }

    pub(super) fn reached(&self) -> Reached {
        let (name, socket) = (self.name.clone(), self.socket.clone());
        Reached { name, socket, program: self.program() }
    }

    /// The command that people give it orders with.
    pub(super) fn program(&self) -> &'static str {
        if self.podman { "podman" } else { "docker" }
    }
}

/// Whether an engine's socket is root's. A rootless one's is its user's.
fn is_roots(socket: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(socket).is_ok_and(|found| found.uid() == 0)
}

/// Podman's own word, which the client library does not know. Its versions 4 do not say it as Docker
/// does.
fn podman_is_rootless(socket: &Path) -> Result<bool> {
    use std::io::{Read, Write};
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        rootless: bool,
    }
    let ask = || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(TIMEOUT)))?;
        // In this version an answer is not cut into pieces, and ends with the connection.
        stream.write_all(b"GET /info HTTP/1.0\r\nHost: podman\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let info: Info = serde_json::from_str(body)?;
        Ok(info.rootless)
    };
    ask().map_err(|e: std::io::Error| {
        Error::io(format!("ask the Podman at {} what it is", socket.display()), e)
    })
}

/// The socket that `DOCKER_HOST` names.
fn of_host(host: &str) -> Result<PathBuf> {
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("DOCKER_HOST={host} is no engine of this machine"),
        )
        .with_hint(
            "containers work on folders of this machine: set DOCKER_HOST to a socket, like \
             unix:///run/docker.sock, or unset it",
        )),
    }
}

/// Where engines listen unless told: those of the system, then the user's own.
fn usual(root: bool, runtime_dir: Option<&Path>) -> Vec<PathBuf> {
    let mut sockets = vec![PathBuf::from("/run/docker.sock"), "/var/run/docker.sock".into()];
    if root {
        sockets.push("/run/podman/podman.sock".into());
    } else if let Some(dir) = runtime_dir {
        sockets.push(dir.join("podman/podman.sock"));
        sockets.push(dir.join("docker.sock"));
    }
    // One name of the two is usually a link to the other.
    if Path::new("/var/run").canonicalize().is_ok_and(|real| real == Path::new("/run")) {
        sockets.remove(1);
    }
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_docker_says_what_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        let (none, dead) = (dir.path().join("none.sock"), dir.path().join("dead.sock"));
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let error = Engine::first_of(&[none.clone(), dead.clone()]).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for socket in [none, dead] {
            assert!(text.contains(&socket.display().to_string()), "{text}");
        }
        assert!(text.contains("No such file") && text.contains("refused"), "{text}");
        assert!(error.hint().unwrap().contains("DOCKER_HOST"));
    }

    #[test]
    fn docker_elsewhere_is_refused() {
        assert_eq!(of_host("unix:///run/x.sock").unwrap(), Path::new("/run/x.sock"));
        for host in ["tcp://10.0.0.1:2375", "ssh://me@there", "unix://relative", "x"] {
            let error = of_host(host).unwrap_err();
            assert!(error.to_string().contains(host), "{error}");
        }
    }

    #[test]
    fn docker_of_the_user_comes_after_the_systems() {
        let dir = Path::new("/run/user/7");
        let all = usual(false, Some(dir));
        assert_eq!(all[0], Path::new("/run/docker.sock"));
        assert_eq!(all[all.len() - 2..], [dir.join("podman/podman.sock"), dir.join("docker.sock")]);
        assert!(!usual(true, Some(dir)).iter().any(|socket| socket.starts_with(dir)));
    }
}
