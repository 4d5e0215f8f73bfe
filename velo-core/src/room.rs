//! Free space beside what is cloned: a server that meets a full disk panics.

use std::path::Path;

use crate::config::ROOM;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::storage::{Object, Storage};

/// Whether a clone of `source` leaves what must stay free: a server that meets a full disk panics, so
/// it is looked at before.
pub(crate) async fn enough_beside(
    home: &Home,
    storage: &dyn Storage,
    source: Object,
) -> Result<()> {
    let keep = home.config.keep_free;
    match storage.available(source).await {
        Ok(free) if free >= keep => return Ok(()),
        Err(error) if error.kind() != ErrorKind::Exhausted => return Err(error),
        _ => {}
    }
    // What was closed a moment ago may still be on its way out.
    home.finish_deletions().await;
    enough(storage.available(source).await?, keep, home.config.home())
}

/// Whether there is room in the folder, `keep` bytes at least.
pub(crate) fn enough_in(folder: &Path, keep: u64) -> Result<()> {
    match rustix::fs::statvfs(folder) {
        Ok(fs) => enough(fs.f_bavail * fs.f_frsize, keep, folder),
        Err(e) => Err(Error::io(format!("look at the free space of {}", folder.display()), e)),
    }
}

fn enough(free: u64, keep: u64, folder: &Path) -> Result<()> {
    if free >= keep {
        return Ok(());
    }
    let hint = match keep {
        ROOM => "free some space and try again",
        _ => "free some space, or lower VELO_KEEP_FREE",
    };
    Err(Error::new(
        ErrorKind::Exhausted,
        format!(
            "No space left in {}: {} MB are free beside a clone's data, and {} MB must be",
            folder.display(),
            free >> 20,
            keep >> 20
        ),
    )
    .with_hint(hint))
}
