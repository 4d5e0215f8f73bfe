//! The way to an engine: its socket.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bollard::models::SystemInfoCgroupVersionEnum;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use tokio::sync::OnceCell;

use super::plain;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Limits;

/// Seconds that one request may take; long waits are streams, whose head comes at once.
const TIMEOUT: u64 = 120;

/// How long an engine may take to say what it is, which costs it nothing.
const PING: Duration = Duration::from_secs(5);

/// How long one that did not is not asked again: there may be many who want to know.
const SILENCE: Duration = Duration::from_secs(20);

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

/// The engine of a runtime, which is looked for when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Way {
    engine: OnceCell<Engine>,
    /// Since when it is known to be silent, and what that was told with.
    silent: Mutex<Option<(Instant, String)>>,
}

impl Way {
    /// The engine, if it was reached before.
    pub(super) fn known(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// The engine. One that hangs is asked once by all who come at a time.
    pub(super) async fn engine(&self) -> Result<&Engine> {
        self.engine.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Engine> {
        let known = self.silent.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some((since, text)) = known
            && since.elapsed() < SILENCE
        {
            return Err(hangs(text));
        }
        let found = Engine::connect().await;
        if let Err(error) = &found
            && error.kind() == ErrorKind::Timeout
        {
            let now = Some((Instant::now(), error.to_string()));
            *self.silent.lock().unwrap_or_else(|e| e.into_inner()) = now;
        }
        found
    }
}

fn hangs(text: String) -> Error {
    Error::new(ErrorKind::Timeout, text).with_hint(
        "it takes connections and hangs: start it anew, or set DOCKER_HOST to another engine",
    )
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
        let (mut tried, mut silent) = (Vec::new(), false);
        for socket in sockets {
            match Self::at(socket).await {
                Ok(engine) => return engine.usable().await,
                Err(why) => {
                    silent |= why.kind() == std::io::ErrorKind::TimedOut;
                    tried.push(format!("{}: {why}", socket.display()));
                }
            }
        }
        let text = format!("no container engine answers ({})", tried.join("; "));
        if silent {
            return Err(hangs(text));
        }
        Err(Error::new(ErrorKind::Unsupported, text).with_hint(
            "start Docker or Podman, or set DOCKER_HOST to its socket: unix:///run/docker.sock",
        ))
    }

    async fn at(socket: &Path) -> std::io::Result<Self> {
        use std::io::Error;
        let path = socket.to_str().ok_or_else(|| Error::other("its path is not UTF-8"))?;
        let pong = ping(socket).await?;
        let version =
            pong.api.min((API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version));
        let version = ClientVersion { major_version: version.0, minor_version: version.1 };
        let api = Docker::connect_with_unix(path, TIMEOUT, &version).map_err(Error::other)?;
        Ok(Self {
            api,
            socket: socket.to_path_buf(),
            userns: "host",
            podman: pong.podman,
            rootless: false,
            name: pong.name,
        })
    }

    /// Finds out whether it can be used by who calls.
    async fn usable(mut self) -> Result<Self> {
        let root = rustix::process::geteuid().is_root();
        // One whose socket is root's is root's. To ask the others takes a while.
        self.rootless = !is_roots(&self.socket) && self.says_rootless().await?;
        let kind = if self.podman { "Podman" } else { "Docker" };
        if self.rootless {
            self.name.insert_str(0, "rootless ");
        }
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

    async fn says_rootless(&self) -> Result<bool> {
        if self.podman {
            return plain::podman_is_rootless(&self.socket).await;
        }
        let info = self.api.info().await;
        let info = info.map_err(|e| super::errors::failed("say what it is", e))?;
        Ok(info.security_options.iter().flatten().any(|option| option.contains("name=rootless")))
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

/// What an engine says of itself at once. Its version, asked for properly, takes Podman a second.
#[derive(Debug, PartialEq, Eq)]
struct Pong {
    podman: bool,
    name: String,
    api: (usize, usize),
}

async fn ping(socket: &Path) -> std::io::Result<Pong> {
    let answer = plain::get(socket, "/_ping", PING).await?;
    pong(&answer.head).ok_or_else(|| std::io::Error::other("it is neither Docker nor Podman"))
}

fn pong(head: &str) -> Option<Pong> {
    let value = |key: &str| {
        let pairs = head.lines().filter_map(|line| line.split_once(':'));
        pairs
            .filter(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value.trim())
            .next()
    };
    let (major, minor) = value("Api-Version")?.split_once('.')?;
    let podman = value("Libpod-API-Version");
    // `Docker/20.10.24 (linux)`.
    let docker = value("Server").and_then(|server| server.split([' ', '/']).nth(1));
    Some(Pong {
        podman: podman.is_some(),
        name: match podman {
            Some(version) => format!("Podman {version}"),
            None => format!("Docker {}", docker.unwrap_or("of an unknown version")),
        },
        api: (major.parse().ok()?, minor.parse().ok()?),
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
    fn docker_and_podman_answer() {
        let docker =
            "HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/20.10.24+dfsg1 (linux)";
        let found = pong(docker).unwrap();
        assert_eq!((found.name.as_str(), found.api), ("Docker 20.10.24+dfsg1", (1, 41)));
        let podman = "HTTP/1.0 200 OK\r\napi-version: 1.41\r\nLibpod-Api-Version: 4.3.1\r\n\
                      Server: Libpod/4.3.1 (linux)";
        let found = pong(podman).unwrap();
        assert!(found.podman && found.name == "Podman 4.3.1", "{found:?}");
        assert_eq!(pong("HTTP/1.0 200 OK\r\nServer: nginx"), None);
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
