//! How long a branch stays: until somebody deletes it or its time is up, and what keeps it from going.

use std::time::Duration;

use super::Branch;
use crate::engine::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lookup::alive;
use crate::record::{BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::reset::being_changed;
use crate::state::Tx;
use crate::teardown::{self, Patience};

impl Branch {
    /// Protects it, or lifts its protection. A protected branch is neither deleted (with `force`
    /// neither) nor reset, its project is not deleted, and its time is never up. `main` can be
    /// protected too.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] for an ephemeral branch, which ends with its holder; and where only the
    /// protection keeps it, for its time is over.
    pub async fn protect(&self, protected: bool) -> Result<()> {
        self.protect_call(protected).await
    }

    pub(crate) fn protect_call(&self, protected: bool) -> Call<()> {
        self.call(move |branch, home, _| async move {
            let (project, id) = (branch.0.project.record.clone(), branch.id());
            let record = home.state().write_durable("record a protection", move |tx| {
                alter(tx, &project, id, |branch| {
                    if branch.protected
                        && !protected
                        && branch.expires.is_some_and(|time| time <= now())
                    {
                        let shown = format!("{}/{}", project.name, branch.shown());
                        let what = format!(
                            "the time of {shown} is over: without protection it goes at once"
                        );
                        return Err(Error::new(ErrorKind::Conflict, what).with_hint(format!(
                            "give it time first (velo branch ttl {shown} none); or delete it"
                        )));
                    }
                    branch.protected = protected;
                    Ok(())
                })
            });
            branch.remember(record.await?);
            Ok(())
        })
    }

    /// Lets it be deleted when `time` is over, counted from now, or never: see
    /// [`BranchSpec::ttl`](crate::BranchSpec::ttl).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] for `main`, which goes with its project, and for an ephemeral branch.
    pub async fn set_ttl(&self, time: Option<Duration>) -> Result<()> {
        self.set_ttl_call(time).await
    }

    pub(crate) fn set_ttl_call(&self, time: Option<Duration>) -> Call<()> {
        self.call(move |branch, home, _| async move {
            if let Some(time) = time {
                check_ttl(false, time)?;
            }
            let (project, id) = (branch.0.project.record.clone(), branch.id());
            let record = home.state().write_durable("record how long a branch stays", move |tx| {
                alter(tx, &project, id, |branch| {
                    if branch.parent.is_none() && time.is_some() {
                        let what = format!("{}/{} goes with its project", project.name, "main");
                        return Err(Error::new(ErrorKind::Conflict, what).with_hint(
                            "only a branch that can be deleted alone can have a time to live",
                        ));
                    }
                    branch.expires = time.map(from_now);
                    Ok(())
                })
            });
            branch.remember(record.await?);
            Ok(())
        })
    }
}

/// Changes what is recorded of a branch that is nobody's and not on its way out.
fn alter(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    id: Id,
    change: impl FnOnce(&mut BranchRecord) -> Result<()>,
) -> Result<BranchRecord> {
    alive(tx, project)?;
    tx.update(id, |branch: &mut BranchRecord| {
        let shown = format!("the branch {}/{}", project.name, branch.shown());
        if !matches!(branch.phase, Phase::Ready | Phase::Resetting) {
            return Err(being_changed(&shown));
        }
        if branch.ephemeral {
            let what = format!("{shown} is ephemeral: it ends with its holder");
            return Err(Error::new(ErrorKind::Conflict, what)
                .with_hint("its holder can keep it; or make a branch of it"));
        }
        change(branch)
    })
}

/// In milliseconds since 1970. Others than Velo, such as Python, know no later time.
const YEAR_10000: u64 = 253_402_300_800_000;

/// Whether a branch can have this time.
pub(crate) fn check_ttl(ephemeral: bool, time: Duration) -> Result<()> {
    if ephemeral {
        let what = "an ephemeral branch has no time to live: it ends with its holder";
        return Err(Error::new(ErrorKind::InvalidInput, what).with_hint("give it a name"));
    }
    if time.as_millis() == 0 {
        let what = "a time to live of nothing is over at once";
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .with_hint("give it a time, like two hours, or none"));
    }
    if from_now(time) >= YEAR_10000 {
        let what = "a time to live that ends after the year 9999 is too long";
        return Err(Error::new(ErrorKind::InvalidInput, what).with_hint("none is for ever"));
    }
    Ok(())
}

/// When a time that begins now is over.
pub(crate) fn from_now(time: Duration) -> u64 {
    now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// An error if one of the branches is protected. `done` is what would be done to it.
pub(crate) fn refuse_protected<'a>(
    project: &ProjectRecord,
    branches: impl IntoIterator<Item = &'a BranchRecord>,
    done: &str,
) -> Result<()> {
    let names: Vec<String> = branches
        .into_iter()
        .filter(|branch| branch.protected)
        .map(|branch| format!("{}/{}", project.name, branch.shown()))
        .collect();
    let Some(first) = names.first() else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Conflict,
        format!("protected, and so not {done}: {}", names.join(", ")),
    )
    .with_hint(format!("lift the protection first: velo branch unprotect {first}")))
}

/// What keeps a branch although its time is up: branches that were made from it, and its snapshots.
pub(super) fn kept_by(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<Vec<String>> {
    let (children, snapshots) = (tx.of(branch.id)?, tx.of::<SnapshotRecord>(branch.id)?);
    let children = children.iter().filter(|child: &&BranchRecord| !child.is_closed());
    let named = snapshots.iter().filter(|s| s.role == Role::Named);
    let shown = format!("{}/{}", project.name, branch.shown());
    Ok(children
        .map(|child| format!("{}/{}", project.name, child.shown()))
        .chain(named.filter_map(|s| Some(format!("{shown}@{}", s.name.as_ref()?))))
        .collect())
}

/// The branches whose time is up, the youngest first, each with what keeps it.
pub(crate) fn expired(tx: &Tx<'_>) -> Result<Vec<(ProjectRecord, BranchRecord, Vec<String>)>> {
    let mut found = Vec::new();
    for branch in tx.expired::<BranchRecord>(now())? {
        let Some(project) = tx.get::<ProjectRecord>(branch.project)? else { continue };
        if project.phase == Phase::Ready && branch.phase == Phase::Ready && !branch.ephemeral {
            let kept_by = kept_by(tx, &project, &branch)?;
            found.push((project, branch, kept_by));
        }
    }
    Ok(found)
}

/// Those of them that nothing keeps.
pub(crate) fn due(tx: &Tx<'_>) -> Result<Vec<(ProjectRecord, BranchRecord)>> {
    let expired = expired(tx)?.into_iter().filter(|(.., kept_by)| kept_by.is_empty());
    Ok(expired.map(|(project, branch, _)| (project, branch)).collect())
}

/// Deletes a branch whose time is up, if nothing keeps it and nobody works on it at this moment.
/// Whether it is gone.
pub(crate) async fn expire(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<bool> {
    let (id, lease) = (branch.id, home.lease()?);
    let shown = format!("the branch {}/{}", project.name, branch.shown());
    let _lock = home.lock_now(id, &shown).await?;
    let goes = home
        .state()
        .write_durable("mark an expired branch to go", move |tx| {
            let due = due(tx)?.iter().any(|(_, branch)| branch.id == id);
            if due {
                tx.update(id, |branch: &mut BranchRecord| {
                    branch.phase = Phase::Deleting;
                    branch.lease = Some(lease);
                    Ok(())
                })?;
            }
            Ok(due)
        })
        .await?;
    if goes {
        teardown::branch(home, project, id, Patience::None).await?;
    }
    Ok(goes)
}
