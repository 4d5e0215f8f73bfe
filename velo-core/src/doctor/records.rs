//! Whether the records, the disk and the processes agree.

use std::collections::HashSet;

use super::{Finding, machine};
use crate::boot;
use crate::branch::{self, lets_clients_in};
use crate::error::{ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::reconcile::{self, Left};
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord};
use crate::run_dir::RunDir;
use crate::runtime::{RuntimeKind, Status};
use crate::storage::{Object, StorageKind};
use crate::strays::{self, Looks, Stray, Unrecorded};
use crate::teardown;

/// Everything that is recorded.
struct Records {
    projects: Vec<ProjectRecord>,
    branches: Vec<BranchRecord>,
    volumes: Vec<VolumeRecord>,
    snapshots: Vec<SnapshotRecord>,
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
        // Listed once, and after what is recorded was read.
        let unrecorded = strays::objects(home).await?;
        found.extend(disk(home, &records, &unrecorded).await?);
        found.extend(servers(home, &records, unrecorded.strays).await?);
        found.extend(leases(home).await?);
        found.extend(leftovers(home).await?);
        found.extend(expired(home).await?);
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
                    None if s.role == Role::Base => {
                        format!("what moments of {of} are reached from")
                    }
                    None => format!("the state that {of} began with"),
                })
            }
        };
        match owner {
            Some(owner) => format!("{owner} ({object})"),
            None => object.to_string(),
        }
    }

    /// Whether it is a snapshot that Velo took by itself, for recovery to begin with.
    fn is_base(&self, object: &Object) -> bool {
        let is_it = |s: &SnapshotRecord| *object == Object::Snapshot(s.id) && s.role == Role::Base;
        self.snapshots.iter().any(is_it)
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
async fn disk(home: &Home, before: &Records, unrecorded: &Unrecorded) -> Result<Vec<Finding>> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(unrecorded.unseen.iter().map(|error| Finding::error("disk", error)));
    let (mut there, mut unseen) = (HashSet::new(), HashSet::new());
    for shelf in [Shelf::Folders, Shelf::Datasets] {
        match listing(home, before, shelf).await {
            Ok(listed) => there.extend(listed.into_iter().map(|object| (shelf, object))),
            Err(error) => {
                let finding = Finding::error("disk", &error);
                if !found.contains(&finding) {
                    found.push(finding);
                }
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
    // Nothing is lost with them but the way to older moments.
    let (bases, missing): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|(_, object)| after.is_base(object));
    if !bases.is_empty() {
        found.push(Finding::warn(
            "disk",
            format!(
                "recorded, and not there: {}",
                listed(bases.iter().map(|(_, object)| after.owner(object)))
            ),
            "moments before the next snapshot cannot be reached any more: velo snapshot create takes one, for those \
             from then on",
        ));
    }
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
    if !unrecorded.strays.is_empty() {
        let names = listed(unrecorded.strays.iter().map(Stray::name));
        found.push(Finding::warn(
            "disk",
            format!("there, and not recorded: {names}"),
            "velo gc --unrecorded --dry-run shows what they hold; without --dry-run it removes them",
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

pub(super) fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.join(", ")
}

/// Servers that run and ought not to, and the other way round.
async fn servers(home: &Home, records: &Records, unrecorded: Vec<Stray>) -> Result<Vec<Finding>> {
    let (mut running, mut unwanted, mut down, mut shut) = (0usize, vec![], vec![], vec![]);
    let (mut unheard, mut left, mut held, mut ended) = (vec![], vec![], vec![], vec![]);
    let mut silent_runtimes = vec![];
    let mut found: Vec<Finding> = Vec::new();
    for branch in records.branches.iter().filter(|b| b.phase == Phase::Ready) {
        let Some(project) = records.projects.iter().find(|p| p.id == branch.project) else {
            continue;
        };
        if silent_runtimes.contains(&project.runtime) {
            continue;
        }
        let status = match boot::look(home, project, branch, boot::end_of_look()).await {
            Ok(status) => status,
            // Said once of all branches that it keeps from being looked at.
            Err(error) => {
                if error.kind() == ErrorKind::Timeout {
                    silent_runtimes.push(project.runtime);
                }
                let finding = Finding::error("servers", &error);
                if !found.contains(&finding) {
                    found.push(finding);
                }
                continue;
            }
        };
        let runtime = home.runtime(project.runtime)?;
        let runs = matches!(status, Status::Running { .. });
        let name = format!("{}/{}", project.name, branch.shown());
        if status == Status::Restarting {
            let log = RunDir::of(home, branch.id).log();
            found.push(Finding::warn(
                "servers",
                format!("dies, and is started again: {name}"),
                format!("its log says why: {}", log.display()),
            ));
            continue;
        }
        running += usize::from(runs);
        let folder = RunDir::of(home, branch.id);
        let silent = runs && runtime.capability().unix_socket;
        if silent && branch.settled && !folder.socket_file(branch.port).exists() {
            unheard.push(name.clone());
        }
        if !runs && !branch.ephemeral && machine::is_held(branch.port) {
            held.push(format!("{name} (port {})", branch.port));
        }
        // A server that ought to run clears its own.
        if !runs && !branch.wanted && !folder.sockets().is_empty() {
            left.push(name.clone());
        }
        match (runs, branch.wanted) {
            (true, false) => unwanted.push(name),
            (false, true) if branch.ephemeral => ended.push(name),
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
            match down.len() {
                1 => format!("velo branch start {first}"),
                _ => "velo start --all".to_owned(),
            },
        ));
    }
    if !ended.is_empty() {
        found.push(Finding::warn(
            "servers",
            format!("ended, and are still held by processes: {}", ended.join(", ")),
            "they go with those processes; the end of their logs says why they ended",
        ));
    }
    if let Some(first) = shut.first() {
        found.push(Finding::warn(
            "servers",
            format!("run, and let no client in: {}", shut.join(", ")),
            format!("velo branch start {first}; where it hangs, velo branch restart {first}"),
        ));
    }
    let (mut strays, mut unasked, mut looks) = (Vec::new(), None, Looks::default());
    for stray in unrecorded {
        match looks.is_served(home, &stray).await {
            Ok(true) => strays.push(stray.name()),
            Ok(false) => {}
            Err(error) => unasked = Some(error),
        }
    }
    if let Some(error) = unasked {
        found.push(Finding::error("servers", &error));
    }
    if !strays.is_empty() {
        found.push(Finding::warn(
            "servers",
            format!("run on data that no record names: {}", listed(strays.into_iter())),
            "velo doctor --fix stops them",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("servers", format!("{running} running")));
    }
    if let Some(first) = unheard.first() {
        found.push(Finding::warn(
            "sockets",
            format!("run, and their sockets are gone: {}", unheard.join(", ")),
            format!("velo branch restart {first}"),
        ));
    }
    if !left.is_empty() {
        found.push(Finding::warn(
            "sockets",
            format!("left by servers that do not run: {}", left.join(", ")),
            "velo doctor --fix removes them",
        ));
    }
    if !held.is_empty() {
        found.push(Finding::warn(
            "ports",
            format!("held by other programs, so that they cannot start: {}", held.join(", ")),
            "end those programs; as root, ss -ltnp names them",
        ));
    }
    Ok(found)
}

/// Projects whose PostgreSQL is gone.
async fn programs(home: &Home, records: &Records) -> Vec<Finding> {
    let mut found = Vec::new();
    // An engine that hangs is asked for one image.
    let mut silent = false;
    for project in records.projects.iter().filter(|p| p.phase == Phase::Ready) {
        if silent && project.runtime == RuntimeKind::Docker {
            continue;
        }
        let installed = crate::project::installed(project, home);
        let installed = boot::in_time(project.runtime, boot::end_of_look(), installed);
        if let Err(error) = installed.await {
            silent |= error.kind() == ErrorKind::Timeout;
            let what = format!("for the project {}: {error}", project.name);
            let told = error.hint().map(str::to_owned);
            let fix = match &project.postgres.image {
                // Of an image the error knows best: the engine may be what is missing.
                Some(image) => told.unwrap_or_else(|| format!("docker pull {}", image.reference)),
                // Where another one is named, that counts before any that is there.
                None => {
                    told.filter(|_| error.kind() == ErrorKind::Incompatible).unwrap_or_else(|| {
                        format!("velo pg install {}", project.postgres.version.major)
                    })
                }
            };
            found.push(Finding::fail("postgres", what, fix));
        }
    }
    found
}

/// What lives under leases whose holder is dead, and the opening of the home could not undo or would
/// not.
async fn leases(home: &Home) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let dead: Vec<String> =
        reconcile::of_the_dead(home).await?.iter().map(|(id, _)| id.to_string()).collect();
    if !dead.is_empty() {
        found.push(Finding::warn(
            "leases",
            format!("left by dead processes: {}", dead.join(", ")),
            "velo -v status tries again, and says what is in the way",
        ));
    }
    let stuck = reconcile::given_up(home).await?;
    if !stuck.is_empty() {
        let names =
            stuck.iter().map(Left::deed).map(|deed| format!("the {} {}", deed.kind, deed.name));
        found.push(Finding::warn(
            "leases",
            format!("begun to be undone, and not gone: {}", listed(names)),
            "velo gc tries again, and says what is in the way",
        ));
    }
    let lost = reconcile::lost(home).await?;
    let lost: Vec<_> = lost.iter().map(Left::deed).collect();
    if !lost.is_empty() {
        let names = lost.iter().map(|deed| format!("the {} {}", deed.kind, deed.name));
        found.push(Finding::warn(
            "leases",
            format!(
                "recorded under processes that this home never had (is state.db restored from a \
                 backup?), and left alone: {}",
                listed(names)
            ),
            "velo gc --unrecorded --dry-run shows what they hold; without --dry-run it removes them",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("leases", "nothing is left of dead processes"));
    }
    Ok(found)
}

/// Files of the home's that belong to nothing.
async fn leftovers(home: &Home) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let folders = strays::run_folders(home).await?;
    if !folders.is_empty() {
        found.push(Finding::warn(
            "run",
            format!(
                "folders of servers that are not there: {}",
                listed(folders.iter().map(|id| home.run_dir(*id).display().to_string()))
            ),
            "velo gc",
        ));
    }
    let mut hidden = Vec::new();
    for project in home.state().read(|tx| tx.every::<ProjectRecord>()).await? {
        hidden.extend(teardown::needless(home, &project).await?);
    }
    if !hidden.is_empty() {
        found.push(Finding::warn(
            "hidden",
            format!(
                "needed by nothing, and still there: {}",
                listed(hidden.iter().map(Object::to_string))
            ),
            "velo gc removes it, or says what is in the way",
        ));
    }
    let locks = strays::locks(home).await?;
    if !locks.is_empty() {
        found.push(Finding::warn(
            "locks",
            format!("what they locked is not there: {}", listed(locks.into_iter())),
            "velo gc",
        ));
    }
    Ok(found)
}

/// Branches whose time is up, and which stay all the same.
async fn expired(home: &Home) -> Result<Vec<Finding>> {
    let expired = home.state().read(branch::expired).await?;
    let kept = expired.iter().filter(|(.., kept_by)| !kept_by.is_empty());
    let names: Vec<String> = kept
        .clone()
        .map(|(project, branch, kept_by)| {
            format!("{}/{} (by {})", project.name, branch.shown(), kept_by.join(", "))
        })
        .collect();
    let due = expired.iter().filter(|(.., kept_by)| kept_by.is_empty());
    let due: Vec<String> =
        due.map(|(project, branch, _)| format!("{}/{}", project.name, branch.shown())).collect();
    let mut found = Vec::new();
    if !names.is_empty() {
        found.push(Finding::warn(
            "expired",
            format!("their time is up, and they are needed: {}", names.join("; ")),
            "delete what needs them, or give them time: velo branch ttl PROJECT/BRANCH none",
        ));
    }
    if !due.is_empty() {
        found.push(Finding::warn(
            "expired",
            format!("their time is up, and they are still there: {}", due.join(", ")),
            "velo gc says what is in the way",
        ));
    }
    Ok(found)
}
