//! What is done to a branch that only its holder may do where it is ephemeral: renewing its data, and switching
//! its server.

use super::Branch;
use crate::cancel::Cancel;
use crate::engine::{self, Call, Engine, Op};
use crate::error::Result;
use crate::home::Home;
use crate::lock::Mode;
use crate::record::BranchRecord;
use crate::reset::{self, ResetTarget};
use crate::slots::{self, Turn};
use crate::switch::Switch;

/// What is done to a branch that only its holder may do where it is ephemeral.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) enum Change {
    Reset(ResetTarget),
    Switch(To),
}

/// What its server is switched to.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) enum To {
    On,
    Off,
    OffAndOn,
}

impl Branch {
    /// Starts its server; nothing happens if it runs.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if somebody holds its port,
    /// [`ErrorKind::Postgres`](crate::ErrorKind::Postgres) if the server does not come up.
    pub async fn start(&self) -> Result<()> {
        self.start_call().await
    }

    pub(crate) fn start_call(&self) -> Call<()> {
        self.change_call(Change::Switch(To::On), Cancel::default())
    }

    /// Stops its server, cleanly; nothing happens if it does not run. An ephemeral branch cannot
    /// be stopped, only closed.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) for an ephemeral branch.
    pub async fn stop(&self) -> Result<()> {
        self.stop_call().await
    }

    pub(crate) fn stop_call(&self) -> Call<()> {
        self.change_call(Change::Switch(To::Off), Cancel::default())
    }

    /// Stops its server cleanly and starts it again.
    ///
    /// # Errors
    /// As [`start`](Branch::start).
    pub async fn restart(&self) -> Result<()> {
        self.restart_call().await
    }

    pub(crate) fn restart_call(&self) -> Call<()> {
        self.change_call(Change::Switch(To::OffAndOn), Cancel::default())
    }

    /// Renews its data: the parent's current state, or the snapshot it was made from. URL, name
    /// and password stay. Clients are disconnected. On an error the old data stays.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for `main`, which has no parent,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if it is [protected](Branch::protect).
    pub async fn reset(&self) -> Result<()> {
        self.reset_to(ResetTarget::Source).await
    }

    /// Renews its data from another source. See [`reset`](Branch::reset).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the source does not exist.
    pub async fn reset_to(&self, target: ResetTarget) -> Result<()> {
        self.reset_call(target).await
    }

    pub(crate) fn reset_call(&self, target: ResetTarget) -> Call<()> {
        self.change_call(Change::Reset(target), Cancel::default())
    }

    /// Changes it, or has the keeper do it that holds it.
    pub(crate) fn change_call(&self, change: Change, cancel: Cancel) -> Call<()> {
        let branch = self.clone();
        engine::call_unless(cancel, move |op| async move {
            let home = Engine::get()?.home(&branch.0.project.config).await?;
            #[cfg(target_os = "linux")]
            if let Some(held) = &branch.0.held
                && held.holds(&branch.current(&home).await?)
            {
                let (record, timings) = held.change(change, &op.cancel).await?;
                branch.became(record, timings);
                return Ok(());
            }
            let record = match change {
                Change::Reset(target) => {
                    let project = &branch.0.project.record;
                    let record = branch.current(&home).await?;
                    let source = reset::source(&home, project, &record, target).await?;
                    reset::reset(&home, project, &record, &source, &op).await?
                }
                Change::Switch(to) => branch.switched(&home, to, &op).await?,
            };
            branch.renewed(record, &op);
            Ok(())
        })
    }

    async fn switched(&self, home: &Home, to: To, op: &Op) -> Result<BranchRecord> {
        let (id, shown) = (self.id(), &format!("the branch {}", self.full_name()));
        let switch = Switch { home, project: &self.0.project.record, op };
        // Locked anew for each look for a slot: one who is ahead in the line may be about to clone it.
        slots::taken(home, op, Some(id), |asker| async move {
            let _lock = home.lock(id, Mode::Exclusive, shown, &op.cancel).await?;
            match to {
                To::On => switch.on(id, asker).await,
                To::Off => switch.off(id).await.map(Turn::Now),
                To::OffAndOn => switch.off_and_on(id, asker).await,
            }
        })
        .await
    }
}
