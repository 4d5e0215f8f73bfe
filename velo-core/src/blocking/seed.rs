//! [`Seed`] and [`Pool`].

use super::{Branch, Pool, Seed};
use crate::error::Result;
use crate::id::Id;
use crate::pool::PoolInfo;
use crate::seed::SeedInfo;
use crate::spec::BranchSpec;
use crate::storage::Usage;

impl Seed {
    /// See [`crate::Seed::id`].
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.id()
    }

    /// See [`crate::Seed::info`].
    #[must_use]
    pub fn info(&self) -> &SeedInfo {
        self.0.info()
    }

    /// See [`crate::Seed::branch`].
    ///
    /// # Errors
    /// As there.
    pub fn branch(&self) -> Result<Branch> {
        let spec = BranchSpec::ephemeral().from(&self.0);
        crate::Branch::create_call(&self.0.project(), spec).wait().map(Branch)
    }

    /// See [`crate::Seed::pool`].
    ///
    /// # Errors
    /// As there.
    pub fn pool(&self) -> Result<Pool> {
        self.0.pool().map(Pool)
    }

    /// See [`crate::Seed::usage`].
    ///
    /// # Errors
    /// As there.
    pub fn usage(&self) -> Result<Usage> {
        self.0.usage_call().wait()
    }

    /// See [`crate::Seed::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self) -> Result<()> {
        self.0.delete_call().wait()
    }
}

impl Pool {
    /// See [`crate::Pool::acquire`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire(&self) -> Result<Branch> {
        self.0.acquire_call(None).wait().map(Branch)
    }

    /// See [`crate::Pool::acquire_as`].
    ///
    /// # Errors
    /// As there.
    pub fn acquire_as(&self, label: impl AsRef<str>) -> Result<Branch> {
        self.0.acquire_call(Some(label.as_ref().to_owned())).wait().map(Branch)
    }

    /// See [`crate::Pool::keep_ready`].
    ///
    /// # Errors
    /// As there.
    pub fn keep_ready(&self, least: usize, most: usize) -> Result<()> {
        self.0.keep_ready_call(least, most).wait()
    }

    /// See [`crate::Pool::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<PoolInfo> {
        self.0.info_call().wait()
    }
}

impl From<&Seed> for crate::BranchSource {
    fn from(seed: &Seed) -> Self {
        Self::from(&seed.0)
    }
}
