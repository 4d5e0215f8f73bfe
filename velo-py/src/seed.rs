//! Seeds, what builds them, and pools of their branches.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use tokio::sync::oneshot;
use velo_core::{BranchSource, SeedKey};

use crate::branch::Branch;
use crate::call::Call;
use crate::info;
use crate::project::Project;

/// Data that was prepared once.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Seed(pub(crate) velo_core::Seed);

impl From<velo_core::Seed> for Seed {
    fn from(seed: velo_core::Seed) -> Self {
        Self(seed)
    }
}

#[pymethods]
impl Seed {
    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[getter]
    fn key(&self) -> &str {
        self.0.key()
    }

    #[getter]
    fn project(&self) -> Project {
        Project(self.0.project())
    }

    fn info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        info::seed(py, self.0.info())
    }

    fn branch(&self) -> Call {
        let seed = self.0.clone();
        Call::object::<_, Branch>(async move { seed.branch().await })
    }

    fn pool(&self) -> PyResult<Pool> {
        Ok(Pool(self.0.pool().map_err(crate::error::raised)?))
    }

    fn usage(&self) -> Call {
        let seed = self.0.clone();
        Call::new(async move { seed.usage().await }, |py, usage| info::usage(py, &usage))
    }

    fn delete(&self) -> Call {
        let seed = self.0.clone();
        Call::nothing(async move { seed.delete().await })
    }
}

type Work = Pin<Box<dyn Future<Output = velo_core::Result<velo_core::Seed>> + Send>>;

/// A seed that somebody asked for. What builds it is Python, and runs where whoever asked runs: [`Building::next`] gives
/// the seed, or the branch that is to become it; then [`Building::built`] says that it is done.
///
/// Dropped in the middle, what was begun is undone.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Building {
    state: Arc<Mutex<Option<State>>>,
}

struct State {
    work: Work,
    /// Comes where nobody has built it.
    branch: oneshot::Receiver<velo_core::Branch>,
    done: oneshot::Sender<bool>,
}

/// Python's own exception is what is raised.
const FAILED: &str = "the code that builds it raised an exception";

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
        state.ok_or_else(|| {
            velo_core::Error::new(
                velo_core::ErrorKind::Conflict,
                "this seed was waited for already",
            )
        })
    }
}

enum Next {
    Seed(velo_core::Seed),
    Branch(velo_core::Branch),
}

#[pymethods]
impl Building {
    fn next(&self) -> Call {
        let slot = self.state.clone();
        let next = async move {
            let State { mut work, mut branch, done } = Self::taken(&slot)?;
            tokio::select! {
                biased;
                Ok(branch) = &mut branch => {
                    let (_, never) = oneshot::channel();
                    *slot.lock().unwrap_or_else(|e| e.into_inner()) =
                        Some(State { work, branch: never, done });
                    Ok(Next::Branch(branch))
                }
                seed = &mut work => seed.map(Next::Seed),
            }
        };
        Call::new(next, |py, next| match next {
            Next::Seed(seed) => Ok(Py::new(py, Seed(seed))?.into_any()),
            Next::Branch(branch) => Ok(Py::new(py, Branch(branch))?.into_any()),
        })
    }

    /// The seed, where it was built well; else what was made is undone.
    fn built(&self, well: bool) -> Call {
        let slot = self.state.clone();
        Call::new(
            async move {
                let State { work, done, .. } = Self::taken(&slot)?;
                // Where nobody hears it the work is over, and says why.
                let _ = done.send(well);
                match work.await {
                    Err(error) if !well && error.kind() == velo_core::ErrorKind::Seed => Ok(None),
                    other => other.map(Some),
                }
            },
            |py, seed| match seed {
                Some(seed) => Ok(Py::new(py, Seed(seed))?.into_any()),
                None => Ok(py.None()),
            },
        )
    }
}

/// Branches of a seed that are started ahead of time.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Pool(velo_core::Pool);

#[pymethods]
impl Pool {
    #[pyo3(signature = (label=None))]
    fn acquire(&self, label: Option<String>) -> Call {
        let pool = self.0.clone();
        Call::object::<_, Branch>(async move {
            match label {
                Some(label) => pool.acquire_as(label).await,
                None => pool.acquire().await,
            }
        })
    }

    fn keep_ready(&self, least: usize, most: usize) -> Call {
        let pool = self.0.clone();
        Call::nothing(async move { pool.keep_ready(least, most).await })
    }

    fn info(&self) -> Call {
        let pool = self.0.clone();
        Call::new(async move { pool.info().await }, |py, info| info::pool(py, &info))
    }
}
