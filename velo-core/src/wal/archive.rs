//! The WAL of a branch that is kept beside it: one folder for each incarnation of its data.
//!
//! A clone that recovers as after a crash stays on its parent's timeline, and a branch that is reset
//! writes other bytes under names that it has written before. So an archive is known by the volume
//! whose server fills it: no two branches share one, and a reset begins another.
//!
//! The server itself copies each segment when it is full, by a command of the shell that every image
//! has the programs for. A segment gets its name when it is whole and on disk; one that is archived
//! once more, after a crash, takes the place of the same bytes. What a volume's server has not
//! archived when the volume goes, Velo adds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{Folder, Places, copy_until};
use super::timeline::{history, is_history};
use crate::disk;
use crate::effect::step;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::os_user::OsUser;
use crate::postgres::backup::Segment;
use crate::postgres::control;
use crate::postgres::lsn::Lsn;
use crate::record::{ArchiveRecord, BranchRecord, Phase, ProjectRecord, Role, SnapshotRecord, now};
use crate::state::Tx;
use crate::storage::Object;

/// The folder of a volume's archive.
pub(crate) fn folder(home: &Home, volume: Id) -> PathBuf {
    home.wal_dir().join(volume.to_string())
}

/// An archive that a server fills.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) folder: PathBuf,
    /// Whether nothing leads into it yet: recovery begins with a base.
    pub(crate) wants_base: bool,
}

impl Archive {
    /// The settings of its server.
    pub(crate) fn settings(&self) -> [(String, String); 2] {
        [("archive_mode", "on".to_owned()), ("archive_command", command(&self.folder))]
            .map(|(name, value)| (name.to_owned(), value))
    }
}

/// What copies a segment. `sync` without a file, as old images have it, syncs everything.
fn command(folder: &Path) -> String {
    let folder = quoted(folder);
    format!(
        "cp -f \"%p\" {folder}/%f.new && sync {folder}/%f.new && mv -f {folder}/%f.new {folder}/%f && \
         sync {folder}"
    )
}

/// What fetches a segment from `folder`.
pub(super) fn fetch(folder: &Path) -> String {
    let folder = quoted(folder);
    format!("test -f {folder}/%f && cp {folder}/%f \"%p\"")
}

/// A path as the shell reads it in one of PostgreSQL's commands.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\'', r"'\''").replace('%', "%%");
    format!("'{text}'")
}

/// Prepares the archive of a server that is about to start on `volume`, if its project keeps WAL. Of the WAL
/// from `redo` on, where its recovery would begin, it removes nothing that is not archived.
pub(crate) async fn begin(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    volume: Id,
    redo: Lsn,
    user: Option<&OsUser>,
) -> Result<Option<Archive>> {
    let (id, owner) = (project.id, branch.id);
    // Another process may have set it since this one opened the project.
    let (keeps, found) = home
        .state()
        .read(move |tx| {
            let keeps = tx.get::<ProjectRecord>(id)?.is_some_and(|p| p.wal_retention.is_some());
            Ok((keeps, tx.get::<ArchiveRecord>(volume)?))
        })
        .await?;
    if !keeps {
        if found.is_some_and(|archive| archive.archiving) {
            note(home, volume, false).await?;
        }
        return Ok(None);
    }
    let is_new = found.is_none();
    let record = match found {
        Some(record) => {
            if !record.archiving {
                note(home, volume, true).await?;
            }
            record
        }
        None => {
            let record = ArchiveRecord {
                id: volume,
                project: id,
                branch: owner,
                begun_at: now(),
                ended_at: None,
                archiving: true,
                wants_base: true,
                from: Some(redo),
                written: None,
            };
            let new = record.clone();
            home.state().write("record a WAL archive", move |tx| tx.insert(&new)).await?;
            record
        }
    };
    // The servers' user passes, and sees no other archive.
    let mode = if user.is_some() { 0o711 } else { 0o700 };
    disk::make_folder("make the folder of WAL archives", &home.wal_dir(), mode, None)?;
    let folder = folder(home, volume);
    disk::make_folder("make a WAL archive", &folder, 0o700, user)?;
    if is_new {
        // The server does it for what is in it.
        for above in [&home.wal_dir(), home.config.home()] {
            let synced = std::fs::File::open(above).and_then(|folder| folder.sync_all());
            synced.map_err(|e| Error::io(format!("sync {}", above.display()), e))?;
        }
    }
    Ok(Some(Archive { folder, wants_base: record.wants_base }))
}

/// Notes whether a server that is about to start archives. Where it does not, a gap begins.
async fn note(home: &Home, volume: Id, archives: bool) -> Result<()> {
    let change = move |tx: &Tx<'_>| {
        tx.update(volume, |archive: &mut ArchiveRecord| {
            archive.archiving = archives;
            archive.wants_base |= !archives;
            Ok(())
        })
    };
    home.state().write("note whether WAL is archived", change).await.map(drop)
}

/// Adds to a volume's archive what its server has not archived, before the volume goes. No server
/// runs on it since `ended_at`, and the caller holds its branch's lock.
pub(crate) async fn seal(
    home: &Home,
    project: &ProjectRecord,
    volume: Id,
    ended_at: u64,
) -> Result<()> {
    let Some((_, leads)) = unsealed(home, volume).await? else { return Ok(()) };
    if !leads {
        // A reset that came to nothing began it.
        return remove(home, volume).await;
    }
    let storage = home.storage(project.storage)?;
    let written = match storage.open(Object::Volume(volume)).await {
        Ok(location) => {
            let (data, archive) = (location.host_path().to_path_buf(), folder(home, volume));
            let add = crate::engine::blocking(move || add_rest(&data, &archive));
            match step("keep the last of a WAL", add).await {
                // Nobody mends it any more. What is damaged may look like another version's.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible) =>
                {
                    tracing::warn!(%error, "the last of a WAL is kept as far as it can be read");
                    None
                }
                added => added?,
            }
        }
        // Somebody has removed it by hand.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    home.state()
        .write("end a WAL archive", move |tx| {
            let Some(archive) = tx.get::<ArchiveRecord>(volume)? else { return Ok(()) };
            // Clients may have been at what took its place before anybody came to end it.
            let next = match tx.get::<BranchRecord>(archive.branch)? {
                Some(branch) if branch.volume != volume => {
                    tx.get::<ArchiveRecord>(branch.volume)?
                }
                _ => None,
            };
            let ended_at = next.map_or(ended_at, |next| next.begun_at.min(ended_at));
            tx.update(volume, |archive: &mut ArchiveRecord| {
                archive.ended_at = Some(ended_at);
                archive.written = written;
                Ok(())
            })
            .map(drop)
        })
        .await
}

/// The same of a volume that is a branch's no more, whose lock the caller does not hold. Whether the volume
/// may go: not while somebody works on the branch.
pub(crate) async fn seal_left(home: &Home, project: &ProjectRecord, volume: Id) -> Result<bool> {
    let Some((branch, _)) = unsealed(home, volume).await? else { return Ok(true) };
    let Ok(_lock) = home.lock_now(branch, "the branch").await else { return Ok(false) };
    seal(home, project, volume, now()).await?;
    Ok(true)
}

/// The branch of an archive that has not ended, and whether anything leads into it.
async fn unsealed(home: &Home, volume: Id) -> Result<Option<(Id, bool)>> {
    home.state()
        .read(move |tx| {
            let archive = tx.get::<ArchiveRecord>(volume)?.filter(|a| a.ended_at.is_none());
            let Some(ArchiveRecord { branch, .. }) = archive else { return Ok(None) };
            let owner = tx.get::<BranchRecord>(branch)?;
            if owner.is_none_or(|owner| owner.phase == Phase::Deleting) {
                return Ok(None); // which takes it along
            }
            let is_base = |s: &SnapshotRecord| {
                s.source == Some(Object::Volume(volume))
                    && matches!(s.role, Role::Named | Role::Base)
            };
            Ok(Some((branch, tx.of::<SnapshotRecord>(branch)?.iter().any(is_base))))
        })
        .await
}

/// Of whichever timeline: one that was promoted may not have archived what it had before. Where the server has written WAL
/// up to, at least.
fn add_rest(data: &Path, archive: &Path) -> Result<Option<Lsn>> {
    let (Some(pg_wal), Some(archive)) = (Folder::of_data(data)?, Folder::open(archive)?) else {
        return Ok(None); // somebody has removed one of them by hand
    };
    // What can be read is kept, also of data that is damaged: that may be why somebody has reset it.
    let control = control::read(&data.join(control::FILE));
    let size = match &control {
        Ok(control) => Some(control.wal_segment_size),
        Err(_) => pg_wal.size_of_segments()?,
    };
    let Some(size) = size else { return control.map(|_| None) };
    let owner = rustix::process::geteuid().is_root().then(|| archive.owner()).transpose()?;
    for name in pg_wal.names()? {
        let segment = Segment::parse(&name);
        if (segment.is_none() && !is_history(&name)) || archive.has(&name) {
            continue;
        }
        let Some((mut file, length)) = pg_wal.file(&name)? else { continue };
        if let Some(segment) = segment {
            let mut head = [0; 16];
            let is_whole = length == u64::from(size) && file.read_exact_at(&mut head, 0).is_ok();
            // One that is kept for later has another place in its first page.
            let begin = segment.number(size) * u64::from(size);
            if !is_whole || head[8..] != begin.to_le_bytes() {
                continue;
            }
        }
        archive.write(&name, owner, true, |to| std::io::copy(&mut file, to).map(drop))?;
    }
    Ok(Some(control?.checkpoint))
}

/// Removes the archives of a branch that goes.
pub(crate) async fn remove_all(home: &Home, branch: Id) -> Result<()> {
    let archives = home.state().read(move |tx| tx.of::<ArchiveRecord>(branch)).await?;
    for archive in archives {
        remove(home, archive.id).await?;
    }
    Ok(())
}

/// Removes an archive.
pub(super) async fn remove(home: &Home, id: Id) -> Result<()> {
    remove_folder(home, id)?;
    let forget = move |tx: &Tx<'_>| tx.remove::<ArchiveRecord>(id);
    home.state().write("forget a WAL archive", forget).await
}

/// Removes the files of an archive.
pub(crate) fn remove_folder(home: &Home, id: Id) -> Result<()> {
    disk::remove_folder("remove a WAL archive", &folder(home, id))
}

/// The bytes that an archive takes, where that can be told.
pub(crate) fn bytes(home: &Home, id: Id) -> Option<u64> {
    Folder::open(&folder(home, id)).ok().flatten()?.bytes().ok()
}

/// Puts the segments of a plan, from `first` to `last`, into the folder that a recovery reads: those
/// that are archived by another name, the others and the last as copies, of which that one holds
/// nothing from `end` on, and bears the name of the timeline that this place is on.
pub(super) fn stage(
    places: &Places,
    to: &Folder,
    (first, last): (u64, u64),
    end: u64,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let size = u64::from(places.size);
    let timelines = places.timelines.clone().until(places.timelines.at(Lsn(end)));
    for number in first..=last {
        let name = places.name(number);
        if number != last
            && let Some(archive) = &places.archive
            && archive.bytes_of(&name)? == Some(size)
            && to.link(archive, &name).is_ok()
        {
            continue;
        }
        let bytes = if number == last { end - number * size } else { size };
        let as_name = Segment::name(timelines.of_segment(number, places.size), number, places.size);
        let mut done = false;
        // As they are read, for the same reason.
        for folder in [&places.archive, &places.pg_wal, &places.archive].into_iter().flatten() {
            let Some((file, length)) = folder.file(&name)? else { continue };
            if length != size {
                continue;
            }
            to.write(&as_name, owner, false, |to| copy_until(&file, to, bytes, size))?;
            if folder.has(&name) {
                done = true;
                break;
            }
        }
        if !done {
            return Err(super::unreachable::hole(&name));
        }
    }
    if timelines.begin().is_none() {
        return Ok(());
    }
    // How PostgreSQL comes from the one timeline to the other.
    let name = history(timelines.last);
    for folder in [&places.archive, &places.pg_wal].into_iter().flatten() {
        if let Some((mut file, _)) = folder.file(&name)? {
            let copy = |to: &mut File| std::io::copy(&mut file, to).map(drop);
            return to.write(&name, owner, false, copy);
        }
    }
    Err(super::unreachable::hole(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_the_shell_and_no_placeholder() {
        let command = command(Path::new("/x y/it's 100%f"));
        assert!(command.starts_with(r#"cp -f "%p" '/x y/it'\''s 100%%f'/%f.new && "#), "{command}");
    }
}
