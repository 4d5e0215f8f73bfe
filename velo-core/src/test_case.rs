//! What `#[velo_core::test]` becomes.

// Not for anybody but the attribute.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::branch::{Branch, FAILED_KEPT};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::from_branch::FromBranch;
use crate::pool::Pool;
use crate::project::Project;
use crate::seed::{Seed, SeedKey, pattern_in, tell_waits};
use crate::spec::BranchSpec;
use crate::suite;

/// How long a failed test's branch stays, and what says otherwise.
const KEEP: Duration = Duration::from_secs(60 * 60);
const KEEP_VARIABLE: &str = "VELO_KEEP_FAILED";

/// How long a seed that a program built is kept for it, once another is there that was built of the same.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the attribute says of a test.
#[derive(Debug)]
pub struct Case {
    pub path: &'static str,
    pub package: &'static str,
    /// The package's, as it was compiled.
    pub folder: &'static str,
    pub project: Option<&'static str>,
    pub seed: Option<&'static str>,
    pub build: Option<Build>,
    pub should_panic: bool,
}

type Fault = Box<dyn StdError + Send + Sync>;
type Built = Pin<Box<dyn Future<Output = Result<(), Fault>>>>;

/// A function that prepares a seed.
pub struct Build {
    name: &'static str,
    /// What tells it from others of its name: its path from the crate's root; of what is no function but a pointer to
    /// one, where that is named.
    path: &'static str,
    call: Box<dyn FnOnce(Branch) -> Built>,
}

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Build {
    pub fn new<B, F, E>(name: &'static str, module: &'static str, build: B) -> Self
    where
        B: FnOnce(Branch) -> F + 'static,
        F: Future<Output = Result<(), E>> + 'static,
        E: Into<Fault>,
    {
        let path = if size_of::<B>() == 0 { std::any::type_name::<B>() } else { module };
        let call = move |branch| -> Built {
            Box::pin(unpanicked(async move { build(branch).await.map_err(Into::into) }))
        };
        Self { name, path, call: Box::new(call) }
    }
}

/// A panic is an error as any other: remembered, or each test of the process would build again.
async fn unpanicked(build: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let mut build = pin!(build);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| build.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied();
            let said = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let what = format!("it panicked: {}", said.unwrap_or("without a text"));
            Poll::Ready(Err(what.into()))
        })
    })
    .await
}

/// What a test can return.
#[diagnostic::on_unimplemented(message = "a test returns `()` or a `Result`, and not `{Self}`")]
pub trait Verdict {
    fn is_failure(&self) -> bool;
}

impl Verdict for () {
    fn is_failure(&self) -> bool {
        false
    }
}

impl<T, E> Verdict for Result<T, E> {
    fn is_failure(&self) -> bool {
        self.is_err()
    }
}

/// Runs an async test.
pub fn run<T: Verdict>(case: Case, body: impl AsyncFnOnce(Branch) -> T) -> T {
    let runtime = runtime();
    let (branch, keeps) = runtime.block_on(prepared(case));
    judged(&branch, &keeps, || runtime.block_on(body(branch.clone())))
}

/// Runs one that is not: it may start a runtime of its own.
pub fn run_blocking<T: Verdict>(case: Case, body: impl FnOnce(Branch) -> T) -> T {
    let (branch, keeps) = runtime().block_on(prepared(case));
    judged(&branch, &keeps, || body(branch.clone()))
}

/// What a test takes of its branch.
pub async fn taken<T: FromBranch>(branch: &Branch) -> T {
    match T::from_branch(branch).await {
        Ok(taken) => taken,
        Err(error) => fail(&format!("{} cannot be had: {error}", std::any::type_name::<T>())),
    }
}

/// The same for one that is not async.
pub fn made<T: From<Branch>>(branch: &Branch) -> T {
    T::from(branch.clone())
}

/// How a failure of Velo's ends a test, which has no other way to say it.
#[allow(clippy::panic)]
fn fail(what: &str) -> ! {
    panic!("{what}")
}

fn runtime() -> Runtime {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => fail(&format!("a test has no runtime: {error}")),
    }
}

/// How long a test's branch is to stay should it fail; not at all if none. A variable that is wrong is told
/// at once, not when it is needed.
fn keeps(case: &Case) -> Option<Duration> {
    if case.should_panic {
        return None;
    }
    match std::env::var(KEEP_VARIABLE) {
        Ok(text) => time(&text).unwrap_or_else(|| {
            fail(&format!("{KEEP_VARIABLE}={text:?} is no time: write one like 30m or 2h, or none"))
        }),
        Err(_) => Some(KEEP),
    }
}

/// A number of minutes, hours or days; or none, which is no time.
fn time(text: &str) -> Option<Option<Duration>> {
    let text = text.trim();
    if text == "none" || text == "0" {
        return Some(None);
    }
    let (unit, at) = text.char_indices().next_back().map(|(at, unit)| (unit, at))?;
    let minutes = match unit {
        'm' => 1,
        'h' => 60,
        'd' => 24 * 60,
        _ => return None,
    };
    let number = text[..at].parse::<u64>().ok()?;
    let seconds = number.checked_mul(minutes * 60)?;
    Some(Some(Duration::from_secs(seconds)).filter(|time| !time.is_zero()))
}

/// The branch of a test, and how long it stays should that fail.
async fn prepared(case: Case) -> (Branch, Option<Duration>) {
    let keeps = keeps(&case);
    let path = case.path;
    match branch(case).await {
        Ok(branch) => (branch, keeps),
        Err(error) => {
            let hint = error.hint().map(|hint| format!("\n  {hint}")).unwrap_or_default();
            let context: String =
                error.context().map(|(key, value)| format!("\n  {key}: {value}")).collect();
            fail(&format!("the test {path} has no branch: {error}{hint}{context}"))
        }
    }
}

async fn branch(case: Case) -> Result<Branch, Arc<Error>> {
    let label = case.path.replace("::", ".");
    if case.seed.is_none() && case.build.is_none() {
        let project = opened(&project_of(&case)?).await?;
        return Ok(Branch::create(&project, BranchSpec::ephemeral().label(label)).await?);
    }
    // The pools of this process: without a handle they would end with each test. A seed that cannot be built is not
    // built again by each of them.
    type Text = Option<&'static str>;
    type Key = (Text, &'static str, Text, Option<(&'static str, &'static str)>);
    type Known = Result<Pool, Arc<Error>>;
    static POOLS: LazyLock<Mutex<HashMap<Key, Arc<OnceCell<Known>>>>> =
        LazyLock::new(Mutex::default);
    let build = case.build.as_ref().map(|build| (build.path, build.name));
    let key = (case.project, case.package, case.seed, build);
    let pools = || POOLS.lock().unwrap_or_else(|e| e.into_inner());
    let mut case = Some(case);
    loop {
        let pool = pools().entry(key).or_default().clone();
        let known = pool.get_or_try_init(|| {
            let case = case.take();
            async move {
                let again = || Error::new(ErrorKind::Internal, "a test's seed is built once");
                match pool_of(case.ok_or_else(again)?).await {
                    Err(error) if error.kind() == ErrorKind::Seed => Ok(Err(Arc::new(error))),
                    other => other.map(Ok),
                }
            }
        });
        match known.await?.clone()?.acquire_as(&label).await {
            // Somebody has deleted the seed since another test of this process had it built.
            Err(error) if error.kind() == ErrorKind::NotFound && case.is_some() => {
                let mut pools = pools();
                if pools.get(&key).is_some_and(|known| Arc::ptr_eq(known, &pool)) {
                    pools.remove(&key);
                }
            }
            acquired => return Ok(acquired?),
        }
    }
}

/// What the project of a test is called: each PostgreSQL that somebody asks for has one of its own. Not as the
/// package: in a project of that name somebody may work, and seeds begin with what is in its `main`.
fn project_of(case: &Case) -> Result<String> {
    if let Some(name) = case.project {
        return Ok(name.to_owned());
    }
    let version = Config::load()?.pg_version().map(|major| format!("-pg{major}"));
    Ok(format!("{}-tests{}", case.package, version.unwrap_or_default()))
}

/// The project of that name. One that only tests have made needs no server of its own.
async fn opened(name: &str) -> Result<Project> {
    let project = Project::builder(name).main_stopped().open_or_create().await?;
    suite::refuse_other_settings(&project)?;
    Ok(project)
}

async fn pool_of(case: Case) -> Result<Pool> {
    tell_waits();
    let project = opened(&project_of(&case)?).await?;
    // Tests run in the folder of their package, but for those who moved away.
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| case.folder.to_owned());
    let files = case.seed.map(|files| pattern_in(Path::new(&folder), files));
    let Some(build) = case.build else {
        return project.seed_sql(files.unwrap_or_default()).await?.pool();
    };
    let mut key = SeedKey::new().text(build.path).text(build.name).label(build.name);
    if let Some(files) = files {
        key = key.files(files)?;
    }
    let mut is_new = false;
    let built = project.seed(key, async |branch| {
        is_new = true;
        (build.call)(branch).await
    });
    let seed = built.await?;
    if is_new {
        prune(&project, &seed).await;
    }
    seed.pool()
}

/// Deletes what earlier programs built of the same: each that is compiled anew builds a seed of its own.
async fn prune(project: &Project, seed: &Seed) {
    let label = seed.info().label.clone();
    if label.is_some()
        && let Err(error) = project.prune_call(UNUSED, label).await
    {
        tracing::warn!(%error, "seeds that nobody uses stay for now");
    }
}

/// Runs the test, and keeps its branch if it fails.
fn judged<T: Verdict>(branch: &Branch, keeps: &Option<Duration>, test: impl FnOnce() -> T) -> T {
    let result = catch_unwind(AssertUnwindSafe(test));
    let failed = result.as_ref().map_or(true, Verdict::is_failure);
    if let Some(time) = keeps.filter(|_| failed) {
        kept(branch, time);
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Has a failed test's branch stay, and tells how to look at it, where the test's own output goes.
#[allow(clippy::print_stderr)]
fn kept(branch: &Branch, time: Duration) {
    let minutes = time.as_secs() / 60;
    match runtime().block_on(branch.keep_failed(time)) {
        Ok(true) => {
            let name = branch.full_name();
            let url = branch.url();
            eprintln!(
                "\nits database stays for {minutes} minutes, and then until Velo is next used: {url}"
            );
            eprintln!("  psql '{url}'");
            eprintln!("  velo branch delete {name}");
        }
        Ok(false) => {
            let project = branch.project();
            eprintln!("\nits database does not stay: {FAILED_KEPT} others do already");
            eprintln!("  velo branch list {}", project.name());
        }
        Err(error) => eprintln!("\nits database does not stay: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let minutes = |minutes: u64| Some(Some(Duration::from_secs(minutes * 60)));
        assert_eq!(time("30m"), minutes(30));
        assert_eq!(time(" 2h "), minutes(120));
        assert_eq!(time("1d"), minutes(24 * 60));
        for none in ["none", "0", "0m"] {
            assert_eq!(time(none), Some(None), "{none}");
        }
        for wrong in ["", "m", "2", "2x", "-1m", "2é", "99999999999999999999h"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
