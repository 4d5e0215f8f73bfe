//! What this process removes behind its callers, and waiting for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// The removals that go on, by numbers in the order in which they began.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    pending: Mutex<Pending>,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    all: BTreeSet<u64>,
}

/// Held as long as files are removed behind a caller.
#[derive(Debug)]
pub(crate) struct Deletion {
    number: u64,
    of: Arc<Deletions>,
}

impl Deletions {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins one. It never waits, whoever waits for others.
    pub(crate) fn begin(self: &Arc<Self>) -> Deletion {
        let mut pending = self.pending();
        let number = pending.next;
        pending.next += 1;
        pending.all.insert(number);
        Deletion { number, of: self.clone() }
    }

    /// Waits until those have ended that have begun by now.
    pub(crate) async fn finish(&self) {
        let begun = self.pending().next;
        loop {
            let mut gone = std::pin::pin!(self.gone.notified());
            // Before the look, or the end of one in between would be missed.
            gone.as_mut().enable();
            if self.pending().all.first().is_none_or(|oldest| *oldest >= begun) {
                return;
            }
            gone.await;
        }
    }
}

impl Drop for Deletion {
    fn drop(&mut self) {
        self.of.pending().all.remove(&self.number);
        self.of.gone.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_are_waited_for_that_have_begun() {
        let all = Arc::new(Deletions::default());
        all.finish().await;
        let (one, two) = (all.begin(), all.begin());
        let mut waits = Box::pin(all.finish());
        let now = || async { tokio::task::yield_now().await };
        assert!(futures_util::poll!(&mut waits).is_pending());
        // What begins later is neither kept waiting nor waited for.
        let later = all.begin();
        drop(two);
        now().await;
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(one);
        waits.await;
        drop(later);
    }
}
