//! What is known of branches.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::lifetime;
use crate::boot;
use crate::cut::Cut;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::id::Id;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, SnapshotRecord};
use crate::run_dir::RunDir;
use crate::runtime::{RuntimeKind, Status};
use crate::state::Tx;
use crate::storage::StorageKind;
use crate::wal::Reached;

/// What a branch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It is being made.
    Creating,
    /// Its server runs.
    Running,
    /// Its server died, and its runtime starts it again, perhaps not for the first time.
    Restarting,
    /// Its server does not run.
    Stopped,
    /// Its data is being renewed.
    Resetting,
    /// It is being deleted.
    Deleting,
    /// Nobody can tell, as where the engine of its container does not answer.
    Unknown,
}

impl State {
    /// The name in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Resetting => "resetting",
            Self::Deleting => "deleting",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a branch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BranchInfo {
    /// Its identity.
    pub id: Id,
    /// The project's name.
    pub project: String,
    /// Its name; an ephemeral branch has none.
    pub name: Option<String>,
    /// What people call it: the name, or for an ephemeral branch `~label.id`.
    pub shown: String,
    /// The branch it hangs from in the tree; `main` has none.
    pub parent: Option<Id>,
    /// What the parent is called.
    pub parent_shown: Option<String>,
    /// The snapshot it was made from, if it was made from one (its name, or its id if it is gone).
    pub from_snapshot: Option<String>,
    /// Whether it ends with its holder.
    pub ephemeral: bool,
    /// What it does now.
    pub state: State,
    /// The storage that it really uses.
    pub storage: StorageKind,
    /// The runtime of its server.
    pub runtime: RuntimeKind,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The server's process id, while it runs.
    pub pid: Option<u32>,
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
    /// The moment of its parent that it began with.
    pub cut: Option<Cut>,
    /// The moment of its parent that was asked for, if one was.
    pub reached: Option<Reached>,
    /// When its time is up, in milliseconds since 1970, UTC; `None` is never.
    pub expires_at: Option<u64>,
    /// What keeps it although its time is up: branches that were made from it, and its snapshots.
    pub kept_by: Vec<String>,
    /// Whether it is protected: neither deleted nor reset, and its time is never up.
    pub protected: bool,
    /// Why it does not do what it ought to, or why nobody can tell what it does, and what helps.
    pub problem: Option<String>,
}

/// A branch, and what the records beside it say of it.
struct Around {
    record: BranchRecord,
    parent_shown: Option<String>,
    from_snapshot: Option<String>,
    kept_by: Vec<String>,
}

/// Reads what is around these branches of a project: of each thing that is named, the one record.
fn around(tx: &Tx<'_>, project: &ProjectRecord, records: Vec<BranchRecord>) -> Result<Vec<Around>> {
    let now = crate::record::now();
    let mut parents: HashMap<Id, Option<String>> =
        records.iter().map(|branch| (branch.id, Some(branch.shown()))).collect();
    let mut snapshots: HashMap<Id, String> = HashMap::new();
    let mut all = Vec::with_capacity(records.len());
    for record in records {
        let parent_shown = match record.parent.map(|parent| (parent, parents.get(&parent))) {
            None => None,
            Some((_, Some(known))) => known.clone(),
            Some((parent, None)) => {
                let shown = tx.get::<BranchRecord>(parent)?.map(|branch| branch.shown());
                parents.insert(parent, shown.clone());
                shown
            }
        };
        let from_snapshot = match record.made_from {
            Origin::Snapshot(id) => Some(match snapshots.get(&id) {
                Some(known) => known.clone(),
                None => {
                    let name = tx.get::<SnapshotRecord>(id)?.and_then(|snapshot| snapshot.name);
                    let shown = name.map_or_else(|| id.to_string(), String::from);
                    snapshots.insert(id, shown.clone());
                    shown
                }
            }),
            _ => None,
        };
        let over = !record.protected && record.expires.is_some_and(|time| time <= now);
        let kept_by = if over { lifetime::kept_by(tx, project, &record)? } else { Vec::new() };
        all.push(Around { record, parent_shown, from_snapshot, kept_by });
    }
    Ok(all)
}

/// How many servers are looked at at a time.
const LOOKS: usize = 16;

/// An error, and what helps, in one line.
fn told(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// What is known of these branches of a project.
pub(crate) async fn infos(
    home: &Home,
    project: &ProjectRecord,
    records: Vec<BranchRecord>,
) -> Result<Vec<BranchInfo>> {
    let mut infos = Vec::with_capacity(records.len());
    let owned = project.clone();
    let records = home.state().read(move |tx| around(tx, &owned, records)).await?;
    // Several at a time and all until one moment: one that cannot be looked at keeps none from being told of.
    let end = boot::end_of_look();
    // In boxes: the compiler finds no lifetime for them in a stream else.
    let looks: Vec<BoxFuture<'_, Result<Status>>> =
        records.iter().map(|a| boot::look(home, project, &a.record, end).boxed()).collect();
    let looks: Vec<_> = futures_util::stream::iter(looks).buffered(LOOKS).collect().await;
    for (Around { record, parent_shown, from_snapshot, kept_by }, look) in
        records.into_iter().zip(looks)
    {
        let (served, pid, problem) = match look {
            Ok(Status::Running { pid }) => (State::Running, pid, None),
            Ok(Status::Restarting) => {
                let log = RunDir::of(home, record.id).log();
                let why = format!(
                    "its server died and is started again; why it did is in its log: {}",
                    log.display()
                );
                (State::Restarting, None, Some(why))
            }
            Ok(Status::Stopped) => (State::Stopped, None, None),
            Err(error) => (State::Unknown, None, Some(told(&error))),
        };
        let state = match record.phase {
            Phase::Creating => State::Creating,
            Phase::Deleting => State::Deleting,
            Phase::Resetting => State::Resetting,
            Phase::Ready => served,
        };
        infos.push(BranchInfo {
            id: record.id,
            project: project.name.to_string(),
            shown: record.shown(),
            name: record.name.map(String::from),
            parent: record.parent,
            parent_shown,
            from_snapshot,
            ephemeral: record.ephemeral,
            state,
            storage: project.storage,
            runtime: project.runtime,
            port: record.port,
            pid,
            created_at: record.created_at,
            cut: record.cut,
            reached: record.reached,
            expires_at: record.expires,
            kept_by,
            protected: record.protected,
            problem,
        });
    }
    Ok(infos)
}
