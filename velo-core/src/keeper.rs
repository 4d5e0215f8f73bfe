//! The keeper: a small helper that holds what the processes of a run have in common, the pools of its
//! seeds.
//!
//! The first process of a run that wants a branch starts it, and nobody has to stop it: it watches the
//! process at the root of the run, and ends with it, or when nobody has asked for a while and none is to be
//! ready whoever asks. All of its branches are under its own lease, so that a branch is handed over without a word to anybody else, and
//! their servers end with it, whatever ends it. Who has a branch holds a connection; when that ends, however
//! its process ended, the branch is discarded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::PidfdFlags;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::branch::Branch;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lock::{Lock, Mode};
use crate::pool::Pool;
use crate::project::Project;
use crate::run::Run;

mod client;
mod program;
mod protocol;

pub(crate) use client::{Held, Meeting, Wishes};
pub use program::{serve_if_asked, use_program};

use protocol::{Answer, Ask, Line};

/// How long it stays when nobody has a branch, and it is to have none ready: runs have pauses.
const IDLE: Duration = Duration::from_secs(60);

/// What a keeper's folder is called by whoever removes it, behind its name.
const GONE: &str = ".gone";

/// What a keeper is started for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    run: Run,
    config: Config,
    socket: PathBuf,
}

/// Whether this process is a keeper: what it holds is in pools of its own.
static IS_KEEPER: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_keeper() -> bool {
    IS_KEEPER.load(Ordering::Relaxed)
}

/// What all connections share.
struct Keeper {
    config: Config,
    pools: Mutex<HashMap<Id, Pool>>,
    over: Cancel,
}

/// Serves until the run is over, or nobody comes any more.
async fn serve(task: Task) -> Result<()> {
    IS_KEEPER.store(true, Ordering::Relaxed);
    let Some(root) = task.run.root() else { return Ok(()) };
    let fault = |what: &'static str| move |e: rustix::io::Errno| Error::io(what, e);
    let root = rustix::process::pidfd_open(root, PidfdFlags::NONBLOCK)
        .map_err(fault("watch the root of a run"))?;
    // SAFETY: the descriptor is owned by the AsyncFd, and so stays open and the same.
    let root =
        unsafe { AsyncFd::register(root) }.map_err(|e| Error::io("watch the root of a run", e))?;
    // Between the look and the opening another process may have taken the number.
    if task.run.root().is_none() {
        return Ok(());
    }
    let listener = UnixListener::bind(&task.socket)
        .map_err(|e| Error::io(format!("listen on {}", task.socket.display()), e))?;
    tracing::info!(run = %task.run.name, "a keeper begins");
    let over = Cancel::new();
    let keeper = Arc::new(Keeper { config: task.config, pools: Mutex::default(), over });
    let mut visits = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = root.readable() => break,
            Some(_) = visits.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(visits.spawn(visit(stream, keeper.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = tokio::time::sleep(IDLE), if visits.is_empty() && !keeper.keeps_ready() => break,
        }
    }
    // From here on nobody finds it.
    let gone = crate::disk::remove("remove the socket of a keeper", &task.socket);
    drop(listener);
    keeper.over.cancel();
    while visits.join_next().await.is_some() {}
    keeper.end().await;
    if let Some(all) = task.socket.parent().and_then(Path::parent) {
        sweep(all);
    }
    gone
}

impl Keeper {
    async fn pool(&self, project: &str, seed: Id) -> Result<Pool> {
        let known = self.pools().get(&seed).cloned();
        if let Some(pool) = known {
            return Ok(pool);
        }
        let project = Project::builder(project).config(self.config.clone()).open().await?;
        let seeds = project.seeds_call().await?;
        let seed =
            seeds.into_iter().find(|s| s.id() == seed && s.info().ready).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("the seed {seed} is gone"))
                    .with_hint("ask for it again, and it is built anew")
            })?;
        let pool = seed.pool()?;
        Ok(self.pools().entry(seed.id()).or_insert(pool).clone())
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Pool>> {
        self.pools.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn keeps_ready(&self) -> bool {
        self.pools().values().any(Pool::keeps_ready)
    }

    async fn answer(
        &self,
        ask: Ask,
        held: &mut Option<Branch>,
        given_up: &Cancel,
    ) -> Result<Answer> {
        Ok(match ask {
            Ask::Acquire { project, seed, label } => {
                if held.is_some() {
                    return Err(Error::new(ErrorKind::Internal, "a connection holds one branch"));
                }
                let branch = self.pool(&project, seed).await?.acquire_call(label).await?;
                Answer::Branch(Box::new(held.insert(branch).record()))
            }
            Ask::KeepReady { project, seed, least, most } => {
                self.pool(&project, seed).await?.keep_ready_call(least, most).await?;
                Answer::Done
            }
            Ask::Info { project, seed } => {
                Answer::Info(self.pool(&project, seed).await?.info_call().await?)
            }
            Ask::Close => {
                if let Some(branch) = held.take() {
                    branch.close_call().await?;
                }
                Answer::Done
            }
            Ask::Keep(how) => {
                let branch = held.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "a connection without a branch keeps none")
                })?;
                branch.keep_by(how).await?;
                let record = branch.record();
                if !record.ephemeral {
                    *held = None;
                }
                Answer::Branch(Box::new(record))
            }
            Ask::Change(change) => {
                let branch = held.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "a connection without a branch changes none")
                })?;
                branch.change_call(change, given_up.clone()).await?;
                Answer::Changed(Box::new((branch.record(), branch.timings())))
            }
            // Heard where it can come, by whoever waits for the answer.
            Ask::GiveUp => {
                return Err(Error::new(ErrorKind::Internal, "nothing was asked to be given up"));
            }
        })
    }

    /// Ends what is ready, and waits until it is gone.
    async fn end(&self) {
        let pools: Vec<Pool> = self.pools().drain().map(|(_, pool)| pool).collect();
        let mut ends = JoinSet::new();
        for pool in pools {
            ends.spawn(async move { pool.end().await });
        }
        while ends.join_next().await.is_some() {}
        if let Ok(engine) = Engine::get()
            && let Ok(home) = engine.home(&self.config).await
        {
            home.finish_deletions().await;
        }
    }
}

/// One connection, from its first word to its end.
async fn visit(stream: UnixStream, keeper: Arc<Keeper>) {
    let (mut line, mut held) = (Line::new(stream), None);
    'visit: loop {
        let ask = tokio::select! {
            biased;
            () = keeper.over.canceled() => break,
            ask = line.next::<Ask>() => ask,
        };
        let answer = match ask {
            // It came too late.
            Ok(Some(Ask::GiveUp)) => continue,
            Ok(Some(ask)) => {
                let given_up = Cancel::new();
                let mut answer = std::pin::pin!(keeper.answer(ask, &mut held, &given_up));
                loop {
                    tokio::select! {
                        biased;
                        answer = &mut answer => break answer,
                        () = keeper.over.canceled() => break 'visit,
                        () = line.spoken() => match line.next::<Ask>().await {
                            Ok(Some(Ask::GiveUp)) => given_up.cancel(),
                            // Who no longer waits needs none, and what else is said now is out of turn.
                            _ => break 'visit,
                        },
                    }
                }
            }
            _ => break,
        };
        let answer = answer.unwrap_or_else(|error| Answer::of_error(&error));
        if line.send(&answer).await.is_err() {
            break;
        }
    }
    if let Some(branch) = held
        && let Err(error) = branch.close_call().await
    {
        tracing::warn!(%error, "a branch stays; it goes when somebody opens the home");
    }
}

/// Removes, of all folders of keepers, those of one that ends and of those that were killed.
pub(crate) fn sweep(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let folder = entry.path();
        if !is_of_keeper(&entry) {
            continue;
        }
        // Whoever is starting one holds this.
        let lock = Lock::try_take(&folder.join("lock"), Mode::Exclusive);
        if matches!(lock, Ok(Some(_)))
            && client::is_left(&folder)
            && let Err(error) = remove(&folder)
        {
            tracing::debug!(%error, "the folder of a keeper stays");
        }
    }
}

/// Whether a keeper made it: a folder with the name of one, or of one that was being removed.
fn is_of_keeper(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let name = name.strip_suffix(GONE).unwrap_or(&name);
    name.len() == 16
        && name.bytes().all(|b| b.is_ascii_hexdigit())
        && entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Removes a folder that is nobody's, under another name first: under its own it may be made anew meanwhile.
fn remove(folder: &Path) -> Result<()> {
    let mut gone = folder.as_os_str().to_owned();
    if !gone.to_string_lossy().ends_with(GONE) {
        gone.push(GONE);
    }
    crate::effect::step_now("remove the folder of a keeper", || {
        std::fs::rename(folder, &gone)
            .and_then(|()| std::fs::remove_dir_all(&gone))
            .map_err(|e| Error::io(format!("remove {}", folder.display()), e))
    })
}
