//! The floor of containers: the engine's own start of the same container.

use std::path::Path;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters as query;

use velo_benches::floor::{Floor, Sample};
use velo_benches::{Result, client, engine, process};

const NAME: &str = "velo-bench-floor";

/// Starts a container like a branch's on bare clones.
pub(crate) struct Container {
    engine: Docker,
    body: ContainerCreateBody,
    floor: Floor,
    /// The port of the branch, which `body` has.
    port: u16,
}

impl Container {
    /// One like that of the branch whose server works in `data` and writes to `log`.
    pub(crate) async fn like(data: &Path, log: &Path, floor: Floor) -> Result<Self> {
        let engine = engine::connect(60).await?;
        let id = data.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let real = engine.inspect_container(&format!("velo-{id}"), None).await?;
        let mut body: ContainerCreateBody =
            serde_json::from_value(serde_json::to_value(real.config)?)?;
        // Those are the engine's own for each container.
        (body.hostname, body.domainname, body.labels) = (None, None, None);
        let mut host = real.host_config.ok_or("the engine tells no host config")?;
        let run = log.parent().ok_or("the log is in no folder")?;
        let moved = |path: &str| {
            let path = Path::new(path);
            if let Ok(rest) = path.strip_prefix(data) {
                return floor.clone_path().join(rest).display().to_string();
            }
            match path.strip_prefix(run) {
                Ok(rest) => floor.dir.join(rest).display().to_string(),
                Err(_) => path.display().to_string(),
            }
        };
        for mount in host.mounts.iter_mut().flatten() {
            mount.source = mount.source.as_deref().map(moved);
            mount.target = mount.target.as_deref().map(moved);
        }
        if let Some(entrypoint) = &mut body.entrypoint {
            for word in entrypoint.iter_mut() {
                *word = moved(word).trim_end_matches('/').to_owned();
            }
        }
        let program = body.cmd.iter().flatten().take(1).cloned();
        let args = floor.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        body.cmd = Some(program.chain(args).collect());
        body.host_config = Some(host);
        let port = floor.connection.port;
        Ok(Self { engine, body, floor, port })
    }

    /// From the request to the first answer; then all of it is removed.
    pub(crate) async fn sample(&self) -> Result<Sample> {
        let begun = Instant::now();
        self.floor.clone_data()?;
        let clone = begun.elapsed();
        match std::fs::remove_file(self.floor.clone_path().join("postmaster.pid")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let log = std::fs::File::create(self.floor.dir.join("postgres.log"))?;
        let (uid, gid) = self.floor.owner;
        std::os::unix::fs::fchown(&log, Some(uid), Some(gid))?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let body = self.on(port)?;

        let begun = Instant::now();
        let started = self.start(body, port).await;
        let total = begun.elapsed();
        let remove = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.engine.remove_container(NAME, Some(remove)).await;
        started?;
        removed?;
        self.floor.remove()?;
        Ok(Sample { total, clone })
    }

    /// The same container with another port.
    fn on(&self, port: u16) -> Result<ContainerCreateBody> {
        let mut body = self.body.clone();
        if let Some(cmd) = &mut body.cmd {
            cmd.extend(["-c".to_owned(), format!("port={port}")]);
        }
        let (old, new) = (format!("{}/tcp", self.port), format!("{port}/tcp"));
        body.exposed_ports = Some(vec![new.clone()]);
        let host = body.host_config.as_mut().ok_or("no host config")?;
        let bindings = host.port_bindings.as_mut().ok_or("the branch has no port")?;
        let mut binding = bindings.remove(&old).flatten().ok_or("the branch has another port")?;
        for to in &mut binding {
            to.host_port = Some(port.to_string());
        }
        bindings.insert(new, Some(binding));
        Ok(body)
    }

    async fn start(&self, body: ContainerCreateBody, port: u16) -> Result<()> {
        let options = query::CreateContainerOptionsBuilder::new().name(NAME).build();
        self.engine.create_container(Some(options), body).await?;
        self.engine.start_container(NAME, None).await?;
        let begun = Instant::now();
        let mut to = self.floor.connection.clone();
        to.port = port;
        loop {
            if process::is_ready(&self.floor.clone_path()) {
                drop(client::first_answer(&to).await?);
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(60) {
                let log = self.floor.dir.join("postgres.log");
                let log = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("the bare container does not come up:\n{log}").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
