//! Whether the records, the disk and the processes agree.

use std::collections::HashSet;

use super::Finding;
use crate::boot::RunDir;
use crate::error::Result;
use crate::home::Home;
use crate::id::Id;
use crate::lease::Dead;
use crate::postgres::session::{Session, Target};
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord};
use crate::runtime::{InstanceRef, Status};
use crate::storage::{Object, StorageKind};

/// Everything that is recorded.
struct Records {
    projects: Vec<ProjectRecord>,
    branches: Vec<BranchRecord>,
    volumes: Vec<VolumeRecord>,
    snapshots: Vec<SnapshotRecord>,
    leases: Vec<Id>,
}

pub(super) async fn look(home: &Home) -> Vec<Finding> {
    let records = match read(home).await {
        Ok(records) => records,
        Err(error) => return vec![Finding::error("state", &error)],
    };
    let mut found = vec![Finding::ok(
        "state",
        format!(
            "{} projects, {} branches, {} snapshots",
            records.projects.len(),
            records.branches.iter().filter(|b| !b.is_closed()).count(),
            records.snapshots.iter().filter(|s| s.role == Role::Named).count()
        ),
    )];
    let rest = async {
        found.extend(programs(home, &records).await);
        found.extend(disk(home, &records).await?);
        found.extend(servers(home, &records).await?);
        found.extend(leases(home, &records)?);
        Ok(())
    };
    let result: Result<()> = rest.await;
    if let Err(error) = result {
        found.push(Finding::error("state", &error));
    }
    found
}

async fn read(home: &Home) -> Result<Records> {
    home.state()
        .read(|tx| {
            let mut all = Records {
                projects: tx.list("")?,
                branches: Vec::new(),
                volumes: Vec::new(),
                snapshots: Vec::new(),
                leases: tx.leases()?,
            };
            for project in &all.projects {
                let scope = project.id.to_string();
                all.branches.extend(tx.list::<BranchRecord>(&scope)?);
                all.volumes.extend(tx.list::<VolumeRecord>(&scope)?);
                all.snapshots.extend(tx.list::<SnapshotRecord>(&scope)?);
            }
            Ok(all)
        })
        .await
}

impl Records {
    /// What people call what a volume or a snapshot belongs to.
    fn owner(&self, object: &Object) -> String {
        let branch = |id: Id| {
            let branch = self.branches.iter().find(|b| b.id == id)?;
            let project = self.projects.iter().find(|p| p.id == branch.project)?;
            Some(format!("{}/{}", project.name, branch.shown()))
        };
        let owner = match object {
            Object::Volume(id) => {
                let owner = self.branches.iter().find(|b| b.volume == *id);
                owner.and_then(|b| branch(b.id)).map(|name| format!("the branch {name}"))
            }
            Object::Snapshot(id) => {
                let snapshot = self.snapshots.iter().find(|s| s.id == *id);
                snapshot.and_then(|s| Some((s, branch(s.branch)?))).map(|(s, of)| match &s.name {
                    Some(name) => format!("the snapshot {of}@{name}"),
                    None => format!("the state that {of} began with"),
                })
            }
        };
        match owner {
            Some(owner) => format!("{owner} ({object})"),
            None => object.to_string(),
        }
    }

    /// What is recorded, in whatever phase it is.
    fn objects(&self) -> HashSet<Object> {
        let volumes = self.volumes.iter().map(|v| Object::Volume(v.id));
        volumes.chain(self.snapshots.iter().map(|s| Object::Snapshot(s.id))).collect()
    }

    /// What must be there, and where: what is just being made may not be yet, and what is being
    /// deleted may be gone.
    fn steady(&self) -> HashSet<(Shelf, Object)> {
        let shelf = |project: Id| {
            let project = self.projects.iter().find(|p| p.id == project)?;
            Some(Shelf::of(project.storage))
        };
        let branches = self.branches.iter().filter(|b| b.phase == Phase::Ready);
        let snapshots = self.snapshots.iter().filter(|s| s.phase == Phase::Ready);
        let volumes = branches.filter_map(|b| Some((shelf(b.project)?, Object::Volume(b.volume))));
        let snapshots = snapshots.filter_map(|s| Some((shelf(s.project)?, Object::Snapshot(s.id))));
        volumes.chain(snapshots).collect()
    }
}

/// Volumes and snapshots: what is recorded against what is there. Other processes work meanwhile,
/// so that only what the records say before and after counts.
async fn disk(home: &Home, before: &Records) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let (mut there, mut unseen) = (HashSet::new(), HashSet::new());
    for shelf in [Shelf::Folders, Shelf::Datasets] {
        match listing(home, before, shelf).await {
            Ok(listed) => there.extend(listed.into_iter().map(|object| (shelf, object))),
            Err(error) => {
                found.push(Finding::error("disk", &error));
                unseen.insert(shelf);
            }
        }
    }
    let after = read(home).await?;
    // Each where its project keeps it: the folder that a dataset is mounted on is not its data.
    let mut missing = before.steady();
    missing.retain(|kept| {
        !there.contains(kept) && !unseen.contains(&kept.0) && after.steady().contains(kept)
    });
    if !missing.is_empty() {
        found.push(Finding::fail(
            "disk",
            format!(
                "recorded, and not there: {}",
                listed(missing.iter().map(|(_, object)| after.owner(object)))
            ),
            "delete the branches and snapshots that they belong to, or bring the files back",
        ));
    }
    let (first, last) = (before.objects(), after.objects());
    let mut strays: HashSet<Object> = there.into_iter().map(|(_, object)| object).collect();
    strays.retain(|object| !first.contains(object) && !last.contains(object));
    if !strays.is_empty() {
        found.push(Finding::warn(
            "disk",
            format!("there, and not recorded: {}", listed(strays.iter().map(ToString::to_string))),
            format!("look at them in {} and remove them by hand", home.config.home.display()),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("disk", "records and volumes agree"));
    }
    Ok(found)
}

/// Where objects are listed: storages with one layout of folders list the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shelf {
    Folders,
    Datasets,
}

impl Shelf {
    fn of(kind: StorageKind) -> Self {
        if kind == StorageKind::Zfs { Self::Datasets } else { Self::Folders }
    }
}

/// What is on a shelf. That of ZFS is looked at only where a project uses it.
async fn listing(home: &Home, records: &Records, shelf: Shelf) -> Result<Vec<Object>> {
    let used = records.projects.iter().map(|project| project.storage);
    let used = used.filter(|kind| Shelf::of(*kind) == shelf).collect::<HashSet<_>>();
    let mut all = Vec::new();
    for kind in &used {
        all.extend(home.storage(*kind)?.list().await?);
    }
    if used.is_empty() && shelf == Shelf::Folders {
        // Something may be left there of projects that are gone. Which kinds this build has is all
        // that can be in the way, and any one will do.
        let any = [StorageKind::Copy, StorageKind::Reflink, StorageKind::Btrfs];
        if let Some(storage) = any.into_iter().find_map(|kind| home.storage(kind).ok()) {
            all.extend(storage.list().await?);
        }
    }
    Ok(all)
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.join(", ")
}

/// Servers that run and ought not to, and the other way round.
async fn servers(home: &Home, records: &Records) -> Result<Vec<Finding>> {
    let (mut running, mut unwanted, mut down, mut shut) = (0usize, vec![], vec![], vec![]);
    let mut found: Vec<Finding> = Vec::new();
    for branch in records.branches.iter().filter(|b| b.phase == Phase::Ready) {
        let Some(project) = records.projects.iter().find(|p| p.id == branch.project) else {
            continue;
        };
        let runs = match runs(home, project, branch).await {
            Ok(runs) => runs,
            // Said once of all branches that it keeps from being looked at.
            Err(error) => {
                let finding = Finding::error("servers", &error);
                if !found.contains(&finding) {
                    found.push(finding);
                }
                continue;
            }
        };
        running += usize::from(runs);
        let name = format!("{}/{}", project.name, branch.shown());
        match (runs, branch.wanted) {
            (true, false) => unwanted.push(name),
            (false, true) => down.push(name),
            (true, true) if !lets_clients_in(home, project, branch).await => shut.push(name),
            _ => {}
        }
    }
    if let Some(first) = unwanted.first() {
        found.push(Finding::warn(
            "servers",
            format!("run, and were stopped: {}", unwanted.join(", ")),
            format!("velo branch stop {first}"),
        ));
    }
    if let Some(first) = down.first() {
        found.push(Finding::warn(
            "servers",
            format!("ought to run, and do not: {}", down.join(", ")),
            format!("velo branch start {first}"),
        ));
    }
    if let Some(first) = shut.first() {
        found.push(Finding::warn(
            "servers",
            format!("run, and let no client in: {}", shut.join(", ")),
            format!("velo branch start {first}"),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("servers", format!("{running} running")));
    }
    Ok(found)
}

/// Whether a branch's server runs.
async fn runs(home: &Home, project: &ProjectRecord, branch: &BranchRecord) -> Result<bool> {
    let location = home.storage(project.storage)?.location(Object::Volume(branch.volume));
    let instance = InstanceRef { id: branch.id, location };
    let status = home.runtime(project.runtime)?.status(&instance).await?;
    Ok(matches!(status, Status::Running { .. }))
}

/// Whether the start of a server came to its end. It may be recovering, or be starting at this moment.
async fn lets_clients_in(home: &Home, project: &ProjectRecord, branch: &BranchRecord) -> bool {
    let socket_dir = RunDir::of(home, branch.id).socket();
    let target = Target {
        socket_dir: &socket_dir,
        port: branch.port,
        role: &project.role,
        database: &project.database,
        major: project.postgres.version.major,
    };
    Session::is_open(target, &branch.password).await
}

/// Projects whose PostgreSQL is gone.
async fn programs(home: &Home, records: &Records) -> Vec<Finding> {
    let mut found = Vec::new();
    for project in records.projects.iter().filter(|p| p.phase == Phase::Ready) {
        if let Err(error) = crate::project::installed(project, home).await {
            let what = format!("for the project {}: {error}", project.name);
            let fix = match &project.postgres.image {
                // Of an image the error knows best: the engine may be what is missing.
                Some(image) => error
                    .hint()
                    .map_or_else(|| format!("docker pull {}", image.reference), str::to_owned),
                None => format!("velo pg install {}", project.postgres.version.major),
            };
            found.push(Finding::fail("postgres", what, fix));
        }
    }
    found
}

/// Leases whose holder is dead, which the opening of the home could not undo.
fn leases(home: &Home, records: &Records) -> Result<Vec<Finding>> {
    let own = home.lease()?;
    let mut dead = Vec::new();
    for id in records.leases.iter().filter(|id| **id != own) {
        // Dropped at once: whoever opens the home next undoes what is under it.
        if Dead::claim(&home.leases(), *id)?.is_some() {
            dead.push(id.to_string());
        }
    }
    Ok(if dead.is_empty() {
        vec![Finding::ok("leases", "nothing is left of dead processes")]
    } else {
        vec![Finding::warn(
            "leases",
            format!("left by dead processes: {}", dead.join(", ")),
            "velo -v status tries again, and says what is in the way",
        )]
    })
}
