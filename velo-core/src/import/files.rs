//! The data folder of a server that is stopped, cloned where the file system can.

use std::path::Path;

use super::basebackup::names;
use super::bring::Import;
use super::check;
use super::progress::{Stage, during, size_of};
use super::source::Place;
use crate::effect::step;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::control;
use crate::postgres::lsn::Lsn;
use crate::storage::{FileOp, Location, Object, adopt, can_clone};

/// What every server needs beside the data that it begins with.
const ROOM: u64 = 256 << 20;

impl Import<'_> {
    /// Takes over the files of the folder, which stay as they are.
    pub(super) async fn adopt(&mut self) -> Result<()> {
        let Place::Files(from) = self.recipe.place.clone() else {
            return Err(Error::new(ErrorKind::Internal, "no folder to adopt"));
        };
        let from =
            from.canonicalize().map_err(|e| Error::io(format!("open {}", from.display()), e))?;
        let before = stopped(&from)?;
        let standby = from.join("standby.signal").exists() || from.join("recovery.signal").exists();
        self.use_major(before.major).await?;
        let (folder, place) = (from.clone(), self.location.host_path().to_path_buf());
        let look = move || {
            // Its disk may be another one.
            let wal = folder.join("pg_wal").canonicalize().ok();
            let wal = wal.filter(|wal| !wal.starts_with(&folder)).map_or(0, size_of);
            let is_cloned = can_clone(&folder.join(control::FILE), &place);
            let size = size_of(folder) + wal;
            Ok((size, if is_cloned { wal } else { size }))
        };
        let (size, copied) = blocking(look).await?;
        // What is cloned takes next to nothing.
        if copied > 0 {
            check::room(self, copied + ROOM)?;
        }
        let (to, cancel) = (self.location.host_path().to_path_buf(), self.op.cancel.clone());
        let owner = self.home.server_user(&self.project.postgres).map(|user| (user.uid, user.gid));
        let (source, target) = (from.clone(), to.clone());
        let work =
            step("take over files", blocking(move || adopt(&source, &target, owner, &cancel)));
        let shown = from.display().to_string();
        let taken = during(self.watch, Stage::Copy, &shown, &to, Some(size), work);
        let taken = self.op.steps.run("copy", taken).await?;
        self.note(match taken.copied {
            0 => format!("{} files were cloned", taken.cloned),
            copied if taken.cloned == 0 => format!("{copied} files were copied"),
            copied => format!("{} files were cloned, and {copied} copied", taken.cloned),
        });
        // Whoever starts a server there writes that down.
        let after = stopped(&from)?;
        if before != after {
            let what = format!("a server has worked in {} meanwhile", from.display());
            return Err(Error::new(ErrorKind::Conflict, what).with_hint("stop it, and try again"));
        }
        if !standby && !after.was_standby() {
            self.remove_wal_ahead(&after).await?;
        }
        self.settle(standby.then_some("recovery.signal"), None).await
    }

    /// Removes segments of WAL that the server has made ready: they are old ones, with the rows that were written
    /// then, and no checkpoint removes them.
    async fn remove_wal_ahead(&self, control: &control::ControlFile) -> Result<()> {
        let is_ahead = |name: &String| is_ahead(name, control.checkpoint, control.wal_segment_size);
        let names = names(&self.location.host_path().join("pg_wal"))?;
        let remove = |name: String| FileOp::Remove { path: format!("pg_wal/{name}") };
        let ops = names.into_iter().filter(is_ahead).map(remove).collect();
        self.storage.edit(Object::Volume(self.volume), ops).await
    }
}

/// Whether a segment of WAL begins after the last record, which is that of this checkpoint.
fn is_ahead(name: &str, checkpoint: Lsn, segment: u32) -> bool {
    // That of a checkpoint is far shorter.
    const RECORD: u64 = 8192;
    let part = |from: usize| {
        let digits = name.get(from..from + 8)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (24, Some(_), Some(high), Some(low)) = (name.len(), part(0), part(8), part(16)) else {
        return false;
    };
    let size = u64::from(segment.max(1));
    high * (0x1_0000_0000 / size) + low > (checkpoint.0 + RECORD) / size
}

/// What a folder's control file says, where no server works in it.
fn stopped(data: &Path) -> Result<control::ControlFile> {
    let control = control::read(&data.join(control::FILE)).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => error.with_hint("run it as the folder's owner, or as root"),
        _ => error,
    })?;
    let runs = crate::runtime::has_processes(&Location::HostPath(data.to_path_buf()));
    if runs || !control.was_shut_down() {
        let what = match runs {
            true => format!("a server works in {}", data.display()),
            false => format!("the server of {} was not stopped cleanly", data.display()),
        };
        return Err(Error::new(ErrorKind::Conflict, what).with_hint(
            "stop it cleanly (pg_ctl stop -m fast), or bring the data from its URL while it runs (--from postgres://…)",
        ));
    }
    Ok(control)
}

impl Import<'_> {
    /// The files that change the copy are there before anything is made.
    pub(super) fn prepare_files(&mut self) -> Result<()> {
        let recipe = &self.recipe;
        let files = recipe.transforms.iter().chain(&recipe.masking).map(|file| &file.path);
        for path in files.chain(&recipe.roles) {
            let found = path.metadata();
            let hint = "name the file where it is now (--transform, --mask, --roles); it is read at each refresh, too";
            let found = found
                .map_err(|e| Error::io(format!("look at {}", path.display()), e).with_hint(hint))?;
            if !found.is_file() {
                let what = format!("{} is not a file", path.display());
                return Err(Error::new(ErrorKind::InvalidInput, what).with_hint(hint));
            }
        }
        if let Some(masking) = &recipe.masking {
            super::masking::read(&masking.path)?;
        }
        if let Place::Sql(path) = &recipe.place {
            let found = path.metadata().map_err(|e| {
                Error::io(format!("look at {}", path.display()), e)
                    .with_hint("name the dump where it is now (--from)")
            })?;
            // What it is unpacked to, and becomes, is not known, but more than that as a rule.
            check::room(self, size_of(path.clone()).max(found.len()))?;
        }
        if let Place::Files(path) = &recipe.place {
            // What it takes is seen once there is a place to clone a file into.
            stopped(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_that_is_ahead_of_a_checkpoint_is_known() {
        // In the segment 0x21 of 16 MB, and in the first of 1 GB.
        let checkpoint: Lsn = "0/2100A000".parse().unwrap();
        for (name, size, ahead) in [
            ("000000010000000000000020", 16 << 20, false),
            ("000000010000000000000021", 16 << 20, false),
            ("000000010000000000000022", 16 << 20, true),
            ("000000020000000100000000", 16 << 20, true),
            ("000000010000000000000000", 1 << 30, false),
            ("000000010000000000000001", 1 << 30, true),
            ("000000010000000000000022.partial", 16 << 20, false),
            ("00000002.history", 16 << 20, false),
            ("archive_status", 16 << 20, false),
            ("+00000010000000000000022", 16 << 20, false),
        ] {
            assert_eq!(is_ahead(name, checkpoint, size), ahead, "{name}");
        }
        // The record may go on in the next one.
        let end: Lsn = "0/21FFFFA0".parse().unwrap();
        assert!(!is_ahead("000000010000000000000022", end, 16 << 20));
        assert!(is_ahead("000000010000000000000023", end, 16 << 20));
    }
}
