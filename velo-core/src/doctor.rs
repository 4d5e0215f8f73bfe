//! What works here, what does not, and the one line that mends it.
//!
//! Blocking, because people wait for it. What is wrong is reported, with what to do about it, and
//! nothing is removed, but for what every opening of the home undoes (what dead processes left);
//! [`fix`] sets it right.

mod containers;
mod fix;
mod machine;
mod records;
mod wal;
#[cfg(all(feature = "zfs", target_os = "linux"))]
mod zfs;

use serde::Serialize;

use crate::config::Config;
use crate::engine;
use crate::error::{Error, Result};
use crate::os_user::OsUser;
use crate::postgres::Installation;
use crate::postgres::binaries::Search;
use crate::runtime::RuntimeKind;
use crate::storage::{self, StorageKind};

pub use fix::{Fixed, fix};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It works.
    Ok,
    /// It works, but could be better or may break.
    Warn,
    /// Something that Velo needs is broken.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at: `home`, `storage`, `postgres`, …. Stable.
    pub name: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was found, in one line.
    pub what: String,
    /// The one line that mends it, if something is to be mended.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, what, None)
    }

    fn warn(name: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, what, Some(fix.into()))
    }

    fn fail(name: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, what, Some(fix.into()))
    }

    fn error(name: &'static str, error: &Error) -> Self {
        let fix = error.hint().map(str::to_owned);
        Self::new(name, Status::Fail, error.to_string(), fix)
    }

    fn new(
        name: &'static str,
        status: Status,
        what: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self { name, status, what: what.into(), fix }
    }
}

/// Looks at everything that Velo needs with these settings. What could not be looked at is a
/// finding too, so this cannot fail.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    let owned = config.clone();
    let found = engine::call(move |_| async move { Ok(look(&owned).await) }).wait();
    found.unwrap_or_else(|error| vec![Finding::error("velo", &error)])
}

async fn look(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let user = match OsUser::for_servers(config.user.as_deref()) {
        Ok(user) => {
            found.push(machine::user(user.as_ref()));
            user
        }
        Err(error) => {
            found.push(Finding::error("user", &error));
            None
        }
    };
    if config.chosen_runtime() == RuntimeKind::Process {
        found.push(machine::postgres(config, user.as_ref()).await);
    }
    found.push(machine::ports(config));
    found.push(machine::inotify());
    found.extend(machine::logind());
    let home = async { engine::Engine::get()?.existing_home(config).await };
    match home.await {
        Ok(Some(home)) => {
            found.push(machine::home(config));
            found.push(machine::storage(config, &config.home).await);
            #[cfg(all(feature = "zfs", target_os = "linux"))]
            found.extend(zfs::look(config).await);
            found.extend(records::look(&home).await);
            found.extend(wal::look(&home).await);
            found.extend(containers::look(config, Some(&home)).await);
        }
        // A look makes nothing, so what is above it has to tell what it will be able to do.
        Ok(None) => {
            let above = config.home.ancestors().find(|folder| folder.is_dir());
            let above = above.unwrap_or(&config.home);
            found.push(machine::no_home(config, above, user.as_ref()));
            found.push(machine::storage(config, above).await);
            #[cfg(all(feature = "zfs", target_os = "linux"))]
            found.extend(zfs::look(config).await);
            found.extend(containers::look(config, None).await);
        }
        Err(error) => found.push(Finding::error("home", &error)),
    }
    found
}

/// Every PostgreSQL that Velo finds with these settings, best first.
///
/// # Errors
/// If Velo's own thread cannot be started.
pub fn installations(config: &Config) -> Result<Vec<Installation>> {
    let search = Search::from(config);
    engine::call(move |_| async move { Ok(search.list().await) }).wait()
}

/// The storages that work in the home, best first: found by trying a file there, and of ZFS, where
/// nothing is made for a look, by what can be read of it.
///
/// # Errors
/// If the home cannot be written to.
pub fn storages(config: &Config) -> Result<Vec<StorageKind>> {
    let config = config.clone();
    engine::call(move |_| async move { storage::look(&config).await }).wait()
}

/// What is running out, for those who look often: the findings about space that are not
/// [`Ok`](Status::Ok).
#[must_use]
pub fn space(config: &Config) -> Vec<Finding> {
    let config = config.clone();
    let found = engine::call(move |_| async move { Ok(running_out(&config).await) }).wait();
    found.unwrap_or_default()
}

#[cfg(all(feature = "zfs", target_os = "linux"))]
async fn running_out(config: &Config) -> Vec<Finding> {
    zfs::space(config).await.into_iter().collect()
}

#[cfg(not(all(feature = "zfs", target_os = "linux")))]
async fn running_out(_: &Config) -> Vec<Finding> {
    Vec::new()
}
