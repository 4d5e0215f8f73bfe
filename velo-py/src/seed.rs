//! Seeds, what builds them, and pools of their branches.

use std::sync::Arc;

use pyo3::prelude::*;
use velo_core::__binding::{AskedSeed, NextOfSeed};

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

/// A seed that somebody asked for. What builds it is Python, and runs where whoever asked runs: [`Building::next`] gives
/// the seed, or the branch that is to become it; then [`Building::built`] says that it is done.
///
/// Dropped in the middle, what was begun is undone.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Building(pub(crate) Arc<AskedSeed>);

#[pymethods]
impl Building {
    fn next(&self) -> Call {
        let asked = self.0.clone();
        Call::new(async move { asked.next().await }, |py, next| match next {
            NextOfSeed::Seed(seed) => Ok(Py::new(py, Seed(seed))?.into_any()),
            NextOfSeed::Branch(branch) => Ok(Py::new(py, Branch(branch))?.into_any()),
        })
    }

    /// The seed, where it was built well; else what was made is undone.
    fn built(&self, well: bool) -> Call {
        let asked = self.0.clone();
        Call::new(async move { asked.built(well).await }, |py, seed| match seed {
            Some(seed) => Ok(Py::new(py, Seed(seed))?.into_any()),
            None => Ok(py.None()),
        })
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
