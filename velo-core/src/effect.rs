//! Side effects, one by one.
//!
//! A *step* is whatever outlives a process: a record that is written, a volume that is made, a server
//! that is started, a file of Velo's own, a statement that changes a parent. Every step has a name
//! and goes through here: transactions ([`crate::state`]), statements ([`crate::postgres::session`]),
//! files ([`crate::disk`]), and the two traits, whose methods are a step each. In a build for tests a
//! step can be made to fail, or to kill the process, before it or after it; anywhere else this is
//! nothing but a call.

use std::future::Future;
use std::sync::Arc;

use crate::error::Result;
use crate::runtime::Runtime;
use crate::storage::Storage;

/// Does `work`, which is the step `name`.
pub(crate) async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    moment(name, When::Before)?;
    let done = work.await?;
    moment(name, When::After)?;
    Ok(done)
}

/// The same without waiting.
pub(crate) fn step_now<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    moment(name, When::Before)?;
    let done = work()?;
    moment(name, When::After)?;
    Ok(done)
}

/// On which side of a step something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), allow(dead_code))]
pub(crate) enum When {
    Before,
    After,
}

#[cfg(feature = "testing")]
use crate::testing::faults::{moment, runtime as watched_runtime, storage as watched_storage};

#[cfg(not(feature = "testing"))]
#[inline]
fn moment(_: &str, _: When) -> Result<()> {
    Ok(())
}

/// A storage whose methods are steps.
pub(crate) fn storage(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    #[cfg(feature = "testing")]
    let storage = watched_storage(storage);
    storage
}

/// A runtime whose methods are steps.
pub(crate) fn runtime(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
    #[cfg(feature = "testing")]
    let runtime = watched_runtime(runtime);
    runtime
}
