//! What is mounted, mounting and unmounting.
//!
//! Root, and whoever has its capability, mounts by the system call itself. Others do it through the
//! one rule of sudo that [`delegate`](super::delegate) gives.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::zfs::faults::Fault;
use crate::storage::zfs::{delegate, program};

/// How long the last process of a server, which is on its way out, may keep a volume busy.
const BUSY: Duration = Duration::from_secs(5);
/// The same where no process is seen that does. A container that an engine makes has every mount in its
/// namespace until it has a root of its own, which takes as long as the machine is slow.
const UNSEEN: Duration = Duration::from_secs(30);

/// Held around mounting: twice at one place would be two mounts, one above the other.
static MOUNTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    pub(super) source: String,
}

/// Every mount of this process's namespace, in the order in which they were made.
pub(super) fn all() -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::io(format_args!("read {path}"), e))?;
    Ok(parse(&text))
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`.
pub(super) fn parse(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = unescape(left.split(' ').nth(4)?);
            let mut right = right.split(' ');
            let kind = right.next()?.to_owned();
            let source = unescape(right.next()?);
            Some(Mount { point: point.into(), kind, source })
        })
        .collect()
}

/// `\040` stands for a space, and so on.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\')
            .then(|| text.get(i + 1..i + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The dataset that `path`, which is canonical, is on, and where that is mounted.
pub(super) fn dataset_of(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let on = mounts
        .iter()
        .enumerate()
        .filter(|(_, mount)| path.starts_with(&mount.point))
        .max_by_key(|(i, mount)| (mount.point.components().count(), *i))?
        .1;
    // That of a snapshot is none that has children.
    (on.kind == "zfs" && !on.source.contains('@')).then(|| (on.source.clone(), on.point.clone()))
}

/// Where a dataset is mounted.
pub(super) fn point_of(mounts: &[Mount], dataset: &str) -> Option<PathBuf> {
    let mut of = mounts.iter().filter(|mount| mount.kind == "zfs" && mount.source == dataset);
    of.next_back().map(|mount| mount.point.clone())
}

fn is_mounted(dataset: &str, point: &Path) -> Result<bool> {
    let point = resolved(point);
    Ok(all()?.iter().any(|mount| mount.point == point && mount.source == dataset))
}

/// As the kernel names it, though a folder on the way may be a link.
fn resolved(point: &Path) -> PathBuf {
    match (point.parent().and_then(|parent| parent.canonicalize().ok()), point.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => point.to_path_buf(),
    }
}

/// An error if a file system is mounted inside of a volume: its snapshot would lack that.
pub(super) fn check_inside(volume: &Path) -> Result<()> {
    let volume = resolved(volume);
    let inside = |mount: &&Mount| {
        mount.point.starts_with(&volume)
            && mount.point != volume
            && !mount.point.starts_with(volume.join(".zfs"))
    };
    match all()?.iter().find(inside) {
        None => Ok(()),
        Some(mount) => Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "{} is a mounted file system of its own, which a snapshot would leave empty",
                mount.point.display()
            ),
        )
        .with_hint("replace it by a plain folder with the same content")),
    }
}

/// Mounts `dataset` at `point`, unless it is. The fault is left to the caller to explain.
pub(super) async fn mount(dataset: &str, point: &Path) -> Result<Result<(), Fault>> {
    let _one = MOUNTING.lock().await;
    if is_mounted(dataset, point)? {
        return Ok(Ok(()));
    }
    let (name, at) = (dataset.to_owned(), point.to_path_buf());
    // Without it ZFS does not know where to mount the snapshots below `.zfs/snapshot`.
    let data = CString::new(format!("mntpoint={}", resolved(point).display()))
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "a path with NUL").with_source(e))?;
    let tried = blocking(move || {
        // Times of access are for the dataset's own property to say.
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        Ok(rustix::mount::mount(&name, &at, "zfs", flags, data.as_c_str()))
    })
    .await?;
    let by_root = match tried {
        Err(Errno::PERM) => true,
        // Below a folder of root's, only root makes one.
        Err(Errno::NOENT) => !point.exists(),
        _ => false,
    };
    if by_root {
        let done = by_sudo("mount", dataset).await;
        // Also by another process, meanwhile.
        return Ok(if done.is_err() && is_mounted(dataset, point)? { Ok(()) } else { done });
    }
    Ok(match tried {
        Ok(()) => Ok(()),
        // Also by another process, at this moment.
        Err(Errno::BUSY) if is_mounted(dataset, point)? => Ok(()),
        Err(Errno::BUSY) => Err(Fault::Busy),
        // A key that is missing, or a folder on the way that this user may not enter.
        Err(Errno::ACCESS) => Err(Fault::Denied),
        Err(Errno::NOENT) => Err(Fault::Missing),
        Err(Errno::NODEV) => Err(Fault::NoModule),
        Err(e) => Err(Fault::Other(format!("mount {}: {e}", point.display()))),
    })
}

/// Unmounts whatever is mounted at `point`; nothing is fine.
pub(super) async fn unmount(dataset: &str, point: &Path) -> Result<Result<(), Fault>> {
    let begun = Instant::now();
    loop {
        // For one try, and not while it is waited for who keeps it busy.
        let one = MOUNTING.lock().await;
        if !is_mounted(dataset, point)? {
            return Ok(Ok(()));
        }
        let at = point.to_path_buf();
        let tried =
            blocking(move || Ok(rustix::mount::unmount(&at, UnmountFlags::empty()))).await?;
        let fault = match tried {
            Ok(()) => continue,
            Err(Errno::PERM) => match by_sudo("unmount", dataset).await {
                Ok(()) => continue,
                // Also by another process, meanwhile.
                Err(_) if !is_mounted(dataset, point)? => continue,
                Err(fault) => fault,
            },
            Err(Errno::BUSY) => Fault::Busy,
            // Somebody else's unmounting, which is not seen in the list yet.
            Err(Errno::INVAL | Errno::NOENT) => Fault::Busy,
            Err(e) => Fault::Other(format!("unmount {}: {e}", point.display())),
        };
        drop(one);
        if fault != Fault::Busy || !may_end(begun, point) {
            return Ok(Err(fault));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Does something with what is mounted at `folder`, again and again as long as that is busy and may yet end to be: a
/// container that starts at this moment has all mounts in its namespace for a while.
pub(super) async fn once_free<F>(folder: &Path, attempt: impl Fn() -> F) -> Result<(), Fault>
where
    F: Future<Output = Result<(), Fault>>,
{
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(Fault::Busy) if may_end(begun, folder) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// Whether what has kept `folder` busy since `begun` may yet end by itself.
fn may_end(begun: Instant, folder: &Path) -> bool {
    begun.elapsed() < BUSY || (begun.elapsed() < UNSEEN && holders(folder).is_empty())
}

async fn by_sudo(verb: &str, dataset: &str) -> Result<(), Fault> {
    let Some(zfs) = program::find_for_sudo("zfs") else {
        // One that somebody could replace is in no rule.
        return Err(program::find("zfs").map_or(Fault::NoProgram, |_| Fault::Denied));
    };
    program::sudo(&zfs, &[verb, dataset]).await
}

/// Removes the empty folder that a volume was mounted on. Missing is fine.
pub(super) async fn remove_point(point: &Path) -> Result<()> {
    let denied = match std::fs::remove_dir(point) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => e,
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format_args!("remove {}", point.display()), e));
        }
        _ => return Ok(()),
    };
    let removed = match (program::find_for_sudo("rmdir"), point.to_str()) {
        (Some(rmdir), Some(path)) => program::sudo(&rmdir, &[path]).await,
        _ => Err(Fault::NoProgram),
    };
    removed.map_err(|_| Error::io(format_args!("remove {}", point.display()), denied))
}

/// The error of a user who may not mount, with the line that mends it.
pub(super) fn not_allowed(parent: &str, folder: &Path) -> Error {
    let user = user();
    let rule = Path::new(delegate::SUDOERS).join(delegate::rule_name(&user, parent));
    let hint = match delegate::unsafe_program().or_else(|| delegate::unsafe_folder(folder)) {
        // Who may not look there is told the rule once more.
        None if rule.exists() => {
            format!(
                "{} is there, and {}; where {parent} was mounted elsewhere then, as root velo setup --delegate {parent} \
                 --owner {user} writes it anew",
                rule.display(),
                delegate::DISOBEYED
            )
        }
        None => format!("as root: {}", delegate::install_sudoers(&user, parent, folder)),
        Some(why) => format!(
            "{why}, so that a rule for mounting would give away root: as root, \
             mend that, or velo setup --delegate with another dataset"
        ),
    };
    Error::new(
        ErrorKind::PermissionDenied,
        format!("the user {user} may not mount the volumes of {parent}: on Linux only root mounts"),
    )
    .with_hint(hint)
}

/// This process's user.
pub(super) fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    match crate::os_user::OsUser::by_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The processes of this machine that work in `folder` or have a file in it open, as far as this
/// user may see them.
pub(super) fn holders(folder: &Path) -> Vec<String> {
    let inside =
        |link: PathBuf| std::fs::read_link(link).is_ok_and(|path| path.starts_with(folder));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let files = || std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if inside(entry.path().join("cwd")) || files().any(|file| inside(file.path())) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
24 29 0:22 / /proc rw,relatime shared:12 - proc proc rw
29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 29 0:40 / /tank/velo rw,noatime shared:20 - zfs tank/velo rw,xattr,noacl
41 40 0:41 / /tank/velo/a\\040b rw,noatime shared:21 - zfs tank/velo/v-1 rw,xattr,noacl
42 41 0:42 / /tank/velo/a\\040b/.zfs/snapshot/s ro shared:22 - zfs tank/velo/v-1@s ro
";

    #[test]
    fn mounts_are_read() {
        let mounts = parse(INFO);
        assert_eq!(mounts.len(), 5);
        assert_eq!(mounts[3].point, Path::new("/tank/velo/a b"));
        let on = |path: &str| dataset_of(&mounts, Path::new(path)).map(|(dataset, _)| dataset);
        assert_eq!(on("/tank/velo/home").as_deref(), Some("tank/velo"));
        assert_eq!(on("/tank/velo/a b/x").as_deref(), Some("tank/velo/v-1"));
        assert_eq!(on("/tank"), None);
        assert_eq!(on("/tank/velo/a b/.zfs/snapshot/s"), None);
        assert_eq!(point_of(&mounts, "tank/velo"), Some("/tank/velo".into()));
        assert_eq!(point_of(&mounts, "tank"), None);
    }
}
