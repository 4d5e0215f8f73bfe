//! [`Call`]: something that Velo does, which JavaScript gets a promise of.
//!
//! All work runs on Velo's own thread; what is here only waits, and needs no runtime: whoever completes a part of it
//! polls it on.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, JsDeferred, sys};
use napi_derive::napi;
use velo_core::{Error, ErrorKind};

use crate::error::raised;

/// What becomes of a result in JavaScript, on its thread.
type Made = Box<dyn FnOnce(Env) -> napi::Result<Value> + Send>;
type Work = Pin<Box<dyn Future<Output = velo_core::Result<Made>> + Send>>;
type Deferred = JsDeferred<Value, Made>;

/// A value of JavaScript's, made a moment ago by the thread that takes it.
pub struct Value(sys::napi_value);

impl ToNapiValue for Value {
    unsafe fn to_napi_value(_: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        Ok(value.0)
    }
}

fn made<T: ToNapiValue>(env: Env, value: T) -> napi::Result<Value> {
    // SAFETY: the environment is the one that a callback of Node's was given, and lives as long as that runs.
    unsafe { T::to_napi_value(env.raw(), value) }.map(Value)
}

/// Something that Velo does. It begins when it is waited for.
#[napi]
pub struct Call {
    work: Mutex<Option<Work>>,
    task: Mutex<Option<Arc<Task>>>,
}

impl Call {
    /// One whose result `into` makes a value of, on JavaScript's thread.
    pub(crate) fn new<T, V>(
        work: impl Future<Output = velo_core::Result<T>> + Send + 'static,
        into: impl FnOnce(T) -> V + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        V: ToNapiValue,
    {
        let work = async move {
            work.await.map(|done| Box::new(move |env| made(env, into(done))) as Made)
        };
        Self { work: Mutex::new(Some(Box::pin(work))), task: Mutex::default() }
    }

    /// One without a result.
    pub(crate) fn nothing(
        work: impl Future<Output = velo_core::Result<()>> + Send + 'static,
    ) -> Self {
        Self::new(work, |()| ())
    }
}

#[napi]
impl Call {
    /// Begins, and gives a promise of the result. Node does not exit as long as that is open.
    #[napi]
    pub fn wait<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let Some(work) = locked(&self.work).take() else {
            let error = Error::new(ErrorKind::Conflict, "this was waited for already");
            return Err(raised(*env, &error));
        };
        let (deferred, promise) = env.create_deferred::<Value, Made>()?;
        let open = Mutex::new(Some((work, deferred)));
        let task = Arc::new(Task { woken: AtomicUsize::new(0), open });
        *locked(&self.task) = Some(task.clone());
        task.wake();
        Ok(promise)
    }

    /// Gives up: the promise is rejected, and what was begun is undone. Nothing happens where it is done.
    #[napi]
    pub fn cancel(&self) {
        drop(locked(&self.work).take());
        if let Some(task) = locked(&self.task).take() {
            task.cancel();
        }
    }
}

/// A call that is under way.
struct Task {
    /// How often it was woken since nobody polled it. One polls; whoever wakes it meanwhile has it polled once more.
    woken: AtomicUsize,
    open: Mutex<Option<(Work, Deferred)>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.woken.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            self.poll();
            match self.woken.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }
}

impl Task {
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut open = locked(&self.open);
        let Some((work, _)) = open.as_mut() else { return };
        let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return;
        };
        let over = open.take();
        drop(open);
        if let Some((_, deferred)) = over {
            settle(deferred, done);
        }
    }

    fn cancel(&self) {
        let over = locked(&self.open).take();
        if let Some((work, deferred)) = over {
            drop(work);
            settle(deferred, Err(Error::new(ErrorKind::Canceled, "canceled by its signal")));
        }
    }
}

/// Where the thread that waits has ended, the result is dropped, and with it a branch that nobody got.
fn settle(deferred: Deferred, done: velo_core::Result<Made>) {
    deferred.resolve(done.unwrap_or_else(|error| Box::new(move |env| Err(raised(env, &error)))));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
