//! Waiting until a server answers.
//!
//! PostgreSQL writes its state into the last line of `postmaster.pid`: `starting`, then `ready`
//! (or `standby`). That write is the event that is waited for, so that no time is lost between
//! two looks; a slow look beside it covers what an event may miss.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::data_file;
use crate::postgres::session::{Attempt, Door, Session, Target};
use crate::runtime::Started;

/// The slow look.
const POLL: Duration = Duration::from_millis(50);

/// Waits until the server on `data` answers, and returns the first session on it.
///
/// # Errors
/// [`ErrorKind::Postgres`] as soon as the server ends, [`ErrorKind::Timeout`] after `limit`. The
/// caller adds the log.
pub(crate) async fn wait(
    mut started: Started,
    data: &Path,
    target: Target<'_>,
    door: Door<'_>,
    limit: Duration,
    cancel: &Cancel,
) -> Result<Session> {
    let deadline = tokio::time::Instant::now() + limit;
    let watch = Watcher::get().and_then(|watcher| watcher.watch(data));
    loop {
        let mut last = None;
        if says_ready(data) {
            let attempt = tokio::time::timeout_at(deadline, Session::attempt(target, door));
            match cancel.guard(attempt).await? {
                Ok(Attempt::Connected(session)) => return Ok(session),
                Ok(Attempt::NotYet(error)) => last = Some(error),
                Ok(Attempt::Failed(error)) => return Err(error),
                Err(_) => {}
            }
        }
        let event = async {
            match &watch {
                Some(watch) => watch.notify.notified().await,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.canceled() => cancel.check()?,
            status = &mut started.exited => {
                return Err(Error::new(
                    ErrorKind::Postgres,
                    format!("postgres ended before it took connections ({status})"),
                ));
            }
            () = event => {}
            () = tokio::time::sleep(POLL) => {}
            () = tokio::time::sleep_until(deadline) => {
                let error = Error::new(
                    ErrorKind::Timeout,
                    format!("postgres did not answer within {} s", limit.as_secs()),
                )
                .with_hint("a long recovery needs more time: set VELO_START_TIMEOUT (seconds)");
                return Err(match last {
                    Some(last) => error.with_source(last),
                    None => error,
                });
            }
        }
    }
}

/// Whether the server on `data` says that it takes connections.
pub(crate) fn says_ready(data: &Path) -> bool {
    data_file::postmaster(data).is_some_and(|text| {
        text.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby"))
    })
}

/// This process's one inotify instance (a user may have only 128 of them).
struct Watcher {
    pid: u32,
    fd: AsyncFd<OwnedFd>,
    watches: Mutex<HashMap<i32, Weak<Notify>>>,
}

/// The watch of one folder; removed on drop.
struct Watch {
    watcher: &'static Watcher,
    id: i32,
    notify: Arc<Notify>,
}

impl Watcher {
    /// The instance, or none where the kernel refuses one: then the slow look must do.
    fn get() -> Option<&'static Self> {
        static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
        let watcher = WATCHER.get_or_init(|| {
            let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
            let fd = inotify::init(flags)
                .map_err(std::io::Error::from)
                // SAFETY: the descriptor is owned by the AsyncFd, and so stays open and the same.
                .and_then(|fd| Ok(unsafe { AsyncFd::register(fd) }?))
                .inspect_err(|error| tracing::warn!(%error, "no inotify: readiness is polled"))
                .ok()?;
            Some(Watcher { pid: std::process::id(), fd, watches: Mutex::default() })
        });
        let watcher = watcher.as_ref()?;
        // A forked child shares the descriptor with its parent, and with it the events.
        if watcher.pid != std::process::id() {
            return None;
        }
        static READER: std::sync::Once = std::sync::Once::new();
        READER.call_once(|| drop(tokio::spawn(watcher.read())));
        Some(watcher)
    }

    fn watch(&'static self, data: &Path) -> Option<Watch> {
        use inotify::WatchFlags as W;
        let notify = Arc::new(Notify::new());
        let flags = W::CREATE | W::MODIFY | W::CLOSE_WRITE | W::ONLYDIR;
        let mut watches = self.watches.lock().unwrap_or_else(|e| e.into_inner());
        let id = inotify::add_watch(self.fd.get_ref(), data, flags)
            .inspect_err(|error| tracing::debug!(%error, "no watch: readiness is polled"))
            .ok()?;
        watches.insert(id, Arc::downgrade(&notify));
        Some(Watch { watcher: self, id, notify })
    }

    async fn read(&self) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        while let Ok(mut ready) = self.fd.readable().await {
            let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let watches = self.watches.lock().unwrap_or_else(|e| e.into_inner());
                        match watches.get(&event.wd()) {
                            Some(notify) => {
                                if let Some(notify) = notify.upgrade() {
                                    notify.notify_one();
                                }
                            }
                            // The queue overflowed: everybody looks.
                            None if event.wd() == -1 => {
                                for notify in watches.values().filter_map(Weak::upgrade) {
                                    notify.notify_one();
                                }
                            }
                            None => {}
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            ready.clear_ready();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.watcher.watches.lock().unwrap_or_else(|e| e.into_inner());
        watches.remove(&self.id);
        // The folder may be gone already, and the watch with it.
        let _ = inotify::remove_watch(self.watcher.fd.get_ref(), self.id);
    }
}
