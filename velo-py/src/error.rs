//! Velo's errors as exceptions: a class for each kind, all of them under `VeloError`.

use std::error::Error as _;

use pyo3::exceptions::{PyException, PyOSError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use velo_core::{Error, ErrorKind};

/// Every kind, and the class of its exceptions. A test looks whether one is missing.
const CLASSES: [(ErrorKind, &str); 16] = [
    (ErrorKind::InvalidInput, "InvalidInputError"),
    (ErrorKind::NotFound, "NotFoundError"),
    (ErrorKind::AlreadyExists, "AlreadyExistsError"),
    (ErrorKind::Conflict, "ConflictError"),
    (ErrorKind::Incompatible, "IncompatibleError"),
    (ErrorKind::Unsupported, "UnsupportedError"),
    (ErrorKind::PostgresMissing, "PostgresMissingError"),
    (ErrorKind::Postgres, "PostgresError"),
    (ErrorKind::Seed, "SeedError"),
    (ErrorKind::PermissionDenied, "PermissionDeniedError"),
    (ErrorKind::Exhausted, "ExhaustedError"),
    (ErrorKind::Timeout, "TimeoutError"),
    (ErrorKind::Canceled, "CanceledError"),
    (ErrorKind::Corrupt, "CorruptError"),
    (ErrorKind::Io, "IoError"),
    (ErrorKind::Internal, "InternalError"),
];

struct Classes {
    base: Py<PyType>,
    of: Vec<(ErrorKind, Py<PyType>)>,
}

static MADE: PyOnceLock<Classes> = PyOnceLock::new();

/// The classes, made at the first look.
fn classes(py: Python<'_>) -> PyResult<&Classes> {
    MADE.get_or_try_init(py, || {
        let base = class(py, "VeloError", PyTuple::new(py, [py.get_type::<PyException>()])?, DOC)?;
        let mut of = Vec::with_capacity(CLASSES.len());
        for (kind, name) in CLASSES {
            // Who catches Python's own catches this one too.
            let own = (kind == ErrorKind::Timeout).then(|| py.get_type::<PyTimeoutError>());
            let bases: Vec<_> = std::iter::once(base.clone()).chain(own).collect();
            let bases = PyTuple::new(py, bases)?;
            let doc = format!("A VeloError of the kind {:?}.", kind.as_str());
            of.push((kind, class(py, name, bases, &doc)?.unbind()));
        }
        Ok(Classes { base: base.unbind(), of })
    })
}

const DOC: &str = "What went wrong: `kind` in one word, `hint` what to do about it (or None), `context` pairs that say more.";

fn class<'py>(
    py: Python<'py>,
    name: &str,
    bases: Bound<'py, PyTuple>,
    doc: &str,
) -> PyResult<Bound<'py, PyType>> {
    let members = PyDict::new(py);
    members.set_item("__module__", "velo")?;
    members.set_item("__doc__", doc)?;
    members.set_item("kind", "internal")?;
    members.set_item("hint", py.None())?;
    Ok(py.get_type::<PyType>().call1((name, bases, members))?.cast_into::<PyType>()?)
}

/// Adds the classes to the module.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = classes(py)?;
    module.add("VeloError", classes.base.bind(py))?;
    for ((_, class), (_, name)) in classes.of.iter().zip(CLASSES) {
        module.add(name, class.bind(py))?;
    }
    Ok(())
}

/// The exception that an error is.
pub(crate) fn raised(error: Error) -> PyErr {
    Python::attach(|py| exception(py, &error).unwrap_or_else(|failed| failed))
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let classes = classes(py)?;
    let known = classes.of.iter().find(|(kind, _)| *kind == error.kind());
    let class = known.map_or(&classes.base, |(_, class)| class).bind(py);
    let exception = class.call1((error.to_string(),))?;
    exception.setattr("kind", error.kind().as_str())?;
    exception.setattr("hint", error.hint())?;
    // Where there are notes (Python 3.11), whoever sees the traceback sees what to do.
    if let Some(hint) = error.hint()
        && exception.hasattr("add_note")?
    {
        exception.call_method1("add_note", (format!("hint: {hint}"),))?;
    }
    let context = PyDict::new(py);
    for (key, value) in error.context() {
        context.set_item(key, value)?;
    }
    exception.setattr("context", context)?;
    let raised = PyErr::from_value(exception);
    if let Some(source) = error.source() {
        raised.set_cause(py, Some(PyOSError::new_err(source.to_string())));
    }
    Ok(raised)
}
