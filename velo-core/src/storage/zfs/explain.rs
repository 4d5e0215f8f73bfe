//! From what was in the way to an error that says what to do.

use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::storage::zfs::faults::Fault;
use crate::storage::zfs::names::Parent;
use crate::storage::zfs::properties::{Numbers, Properties};
use crate::storage::zfs::{delegate, mounts, program};

/// Above this the pool has to look for free space in every corner, and deletes slow down too.
pub(super) const FULL: u64 = 90;

/// How a pool does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    /// `ONLINE`, `DEGRADED`, `SUSPENDED`, ….
    pub(super) health: String,
    /// How much of what datasets can use is used, in per cent: a pool keeps some for itself.
    pub(super) capacity: u64,
    pub(super) free: u64,
}

/// Asks how a pool does.
pub(super) async fn pool(name: &str) -> Result<Pool, Fault> {
    let health = health(name).await?;
    let text = program::get(&["-o", "name,property,value", "used,available", name]).await?;
    parse(name, health, &text)
        .ok_or_else(|| Fault::Other(format!("zfs get printed {:?}", text.trim())))
}

async fn health(pool: &str) -> Result<String, Fault> {
    let text = program::ask("zpool", &["list", "-H", "-o", "health", pool]).await?;
    Ok(text.trim().to_owned())
}

pub(super) fn parse(name: &str, health: String, text: &str) -> Option<Pool> {
    let numbers = Numbers::of(text);
    let (used, free) = (numbers.get(name, "used")?, numbers.get(name, "available")?);
    let capacity = used.saturating_mul(100) / used.saturating_add(free).max(1);
    Some(Pool { health, capacity, free })
}

/// What no dataset can help: no program, no module, no pool. `None` if all of it is fine.
pub(super) async fn machine(parent: &Parent) -> Option<Error> {
    match health(parent.pool()).await {
        Ok(health) if matches!(health.as_str(), "ONLINE" | "DEGRADED") => None,
        Ok(health) => Some(unwell(parent.pool(), &health)),
        Err(Fault::Missing) => Some(
            // Not `NotFound`: of what is in it nobody can say that it is gone.
            Error::new(
                ErrorKind::Unsupported,
                format!("the ZFS pool {} is not imported", parent.pool()),
            )
            .with_hint(format!(
                "as root: zpool import {pool}; one in a file: zpool import -d ITS_FOLDER {pool}",
                pool = parent.pool()
            )),
        ),
        Err(fault @ (Fault::NoProgram | Fault::NoModule)) => Some(basic(&fault)),
        Err(_) => None,
    }
}

fn unwell(pool: &str, health: &str) -> Error {
    Error::new(ErrorKind::Io, format!("the ZFS pool {pool} is {health}"))
        .with_hint(format!("zpool status {pool} says what is wrong with it"))
}

/// The error of a machine without ZFS.
fn basic(fault: &Fault) -> Error {
    match fault {
        Fault::NoProgram => Error::new(ErrorKind::Unsupported, "this machine has no program zfs")
            .with_hint("install OpenZFS: apt-get install zfsutils-linux"),
        _ => Error::new(
            ErrorKind::Unsupported,
            "the ZFS module is not loaded: /dev/zfs does not work",
        )
        .with_hint("as root: modprobe zfs"),
    }
}

/// The error of what `doing` names, done to the dataset or snapshot `name`. `properties` are those
/// of volumes.
pub(super) async fn explain(
    parent: &Parent,
    properties: &Properties,
    fault: Fault,
    doing: &str,
    name: &str,
    folder: &Path,
) -> Error {
    let error = |kind, why: &str| {
        Error::new(kind, format!("cannot {doing}: {why}")).with_context("dataset", name)
    };
    match fault {
        Fault::NoProgram | Fault::NoModule => basic(&fault),
        Fault::Unwell => match machine(parent).await {
            Some(error) => error,
            None => error(ErrorKind::Io, "the pool does not answer")
                .with_hint(format!("zpool status {}", parent.pool())),
        },
        Fault::Missing => match machine(parent).await {
            Some(error) => error,
            None => error(ErrorKind::NotFound, &format!("{name} does not exist"))
                .with_hint("`velo doctor` says what is there and what is recorded"),
        },
        Fault::Exists => error(ErrorKind::AlreadyExists, "it exists already"),
        // Of a key that is missing the kernel may say no more than this.
        Fault::Denied if !key_is_missing(name).await => {
            let (user, names) = (mounts::user(), properties.iter().map(|(name, _)| name));
            error(ErrorKind::PermissionDenied, &format!("the user {user} may not"))
                .with_hint(format!("as root: {}", delegate::allow(&user, parent.as_str(), names)))
        }
        Fault::Full => error(
            ErrorKind::Exhausted,
            &format!("no space is left in the pool {}, or in a quota", parent.pool()),
        )
        .with_hint(format!("free some: zfs list -o space -t all {}", parent.as_str())),
        Fault::QuotaTooSmall => {
            error(ErrorKind::InvalidInput, "it holds more already than the quota allows")
                .with_hint("give a larger quota, or none")
        }
        Fault::Denied | Fault::NoKey => no_key(error, name).await,
        Fault::HasClones => error(ErrorKind::Conflict, "clones need it")
            .with_hint("destroy what was made from it first"),
        Fault::HasChildren => {
            let (dataset, what) = children(name).await;
            error(ErrorKind::Conflict, &format!("it has snapshots or datasets of its own: {what}"))
                .with_hint(format!(
                    "look at them with `zfs list -t all {dataset}`, and destroy those that are not \
                     Velo's"
                ))
        }
        Fault::Busy if name.contains('@') => match holds(name).await {
            Some(tag) => error(ErrorKind::Conflict, &format!("somebody holds it ({tag})"))
                .with_hint(format!("as whoever holds it: zfs release {tag} {name}")),
            None => error(ErrorKind::Conflict, "it is busy").with_hint(
                "wait until what reads it ends, a backup (zfs send) perhaps; a container of somebody's that has it \
                 mounted since its start lets it go when it is started anew",
            ),
        },
        Fault::Busy => {
            let holders = mounts::holders(folder);
            let who = match holders.as_slice() {
                [] => "by a process of another user or another mount namespace".to_owned(),
                some => format!("by {}", some.join(", ")),
            };
            error(ErrorKind::Conflict, &format!("{} is in use {who}", folder.display()))
                .with_hint("end what uses it, and try again")
        }
        Fault::Other(said) => match machine(parent).await {
            Some(error) => error,
            None if key_is_missing(name).await => no_key(error, name).await,
            None => error(ErrorKind::Io, &said),
        },
    }
}

async fn no_key(error: impl Fn(ErrorKind, &str) -> Error, name: &str) -> Error {
    let why = "the dataset is encrypted, and its key is not loaded";
    error(ErrorKind::PermissionDenied, why)
        .with_hint(format!("as root: zfs load-key {}", key_root(name).await))
}

/// Where the key of an encrypted dataset, or of the parent of one that does not exist, is kept.
async fn key_root(name: &str) -> String {
    for name in with_parent(name) {
        if let Ok(text) = program::get(&["-o", "value", "encryptionroot", name]).await
            && text.trim() != "-"
        {
            return text.trim().to_owned();
        }
    }
    name.to_owned()
}

pub(super) async fn key_is_missing(name: &str) -> bool {
    for name in with_parent(name) {
        if let Ok(text) = program::get(&["-o", "value", "keystatus", name]).await {
            return text.trim() == "unavailable";
        }
    }
    false
}

fn with_parent(name: &str) -> impl Iterator<Item = &str> {
    let dataset = name.split('@').next().unwrap_or(name);
    std::iter::once(dataset).chain(dataset.rsplit_once('/').map(|(parent, _)| parent))
}

/// What hangs from a dataset, for a message.
async fn children(dataset: &str) -> (&str, String) {
    let args = ["list", "-H", "-d", "1", "-t", "all", "-o", "name", dataset];
    let text = program::ask("zfs", &args).await.unwrap_or_default();
    let names: Vec<&str> = text.lines().filter(|name| *name != dataset).collect();
    (dataset, names.join(", "))
}

/// The tag of a hold on a snapshot.
pub(super) async fn holds(snapshot: &str) -> Option<String> {
    let text = program::ask("zfs", &["holds", "-H", snapshot]).await.ok()?;
    Some(text.lines().next()?.split('\t').nth(1)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read() {
        let wanted = Pool { health: "ONLINE".into(), capacity: 91, free: 900 };
        let text = "tank\tused\t9100\ntank\tavailable\t900\n";
        assert_eq!(parse("tank", "ONLINE".into(), text), Some(wanted));
        assert_eq!(parse("tank", "ONLINE".into(), ""), None);
    }
}
