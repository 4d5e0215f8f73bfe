//! What ends work that does not end by itself.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use velo_benches::Result;

/// What one step may take: a branch, or some of them. Far more than any takes that works.
pub(crate) const STEP: Duration = Duration::from_secs(600);

/// What may take long: to load gigabytes, or to make and delete a hundred branches.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// What comes of work, or an error once it has taken too long.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(format!("given up after {} s", limit.as_secs()).into()),
    }
}

/// What asks the run to end: an interrupt, or the end of who started it.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    came: bool,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        let (interrupt, terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self { interrupt, terminate, hangup, came: false })
    }

    /// What comes of work; nothing where a signal comes first, or came before. Then the work is dropped where it is.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if !self.came {
            tokio::select! {
                biased;
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => {}
                done = work => return Some(done),
            }
            eprintln!("ended by a signal");
            self.came = true;
        }
        None
    }
}
