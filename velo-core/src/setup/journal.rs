//! What a setup is going to make, written down before it makes any of it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::LoopSpec;
use crate::config::resolved;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) spec: LoopSpec,
    /// Whether the mount point was not there before.
    pub(super) made_at: bool,
    /// The folders around it that were not there either, the outermost first.
    #[serde(default)]
    pub(super) around: Vec<PathBuf>,
}

fn path(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(".json");
    image.with_file_name(name)
}

impl Journal {
    /// What is to be written down before `spec` is made.
    pub(super) fn of(spec: LoopSpec) -> Self {
        let missing = |path: &Path| path.symlink_metadata().is_err();
        let around = spec.at.ancestors().skip(1).take_while(|path| missing(path));
        let mut around: Vec<PathBuf> = around.map(Path::to_owned).collect();
        around.reverse();
        Self { made_at: missing(&spec.at), around, spec }
    }

    /// That of the setup which made `image`, a real path.
    pub(super) fn read(image: &Path) -> Result<Option<Self>> {
        let path = path(image);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
        };
        let mut journal: Self = serde_json::from_str(&text).map_err(|e| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{} is no journal of a setup: {e}", path.display()),
            )
            .with_hint("look at it, and move it away if it is not Velo's")
            .with_source(e)
        })?;
        // Folders may have become links since. What is undone is removed: it must be what was named.
        let Self { spec, around, .. } = &mut journal;
        for path in [&mut spec.at, &mut spec.image].into_iter().chain(around) {
            *path = resolved(path);
        }
        if journal.spec.image == image {
            return Ok(Some(journal));
        }
        let (shown, other) = (path.display(), journal.spec.image.display());
        Err(Error::new(ErrorKind::Conflict, format!("{shown} is of another image, {other}"))
            .with_hint("move both back to where they were made"))
    }

    /// Writes it, whole or not at all, and to the disk. False if it was there.
    pub(super) fn write(&self) -> Result<bool> {
        let path = path(&self.spec.image);
        if path.exists() {
            return Ok(false);
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot encode a journal").with_source(e)
        })?;
        replace(&path, text.as_bytes(), 0o600)?;
        Ok(true)
    }

    /// Removes it: nothing of what it names is there any more.
    pub(super) fn remove(&self) -> Result<()> {
        let path = path(&self.spec.image);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

/// Puts `content` in the place of a file: whole or not at all, and to the disk.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".velo-new");
    let new = path.with_file_name(name);
    let write = || {
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| Error::io(format!("write {}", path.display()), e))
}
