//! The thread and runtime on which all of Velo's work runs.
//!
//! It starts at the first use and lives as long as the process. The caller's future only waits, so
//! it works under any executor; [`Call::wait`] is the same for callers without one. Servers are
//! spawned on this thread, because a child's death signal fires when the *thread* that spawned it
//! ends. After a `fork` the child has no such thread: it makes an engine of its own at its first
//! use, and never touches the parent's.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};

use tokio::sync::{OnceCell, oneshot};

use crate::cancel::Cancel;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::pool::Pools;
use crate::timings::Steps;

/// What every operation carries with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Op {
    pub(crate) cancel: Cancel,
    pub(crate) steps: Steps,
}

pub(crate) struct Engine {
    pid: u32,
    handle: tokio::runtime::Handle,
    /// The homes that this process uses, each opened once.
    homes: Mutex<HashMap<PathBuf, Arc<OnceCell<Arc<Home>>>>>,
    /// What it keeps ready.
    pub(crate) pools: Pools,
    /// What it has its run's keeper keep ready.
    #[cfg(target_os = "linux")]
    pub(crate) wishes: crate::keeper::Wishes,
    /// The thread runs until this is dropped.
    _alive: oneshot::Sender<()>,
}

/// The engine of this process. Never freed: threads may use it until the process ends.
static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());

impl Engine {
    /// This process's engine. Takes no lock, so that it works in the child of a `fork` whatever
    /// the parent's other threads were doing.
    pub(crate) fn get() -> Result<&'static Engine> {
        let current = ENGINE.load(Ordering::Acquire);
        // SAFETY: a pointer that was ever stored comes from `Box::into_raw` and is never freed
        // once it is published.
        if let Some(engine) = unsafe { current.as_ref() }
            && engine.pid == std::process::id()
        {
            return Ok(engine);
        }
        let new = Box::into_raw(Box::new(Engine::start()?));
        match ENGINE.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and from now on never freed.
            Ok(_) => Ok(unsafe { &*new }),
            Err(_) => {
                // Another thread was faster. Ours has no work yet; its thread ends as it is dropped.
                // SAFETY: nobody else has seen `new`.
                drop(unsafe { Box::from_raw(new) });
                Self::get()
            }
        }
    }

    fn start() -> Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (alive, dropped) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("velo-engine".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .thread_name("velo-blocking")
                    .build();
                match runtime {
                    Ok(runtime) => {
                        let _ = sender.send(Ok(runtime.handle().clone()));
                        let _ = runtime.block_on(dropped);
                    }
                    Err(e) => {
                        let _ = sender.send(Err(e));
                    }
                }
            })
            .map_err(|e| Error::io("start Velo's thread", e))?;
        let handle = receiver
            .recv()
            .map_err(|e| Error::new(ErrorKind::Internal, "Velo's thread ended").with_source(e))?
            .map_err(|e| Error::io("start Velo's runtime", e))?;
        let pid = std::process::id();
        Ok(Self {
            pid,
            handle,
            homes: Mutex::default(),
            pools: Mutex::default(),
            #[cfg(target_os = "linux")]
            wishes: Mutex::default(),
            _alive: alive,
        })
    }

    /// The home of `config`, opened at the first use of this process. Call it on the engine.
    pub(crate) async fn home(&self, config: &Config) -> Result<Arc<Home>> {
        let cell = {
            let mut homes = self.homes.lock().unwrap_or_else(|e| e.into_inner());
            homes.entry(config.home.clone()).or_default().clone()
        };
        let home = cell.get_or_try_init(|| Home::open(config)).await?.clone();
        Ok(home.with_config(config))
    }

    /// The same, but a home that is not there is not made.
    pub(crate) async fn existing_home(&self, config: &Config) -> Result<Option<Arc<Home>>> {
        if Self::has_home(config).await? { self.home(config).await.map(Some) } else { Ok(None) }
    }

    /// A home that is there, opened anew, with all that dead processes left in it.
    pub(crate) async fn home_as_it_is(&self, config: &Config) -> Result<Option<Arc<Home>>> {
        if Self::has_home(config).await? {
            Home::as_it_is(config).await.map(Some)
        } else {
            Ok(None)
        }
    }

    async fn has_home(config: &Config) -> Result<bool> {
        let folder = config.home.clone();
        let exists = blocking(move || match std::fs::metadata(&folder) {
            Ok(found) if !found.is_dir() => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the home {} is not a folder", folder.display()),
            )
            .with_hint("set VELO_HOME to a folder")),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(Error::io(format!("look at the home {}", folder.display()), e)
                    .with_hint("set VELO_HOME to a folder that you can enter"))
            }
            _ if Home::is_there(&folder)? => Ok(true),
            _ => crate::setup::unmounted::refuse(&folder).map(|()| false),
        });
        exists.await
    }
}

/// How many servers may be started at the same time, so that none of them waits for the others.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// An operation that runs on the engine.
///
/// As a future it waits for the result under any executor; dropped before that, it asks the
/// operation to stop, which undoes what it did.
#[must_use]
pub(crate) struct Call<T> {
    receiver: Option<oneshot::Receiver<Result<T>>>,
    cancel: Cancel,
    /// The engine could not even be started.
    failed: Option<Error>,
}

/// Runs `work` on the engine.
pub(crate) fn call<T, F, W>(work: W) -> Call<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
    W: FnOnce(Op) -> F + Send + 'static,
{
    call_unless(Cancel::default(), work)
}

/// The same, which `cancel` asks to stop as well.
pub(crate) fn call_unless<T, F, W>(cancel: Cancel, work: W) -> Call<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
    W: FnOnce(Op) -> F + Send + 'static,
{
    let op = Op { cancel: cancel.clone(), ..Op::default() };
    let engine = match Engine::get() {
        Ok(engine) => engine,
        Err(error) => {
            return Call { receiver: None, cancel, failed: Some(error) };
        }
    };
    let (sender, receiver) = oneshot::channel();
    engine.handle.spawn(async move {
        // A receiver that is gone drops the value, and with it a handle that nobody got, which
        // discards an ephemeral branch.
        let _ = sender.send(work(op).await);
    });
    Call { receiver: Some(receiver), cancel, failed: None }
}

/// Runs `work` on the engine, and nobody waits for it. For `Drop`.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    match Engine::get() {
        Ok(engine) => drop(engine.handle.spawn(work)),
        Err(error) => tracing::error!(%error, "cannot clean up now; the next open will"),
    }
}

/// Runs blocking `work` (file system, SQLite) off the engine's thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorKind::Internal, "a worker of Velo panicked").with_source(e)),
    }
}

impl<T> Call<T> {
    /// Waits without an executor; works inside one too.
    pub(crate) fn wait(self) -> Result<T> {
        // A parked thread, not `blocking_recv`, which panics inside a tokio runtime.
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut context = Context::from_waker(&waker);
        let mut call = std::pin::pin!(self);
        loop {
            match call.as_mut().poll(&mut context) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let Some(receiver) = self.receiver.as_mut() else {
            return Poll::Ready(Err(Error::new(ErrorKind::Internal, "polled after its end")));
        };
        match Pin::new(receiver).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.receiver = None;
                Poll::Ready(result.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Internal, "an operation of Velo panicked")
                        .with_hint("please report it; the next open cleans up after it"))
                }))
            }
        }
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.cancel.cancel();
        }
    }
}
