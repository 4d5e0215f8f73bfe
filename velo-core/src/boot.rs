//! From a volume to a server that answers, is nobody's double, and has its own password.

use std::path::Path;

use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::os_user::OsUser;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::{Attempt, Door, Session, Target};
use crate::postgres::{hba, readiness, settings};
use crate::record::{BranchRecord, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::{
    InstanceRef, InstanceSpec, Lifeline, Runtime, RuntimeCapability, Status, StopMode,
};
use crate::storage::Object;
use crate::wal::{self, Archive, Replay};

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

mod explain;
mod follow;
mod libraries;
mod look;
mod prepare;
mod settle;
mod warm;

use prepare::{Rules, prepare};

pub(crate) use look::{end_of_look, in_time, look};
pub(crate) use warm::warm;

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
    /// The WAL that it replays first.
    pub(crate) replay: Option<&'a Replay>,
    /// What data is brought into it with.
    pub(crate) loading: Option<&'a Loading>,
}

/// How a server is that data is brought into, before anybody has it.
pub(crate) struct Loading {
    /// Settings beside all others.
    pub(crate) settings: Vec<(String, String)>,
    /// Whether it may sort otherwise than its indexes were built, for they are built anew.
    pub(crate) any_collation: bool,
}

/// How long a postmaster usually takes to read its settings and access rules anew, and more.
const RELOAD: std::time::Duration = std::time::Duration::from_secs(2);

impl Boot<'_> {
    /// Where Velo itself connects to.
    fn target<'a>(&'a self, socket_dir: &'a Path) -> Target<'a> {
        target(socket_dir, self.project, self.branch)
    }

    /// The access rules of the server, once it is as it is to be.
    fn access<'a>(&'a self, users: &'a [String], runtime: RuntimeCapability) -> hba::Files<'a> {
        let also = self.branch.follows.as_ref().map(|follow| follow.superuser.as_str());
        hba::Files { role: &self.project.role, also, users, bridged: runtime.bridged }
    }

    /// A superuser of the data's, as whom Velo makes its own role where that is not in it.
    fn stranger(&self) -> Option<&str> {
        self.branch.superuser().filter(|_| self.branch.follows.is_none())
    }

    /// Who may connect meanwhile, as the data allows it.
    fn doors(&self) -> Doors {
        match self.doors {
            Doors::Private => Doors::Private,
            // Its roles and their passwords are the source's, and nothing in it is to be changed.
            _ if self.branch.follows.is_some() => Doors::Open,
            _ if self.stranger().is_some() => Doors::OpenWhenReady,
            doors => doors,
        }
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
        let location = crate::clone::opened(&*storage, volume, &shown).await?;
        let data = location.host_path().to_path_buf();
        self.unfollow(&*storage, &data).await?;
        let major = self.project.postgres.version.major;

        let postgres = crate::project::installed(self.project, self.home).await?;
        let libc = postgres.libc();
        let user = self.home.server_user(&postgres);
        let run_dir = self.run_dir();
        let capability = runtime.capability();
        let users = self.home.trusted_users(&postgres);
        let files = self.access(&users, capability);
        let doors = self.doors();
        let first = hba::Files { also: self.branch.superuser(), ..files };
        let rules = Rules { hba: first.hba(doors == Doors::Open), ident: first.ident() };
        let mut prepared =
            prepare(data.clone(), major, run_dir.clone(), rules, user.clone()).await?;
        // Its server may have got more place since the data was cloned.
        let wanted = self.replay.map_or(0, |replay| replay.max_prepared);
        let place = &mut prepared.control.max_prepared_xacts;
        *place = (*place).max(wanted);
        let socket_dir = run_dir.socket();

        let mut given = settings::of(&settings::Server {
            major,
            data: &data,
            hba: &prepared.hba,
            ident: &prepared.ident,
            socket_dir: &socket_dir,
            port: self.branch.port,
            listen: (self.doors != Doors::Private).then(|| capability.listen_addresses()),
            ephemeral: self.branch.ephemeral,
            control: &prepared.control,
            recovery: prepared.recovery,
            in_place_tablespaces: prepared.in_place_tablespaces,
        });
        let archive = self.archive(prepared.control.redo, user.as_ref()).await?;
        given.extend(archive.iter().flat_map(Archive::settings));
        if prepared.may_load_acting {
            given.extend(self.libraries(runtime, &postgres, &location).await?);
        }
        given.extend(self.branch.settings.iter().map(|(k, v)| (k.clone(), v.clone())));
        if let Some(replay) = self.replay {
            given.push(("restore_command".into(), replay.restore_command.clone()));
            let timeline = replay.timeline.map(|timeline| timeline.to_string());
            given.extend(timeline.map(|timeline| ("recovery_target_timeline".into(), timeline)));
            // Its log says how far it is, whatever language the branch's own speaks.
            given.push(("lc_messages".into(), "C".into()));
        }
        if let Some(follow) = &self.branch.follows {
            given.extend(follow.settings(&prepared.control, &run_dir)?);
        }
        given.extend(self.loading.iter().flat_map(|loading| loading.settings.clone()));

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
            reads: self.reads(&run_dir),
            writes: archive.iter().map(|archive| archive.folder.clone()).collect(),
            limits: self.branch.limits.or(self.project.limits),
            labels: vec![
                ("project", self.project.name.to_string()),
                ("branch", self.branch.shown()),
            ],
        };
        let started = op.steps.run("start", runtime.start(spec)).await?;
        let target = self.target(&socket_dir);
        let patience = match self.replay {
            Some(replay) => replay.patience,
            None => self.first_replay(&data),
        };
        let limit = self.home.config.start_timeout.saturating_add(patience);
        let door = match doors {
            Doors::Open if self.branch.follows.is_none() => Door::Tcp(&self.branch.password),
            _ => Door::Socket,
        };
        let entry = self.entry(target);
        let ready =
            op.steps.run("ready", readiness::wait(started, &data, entry, door, limit, &op.cancel));
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
        if doors == Doors::OpenWhenReady {
            run_dir.put("hba.conf", &files.hba(true), user.as_ref())?;
            session.execute("reload its settings", "SELECT pg_reload_conf()").await?;
            op.steps.run("open", op.cancel.guard(self.opened(target, limit))).await??;
        }
        // Who may have its old data again takes one once that is over.
        let is_kept = self.branch.before.is_none();
        if is_kept && archive.is_some_and(|archive| archive.wants_base) {
            wal::base::try_to_take(self.home, self.project, self.branch, self.volume, op).await;
        }
        Ok(())
    }

    /// The archive that the server fills, if it does, with its WAL from `redo` on.
    async fn archive(&self, redo: Lsn, user: Option<&OsUser>) -> Result<Option<Archive>> {
        // A rehearsal is nothing that anybody goes back to.
        let follows = self.branch.follows.is_some();
        if self.branch.ephemeral || self.doors == Doors::Private || follows {
            return Ok(None);
        }
        wal::archive::begin(self.home, self.project, self.branch, self.volume, redo, user).await
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
        let connected = |target| self.connected(target, runtime, &instance);
        let work = async {
            if self.branch.follows.is_some() {
                // Its rules were right from the beginning.
                return connected(target).await.map(drop);
            }
            // Reading the settings anew, for nothing, would cost the next branch a checkpoint. And a superuser
            // of the data's is let in no more once clients are.
            let may_be_open = !self.fresh_clone || self.stranger().is_some();
            if may_be_open && Session::is_open(target, &self.branch.password).await {
                return Ok(());
            }
            let session = connected(self.entry(target)).await?;
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
                let session = connected(target).await?;
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
        .with_hint(format!(
            "its log says what it does; VELO_START_TIMEOUT (seconds) gives it more time, and where it hangs, velo branch \
             restart {}/{} ends it and starts it anew",
            self.project.name,
            self.branch.shown()
        ))
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
}

/// What an error of a server that was seen to end has in its context.
const ENDED: &str = "ended";

/// Whether a server that was waited for was seen to end, whatever it does now.
pub(crate) fn has_ended(error: &Error) -> bool {
    error.context().any(|(key, _)| key == ENDED)
}

/// Where Velo connects to a branch's server, whose socket is in `socket_dir`.
pub(crate) fn target<'a>(
    socket_dir: &'a Path,
    project: &'a ProjectRecord,
    branch: &'a BranchRecord,
) -> Target<'a> {
    let follows = branch.follows.as_ref().map(|follow| follow.superuser.as_str());
    Target {
        socket_dir,
        port: branch.port,
        role: follows.unwrap_or(&project.role),
        database: &project.database,
        major: project.postgres.version.major,
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
