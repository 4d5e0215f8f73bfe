//! The home: one folder with all of Velo's state and data, and what works on it.
//!
//! ```text
//! state.db                 records (0600)
//! generation               how many durable transactions there were
//! leases/<id>  locks/<id>  lock files
//! volumes/<id>             PGDATA of branches          (the storage's)
//! snapshots/<id>           PGDATA of snapshots         (the storage's)
//! run/<id>/                a server's hba.conf, ident.conf and postgres.log
//! run/<id>/s/              its Unix socket, in a folder that only its user can enter
//! docker/                  what containers see as /etc/passwd and /etc/group
//! docker/tools/<id>        leases of one-off containers
//! wal/<id>/                WAL of a volume that is kept, for the servers' user alone
//! keepers/<id>/            the socket of a run's keeper
//! zfs.json                 where the volumes are that are datasets
//! ```

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::Config;
use crate::deletions::{Deletion, Deletions};
use crate::disk::{self, set_mode};
use crate::effect;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lease::Lease;
use crate::lock::{Lock, Mode};
use crate::os_user::{self, OsUser};
use crate::postgres::Installation;
use crate::runtime::{self, Runtime, RuntimeKind};
use crate::state::State;
use crate::storage::{self, Storage, StorageConfig, StorageKind};

/// How long an operation waits for another one on the same branch.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(120);

/// How the names of locks begin that stand for the name of a project that is being made.
pub(crate) const NAMED: &str = "create-";

/// The longest path of a Unix socket, without its final NUL.
const SOCKET_PATH: usize = 107;

#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) config: Config,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: State,
    user: Option<OsUser>,
    /// This process's own user, as servers' `ident.conf` names it.
    own_user: String,
    storages: Mutex<HashMap<StorageKind, Arc<dyn Storage>>>,
    runtimes: Mutex<HashMap<RuntimeKind, Arc<dyn Runtime>>>,
    lease: Mutex<Option<Arc<Lease>>>,
    next_port: std::sync::atomic::AtomicU32,
    deletions: Arc<Deletions>,
}

impl Home {
    /// Opens the home of `config`, making it if it is missing, and undoes what dead processes left.
    pub(crate) async fn open(config: &Config) -> Result<Arc<Self>> {
        let home = Self::as_it_is(config).await?;
        crate::reconcile::at_open(&home).await;
        Ok(home)
    }

    /// Opens it and leaves everything in it as it is.
    pub(crate) async fn as_it_is(config: &Config) -> Result<Arc<Self>> {
        let config = config.clone();
        crate::engine::blocking(move || {
            let user = OsUser::for_servers(config.user.as_deref())?;
            if !Self::is_there(&config.home)? {
                crate::setup::unmounted::refuse(&config.home)?;
            }
            prepare(&config.home, user.as_ref())?;
            let uid = rustix::process::geteuid().as_raw();
            let own_user = OsUser::name_of(uid)?;
            // Looked at first: records come before data, also where others are at work.
            let has_data = has_data(&config.home);
            let state = State::open(&config.home.join("state.db"), has_data)
                .map_err(|error| full_disk(&config.home, error))?;
            let spread = config.home.as_os_str().as_encoded_bytes().iter();
            let spread =
                spread.fold(0u32, |hash, b| hash.wrapping_mul(31).wrapping_add(u32::from(*b)));
            Ok(Arc::new(Self {
                config,
                shared: Arc::new(Shared {
                    state,
                    user,
                    own_user,
                    storages: Mutex::default(),
                    runtimes: Mutex::default(),
                    lease: Mutex::default(),
                    next_port: spread.into(),
                    deletions: Arc::default(),
                }),
            }))
        })
        .await
    }

    /// Whether there is a home in this folder: looking at one does not make it.
    pub(crate) fn exists(folder: &Path) -> bool {
        // What may not be looked at, a link that leads nowhere or a folder of this name is for `open`
        // to complain about.
        let found = folder.join("state.db").symlink_metadata();
        !found.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    }

    /// The same; an error where its data is there alone. Records come before data and go after it, so that
    /// somebody has taken them away, and nobody knows any more whose the data is.
    pub(crate) fn is_there(folder: &Path) -> Result<bool> {
        // In this order: others may be making it.
        let has_data = has_data(folder);
        let exists = Self::exists(folder);
        if exists || !has_data {
            return Ok(exists);
        }
        let what = format!(
            "{} holds data, and state.db, which says whose it is, is gone",
            folder.display()
        );
        Err(Error::new(ErrorKind::Corrupt, what).with_hint(format!(
            "bring state.db and state.db-wal back, from a backup; without them end the servers that work in {}, and move \
             the folder away",
            folder.join("volumes").display()
        )))
    }

    /// Whether this is the name of something in a home that is Velo's.
    pub(crate) fn is_own(name: &std::ffi::OsStr) -> bool {
        const FOLDERS: [&str; 8] =
            ["leases", "locks", "volumes", "snapshots", "run", "wal", "docker", "keepers"];
        const FILES: [&str; 7] = [
            "state.db",
            "state.db-wal",
            "state.db-shm",
            "state.db-journal",
            crate::state::generation::FILE,
            "reserve",
            "zfs.json",
        ];
        let name = name.to_string_lossy();
        FOLDERS.contains(&&*name)
            || FILES.contains(&&*name)
            || [".zfs.json-", ".velo-"].iter().any(|own| name.starts_with(own))
    }

    /// The same home with another caller's settings.
    pub(crate) fn with_config(self: &Arc<Self>, config: &Config) -> Arc<Self> {
        if self.config == *config {
            self.clone()
        } else {
            Arc::new(Self { config: config.clone(), shared: self.shared.clone() })
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.shared.state
    }

    /// The user that local processes run as, where this process is root.
    pub(crate) fn host_user(&self) -> Option<&OsUser> {
        self.shared.user.as_ref()
    }

    /// The user that servers of `postgres` run as, and that owns their files, where this process is
    /// root: that of its image, or the one of this machine.
    pub(crate) fn server_user(&self, postgres: &Installation) -> Option<OsUser> {
        let user = self.shared.user.as_ref()?;
        Some(match &postgres.image {
            Some(image) => {
                OsUser { name: os_user::IN_IMAGES.to_owned(), uid: image.uid, gid: image.gid }
            }
            None => user.clone(),
        })
    }

    /// The operating system's users that may connect as Velo itself, as a server of `postgres` sees
    /// them: this process's and the servers'.
    pub(crate) fn trusted_users(&self, postgres: &Installation) -> Vec<String> {
        let mut users = vec![self.shared.own_user.clone()];
        users.extend(self.server_user(postgres).map(|user| user.name));
        users
    }

    /// The storage of a record.
    pub(crate) fn storage(&self, kind: StorageKind) -> Result<Arc<dyn Storage>> {
        let mut storages = self.shared.storages.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(storage) = storages.get(&kind) {
            return Ok(storage.clone());
        }
        let storage = effect::storage(storage::attach(kind, &StorageConfig::from(&self.config))?);
        storages.insert(kind, storage.clone());
        Ok(storage)
    }

    /// The runtime of a record.
    pub(crate) fn runtime(&self, kind: RuntimeKind) -> Result<Arc<dyn Runtime>> {
        let mut runtimes = self.shared.runtimes.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(runtime) = runtimes.get(&kind) {
            return Ok(runtime.clone());
        }
        let runtime = runtime::attach(kind, &self.config.home, self.shared.user.clone())?;
        let runtime = effect::runtime(runtime);
        runtimes.insert(kind, runtime.clone());
        Ok(runtime)
    }

    /// This process's lease on the home.
    pub(crate) fn lease(&self) -> Result<Id> {
        let mut lease = self.shared.lease.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(lease) = lease.as_ref() {
            return Ok(lease.id);
        }
        let new = effect::step_now("take a lease", || Lease::take(&self.leases()))?;
        let id = new.id;
        *lease = Some(Arc::new(new));
        Ok(id)
    }

    /// The same, if it was taken.
    pub(crate) fn own_lease(&self) -> Option<Id> {
        let lease = self.shared.lease.lock().unwrap_or_else(|e| e.into_inner());
        lease.as_ref().map(|lease| lease.id)
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.config.home.join("leases")
    }

    pub(crate) fn lock_path(&self, name: &str) -> PathBuf {
        self.config.home.join("locks").join(name)
    }

    /// Locks the project, branch or snapshot `id`: shared to clone it, exclusive to change or delete it.
    pub(crate) async fn lock(
        &self,
        id: Id,
        mode: Mode,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Lock> {
        self.lock_within(LOCK_WAIT, id, mode, what, cancel).await
    }

    /// Locks it exclusively if nobody works on it at this moment.
    pub(crate) async fn lock_now(&self, id: Id, what: &str) -> Result<Lock> {
        self.lock_within(Duration::ZERO, id, Mode::Exclusive, what, &Cancel::default()).await
    }

    /// The same, waiting at most `limit`.
    pub(crate) async fn lock_within(
        &self,
        limit: Duration,
        id: Id,
        mode: Mode,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Lock> {
        let path = self.lock_path(&id.to_string());
        let lock = Lock::take(&path, mode, limit, what, cancel).await?;
        // Whoever waited for a deletion has made the file anew, and nobody else would remove it.
        if !self.state().read(move |tx| tx.has_any(id)).await? {
            self.remove_lock(id)?;
        }
        Ok(lock)
    }

    /// Locks what is about to be recorded, so that nobody deletes what is half made. To be held until it
    /// is ready or undone.
    pub(crate) fn lock_new(&self, id: Id) -> Result<Lock> {
        let take = || Lock::try_take(&self.lock_path(&id.to_string()), Mode::Exclusive);
        let lock = effect::step_now("lock what is new", take)?;
        lock.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "somebody holds the lock of what is not made")
        })
    }

    /// Removes the lock file of what has no record any more: nobody can want it.
    pub(crate) fn remove_lock(&self, id: Id) -> Result<()> {
        disk::remove("remove a lock", &self.lock_path(&id.to_string()))
    }

    /// The same error; where it comes of a disk that is full, one that says so. PostgreSQL may die of
    /// it without a word, and others say it in words of their own.
    pub(crate) fn explain(&self, error: Error) -> Error {
        full_disk(&self.config.home, error)
    }

    /// Held as long as files are removed behind a caller.
    pub(crate) fn deletion(&self) -> Deletion {
        self.shared.deletions.begin()
    }

    /// Makes sure that something can be deleted or stopped: that takes a little space as well.
    pub(crate) async fn make_way(&self) {
        let home = self.config.home.clone();
        let made = crate::engine::blocking(move || crate::reserve::give_up_if_full(&home)).await;
        if let Err(error) = made {
            tracing::warn!(%error, "what is kept for a full disk cannot be had");
        }
    }

    /// Waits until this process has removed what it was to remove behind callers by now.
    pub(crate) async fn finish_deletions(&self) {
        self.shared.deletions.finish().await;
    }

    /// The folder of a server's files.
    pub(crate) fn run_dir(&self, id: Id) -> PathBuf {
        self.config.home.join("run").join(id.to_string())
    }

    /// The folder of all WAL that is kept.
    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.config.home.join("wal")
    }

    /// Ports to try, beginning where this home has not been yet. Homes begin at different places,
    /// so that two of them on one machine seldom meet.
    pub(crate) fn port_candidates(&self) -> impl Iterator<Item = u16> + use<> {
        let range = self.config.ports();
        let (first, count) = (*range.start(), u32::from(range.end() - range.start()) + 1);
        let begin =
            self.shared.next_port.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % count;
        (0..count).map(move |i| first + ((begin + i) % count) as u16)
    }
}

/// What there is less of on a disk that is full: the next segment of WAL hardly fits, and of what a
/// btrfs calls free some may not be had before its next commit.
const FULL: u64 = 16 << 20;

/// An error that a full disk explains, said as such.
pub(crate) fn full_disk(folder: &Path, error: Error) -> Error {
    let said = |text: &str| {
        // That of shared memory is another space.
        let mut lines = text.lines().filter(|line| !line.contains("shared memory"));
        lines.any(|line| line.contains("No space left on device"))
    };
    let told = said(&error.to_string())
        || error.context().any(|(key, text)| key == "log_tail" && said(text));
    let unclear = matches!(
        error.kind(),
        ErrorKind::Postgres | ErrorKind::Io | ErrorKind::Timeout | ErrorKind::PermissionDenied
    );
    let full = || {
        rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < FULL)
    };
    if error.kind() == ErrorKind::Exhausted || !(told || (unclear && full())) {
        return error;
    }
    Error::new(ErrorKind::Exhausted, format!("No space left in {}: {error}", folder.display()))
        .with_hint("free some space and try again")
        .with_source(error)
}

/// An error for root if Velo made the home as another user, who could not work in it any more with files
/// of root's.
fn must_be_roots(home: &Path) -> Result<()> {
    let owner = |name| home.join(name).symlink_metadata().ok().map(|found| found.uid());
    // What only one of them says comes of somebody's hand, and is looked at by itself.
    let Some(uid) = owner("state.db").filter(|uid| *uid != 0 && owner("leases") == Some(*uid))
    else {
        return Ok(());
    };
    let (shown, name) = (home.display(), OsUser::name_of(uid)?);
    let what = format!("the home {shown} belongs to the user {name}, and this is root");
    Err(Error::new(ErrorKind::PermissionDenied, what).with_hint(format!(
        "run it as {name} (sudo -u {name}), or set VELO_HOME to a folder of root's"
    )))
}

/// Makes the home's folders, and checks that servers will be able to live in it.
fn prepare(home: &Path, user: Option<&OsUser>) -> Result<()> {
    // The longest: run/<26>/s/.s.PGSQL.65535
    let longest = home.as_os_str().len() + "/run/".len() + 26 + "/s/.s.PGSQL.65535".len();
    if longest > SOCKET_PATH {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "the home {} is too deep: a Unix socket in it would have a path of {longest} bytes, \
                 and {SOCKET_PATH} is the most",
                home.display()
            ),
        )
        .with_hint("set VELO_HOME to a folder with a shorter path"));
    }
    if user.is_some() {
        must_be_roots(home)?;
    }
    // As root, servers run as another user, who must be able to pass.
    let shared = if user.is_some() { 0o711 } else { 0o700 };
    let hint = "set VELO_HOME to a folder that you can write to";
    let missing: Vec<_> = home.ancestors().take_while(|folder| !folder.is_dir()).collect();
    // Before anything is made: a home that is refused leaves nothing.
    let there = missing.last().map_or(Some(home), |first| first.parent());
    if let (Some(user), Some(there)) = (user, there) {
        crate::os_user::check_passable(there, user, "VELO_HOME")?;
    }
    // A folder that exists keeps its mode: it may be somebody's, and what lies in it is protected
    // by itself. Where servers must pass, one that is made above the home lets everybody pass,
    // whatever the umask is.
    for folder in missing.iter().rev() {
        match std::fs::create_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => continue,
            made => made.map_err(|e| {
                Error::io(format!("make the home {}", home.display()), e).with_hint(hint)
            })?,
        }
        if *folder == home {
            set_mode(folder, shared)?;
        } else if user.is_some() {
            set_mode(folder, 0o755)?;
        }
    }
    for (name, mode) in [
        ("leases", 0o700),
        ("locks", 0o700),
        ("volumes", shared),
        ("snapshots", shared),
        ("run", shared),
    ] {
        let dir = home.join(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => set_mode(&dir, mode)?,
            // One that somebody else has put there could lead anywhere.
            Err(_) if dir.symlink_metadata().is_ok() => disk::must_be_folder(&dir, None)?,
            Err(e) => {
                let error = Error::io(format!("make {}", dir.display()), e);
                return Err(match error.kind() {
                    ErrorKind::Exhausted => error,
                    _ => error.with_hint(hint),
                });
            }
        }
    }
    Ok(())
}

/// Whether there is data that records must name.
fn has_data(home: &Path) -> bool {
    ["volumes", "snapshots"].iter().any(|name| {
        std::fs::read_dir(home.join(name)).is_ok_and(|mut entries| entries.next().is_some())
    })
}
