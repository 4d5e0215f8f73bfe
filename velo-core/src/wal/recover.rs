//! A clone of a base becomes the branch as it was at the moment: PostgreSQL replays the WAL up to
//! there, on a private socket, and is stopped again, so that nothing of the recovery stays behind.
//!
//! What is replayed lies in a folder of its own and reaches the server through `restore_command`.
//! Were it in the clone's `pg_wal`, all of it would count as what the base holds. The last segment holds
//! nothing behind the moment: where the WAL ends, recovery does, and no `recovery_target` is needed, of
//! which each kind has moments that it cannot name. That PostgreSQL has really replayed all of it is
//! looked at afterwards, in the history of the timeline that it begins.

use std::time::Duration;

use super::archive::{self, fetch};
use super::files::Folder;
use super::plan::Plan;
use super::progress::{Progress, Watch};
use super::timeline::Timelines;
use crate::boot::{self, Boot, Doors};
use crate::cut::Cut;
use crate::disk;
use crate::effect::step;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::lock::Lock;
use crate::postgres::backup::Segment;
use crate::postgres::control;
use crate::record::{BranchRecord, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::{Runtime, StopMode};
use crate::storage::{FileOp, Object};

/// How long replaying this much may take, beside a start.
const MEGABYTE: Duration = Duration::from_secs(1);

/// What a server is started with that replays.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) restore_command: String,
    /// Which timeline it follows, if it is not the data's own.
    pub(crate) timeline: Option<u32>,
    /// The place for prepared transactions that it takes at least.
    pub(crate) max_prepared: u32,
    /// How long it may take longer than any other start.
    pub(crate) patience: Duration,
}

/// Recovers the clone of a plan's base on the branch's volume. `parent` is the lock of the branch whose
/// WAL is read, which is given up as soon as it is not needed any more.
pub(crate) async fn replay(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    plan: &Plan,
    parent: Lock,
    watch: Option<&Watch>,
    op: &Op,
) -> Result<Cut> {
    let storage = home.storage(project.storage)?;
    let volume = Object::Volume(branch.volume);
    let run_dir = RunDir::of(home, branch.volume);
    let postgres = crate::project::installed(project, home).await?;
    let user = home.server_user(&postgres);
    run_dir.make(user.as_ref())?;
    let folder = run_dir.path().join("wal");
    let mode = if user.is_some() { 0o711 } else { 0o700 };
    disk::make_folder("make the folder of WAL to replay", &folder, mode, None)?;
    if let Some(segments) = plan.segments {
        let (places, to) = (plan.places(home, project)?, folder.clone());
        let (end, owner) = (plan.reached.lsn.0, user.as_ref().map(|user| (user.uid, user.gid)));
        let staged = crate::engine::blocking(move || match Folder::open(&to)? {
            Some(to) => archive::stage(&places, &to, segments, end, owner),
            None => Err(Error::new(ErrorKind::Internal, "the folder of WAL to replay is gone")),
        });
        op.steps.run("stage", step("put WAL to replay into place", staged)).await?;
    }
    drop(parent);
    let signal = FileOp::Write { path: "recovery.signal".into(), content: Vec::new() };
    storage.edit(volume, vec![signal]).await?;
    op.cancel.check()?;
    let megabytes = u32::try_from(plan.reached.replayed >> 20).unwrap_or(u32::MAX);
    let replay = Replay {
        restore_command: fetch(&folder),
        timeline: plan.follows(),
        max_prepared: plan.max_prepared,
        patience: MEGABYTE.saturating_mul(megabytes),
    };
    let boot = Boot {
        home,
        project,
        branch,
        volume: branch.volume,
        doors: Doors::Private,
        fresh_clone: true,
        replay: Some(&replay),
        loading: None,
    };
    let runtime = home.runtime(project.runtime)?;
    let up = op.steps.run("replay", boot.run(&*runtime, op));
    let came_up = tokio::select! {
        biased;
        came_up = up => came_up,
        () = tell(plan, watch, &*runtime, &run_dir) => Ok(()),
    };
    let stop = boot::stop(home, project, branch.id, branch.volume, StopMode::Fast);
    let stopped = op.steps.run("stop", stop).await;
    came_up?;
    stopped?;
    run_dir.remove()?;
    let data = storage.location(volume).host_path().to_path_buf();
    let control = control::read(&data.join(control::FILE))?;
    let lsn = plan.reached.lsn;
    check(&data, plan, control.timeline)?;
    let old = FileOp::Remove { path: "backup_label.old".into() };
    storage.edit(volume, vec![old]).await?;
    Ok(Cut::of_recovered(lsn, &control, project.libc))
}

/// Tells how far the server is, as its log says, and never ends.
async fn tell(plan: &Plan, watch: Option<&Watch>, runtime: &dyn Runtime, run_dir: &RunDir) {
    let (Some(Watch(tell)), Some((first, _))) = (watch, plan.segments) else {
        return std::future::pending().await;
    };
    let size = u64::from(plan.size);
    let total = plan.reached.replayed;
    let begin = plan.reached.lsn.0 - total;
    let mut number = first;
    loop {
        // What came out of the archive last is just being replayed. Whoever asks whether the server is up leaves lines
        // of his own behind it, and more than are read here where one segment takes long.
        let tail = runtime.logs(&run_dir.log(), 100).await.unwrap_or_default();
        let restored = tail.lines().rev().find_map(|line| {
            let name = line.split_once("restored log file \"")?.1.split('"').next()?;
            Some(Segment::parse(name)?.number(plan.size))
        });
        number = restored.unwrap_or(number).max(number);
        let before = plan.times.iter().rev().find(|(segment, _)| *segment < number);
        tell(Progress {
            replayed: (number * size).saturating_sub(begin).min(total),
            total,
            committed_at: before.map(|(_, at)| *at),
        });
        tokio::time::sleep(LOOK).await;
    }
}

/// How often it is told.
const LOOK: Duration = Duration::from_millis(250);

/// The most bytes between the end of a record and the next: the head of a page.
const HEAD: u64 = 40;

/// An error unless a new timeline begins where recovery was to end: behind the last record that was to be replayed, and
/// before the next one.
fn check(data: &std::path::Path, plan: &Plan, now: u32) -> Result<()> {
    let (before, wanted) = (plan.reached.timeline, plan.reached.lsn);
    let wrong = |what: String| {
        Error::new(ErrorKind::Postgres, what)
            .with_hint("please report it, with the server's log; -v shows the end of it")
    };
    if now == before {
        return Err(wrong(format!("the server has not left timeline {before}")));
    }
    let pg_wal = Folder::of_data(data)?;
    let known = pg_wal.map(|pg_wal| Timelines::read(&pg_wal, now)).transpose()?.flatten();
    let reached = known
        .and_then(|timelines| timelines.begin())
        .ok_or_else(|| wrong(format!("the server has not written where timeline {now} begins")))?;
    if reached < plan.least || reached.0 > wanted.0 + HEAD {
        return Err(wrong(format!("recovery ended at {reached}, and was to end at {wanted}")));
    }
    Ok(())
}
