//! `global/pg_control`: what a cluster knows of itself, readable without a server.
//!
//! The file is a C struct with a CRC, written in one piece. Its layout is the same from 14 to 16;
//! 17 put a field into a gap, and 18 one byte before the nonce (`src/include/catalog/pg_control.h`).

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::data_file;
use crate::postgres::lsn::Lsn;

/// What is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlFile {
    pub(crate) major: u32,
    pub(crate) system_identifier: u64,
    state: u32,
    /// Where the last checkpoint record is.
    pub(crate) checkpoint: Lsn,
    /// Where recovery from it begins.
    pub(crate) redo: Lsn,
    pub(crate) timeline: u32,
    /// Whether whole pages were logged from there on.
    pub(crate) full_page_writes: bool,
    /// When that checkpoint began, in seconds since 1970.
    pub(crate) checkpoint_time: u64,
    /// The next transaction id, with its epoch above 32 bits.
    pub(crate) next_xid: u64,
    pub(crate) oldest_active_xid: u32,
    pub(crate) max_prepared_xacts: u32,
    /// What its server had of them; who follows it needs as many.
    pub(crate) max_connections: u32,
    pub(crate) max_worker_processes: u32,
    pub(crate) max_wal_senders: u32,
    pub(crate) max_locks_per_xact: u32,
    /// In bytes.
    pub(crate) wal_segment_size: u32,
}

/// `DB_SHUTDOWNED` and `DB_SHUTDOWNED_IN_RECOVERY`.
const SHUT_DOWN: [u32; 2] = [1, 2];

/// Where it is in a data directory.
pub(crate) const FILE: &str = "global/pg_control";

impl ControlFile {
    /// Whether the server was stopped cleanly, so that a start needs no recovery.
    pub(crate) fn was_shut_down(&self) -> bool {
        SHUT_DOWN.contains(&self.state)
    }

    /// Whether it was stopped as a standby, which goes on with what WAL it has.
    pub(crate) fn was_standby(&self) -> bool {
        self.state == SHUT_DOWN[1]
    }
}

/// Reads the file. A torn read, beside a server that writes it, is repeated.
pub(crate) fn read(path: &Path) -> Result<ControlFile> {
    read_whole(path).map(|(control, _)| control)
}

/// Like [`read`], with the file's bytes.
pub(crate) fn read_whole(path: &Path) -> Result<(ControlFile, Vec<u8>)> {
    let mut last = None;
    for _ in 0..5 {
        let bytes = data_file::read(path, data_file::SMALL)
            .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        match parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| Error::new(ErrorKind::Internal, "nothing was read"));
    Err(error.with_context("file", path.display()))
}

/// Takes the file's bytes apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<ControlFile> {
    let damaged = |what: &str| {
        Error::new(ErrorKind::Corrupt, what)
            .with_hint("the data folder is damaged; restore it from a snapshot or a backup")
    };
    let short = || damaged("pg_control is too short");
    let u32_at = |at: usize| -> Result<u32> {
        let bytes = bytes.get(at..at + 4).ok_or_else(short)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| short())?))
    };
    let u64_at = |at: usize| -> Result<u64> {
        Ok(u64::from(u32_at(at)?) | u64::from(u32_at(at + 4)?) << 32)
    };
    let version = u32_at(8)?;
    let crc_at = match version {
        // As what a file system has not written when a machine goes down.
        0 => return Err(damaged("pg_control is empty")),
        1300 | 1700 => 288,
        1800 => 292,
        _ => {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the data is of a PostgreSQL that Velo does not know (pg_control {version})"
                ),
            )
            .with_hint("Velo knows PostgreSQL 14 to 18"));
        }
    };
    if crc32c::crc32c(bytes.get(..crc_at).ok_or_else(short)?) != u32_at(crc_at)? {
        return Err(damaged("pg_control has a wrong checksum"));
    }
    // The catalog version begins with the year in which the major was frozen.
    let major = match u32_at(12)? / 100_000 {
        2021 => 14,
        2022 => 15,
        2023 => 16,
        2024 => 17,
        2025 => 18,
        year => {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!("the data is of a PostgreSQL that Velo does not know (catalog of {year})"),
            )
            .with_hint("Velo knows PostgreSQL 14 to 18"));
        }
    };
    Ok(ControlFile {
        major,
        system_identifier: u64_at(0)?,
        state: u32_at(16)?,
        checkpoint: Lsn(u64_at(32)?),
        redo: Lsn(u64_at(40)?),
        timeline: u32_at(48)?,
        full_page_writes: bytes.get(56).is_some_and(|flag| *flag != 0),
        checkpoint_time: u64_at(104)?,
        next_xid: u64_at(64)?,
        oldest_active_xid: u32_at(120)?,
        max_prepared_xacts: u32_at(192)?,
        max_connections: u32_at(180)?,
        max_worker_processes: u32_at(184)?,
        max_wal_senders: u32_at(188)?,
        max_locks_per_xact: u32_at(196)?,
        wal_segment_size: u32_at(228)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of each version, and what `pg_controldata` prints of it. In those of the running servers
    /// no two fields that are read have the same value.
    macro_rules! fixtures {
        ($state:literal: $($major:literal)*) => { [$((
            $major,
            include_bytes!(concat!("fixtures/", $state, "/pg_control.", $major)).as_slice(),
            include_str!(concat!("fixtures/", $state, "/pg_controldata.", $major, ".txt")),
        )),*] };
    }

    const RUNNING: [(u32, &[u8], &str); 5] = fixtures!("running": 14 15 16 17 18);
    const STOPPED: [(u32, &[u8], &str); 5] = fixtures!("stopped": 14 15 16 17 18);

    /// The value beside a label of `pg_controldata`.
    #[track_caller]
    fn field<'a>(printed: &'a str, label: &str) -> &'a str {
        let found: Vec<_> = printed
            .lines()
            .filter_map(|line| line.split_once(':').filter(|(name, _)| *name == label))
            .collect();
        assert_eq!(found.len(), 1, "{label}");
        found[0].1.trim()
    }

    #[test]
    fn every_field_is_as_postgres_prints_it() {
        for (major, bytes, printed) in RUNNING.into_iter().chain(STOPPED) {
            let (epoch, xid) =
                field(printed, "Latest checkpoint's NextXID").split_once(':').unwrap();
            let xid = xid.parse::<u64>().unwrap() | epoch.parse::<u64>().unwrap() << 32;
            let number = |label| field(printed, label).parse::<u32>().unwrap();
            let wanted = ControlFile {
                major,
                system_identifier: field(printed, "Database system identifier").parse().unwrap(),
                state: match field(printed, "Database cluster state") {
                    "shut down" => 1,
                    "in production" => 6,
                    other => panic!("{other}"),
                },
                checkpoint: field(printed, "Latest checkpoint location").parse().unwrap(),
                redo: field(printed, "Latest checkpoint's REDO location").parse().unwrap(),
                timeline: number("Latest checkpoint's TimeLineID"),
                full_page_writes: match field(printed, "Latest checkpoint's full_page_writes") {
                    "on" => true,
                    "off" => false,
                    other => panic!("{other}"),
                },
                checkpoint_time: parse(bytes).unwrap().checkpoint_time, // compared below
                next_xid: xid,
                oldest_active_xid: number("Latest checkpoint's oldestActiveXID"),
                max_prepared_xacts: number("max_prepared_xacts setting"),
                max_connections: number("max_connections setting"),
                max_worker_processes: number("max_worker_processes setting"),
                max_wal_senders: number("max_wal_senders setting"),
                max_locks_per_xact: number("max_locks_per_xact setting"),
                wal_segment_size: number("Bytes per WAL segment"),
            };
            assert_eq!(parse(bytes).unwrap(), wanted);
            // `Tue Nov 24 02:03:07 2026`, in UTC where these were made.
            let time =
                field(printed, "Time of latest checkpoint").split_whitespace().nth(3).unwrap();
            let seconds =
                time.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
            assert_eq!(wanted.checkpoint_time % 86_400, seconds, "{major}");
        }
    }

    #[test]
    fn a_clean_stop_is_seen() {
        for (major, bytes, _) in STOPPED {
            assert!(parse(bytes).unwrap().was_shut_down(), "{major}");
        }
        for (major, bytes, _) in RUNNING {
            assert!(!parse(bytes).unwrap().was_shut_down(), "{major}");
        }
    }

    /// Where the checksum is; `pg_controldata` does not say it.
    fn crc_at(major: u32) -> usize {
        if major == 18 { 292 } else { 288 }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (major, bytes, _) in RUNNING {
            for at in 0..crc_at(major) + 4 {
                for bit in 0..8 {
                    let mut bytes = bytes.to_vec();
                    bytes[at] ^= 1 << bit;
                    let error = parse(&bytes).unwrap_err();
                    let kinds: &[_] = match at {
                        // Another version may be that of another layout, whose checksum is wrong.
                        8..12 => &[ErrorKind::Incompatible, ErrorKind::Corrupt],
                        _ => &[ErrorKind::Corrupt],
                    };
                    assert!(kinds.contains(&error.kind()), "{major}, byte {at}: {error}");
                    assert!(error.hint().is_some(), "{major}, byte {at}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_short_file_is_refused() {
        for (major, bytes, _) in RUNNING {
            for length in 0..crc_at(major) + 4 {
                let error = parse(&bytes[..length]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{major}, {length} bytes: {error}");
                assert!(error.to_string().contains("too short"), "{major}, {length}: {error}");
                assert!(error.hint().is_some(), "{major}, {length}: {error}");
            }
            parse(&bytes[..crc_at(major) + 4]).unwrap();
        }
    }

    #[test]
    fn an_unknown_version_is_refused() {
        for (major, bytes, _) in RUNNING {
            let with = |at: usize, number: u32| {
                let mut bytes = bytes.to_vec();
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
                let crc = crc32c::crc32c(&bytes[..crc_at(major)]);
                bytes[crc_at(major)..crc_at(major) + 4].copy_from_slice(&crc.to_le_bytes());
                parse(&bytes).unwrap_err()
            };
            // That of 12, one that is none yet, and one written on a big-endian machine.
            for version in [1201, 1900, 1800_u32.swap_bytes()] {
                let error = with(8, version);
                assert_eq!(error.kind(), ErrorKind::Incompatible, "{major}: {error}");
                assert!(error.to_string().contains(&version.to_string()), "{major}: {error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("14 to 18")), "{major}");
            }
            for catalog in [2020_07201, 2026_07011] {
                let error = with(12, catalog);
                assert_eq!(error.kind(), ErrorKind::Incompatible, "{major}: {error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("14 to 18")), "{major}");
            }
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pg_control");
        let names_it = |error: &Error| {
            let path = path.display().to_string();
            error.to_string().contains(&path) || error.context().any(|(_, value)| value == path)
        };
        let missing = read(&path).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(names_it(&missing), "{missing}");
        std::fs::write(&path, b"").unwrap();
        let empty = read(&path).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::Corrupt);
        assert!(names_it(&empty), "{empty}");
        std::fs::write(&path, RUNNING[0].1).unwrap();
        assert_eq!(read(&path).unwrap().major, 14);
    }
}
