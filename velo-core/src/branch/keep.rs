//! How an ephemeral branch comes to stay.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Branch;
use super::failed::{self, FAILED_KEPT};
use super::lifetime::{check_ttl, from_now};
use crate::engine::{Call, Op};
use crate::error::Result;
use crate::home::Home;
use crate::id::BranchName;
use crate::lookup::vacant;
use crate::record::{BranchRecord, ProjectRecord};
use crate::slots;
use crate::state::Tx;
use crate::storage::Object;
use crate::switch::Switch;

/// How it comes to stay.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Keep {
    pub(crate) name: Option<String>,
    /// How long; without end unless told.
    pub(crate) ttl: Option<Duration>,
    /// It is a failed test's: where as many of those stay as may, it is left as it is.
    pub(crate) failed: bool,
}

impl Branch {
    /// Makes an ephemeral branch persistent, under a name made from its label and id. Its server
    /// is restarted with full durability.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`](crate::ErrorKind::Exhausted) if a lasting branch's server may not be given so
    /// much memory; or if the restart fails.
    pub async fn keep(&self) -> Result<()> {
        self.keep_call(None, None).await
    }

    /// Makes an ephemeral branch persistent, under the name `name`.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) if the name is taken;
    /// [`ErrorKind::Exhausted`](crate::ErrorKind::Exhausted) if a lasting branch's server may not be given so
    /// much memory.
    pub async fn keep_as(&self, name: impl Into<String>) -> Result<()> {
        self.keep_call(Some(name.into()), None).await
    }

    /// As [`keep`](Branch::keep), and it goes when `time` is over, counted from now: see
    /// [`BranchSpec::ttl`](crate::BranchSpec::ttl).
    ///
    /// # Errors
    /// As there, and [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a time of nothing.
    pub async fn keep_for(&self, time: Duration) -> Result<()> {
        self.keep_call(None, Some(time)).await
    }

    pub(crate) fn keep_call(&self, name: Option<String>, ttl: Option<Duration>) -> Call<()> {
        self.keep_by(Keep { name, ttl, failed: false })
    }

    pub(crate) fn keep_by(&self, how: Keep) -> Call<()> {
        #[cfg(target_os = "linux")]
        if let Some(held) = self.0.held.clone().filter(|_| self.0.pid == std::process::id()) {
            return self.call(move |branch, home, _| async move {
                if branch.current(&home).await?.ephemeral {
                    branch.remember(held.keep(how).await?);
                }
                Ok(())
            });
        }
        self.change(move |branch, home, _, _lock| async move {
            let Keep { name, ttl, failed } = how;
            if let Some(time) = ttl {
                check_ttl(false, time)?;
            }
            // As it was labelled when it was handed over, which may not be written yet.
            let label = branch.record().label;
            let record = branch.current(&home).await?;
            if !record.ephemeral {
                return Ok(());
            }
            record.must_be_own(home.lease()?)?;
            let project = &branch.0.project.record;
            let id = record.id.to_string().to_lowercase();
            let label = label.as_deref().unwrap_or("branch");
            let name = name.unwrap_or_else(|| format!("kept/{label}-{}", &id[id.len() - 8..]));
            let name = BranchName::new(name)?;
            let kept = BranchRecord { ephemeral: false, name: Some(name), ..record.clone() };
            let (owned, here, after) = (project.clone(), home.clone(), kept.clone());
            let may = move |tx: &Tx<'_>| may_be_kept(&here, tx, &owned, &after, failed);
            if !home.state().read(may).await? {
                return Ok(());
            }
            // A running server's lifeline cannot be changed from outside: it is stopped, cleanly,
            // and started anew without one.
            let through = Op::default();
            let switch = Switch { home: &home, project, op: &through };
            switch.nothing_is_lost(record.id).await?;
            switch.down(&record).await?;
            let kept = branch.record_as_kept(&home, kept, ttl, failed).await;
            // An error may come after it was recorded: what is recorded counts, or a branch that is
            // persistent would have a server that ends with this process.
            let now = branch.current(&home).await.unwrap_or(record);
            branch.0.discard.store(now.ephemeral, Ordering::Release);
            // Should it not come up, whoever opens the home next tries once more.
            switch.up(&now).await?;
            branch.renewed(switch.done(now.id, true).await?, &through);
            kept
        })
    }

    /// The commit point of a `keep`: it has a name, and is this process's only until its server runs. Others may have
    /// been faster, so that it may not stay any more.
    async fn record_as_kept(
        &self,
        home: &Home,
        kept: BranchRecord,
        ttl: Option<Duration>,
        failed: bool,
    ) -> Result<()> {
        let project = self.0.project.record.clone();
        home.storage(project.storage)?.sync(Object::Volume(kept.volume)).await?;
        let here = home.clone();
        home.state()
            .write_durable("record a branch as kept", move |tx| {
                if !may_be_kept(&here, tx, &project, &kept, failed)? {
                    return Ok(());
                }
                tx.update(kept.id, |branch: &mut BranchRecord| {
                    branch.ephemeral = false;
                    branch.name = kept.name;
                    branch.expires = ttl.map(from_now);
                    Ok(())
                })
                .map(drop)
            })
            .await
    }
}

/// Whether an ephemeral branch may be this one, which lasts; an error where there is no room for it.
fn may_be_kept(
    home: &Home,
    tx: &Tx<'_>,
    project: &ProjectRecord,
    kept: &BranchRecord,
    failed: bool,
) -> Result<bool> {
    if failed && failed::count(tx, project)? >= FAILED_KEPT {
        return Ok(false);
    }
    if let Some(name) = &kept.name {
        vacant(tx, project, name)?;
    }
    slots::may_become(home, tx, project, kept).map(|()| true)
}
