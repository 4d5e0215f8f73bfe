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
    use super::{Config, Finding, Home};
    use crate::boot;
    use crate::error::Result;
    use crate::runtime::RuntimeKind::Docker;
    use crate::runtime::docker;

    pub(super) async fn look(config: &Config, home: Option<&Home>) -> Result<Vec<Finding>> {
        let chosen = config.chosen_runtime() == Docker;
        let there = boot::in_time(Docker, boot::end_of_look(), docker::look(config.home()));
        let (engine, containers) = match there.await {
            Ok(found) => found,
            // A machine without an engine is as good as any, as long as nobody wants one.
            Err(_) if !chosen && !is_used(home).await? => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let what = format!("{} at {}", engine.name, engine.socket.display());
        let mut found = vec![Finding::ok("docker", what)];
        if chosen {
            let image = crate::postgres::image::find(config);
            found.push(match boot::in_time(Docker, boot::end_of_look(), image).await {
                Ok(postgres) => Finding::ok(
                    "image",
                    format!("PostgreSQL {} in {}", postgres.version, postgres.place()),
                ),
                Err(error) => Finding::error("image", &error),
            });
        }
        let forsaken: Vec<String> = containers
            .iter()
            .filter(|container| container.volume.is_none() && container.forsaken)
            .map(|container| container.name.clone())
            .collect();
        if !forsaken.is_empty() {
            found.push(Finding::warn(
                "docker",
                format!("one-off containers that are nobody's: {}", forsaken.join(", ")),
                format!("{} rm -f -v {}", engine.program, forsaken.join(" ")),
            ));
        }
        let without_home = home.is_none();
        let strays: Vec<String> = match home {
            Some(home) => crate::strays::of_nobody(home, containers).await?,
            None => containers,
        }
        .into_iter()
        .filter(|container| container.volume.is_some())
        .map(|container| container.name)
        .collect();
        if !strays.is_empty() {
            found.push(Finding::warn(
                "docker",
                format!("containers that no record names: {}", strays.join(", ")),
                match without_home {
                    true => format!("{} rm -f -v {}", engine.program, strays.join(" ")),
                    false => "velo doctor --fix stops those that run; velo gc --unrecorded removes the rest"
                        .to_owned(),
                },
            ));
        }
        Ok(found)
    }

    /// Whether servers of a project are containers.
    async fn is_used(home: Option<&Home>) -> Result<bool> {
        match home {
            Some(home) => crate::strays::uses_containers(home).await,
            None => Ok(false),
        }
    }
}
