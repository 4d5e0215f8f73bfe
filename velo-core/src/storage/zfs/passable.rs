//! Whether a user gets to the folder that volumes are mounted in. Who mounts looks its path up as
//! everybody does, and of a folder that cannot be entered the kernel says no more than that it is denied.

use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::program;
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;

/// Every folder down to this one, that at the root first.
fn way_to(folder: &Path) -> impl Iterator<Item = &Path> {
    folder.ancestors().collect::<Vec<_>>().into_iter().rev()
}

/// The first folder on the way that this process may not enter.
pub(super) fn closed_to_us(folder: &Path) -> Option<PathBuf> {
    let denied =
        |folder: &&Path| rustix::fs::access(*folder, Access::EXEC_OK) == Err(Errno::ACCESS);
    way_to(folder).find(denied).map(Path::to_path_buf)
}

/// An error if `user` cannot enter a folder on the way: asked of the kernel as that user, for groups and
/// lists of access count too. Only root can ask.
pub(crate) async fn check(folder: &Path, user: &OsUser) -> Result<()> {
    for (at, folder) in way_to(folder).enumerate() {
        if !folder.exists() {
            break;
        }
        let asked = as_user(user).args(["test", "-x"]).arg(folder);
        match asked.output(program::LIMIT).await {
            Ok(output) if output.success => {}
            // Nobody can tell here: not even the root is said to be open.
            _ if at == 0 => break,
            Err(error) => return Err(error),
            Ok(_) => return Err(cannot_enter(&user.name, folder)),
        }
    }
    Ok(())
}

/// What is run as `user`, with all groups of that user: the program's name comes next. Only root can.
pub(super) fn as_user(user: &OsUser) -> Program {
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    Program::new("setpriv").args(["--reuid", &uid, "--regid", &gid, "--init-groups"])
}

pub(super) fn cannot_enter(user: &str, folder: &Path) -> Error {
    let folder = folder.display();
    let what =
        format!("the user {user} cannot enter {folder}, in which the volumes would be mounted");
    Error::new(ErrorKind::PermissionDenied, what).with_hint(format!(
        "as root: chmod o+x {folder}, or velo setup --delegate with a dataset that is mounted elsewhere"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::storage::zfs::faults::Fault;
    use crate::storage::zfs::mounts;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_entered_is_named() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let closed = dir.path().join("closed");
        let below = closed.join("below");
        std::fs::create_dir_all(&below).unwrap();
        for folder in [dir.path(), &closed, &below] {
            mode(folder, 0o755);
        }
        let is_root = rustix::process::geteuid().is_root();
        let nobody = OsUser::by_name("nobody").unwrap().unwrap();
        assert_eq!(closed_to_us(&below), None);
        check(&below, &nobody).await.unwrap();
        // What is not there yet is going to be made so that it can be entered.
        check(&below.join("new"), &nobody).await.unwrap();

        // Of its owner, or of everybody but root.
        mode(&closed, if is_root { 0o700 } else { 0o600 });
        if is_root {
            assert_eq!(closed_to_us(&below), None);
            let error = check(&below, &nobody).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
            let what = format!("nobody cannot enter {},", closed.display());
            assert!(error.to_string().contains(&what), "{error:?}");
            let hint = format!("chmod o+x {},", closed.display());
            assert!(error.hint().unwrap().contains(&hint), "{error:?}");
        } else {
            assert_eq!(closed_to_us(&below).as_ref(), Some(&closed));
            // The kernel looks at the way before it asks who mounts; and that is no missing key.
            let tried = mounts::mount("tank/none", &below).await.unwrap();
            assert_eq!(tried, Err(Fault::Denied));
        }
        mode(&closed, 0o755);
    }
}
