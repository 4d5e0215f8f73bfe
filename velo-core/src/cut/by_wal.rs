//! Clones of a running server's files, one by one, without backup mode.
//!
//! What backup mode gives is a checkpoint to start from, whole pages in the WAL since then, and the
//! WAL up to the end of the copy. A server with `full_page_writes` has all of it at any time: since
//! its last checkpoint it logs the whole of every page that it changes for the first time. So the
//! control file, which names that checkpoint, is taken before the first data file, and the WAL from
//! there on after the last: it then holds every change that any of the files may have, because a
//! page is never written before its WAL is, synced or not. The clone recovers as after a crash, and
//! nothing is left of it in the source: no checkpoint, no switch of a segment, no slot.

use super::facts::Facts;
use super::{CONTROL, Cut, LABELS, Method, SKIP, Tools, Work, cut};
use crate::error::Result;
use crate::postgres::backup::Segment;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::session::Session;
use crate::storage::{CloneSpec, FileOp, Object};

impl Tools<'_> {
    /// `None`, with the clone to be discarded, if a checkpoint of somebody else's recycled WAL that
    /// it needs, or the settings were read anew meanwhile.
    pub(super) async fn by_wal(
        &self,
        session: &Session,
        facts: &Facts,
        work: Work<'_>,
    ) -> Result<Option<Cut>> {
        let Work { source, target, major, op, .. } = work;
        let last = self.control_file(source)?;
        // Soon after its promotion a server has no checkpoint on its own timeline yet.
        let usable =
            |control: &ControlFile| control.full_page_writes && control.timeline == facts.timeline;
        let good = usable(&last.0) && facts.is_recent(&last.0) && facts.logged_since(&last.0);
        facts.make_durable(session, !good, op).await?;
        let (control, bytes) = if good { last } else { self.control_file(source)? };
        if !usable(&control) {
            return Ok(None);
        }
        let spec = CloneSpec::new(source, target.object.id())
            .skip(&SKIP)
            .skip(&LABELS)
            .skip(&["pg_wal/*", CONTROL])
            .live(&[]);
        op.steps.run("clone", self.place(target, spec, op)).await?;
        let later = Facts::of(session).await?;
        if !facts.same_until(&later) {
            return Ok(None);
        }
        let (size, end) = (control.wal_segment_size, later.written);
        let first = Segment::of(control.timeline, control.redo, size);
        let segments = first.names_until(end, size);
        let control_file = FileOp::Write { path: CONTROL.into(), content: bytes };
        if !self.add_wal(work, &segments, control_file).await? {
            return Ok(None);
        }
        Ok(Some(cut(Method::Wal, end, &control, major, false)))
    }

    fn control_file(&self, object: Object) -> Result<(ControlFile, Vec<u8>)> {
        control::read_whole(&self.storage.location(object).host_path().join(CONTROL))
    }
}
