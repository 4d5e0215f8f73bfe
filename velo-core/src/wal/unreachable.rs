//! Why a moment cannot be reached, and what can be.

use super::info::{self, Incarnation};
use super::plan;
use super::search::Dropped;
use super::target::{Kind, Target};
use crate::error::{Error, ErrorKind};
use crate::home::Home;
use crate::postgres::lsn::Lsn;
use crate::record::{BranchRecord, ProjectRecord};

/// What names the segment in an error.
const SEGMENT: &str = "segment";

/// A segment is missing.
pub(super) fn hole(name: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a hole in the WAL that is kept: the segment {name} is missing"),
    )
    .with_context(SEGMENT, name)
    .with_hint("velo wal info shows what can be reached: before it, or from a snapshot behind it")
}

pub(super) fn damaged(name: &str, at: Lsn, why: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the WAL that is kept is damaged at {at} in the segment {name}: {why}"),
    )
    .with_context(SEGMENT, name)
    .with_hint("velo wal info shows what can be reached: before it, or from a snapshot behind it")
}

/// A tablespace outside of the data was made on the way to `target`. Replaying that makes a link to the same
/// folder, and what follows writes into the files there, which are the parent's.
pub(super) fn leads_out(target: &Target, shown: &str, at: Lsn, path: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{target} cannot be reached: at {at} a tablespace of {shown} was made in {path}, outside of its data, \
             and a branch would write into the same files"
        ),
    )
    .with_hint(format!(
        "name a moment before that; for moments from now on drop the tablespace, let the server of {shown} write a \
         CHECKPOINT, and: velo snapshot create {shown} NAME"
    ))
}

/// The files of a database were gone at `target`, and the transaction that dropped it was not committed.
pub(super) fn half_dropped(target: &Target, shown: &str, dropped: &Dropped) -> Error {
    let Dropped { database, at, before } = dropped;
    let hint = match before {
        Some(lsn) => {
            format!("name a moment before that (--at-lsn {lsn} is one), or one behind that commit")
        }
        None => "name a moment before that, or one behind that commit".to_owned(),
    };
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{target} cannot be reached whole: at {at} DROP DATABASE had removed the files of a database of {shown} \
             (OID {database}), which was committed later"
        ),
    )
    .with_hint(hint)
}

/// The last restore point of a name that is known: behind it comes what cannot be read.
pub(super) fn last_known(error: Error, point: Lsn) -> Error {
    error.with_hint(format!(
        "there may be a later restore point of that name in what is missing; the last one that is known: --at-lsn \
         {point}"
    ))
}

/// A restore point was written before there was a snapshot that leads to it.
pub(super) fn no_base(name: &str, shown: &str, lsn: Lsn) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "the last restore point {name:?} of {shown} is at {lsn}, and no snapshot of its data is older: nothing leads there"
        ),
    )
    .with_hint(format!("velo snapshot create {shown} NAME, for moments from then on"))
}

/// No WAL of a branch is kept.
pub(super) fn keeps_none(project: &ProjectRecord, parent: &BranchRecord, shown: &str) -> Error {
    let error = Error::new(ErrorKind::Unsupported, format!("no WAL of {shown} is kept"));
    error.with_hint(match (parent.ephemeral, project.wal_retention) {
        (true, _) => "that of an ephemeral branch never is: name a lasting one".to_owned(),
        (_, None) => format!("from now on: velo project set {} --wal-retention 7d", project.name),
        (_, Some(_)) => format!("from its next start on: velo branch restart {shown}"),
    })
}

/// The branch that has no such moment.
pub(super) struct Why<'a> {
    pub(super) home: &'a Home,
    pub(super) project: &'a ProjectRecord,
    pub(super) parent: &'a BranchRecord,
    pub(super) all: &'a [plan::Incarnation],
}

impl Why<'_> {
    /// Why none of its snapshots leads to `target`: something is missing or broken, or the moment is `before` the
    /// place where what the first one holds ends, or there is none.
    pub(super) async fn of(
        &self,
        target: &Target,
        before: Option<Lsn>,
        trouble: Option<Error>,
    ) -> Error {
        let shown = format!("{}/{}", self.project.name, self.parent.shown());
        let seen = self.seen().await;
        let windows: Vec<String> = seen.iter().flat_map(Incarnation::reachable).collect();
        let hint = match windows.is_empty() {
            true => format!("nothing can be reached yet: velo snapshot create {shown} NAME"),
            false => format!("what can be reached of {shown}: {}", windows.join("; ")),
        };
        if let Some(error) = trouble {
            // Where a segment is only damaged, the windows go over it.
            let segment = error.context().find(|(key, _)| *key == SEGMENT).map(|(_, name)| name);
            let is_hole = |name| seen.iter().any(|one| one.holes.iter().any(|hole| hole == name));
            let known = segment.is_some_and(is_hole);
            return if known { error.with_hint(hint) } else { error };
        }
        if let Some(end) = before {
            let what = format!(
                "{target} is in the middle of the oldest snapshot that is kept of {shown}, which is whole from {end} on"
            );
            return Error::new(ErrorKind::NotFound, what).with_hint(hint);
        }
        let what = match &target.kind {
            Kind::Lsn(lsn) if self.was(*lsn) => format!(
                "{target} is of the data that {shown} had before it was reset: positions are of what is there now"
            ),
            Kind::Time(_) => format!("{target} is outside of what is kept of the WAL of {shown}"),
            Kind::RestorePoint(name) => {
                format!("{shown} has no restore point {name:?}, as far as its WAL is kept")
            }
            Kind::Xid(xid) => format!(
                "transaction {xid} of {shown} was not committed, as far as the WAL of what is there now is kept: it may \
                 have only read, or been before a reset"
            ),
            Kind::Lsn(_) => format!("{target} is before what is kept of the WAL of {shown}"),
        };
        Error::new(ErrorKind::NotFound, what).with_hint(hint)
    }

    /// Whether an earlier incarnation had that position.
    fn was(&self, lsn: Lsn) -> bool {
        self.all.iter().any(|one| {
            let archive = &one.archive;
            archive.id != self.parent.volume
                && archive.from.is_some_and(|from| from <= lsn)
                && archive.written.is_some_and(|written| lsn <= written)
        })
    }

    /// What can be reached, as far as that can be looked at: what is the matter is told in any case.
    async fn seen(&self) -> Vec<Incarnation> {
        let mut seen = Vec::new();
        for one in self.all {
            match info::look(self.home, self.project, self.parent, one).await {
                Ok(one) => seen.push(one),
                Err(error) => tracing::warn!(%error, "what can be reached is not known"),
            }
        }
        seen
    }
}
