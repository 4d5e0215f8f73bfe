//! What of the WAL is not to be kept any longer.
//!
//! A moment can be reached as long as there is a base before it and all WAL from that base on. So of an
//! incarnation the newest base stays that is as old as WAL is kept, and with it every later one and all
//! WAL behind it. Snapshots that somebody gave a name stay in any case; they need no WAL of their own.
//!
//! Where nobody takes snapshots nothing would ever be old enough to go. So a newer one is taken here of each branch
//! whose newest is half as old as WAL is kept and has whole segments behind it: between half that time and one and a
//! half of it is kept then.

use std::collections::{BTreeMap, BTreeSet};

use super::archive;
use super::base;
use super::files::Folder;
use super::info::{Window, controls};
use super::plan::{self, Incarnation, incarnations};
use crate::boot;
use crate::engine::{self, Call, Engine, Op};
use crate::error::Result;
use crate::home::Home;
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::postgres::control::ControlFile;
use crate::postgres::lsn::Lsn;
use crate::project::Project;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::runtime::Status;
use crate::state::Tx;
use crate::storage::Object;
use crate::teardown::{self, Patience};

/// What was removed of a branch's WAL, or would be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Pruned {
    /// The branch: `api/main`.
    pub branch: String,
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many snapshots that Velo took by itself.
    pub bases: usize,
    /// How many incarnations, whole.
    pub incarnations: usize,
    /// How many snapshots were taken, so that older WAL can go later.
    pub taken: usize,
    /// Whether its WAL cannot be pruned: a newer snapshot was to be taken, and could not be.
    pub wants_snapshot: bool,
}

impl Project {
    /// Removes WAL that is older than it is to be kept, of every branch. With `dry_run` it only says what
    /// would go. What [`retention`](crate::ProjectBuilder::wal_retention) says can be reached stays so. Where the
    /// newest snapshot of a branch is half as old as that, a newer one is taken, without which nothing could go later.
    ///
    /// # Errors
    /// If something cannot be removed: the last error, when all other branches were pruned. Where no snapshot could be taken that is said in what is returned.
    pub async fn prune_wal(&self, dry_run: bool) -> Result<Vec<Pruned>> {
        self.prune_wal_call(dry_run).await
    }

    pub(crate) fn prune_wal_call(&self, dry_run: bool) -> Call<Vec<Pruned>> {
        let project = self.0.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let id = project.record.id;
            let (record, branches) = home
                .state()
                .read(move |tx| {
                    Ok((tx.get::<ProjectRecord>(id)?, tx.list::<BranchRecord>(&id.to_string())?))
                })
                .await?;
            let record = record.unwrap_or_else(|| project.record.clone());
            let (mut pruned, mut failed) = (Vec::new(), None);
            for branch in branches.iter().filter(|b| b.phase == Phase::Ready && !b.ephemeral) {
                op.cancel.check()?;
                let one = match prune(&home, &record, branch, dry_run, &op).await {
                    Ok(one) => one,
                    // One that somebody works on keeps no other from being pruned.
                    Err(error) => {
                        if let Some(other) = failed.replace(error) {
                            tracing::warn!(error = %other, "WAL of a branch was not pruned");
                        }
                        continue;
                    }
                };
                let changes = one.segments + one.bases + one.incarnations + one.taken;
                if changes > 0 || one.wants_snapshot {
                    pruned.push(one);
                }
            }
            match failed {
                Some(error) => Err(error),
                None => Ok(pruned),
            }
        })
    }
}

async fn prune(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    dry_run: bool,
    op: &Op,
) -> Result<Pruned> {
    let shown = format!("{}/{}", project.name, branch.shown());
    let mut pruned = Pruned {
        branch: shown.clone(),
        segments: 0,
        bytes: 0,
        bases: 0,
        incarnations: 0,
        taken: 0,
        wants_snapshot: false,
    };
    if incarnations(home, branch.id).await?.is_empty() {
        return Ok(pruned);
    }
    let what = format!("the branch {shown}");
    let lock = home.lock(branch.id, Mode::Shared, &what, &op.cancel).await?;
    if wants_newer(home, project, branch.id, HALF).await? {
        pruned.wants_snapshot = !dry_run && !renewed(home, project, branch.id, op).await?;
        pruned.taken = usize::from(!pruned.wants_snapshot);
    }
    drop(lock);
    // Nobody may be reading what goes; a snapshot, which may take long, is in nobody's way.
    let mode = if dry_run { Mode::Shared } else { Mode::Exclusive };
    let _lock = home.lock(branch.id, mode, &what, &op.cancel).await?;
    let cutoff =
        project.wal_retention.map(|seconds| now().saturating_sub(seconds.saturating_mul(1000)));
    let filled = filled(home, project, branch.id).await?;
    for mut incarnation in incarnations(home, branch.id).await? {
        op.cancel.check()?;
        incarnation.archive.archiving &= filled == Some(incarnation.archive.id);
        let controls = controls(home, project, &incarnation).await?;
        let goes = goes(&incarnation, cutoff, |base| controls.contains_key(&base));
        for base in &goes.bases {
            pruned.bases += 1;
            if !dry_run {
                let _lock = home.lock(*base, Mode::Exclusive, "a snapshot", &op.cancel).await?;
                teardown::snapshot(home, project, *base, Patience::Usual).await?;
            }
        }
        let folder = archive::folder(home, incarnation.archive.id);
        if goes.whole {
            pruned.incarnations += 1;
            if let Some(folder) = Folder::open(&folder)? {
                pruned.bytes += folder.bytes()?;
                pruned.segments += folder.names()?.len();
            }
            if !dry_run {
                archive::remove(home, incarnation.archive.id).await?;
            }
            continue;
        }
        let Some((begin, size)) = goes.begin(&incarnation, &controls) else { continue };
        let Some(archive) = Folder::open(&folder)? else { continue };
        if !dry_run {
            note_begin(home, &incarnation.archive, begin).await?;
        }
        for name in archive.before(begin, size)? {
            pruned.segments += usize::from(!name.contains('.'));
            pruned.bytes += archive.bytes_of(&name)?.unwrap_or(0);
            if !dry_run {
                archive.remove("prune a WAL archive", &name)?;
            }
        }
    }
    Ok(pruned)
}

/// The archive that a branch's server may fill, unless it is known not to run.
async fn filled(home: &Home, project: &ProjectRecord, branch: Id) -> Result<Option<Id>> {
    let Some(branch) = home.state().read(move |tx| tx.get::<BranchRecord>(branch)).await? else {
        return Ok(None);
    };
    let runs = !matches!(boot::status(home, project, &branch).await?, Status::Stopped);
    Ok(runs.then_some(branch.volume))
}

/// Notes where an archive begins before what is older goes, so that nothing is taken for missing that was pruned. The
/// snapshots from before that which Velo took are gone by then: nobody would find them later.
async fn note_begin(home: &Home, archive: &ArchiveRecord, begin: Lsn) -> Result<()> {
    if archive.from >= Some(begin) {
        return Ok(());
    }
    let id = archive.id;
    let change = move |tx: &Tx<'_>| {
        tx.update(id, |archive: &mut ArchiveRecord| {
            archive.from = Some(begin);
            Ok(())
        })
    };
    home.state().write_durable("note where a WAL archive begins", change).await.map(drop)
}

/// The snapshots of a branch without which a moment could not be reached that is to be, as far as they are `asked`.
pub(crate) async fn needed(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    asked: &BTreeSet<Id>,
    op: &Op,
) -> Result<BTreeSet<Id>> {
    let (id, mut needed) = (project.id, BTreeSet::new());
    let project = home.state().read(move |tx| tx.get::<ProjectRecord>(id)).await?;
    let Some(project) = project else { return Ok(needed) };
    let Some(seconds) = project.wal_retention else { return Ok(needed) };
    let cutoff = now().saturating_sub(seconds.saturating_mul(1000));
    for incarnation in incarnations(home, branch.id).await? {
        let windows = super::info::look(home, &project, branch, &incarnation).await?.windows;
        let controls = controls(home, &project, &incarnation).await?;
        let leads = |base| controls.contains_key(&base);
        needed.extend(needs(&incarnation, &windows, cutoff, leads));
        if is_over(&incarnation, cutoff) {
            continue;
        }
        // Whether segments are missing is seen from afar. What else is in the way of a recovery, such as a byte that has
        // changed, or a tablespace that leads out of the data, is seen where the WAL is read. Each base is looked at
        // from the one before it, so that they may all go.
        let bases: Vec<_> = incarnation.bases.iter().filter(|base| leads(base.id)).collect();
        for pair in bases.windows(2) {
            let [newer, older] = *pair else { continue };
            if is_old(newer, cutoff) {
                break;
            }
            op.cancel.check()?;
            let is_open = asked.contains(&newer.id) && !needed.contains(&newer.id);
            let pair = [older, newer];
            if is_open && !plan::leads(home, &project, &incarnation, pair, &op.cancel).await? {
                needed.insert(newer.id);
            }
        }
    }
    Ok(needed)
}

/// Half of the time that WAL is kept, and all of it, in milliseconds for each second.
const HALF: u64 = 500;
const WHOLE: u64 = 1000;

/// Whether WAL of a branch is older than it is to be kept, and nothing is pruned because no snapshot is newer.
pub(crate) async fn cannot_go(home: &Home, project: &ProjectRecord, branch: Id) -> Result<bool> {
    wants_newer(home, project, branch, WHOLE).await
}

/// Whether the newest snapshot of a branch that anything is reached from is older than this part of the time that WAL is
/// kept, and whole segments are archived behind it.
async fn wants_newer(home: &Home, project: &ProjectRecord, branch: Id, part: u64) -> Result<bool> {
    let Some(seconds) = project.wal_retention else { return Ok(false) };
    let Some(record) = ready(home, branch).await? else { return Ok(false) };
    let is_filled = |one: &Incarnation| {
        one.archive.id == record.volume && one.archive.ended_at.is_none() && one.archive.archiving
    };
    let Some(one) = incarnations(home, branch).await?.into_iter().find(is_filled) else {
        return Ok(false);
    };
    let Some(archive) = Folder::open(&archive::folder(home, one.archive.id))? else {
        return Ok(false);
    };
    let controls = controls(home, project, &one).await?;
    let newest = one.bases.iter().find(|base| controls.contains_key(&base.id));
    let Some(newest) = newest else { return Ok(!archive.names()?.is_empty()) };
    let (Some(cut), Some(control)) = (&newest.cut, controls.get(&newest.id)) else {
        return Ok(false);
    };
    let cutoff = now().saturating_sub(seconds.saturating_mul(part));
    // Taking one may itself end a segment: that is no reason to take another.
    Ok(is_old(newest, cutoff) && archive.goes_on_behind(cut.lsn, control.wal_segment_size)?)
}

/// Whether WAL is kept for twice the time, though it could go: nobody prunes it.
pub(crate) async fn is_overdue(home: &Home, project: &ProjectRecord, branch: Id) -> Result<bool> {
    let Some(seconds) = project.wal_retention else { return Ok(false) };
    let cutoff = now().saturating_sub(seconds.saturating_mul(2 * WHOLE));
    for incarnation in incarnations(home, branch).await? {
        let controls = controls(home, project, &incarnation).await?;
        let goes = goes(&incarnation, Some(cutoff), |base| controls.contains_key(&base));
        let folder = archive::folder(home, incarnation.archive.id);
        let older = match (goes.begin(&incarnation, &controls), Folder::open(&folder)?) {
            (Some((begin, size)), Some(archive)) => archive.before(begin, size)?,
            _ => Vec::new(),
        };
        if goes.whole || !goes.bases.is_empty() || !older.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn ready(home: &Home, branch: Id) -> Result<Option<BranchRecord>> {
    let found = home.state().read(move |tx| tx.get::<BranchRecord>(branch)).await?;
    Ok(found.filter(|branch| branch.phase == Phase::Ready))
}

/// Takes a snapshot of a branch, whose lock the caller holds. Whether it could be taken.
async fn renewed(home: &Home, project: &ProjectRecord, branch: Id, op: &Op) -> Result<bool> {
    let Some(branch) = ready(home, branch).await? else { return Ok(false) };
    // In a box: the callers' futures would be nested too deep for the compiler.
    let taken = Box::pin(base::take(home, project, &branch, branch.volume, op)).await;
    if let Err(error) = taken {
        op.cancel.check()?;
        let shown = format!("{}/{}", project.name, branch.shown());
        tracing::warn!(%error, "no newer snapshot of {shown} could be taken, so that its WAL cannot be pruned");
        return Ok(false);
    }
    Ok(true)
}

/// Whether a snapshot that somebody deletes has to stay, as what recovery begins with; and the lock of its
/// branch, whose WAL is not pruned as long as it is held. It comes before the snapshot's own.
pub(crate) async fn has_to_stay(
    home: &Home,
    project: &ProjectRecord,
    snapshot: Id,
    op: &Op,
) -> Result<(bool, Option<Lock>)> {
    let archived = move |tx: &Tx<'_>| {
        let is_base = |s: &SnapshotRecord| matches!(s.role, Role::Named | Role::Base);
        let found = tx.get::<SnapshotRecord>(snapshot)?.filter(is_base);
        let Some(SnapshotRecord { branch, source: Some(Object::Volume(volume)), .. }) = found
        else {
            return Ok(None);
        };
        match tx.get::<ArchiveRecord>(volume)? {
            Some(_) => tx.get::<BranchRecord>(branch),
            None => Ok(None),
        }
    };
    let Some(branch) = home.state().read(archived).await? else { return Ok((false, None)) };
    let shown = format!("the branch {}/{}", project.name, branch.shown());
    let lock = home.lock(branch.id, Mode::Shared, &shown, &op.cancel).await?;
    let needed = needed(home, project, &branch, &BTreeSet::from([snapshot]), op).await?;
    Ok((needed.contains(&snapshot), Some(lock)))
}

/// Of an incarnation the newest that is as old as WAL is kept and leads anywhere, and behind it the first of each
/// window. From older ones no moment is reached but older ones yet.
fn needs(
    incarnation: &Incarnation,
    windows: &[Window],
    cutoff: u64,
    leads: impl Fn(Id) -> bool,
) -> Vec<Id> {
    let over = is_over(incarnation, cutoff);
    let bases: &[SnapshotRecord] = if over { &[] } else { &incarnation.bases };
    let anchor = bases.iter().position(|base| is_old(base, cutoff) && leads(base.id));
    let begins = |base: &SnapshotRecord| {
        let lsn = base.cut.as_ref().map(|cut| cut.lsn);
        windows.iter().any(|window| Some(window.from_lsn) == lsn)
    };
    let kept = bases.iter().take(anchor.map_or(bases.len(), |anchor| anchor + 1)).enumerate();
    kept.filter(|(at, base)| Some(*at) == anchor || (leads(base.id) && begins(base)))
        .map(|(_, base)| base.id)
        .collect()
}

/// Whether all of it is from before that time.
fn is_over(incarnation: &Incarnation, cutoff: u64) -> bool {
    incarnation.archive.ended_at.is_some_and(|at| at < cutoff)
}

/// Whether a base is from that time, or before it.
fn is_old(base: &SnapshotRecord, cutoff: u64) -> bool {
    base.cut.as_ref().is_some_and(|cut| cut.at <= cutoff)
}

/// What of an incarnation goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Goes {
    /// All of it.
    whole: bool,
    bases: Vec<Id>,
    /// The oldest base that stays and leads anywhere: WAL before it goes.
    first: Option<Id>,
}

impl Goes {
    /// Where the WAL begins that stays, and the size of its segments.
    fn begin(
        &self,
        incarnation: &Incarnation,
        controls: &BTreeMap<Id, ControlFile>,
    ) -> Option<(Lsn, u32)> {
        let anchor = incarnation.bases.iter().find(|base| Some(base.id) == self.first)?;
        let (cut, control) = anchor.cut.as_ref().zip(controls.get(&anchor.id))?;
        // The checkpoint of a server that goes on may begin behind the place that was looked at before it.
        Some((cut.lsn.min(control.redo), control.wal_segment_size))
    }
}

fn goes(incarnation: &Incarnation, cutoff: Option<u64>, leads: impl Fn(Id) -> bool) -> Goes {
    let archive = &incarnation.archive;
    let own = |bases: &[SnapshotRecord]| {
        bases.iter().filter(|base| base.role == Role::Base).map(|base| base.id).collect()
    };
    let ended = archive.ended_at.is_some_and(|at| cutoff.is_none_or(|cutoff| at < cutoff));
    // Without a time nothing is kept but what a server still adds to.
    if ended || (cutoff.is_none() && !archive.archiving) {
        return Goes { whole: true, bases: own(&incarnation.bases), first: None };
    }
    let Some(cutoff) = cutoff else { return Goes::default() };
    let is_anchor = |base: &SnapshotRecord| is_old(base, cutoff) && leads(base.id);
    let Some(anchor) = incarnation.bases.iter().position(is_anchor) else {
        return Goes::default();
    };
    let (_, older) = incarnation.bases.split_at(anchor + 1);
    Goes {
        whole: false,
        bases: own(older),
        first: incarnation.bases.get(anchor).map(|base| base.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::{Cut, Method};
    use crate::postgres::scram::Password;

    fn base(branch: Id, archive: Id, at: u64, own: bool) -> SnapshotRecord {
        let cut: Cut = serde_json::from_value(serde_json::json!({
            "method": Method::Checkpoint, "lsn": Lsn(at << 10), "next_xid": 1, "oldest_active_xid": 0,
            "timeline": 1, "at": at, "system_identifier": 1, "major": 18, "in_recovery": false,
        }))
        .unwrap();
        SnapshotRecord {
            id: Id::generate(),
            project: branch,
            branch,
            name: None,
            role: if own { Role::Base } else { Role::Named },
            phase: Phase::Ready,
            lease: None,
            source: Some(Object::Volume(archive)),
            password: Password::generate().unwrap(),
            settings: Default::default(),
            limits: Default::default(),
            cut: Some(cut),
            seed: None,
            scheduled: !own,
            created_at: at,
        }
    }

    /// Numbers that look like chance, the same ones each time.
    fn chance() -> impl FnMut(u64) -> u64 {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        move |end| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % end
        }
    }

    /// An incarnation with up to five bases, and when it ended.
    fn some(chosen: &mut impl FnMut(u64) -> u64) -> Incarnation {
        let (branch, id) = (Id::generate(), Id::generate());
        let ended_at = (chosen(3) == 0).then(|| 500 + chosen(1000));
        let archive = ArchiveRecord {
            id,
            project: branch,
            branch,
            begun_at: 0,
            ended_at,
            archiving: true,
            wants_base: false,
            from: None,
            written: None,
        };
        let mut bases: Vec<_> = (0..chosen(6))
            .map(|_| {
                let at = 1 + chosen(ended_at.unwrap_or(1000));
                base(branch, id, at, chosen(2) == 0)
            })
            .collect();
        bases.sort_by_key(|base| std::cmp::Reverse(base.cut.as_ref().map(|cut| cut.lsn)));
        Incarnation { archive, bases, lives: true, next_at: None }
    }

    /// Those that nothing is reached from, one in five.
    fn broken(incarnation: &Incarnation, chosen: &mut impl FnMut(u64) -> u64) -> BTreeSet<Id> {
        let all = incarnation.bases.iter().map(|base| base.id);
        all.filter(|_| chosen(5) == 0).collect()
    }

    /// Whatever is there and however it is pruned: of what could be reached before, each moment that is not
    /// too old can be reached after.
    #[test]
    fn no_kept_moment_becomes_unreachable() {
        let mut chosen = chance();
        for _ in 0..2000 {
            let incarnation = some(&mut chosen);
            let bases = &incarnation.bases;
            let cutoff = chosen(1200);
            let broken = broken(&incarnation, &mut chosen);
            let goes = goes(&incarnation, Some(cutoff), |base| !broken.contains(&base));
            // WAL from here on is there.
            let first = goes.first.and_then(|id| bases.iter().find(|base| base.id == id));
            let wal_from = first.map_or(0, |base| base.created_at);
            let left: Vec<u64> = bases
                .iter()
                .filter(|base| !goes.bases.contains(&base.id) && !broken.contains(&base.id))
                .map(|base| base.created_at)
                .collect();
            let end = incarnation.archive.ended_at.unwrap_or(1200);
            for moment in cutoff..=end {
                let mut whole = bases.iter().filter(|base| !broken.contains(&base.id));
                let before = whole.any(|base| base.created_at <= moment);
                let after = !goes.whole && left.iter().any(|at| wal_from <= *at && *at <= moment);
                assert!(!before || after, "{moment}: cutoff {cutoff}, {left:?}, {goes:?}");
            }
        }
    }

    /// Whatever is missing of the WAL, and whichever snapshots are deleted but those that are needed.
    #[test]
    fn what_is_needed_leads_to_every_kept_moment() {
        // A segment is 50 moments long, each of which is a kilobyte.
        const MOMENTS: u64 = 50;
        let (mut chosen, mut spared) = (chance(), 0);
        for _ in 0..2000 {
            let incarnation = some(&mut chosen);
            let bases = &incarnation.bases;
            let cutoff = chosen(1200);
            let missing: BTreeSet<u64> = (0..chosen(4)).map(|_| chosen(24)).collect();
            let missing: Vec<u64> = missing.into_iter().collect();
            let broken = broken(&incarnation, &mut chosen);
            let whole = || bases.iter().filter(|base| !broken.contains(&base.id));
            let begins = whole().rev().filter_map(|b| b.cut.as_ref()).map(|c| (c.at, c.lsn));
            let windows = super::super::info::windows(begins, &missing, MOMENTS << 10);
            let needed = needs(&incarnation, &windows, cutoff, |base| !broken.contains(&base));
            spared += bases.len() - needed.len();
            let leads = |from: u64, to: u64| {
                let whole = from / MOMENTS..=to / MOMENTS;
                from <= to && !missing.iter().any(|number| whole.contains(number))
            };
            for moment in cutoff..=incarnation.archive.ended_at.unwrap_or(1200) {
                let before = whole().any(|base| leads(base.created_at, moment));
                let mut left = whole().filter(|base| needed.contains(&base.id));
                let after = left.any(|base| leads(base.created_at, moment));
                assert!(!before || after, "{moment}: cutoff {cutoff}, {missing:?}, {windows:?}");
            }
            // Of those that are too old, one.
            let old = bases.iter().filter(|base| is_old(base, cutoff));
            assert!(old.filter(|base| needed.contains(&base.id)).count() <= 1);
        }
        assert!(spared > 1000, "{spared}");
    }
}
