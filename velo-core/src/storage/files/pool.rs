//! One thread that finds work, and a few that do it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::error::{Error, ErrorKind, Result};

/// More make no difference: they wait for the same file system.
const MOST: usize = 8;

/// Where found work goes.
pub(super) struct Feed<'a, T> {
    sender: SyncSender<T>,
    failed: &'a AtomicBool,
}

impl<T> Feed<'_, T> {
    /// Hands `work` to a worker; waits while all are busy, so that whoever finds work does not hold
    /// the open folders of a whole tree. An error once a worker has failed.
    pub(super) fn send(&self, work: T) -> Result<()> {
        if !self.failed.load(Ordering::Relaxed) && self.sender.send(work).is_ok() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, "a worker failed"))
    }
}

/// Runs `find` on this thread and `work` on others for everything that it finds. Returns once all is
/// done, with the first error.
pub(super) fn run<T: Send>(
    find: impl FnOnce(&Feed<'_, T>) -> Result<()>,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST);
    let failed = AtomicBool::new(false);
    let first: Mutex<Option<Error>> = Mutex::new(None);
    let found = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<T>(2 * workers);
        // Owned by the workers alone: should all of them panic, sending fails instead of waiting.
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..workers {
            let receiver = receiver.clone();
            let (work, failed, first) = (&work, &failed, &first);
            std::thread::Builder::new()
                .name("velo-files".into())
                .spawn_scoped(scope, move || {
                    loop {
                        let next = receiver.lock().unwrap_or_else(|e| e.into_inner()).recv();
                        let Ok(next) = next else { return };
                        if failed.load(Ordering::Relaxed) {
                            continue;
                        }
                        if let Err(error) = work(next) {
                            failed.store(true, Ordering::Relaxed);
                            first.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                        }
                    }
                })
                .map_err(|e| Error::io("start a thread", e))?;
        }
        drop(receiver);
        find(&Feed { sender, failed: &failed })
    });
    match first.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => found,
    }
}
