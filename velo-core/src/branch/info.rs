//! What is known of branches.

use serde::Serialize;

use super::lifetime;
use crate::boot;
use crate::cut::Cut;
use crate::error::Result;
use crate::home::Home;
use crate::id::Id;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, SnapshotRecord};
use crate::runtime::{RuntimeKind, Status};
use crate::storage::StorageKind;

/// What a branch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It is being made.
    Creating,
    /// Its server runs.
    Running,
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
    /// When its time is up, in milliseconds since 1970, UTC; `None` is never.
    pub expires_at: Option<u64>,
    /// What keeps it although its time is up: branches that were made from it, and its snapshots.
    pub kept_by: Vec<String>,
    /// Whether it is protected: neither deleted nor reset, and its time is never up.
    pub protected: bool,
}

/// What is known of these branches of a project.
pub(crate) async fn infos(
    home: &Home,
    project: &ProjectRecord,
    records: Vec<BranchRecord>,
) -> Result<Vec<BranchInfo>> {
    let mut infos = Vec::with_capacity(records.len());
    let scope = project.id.to_string();
    let (all, snapshots) = home
        .state()
        .read(move |tx| Ok((tx.list::<BranchRecord>(&scope)?, tx.list::<SnapshotRecord>(&scope)?)))
        .await?;
    let shown: std::collections::HashMap<Id, String> =
        all.iter().map(|b| (b.id, b.shown())).collect();
    let now = crate::record::now();
    for record in records {
        let over = !record.protected && record.expires.is_some_and(|time| time <= now);
        let kept_by = match over {
            true => lifetime::kept_by(project, &record, &all, &snapshots),
            false => Vec::new(),
        };
        let (served, pid) = match boot::status(home, project, &record).await {
            Ok(Status::Running { pid }) => (State::Running, pid),
            Ok(Status::Restarting) => (State::Running, None),
            Ok(Status::Stopped) => (State::Stopped, None),
            // It must keep no other from being told of.
            Err(error) => {
                tracing::warn!(%error, branch = %record.shown(), "cannot tell whether it runs");
                (State::Unknown, None)
            }
        };
        let state = match record.phase {
            Phase::Creating => State::Creating,
            Phase::Deleting => State::Deleting,
            Phase::Resetting => State::Resetting,
            Phase::Ready => served,
        };
        let from_snapshot = match record.made_from {
            Origin::Snapshot(id) => Some(
                snapshots
                    .iter()
                    .find(|s| s.id == id)
                    .and_then(|s| Some(s.name.as_ref()?.to_string()))
                    .unwrap_or_else(|| id.to_string()),
            ),
            _ => None,
        };
        infos.push(BranchInfo {
            id: record.id,
            project: project.name.to_string(),
            shown: record.shown(),
            name: record.name.map(String::from),
            parent: record.parent,
            parent_shown: record.parent.and_then(|parent| shown.get(&parent).cloned()),
            from_snapshot,
            ephemeral: record.ephemeral,
            state,
            storage: project.storage,
            runtime: project.runtime,
            port: record.port,
            pid,
            created_at: record.created_at,
            cut: record.cut,
            expires_at: record.expires,
            kept_by,
            protected: record.protected,
        });
    }
    Ok(infos)
}
