//! The containers of a home, for who cleans up and who looks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters as query;

use super::connect::{Engine, Reached};
use super::errors::{Refusal, failed, refusal};
use super::{container, end, plain, remove, tool};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::StopMode;
use crate::storage::Location;

/// A container of this installation's.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// The volume that a server runs on; `None` is a tool's container.
    pub(crate) volume: Option<PathBuf>,
    /// Whether it is a tool's container, and whoever runs it is there no more.
    pub(crate) forsaken: bool,
    pub(crate) runs: bool,
    /// Whether it was made for the home that is there now, and not for another one of its path: one that was deleted
    /// since, or that somebody else sees there.
    pub(crate) of_this_home: bool,
}

/// The containers that belong to `home`; with `all` those too that do not run.
pub(super) async fn containers(engine: &Engine, home: &Path, all: bool) -> Result<Vec<Found>> {
    let found = plain::list(&engine.socket, all).await?;
    let folder = container::folder(home);
    let found = found.into_iter().filter_map(|summary| {
        let labels = summary.labels.unwrap_or_default();
        let label = |name: &str| labels.get(name).filter(|value| !value.is_empty());
        if label(container::HOME).is_none_or(|of| Path::new(of) != home) {
            return None;
        }
        // One that the engine could not remove has lost its name.
        let name = summary.names.and_then(|names| names.into_iter().next());
        let name = name.map(|name| name.trim_start_matches('/').to_owned());
        let name = name.filter(|name| !name.is_empty());
        let volume = label(container::VOLUME).map(PathBuf::from);
        if let (Some(name), Some(volume)) = (&name, &volume)
            && *name != container::name(&Location::HostPath(volume.clone()))
            && !mounts(&summary.mounts, volume)
        {
            // Somebody's own, of an image that was made of a server: it has the labels of that.
            return None;
        }
        let name = name.unwrap_or(summary.id);
        let made = u64::try_from(summary.created.unwrap_or_default()).unwrap_or_default();
        let made = Duration::from_secs(made);
        Some(Found {
            volume,
            forsaken: label(container::TOOL_LABEL).is_some() && !tool::is_held(home, &name, made),
            runs: matches!(summary.state.as_deref(), Some("running" | "restarting" | "paused")),
            of_this_home: folder.is_some() && label(container::FOLDER) == folder.as_ref(),
            name,
        })
    });
    Ok(found.collect())
}

/// Whether the folder of a volume is seen in a container. Engines list it in ways of their own.
fn mounts(listed: &serde_json::Value, volume: &Path) -> bool {
    match listed {
        serde_json::Value::String(text) => Path::new(text) == volume,
        serde_json::Value::Array(all) => all.iter().any(|one| mounts(one, volume)),
        serde_json::Value::Object(all) => all.values().any(|one| mounts(one, volume)),
        _ => false,
    }
}

/// Whether there is an engine that answers.
pub(crate) async fn answers() -> bool {
    Engine::connect().await.is_ok()
}

/// Ends the server in a container that no record names, and removes the container.
pub(crate) async fn end_unrecorded(name: &str) -> Result<()> {
    let work = async {
        let engine = Engine::connect().await?;
        end(&engine, name, StopMode::Fast).await.map(drop)
    };
    crate::effect::step("stop an unrecorded container", work).await
}

/// Removes a container that does not run.
pub(crate) async fn remove_idle(name: &str) -> Result<()> {
    let work = async {
        let engine = Engine::connect().await?;
        let options = query::RemoveContainerOptionsBuilder::new().force(false).v(true).build();
        let Err(error) = engine.api.remove_container(name, Some(options)).await else {
            return Ok(());
        };
        match refusal(&error) {
            Some(Refusal::Missing) => Ok(()),
            Some(Refusal::Conflict) => {
                Err(Error::new(ErrorKind::Conflict, format!("the container {name} runs"))
                    .with_hint("velo doctor --fix stops it"))
            }
            _ => Err(failed(format!("remove the container {name}"), error)),
        }
    };
    crate::effect::step("remove an unrecorded container", work).await
}

/// The engine, and what containers of `home` there are, running or not. For `doctor`.
pub(crate) async fn look(home: &Path) -> Result<(Reached, Vec<Found>)> {
    let engine = Engine::connect().await?;
    let found = containers(&engine, home, true).await?;
    Ok((engine.reached(), found))
}

/// Removes a container if it is one of `home`'s. Whether there was one.
pub(super) async fn remove_own(engine: &Engine, home: &Path, name: &str) -> Result<bool> {
    let Some(found) = plain::inspect(&engine.socket, name).await? else { return Ok(false) };
    let labels = found.config.labels.unwrap_or_default();
    if labels.get(container::HOME).is_some_and(|of| Path::new(of) == home) {
        remove(engine, name).await?;
    }
    Ok(true)
}
