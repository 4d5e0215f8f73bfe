//! Consistent clones: how the data of a source becomes a clone that PostgreSQL can trust.
//!
//! | source | storage | how | at the clone's start |
//! |---|---|---|---|
//! | a snapshot, or a server that is stopped | any | as it is | no recovery after a clean stop |
//! | running, in recovery too | cuts in order (ZFS) | `CHECKPOINT` unless one is recent, one clone | crash recovery over a short WAL |
//! | running with `fsync` and `full_page_writes` | cuts what is synced (btrfs) | the same | the same |
//! | running with either off | cuts what is synced (btrfs) | backup mode around the clone | recovery from the label |
//! | running | file by file (reflink, copy) | backup mode around the clone | recovery from the label |
//! | in recovery (a standby) | any other | backup mode around the clone | archive recovery to consistency, then a timeline of its own |
//!
//! A btrfs snapshot is no instant cut of buffered writes: of two writes that nobody synced it may
//! hold the later one alone. A server that syncs its WAL before its data, and logs whole pages,
//! survives that; one that does neither is silently corrupt in the clone. Backup mode mends every
//! case, costs a checkpoint and some WAL, and never stops the parent, so nothing has to be resumed
//! should this process be killed half-way.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::create::NewClone;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::postgres::backup::Backup;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::lsn::Lsn;
use crate::postgres::session::{Session, Target};
use crate::runtime::{InstanceRef, Status};
use crate::storage::{CloneSpec, Cut as CutKind, FileOp, Object};

/// How a clone was made consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// The source was stopped cleanly: its clones start without recovery.
    Stopped,
    /// The source had crashed: its clones recover as it would.
    Crashed,
    /// One cut of a running server soon after a checkpoint: clones recover over a short WAL.
    Checkpoint,
    /// Backup mode around the clone: clones recover from the label.
    Backup,
}

/// The moment that a clone holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cut {
    /// How it was made.
    pub method: Method,
    /// Everything up to here is in it.
    pub lsn: Lsn,
    /// The next transaction id at its checkpoint (with its epoch above 32 bits).
    pub next_xid: u64,
    /// The oldest transaction id that was still running at its checkpoint; 0 if none was.
    pub oldest_active_xid: u32,
    /// The timeline.
    pub timeline: u32,
    /// When it was made, in milliseconds since 1970, UTC.
    pub at: u64,
    /// The cluster's identity.
    pub system_identifier: u64,
    /// The major version of PostgreSQL.
    pub major: u32,
    /// Whether the source was in recovery.
    pub in_recovery: bool,
}

impl Cut {
    /// Whether a start on it needs no recovery.
    pub(crate) fn is_clean(&self) -> bool {
        self.method == Method::Stopped && !self.in_recovery
    }
}

/// What is cloned.
#[derive(Debug, Clone)]
pub(crate) enum From<'a> {
    /// A snapshot, and the moment that it holds.
    Snapshot(Id, &'a Cut),
    /// A branch. The caller holds its lock.
    Branch { instance: InstanceRef, volume: Id, target: Target<'a> },
}

/// What no clone holds: what belongs to the running server alone, and the slots, which would pin
/// WAL for consumers that do not know the clone.
const SKIP: [&str; 11] = [
    "postmaster.pid",
    "postmaster.opts",
    "pg_replslot/*",
    "pg_dynshmem/*",
    "pg_notify/*",
    "pg_serial/*",
    "pg_snapshots/*",
    "pg_stat_tmp/*",
    "pg_subtrans/*",
    "base/pgsql_tmp*",
    "backup_label.old",
];
const CONTROL: &str = "global/pg_control";

/// What clones are made with.
pub(crate) struct Tools<'a> {
    pub(crate) storage: &'a dyn crate::storage::Storage,
    pub(crate) runtime: &'a dyn crate::runtime::Runtime,
}

impl Tools<'_> {
    /// Clones `from` into `target`, whose record exists already.
    pub(crate) async fn clone(&self, from: From<'_>, target: &NewClone, op: &Op) -> Result<Cut> {
        match from {
            From::Snapshot(id, cut) => {
                let spec = CloneSpec::new(Object::Snapshot(id), target.object.id()).skip(&SKIP);
                op.steps.run("clone", self.place(target, spec, op)).await?;
                // Nothing could be changed in a snapshot that is one of the file system's own.
                self.unfollow(target.object).await?;
                Ok(cut.clone())
            }
            From::Branch { instance, volume, target: server } => {
                let source = Object::Volume(volume);
                match self.runtime.status(&instance).await? {
                    Status::Stopped => {
                        self.at_rest(&instance, op).await?;
                        self.of_stopped(source, target, server.major, op).await
                    }
                    Status::Running { .. } => self.of_running(source, target, server, op).await,
                }
            }
        }
    }

    /// Waits until nobody writes any more: what a killed postmaster leaves ends by itself as soon as
    /// it waits for something. A clone in the middle of it would be torn.
    async fn at_rest(&self, instance: &InstanceRef, op: &Op) -> Result<()> {
        let begun = Instant::now();
        while self.runtime.orphans(instance).await? {
            if begun.elapsed() > AT_REST {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the server that is branched has crashed, and processes of it still write",
                )
                .with_hint("wait until they end, or end them: velo branch stop"));
            }
            op.cancel.guard(tokio::time::sleep(Duration::from_millis(5))).await?;
        }
        Ok(())
    }

    async fn of_stopped(
        &self,
        source: Object,
        target: &NewClone,
        major: u32,
        op: &Op,
    ) -> Result<Cut> {
        // Nobody has used it since the machine was started, perhaps.
        self.storage.open(source).await?;
        let control = self.control(source)?;
        let spec = CloneSpec::new(source, target.object.id()).skip(&SKIP);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let in_recovery = self.unfollow(target.object).await?;
        let method = if control.was_shut_down() { Method::Stopped } else { Method::Crashed };
        Ok(cut(method, control.checkpoint, &control, major, in_recovery))
    }

    async fn of_running(
        &self,
        source: Object,
        target: &NewClone,
        server: Target<'_>,
        op: &Op,
    ) -> Result<Cut> {
        let session = op
            .steps
            .run("connect", Session::connect(server))
            .await
            .map_err(|e| e.with_hint("is the server that is branched still starting?"))?;
        let facts = Facts::of(&session).await?;
        let whole = match self.storage.capability().cut {
            // A standby too: what it has replayed it had on disk before, so that the cut holds the
            // WAL up to where its data is consistent.
            CutKind::Ordered => true,
            CutKind::Synced => facts.synced && !facts.in_recovery,
            CutKind::FileByFile => false,
        };
        if whole {
            self.by_checkpoint(session, &facts, source, target, server.major, op).await
        } else {
            // Clones of this kind take milliseconds, in which hardly ever a checkpoint of somebody
            // else's recycles the WAL that they need; then all of it is done again, with a slot
            // that forbids it. A copy takes as long as it takes.
            let quick = self.storage.capability().copy_on_write;
            if quick
                && let Some(cut) =
                    self.by_backup(&session, false, source, target, server.major, op).await?
            {
                return Ok(cut);
            }
            if quick {
                tracing::debug!("a checkpoint recycled WAL that the clone needs: once more");
                self.discard(target.object).await?;
            }
            let cut = self.by_backup(&session, true, source, target, server.major, op).await?;
            cut.ok_or_else(|| {
                Error::new(ErrorKind::Postgres, "the server recycled WAL that its slot keeps")
            })
        }
    }

    /// One cut of all files. A checkpoint is not what makes it consistent; it keeps the clone's
    /// recovery short. What asynchronous commits have acknowledged must be on disk, though.
    async fn by_checkpoint(
        &self,
        session: Session,
        facts: &Facts,
        source: Object,
        target: &NewClone,
        major: u32,
        op: &Op,
    ) -> Result<Cut> {
        let redo = self.control(source)?.redo;
        if facts.end.0.saturating_sub(redo.0) > RECENT {
            // In recovery it is a restartpoint, at the last checkpoint of the primary's.
            let checkpoint = session.execute("write a checkpoint", "CHECKPOINT");
            op.steps.run("checkpoint", checkpoint).await?;
        } else if !facts.in_recovery && facts.flushed < facts.end {
            // The commit of this waits until all WAL before it is on disk.
            let flush = "SELECT pg_logical_emit_message(true, 'velo', '')";
            op.steps.run("flush", session.execute("flush its WAL", flush)).await?;
        }
        drop(session);
        let spec = CloneSpec::new(source, target.object.id()).skip(&SKIP).live(&[CONTROL]);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let control = self.control(target.object)?;
        let follows = self.unfollow(target.object).await?;
        Ok(cut(Method::Checkpoint, facts.end, &control, major, facts.in_recovery || follows))
    }

    /// Files of different moments, and the WAL that makes them one. `None`, with the clone to be
    /// discarded, if some of that WAL is not there any more, which it always is with a slot.
    async fn by_backup(
        &self,
        session: &Session,
        slot: bool,
        source: Object,
        target: &NewClone,
        major: u32,
        op: &Op,
    ) -> Result<Option<Cut>> {
        let backup = op.steps.run("checkpoint", Backup::begin(session, slot)).await?;
        let spec = CloneSpec::new(source, target.object.id())
            .skip(&SKIP)
            .skip(&["pg_wal/*"])
            .live(&[CONTROL]);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let target = target.object;
        let control = self.whole_control(source, target).await?;
        let finished = op.steps.run("stop backup", backup.finish()).await?;
        let segments: Vec<String> = finished
            .first
            .names_until(finished.stop, control.wal_segment_size)
            .into_iter()
            .map(|name| format!("pg_wal/{name}"))
            .collect();
        // A segment loses its name before it is recycled or removed, and no later one gets it: as
        // long as the name is there, so was its content when it was copied a moment ago.
        let location = self.storage.location(source);
        let all_there = || {
            segments.iter().all(|path| location.host_path().join(path).symlink_metadata().is_ok())
        };
        if !all_there() {
            return Ok(None);
        }
        let mut ops: Vec<FileOp> = segments
            .iter()
            .map(|path| FileOp::CloneFile { source, from: path.clone(), to: path.clone() })
            .collect();
        ops.push(FileOp::Write { path: "backup_label".into(), content: finished.label.into() });
        let copied = op.steps.run("wal", self.storage.edit(target, ops)).await;
        if !all_there() {
            return Ok(None);
        }
        copied?;
        let in_recovery = self.unfollow(target).await?;
        Ok(Some(cut(Method::Backup, finished.stop, &control, major, in_recovery)))
    }

    async fn discard(&self, target: Object) -> Result<()> {
        match target {
            Object::Volume(id) => self.storage.destroy_volume(id).await,
            Object::Snapshot(id) => self.storage.destroy_snapshot(id).await,
        }
    }

    async fn place(&self, target: &NewClone, spec: CloneSpec, op: &Op) -> Result<()> {
        let spec = spec.label(target.label.clone()).quota(target.quota);
        match target.object {
            Object::Volume(_) => self.storage.branch_volume(spec, &op.cancel).await,
            Object::Snapshot(_) => self.storage.snapshot(spec, &op.cancel).await,
        }
    }

    fn control(&self, object: Object) -> Result<ControlFile> {
        control::read(&self.storage.location(object).host_path().join(CONTROL))
    }

    /// The clone's control file, cloned again as long as the copy caught it half-written.
    async fn whole_control(&self, source: Object, target: Object) -> Result<ControlFile> {
        for _ in 0..10 {
            if let Ok(control) = self.control(target) {
                return Ok(control);
            }
            let again = FileOp::CloneFile { source, from: CONTROL.into(), to: CONTROL.into() };
            self.storage.edit(target, vec![again]).await?;
        }
        self.control(target)
    }

    /// A clone of a standby must not go on following: it recovers what it has, and then goes its
    /// own way. Without a signal file it would start at once, silently inconsistent.
    async fn unfollow(&self, target: Object) -> Result<bool> {
        let path = self.storage.location(target);
        if !path.host_path().join("standby.signal").exists() {
            return Ok(false);
        }
        if matches!(target, Object::Snapshot(_)) && !self.storage.capability().editable_snapshots {
            return Ok(true); // its clones are told
        }
        self.storage
            .edit(
                target,
                vec![
                    FileOp::Remove { path: "standby.signal".into() },
                    FileOp::Write { path: "recovery.signal".into(), content: Vec::new() },
                ],
            )
            .await?;
        Ok(true)
    }
}

/// How long the processes of a crashed server are waited for.
const AT_REST: Duration = Duration::from_secs(5);

/// How much WAL a clone may have to replay without a checkpoint of its own: a few milliseconds.
const RECENT: u64 = 256 << 10;

/// What a running server says of itself.
struct Facts {
    in_recovery: bool,
    /// Whether it syncs its WAL before its data, and logs whole pages.
    synced: bool,
    /// What of its WAL is on disk.
    flushed: Lsn,
    /// What there is of its WAL.
    end: Lsn,
}

impl Facts {
    async fn of(session: &Session) -> Result<Self> {
        let row = session
            .row(
                "look at the server to be branched",
                "SELECT pg_is_in_recovery(), current_setting('fsync'), \
                        current_setting('full_page_writes'), \
                        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() \
                             ELSE pg_last_wal_replay_lsn() END, \
                        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() \
                             ELSE pg_last_wal_replay_lsn() END",
            )
            .await?;
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let in_recovery = text(0) == "t";
        // One that has replayed nothing yet has no place.
        let lsn = |i: usize| if text(i).is_empty() { Ok(Lsn(0)) } else { text(i).parse() };
        Ok(Self {
            in_recovery,
            synced: text(1) == "on" && text(2) == "on",
            flushed: lsn(3)?,
            end: lsn(4)?,
        })
    }
}

fn cut(method: Method, lsn: Lsn, control: &ControlFile, major: u32, in_recovery: bool) -> Cut {
    Cut {
        method,
        lsn,
        next_xid: control.next_xid,
        oldest_active_xid: control.oldest_active_xid,
        timeline: control.timeline,
        at: crate::record::now(),
        system_identifier: control.system_identifier,
        major,
        in_recovery,
    }
}

/// An error if data of `found` is to be run by `wanted`.
pub(crate) fn check_major(found: u32, wanted: u32) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!("the data is of PostgreSQL {found}, and the server would be {wanted}"),
    )
    .with_hint(format!("install PostgreSQL {found}: velo pg install {found}")))
}
