//! `global/pg_control`: what a cluster knows of itself, readable without a server.
//!
//! The file is a C struct with a CRC, written in one piece. Its layout is the same from 14 to 16;
//! 17 put a field into a gap, and 18 one byte before the nonce (`src/include/catalog/pg_control.h`).

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
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
    /// The next transaction id, with its epoch above 32 bits.
    pub(crate) next_xid: u64,
    pub(crate) oldest_active_xid: u32,
    pub(crate) max_prepared_xacts: u32,
    /// In bytes.
    pub(crate) wal_segment_size: u32,
}

/// `DB_SHUTDOWNED` and `DB_SHUTDOWNED_IN_RECOVERY`.
const SHUT_DOWN: [u32; 2] = [1, 2];

impl ControlFile {
    /// Whether the server was stopped cleanly, so that a start needs no recovery.
    pub(crate) fn was_shut_down(&self) -> bool {
        SHUT_DOWN.contains(&self.state)
    }
}

/// Reads the file. A torn read, beside a server that writes it, is repeated.
pub(crate) fn read(path: &Path) -> Result<ControlFile> {
    let mut last = None;
    for _ in 0..5 {
        let bytes =
            std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        match parse(&bytes) {
            Ok(control) => return Ok(control),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| Error::new(ErrorKind::Internal, "nothing was read"));
    Err(error.with_context("file", path.display()))
}

/// Takes the file's bytes apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<ControlFile> {
    let short = || Error::new(ErrorKind::Corrupt, "pg_control is too short");
    let u32_at = |at: usize| -> Result<u32> {
        let bytes = bytes.get(at..at + 4).ok_or_else(short)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| short())?))
    };
    let u64_at = |at: usize| -> Result<u64> {
        Ok(u64::from(u32_at(at)?) | u64::from(u32_at(at + 4)?) << 32)
    };
    let version = u32_at(8)?;
    let crc_at = match version {
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
        return Err(Error::new(ErrorKind::Corrupt, "pg_control has a wrong checksum")
            .with_hint("the data folder is damaged; restore it from a snapshot or a backup"));
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
        next_xid: u64_at(64)?,
        oldest_active_xid: u32_at(120)?,
        max_prepared_xacts: u32_at(192)?,
        wal_segment_size: u32_at(228)?,
    })
}
