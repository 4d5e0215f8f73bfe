//! Leases of containers, one each: an engine goes on making what it was asked for by somebody who is dead,
//! and may be done only when the record of it is undone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use super::connect::Engine;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::lease::{self, Dead, Lease};

/// How long an opening of the home waits for a container that was asked for just now.
const WAIT: Duration = Duration::from_secs(2);

/// A lease in the folder `dir`, which is made.
pub(super) async fn take(dir: PathBuf) -> Result<Lease> {
    crate::engine::blocking(move || {
        std::fs::create_dir_all(&dir)
            .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        Lease::take(&dir)
    })
    .await
}

/// How long ago a time since 1970 was; for ever, if it is not over.
pub(super) fn age(time: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(time).unwrap_or(Duration::MAX)
}

/// What is under such leases.
#[async_trait]
pub(super) trait Leased: Sync {
    /// Removes the container under a lease. Whether there was one.
    async fn remove(&self, engine: &Engine, lease: Id) -> Result<bool>;
}

/// Removes the containers under dead leases in `dir`. A lease whose container was not there is kept until
/// it is older than `late`. An engine is asked only where there is a dead lease.
pub(super) async fn sweep(dir: &Path, late: Duration, leased: impl Leased) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut engine = None;
    for id in lease::all(dir)? {
        let Some(dead) = Dead::claim(dir, id)? else { continue };
        let engine = match &engine {
            Some(engine) => engine,
            None => engine.insert(Engine::connect().await?),
        };
        let asked = Duration::from_millis(id.made_at());
        let mut found = leased.remove(engine, id).await?;
        while !found && age(asked) < WAIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
            found = leased.remove(engine, id).await?;
        }
        if found || age(asked) > late {
            dead.bury()?;
        }
    }
    Ok(())
}
