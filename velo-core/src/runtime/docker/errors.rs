//! What the engine refuses, as Velo's errors.

use std::path::Path;

use bollard::errors::Error as Api;

use crate::error::{Error, ErrorKind};

/// A refusal that has a meaning of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such thing.
    Missing,
    /// It is in another state, or its name is taken.
    Conflict,
}

pub(super) fn refusal(error: &Api) -> Option<Refusal> {
    match error {
        Api::DockerResponseServerError { status_code: 404, .. } => Some(Refusal::Missing),
        Api::DockerResponseServerError { status_code: 409, .. } => Some(Refusal::Conflict),
        // Podman says it with words.
        Api::DockerResponseServerError { status_code: 500, message } => match message {
            m if m.contains("no such container") => Some(Refusal::Missing),
            m if m.contains("container state improper") => Some(Refusal::Conflict),
            _ => None,
        },
        _ => None,
    }
}

/// An error of the engine's, or of the way to it.
pub(super) fn failed(what: impl std::fmt::Display, error: Api) -> Error {
    let (kind, message) = match &error {
        Api::DockerResponseServerError { message, .. } => (ErrorKind::Unsupported, message.clone()),
        Api::DockerStreamError { error } => (ErrorKind::Unsupported, error.clone()),
        Api::RequestTimeoutError => (ErrorKind::Timeout, "it did not answer in time".to_owned()),
        other => (ErrorKind::Io, other.to_string()),
    };
    if let Some(path) = missing(&message)
        && Path::new(path).exists()
    {
        return crate::runtime::unseen(Path::new(path)).with_source(error);
    }
    let kind =
        if message.contains("no space left on device") { ErrorKind::Exhausted } else { kind };
    let hint = if message.contains("Range of CPUs") {
        Some("ask for no more processors than the machine has")
    } else if message.contains("inimum memory limit") {
        Some("give it more memory")
    } else {
        None
    };
    let told = Error::new(kind, format!("the engine cannot {what}: {}", message.trim()));
    match hint {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
    .with_source(error)
}

/// Whether the engine itself has answered with this error: it is not at it any more.
pub(super) fn is_answer(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let answer = source.and_then(|source| source.downcast_ref::<Api>());
    matches!(answer, Some(Api::DockerResponseServerError { .. }))
}

/// The path that the engine was to show in a container, and that it has not.
fn missing(message: &str) -> Option<&str> {
    // Docker, Podman, and Docker in a virtual machine of its own.
    if let Some((_, path)) = message.split_once("bind source path does not exist: ") {
        return path.lines().next();
    }
    let stat = ["statfs ", "stat "].iter().find_map(|call| message.split_once(call));
    // What is told of a program is of the image.
    if let Some((_, rest)) = stat.filter(|(before, _)| !before.contains("exec: ")) {
        return rest.split_once(": no such file or directory").map(|(path, _)| path);
    }
    // Podman makes a folder where there is nothing, and takes it for the file that it was to show.
    if let Some((before, _)) = message.split_once(": is a directory") {
        return before.rsplit_once("read ").map(|(_, path)| path);
    }
    let (_, rest) = message.split_once("The path ")?;
    rest.split_once(" is not shared from the host").map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_and_podman_name_what_they_do_not_see() {
        for message in [
            "invalid mount config for type \"bind\": bind source path does not exist: /a/b c",
            "statfs /a/b c: no such file or directory",
            "make cli opts(): stat /a/b c: no such file or directory",
            "unable to find user 999: read /a/b c: is a directory",
            "mounts denied: \nThe path /a/b c is not shared from the host and is not known to Docker.",
        ] {
            assert_eq!(missing(message), Some("/a/b c"), "{message}");
        }
        let of_the_image = "exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown";
        for message in ["no such image", of_the_image] {
            assert_eq!(missing(message), None, "{message}");
        }
    }
}
