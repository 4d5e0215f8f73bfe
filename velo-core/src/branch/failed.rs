//! The branches of failed tests, which stay for a while to be looked at.

use std::collections::VecDeque;
use std::time::Duration;

use super::Branch;
use super::keep::Keep;
use crate::error::{ErrorKind, Result};
use crate::project::Project;
use crate::record::{BranchRecord, Phase, ProjectRecord};
#[cfg(target_os = "linux")]
use crate::run::begun;
use crate::state::Tx;

/// Where nobody can tell when a run began, none is from before it.
#[cfg(not(target_os = "linux"))]
fn begun() -> u64 {
    0
}

/// How many of them a project keeps at once: each has a server.
pub(crate) const FAILED_KEPT: usize = 10;

impl Branch {
    /// Has the branch of a failed test stay for `time`. Those of earlier runs go for it: the same test's, and where there
    /// are as many as may be, the oldest; but none that somebody has made branches or snapshots of. Whether it stays.
    #[doc(hidden)]
    pub async fn keep_failed(&self, time: Duration) -> Result<bool> {
        // Whenever others that fail at the same time took the last place, some more of them stay.
        for _ in 0..=FAILED_KEPT {
            if !self.has_a_place().await? {
                break;
            }
            self.keep_by(Keep { name: None, ttl: Some(time), failed: true }).await?;
            if !self.is_ephemeral() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether fewer stay than may. Those of earlier runs go for that.
    async fn has_a_place(&self) -> Result<bool> {
        let project = self.project();
        let own = self.record().label.unwrap_or_default();
        let begun = begun();
        let (mut kept, mut before) = (0, VecDeque::new());
        for other in project.branches().await? {
            let name = other.name.unwrap_or_default();
            let Some(of) = label(&name) else { continue };
            let may_go = other.expires_at.is_some() && !other.protected && other.created_at < begun;
            if may_go && of == own && project.goes(&name).await? {
                continue;
            }
            kept += 1;
            if may_go {
                before.push_back(name);
            }
        }
        while kept >= FAILED_KEPT {
            let Some(oldest) = before.pop_front() else { return Ok(false) };
            kept -= usize::from(project.goes(&oldest).await?);
        }
        Ok(true)
    }
}

/// The label that is in the name of a branch which was kept without one.
fn label(name: &str) -> Option<&str> {
    name.strip_prefix("kept/")?.rsplit_once('-').map(|(label, _)| label)
}

/// How many of them a project keeps.
pub(super) fn count(tx: &Tx<'_>, project: &ProjectRecord) -> Result<usize> {
    let all = tx.list::<BranchRecord>(&project.id.to_string())?;
    let stays = |branch: &&BranchRecord| {
        let name = branch.name.as_ref().and_then(|name| label(name.as_str()));
        name.is_some() && branch.phase != Phase::Deleting
    };
    Ok(all.iter().filter(stays).count())
}

impl Project {
    /// Deletes a branch that has nothing below it. Whether it is gone.
    async fn goes(&self, name: &str) -> Result<bool> {
        let deleted = match self.branch(name).await {
            Ok(branch) => branch.delete(false).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => Ok(true),
            // Somebody else was first.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }
}
