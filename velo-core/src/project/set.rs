//! What of a project can be set later.

use std::time::Duration;

use super::Project;
use super::builder::retention;
use crate::boot;
use crate::engine::{self, Call, Engine};
use crate::error::Result;
use crate::home::Home;
use crate::lookup::alive;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord};
use crate::runtime::Status;
use crate::state::Tx;

impl Project {
    /// Says how long the WAL of its lasting branches is kept, or that it is not kept any more. Returns the
    /// branches whose servers do as they did until they are restarted: PostgreSQL begins and ends
    /// archiving only when it starts. This handle's [`info`](Project::info) is as it was.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a time of nothing.
    pub async fn set_wal_retention(&self, time: Option<Duration>) -> Result<Vec<String>> {
        self.set_wal_retention_call(time).await
    }

    pub(crate) fn set_wal_retention_call(&self, time: Option<Duration>) -> Call<Vec<String>> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let seconds = time.map(retention).transpose()?;
            let home = Engine::get()?.home(&project.config).await?;
            let record = project.record.clone();
            let set = move |tx: &Tx<'_>| {
                alive(tx, &record)?;
                tx.update(record.id, |project: &mut ProjectRecord| {
                    project.wal_retention = seconds;
                    Ok(())
                })
            };
            let record = home.state().write_durable("record how long WAL is kept", set).await?;
            to_restart(&home, &record).await
        })
    }
}

/// The branches whose servers do not archive as their project says.
async fn to_restart(home: &Home, project: &ProjectRecord) -> Result<Vec<String>> {
    let (id, keeps) = (project.id, project.wal_retention.is_some());
    let branches = home
        .state()
        .read(move |tx| {
            let mut found = Vec::new();
            for branch in tx.list::<BranchRecord>(&id.to_string())? {
                let archive = tx.get::<ArchiveRecord>(branch.volume)?;
                // A start takes a base too, where there is none.
                let is_as_said = match archive {
                    Some(archive) => archive.archiving == keeps && !(keeps && archive.wants_base),
                    None => !keeps,
                };
                if branch.phase == Phase::Ready && !branch.ephemeral && !is_as_said {
                    found.push(branch);
                }
            }
            Ok(found)
        })
        .await?;
    let mut names = Vec::new();
    for branch in branches {
        if boot::status(home, project, &branch).await? != Status::Stopped {
            names.push(branch.shown());
        }
    }
    Ok(names)
}
