//! Slots: how many servers of a home may live at once, and what memory they may be given together.
//!
//! A branch holds a slot as long as a server of its ought to run, whether one does or not: so that
//! those that ought to come back after a crash can. The transaction that records such a branch looks
//! for a slot and takes it, so that two never pass at once. Where there is none, but an ephemeral
//! branch holds one, it waits for its turn: a *place* in the line is a record under the process's
//! lease. Who came first has the smallest number, and goes first. Places of dead processes, and those
//! of processes that stopped asking, are passed over.
//!
//! Not counted are the second server that a reset checks the new data with, the one that recovers a branch
//! which is made stopped, and one that is just being stopped.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::id::Id;
use crate::lease;
use crate::record::{BranchRecord, Phase, PlaceRecord, ProjectRecord, now};
use crate::runtime::Limits;
use crate::state::Tx;

/// What a server is taken to use beside its shared buffers: its processes, and a few sessions.
const BESIDE: u64 = 32 << 20;

/// The shared buffers that PostgreSQL takes where nothing says otherwise; of an ephemeral branch's
/// server, see [`crate::postgres::settings`].
const LASTING: u64 = 128 << 20;
const EPHEMERAL: u64 = 16 << 20;

/// How often who waits is looked for whom death kept from giving back what they held.
const LOOK: Duration = Duration::from_millis(500);

/// The shortest and the longest pause between two looks whether it is one's turn. Those at the head of
/// the line look most often.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(300);

/// How many of those who hold slots an error names.
const NAMED: usize = 8;

/// What a branch's server is given, in bytes: the limit of its container, else its shared buffers and
/// a little more.
pub(crate) fn memory(
    project: &ProjectRecord,
    limits: Limits,
    settings: &BTreeMap<String, String>,
    ephemeral: bool,
) -> u64 {
    if let Some(limit) = limits.or(project.limits).memory {
        return limit;
    }
    let given = settings.iter().find(|(key, _)| key.eq_ignore_ascii_case("shared_buffers"));
    let given = given.and_then(|(_, value)| buffers(value));
    given.unwrap_or(if ephemeral { EPHEMERAL } else { LASTING }).saturating_add(BESIDE)
}

/// Bytes, from a value of PostgreSQL's setting `shared_buffers`.
fn buffers(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &value[digits.len()..] {
        "" => 8 << 10, // blocks
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    let number = digits.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0)?;
    Some((number * unit as f64) as u64)
}

/// Whether a server may start now.
pub(crate) enum Turn<T> {
    /// What was recorded.
    Now(T),
    /// Nothing was recorded: a server with so many bytes of memory has to wait.
    Later(u64),
}

impl<T> Turn<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Turn<U> {
        match self {
            Self::Now(recorded) => Turn::Now(change(recorded)),
            Self::Later(memory) => Turn::Later(memory),
        }
    }
}

/// Looks for a slot in a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    max_running: Option<u32>,
    max_memory: Option<u64>,
    leases: PathBuf,
    place: Option<PlaceRecord>,
}

/// Who holds slots, and who waits for some.
struct Line {
    /// What those who hold them are called.
    holders: Vec<String>,
    /// How many wait before this one.
    ahead: usize,
}

/// Servers and their memory, added up.
#[derive(Clone, Copy, Default)]
struct Sum {
    servers: u32,
    memory: u64,
}

impl Sum {
    fn and(self, memory: u64) -> Self {
        let servers = self.servers.saturating_add(1);
        Self { servers, memory: self.memory.saturating_add(memory) }
    }
}

impl Asker {
    /// One who has no place in the line.
    pub(crate) fn of(home: &Home) -> Self {
        let Config { max_running, max_memory, .. } = home.config;
        Self { max_running, max_memory, leases: home.leases(), place: None }
    }

    /// Whether there is a slot, in the transaction that takes it; then its place is given up as well.
    pub(crate) fn ask(&self, tx: &Tx<'_>, memory: u64) -> Result<bool> {
        let free = self.look(tx, memory)?.is_none();
        if free {
            self.needs_none(tx)?;
        }
        Ok(free)
    }

    /// Gives up its place, if it has one: there is no slot to wait for.
    pub(crate) fn needs_none(&self, tx: &Tx<'_>) -> Result<()> {
        self.place.as_ref().map_or(Ok(()), |place| tx.remove::<PlaceRecord>(place.id))
    }

    /// The same in a transaction of its own.
    pub(crate) async fn leave(&self, home: &Home) -> Result<()> {
        match &self.place {
            Some(place) => leave(home, place.id).await,
            None => Ok(()),
        }
    }

    /// What is in the way of a server, if it can be waited for.
    ///
    /// [`ErrorKind::Exhausted`] if it cannot: what lasting branches hold does not come free by itself.
    fn look(&self, tx: &Tx<'_>, memory: u64) -> Result<Option<Line>> {
        if self.max_running.is_none() && self.max_memory.is_none() {
            return Ok(None);
        }
        let (mut lasting, mut all, mut holders) = (Sum::default(), Sum::default(), Vec::new());
        let projects: HashMap<Id, ProjectRecord> =
            tx.every::<ProjectRecord>()?.into_iter().map(|p| (p.id, p)).collect();
        for branch in tx.every::<BranchRecord>()? {
            let Some(project) = projects.get(&branch.project).filter(|_| branch.wanted) else {
                continue;
            };
            let given = memory_of(project, &branch);
            all = all.and(given);
            let goes = branch.phase == Phase::Deleting || project.phase == Phase::Deleting;
            if !branch.ephemeral && !goes {
                lasting = lasting.and(given);
            }
            holders.push(format!("{}/{}", project.name, branch.shown()));
        }
        if !self.fits(lasting.and(memory)) {
            return Err(self.never(lasting, memory, &holders));
        }
        let mut ahead = self.ahead(tx)?;
        let after = |ahead: &[PlaceRecord]| ahead.iter().fold(all, |sum, p| sum.and(p.memory));
        if self.fits(after(&ahead).and(memory)) {
            return Ok(None);
        }
        if self.fits(all.and(memory)) {
            // It is those ahead alone that are in the way, and they may be dead.
            let mut alive = Vec::new();
            for place in ahead {
                if !lease::is_dead(&self.leases, place.lease)? {
                    alive.push(place);
                }
            }
            ahead = alive;
            if self.fits(after(&ahead).and(memory)) {
                return Ok(None);
            }
        }
        Ok(Some(Line { holders, ahead: ahead.len() }))
    }

    fn fits(&self, sum: Sum) -> bool {
        self.max_running.is_none_or(|max| sum.servers <= max)
            && self.max_memory.is_none_or(|max| sum.memory <= max)
    }

    /// Those who came before, and still ask.
    fn ahead(&self, tx: &Tx<'_>) -> Result<Vec<PlaceRecord>> {
        let (own, time) = (self.place.as_ref().map(|place| place.number), now());
        let mut places = tx.every::<PlaceRecord>()?;
        places.retain(|p| own.is_none_or(|own| p.number < own) && p.until >= time);
        Ok(places)
    }

    /// What the limits are, and what sets them.
    fn limits(&self) -> String {
        let running = self.max_running.map(|max| format!("{max} servers (VELO_MAX_RUNNING)"));
        let memory = self.max_memory.map(|max| format!("{} MB (VELO_MAX_MEMORY)", max >> 20));
        running.into_iter().chain(memory).collect::<Vec<_>>().join(" and ")
    }

    fn never(&self, lasting: Sum, memory: u64, holders: &[String]) -> Error {
        let error = |what, hint: &str| Error::new(ErrorKind::Exhausted, what).with_hint(hint);
        if lasting.servers == 0 {
            return error(
                format!(
                    "a server that is given {} MB does not fit into {}",
                    memory >> 20,
                    self.limits()
                ),
                "give it less, or raise VELO_MAX_MEMORY",
            );
        }
        error(
            format!(
                "no slot is free for a server that is given {} MB: the home may have {}, and these \
                 hold them: {}",
                memory >> 20,
                self.limits(),
                named(holders)
            ),
            "stop or delete one of them (velo branch stop, velo branch delete), or raise the limit",
        )
    }
}

/// The same of a branch as it is recorded.
pub(crate) fn memory_of(project: &ProjectRecord, branch: &BranchRecord) -> u64 {
    memory(project, branch.limits, &branch.settings, branch.ephemeral)
}

/// [`ErrorKind::Exhausted`] if a server that has its slot may not be given as much as it would be as
/// `after`.
pub(crate) fn may_become(
    home: &Home,
    tx: &Tx<'_>,
    project: &ProjectRecord,
    after: &BranchRecord,
) -> Result<()> {
    let Some(max) = home.config.max_memory else { return Ok(()) };
    let given = memory_of(project, after);
    let (mut others, mut holders) = (Sum::default(), Vec::new());
    for branch in tx.every::<BranchRecord>()? {
        let Some(owner) = tx.get::<ProjectRecord>(branch.project)?.filter(|_| branch.wanted) else {
            continue;
        };
        if branch.id != after.id {
            others = others.and(memory_of(&owner, &branch));
            holders.push(format!("{}/{}", owner.name, branch.shown()));
        } else if given <= memory_of(&owner, &branch) {
            return Ok(());
        }
    }
    if others.and(given).memory <= max {
        return Ok(());
    }
    Err(Asker::of(home).never(others, given, &holders))
}

fn named(holders: &[String]) -> String {
    let more = holders.len().saturating_sub(NAMED);
    let named = holders.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

/// Runs `record`, the transaction that takes a slot, as soon as there is one for it. Until then nothing
/// of it is recorded but its place in the line; and nothing may be locked that those ahead may need. Where it is
/// the branch `of` that is to run, another process may start or delete it meanwhile: then there is nothing to
/// wait for.
pub(crate) async fn taken<T, F>(
    home: &Home,
    op: &Op,
    of: Option<Id>,
    mut record: impl FnMut(Asker) -> F,
) -> Result<T>
where
    F: Future<Output = Result<Turn<T>>>,
{
    let mut asker = Asker::of(home);
    let begun = Instant::now();
    let mut looked = false;
    let failed = loop {
        match record(asker.clone()).await {
            // What seems to be there to stay may be a dead process's, half made.
            Err(error) if error.kind() == ErrorKind::Exhausted && !looked => {
                looked = true;
                if !crate::reconcile::run(home).await {
                    break error;
                }
            }
            Ok(Turn::Now(recorded)) => return Ok(recorded),
            Ok(Turn::Later(memory)) => {
                if let Err(error) = wait(home, op, of, &mut asker, memory, begun).await {
                    break error;
                }
            }
            Err(error) => break error,
        }
    };
    match asker.leave(home).await {
        Ok(()) => Err(failed),
        Err(cleanup) => Err(failed.with_cleanup(cleanup)),
    }
}

/// Gives up a place in the line. Missing is fine.
pub(crate) async fn leave(home: &Home, place: Id) -> Result<()> {
    let remove = move |tx: &Tx<'_>| tx.remove::<PlaceRecord>(place);
    home.state().write("leave the line for a slot", remove).await
}

/// Waits, in a place of its own, until it seems to be its turn.
async fn wait(
    home: &Home,
    op: &Op,
    of: Option<Id>,
    asker: &mut Asker,
    memory: u64,
    begun: Instant,
) -> Result<()> {
    let limit = home.config.slot_timeout;
    op.cancel.check()?;
    if asker.place.is_none() && !limit.is_zero() {
        asker.place = Some(join(home, memory, limit).await?);
        tracing::info!(limits = %asker.limits(), "waiting for a slot");
    }
    let mut looked = Instant::now();
    loop {
        let look = asker.clone();
        let look = move |tx: &Tx<'_>| match of {
            Some(id) if !is_to_start(tx, id)? => Ok(None),
            _ => look.look(tx, memory),
        };
        let line = home.state().read(look).await?;
        let Some(line) = line else { return Ok(()) };
        if begun.elapsed() >= limit {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "no slot came free within {} s: the home may have {}, {} wait before this one, \
                     and these hold them: {}",
                    limit.as_secs(),
                    asker.limits(),
                    line.ahead,
                    named(&line.holders)
                ),
            )
            .with_hint(
                "wait longer (VELO_SLOT_TIMEOUT), stop or delete branches, or raise the limit",
            ));
        }
        let pause = PAUSE.saturating_mul(u32::try_from(line.ahead + 1).unwrap_or(u32::MAX));
        // Nobody tells other processes that a slot is free: a bounded poll.
        op.cancel.guard(tokio::time::sleep(pause.min(LONGEST))).await?;
        if looked.elapsed() > LOOK {
            crate::reconcile::run(home).await;
            looked = Instant::now();
        }
    }
}

/// Whether a branch is there, and not to run yet.
fn is_to_start(tx: &Tx<'_>, id: Id) -> Result<bool> {
    let found = tx.get::<BranchRecord>(id)?;
    Ok(found.is_some_and(|branch| branch.phase == Phase::Ready && !branch.wanted))
}

/// Takes the last place in the line.
async fn join(home: &Home, memory: u64, limit: Duration) -> Result<PlaceRecord> {
    let lease = home.lease()?;
    let until = now().saturating_add(limit.as_millis() as u64);
    let add = move |tx: &Tx<'_>| {
        let last = tx.every::<PlaceRecord>()?.into_iter().map(|place| place.number).max();
        let number = last.unwrap_or_default().saturating_add(1);
        let place = PlaceRecord { id: Id::generate(), number, lease, memory, until };
        tx.insert(&place)?;
        Ok(place)
    };
    home.state().write("join the line for a slot", add).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_buffers_are_read_as_postgresql_reads_them() {
        for (text, bytes) in [
            ("128MB", 128 << 20),
            (" 1.5 GB ", 3 << 29),
            ("16384", 128 << 20),
            ("512kB", 512 << 10),
            ("0", 0),
        ] {
            assert_eq!(buffers(text), Some(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "1mb", "NaN", "inf", "1 apple", "é"] {
            assert_eq!(buffers(bad), None, "{bad}");
        }
        assert_eq!(buffers("1e30TB"), Some(u64::MAX));
    }

    #[test]
    fn an_error_names_a_few() {
        let holders: Vec<String> = (0..10).map(|n| format!("api/{n}")).collect();
        assert_eq!(named(&holders[..2]), "api/0, api/1");
        assert!(named(&holders).ends_with("api/7 and 2 more"));
    }
}
