//! Clones of a running server in backup mode: what is right for every server, and costs it a
//! checkpoint and the switch of a segment.

use super::{CONTROL, Cut, LABELS, Method, SKIP, Tools, Work, cut};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::backup::Backup;
use crate::postgres::control::ControlFile;
use crate::postgres::session::Session;
use crate::storage::{CloneSpec, FileOp, Object};

impl Tools<'_> {
    /// Files of different moments, and the WAL that makes them one. `None`, with the clone to be
    /// discarded, if some of that WAL is not there any more, which it always is with a slot.
    pub(super) async fn by_backup(
        &self,
        session: &Session,
        slot: bool,
        work: Work<'_>,
    ) -> Result<Option<Cut>> {
        let Work { source, target, major, op, .. } = work;
        if matches!(target.object, Object::Snapshot(_))
            && !self.storage.capability().editable_snapshots
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "no snapshot of this server can be made while it runs: its pages are larger than the \
                 storage's records, and it runs without fsync or full_page_writes, or is a standby",
            )
            .with_hint("stop it first; or let records be as large as its pages (recordsize)"));
        }
        let backup =
            op.steps.run("checkpoint", op.cancel.guard(Backup::begin(session, slot))).await??;
        let spec = CloneSpec::new(source, target.object.id())
            .skip(&SKIP)
            .skip(&LABELS)
            .skip(&["pg_wal/*"])
            .live(&[CONTROL]);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let control = self.whole_control(source, target.object).await?;
        let finished = op.steps.run("stop backup", op.cancel.guard(backup.finish())).await??;
        let segments = finished.first.names_until(finished.stop, control.wal_segment_size);
        let label = FileOp::Write { path: "backup_label".into(), content: finished.label.into() };
        if !self.add_wal(work, &segments, label).await? {
            return Ok(None);
        }
        let in_recovery = self.unfollow(target.object).await?;
        Ok(Some(cut(Method::Backup, finished.stop, &control, major, in_recovery)))
    }

    /// The last part of a clone: segments of WAL, and `last` after them. False if one of them was
    /// recycled before it was copied.
    pub(super) async fn add_wal(
        &self,
        work: Work<'_>,
        segments: &[String],
        last: FileOp,
    ) -> Result<bool> {
        let Work { source, target, op, .. } = work;
        let segments: Vec<String> = segments.iter().map(|name| format!("pg_wal/{name}")).collect();
        // A segment loses its name before it is recycled or removed, and no later one gets it: as
        // long as the name is there, so was its content when it was copied a moment ago.
        let location = self.storage.location(source);
        let all_there = || {
            segments.iter().all(|path| location.host_path().join(path).symlink_metadata().is_ok())
        };
        if !all_there() {
            return Ok(false);
        }
        let mut ops: Vec<FileOp> = segments
            .iter()
            .map(|path| FileOp::CloneFile { source, from: path.clone(), to: path.clone() })
            .collect();
        ops.push(last);
        let copied = op.steps.run("wal", self.storage.edit(target.object, ops)).await;
        if !all_there() {
            return Ok(false);
        }
        copied?;
        Ok(true)
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
}
