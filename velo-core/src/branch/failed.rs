//! The branches of failed tests, which stay for a while to be looked at.

use std::time::Duration;

use super::Branch;
use crate::error::Result;

/// How many of them a project keeps at once: each has a server.
pub(crate) const FAILED_KEPT: usize = 10;

impl Branch {
    /// Has the branch of a failed test stay for `time`, unless as many do as may. One of the same test's from before goes
    /// for it. Whether it stays.
    #[doc(hidden)]
    pub async fn keep_failed(&self, time: Duration) -> Result<bool> {
        let project = self.project();
        let label = self.record().label.unwrap_or_default();
        let mut others = 0;
        for other in project.branches().await? {
            let Some(name) = other.name.as_deref().and_then(|name| name.strip_prefix("kept/"))
            else {
                continue;
            };
            match name.rsplit_once('-') {
                Some((of, _)) if of == label && other.expires_at.is_some() => {
                    project.branch(format!("kept/{name}")).await?.delete(true).await?;
                }
                _ => others += 1,
            }
        }
        if others < FAILED_KEPT {
            self.keep_for(time).await?;
        }
        Ok(others < FAILED_KEPT)
    }
}
