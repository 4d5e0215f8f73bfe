//! Whether the file system that a home is on is missing, so that a new one would be made below its mount point.

use std::path::{Path, PathBuf};

use super::LoopKind;
use super::fstab::{self, TABLE};
use super::journal::Journal;
use super::step::mounted_at;
use crate::config::resolved;
use crate::error::{Error, ErrorKind, Result};

/// Refuses to make `home` where a file system belongs that is not mounted: its home is in there. Only a
/// folder with nothing in it is taken for such a place.
pub(crate) fn refuse(home: &Path) -> Result<()> {
    refuse_by(home, Path::new(TABLE))
}

fn refuse_by(home: &Path, table: &Path) -> Result<()> {
    let home = resolved(home);
    let places = home.ancestors().filter(|place| place.parent().is_some());
    // Further up there are files: whatever is mounted there is mounted.
    for place in places.take_while(|place| is_bare(place)) {
        let (what, hint) = match (of_setup(place), fstab::names(table, place)) {
            (Some(journal), _) => ("velo setup put there", again(journal, place)),
            (None, true) => ("is mounted there at boot", format!("mount {}", place.display())),
            (None, false) => continue,
        };
        if mounted_at(place)?.is_some() {
            return Ok(());
        }
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{} is not mounted: the file system that {what}", place.display()),
        )
        .with_hint(format!("{hint}, or set VELO_HOME to another folder for a new home")));
    }
    Ok(())
}

/// Whether nothing is in it, or it is not there.
fn is_bare(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// What a setup wrote down beside the image that it makes unless told otherwise; within, none where this
/// user may not read it.
fn of_setup(place: &Path) -> Option<Option<Journal>> {
    let image = super::image_of(place);
    match Journal::read(&image) {
        Ok(None) => None,
        Ok(Some(journal)) => (journal.spec.at == place).then_some(Some(journal)),
        Err(_) => Some(None),
    }
}

/// The command that brings it back.
fn again(journal: Option<Journal>, place: &Path) -> String {
    match journal.map(|journal| journal.spec) {
        Some(spec) if spec.kind == LoopKind::Zfs => {
            let folder = spec.image.parent().map(PathBuf::from).unwrap_or_default();
            format!("zpool import -d {} {}", folder.display(), spec.pool)
        }
        _ => format!("as root, mount {}", place.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_not_made_below_what_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (table, place) = (dir.join("fstab"), dir.join("there"));
        let home = place.join("a/home");
        let line = |at: &Path| format!("/dev/vdz {} btrfs defaults 0 0\n", at.display());
        refuse_by(&home, &table).unwrap();
        std::fs::write(&table, line(&place)).unwrap();
        for home in [&place, &home] {
            let error = refuse_by(home, &table).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
            assert!(error.hint().unwrap().starts_with("mount "), "{error:?}");
        }
        // Something is there: it is in use without it.
        std::fs::create_dir_all(place.join("b")).unwrap();
        refuse_by(&home, &table).unwrap();
        refuse_by(&place, &table).unwrap();
        for other in [format!("#{}", line(&dir.join("c"))), line(&dir.join("d"))] {
            std::fs::write(&table, other).unwrap();
            refuse_by(&dir.join("c"), &table).unwrap();
        }
        // What is mounted is there, and may be empty.
        std::fs::write(&table, line(Path::new("/proc"))).unwrap();
        refuse_by(Path::new("/proc/velo"), &table).unwrap();
    }
}
