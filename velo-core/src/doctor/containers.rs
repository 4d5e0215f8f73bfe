//! The container engine, where one is used or could be, and what is in it.

use super::Finding;
use crate::config::Config;
use crate::home::Home;

/// Nothing, where containers are not part of the build.
#[cfg(not(all(feature = "docker", unix)))]
pub(super) async fn look(_: &Config, _: Option<&Home>) -> Vec<Finding> {
    Vec::new()
}

/// Without a home only the engine and the image are looked at.
#[cfg(all(feature = "docker", unix))]
pub(super) async fn look(config: &Config, home: Option<&Home>) -> Vec<Finding> {
    engine::look(config, home).await.unwrap_or_else(|error| vec![Finding::error("docker", &error)])
}

#[cfg(all(feature = "docker", unix))]
mod engine {
    use std::collections::HashSet;
    use std::path::PathBuf;

    use super::{Config, Finding, Home};
    use crate::error::Result;
    use crate::record::{ProjectRecord, VolumeRecord};
    use crate::runtime::RuntimeKind::Docker;
    use crate::runtime::docker;
    use crate::storage::Object;

    pub(super) async fn look(config: &Config, home: Option<&Home>) -> Result<Vec<Finding>> {
        let chosen = config.chosen_runtime() == Docker;
        let (engine, containers) = match docker::look(config.home()).await {
            Ok(found) => found,
            // A machine without an engine is as good as any, as long as nobody wants one.
            Err(_) if !chosen && !is_used(home).await? => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let what = format!("{} at {}", engine.name, engine.socket.display());
        let mut found = vec![Finding::ok("docker", what)];
        if chosen {
            found.push(match crate::postgres::image::find(config).await {
                Ok(postgres) => Finding::ok(
                    "image",
                    format!("PostgreSQL {} in {}", postgres.version, postgres.place()),
                ),
                Err(error) => Finding::error("image", &error),
            });
        }
        // Read after the containers, so that what was made meanwhile is known.
        let known = volumes(home).await?;
        let strays: Vec<String> = containers
            .into_iter()
            .filter(|container| match &container.volume {
                Some(volume) => !known.contains(volume),
                None => container.forsaken,
            })
            .map(|container| container.name)
            .collect();
        if !strays.is_empty() {
            found.push(Finding::warn(
                "docker",
                format!("containers that are nobody's: {}", strays.join(", ")),
                format!("{} rm -f -v {}", engine.program, strays.join(" ")),
            ));
        }
        Ok(found)
    }

    /// Whether servers of a project are containers.
    async fn is_used(home: Option<&Home>) -> Result<bool> {
        let Some(home) = home else { return Ok(false) };
        let projects = home.state().read(|tx| tx.list::<ProjectRecord>("")).await?;
        Ok(projects.iter().any(|project| project.runtime == Docker))
    }

    /// Where every volume is that a record names.
    async fn volumes(home: Option<&Home>) -> Result<HashSet<PathBuf>> {
        let Some(home) = home else { return Ok(HashSet::new()) };
        let recorded = home
            .state()
            .read(|tx| {
                let mut known = Vec::new();
                for project in tx.list::<ProjectRecord>("")? {
                    let volumes = tx.list::<VolumeRecord>(&project.id.to_string())?;
                    known.extend(volumes.into_iter().map(|volume| (project.storage, volume.id)));
                }
                Ok(known)
            })
            .await?;
        let place = |(storage, id)| {
            let location = home.storage(storage)?.location(Object::Volume(id));
            Ok(location.host_path().to_path_buf())
        };
        recorded.into_iter().map(place).collect()
    }
}
