//! The servers that the runtime suite makes.

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::ensure;
use crate::cancel::Cancel;
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::postgres::Installation;
use crate::runtime::{
    Endpoint, InstanceRef, InstanceSpec, Lifeline, Limits, Runtime, Status, StopMode, ToolOutput,
    ToolSpec,
};
use crate::storage::{CloneSpec, Location, Object, Storage, VolumeSpec};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Where the runtime suite makes its servers, and of which PostgreSQL.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RuntimePlace {
    /// Holds their volumes.
    pub storage: Arc<dyn Storage>,
    /// What they run.
    pub postgres: Installation,
    /// An existing folder for their sockets and logs. Its path must be short, for that of a socket ends
    /// at 107 bytes.
    pub dir: PathBuf,
    /// The user and group (numeric) that the runtime runs servers as; `None` is the caller.
    pub owner: Option<(u32, u32)>,
}

impl RuntimePlace {
    /// Servers of `postgres` on volumes of `storage`, with their other files in `dir`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, postgres: Installation, dir: impl Into<PathBuf>) -> Self {
        Self { storage, postgres, dir: dir.into(), owner: None }
    }

    /// The runtime runs servers as the user and group with these numbers.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }
}

/// `future`, at most for a while.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(LIMIT, future).await.map_err(|_| {
        Error::new(ErrorKind::Timeout, format!("the suite expects that {what}, and soon"))
    })
}

/// What the suite works with.
pub(super) struct Bench {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) place: RuntimePlace,
    /// A new cluster, which the servers' volumes are clones of.
    seed: Id,
    /// Clones before the seed, which they may need.
    made: Vec<Id>,
}

impl Bench {
    pub(super) fn new(runtime: Arc<dyn Runtime>, place: RuntimePlace) -> Self {
        Self { runtime, place, seed: Id::generate(), made: Vec::new() }
    }

    pub(super) fn seed_location(&self) -> Location {
        self.place.storage.location(Object::Volume(self.seed))
    }

    pub(super) async fn seed(&mut self) -> Result<()> {
        self.made.push(self.seed);
        let mut volume = VolumeSpec::new(self.seed);
        volume.owner = self.place.owner;
        self.place.storage.create_volume(volume).await?;
        let args = ["-D", "{}", "-U", "velo", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"];
        let made = self.tool(self.seed_location(), "initdb", &args).await?;
        ensure(made.success, || format!("initdb works: {} {}", made.status, made.stderr))?;
        if self.runtime.capability().bridged {
            let path = self.seed_location().host_path().join("pg_hba.conf");
            let add = || {
                let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
                std::io::Write::write_all(&mut file, b"host all all samenet trust\n")
            };
            add().map_err(|e| Error::io(format!("write {}", path.display()), e))?;
        }
        Ok(())
    }

    pub(super) async fn tool(
        &self,
        location: Location,
        tool: &'static str,
        args: &[&str],
    ) -> Result<ToolOutput> {
        self.runtime.run(self.tool_spec(location, tool, args)).await
    }

    /// A tool that is not run yet.
    pub(super) fn tool_spec(
        &self,
        location: Location,
        tool: &'static str,
        args: &[&str],
    ) -> ToolSpec {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        ToolSpec { args, ..ToolSpec::new(self.place.postgres.clone(), tool, location) }
    }

    /// A file that servers may read.
    pub(super) fn file(&self, name: &str, content: &str) -> Result<std::path::PathBuf> {
        let path = self.place.dir.join(name);
        let made = |e| Error::io("write a file for a tool", e);
        std::fs::write(&path, content).map_err(made)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(made)?;
        Ok(path)
    }

    /// A server on a new volume, not started.
    pub(super) async fn server(&mut self) -> Result<InstanceSpec> {
        let id = Id::generate();
        self.made.insert(0, id);
        let clone = CloneSpec::new(Object::Volume(self.seed), id);
        self.place.storage.branch_volume(clone, &Cancel::new()).await?;
        let socket_dir = self.place.dir.join(id.to_string());
        let made = |e| Error::io("make a folder for a socket", e);
        std::fs::create_dir(&socket_dir).map_err(made)?;
        std::fs::set_permissions(&socket_dir, std::fs::Permissions::from_mode(0o700))
            .map_err(made)?;
        if let Some((uid, gid)) = self.place.owner {
            lchown(&socket_dir, Some(uid), Some(gid)).map_err(made)?;
        }
        let port = free_port()?;
        let settings = [
            ("listen_addresses", self.runtime.capability().listen_addresses().to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", socket_dir.display().to_string()),
            ("shared_buffers", "16MB".to_owned()),
        ];
        Ok(InstanceSpec {
            instance: InstanceRef { id, location: self.place.storage.location(Object::Volume(id)) },
            postgres: self.place.postgres.clone(),
            settings: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            socket_dir,
            port,
            tcp: true,
            log: self.place.dir.join(format!("{id}.log")),
            lifeline: Lifeline::Detached,
            reads: Vec::new(),
            writes: Vec::new(),
            limits: Limits::default(),
            labels: Vec::new(),
        })
    }

    /// Starts a server and waits until it answers.
    pub(super) async fn up(&self, spec: &InstanceSpec) -> Result<Up> {
        let started = self.runtime.start(spec.clone()).await?;
        let (endpoint, exited) = (started.endpoint, tokio::spawn(started.exited));
        let mut config = tokio_postgres::Config::new();
        config.host(&endpoint.host).port(endpoint.port);
        let answers = async {
            loop {
                match Up::session(&mut config).await? {
                    Some(client) => return Ok(client),
                    None if exited.is_finished() => break,
                    None => tokio::time::sleep(POLL).await,
                }
            }
            Err(Error::new(ErrorKind::Internal, "the suite expects that a started server stays"))
        };
        match within("a started server answers", answers).await {
            Ok(Ok(client)) => Ok(Up { endpoint, client: Arc::new(client), exited }),
            Ok(Err(error)) | Err(error) => {
                let log = self.runtime.logs(&spec.log, 15).await.unwrap_or_default();
                let status = self.runtime.status(&spec.instance).await;
                Err(error.with_context("status", format!("{status:?}")).with_context("log", log))
            }
        }
    }

    /// Stops a server, and checks that it is gone.
    pub(super) async fn stop(&self, spec: &InstanceSpec, mode: StopMode) -> Result<()> {
        within("a server stops", self.runtime.stop(&spec.instance, mode)).await??;
        let status = self.runtime.status(&spec.instance).await?;
        ensure(status == Status::Stopped, || format!("a server is stopped, not {status:?}"))?;
        ensure(!self.listed(spec).await?, || "list has no stopped server".into())
    }

    pub(super) async fn listed(&self, spec: &InstanceSpec) -> Result<bool> {
        let location = &spec.instance.location;
        let Some(root) = location.host_path().parent() else { return Ok(false) };
        Ok(self.runtime.list(root).await?.contains(location))
    }

    /// The process id of a running server.
    pub(super) async fn pid(&self, spec: &InstanceSpec) -> Result<Option<Pid>> {
        Ok(match self.runtime.status(&spec.instance).await? {
            Status::Running { pid: Some(pid) } => i32::try_from(pid).ok().and_then(Pid::from_raw),
            _ => None,
        })
    }

    /// The state of a cluster, by PostgreSQL's own word.
    pub(super) async fn state(&self, spec: &InstanceSpec) -> Result<String> {
        let location = spec.instance.location.clone();
        let printed = self.tool(location, "pg_controldata", &["-D", "{}"]).await?.stdout;
        let state = printed.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
        Ok(state.unwrap_or_default().trim().to_owned())
    }

    /// A process of the servers' user that is no server.
    pub(super) fn stranger(&self) -> Result<tokio::process::Child> {
        let user = match self.place.owner {
            Some((uid, _)) => crate::os_user::OsUser::by_uid(uid)?,
            None => None,
        };
        Program::new("sleep").arg("600").user(user.as_ref()).dies_with_us().spawn()
    }

    /// Leaves the files of a server that crashed, whose process id was `pid`.
    pub(super) fn leave_pid_files(&self, spec: &InstanceSpec, pid: &str) -> Result<()> {
        let data = spec.instance.location.host_path();
        let lines = format!(
            "{pid}\n{}\n1700000000\n{}\n{}\n127.0.0.1\n",
            data.display(),
            spec.port,
            spec.socket_dir.display()
        );
        let lock = spec.socket_dir.join(format!(".s.PGSQL.{}.lock", spec.port));
        for path in [data.join("postmaster.pid"), lock] {
            let write = || {
                std::fs::write(&path, &lines)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
                match self.place.owner {
                    Some((uid, gid)) => lchown(&path, Some(uid), Some(gid)),
                    None => Ok(()),
                }
            };
            write().map_err(|e| Error::io(format_args!("write {}", path.display()), e))?;
        }
        Ok(())
    }

    /// Removes all that was made.
    pub(super) async fn clear(&mut self) -> Result<()> {
        let mut result = Ok(());
        for id in std::mem::take(&mut self.made) {
            let location = self.place.storage.location(Object::Volume(id));
            let instance = InstanceRef { id, location };
            let stopped = self.runtime.stop(&instance, StopMode::Immediate).await;
            let destroyed = self.place.storage.destroy_volume(id).await;
            result = result.and(stopped).and(destroyed);
            let _ = std::fs::remove_dir_all(self.place.dir.join(id.to_string()));
            let _ = std::fs::remove_file(self.place.dir.join(format!("{id}.log")));
        }
        result
    }
}

/// A server that answers.
pub(super) struct Up {
    pub(super) endpoint: Endpoint,
    client: Arc<Client>,
    exited: JoinHandle<String>,
}

impl Up {
    /// A session; `None` while the server takes none.
    ///
    /// An attempt that hangs is given up, to be made anew: what was sent while nobody was there to take it is sent again
    /// ever more seldom.
    pub(super) async fn session(config: &mut tokio_postgres::Config) -> Result<Option<Client>> {
        let connecting = config.user("velo").dbname("postgres").connect(NoTls);
        let Ok(connected) = tokio::time::timeout(ATTEMPT, connecting).await else {
            tracing::warn!("a connection to a server hangs");
            return Ok(None);
        };
        match connected {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                Ok(Some(client))
            }
            Err(e) => match e.code() {
                None => Ok(None),
                Some(&tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW) => Ok(None),
                Some(_) => Err(failed(e)),
            },
        }
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(failed)
    }

    /// The only value of a query.
    pub(super) async fn value(&self, sql: &str) -> Result<String> {
        let messages = self.client.simple_query(sql).await.map_err(failed)?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.unwrap_or_default().to_owned())
    }

    /// Another session, which computes without an end.
    pub(super) fn busy(&self) -> JoinHandle<()> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.endpoint.host).port(self.endpoint.port).application_name("busy");
        tokio::spawn(async move {
            if let Ok(Some(client)) = Self::session(&mut config).await {
                let _ = client.batch_execute("DO 'BEGIN LOOP END LOOP; END'").await;
            }
        })
    }

    /// Returns when that session computes.
    pub(super) async fn waits_for_busy(&self) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name = 'busy' AND state = 'active'";
        let computes = async {
            while self.value(sql).await? != "1" {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        within("a second session works", computes).await?
    }

    pub(super) fn has_exited(&self) -> bool {
        self.exited.is_finished()
    }

    /// Returns when the runtime says that the server has ended.
    pub(super) async fn exits(self) -> Result<()> {
        let how = within("the end of a server is told", self.exited).await?;
        ensure(how.is_ok_and(|how| !how.is_empty()), || "it is told how a server ended".into())
    }
}

fn failed(e: tokio_postgres::Error) -> Error {
    Error::new(ErrorKind::Postgres, format!("a server of the suite: {e}")).with_source(e)
}

/// A port below those that outgoing connections take.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let mut number = [0; 2];
        getrandom::fill(&mut number)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("no random number: {e}")))?;
        let port = 10_000 + u16::from_le_bytes(number) % 10_000;
        if crate::port::is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::new(ErrorKind::Exhausted, "the suite finds no free port"))
}
