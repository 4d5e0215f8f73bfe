//! A PostgreSQL in a container image.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::Installation;

/// The C library that a PostgreSQL is linked with. Text that one of them sorted is in another order
/// for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Libc {
    /// GNU: Debian, Ubuntu, Red Hat, ….
    Glibc,
    /// musl: Alpine.
    Musl,
}

impl Libc {
    /// The name in records and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
        }
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An image, and what it said of itself when it was asked once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// What it was asked for by: `postgres:18`.
    pub reference: String,
    /// The engine's own name of it, which no later pull changes: `sha256:…`.
    pub id: String,
    /// The number of its user `postgres`.
    pub uid: u32,
    /// The number of that user's group.
    pub gid: u32,
    /// The C library of its PostgreSQL.
    pub libc: Libc,
    /// That library's version, where it tells.
    pub libc_version: Option<String>,
}

/// The PostgreSQL of the image that `config` names, which must be on the engine already.
pub(crate) async fn find(config: &Config) -> Result<Installation> {
    engine::find(config.home(), &config.image(), config.pg_version).await
}

/// The same, after the image was pulled where it is missing. `progress` gets a line for each step.
pub(crate) async fn find_or_pull(
    config: &Config,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Installation> {
    engine::find_or_pull(config.home(), &config.image(), config.pg_version, progress).await
}

/// What a project runs whose record names `recorded`: the same image, or if that is gone what now
/// bears its name and is of the same major.
pub(crate) async fn still(
    config: &Config,
    recorded: &Installation,
    image: &Image,
) -> Result<Installation> {
    if engine::is_there(&image.id).await? {
        return Ok(recorded.clone());
    }
    let found = engine::find(config.home(), &image.reference, Some(recorded.version.major)).await?;
    let owner = |image: &Image| (image.uid, image.gid);
    if let Some(now) = &found.image
        && owner(now) != owner(image)
        && rustix::process::geteuid().is_root()
    {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "the image {} is another one by now, whose postgres has the number {}; the data is of \
                 {}",
                image.reference, now.uid, image.uid
            ),
        )
        .with_hint("pull the image again that the project was made with"));
    }
    Ok(found)
}

#[cfg(all(feature = "docker", unix))]
use crate::runtime::docker::image as engine;

/// Where containers are not part of the build.
#[cfg(not(all(feature = "docker", unix)))]
mod engine {
    use std::path::Path;

    use crate::error::{Error, ErrorKind, Result};
    use crate::postgres::Installation;

    fn missing<T>() -> Result<T> {
        Err(Error::new(ErrorKind::Unsupported, "runtime docker is not part of this build")
            .with_hint("build velo-core with the feature docker"))
    }

    pub(super) async fn find(_: &Path, _: &str, _: Option<u32>) -> Result<Installation> {
        missing()
    }

    pub(super) async fn find_or_pull(
        _: &Path,
        _: &str,
        _: Option<u32>,
        _: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Installation> {
        missing()
    }

    pub(super) async fn is_there(_: &str) -> Result<bool> {
        missing()
    }
}
