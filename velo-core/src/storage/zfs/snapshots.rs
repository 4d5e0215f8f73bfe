//! Snapshots that stand for themselves, and where they are found.
//!
//! A snapshot's id does not say which volume it is of. A link does: `snapshots/<id>` leads to the
//! snapshot's files below the volume's mount point. It is made first and goes last.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::names::{Found, lower};
use super::{Zfs, already, mounts};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::storage::{CloneSpec, Object};

impl Zfs {
    /// The volume that a snapshot is of.
    pub(super) async fn volume_of(&self, id: Id) -> Result<Option<Id>> {
        if let Ok(target) = std::fs::read_link(self.link(id))
            && let Some(volume) = volume_in(&target)
        {
            return Ok(Some(volume));
        }
        // Somebody removed the link, or there never was one.
        Ok(self.own().await?.into_iter().find_map(|found| match found {
            Found::Snapshot { volume, id: other } if other == id => Some(volume),
            _ => None,
        }))
    }

    fn link(&self, id: Id) -> PathBuf {
        self.files.path(Object::Snapshot(id))
    }

    pub(super) async fn take_snapshot(&self, spec: &CloneSpec) -> Result<()> {
        let object = Object::Snapshot(spec.target);
        let Object::Volume(source) = spec.source else {
            return Err(Error::new(
                crate::error::ErrorKind::Unsupported,
                "a snapshot of a snapshot is none of ZFS",
            )
            .with_hint("make a branch of it"));
        };
        mounts::check_inside(&self.folder(source))?;
        self.files.open_shelf(object)?;
        let link = self.link(spec.target);
        let files = self.folder(source).join(".zfs/snapshot").join(lower(spec.target));
        match std::os::unix::fs::symlink(files, &link) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(already(object)),
            Err(e) => return Err(Error::io(format_args!("make {}", link.display()), e)),
            Ok(()) => {}
        }
        let name = self.parent.snapshot(source, spec.target);
        let Err(error) = self.take(&name, source, object, spec.label.as_ref()).await else {
            return Ok(());
        };
        Err(match unlink(&link) {
            Ok(()) => error,
            Err(cleanup) => error.with_cleanup(cleanup),
        })
    }

    pub(super) async fn drop_snapshot(&self, id: Id) -> Result<()> {
        let object = Object::Snapshot(id);
        if let Some(volume) = self.volume_of(id).await? {
            let name = self.parent.snapshot(volume, id);
            self.destroy_named(&name, &format!("destroy {object}")).await?;
        }
        unlink(&self.link(id))
    }
}

fn unlink(link: &Path) -> Result<()> {
    match std::fs::remove_file(link) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format_args!("remove {}", link.display()), e))
        }
        _ => Ok(()),
    }
}

/// The volume in `…/<volume>/.zfs/snapshot/<id>`.
fn volume_in(target: &Path) -> Option<Id> {
    let name = target.ancestors().nth(3)?.file_name()?.to_str()?;
    Id::from_str(name.strip_prefix("v-").unwrap_or(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_the_volume() {
        let id = Id::generate();
        for path in [
            format!("/var/lib/velo/volumes/{id}/.zfs/snapshot/x"),
            format!("/tank/velo/v-{}/.zfs/snapshot/x", lower(id)),
        ] {
            assert_eq!(volume_in(Path::new(&path)), Some(id), "{path}");
        }
        assert_eq!(volume_in(Path::new("x")), None);
    }
}
