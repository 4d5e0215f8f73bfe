//! The data folder of a server that is stopped, cloned where the file system can.

use std::path::Path;

use super::bring::Import;
use super::check;
use super::progress::{Stage, during, size_of};
use super::source::Place;
use crate::effect::step;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::control;
use crate::storage::{Location, adopt};

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
        let folder = from.clone();
        let size = blocking(move || Ok(size_of(folder))).await?;
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
        self.settle(standby.then_some("recovery.signal"), None).await
    }
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
            "stop it cleanly (pg_ctl stop -m fast), or bring the data from its URL while it runs",
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
            let hint = "name the file where it is now; it is read at each refresh, too";
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
            path.metadata().map_err(|e| Error::io(format!("look at {}", path.display()), e))?;
        }
        if let Place::Files(path) = &recipe.place {
            let size = 256 << 20;
            // A clone takes next to nothing; what a copy takes is found while it is made.
            check::room(self, size).map(drop)?;
            stopped(path)?;
        }
        Ok(())
    }
}
