//! Seeds, what builds them, and pools of their branches.

use std::sync::Arc;

use napi_derive::napi;
use velo_core::__binding::{AskedSeed, NextOfSeed};

use crate::branch::{Branch, Source};
use crate::call::Call;
use crate::config::whole;
use crate::info::{PoolInfo, SeedInfo, Usage};
use crate::project::Project;

/// Data that was prepared once.
#[napi]
pub struct Seed(pub(crate) velo_core::Seed);

#[napi]
impl Seed {
    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[napi(getter)]
    pub fn key(&self) -> String {
        self.0.key().to_owned()
    }

    #[napi(getter)]
    pub fn project(&self) -> Project {
        Project(self.0.project())
    }

    #[napi]
    pub fn source(&self) -> Source {
        Source((&self.0).into())
    }

    #[napi]
    pub fn info(&self) -> SeedInfo {
        self.0.info().clone().into()
    }

    #[napi]
    pub fn branch(&self) -> Call {
        let seed = self.0.clone();
        Call::new(async move { seed.branch().await }, Branch)
    }

    #[napi]
    pub fn pool(&self) -> Call {
        let seed = self.0.clone();
        Call::new(async move { seed.pool() }, Pool)
    }

    #[napi]
    pub fn usage(&self) -> Call {
        let seed = self.0.clone();
        Call::new(async move { seed.usage().await }, Usage::from)
    }

    #[napi]
    pub fn delete(&self) -> Call {
        let seed = self.0.clone();
        Call::nothing(async move { seed.delete().await })
    }
}

/// A seed that somebody asked for. What builds it is JavaScript, and runs where whoever asked runs: [`Building::next`]
/// gives the seed, or the branch that is to become it; then [`Building::built`] says that it is done.
///
/// Dropped in the middle, what was begun is undone.
#[napi]
pub struct Building(pub(crate) Arc<AskedSeed>);

/// One of the two.
#[napi(object, object_from_js = false)]
pub struct Next {
    pub seed: Option<Seed>,
    pub branch: Option<Branch>,
}

#[napi]
impl Building {
    #[napi]
    pub fn next(&self) -> Call {
        let asked = self.0.clone();
        Call::new(async move { asked.next().await }, |next| match next {
            NextOfSeed::Seed(seed) => Next { seed: Some(Seed(seed)), branch: None },
            NextOfSeed::Branch(branch) => Next { seed: None, branch: Some(Branch(branch)) },
        })
    }

    /// The seed, where it was built well; else what was made is undone.
    #[napi]
    pub fn built(&self, well: bool) -> Call {
        let asked = self.0.clone();
        Call::new(async move { asked.built(well).await }, |seed| seed.map(Seed))
    }
}

/// Branches of a seed that are started ahead of time.
#[napi]
pub struct Pool(velo_core::Pool);

#[napi]
impl Pool {
    #[napi]
    pub fn acquire(&self, label: Option<String>) -> Call {
        let pool = self.0.clone();
        let work = async move {
            match label {
                Some(label) => pool.acquire_as(label).await,
                None => pool.acquire().await,
            }
        };
        Call::new(work, Branch)
    }

    #[napi]
    pub fn keep_ready(&self, least: f64, most: f64) -> Call {
        let pool = self.0.clone();
        Call::nothing(async move { pool.keep_ready(whole(least)?, whole(most)?).await })
    }

    #[napi]
    pub fn info(&self) -> Call {
        let pool = self.0.clone();
        Call::new(async move { pool.info().await }, PoolInfo::from)
    }
}
