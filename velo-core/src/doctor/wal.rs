//! Whether WAL that is to be kept is.

use crate::boot;
use crate::error::Result;
use crate::home::Home;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord};
use crate::runtime::Status;
use crate::strays;
use crate::wal;

use super::Finding;
use super::records::listed;

pub(super) async fn look(home: &Home) -> Vec<Finding> {
    match archives(home).await {
        Ok(found) => found,
        Err(error) => vec![Finding::error("wal", &error)],
    }
}

async fn archives(home: &Home) -> Result<Vec<Finding>> {
    let kept = home
        .state()
        .read(|tx| {
            let mut kept = Vec::new();
            for project in tx.list::<ProjectRecord>("")? {
                for branch in tx.list::<BranchRecord>(&project.id.to_string())? {
                    if branch.phase != Phase::Ready || branch.ephemeral {
                        continue;
                    }
                    let archive = tx.get::<ArchiveRecord>(branch.volume)?;
                    let archive = archive.filter(|archive| archive.archiving);
                    // Where it is to be kept no more, servers go on with it until they are started again.
                    if project.wal_retention.is_some() || archive.is_some() {
                        kept.push((project.clone(), branch, archive));
                    }
                }
            }
            Ok(kept)
        })
        .await?;
    let mut found = Vec::new();
    let strays = strays::archives(home).await?;
    if !strays.is_empty() {
        let places = strays.iter().map(|id| wal::archive::folder(home, *id).display().to_string());
        found.push(Finding::warn(
            "wal",
            format!("there, and not recorded: {}", listed(places)),
            "velo gc --unrecorded --dry-run shows what they hold; without --dry-run it removes them",
        ));
    }
    let (mut count, end) = (0, boot::end_of_look());
    for (project, branch, archive) in kept {
        count += usize::from(project.wal_retention.is_some() && archive.is_some());
        // One that cannot be looked at hides nothing of the others.
        if let Err(error) = of_branch(home, &project, &branch, archive, end, &mut found).await {
            let finding = Finding::error("wal", &error);
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
    if found.is_empty() && count > 0 {
        found.push(Finding::ok("wal", format!("kept of {count} branches")));
    }
    Ok(found)
}

/// Adds what is the matter with the WAL of a branch that is kept, or to be.
async fn of_branch(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    archive: Option<ArchiveRecord>,
    end: tokio::time::Instant,
    found: &mut Vec<Finding>,
) -> Result<()> {
    let shown = format!("{}/{}", project.name, branch.shown());
    let restart = format!("velo branch restart {shown}");
    // One that does not run archives from its next start on, and where that cannot be looked at, it is told with the
    // other servers.
    let runs =
        async || matches!(boot::look(home, project, branch, end).await, Ok(Status::Running { .. }));
    let Some(archive) = archive else {
        if runs().await {
            found.push(Finding::warn(
                "wal",
                format!("WAL of {shown} is to be kept, and its server was started before that"),
                restart,
            ));
        }
        return Ok(());
    };
    if project.wal_retention.is_none() {
        if runs().await {
            found.push(Finding::warn(
                "wal",
                format!("WAL of {shown} is to be kept no more, and its server still archives it"),
                restart,
            ));
        }
    } else if archive.wants_base {
        found.push(Finding::warn(
            "wal",
            format!("WAL of {shown} is kept, and Velo could take no snapshot that leads into it"),
            restart,
        ));
    } else if wal::cannot_go(home, project, branch.id).await? {
        found.push(Finding::warn(
            "wal",
            format!(
                "WAL of {shown} is older than it is to be kept, and cannot be pruned for want of a newer snapshot"
            ),
            format!(
                "velo wal prune takes one; if it cannot, velo snapshot create {shown} NAME says why"
            ),
        ));
    }
    if wal::is_overdue(home, project, branch.id).await? {
        found.push(Finding::warn(
            "wal",
            format!("WAL of {shown} is kept for more than twice the time that it is to be"),
            "velo wal prune removes what is older; let a timer run it",
        ));
    }
    let (waiting, seconds) = wal::behind(home, project, branch).await?;
    if waiting > 0 && seconds > PATIENCE {
        let log = crate::run_dir::RunDir::of(home, branch.id).log();
        found.push(Finding::warn(
            "wal",
            format!(
                "{waiting} segments of WAL of {shown} are not archived, for {seconds} s: its server keeps them all \
                 until then"
            ),
            format!("its log says why; is the disk full? {}", log.display()),
        ));
    }
    Ok(())
}

/// How long a segment may wait to be archived: a server that failed thrice tries again after a minute.
const PATIENCE: u64 = 90;
