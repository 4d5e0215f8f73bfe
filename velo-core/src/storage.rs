//! Where data lives: the trait [`Storage`], and which backend fits a folder.
//!
//! A *volume* holds one PGDATA with its `pg_wal`. A *snapshot* is a state that nothing starts a
//! server on. On the backends of this crate both are folders (or btrfs subvolumes) under one root,
//! named by their ids: `<root>/volumes/<id>` and `<root>/snapshots/<id>`; on ZFS they are datasets
//! and snapshots of datasets, mounted there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

#[cfg(all(feature = "btrfs", target_os = "linux"))]
mod btrfs;
#[cfg(feature = "copy")]
mod copy;
#[cfg(target_os = "linux")]
mod extents;
mod files;
#[cfg(all(feature = "reflink", target_os = "linux"))]
mod reflink;
#[cfg(all(feature = "zfs", target_os = "linux"))]
pub mod zfs;

pub(crate) use files::{adopt, can_clone};

/// Something that a storage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A volume: the data of one branch.
    Volume(Id),
    /// A snapshot: data that branches start from and that nothing changes.
    Snapshot(Id),
}

impl Object {
    /// The object's identity.
    #[must_use]
    pub fn id(self) -> Id {
        match self {
            Self::Volume(id) | Self::Snapshot(id) => id,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

/// Where an object's files are. Only backends do arithmetic on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Location {
    /// A folder of this machine.
    HostPath(PathBuf),
}

impl Location {
    /// The folder on this machine.
    #[must_use]
    pub fn host_path(&self) -> &Path {
        match self {
            Self::HostPath(path) => path,
        }
    }
}

/// What kind of moment a clone of a *running* server's files is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// All files at one instant, in the order of writing, synced or not (ZFS).
    Ordered,
    /// All files at one instant, but in the order of writing only for what was synced (btrfs).
    Synced,
    /// Each file at a moment of its own (reflink, copy).
    FileByFile,
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageCapability {
    /// The backend's name in settings, records and output: `btrfs`, `reflink`, `copy`, ….
    pub name: &'static str,
    /// Whether a clone shares its blocks with its source until one of them changes them.
    pub copy_on_write: bool,
    /// What kind of moment a clone of a running server's files is.
    pub cut: Cut,
    /// Whether a source must stay as long as its clones live (ZFS), or may go at once.
    pub clones_need_source: bool,
    /// Whether a snapshot's files can be edited (btrfs, reflink, copy), or never change (ZFS).
    pub editable_snapshots: bool,
    /// Whether a volume can be held to a number of bytes.
    pub quota: bool,
}

/// Whose an object is, for people who look at the storage itself. Nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// The project's name.
    pub project: String,
    /// What the branch is called.
    pub branch: String,
    /// What the object is to the branch: `data`, `snapshot` or `origin`.
    pub role: &'static str,
}

impl Label {
    /// An object of `branch` of `project`.
    #[must_use]
    pub fn new(project: impl Into<String>, branch: impl Into<String>, role: &'static str) -> Self {
        Self { project: project.into(), branch: branch.into(), role }
    }
}

/// A new, empty volume.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VolumeSpec {
    /// Its identity.
    pub id: Id,
    /// The user and group (numeric) that own its folder; `None` is the caller.
    pub owner: Option<(u32, u32)>,
    /// Whose it is.
    pub label: Option<Label>,
}

impl VolumeSpec {
    /// An empty volume owned by the caller.
    #[must_use]
    pub fn new(id: Id) -> Self {
        Self { id, owner: None, label: None }
    }

    /// Says whose it is.
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.label = Some(label);
        self
    }

    /// Owned by the user and group with these numbers.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }
}

/// A clone of `source` that becomes `target`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CloneSpec {
    /// What is cloned.
    pub source: Object,
    /// The identity of what comes into being.
    pub target: Id,
    /// What the clone does not contain, as paths relative to the volume: a file, or with a
    /// trailing `/*` everything inside a folder that itself stays. `*` may end a file name
    /// (`base/pgsql_tmp*`).
    pub skip: Vec<&'static str>,
    /// Files that are cloned after all others, in this order.
    pub last: Vec<&'static str>,
    /// Whether a file that vanishes during the work is no error (the source is a running server).
    pub live: bool,
    /// The bytes that the clone may refer to; an error where [`StorageCapability::quota`] is false.
    pub quota: Option<u64>,
    /// Whose it is.
    pub label: Option<Label>,
}

impl CloneSpec {
    /// A complete clone of a source that nothing changes meanwhile.
    #[must_use]
    pub fn new(source: Object, target: Id) -> Self {
        Self {
            source,
            target,
            skip: Vec::new(),
            last: Vec::new(),
            live: false,
            quota: None,
            label: None,
        }
    }

    /// Holds the clone to so many bytes.
    #[must_use]
    pub fn quota(mut self, bytes: Option<u64>) -> Self {
        self.quota = bytes;
        self
    }

    /// Says whose it is.
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.label = Some(label);
        self
    }

    /// Leaves out what these patterns name.
    #[must_use]
    pub fn skip(mut self, patterns: &[&'static str]) -> Self {
        self.skip.extend_from_slice(patterns);
        self
    }

    /// The source is a running server: files may vanish, and these come last.
    #[must_use]
    pub fn live(mut self, last: &[&'static str]) -> Self {
        self.live = true;
        self.last.extend_from_slice(last);
        self
    }
}

/// A change to an object's files. Preparing a clone is data, so that a backend whose files are not
/// on this machine can carry it out too. Paths are relative to the object and never leave it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileOp {
    /// Removes a file or a whole folder; missing is fine.
    Remove {
        /// What goes.
        path: String,
    },
    /// Writes a file anew, with the owner of the object's folder and mode 0600.
    Write {
        /// The file.
        path: String,
        /// Its whole content.
        content: Vec<u8>,
    },
    /// Clones one file of another object (with the backend's own mechanism), over what is there.
    CloneFile {
        /// The object it comes from.
        source: Object,
        /// The file in `source`.
        from: String,
        /// The file here.
        to: String,
    },
    /// Renames a file within the object.
    Rename {
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
}

impl fmt::Debug for FileOp {
    // Content may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { path } => write!(f, "Remove({path})"),
            Self::Write { path, content } => write!(f, "Write({path}, {} bytes)", content.len()),
            Self::CloneFile { source, from, to } => write!(f, "CloneFile({source}:{from} → {to})"),
            Self::Rename { from, to } => write!(f, "Rename({from} → {to})"),
        }
    }
}

/// How much space an object takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What its files occupy, shared or not.
    pub referenced: u64,
    /// What would become free if only this object went. On ZFS what clones or snapshots of it share
    /// with it is counted too, for it is whose that wrote it.
    pub exclusive: u64,
    /// What is free on the file system or in the pool.
    pub available: u64,
}

/// A kind of storage: keeps volumes, clones them, destroys them.
///
/// Every method may be called at the same time from several tasks and processes, on different
/// objects. Velo never calls two methods that change the same object at the same time. A backend
/// keeps no records: what it holds is what [`list`](Storage::list) finds, and ids come from the
/// caller, who has written them down before.
///
/// A backend of your own can be tested with `velo_core::testing::storage_suite` (feature `testing`).
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do.
    fn capability(&self) -> StorageCapability;

    /// Where an object's files are, or would be.
    fn location(&self, object: Object) -> Location;

    /// Makes an object's files reachable where [`location`](Storage::location) says, should they not
    /// be: whatever a reboot undid is done again. An error if the object does not exist.
    async fn open(&self, object: Object) -> Result<Location>;

    /// Makes an empty volume, mode 0700. An error if it exists.
    async fn create_volume(&self, spec: VolumeSpec) -> Result<()>;

    /// Makes the volume `spec.target` as a clone. What is half-made after an error is removed by
    /// [`destroy_volume`](Storage::destroy_volume).
    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()>;

    /// Makes the snapshot `spec.target` as a clone of a volume.
    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()>;

    /// Carries out `ops` in order. Returns once all are done.
    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()>;

    /// Makes everything that was written to the object durable.
    async fn sync(&self, object: Object) -> Result<()>;

    /// Destroys a volume. Missing is fine; so is one half made or half destroyed.
    async fn destroy_volume(&self, id: Id) -> Result<()>;

    /// Destroys a snapshot. Missing is fine; one that still has clones which need it is
    /// [`ErrorKind::Conflict`].
    async fn destroy_snapshot(&self, id: Id) -> Result<()>;

    /// Every object of this installation that exists, half-made ones among them.
    async fn list(&self) -> Result<Vec<Object>>;

    /// How much space an object takes. What was written in the last seconds may be missing, unless
    /// [`sync`](Storage::sync) came after it.
    async fn usage(&self, object: Object) -> Result<Usage>;

    /// How many bytes would be free beside a clone of `source`, and cheaply so: this is asked before
    /// every clone. [`ErrorKind::Exhausted`] where the backend knows that a clone would be unsafe.
    async fn available(&self, source: Object) -> Result<u64>;
}

/// Which storage to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StorageKind {
    /// The best that works in the folder, found by trying.
    #[default]
    Auto,
    /// Snapshots and clones of ZFS datasets.
    Zfs,
    /// Subvolume snapshots of btrfs.
    Btrfs,
    /// `FICLONE` for each file (XFS, btrfs, ZFS 2.3, bcachefs).
    Reflink,
    /// A plain copy of each file. Works everywhere, and takes time and space for every byte.
    Copy,
}

impl StorageKind {
    /// The name in settings and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Zfs => "zfs",
            Self::Btrfs => "btrfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for StorageKind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "auto" => Self::Auto,
            "zfs" => Self::Zfs,
            "btrfs" => Self::Btrfs,
            "reflink" => Self::Reflink,
            "copy" => Self::Copy,
            _ => {
                return Err(Error::new(ErrorKind::InvalidInput, format!("{s:?} is not a storage"))
                    .with_hint("use auto, zfs, btrfs, reflink or copy"));
            }
        })
    }
}

/// What a storage is built on.
///
/// ```
/// use velo_core::storage::StorageConfig;
/// let config = StorageConfig::new("/srv/velo").zfs_dataset("tank/velo");
/// # let _ = config;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageConfig {
    /// The folder that everything is in, or mounted in. It must exist.
    pub root: PathBuf,
    /// ZFS: the dataset whose children the volumes are; else the one that `root` is on.
    pub zfs_dataset: Option<String>,
    /// ZFS: properties of volumes, beside or instead of Velo's own.
    pub zfs_properties: BTreeMap<String, String>,
    /// ZFS: whether the program `zfs` does all, also where this build has libzfs_core.
    pub zfs_by_program: bool,
}

impl StorageConfig {
    /// On the folder `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            zfs_dataset: None,
            zfs_properties: BTreeMap::new(),
            zfs_by_program: false,
        }
    }

    /// The dataset whose children the volumes are.
    #[must_use]
    pub fn zfs_dataset(mut self, dataset: impl Into<String>) -> Self {
        self.zfs_dataset = Some(dataset.into());
        self
    }

    /// Lets the program `zfs` do all.
    #[must_use]
    pub fn zfs_by_program(mut self) -> Self {
        self.zfs_by_program = true;
        self
    }
}

impl From<&Path> for StorageConfig {
    fn from(root: &Path) -> Self {
        Self::new(root)
    }
}

impl From<&PathBuf> for StorageConfig {
    fn from(root: &PathBuf) -> Self {
        Self::new(root)
    }
}

impl From<&crate::config::Config> for StorageConfig {
    fn from(config: &crate::config::Config) -> Self {
        Self {
            root: config.home.clone(),
            zfs_dataset: config.zfs_dataset.clone(),
            zfs_properties: config.zfs_properties.clone(),
            zfs_by_program: false,
        }
    }
}

/// Finds by trying which storages work under a folder, best first. Leaves nothing behind.
///
/// # Errors
/// If the folder cannot be written to.
pub async fn detect(config: impl Into<StorageConfig>) -> Result<Vec<StorageKind>> {
    let config = config.into();
    #[allow(unused_mut)] // without zfs
    let mut works = files::probe(config.root.clone()).await?;
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    if zfs::is_wanted(&config) {
        add_zfs(&mut works, zfs::works_in(&config).await);
    }
    Ok(works)
}

/// The same for who only looks: nothing is made in a pool, for all that has to be known of ZFS can be
/// read. Of folders it cannot, and a file is tried.
pub(crate) async fn look(config: impl Into<StorageConfig>) -> Result<Vec<StorageKind>> {
    let config = config.into();
    #[allow(unused_mut)] // without zfs
    let mut works = files::probe(config.root.clone()).await?;
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    if zfs::is_wanted(&config) {
        add_zfs(&mut works, zfs::would_work(&config).await);
    }
    Ok(works)
}

#[cfg(all(feature = "zfs", target_os = "linux"))]
fn add_zfs(works: &mut Vec<StorageKind>, result: Result<()>) {
    match result {
        Ok(()) => works.insert(0, StorageKind::Zfs),
        Err(error) => tracing::debug!(%error, "no ZFS here"),
    }
}

/// The backend `kind` on a folder. [`StorageKind::Auto`] takes the best that works there.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the folder cannot do what `kind` needs, or the feature is off.
pub async fn build(
    kind: StorageKind,
    config: impl Into<StorageConfig>,
) -> Result<Arc<dyn Storage>> {
    let config = config.into();
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    if kind == StorageKind::Zfs {
        // Its own error says more than that it does not work.
        zfs::works_in(&config).await?;
        return attach(kind, &config);
    }
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    if kind == StorageKind::Auto && (config.zfs_dataset.is_some() || zfs::is_used_by(&config.root))
    {
        // Whoever names a dataset, or has done so when the home began, wants no copy instead.
        zfs::works_in(&config).await.map_err(|error| match &config.zfs_dataset {
            Some(_) => error,
            None => zfs::began_there(error, &config.root),
        })?;
        return attach(StorageKind::Zfs, &config);
    }
    let works = detect(config.clone()).await?;
    let kind = match kind {
        StorageKind::Auto => works.first().copied().unwrap_or(StorageKind::Copy),
        kind if works.contains(&kind) => kind,
        kind => {
            let names: Vec<_> = works.iter().map(|k| k.as_str()).collect();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("storage {kind} does not work in {}", config.root.display()),
            )
            .with_hint(format!(
                "what works there: {}; or set VELO_HOME to a folder on a file system that can",
                names.join(", ")
            )));
        }
    };
    attach(kind, &config)
}

/// The backend `kind` without trying whether it works: for a kind that a record names, which worked
/// when the record was made.
#[allow(unused_variables)] // some features may be off
pub(crate) fn attach(kind: StorageKind, config: &StorageConfig) -> Result<Arc<dyn Storage>> {
    let root = config.root.as_path();
    match kind {
        #[cfg(all(feature = "zfs", target_os = "linux"))]
        StorageKind::Zfs => Ok(Arc::new(zfs::Zfs::new(config)?)),
        #[cfg(all(feature = "btrfs", target_os = "linux"))]
        StorageKind::Btrfs => Ok(Arc::new(btrfs::Btrfs::new(root))),
        #[cfg(all(feature = "reflink", target_os = "linux"))]
        StorageKind::Reflink => Ok(Arc::new(reflink::Reflink::new(root))),
        #[cfg(feature = "copy")]
        StorageKind::Copy => Ok(Arc::new(copy::Copy::new(root))),
        #[allow(unreachable_patterns)] // some features may be off, and copy alone is not of Linux
        kind => Err(Error::new(
            ErrorKind::Unsupported,
            format!("storage {kind} is not part of this build"),
        )
        .with_hint(format!("build velo-core with the feature {kind}"))),
    }
}
