//! Datasets of ZFS, their snapshots and clones. Linux, OpenZFS 2.1 and later.
//!
//! A volume is a dataset below one parent, mounted by Velo itself where it is needed. A snapshot is a
//! snapshot of that dataset, so it never changes, and it needs its volume as its clones need it. A
//! clone of a volume is one of a snapshot made for it alone, which goes with it.
//!
//! Nothing is ever destroyed recursively or by force: what is not Velo's is in the way, and named.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::cancel::Cancel;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::storage::files::{Files, copy_file};
use crate::storage::{
    CloneSpec, Cut, FileOp, Label, Location, Object, Storage, StorageCapability, StorageConfig,
    Usage, VolumeSpec,
};

pub mod delegate;
mod explain;
mod faults;
mod layout;
#[cfg(feature = "libzetta")]
mod library;
mod mounts;
mod names;
pub(crate) mod passable;
pub(crate) mod permitted;
mod probe;
mod program;
mod properties;
mod snapshots;
mod usage;
mod volumes;

use faults::Fault;
use layout::Layout;
use names::{Found, Parent};
use properties::{Facts, Properties};

pub(crate) use permitted::would_work;
pub(crate) use probe::{Examined, NEARLY_FULL, examine, fullness, is_wanted, works_in};

/// Whether the home has ever had volumes on ZFS.
pub(crate) fn is_used_by(home: &Path) -> bool {
    !matches!(layout::recorded(home), Ok(None))
}

/// The error of a home that had volumes on ZFS, where nobody asks for it any more by name.
pub(crate) fn began_there(error: Error, home: &Path) -> Error {
    let hint = error.hint().map_or_else(String::new, |hint| format!("{hint}; or "));
    let file = layout::file(home);
    error.with_hint(format!(
        "{hint}name another storage (VELO_STORAGE=copy, …): by {} the home has its volumes on ZFS",
        file.display()
    ))
}

/// Checks a dataset's name from the settings.
pub(crate) fn check_dataset(name: &str) -> Result<()> {
    Parent::new(name).map(drop)
}

/// Checks properties from the settings.
pub(crate) fn check_properties(
    properties: &std::collections::BTreeMap<String, String>,
) -> Result<()> {
    properties::check(properties)
}

/// A way to the kernel, for the calls that every branch makes. Names are checked before.
#[async_trait]
trait Way: std::fmt::Debug + Send + Sync {
    /// Whether the dataset or snapshot exists.
    async fn exists(&self, name: &str) -> Result<bool, Fault>;

    /// Makes a snapshot with these user properties.
    async fn snapshot(&self, snapshot: &str, properties: &Properties) -> Result<(), Fault>;

    /// Makes `dataset`, not mounted, as a clone of `snapshot`.
    async fn clone(
        &self,
        snapshot: &str,
        dataset: &str,
        properties: &Properties,
    ) -> Result<(), Fault>;

    /// Destroys a dataset that is not mounted.
    async fn destroy(&self, dataset: &str) -> Result<(), Fault>;

    /// Destroys a snapshot.
    async fn destroy_snapshot(&self, snapshot: &str) -> Result<(), Fault>;
}

/// Datasets below one parent.
#[derive(Debug)]
pub(crate) struct Zfs {
    files: Files,
    root: PathBuf,
    parent: Parent,
    layout: Layout,
    /// The mark of this installation's datasets.
    home: String,
    properties: Properties,
    way: Box<dyn Way>,
    counted: usage::Counted,
}

impl Zfs {
    pub(crate) fn new(config: &StorageConfig) -> Result<Self> {
        properties::check(&config.zfs_properties)?;
        let layout = Layout::of(config)?;
        let root = config.root.canonicalize().unwrap_or_else(|_| config.root.clone());
        let leaf = if layout.inherited { Parent::leaf } else { |id: Id| id.to_string() };
        Ok(Self {
            files: Files::with_volumes(&root, layout.folder.clone(), leaf),
            parent: Parent::new(&layout.dataset)?,
            home: layout.mark(&root),
            properties: properties::of_volumes(&config.zfs_properties),
            way: way(config.zfs_by_program)?,
            counted: usage::Counted::default(),
            layout,
            root,
        })
    }

    fn parent(&self) -> &Parent {
        &self.parent
    }

    fn home(&self) -> &str {
        &self.home
    }

    fn folder(&self, volume: Id) -> PathBuf {
        self.layout.volume(volume)
    }

    fn probe_folder(&self, id: Id) -> PathBuf {
        self.layout.probe(&self.root, id)
    }

    /// Whether the home is in the dataset `name`.
    fn holds_home(&self, name: &str) -> bool {
        let on = mounts::all().ok().and_then(|mounts| mounts::dataset_of(&mounts, &self.root));
        on.is_some_and(|(dataset, _)| {
            dataset == name || dataset.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// The properties of a new volume that is mounted at `folder`. All are said each time: a clone
    /// takes them from its parent in the tree of names, not from its source.
    fn properties_at(
        &self,
        folder: &Path,
        label: Option<&Label>,
        quota: Option<u64>,
    ) -> Properties {
        let mut all = vec![
            // At boot nothing is mounted: Velo mounts what it needs.
            ("canmount".to_owned(), "noauto".to_owned()),
            ("snapdir".to_owned(), "hidden".to_owned()),
        ];
        if !self.layout.inherited {
            all.push(("mountpoint".into(), folder.to_string_lossy().into_owned()));
        }
        if let Some(bytes) = quota {
            all.push(("refquota".into(), bytes.to_string()));
        }
        all.extend(self.properties.iter().cloned());
        all.extend(properties::marks(&self.home, label));
        // The usual tool for regular snapshots is to leave volumes alone: they would keep them.
        all.push(("com.sun:auto-snapshot".into(), "false".into()));
        all
    }

    async fn explain(&self, fault: Fault, doing: &str, name: &str, folder: &Path) -> Error {
        explain::explain(&self.parent, &self.properties, fault, doing, name, folder).await
    }

    /// What was not found is gone: of a pool, or of a parent, that is not there nothing is known.
    async fn must_have_parent(&self) -> Result<()> {
        match self.facts(self.parent.as_str()).await? {
            Some(_) => Ok(()),
            None => Err(self.no_parent().await),
        }
    }

    /// The error where the parent of all volumes is missing.
    async fn no_parent(&self) -> Error {
        let parent = self.parent.as_str();
        match explain::machine(&self.parent).await {
            Some(error) => error,
            None => {
                let what = format!("the ZFS dataset {parent} does not exist");
                Error::new(ErrorKind::Unsupported, what).with_hint(self.where_it_went())
            }
        }
    }

    /// What to do about a parent that is missing. Of a home that has volumes in it a new one would be empty, and
    /// their records would be forgotten.
    fn where_it_went(&self) -> String {
        let parent = self.parent.as_str();
        if !is_used_by(&self.root) {
            return format!("as root: zfs create {parent}");
        }
        format!(
            "if it was renamed, zfs rename it back, or write its new name into {}: zfs list -r -o name,velo:home {} \
             shows it; if it was destroyed, what is in it is lost: as root, zfs create {parent}, and delete its branches",
            layout::file(&self.root).display(),
            parent.split('/').next().unwrap_or(parent)
        )
    }

    /// Makes the folder of a volume, if it is not there, and mounts the volume on it.
    async fn mount_at(&self, dataset: &str, folder: &Path, doing: &str) -> Result<()> {
        if !self.layout.inherited {
            match std::fs::create_dir(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(format_args!("make {}", folder.display()), e));
                }
                _ => {}
            }
        }
        match mounts::mount(dataset, folder).await? {
            Ok(()) => Ok(()),
            Err(Fault::Denied) if !explain::key_is_missing(dataset).await => {
                Err(match passable::closed_to_us(&self.layout.folder) {
                    Some(closed) => passable::cannot_enter(&mounts::user(), &closed),
                    None => mounts::not_allowed(self.parent.as_str(), &self.layout.folder),
                })
            }
            Err(fault) => Err(self.explain(fault, doing, dataset, folder).await),
        }
    }

    async fn mount(&self, volume: Id) -> Result<()> {
        let doing = format!("mount {}", Object::Volume(volume));
        self.mount_at(&self.parent.volume(volume), &self.folder(volume), &doing).await
    }

    /// What there is to know of a dataset; `None` if it does not exist.
    async fn facts(&self, dataset: &str) -> Result<Option<Facts>> {
        let fields = ["-o", "property,value,source"];
        let names = format!("origin,{}", properties::HOME);
        match program::get(&[&fields[..], &[&names, dataset]].concat()).await {
            Ok(text) => Ok(Some(properties::facts(&text))),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => {
                let doing = format!("look at {dataset}");
                Err(self.explain(fault, &doing, dataset, &self.root).await)
            }
        }
    }

    /// Every dataset and snapshot below the parent that this installation has marked as its own.
    async fn own(&self) -> Result<Vec<Found>> {
        let parent = self.parent.as_str();
        // Two deep and no deeper: the children's snapshots.
        let args =
            ["-d", "2", "-t", "filesystem,snapshot", "-s", properties::OWN, "-o", "name,value"];
        let text = match program::get(&[&args[..], &[properties::HOME, parent]].concat()).await {
            Ok(text) => text,
            Err(Fault::Missing) => return Err(self.no_parent().await),
            Err(fault) => {
                let doing = format!("list {parent}");
                return Err(self.explain(fault, &doing, parent, &self.root).await);
            }
        };
        Ok(properties::rows(&text)
            .filter(|[_, home]| *home == self.home)
            .filter_map(|[name, _]| self.parent.parse(name))
            .collect())
    }

    /// Destroys a snapshot; missing is fine.
    async fn destroy_named(&self, snapshot: &str, doing: &str) -> Result<()> {
        let of = match self.parent.parse(snapshot) {
            Some(Found::Snapshot { volume: of, .. } | Found::Implicit { source: of, .. }) => of,
            _ => return self.must_have_parent().await,
        };
        let mut destroyed = self.way.destroy_snapshot(snapshot).await;
        if destroyed == Err(Fault::Busy) && explain::holds(snapshot).await.is_none() {
            // It is mounted by itself where somebody has read it.
            let folder = self.folder(of).join(".zfs");
            let destroy = || self.way.destroy_snapshot(snapshot);
            destroyed = mounts::once_free(&folder, destroy).await;
        }
        match destroyed {
            Ok(()) => Ok(()),
            Err(Fault::Missing) => self.must_have_parent().await,
            Err(fault) => Err(self.explain(fault, doing, snapshot, &self.root).await),
        }
    }
}

/// The way that this build has, and that works here.
fn way(by_program: bool) -> Result<Box<dyn Way>> {
    #[cfg(feature = "libzetta")]
    if !by_program {
        return Ok(Box::new(library::Library));
    }
    let _ = by_program;
    Ok(Box::new(program::Program))
}

fn already(object: Object) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{object} exists already"))
}

fn missing(object: Object) -> Error {
    Error::new(ErrorKind::NotFound, format!("{object} does not exist"))
        .with_hint("`velo doctor` says what is on disk and what is recorded")
}

/// A dataset that somebody else made.
fn foreign(dataset: &str, home: Option<&str>) -> Error {
    let destroy = format!("if nobody needs it: zfs destroy {dataset}");
    let (whose, hint) = match home {
        Some(home) => {
            (format!("it belongs to the home {home}"), format!("set VELO_HOME to that; {destroy}"))
        }
        None => ("it was not made by Velo".to_owned(), destroy),
    };
    Error::new(ErrorKind::Conflict, format!("the dataset {dataset} is left alone: {whose}"))
        .with_hint(hint)
}

#[async_trait]
impl Storage for Zfs {
    fn capability(&self) -> StorageCapability {
        StorageCapability {
            name: "zfs",
            copy_on_write: true,
            cut: Cut::Ordered,
            clones_need_source: true,
            editable_snapshots: false,
            quota: true,
        }
    }

    fn location(&self, object: Object) -> Location {
        self.files.location(object)
    }

    async fn open(&self, object: Object) -> Result<Location> {
        let volume = match object {
            Object::Volume(id) => id,
            Object::Snapshot(id) => self.volume_of(id).await?.ok_or_else(|| missing(object))?,
        };
        match self.mount(volume).await {
            Ok(()) => Ok(self.location(object)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.facts(&self.parent.volume(volume)).await?.is_some() {
                    return Err(error);
                }
                self.must_have_parent().await?;
                mounts::remove_point(&self.folder(volume)).await?;
                Err(missing(object))
            }
            Err(error) => Err(error),
        }
    }

    async fn create_volume(&self, spec: VolumeSpec) -> Result<()> {
        let object = Object::Volume(spec.id);
        self.layout.keep(&self.root)?;
        if !self.layout.inherited {
            self.files.open_shelf(object)?;
        }
        let (dataset, folder) = (self.parent.volume(spec.id), self.folder(spec.id));
        let properties = self.properties_at(&folder, spec.label.as_ref(), None);
        if let Err(fault) = program::create(&dataset, &properties).await {
            return Err(match fault {
                Fault::Exists => already(object),
                Fault::Missing => self.no_parent().await,
                fault => self.explain(fault, &format!("make {object}"), &dataset, &folder).await,
            });
        }
        self.mount(spec.id).await?;
        let files = self.files.clone();
        blocking(move || files.own(object, &spec)).await
    }

    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        self.clone_volume(spec).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        self.take_snapshot(&spec).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        if let Object::Snapshot(_) = object {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{object} is one of ZFS, which never changes"),
            ));
        }
        self.mount(object.id()).await?;
        self.files.edit(object, ops, copy_file).await
    }

    async fn sync(&self, object: Object) -> Result<()> {
        match object {
            Object::Volume(id) => {
                self.mount(id).await?;
                let synced = self.files.sync(object).await;
                self.counted.forget();
                synced
            }
            // It is on disk before the call that makes it returns.
            Object::Snapshot(_) => Ok(()),
        }
    }

    async fn destroy_volume(&self, id: Id) -> Result<()> {
        self.destroy(id).await
    }

    async fn destroy_snapshot(&self, id: Id) -> Result<()> {
        self.drop_snapshot(id).await
    }

    async fn list(&self) -> Result<Vec<Object>> {
        let mut found: Vec<Object> = self
            .own()
            .await?
            .into_iter()
            .filter_map(|found| match found {
                Found::Volume(id) => Some(Object::Volume(id)),
                Found::Snapshot { id, .. } => Some(Object::Snapshot(id)),
                // Half made: the clone that it was for.
                Found::Implicit { target, .. } => Some(Object::Volume(target)),
                Found::Probe(_) => None,
            })
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn usage(&self, object: Object) -> Result<Usage> {
        self.measure(object).await
    }

    async fn available(&self, source: Object) -> Result<u64> {
        self.room(source).await
    }
}

/// For a fuzzer: what programs print, and names that somebody gave.
#[cfg(feature = "testing")]
pub(crate) fn any_text(data: &[u8]) -> std::result::Result<(), String> {
    let text = String::from_utf8_lossy(data);
    let _ = (properties::facts(&text), faults::of_stderr(&text), mounts::parse(&text));
    let _ = explain::parse("tank", "ONLINE".to_owned(), &text);
    let safe =
        |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./%".contains(&b));
    if let Ok(parent) = names::Parent::new(&text)
        && (!safe(parent.as_str()) || parent.as_str().starts_with(['-', '/']))
    {
        return Err(format!("a dataset {text:?}"));
    }
    let path = properties::encode(Path::new(&*text));
    if !safe(&path) {
        return Err(format!("the value {path:?}"));
    }
    let parent = names::Parent::new("tank/velo").map_err(|e| e.to_string())?;
    let written = match parent.parse(&text) {
        Some(names::Found::Volume(id)) => parent.volume(id),
        Some(names::Found::Probe(id)) => parent.probe(id),
        Some(names::Found::Snapshot { volume, id }) => parent.snapshot(volume, id),
        Some(names::Found::Implicit { source, target }) => parent.implicit(source, target),
        None => return Ok(()),
    };
    if written == text { Ok(()) } else { Err(format!("{text:?} is read as {written:?}")) }
}
