//! [`Pool`]: branches of a seed that are started ahead of time.
//!
//! Whoever asks gets one that is ready, and the next is started behind his back. What comes back is
//! discarded: a branch that somebody had is never somebody else's.
//!
//! The processes of a run share the pools of their keeper ([`crate::keeper`]); any other process has its
//! own.
//!
//! One that is put aside has a session of Velo's first, so that its first client finds in memory what every
//! session needs. Who finds none that is ready does not wait for that.
//!
//! How many are kept ready is learned: each request that finds none doubles it, and a while without any
//! request halves it, down to none. A pool that nobody asks costs nothing, unless it was told to keep some ready
//! ([`Pool::keep_ready`]): then it tries again after a while where one cannot be started.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::boot;
use crate::branch::Branch;
use crate::create;
use crate::engine::{self, Call, Engine, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
#[cfg(target_os = "linux")]
use crate::keeper::Meeting;
use crate::record::BranchRecord;
use crate::runtime::Status;
use crate::seed::Seed;
use crate::slots;
use crate::spec::BranchSpec;
use crate::timings::Timings;

mod memory;
mod size;

use size::Size;

/// How long nobody asks before fewer are kept ready.
const IDLE: Duration = Duration::from_secs(5);

/// The pools of a process: by home and seed.
pub(crate) type Pools = Mutex<HashMap<(PathBuf, Id), Weak<Inner>>>;

/// Branches of a seed that are started ahead of time. See [`Seed::pool`].
///
/// A handle is cheap to clone; with the last one go the branches that nobody has taken.
#[derive(Debug, Clone)]
pub struct Pool(Whose);

#[derive(Debug, Clone)]
enum Whose {
    /// This process's.
    Own(Arc<Inner>),
    /// Of all processes of this one's run.
    #[cfg(target_os = "linux")]
    OfRun(Seed, Arc<Meeting>),
}

#[derive(Debug)]
pub(crate) struct Inner {
    seed: Seed,
    shelf: Mutex<Shelf>,
    /// After a `fork` a handle is the parent's.
    pid: u32,
}

#[derive(Debug)]
struct Shelf {
    ready: VecDeque<Branch>,
    /// Those that are started and not warm yet.
    cold: VecDeque<Branch>,
    /// How many are being started.
    starting: usize,
    /// Who found none, the first first.
    waiting: VecDeque<oneshot::Sender<Result<Branch>>>,
    size: Size,
    /// Whether somebody looks if it is asked at all.
    watched: bool,
    /// Whether somebody ends it, who takes what is ready.
    ends: bool,
}

/// What is known of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct PoolInfo {
    /// How many branches wait to be taken.
    pub ready: usize,
    /// How many are being started.
    pub starting: usize,
    /// How many are kept ready, as demand is now.
    pub wanted: usize,
    /// The most that are kept ready.
    pub limit: usize,
}

impl Seed {
    /// The pool of ephemeral branches of it, the same one for whoever asks in this process; and in all
    /// processes of this one's run, where a runner says that there is one: nextest, pytest-xdist, or whatever
    /// sets `VELO_RUN` to a name for what it starts (and `VELO_RUN_ROOT` to the number of the process that the
    /// run ends with, where that is not their parent).
    ///
    /// It keeps at most so many ready as this machine has cores, twice, as a quarter of the memory that
    /// is available holds, in a container of what that may still take, and as half of the home's limits allow; [`Pool::keep_ready`] changes that.
    ///
    /// ```no_run
    /// # async fn example(seed: velo_core::Seed) -> velo_core::Result<()> {
    /// let pool = seed.pool()?;
    /// let branch = pool.acquire().await?; // ready, if somebody has asked before
    /// println!("{}", branch.url());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If Velo's thread cannot be started.
    pub fn pool(&self) -> Result<Pool> {
        let project = self.project();
        #[cfg(target_os = "linux")]
        if !crate::keeper::is_keeper()
            && let Some(meeting) = Meeting::of_this_process(&project.0.config)?
        {
            return Ok(Pool(Whose::OfRun(self.clone(), Arc::new(meeting))));
        }
        #[cfg(target_os = "linux")]
        if crate::run::is_over() {
            return Err(crate::run::over());
        }
        let key = (project.0.config.home.clone(), self.id());
        let mut pools = Engine::get()?.pools.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(inner) = pools.get(&key).and_then(Weak::upgrade) {
            return Ok(Pool(Whose::Own(inner)));
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let shelf = Shelf {
            ready: VecDeque::new(),
            cold: VecDeque::new(),
            starting: 0,
            waiting: VecDeque::new(),
            size: Size::new(most(&project)),
            watched: false,
            ends: false,
        };
        let inner = Inner { seed: self.clone(), shelf: Mutex::new(shelf), pid: std::process::id() };
        let inner = Arc::new(inner);
        pools.insert(key, Arc::downgrade(&inner));
        Ok(Pool(Whose::Own(inner)))
    }
}

/// The most branches that a project's pool keeps ready, unless told.
fn most(project: &crate::Project) -> usize {
    let (record, config) = (&project.0.record, &project.0.config);
    let memory = slots::memory(record, record.limits, &Default::default(), true).max(1);
    let fits = |bytes: u64| usize::try_from(bytes / memory).unwrap_or(usize::MAX);
    let mut most = engine::cores() * 2;
    most = most.min(memory::available().map_or(most, |bytes| fits(bytes / 4)));
    most = most.min(config.max_memory.map_or(most, |bytes| fits(bytes / 2)));
    most = most.min(config.max_running.map_or(most, |servers| servers as usize / 2));
    most.max(1)
}

impl Pool {
    /// A branch that is ready, and nobody else's; where none is, one that is started now. It is
    /// ephemeral: it goes with its last handle, or with this process.
    ///
    /// # Errors
    /// As [`Branch::create`].
    pub async fn acquire(&self) -> Result<Branch> {
        self.acquire_call(None).await
    }

    /// The same, called after who wants it: lists show `project/~label.id`.
    ///
    /// # Errors
    /// As [`Branch::create`].
    pub async fn acquire_as(&self, label: impl AsRef<str>) -> Result<Branch> {
        self.acquire_call(Some(label.as_ref().to_owned())).await
    }

    pub(crate) fn acquire_call(&self, label: Option<String>) -> Call<Branch> {
        let whose = self.0.clone();
        engine::call(move |op| async move {
            let inner = match whose {
                Whose::Own(inner) => inner.of_this_process()?,
                #[cfg(target_os = "linux")]
                Whose::OfRun(seed, meeting) => {
                    return meeting.acquire(&seed, label, &op.cancel).await;
                }
            };
            let branch = loop {
                let branch = match inner.take() {
                    Taken::Ready(branch) => branch,
                    Taken::Later(later) => {
                        break op.cancel.guard(later).await?.unwrap_or_else(|_| {
                            Err(Error::new(ErrorKind::Internal, "a pool forgot who waits"))
                        })?;
                    }
                };
                if inner.lives(&branch).await {
                    break branch;
                }
                tracing::warn!(?branch, "a branch that was ready has died, or was deleted");
            };
            let label = label.map(|label| crate::id::label(&label));
            if let Some(label) = label.filter(|label| !label.is_empty()) {
                branch.relabel(label);
            }
            Ok(branch)
        })
    }

    /// Has so many branches ready at most, and `least` of them from now on, whoever asks or not. Where one cannot be
    /// started, that is tried again seconds later. In a run that holds for as long as the run: after the keeper was
    /// killed, from the next time on that this process asks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if `least` is more than `most`.
    pub async fn keep_ready(&self, least: usize, most: usize) -> Result<()> {
        self.keep_ready_call(least, most).await
    }

    pub(crate) fn keep_ready_call(&self, least: usize, most: usize) -> Call<()> {
        let whose = self.0.clone();
        engine::call(move |_| async move {
            if least > most {
                let what = format!("a pool cannot keep {least} branches ready, and at most {most}");
                return Err(Error::new(ErrorKind::InvalidInput, what)
                    .with_hint("give the smaller number first"));
            }
            let inner = match whose {
                Whose::Own(inner) => inner.of_this_process()?,
                #[cfg(target_os = "linux")]
                Whose::OfRun(seed, meeting) => return meeting.keep_ready(&seed, least, most).await,
            };
            let surplus = {
                let mut shelf = inner.shelf();
                shelf.size.limit(least, most);
                inner.refill(&mut shelf);
                // What is more than that goes when nobody asks for it.
                inner.watch(&mut shelf);
                shelf.surplus()
            };
            drop(surplus);
            Ok(())
        })
    }

    /// Whether it has some ready whoever asks or not.
    #[cfg(target_os = "linux")]
    pub(crate) fn keeps_ready(&self) -> bool {
        matches!(&self.0, Whose::Own(inner) if inner.shelf().size.least() > 0)
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// If the keeper of a run cannot be asked.
    pub async fn info(&self) -> Result<PoolInfo> {
        self.info_call().await
    }

    pub(crate) fn info_call(&self) -> Call<PoolInfo> {
        let whose = self.0.clone();
        engine::call(move |_| async move {
            match whose {
                Whose::Own(inner) => Ok(inner.of_this_process()?.shelf().info()),
                #[cfg(target_os = "linux")]
                Whose::OfRun(seed, meeting) => meeting.info(&seed).await,
            }
        })
    }

    /// Has it keep nothing any more, and waits until all that it had is gone.
    #[cfg(target_os = "linux")]
    pub(crate) async fn end(&self) {
        let Whose::Own(inner) = &self.0 else { return };
        loop {
            let (ready, starting) = {
                let mut shelf = inner.shelf();
                shelf.size.limit(0, 0);
                shelf.ends = true;
                let cold = std::mem::take(&mut shelf.cold);
                (std::mem::take(&mut shelf.ready).into_iter().chain(cold), shelf.starting)
            };
            let mut closed = tokio::task::JoinSet::new();
            for branch in ready {
                closed.spawn(branch.close_call());
            }
            while let Some(closed) = closed.join_next().await {
                if let Ok(Err(error)) = closed {
                    tracing::warn!(%error, "a branch stays; it goes when somebody opens the home");
                }
            }
            if starting == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What somebody gets who asks.
enum Taken {
    Ready(Branch),
    Later(oneshot::Receiver<Result<Branch>>),
}

impl Inner {
    /// After a `fork` the child's own, for what is ready in the parent's is the parent's.
    fn of_this_process(self: Arc<Self>) -> Result<Arc<Self>> {
        if self.pid == std::process::id() {
            return Ok(self);
        }
        match self.seed.pool()?.0 {
            Whose::Own(inner) => Ok(inner),
            #[cfg(target_os = "linux")]
            Whose::OfRun(..) => {
                Err(Error::new(ErrorKind::Conflict, "a pool from before this process was of a run"))
            }
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take(self: &Arc<Self>) -> Taken {
        let mut shelf = self.shelf();
        let found = shelf.ready.pop_front().or_else(|| shelf.cold.pop_front());
        let taken = match found {
            Some(branch) => {
                shelf.size.met();
                Taken::Ready(branch)
            }
            None => {
                shelf.size.missed();
                let (sender, receiver) = oneshot::channel();
                shelf.waiting.push_back(sender);
                Taken::Later(receiver)
            }
        };
        self.refill(&mut shelf);
        self.watch(&mut shelf);
        taken
    }

    /// Starts as many as are missing, no more at a time than the machine has cores.
    fn refill(self: &Arc<Self>, shelf: &mut Shelf) {
        // Who no longer waits gets none.
        shelf.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = shelf.size.ahead() + shelf.waiting.len();
        while shelf.ready.len() + shelf.coming() < wanted && shelf.coming() < engine::cores() {
            shelf.starting += 1;
            let inner = self.clone();
            engine::spawn(async move {
                let made = inner.start().await;
                if let Some(cold) = inner.put(made) {
                    inner.warm(&cold).await;
                    inner.warmed(cold.id);
                }
            });
        }
    }

    async fn start(&self) -> Result<Branch> {
        let project = self.seed.project().0;
        let home = Engine::get()?.home(&project.config).await?;
        let spec = BranchSpec::ephemeral().label("pool").from(&self.seed);
        let record = create::create(&home, &project.record, &spec, &Op::default()).await?;
        Ok(Branch::of(&project, record, Timings::default(), true))
    }

    /// What was started goes to who waits longest, else on the shelf: then it is to be warmed.
    fn put(self: &Arc<Self>, made: Result<Branch>) -> Option<BranchRecord> {
        let mut cold = None;
        let surplus = {
            let mut shelf = self.shelf();
            shelf.starting -= 1;
            let failed = made.is_err();
            let mut made = Some(made);
            while let Some(result) = made.take() {
                match shelf.waiting.pop_front() {
                    // Gives it back where nobody waits any more.
                    Some(waiting) => made = waiting.send(result).err(),
                    None => match result {
                        Ok(branch) => {
                            cold = Some(branch.record());
                            shelf.cold.push_back(branch);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a pool cannot start a branch ahead of time");
                        }
                    },
                }
            }
            if failed {
                // Whoever asks next tries again, and is told; and the next look does, where some are to be ready.
                shelf.size.failed();
                self.watch(&mut shelf);
            } else {
                shelf.size.started();
            }
            self.refill(&mut shelf);
            shelf.surplus()
        };
        drop(surplus);
        cold
    }

    /// Warms one that is on the shelf. It holds no handle: whoever takes the branch meanwhile has the last.
    async fn warm(&self, record: &BranchRecord) {
        let project = self.seed.project().0;
        let warm = async {
            let home = Engine::get()?.home(&project.config).await?;
            boot::warm(&home, &project.record, record).await
        };
        // Whoever takes it looks whether it lives.
        if let Err(error) = warm.await {
            tracing::debug!(%error, branch = %record.id, "a branch that is ready is not warm");
        }
    }

    /// What was on the shelf to be warmed is ready, unless somebody has it by now.
    fn warmed(self: &Arc<Self>, id: Id) {
        let surplus = {
            let mut shelf = self.shelf();
            let found = shelf.cold.iter().position(|branch| branch.id() == id);
            if let Some(branch) = found.and_then(|at| shelf.cold.remove(at)) {
                shelf.ready.push_back(branch);
            }
            self.refill(&mut shelf);
            shelf.surplus()
        };
        drop(surplus);
    }

    /// Whether a branch that was put aside is as it was.
    async fn lives(&self, branch: &Branch) -> bool {
        let project = self.seed.project().0;
        let look = async {
            let home = Engine::get()?.home(&project.config).await?;
            boot::status(&home, &project.record, &branch.record()).await
        };
        matches!(look.await, Ok(Status::Running { .. }))
    }

    /// Lets go of what nobody asks for, as long as there is anything, and tries again what failed.
    fn watch(self: &Arc<Self>, shelf: &mut Shelf) {
        if std::mem::replace(&mut shelf.watched, true) {
            return;
        }
        let inner = Arc::downgrade(self);
        engine::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let Some(inner) = inner.upgrade() else { return };
                let (surplus, ends) = {
                    let mut shelf = inner.shelf();
                    let idle = shelf.waiting.is_empty() && shelf.size.rest();
                    inner.refill(&mut shelf);
                    shelf.watched = !idle;
                    (shelf.surplus(), idle)
                };
                drop(surplus);
                if ends {
                    return;
                }
            }
        });
    }
}

impl Shelf {
    /// How many are on their way to be ready.
    fn coming(&self) -> usize {
        self.starting + self.cold.len()
    }

    fn info(&self) -> PoolInfo {
        PoolInfo {
            ready: self.ready.len(),
            starting: self.coming(),
            wanted: self.size.wanted(),
            limit: self.size.most(),
        }
    }

    /// Those that are more than are wanted, to be dropped when nobody holds the lock.
    #[must_use]
    fn surplus(&mut self) -> Vec<Branch> {
        if self.ends {
            return Vec::new();
        }
        let keep = self.size.wanted().min(self.ready.len());
        self.ready.drain(keep..).collect()
    }
}
