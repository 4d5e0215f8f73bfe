//! What of a branch's WAL is kept, and which moments can be reached.

use std::collections::{BTreeMap, BTreeSet};

use super::archive;
use super::files::Folder;
use super::plan::{self, incarnations};
use super::timeline::Timelines;
use crate::branch::Branch;
use crate::clone::opened;
use crate::engine::Call;
use crate::error::{ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lock::Mode;
use crate::postgres::backup::Segment;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::lsn::Lsn;
use crate::record::{BranchRecord, ProjectRecord, Role};
use crate::storage::Object;

/// What of a branch's WAL is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct WalInfo {
    /// How long it is kept, in seconds; `None` is not at all.
    pub retention: Option<u64>,
    /// The WAL of each incarnation of its data, the newest first: a reset begins another.
    pub incarnations: Vec<Incarnation>,
}

/// The WAL of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Incarnation {
    /// The volume whose server writes it, or wrote it.
    pub volume: Id,
    /// When it began, in milliseconds since 1970, UTC.
    pub begun_at: u64,
    /// When its server had stopped for good; `None` for the data that is there now.
    pub ended_at: Option<u64>,
    /// Whether its server archives, as it was started last.
    pub archiving: bool,
    /// What can be reached, the oldest first.
    pub windows: Vec<Window>,
    /// How many snapshots recovery can begin with.
    pub bases: usize,
    /// How many of them Velo took by itself.
    pub own_bases: usize,
    /// How many segments are archived.
    pub segments: usize,
    /// The bytes that they take.
    pub bytes: u64,
    /// Segments that are missing.
    pub holes: Vec<String>,
    /// Segments that are full and not archived yet.
    pub waiting: usize,
    /// For how many seconds the first of them has been waiting.
    pub waiting_for: u64,
}

/// Moments without a gap between them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Window {
    /// From when on, in milliseconds since 1970, UTC.
    pub from: u64,
    /// From where on.
    pub from_lsn: Lsn,
    /// Where a segment is missing; `None` is to the end of the incarnation, which is now if it has not
    /// ended.
    pub until_lsn: Option<Lsn>,
}

impl Window {
    /// From when on, in UTC.
    #[must_use]
    pub fn begins(&self) -> String {
        utc(self.from)
    }
}

impl Incarnation {
    /// What can be reached, in words and in UTC.
    #[must_use]
    pub fn reachable(&self) -> Vec<String> {
        let end = self.ends().unwrap_or_else(|| "now".to_owned());
        let said = |window: &Window| {
            let end = match window.until_lsn {
                Some(hole) => format!("the hole at {hole}"),
                None => end.clone(),
            };
            format!("{} ({}) to {end}", window.begins(), window.from_lsn)
        };
        self.windows.iter().map(said).collect()
    }

    /// When it ended, in UTC.
    #[must_use]
    pub fn ends(&self) -> Option<String> {
        self.ended_at.map(utc)
    }
}

/// Milliseconds since 1970 in words.
fn utc(millis: u64) -> String {
    super::time::shown(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000))
}

impl Branch {
    /// What of its WAL is kept, and which moments can be reached.
    ///
    /// # Errors
    /// If the files cannot be looked at.
    pub async fn wal(&self) -> Result<WalInfo> {
        self.wal_call().await
    }

    pub(crate) fn wal_call(&self) -> Call<WalInfo> {
        self.call(|branch, home, op| async move {
            let what = format!("the branch {}", branch.full_name());
            let _lock = home.lock(branch.id(), Mode::Shared, &what, &op.cancel).await?;
            let record = branch.current(&home).await?;
            let id = branch.project_record().id;
            let project = home.state().read(move |tx| tx.get::<ProjectRecord>(id)).await?;
            let project = project.unwrap_or_else(|| branch.project_record());
            of(&home, &project, &record).await
        })
    }
}

async fn of(home: &Home, project: &ProjectRecord, branch: &BranchRecord) -> Result<WalInfo> {
    let mut told = Vec::new();
    for incarnation in incarnations(home, branch.id).await? {
        told.push(look(home, project, branch, &incarnation).await?);
    }
    Ok(WalInfo { retention: project.wal_retention, incarnations: told })
}

pub(super) async fn look(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    incarnation: &plan::Incarnation,
) -> Result<Incarnation> {
    let storage = home.storage(project.storage)?;
    let record = &incarnation.archive;
    let mut begins = Vec::new();
    let mut segment_size = 0;
    let mut timeline = None;
    let controls = controls(home, project, incarnation).await?;
    for base in incarnation.bases.iter().rev() {
        let (Some(cut), Some(control)) = (&base.cut, controls.get(&base.id)) else { continue };
        segment_size = control.wal_segment_size;
        timeline.get_or_insert(control.timeline);
        begins.push((cut.at, cut.lsn));
    }
    let folder = archive::folder(home, record.id);
    // What has ended is archived whole.
    let data = match incarnation.lives && record.ended_at.is_none() {
        true => match storage.open(Object::Volume(record.id)).await {
            Ok(location) => Some(location.host_path().to_path_buf()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
        false => None,
    };
    let read = move || {
        let archive = Folder::open(&folder)?;
        let pg_wal = match &data {
            Some(data) => Folder::of_data(data)?,
            None => None,
        };
        let timelines = Timelines::since(timeline.unwrap_or_default(), [&archive, &pg_wal])?;
        let waiting = match &pg_wal {
            Some(pg_wal) => (pg_wal.waiting()?, pg_wal.waiting_for()?),
            None => (0, 0),
        };
        let (mut kept, mut bytes) = (Vec::new(), 0);
        if let Some(archive) = &archive {
            bytes = archive.bytes()?;
            if segment_size > 0 {
                kept = archive.segments(&timelines, segment_size)?;
            }
        }
        let mut there: BTreeSet<u64> = kept.iter().copied().collect();
        if let (Some(pg_wal), true) = (&pg_wal, segment_size > 0) {
            there.extend(pg_wal.segments(&timelines, segment_size)?);
        }
        Ok((kept, there, bytes, waiting, timelines))
    };
    let (kept, there, bytes, waiting, timelines) = crate::engine::blocking(read).await?;
    let size = u64::from(segment_size.max(1));
    let first = begins.first().map_or(0, |(_, lsn)| lsn.0 / size);
    // Behind a gap nothing may be archived yet.
    let newest = begins.last().map_or(first, |(_, lsn)| lsn.0 / size);
    let last = kept.last().copied().unwrap_or(first).max(newest);
    // Of one that has ended all is archived, the last one too.
    let end = record.written.filter(|_| segment_size > 0).map_or(last, |lsn| lsn.0 / size + 1);
    let missing = (first..last.max(end)).filter(|number| !there.contains(number));
    let missing: Vec<u64> = missing.collect();
    let windows = windows(begins, &missing, size);
    Ok(Incarnation {
        volume: record.id,
        begun_at: record.begun_at,
        ended_at: record.ended_at.map(|at| incarnation.next_at.map_or(at, |next| next.min(at))),
        archiving: record.ended_at.is_none() && record.id == branch.volume && record.archiving,
        windows,
        bases: incarnation.bases.len(),
        own_bases: incarnation.bases.iter().filter(|base| base.role == Role::Base).count(),
        segments: kept.len(),
        bytes,
        holes: missing
            .iter()
            .map(|number| {
                let timeline = timelines.of_segment(*number, segment_size);
                Segment::name(timeline, *number, segment_size)
            })
            .collect(),
        waiting: waiting.0,
        waiting_for: waiting.1,
    })
}

/// The control files of the bases that something is reached from: not of one that is broken, or that somebody has
/// removed by hand.
pub(super) async fn controls(
    home: &Home,
    project: &ProjectRecord,
    incarnation: &plan::Incarnation,
) -> Result<BTreeMap<Id, ControlFile>> {
    let storage = home.storage(project.storage)?;
    let mut controls = BTreeMap::new();
    for base in &incarnation.bases {
        let location = match opened(&*storage, Object::Snapshot(base.id), "a snapshot").await {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        match control::read(&location.host_path().join(control::FILE)) {
            Ok(control) => drop(controls.insert(base.id, control)),
            Err(error) => {
                tracing::warn!(%error, snapshot = %base.id, "nothing is reached from it");
            }
        }
    }
    Ok(controls)
}

/// What can be reached from bases, the oldest first, where these segments are missing.
pub(super) fn windows(
    begins: impl IntoIterator<Item = (u64, Lsn)>,
    missing: &[u64],
    size: u64,
) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for (from, from_lsn) in begins {
        let hole = missing.iter().find(|number| **number >= from_lsn.0 / size);
        let until_lsn = hole.map(|number| Lsn(number * size));
        // From such a one nothing is reached but what it holds itself.
        if until_lsn.is_some_and(|until| until <= from_lsn) {
            continue;
        }
        // The one before it goes on to the same end.
        if windows.last().is_none_or(|before| before.until_lsn != until_lsn) {
            windows.push(Window { from, from_lsn, until_lsn });
        }
    }
    windows
}

/// How many segments of a branch are full and not archived, and since how many seconds.
pub(crate) async fn behind(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<(usize, u64)> {
    let storage = home.storage(project.storage)?;
    let data = storage.location(Object::Volume(branch.volume)).host_path().to_path_buf();
    let look = move || match Folder::of_data(&data)? {
        Some(pg_wal) => Ok((pg_wal.waiting()?, pg_wal.waiting_for()?)),
        None => Ok((0, 0)),
    };
    crate::engine::blocking(look).await
}

impl Folder {
    /// Since how many seconds the first of them waits.
    fn waiting_for(&self) -> Result<u64> {
        let Some(status) = self.folder("archive_status")? else { return Ok(0) };
        let mut longest = 0;
        for name in status.names()?.iter().filter(|name| name.ends_with(".ready")) {
            // It may have been archived meanwhile.
            let Some((file, _)) = status.file(name)? else { continue };
            let since = file.metadata().and_then(|file| file.modified()).ok();
            let since = since.and_then(|since| since.elapsed().ok());
            longest = longest.max(since.map_or(0, |since| since.as_secs()));
        }
        Ok(longest)
    }

    /// How many segments of `pg_wal` are full and not archived.
    pub(super) fn waiting(&self) -> Result<usize> {
        let Some(status) = self.folder("archive_status")? else { return Ok(0) };
        Ok(status.names()?.iter().filter(|name| name.ends_with(".ready")).count())
    }
}

impl Folder {
    /// The names of the segments before a place in the WAL, of whichever timeline, and of what belongs to them: each
    /// clone in backup mode leaves the history of a backup there.
    pub(super) fn before(&self, place: Lsn, size: u32) -> Result<Vec<String>> {
        let first = place.0 / u64::from(size.max(1));
        let is_before = |name: &String| {
            let segment = name.split_once('.').map_or(name.as_str(), |(segment, _)| segment);
            Segment::parse(segment).is_some_and(|s| s.number(size) < first)
        };
        Ok(self.names()?.into_iter().filter(is_before).collect())
    }

    /// Whether there is a segment behind the one of a place, of whichever timeline.
    pub(super) fn goes_on_behind(&self, place: Lsn, size: u32) -> Result<bool> {
        let own = place.0 / u64::from(size.max(1));
        let is_behind = |name: &String| Segment::parse(name).is_some_and(|s| s.number(size) > own);
        Ok(self.names()?.iter().any(is_behind))
    }
}
