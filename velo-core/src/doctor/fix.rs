//! Setting right what `doctor` names, as far as that takes no decision: no data that anybody could
//! want is given up.

use serde::Serialize;

use super::Finding;
use crate::branch::{self, Branch, Settled};
use crate::care::Deed;
use crate::config::Config;
use crate::engine::{self, Engine, Op};
use crate::error::Result;
use crate::gc;
use crate::home::Home;
use crate::reconcile;
use crate::strays::{self, Looks};

/// What was set right, and what is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fixed {
    /// What was done, or could not be.
    pub deeds: Vec<Deed>,
    /// What a look around finds now.
    pub findings: Vec<Finding>,
}

/// Sets right each difference between records, storage, runtime and processes: does what
/// [`gc`](crate::gc) does (but removes nothing that no record names), starts servers that ought to run,
/// brings half-done starts to their end, stops servers that ought not to run or that no record names,
/// and removes what they left. Then it looks at everything, as [`examine`](super::examine) does.
///
/// # Errors
/// If the home cannot be opened. What failed for one thing is in its [`Deed`].
pub fn fix(config: &Config) -> Result<Fixed> {
    let owned = config.clone();
    engine::call(move |op| async move {
        let deeds = match Engine::get()?.home_as_it_is(&owned).await? {
            Some(home) => set_right(&home, &owned, &op).await?,
            None => Vec::new(),
        };
        Ok(Fixed { deeds, findings: super::look(&owned).await })
    })
    .wait()
}

async fn set_right(home: &std::sync::Arc<Home>, config: &Config, op: &Op) -> Result<Vec<Deed>> {
    home.make_way().await;
    let mut deeds = {
        let _one = reconcile::alone(home, &op.cancel).await?;
        gc::recorded(home).await?
    };
    // First of all servers: one of these may hold another one's port.
    let mut looks = Looks::default();
    let found = strays::objects(home).await?;
    for error in &found.unseen {
        // It is a finding of its own.
        tracing::warn!(%error, "servers on what no record names there are not looked for");
    }
    for stray in found.strays {
        let deed = Deed::new("stopped", "server", stray.name(), "no record names its data");
        match looks.is_served(home, &stray).await {
            Ok(false) => {}
            Ok(true) => deeds.push(deed.came_to(&stray.stop(home).await)),
            Err(error) => deeds.push(deed.came_to(&Err(error))),
        }
    }
    deeds.extend(containers(home).await?);
    // A reset that may be over has its server on the data that is whole.
    for left in reconcile::lost(home).await? {
        if !left.keeps_data() && !left.is_reset() {
            deeds.extend(left.stop(home).await?);
        }
    }
    let branches = branch::persistent(home, config).await?;
    let settled = branch::each(branches, home, op, |branch, home, op| async move {
        settle(&branch, &home, &op).await
    });
    deeds.extend(settled.await.into_iter().flatten());
    Ok(deeds)
}

#[cfg(not(all(feature = "docker", unix)))]
async fn containers(_: &Home) -> Result<Vec<Deed>> {
    Ok(Vec::new())
}

/// Ends servers of this home whose data is gone as well: nobody but their engine knows them.
#[cfg(all(feature = "docker", unix))]
async fn containers(home: &Home) -> Result<Vec<Deed>> {
    use crate::runtime::RuntimeKind;
    let found = strays::containers(home);
    let found =
        match crate::boot::in_time(RuntimeKind::Docker, crate::boot::end_of_look(), found).await {
            Ok(found) => found,
            // What is wrong with the engine is a finding of its own.
            Err(error) => {
                tracing::warn!(%error, "containers that no record names are not looked for");
                return Ok(Vec::new());
            }
        };
    let mut deeds = Vec::new();
    for container in found.into_iter().filter(|found| found.runs && found.of_this_home) {
        let ended = end(home, &container).await;
        let deed = Deed::new("stopped", "server", container.name, "no record names its container");
        deeds.push(deed.came_to(&ended));
    }
    Ok(deeds)
}

#[cfg(all(feature = "docker", unix))]
async fn end(home: &Home, container: &crate::runtime::docker::Found) -> Result<()> {
    if let Some(volume) = &container.volume {
        let runtime = home.runtime(crate::runtime::RuntimeKind::Docker)?;
        strays::refuse_loss(&*runtime, &crate::storage::Location::HostPath(volume.clone()))?;
    }
    crate::runtime::docker::end_unrecorded(&container.name).await
}

async fn settle(branch: &Branch, home: &Home, op: &Op) -> Option<Deed> {
    let name = branch.full_name();
    let of = |deed, why| Deed::new(deed, "server", name.clone(), why);
    match branch.settle(home, op).await {
        Ok(None) => None,
        Ok(Some(settled)) => Some(match settled {
            Settled::Started => of("started", "it ought to run"),
            Settled::Opened => of("opened", "it let no client in"),
            Settled::Restarted => of("restarted", "its socket was gone"),
            Settled::Stopped => of("stopped", "it was stopped, and ran"),
            Settled::Cleared => Deed::removed("socket", name, "its server does not run"),
        }),
        Err(error) => {
            let deed = match branch.ought_to_run() {
                true => of("started", "it ought to run"),
                false => of("stopped", "it ought not to run"),
            };
            Some(deed.came_to(&Err(error)))
        }
    }
}
