//! From a volume to a server that answers, is nobody's double, and has its own password.

use std::path::{Path, PathBuf};

use crate::disk;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::os_user::OsUser;
use crate::postgres::scram::{self, Password};
use crate::postgres::session::{Attempt, Door, Session, Target, ident, literal};
use crate::postgres::{Installation, Libc, control};
use crate::postgres::{collation, data_file, hba, readiness, settings, subscriptions};
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::runtime::{
    InstanceRef, InstanceSpec, Lifeline, Runtime, RuntimeCapability, RuntimeKind, Status, StopMode,
};
use crate::storage::Object;

/// Who may connect while a server comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    /// Clients, over TCP and the socket: the data is known to have the right password.
    Open,
    /// Velo alone, until everything is right; then clients.
    OpenWhenReady,
    /// Velo alone: no TCP at all, and a socket of its own.
    Private,
}

/// A server to bring up.
pub(crate) struct Boot<'a> {
    pub(crate) home: &'a Home,
    pub(crate) project: &'a ProjectRecord,
    pub(crate) branch: &'a BranchRecord,
    /// The volume, which need not be the branch's own yet.
    pub(crate) volume: Id,
    pub(crate) doors: Doors,
    /// Whether the data is another cluster's that must be cut off from what it reached for.
    pub(crate) fresh_clone: bool,
}

/// How long a postmaster usually takes to read its settings and access rules anew, and more.
const RELOAD: std::time::Duration = std::time::Duration::from_secs(2);

/// The folder of a server's files: `run/<id>`, with the socket in `run/<id>/s`.
pub(crate) struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    pub(crate) fn of(home: &Home, id: Id) -> Self {
        Self { dir: home.run_dir(id) }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Makes the folder. As root it stays root's, and only the socket's belongs to the server's
    /// user, so that what Velo writes as root can never be a link that a server planted.
    fn make(&self, user: Option<&OsUser>) -> Result<()> {
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        disk::make_folder("make the folder of a server", &self.dir, mode, None)?;
        disk::make_folder("make the folder of a socket", &self.socket(), 0o700, user)
    }

    /// Writes one of the server's files anew.
    fn put(&self, name: &str, content: &str, user: Option<&OsUser>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        disk::write("write a file of a server", &path, content, user)?;
        Ok(path)
    }

    /// Writes a secret that a tool of the server's user reads.
    pub(crate) fn secret(&self, secret: &str, user: Option<&OsUser>) -> Result<PathBuf> {
        self.make(user)?;
        self.put("secret", &format!("{secret}\n"), user)
    }

    /// Removes it.
    pub(crate) fn forget_secret(&self) -> Result<()> {
        disk::remove("remove a secret", &self.dir.join("secret"))
    }

    /// The socket of a server on `port`.
    pub(crate) fn socket_file(&self, port: u16) -> PathBuf {
        self.socket().join(format!(".s.PGSQL.{port}"))
    }

    /// Removes the sockets that a server left which does not run any more, and their lock files.
    /// Whether there were any.
    pub(crate) fn forget_sockets(&self) -> Result<bool> {
        let left = self.sockets();
        for path in &left {
            disk::remove("remove a socket of no server", path)?;
        }
        Ok(!left.is_empty())
    }

    /// Every socket in the folder, and its lock file.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.socket()).into_iter().flatten().flatten();
        // A folder of such a name is no server's, and cannot be removed as one's socket.
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        let sockets = files.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let port = name.strip_prefix(".s.PGSQL.").map(|rest| rest.trim_end_matches(".lock"));
            port.is_some_and(|port| port.parse::<u16>().is_ok())
        });
        sockets.collect()
    }

    /// Whether a server listens on a socket in the folder.
    pub(crate) fn is_served(&self) -> bool {
        self.sockets().iter().any(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
    }

    /// Removes the folder of a server that no record names.
    pub(crate) fn remove_orphaned(&self) -> Result<()> {
        disk::remove_folder("remove an orphaned folder of a server", &self.dir)
    }

    /// Removes the folder; missing is fine.
    pub(crate) fn remove(&self) -> Result<()> {
        disk::remove_folder("remove the folder of a server", &self.dir)
    }
}

impl Boot<'_> {
    /// Where Velo itself connects to.
    fn target<'a>(&'a self, socket_dir: &'a Path) -> Target<'a> {
        target(socket_dir, self.project, self.branch)
    }

    /// The access rules of the server.
    fn access<'a>(&'a self, users: &'a [String], runtime: RuntimeCapability) -> hba::Files<'a> {
        hba::Files { role: &self.project.role, users, bridged: runtime.bridged }
    }

    fn run_dir(&self) -> RunDir {
        let id = if self.doors == Doors::Private { self.volume } else { self.branch.id };
        RunDir::of(self.home, id)
    }

    /// Brings the server up. On an error the caller stops whatever runs.
    pub(crate) async fn run(&self, runtime: &dyn Runtime, op: &Op) -> Result<()> {
        let storage = self.home.storage(self.project.storage)?;
        let shown = format!("the branch {}/{}", self.project.name, self.branch.shown());
        let volume = Object::Volume(self.volume);
        let location = crate::create::opened(&*storage, volume, &shown).await?;
        let data = location.host_path().to_path_buf();
        let control = control::read(&data.join("global/pg_control"))?;
        let major = self.project.postgres.version.major;
        crate::cut::check_major(control.major, major)?;

        let postgres = crate::project::installed(self.project, self.home).await?;
        let libc = postgres.libc();
        let user = self.home.server_user(&postgres);
        let user = user.as_ref();
        let run_dir = self.run_dir();
        let capability = runtime.capability();
        let users = self.home.trusted_users(&postgres);
        let files = self.access(&users, capability);
        run_dir.make(user)?;
        let open = self.doors == Doors::Open;
        let hba = run_dir.put("hba.conf", &files.hba(open), user)?;
        let ident = run_dir.put("ident.conf", &files.ident(), user)?;
        let socket_dir = run_dir.socket();

        let mut given = settings::of(&settings::Server {
            major,
            data: &data,
            hba: &hba,
            ident: &ident,
            socket_dir: &socket_dir,
            port: self.branch.port,
            listen: (self.doors != Doors::Private).then(|| capability.listen_addresses()),
            ephemeral: self.branch.ephemeral,
            control: &control,
            recovery: data.join("recovery.signal").exists(),
            in_place_tablespaces: has_in_place_tablespaces(&data),
        });
        if let Some(libraries) = self.libraries(runtime, &postgres, &location).await? {
            given.push(("shared_preload_libraries".into(), libraries));
        }
        given.extend(self.branch.settings.iter().map(|(k, v)| (k.clone(), v.clone())));

        let log = run_dir.log();
        let instance = InstanceRef { id: self.branch.id, location };
        // A rehearsal never outlives who rehearses, whatever the branch is.
        let ends_with_us = self.branch.ephemeral || self.doors == Doors::Private;
        let lifeline = if ends_with_us { Lifeline::Process } else { Lifeline::Detached };
        let spec = InstanceSpec {
            instance: instance.clone(),
            postgres,
            settings: given,
            socket_dir: socket_dir.clone(),
            port: self.branch.port,
            tcp: self.doors != Doors::Private,
            log: log.clone(),
            lifeline,
            reads: vec![run_dir.dir.clone()],
            limits: self.branch.limits.or(self.project.limits),
            labels: vec![
                ("project", self.project.name.to_string()),
                ("branch", self.branch.shown()),
            ],
        };
        let started = op.steps.run("start", runtime.start(spec)).await?;
        let target = self.target(&socket_dir);
        let limit = self.home.config.start_timeout;
        let door = match self.doors {
            Doors::Open => Door::Tcp(&self.branch.password),
            Doors::OpenWhenReady | Doors::Private => Door::Socket,
        };
        let ready =
            op.steps.run("ready", readiness::wait(started, &data, target, door, limit, &op.cancel));
        let session = match ready.await {
            Ok(session) => session,
            Err(error) if error.kind() == ErrorKind::Postgres => {
                return Err(self.explain(error, runtime, instance, &log).await);
            }
            Err(error) => return Err(error),
        };
        let settled = tokio::time::timeout(limit, self.settle(&session, target, libc));
        match op.steps.run("check", op.cancel.guard(settled)).await? {
            Ok(settled) => settled?,
            Err(_) => return Err(self.silent(limit)),
        }
        if self.doors == Doors::OpenWhenReady {
            run_dir.put("hba.conf", &files.hba(true), user)?;
            session.execute("reload its settings", "SELECT pg_reload_conf()").await?;
            op.steps.run("open", op.cancel.guard(self.opened(target, limit))).await??;
        }
        Ok(())
    }

    /// Brings a start to its end that somebody began: checks what was not yet, and lets clients in.
    /// The server goes on.
    pub(crate) async fn finish(
        &self,
        runtime: &dyn Runtime,
        op: &Op,
        limit: std::time::Duration,
    ) -> Result<()> {
        let capability = runtime.capability();
        let postgres = crate::project::installed(self.project, self.home).await?;
        let run_dir = self.run_dir();
        let socket_dir = run_dir.socket();
        let target = self.target(&socket_dir);
        let instance = instance(self.home, self.project, self.branch.id, self.volume)?;
        let connected = || self.connected(target, runtime, &instance);
        let work = async {
            // Reading the settings anew, for nothing, would cost the next branch a checkpoint.
            if !self.fresh_clone && Session::is_open(target, &self.branch.password).await {
                return Ok(());
            }
            let session = connected().await?;
            if self.fresh_clone {
                self.settle(&session, target, postgres.libc()).await?;
            }
            let users = self.home.trusted_users(&postgres);
            let rules = self.access(&users, capability).hba(true);
            run_dir.put("hba.conf", &rules, self.home.server_user(&postgres).as_ref())?;
            let loaded = "SELECT pg_conf_load_time()";
            let before = session.value("look at its settings", loaded).await?;
            session.execute("reload its settings", "SELECT pg_reload_conf()").await?;
            // A new session has what the postmaster has read, and that reads the rules as well. Where a
            // setting is wrong it keeps the old ones, and reads the rules all the same.
            let begun = std::time::Instant::now();
            loop {
                let session = connected().await?;
                let late = begun.elapsed() > RELOAD;
                if session.value("look at its settings", loaded).await? != before
                    || (late && Session::is_open(target, &self.branch.password).await)
                {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            Ok(())
        };
        match op.cancel.guard(tokio::time::timeout(limit, work)).await? {
            Ok(done) => done,
            Err(_) => Err(self.silent(limit)),
        }
    }

    /// A session as soon as the server takes any: it may be recovering. One that was ending never does.
    async fn connected(
        &self,
        target: Target<'_>,
        runtime: &dyn Runtime,
        instance: &InstanceRef,
    ) -> Result<Session> {
        loop {
            match Session::attempt(target, Door::Socket).await {
                Attempt::Connected(session) => return Ok(session),
                Attempt::Failed(error) => return Err(error),
                Attempt::NotYet(error) => {
                    // One that is brought up again and again never runs for long.
                    if !matches!(runtime.status(instance).await?, Status::Running { .. }) {
                        let shown = self.branch.shown();
                        let ended =
                            format!("the server of {shown} ended before it took connections");
                        return Err(Error::new(ErrorKind::Postgres, ended)
                            .with_context(ENDED, shown)
                            .with_source(error));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await
                }
            }
        }
    }

    /// Whether nobody listens where clients go. A container that runs may have lost its network.
    pub(crate) async fn is_cut_off(&self) -> bool {
        let to = (std::net::Ipv4Addr::LOCALHOST, self.branch.port);
        let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
        tokio::net::TcpStream::connect(to).await.err().is_some_and(refused)
    }

    fn silent(&self, limit: std::time::Duration) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!(
                "the server of {} does not answer within {} s",
                self.branch.shown(),
                limit.as_secs()
            ),
        )
        .with_hint("look at its log; VELO_START_TIMEOUT (seconds) gives it more time")
    }

    /// Libraries to load where the parent's would act by themselves.
    async fn libraries(
        &self,
        runtime: &dyn Runtime,
        postgres: &Installation,
        location: &crate::storage::Location,
    ) -> Result<Option<String>> {
        let data = location.host_path();
        let mut suspicious = false;
        for name in ["postgresql.conf", "postgresql.auto.conf"] {
            let path = data.join(name);
            suspicious |= match data_file::read(&path, data_file::SETTINGS) {
                Ok(conf) => settings::may_preload_pg_cron(&conf),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
                // PostgreSQL follows a link, as its own user.
                Err(e) if e.raw_os_error() == Some(libc::ELOOP) => true,
                Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
            };
        }
        // `main` is the project's own; it may run its jobs, but not in a rehearsal beside itself.
        let own = self.branch.parent.is_none() && self.doors != Doors::Private;
        if !suspicious || own {
            return Ok(None);
        }
        // Without it, a `data_directory` in the files would lead to another one's.
        let mut args = ["-D", "{}", "-c", "data_directory={}"].map(str::to_owned).to_vec();
        args.extend(
            settings::forced(postgres.version.major)
                .into_iter()
                .flat_map(|(k, v)| ["-c".to_owned(), format!("{k}={v}")]),
        );
        args.extend(["-C".to_owned(), "shared_preload_libraries".to_owned()]);
        let output = runtime
            .run(crate::runtime::ToolSpec {
                postgres: postgres.clone(),
                tool: "postgres",
                args,
                location: location.clone(),
                reads: Vec::new(),
            })
            .await?;
        if !output.success {
            return Err(Error::new(
                ErrorKind::Postgres,
                format!("postgres cannot read the settings of the data: {}", output.stderr.trim()),
            ));
        }
        Ok(Some(settings::without_pg_cron(output.stdout.trim())))
    }

    /// Checks what must hold before anybody else gets in, and mends what can be mended.
    async fn settle(
        &self,
        session: &Session,
        target: Target<'_>,
        libc: Option<Libc>,
    ) -> Result<()> {
        collation::check(session).await?;
        if let (Some(sorted), Some(here)) = (self.project.libc, libc)
            && sorted != here
        {
            collation::check_libc(session, sorted, here).await?;
        }
        if !session.by_password {
            self.own_password(session).await?;
        }
        if self.fresh_clone
            && !session.copy("look for subscriptions", "pg_subscription (oid)").await?.is_empty()
        {
            subscriptions::cut_off(session, target).await?;
        }
        Ok(())
    }

    /// Gives Velo's role the branch's password, unless it has it or nothing can be written.
    async fn own_password(&self, session: &Session) -> Result<()> {
        let role = literal(&self.project.role);
        let row = session
            .row(
                "look at its role",
                &format!(
                    "SELECT rolpassword, pg_is_in_recovery(), rolvaliduntil <= now() \
                     FROM pg_authid WHERE rolname = {role}"
                ),
            )
            .await?;
        let value = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let expired = value(2) == "t";
        if value(1) == "t" || (!expired && scram::matches(&value(0), &self.branch.password)) {
            return Ok(());
        }
        if self.doors == Doors::Open {
            // Somebody changed it in the parent. Velo's own is written over it before anybody
            // learns the URL.
            tracing::debug!("the password of the parent's role is not the recorded one");
        }
        set_password(session, &self.project.role, &self.branch.password, expired).await
    }

    /// Waits until the reloaded rules are in force. The postmaster reloads when the signal reaches
    /// it, and tells nobody but the client who is let in: a bounded poll.
    async fn opened(&self, target: Target<'_>, limit: std::time::Duration) -> Result<()> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < limit {
            if Session::lets_in(target, &self.branch.password).await {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Err(self.silent(limit))
    }

    /// An error of a server that ended, with what it said last.
    async fn explain(
        &self,
        error: Error,
        runtime: &dyn Runtime,
        instance: InstanceRef,
        log: &Path,
    ) -> Error {
        let tail = runtime.logs(log, 15).await.unwrap_or_default();
        let why =
            tail.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let port = self.branch.port;
        // Where the server itself goes on, it is the one that holds the port.
        let ended = matches!(runtime.status(&instance).await, Ok(Status::Stopped));
        if ended && self.doors != Doors::Private && !port_is_free(port) {
            return Error::new(
                ErrorKind::Conflict,
                format!("port {port} is held by another program"),
            )
            .with_context("port", port)
            .with_hint("stop that program, or set VELO_PORTS to another range for new branches")
            .with_source(error);
        }
        let data = instance.location.host_path();
        if self.project.runtime == RuntimeKind::Docker && misses_a_file(&tail, data) {
            return crate::runtime::unseen(data)
                .with_context("log", log.display())
                .with_context("log_tail", tail)
                .with_source(error);
        }
        let why = why.and_then(|line| line.split_once(": ").map(|(_, rest)| rest.trim()));
        let message = match why {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        };
        tracing::info!(log = %log.display(), "the end of the server's log:\n{tail}");
        // PostgreSQL quotes the setting that it refuses.
        let refused = self.branch.settings.keys().find(|key| {
            why.is_some_and(|why| why.contains(&format!("\"{key}\"")))
                || tail.contains(&format!("\"{key}\""))
        });
        let hint = match refused {
            Some(key) => format!("correct the setting {key}, or leave it out"),
            None if why.is_some_and(|why| why.contains("shared memory segment")) => {
                "give it more shared memory: --shm-size, or where it is no container, /dev/shm"
                    .to_owned()
            }
            // What was being made goes with its log.
            None if self.branch.phase == Phase::Creating => {
                "with -v the command shows the end of the server's log".to_owned()
            }
            None => format!("the server's log has more: {}", log.display()),
        };
        Error::new(ErrorKind::Postgres, message)
            .with_context("log", log.display())
            .with_context("log_tail", tail)
            .with_hint(hint)
    }
}

/// Whether a server's last words are that there is no such file in its data, and it is there.
fn misses_a_file(tail: &str, data: &Path) -> bool {
    let last = tail.lines().rev().find_map(|line| line.strip_suffix(": No such file or directory"));
    let path = last.and_then(|line| line.rsplit('"').nth(1));
    path.map(Path::new).is_some_and(|path| path.starts_with(data) && path.exists())
}

/// What an error of a server that was seen to end has in its context.
const ENDED: &str = "ended";

/// Whether a server that was waited for was seen to end, whatever it does now.
pub(crate) fn has_ended(error: &Error) -> bool {
    error.context().any(|(key, _)| key == ENDED)
}

/// What stands for the tablespaces of the data: a folder for one in place, a link for one elsewhere.
fn tablespaces(data: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten()
}

/// Whether the data has a tablespace that lies elsewhere.
pub(crate) fn has_tablespace_elsewhere(data: &Path) -> bool {
    tablespaces(data).any(|entry| {
        let target = std::fs::read_link(entry.path());
        target.is_ok_and(|target| !target.starts_with(data))
    })
}

fn has_in_place_tablespaces(data: &Path) -> bool {
    tablespaces(data).any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

async fn set_password(
    session: &Session,
    role: &str,
    password: &Password,
    expired: bool,
) -> Result<()> {
    let verifier = literal(&scram::verifier(password)?);
    let until = if expired { " VALID UNTIL 'infinity'" } else { "" };
    let sql = format!("ALTER ROLE {} PASSWORD {verifier}{until}", ident(role));
    session.execute_secret("set the password of its role", &sql).await
}

/// Whether a server could listen on `port` now.
pub(crate) fn port_is_free(port: u16) -> bool {
    try_port(port).unwrap_or(false)
}

/// The same; an error where nobody can tell, as without a file to spare.
pub(crate) fn try_port(port: u16) -> Result<bool> {
    use std::io::ErrorKind as Io;
    // std sets SO_REUSEADDR, as PostgreSQL does: connections of a server that ended a moment ago
    // do not count.
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), Io::AddrInUse | Io::PermissionDenied) => Ok(false),
        Err(e) => Err(Error::io(format!("try port {port}"), e)),
    }
}

/// Where Velo connects to a branch's server, whose socket is in `socket_dir`.
pub(crate) fn target<'a>(
    socket_dir: &'a Path,
    project: &'a ProjectRecord,
    branch: &BranchRecord,
) -> Target<'a> {
    Target {
        socket_dir,
        port: branch.port,
        role: &project.role,
        database: &project.database,
        major: project.postgres.version.major,
    }
}

/// What a session needs for its first query, and a server reads from its files once: the catalogs that are looked
/// into while a query is read and planned, each by its index. It says nothing of the user's own tables, for
/// their statistics are to be as the seed's.
const WARM: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE c.relname = 'pg_class' AND n.oid IS DISTINCT FROM to_regnamespace('public')";

/// How long that may take: nobody waits for it, and without it the branch is as good.
const WARMING: std::time::Duration = std::time::Duration::from_secs(5);

/// Has a session on a server that is up, so that the first client's finds everything in memory. The one that
/// waited for the server does not do: it is the first of all, reads the catalogs' tables where later ones
/// read their indexes, and plans nothing.
pub(crate) async fn warm(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<()> {
    let socket_dir = RunDir::of(home, branch.id).socket();
    let work = async {
        let (server, door) = (target(&socket_dir, project, branch), Door::Tcp(&branch.password));
        let session = Session::attempt(server, door).await.done()?;
        session.rows("warm a server", WARM).await.map(drop)
    };
    match tokio::time::timeout(WARMING, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "a server is not warmed in time")),
    }
}

/// The server of a branch on one of its volumes, wherever that is.
pub(crate) fn instance(
    home: &Home,
    project: &ProjectRecord,
    branch: Id,
    volume: Id,
) -> Result<InstanceRef> {
    let location = home.storage(project.storage)?.location(Object::Volume(volume));
    Ok(InstanceRef { id: branch, location })
}

/// How long who only looks waits for a runtime to say what lives.
const LOOK: std::time::Duration = std::time::Duration::from_secs(8);

/// When a look that begins now is over.
pub(crate) fn end_of_look() -> tokio::time::Instant {
    tokio::time::Instant::now() + LOOK
}

/// Whether a branch's server lives, and not only between two deaths, for who only looks and does not wait
/// past `end`.
pub(crate) async fn look(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    end: tokio::time::Instant,
) -> Result<Status> {
    let status = async {
        let status = status(home, project, branch).await?;
        let lives = matches!(status, Status::Running { .. }) && branch.phase == Phase::Ready;
        if lives && is_brought_up(home, project, branch).await? {
            return Ok(Status::Restarting);
        }
        Ok(status)
    };
    in_time(project.runtime, end, status).await
}

/// What somebody asks a runtime who only looks, and does not wait past `end`.
pub(crate) async fn in_time<T>(
    runtime: RuntimeKind,
    end: tokio::time::Instant,
    look: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout_at(end, look).await.unwrap_or_else(|_| {
        let limit = LOOK.as_secs();
        let text = format!("the runtime {runtime} does not answer within {limit} s");
        Err(Error::new(ErrorKind::Timeout, text).with_hint("try again when less is going on there"))
    })
}

/// Whether a server that was found running is one that its runtime brings up by itself, after it died, and
/// that is not up yet. It may die again, and be found between two deaths at any moment.
async fn is_brought_up(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<bool> {
    // Where somebody switches it, that is why it is not up.
    if !home.runtime(project.runtime)?.capability().restarts || branch.lease.is_some() {
        return Ok(false);
    }
    let location = instance(home, project, branch.id, branch.volume)?.location;
    if !readiness::says_ready(location.host_path()) {
        return Ok(true);
    }
    // What a killed one said stays until the next one has read its settings; its socket is dead meanwhile.
    let socket = RunDir::of(home, branch.id).socket_file(branch.port);
    let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
    Ok(tokio::net::UnixStream::connect(socket).await.err().is_some_and(refused))
}

/// Whether a branch's server lives.
pub(crate) async fn status(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<Status> {
    let instance = instance(home, project, branch.id, branch.volume)?;
    home.runtime(project.runtime)?.status(&instance).await
}

/// Stops whatever runs on `volume`.
pub(crate) async fn stop(
    home: &Home,
    project: &ProjectRecord,
    branch: Id,
    volume: Id,
    mode: StopMode,
) -> Result<()> {
    let instance = instance(home, project, branch, volume)?;
    home.runtime(project.runtime)?.stop(&instance, mode).await
}
