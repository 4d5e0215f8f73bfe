//! What a running server says of itself before it is cloned.

use crate::engine::Op;
use crate::error::Result;
use crate::postgres::backup::Segment;
use crate::postgres::control::ControlFile;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::Session;

/// How much WAL a clone may have to replay without a checkpoint of its own: a few milliseconds.
const RECENT: u64 = 256 << 10;

pub(super) struct Facts {
    pub(super) in_recovery: bool,
    fsync: bool,
    full_page_writes: bool,
    wal_level: String,
    /// What of its WAL is on disk; of a standby what it has replayed.
    flushed: Lsn,
    /// What there is of its WAL.
    pub(super) end: Lsn,
    /// What of its WAL is written, if not synced: everything that any of its files holds.
    pub(super) written: Lsn,
    /// The timeline that it writes; 0 in recovery.
    pub(super) timeline: u32,
    /// Whether its settings are those that it was started with.
    as_started: bool,
    /// The size of its pages.
    page: u64,
    /// When its settings were read, in seconds since 1970, rounded up.
    loaded: u64,
}

impl Facts {
    pub(super) async fn of(session: &Session) -> Result<Self> {
        let row = session
            .row(
                "look at the server to be branched",
                "SELECT pg_is_in_recovery(), current_setting('fsync'), \
                        current_setting('full_page_writes'), current_setting('wal_level'), \
                        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() \
                             ELSE pg_last_wal_replay_lsn() END, \
                        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() \
                             ELSE pg_last_wal_replay_lsn() END, \
                        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END, \
                        CASE WHEN NOT pg_is_in_recovery() \
                             THEN pg_walfile_name(pg_current_wal_lsn()) END, \
                        pg_conf_load_time() <= pg_postmaster_start_time(), \
                        ceil(extract(epoch FROM pg_conf_load_time())), \
                        current_setting('block_size')",
            )
            .await?;
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let in_recovery = text(0) == "t";
        // A standby that has replayed nothing yet has no place.
        let lsn = |i: usize| if text(i).is_empty() { Ok(Lsn(0)) } else { text(i).parse() };
        Ok(Self {
            in_recovery,
            fsync: text(1) == "on",
            full_page_writes: text(2) == "on",
            wal_level: text(3),
            flushed: lsn(4)?,
            end: lsn(5)?,
            written: lsn(6)?,
            timeline: Segment::parse(&text(7)).map_or(0, |segment| segment.timeline),
            as_started: text(8) == "t",
            loaded: text(9).parse().unwrap_or(u64::MAX),
            page: text(10).parse().unwrap_or(u64::MAX),
        })
    }

    /// Whether a page of its fits into a block of the file system, so that each is written at once.
    pub(super) fn pages_fit(&self, block: u64) -> bool {
        self.page <= block
    }

    /// Whether it syncs its WAL before its data, and logs whole pages.
    pub(super) fn is_synced(&self) -> bool {
        self.fsync && self.full_page_writes
    }

    /// Whether replaying its WAL mends a page that was caught half-written, and makes up for files
    /// that were caught too early: with the level `minimal` it holds nothing of new tables.
    pub(super) fn logs_whole_pages(&self) -> bool {
        self.full_page_writes && !self.in_recovery && self.wal_level != "minimal"
    }

    /// Whether replaying its WAL from that checkpoint takes next to no time.
    pub(super) fn is_recent(&self, control: &ControlFile) -> bool {
        self.end.0.saturating_sub(control.redo.0) <= RECENT
    }

    /// Whether whole pages were logged at every moment since that checkpoint: they are now, they were
    /// then, and no setting can have been changed since, not even to and fro.
    pub(super) fn logged_since(&self, control: &ControlFile) -> bool {
        let unchanged = self.as_started || self.loaded <= control.checkpoint_time;
        self.full_page_writes && control.full_page_writes && unchanged
    }

    /// Whether between two looks neither a setting nor the timeline can have changed.
    pub(super) fn same_until(&self, later: &Self) -> bool {
        let same =
            |facts: &Self| (facts.loaded, facts.as_started, facts.full_page_writes, facts.timeline);
        same(self) == same(later)
    }

    /// Brings all that was acknowledged to the disk, by a checkpoint if `checkpoint` says so.
    pub(super) async fn make_durable(
        &self,
        session: &Session,
        checkpoint: bool,
        op: &Op,
    ) -> Result<()> {
        if checkpoint {
            // In recovery it is a restartpoint, at the last checkpoint of the primary's.
            let checkpoint = session.execute("write a checkpoint", "CHECKPOINT");
            op.steps.run("checkpoint", op.cancel.guard(checkpoint)).await??;
        } else if self.flushed < self.end {
            // The commit of this waits until all WAL before it is on disk.
            let flush = "SELECT pg_logical_emit_message(true, 'velo', '')";
            let flush = session.execute("flush its WAL", flush);
            op.steps.run("flush", op.cancel.guard(flush)).await??;
        }
        Ok(())
    }
}
