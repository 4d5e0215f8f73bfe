//! The extension module `velo._velo` of the Python package `velo-py`: velo-core's handles, each call of which is a
//! `Call`. The two faces that people see, blocking and asyncio, are written in Python over it.

mod branch;
mod call;
mod config;
mod error;
mod info;
mod project;
mod seed;
mod snapshot;

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

/// Runs the command `velo` with these words, the first of which is its name, and gives its exit code. It is meant to
/// be all that a process does.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| velo_core::__binding::serve_if_asked().unwrap_or_else(|| velo_cli::code(args)))
}

/// Has the keepers of runs be `program` with `args`, which calls [`main`].
#[pyfunction]
fn use_keeper(program: PathBuf, args: Vec<OsString>) {
    velo_core::__binding::use_program(program, args);
}

/// Has projects use the PostgreSQL of an installed package where there is no other.
#[pyfunction]
fn use_package(folder: PathBuf) {
    velo_core::__binding::use_package(folder);
}

/// Has whoever waits for a seed that another process builds be told, on standard error as it is now.
#[pyfunction]
fn tell_waits() {
    velo_core::__binding::tell_waits();
}

/// Has the branch of a failed test stay for so many seconds; whether it does.
#[pyfunction]
fn keep_failed(branch: &Bound<'_, branch::Branch>, seconds: f64) -> PyResult<call::Call> {
    let (branch, time) = (branch.get().0.clone(), config::seconds(seconds)?);
    Ok(call::Call::new(async move { branch.keep_failed(time).await }, |py, stays| {
        stays.into_py_any(py)
    }))
}

// Nobody has tried it without a GIL.
#[pymodule(gil_used = true)]
fn _velo(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(use_keeper, module)?)?;
    module.add_function(wrap_pyfunction!(use_package, module)?)?;
    module.add_function(wrap_pyfunction!(tell_waits, module)?)?;
    module.add_function(wrap_pyfunction!(keep_failed, module)?)?;
    module.add_class::<call::Bell>()?;
    module.add_class::<call::Call>()?;
    module.add_class::<config::Config>()?;
    module.add_class::<project::Project>()?;
    module.add_class::<branch::Branch>()?;
    module.add_class::<snapshot::Snapshot>()?;
    module.add_class::<seed::Seed>()?;
    module.add_class::<seed::Building>()?;
    module.add_class::<seed::Pool>()?;
    error::add(module)
}
