//! A process of a run: it finds the run's keeper, or starts it.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::protocol::{Answer, Ask, Line};
use super::{Task, program};
use crate::branch::{Branch, Change, Keep};
use crate::cancel::Cancel;
use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::pool::PoolInfo;
use crate::record::BranchRecord;
use crate::run::Run;
use crate::seed::Seed;
use crate::timings::Timings;

/// How long a keeper may take to come up.
const START: Duration = Duration::from_secs(30);

/// Where the processes of a run meet, by the settings that they have.
#[derive(Debug, Clone)]
pub(crate) struct Meeting {
    task: Task,
    folder: PathBuf,
}

/// The connection that holds a branch. Dropped, it gives the branch back.
#[derive(Debug)]
pub(crate) struct Held {
    line: ManuallyDrop<Mutex<Line>>,
    /// A copy that a forked child has gives nothing back.
    pid: u32,
}

/// What this process has had a keeper keep ready, by where they meet and the seed.
pub(crate) type Wishes = std::sync::Mutex<HashMap<(PathBuf, Id), Wish>>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    least: usize,
    most: usize,
    /// The keeper that was told.
    keeper: Option<(i32, u64)>,
}

impl Meeting {
    /// Where this process finds the others of its run, if it is of one.
    pub(crate) fn of_this_process(config: &Config) -> Result<Option<Self>> {
        let Some(run) = Run::of_this_process() else { return Ok(None) };
        let settings =
            serde_json::to_string(&(&run, config, env!("CARGO_PKG_VERSION"))).map_err(|e| {
                Error::new(ErrorKind::Internal, "settings cannot be written").with_source(e)
            })?;
        let hash = Sha256::digest(settings);
        let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let folder = config.home().join("keepers").join(name);
        let socket = folder.join("s");
        Ok(Some(Self { task: Task { run, config: config.clone(), socket }, folder }))
    }

    /// A connection to the keeper, which is started where there is none.
    async fn line(&self, cancel: &Cancel) -> Result<Line> {
        if let Some(line) = self.connected().await? {
            return Ok(line);
        }
        // A keeper of a run that is over would end at once.
        if self.task.run.root().is_none() {
            return Err(crate::run::over());
        }
        // One of all starts it; the others find it when they have the lock.
        let _starting = self.starting(cancel).await?;
        if let Some(line) = self.connected().await? {
            return Ok(line);
        }
        crate::disk::remove("remove a socket of a dead keeper", &self.task.socket)?;
        let mut child = program::start(&self.task, &self.folder.join("log"))?;
        let begun = std::time::Instant::now();
        while begun.elapsed() < START {
            if let Some(line) = self.connected().await? {
                return Ok(line);
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.failed(format!("it ended ({status})")));
            }
            cancel.guard(tokio::time::sleep(Duration::from_millis(2))).await?;
        }
        Err(self.failed(format!("it takes no connection within {} s", START.as_secs())))
    }

    /// The lock of whoever starts the keeper, in its folder, which is made.
    async fn starting(&self, cancel: &Cancel) -> Result<Lock> {
        let begun = std::time::Instant::now();
        loop {
            // A keeper that ends may take the new folder for a dead one's until it is locked.
            match self.locked(cancel).await {
                Ok(lock) if lock.is_linked() => return Ok(lock),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ if begun.elapsed() < START => {}
                _ => return Err(self.failed("its folder is taken away again and again".into())),
            }
        }
    }

    async fn locked(&self, cancel: &Cancel) -> Result<Lock> {
        for folder in self.folder.parent().into_iter().chain([&*self.folder]) {
            crate::disk::make_folder("make the folder of a keeper", folder, 0o700, None)?;
        }
        let path = self.folder.join("lock");
        let what = "the keeper of this run";
        Lock::take(&path, Mode::Exclusive, START * 2, what, cancel).await
    }

    fn failed(&self, why: String) -> Error {
        Error::new(ErrorKind::Internal, format!("the keeper of this run does not start: {why}"))
            .with_hint(format!("its log says more: {}", self.folder.join("log").display()))
    }

    async fn connected(&self) -> Result<Option<Line>> {
        use std::io::ErrorKind as Io;
        match UnixStream::connect(&self.task.socket).await {
            Ok(stream) => Ok(Some(Line::new(stream))),
            Err(e) if matches!(e.kind(), Io::NotFound | Io::ConnectionRefused) => Ok(None),
            Err(e) => Err(Error::io(format!("connect to {}", self.task.socket.display()), e)),
        }
    }

    /// A branch of the run's pool.
    pub(crate) async fn acquire(
        &self,
        seed: &Seed,
        label: Option<String>,
        cancel: &Cancel,
    ) -> Result<Branch> {
        let project = seed.project().0.record.name.to_string();
        let ask = &Ask::Acquire { project, seed: seed.id(), label };
        again(move || self.acquire_once(seed, ask, cancel)).await
    }

    async fn acquire_once(&self, seed: &Seed, ask: &Ask, cancel: &Cancel) -> Result<Branch> {
        let project = seed.project().0;
        let mut line = self.line_of(seed, cancel).await?;
        let Answer::Branch(record) = cancel.guard(line.ask(ask)).await?? else {
            return Err(out_of_turn());
        };
        let held = Held { line: ManuallyDrop::new(Mutex::new(line)), pid: std::process::id() };
        Ok(Branch::held_by_keeper(&project, *record, Arc::new(held)))
    }

    pub(crate) async fn keep_ready(&self, seed: &Seed, least: usize, most: usize) -> Result<()> {
        again(move || self.keep_ready_once(seed, least, most)).await
    }

    async fn keep_ready_once(&self, seed: &Seed, least: usize, most: usize) -> Result<()> {
        let mut line = self.line(&Cancel::default()).await?;
        self.wish(&mut line, seed, least, most).await
    }

    /// A connection to a keeper that knows what this process wants to be ready of the seed: one that came after
    /// another is told.
    async fn line_of(&self, seed: &Seed, cancel: &Cancel) -> Result<Line> {
        let mut line = self.line(cancel).await?;
        let wish = wishes()?.get(&(self.task.socket.clone(), seed.id())).copied();
        if let Some(Wish { least, most, keeper }) = wish
            && keeper != line.peer()
        {
            self.wish(&mut line, seed, least, most).await?;
        }
        Ok(line)
    }

    async fn wish(&self, line: &mut Line, seed: &Seed, least: usize, most: usize) -> Result<()> {
        let (project, seed) = (seed.project().0.record.name.to_string(), seed.id());
        line.ask(&Ask::KeepReady { project, seed, least, most }).await?;
        let wish = Wish { least, most, keeper: line.peer() };
        wishes()?.insert((self.task.socket.clone(), seed), wish);
        Ok(())
    }

    pub(crate) async fn info(&self, seed: &Seed) -> Result<PoolInfo> {
        again(move || self.info_once(seed)).await
    }

    async fn info_once(&self, seed: &Seed) -> Result<PoolInfo> {
        let mut line = self.line_of(seed, &Cancel::default()).await?;
        let (project, seed) = (seed.project().0.record.name.to_string(), seed.id());
        match line.ask(&Ask::Info { project, seed }).await? {
            Answer::Info(info) => Ok(info),
            _ => Err(out_of_turn()),
        }
    }
}

/// What is asked of a keeper, and once more where that ended just now, with nobody to ask it: then another one follows.
async fn again<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    match ask().await {
        Err(error) if error.kind() == ErrorKind::Conflict => ask().await,
        other => other,
    }
}

fn wishes() -> Result<std::sync::MutexGuard<'static, HashMap<(PathBuf, Id), Wish>>> {
    Ok(Engine::get()?.wishes.lock().unwrap_or_else(|e| e.into_inner()))
}

// A panic in the middle of a conversation leaves a line that answers out of turn, and says so.
impl std::panic::UnwindSafe for Held {}
impl std::panic::RefUnwindSafe for Held {}

impl Held {
    /// Gives the branch back, and waits until its server is gone.
    pub(crate) async fn close(&self) -> Result<()> {
        self.line.lock().await.ask(&Ask::Close).await.map(drop)
    }

    /// The branch as it is then, which stays if it may.
    pub(crate) async fn keep(&self, how: Keep) -> Result<crate::record::BranchRecord> {
        match self.line.lock().await.ask(&Ask::Keep(how)).await? {
            Answer::Branch(record) => Ok(*record),
            _ => Err(out_of_turn()),
        }
    }
}

impl Held {
    /// Whether it is this connection that the branch depends on, and this process's own.
    pub(crate) fn holds(&self, record: &BranchRecord) -> bool {
        record.ephemeral && self.pid == std::process::id()
    }

    /// Has the keeper change the branch. What it becomes, and how long the steps took.
    pub(crate) async fn change(
        &self,
        change: Change,
        cancel: &Cancel,
    ) -> Result<(BranchRecord, Timings)> {
        let mut line = cancel.guard(self.line.lock()).await?;
        match line.ask_unless(&Ask::Change(change), cancel).await? {
            Answer::Changed(changed) => Ok(*changed),
            _ => Err(out_of_turn()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // In a forked child its number is closed by now, and may be another file's.
        if self.pid == std::process::id() {
            self.line.get_mut().hang_up();
            // SAFETY: nothing looks at it after this.
            unsafe { ManuallyDrop::drop(&mut self.line) };
        }
    }
}

fn out_of_turn() -> Error {
    Error::new(ErrorKind::Internal, "the keeper of this run answers something else")
}

/// Whether a folder of a keeper is nobody's any more.
pub(crate) fn is_left(folder: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(folder.join("s")).is_err()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn who_starts_a_keeper_is_not_in_the_way_of_one_that_ends() {
        let home = tempfile::tempdir().unwrap();
        let all = home.path().join("keepers");
        let folder = all.join("00000000000000aa");
        let run = Run { name: "run".into(), root: 1, started: 1 };
        let config = Config::builder().home(home.path()).build().unwrap();
        let task = Task { run, config, socket: folder.join("s") };
        let meeting = Meeting { task, folder };
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    crate::keeper::sweep(&all);
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let locked: Vec<_> = (0..2000)
                .map(|_| {
                    let lock = runtime.as_ref().unwrap().block_on(meeting.starting(&Cancel::new()));
                    lock.map(|lock| lock.is_linked() && meeting.folder.exists())
                })
                .collect();
            // Before anything is asserted, or the sweeper would go on for ever.
            ended.store(true, Ordering::Relaxed);
            for one in locked {
                assert!(one.unwrap());
            }
        });
    }
}
