//! The files of a server that is about to start: what its data says, and what it is given.

use std::path::{Path, PathBuf};

use crate::engine;
use crate::error::{Error, Result};
use crate::os_user::OsUser;
use crate::postgres::control::{self, ControlFile};
use crate::postgres::{data_file, settings, tablespaces};
use crate::run_dir::RunDir;

/// Who may connect, as PostgreSQL's two files say it.
pub(super) struct Rules {
    pub(super) hba: String,
    pub(super) ident: String,
}

/// What there is then.
pub(super) struct Prepared {
    pub(super) control: ControlFile,
    pub(super) recovery: bool,
    pub(super) in_place_tablespaces: bool,
    pub(super) may_load_acting: bool,
    pub(super) hba: PathBuf,
    pub(super) ident: PathBuf,
}

/// Off the engine's thread: files of a clone are in no cache, and a file system that is busy with what was deleted has its
/// writers wait. Whoever asks for a branch that is ready is not to wait with them.
pub(super) async fn prepare(
    data: PathBuf,
    major: u32,
    run_dir: RunDir,
    rules: Rules,
    user: Option<OsUser>,
) -> Result<Prepared> {
    engine::blocking(move || {
        let control = control::read(&data.join(control::FILE))?;
        crate::cut::check_major(control.major, major)?;
        let user = user.as_ref();
        run_dir.make(user)?;
        Ok(Prepared {
            control,
            recovery: data.join("recovery.signal").exists(),
            in_place_tablespaces: tablespaces::has_one_in_place(&data),
            may_load_acting: may_load_acting(&data)?,
            hba: run_dir.put("hba.conf", &rules.hba, user)?,
            ident: run_dir.put("ident.conf", &rules.ident, user)?,
        })
    })
    .await
}

fn may_load_acting(data: &Path) -> Result<bool> {
    let mut may = false;
    for name in ["postgresql.conf", "postgresql.auto.conf"] {
        let path = data.join(name);
        may |= match data_file::read(&path, data_file::SETTINGS) {
            Ok(conf) => settings::may_load_acting(&conf),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            // PostgreSQL follows a link, as its own user.
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => true,
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
    }
    Ok(may)
}
