//! Questions to an engine past the client library, which takes no state of a container that Docker does
//! not have, as Podman's `stopped`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::{Error, ErrorKind, Result};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How often it is asked again what it cannot tell while a container ends.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// What an engine answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    body: String,
}

/// What an engine lists of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) names: Option<Vec<String>>,
    pub(super) labels: Option<HashMap<String, String>>,
    /// In seconds since 1970.
    pub(super) created: Option<i64>,
    pub(super) state: Option<String>,
    #[serde(default)]
    pub(super) mounts: serde_json::Value,
}

/// What an engine tells of one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Container {
    pub(super) state: State,
    pub(super) config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) running: bool,
    pub(super) restarting: bool,
    pub(super) pid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    pub(super) image: Option<String>,
    pub(super) labels: Option<HashMap<String, String>>,
}

/// The containers that run, or all.
pub(super) async fn list(socket: &Path, all: bool) -> Result<Vec<Summary>> {
    let (path, what) = (format!("/containers/json?all={}", u8::from(all)), "list the containers");
    for _ in 0..TRIES {
        if let Some(found) = ask(socket, path.clone(), what).await? {
            return Ok(found);
        }
        // Podman lists nothing where one of them goes at this moment. That is no empty list.
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "the engine cannot list the containers: they come and go",
    )
    .with_hint("try again when fewer of them do"))
}

/// One container; `None` if there is none of that name.
pub(super) async fn inspect(socket: &Path, name: &str) -> Result<Option<Container>> {
    let what = format!("look at the container {name}");
    ask(socket, format!("/containers/{name}/json"), &what).await
}

/// Podman's own word on whether it is rootless, which the client library does not know. Its versions 4
/// do not say it as Docker does.
pub(super) async fn podman_is_rootless(socket: &Path) -> Result<bool> {
    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Info {
        rootless: bool,
    }
    let info: Option<Info> = ask(socket, "/info".to_owned(), "say what it is").await?;
    Ok(info.unwrap_or_default().rootless)
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: String, what: &str) -> Result<Option<T>> {
    let mut answer = once(socket, &path, what).await?;
    // Podman's words where a process ended while it looked. The next look finds it ended.
    for _ in 1..TRIES {
        if answer.status != 500 || !answer.body.contains("no such process") {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        answer = once(socket, &path, what).await?;
    }
    match answer.status {
        200 => serde_json::from_str(&answer.body).map(Some).map_err(|e| {
            Error::new(ErrorKind::Io, format!("the engine cannot {what}: {e}")).with_source(e)
        }),
        404 => Ok(None),
        // So does Podman say it, where one goes at this moment.
        500 if answer.body.contains("no such container") => Ok(None),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the engine cannot {what}: {}", answer.body.trim()),
        )),
    }
}

async fn once(socket: &Path, path: &str, what: &str) -> Result<Answer> {
    get(socket, path, LIMIT).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => {
            Error::new(ErrorKind::Timeout, format!("the engine cannot {what}: {e}"))
                .with_hint("it hangs on that: start it anew")
                .with_source(e)
        }
        _ => Error::io(format!("the engine cannot {what}"), e),
    })
}

/// Asks it, and waits no longer than `limit`.
pub(super) async fn get(socket: &Path, path: &str, limit: Duration) -> std::io::Result<Answer> {
    let answer = async {
        let mut stream = connect(socket).await?;
        // In this version an answer is not cut into pieces, and ends with the connection.
        let asked = format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
        stream.write_all(asked.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer)
    };
    let answer = tokio::time::timeout(limit, answer).await.map_err(|_| silent(limit))??;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let first = head.lines().next().unwrap_or("nothing");
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("it answers {first:?}")))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Connects. An engine that takes nobody for a moment, for many come at once, is tried again.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}

/// The words for an engine that does not answer.
fn silent(limit: Duration) -> std::io::Error {
    let text = format!("it does not answer within {} s", limit.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What Podman was seen to answer while a container ended, which no test can bring about at will.
    async fn listed(answers: &'static [&'static str]) -> Result<usize> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    asked.push(byte[0]);
                }
                stream.write_all(format!("HTTP/1.0 {answer}").as_bytes()).unwrap();
            }
        });
        list(&socket, true).await.map(|found| found.len())
    }

    #[tokio::test]
    async fn a_container_that_ends_meanwhile_is_no_empty_list() {
        let found = listed(&[
            "500 E\r\n\r\n{\"message\":\"no such container\"}",
            "500 E\r\n\r\n{\"message\":\"read /proc/7/cgroup: no such process\"}",
            "200 OK\r\n\r\n[{\"Id\":\"a\"}]",
        ]);
        assert_eq!(found.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn one_that_takes_nobody_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        // As many as wait for nothing, and one more than there is room for.
        let mut waiting = Vec::new();
        rustix::net::listen(&listener, 1).unwrap();
        while let Ok(stream) = UnixStream::connect(&socket).await {
            waiting.push(stream);
        }
        let error = get(&socket, "/_ping", Duration::from_millis(100)).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    }

    #[tokio::test]
    async fn what_an_engine_refuses_is_told() {
        let error = listed(&["500 E\r\n\r\n{\"message\":\"no\"}"]).await.unwrap_err();
        assert!(error.to_string().contains("cannot list the containers"), "{error}");
    }
}
