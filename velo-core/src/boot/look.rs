//! What a server does, for who only looks: nobody waits long for a runtime that does not answer.

use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::postgres::readiness;
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::{RuntimeKind, Status};

use super::{instance, status};

/// How long who only looks waits for a runtime to say what lives.
const LOOK: std::time::Duration = std::time::Duration::from_secs(8);

/// When a look that begins now is over.
pub(crate) fn end_of_look() -> tokio::time::Instant {
    tokio::time::Instant::now() + LOOK
}

/// Whether a branch's server lives, and not only between two deaths, for who only looks and does not wait
/// past `end`.
pub(crate) async fn look(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    end: tokio::time::Instant,
) -> Result<Status> {
    let status = async {
        let status = status(home, project, branch).await?;
        let lives = matches!(status, Status::Running { .. }) && branch.phase == Phase::Ready;
        if lives && is_brought_up(home, project, branch).await? {
            return Ok(Status::Restarting);
        }
        Ok(status)
    };
    in_time(project.runtime, end, status).await
}

/// What somebody asks a runtime who only looks, and does not wait past `end`.
pub(crate) async fn in_time<T>(
    runtime: RuntimeKind,
    end: tokio::time::Instant,
    look: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout_at(end, look).await.unwrap_or_else(|_| {
        let limit = LOOK.as_secs();
        let text = format!("the runtime {runtime} does not answer within {limit} s");
        Err(Error::new(ErrorKind::Timeout, text).with_hint("try again when less is going on there"))
    })
}

/// Whether a server that was found running is one that its runtime brings up by itself, after it died, and
/// that is not up yet. It may die again, and be found between two deaths at any moment.
async fn is_brought_up(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<bool> {
    // Where somebody switches it, that is why it is not up.
    if !home.runtime(project.runtime)?.capability().restarts || branch.lease.is_some() {
        return Ok(false);
    }
    let location = instance(home, project, branch.id, branch.volume)?.location;
    if !readiness::says_ready(location.host_path()) {
        return Ok(true);
    }
    // What a killed one said stays until the next one has read its settings; its socket is dead meanwhile.
    let socket = RunDir::of(home, branch.id).socket_file(branch.port);
    let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
    Ok(tokio::net::UnixStream::connect(socket).await.err().is_some_and(refused))
}
