//! The same without an async runtime: every call waits for its result.
//!
//! It is the same channel to the same thread that the async API uses, so it works inside an async
//! runtime too (where it blocks the calling thread).
//!
//! ```no_run
//! use velo_core::BranchSpec;
//! use velo_core::blocking::{Branch, Project};
//!
//! # fn example() -> velo_core::Result<()> {
//! let project = Project::open("api")?;
//! let branch = Branch::create(&project, BranchSpec::ephemeral())?;
//! println!("{}", branch.url());
//! branch.close()?;
//! # Ok(()) }
//! ```

use crate::project::ProjectBuilder as AsyncBuilder;

mod branch;
mod project;
mod seed;

/// [`crate::Project`], blocking.
#[derive(Debug, Clone)]
pub struct Project(crate::Project);

/// [`crate::ProjectBuilder`], blocking.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProjectBuilder(AsyncBuilder);

/// [`crate::Branch`], blocking.
#[derive(Debug, Clone)]
pub struct Branch(crate::Branch);

/// [`crate::Snapshot`], blocking.
#[derive(Debug, Clone)]
pub struct Snapshot(crate::Snapshot);

/// [`crate::Seed`], blocking.
#[derive(Debug, Clone)]
pub struct Seed(crate::Seed);

/// [`crate::Pool`], blocking.
#[derive(Debug, Clone)]
pub struct Pool(crate::Pool);

/// Removing what nothing needs: [`crate::gc`], blocking.
pub mod gc {
    pub use crate::gc::{Collected, GcSpec};

    use crate::config::Config;
    use crate::error::Result;

    /// See [`crate::gc::collect`].
    ///
    /// # Errors
    /// As there.
    pub fn collect(config: &Config, spec: GcSpec) -> Result<Collected> {
        crate::gc::collect_call(config, spec).wait()
    }
}

/// Fetching a PostgreSQL where there is none: [`crate::postgres::install`], blocking.
pub mod install {
    pub use crate::postgres::install::Wanted;

    use crate::config::Config;
    use crate::error::Result;
    use crate::postgres::{Installation, Version, install};

    /// See [`crate::postgres::install::install`].
    ///
    /// # Errors
    /// As there.
    pub fn install(
        config: &Config,
        wanted: Wanted,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Installation> {
        install::install_call(config, wanted, progress).wait()
    }

    /// See [`crate::postgres::install::find_or_install`].
    ///
    /// # Errors
    /// As there.
    pub fn find_or_install(
        config: &Config,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Installation> {
        install::find_or_install_call(config, progress).wait()
    }

    /// See [`crate::postgres::install::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(config: &Config, version: Version) -> Result<()> {
        install::remove_call(config, version).wait()
    }
}

/// Giving a machine a file system that clones: [`crate::setup`], blocking.
pub mod setup {
    use std::path::{Path, PathBuf};

    pub use crate::setup::{LoopKind, LoopSpec, image_of};

    use crate::error::Result;

    /// See [`crate::setup::Setup`].
    #[derive(Debug, Clone)]
    pub struct Setup(crate::setup::Setup);

    impl Setup {
        /// See [`crate::setup::Setup::on_loop`].
        ///
        /// # Errors
        /// As there.
        pub fn on_loop(spec: &LoopSpec) -> Result<Self> {
            crate::setup::Setup::on_loop_call(spec).wait().map(Self)
        }

        /// See [`crate::setup::Setup::undo`].
        ///
        /// # Errors
        /// As there.
        pub fn undo(image: impl Into<PathBuf>) -> Result<Self> {
            crate::setup::Setup::undo_call(image.into()).wait().map(Self)
        }

        /// See [`crate::setup::Setup::delegation`].
        ///
        /// # Errors
        /// As there.
        #[cfg(all(feature = "zfs", target_os = "linux"))]
        pub fn delegation(delegation: &crate::setup::Delegation) -> Result<Self> {
            crate::setup::Setup::delegation_call(delegation).wait().map(Self)
        }

        /// See [`crate::setup::Setup::undo_delegation`].
        ///
        /// # Errors
        /// As there.
        #[cfg(all(feature = "zfs", target_os = "linux"))]
        pub fn undo_delegation(delegation: &crate::setup::Delegation) -> Result<Self> {
            crate::setup::Setup::undo_delegation_call(delegation).wait().map(Self)
        }

        /// See [`crate::setup::Setup::at`].
        #[must_use]
        pub fn at(&self) -> Option<&Path> {
            self.0.at()
        }

        /// See [`crate::setup::Setup::image`].
        #[must_use]
        pub fn image(&self) -> Option<&Path> {
            self.0.image()
        }

        /// See [`crate::setup::Setup::commands`].
        pub fn commands(&self) -> impl Iterator<Item = String> {
            self.0.commands()
        }

        /// See [`crate::setup::Setup::run`].
        ///
        /// # Errors
        /// As there.
        pub fn run(self, say: impl FnMut(&str) + Send + 'static) -> Result<()> {
            self.0.run_call(say).wait()
        }
    }
}
