//! Faults at every step: what a crash or an error between any two side effects leaves.
//!
//! `VELO_TEST_FAULT=kill@17` ends the process, by SIGKILL, at the 17th moment: there is one before and
//! one after each step ([`crate::effect`]). `error@17` lets the step fail there. `full@17` fills the
//! disk there, with the file that `VELO_TEST_FILLER` names, but for `VELO_TEST_FILLER_LEAVES` bytes.
//! Several are told with commas between them, and `VELO_TEST_FAULT_SINCE=after storage: open` counts from the
//! moment behind the first of that name.
//! `VELO_TEST_STEPS` names a file to which every moment's number, side and step is added, so that a test
//! learns how many there are, and which was hit. At the moment that `VELO_TEST_GATE_AT` calls
//! (`before storage: open`) it waits, the first time, until the file `VELO_TEST_GATE` is there: whoever
//! watches the steps knows by then that it is, and does what must come in between.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::cancel::Cancel;
use crate::effect::{When, step};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::runtime::{
    InstanceRef, InstanceSpec, Runtime, RuntimeCapability, Started, Status, StopMode, ToolOutput,
    ToolSpec,
};
use crate::storage::{
    CloneSpec, FileOp, Location, Object, Storage, StorageCapability, Usage, VolumeSpec,
};

/// What is to happen, and when.
#[derive(Debug)]
struct Plan {
    faults: Vec<(Fault, u64)>,
    /// The moment from which they are counted; else from the beginning.
    since: Option<Since>,
    steps: Option<PathBuf>,
    gate: Option<Gate>,
}

/// Where an operation waits for its test.
#[derive(Debug)]
struct Gate {
    at: String,
    file: PathBuf,
    passed: AtomicBool,
}

/// How long a test may leave a gate shut.
const SHUT: Duration = Duration::from_secs(300);

impl Gate {
    fn of_test() -> Option<Self> {
        let at = std::env::var("VELO_TEST_GATE_AT").ok()?;
        let file = PathBuf::from(std::env::var_os("VELO_TEST_GATE")?);
        Some(Self { at, file, passed: AtomicBool::new(false) })
    }

    fn pass(&self) {
        if self.passed.swap(true, Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        while !self.file.exists() && begun.elapsed() < SHUT {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The moment from which faults are counted.
#[derive(Debug)]
struct Since {
    at: String,
    /// Its number, once it has come.
    came: OnceLock<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Error,
    Kill,
    Full,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
static MOMENT: AtomicU64 = AtomicU64::new(0);

fn plan() -> Option<&'static Plan> {
    let read = || {
        let fault = |text: &str| {
            let (what, moment) = text.split_once('@')?;
            let fault = match what {
                "error" => Fault::Error,
                "kill" => Fault::Kill,
                "full" => Fault::Full,
                _ => return None,
            };
            Some((fault, moment.parse().ok()?))
        };
        let faults = std::env::var("VELO_TEST_FAULT").unwrap_or_default();
        let faults: Vec<_> = faults.split(',').filter_map(fault).collect();
        let since = std::env::var("VELO_TEST_FAULT_SINCE").ok();
        let since = since.map(|at| Since { at, came: OnceLock::new() });
        let steps = std::env::var_os("VELO_TEST_STEPS").map(PathBuf::from);
        (!faults.is_empty() || steps.is_some()).then(|| Plan {
            faults,
            since,
            steps,
            gate: Gate::of_test(),
        })
    };
    PLAN.get_or_init(read).as_ref()
}

/// A moment before or after a step.
pub(crate) fn moment(step: &str, when: When) -> Result<()> {
    let Some(plan) = plan() else { return Ok(()) };
    let moment = MOMENT.fetch_add(1, Ordering::Relaxed) + 1;
    let side = match when {
        When::Before => "before",
        When::After => "after",
    };
    if let Some(path) = &plan.steps {
        let write = || {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(format!("{moment} {side} {step}\n").as_bytes())
        };
        write().map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    if let Some(gate) = plan.gate.as_ref().filter(|gate| gate.at == format!("{side} {step}")) {
        gate.pass();
    }
    let begin = match &plan.since {
        None => Some(0),
        Some(since) => {
            let begin = since.came.get().copied();
            if since.at == format!("{side} {step}") {
                let _ = since.came.set(moment);
            }
            begin
        }
    };
    let number = begin.map(|begin| moment.saturating_sub(begin));
    let fault = plan.faults.iter().find(|(_, at)| Some(*at) == number);
    match fault.map(|(fault, _)| fault) {
        Some(Fault::Kill) => loop {
            // Nothing more happens, on whatever thread, once the signal is there.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        },
        Some(Fault::Error) => {
            Err(Error::new(ErrorKind::Io, format!("a test's fault, {side}: {step}")))
        }
        Some(Fault::Full) => {
            if let Some(path) = std::env::var_os("VELO_TEST_FILLER") {
                fill(Path::new(&path)).map_err(|e| Error::io("fill the disk", e))?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// Takes all the space that is left.
fn fill(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut end = 0;
    let mut size: u64 = 64 << 20;
    while size >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, size) {
            Ok(()) => end += size,
            Err(_) => size /= 4,
        }
    }
    // What is too little for the one may do for the other. At the end: to write over what is there would,
    // on a btrfs that is full, look for space at each block, and take minutes.
    file.seek(std::io::SeekFrom::End(0))?;
    let block = [1; 4096];
    while file.write_all(&block).is_ok() {}
    let leaves = std::env::var("VELO_TEST_FILLER_LEAVES").ok().and_then(|text| text.parse().ok());
    let length = file.metadata()?.len();
    file.set_len(length.saturating_sub(leaves.unwrap_or(0u64)))
}

/// A storage whose methods are steps.
pub(crate) fn storage(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    match plan() {
        Some(_) => Arc::new(Watched(storage)),
        None => storage,
    }
}

/// A runtime whose methods are steps.
pub(crate) fn runtime(runtime: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
    match plan() {
        Some(_) => Arc::new(Watched(runtime)),
        None => runtime,
    }
}

#[derive(Debug)]
struct Watched<T>(T);

#[async_trait]
impl Storage for Watched<Arc<dyn Storage>> {
    fn capability(&self) -> StorageCapability {
        self.0.capability()
    }

    fn location(&self, object: Object) -> Location {
        self.0.location(object)
    }

    async fn open(&self, object: Object) -> Result<Location> {
        step("storage: open", self.0.open(object)).await
    }

    async fn create_volume(&self, spec: VolumeSpec) -> Result<()> {
        step("storage: create a volume", self.0.create_volume(spec)).await
    }

    async fn branch_volume(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        step("storage: clone a volume", self.0.branch_volume(spec, cancel)).await
    }

    async fn snapshot(&self, spec: CloneSpec, cancel: &Cancel) -> Result<()> {
        step("storage: take a snapshot", self.0.snapshot(spec, cancel)).await
    }

    async fn edit(&self, object: Object, ops: Vec<FileOp>) -> Result<()> {
        step("storage: edit", self.0.edit(object, ops)).await
    }

    async fn sync(&self, object: Object) -> Result<()> {
        step("storage: sync", self.0.sync(object)).await
    }

    async fn destroy_volume(&self, id: Id) -> Result<()> {
        step("storage: destroy a volume", self.0.destroy_volume(id)).await
    }

    async fn destroy_snapshot(&self, id: Id) -> Result<()> {
        step("storage: destroy a snapshot", self.0.destroy_snapshot(id)).await
    }

    async fn list(&self) -> Result<Vec<Object>> {
        self.0.list().await
    }

    async fn usage(&self, object: Object) -> Result<Usage> {
        self.0.usage(object).await
    }

    async fn available(&self, source: Object) -> Result<u64> {
        self.0.available(source).await
    }
}

#[async_trait]
impl Runtime for Watched<Arc<dyn Runtime>> {
    fn capability(&self) -> RuntimeCapability {
        self.0.capability()
    }

    async fn start(&self, spec: InstanceSpec) -> Result<Started> {
        step("runtime: start", self.0.start(spec)).await
    }

    async fn stop(&self, instance: &InstanceRef, mode: StopMode) -> Result<()> {
        step("runtime: stop", self.0.stop(instance, mode)).await
    }

    async fn status(&self, instance: &InstanceRef) -> Result<Status> {
        self.0.status(instance).await
    }

    async fn orphans(&self, instance: &InstanceRef) -> Result<bool> {
        self.0.orphans(instance).await
    }

    async fn run(&self, spec: ToolSpec) -> Result<ToolOutput> {
        step("runtime: run a tool", self.0.run(spec)).await
    }

    async fn logs(&self, log: &Path, lines: usize) -> Result<String> {
        self.0.logs(log, lines).await
    }

    async fn list(&self, root: &Path) -> Result<Vec<Location>> {
        self.0.list(root).await
    }
}
