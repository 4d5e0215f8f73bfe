//! From a moment to what has to be done: the snapshot that recovery begins with, and the place in the
//! WAL where it ends.
//!
//! Everything is known before anything is made. The WAL is read from the end of what a base holds to
//! the moment, checksums and all, so that a hole, a damaged segment, a transaction that never
//! committed or a restore point that is none is told at once. What is left to PostgreSQL is to replay
//! all WAL there is: it is given no more than up to that place.

use std::path::{Path, PathBuf};

use super::archive;
use super::files::{Folder, Places};
use super::reader::{Event, PREFIX, Reader, Segments};
use super::search::Search;
use super::target::{Kind, Target};
use super::time::shown;
use super::timeline::Timelines;
use super::uncovered;
use super::unreachable::{
    Why, damaged, half_dropped, hole, keeps_none, last_known, leads_out, no_base,
};
use crate::boot;
use crate::cancel::Cancel;
use crate::clone::opened;
use crate::cut::Cut;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::postgres::backup::Segment;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::data_file;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::Session;
use crate::record::{
    ArchiveRecord, BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, VolumeRecord,
};
use crate::run_dir::RunDir;
use crate::runtime::Status;
use crate::state::Tx;
use crate::storage::{Object, Storage};

/// The moment that a branch was recovered to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Reached {
    /// Everything in its parent's WAL up to here is in it.
    pub lsn: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// When the last transaction in it was committed (but for Velo's own), in microseconds since 1970,
    /// UTC; none if there was none since the snapshot that recovery began with.
    pub committed_at: Option<i64>,
    /// The number of that transaction.
    pub last_xid: Option<u32>,
    /// The bytes of WAL that were replayed.
    pub replayed: u64,
    /// When the snapshot was taken that recovery began with, in milliseconds since 1970, UTC: what the branch is of at the
    /// earliest.
    #[serde(default)]
    pub since: u64,
}

impl Reached {
    /// The moment in UTC: `2026-11-20 13:32:05.500000 UTC`.
    #[must_use]
    pub fn time(&self) -> Option<String> {
        self.committed_at.map(shown)
    }

    /// When the snapshot was taken that recovery began with, likewise.
    #[must_use]
    pub fn begun(&self) -> String {
        shown(i64::try_from(self.since).unwrap_or(i64::MAX).saturating_mul(1000))
    }
}

/// What has to be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) base: SnapshotRecord,
    /// The volume whose WAL is replayed.
    pub(super) volume: Id,
    /// From that of the base on.
    pub(super) timelines: Timelines,
    pub(super) size: u32,
    /// The first and the last segment that are needed beside those in the base.
    pub(super) segments: Option<(u64, u64)>,
    pub(crate) reached: Reached,
    /// Where the last record ends that is replayed: at `reached`, or before what a crash left there, and the head of a page.
    pub(super) least: Lsn,
    /// The place for prepared transactions that replaying takes beside what the base says.
    pub(super) max_prepared: u32,
    /// Of each segment, in their order, when the last transaction in it was committed.
    pub(super) times: Vec<(u64, i64)>,
}

impl Plan {
    /// Whether what it begins with is there, and its WAL still kept.
    pub(crate) async fn is_there(&self, home: &Home) -> Result<bool> {
        let (base, volume) = (self.base.id, self.volume);
        let look = move |tx: &Tx<'_>| {
            let base = tx.get::<SnapshotRecord>(base)?;
            let archive = tx.get::<ArchiveRecord>(volume)?;
            Ok(base.zip(archive).is_some_and(|(base, archive)| {
                base.phase == Phase::Ready && is_base_of(&base, &archive)
            }))
        };
        home.state().read(look).await
    }

    /// The places of the WAL, opened.
    pub(super) fn places(&self, home: &Home, project: &ProjectRecord) -> Result<Places> {
        let data = home.storage(project.storage)?.location(Object::Volume(self.volume));
        let archive = Folder::open(&archive::folder(home, self.volume))?;
        let pg_wal = Folder::of_data(data.host_path())?;
        Ok(Places { archive, pg_wal, timelines: self.timelines.clone(), size: self.size })
    }

    /// The timeline that recovery has to follow, where it is not the base's.
    pub(super) fn follows(&self) -> Option<u32> {
        let own = self.timelines.at(Lsn(0));
        Some(self.reached.timeline).filter(|timeline| *timeline != own)
    }
}

/// An incarnation with what recovery can begin with, the newest first.
#[derive(Debug, Clone)]
pub(super) struct Incarnation {
    pub(super) archive: ArchiveRecord,
    pub(super) bases: Vec<SnapshotRecord>,
    /// Whether its volume is there.
    pub(super) lives: bool,
    /// When the next one began, in milliseconds since 1970, UTC: none of the data that is there now.
    pub(super) next_at: Option<u64>,
}

/// The incarnations of a branch, the newest first.
pub(super) async fn incarnations(home: &Home, branch: Id) -> Result<Vec<Incarnation>> {
    home.state()
        .read(move |tx| {
            let mut snapshots = tx.of::<SnapshotRecord>(branch)?;
            snapshots
                .retain(|s| s.phase == Phase::Ready && matches!(s.role, Role::Named | Role::Base));
            let volume = tx.get::<BranchRecord>(branch)?.map(|branch| branch.volume);
            let (mut found, mut next_at) = (Vec::new(), None);
            for archive in tx.of::<ArchiveRecord>(branch)?.into_iter().rev() {
                let mut bases: Vec<_> =
                    snapshots.iter().filter(|s| is_base_of(s, &archive)).cloned().collect();
                bases.sort_by_key(|base| std::cmp::Reverse(base.cut.as_ref().map(|cut| cut.lsn)));
                let lives = tx.get::<VolumeRecord>(archive.id)?.is_some();
                // A reset that came to nothing may have left one that is newer than the data.
                let next = next_at.filter(|_| Some(archive.id) != volume);
                next_at = Some(archive.begun_at);
                found.push(Incarnation { archive, bases, lives, next_at: next });
            }
            Ok(found)
        })
        .await
}

/// Whether recovery of that WAL can begin with a snapshot: not where what comes after that is kept no more.
fn is_base_of(snapshot: &SnapshotRecord, archive: &ArchiveRecord) -> bool {
    // One that was in recovery goes on to a timeline of its own.
    let leads = |cut: &Cut| !cut.in_recovery && archive.from <= Some(cut.lsn);
    snapshot.cut.as_ref().is_some_and(leads) && snapshot.source == Some(Object::Volume(archive.id))
}

/// A base that is there.
struct Candidate {
    base: SnapshotRecord,
    volume: Id,
    /// Its server has written the WAL up to here at least.
    written: Option<Lsn>,
    archive: PathBuf,
    data: PathBuf,
    /// Its own data.
    held: PathBuf,
}

/// What a look through the WAL from a base on came to.
enum Found {
    Plan(Box<Plan>),
    /// It is before the end of what the base itself holds.
    Before,
    /// It was not met.
    Elsewhere,
    /// Behind the base the WAL is broken. Of restore points the last one before that.
    Broken(Error, Option<Lsn>),
}

/// Looks for the moment in the WAL of a branch, whose lock the caller holds.
pub(crate) async fn plan(
    home: &Home,
    project: &ProjectRecord,
    parent: &BranchRecord,
    target: &Target,
    op: &Op,
) -> Result<Plan> {
    target.check()?;
    let shown = format!("{}/{}", project.name, parent.shown());
    let all = incarnations(home, parent.id).await?;
    if all.is_empty() {
        return Err(keeps_none(project, parent, &shown));
    }
    let storage = home.storage(project.storage)?;
    opened(&*storage, Object::Volume(parent.volume), &format!("the branch {shown}")).await?;
    let written = flush(home, project, parent, op).await?;
    let (mut trouble, mut before) = (None, None);
    // Positions and numbers of transactions are those of the data that is there now.
    let of_now = matches!(target.kind, Kind::Lsn(_) | Kind::Xid(_));
    if of_now && !all.iter().any(|one| one.archive.id == parent.volume) {
        return Err(keeps_none(project, parent, &shown));
    }
    'search: for incarnation in &all {
        if of_now && incarnation.archive.id != parent.volume {
            continue;
        }
        // It ended before the moment, or clients were at the next one by then: whatever is in it is older.
        if let Kind::Time(micros) = target.kind {
            let millis = u64::try_from(micros / 1000).unwrap_or(0);
            let ended = incarnation.archive.ended_at.is_some_and(|at| at < millis);
            if ended || incarnation.next_at.is_some_and(|at| at <= millis) {
                continue;
            }
        }
        let mut until = None;
        // Where its WAL is broken, and the last restore point before that; whether what leads from a base was not read.
        let (mut unread, mut known, mut skipped) = (None, None, false);
        for base in &incarnation.bases {
            op.cancel.check()?;
            let Some(cut) = &base.cut else { continue };
            let too_late = match target.kind {
                Kind::Time(micros) => i64::try_from(cut.at).unwrap_or(i64::MAX) > micros / 1000,
                // In the oldest one it may be in the middle, which is said.
                Kind::Lsn(lsn) => {
                    cut.lsn > lsn && incarnation.bases.last().is_some_and(|last| last.id != base.id)
                }
                _ => false,
            };
            if too_late {
                continue;
            }
            let is_now = incarnation.archive.id == parent.volume;
            let written = if is_now { written } else { incarnation.archive.written };
            let candidate = match Candidate::of(home, &*storage, incarnation, base, written).await {
                Ok(candidate) => candidate,
                // Somebody has removed it by hand; an older one leads there as well.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    trouble.get_or_insert(error);
                    skipped = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (wanted, name, cancel) = (target.clone(), shown.clone(), op.cancel.clone());
            let look = move || candidate.look(&wanted, until, &name, &cancel);
            match crate::engine::blocking(look).await {
                Ok((Found::Plan(plan), _)) => match unread {
                    // The last one of that name may be in what cannot be read.
                    Some(error) if matches!(target.kind, Kind::RestorePoint(_)) => {
                        return Err(last_known(error, plan.reached.lsn));
                    }
                    _ => return Ok(*plan),
                },
                Ok((Found::Broken(error, point), end)) => {
                    // No older one leads over that.
                    if matches!(target.kind, Kind::Time(_) | Kind::Lsn(_)) {
                        trouble.get_or_insert(error);
                        break 'search;
                    }
                    known = known.or(point);
                    unread.get_or_insert(error);
                    (until, skipped) = (Some(end), false);
                }
                Ok((found, end)) => {
                    before = before.or(matches!(found, Found::Before).then_some(end));
                    (until, skipped) = (Some(end), false);
                }
                // It is the snapshot that is broken: an older one leads there as well.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    trouble.get_or_insert(error);
                    skipped = true;
                }
                Err(error) => return Err(error),
            }
        }
        let is_broken = unread.is_some();
        match (unread, known) {
            (Some(error), Some(point)) => return Err(last_known(error, point)),
            (Some(error), None) => drop(trouble.get_or_insert(error)),
            (None, _) => {}
        }
        // One of that name in an older incarnation would be another moment.
        let is_last = is_broken || skipped || before.is_some();
        if let Kind::RestorePoint(name) = &target.kind {
            if is_last {
                break;
            }
            let led = uncovered::restore_point(home, project, incarnation, name, &op.cancel);
            if let Some(lsn) = led.await? {
                return Err(no_base(name, &shown, lsn));
            }
        }
    }
    Err(Why { home, project, parent, all: &all }.of(target, before, trouble).await)
}

/// Whether the WAL leads from a base of an incarnation to what a newer one holds: then no moment is lost with that.
pub(super) async fn leads(
    home: &Home,
    project: &ProjectRecord,
    incarnation: &Incarnation,
    [older, newer]: [&SnapshotRecord; 2],
    cancel: &Cancel,
) -> Result<bool> {
    let storage = home.storage(project.storage)?;
    let broken = |error: &Error| matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound);
    // Of one that is broken itself nothing is lost.
    let newer = match Candidate::of(home, &*storage, incarnation, newer, None).await {
        Err(error) if broken(&error) => return Ok(true),
        other => other?,
    };
    let held = crate::engine::blocking(move || newer.held_until()).await;
    let held = match held {
        Err(error) if broken(&error) => return Ok(true),
        other => other?,
    };
    let older = match Candidate::of(home, &*storage, incarnation, older, None).await {
        Err(error) if broken(&error) => return Ok(false),
        other => other?,
    };
    let (target, cancel) = (Target::lsn(held), cancel.clone());
    let look = move || older.look(&target, None, "", &cancel);
    match crate::engine::blocking(look).await {
        Ok((Found::Plan(_) | Found::Before, _)) => Ok(true),
        Ok((Found::Broken(..) | Found::Elsewhere, _)) => Ok(false),
        // A tablespace leads out of the data.
        Err(error) if broken(&error) || error.kind() == ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}

/// Brings what was acknowledged, and what a position may name, into the files that are read. Where the WAL
/// ends at least.
async fn flush(
    home: &Home,
    project: &ProjectRecord,
    parent: &BranchRecord,
    op: &Op,
) -> Result<Option<Lsn>> {
    if !matches!(boot::status(home, project, parent).await?, Status::Running { .. }) {
        let location = home.storage(project.storage)?.location(Object::Volume(parent.volume));
        let control = control::read(&location.host_path().join(control::FILE))?;
        return Ok(Some(control.checkpoint));
    }
    let socket_dir = RunDir::of(home, parent.id).socket();
    let flushed = async {
        let session = Session::connect(boot::target(&socket_dir, project, parent)).await?;
        let flush = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', '')");
        session.execute("flush its WAL", &flush).await?;
        session.value("look at its WAL", "SELECT pg_current_wal_flush_lsn()").await?.parse()
    };
    match op.cancel.guard(flushed).await? {
        Ok(written) => Ok(Some(written)),
        Err(error) => {
            // What its processes hold back is less than a second old.
            tracing::warn!(%error, "the server is not asked for its newest WAL");
            Ok(None)
        }
    }
}

impl Candidate {
    /// A base of an incarnation, whose server has written WAL up to a place at least.
    async fn of(
        home: &Home,
        storage: &dyn Storage,
        incarnation: &Incarnation,
        base: &SnapshotRecord,
        written: Option<Lsn>,
    ) -> Result<Self> {
        let location = opened(storage, Object::Snapshot(base.id), "a snapshot").await?;
        let volume = incarnation.archive.id;
        Ok(Self {
            base: base.clone(),
            volume,
            written,
            archive: archive::folder(home, volume),
            data: storage.location(Object::Volume(volume)).host_path().to_path_buf(),
            held: location.host_path().to_path_buf(),
        })
    }

    /// A reader of its own WAL.
    fn own(&self) -> Result<(ControlFile, Lsn, Reader<Places>)> {
        let control = control::read(&self.held.join(control::FILE))?;
        let start = begin_of_label(&self.held)?.unwrap_or(control.redo);
        let (pg_wal, timelines) = (Folder::of_data(&self.held)?, Timelines::only(control.timeline));
        let held = Places { archive: None, pg_wal, timelines, size: control.wal_segment_size };
        let reader =
            Reader::new(held, control.major, control.timeline, control.wal_segment_size, start);
        Ok((control, start, reader))
    }

    /// Where its own WAL ends.
    fn held_until(&self) -> Result<Lsn> {
        let (_, start, mut reader) = self.own()?;
        while reader.next()?.is_some() {}
        self.holds(start, &reader)
    }

    fn holds(&self, start: Lsn, reader: &Reader<Places>) -> Result<Lsn> {
        if reader.end() > start {
            return Ok(reader.end());
        }
        let what = format!("the WAL in the snapshot {} cannot be read", self.base.id);
        Err(Error::new(ErrorKind::Corrupt, format!("{what}: {}", reader.why()))
            .with_hint("nothing is reached from it: velo snapshot create takes another, for moments from then on"))
    }

    /// Reads the WAL from this base on until the moment, or at most to `until`. Beside what was found
    /// is where the WAL ends that the base itself holds.
    fn look(
        &self,
        target: &Target,
        until: Option<Lsn>,
        shown: &str,
        cancel: &Cancel,
    ) -> Result<(Found, Lsn)> {
        let (control, start, mut reader) = self.own()?;
        let (timeline, size) = (control.timeline, control.wal_segment_size);
        let mut search = Search::new(target, control.next_xid);
        while let Some(record) = reader.next()? {
            search.meets(&record);
        }
        let held_until = self.holds(start, &reader)?;
        let early = search.stop.is_some();
        if early && !matches!(target.kind, Kind::RestorePoint(_)) {
            let is_older = matches!(target.kind, Kind::Lsn(lsn) if lsn < start);
            return Ok((if is_older { Found::Elsewhere } else { Found::Before }, held_until));
        }
        search.forget();
        let places = self.places(timeline, size)?;
        let timelines = places.timelines.clone();
        let mut reader = reader.with(places, timelines.last);
        let (mut count, mut limited, mut least) = (0_u32, false, None);
        let mut times: Vec<(u64, i64)> = Vec::new();
        let mut trouble = None;
        loop {
            let before = reader.end();
            let Some(record) = reader.next()? else {
                // Whether it is the end of the WAL, or something is missing in it. The server may have
                // gone on since the segment was read: then there is a record by now.
                let (end, here) = (reader.end(), reader.segment());
                match self.hole_at(end, here, reader.why(), timeline, size)? {
                    Some(error) if trouble.is_none() => trouble = Some(error),
                    Some(error) => return Ok((Found::Broken(error, search.stop), held_until)),
                    None => break,
                }
                reader.look_again();
                continue;
            };
            trouble = None;
            if until.is_some_and(|until| record.start >= until) {
                limited = true;
                break;
            }
            let met = search.meets(&record);
            if let Event::Commit { at, .. } = record.event {
                let segment = record.start.0 / u64::from(size);
                match times.last_mut().filter(|(last, _)| *last == segment) {
                    Some((_, last)) => *last = at,
                    None => times.push((segment, at)),
                }
            }
            if met {
                least = Some(if search.stop == Some(record.start) { before } else { record.end });
            }
            if (met && !search.goes_on) || search.failed() {
                break;
            }
            count = count.wrapping_add(1);
            if count.is_multiple_of(65_536) {
                cancel.check()?;
            }
        }
        let end = reader.end();
        if search.stop.is_none() && !limited {
            match &target.kind {
                Kind::Time(_) => search.stop = Some(end),
                Kind::Lsn(lsn) if *lsn <= end => search.stop = Some(end),
                Kind::Lsn(lsn) => {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("{lsn} is in the future: the WAL of {shown} ends at {end}"),
                    )
                    .with_hint(
                        "pg_current_wal_insert_lsn() of that branch gives such a position",
                    ));
                }
                _ => {}
            }
        }
        if let Some(xid) = search.aborted {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("transaction {xid} of {shown} was rolled back"),
            )
            .with_hint("name one that was committed, or a moment"));
        }
        if let Some((part, whole)) = search.part_of {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{part} is a part of transaction {whole} of {shown}, and cannot be reached alone"),
            )
            .with_hint(format!("name that one: --at-xid {whole}")));
        }
        let Some(stop) = search.stop else {
            return Ok((if early { Found::Before } else { Found::Elsewhere }, held_until));
        };
        let ends = search.ends(stop, held_until);
        let ends = ends.map_err(|dropped| half_dropped(target, shown, &dropped))?;
        let least = least.filter(|_| ends == stop).unwrap_or(ends);
        let stop = ends;
        if let Some((at, path)) = &search.outside
            && *at < stop
        {
            return Err(leads_out(target, shown, *at, path));
        }
        let number = |lsn: Lsn| lsn.0.saturating_sub(1) / u64::from(size);
        let plan = Plan {
            base: self.base.clone(),
            volume: self.volume,
            size,
            segments: (stop > held_until).then(|| (held_until.0 / u64::from(size), number(stop))),
            reached: Reached {
                lsn: stop,
                timeline: timelines.at(stop),
                committed_at: search.last().map(|(_, at)| at),
                last_xid: search.last().map(|(xid, _)| xid),
                replayed: stop.0.saturating_sub(start.0),
                since: self.base.cut.as_ref().map_or(0, |cut| cut.at),
            },
            least,
            max_prepared: search.max_prepared,
            times,
            timelines,
        };
        Ok((Found::Plan(Box::new(plan)), held_until))
    }

    /// Where its WAL goes on, on that timeline and those that came from it.
    fn places(&self, timeline: u32, size: u32) -> Result<Places> {
        let (archive, pg_wal) = (Folder::open(&self.archive)?, Folder::of_data(&self.data)?);
        let timelines = Timelines::since(timeline, [&archive, &pg_wal])?;
        Ok(Places { archive, pg_wal, timelines, size })
    }

    /// What is wrong if WAL goes on behind `end`, where no record can be read.
    fn hole_at(
        &self,
        end: Lsn,
        here: u64,
        why: &str,
        timeline: u32,
        size: u32,
    ) -> Result<Option<Error>> {
        let mut places = self.places(timeline, size)?;
        let mut bytes = Vec::new();
        let mut goes_on = false;
        for number in here + 1..=places.last()?.unwrap_or(0) {
            let begin = number * u64::from(size);
            // Those that a server keeps for later hold what they held before.
            if !places.read(number, &mut bytes)?
                || bytes.get(8..16) != Some(&begin.to_le_bytes()[..])
            {
                continue;
            }
            goes_on = true;
            break;
        }
        if !goes_on && self.written.is_none_or(|written| end >= written) {
            return Ok(None);
        }
        let name = places.name(here);
        Ok(Some(match places.read(here, &mut bytes)? {
            false => hole(&name),
            true => damaged(&name, end, why),
        }))
    }
}

/// Where a backup's label says that recovery begins.
pub(super) fn begin_of_label(data: &Path) -> Result<Option<Lsn>> {
    let path = data.join("backup_label");
    let text = match data_file::read(&path, data_file::SMALL) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
    };
    Segment::of_label(&text)?;
    let place = text.lines().find_map(|line| {
        line.strip_prefix("START WAL LOCATION: ")?.split_whitespace().next()?.parse().ok()
    });
    Ok(place)
}
