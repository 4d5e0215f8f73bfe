//! The records: what Velo knows of projects, branches, volumes and snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::Follow;
use crate::id::{BranchName, Id, ProjectName, SnapshotName};
use crate::import::Recipe;
use crate::postgres::lsn::Lsn;
use crate::postgres::scram::Password;
use crate::postgres::{Installation, Libc};
use crate::runtime::{Limits, RuntimeKind};
use crate::state::Record;
use crate::storage::{Object, StorageKind};
use crate::timings::Timings;
use crate::wal::Reached;

/// Milliseconds since 1970, UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Where in its life something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Being made: undone if its maker dies.
    Creating,
    /// Complete.
    Ready,
    /// Being renewed on another volume: finished or undone if its maker dies.
    Resetting,
    /// Being undone: finished by whoever finds it.
    Deleting,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProjectRecord {
    pub(crate) id: Id,
    pub(crate) name: ProjectName,
    pub(crate) phase: Phase,
    pub(crate) lease: Option<Id>,
    pub(crate) storage: StorageKind,
    pub(crate) runtime: RuntimeKind,
    pub(crate) postgres: Installation,
    /// Where that keeps its extensions.
    #[serde(default)]
    pub(crate) share_dir: Option<PathBuf>,
    /// The C library that its text was sorted with from the beginning, where it is known. That of
    /// `postgres` may become another one, when its image is gone and its name means another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) libc: Option<Libc>,
    /// What each of its servers may take of the machine.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(crate) limits: Limits,
    /// The superuser that Velo works as, and that URLs name.
    pub(crate) role: String,
    /// The database that URLs name.
    pub(crate) database: String,
    /// How long the WAL of its lasting branches is kept, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wal_retention: Option<u64>,
    /// What `main` was brought from, and how it is brought anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Recipe>,
    pub(crate) created_at: u64,
}

impl Record for ProjectRecord {
    const KIND: &'static str = "project";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        String::new()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
    fn lease(&self) -> Option<Id> {
        self.lease
    }
}

/// What a branch was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// `initdb`: the branch `main`.
    Initdb,
    /// The state of a branch at that moment.
    Branch(Id),
    /// A snapshot.
    Snapshot(Id),
    /// A branch as it was at some moment.
    Moment(Id),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BranchRecord {
    pub(crate) id: Id,
    pub(crate) project: Id,
    /// None: an ephemeral branch, known by its label and id.
    pub(crate) name: Option<BranchName>,
    pub(crate) label: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) ephemeral: bool,
    /// Of its maker while something is done with it; of its holder as long as it is ephemeral.
    pub(crate) lease: Option<Id>,
    /// The branch it hangs from in the tree.
    pub(crate) parent: Option<Id>,
    pub(crate) made_from: Origin,
    /// The snapshot of the state it began with.
    pub(crate) origin: Option<Id>,
    /// The volume that its server runs on.
    pub(crate) volume: Id,
    pub(crate) port: u16,
    pub(crate) password: Password,
    /// Whether a server ought to run: what a start after a crash, or of the whole machine, goes by.
    pub(crate) wanted: bool,
    /// Whether it was stopped with all others, and starts with them again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resumes: bool,
    /// When its time is up, in milliseconds since 1970, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
    /// Whether it is neither deleted nor reset, whatever happens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) protected: bool,
    /// Settings the caller gave for its server.
    pub(crate) settings: BTreeMap<String, String>,
    /// What its server may take of the machine, where that is not what the project says.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(crate) limits: Limits,
    /// How many bytes its volumes may refer to.
    #[serde(default)]
    pub(crate) quota: Option<u64>,
    pub(crate) cut: Option<Cut>,
    /// Whether a server has run on its volume, so that nothing in it is the parent's any more: the
    /// password is the branch's own, and what subscriptions there are are its own too.
    #[serde(default)]
    pub(crate) settled: bool,
    /// The server elsewhere that it follows. Of `main` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) follows: Option<Follow>,
    /// The moment of its parent that it began with, where it is one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reached: Option<Reached>,
    /// What it had until other data was put in its place, of which nobody knows yet whether it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Box<Before>>,
    pub(crate) created_at: u64,
    pub(crate) timings: Timings,
}

/// What is known of the data that a branch had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    volume: Id,
    cut: Option<Cut>,
    settled: bool,
    follows: Option<Follow>,
    reached: Option<Reached>,
}

impl Before {
    pub(crate) fn of(branch: &BranchRecord) -> Self {
        Self {
            volume: branch.volume,
            cut: branch.cut.clone(),
            settled: branch.settled,
            follows: branch.follows.clone(),
            reached: branch.reached.clone(),
        }
    }

    /// The branch has it again.
    pub(crate) fn back_in(self, branch: &mut BranchRecord) {
        branch.volume = self.volume;
        branch.cut = self.cut;
        branch.settled = self.settled;
        branch.follows = self.follows;
        branch.reached = self.reached;
    }
}

impl BranchRecord {
    /// Records whether a server has run on its volume: where one has, Velo's role is in it.
    pub(crate) fn settle(&mut self, settled: bool) {
        self.settled = settled;
        if let Some(cut) = self.cut.as_mut().filter(|_| settled) {
            cut.superuser = None;
        }
    }

    /// A superuser of its data's, where that lacks Velo's role.
    pub(crate) fn superuser(&self) -> Option<&str> {
        match &self.follows {
            Some(follow) => Some(&follow.superuser),
            None => self.cut.as_ref()?.superuser.as_deref(),
        }
    }

    /// Whether it was closed, and only its files are left.
    pub(crate) fn is_closed(&self) -> bool {
        self.ephemeral && self.phase == Phase::Deleting
    }

    /// An error unless it is this process's to renew and to restart: what another process starts of
    /// an ephemeral branch would end with that one, under its holder.
    pub(crate) fn must_be_own(&self, lease: Id) -> Result<()> {
        if !self.ephemeral || self.lease == Some(lease) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("{} is ephemeral, and another process's", self.shown()),
        )
        .with_hint("only its holder can change it; make a branch of it, which is yours"))
    }

    /// What people call it: its name, or its label and the end of its id.
    pub(crate) fn shown(&self) -> String {
        match (&self.name, &self.label) {
            (Some(name), _) => name.to_string(),
            (None, Some(label)) => format!("~{label}.{}", short(self.id)),
            (None, None) => format!("~{}", short(self.id)),
        }
    }
}

fn short(id: Id) -> String {
    let id = id.to_string().to_lowercase();
    id[id.len() - 8..].to_owned()
}

impl Record for BranchRecord {
    const KIND: &'static str = "branch";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        self.project.to_string()
    }
    fn name(&self) -> Option<&str> {
        self.name.as_ref().map(BranchName::as_str)
    }
    fn lease(&self) -> Option<Id> {
        self.lease
    }
    fn port(&self) -> Option<u16> {
        Some(self.port)
    }
    fn expires(&self) -> Option<u64> {
        // A protected one has all the time, so nobody needs to look at it.
        self.expires.filter(|_| !self.protected)
    }
    fn owner(&self) -> Option<Id> {
        self.parent
    }
}

/// A volume of a branch. A branch has one but while it is reset, or when another one is kept for
/// clones that need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) id: Id,
    pub(crate) project: Id,
    /// None: hidden, kept only because clones need it.
    pub(crate) branch: Option<Id>,
    /// What it was cloned from.
    pub(crate) source: Option<Object>,
}

impl Record for VolumeRecord {
    const KIND: &'static str = "volume";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        self.project.to_string()
    }
    fn name(&self) -> Option<&str> {
        None
    }
    fn lease(&self) -> Option<Id> {
        None
    }
    fn owner(&self) -> Option<Id> {
        self.branch
    }
    fn source(&self) -> Option<Id> {
        self.source.map(Object::id)
    }
}

/// Why a snapshot exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Somebody asked for it and gave it a name.
    Named,
    /// The state that a persistent branch began with.
    Origin,
    /// Data that was prepared, known by a hash of what it is made from.
    Seed,
    /// What recovery begins with: Velo took it where WAL began to be kept, or somebody has deleted it while
    /// moments are reached from it.
    Base,
    /// It was deleted, and is kept only because clones need it.
    Hidden,
}

/// What a seed is known by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SeedMark {
    /// A hash, in hexadecimal.
    pub(crate) key: String,
    pub(crate) label: Option<String>,
    /// When somebody last asked for it, in milliseconds since 1970, UTC.
    pub(crate) used_at: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) id: Id,
    pub(crate) project: Id,
    /// The branch it was taken of.
    pub(crate) branch: Id,
    pub(crate) name: Option<SnapshotName>,
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    pub(crate) lease: Option<Id>,
    /// The volume it was cloned from.
    pub(crate) source: Option<Object>,
    /// The password of Velo's role in it.
    pub(crate) password: Password,
    /// Settings the caller gave for the server of the branch it was taken of.
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    /// What that server might take of the machine.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(crate) limits: Limits,
    pub(crate) cut: Option<Cut>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<SeedMark>,
    /// Whether a schedule took it, and a retention may remove it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) scheduled: bool,
    pub(crate) created_at: u64,
}

impl Record for SnapshotRecord {
    const KIND: &'static str = "snapshot";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        self.project.to_string()
    }
    fn name(&self) -> Option<&str> {
        // No two of a project have the same key.
        self.seed.as_ref().map(|seed| seed.key.as_str())
    }
    fn lease(&self) -> Option<Id> {
        self.lease
    }
    fn owner(&self) -> Option<Id> {
        Some(self.branch)
    }
    fn source(&self) -> Option<Id> {
        self.source.map(Object::id)
    }
}

/// The WAL of one incarnation of a branch's data ([`crate::wal`]). It has the id of the volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ArchiveRecord {
    pub(crate) id: Id,
    pub(crate) project: Id,
    pub(crate) branch: Id,
    /// In milliseconds since 1970, UTC.
    pub(crate) begun_at: u64,
    /// When its volume went, and nothing is added any more.
    pub(crate) ended_at: Option<u64>,
    /// Whether its server archives, as it was started last.
    pub(crate) archiving: bool,
    /// Whether there is no base yet since it began, or since WAL was not archived for a while.
    pub(crate) wants_base: bool,
    /// Where its WAL begins: what is before was never archived, or pruned. None in a record of an earlier
    /// version's, until it is pruned.
    #[serde(default)]
    pub(crate) from: Option<Lsn>,
    /// Where its WAL went up to at least, once it has ended. None in a record of an earlier version's.
    #[serde(default)]
    pub(crate) written: Option<Lsn>,
}

impl Record for ArchiveRecord {
    const KIND: &'static str = "archive";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        self.project.to_string()
    }
    fn name(&self) -> Option<&str> {
        None
    }
    fn lease(&self) -> Option<Id> {
        None
    }
    fn owner(&self) -> Option<Id> {
        Some(self.branch)
    }
}

/// A place in the line for a slot ([`crate::slots`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlaceRecord {
    pub(crate) id: Id,
    /// Who came first has the smallest.
    pub(crate) number: u64,
    /// Of the process that waits.
    pub(crate) lease: Id,
    /// What its server is to be given, in bytes.
    pub(crate) memory: u64,
    /// When it gives up, in milliseconds since 1970. From then on nobody waits for it.
    pub(crate) until: u64,
}

impl Record for PlaceRecord {
    const KIND: &'static str = "place";
    fn id(&self) -> Id {
        self.id
    }
    fn scope(&self) -> String {
        String::new()
    }
    fn name(&self) -> Option<&str> {
        None
    }
    fn lease(&self) -> Option<Id> {
        Some(self.lease)
    }
}
