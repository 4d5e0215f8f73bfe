//! Seeds, what builds them, and pools of their branches.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use napi_derive::napi;
use tokio::sync::oneshot;
use velo_core::{BranchSource, Error, ErrorKind, SeedKey};

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

type Work = Pin<Box<dyn Future<Output = velo_core::Result<velo_core::Seed>> + Send>>;

/// A seed that somebody asked for. What builds it is JavaScript, and runs where whoever asked runs: [`Building::next`]
/// gives the seed, or the branch that is to become it; then [`Building::built`] says that it is done.
///
/// Dropped in the middle, what was begun is undone.
#[napi]
pub struct Building {
    state: Arc<Mutex<Option<State>>>,
}

struct State {
    work: Work,
    /// Comes where nobody has built it.
    branch: oneshot::Receiver<velo_core::Branch>,
    done: oneshot::Sender<bool>,
}

/// What was thrown in JavaScript is what the promise is rejected with.
const FAILED: &str = "the code that builds it failed";

impl Building {
    pub(crate) fn begin(
        project: &velo_core::Project,
        files: Vec<String>,
        texts: Vec<String>,
        code: String,
        label: Option<String>,
        from: Option<BranchSource>,
    ) -> Self {
        let (asks, branch) = oneshot::channel();
        let (done, built) = oneshot::channel();
        let project = project.clone();
        let work = Box::pin(async move {
            let mut key = SeedKey::new().code(code);
            for pattern in files {
                key = key.files(pattern)?;
            }
            for text in texts {
                key = key.text(text);
            }
            if let Some(label) = label {
                key = key.label(label);
            }
            if let Some(from) = from {
                key = key.from(from);
            }
            project
                .seed(key, async move |branch| match asks.send(branch) {
                    Ok(()) if built.await.unwrap_or(false) => Ok(()),
                    _ => Err(FAILED),
                })
                .await
        });
        Self { state: Arc::new(Mutex::new(Some(State { work, branch, done }))) }
    }

    fn taken(state: &Mutex<Option<State>>) -> velo_core::Result<State> {
        let state = state.lock().unwrap_or_else(|e| e.into_inner()).take();
        state.ok_or_else(|| Error::new(ErrorKind::Conflict, "this seed was waited for already"))
    }
}

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
        let slot = self.state.clone();
        let next = async move {
            let State { mut work, mut branch, done } = Self::taken(&slot)?;
            tokio::select! {
                biased;
                Ok(branch) = &mut branch => {
                    let (_, never) = oneshot::channel();
                    *slot.lock().unwrap_or_else(|e| e.into_inner()) =
                        Some(State { work, branch: never, done });
                    Ok((None, Some(branch)))
                }
                seed = &mut work => seed.map(|seed| (Some(seed), None)),
            }
        };
        Call::new(next, |(seed, branch)| Next { seed: seed.map(Seed), branch: branch.map(Branch) })
    }

    /// The seed, where it was built well; else what was made is undone.
    #[napi]
    pub fn built(&self, well: bool) -> Call {
        let slot = self.state.clone();
        let built = async move {
            let State { work, done, .. } = Self::taken(&slot)?;
            // Where nobody hears it the work is over, and says why.
            let _ = done.send(well);
            match work.await {
                Err(error) if !well && error.kind() == ErrorKind::Seed => Ok(None),
                other => other.map(Some),
            }
        };
        Call::new(built, |seed| seed.map(Seed))
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
