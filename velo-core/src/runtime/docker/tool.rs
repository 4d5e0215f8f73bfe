//! A program that runs to its end in a container of its own.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters as query;
use futures_util::StreamExt;

use super::connect::Engine;
use super::container::Body;
use super::errors::failed;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::runtime::ToolOutput;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs `body`, which is called `what`, and removes its container, however it ended.
pub(super) async fn run(engine: &Engine, body: Body, what: &str) -> Result<ToolOutput> {
    let name = format!("velo-tool-{}", Id::generate().to_string().to_lowercase());
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    let made = engine.api.create_container(Some(options), body).await;
    made.map_err(|e| failed(format!("make a container for {what}"), e))?;
    let done = tokio::time::timeout(LIMIT, to_its_end(engine, &name, what)).await;
    let gone = super::remove(engine, &name).await;
    let done = done.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Timeout,
            format!("{what} did not end within {} s and was killed", LIMIT.as_secs()),
        ))
    });
    match (done, gone) {
        (Err(error), Err(cleanup)) => Err(error.with_cleanup(cleanup)),
        (Ok(_), Err(error)) => Err(error),
        (done, Ok(())) => done,
    }
}

async fn to_its_end(engine: &Engine, name: &str, what: &str) -> Result<ToolOutput> {
    let options =
        query::AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
    let attached = engine.api.attach_container(name, Some(options)).await;
    let mut output = attached.map_err(|e| failed(format!("read what {what} prints"), e))?.output;
    let started = engine.api.start_container(name, None).await;
    started.map_err(|e| failed(format!("start {what}"), e))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(part) = output.next().await {
        match part.map_err(|e| failed(format!("read what {what} prints"), e))? {
            LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                stdout.extend_from_slice(&message);
            }
            LogOutput::StdIn { .. } => {}
        }
    }
    let status = super::ended(&engine.api, name, "not-running").await;
    Ok(ToolOutput {
        success: status == "exit status: 0",
        status,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
