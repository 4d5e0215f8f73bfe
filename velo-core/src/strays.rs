//! What is there and no record names: volumes and snapshots, archives of WAL, servers, containers,
//! folders of servers, locks. A record comes before what it names and goes after it, so what was seen before the records
//! were read, and is in none of them, is nobody's.

use std::collections::HashSet;
use std::path::Path;
#[cfg(all(feature = "docker", unix))]
use std::path::PathBuf;
use std::sync::Arc;

use crate::boot;
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, NAMED};
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::postgres::tablespaces;
use crate::record::{ArchiveRecord, BranchRecord, ProjectRecord, SnapshotRecord, VolumeRecord};
use crate::run_dir::RunDir;
use crate::runtime::{self, InstanceRef, Runtime, RuntimeKind, Status, StopMode};
use crate::state::Tx;
use crate::storage::{Location, Object, Storage, StorageKind};

/// A volume or a snapshot that no record names.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) object: Object,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) location: Location,
}

impl Stray {
    fn instance(&self) -> InstanceRef {
        InstanceRef { id: self.object.id(), location: self.location.clone() }
    }

    pub(crate) fn name(&self) -> String {
        self.location.host_path().display().to_string()
    }

    /// Whether anything works on it, as far as any runtime knows.
    pub(crate) async fn is_served(&self, home: &Home) -> Result<bool> {
        if matches!(self.object, Object::Snapshot(_)) {
            return Ok(false);
        }
        if runtime::has_processes(&self.location) {
            return Ok(true);
        }
        let instance = self.instance();
        for runtime in runtimes(home).await? {
            if runtime.status(&instance).await? != Status::Stopped
                || runtime.orphans(&instance).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends what is left of a local process on it.
    pub(crate) async fn end(&self, home: &Home) -> Result<()> {
        let runtime = home.runtime(RuntimeKind::Process)?;
        runtime.stop(&self.instance(), StopMode::Immediate).await
    }

    /// Stops the server on it, cleanly: its data may be worth something to somebody.
    pub(crate) async fn stop(&self, home: &Home) -> Result<()> {
        let instance = self.instance();
        for runtime in runtimes(home).await? {
            if runtime.status(&instance).await? == Status::Stopped
                && !runtime.orphans(&instance).await?
            {
                continue;
            }
            refuse_loss(&*runtime, &self.location)?;
            runtime.stop(&instance, StopMode::Fast).await?;
        }
        match self.is_served(home).await? {
            true => Err(Error::new(ErrorKind::Conflict, "something works on it still")
                .with_hint("end its processes, by the numbers that `fuser` tells")),
            false => Ok(()),
        }
    }
}

/// Who asks of one stray after the other whether it is served: an engine that hangs is waited for once.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    over: Option<tokio::time::Instant>,
}

impl Looks {
    pub(crate) async fn is_served(&mut self, home: &Home, stray: &Stray) -> Result<bool> {
        let end = self.over.unwrap_or_else(boot::end_of_look);
        let served = boot::in_time(RuntimeKind::Docker, end, stray.is_served(home)).await;
        if served.as_ref().is_err_and(|e| e.kind() == ErrorKind::Timeout) {
            self.over = Some(end);
        }
        served
    }
}

/// An error if a stop took data along: a container has more than its volume, and goes with its server.
pub(crate) fn refuse_loss(runtime: &dyn Runtime, data: &Location) -> Result<()> {
    if !runtime.capability().bridged || !tablespaces::has_one_elsewhere(data.host_path()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "it has a tablespace in its container, which goes with a stop",
    )
    .with_hint("save what is in it first; then remove the container by its engine"))
}

/// Every runtime that servers of this home may be in.
async fn runtimes(home: &Home) -> Result<Vec<Arc<dyn Runtime>>> {
    let mut all = Vec::new();
    all.extend(home.runtime(RuntimeKind::Process).ok());
    #[cfg(all(feature = "docker", unix))]
    if may_have_containers(home).await? {
        all.push(home.runtime(RuntimeKind::Docker)?);
    }
    Ok(all)
}

/// Whether there is an engine, or ought to be one.
#[cfg(all(feature = "docker", unix))]
async fn may_have_containers(home: &Home) -> Result<bool> {
    Ok(uses_containers(home).await? || runtime::docker::answers().await)
}

/// Whether servers of a project are containers.
#[cfg(all(feature = "docker", unix))]
pub(crate) async fn uses_containers(home: &Home) -> Result<bool> {
    let projects = home.state().read(|tx| tx.every::<ProjectRecord>()).await?;
    Ok(projects.iter().any(|project| project.runtime == RuntimeKind::Docker))
}

/// Every storage that objects of this home may be in, the one first that is to remove what several
/// list: folders, and the folders that datasets are mounted on.
async fn storages(home: &Home) -> Result<Vec<Result<Arc<dyn Storage>>>> {
    let projects = home.state().read(|tx| tx.every::<ProjectRecord>()).await?;
    let mut all = Vec::new();
    #[allow(unused_mut)] // without zfs
    let mut zfs = projects.iter().any(|project| project.storage == StorageKind::Zfs);
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    {
        zfs |= crate::storage::zfs::is_used_by(home.config.home());
    }
    if zfs {
        // The settings may name another dataset than that of the home.
        all.push(home.storage(StorageKind::Zfs));
    }
    // Of those that this build has, the first knows what the others make.
    let folders = [StorageKind::Btrfs, StorageKind::Reflink, StorageKind::Copy];
    all.extend(folders.into_iter().find_map(|kind| home.storage(kind).ok()).map(Ok));
    Ok(all)
}

/// Every object that a record names.
async fn recorded(home: &Home) -> Result<HashSet<Object>> {
    home.state()
        .read(|tx| {
            let volumes = tx.every::<VolumeRecord>()?.into_iter().map(|v| Object::Volume(v.id));
            let snapshots =
                tx.every::<SnapshotRecord>()?.into_iter().map(|s| Object::Snapshot(s.id));
            // A record of another format of the future, perhaps: what a branch runs on is its own.
            let branches =
                tx.every::<BranchRecord>()?.into_iter().map(|b| Object::Volume(b.volume));
            Ok(volumes.chain(snapshots).chain(branches).collect())
        })
        .await
}

/// What no record names, as far as it can be seen.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    /// Volumes and snapshots, the youngest first: a clone before what it is made from.
    pub(crate) strays: Vec<Stray>,
    /// Why a storage could not be looked at, which hides nothing of the others.
    pub(crate) unseen: Vec<Error>,
}

/// Volumes and snapshots that no record names.
pub(crate) async fn objects(home: &Home) -> Result<Unrecorded> {
    // What is deleted meanwhile loses its record before it is looked for among them.
    let before = recorded(home).await?;
    let mut found = Unrecorded::default();
    for storage in storages(home).await? {
        let storage = match storage {
            Ok(storage) => storage,
            Err(error) => {
                found.unseen.push(error);
                continue;
            }
        };
        let listed = match storage.list().await {
            Ok(listed) => listed,
            Err(error) => {
                found.unseen.push(of_needless(home, &*storage, error).await?);
                continue;
            }
        };
        let strays = &mut found.strays;
        for object in listed {
            if !before.contains(&object) && !strays.iter().any(|stray| stray.object == object) {
                let location = storage.location(object);
                strays.push(Stray { object, storage: storage.clone(), location });
            }
        }
    }
    let after = recorded(home).await?;
    found.strays.retain(|stray| !after.contains(&stray.object));
    found.strays.sort_by_key(|stray| std::cmp::Reverse(stray.object.id()));
    Ok(found)
}

/// The error of a storage that cannot be looked at. A pool in which no project is any more may be gone
/// for good: what makes Velo look there is then said too.
async fn of_needless(home: &Home, storage: &dyn Storage, error: Error) -> Result<Error> {
    let zfs = StorageKind::Zfs.as_str();
    let projects = home.state().read(|tx| tx.every::<ProjectRecord>()).await?;
    if storage.capability().name != zfs || projects.iter().any(|p| p.storage == StorageKind::Zfs) {
        return Ok(error);
    }
    let file = home.config.home().join("zfs.json");
    let gone = format!("if nothing in it is needed any more: rm {}", file.display());
    let hint = match error.hint() {
        Some(hint) => format!("{hint}; {gone}"),
        None => gone,
    };
    Ok(error.with_hint(hint))
}

/// Folders of servers without a branch or a volume, on whose socket nobody listens.
pub(crate) async fn run_folders(home: &Home) -> Result<Vec<Id>> {
    let mut found = named_by_ids(&home.config.home().join("run"))?;
    let known = home.state().read(|tx| {
        let branches = tx.every::<BranchRecord>()?.into_iter().map(|b| b.id);
        let volumes = tx.every::<VolumeRecord>()?.into_iter().map(|v| v.id);
        Ok(branches.chain(volumes).collect::<HashSet<Id>>())
    });
    let known = known.await?;
    found.retain(|id| {
        let there = home.run_dir(*id).symlink_metadata().is_ok();
        there && !known.contains(id) && !RunDir::of(home, *id).is_served()
    });
    found.sort();
    Ok(found)
}

/// What in a folder has an id for its name.
fn named_by_ids(folder: &Path) -> Result<Vec<Id>> {
    let mut found = Vec::new();
    let fault = |e| Error::io(format!("list {}", folder.display()), e);
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.parse::<Id>().ok().filter(|id| id.to_string() == name));
        found.extend(id);
    }
    Ok(found)
}

/// Archives of WAL that no record names.
pub(crate) async fn archives(home: &Home) -> Result<Vec<Id>> {
    let folder = home.wal_dir();
    if folder.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    let mut found = named_by_ids(&folder)?;
    let known = home.state().read(|tx| {
        Ok(tx.every::<ArchiveRecord>()?.into_iter().map(|a| a.id).collect::<HashSet<Id>>())
    });
    let known = known.await?;
    found.retain(|id| {
        let there = folder.join(id.to_string()).symlink_metadata().is_ok();
        there && !known.contains(id)
    });
    found.sort();
    Ok(found)
}

/// Whether nothing has the name of this lock.
pub(crate) fn is_of_nothing(tx: &Tx<'_>, name: &str) -> Result<bool> {
    Ok(match name.parse::<Id>() {
        Ok(id) => !tx.has_any(id)?,
        Err(_) => name.starts_with(NAMED),
    })
}

/// Lock files of what is not there, which nobody holds.
pub(crate) async fn locks(home: &Home) -> Result<Vec<String>> {
    let folder = home.lock_path("");
    home.state()
        .read_alone(move |tx| {
            let fault = |e| Error::io(format!("list {}", folder.display()), e);
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&folder).map_err(fault)? {
                let path = entry.map_err(fault)?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_free = || Lock::is_free(&path, Mode::Exclusive).unwrap_or(false);
                if is_of_nothing(tx, &name)? && is_free() {
                    found.push(name);
                }
            }
            found.sort();
            Ok(found)
        })
        .await
}

/// The containers of this home that no record names, running or not. Without an engine there are none, unless
/// servers are known to be in one.
#[cfg(all(feature = "docker", unix))]
pub(crate) async fn containers(home: &Home) -> Result<Vec<runtime::docker::Found>> {
    if !may_have_containers(home).await? {
        return Ok(Vec::new());
    }
    let before = volumes(home).await?;
    let (_, found) = runtime::docker::look(home.config.home()).await?;
    of_nobody(home, before, found).await
}

/// Those of these containers that no record names, nor named before they were looked for.
#[cfg(all(feature = "docker", unix))]
pub(crate) async fn of_nobody(
    home: &Home,
    mut known: HashSet<PathBuf>,
    mut found: Vec<runtime::docker::Found>,
) -> Result<Vec<runtime::docker::Found>> {
    // And after them, so that what was made meanwhile is known.
    known.extend(volumes(home).await?);
    // One without a volume is a tool's, which another process may be running.
    found.retain(|container| container.volume.as_ref().is_some_and(|v| !known.contains(v)));
    Ok(found)
}

/// Where every volume is that a record names.
#[cfg(all(feature = "docker", unix))]
pub(crate) async fn volumes(home: &Home) -> Result<HashSet<PathBuf>> {
    let recorded = home.state().read(|tx| {
        let projects = tx.every::<ProjectRecord>()?;
        let volumes = tx.every::<VolumeRecord>()?;
        Ok(volumes
            .into_iter()
            .filter_map(|volume| {
                let project = projects.iter().find(|project| project.id == volume.project)?;
                Some((project.storage, volume.id))
            })
            .collect::<Vec<_>>())
    });
    let place = |(storage, id)| {
        let location = home.storage(storage)?.location(Object::Volume(id));
        Ok(location.host_path().to_path_buf())
    };
    recorded.await?.into_iter().map(place).collect()
}
