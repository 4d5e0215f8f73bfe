//! A container for each server, on the engine of this machine: Docker or Podman.
//!
//! The container runs `postgres` itself on the volume, never its image's entrypoint, which would
//! initialise something. It sees the volume and the server's own files under the paths that they
//! have outside, so that every setting and every link means the same on both sides. Its processes
//! are in namespaces of their own: the first one is `postgres`, and nothing outlives it.
//!
//! One engine keeps a volume from being run twice, by the container's name, which is the volume's.

mod connect;
mod container;
mod errors;
pub(crate) mod image;
mod leases;
mod lifeline;
pub(crate) mod making;
mod own;
mod passwd;
mod plain;
mod seen;
pub(crate) mod tool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters as query;
use futures_util::StreamExt;

use self::connect::Engine;
use self::errors::{Refusal, failed, refusal};
use self::own::{containers, remove_own};
use self::seen::{
    Seen, copied, foreign, nothing_elsewhere, refuse_elsewhere, runs, see, works_elsewhere,
};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Image, Installation};
use crate::runtime::{
    Endpoint, InstanceRef, InstanceSpec, Lifeline, Runtime, RuntimeCapability, Started, Status,
    StopMode, ToolOutput, ToolSpec,
};
use crate::storage::Location;

pub(crate) use self::own::{Found, answers, end_unrecorded, look, remove_idle};

/// How long the processes of a container may outlive it.
const ENDING: Duration = Duration::from_secs(2);
/// How long a fast shutdown may take before it becomes an immediate one, and that before the
/// container is killed; as for local processes.
const FAST: Duration = Duration::from_secs(60);
const IMMEDIATE: Duration = Duration::from_secs(10);
/// How long a signal is waited for before it is sent again.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Docker {
    home: PathBuf,
    passwd: passwd::Files,
    way: connect::Way,
}

impl Docker {
    pub(crate) fn new(home: &Path) -> Result<Self> {
        Ok(Self {
            home: home.to_path_buf(),
            passwd: passwd::Files::of(home)?,
            way: connect::Way::default(),
        })
    }

    async fn engine(&self) -> Result<&Engine> {
        self.way.engine().await
    }

    /// Whom a container of `image` runs as: the image's own user, or where this process is not root
    /// its own, for whom alone the volumes are.
    fn user(image: &Image) -> (u32, u32) {
        if rustix::process::geteuid().is_root() {
            (image.uid, image.gid)
        } else {
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        }
    }

    /// Makes a container. One of the same name that does not run is what a killed process left.
    async fn create(
        &self,
        engine: &Engine,
        volume: &Location,
        body: container::Body,
    ) -> Result<()> {
        let name = &container::name(volume);
        for again in [false, true] {
            let options = query::CreateContainerOptionsBuilder::new().name(name).build();
            let error = match engine.api.create_container(Some(options), body.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match refusal(&error) {
                Some(Refusal::Conflict) if !again => match see(engine, volume).await? {
                    Seen::Own(state) if runs(&state) => {
                        return Err(Error::new(
                            ErrorKind::Conflict,
                            format!("a server runs on the volume already, in the container {name}"),
                        )
                        .with_hint("stop it first"));
                    }
                    Seen::Anothers(path) => return Err(copied(volume, &path)),
                    Seen::Foreign(whose) => return Err(foreign(engine, volume, &whose)),
                    Seen::Own(_) => remove(engine, name).await?,
                    // It went meanwhile.
                    Seen::Nothing => {}
                },
                Some(Refusal::Missing) => {
                    let image = body.image.as_deref().unwrap_or_default();
                    return Err(Error::new(
                        ErrorKind::PostgresMissing,
                        format!("the image {image} is no longer on the engine"),
                    )
                    .with_hint("pull it again under the name that the project knows")
                    .with_source(error));
                }
                _ => return Err(failed(format!("make the container {name}"), error)),
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the container {name} is being made elsewhere"),
        ))
    }

    async fn start_made(&self, engine: &Engine, name: &str, spec: &InstanceSpec) -> Result<()> {
        if spec.lifeline == Lifeline::Process {
            // Before the start, so that there is no moment in which nobody holds it.
            lifeline::hold(&engine.socket, name).await?;
        }
        let Err(error) = engine.api.start_container(name, None).await else {
            return Ok(());
        };
        if spec.tcp && !crate::port::is_free(spec.port) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("port {} is held by another program", spec.port),
            )
            .with_context("port", spec.port)
            .with_hint("stop that program, or set VELO_PORTS to another range for new branches")
            .with_source(failed("publish the port", error)));
        }
        Err(failed(format!("start the container {name}"), error))
    }
}

#[async_trait]
impl Runtime for Docker {
    fn capability(&self) -> RuntimeCapability {
        RuntimeCapability {
            name: "docker",
            needs_host_path: true,
            unix_socket: true,
            bridged: true,
            // Podman would do it also with a server that Velo told to end.
            restarts: self.way.known().is_none_or(|engine| !engine.podman),
            limits: true,
        }
    }

    async fn start(&self, spec: InstanceSpec) -> Result<Started> {
        let image = image_of(&spec.postgres)?;
        let engine = self.engine().await?;
        let (uid, gid) = Self::user(image);
        engine.can_limit(spec.limits).await?;
        let volume = &spec.instance.location;
        let left = match see(engine, volume).await? {
            Seen::Anothers(path) => return Err(copied(volume, &path)),
            Seen::Foreign(whose) => return Err(foreign(engine, volume, &whose)),
            Seen::Nothing => {
                refuse_elsewhere(volume)?;
                false
            }
            Seen::Own(state) => !runs(&state),
        };
        container::prepare_log(&spec.log, uid, gid)?;
        let name = container::name(volume);
        let seen = self.passwd.seen_by(uid, gid)?;
        if left && crate::postgres::tablespaces::has_one_elsewhere(volume.host_path()) {
            // That is in the container of the server that crashed, and would go with it.
            self.start_made(engine, &name, &spec).await?;
            return Ok(started(engine, name, spec));
        }
        let making = making::begin(&self.home).await?;
        let mut body = container::server(engine, &self.home, &spec, image, (uid, gid), &seen);
        let labels = body.labels.get_or_insert_default();
        labels.insert(container::LEASE.to_owned(), making.id.to_string());
        let made = self.create(engine, volume, body).await;
        // Where the engine has not said no it may be at it still, and the lease stays.
        if made.as_ref().err().is_none_or(errors::is_answer) {
            making::end(&self.home, making)?;
        }
        made?;
        if let Err(error) = self.start_made(engine, &name, &spec).await {
            return Err(match remove(engine, &name).await {
                Ok(()) => error,
                Err(cleanup) => error.with_cleanup(cleanup),
            });
        }
        Ok(started(engine, name, spec))
    }

    async fn stop(&self, instance: &InstanceRef, mode: StopMode) -> Result<()> {
        let engine = self.engine().await?;
        let name = container::name(&instance.location);
        let seen = see(engine, &instance.location).await?;
        if matches!(seen, Seen::Anothers(_) | Seen::Foreign(_)) {
            return nothing_elsewhere(&instance.location).await;
        }
        match end(engine, &name, mode).await? {
            true => Ok(()),
            false => nothing_elsewhere(&instance.location).await,
        }
    }

    async fn status(&self, instance: &InstanceRef) -> Result<Status> {
        Ok(match see(self.engine().await?, &instance.location).await? {
            Seen::Own(state) if state.restarting => Status::Restarting,
            Seen::Own(state) if runs(&state) => {
                Status::Running { pid: Some(state.pid).filter(|pid| *pid > 0) }
            }
            // In a container of another engine's, perhaps.
            _ if works_elsewhere(&instance.location) => Status::Running { pid: None },
            _ => Status::Stopped,
        })
    }

    /// Never: the processes of a container end with its first one.
    async fn orphans(&self, _instance: &InstanceRef) -> Result<bool> {
        Ok(false)
    }

    async fn run(&self, spec: ToolSpec) -> Result<ToolOutput> {
        let image = image_of(&spec.postgres)?;
        let engine = self.engine().await?;
        let (uid, gid) = Self::user(image);
        let seen = self.passwd.seen_by(uid, gid)?;
        let path = spec.location.host_path();
        let text = path.display().to_string();
        let mut command = vec![spec.postgres.program(spec.tool).display().to_string()];
        command.extend(spec.args_at(&text));
        let mut mounts = container::seen(&seen);
        mounts.push(container::bind(path, false));
        mounts.extend(spec.reads.iter().map(|file| container::bind(file, true)));
        mounts.extend(spec.writes.iter().map(|folder| container::bind(folder, false)));
        mounts.extend(spec.input.iter().map(|file| container::bind(file, true)));
        let mut body = container::tool(engine, &self.home, &image.id, (uid, gid), command, mounts);
        let env = body.env.get_or_insert_default();
        env.extend(spec.env.iter().map(|(key, value)| format!("{key}={value}")));
        env.extend(spec.input.iter().map(|file| format!("VELO_INPUT={}", file.display())));
        if spec.network {
            // This machine's own, for a server may listen on its 127.0.0.1 alone.
            body.host_config.get_or_insert_default().network_mode = Some("host".into());
        }
        let (limit, cancel) = (spec.limit, &spec.cancel);
        let output = tool::run(engine, &self.home, body, spec.tool, limit, cancel).await?;
        if spec.tool == "initdb" && output.success && !path.join("PG_VERSION").exists() {
            // It is somewhere else, where the engine has a folder under this path.
            return Err(crate::runtime::unseen(path));
        }
        Ok(output)
    }

    async fn logs(&self, log: &Path, lines: usize) -> Result<String> {
        super::log::tail(log, lines)
    }

    async fn list(&self, root: &Path) -> Result<Vec<Location>> {
        let running = containers(self.engine().await?, &self.home, false).await?;
        let volumes = running.into_iter().filter_map(|found| found.volume);
        Ok(volumes.filter(|v| v.parent() == Some(root)).map(Location::HostPath).collect())
    }
}

/// A server whose container was started.
fn started(engine: &Engine, name: String, spec: InstanceSpec) -> Started {
    let api = engine.api.clone();
    Started {
        endpoint: Endpoint {
            host: "127.0.0.1".into(),
            port: spec.port,
            socket_dir: Some(spec.socket_dir),
        },
        exited: Box::pin(async move { ended(&api, &name, "not-running").await }),
    }
}

fn image_of(postgres: &Installation) -> Result<&Image> {
    postgres.image.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::Incompatible,
            format!("the PostgreSQL in {} is in no image", postgres.place()),
        )
        .with_hint("the runtime docker needs an image")
    })
}

/// Ends the server in a container, and removes that. Whether there was one.
async fn end(engine: &Engine, name: &str, mode: StopMode) -> Result<bool> {
    let fast = (mode == StopMode::Fast).then_some(("SIGINT", FAST));
    for (signal, limit) in fast.into_iter().chain([("SIGQUIT", IMMEDIATE)]) {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < limit {
            // A signal that somebody sent also keeps the engine from starting it again. One that comes before the first
            // process of a container listens to it is lost, and a second one changes nothing.
            let options = query::KillContainerOptionsBuilder::new().signal(signal).build();
            match engine.api.kill_container(name, Some(options)).await {
                Ok(()) => {}
                Err(error) => match refusal(&error) {
                    Some(Refusal::Missing) => return Ok(false),
                    // It does not run.
                    Some(Refusal::Conflict) => return remove(engine, name).await.map(|()| true),
                    _ => return Err(failed(format!("stop the container {name}"), error)),
                },
            }
            let gone = ended(&engine.api, name, "not-running");
            if tokio::time::timeout(AGAIN, gone).await.is_ok() {
                return remove(engine, name).await.map(|()| true);
            }
        }
        tracing::warn!(container = name, signal, "the server does not stop in time");
    }
    remove(engine, name).await.map(|()| true)
}

/// Waits until a container is in `condition`, and says how it ended. Missing is ended.
async fn ended(api: &bollard::Docker, name: &str, condition: &str) -> String {
    loop {
        let options = query::WaitContainerOptionsBuilder::new().condition(condition).build();
        match api.wait_container(name, Some(options)).next().await {
            Some(Ok(status)) => return exit_status(status.status_code),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                return exit_status(code);
            }
            // The engine may answer when there is something to say, and not before.
            Some(Err(bollard::errors::Error::RequestTimeoutError)) => {}
            Some(Err(error)) => {
                return match refusal(&error) {
                    Some(Refusal::Missing) => "it ended, and its container is gone".into(),
                    _ => format!("cannot be waited for: {error}"),
                };
            }
            None => return "it ended".into(),
        }
    }
}

/// How a container's first process ended. 137 is SIGKILL, which the kernel sends where the limit of
/// memory is passed; the engine forgets that with the container.
fn exit_status(code: i64) -> String {
    match code {
        137 => "exit status: 137, killed: is its limit of memory too small?".into(),
        code => format!("exit status: {code}"),
    }
}

/// Removes a container, with the volumes that its image declared, whether it runs or not, and
/// returns when it is gone. Missing is fine.
async fn remove(engine: &Engine, name: &str) -> Result<()> {
    let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let Err(error) = engine.api.remove_container(name, Some(options)).await else {
        return Ok(());
    };
    let limit = match refusal(&error) {
        Some(Refusal::Missing) => return Ok(()),
        // The engine removes it already.
        Some(Refusal::Conflict) => IMMEDIATE,
        // Podman has other words for it.
        None => ENDING,
    };
    let begun = std::time::Instant::now();
    while plain::inspect(&engine.socket, name).await?.is_some() {
        if begun.elapsed() > limit {
            return Err(failed(format!("remove the container {name}"), error)
                .with_hint(format!("look why: {} rm -f {name}", engine.program())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// For a fuzzer: what an image answers.
#[cfg(feature = "testing")]
pub(crate) fn any_text(text: &str) {
    let _ = image::any_text(text);
}
