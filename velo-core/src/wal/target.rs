//! Which moment of a branch is meant: [`Target`].

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::lsn::Lsn;

/// A moment of a branch whose project keeps WAL, for [`BranchSpec::at`](crate::BranchSpec::at).
///
/// | target | the branch holds |
/// |---|---|
/// | [`time`](Self::time) | what comes in the WAL before the first commit that is later: with one writer what was committed until then, and exactly then too |
/// | [`lsn`](Self::lsn) | every record that begins before that position |
/// | [`restore_point`](Self::restore_point) | all before the last restore point of that name |
/// | [`xid`](Self::xid) | all up to the commit of that transaction, and it too |
///
/// Of a transaction that was not committed nothing is seen, but by a position where it is `DROP DATABASE`: that removes
/// files before its commit, and the branch has what was left of the database then. By the others it is whole, or the
/// moment is refused.
///
/// [`exclusive`](Self::exclusive) leaves out what is committed exactly at that time, or by that
/// transaction; the other two have nothing that it could leave out.
///
/// ```
/// use velo_core::{BranchSpec, Target};
/// let spec = BranchSpec::named("incident").at(Target::parse_time("2026-11-20 14:32:05.5+01")?);
/// # let _ = spec;
/// # Ok::<(), velo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(crate) kind: Kind,
    pub(crate) exclusive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In microseconds since 1970, UTC.
    Time(i64),
    Lsn(Lsn),
    RestorePoint(String),
    Xid(u64),
}

impl Target {
    fn new(kind: Kind) -> Self {
        Self { kind, exclusive: false }
    }

    /// As it was at that time, by the clock of the server.
    #[must_use]
    pub fn time(time: SystemTime) -> Self {
        let micros = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Self::new(Kind::Time(micros))
    }

    /// The same from text: `2026-11-20 14:32:05.5+01`, `2026-11-20T13:32:05Z`, `5 minutes ago`. Without a
    /// zone it is meant by this machine's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is none, or without a zone one that was twice or never, because
    /// clocks were set.
    pub fn parse_time(text: &str) -> Result<Self> {
        super::time::parse(text, now(), super::time::zone_of_machine)
            .map(|micros| Self::new(Kind::Time(micros)))
    }

    /// Everything in the WAL before that position, such as `pg_current_wal_insert_lsn()` gives it.
    #[must_use]
    pub fn lsn(lsn: Lsn) -> Self {
        Self::new(Kind::Lsn(lsn))
    }

    /// As it was at the last restore point of that name: one of
    /// [`Branch::restore_point`](crate::Branch::restore_point), or of SQL's `pg_create_restore_point`.
    #[must_use]
    pub fn restore_point(name: impl Into<String>) -> Self {
        Self::new(Kind::RestorePoint(name.into()))
    }

    /// As it was when that transaction had just been committed: a number as `pg_current_xact_id()`
    /// gives it. One that fits into 32 bits may be without its epoch, as `xmin` and logs have it.
    #[must_use]
    pub fn xid(xid: u64) -> Self {
        Self::new(Kind::Xid(xid))
    }

    /// Without what was committed exactly then, or by that transaction.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// What can be said without a look at any WAL.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.kind {
            Kind::Time(micros) if *micros > now() => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{} is in the future", super::time::shown(*micros)),
            )
            .with_hint("name a moment that is over; a time without a zone is by this machine's")),
            Kind::RestorePoint(name)
                if name.is_empty() || name.len() > 63 || name.contains('\0') =>
            {
                Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{name:?} is not the name of a restore point"),
                )
                .with_hint("such names have 1 to 63 bytes"))
            }
            Kind::Xid(xid) if *xid as u32 <= 2 => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{xid} is not the number of a transaction"),
            )
            .with_hint("pg_current_xact_id() gives such numbers; they begin with 3")),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Time(micros) => f.write_str(&super::time::shown(*micros)),
            Kind::Lsn(lsn) => write!(f, "the position {lsn}"),
            Kind::RestorePoint(name) => write!(f, "the restore point {name:?}"),
            Kind::Xid(xid) => write!(f, "transaction {xid}"),
        }
    }
}

/// In microseconds since 1970, UTC.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
