//! Backup mode: what makes a copy of a running server's files, each of another moment, whole.
//!
//! Between start and stop PostgreSQL logs the whole of every page it changes, so replaying the WAL
//! in between mends whatever the copy caught half-way. Without a slot that WAL may be recycled by
//! somebody else's checkpoint. Backup mode and the temporary slot end with the session, so a
//! branching process that is killed leaves nothing behind.

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::Session;

/// A backup that has begun.
pub(crate) struct Backup<'a> {
    session: &'a Session,
}

/// What a backup's end says.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The content of `backup_label`, for the copy only.
    pub(crate) label: String,
    /// The first segment of WAL that the copy needs.
    pub(crate) first: Segment,
    /// Where the copy is consistent.
    pub(crate) stop: Lsn,
}

impl<'a> Backup<'a> {
    /// Begins a backup; with `slot` its WAL is kept until the session ends. The server writes a
    /// checkpoint at once.
    pub(crate) async fn begin(session: &'a Session, slot: bool) -> Result<Self> {
        if slot {
            let name = format!("velo_{}", Id::generate().to_string().to_lowercase());
            session
                .execute(
                    "keep its WAL for the time of a backup",
                    &format!("SELECT pg_create_physical_replication_slot('{name}', true, true)"),
                )
                .await
                .map_err(|e| {
                    e.with_hint("it needs a free replication slot; or stop the branch first")
                })?;
        }
        let start = if session.major >= 15 {
            "SELECT pg_backup_start('velo', true)"
        } else {
            "SELECT pg_start_backup('velo', true, false)"
        };
        session.execute("begin a backup", start).await.map_err(|e| {
            e.with_hint(
                "branching a running server this way needs wal_level of at least replica; or stop \
                 the branch first",
            )
        })?;
        Ok(Self { session })
    }

    /// Ends it. Copy the WAL that it names while the session is open: the slot ends with it.
    pub(crate) async fn finish(&self) -> Result<Finished> {
        // Waiting for the archive could hang for ever on a broken one, and nothing here needs it.
        let stop = if self.session.major >= 15 {
            "SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)"
        } else {
            "SELECT lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        let row =
            crate::effect::step("end a backup", self.session.row("end a backup", stop)).await?;
        let [Some(lsn), Some(label), map] = row.as_slice() else {
            return Err(Error::new(ErrorKind::Postgres, "the end of the backup has no label"));
        };
        if map.as_ref().is_some_and(|map| !map.trim().is_empty()) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                "the server has tablespaces outside its data folder",
            )
            .with_hint("move their objects to pg_default and drop them"));
        }
        Ok(Finished { first: Segment::of_label(label)?, stop: lsn.parse()?, label: label.clone() })
    }
}

/// A WAL segment: a timeline and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) timeline: u32,
    high: u32,
    low: u32,
}

impl Segment {
    /// The segment that a `backup_label` names:
    /// `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`.
    pub(crate) fn of_label(label: &str) -> Result<Self> {
        label
            .lines()
            .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
            .and_then(|rest| rest.split_once("(file ")?.1.strip_suffix(')'))
            .and_then(Self::parse)
            .ok_or_else(|| {
                Error::new(ErrorKind::Postgres, "the backup's label names no WAL segment")
            })
    }

    /// The segment that holds the byte at `lsn`.
    pub(crate) fn of(timeline: u32, lsn: Lsn, segment_size: u32) -> Self {
        let per_file = 0x1_0000_0000 / u64::from(segment_size.max(1));
        let number = lsn.0 / u64::from(segment_size.max(1));
        // Both fit: the number of the last possible segment is below 2^32 of either.
        Self { timeline, high: (number / per_file) as u32, low: (number % per_file) as u32 }
    }

    /// From the name of a segment's file.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        let part = |i: usize| u32::from_str_radix(&name[i..i + 8], 16).ok();
        Some(Self { timeline: part(0)?, high: part(8)?, low: part(16)? })
    }

    /// Its number, counted from the beginning of the WAL.
    pub(crate) fn number(self, segment_size: u32) -> u64 {
        let per_file = 0x1_0000_0000 / u64::from(segment_size.max(1));
        u64::from(self.high) * per_file + u64::from(self.low)
    }

    /// The name of the file of the segment with this number.
    pub(crate) fn name(timeline: u32, number: u64, segment_size: u32) -> String {
        let per_file = 0x1_0000_0000 / u64::from(segment_size.max(1));
        format!("{timeline:08X}{:08X}{:08X}", number / per_file, number % per_file)
    }

    /// The names of the segments from this one to the one that holds the last byte before `stop`.
    pub(crate) fn names_until(self, stop: Lsn, segment_size: u32) -> Vec<String> {
        let last = stop.0.saturating_sub(1) / u64::from(segment_size.max(1));
        (self.number(segment_size)..=last)
            .map(|number| Self::name(self.timeline, number, segment_size))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_a_label() {
        let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                     CHECKPOINT LOCATION: 0/2000060\n";
        let first = Segment::of_label(label).unwrap();
        let mb16 = 16 << 20;
        assert_eq!(
            first.names_until("0/2000100".parse().unwrap(), mb16),
            ["000000010000000000000002"]
        );
        // A stop at a boundary needs nothing of the segment that begins there.
        assert_eq!(first.names_until("0/3000000".parse().unwrap(), mb16).len(), 1);
        assert_eq!(first.names_until("0/3000001".parse().unwrap(), mb16).len(), 2);
        let first = Segment::parse("0000000300000001000000FF").unwrap();
        assert_eq!(
            first.names_until("2/100".parse().unwrap(), mb16),
            ["0000000300000001000000FF", "000000030000000200000000"]
        );
        assert!(Segment::of_label("nothing").is_err());
        assert_eq!(Segment::of(3, "1/FF000000".parse().unwrap(), mb16), first);
        assert_eq!(Segment::of(3, "1/FFFFFFFF".parse().unwrap(), mb16), first);
    }
}
