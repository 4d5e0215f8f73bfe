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
        let known = match home {
            Some(home) => crate::strays::volumes(home).await?,
            None => Default::default(),
        };
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
        let strays = match home {
            Some(home) => crate::strays::of_nobody(home, known, containers).await?,
            None => containers,
        };
        let strays = strays.into_iter().filter(|container| container.volume.is_some());
        let (own, others): (Vec<_>, Vec<_>) =
            strays.partition(|container| home.is_some() && container.of_this_home);
        let names = |all: Vec<docker::Found>, between: &str| {
            let names: Vec<_> = all.into_iter().map(|container| container.name).collect();
            names.join(between)
        };
        if !own.is_empty() {
            found.push(Finding::warn(
                "docker",
                format!("containers that no record names: {}", names(own, ", ")),
                "velo doctor --fix stops those that run; velo gc --unrecorded removes the rest",
            ));
        }
        if !others.is_empty() {
            let shown = names(others, " ");
            found.push(Finding::warn(
                "docker",
                format!("containers of another home that has this path, or had it: {shown}"),
                format!(
                    "if that home is nowhere any more (in no other container or mount namespace): {} rm -f -v {shown}",
                    engine.program
                ),
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
