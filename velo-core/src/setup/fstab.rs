//! Lines of `/etc/fstab`.

use std::fmt;
use std::fs::{File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::journal::replace;
use crate::config::resolved;
use crate::error::{Error, ErrorKind, Result};

/// The table of file systems that this machine mounts at boot.
pub(super) const TABLE: &str = "/etc/fstab";

/// How long another setup may take to write its line.
const WAIT: Duration = Duration::from_secs(10);

/// How a btrfs for Velo must be mounted.
const OPTIONS: [&str; 4] = ["loop", "noatime", "nofail", "user_subvol_rm_allowed"];

/// The seconds between commits, with which the kernel also drops deleted subvolumes. By itself it does so every 30 s: all
/// at once, and meanwhile nobody writes.
const COMMIT: &str = "commit=1";

/// The line that mounts an image at boot. Both paths are real ones.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) image: PathBuf,
    pub(crate) at: PathBuf,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, at) = (self.image.display(), self.at.display());
        write!(f, "{image} {at} btrfs {},{COMMIT} 0 0", OPTIONS.join(","))
    }
}

/// What a line that is there has to do with a setup's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    /// It does what the setup's does, however it is written.
    Same,
    /// It mounts the same image at the same place in another way.
    Changed,
    /// It mounts the image elsewhere.
    Elsewhere,
    /// It mounts something else there.
    Other,
}

impl Line {
    fn likeness(&self, there: &str) -> Option<Likeness> {
        let entry = Entry::of(there)?;
        let image = entry.place(entry.source) == self.image;
        let at = entry.place(entry.at) == self.at;
        match (image, at) {
            (false, false) => None,
            (true, true) if entry.is_velos() => Some(Likeness::Same),
            (true, true) => Some(Likeness::Changed),
            (true, false) => Some(Likeness::Elsewhere),
            (false, true) => Some(Likeness::Other),
        }
    }

    /// Whether a line mounts the image where this one does.
    pub(crate) fn mounts_as(&self, there: &str) -> bool {
        matches!(self.likeness(there), Some(Likeness::Same | Likeness::Changed))
    }
}

/// The fields of a line.
struct Entry<'a> {
    source: &'a str,
    at: &'a str,
    kind: &'a str,
    options: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    /// None of a comment, and of what is no line.
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let source = fields.next().filter(|source| !source.starts_with('#'))?;
        let (at, kind) = (fields.next()?, fields.next()?);
        let options = fields.next().unwrap_or_default().split(',').collect();
        Some(Self { source, at, kind, options })
    }

    /// One of its paths. Where another machine may have to be waited for, nobody looks for links.
    fn place(&self, path: &str) -> PathBuf {
        let far = self.source.contains(':')
            || self.source.starts_with("//")
            || self.options.contains(&"_netdev");
        match path.starts_with('/') && !far {
            true => resolved(Path::new(path)),
            false => path.into(),
        }
    }

    /// Whether it mounts in the way that Velo needs. What else it asks for may not keep it from being
    /// mounted, written to or seen whole.
    fn is_velos(&self) -> bool {
        let hinders =
            |option: &&str| ["ro", "noauto"].contains(option) || option.starts_with("subvol");
        self.kind == "btrfs"
            && OPTIONS.iter().all(|option| self.options.contains(option))
            && !self.options.iter().any(hinders)
    }
}

fn read(fstab: &Path) -> Result<String> {
    match std::fs::read_to_string(fstab) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|e| Error::io(format!("read {}", fstab.display()), e)),
    }
}

/// Replaces the table by what `change` makes of it.
fn rewrite(fstab: &Path, line: &Line, change: impl FnOnce(&str) -> String) -> Result<()> {
    let real = real(fstab)?;
    let _alone = alone_with(&real, line)?;
    let mode = std::fs::metadata(&real).map_or(0o644, |m| m.permissions().mode() & 0o777);
    replace(&real, change(&read(fstab)?).as_bytes(), mode)
}

/// Keeps other setups off the table. The lock is on its folder, for the table is another file after each change; none
/// where the image is in that folder as well, on which its setup holds a lock already.
fn alone_with(table: &Path, line: &Line) -> Result<Option<File>> {
    let folder = table.parent().unwrap_or(Path::new("/"));
    if line.image.parent().is_some_and(|of_image| resolved(of_image) == resolved(folder)) {
        return Ok(None);
    }
    let fault = |e| Error::io(format!("lock {}", folder.display()), e);
    let lock = File::open(folder).map_err(fault)?;
    let begun = Instant::now();
    while let Err(error) = lock.try_lock() {
        match error {
            TryLockError::WouldBlock if begun.elapsed() < WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            TryLockError::WouldBlock => {
                let what = format!("another program has locked {}", folder.display());
                return Err(Error::new(ErrorKind::Conflict, what)
                    .with_hint("wait until the other setup is done, and try again"));
            }
            TryLockError::Error(e) => return Err(fault(e)),
        }
    }
    Ok(Some(lock))
}

/// The file that the table is. What leads to it is left to whoever made that.
fn real(fstab: &Path) -> Result<PathBuf> {
    let real = resolved(fstab);
    if !real.is_symlink() {
        return Ok(real);
    }
    let what = format!("{} is a symbolic link that leads nowhere", real.display());
    Err(Error::new(ErrorKind::NotFound, what)
        .with_hint("make the table of file systems that it ought to lead to"))
}

/// An error with this hint if the table cannot be written.
pub(super) fn must_be_writable(fstab: &Path, hint: impl FnOnce() -> String) -> Result<()> {
    let real = real(fstab)?;
    let may_write = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    // It is replaced, which its folder has to allow; a file may be closed on its own all the same.
    let folder = real.parent().unwrap_or(Path::new("/"));
    let may = may_write(folder).and_then(|()| match may_write(&real) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        may => may,
    });
    may.map_err(|e| Error::io(format!("write {}", real.display()), e).with_hint(hint()))
}

/// Whether a line is there that does what `line` does; an error if one is in its way.
pub(super) fn has(fstab: &Path, line: &Line) -> Result<bool> {
    let (image, at) = (line.image.display(), line.at.display());
    let mut found = false;
    for (number, there) in (1..).zip(read(fstab)?.lines()) {
        let elsewhere = || "remove that line, or choose other places: --at, --image".to_owned();
        let (what, hint) = match line.likeness(there) {
            None => continue,
            Some(Likeness::Same) => {
                found = true;
                continue;
            }
            Some(Likeness::Changed) => (
                format!("mounts {image} in another way"),
                format!("remove that line, or write instead: {line}"),
            ),
            Some(Likeness::Elsewhere) => (format!("mounts {image} elsewhere"), elsewhere()),
            Some(Likeness::Other) => (format!("mounts something else at {at}"), elsewhere()),
        };
        let (shown, there) = (fstab.display(), there.trim());
        let what = format!("line {number} of {shown} {what}: {there}");
        return Err(Error::new(ErrorKind::Conflict, what).with_hint(hint));
    }
    Ok(found)
}

/// Whether the image is mounted there by any line, whatever somebody made of it.
pub(super) fn mounts(fstab: &Path, line: &Line) -> Result<bool> {
    Ok(read(fstab)?.lines().any(|there| line.mounts_as(there)))
}

/// Whether a line mounts something at `place`, a real path; not, where the table cannot be read.
pub(super) fn names(fstab: &Path, place: &Path) -> bool {
    let text = read(fstab).unwrap_or_default();
    text.lines().filter_map(Entry::of).any(|entry| entry.place(entry.at) == place)
}

/// Adds the line at the end.
pub(super) fn add(fstab: &Path, line: &Line) -> Result<()> {
    rewrite(fstab, line, |text| with(text, line))
}

/// Removes what mounts the image there, and no other line.
pub(super) fn remove(fstab: &Path, line: &Line) -> Result<()> {
    rewrite(fstab, line, |text| without(text, line))
}

pub(crate) fn with(text: &str, line: &Line) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{line}\n")
}

pub(crate) fn without(text: &str, line: &Line) -> String {
    text.split_inclusive('\n').filter(|there| !line.mounts_as(there)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line { image: "/a.img".into(), at: "/a".into() }
    }

    #[test]
    fn a_line_comes_and_goes_and_the_rest_stays() {
        for text in ["", "/dev/vda / ext4 defaults 0 1\n", "# a\n\n/dev/vda / ext4 defaults 0 1"] {
            let there = with(text, &line());
            assert!(there.lines().any(|l| l == line().to_string()), "{there:?}");
            assert_eq!(without(&there, &line()).trim_end(), text.trim_end());
        }
    }

    #[test]
    fn of_many_setups_at_once_each_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("fstab");
        std::fs::write(&table, "/dev/vda / ext4 defaults 0 1\n").unwrap();
        let line =
            |n: usize| Line { image: format!("/{n}.img").into(), at: format!("/{n}").into() };
        let (table, line) = (&table, &line);
        std::thread::scope(|scope| {
            for n in 0..8 {
                scope.spawn(move || {
                    for _ in 0..10 {
                        add(table, &line(n)).unwrap();
                        assert!(has(table, &line(n)).unwrap(), "{n}");
                        remove(table, &line(n)).unwrap();
                    }
                    add(table, &line(n)).unwrap();
                });
            }
        });
        let text = std::fs::read_to_string(table).unwrap();
        assert_eq!(text.lines().count(), 9, "{text}");
    }

    #[test]
    fn a_line_is_what_it_does() {
        use Likeness::{Changed, Elsewhere, Other, Same};
        let options = OPTIONS.join(",");
        for (there, likeness) in [
            (line().to_string(), Some(Same)),
            (format!("\t/a.img\t/a/ btrfs {options}"), Some(Same)),
            (format!("/a.img /a btrfs {options},compress=zstd 0 2"), Some(Same)),
            (format!("/a.img /a btrfs {options},ro 0 0"), Some(Changed)),
            (format!("/a.img /a btrfs {options},subvolid=5 0 0"), Some(Changed)),
            ("/a.img /a btrfs loop,nofail 0 0".into(), Some(Changed)),
            ("/a.img /a btrfs".into(), Some(Changed)),
            (format!("/a.img /a xfs {options} 0 0"), Some(Changed)),
            ("/dev/vda /a ext4 defaults 0 1".into(), Some(Other)),
            ("server:/a /a nfs defaults 0 0".into(), Some(Other)),
            (format!("/a.img /b btrfs {options} 0 0"), Some(Elsewhere)),
            (format!("# /a.img /a btrfs {options} 0 0"), None),
            (format!("#/a.img /a btrfs {options} 0 0"), None),
            ("/dev/vda /ab ext4 defaults 0 1".into(), None),
            ("a.img none swap sw 0 0".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(line().likeness(&there), likeness, "{there}");
        }
    }
}
