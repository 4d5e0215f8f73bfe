//! A moment among records.

use std::collections::{BTreeMap, BTreeSet};

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
    passed: Passed,
    /// What was passed before the stop.
    at_stop: Option<Passed>,
    /// Transactions of Velo's own that are not over, of which nobody is told.
    own: BTreeSet<u32>,
    /// The number of the next transaction, with its epoch.
    next_xid: u64,
    /// The first tablespace outside of the data: where its record is, and its folder.
    pub(super) outside: Option<(Lsn, String)>,
    /// The most prepared transactions that a server had place for.
    pub(super) max_prepared: u32,
    pub(super) aborted: Option<u64>,
    pub(super) part_of: Option<(u64, u32)>,
}

/// What is known of the WAL up to a place. Transactions of Velo's own, which change nothing, do not count.
#[derive(Debug, Clone, Default)]
struct Passed {
    /// The last commit.
    last: Option<(u32, i64)>,
    /// Where the last transaction ended, or was prepared.
    quiet: Option<Lsn>,
    /// Whether something came since that does not roll back.
    stays: bool,
    /// What `quiet` was at the last change in place.
    in_place: Option<Lsn>,
    /// Databases whose files are gone, by transactions that are not over.
    dropped: BTreeMap<u32, Dropped>,
}

/// A database that is being dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Its OID.
    pub(super) database: u32,
    /// From where on its files are gone.
    pub(super) at: Lsn,
    /// The end of a transaction before that.
    pub(super) before: Option<Lsn>,
}

impl Passed {
    fn ended(&mut self, xid: u32, end: Lsn) {
        self.dropped.remove(&xid);
        self.is_quiet(end);
    }

    fn is_quiet(&mut self, end: Lsn) {
        (self.quiet, self.stays) = (Some(end), false);
    }
}

impl<'a> Search<'a> {
    /// From a place on where the next transaction has that number.
    pub(super) fn new(target: &'a Target, next_xid: u64) -> Self {
        let goes_on = matches!(target.kind, Kind::RestorePoint(_));
        Self {
            target,
            stop: None,
            goes_on,
            passed: Passed::default(),
            at_stop: None,
            own: BTreeSet::new(),
            next_xid,
            outside: None,
            max_prepared: 0,
            aborted: None,
            part_of: None,
        }
    }

    /// Whether the moment is none that can be reached.
    pub(super) fn failed(&self) -> bool {
        self.aborted.is_some() || self.part_of.is_some()
    }

    /// The last commit before the moment.
    pub(super) fn last(&self) -> Option<(u32, i64)> {
        self.before().last
    }

    fn before(&self) -> &Passed {
        self.at_stop.as_ref().unwrap_or(&self.passed)
    }

    /// Whether a number in the WAL, which has no epoch, is that of the transaction that is wanted. That may be named
    /// without its epoch, too, as `xmin` and logs do.
    fn is(&mut self, wanted: u64, xid: u32) -> bool {
        // Numbers that are around at one time lie within half of all there are.
        let ahead = i64::from(xid.wrapping_sub(self.next_xid as u32) as i32);
        let full = self.next_xid.saturating_add_signed(ahead);
        self.next_xid = self.next_xid.max(full + 1);
        xid == wanted as u32 && (full == wanted || u32::try_from(wanted).is_ok())
    }

    /// Takes what was met for another moment.
    pub(super) fn forget(&mut self) {
        (self.stop, self.at_stop) = (None, None);
    }

    /// Where recovery ends, of which a base holds all up to `held`.
    ///
    /// DROP DATABASE makes a database invalid and removes its files before its commit, and neither rolls back. So
    /// where it comes behind the last transaction that counts, recovery ends there: no commit lies in between, and
    /// nothing else is seen of what does. A position is taken as it was named.
    pub(super) fn ends(&self, stop: Lsn, held: Lsn) -> Result<Lsn, Dropped> {
        let before = self.before();
        let moves = match self.target.kind {
            Kind::Lsn(_) => return Ok(stop),
            Kind::RestorePoint(_) => before.stays && !before.dropped.is_empty(),
            Kind::Time(_) | Kind::Xid(_) => before.stays,
        };
        let stop = if moves { before.quiet.unwrap_or(held).max(held).min(stop) } else { stop };
        match before.dropped.values().find(|dropped| dropped.at < stop) {
            Some(dropped) => Err(dropped.clone()),
            None => Ok(stop),
        }
    }

    /// Whether it is known now where recovery ends.
    pub(super) fn meets(&mut self, record: &Record) -> bool {
        let target = self.target;
        let exclusive = target.exclusive;
        let mut stop = None;
        match (&target.kind, &record.event) {
            (Kind::Lsn(lsn), _) if record.start >= *lsn => stop = Some(record.start),
            (Kind::Time(micros), Event::Commit { at, .. })
                if at > micros || (exclusive && at == micros) =>
            {
                stop = Some(record.start);
            }
            (Kind::Xid(wanted), Event::Commit { xid, subtransactions, .. }) => {
                if self.is(*wanted, *xid) {
                    stop = Some(if exclusive { record.start } else { record.end });
                } else if subtransactions.iter().any(|part| self.is(*wanted, *part)) {
                    self.part_of = Some((*wanted, *xid));
                }
            }
            (Kind::Xid(wanted), Event::Abort { xid, subtransactions })
                if self.is(*wanted, *xid)
                    || subtransactions.iter().any(|part| self.is(*wanted, *part)) =>
            {
                self.aborted = Some(*wanted);
            }
            (Kind::RestorePoint(wanted), Event::RestorePoint { name, .. }) if name == wanted => {
                stop = Some(record.end);
            }
            _ => {}
        }
        if stop != Some(record.start) {
            self.passes(record);
        }
        if stop.is_some() {
            self.stop = stop;
            self.at_stop = Some(self.passed.clone());
        }
        stop.is_some()
    }

    fn passes(&mut self, record: &Record) {
        let passed = &mut self.passed;
        match &record.event {
            Event::Own { xid } => {
                self.own.insert(*xid);
            }
            Event::Commit { xid, .. } | Event::Abort { xid, .. } if self.own.remove(xid) => {}
            Event::Commit { xid, at, .. } => {
                passed.last = Some((*xid, *at));
                passed.ended(*xid, record.end);
            }
            Event::Abort { xid, .. } => passed.ended(*xid, record.end),
            Event::Prepare => passed.is_quiet(record.end),
            Event::DropDatabase { xid, database } => {
                passed.stays = true;
                if *xid != 0 {
                    let before = passed.in_place.or(passed.quiet);
                    let dropped = Dropped { database: *database, at: record.start, before };
                    passed.dropped.insert(*xid, dropped);
                }
            }
            Event::InPlace => {
                passed.stays = true;
                passed.in_place = passed.quiet;
            }
            Event::Settings { max_prepared } => {
                self.max_prepared = self.max_prepared.max(*max_prepared);
            }
            Event::Anew => passed.dropped.clear(),
            Event::Tablespace { path } => {
                passed.stays = true;
                self.outside.get_or_insert_with(|| (record.start, path.clone()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start: u64, event: Event) -> Record {
        Record { start: Lsn(start), end: Lsn(start + 50), event }
    }

    fn commit(xid: u32, at: i64) -> Event {
        Event::Commit { xid, at, subtransactions: Vec::new() }
    }

    /// A commit, and DROP DATABASE by transaction 5 up to its commit, with something between that and the files'
    /// end.
    fn dropping(between: &[Event]) -> Vec<Record> {
        let drop = Event::DropDatabase { xid: 5, database: 16_384 };
        let mut wal = vec![record(100, commit(4, 10)), record(200, Event::InPlace)];
        wal.push(record(300, drop));
        for (turn, event) in (0..).zip(between) {
            wal.push(record(400 + turn * 100, event.clone()));
        }
        wal.push(record(900, commit(5, 50)));
        wal
    }

    fn ends(wal: &[Record], kind: Kind, exclusive: bool, held: u64) -> Result<u64, Dropped> {
        let target = Target { kind, exclusive };
        let mut search = Search::new(&target, 3);
        for record in wal {
            if search.meets(record) && !search.goes_on {
                break;
            }
        }
        let end = wal.last().unwrap().end;
        search.ends(search.stop.unwrap_or(end), Lsn(held)).map(|lsn| lsn.0)
    }

    fn point() -> Event {
        Event::RestorePoint { name: "p".into(), at: 20 }
    }

    #[test]
    fn what_does_not_roll_back_is_left_out() {
        let wal = dropping(&[]);
        assert_eq!(ends(&wal, Kind::Time(20), false, 0), Ok(150));
        assert_eq!(ends(&wal, Kind::Xid(5), true, 0), Ok(150));
        // It is not committed yet.
        assert_eq!(ends(&wal[..3], Kind::Time(20), false, 0), Ok(150));
        // That is what the base holds.
        assert_eq!(ends(&wal, Kind::Time(20), false, 250), Ok(250));
        assert_eq!(ends(&wal, Kind::Time(50), false, 0), Ok(950));
        assert_eq!(ends(&wal, Kind::Xid(5), false, 0), Ok(950));
        assert_eq!(ends(&wal, Kind::Xid(4), false, 0), Ok(150));
        // A position is taken as it is.
        assert_eq!(ends(&wal, Kind::Lsn(Lsn(350)), false, 0), Ok(900));
        // Nor is the checkpoint before it anything that would be missed.
        let idle =
            [record(100, commit(4, 10)), record(200, Event::Other), record(300, commit(6, 50))];
        assert_eq!(ends(&idle, Kind::Time(20), false, 0), Ok(300));
        let wal = dropping(&[point()]);
        assert_eq!(ends(&wal, Kind::RestorePoint("p".into()), false, 0), Ok(150));
        let named = [record(100, commit(4, 10)), record(200, Event::InPlace), record(300, point())];
        assert_eq!(ends(&named, Kind::RestorePoint("p".into()), false, 0), Ok(350));
        let tablespace = record(200, Event::Tablespace { path: "/x".into() });
        let wal = [record(100, commit(4, 10)), tablespace, record(300, commit(5, 50))];
        assert_eq!(ends(&wal, Kind::Time(20), false, 0), Ok(150));
    }

    #[test]
    fn a_commit_in_the_middle_of_a_drop_is_not_reached_whole() {
        let dropped = Dropped { database: 16_384, at: Lsn(300), before: Some(Lsn(150)) };
        let wal = dropping(&[commit(6, 15), point()]);
        for (kind, exclusive) in [
            (Kind::Time(20), false),
            (Kind::Xid(6), false),
            (Kind::Xid(5), true),
            (Kind::RestorePoint("p".into()), false),
        ] {
            assert_eq!(ends(&wal, kind.clone(), exclusive, 0), Err(dropped.clone()), "{kind:?}");
        }
        assert_eq!(ends(&wal, Kind::Time(12), false, 0), Ok(150));
        assert_eq!(ends(&wal, Kind::Lsn(Lsn(460)), false, 0), Ok(500));
        assert_eq!(ends(&wal, Kind::Time(50), false, 0), Ok(950));
        // The base was taken in the middle of it.
        assert_eq!(ends(&dropping(&[]), Kind::Time(20), false, 360), Err(dropped));
    }

    #[test]
    fn a_transaction_is_that_of_its_epoch() {
        let epoch = 1_u64 << 32;
        let met = |wanted: u64, next: u64, xids: &[u32]| {
            let target = Target { kind: Kind::Xid(wanted), exclusive: false };
            let mut search = Search::new(&target, next);
            xids.iter().position(|xid| search.meets(&record(100, commit(*xid, 0))))
        };
        let all = [u32::MAX - 1, 3, 704, 705];
        assert_eq!(met(704, 700, &all[2..]), Some(0));
        // Without its epoch, as it is seen in rows and logs.
        assert_eq!(met(704, epoch - 5, &all), Some(2));
        assert_eq!(met(epoch + 704, epoch - 5, &all), Some(2));
        assert_eq!(met(epoch + 704, epoch + 700, &all[2..]), Some(0));
        assert_eq!(met(epoch + 704, 700, &all[2..]), None, "that is of the epoch before");
        assert_eq!(met(2 * epoch + 704, epoch - 5, &all), None);
        // One that had begun before.
        assert_eq!(met(epoch - 2, epoch + 700, &all[..1]), Some(0));
    }

    #[test]
    fn a_drop_that_is_over_and_velo_s_own_commits_are_in_nobody_s_way() {
        let own = dropping(&[Event::Own { xid: 6 }, commit(6, 15)]);
        assert_eq!(ends(&own, Kind::Time(20), false, 0), Ok(150));
        let rolled_back = Event::Abort { xid: 5, subtransactions: Vec::new() };
        for over in [rolled_back, Event::Anew] {
            let wal = dropping(&[over, commit(6, 15)]);
            assert_eq!(ends(&wal, Kind::Time(20), false, 0), Ok(900));
        }
        // What is left of a database elsewhere, once it has moved.
        let moved = Event::DropDatabase { xid: 0, database: 16_384 };
        let wal = [record(100, moved), record(200, commit(6, 15)), record(300, commit(7, 50))];
        assert_eq!(ends(&wal, Kind::Time(20), false, 0), Ok(300));
    }
}
