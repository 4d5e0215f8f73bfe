//! The wish to stop, handed down into every long step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

/// Says whether the caller of an operation still wants it.
///
/// Steps with side effects are never torn apart: they look at this between their parts
/// ([`check`](Cancel::check)), and waits end early ([`canceled`](Cancel::canceled)). What was done
/// by then is undone by the operation's teardown.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wanted: AtomicBool,
    notify: Notify,
}

impl Cancel {
    /// A new one, not canceled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the operation to stop.
    pub fn cancel(&self) {
        self.0.wanted.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.0.wanted.load(Ordering::Acquire)
    }

    /// An error if it was asked to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Canceled`].
    pub fn check(&self) -> Result<()> {
        if self.is_canceled() { Err(Self::error()) } else { Ok(()) }
    }

    /// Waits until it is asked to stop.
    pub async fn canceled(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.is_canceled() {
                return;
            }
            notified.await;
        }
    }

    /// Waits for `work`, or fails as soon as the operation is asked to stop.
    /// Only for work that may be dropped half-way.
    ///
    /// # Errors
    /// [`ErrorKind::Canceled`].
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.canceled() => Err(Self::error()),
            out = work => Ok(out),
        }
    }

    fn error() -> Error {
        Error::new(ErrorKind::Canceled, "canceled: the caller no longer waits for it")
    }
}
