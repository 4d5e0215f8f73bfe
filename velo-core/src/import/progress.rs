//! How far an import is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The source is looked at.
    Check,
    /// Files come from the source.
    Copy,
    /// A database is written into a dump.
    Dump,
    /// A dump is read into the new server.
    Restore,
    /// Indexes are built anew.
    Reindex,
    /// Transforms are run.
    Transform,
    /// Columns are masked.
    Mask,
}

impl Stage {
    /// What is done, in a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "checking",
            Self::Copy => "copying",
            Self::Dump => "dumping",
            Self::Restore => "restoring",
            Self::Reindex => "reindexing",
            Self::Transform => "transforming",
            Self::Mask => "masking",
        }
    }
}

/// How far an import is, for [`Source::progress`](super::Source::progress).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// What it is done to: a database, a file.
    pub what: String,
    /// The bytes that there are of it.
    pub bytes: u64,
    /// About how many there will be, where that is known. A dump is smaller than its database.
    pub total: Option<u64>,
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Watch(pub(crate) Arc<dyn Fn(Progress) + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// How often it is told.
const LOOK: Duration = Duration::from_millis(400);

/// Tells once that something begins.
pub(super) fn begin(watch: Option<&Watch>, stage: Stage, what: &str) {
    tracing::info!(stage = stage.as_str(), what, "importing");
    if let Some(Watch(tell)) = watch {
        tell(Progress { stage, what: what.to_owned(), bytes: 0, total: None });
    }
}

/// Does `work`, and tells meanwhile what `folder` holds.
pub(super) async fn during<T>(
    watch: Option<&Watch>,
    stage: Stage,
    what: &str,
    folder: &Path,
    total: Option<u64>,
    work: impl Future<Output = T>,
) -> T {
    begin(watch, stage, what);
    let Some(Watch(tell)) = watch else { return work.await };
    let look = async || {
        let folder = folder.to_path_buf();
        let bytes = tokio::task::spawn_blocking(move || size_of(folder)).await.unwrap_or(0);
        tell(Progress { stage, what: what.to_owned(), bytes, total });
    };
    let mut work = std::pin::pin!(work);
    let done = loop {
        let now_and_later = async {
            look().await;
            tokio::time::sleep(LOOK).await;
        };
        tokio::select! {
            biased;
            done = &mut work => break done,
            () = now_and_later => {}
        }
    };
    // It may have been over before any of it was there.
    look().await;
    done
}

/// What the files below a folder take. They come and go meanwhile.
pub(super) fn size_of(folder: PathBuf) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut folders = vec![folder];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}
