//! A program that runs to its end in a container of its own, which ends with this process.
//!
//! Three things keep a container from outliving a Velo that is killed: its standard input, which the
//! engine closes then; that the engine removes it when it has ended; and a [lease](Lease) of its own,
//! under whose id it runs, for the moment between its making and its start. Whoever opens the home
//! next finds the dead lease, and knows by it what may be left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::query_parameters as query;
use futures_util::StreamExt;

use super::connect::Engine;
use super::container::{self, Body};
use super::errors::failed;
use super::leases::Leased;
use super::lifeline;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lease::{Dead, Lease};
use crate::runtime::ToolOutput;

/// How long a container without a lease may be somebody's.
const LIMIT: Duration = Duration::from_secs(600);

/// What the shell around a program says last, before its exit status. The engine forgets that with
/// the container.
const ENDED: &str = "velo: exit status: ";

/// Where the leases of tools are.
fn leases(home: &Path) -> PathBuf {
    container::files(home).join("tools")
}

/// A container's name, by its lease or a number like one.
fn name(id: Id) -> String {
    format!("velo-tool-{}", id.to_string().to_lowercase())
}

/// A lease for a tool of `home`. A home that is not there yet has none.
async fn lease(home: &Path) -> Result<Option<Lease>> {
    if !crate::home::Home::exists(home) {
        return Ok(None);
    }
    super::leases::take(leases(home)).await.map(Some)
}

/// Runs `body`, which is called `what`, for `home`, and removes its container, however it ended.
pub(super) async fn run(
    engine: &Engine,
    home: &Path,
    body: Body,
    what: &str,
    limit: Option<Duration>,
    cancel: &Cancel,
) -> Result<ToolOutput> {
    let lease = lease(home).await?;
    let name = name(lease.as_ref().map_or_else(Id::generate, |lease| lease.id));
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    let made = engine.api.create_container(Some(options), body).await;
    if let Err(error) = made {
        // Where the engine did not say no, it may make it yet: then the lease stays for a sweep.
        if let (bollard::errors::Error::DockerResponseServerError { .. }, Some(lease)) =
            (&error, lease)
        {
            lease.end(&leases(home))?;
        }
        return Err(failed(format!("make a container for {what}"), error));
    }
    // What is longer than anybody waits stands for no limit.
    let time = limit.unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
    let done = tokio::select! {
        biased;
        () = cancel.canceled() => Ok(cancel.check().and(Err(Error::new(
            ErrorKind::Internal, "a wish to stop that is none",
        )))),
        done = tokio::time::timeout(time, to_its_end(engine, &name, what)) => done,
    };
    let gone = super::remove(engine, &name).await;
    // Else the lease stays, for a sweep to see to the container.
    if let (Ok(()), Some(lease)) = (&gone, lease) {
        lease.end(&leases(home))?;
    }
    let done = done.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Timeout,
            format!("{what} did not end within {} s and was killed", time.as_secs()),
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
    lifeline::hold(&engine.socket, name).await?;
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
    let stderr = String::from_utf8_lossy(&stderr);
    let (stderr, code) = told(&stderr);
    match code {
        Some(container::NO_PROGRAM) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the engine cannot start {what}: {}", stderr.trim()),
        )),
        Some(code) => Ok(ToolOutput {
            success: code == 0,
            status: format!("exit status: {code}"),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: stderr.to_owned(),
        }),
        None => Err(Error::new(
            ErrorKind::Postgres,
            format!("{what} was killed in its container: {}", stderr.trim()),
        )
        .with_hint("is the machine out of memory?")),
    }
}

/// What a program printed itself, and how it ended.
fn told(stderr: &str) -> (&str, Option<u8>) {
    let parts = stderr.trim_end_matches('\n').rsplit_once(ENDED);
    match parts.and_then(|(own, code)| Some((own, code.parse().ok()?))) {
        Some((own, code)) => (own.strip_suffix('\n').unwrap_or(own), Some(code)),
        None => (stderr, None),
    }
}

/// Whether whoever runs the container `name` of `home`, made at a time since 1970, may be there still.
pub(super) fn is_held(home: &Path, name: &str, made: Duration) -> bool {
    let id = name.strip_prefix("velo-tool-").and_then(|id| id.to_uppercase().parse::<Id>().ok());
    let Some(id) = id else { return true };
    if leases(home).join(id.to_string()).exists() {
        return !matches!(Dead::claim(&leases(home), id), Ok(Some(_)));
    }
    // Made before there was a home.
    super::leases::age(made) < LIMIT
}

/// Removes the containers of tools whose Velo was killed.
pub(crate) async fn sweep(home: &Path) -> Result<()> {
    super::leases::sweep(&leases(home), Duration::ZERO, Tools(home)).await
}

/// The tools of a home.
struct Tools<'a>(&'a Path);

#[async_trait]
impl Leased for Tools<'_> {
    async fn remove(&self, engine: &Engine, lease: Id) -> Result<bool> {
        super::remove_own(engine, self.0, &name(lease)).await
    }
}
