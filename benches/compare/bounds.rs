//! What ends work that does not end by itself.

use std::future::Future;
use std::time::Duration;

use velo_benches::Result;

/// What one step may take: a branch, or some of them. Far more than any takes that works.
pub(crate) const STEP: Duration = Duration::from_secs(600);

/// What may take long: to load gigabytes, or to make and delete a hundred branches.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// What comes of work, or an error once it has taken too long.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(format!("given up after {} s", limit.as_secs()).into()),
    }
}
