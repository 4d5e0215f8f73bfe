//! The way to an engine: its socket.

use std::path::{Path, PathBuf};

use bollard::{API_DEFAULT_VERSION, Docker};

use crate::error::{Error, ErrorKind, Result};

/// Seconds that one request may take; long waits are streams, whose head comes at once.
const TIMEOUT: u64 = 120;

/// An engine that answered.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) api: Docker,
    pub(super) socket: PathBuf,
    /// How users of this machine are mapped into containers that run as one of them.
    pub(super) userns: &'static str,
    name: String,
}

/// An engine, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// `Docker 20.10.24`.
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
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
        Ok(Self { api, socket: socket.to_path_buf(), userns: "host", name: "Docker".into() })
    }

    /// Finds out what kind of engine it is, as far as that matters to who calls.
    async fn usable(mut self) -> Result<Self> {
        let failed = |e| super::errors::failed("say what it is", e);
        let version = self.api.version().await.map_err(failed)?;
        let podman = version.components.iter().flatten().any(|c| c.name.contains("Podman"));
        self.name = format!(
            "{} {}",
            if podman { "Podman" } else { "Docker" },
            version.version.as_deref().unwrap_or("of an unknown version")
        );
        if rustix::process::geteuid().is_root() {
            return Ok(self);
        }
        let info = self.api.info().await.map_err(failed)?;
        let rootless =
            info.security_options.iter().flatten().any(|option| option.contains("name=rootless"));
        match (rootless, podman) {
            (false, _) => {}
            (true, true) => self.userns = "keep-id",
            // There you are root in a container, as whom postgres does not run, and everybody else
            // is nobody who could read your files.
            (true, false) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the Docker at {} is rootless: in its containers nobody but root has your \
                         files, and postgres does not run as root",
                        self.socket.display()
                    ),
                )
                .with_hint(
                    "use rootless Podman (systemctl --user start podman.socket), a Docker that \
                     runs as root, or the runtime process",
                ));
            }
        }
        Ok(self)
    }

    pub(super) fn reached(&self) -> Reached {
        Reached { name: self.name.clone(), socket: self.socket.clone() }
    }
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
