//! What is told of a server that does not come up.

use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::port;
use crate::record::Phase;
use crate::runtime::{InstanceRef, Runtime, RuntimeKind, Status};

use super::{Boot, Doors};

impl Boot<'_> {
    /// An error of a server that ended, with what it said last.
    pub(super) async fn explain(
        &self,
        error: Error,
        runtime: &dyn Runtime,
        instance: InstanceRef,
        log: &Path,
    ) -> Error {
        let tail = runtime.logs(log, 15).await.unwrap_or_default();
        let why =
            tail.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let port = self.branch.port;
        // Where the server itself goes on, it is the one that holds the port.
        let ended = matches!(runtime.status(&instance).await, Ok(Status::Stopped));
        if ended && self.doors != Doors::Private && !port::is_free(port) {
            return Error::new(
                ErrorKind::Conflict,
                format!("port {port} is held by another program"),
            )
            .with_context("port", port)
            .with_hint("stop that program, or set VELO_PORTS to another range for new branches")
            .with_source(error);
        }
        let data = instance.location.host_path();
        if self.project.runtime == RuntimeKind::Docker && misses_a_file(&tail, data) {
            return crate::runtime::unseen(data)
                .with_context("log", log.display())
                .with_context("log_tail", tail)
                .with_source(error);
        }
        let why = why.and_then(|line| line.split_once(": ").map(|(_, rest)| rest.trim()));
        let message = match why {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        };
        tracing::info!(log = %log.display(), "the end of the server's log:\n{tail}");
        // PostgreSQL quotes the setting that it refuses.
        let refused = self.branch.settings.keys().find(|key| {
            why.is_some_and(|why| why.contains(&format!("\"{key}\"")))
                || tail.contains(&format!("\"{key}\""))
        });
        let hint = match refused {
            Some(key) => format!("correct the setting {key}, or leave it out"),
            None if why.is_some_and(|why| why.contains("shared memory segment")) => {
                "give it more shared memory: --shm-size, or where it is no container, /dev/shm"
                    .to_owned()
            }
            None if why.is_some_and(|why| why.contains("WAL archival cannot be enabled")) => {
                format!(
                    "as it was it starts after velo project set {} --wal-retention none; WAL that is kept needs ALTER \
                 SYSTEM SET wal_level = 'replica'",
                    self.project.name
                )
            }
            // What was being made goes with its log.
            None if self.branch.phase == Phase::Creating => {
                "with -v the command shows the end of the server's log".to_owned()
            }
            None => format!("the server's log has more: {}", log.display()),
        };
        Error::new(ErrorKind::Postgres, message)
            .with_context("log", log.display())
            .with_context("log_tail", tail)
            .with_hint(hint)
    }
}

/// Whether a server's last words are that there is no such file in its data, and it is there.
fn misses_a_file(tail: &str, data: &Path) -> bool {
    let last = tail.lines().rev().find_map(|line| line.strip_suffix(": No such file or directory"));
    let path = last.and_then(|line| line.rsplit('"').nth(1));
    path.map(Path::new).is_some_and(|path| path.starts_with(data) && path.exists())
}
