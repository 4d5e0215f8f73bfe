//! A server's container that an engine goes on making when whoever asked for it is dead.
//!
//! The request is under way, and no name leads to the container yet: who undoes the record finds
//! nothing, and the container would appear afterwards, of nobody. So it is asked for under a
//! [lease](Lease) of its own, which is also its label. Whoever opens the home next finds the dead lease,
//! and looks for what bears it. Once the engine has answered the name leads to it, and the lease ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connect::Engine;
use super::tool::age;
use super::{container, plain};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::lease::{self, Dead, Lease};

/// How long an opening of the home waits for a container that was asked for just now.
const WAIT: Duration = Duration::from_secs(2);

/// How long after it was asked for it may still appear; so long every opening looks.
const LATE: Duration = Duration::from_secs(60);

fn leases(home: &Path) -> PathBuf {
    container::files(home).join("servers")
}

/// Held while an engine is asked for a container.
pub(super) async fn begin(home: &Path) -> Result<Lease> {
    let dir = leases(home);
    crate::engine::blocking(move || {
        std::fs::create_dir_all(&dir)
            .map_err(|e| Error::io(format!("make {}", dir.display()), e))?;
        Lease::take(&dir)
    })
    .await
}

/// The engine has answered.
pub(super) fn end(home: &Path, making: Lease) -> Result<()> {
    making.end(&leases(home))
}

/// Removes the containers that were asked for by the dead and never started. An engine is asked only
/// where there is one to look for.
pub(crate) async fn sweep(home: &Path) -> Result<()> {
    let dir = leases(home);
    if !dir.is_dir() {
        return Ok(());
    }
    let mut engine = None;
    for id in lease::all(&dir)? {
        let Some(dead) = Dead::claim(&dir, id)? else { continue };
        let engine = match &engine {
            Some(engine) => engine,
            None => engine.insert(Engine::connect().await?),
        };
        let asked = Duration::from_millis(id.made_at());
        let mut found = remove(engine, home, id).await?;
        while !found && age(asked) < WAIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
            found = remove(engine, home, id).await?;
        }
        if found || age(asked) > LATE {
            dead.bury()?;
        }
    }
    Ok(())
}

/// Removes the container under a lease, unless it runs: then somebody has found and started it. Whether
/// there was one.
async fn remove(engine: &Engine, home: &Path, lease: Id) -> Result<bool> {
    let lease = lease.to_string();
    for found in plain::list(&engine.socket, true).await? {
        let labels = found.labels.unwrap_or_default();
        let own = labels.get(container::HOME).is_some_and(|of| Path::new(of) == home);
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
