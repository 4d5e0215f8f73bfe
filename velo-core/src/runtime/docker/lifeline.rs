//! What ties a container to this process: the container's standard input, which the engine closes
//! when this process is gone, however it ended.
//!
//! The connection is made here and not by the client library, because a child of a `fork` must not
//! hold it: it would keep its parent's servers alive.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::error::{Error, Result};
use crate::lock::NotInChildren;

/// How long the engine may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Holds the container `name`, which is made and not started, from now on until it ends.
pub(super) async fn hold(socket: &Path, name: &str) -> Result<()> {
    let (socket, shown) = (socket.to_path_buf(), name.to_owned());
    let (guard, stream) = crate::engine::blocking(move || {
        attach(&socket, &shown).map_err(|e| Error::io(format!("hold the container {shown}"), e))
    })
    .await?;
    let mut stream = tokio::net::UnixStream::from_std(stream)
        .map_err(|e| Error::io(format!("hold the container {name}"), e))?;
    let name = name.to_owned();
    // On the thread that lives as long as this process.
    tokio::spawn(async move {
        // Nothing is attached but its input: what can be read is the end.
        loop {
            match stream.read(&mut [0; 64]).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, container = name, "its lifeline broke");
                    break;
                }
            }
        }
        drop(guard);
        drop(stream);
    });
    Ok(())
}

/// Asks for the container's input, and returns the connection that is it.
fn attach(socket: &Path, name: &str) -> std::io::Result<(NotInChildren, UnixStream)> {
    let mut stream = UnixStream::connect(socket)?;
    let guard = NotInChildren::of(&stream);
    stream.set_read_timeout(Some(ANSWER))?;
    write!(
        stream,
        "POST /containers/{name}/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: docker\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )?;
    // To the end of the head, byte by byte: what follows is not ours to take.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 16 << 10 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split_ascii_whitespace().nth(1).unwrap_or_default();
    if !matches!(status, "101" | "200") {
        let first = head.lines().next().unwrap_or("nothing");
        return Err(std::io::Error::other(format!("the engine answers {first:?}")));
    }
    stream.set_read_timeout(None)?;
    stream.set_nonblocking(true)?;
    Ok((guard, stream))
}
