//! Snapshots.

use pyo3::prelude::*;

use crate::call::Call;
use crate::info;
use crate::project::Project;

/// A named, immutable state that branches start from.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Snapshot(pub(crate) velo_core::Snapshot);

impl From<velo_core::Snapshot> for Snapshot {
    fn from(snapshot: velo_core::Snapshot) -> Self {
        Self(snapshot)
    }
}

#[pymethods]
impl Snapshot {
    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    #[getter]
    fn project(&self) -> Project {
        Project(self.0.project())
    }

    fn info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        info::snapshot(py, self.0.info())
    }

    fn usage(&self) -> Call {
        let snapshot = self.0.clone();
        Call::new(async move { snapshot.usage().await }, |py, usage| info::usage(py, &usage))
    }

    fn delete(&self) -> Call {
        let snapshot = self.0.clone();
        Call::nothing(async move { snapshot.delete().await })
    }
}
