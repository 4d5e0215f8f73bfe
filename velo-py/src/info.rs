//! What is known of things, as dictionaries, which the package makes data classes of.

use std::path::PathBuf;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use velo_core::import::SourceInfo;
use velo_core::storage::Usage;
use velo_core::{
    BranchInfo, Cut, PoolInfo, ProjectInfo, Reached, RestorePoint, SeedInfo, SnapshotInfo, Timings,
};

/// A dictionary with these items.
macro_rules! dict {
    ($py:expr, $($name:literal: $value:expr),* $(,)?) => {{
        let dict = PyDict::new($py);
        $(dict.set_item($name, $value)?;)*
        dict.into_py_any($py)
    }};
}

pub(crate) fn project(py: Python<'_>, info: &ProjectInfo) -> PyResult<Py<PyAny>> {
    dict!(py,
        "id": info.id.to_string(),
        "name": info.name.to_string(),
        "storage": info.storage.to_string(),
        "runtime": info.runtime.to_string(),
        "postgres": info.postgres.version.to_string(),
        "role": &info.role,
        "database": &info.database,
        "wal_retention": info.wal_retention,
        "source": source(py, info.source.as_ref())?,
        "created_at": info.created_at,
    )
}

fn source(py: Python<'_>, source: Option<&SourceInfo>) -> PyResult<Option<Py<PyAny>>> {
    let Some(source) = source else { return Ok(None) };
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let dict = dict!(py,
        "method": source.method.as_str(),
        "from_": &source.from,
        "brought_at": source.brought_at,
        "transforms": source.transforms.iter().map(path).collect::<Vec<_>>(),
        "masking": source.masking.as_ref().map(path),
        "notes": &source.notes,
    )?;
    Ok(Some(dict))
}

pub(crate) fn branch(py: Python<'_>, info: &BranchInfo) -> PyResult<Py<PyAny>> {
    dict!(py,
        "id": info.id.to_string(),
        "project": &info.project,
        "name": info.name.as_deref(),
        "shown": &info.shown,
        "parent": info.parent.map(|id| id.to_string()),
        "parent_shown": info.parent_shown.as_deref(),
        "from_snapshot": info.from_snapshot.as_deref(),
        "ephemeral": info.ephemeral,
        "state": info.state.as_str(),
        "storage": info.storage.to_string(),
        "runtime": info.runtime.to_string(),
        "port": info.port,
        "pid": info.pid,
        "created_at": info.created_at,
        "cut": cut(py, info.cut.as_ref())?,
        "reached": reached(py, info.reached.as_ref())?,
        "expires_at": info.expires_at,
        "kept_by": &info.kept_by,
        "protected": info.protected,
        "problem": info.problem.as_deref(),
    )
}

pub(crate) fn snapshot(py: Python<'_>, info: &SnapshotInfo) -> PyResult<Py<PyAny>> {
    dict!(py,
        "id": info.id.to_string(),
        "project": &info.project,
        "branch": &info.branch,
        "name": &info.name,
        "scheduled": info.scheduled,
        "cut": cut(py, info.cut.as_ref())?,
        "created_at": info.created_at,
    )
}

pub(crate) fn seed(py: Python<'_>, info: &SeedInfo) -> PyResult<Py<PyAny>> {
    dict!(py,
        "id": info.id.to_string(),
        "project": &info.project,
        "key": &info.key,
        "label": info.label.as_deref(),
        "shown": info.shown(),
        "ready": info.ready,
        "created_at": info.created_at,
        "used_at": info.used_at,
        "branches": info.branches,
    )
}

pub(crate) fn pool(py: Python<'_>, info: &PoolInfo) -> PyResult<Py<PyAny>> {
    dict!(py,
        "ready": info.ready,
        "starting": info.starting,
        "wanted": info.wanted,
        "limit": info.limit,
    )
}

pub(crate) fn usage(py: Python<'_>, usage: &Usage) -> PyResult<Py<PyAny>> {
    dict!(py,
        "referenced": usage.referenced,
        "exclusive": usage.exclusive,
        "available": usage.available,
    )
}

/// The total, and the steps with their names; seconds.
pub(crate) fn timings(py: Python<'_>, timings: &Timings) -> PyResult<Py<PyAny>> {
    let steps: Vec<(&str, f64)> =
        timings.steps.iter().map(|(name, took)| (name.as_str(), took.as_secs_f64())).collect();
    dict!(py, "total": timings.total.as_secs_f64(), "steps": steps)
}

fn cut(py: Python<'_>, cut: Option<&Cut>) -> PyResult<Option<Py<PyAny>>> {
    let Some(cut) = cut else { return Ok(None) };
    let dict = dict!(py,
        "method": cut.method.as_str(),
        "lsn": cut.lsn.to_string(),
        "next_xid": cut.next_xid,
        "oldest_active_xid": cut.oldest_active_xid,
        "timeline": cut.timeline,
        "at": cut.at,
        "system_identifier": cut.system_identifier,
        "major": cut.major,
        "in_recovery": cut.in_recovery,
    )?;
    Ok(Some(dict))
}

/// With times in microseconds.
fn reached(py: Python<'_>, reached: Option<&Reached>) -> PyResult<Option<Py<PyAny>>> {
    let Some(reached) = reached else { return Ok(None) };
    let dict = dict!(py,
        "lsn": reached.lsn.to_string(),
        "timeline": reached.timeline,
        "committed_at": reached.committed_at,
        "last_xid": reached.last_xid,
        "replayed": reached.replayed,
        "since": reached.since,
    )?;
    Ok(Some(dict))
}

pub(crate) fn restore_point(py: Python<'_>, point: &RestorePoint) -> PyResult<Py<PyAny>> {
    dict!(py, "name": &point.name, "lsn": point.lsn.to_string())
}

/// A list of what each of these becomes.
pub(crate) fn list<T>(
    py: Python<'_>,
    all: &[T],
    one: impl Fn(Python<'_>, &T) -> PyResult<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let all: Vec<_> = all.iter().map(|item| one(py, item)).collect::<PyResult<_>>()?;
    all.into_py_any(py)
}
