//! What an engine has of a volume's container, and whose it is.

use std::path::Path;
use std::time::Duration;

use super::ENDING;
use super::connect::Engine;
use super::container;
use super::plain::{self, State};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Location;

/// The label by which Compose knows its own.
const COMPOSE: &str = "com.docker.compose.project";

/// What the engine has of the name of a volume's container.
pub(super) enum Seen {
    Nothing,
    Own(State),
    /// The container of this other folder: volumes of a home and of its copy have the same names, and
    /// one of them must not act on the other's servers.
    Anothers(String),
    /// One that Velo never made, and what is known of it.
    Foreign(String),
}

pub(super) async fn see(engine: &Engine, volume: &Location) -> Result<Seen> {
    let found = plain::inspect(&engine.socket, &container::name(volume)).await?;
    Ok(match found {
        None => Seen::Nothing,
        Some(found) => match (foreigner(&found), works_on(&found, volume)) {
            (Some(whose), _) => Seen::Foreign(whose),
            (None, Some(path)) => Seen::Anothers(path),
            (None, None) => Seen::Own(found.state),
        },
    })
}

/// What is known of a container that Velo never made: one without its labels.
pub(super) fn foreigner(found: &plain::Container) -> Option<String> {
    let label = |name: &str| {
        let value = found.config.labels.as_ref()?.get(name)?;
        Some(value).filter(|value| !value.is_empty())
    };
    if label(container::HOME).is_some() && label(container::VOLUME).is_some() {
        return None;
    }
    let image = found.config.image.as_deref().unwrap_or("that is not known");
    let of = label(COMPOSE).map(|project| format!(", of the Compose project {project}"));
    Some(format!("of the image {image}{}", of.unwrap_or_default()))
}

pub(super) fn foreign(engine: &Engine, volume: &Location, whose: &str) -> Error {
    let (name, program) = (container::name(volume), engine.program());
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the container {name}, whose name the server needs, is none of Velo's: it is {whose}"
        ),
    )
    .with_hint(format!(
        "give it another name ({program} rename {name} OTHER), or remove it if nobody needs it"
    ))
}

pub(super) fn copied(volume: &Location, path: &str) -> Error {
    let volume = volume.host_path().display();
    Error::new(
        ErrorKind::Conflict,
        format!("the engine has a server on {path}, of which {volume} is a copy"),
    )
    .with_hint("work in the home that it is a copy of")
}

/// The folder that a container works on, if it is there and is not this volume. By what it is, and not
/// by its path: a home may have been moved, and a copy of one may lack its volumes.
pub(super) fn works_on(found: &plain::Container, volume: &Location) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let path = found.config.labels.as_ref()?.get(container::VOLUME)?;
    let there = std::fs::metadata(path).ok()?;
    let is_own = match volume.host_path().metadata() {
        Ok(own) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
        Err(_) => Path::new(path) == volume.host_path(),
    };
    (!is_own).then(|| path.clone())
}

/// Whether a server works on the volume that is none of this engine's: it is started by hand, or in
/// another engine's container. To PostgreSQL itself every server in a container is process 1, so that
/// its lock file says nothing.
#[cfg(feature = "process")]
pub(super) fn works_elsewhere(volume: &Location) -> bool {
    !crate::runtime::process::processes_in(volume.host_path()).is_empty()
}

#[cfg(not(feature = "process"))]
pub(super) fn works_elsewhere(_: &Location) -> bool {
    false
}

/// Waits for the processes of a container that is just gone, and refuses any that stay.
pub(super) async fn nothing_elsewhere(volume: &Location) -> Result<()> {
    let begun = std::time::Instant::now();
    while works_elsewhere(volume) && begun.elapsed() < ENDING {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refuse_elsewhere(volume)
}

pub(super) fn refuse_elsewhere(volume: &Location) -> Result<()> {
    if !works_elsewhere(volume) {
        return Ok(());
    }
    let volume = volume.host_path().display();
    Err(Error::new(
        ErrorKind::Conflict,
        format!("a server that is none of this engine's works on {volume}"),
    )
    .with_hint(
        "is it another engine's? Set DOCKER_HOST to that one, or end the server where it runs",
    ))
}

/// One that the engine is about to start again runs: it may write at any moment.
pub(super) fn runs(state: &State) -> bool {
    state.running || state.restarting
}
