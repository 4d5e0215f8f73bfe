//! Which snapshots of a schedule stay: [`Retention`].
//!
//! The rules are those of backup tools. Of the newest snapshots so many stay, and of so many of the last
//! days, weeks or months that have any the newest one each. What a kept moment needs, or a branch was made
//! from, stays beside that.

use std::collections::{BTreeMap, BTreeSet};

use crate::branch::Branch;
use crate::care;
use crate::engine::{Call, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::snapshot::{self, Snapshot};
use crate::storage::Object;
use crate::wal;

/// Which snapshots of a schedule stay. Each rule keeps some, and what none keeps goes.
///
/// ```
/// let week = velo_core::Retention::new().last(5).daily(7);
/// # let _ = week;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retention {
    last: usize,
    hourly: usize,
    daily: usize,
    weekly: usize,
    monthly: usize,
}

impl Retention {
    /// Keeps none, until it is told more.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest ones.
    #[must_use]
    pub fn last(mut self, count: usize) -> Self {
        self.last = count;
        self
    }

    /// The newest of each of so many hours, the last ones that have any.
    #[must_use]
    pub fn hourly(mut self, count: usize) -> Self {
        self.hourly = count;
        self
    }

    /// The same of days, by this machine's clock.
    #[must_use]
    pub fn daily(mut self, count: usize) -> Self {
        self.daily = count;
        self
    }

    /// The same of weeks, which begin on Monday.
    #[must_use]
    pub fn weekly(mut self, count: usize) -> Self {
        self.weekly = count;
        self
    }

    /// The same of months.
    #[must_use]
    pub fn monthly(mut self, count: usize) -> Self {
        self.monthly = count;
        self
    }

    /// Which of these, made at those milliseconds since 1970, stay.
    fn keeps(&self, made: &[(Id, u64)], zone: impl Fn(i64) -> i64) -> BTreeSet<Id> {
        let mut newest_first = made.to_vec();
        newest_first.sort_by_key(|(id, at)| std::cmp::Reverse((*at, *id)));
        let mut kept: BTreeSet<Id> =
            newest_first.iter().take(self.last).map(|(id, _)| *id).collect();
        let hour = |second: i64| second.div_euclid(3600);
        let day = |second: i64| second.div_euclid(86_400);
        // 1970 began on a Thursday.
        let week = |second: i64| (day(second) + 3).div_euclid(7);
        let month = |second: i64| wal::month(day(second));
        let rules: [(usize, &dyn Fn(i64) -> i64); 4] = [
            (self.hourly, &hour),
            (self.daily, &day),
            (self.weekly, &week),
            (self.monthly, &month),
        ];
        for (count, part) in rules {
            let mut parts = BTreeSet::new();
            for (id, at) in &newest_first {
                let second = i64::try_from(at / 1000).unwrap_or(i64::MAX);
                let part = part(second.saturating_add(zone(second)));
                if parts.contains(&part) {
                    continue;
                }
                if parts.len() == count {
                    break;
                }
                parts.insert(part);
                kept.insert(*id);
            }
        }
        kept
    }

    fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a retention that keeps nothing would remove every snapshot of the schedule",
            )
            .with_hint("say what stays, like --keep-last 5 --keep-daily 7"));
        }
        Ok(())
    }
}

/// What becomes of a snapshot of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Fate {
    /// Its identity.
    pub id: Id,
    /// Its full name: `api/main@auto-20261120T133205Z`.
    pub name: String,
    /// When it was made, in milliseconds since 1970, UTC.
    pub created_at: u64,
    /// Why it stays; `None` if it goes.
    pub kept: Option<String>,
    /// The bytes that only it takes, where that is quickly told.
    pub bytes: Option<u64>,
}

impl Branch {
    /// Takes a snapshot of a schedule: it is called after the present moment, and goes as a
    /// [`Retention`] says. Where the branch's WAL is kept, recovery begins with the last one before a
    /// moment.
    ///
    /// # Errors
    /// As [`snapshot`](Branch::snapshot).
    pub async fn scheduled_snapshot(&self) -> Result<Snapshot> {
        self.scheduled_snapshot_call().await
    }

    pub(crate) fn scheduled_snapshot_call(&self) -> Call<Snapshot> {
        self.call(|branch, home, op| async move {
            let record = branch.current(&home).await?;
            let name = format!("auto-{}", wal::compact(now()));
            let project = branch.project();
            snapshot::take(&home, &project.0, &record, &name, true, &op).await
        })
    }

    /// Removes snapshots of a schedule that `retention` does not keep. Those that branches were made from
    /// stay, and those without which a moment could not be reached whose WAL is kept; so do all that
    /// somebody gave a name. With `dry_run` it only says what would become of each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a retention that keeps nothing.
    pub async fn prune_snapshots(&self, retention: Retention, dry_run: bool) -> Result<Vec<Fate>> {
        self.prune_snapshots_call(retention, dry_run).await
    }

    pub(crate) fn prune_snapshots_call(
        &self,
        retention: Retention,
        dry_run: bool,
    ) -> Call<Vec<Fate>> {
        self.call(move |branch, home, op| async move {
            retention.check()?;
            let record = branch.current(&home).await?;
            let project = branch.project_record();
            let mut fates = fates(&home, &project, &record, retention, &op).await?;
            for fate in fates.iter_mut().filter(|fate| fate.kept.is_none() && !dry_run) {
                fate.kept = remove(&home, &project, fate, &op).await?;
            }
            Ok(fates)
        })
    }
}

/// Removes one, unless somebody has made a branch from it meanwhile: why it stays. One that is gone is removed.
async fn remove(
    home: &Home,
    project: &ProjectRecord,
    fate: &Fate,
    op: &Op,
) -> Result<Option<String>> {
    match snapshot::delete(home, project, fate.id, &fate.name, op).await {
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(Some(error.to_string())),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

async fn fates(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    retention: Retention,
    op: &Op,
) -> Result<Vec<Fate>> {
    let (id, scope, name) = (branch.id, project.id.to_string(), project.name.clone());
    let (snapshots, users) = home
        .state()
        .read(move |tx| {
            let mut snapshots = tx.of::<SnapshotRecord>(id)?;
            snapshots.retain(|s| s.scheduled && s.role == Role::Named && s.phase == Phase::Ready);
            let mut users: BTreeMap<Id, Vec<String>> = BTreeMap::new();
            for user in tx.list::<BranchRecord>(&scope)?.iter().filter(|b| !b.is_closed()) {
                if let Origin::Snapshot(from) = user.made_from {
                    let shown = format!("{name}/{}", user.shown());
                    users.entry(from).or_default().push(shown);
                }
            }
            Ok((snapshots, users))
        })
        .await?;
    let made: Vec<_> = snapshots.iter().map(|s| (s.id, s.created_at)).collect();
    let kept = retention.keeps(&made, wal::zone_of_machine);
    let is_asked = |s: &&SnapshotRecord| !kept.contains(&s.id) && !users.contains_key(&s.id);
    let asked = snapshots.iter().filter(is_asked).map(|s| s.id).collect();
    let needed = wal::needed(home, project, branch, &asked, op).await?;
    let storage = home.storage(project.storage)?;
    let mut fates = Vec::new();
    for snapshot in snapshots.into_iter().rev() {
        let name = snapshot.name.map(String::from).unwrap_or_default();
        let why = if kept.contains(&snapshot.id) {
            Some("by the retention".to_owned())
        } else if let Some(users) = users.get(&snapshot.id) {
            Some(format!("branches were made from it: {}", users.join(", ")))
        } else if needed.contains(&snapshot.id) {
            Some("moments are reached from it whose WAL is kept".to_owned())
        } else {
            None
        };
        fates.push(Fate {
            id: snapshot.id,
            name: format!("{}/{}@{name}", project.name, branch.shown()),
            created_at: snapshot.created_at,
            kept: why,
            bytes: care::measured(&*storage, Object::Snapshot(snapshot.id)).await,
        });
    }
    Ok(fates)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn made(hours: impl IntoIterator<Item = u64>) -> Vec<(Id, u64)> {
        // A Monday, at midnight.
        let begin = 1_794_787_200_000_u64;
        hours.into_iter().map(|hour| (Id::generate(), begin + hour * HOUR)).collect()
    }

    /// The places of those that stay.
    fn places(retention: Retention, made: &[(Id, u64)]) -> Vec<usize> {
        let kept = retention.keeps(made, |_| 0);
        (0..made.len()).filter(|at| kept.contains(&made[*at].0)).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_parts() {
        // Every six hours for four weeks.
        let all = made((0..28 * 4).map(|n| n * 6));
        assert_eq!(places(Retention::new().last(3), &all), [109, 110, 111]);
        assert_eq!(places(Retention::new().daily(3), &all), [103, 107, 111]);
        assert_eq!(places(Retention::new().weekly(2), &all), [83, 111]);
        assert_eq!(places(Retention::new().hourly(2), &all), [110, 111]);
        let several = Retention::new().last(2).daily(2).weekly(10);
        assert_eq!(places(several, &all), [27, 55, 83, 107, 110, 111]);
    }

    #[test]
    fn days_without_any_are_not_counted() {
        let all = made([0, 1, 240, 241, 500]);
        assert_eq!(places(Retention::new().daily(3), &all), [1, 3, 4]);
        assert_eq!(places(Retention::new().daily(9), &all), [1, 3, 4]);
    }

    #[test]
    fn none_stays_by_no_rule() {
        assert!(Retention::new().check().is_err());
        assert_eq!(places(Retention::new(), &made([0, 1])), [0; 0]);
    }
}
