//! A server's container that an engine goes on making when whoever asked for it is dead.
//!
//! The request is under way, and no name leads to the container yet: who undoes the record finds
//! nothing, and the container would appear afterwards, of nobody. So it is asked for under a
//! [lease](Lease) of its own, which is also its label. Whoever opens the home next finds the dead lease,
//! and looks for what bears it. Once the engine has answered the name leads to it, and the lease ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::connect::Engine;
use super::leases::{self, Leased};
use super::{container, plain};
use crate::error::Result;
use crate::id::Id;
use crate::lease::Lease;

/// How long after it was asked for it may still appear; so long every opening looks.
const LATE: Duration = Duration::from_secs(60);

fn folder(home: &Path) -> PathBuf {
    container::files(home).join("servers")
}

/// Held while an engine is asked for a container.
pub(super) async fn begin(home: &Path) -> Result<Lease> {
    leases::take(folder(home)).await
}

/// The engine has answered.
pub(super) fn end(home: &Path, making: Lease) -> Result<()> {
    making.end(&folder(home))
}

/// Removes the containers that were asked for by the dead and never started.
pub(crate) async fn sweep(home: &Path) -> Result<()> {
    leases::sweep(&folder(home), LATE, Servers(home)).await
}

/// The servers of a home that were asked for.
struct Servers<'a>(&'a Path);

#[async_trait]
impl Leased for Servers<'_> {
    /// Unless it runs: then somebody has found and started it.
    async fn remove(&self, engine: &Engine, lease: Id) -> Result<bool> {
        let lease = lease.to_string();
        for found in plain::list(&engine.socket, true).await? {
            let labels = found.labels.unwrap_or_default();
            let own = labels.get(container::HOME).is_some_and(|of| Path::new(of) == self.0);
            if !own || labels.get(container::LEASE) != Some(&lease) {
                continue;
            }
            // Not by its name, which another one may have by now.
            let there = plain::inspect(&engine.socket, &found.id).await?;
            if there.is_some_and(|there| !super::runs(&there.state)) {
                super::remove(engine, &found.id).await?;
            }
            return Ok(true);
        }
        Ok(false)
    }
}
