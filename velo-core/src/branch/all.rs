//! All servers of a home at once: after the machine was started again, and before it is stopped.

use std::sync::Arc;

use futures_util::StreamExt;

use super::Branch;
use crate::boot;
use crate::config::Config;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{ErrorKind, Result};
use crate::home::Home;
use crate::lock::Mode;
use crate::postgres::session::Session;
use crate::project;
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::Status;
use crate::slots::{self, Asker, Turn};
use crate::switch::Switch;
use crate::timings::Timings;

/// What became of one branch of many.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The branch.
    pub branch: Branch,
    /// Whether there was anything to do: a start finds servers that run already.
    pub result: Result<bool>,
}

/// What was done so that a server is as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Started,
    Opened,
    Restarted,
    Stopped,
    Cleared,
}

impl Branch {
    /// Starts the server of every persistent branch of the home that ought to run, under its URL:
    /// those that ran when the machine went down, and those that [`stop_all`](Branch::stop_all)
    /// stopped. Several start at a time, and one that cannot keeps no other down. Nothing happens to
    /// those that run, and their [`Outcome`] says so.
    ///
    /// # Errors
    /// If the home cannot be opened. What failed for one branch is in its [`Outcome`].
    pub async fn start_all(config: &Config) -> Result<Vec<Outcome>> {
        Self::start_all_call(config).await
    }

    pub(crate) fn start_all_call(config: &Config) -> Call<Vec<Outcome>> {
        let config = config.clone();
        engine::call(move |op| async move {
            let Some(home) = Engine::get()?.existing_home(&config).await? else {
                return Ok(Vec::new());
            };
            let mut branches = persistent(&home, &config).await?;
            branches.retain(|branch| {
                let record = branch.record();
                record.wanted || record.resumes
            });
            let all = each(branches, &home, &op, |branch, home, op| async move {
                let result = branch.resume(&home, &op).await.transpose()?;
                Some(Outcome { branch, result })
            });
            Ok(all.await.into_iter().flatten().collect())
        })
    }

    /// Stops the server of every persistent branch of the home, cleanly, and remembers which ran, so
    /// that [`start_all`](Branch::start_all) starts the same ones again. Ephemeral branches are left
    /// to their holders.
    ///
    /// # Errors
    /// If the home cannot be opened. What failed for one branch is in its [`Outcome`].
    pub async fn stop_all(config: &Config) -> Result<Vec<Outcome>> {
        Self::stop_all_call(config).await
    }

    pub(crate) fn stop_all_call(config: &Config) -> Call<Vec<Outcome>> {
        let config = config.clone();
        engine::call(move |op| async move {
            let Some(home) = Engine::get()?.existing_home(&config).await? else {
                return Ok(Vec::new());
            };
            let branches = persistent(&home, &config).await?;
            let all = each(branches, &home, &op, |branch, home, op| async move {
                match branch.pause(&home, &op).await {
                    Ok(false) => None,
                    result => Some(Outcome { branch, result }),
                }
            });
            Ok(all.await.into_iter().flatten().collect())
        })
    }

    /// Starts it if it still ought to run. Whether it did not run.
    async fn resume(&self, home: &Home, op: &Op) -> Result<Option<bool>> {
        let (id, shown) = (self.id(), &format!("the branch {}", self.full_name()));
        let switch = Switch { home, project: &self.0.project.record, op };
        // Locked anew for each look for a slot: one who is ahead in the line may be about to clone it.
        let resumed = slots::taken(home, op, Some(id), |asker| async move {
            let _lock = home.lock(id, Mode::Exclusive, shown, &op.cancel).await?;
            let record = self.current(home).await?;
            if !record.wanted && !record.resumes {
                // Somebody stopped it meanwhile.
                asker.leave(home).await?;
                return Ok(Turn::Now(None));
            }
            Ok(switch.on_unless_it_runs(id, asker).await?.map(Some))
        });
        Ok(resumed.await?.map(|(record, started)| {
            self.renewed(record, op);
            started
        }))
    }

    /// Stops it until all are started again. Whether there was something to stop.
    async fn pause(&self, home: &Home, op: &Op) -> Result<bool> {
        let shown = format!("the branch {}", self.full_name());
        let _lock = home.lock(self.id(), Mode::Exclusive, &shown, &op.cancel).await?;
        let record = self.current(home).await?;
        if !record.wanted
            && boot::status(home, &self.0.project.record, &record).await? == Status::Stopped
        {
            return Ok(false);
        }
        let switch = Switch { home, project: &self.0.project.record, op };
        self.renewed(switch.pause(record.id).await?, op);
        Ok(true)
    }

    /// Whether its server ought to run, as it was known last.
    pub(crate) fn ought_to_run(&self) -> bool {
        self.record().wanted
    }

    /// Makes its server as the record says, if nobody works on it at this moment.
    pub(crate) async fn settle(&self, home: &Home, op: &Op) -> Result<Option<Settled>> {
        let shown = format!("the branch {}", self.full_name());
        let _lock = match home.lock_now(self.id(), &shown).await {
            // Whoever works on it, or has it cloned, leaves it as it ought to be.
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(None),
            lock => lock?,
        };
        let record = self.current(home).await?;
        if record.phase != Phase::Ready || record.ephemeral {
            return Ok(None);
        }
        let project = &self.0.project.record;
        let status = boot::status(home, project, &record).await?;
        let running = matches!(status, Status::Running { .. });
        let (switch, asker) = (Switch { home, project, op }, Asker::of(home));
        let (settled, turn) = match (running, record.wanted) {
            (true, true) if !self.has_socket(home, &record) => {
                (Settled::Restarted, switch.off_and_on(record.id, asker).await?)
            }
            (true, true) if lets_clients_in(home, project, &record).await => return Ok(None),
            (true, true) => (Settled::Opened, switch.on(record.id, asker).await?),
            (false, true) => (Settled::Started, switch.on(record.id, asker).await?),
            (_, false) if status != Status::Stopped => {
                (Settled::Stopped, Turn::Now(switch.pause(record.id).await?))
            }
            (_, false) => {
                let orphans = self.has_orphans(home, &record).await?;
                if orphans {
                    switch.down(&record).await?;
                }
                let sockets = RunDir::of(home, record.id).forget_sockets()?;
                return Ok((orphans || sockets).then_some(Settled::Cleared));
            }
        };
        // What ought to run has its slot, and waits for none.
        let Turn::Now(record) = turn else { return Ok(None) };
        self.renewed(record, op);
        Ok(Some(settled))
    }

    /// Whether clients on this machine find the socket of its server, which runs.
    fn has_socket(&self, home: &Home, record: &BranchRecord) -> bool {
        let file = RunDir::of(home, record.id).socket_file(record.port);
        home.runtime(self.0.project.record.runtime)
            .is_ok_and(|runtime| !runtime.capability().unix_socket || file.exists())
    }

    async fn has_orphans(&self, home: &Home, record: &BranchRecord) -> Result<bool> {
        let project = &self.0.project.record;
        let instance = boot::instance(home, project, record.id, record.volume)?;
        home.runtime(project.runtime)?.orphans(&instance).await
    }
}

/// Whether the start of a server came to its end. It may be recovering, or be starting at this moment.
pub(crate) async fn lets_clients_in(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> bool {
    let socket_dir = RunDir::of(home, branch.id).socket();
    let server = boot::target(&socket_dir, project, branch);
    if branch.follows.is_some() {
        // Of its roles' passwords Velo knows none.
        return Session::connect(server).await.is_ok();
    }
    Session::is_open(server, &branch.password).await
}

/// Every persistent branch of the home that is whole, oldest first.
pub(crate) async fn persistent(home: &Home, config: &Config) -> Result<Vec<Branch>> {
    let found = home.state().read(|tx| {
        let projects = tx.every::<ProjectRecord>()?;
        Ok((projects, tx.every::<BranchRecord>()?))
    });
    let (projects, branches) = found.await?;
    let mut all = Vec::new();
    for record in projects.into_iter().filter(|project| project.phase == Phase::Ready) {
        let id = record.id;
        let project = Arc::new(project::Inner::of(config.clone(), record));
        let own = branches.iter().filter(|branch| {
            branch.project == id && !branch.ephemeral && branch.phase == Phase::Ready
        });
        all.extend(own.map(|b| Branch::of(&project, b.clone(), Timings::default(), false)));
    }
    Ok(all)
}

/// Does something with each, several at a time, and returns what came of it in their order. A start
/// waits for the disk more than it computes.
pub(crate) async fn each<T, F: Future<Output = T>>(
    branches: Vec<Branch>,
    home: &Arc<Home>,
    op: &Op,
    mut work: impl FnMut(Branch, Arc<Home>, Op) -> F,
) -> Vec<T> {
    let cores = engine::cores();
    let one = |branch| {
        // Its steps are its own; whoever gives up gives up all of them.
        work(branch, home.clone(), Op { cancel: op.cancel.clone(), ..Op::default() })
    };
    futures_util::stream::iter(branches.into_iter().map(one))
        .buffered((cores * 2).clamp(4, 16))
        .collect()
        .await
}
