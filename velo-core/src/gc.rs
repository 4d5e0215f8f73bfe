//! Removing what nothing needs: what dead processes left, branches whose time is up, hidden data that
//! no clone needs any more, files of servers that are not there; and, if that is asked for, volumes,
//! snapshots and archives of WAL that no record names.
//!
//! Most of it every opening of a home does too, in little time and without a word. Nothing is touched
//! that Velo did not make: it is known by its place in the home, by its mark (ZFS, containers), and by
//! a name that is an id.

use std::collections::HashSet;

use serde::Serialize;

use crate::boot;
use crate::branch;
use crate::care::{Deed, measured, measured_in};
use crate::config::Config;
use crate::engine::{self, Call, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::reconcile::{self, Left, Round};
use crate::record::{BranchRecord, ProjectRecord, VolumeRecord};
use crate::run_dir::RunDir;
use crate::runtime::Status;
use crate::state::Tx;
use crate::storage::Object;
use crate::strays::{self, Looks, Stray, Unrecorded};
use crate::teardown;
use crate::wal;

/// What is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcSpec {
    dry_run: bool,
    unrecorded: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// What was removed or finished, what would be, or what is in the way of that.
    pub deeds: Vec<Deed>,
    /// What is left alone where it was not asked for: what is there and no record names, and what is
    /// recorded as half done by a process that this home never had.
    pub unrecorded: Vec<Deed>,
}

impl GcSpec {
    /// All but what no record names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only says what would be removed: nothing at all is changed.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Removes too what is there and no record names, and on which no server runs: volumes, snapshots,
    /// archives of WAL, containers; and what is recorded as half done by a process that this home never had. **Where
    /// `state.db` was restored from a backup, that is what was made or finished since: its data would
    /// be lost.** Try it with [`dry_run`](Self::dry_run) first.
    #[must_use]
    pub fn unrecorded(mut self) -> Self {
        self.unrecorded = true;
        self
    }
}

/// Removes what nothing needs. What is in the way of one thing keeps no other from going.
///
/// # Errors
/// If the home cannot be opened, or another process cleans up and does not end.
pub async fn collect(config: &Config, spec: GcSpec) -> Result<Collected> {
    collect_call(config, spec).await
}

pub(crate) fn collect_call(config: &Config, spec: GcSpec) -> Call<Collected> {
    let config = config.clone();
    engine::call(move |op| async move {
        let mut collected = Collected { deeds: Vec::new(), unrecorded: Vec::new() };
        // Opening it as usual would remove things before they can be told.
        let Some(home) = Engine::get()?.home_as_it_is(&config).await? else {
            return Ok(collected);
        };
        if spec.dry_run {
            collected.deeds = would(&home).await?;
        } else {
            home.make_way().await;
            let _one = reconcile::alone(&home, &op.cancel).await?;
            collected.deeds = recorded(&home).await?;
        }
        let (mut strays, unseen) = unrecorded(&home, spec).await?;
        collected.deeds.extend(unseen);
        match containers(&home, spec.unrecorded && !spec.dry_run).await {
            Ok(found) => strays.extend(found),
            // What was done elsewhere is told all the same.
            Err(error) => {
                let every = Deed::removed("container", "that may be there", "no record names it");
                collected.deeds.push(every.came_to(&Err(error)));
            }
        }
        match spec.unrecorded {
            true => collected.deeds.extend(strays),
            false => collected.unrecorded = strays,
        }
        Ok(collected)
    })
}

/// Removes all that is known to be needed by nobody. The caller is the one who cleans up.
pub(crate) async fn recorded(home: &Home) -> Result<Vec<Deed>> {
    // Who dies in the middle of it must have left something that brings the next one here.
    home.lease()?;
    let mut round = Round::unbounded();
    reconcile::dead(home, &mut round).await?;
    reconcile::expire(home, &mut round).await?;
    reconcile::sweep_hidden(home, &mut round).await;
    for id in strays::run_folders(home).await? {
        let result = RunDir::of(home, id).remove_orphaned();
        round.deeds.push(run_folder(home, id).came_to(&result));
    }
    reconcile::sweep_locks(home, &mut round).await?;
    Ok(round.deeds)
}

fn run_folder(home: &Home, id: Id) -> Deed {
    let name = home.run_dir(id).display().to_string();
    Deed::removed("run", name, "the files of a server that is not there")
}

/// What would be removed.
async fn would(home: &Home) -> Result<Vec<Deed>> {
    let mut deeds = Vec::new();
    let dead = reconcile::of_the_dead(home).await?.into_iter().flat_map(|(_, left)| left);
    let dead = dead.map(|left| (left.deed(), left));
    let given_up = reconcile::given_up(home).await?.into_iter();
    let given_up = given_up.map(|left| (left.deed_because(reconcile::UNFINISHED), left));
    let lost = reconcile::lost(home).await?.into_iter().filter(Left::keeps_data);
    let lost = lost.map(|left| (left.deed_because(reconcile::UNKNOWN), left));
    for (deed, left) in dead.chain(given_up).chain(lost) {
        deeds.push(deed.of_bytes(left.measured(home).await));
    }
    let mut expired = home.state().read(branch::expired).await?;
    loop {
        // What goes takes the last reason from what it was made from.
        let goes =
            |name: &String| deeds.iter().any(|deed| deed.deed == "removed" && deed.name == *name);
        let next = expired.iter().position(|(.., kept_by)| kept_by.iter().all(goes));
        let Some(next) = next else { break };
        let (project, branch, _) = expired.remove(next);
        let volume = Object::Volume(branch.volume);
        let bytes = measured_in(home, project.storage, volume).await;
        deeds.push(reconcile::of_expired(&project, &branch).of_bytes(bytes));
    }
    for project in home.state().read(|tx| tx.every::<ProjectRecord>()).await? {
        let needless = teardown::needless(home, &project).await?;
        deeds.extend(needless.iter().map(reconcile::of_hidden));
    }
    let folders = strays::run_folders(home).await?;
    deeds.extend(folders.into_iter().map(|id| run_folder(home, id)));
    deeds.extend(strays::locks(home).await?.into_iter().map(reconcile::of_lock));
    Ok(deeds)
}

/// What is there and no record names; and what cannot be looked at.
async fn unrecorded(home: &Home, spec: GcSpec) -> Result<(Vec<Deed>, Vec<Deed>)> {
    let removes = spec.unrecorded && !spec.dry_run;
    let (mut deeds, mut looks) = (Vec::new(), Looks::default());
    let mut served = HashSet::new();
    let Unrecorded { strays, unseen } = strays::objects(home).await?;
    let every = || Deed::removed("volume", "that may be there", "no record names it");
    let unseen: Vec<Deed> = unseen.into_iter().map(|error| every().came_to(&Err(error))).collect();
    for stray in strays {
        let bytes = measured(&*stray.storage, stray.object).await;
        let kind = match stray.object {
            Object::Volume(_) => "volume",
            Object::Snapshot(_) => "snapshot",
        };
        let deed = Deed::removed(kind, stray.name(), "no record names it").of_bytes(bytes);
        let result = remove_stray(home, &stray, &mut looks, removes).await;
        if result.is_err() {
            served.insert(stray.object.id());
        }
        deeds.push(deed.came_to(&result));
    }
    deeds.extend(archives(home, &served, unseen.is_empty(), removes).await?);
    deeds.extend(lost(home, removes).await?);
    Ok((deeds, unseen))
}

/// Archives of WAL that no record names. On the volumes `served`, which no record names either, servers may run;
/// there may be more of them unless `all_seen`.
async fn archives(
    home: &Home,
    served: &HashSet<Id>,
    all_seen: bool,
    removes: bool,
) -> Result<Vec<Deed>> {
    let mut deeds = Vec::new();
    for id in strays::archives(home).await? {
        let name = wal::archive::folder(home, id).display().to_string();
        let bytes = wal::archive::bytes(home, id);
        let deed = Deed::removed("wal", name, "no record names it").of_bytes(bytes);
        let conflict = |what: String, hint: &str| {
            Err(Error::new(ErrorKind::Conflict, what).with_hint(hint.to_owned()))
        };
        let result = match adds_to(home, id).await {
            Ok(Some(branch)) => conflict(
                format!("the server of {branch} may be adding to it"),
                &format!("velo branch stop {branch}"),
            ),
            Ok(None) if served.contains(&id) => {
                conflict("a server may be adding to it".into(), "velo doctor --fix stops it")
            }
            Ok(None) if !all_seen => conflict(
                "its volume may be where nothing can be seen".into(),
                "see what is said of that place, and try again",
            ),
            Ok(None) if removes => wal::archive::remove_folder(home, id),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        deeds.push(deed.came_to(&result));
    }
    Ok(deeds)
}

/// The branch whose server may be adding to an archive that no record names: records may be older than it is.
async fn adds_to(home: &Home, id: Id) -> Result<Option<String>> {
    let owner = move |tx: &Tx<'_>| {
        let branch = tx.get::<VolumeRecord>(id)?.and_then(|volume| volume.branch);
        let branch = branch.map(|id| tx.get::<BranchRecord>(id)).transpose()?.flatten();
        let project = branch.as_ref().map(|branch| tx.get::<ProjectRecord>(branch.project));
        Ok(project.transpose()?.flatten().zip(branch))
    };
    let Some((project, branch)) = home.state().read(owner).await? else { return Ok(None) };
    let status = boot::look(home, &project, &branch, boot::end_of_look()).await?;
    let shown = format!("{}/{}", project.name, branch.shown());
    Ok((status != Status::Stopped).then_some(shown))
}

/// What is recorded as half done, or as belonging to a process, that was never this home's.
async fn lost(home: &Home, removes: bool) -> Result<Vec<Deed>> {
    let mut deeds = Vec::new();
    for left in reconcile::lost(home).await?.into_iter().filter(|left| !left.keeps_data()) {
        let deed = left.deed_because(reconcile::UNKNOWN).of_bytes(left.measured(home).await);
        let result = match left.refuse_unsure(home).await {
            Ok(()) if removes => left.finish(home).await.map(drop),
            known => known,
        };
        deeds.push(deed.came_to(&result));
    }
    Ok(deeds)
}

/// Removes it if nobody works on it; or says only whether somebody does.
async fn remove_stray(home: &Home, stray: &Stray, looks: &mut Looks, removes: bool) -> Result<()> {
    if looks.is_served(home, stray).await? {
        return Err(Error::new(ErrorKind::Conflict, "a server runs on it")
            .with_hint("velo doctor --fix stops it"));
    }
    match stray.object {
        _ if !removes => Ok(()),
        Object::Volume(id) => {
            // Of processes nothing is there; of what one that was killed left there may be.
            stray.end(home).await?;
            stray.storage.destroy_volume(id).await
        }
        Object::Snapshot(id) => stray.storage.destroy_snapshot(id).await,
    }
}

#[cfg(not(all(feature = "docker", unix)))]
async fn containers(_: &Home, _: bool) -> Result<Vec<Deed>> {
    Ok(Vec::new())
}

#[cfg(all(feature = "docker", unix))]
async fn containers(home: &Home, removes: bool) -> Result<Vec<Deed>> {
    use crate::runtime::docker;
    let mut deeds = Vec::new();
    for container in strays::containers(home).await?.into_iter().filter(|c| c.of_this_home) {
        let result = match removes {
            true => docker::remove_idle(&container.name).await,
            false => Ok(()),
        };
        let deed = Deed::removed("container", container.name, "no record names it");
        deeds.push(deed.came_to(&result));
    }
    Ok(deeds)
}
