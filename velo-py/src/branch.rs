//! Branches.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use velo_core::__binding::WantedMoment;
use velo_core::{BranchSource, BranchSpec, ResetTarget};

use crate::call::Call;
use crate::config::seconds;
use crate::info;
use crate::project::Project;
use crate::seed::Seed;
use crate::snapshot::Snapshot;

/// A complete, isolated PostgreSQL on a clone of its parent's data.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Branch(pub(crate) velo_core::Branch);

impl From<velo_core::Branch> for Branch {
    fn from(branch: velo_core::Branch) -> Self {
        Self(branch)
    }
}

/// What a branch starts from: a name, or a handle.
#[derive(FromPyObject)]
pub(crate) enum Source<'py> {
    Name(String),
    Branch(Bound<'py, Branch>),
    Snapshot(Bound<'py, Snapshot>),
    Seed(Bound<'py, Seed>),
}

pub(crate) fn source(source: Source<'_>) -> BranchSource {
    match source {
        Source::Name(name) => name.into(),
        Source::Branch(branch) => (&branch.get().0).into(),
        Source::Snapshot(snapshot) => (&snapshot.get().0).into(),
        Source::Seed(seed) => (&seed.get().0).into(),
    }
}

#[pymethods]
impl Branch {
    #[staticmethod]
    #[pyo3(signature = (
        project, name=None, label=None, source_=None, settings=None, memory=None, millicpus=None, shm_size=None,
        quota=None, ttl=None, start=true, at=None, at_lsn=None, at_name=None, at_xid=None, exclusive=false
    ))]
    // One for each thing that can be said of a branch; Python's callers name them.
    #[allow(clippy::too_many_arguments)]
    fn create(
        project: &Bound<'_, Project>,
        name: Option<String>,
        label: Option<String>,
        source_: Option<Source<'_>>,
        settings: Option<BTreeMap<String, String>>,
        memory: Option<u64>,
        millicpus: Option<u32>,
        shm_size: Option<u64>,
        quota: Option<u64>,
        ttl: Option<f64>,
        start: bool,
        at: Option<String>,
        at_lsn: Option<String>,
        at_name: Option<String>,
        at_xid: Option<u64>,
        exclusive: bool,
    ) -> PyResult<Call> {
        let mut spec = name.map_or_else(BranchSpec::ephemeral, BranchSpec::named);
        if let Some(from) = source_ {
            spec = spec.from(source(from));
        }
        if let Some(label) = label {
            spec = spec.label(label);
        }
        for (name, value) in settings.into_iter().flatten() {
            spec = spec.set(name, value);
        }
        if let Some(bytes) = memory {
            spec = spec.memory(bytes);
        }
        if let Some(thousandths) = millicpus {
            spec = spec.millicpus(thousandths);
        }
        if let Some(bytes) = shm_size {
            spec = spec.shm_size(bytes);
        }
        if let Some(bytes) = quota {
            spec = spec.quota(bytes);
        }
        if let Some(time) = ttl {
            spec = spec.ttl(seconds(time)?);
        }
        if !start {
            spec = spec.stopped();
        }
        let moment = WantedMoment { at, lsn: at_lsn, name: at_name, xid: at_xid, exclusive };
        let project = project.get().0.clone();
        Ok(Call::object::<_, Self>(async move {
            if let Some(target) = moment.target()? {
                spec = spec.at(target);
            }
            velo_core::Branch::create(&project, spec).await
        }))
    }

    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[getter]
    fn name(&self) -> Option<String> {
        self.0.name()
    }

    #[getter]
    fn full_name(&self) -> String {
        self.0.full_name()
    }

    #[getter]
    fn ephemeral(&self) -> bool {
        self.0.is_ephemeral()
    }

    #[getter]
    fn project(&self) -> Project {
        Project(self.0.project())
    }

    #[getter]
    fn log_file(&self) -> PathBuf {
        self.0.log_file()
    }

    #[getter]
    fn url(&self) -> String {
        self.0.url()
    }

    #[getter]
    fn socket_url(&self) -> String {
        self.0.socket_url()
    }

    #[getter]
    fn socket_dir(&self) -> PathBuf {
        self.0.socket_dir()
    }

    /// Host, port, role, password and database.
    #[getter]
    fn connection(&self) -> (String, u16, String, String, String) {
        let to = self.0.connection();
        (to.host, to.port, to.user, to.password, to.database)
    }

    #[getter]
    fn timings(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        info::timings(py, &self.0.timings())
    }

    fn info(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.info().await }, |py, info| info::branch(py, &info))
    }

    fn usage(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.usage().await }, |py, usage| info::usage(py, &usage))
    }

    fn outgoing(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.outgoing().await }, |py, all| all.into_py_any(py))
    }

    fn snapshot(&self, name: String) -> Call {
        let branch = self.0.clone();
        Call::object::<_, Snapshot>(async move { branch.snapshot(name).await })
    }

    fn restore_point(&self, name: String) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.restore_point(name).await }, |py, point| {
            info::restore_point(py, &point)
        })
    }

    fn start(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.start().await })
    }

    fn stop(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.stop().await })
    }

    fn restart(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.restart().await })
    }

    /// To its source, to its origin, or to a snapshot.
    #[pyo3(signature = (snapshot=None, origin=false))]
    fn reset(&self, snapshot: Option<String>, origin: bool) -> Call {
        let branch = self.0.clone();
        let target = match snapshot {
            Some(name) => ResetTarget::Snapshot(name),
            None if origin => ResetTarget::Origin,
            None => ResetTarget::Source,
        };
        Call::nothing(async move { branch.reset_to(target).await })
    }

    #[pyo3(signature = (name=None, ttl=None))]
    fn keep(&self, name: Option<String>, ttl: Option<f64>) -> PyResult<Call> {
        let branch = self.0.clone();
        let ttl = ttl.map(seconds).transpose()?;
        Ok(Call::nothing(async move {
            match (name, ttl) {
                (Some(name), None) => branch.keep_as(name).await,
                (Some(name), Some(time)) => {
                    branch.keep_as(name).await?;
                    branch.set_ttl(Some(time)).await
                }
                (None, Some(time)) => branch.keep_for(time).await,
                (None, None) => branch.keep().await,
            }
        }))
    }

    fn protect(&self, protected: bool) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.protect(protected).await })
    }

    #[pyo3(signature = (ttl=None))]
    fn set_ttl(&self, ttl: Option<f64>) -> PyResult<Call> {
        let branch = self.0.clone();
        let ttl = ttl.map(seconds).transpose()?;
        Ok(Call::nothing(async move { branch.set_ttl(ttl).await }))
    }

    fn close(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.close().await })
    }

    fn delete(&self, force: bool) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.delete(force).await })
    }
}
