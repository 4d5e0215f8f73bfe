//! Velo's own files, beside the storages': each change is a step ([`crate::effect`]).

use std::fs;
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::effect::step_now;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;

/// Sets a mode whatever the umask is.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io(format!("set the mode of {}", path.display()), e))
}

/// Opens one of Velo's files to change it, or makes it, for its user alone. A link is not followed: it leads to whatever
/// whoever put it there wanted to be written to.
pub(crate) fn open(path: &Path) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

/// An error unless a folder of Velo's is one, and not a link to another that would be written to, nor
/// somebody's who could make one of what is in it.
pub(crate) fn must_be_folder(path: &Path, owner: Option<&OsUser>) -> Result<()> {
    let found =
        path.symlink_metadata().map_err(|e| Error::io(format!("look at {}", path.display()), e))?;
    let what = if found.is_symlink() {
        "is a symbolic link"
    } else if !found.is_dir() {
        "is not a folder"
    } else if rustix::process::geteuid().is_root()
        && found.uid() != 0
        && owner.is_none_or(|owner| owner.uid != found.uid())
    {
        "is not root's"
    } else {
        return Ok(());
    };
    let what = format!("{} {what}, and Velo did not make it", path.display());
    Err(Error::new(ErrorKind::PermissionDenied, what)
        .with_hint("see who made it, and move it away"))
}

/// Makes a folder with this mode and owner. One that is there gets both too: whoever made it may have
/// been killed before it was its owner's.
pub(crate) fn make_folder(
    step: &str,
    path: &Path,
    mode: u32,
    owner: Option<&OsUser>,
) -> Result<()> {
    step_now(step, || {
        match fs::create_dir(path) {
            Err(e) if e.kind() != Io::AlreadyExists => {
                return Err(Error::io(format!("make {}", path.display()), e));
            }
            Err(_) => must_be_folder(path, owner)?,
            Ok(()) => {}
        }
        set_mode(path, mode)?;
        let Some(user) = owner else { return Ok(()) };
        std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
            .map_err(|e| Error::io(format!("change the owner of {}", path.display()), e))
    })
}

/// Writes a file anew, whole or not at all, readable for `owner` alone.
pub(crate) fn write(step: &str, path: &Path, content: &str, owner: Option<&OsUser>) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let write = || {
        match fs::remove_file(new) {
            Err(e) if e.kind() != Io::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(content.as_bytes())?;
        if let Some(user) = owner {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        fs::rename(new, path)
    };
    step_now(step, || write().map_err(|e| Error::io(format!("write {}", path.display()), e)))
}

/// Removes a file; missing is fine.
pub(crate) fn remove(step: &str, path: &Path) -> Result<()> {
    step_now(step, || match fs::remove_file(path) {
        Err(e) if e.kind() != Io::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    })
}

/// Removes a folder with all that is in it; missing is fine.
pub(crate) fn remove_folder(step: &str, path: &Path) -> Result<()> {
    step_now(step, || match fs::remove_dir_all(path) {
        Err(e) if e.kind() != Io::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    })
}
