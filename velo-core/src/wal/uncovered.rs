//! WAL of an incarnation from before all that recovery can begin with: its server wrote it before there was a snapshot.
//! Nothing in it is reached, and a restore point in it is not the one of that name in older data.

use super::archive;
use super::files::{Folder, Places};
use super::plan::{Incarnation, begin_of_label};
use super::reader::{Event, Reader};
use super::timeline::Timelines;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::home::Home;
use crate::postgres::control;
use crate::postgres::lsn::Lsn;
use crate::record::ProjectRecord;
use crate::storage::Object;

/// The last restore point of a name there, as far as it can be read.
pub(super) async fn restore_point(
    home: &Home,
    project: &ProjectRecord,
    incarnation: &Incarnation,
    name: &str,
    cancel: &Cancel,
) -> Result<Option<Lsn>> {
    let Some(from) = incarnation.archive.from else { return Ok(None) };
    let storage = home.storage(project.storage)?;
    let path = |object| storage.location(object).host_path().to_path_buf();
    let data = path(Object::Volume(incarnation.archive.id));
    let oldest = incarnation.bases.last().map(|base| path(Object::Snapshot(base.id)));
    let folder = archive::folder(home, incarnation.archive.id);
    let (name, cancel) = (name.to_owned(), cancel.clone());
    crate::engine::blocking(move || {
        let held = oldest.filter(|held| held.join(control::FILE).exists());
        let known = held.as_ref().unwrap_or(&data);
        if !known.join(control::FILE).exists() {
            return Ok(None); // the volume went, and no snapshot of it is there
        }
        let control = control::read(&known.join(control::FILE))?;
        let until = match &held {
            Some(held) => begin_of_label(held)?.unwrap_or(control.redo),
            None => Lsn(u64::MAX),
        };
        let (archive, pg_wal) = (Folder::open(&folder)?, Folder::of_data(&data)?);
        let timelines = Timelines::since(control.timeline, [&archive, &pg_wal])?;
        let (size, last) = (control.wal_segment_size, timelines.last);
        let places = Places { archive, pg_wal, timelines, size };
        let mut reader = Reader::new(places, control.major, last, size, from);
        let (mut found, mut count) = (None, 0_u32);
        while reader.end() < until
            && let Some(record) = reader.next()?
        {
            match record.event {
                Event::RestorePoint { name: one, .. } if one == name => found = Some(record.end),
                _ => {}
            }
            count = count.wrapping_add(1);
            if count.is_multiple_of(65_536) {
                cancel.check()?;
            }
        }
        Ok(found)
    })
    .await
}
