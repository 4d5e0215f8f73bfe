//! Whether what came is a PostgreSQL that works here.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use super::Attempt;
use crate::command::Program;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;
use crate::postgres::{Installation, Source, Version};

/// How long `initdb` may take on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(180);

/// Makes `dir` and what is missing above it, such that other users can enter: servers may run as
/// one of them.
pub(super) fn make_folders(dir: &Path) -> Result<()> {
    let missing: Vec<_> = dir.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        let fault = |e| {
            Error::io(format!("create {}", folder.display()), e)
                .with_hint("set VELO_CACHE to a folder that you can write to")
        };
        match std::fs::DirBuilder::new().mode(0o755).create(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(fault)?,
        }
        // The caller's umask is for the caller's own files.
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).map_err(fault)?;
    }
    Ok(())
}

/// Runs `initdb` of the new installation, as the user that servers run as, which starts `postgres`
/// and reads most of its files; and says which version it is.
pub(super) async fn check(attempt: &Attempt<'_>, user: Option<&OsUser>) -> Result<Version> {
    (attempt.progress)("trying it");
    let (tree, work) = (attempt.tree.clone(), attempt.work.to_path_buf());
    let owner = user.cloned();
    let data = work.join("data");
    let made = data.clone();
    blocking(move || {
        let fault = |e| Error::io(format!("open {} to servers", work.display()), e);
        open_to_all(&tree)?;
        std::fs::set_permissions(&work, PermissionsExt::from_mode(0o755)).map_err(fault)?;
        std::fs::create_dir(&made).map_err(fault)?;
        match owner {
            Some(user) => {
                std::os::unix::fs::chown(&made, Some(user.uid), Some(user.gid)).map_err(fault)
            }
            None => Ok(()),
        }
    })
    .await?;
    let found = Installation::at(attempt.tree.join("bin"), Source::Cache).await?;
    if !attempt.wanted.is(found.version) {
        return Err(Error::new(
            ErrorKind::PostgresMissing,
            format!("{} was wanted, and {} came", attempt.wanted, found.version),
        ));
    }
    let initdb = Program::new(found.program("initdb"))
        .args(["--no-sync", "--no-locale", "-A", "trust", "-U", "postgres", "-D"])
        .arg(&data)
        .user(user)
        .output(LIMIT)
        .await?;
    if !initdb.success {
        let reason = initdb.stderr.lines().map(str::trim).find(|line| !line.is_empty());
        return Err(Error::new(
            ErrorKind::PostgresMissing,
            format!(
                "PostgreSQL {} came, and does not work here: {}",
                found.version,
                reason.unwrap_or(&initdb.status)
            ),
        ));
    }
    Ok(found.version)
}

/// Lets everybody read and nobody but the owner write, whatever the archive or the umask said.
fn open_to_all(folder: &Path) -> Result<()> {
    let fault = |path: &Path, e| Error::io(format!("open {} to servers", path.display()), e);
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(|e| fault(path, e))
    };
    set(folder, 0o755)?;
    for entry in std::fs::read_dir(folder).map_err(|e| fault(folder, e))? {
        let entry = entry.map_err(|e| fault(folder, e))?;
        let metadata = entry.metadata().map_err(|e| fault(&entry.path(), e))?;
        if metadata.is_dir() {
            open_to_all(&entry.path())?;
        } else if metadata.is_file() {
            let runs = metadata.permissions().mode() & 0o111 != 0;
            set(&entry.path(), if runs { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// A process whose program is in `folder`, as far as this process may see.
pub(super) fn server_of(folder: &Path) -> Option<u32> {
    let folder = folder.canonicalize().ok()?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let exe = std::fs::read_link(entry.path().join("exe")).ok()?;
        exe.starts_with(&folder).then_some(pid)
    })
}
