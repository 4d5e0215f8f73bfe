//! The write-ahead log, record by record, as PostgreSQL itself reads it.
//!
//! Velo has to know before it recovers anything where a moment is in the WAL, whether all WAL up to
//! it is there, and where the WAL ends that a snapshot holds. The format is the same in all majors
//! that Velo runs: pages of 8 kB, records that begin at
//! multiples of 8 bytes and may go on over many pages, each with a checksum and the place of the one
//! before it (`src/include/access/xlogrecord.h`, `xlog_internal.h`). Whatever does not fit is where
//! the WAL ends.

use crate::error::Result;
use crate::postgres::lsn::Lsn;

/// The bytes of a page.
const PAGE: u64 = 8192;
/// The header of a record.
const HEADER: usize = 24;
/// Where its checksum is, which is of all bytes but itself.
const CRC: usize = 20;
/// The header of a page, and of the first one of a segment.
const SHORT: u64 = 24;
const LONG: u64 = 40;
/// The longest record.
const LONGEST: u32 = 1020 << 20;

const FIRST_IS_CONTRECORD: u16 = 1;
const LONG_HEADER: u16 = 2;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 8;

/// From the year 2000, where PostgreSQL's time begins, to 1970, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// Where segments come from.
pub(crate) trait Segments {
    /// Reads the segment with this number whole; false if there is none.
    fn read(&mut self, number: u64, into: &mut Vec<u8>) -> Result<bool>;
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins.
    pub(crate) start: Lsn,
    /// Where the next one may begin.
    pub(crate) end: Lsn,
    pub(crate) event: Event,
}

/// What of a record matters here. Times are in microseconds since 1970, UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Commit {
        xid: u32,
        at: i64,
        subtransactions: Vec<u32>,
    },
    Abort {
        xid: u32,
        subtransactions: Vec<u32>,
    },
    RestorePoint {
        name: String,
        at: i64,
    },
    /// A transaction of Velo's own, which says so.
    Own {
        xid: u32,
    },
    /// A transaction that another session will end.
    Prepare,
    /// The files of a database are gone, whatever becomes of the transaction. It has no number where the database
    /// has got others before.
    DropDatabase {
        xid: u32,
        database: u32,
    },
    /// Something is changed in place, or a tablespace is gone, whatever becomes of the transaction.
    InPlace,
    /// A server has begun with other settings: so many prepared transactions may be there from now on.
    Settings {
        max_prepared: u32,
    },
    /// A server has begun anew, or ended: no transaction goes on.
    Anew,
    /// A tablespace is made in a folder outside of the data.
    Tablespace {
        path: String,
    },
    Other,
}

/// Reads records one after the other.
pub(crate) struct Reader<S> {
    segments: S,
    major: u32,
    /// The number in the header of every page, which differs from major to major: that of the first.
    magic: Option<u16>,
    timeline: u32,
    size: u64,
    at: u64,
    before: Option<u64>,
    loaded: Option<u64>,
    /// The segment that was last looked into, whether it is there or not.
    asked: u64,
    buffer: Vec<u8>,
    /// A record that goes over several pages.
    whole: Vec<u8>,
    /// Why the last look found no record.
    why: &'static str,
}

enum Page {
    /// The header has so many bytes.
    Fine(u64),
    /// The record that the page before it began was never finished, and here the next one begins.
    Anew,
    Bad(&'static str),
}

impl<S: Segments> Reader<S> {
    /// From a place on where a record begins.
    pub(crate) fn new(segments: S, major: u32, timeline: u32, size: u32, from: Lsn) -> Self {
        Self {
            segments,
            major,
            magic: None,
            timeline,
            size: u64::from(size.max(1)),
            at: from.0,
            before: None,
            loaded: None,
            asked: 0,
            buffer: Vec::new(),
            whole: Vec::new(),
            why: "",
        }
    }

    /// Goes on with the same records in other segments, which lead to that timeline.
    pub(crate) fn with<T: Segments>(self, segments: T, timeline: u32) -> Reader<T> {
        Reader {
            segments,
            major: self.major,
            magic: self.magic,
            timeline,
            size: self.size,
            at: self.at,
            before: self.before,
            loaded: None,
            asked: self.asked,
            buffer: self.buffer,
            whole: self.whole,
            why: self.why,
        }
    }

    /// Reads the segment anew: its server may have gone on.
    pub(crate) fn look_again(&mut self) {
        self.loaded = None;
    }

    /// Where the last record ended.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.at)
    }

    /// The number of the segment in which the last look ended.
    pub(crate) fn segment(&self) -> u64 {
        self.asked
    }

    /// Why there is no record at [`end`](Self::end).
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }

    /// The next record; none where the WAL ends.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
        'record: loop {
            let page = self.at - self.at % PAGE;
            let begin = match self.page(page, None)? {
                Page::Bad(why) => return Ok(self.ended(why)),
                Page::Fine(header) if self.at - page < header => page + header,
                Page::Fine(_) | Page::Anew => self.at,
            };
            if begin != self.at && self.u16_at(page + 2) & FIRST_IS_CONTRECORD != 0 {
                return Ok(self.ended("a page goes on with a record that nobody began"));
            }
            let total = self.u32_at(begin);
            if !(HEADER as u32..=LONGEST).contains(&total) {
                return Ok(self.ended("there is no record"));
            }
            let (mut from, mut rest) = (begin, total as usize);
            let end_of_page = page + PAGE;
            let on_one_page = begin + u64::from(total) <= end_of_page;
            if on_one_page {
                from += u64::from(total);
            } else {
                self.whole.clear();
                loop {
                    let end_of_page = from - from % PAGE + PAGE;
                    let part = rest.min((end_of_page - from) as usize);
                    let at = (from % self.size) as usize;
                    let bytes = self.buffer.get(at..at + part).unwrap_or_default();
                    self.whole.extend_from_slice(bytes);
                    rest -= part;
                    if rest == 0 {
                        from += part as u64;
                        break;
                    }
                    match self.page(end_of_page, Some(rest as u32))? {
                        Page::Fine(header) => from = end_of_page + header,
                        Page::Anew => {
                            // A crash left it so, and the server went on behind it.
                            self.at = end_of_page;
                            self.before = None;
                            continue 'record;
                        }
                        Page::Bad(why) => return Ok(self.ended(why)),
                    }
                }
            }
            let at = (begin % self.size) as usize;
            let bytes = match on_one_page {
                true => self.buffer.get(at..at + total as usize).unwrap_or_default(),
                false => self.whole.as_slice(),
            };
            if let Some(why) = fault(bytes, begin, self.before) {
                return Ok(self.ended(why));
            }
            let mut end = from.next_multiple_of(8);
            if is_switch(bytes) {
                end = end.next_multiple_of(self.size);
            }
            let event = event(bytes, self.major);
            self.before = Some(begin);
            self.at = end;
            return Ok(Some(Record { start: Lsn(begin), end: Lsn(end), event }));
        }
    }

    fn ended(&mut self, why: &'static str) -> Option<Record> {
        self.why = why;
        None
    }

    /// Looks at the header of a page, on which the record before it goes on with `rest` bytes.
    fn page(&mut self, start: u64, rest: Option<u32>) -> Result<Page> {
        let number = start / self.size;
        self.asked = number;
        if self.loaded != Some(number) {
            self.loaded = None;
            self.buffer.clear();
            if !self.segments.read(number, &mut self.buffer)? {
                return Ok(Page::Bad("there is no such segment"));
            }
            self.loaded = Some(number);
        }
        if ((start % self.size + PAGE) as usize) > self.buffer.len() {
            return Ok(Page::Bad("the segment is too short"));
        }
        let (flags, timeline) = (self.u16_at(start + 2), self.u32_at(start + 4));
        let magic_here = self.u16_at(start);
        let place = u64::from(self.u32_at(start + 8)) | u64::from(self.u32_at(start + 12)) << 32;
        if place != start || magic_here != *self.magic.get_or_insert(magic_here) {
            return Ok(Page::Bad("the page is another one's"));
        }
        // That of the timeline before it, up to where this one began.
        if timeline == 0 || timeline > self.timeline {
            return Ok(Page::Bad("the page is of another timeline"));
        }
        let first = start.is_multiple_of(self.size);
        if (flags & LONG_HEADER != 0) != first {
            return Ok(Page::Bad("the page has a wrong header"));
        }
        if let Some(rest) = rest {
            if flags & FIRST_IS_OVERWRITE_CONTRECORD != 0 {
                return Ok(Page::Anew);
            }
            if flags & FIRST_IS_CONTRECORD == 0 || self.u32_at(start + 16) != rest {
                return Ok(Page::Bad("a record is not finished"));
            }
        }
        Ok(Page::Fine(if first { LONG } else { SHORT }))
    }

    /// Of the segment that is loaded.
    fn u32_at(&self, place: u64) -> u32 {
        u32_in(&self.buffer, (place % self.size) as usize)
    }

    fn u16_at(&self, place: u64) -> u16 {
        (self.u32_at(place) & 0xFFFF) as u16
    }
}

/// Why these bytes are no record that begins here, if they are none.
fn fault(bytes: &[u8], begin: u64, before: Option<u64>) -> Option<&'static str> {
    let (Some(head), Some(body)) = (bytes.get(..CRC), bytes.get(HEADER..)) else {
        return Some("the record is too short");
    };
    let link = u64_in(bytes, 8);
    let linked = before.map_or(link < begin, |before| link == before);
    if !linked {
        return Some("the record follows another one");
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), head);
    (crc != u32_in(bytes, CRC)).then_some("the record has a wrong checksum")
}

/// Whether it ends its segment.
fn is_switch(bytes: &[u8]) -> bool {
    let (info, manager) = (byte(bytes, 16) & 0xF0, byte(bytes, 17));
    manager == 0 && info == 0x40
}

/// What a record says.
fn event(bytes: &[u8], major: u32) -> Event {
    let (info, manager) = (byte(bytes, 16), byte(bytes, 17));
    match (manager, info & 0xF0) {
        (0, 0x00 | 0x90) => Event::Anew,
        (0, 0x60) => match main_data(bytes) {
            // `xl_parameter_change`.
            Some(data) => Event::Settings { max_prepared: u32_in(data, 12) },
            None => Event::Other,
        },
        (0, 0x70) => main_data(bytes).and_then(restore_point).unwrap_or(Event::Other),
        (1, _) => {
            let operation = info & 0x70;
            if operation == 0x10 {
                return Event::Prepare;
            }
            let commits = matches!(operation, 0x00 | 0x30);
            if !commits && !matches!(operation, 0x20 | 0x40) {
                return Event::Other;
            }
            main_data(bytes)
                .and_then(|data| end_of(bytes, data, commits, major))
                .unwrap_or(Event::Other)
        }
        (4, dropped) if dropped == if major < 15 { 0x10 } else { 0x20 } => match main_data(bytes) {
            Some(data) => Event::DropDatabase { xid: u32_in(bytes, 4), database: u32_in(data, 0) },
            None => Event::Other,
        },
        (5, 0x00) => main_data(bytes).and_then(tablespace).unwrap_or(Event::Other),
        (5, 0x10) | (10, 0x70) => Event::InPlace,
        (21, 0) if main_data(bytes).is_some_and(is_own) => Event::Own { xid: u32_in(bytes, 4) },
        _ => Event::Other,
    }
}

/// The prefix of the messages that Velo writes into the WAL.
pub(super) const PREFIX: &str = "velo";

/// `xl_logical_message`.
fn is_own(data: &[u8]) -> bool {
    u64_in(data, 8) == PREFIX.len() as u64 + 1
        && data.get(24..24 + PREFIX.len()) == Some(PREFIX.as_bytes())
}

/// The main data of a record that is about no page.
fn main_data(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        let (begin, length) = match bytes.get(at)? {
            255 => (at + 2, usize::from(*bytes.get(at + 1)?)),
            254 => (at + 5, u32_in(bytes, at + 1) as usize),
            // The origin of replication, and the transaction above it.
            253 => {
                at += 3;
                continue;
            }
            252 => {
                at += 5;
                continue;
            }
            _ => return None,
        };
        return bytes.get(begin..begin.checked_add(length)?);
    }
}

/// `xl_restore_point`.
fn restore_point(data: &[u8]) -> Option<Event> {
    let name = data.get(8..)?.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Event::RestorePoint { name, at: u64_in(data, 0) as i64 + EPOCH })
}

/// `xl_tblspc_create_rec`. The path of one that is a folder in the data is empty.
fn tablespace(data: &[u8]) -> Option<Event> {
    let path = data.get(4..)?.split(|byte| *byte == 0).next().filter(|path| !path.is_empty())?;
    Some(Event::Tablespace { path: String::from_utf8_lossy(path).into_owned() })
}

/// `xl_xact_commit` and `xl_xact_abort`, with what stands behind them.
fn end_of(bytes: &[u8], data: &[u8], commits: bool, major: u32) -> Option<Event> {
    let mut xid = u32_in(bytes, 4);
    let at = u64_in(data.get(..8)?, 0) as i64 + EPOCH;
    let mut subtransactions = Vec::new();
    if byte(bytes, 16) & 0x80 != 0 {
        let flags = u32_in(data.get(8..12)?, 0);
        let mut place = 12;
        if flags & 1 != 0 {
            place += 8; // the database
        }
        if flags & 2 != 0 {
            let count = u32_in(data.get(place..place + 4)?, 0) as usize;
            let list = data.get(place + 4..place + 4 + count.checked_mul(4)?)?;
            subtransactions = list.chunks_exact(4).map(|xid| u32_in(xid, 0)).collect();
            place += 4 + count * 4;
        }
        // What lies in between: files, statistics and, of a commit, messages that are dropped.
        let statistic = if major < 18 { 12 } else { 16 };
        for (flag, size) in [(4, 12), (256, statistic), (8, 16)] {
            if flags & flag != 0 && (commits || flag != 8) {
                let count = u32_in(data.get(place..place + 4)?, 0) as usize;
                place += 4 + count.checked_mul(size)?;
            }
        }
        if flags & 16 != 0 {
            // It was prepared by another session, and this is its own number.
            xid = u32_in(data.get(place..place + 4)?, 0);
        }
    }
    Some(match commits {
        true => Event::Commit { xid, at, subtransactions },
        false => Event::Abort { xid, subtransactions },
    })
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn u32_in(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    four.map_or(0, u32::from_le_bytes)
}

fn u64_in(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_in(bytes, at)) | u64::from(u32_in(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 1 << 20;

    /// A WAL that is written here as PostgreSQL writes it.
    struct Written {
        bytes: Vec<u8>,
        at: usize,
        before: u64,
    }

    impl Written {
        fn new() -> Self {
            let mut new = Self { bytes: vec![0; 3 * SIZE as usize], at: 0, before: 0 };
            new.header(0, None);
            new
        }

        fn header(&mut self, page: usize, rest: Option<u32>) {
            let first = page.is_multiple_of(SIZE as usize);
            let flags = u16::from(rest.is_some()) | if first { 2 } else { 0 };
            let begin = SIZE as usize + page;
            self.bytes[page..page + 2].copy_from_slice(&0xD110_u16.to_le_bytes());
            self.bytes[page + 2..page + 4].copy_from_slice(&flags.to_le_bytes());
            self.bytes[page + 4..page + 8].copy_from_slice(&1_u32.to_le_bytes());
            self.bytes[page + 8..page + 16].copy_from_slice(&(begin as u64).to_le_bytes());
            self.bytes[page + 16..page + 20].copy_from_slice(&rest.unwrap_or(0).to_le_bytes());
            self.at = page + if first { 40 } else { 24 };
        }

        fn record(&mut self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
            if self.at.is_multiple_of(PAGE as usize) {
                self.header(self.at, None);
            }
            let begin = SIZE as u64 + self.at as u64;
            let mut bytes = vec![0; HEADER];
            bytes.push(254);
            bytes.extend((main.len() as u32).to_le_bytes());
            bytes.extend(main);
            let total = bytes.len() as u32;
            bytes[..4].copy_from_slice(&total.to_le_bytes());
            bytes[4..8].copy_from_slice(&xid.to_le_bytes());
            bytes[8..16].copy_from_slice(&self.before.to_le_bytes());
            (bytes[16], bytes[17]) = (info, manager);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[HEADER..]), &bytes[..CRC]);
            bytes[CRC..HEADER].copy_from_slice(&crc.to_le_bytes());
            self.before = begin;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if self.at.is_multiple_of(PAGE as usize) {
                    self.header(self.at, Some(rest.len() as u32));
                }
                let part = rest.len().min(PAGE as usize - self.at % PAGE as usize);
                self.bytes[self.at..self.at + part].copy_from_slice(&rest[..part]);
                self.at += part;
                rest = &rest[part..];
            }
            self.at = self.at.next_multiple_of(8);
            Lsn(begin)
        }

        fn reader(&self) -> Reader<Memory> {
            Reader::new(Memory(self.bytes.clone()), 15, 1, SIZE, Lsn(u64::from(SIZE) + 40))
        }
    }

    struct Memory(Vec<u8>);

    impl Segments for Memory {
        fn read(&mut self, number: u64, into: &mut Vec<u8>) -> Result<bool> {
            let Some(at) = number.checked_sub(1).map(|n| n as usize * SIZE as usize) else {
                return Ok(false);
            };
            let Some(segment) = self.0.get(at..at + SIZE as usize) else { return Ok(false) };
            into.extend_from_slice(segment);
            Ok(true)
        }
    }

    fn commit(at: i64) -> Vec<u8> {
        (at - EPOCH).to_le_bytes().to_vec()
    }

    #[test]
    fn records_over_pages_and_segments_are_read_whole() {
        let mut wal = Written::new();
        let mut begun = Vec::new();
        for n in 0..40_u32 {
            begun.push((wal.record(1, 0, n + 3, &commit(1_000_000 + i64::from(n))), n + 3));
            wal.record(10, 0, n + 3, &[7; 50_000]);
        }
        let mut reader = wal.reader();
        let mut found = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            if let Event::Commit { xid, at, .. } = record.event {
                assert_eq!(at, 1_000_000 + i64::from(xid) - 3);
                found.push((record.start, xid));
            }
        }
        assert_eq!(found, begun);
        assert_eq!(reader.why(), "there is no record");
        assert_eq!(reader.end(), Lsn(u64::from(SIZE) + wal.at as u64));
    }

    #[test]
    fn what_follows_another_record_is_not_read() {
        let mut wal = Written::new();
        wal.record(1, 0, 3, &commit(0));
        let end = wal.at;
        wal.before = 4711;
        wal.record(1, 0, 4, &commit(0));
        let mut reader = wal.reader();
        assert!(reader.next().unwrap().is_some());
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.end(), Lsn(u64::from(SIZE) + end as u64));
    }

    #[test]
    fn every_flipped_bit_ends_it() {
        let mut wal = Written::new();
        let begin = wal.at;
        wal.record(1, 0, 3, &commit(0));
        let end = wal.at;
        for at in begin..end - 4 {
            let mut bytes = wal.bytes.clone();
            bytes[at] ^= 16;
            let from = Lsn(u64::from(SIZE) + 40);
            let mut reader = Reader::new(Memory(bytes), 15, 1, SIZE, from);
            assert_eq!(reader.next().unwrap(), None, "byte {at}");
        }
    }

    #[test]
    fn tablespaces_outside_of_the_data_are_known() {
        let mut wal = Written::new();
        wal.record(5, 0x00, 3, b"\x07\x40\0\0/mnt/x\0");
        wal.record(5, 0x00, 3, b"\x08\x40\0\0\0");
        wal.record(5, 0x10, 3, &[7, 64, 0, 0]);
        let mut reader = wal.reader();
        let mut next = || reader.next().unwrap().unwrap().event;
        assert_eq!(next(), Event::Tablespace { path: "/mnt/x".into() });
        assert_eq!([next(), next()], [Event::Other, Event::InPlace]);
    }

    #[test]
    fn other_settings_are_known() {
        let mut wal = Written::new();
        wal.record(0, 0x60, 0, &[100, 8, 10, 42, 64, 1].map(u32::to_le_bytes).concat());
        let event = wal.reader().next().unwrap().unwrap().event;
        assert_eq!(event, Event::Settings { max_prepared: 42 });
    }

    #[test]
    fn what_does_not_roll_back_is_known() {
        for (major, info, other) in [(14, 0x10, 0x20), (15, 0x20, 0x10), (18, 0x20, 0x10)] {
            let mut wal = Written::new();
            wal.record(4, info, 7, b"\x05\x40\0\0\x01\0\0\0\x7f\x06\0\0");
            wal.record(4, other, 7, &[0; 12]);
            wal.record(10, 0x70, 0, &[0; 4]);
            wal.record(1, 0x10, 8, &[0; 40]);
            for info in [0x00, 0x90, 0x10] {
                wal.record(0, info, 0, &[0; 88]);
            }
            let from = Lsn(u64::from(SIZE) + 40);
            let mut reader = Reader::new(Memory(wal.bytes.clone()), major, 1, SIZE, from);
            let found: Vec<_> = std::iter::from_fn(|| reader.next().unwrap()).collect();
            let found: Vec<_> = found.into_iter().map(|record| record.event).collect();
            let drop = Event::DropDatabase { xid: 7, database: 0x4005 };
            let (anew, other) = (Event::Anew, Event::Other);
            let wanted =
                [drop, other.clone(), Event::InPlace, Event::Prepare, anew.clone(), anew, other];
            assert_eq!(found, wanted, "{major}");
        }
    }

    #[test]
    fn prepared_transactions_restore_points_messages_and_switches_are_known() {
        let mut wal = Written::new();
        // Committed by another session: files, statistics and messages are dropped too.
        let mut main = commit(5);
        main.extend((1_u32 | 2 | 4 | 8 | 16 | 256).to_le_bytes());
        main.extend([0; 8]);
        main.extend(2_u32.to_le_bytes());
        main.extend([8_u32, 9].map(u32::to_le_bytes).concat());
        for size in [12, 12, 16] {
            main.extend(1_u32.to_le_bytes());
            main.extend(vec![0xFF; size]);
        }
        main.extend(7_u32.to_le_bytes());
        main.extend(b"name\0");
        wal.record(1, 0x30 | 0x80, 0, &main);
        let mut point = commit(6);
        point.extend([b"before deploy".as_slice(), &[0; 51]].concat());
        wal.record(0, 0x70, 0, &point);
        for (xid, prefix) in [(9, b"velo\0"), (10, b"vela\0")] {
            let mut message = [1_u64, 5, 0].map(u64::to_le_bytes).concat();
            message.extend(prefix);
            wal.record(21, 0, xid, &message);
        }
        wal.record(0, 0x40, 0, &[]);
        wal.at = SIZE as usize;
        wal.header(SIZE as usize, None);
        let last = wal.record(1, 0x20, 11, &commit(0));
        let mut reader = wal.reader();
        let mut next = || reader.next().unwrap().unwrap();
        assert_eq!(next().event, Event::Commit { xid: 7, at: 5, subtransactions: vec![8, 9] });
        assert_eq!(next().event, Event::RestorePoint { name: "before deploy".into(), at: 6 });
        assert_eq!(next().event, Event::Own { xid: 9 });
        assert_eq!(next().event, Event::Other);
        assert_eq!(next().end, Lsn(2 * u64::from(SIZE)));
        let abort = next();
        assert_eq!(abort.event, Event::Abort { xid: 11, subtransactions: vec![] });
        assert_eq!(abort.start, last);
    }
}
