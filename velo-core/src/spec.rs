//! What a branch is to be: [`BranchSpec`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::branch::Branch;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BranchName, Id};
use crate::runtime::Limits;
use crate::snapshot::Snapshot;
use crate::wal::{Progress, Target, Watch};

/// What a branch starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchSource {
    /// A name: `main`, `feature/login`, or with a snapshot of that branch `main@before`. The
    /// branch's id stands for its name too, and what lists show of an ephemeral one (`~label.id`).
    Named(String),
    /// The branch with this identity.
    Branch(Id),
    /// The snapshot with this identity.
    Snapshot(Id),
}

impl From<&str> for BranchSource {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

impl From<String> for BranchSource {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

impl From<&Branch> for BranchSource {
    fn from(branch: &Branch) -> Self {
        Self::Branch(branch.id())
    }
}

impl From<&Snapshot> for BranchSource {
    fn from(snapshot: &Snapshot) -> Self {
        Self::Snapshot(snapshot.id())
    }
}

/// A branch to create.
///
/// ```
/// use velo_core::BranchSpec;
/// let throwaway = BranchSpec::ephemeral().label("tests/signup.rs::works");
/// let lasting = BranchSpec::named("feature/login").from("main").set("work_mem", "64MB");
/// # let _ = (throwaway, lasting);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchSpec {
    pub(crate) name: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) from: BranchSource,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    pub(crate) start: bool,
    pub(crate) quota: Option<u64>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) at: Option<Target>,
    pub(crate) watch: Option<Watch>,
}

impl BranchSpec {
    fn new(name: Option<String>) -> Self {
        Self {
            name,
            label: None,
            from: BranchSource::Named("main".into()),
            settings: BTreeMap::new(),
            limits: Limits::default(),
            start: true,
            quota: None,
            ttl: None,
            at: None,
            watch: None,
        }
    }

    /// A branch that lives no longer than its handles, and no longer than this process. It gives
    /// up durability for speed: `fsync`, `synchronous_commit` and `full_page_writes` are off.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self::new(None)
    }

    /// A branch that stays until it is deleted, with PostgreSQL's full durability. The name is
    /// checked when the branch is created.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self::new(Some(name.into()))
    }

    /// What it starts from: a branch's name, `branch@snapshot`, a [`Branch`] or a [`Snapshot`].
    /// `main` unless told.
    #[must_use]
    pub fn from(mut self, source: impl Into<BranchSource>) -> Self {
        self.from = source.into();
        self
    }

    /// What an ephemeral branch is called in lists: any text, such as a test's path.
    #[must_use]
    pub fn label(mut self, text: impl AsRef<str>) -> Self {
        self.label = Some(crate::id::label(text.as_ref())).filter(|label| !label.is_empty());
        self
    }

    /// A setting of PostgreSQL for the branch's server, as on its command line. It holds for the
    /// branch's whole life, and SQL's `ALTER SYSTEM` does not change it. Settings that its parent was
    /// given are its own too, unless this sets them anew.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The most memory that its server may take, in bytes. Like the other limits it is for runtimes
    /// that can hold to it, such as `docker`; elsewhere the branch is refused.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// The most processor time that its server may take, in thousandths of one processor.
    #[must_use]
    pub fn millicpus(mut self, thousandths: u32) -> Self {
        self.limits.cpus = Some(thousandths);
        self
    }

    /// The most shared memory that its parallel queries may take, in bytes.
    #[must_use]
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.limits.shm = Some(bytes);
        self
    }

    /// Holds its data to so many bytes, what it shares with its parent among them. Only where
    /// [`quota`](crate::storage::StorageCapability::quota) is true: on ZFS.
    #[must_use]
    pub fn quota(mut self, bytes: u64) -> Self {
        self.quota = Some(bytes);
        self
    }

    /// Deletes it when this time is over, counted from its creation: at the next use of the home by
    /// any process. It stays as long as branches were made from it, or it has snapshots, or it is
    /// [protected](Branch::protect). Not for ephemeral branches.
    #[must_use]
    pub fn ttl(mut self, time: Duration) -> Self {
        self.ttl = Some(time);
        self
    }

    /// As the branch that it starts from was at some moment, of which the project keeps the WAL
    /// ([`ProjectBuilder::wal_retention`](crate::ProjectBuilder::wal_retention)).
    #[must_use]
    pub fn at(mut self, moment: Target) -> Self {
        self.at = Some(moment);
        self
    }

    /// Is told, a few times a second, how far the recovery to [its moment](Self::at) is.
    #[must_use]
    pub fn watch(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watch = Some(Watch(std::sync::Arc::new(tell)));
        self
    }

    /// Creates it stopped: no server is started until [`Branch::start`]. Not for ephemeral
    /// branches.
    #[must_use]
    pub fn stopped(mut self) -> Self {
        self.start = false;
        self
    }

    /// Checks everything that can be checked without looking anything up.
    pub(crate) fn check(&self) -> Result<Option<BranchName>> {
        let name = self.name.as_ref().map(BranchName::new).transpose()?;
        if name.is_none() && !self.start {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "an ephemeral branch cannot be created stopped",
            )
            .with_hint("give it a name"));
        }
        if self.quota == Some(0) {
            return Err(Error::new(ErrorKind::InvalidInput, "a quota of 0 bytes holds nothing")
                .with_hint("give a number of bytes, or no quota"));
        }
        if let Some(moment) = &self.at {
            moment.check()?;
        }
        if let Some(time) = self.ttl {
            crate::branch::check_ttl(name.is_none(), time)?;
        }
        for (key, value) in &self.settings {
            let fine = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
            if !fine || value.contains('\0') {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{key:?} is not a setting of PostgreSQL"),
                )
                .with_hint("a setting is a name like work_mem, and its value holds no NUL"));
            }
            if crate::postgres::settings::is_forced(key) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("the setting {key} is Velo's own: it keeps branches apart"),
                )
                .with_hint("leave it out"));
            }
        }
        Ok(name)
    }
}
