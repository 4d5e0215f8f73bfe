//! The branches of failed tests, which stay for a while to be looked at.

use std::collections::VecDeque;
use std::time::Duration;

use super::Branch;
use crate::error::{ErrorKind, Result};
use crate::project::Project;
#[cfg(target_os = "linux")]
use crate::run::begun;

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
        let project = self.project();
        let label = self.record().label.unwrap_or_default();
        let begun = begun();
        let (mut kept, mut before) = (0, VecDeque::new());
        for other in project.branches().await? {
            let name = other.name.unwrap_or_default();
            let Some((of, _)) = name.strip_prefix("kept/").and_then(|name| name.rsplit_once('-'))
            else {
                continue;
            };
            let may_go = other.expires_at.is_some() && !other.protected && other.created_at < begun;
            if may_go && of == label && project.goes(&name).await? {
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
        self.keep_for(time).await?;
        Ok(true)
    }
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
