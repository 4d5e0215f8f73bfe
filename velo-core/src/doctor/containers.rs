//! The container engine, where one is used or could be, and what is in it.

use super::Finding;
use crate::home::Home;

/// Nothing, where containers are not part of the build.
#[cfg(not(all(feature = "docker", unix)))]
pub(super) async fn look(_: &Home) -> Vec<Finding> {
    Vec::new()
}

#[cfg(all(feature = "docker", unix))]
pub(super) async fn look(home: &Home) -> Vec<Finding> {
    match needed(home).await {
        Ok(needed) => used(home, needed).await.unwrap_or_else(|e| vec![Finding::error(NAME, &e)]),
        Err(error) => vec![Finding::error(NAME, &error)],
    }
}

#[cfg(all(feature = "docker", unix))]
const NAME: &str = "docker";

/// Whether a project's servers, or those of the next, are containers.
#[cfg(all(feature = "docker", unix))]
async fn needed(home: &Home) -> crate::error::Result<bool> {
    use crate::record::ProjectRecord;
    use crate::runtime::RuntimeKind::Docker;
    let projects = home.state().read(|tx| tx.list::<ProjectRecord>("")).await?;
    let used = projects.iter().any(|project| project.runtime == Docker);
    Ok(used || home.config.chosen_runtime() == Docker)
}

#[cfg(all(feature = "docker", unix))]
async fn used(home: &Home, needed: bool) -> crate::error::Result<Vec<Finding>> {
    use crate::record::{ProjectRecord, VolumeRecord};
    use crate::runtime::{RuntimeKind, docker};
    let (engine, containers) = match docker::look(home.config.home()).await {
        Ok(found) => found,
        // A machine without an engine is as good as any, as long as nobody wants one.
        Err(_) if !needed => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found =
        vec![Finding::ok(NAME, format!("{} at {}", engine.name, engine.socket.display()))];
    if home.config.chosen_runtime() == RuntimeKind::Docker {
        match crate::postgres::image::find(&home.config).await {
            Ok(postgres) => found.push(Finding::ok(
                "image",
                format!("PostgreSQL {} in {}", postgres.version, postgres.place()),
            )),
            Err(error) => found.push(Finding::error("image", &error)),
        }
    }
    // Read after the containers, so that what was made meanwhile is known.
    let known = home
        .state()
        .read(|tx| {
            let mut known = Vec::new();
            for project in tx.list::<ProjectRecord>("")? {
                known.extend(tx.list::<VolumeRecord>(&project.id.to_string())?);
            }
            Ok(known)
        })
        .await?;
    let strays: Vec<String> = containers
        .into_iter()
        .filter(|container| {
            let volume = container.volume.as_ref().and_then(|path| path.file_name()?.to_str());
            // One without is a tool's, which another process may be running.
            volume.is_some_and(|id| !known.iter().any(|volume| volume.id.to_string() == id))
        })
        .map(|container| container.name)
        .collect();
    if !strays.is_empty() {
        found.push(Finding::warn(
            NAME,
            format!("containers that no record names: {}", strays.join(", ")),
            format!("docker rm -f -v {}", strays.join(" ")),
        ));
    }
    Ok(found)
}
