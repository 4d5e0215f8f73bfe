//! The engine of containers.

use bollard::{API_DEFAULT_VERSION, Docker};

use crate::Result;

/// The one of `DOCKER_HOST`, whose answers are waited for so many seconds.
///
/// # Errors
/// If it does not answer.
pub async fn connect(seconds: u64) -> Result<Docker> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///run/docker.sock".into());
    let engine = Docker::connect_with_unix(&host, seconds, API_DEFAULT_VERSION)?;
    Ok(engine.negotiate_version().await?)
}

/// What engine it is.
///
/// # Errors
/// If it does not answer.
pub async fn describe() -> Result<String> {
    let version = connect(60).await?.version().await?;
    Ok(format!("Docker {}", version.version.unwrap_or_default()))
}
