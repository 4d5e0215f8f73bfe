//! Consistent clones: how the data of a source becomes a clone that PostgreSQL can trust.
//!
//! | source | storage | how | at the clone's start |
//! |---|---|---|---|
//! | a snapshot, or a server that is stopped | any | as it is | no recovery after a clean stop |
//! | running, in recovery too | cuts in order (ZFS) | `CHECKPOINT` unless one is recent, one clone | crash recovery over a short WAL |
//! | running, with pages larger than a block of the storage | cuts in order (ZFS) | as where it cuts what is synced | |
//! | running with `fsync` and `full_page_writes` | cuts what is synced (btrfs) | the same | the same |
//! | running with either off | cuts what is synced (btrfs) | backup mode around the clone | recovery from the label |
//! | running with `full_page_writes` | clones file by file (reflink) | the control file, the data, the WAL since its checkpoint, in this order | crash recovery over that WAL |
//! | running without it | clones file by file (reflink) | backup mode around the clone | recovery from the label |
//! | running | copies file by file (copy) | backup mode around the copy | recovery from the label |
//! | in recovery (a standby) | any other | backup mode around the clone | archive recovery to consistency, then a timeline of its own |
//!
//! A btrfs snapshot is no instant cut of buffered writes: of two writes that nobody synced it may
//! hold the later one alone. A server that syncs its WAL before its data, and logs whole pages,
//! survives that; one that does neither is silently corrupt in the clone. Backup mode mends every
//! case, costs a checkpoint and some WAL, and never stops the parent, so nothing has to be resumed
//! should this process be killed half-way.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clone::NewClone;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::postgres::binaries::SUPPORTED;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::image::Libc;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::{Session, Target};
use crate::runtime::{InstanceRef, Status};
use crate::storage::{CloneSpec, Cut as CutKind, FileOp, Object};

mod by_backup;
mod by_wal;
mod facts;

use facts::Facts;

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
    /// Files of a running server one by one, and at last its WAL since a recent checkpoint: clones
    /// recover over that WAL.
    Wal,
    /// Backup mode around the clone: clones recover from the label.
    Backup,
}

impl Method {
    /// The name in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Checkpoint => "checkpoint",
            Self::Wal => "wal",
            Self::Backup => "backup",
        }
    }
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
    /// The C library that text was sorted with, where it is known.
    #[serde(default)]
    pub libc: Option<Libc>,
    /// A superuser of the data's, as whom Velo works as long as its own role is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) superuser: Option<String>,
}

impl Cut {
    /// Of data that was recovered up to `lsn` and stopped cleanly.
    pub(crate) fn of_recovered(lsn: Lsn, control: &ControlFile, libc: Option<Libc>) -> Self {
        let cut = cut(Method::Stopped, lsn, control, control.major, false);
        Self { libc, ..cut }
    }

    /// Of data that was stopped cleanly.
    pub(crate) fn of_stopped(control: &ControlFile, libc: Option<Libc>) -> Self {
        Self::of_recovered(control.checkpoint, control, libc)
    }

    /// Of a copy of a running server, with the WAL that came meanwhile.
    pub(crate) fn of_copied(control: &ControlFile, libc: Option<Libc>) -> Self {
        let cut = cut(Method::Backup, control.checkpoint, control, control.major, true);
        Self { libc, ..cut }
    }

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
/// What of a running server's data would mislead a clone that has a moment of its own: the label of
/// somebody else's backup, which up to 14 may lie in the data itself.
const LABELS: [&str; 2] = ["backup_label", "tablespace_map"];
const CONTROL: &str = control::FILE;

/// One clone of a running server.
#[derive(Clone, Copy)]
struct Work<'a> {
    source: Object,
    target: &'a NewClone,
    major: u32,
    /// What kind of moment the clone is, of this server.
    kind: CutKind,
    op: &'a Op,
}

/// What clones are made with.
pub(crate) struct Tools<'a> {
    pub(crate) storage: &'a dyn crate::storage::Storage,
    pub(crate) runtime: &'a dyn crate::runtime::Runtime,
    /// What the project's text is sorted with.
    pub(crate) libc: Option<Libc>,
}

impl Tools<'_> {
    /// Clones `from` into `target`, whose record exists already.
    pub(crate) async fn clone(&self, from: From<'_>, target: &NewClone, op: &Op) -> Result<Cut> {
        let cut = self.clone_data(from, target, op).await?;
        Ok(Cut { libc: cut.libc.or(self.libc), ..cut })
    }

    async fn clone_data(&self, from: From<'_>, target: &NewClone, op: &Op) -> Result<Cut> {
        match from {
            From::Snapshot(id, cut) => {
                let mut spec = CloneSpec::new(Object::Snapshot(id), target.object.id()).skip(&SKIP);
                if !self.storage.capability().editable_snapshots && cut.method != Method::Backup {
                    // Nobody could take it out of the snapshot.
                    spec = spec.skip(&LABELS);
                }
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
                    Status::Running { .. } | Status::Restarting => {
                        self.of_running(source, target, server, op).await
                    }
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
            .run("connect", op.cancel.guard(Session::connect(server)))
            .await?
            .map_err(|e| no_session(e, server))?;
        let facts = op.cancel.guard(Facts::of(&session)).await??;
        let storage = self.storage.capability();
        let kind = match storage.cut {
            // Half of a page may be on either side: whole ones in the WAL have to mend that.
            CutKind::Ordered if !facts.pages_fit(self.block_size(source)?) => CutKind::Synced,
            kind => kind,
        };
        let work = Work { source, target, major: server.major, kind, op };
        // Clones of these kinds take milliseconds, in which hardly ever a checkpoint of somebody
        // else's recycles WAL that they need, or a setting is changed. A copy takes as long as it
        // takes.
        let quickly = match kind {
            _ if !storage.copy_on_write => None,
            // A standby too: what it has replayed it had on disk before, so that the cut holds the
            // WAL up to where its data is consistent.
            CutKind::Ordered => Some(self.by_checkpoint(&session, &facts, work).await?),
            _ if facts.in_recovery => Some(self.by_backup(&session, false, work).await?),
            CutKind::Synced if facts.is_synced() => {
                Some(self.by_checkpoint(&session, &facts, work).await?)
            }
            CutKind::FileByFile if facts.logs_whole_pages() => {
                Some(self.by_wal(&session, &facts, work).await?)
            }
            _ => Some(self.by_backup(&session, false, work).await?),
        };
        match quickly {
            Some(Some(cut)) => return Ok(cut),
            Some(None) => {
                tracing::debug!("what the clone needs was recycled or changed: once more");
                self.discard(target.object).await?;
            }
            None => {}
        }
        let cut = self.by_backup(&session, true, work).await?;
        cut.ok_or_else(|| {
            Error::new(ErrorKind::Postgres, "the server recycled WAL that its slot keeps")
        })
    }

    /// One cut of all files. A checkpoint is not what makes it consistent; it keeps the clone's
    /// recovery short. What asynchronous commits have acknowledged must be on disk, though. `None`,
    /// with the clone to be discarded, if a setting that it rests on was changed meanwhile.
    async fn by_checkpoint(
        &self,
        session: &Session,
        facts: &Facts,
        work: Work<'_>,
    ) -> Result<Option<Cut>> {
        let Work { source, target, major, kind, op } = work;
        let ordered = kind == CutKind::Ordered;
        let last = self.control(source)?;
        let good = facts.is_recent(&last) && (ordered || facts.logged_since(&last));
        facts.make_durable(session, !good, op).await?;
        let spec =
            CloneSpec::new(source, target.object.id()).skip(&SKIP).skip(&LABELS).live(&[CONTROL]);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let control = self.control(target.object)?;
        let whole =
            ordered || (control.full_page_writes && facts.same_until(&Facts::of(session).await?));
        let in_recovery = self.unfollow(target.object).await? || facts.in_recovery;
        Ok(whole.then(|| cut(Method::Checkpoint, facts.end, &control, major, in_recovery)))
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

    /// The most that the storage is sure to write at once: of ZFS the size of a record.
    fn block_size(&self, object: Object) -> Result<u64> {
        let location = self.storage.location(object);
        let path = location.host_path();
        let stat = rustix::fs::statvfs(path).map_err(|e| {
            Error::io(format_args!("look at the file system of {}", path.display()), e)
        })?;
        Ok(stat.f_bsize)
    }

    fn control(&self, object: Object) -> Result<ControlFile> {
        control::read(&self.storage.location(object).host_path().join(CONTROL))
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

/// How long the processes of a crashed server are waited for: one that is in the middle of `fsync` on a
/// busy disk ends after it.
const AT_REST: Duration = Duration::from_secs(15);

/// Why a parent cannot be asked, and what to do about it.
fn no_session(error: Error, server: Target<'_>) -> Error {
    let state = error.context().find(|(key, _)| *key == "sqlstate").map(|(_, value)| value);
    let hint = match state {
        Some("53300") => "it has no free connection: raise max_connections, or end some".to_owned(),
        Some("28000") => format!(
            "Velo works as the role {} of the parent, which must exist and may log in",
            server.role
        ),
        _ => "is the server that is branched still starting? Or stop the branch first".to_owned(),
    };
    error.with_hint(hint)
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
        libc: None,
        superuser: None,
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
    .with_hint(match SUPPORTED.contains(&found) {
        true => format!("install PostgreSQL {found}: velo pg install {found}"),
        false => format!("Velo runs PostgreSQL {} to {}", SUPPORTED.start(), SUPPORTED.end()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_major_is_recommended_that_cannot_be_fetched() {
        let hint = |found| check_major(found, 18).unwrap_err().hint().unwrap().to_owned();
        assert_eq!(hint(15), "install PostgreSQL 15: velo pg install 15");
        assert_eq!(hint(9), "Velo runs PostgreSQL 14 to 18");
    }
}
