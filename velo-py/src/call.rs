//! [`Call`]: something that Velo does, which a thread waits for, or an event loop awaits.
//!
//! All work runs on Velo's own thread; what is here only waits. So one class serves the package's two faces,
//! and none of them has a runtime that a `fork` could break. That thread never enters the interpreter, which may end
//! meanwhile and takes a thread down that is in it: it unparks a thread, or rings a [`Bell`].

use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::raised;

/// How long a thread waits before it looks whether a signal came, such as that of Ctrl-C: CPython handles them in
/// the main thread, and only when that runs Python.
const LOOK: Duration = Duration::from_millis(50);

/// What becomes of a result in Python.
type Object = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Py<PyAny>> + Send>;
type Work = Pin<Box<dyn Future<Output = PyResult<Object>> + Send>>;

/// Something that Velo does. It begins when it is waited for.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Call(Mutex<Option<Work>>);

impl Call {
    /// One whose result is `into` Python's.
    pub(crate) fn new<T: Send + 'static>(
        work: impl Future<Output = velo_core::Result<T>> + Send + 'static,
        into: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        let work = async move {
            match work.await {
                Ok(done) => Ok(Box::new(move |py: Python<'_>| into(py, done)) as Object),
                Err(error) => Err(raised(error)),
            }
        };
        Self(Mutex::new(Some(Box::pin(work))))
    }

    /// One without a result.
    pub(crate) fn nothing(
        work: impl Future<Output = velo_core::Result<()>> + Send + 'static,
    ) -> Self {
        Self::new(work, |py, ()| Ok(py.None()))
    }

    /// One whose result is an object of a class of this module.
    pub(crate) fn object<T, C>(
        work: impl Future<Output = velo_core::Result<T>> + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        C: From<T> + Into<PyClassInitializer<C>> + pyo3::PyClass,
    {
        Self::new(work, |py, done| Ok(Py::new(py, C::from(done))?.into_any()))
    }

    fn held(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn taken(&self) -> PyResult<Work> {
        let work = self.held().take();
        work.ok_or_else(|| PyRuntimeError::new_err("this was waited for already"))
    }
}

#[pymethods]
impl Call {
    /// Waits, while other threads run. A signal's exception, such as KeyboardInterrupt, ends the wait, and what was
    /// begun is undone.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut work = self.taken()?;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            let polled = py.detach(|| {
                let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
                if polled.is_pending() {
                    std::thread::park_timeout(LOOK);
                }
                polled
            });
            if let Poll::Ready(done) = polled {
                return done?(py);
            }
            if let Err(signal) = py.check_signals() {
                py.detach(|| drop(work));
                return Err(signal);
            }
        }
    }

    /// Awaits, by the function `awaited` of `velo._loop`.
    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let awaited = slf.py().import("velo._loop")?.getattr("awaited")?;
        awaited.call1((slf,))?.call_method0("__await__")
    }

    /// What became of it, as the one thing of a tuple. Until then `bell` rings when another look is worth it.
    fn look(&self, py: Python<'_>, bell: &Bound<'_, Bell>) -> PyResult<Option<(Py<PyAny>,)>> {
        let mut work = self.taken()?;
        let bell = &bell.get().0;
        bell.hush();
        let waker = Waker::from(bell.clone());
        match py.detach(|| work.as_mut().poll(&mut Context::from_waker(&waker))) {
            Poll::Ready(done) => Ok(Some((done?(py)?,))),
            Poll::Pending => {
                *self.held() = Some(work);
                Ok(None)
            }
        }
    }

    /// Waits no longer; what was begun is undone.
    fn give_up(&self, py: Python<'_>) {
        let work = self.held().take();
        py.detach(|| drop(work));
    }
}

/// What an event loop reads from when a call of its is worth another look.
#[pyclass(frozen, module = "velo._velo")]
pub(crate) struct Bell(Arc<Ring>);

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        let (heard, rung) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        Ok(Self(Arc::new(Ring { heard, rung })))
    }

    fn fileno(&self) -> RawFd {
        self.0.heard.as_raw_fd()
    }
}

/// It lives as long as somebody may ring it.
struct Ring {
    heard: UnixStream,
    rung: UnixStream,
}

impl Ring {
    fn hush(&self) {
        // One that is silent has nothing to read.
        while matches!((&self.heard).read(&mut [0; 64]), Ok(64)) {}
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        // It only fails where it has rung many times already.
        let _ = (&self.rung).write(&[1]);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
