//! A fresh container for each test, which loads its data anew: what testcontainers does.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters as query;
use tokio_postgres::Config;
use velo_benches::{Result, client, engine};

use crate::row::{Held, Instance, Kind, Row};
use crate::seed::Seed;

const PORT: &str = "5432/tcp";

/// What the official image's entrypoint does for a new container: a cluster of its own, which the network may reach,
/// and then the server, with what the modules of testcontainers set. Without a password: its 4,096 iterations would cost
/// each connection some milliseconds that Velo's do not cost.
const SCRIPT: &str = "data=/var/lib/postgresql/data/d && bin=$(echo /usr/lib/postgresql/*/bin) && \
    $bin/initdb -D $data -U postgres -A trust -E UTF8 --locale=C >/dev/null && \
    echo 'host all all all trust' >>$data/pg_hba.conf && \
    exec $bin/postgres -D $data -c listen_addresses=* -c unix_socket_directories=/tmp -c fsync=off";

/// How often it is asked whether the server answers.
const POLL: Duration = Duration::from_millis(10);

/// The label of its containers, whose value is this process.
const MARK: &str = "velo-compare";

fn mark() -> String {
    format!("{MARK}={}", std::process::id())
}

pub(crate) struct Container {
    image: String,
    engine: Option<Docker>,
    about: String,
    seed: Option<Seed>,
    /// Known from the first one on.
    version: OnceCell<String>,
}

impl Container {
    pub(crate) fn new(image: String) -> Self {
        Self { image, engine: None, about: String::new(), seed: None, version: OnceCell::new() }
    }

    fn engine(&self) -> Result<&Docker> {
        Ok(self.engine.as_ref().ok_or("its engine is not prepared")?)
    }

    fn id(instance: &Instance) -> Result<&str> {
        match &instance.held {
            Held::Name(id) => Ok(id),
            _ => Err("this is no container".into()),
        }
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let remove = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        Ok(self.engine()?.remove_container(id, Some(remove)).await?)
    }

    /// Starts it, asks on which port it is, and loads the data once it answers.
    async fn start(&self, id: &str) -> Result<Config> {
        self.engine()?.start_container(id, None).await?;
        let info = self.engine()?.inspect_container(id, None).await?;
        let ports = info.network_settings.and_then(|network| network.ports).unwrap_or_default();
        let bound = ports.get(PORT).and_then(|all| all.as_ref()?.first()?.host_port.clone());
        let port: u16 = bound.ok_or("the container's port is not published")?.parse()?;
        let mut to = Config::new();
        to.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
        to.connect_timeout(Duration::from_secs(1));
        let begun = Instant::now();
        let session = loop {
            match client::open(&to).await {
                Ok(session) => break session,
                Err(error) if begun.elapsed() > Duration::from_secs(60) => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        let seed = self.seed.as_ref().ok_or("it has no seed")?;
        for statement in &seed.statements {
            session.batch_execute(statement).await?;
        }
        if self.version.get().is_none() {
            let version: String = session.query_one("SHOW server_version", &[]).await?.get(0);
            self.version.get_or_init(|| version);
        }
        Ok(to)
    }
}

#[async_trait(?Send)]
impl Row for Container {
    fn kind(&self) -> Kind {
        Kind::Container
    }

    fn settings(&self) -> String {
        format!(
            "{}; fsync = off, no password; initdb and the seed in each; the engine's own storage",
            self.about
        )
    }

    fn postgres(&self) -> String {
        self.version.get().cloned().unwrap_or_default()
    }

    fn clones(&self) -> bool {
        false
    }

    async fn prepare(&mut self, seed: &Seed) -> Result<()> {
        self.engine = Some(engine::connect(120).await?);
        self.seed = Some(seed.clone());
        self.about = engine::describe().await?;
        Ok(())
    }

    async fn create(&self) -> Result<Instance> {
        let binding =
            PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            user: Some("postgres".to_owned()),
            entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
            cmd: Some(vec![SCRIPT.to_owned()]),
            labels: Some(HashMap::from([(MARK.to_owned(), std::process::id().to_string())])),
            exposed_ports: Some(vec![PORT.to_owned()]),
            host_config: Some(HostConfig {
                port_bindings: Some([(PORT.to_owned(), Some(vec![binding]))].into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = None::<query::CreateContainerOptions>;
        let id = self.engine()?.create_container(options, body).await?.id;
        match self.start(&id).await {
            Ok(to) => Ok(Instance { to: Some(to), held: Held::Name(id) }),
            Err(error) => {
                self.remove(&id).await?;
                Err(error)
            }
        }
    }

    async fn delete(&self, instance: Instance) -> Result<()> {
        self.remove(Self::id(&instance)?).await
    }

    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>> {
        let info = self.engine()?.inspect_container(Self::id(instance)?, None).await?;
        let pid = info.state.and_then(|state| state.pid).ok_or("the container does not run")?;
        Ok(vec![u32::try_from(pid)?])
    }

    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>> {
        let info = self.engine()?.inspect_container(Self::id(instance)?, None).await?;
        let volume = info.mounts.unwrap_or_default().into_iter().find_map(|mount| mount.source);
        Ok(volume.map(|volume| PathBuf::from(volume).join("d")))
    }

    /// All that are there, also those whose creation was broken off.
    async fn end(&mut self) -> Result<()> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let filters = HashMap::from([("label", vec![mark()])]);
        let list = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for container in engine.list_containers(Some(list)).await? {
            self.remove(&container.id.ok_or("a container without a number")?).await?;
        }
        Ok(())
    }
}
