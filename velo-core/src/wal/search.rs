//! A moment among records.

use std::collections::BTreeSet;

use super::reader::{Event, Record};
use super::target::{Kind, Target};
use crate::postgres::lsn::Lsn;

/// Goes through records until the moment.
pub(super) struct Search<'a> {
    target: &'a Target,
    /// Where recovery ends: records that begin there or later are not replayed.
    pub(super) stop: Option<Lsn>,
    /// Whether a later record may be the one.
    pub(super) goes_on: bool,
    /// The last commit before it.
    pub(super) last: Option<(u32, i64)>,
    newest: Option<(u32, i64)>,
    /// Transactions of Velo's own that are not over, of which nobody is told.
    own: BTreeSet<u32>,
    /// The first tablespace outside of the data: where its record is, and its folder.
    pub(super) outside: Option<(Lsn, String)>,
    pub(super) aborted: Option<u64>,
    pub(super) part_of: Option<(u64, u32)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let goes_on = matches!(target.kind, Kind::RestorePoint(_));
        Self {
            target,
            stop: None,
            goes_on,
            last: None,
            newest: None,
            own: BTreeSet::new(),
            outside: None,
            aborted: None,
            part_of: None,
        }
    }

    /// Whether the moment is none that can be reached.
    pub(super) fn failed(&self) -> bool {
        self.aborted.is_some() || self.part_of.is_some()
    }

    /// Whether it is known now where recovery ends.
    pub(super) fn meets(&mut self, record: &Record) -> bool {
        let exclusive = self.target.exclusive;
        let mut stop = None;
        match (&self.target.kind, &record.event) {
            (Kind::Lsn(lsn), _) if record.start >= *lsn => stop = Some(record.start),
            (Kind::Time(micros), Event::Commit { at, .. })
                if at > micros || (exclusive && at == micros) =>
            {
                stop = Some(record.start);
            }
            (Kind::Xid(wanted), Event::Commit { xid, subtransactions, .. }) => {
                if *xid == *wanted as u32 {
                    stop = Some(if exclusive { record.start } else { record.end });
                } else if subtransactions.contains(&(*wanted as u32)) {
                    self.part_of = Some((*wanted, *xid));
                }
            }
            (Kind::Xid(wanted), Event::Abort { xid, subtransactions })
                if *xid == *wanted as u32 || subtransactions.contains(&(*wanted as u32)) =>
            {
                self.aborted = Some(*wanted);
            }
            (Kind::RestorePoint(wanted), Event::RestorePoint { name, .. }) if name == wanted => {
                stop = Some(record.end);
            }
            _ => {}
        }
        let is_before = stop != Some(record.start);
        match &record.event {
            Event::Own { xid } => {
                self.own.insert(*xid);
            }
            Event::Commit { xid, at, .. } if is_before && !self.own.remove(xid) => {
                self.newest = Some((*xid, *at));
            }
            Event::Tablespace { path } if self.outside.is_none() => {
                self.outside = Some((record.start, path.clone()));
            }
            _ => {}
        }
        if stop.is_some() {
            self.stop = stop;
            self.last = self.newest;
        } else if self.stop.is_none() {
            self.last = self.newest;
        }
        stop.is_some()
    }
}
