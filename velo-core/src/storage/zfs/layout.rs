//! Where an installation's volumes are: the dataset, and the folder that they are mounted in.
//!
//! A home keeps what it began with, in the file `zfs.json`: settings change and the environment may
//! be another one tomorrow, and the volumes must be found all the same.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::StorageConfig;
use crate::storage::zfs::names::Parent;
use crate::storage::zfs::{mounts, probe, properties};

const FILE: &str = "zfs.json";

/// The folder of the volumes in a home.
const VOLUMES: &str = "volumes";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// The parent of all volumes.
    pub(super) dataset: String,
    /// The folder below which they are mounted. One in the home is where the home is now.
    pub(super) folder: PathBuf,
    /// Whether they inherit their mount point, because a normal user is not to set it.
    pub(super) inherited: bool,
    /// Where the home was when they began: they are marked with it, also when it has been moved.
    #[serde(default)]
    home: Option<PathBuf>,
}

impl Layout {
    /// The one of an installation: what it began with, else what the settings and the machine say.
    pub(super) fn of(config: &StorageConfig) -> Result<Self> {
        if let Some(layout) = recorded(&config.root)? {
            layout.refuse_copy(&config.root)?;
            let layout = layout.moved_to(&config.root);
            return match &config.zfs_dataset {
                Some(set) if *set != layout.dataset => Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the home {} has its volumes in {}, and the settings name {set}",
                        config.root.display(),
                        layout.dataset
                    ),
                )
                .with_hint("unset VELO_ZFS_DATASET, or set VELO_HOME to another folder for it")),
                _ => Ok(layout),
            };
        }
        let mounts = mounts::all()?;
        let root = config.root.canonicalize().unwrap_or_else(|_| config.root.clone());
        let dataset = match &config.zfs_dataset {
            Some(set) => set.clone(),
            None => mounts::dataset_of(&mounts, &root)
                .map(|(dataset, _)| dataset)
                .ok_or_else(|| probe::no_dataset(&config.root))?,
        };
        Parent::new(&dataset)?;
        if root.as_os_str().as_encoded_bytes().contains(&b',') {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("ZFS cannot take the comma in {}", root.display()),
            )
            .with_hint("set VELO_HOME to a folder without one"));
        }
        if rustix::process::geteuid().is_root() {
            let folder = root.join(VOLUMES);
            return Ok(Self { dataset, folder, inherited: false, home: Some(root) });
        }
        let folder = mounts::point_of(&mounts, &dataset).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("the ZFS dataset {dataset} does not exist, or is not mounted"),
            )
            .with_hint(format!("as root: zfs create {dataset}, or zfs mount {dataset}"))
        })?;
        Ok(Self { dataset, folder, inherited: true, home: Some(root) })
    }

    /// The mark of the volumes of the home that is at `root` now.
    pub(super) fn mark(&self, root: &Path) -> String {
        properties::encode(self.began_in().unwrap_or(root))
    }

    /// Where the home was. Of one in which that is not written the folder of the volumes tells it.
    fn began_in(&self) -> Option<&Path> {
        let above = self.folder.parent().filter(|_| !self.inherited);
        self.home.as_deref().or(above)
    }

    fn moved_to(self, root: &Path) -> Self {
        let home = self.began_in().map(Path::to_path_buf);
        let folder = match self.inherited {
            true => self.folder,
            false => root.canonicalize().unwrap_or_else(|_| root.to_path_buf()).join(VOLUMES),
        };
        Self { home, folder, ..self }
    }

    /// Refuses a home that was copied, and whose original is there: both would act on the same datasets.
    /// One that was moved works on.
    fn refuse_copy(&self, root: &Path) -> Result<()> {
        let original = self.began_in();
        let same = |other: &Path| other.canonicalize().ok() == root.canonicalize().ok();
        match original.filter(|home| crate::home::Home::exists(home) && !same(home)) {
            None => Ok(()),
            Some(home) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the home {} is a copy of {}, whose ZFS volumes it has not",
                    root.display(),
                    home.display()
                ),
            )
            .with_hint(format!("set VELO_HOME to {}", home.display()))),
        }
    }

    /// Where a volume is mounted.
    pub(super) fn volume(&self, id: Id) -> PathBuf {
        match self.inherited {
            true => self.folder.join(Parent::leaf(id)),
            false => self.folder.join(id.to_string()),
        }
    }

    /// Where the volume of a try is mounted.
    pub(super) fn probe(&self, root: &Path, id: Id) -> PathBuf {
        match self.inherited {
            true => self.folder.join(format!("v-probe-{}", super::names::lower(id))),
            false => root.join(format!(".velo-probe-{id}")),
        }
    }

    /// Writes it down, once, before the first volume is made.
    pub(super) fn keep(&self, root: &Path) -> Result<()> {
        let path = file(root);
        if path.exists() {
            return Ok(());
        }
        let fault = |e| Error::io(format_args!("write {}", path.display()), e);
        let text = serde_json::to_string(self).map_err(|e| fault(e.into()))?;
        let new = root.join(format!(".{FILE}-{}", Id::generate()));
        let write = || {
            let mut file = std::fs::File::create_new(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // Of several processes that do it at once the first wins.
            match std::fs::hard_link(&new, &path) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
                _ => std::fs::File::open(root)?.sync_all(),
            }
        };
        let written = write();
        let removed = std::fs::remove_file(&new);
        written.map_err(fault)?;
        removed.map_err(fault)
    }
}

/// Where it is written down.
pub(super) fn file(root: &Path) -> PathBuf {
    root.join(FILE)
}

/// What a home began with.
pub(super) fn recorded(root: &Path) -> Result<Option<Layout>> {
    let path = file(root);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format_args!("read {}", path.display()), e)),
    };
    let layout: Layout = serde_json::from_str(&text).map_err(|e| {
        Error::new(ErrorKind::Corrupt, format!("{} is damaged", path.display()))
            .with_hint("it names the dataset of the volumes: write it anew, or bring it back")
            .with_source(e)
    })?;
    // It is a file that somebody may have edited, and programs see what it says.
    Parent::new(&layout.dataset)?;
    Ok(Some(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_keeps_its_first_layout() {
        let dir = tempfile::tempdir().unwrap();
        let layout = |dataset: &str| Layout {
            dataset: dataset.into(),
            folder: dir.path().join("volumes"),
            inherited: false,
            home: None,
        };
        assert_eq!(recorded(dir.path()).unwrap(), None);
        layout("tank/a").keep(dir.path()).unwrap();
        layout("tank/b").keep(dir.path()).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), Some(layout("tank/a")));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let config = StorageConfig::new(dir.path());
        let now = |root: &Path| Layout {
            folder: root.join("volumes"),
            home: Some(dir.path().to_path_buf()),
            ..layout("tank/a")
        };
        assert_eq!(Layout::of(&config).unwrap(), now(dir.path()));
        // Somewhere else it was moved, as long as there is no home where it was.
        let other = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join(FILE), other.path().join(FILE)).unwrap();
        let copy = StorageConfig::new(other.path());
        let moved = Layout::of(&copy).unwrap();
        assert_eq!(moved, now(other.path()));
        assert_eq!(moved.mark(other.path()), properties::encode(dir.path()));
        std::fs::write(dir.path().join("state.db"), "").unwrap();
        assert_eq!(Layout::of(&copy).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(Layout::of(&config).unwrap(), now(dir.path()));
        std::fs::remove_file(dir.path().join("state.db")).unwrap();
        let other = Layout::of(&config.clone().zfs_dataset("tank/b")).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Conflict);
        for damaged in ["", "{}", r#"{"dataset":"-r","folder":"/x","inherited":false}"#] {
            std::fs::write(dir.path().join(FILE), damaged).unwrap();
            assert!(Layout::of(&config).is_err(), "{damaged}");
        }
    }
}
