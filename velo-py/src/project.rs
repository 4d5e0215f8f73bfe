//! Projects.

use std::sync::Arc;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use velo_core::__binding::{AskedSeed, WantedSeed};

use crate::branch::{Branch, Source, source};
use crate::call::Call;
use crate::config::{Config, given};
use crate::error::raised;
use crate::info;
use crate::seed::{Building, Seed};
use crate::snapshot::Snapshot;

/// A repository: branches and snapshots of one PostgreSQL cluster.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Project(pub(crate) velo_core::Project);

impl From<velo_core::Project> for Project {
    fn from(project: velo_core::Project) -> Self {
        Self(project)
    }
}

#[pymethods]
impl Project {
    /// Opens, creates, or both: `how` is `open`, `create` or `open_or_create`.
    #[staticmethod]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (how, name, config=None, role=None, database=None, locale=None, main_stopped=false, wal_retention=None))]
    fn get(
        how: &str,
        name: String,
        config: Option<&Bound<'_, Config>>,
        role: Option<String>,
        database: Option<String>,
        locale: Option<String>,
        main_stopped: bool,
        wal_retention: Option<f64>,
    ) -> PyResult<Call> {
        let mut builder = velo_core::Project::builder(name).config(given(config)?);
        if let Some(role) = role {
            builder = builder.role(role);
        }
        if let Some(database) = database {
            builder = builder.database(database);
        }
        if let Some(locale) = locale {
            builder = builder.locale(locale);
        }
        if main_stopped {
            builder = builder.main_stopped();
        }
        if let Some(time) = wal_retention {
            builder = builder.wal_retention(crate::config::seconds(time)?);
        }
        let how = how.to_owned();
        Ok(Call::object::<_, Self>(async move {
            match how.as_str() {
                "open" => builder.open().await,
                "create" => builder.create().await,
                _ => builder.open_or_create().await,
            }
        }))
    }

    #[staticmethod]
    #[pyo3(signature = (config=None))]
    fn list(config: Option<&Bound<'_, Config>>) -> PyResult<Call> {
        let config = given(config)?;
        Ok(Call::new(async move { velo_core::Project::list(&config).await }, |py, all| {
            info::list(py, &all, info::project)
        }))
    }

    /// Refuses a suite's project that was made with other settings than it was opened with.
    fn refuse_other_settings(&self) -> PyResult<()> {
        velo_core::__binding::refuse_other_settings(&self.0).map_err(raised)
    }

    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    fn info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        info::project(py, &self.0.info())
    }

    fn main(&self) -> Call {
        let project = self.0.clone();
        Call::object::<_, Branch>(async move { project.main().await })
    }

    fn branch(&self, name: String) -> Call {
        let project = self.0.clone();
        Call::object::<_, Branch>(async move { project.branch(name).await })
    }

    fn branches(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.branches().await }, |py, all| {
            info::list(py, &all, info::branch)
        })
    }

    fn snapshot(&self, name: String) -> Call {
        let project = self.0.clone();
        Call::object::<_, Snapshot>(async move { project.snapshot(name).await })
    }

    fn snapshots(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.snapshots().await }, |py, all| {
            info::list(py, &all, info::snapshot)
        })
    }

    fn seeds(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.seeds().await }, |py, all| {
            info::list(py, &all, |py, seed| Ok(Py::new(py, Seed(seed.clone()))?.into_any()))
        })
    }

    /// The seed that this key is of, or who builds it.
    #[pyo3(signature = (files, texts, code, label=None, source_=None))]
    fn seed(
        &self,
        files: Vec<String>,
        texts: Vec<String>,
        code: String,
        label: Option<String>,
        source_: Option<Source<'_>>,
    ) -> Building {
        let wanted = WantedSeed { files, texts, code, label, from: source_.map(source) };
        Building(Arc::new(AskedSeed::new(&self.0, wanted)))
    }

    fn seed_sql(&self, pattern: String) -> Call {
        let project = self.0.clone();
        Call::object::<_, Seed>(async move { project.seed_sql(pattern).await })
    }

    fn prune_seeds(&self, unused_for: f64) -> PyResult<Call> {
        let unused_for: Duration = crate::config::seconds(unused_for)?;
        let project = self.0.clone();
        Ok(Call::new(async move { project.prune_seeds(unused_for).await }, |py, all| {
            info::list(py, &all, info::seed)
        }))
    }

    /// The branches whose servers have to be restarted for it.
    #[pyo3(signature = (time=None))]
    fn set_wal_retention(&self, time: Option<f64>) -> PyResult<Call> {
        let time = time.map(crate::config::seconds).transpose()?;
        let project = self.0.clone();
        Ok(Call::new(async move { project.set_wal_retention(time).await }, |py, all| {
            all.into_py_any(py)
        }))
    }

    fn finish_deletions(&self) -> Call {
        let project = self.0.clone();
        Call::nothing(async move { project.finish_deletions().await })
    }

    fn delete(&self, force: bool) -> Call {
        let project = self.0.clone();
        Call::nothing(async move { project.delete(force).await })
    }
}
