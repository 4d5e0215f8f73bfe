//! A branch's server switched on and off.
//!
//! What a branch ought to do is recorded first, under the lease of whoever switches it. Should that
//! process be killed, whoever finds the record brings the server to what it says.

use std::time::Duration;

use crate::boot::{self, Boot, Doors};
use crate::clone::opened;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::postgres::tablespaces;
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::reset;
use crate::run_dir::RunDir;
use crate::runtime::{InstanceRef, RuntimeKind, Status, StopMode};
use crate::slots::{self, Asker, Turn};
use crate::state::Tx;
use crate::storage::Object;

/// What part of the time for a start one that runs already, and says nothing, is waited for by who only
/// finds it, as each of those who open a home may: of two minutes ten seconds, and more on a slow machine.
const SILENT: u32 = 12;

/// The server of a branch whose lock the caller holds alone.
#[derive(Clone, Copy)]
pub(crate) struct Switch<'a> {
    pub(crate) home: &'a Home,
    pub(crate) project: &'a ProjectRecord,
    pub(crate) op: &'a Op,
}

/// What somebody wants of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    On,
    Off,
    /// Off, and on again with all others.
    Pause,
}

impl Switch<'_> {
    /// Starts it; nothing happens if it runs. Returns the record as it is then. One that was stopped,
    /// and cannot be started, is a stopped one still.
    pub(crate) async fn on(self, id: Id, asker: Asker) -> Result<Turn<BranchRecord>> {
        Ok(self.on_unless_it_runs(id, asker).await?.map(|(record, _)| record))
    }

    /// The same, and whether it was started.
    pub(crate) async fn on_unless_it_runs(
        self,
        id: Id,
        asker: Asker,
    ) -> Result<Turn<(BranchRecord, bool)>> {
        let (record, before) = match self.want(id, Wish::On, asker).await? {
            Turn::Now(wanted) => wanted,
            Turn::Later(memory) => return Ok(Turn::Later(memory)),
        };
        let up = self.up_within(&record, self.home.config.start_timeout).await;
        match up {
            Ok(started) => Ok(Turn::Now((self.done(id, true).await?, started))),
            // One that had crashed ought to run still.
            Err(error) if before && !self.runs(&record).await => {
                Err(after(error, self.done(id, false).await))
            }
            Err(error) if before => Err(error),
            Err(error) => Err(after(error, self.still_off(id).await)),
        }
    }

    /// Stops it, cleanly; nothing happens if it does not run.
    pub(crate) async fn off(self, id: Id) -> Result<BranchRecord> {
        self.home.make_way().await;
        self.nothing_is_lost(id).await?;
        let (record, _) = self.unwant(id, Wish::Off).await?;
        self.down(&record).await?;
        self.done(id, false).await
    }

    /// Stops it, cleanly, until all are started again.
    pub(crate) async fn pause(self, id: Id) -> Result<BranchRecord> {
        self.home.make_way().await;
        self.nothing_is_lost(id).await?;
        let (record, _) = self.unwant(id, Wish::Pause).await?;
        self.down(&record).await?;
        self.done(id, false).await
    }

    /// Stops it, cleanly, and starts it again.
    pub(crate) async fn off_and_on(self, id: Id, asker: Asker) -> Result<Turn<BranchRecord>> {
        self.home.make_way().await;
        self.nothing_is_lost(id).await?;
        let (record, before) = match self.want(id, Wish::On, asker).await? {
            Turn::Now(wanted) => wanted,
            Turn::Later(memory) => return Ok(Turn::Later(memory)),
        };
        self.down(&record).await?;
        match self.up(&record).await {
            Ok(()) => self.done(id, true).await.map(Turn::Now),
            Err(error) if before => Err(error),
            Err(error) => Err(after(error, self.still_off(id).await)),
        }
    }

    /// Brings it to what the record says, as somebody wanted who is dead or has failed. It is tried
    /// twice, for what was in the way may have been there for a moment; what cannot be started then is
    /// left to whoever asks for it. One that runs, and is not as it ought to be, stays under its lease,
    /// for the next one to try.
    pub(crate) async fn as_recorded(self, record: &BranchRecord) -> Result<BranchRecord> {
        let mut done = self.once_as_recorded(record).await;
        if let Err(error) = &done
            && error.kind() != ErrorKind::Timeout
        {
            tracing::warn!(%error, branch = %record.id, "a server is switched once more");
            done = self.once_as_recorded(record).await;
        }
        match done {
            Ok(()) => self.done(record.id, record.wanted).await,
            Err(error) if self.runs(record).await => Err(error),
            Err(error) => Err(after(error, self.done(record.id, false).await)),
        }
    }

    async fn once_as_recorded(self, record: &BranchRecord) -> Result<()> {
        match record.wanted {
            // In a box: the callers' futures would be nested too deep for the compiler.
            true => {
                let patience = self.home.config.start_timeout / SILENT;
                Box::pin(self.up_within(record, patience)).await.map(drop)
            }
            false => self.down(record).await,
        }
    }

    async fn runs(self, record: &BranchRecord) -> bool {
        // One that nobody can look at may run.
        !matches!(boot::status(self.home, self.project, record).await, Ok(Status::Stopped))
    }

    /// Starts a server on the record's volume, or lets clients into the one that runs.
    pub(crate) async fn up(self, record: &BranchRecord) -> Result<()> {
        self.up_within(record, self.home.config.start_timeout).await.map(drop)
    }

    /// The same, where one that runs is waited for no longer than `patience`. Whether one was started.
    async fn up_within(self, record: &BranchRecord, patience: Duration) -> Result<bool> {
        let Self { home, project, op } = self;
        let runtime = home.runtime(project.runtime)?;
        // Before the server is looked at: one that an engine starts again and again, because nothing is
        // mounted since the machine came up, runs for a moment each time, and would be waited for.
        let shown = format!("the branch {}/{}", project.name, record.shown());
        let storage = home.storage(project.storage)?;
        let location = opened(&*storage, Object::Volume(record.volume), &shown).await?;
        let instance = InstanceRef { id: record.id, location };
        let boot = Boot {
            home,
            project,
            branch: record,
            volume: record.volume,
            doors: Doors::OpenWhenReady,
            fresh_clone: !record.settled,
            replay: None,
            loading: None,
        };
        let status = match runtime.status(&instance).await? {
            // Whoever started it may have been killed before clients were let in.
            Status::Running { .. } => match boot.finish(&*runtime, op, patience).await {
                Ok(()) if boot.is_cut_off().await => {
                    self.can_be_made_anew(
                        record,
                        "runs, and its port is dead",
                        "connect its container to its network again, with the engine's own command",
                    )?;
                    tracing::warn!(port = record.port, "a server runs, and its port is dead");
                    boot::stop(home, project, record.id, record.volume, StopMode::Fast).await?;
                    Status::Stopped
                }
                Ok(()) => return Ok(false),
                Err(error) => match runtime.status(&instance).await? {
                    // It died while it was waited for, and is between two deaths.
                    Status::Running { .. }
                        if boot::has_ended(&error) && runtime.capability().restarts =>
                    {
                        Status::Restarting
                    }
                    Status::Running { .. } => return Err(error),
                    // It was ending: whoever stopped it was killed.
                    ended => ended,
                },
            },
            ended => ended,
        };
        if status == Status::Restarting {
            // After a restart of the machine its data was not mounted yet, perhaps.
            self.can_be_made_anew(
                record,
                "dies, and is started again",
                "mend what its log names, and it comes up by itself",
            )?;
            // One that is just starting is its container's first process, and takes no signal before it has said
            // what it does with it: a fast shutdown would be waited for in vain.
            boot::stop(home, project, record.id, record.volume, StopMode::Immediate).await?;
        } else if runtime.orphans(&instance).await? {
            // What is left of a server that was killed would keep the next one from starting.
            boot::stop(home, project, record.id, record.volume, StopMode::Immediate).await?;
        }
        match boot.run(&*runtime, op).await {
            Ok(()) => Ok(true),
            Err(error) => {
                let error = home.explain(error);
                if self.holds_data(record)? {
                    return Err(error);
                }
                let stop = boot::stop(home, project, record.id, record.volume, StopMode::Fast);
                Err(after(error, stop.await))
            }
        }
    }

    /// An error if a stop took data along: what a container has beside its volume goes with it.
    pub(crate) async fn nothing_is_lost(self, id: Id) -> Result<()> {
        let record = self.home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
        let Some(record) = record else { return Ok(()) };
        if !self.holds_data(&record)? {
            return Ok(());
        }
        let shown = format!("{}/{}", self.project.name, record.shown());
        let what = format!("{shown} has a tablespace in its container, which goes with a stop");
        Err(Error::new(ErrorKind::Conflict, what).with_hint(
            "move its tables into the data folder (ALTER TABLE … SET TABLESPACE pg_default) and drop it",
        ))
    }

    /// The same for a server that ought to run and `does` something else, where another container would help.
    fn can_be_made_anew(self, record: &BranchRecord, does: &str, helps: &str) -> Result<()> {
        if !self.holds_data(record)? {
            return Ok(());
        }
        let shown = format!("{}/{}", self.project.name, record.shown());
        let what = format!(
            "{shown} {does}, and has a tablespace in its container, which would go with that"
        );
        let log = RunDir::of(self.home, record.id).log();
        Err(Error::new(ErrorKind::Conflict, what)
            .with_hint(format!("{helps}; its log: {}", log.display())))
    }

    /// Whether a server has data in its container, beside its volume.
    fn holds_data(self, record: &BranchRecord) -> Result<bool> {
        let Self { home, project, .. } = self;
        if project.runtime != RuntimeKind::Docker {
            return Ok(false);
        }
        let location = home.storage(project.storage)?.location(Object::Volume(record.volume));
        Ok(tablespaces::has_one_elsewhere(location.host_path()))
    }

    pub(crate) async fn down(self, record: &BranchRecord) -> Result<()> {
        let Self { home, project, op } = self;
        let stop = boot::stop(home, project, record.id, record.volume, StopMode::Fast);
        op.steps.run("stop", stop).await
    }

    /// Records that a server ought not to run, before it is stopped: for that nobody waits.
    async fn unwant(self, id: Id, wish: Wish) -> Result<(BranchRecord, bool)> {
        slots::taken(self.home, self.op, None, |asker| self.want(id, wish, asker)).await
    }

    /// Records whether a server ought to run, before it is started or stopped; one that ought not to
    /// before needs a slot, and where there is none it is the caller who waits, without the branch's lock.
    /// Returns the record, and whether it ought to before.
    async fn want(self, id: Id, wish: Wish, asker: Asker) -> Result<Turn<(BranchRecord, bool)>> {
        // In a box: it ends with a switch itself.
        Box::pin(reset::finish_locked(self.home, self.project, id)).await?;
        let wanted = wish == Wish::On;
        let lease = self.home.lease()?;
        let project = self.project.clone();
        let work = move |tx: &Tx<'_>| {
            let (mut before, mut later) = (wanted, None);
            let record = tx.update(id, |branch: &mut BranchRecord| {
                let shown = format!("{}/{}", project.name, branch.shown());
                if branch.phase != Phase::Ready {
                    return Err(reset::being_changed(&format!("the branch {shown}")));
                }
                if branch.ephemeral && !wanted {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("{shown} is ephemeral: it cannot be stopped"),
                    )
                    .with_hint(format!(
                        "it ends with the process that made it, which can keep it; or delete \
                         it: velo branch delete {shown}"
                    )));
                }
                branch.must_be_own(lease)?;
                let memory = slots::memory_of(&project, branch);
                if wanted && !branch.wanted {
                    if !asker.ask(tx, memory)? {
                        later = Some(memory);
                        return Ok(());
                    }
                } else {
                    asker.needs_none(tx)?;
                }
                // What was paused ought to have come back as well.
                before = std::mem::replace(&mut branch.wanted, wanted) || branch.resumes;
                branch.resumes = wish == Wish::Pause && before;
                branch.lease = Some(lease);
                Ok(())
            })?;
            Ok(later.map_or(Turn::Now((record, before)), Turn::Later))
        };
        self.home.state().write_durable("record whether a server ought to run", work).await
    }

    /// Nobody switches it any more. `ran` says whether a server has run on the branch's volume.
    pub(crate) async fn done(self, id: Id, ran: bool) -> Result<BranchRecord> {
        let work = move |branch: &mut BranchRecord| {
            branch.settle(branch.settled || ran);
            if !branch.ephemeral && branch.phase == Phase::Ready {
                branch.lease = None;
            }
            Ok(())
        };
        let record = move |tx: &Tx<'_>| tx.update(id, work);
        self.home.state().write_durable("record that a server was switched", record).await
    }

    /// What was off stays so.
    async fn still_off(self, id: Id) -> Result<BranchRecord> {
        let work = move |branch: &mut BranchRecord| {
            if !branch.ephemeral && branch.phase == Phase::Ready {
                branch.wanted = false;
                branch.lease = None;
            }
            Ok(())
        };
        let record = move |tx: &Tx<'_>| tx.update(id, work);
        self.home.state().write_durable("record that a server stays off", record).await
    }
}

/// `error`, with what cleaning up after it met.
pub(crate) fn after<T>(error: Error, cleanup: Result<T>) -> Error {
    match cleanup {
        Ok(_) => error,
        Err(cleanup) => error.with_cleanup(cleanup),
    }
}
