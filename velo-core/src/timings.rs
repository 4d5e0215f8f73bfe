//! What each step of an operation took.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long an operation and its steps took.
///
/// Steps may overlap, so they need not add up to the total.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timings {
    /// From the call to the result.
    pub total: Duration,
    /// The steps in the order in which they ended: a name (`record`, `checkpoint`, `clone`,
    /// `start`, `ready`, …) and how long it took.
    pub steps: Vec<(String, Duration)>,
}

/// Collects the steps of one operation.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    begun: Instant,
    done: Arc<Mutex<Vec<(String, Duration)>>>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { begun: Instant::now(), done: Arc::default() }
    }
}

impl Steps {
    /// Runs `work` as the step `name`, in a span of its own.
    pub(crate) async fn run<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        use tracing::Instrument;
        let begun = Instant::now();
        let out = work.instrument(tracing::debug_span!("step", name)).await;
        let took = begun.elapsed();
        tracing::debug!(step = name, took_us = took.as_micros() as u64);
        self.done.lock().unwrap_or_else(|e| e.into_inner()).push((name.to_owned(), took));
        out
    }

    /// What was collected until now.
    pub(crate) fn timings(&self) -> Timings {
        Timings {
            total: self.begun.elapsed(),
            steps: self.done.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }
}
