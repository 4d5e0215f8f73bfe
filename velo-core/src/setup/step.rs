//! The steps to a file system in a file.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::fstab::{self, Line};
use super::journal::Journal;
use super::{LoopKind, Step, need, owner, run};
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

/// What must stay free on the file system that the image is on.
const SPARE: u64 = 1 << 30;

#[derive(Debug)]
pub(super) enum LoopStep {
    /// A sparse file.
    Image { path: PathBuf, size: u64 },
    /// A btrfs in it.
    Btrfs { image: PathBuf },
    /// The folder to mount it at. `made` if it was not there before.
    Folder { path: PathBuf, made: bool },
    /// The line that mounts it at boot.
    Line { fstab: PathBuf, line: Line },
    /// Mounting it now.
    Mount { image: PathBuf, at: PathBuf, fstab: PathBuf },
    /// A pool in it, with a dataset for the home.
    Pool { image: PathBuf, pool: String, at: PathBuf },
    /// Whose the mounted folder is.
    Owner { at: PathBuf, user: Option<String> },
}

/// Every step of a setup, in order.
pub(super) fn of(journal: &Journal) -> Vec<LoopStep> {
    let spec = &journal.spec;
    let (image, at) = (spec.image.clone(), spec.at.clone());
    let mut steps = vec![LoopStep::Image { path: image.clone(), size: spec.size }];
    let around = journal.around.iter();
    steps.extend(around.map(|path| LoopStep::Folder { path: path.clone(), made: true }));
    match spec.kind {
        LoopKind::Btrfs => {
            let line = Line { image: image.clone(), at: at.clone() };
            steps.extend([
                LoopStep::Btrfs { image: image.clone() },
                LoopStep::Folder { path: at.clone(), made: journal.made_at },
                LoopStep::Line { fstab: spec.fstab.clone(), line },
                LoopStep::Mount { image, at: at.clone(), fstab: spec.fstab.clone() },
            ]);
        }
        LoopKind::Zfs => steps.extend([
            LoopStep::Folder { path: at.clone(), made: journal.made_at },
            LoopStep::Pool { image, pool: spec.pool.clone(), at: at.clone() },
        ]),
    }
    steps.push(LoopStep::Owner { at, user: spec.owner.clone() });
    steps
}

/// An error if data of PostgreSQL is in what a setup made, or if that cannot be seen: a file system
/// that is not mounted looks empty.
pub(super) async fn nothing_lives_in(journal: &Journal) -> Result<()> {
    let spec = &journal.spec;
    let at = spec.at.display();
    let unseen = |hint: String| {
        let image = spec.image.display();
        let what = format!("nobody can see what is in {image}: it is not mounted at {at}");
        Err(Error::new(ErrorKind::Conflict, what).with_hint(hint))
    };
    let mounted = mounted_at(&spec.at)?;
    match spec.kind {
        LoopKind::Btrfs if is_btrfs(&spec.image) => {
            if !mounted.is_some_and(|device| backs(&spec.image, &device)) {
                let image = spec.image.display();
                return unseen(format!("mount -o loop {image} {at}, and try again"));
            }
        }
        LoopKind::Zfs if is_pool(&spec.image, &spec.pool).await? => {
            let (pool, home) = (&spec.pool, format!("{}/velo", spec.pool));
            if pool_on(pool).await?.as_deref() != Some(&*spec.image) {
                let folder = spec.image.parent().unwrap_or(Path::new("/")).display();
                return unseen(format!("zpool import -d {folder} {pool}, and try again"));
            }
            let args = ["list", "-H", "-o", "name,mounted", "-t", "all", "-r", pool];
            let listed = Program::new("zfs").args(args).output(super::LIMIT).await?;
            if !listed.success {
                let why = listed.stderr.trim();
                let what = format!("nobody can see what is in the pool {pool}: {why}");
                return Err(Error::new(ErrorKind::Io, what)
                    .with_hint(format!("find out why it fails: zfs {}", args.join(" "))));
            }
            let rows = || listed.stdout.lines().filter_map(|line| line.split_once('\t'));
            let lost = |what: String| Error::new(ErrorKind::Conflict, what);
            for (name, is_mounted) in rows().filter(|(name, _)| *name != home) {
                if name != pool {
                    return Err(lost(format!("{name} is in the pool, and would be lost"))
                        .with_hint("delete the projects in it first: velo project list"));
                }
                // A setup mounts nothing but the home.
                if is_mounted == "yes" {
                    return Err(lost(format!(
                        "{pool} itself is mounted, and what is in it would be lost"
                    ))
                    .with_hint(format!("move it away, and: zfs unmount {pool}")));
                }
            }
            if !rows().any(|(name, _)| name == home) {
                // A setup that was killed made the pool alone, or somebody has destroyed the rest.
                return Ok(());
            }
            if mounted.as_ref() != Some(&home) {
                return unseen(format!("zfs mount {home}, and try again"));
            }
        }
        // Nothing was made in it yet.
        _ => return Ok(()),
    }
    if holds_data(&spec.at)? {
        let what = format!("{at} holds branches, which would be lost");
        return Err(Error::new(ErrorKind::Conflict, what)
            .with_hint("delete its projects first: velo project list"));
    }
    match of_somebody(&spec.at)? {
        None => Ok(()),
        Some(file) => {
            let what = format!("{} is none of Velo's, and would be lost", file.display());
            Err(Error::new(ErrorKind::Conflict, what).with_hint("move it away, or remove it"))
        }
    }
}

/// A file below `folder` that is not of a home.
fn of_somebody(folder: &Path) -> Result<Option<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let is_home = Home::exists(&folder);
        let fault = |e| Error::io(format!("look into {}", folder.display()), e);
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            match entry.file_type().map_err(fault)?.is_dir() {
                _ if is_home && Home::is_own(&entry.file_name()) => {}
                true => folders.push(entry.path()),
                false => return Ok(Some(entry.path())),
            }
        }
    }
    Ok(None)
}

/// Whether a folder of PostgreSQL's lies anywhere below `folder`: a home may be deep in it.
fn holds_data(folder: &Path) -> Result<bool> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if folder.join("PG_VERSION").exists() {
            return Ok(true);
        }
        let fault = |e| Error::io(format!("look into {}", folder.display()), e);
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if entry.file_type().map_err(fault)?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(false)
}

/// Whether a pool was made in the file: imported, or to be found in it. Where no program can tell, that
/// is an error: the file would be removed.
async fn is_pool(image: &Path, pool: &str) -> Result<bool> {
    // One of a run that was killed is empty, and cannot be read.
    if image.metadata().map_or(0, |found| found.len()) == 0 {
        return Ok(false);
    }
    for program in ["zpool", "zdb"] {
        need(program, "put /usr/sbin into PATH, or: apt-get install zfsutils-linux").await?;
    }
    if pool_on(pool).await?.as_deref() == Some(image) {
        return Ok(true);
    }
    let labels = Program::new("zdb").args(["-l", &text(image)]).output(super::LIMIT).await?;
    labelled(&labels.stdout, &labels.status).ok_or_else(|| {
        let why = labels.stderr.trim().lines().last().unwrap_or(&labels.status).to_owned();
        let what = format!("nobody can tell whether a pool is in {}: {why}", image.display());
        Error::new(ErrorKind::Io, what)
            .with_hint(format!("find out why it fails: zdb -l {}", image.display()))
    })
}

/// Whether there is a pool where `zdb -l` has printed these labels, if that can be told. It fails already
/// where one of the four cannot be read, as in a file that was made larger, and says by `2` that none can.
/// ZFS leaves those of a pool that was destroyed where they are, and imports it no more unless it is forced to.
fn labelled(labels: &str, status: &str) -> Option<bool> {
    let states = labels.lines().filter_map(|line| line.trim_start().strip_prefix("state: "));
    let states: Vec<_> = states.map(str::trim_end).collect();
    match states[..] {
        // What cannot be read may hold anything.
        [] if labels.contains("failed to read") => None,
        [] => (status == "exit status: 2").then_some(false),
        _ => Some(states.iter().any(|state| *state != "2")),
    }
}

/// An error if there is a pool with a home in the file, which only has to be imported or mounted.
async fn unused(image: &Path, pool: &str) -> Result<()> {
    if !is_pool(image, pool).await? {
        return Ok(());
    }
    let conflict = |what: String| Error::new(ErrorKind::Conflict, what);
    if pool_on(pool).await?.is_none() {
        let folder = image.parent().unwrap_or(Path::new("/")).display();
        return Err(conflict(format!("the pool in {} is not imported", image.display()))
            .with_hint(format!("zpool import -d {folder} {pool}")));
    }
    let home = format!("{pool}/velo");
    let listed = Program::new("zfs").args(["list", "-H", &home]).output(super::LIMIT).await?;
    match listed.success {
        true => Err(conflict(format!("{home} is there, and not mounted"))
            .with_hint(format!("zfs mount {home}"))),
        // A run that was killed made the pool alone.
        false => Ok(()),
    }
}

#[async_trait]
impl Step for LoopStep {
    fn doing(&self) -> String {
        match self {
            Self::Image { path, size } => format!("truncate -s {size} {}", path.display()),
            Self::Btrfs { image } => format!("mkfs.btrfs -q {}", image.display()),
            Self::Folder { path, .. } => format!("mkdir -p {}", path.display()),
            Self::Line { fstab, line } => format!("echo '{line}' >> {}", fstab.display()),
            Self::Mount { at, .. } => format!("mount {}", at.display()),
            Self::Pool { image, pool, at } => format!(
                "zpool {} && zfs {}",
                create_pool(image, pool).join(" "),
                create_dataset(pool, at).join(" ")
            ),
            Self::Owner { at, user: Some(user) } => {
                format!("chown {user}: {at} && chmod 700 {at}", at = at.display())
            }
            Self::Owner { at, user: None } => format!("chmod 711 {}", at.display()),
        }
    }

    fn undoing(&self) -> String {
        match self {
            Self::Image { path, .. } | Self::Btrfs { image: path } => {
                format!("rm {}", path.display())
            }
            Self::Folder { path, .. } => format!("rmdir {}", path.display()),
            Self::Line { fstab, line } => {
                let (image, at, fstab) = (line.image.display(), line.at.display(), fstab.display());
                format!("sed -i -E '\\#^\\s*{image}\\s+{at}\\s#d' {fstab}")
            }
            Self::Mount { at, .. } => format!("umount {}", at.display()),
            Self::Pool { pool, .. } => format!("zpool destroy {pool}"),
            Self::Owner { at, .. } => format!("chown root: {}", at.display()),
        }
    }

    async fn is_done(&self) -> Result<bool> {
        Ok(match self {
            // One of another size holds what somebody has made larger since.
            Self::Image { path, .. } => path.metadata().is_ok_and(|m| m.len() > 0),
            Self::Btrfs { image } => is_btrfs(image),
            Self::Folder { path, .. } => path.is_dir(),
            Self::Line { fstab, line } => fstab::has(fstab, line)?,
            Self::Mount { image, at, .. } => match mounted_at(at)? {
                None => false,
                Some(device) if backs(image, &device) => true,
                Some(device) => return Err(in_the_way(at, &device)),
            },
            Self::Pool { image, pool, at } => {
                pool_on(pool).await?.as_deref() == Some(image)
                    && mounted_at(at)? == Some(format!("{pool}/velo"))
            }
            Self::Owner { at, user } => {
                let wanted = user.as_deref().map(owner).transpose()?.map_or(0, |user| user.uid);
                let mode = if user.is_some() { 0o700 } else { 0o711 };
                mounted_at(at)?.is_some()
                    && at.metadata().is_ok_and(|m| m.uid() == wanted && m.mode() & 0o777 == mode)
            }
        })
    }

    async fn is_there(&self) -> Result<bool> {
        Ok(match self {
            Self::Image { path, .. } => path.exists(),
            Self::Folder { path, made } => *made && path.exists(),
            Self::Line { fstab, line } => fstab::mounts(fstab, line)?,
            Self::Mount { image, at, .. } => mounted_at(at)?.is_some_and(|d| backs(image, &d)),
            Self::Pool { image, pool, .. } => pool_on(pool).await?.as_deref() == Some(image),
            // They go with the image and the mount.
            Self::Btrfs { .. } | Self::Owner { .. } => false,
        })
    }

    async fn check(&self) -> Result<()> {
        match self {
            Self::Image { path, size } => room(path, *size),
            Self::Btrfs { .. } => need("mkfs.btrfs", "apt-get install btrfs-progs").await,
            Self::Folder { path, .. } if path.symlink_metadata().is_ok() => {
                Err(Error::new(ErrorKind::Conflict, format!("{} is no folder", path.display()))
                    .with_hint("choose another folder: --at"))
            }
            Self::Line { fstab, line } => fstab::must_be_writable(fstab, || {
                format!("put this line where the table is made, and run it again: {line}")
            }),
            Self::Mount { at, .. } => empty(at),
            Self::Pool { image, pool, at } => {
                need("zpool", "apt-get install zfsutils-linux zfs-dkms").await?;
                if let Some(device) = pool_on(pool).await?
                    && device != *image
                {
                    let device = device.display();
                    let what = format!("there is a pool {pool} already, on {device}");
                    return Err(Error::new(ErrorKind::Conflict, what)
                        .with_hint("choose another name: --pool"));
                }
                unused(image, pool).await?;
                empty(at)
            }
            Self::Owner { user: Some(user), .. } => owner(user).map(drop),
            _ => Ok(()),
        }
    }

    async fn run(&self) -> Result<()> {
        match self {
            Self::Image { path, size } => {
                let make = || {
                    // Only a run that was killed in the middle of this leaves one that is no image.
                    let mut options = std::fs::OpenOptions::new();
                    let options = options.write(true).create(true).truncate(false);
                    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?.set_len(*size)
                };
                make().map_err(|e| Error::io(format!("make {}", path.display()), e))
            }
            Self::Btrfs { image } => run("mkfs.btrfs", ["-q", &text(image)]).await,
            Self::Folder { path, .. } => std::fs::create_dir_all(path)
                .map_err(|e| Error::io(format!("make {}", path.display()), e)),
            Self::Line { fstab, line } => fstab::add(fstab, line),
            Self::Mount { at, fstab, .. } => run("mount", ["-T", &text(fstab), &text(at)]).await,
            Self::Pool { image, pool, at } => {
                if pool_on(pool).await?.is_none() {
                    run("zpool", create_pool(image, pool)).await?;
                }
                run("zfs", create_dataset(pool, at)).await
            }
            Self::Owner { at, user } => {
                let (uid, gid, mode) = match user {
                    Some(user) => owner(user).map(|user| (user.uid, user.gid, 0o700))?,
                    None => (0, 0, 0o711),
                };
                let set = || {
                    std::os::unix::fs::lchown(at, Some(uid), Some(gid))?;
                    std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode))
                };
                set().map_err(|e| Error::io(format!("give {} away", at.display()), e))
            }
        }
    }

    async fn check_undo(&self) -> Result<()> {
        match self {
            Self::Line { fstab, line } => fstab::must_be_writable(fstab, || {
                format!("remove this line where the table is made, and run it again: {line}")
            }),
            _ => Ok(()),
        }
    }

    async fn undo(&self) -> Result<()> {
        if !self.is_there().await? {
            return Ok(());
        }
        let gone = |path: &Path, result: std::io::Result<()>| {
            result.map_err(|e| Error::io(format!("remove {}", path.display()), e))
        };
        match self {
            Self::Image { path, .. } => gone(path, std::fs::remove_file(path)),
            Self::Folder { path, .. } => match std::fs::remove_dir(path) {
                // Somebody has put something there since.
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => gone(path, removed),
            },
            Self::Line { fstab, line } => fstab::remove(fstab, line),
            Self::Mount { at, .. } => run("umount", [text(at)])
                .await
                .map_err(|e| e.with_hint("end what works in it, and run velo setup --undo again")),
            Self::Pool { pool, .. } => run("zpool", ["destroy", pool])
                .await
                .map_err(|e| e.with_hint("end what works in it, and run velo setup --undo again")),
            Self::Btrfs { .. } | Self::Owner { .. } => Ok(()),
        }
    }
}

fn create_pool(image: &Path, pool: &str) -> Vec<String> {
    let fixed = ["create", "-O", "mountpoint=none", "-O", "canmount=off", pool];
    fixed.into_iter().map(str::to_owned).chain([text(image)]).collect()
}

fn create_dataset(pool: &str, at: &Path) -> Vec<String> {
    let mount = format!("mountpoint={}", at.display());
    let fixed = ["create", "-o", &mount, "-o", "recordsize=8k", "-o", "compression=lz4"];
    let last = ["-o".to_owned(), "atime=off".to_owned(), format!("{pool}/velo")];
    fixed.into_iter().map(str::to_owned).chain(last).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The pool's first device, if there is such a pool.
async fn pool_on(pool: &str) -> Result<Option<PathBuf>> {
    let listed =
        Program::new("zpool").args(["list", "-HPv", "-o", "name", pool]).output(super::LIMIT);
    let output = match listed.await {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !output.success && !output.stderr.contains("no such pool") {
        let what = format!("cannot look for the pool {pool}: {}", output.stderr.trim());
        return Err(Error::new(ErrorKind::Io, what)
            .with_hint(format!("find out why it fails: zpool list {pool}")));
    }
    let device = output.stdout.lines().nth(1).and_then(|line| line.split_whitespace().next());
    Ok(device.filter(|_| output.success).map(PathBuf::from))
}

/// An image that is larger than the room for it would fail later, in the middle of a write.
fn room(image: &Path, size: u64) -> Result<()> {
    let folder = image.parent().unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Error::io(format!("look at the free space of {}", folder.display()), e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if size.saturating_add(SPARE) <= free {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Exhausted,
        format!(
            "{} MB are free in {}, too few for an image of {} MB",
            free >> 20,
            folder.display(),
            size >> 20
        ),
    )
    .with_hint("make it smaller, or name a file elsewhere: --image FILE"))
}

/// What is in a folder would be hidden by what is mounted over it.
fn empty(at: &Path) -> Result<()> {
    let mut entries = match std::fs::read_dir(at) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("look into {}", at.display()), e)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let shown = at.display();
    let error =
        Error::new(ErrorKind::Conflict, format!("{shown} is not empty, and would be hidden"));
    Err(match Home::exists(at) {
        true => error.with_hint(
            "a home of Velo's is in it: delete its projects and it, or choose another folder with --at",
        ),
        false => error.with_hint("choose another folder with --at, and set VELO_HOME to it"),
    })
}

fn in_the_way(at: &Path, device: &str) -> Error {
    let what = format!("{device} is mounted at {} already", at.display());
    Error::new(ErrorKind::Conflict, what).with_hint("choose another folder: --at")
}

/// The device that is mounted at `at`, the last one if there are several.
pub(super) fn mounted_at(at: &Path) -> Result<Option<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("read /proc/self/mountinfo", e))?;
    // The kernel writes a few characters as octal numbers; none of them is allowed in a spec.
    Ok(device_at(&text, &at.display().to_string()))
}

fn device_at(mountinfo: &str, at: &str) -> Option<String> {
    let mut lines = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(4)? == at).then(|| source.split(' ').nth(1).map(str::to_owned))?
    });
    lines.next_back()
}

/// Whether a loop device has its data in `image`.
fn backs(image: &Path, device: &str) -> bool {
    let Some(name) = device.strip_prefix("/dev/") else {
        return false;
    };
    let file = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    file.is_ok_and(|file| Path::new(file.trim_end_matches('\n')) == image)
}

/// Whether a btrfs was made in the file. Its magic number is written last of all.
fn is_btrfs(image: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 8];
    let read = std::fs::File::open(image).and_then(|file| file.read_exact_at(&mut magic, 0x1_0040));
    read.is_ok() && &magic == b"_BHRfS_M"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_counts() {
        let text = "30 1 0:25 / /srv rw - ext4 /dev/vdb rw\n\
                    31 30 7:1 / /srv rw,noatime shared:2 - btrfs /dev/loop1 rw\n\
                    32 30 7:2 / /srv/x rw - btrfs /dev/loop2 rw\n";
        assert_eq!(device_at(text, "/srv").as_deref(), Some("/dev/loop1"));
        assert_eq!(device_at(text, "/srv/x").as_deref(), Some("/dev/loop2"));
        assert_eq!(device_at(text, "/"), None);
    }

    /// As OpenZFS 2.1 to 2.4 print it, but shorter.
    fn label(number: u32, state: u32) -> String {
        let line = "------------------------------------";
        format!(
            "{line}\nLABEL {number}\n{line}\n    version: 5000\n    name: 'velo'\n    state: {state}\n    \
             txg: 4\n    pool_guid: 1234\n    vdev_tree:\n        type: 'file'\n        id: 0\n    \
             features_for_read:\n        com.delphix:hole_birth\n    labels = {number} \n"
        )
    }

    #[test]
    fn labels_tell_whether_there_is_a_pool() {
        let (well, some, none) = ("exit status: 0", "exit status: 1", "exit status: 2");
        // Active, exported, or destroyed by half.
        for there in [label(0, 0), label(0, 1), label(0, 2) + &label(1, 0), label(0, 22)] {
            // In a file that was made larger those at its end are missing.
            for status in [well, some, none, "signal: 6 (SIGABRT)"] {
                let labels = there.clone() + "failed to unpack label 2\n";
                assert_eq!(labelled(&labels, status), Some(true), "{status}: {there}");
            }
        }
        for destroyed in [label(0, 2), label(0, 2) + &label(1, 2)] {
            assert_eq!(labelled(&destroyed, some), Some(false));
        }
        assert_eq!(labelled("failed to read label 0\n", none), None);
        for odd in ["", "failed to unpack label 0\n", "    state:\n", "    name: 'state: 2'\n"] {
            assert_eq!(labelled(odd, none), Some(false), "{odd:?}");
            for status in [well, some, "signal: 6 (SIGABRT)"] {
                assert_eq!(labelled(odd, status), None, "{status}: {odd:?}");
            }
        }
    }
}
