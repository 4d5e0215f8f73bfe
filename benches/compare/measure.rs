//! What is measured of the rows of one place and size: in turn, so that all meet the same machine.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use velo_benches::figures::Times;
use velo_benches::{Result, extents, server};

use crate::bounds::{LONG, STEP, within};
use crate::plan::Plan;
use crate::row::{FIRST_QUERY, Instance, Kind, Place, Row};
use crate::seed::{self, Seed};
use crate::space;
use crate::suite::{self, Done};

/// All that is known of one row with one seed.
pub(crate) struct Measured {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) size: u64,
    pub(crate) settings: String,
    pub(crate) postgres: String,
    pub(crate) clones: bool,
    /// Nothing is ready.
    pub(crate) cold: Series,
    /// Some are.
    pub(crate) ready: Series,
    /// The steps of the creations.
    pub(crate) steps: Vec<(String, Times)>,
    pub(crate) crowds: Vec<Crowd>,
    /// The most that was seen.
    pub(crate) extents: Option<Extents>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) tests: Option<Done>,
    /// What broke, and why.
    pub(crate) failed: Option<String>,
    /// What was not measured, and why.
    pub(crate) notes: Vec<String>,
}

/// From the request, and the end.
#[derive(Default)]
pub(crate) struct Series {
    pub(crate) endpoint: Times,
    pub(crate) first: Times,
    pub(crate) delete: Times,
}

/// So many callers at once.
pub(crate) struct Crowd {
    pub(crate) callers: usize,
    /// To the first query answered.
    pub(crate) first: Times,
    pub(crate) a_second: f64,
}

/// Bytes of data extents of its own.
#[derive(Default)]
pub(crate) struct Extents {
    /// How many branches were looked at.
    pub(crate) looks: usize,
    pub(crate) created: u64,
    pub(crate) queried: u64,
    pub(crate) updated: u64,
}

/// So many idle branches.
pub(crate) struct Memory {
    pub(crate) branches: usize,
    /// PSS of each, in kB.
    pub(crate) each: f64,
    /// The same by what the processes are.
    pub(crate) parts: BTreeMap<String, f64>,
}

/// How much memory must be left when idle branches are counted.
const LEAST_MEMORY: u64 = 3 << 30;

pub(crate) struct Subject {
    pub(crate) row: Box<dyn Row>,
    pub(crate) measured: Measured,
    /// How long its samples took.
    spent: Duration,
}

impl Subject {
    pub(crate) fn new(row: Box<dyn Row>, place: Place, size: u64) -> Self {
        let measured = Measured {
            kind: row.kind(),
            place,
            size,
            settings: row.settings(),
            postgres: String::new(),
            clones: row.clones(),
            cold: Series::default(),
            ready: Series::default(),
            steps: Vec::new(),
            crowds: Vec::new(),
            extents: None,
            memory: Vec::new(),
            tests: None,
            failed: None,
            notes: Vec::new(),
        };
        Self { row, measured, spent: Duration::ZERO }
    }

    /// Whether each of its branches has a copy of much data.
    fn is_heavy(&self, seed: &Seed) -> bool {
        !seed.is_small() && !self.measured.clones
    }

    /// Whether the short form does without it: more than one branch at a time is tried in one place.
    fn is_left_out(&self, plan: &Plan) -> bool {
        plan.short && self.measured.place != Place::Btrfs
    }

    fn note(&mut self, what: &str) {
        self.measured.notes.push(what.to_owned());
    }

    fn works(&self) -> bool {
        self.measured.failed.is_none()
    }

    /// Keeps what broke: the others go on.
    fn keep(&mut self, stage: &str, result: Result<()>) {
        if let Err(error) = result {
            // It becomes a cell of a table, in which no folder of this machine is of use.
            let mut why = format!("{stage}: {error}").replace('\n', "; ");
            if let Some(folder) = self.measured.place.folder() {
                why = why.replace(&*folder.to_string_lossy(), "…");
            }
            eprintln!("FAILED {} on {}: {why}", self.measured.kind, self.measured.place);
            self.measured.failed.get_or_insert(why);
        }
    }

    /// Whether it may take one more sample after so many.
    fn may(&self, taken: usize, plan: &Plan) -> bool {
        self.works() && (taken < plan.least || self.spent < plan.budget)
    }
}

/// Measures rows that are not prepared yet.
pub(crate) async fn all(subjects: &mut [Subject], seed: &Seed, plan: &Plan) {
    for subject in subjects.iter_mut() {
        let begun = Instant::now();
        let prepared = within(LONG, subject.row.prepare(seed)).await;
        subject.keep("prepare", prepared);
        eprintln!(
            "  {}: prepared in {:.1} s",
            subject.measured.kind,
            begun.elapsed().as_secs_f64()
        );
    }
    let begun = Instant::now();
    let stage = |name: &str| eprintln!("  {name} ({:.0} s)", begun.elapsed().as_secs_f64());
    stage("cold");
    cold(subjects, seed, plan).await;
    stage("ready");
    ready(subjects, seed, plan).await;
    // Servers that wait would have their share of whatever comes.
    for subject in subjects.iter_mut().filter(|subject| subject.works()) {
        let emptied = within(STEP, subject.row.empty()).await;
        subject.keep("ready", emptied);
    }
    stage("callers");
    crowds(subjects, seed, plan).await;
    stage("extents");
    for subject in subjects.iter_mut().filter(|subject| subject.works()) {
        // Where nothing is shared, it works as where something is.
        if plan.short && !subject.measured.place.clones() {
            continue;
        }
        let looks = if seed.is_huge() { 1 } else { plan.looks };
        let result = within(STEP, extents_of(subject, looks)).await;
        subject.keep("extents", result);
    }
    if seed.size == plan.smallest() {
        stage("memory");
        for subject in subjects.iter_mut().filter(|subject| subject.works()) {
            let result = memory_of(subject, plan).await;
            subject.keep("memory", result);
        }
    }
    if plan.tests_in(subjects.first().map(|subject| subject.measured.place), seed) {
        stage("tests");
        tests(subjects, plan).await;
    }
    stage("done");
}

/// Tests, by each row in a few turns: the machine is not the same all the time.
async fn tests(subjects: &mut [Subject], plan: &Plan) {
    let turns = plan.tests_turns;
    let (count, limit) = (plan.tests.div_ceil(turns), plan.tests_limit / turns as u32);
    let rows = subjects.len();
    for turn in 0..turns {
        for number in 0..rows {
            let Some(subject) = subjects.get_mut((turn + number) % rows) else { continue };
            if subject.measured.kind == Kind::Floor || !subject.works() {
                continue;
            }
            match within(limit + STEP, suite::many(&*subject.row, count, limit)).await {
                Ok(done) => {
                    let all = subject.measured.tests.get_or_insert_default();
                    all.wanted += done.wanted;
                    all.count += done.count;
                    all.seconds += done.seconds;
                }
                Err(error) => subject.keep("tests", Err(error)),
            }
            // What is ready for a next test is not to weigh on the next row's.
            let emptied = within(STEP, subject.row.empty()).await;
            subject.keep("tests", emptied);
        }
    }
}

/// Ends them, the last first: some rest on those before.
pub(crate) async fn end(subjects: &mut [Subject]) {
    for subject in subjects.iter_mut().rev() {
        // Known by now, if ever.
        subject.measured.postgres = subject.row.postgres();
        subject.measured.settings = subject.row.settings();
        let ended = within(STEP, subject.row.end()).await;
        subject.keep("end", ended);
    }
}

/// One branch, from the request to its end.
async fn sample(row: &dyn Row, instance: Instance, begun: Instant) -> Result<[Duration; 3]> {
    let endpoint = begun.elapsed();
    let asked = row.run(&instance, FIRST_QUERY).await;
    let first = begun.elapsed();
    let begun = Instant::now();
    let deleted = row.delete(instance).await;
    let gone = begun.elapsed();
    asked?;
    deleted?;
    Ok([endpoint, first, gone])
}

impl Series {
    fn add(&mut self, [endpoint, first, delete]: [Duration; 3]) {
        self.endpoint.add(endpoint);
        self.first.add(first);
        self.delete.add(delete);
    }
}

async fn cold(subjects: &mut [Subject], seed: &Seed, plan: &Plan) {
    let samples = if seed.is_huge() { plan.samples.div_ceil(4) } else { plan.samples };
    // The first of each warms caches and is not counted.
    for round in 0..=samples {
        in_turn(subjects, round, plan, async |subject: &mut Subject| {
            // Three of a copy of everything are enough.
            if seed.is_huge() && !subject.measured.clones && round > 3 {
                return Ok(());
            }
            let begun = Instant::now();
            let instance = subject.row.create().await?;
            let steps = subject.row.steps(&instance);
            let times = sample(&*subject.row, instance, begun).await?;
            subject.row.settle().await?;
            if round > 0 {
                subject.spent += begun.elapsed();
                subject.measured.cold.add(times);
                for (name, took) in steps {
                    add(&mut subject.measured.steps, name, took);
                }
            }
            Ok(())
        })
        .await;
    }
}

async fn ready(subjects: &mut [Subject], seed: &Seed, plan: &Plan) {
    for subject in subjects.iter_mut() {
        subject.spent = Duration::ZERO;
        if subject.is_heavy(seed) && seed.is_huge() {
            subject.note("ready: three cold samples stand for all copies of so much");
        } else if subject.is_heavy(seed) && subject.measured.place == Place::Memory {
            subject.note("ready: its copies would fill the memory");
        }
    }
    for round in 0..=plan.samples {
        in_turn(subjects, round, plan, async |subject: &mut Subject| {
            let heavy = subject.is_heavy(seed);
            let dear = heavy && (seed.is_huge() || subject.measured.place == Place::Memory);
            if !subject.row.has_ready() || dear {
                return Ok(());
            }
            let (filling, count) = (Instant::now(), if heavy { 1 } else { plan.ready });
            subject.row.fill(count).await?;
            let begun = Instant::now();
            let instance = subject.row.ready().await?;
            let times = sample(&*subject.row, instance, begun).await?;
            // The next row's turn is not to meet what goes on behind this one.
            subject.row.fill(count).await?;
            subject.row.settle().await?;
            if round > 0 {
                subject.spent += filling.elapsed();
                subject.measured.ready.add(times);
            }
            Ok(())
        })
        .await;
    }
}

/// One after the other, each round in an order of its own: what one leaves behind, in caches and on disks, is not to meet
/// the same next one each time.
async fn in_turn(
    subjects: &mut [Subject],
    round: usize,
    plan: &Plan,
    mut one: impl AsyncFnMut(&mut Subject) -> Result<()>,
) {
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    order.sort_by_cached_key(|number| {
        let mut hasher = std::hash::DefaultHasher::new();
        (round, number).hash(&mut hasher);
        hasher.finish()
    });
    for number in order {
        let Some(subject) = subjects.get_mut(number) else { continue };
        if subject.may(round, plan) {
            let result = within(STEP, one(subject)).await;
            subject.keep("samples", result);
        }
    }
}

fn add(steps: &mut Vec<(String, Times)>, name: String, took: Duration) {
    match steps.iter_mut().find(|(known, _)| *known == name) {
        Some((_, times)) => times.add(took),
        None => {
            let mut times = Times::default();
            times.add(took);
            steps.push((name, times));
        }
    }
}

async fn crowds(subjects: &mut [Subject], seed: &Seed, plan: &Plan) {
    for subject in subjects.iter_mut() {
        if subject.is_heavy(seed) {
            subject.note("concurrent callers: with the smallest seed alone, for it copies");
        }
    }
    for callers in &plan.callers {
        for subject in subjects.iter_mut().filter(|subject| subject.works()) {
            // The floor has one at a time.
            let kind = subject.measured.kind;
            if kind == Kind::Floor || subject.is_heavy(seed) || subject.is_left_out(plan) {
                continue;
            }
            match within(plan.budget + STEP, crowd(&*subject.row, *callers, plan)).await {
                Ok(crowd) => subject.measured.crowds.push(crowd),
                Err(error) => subject.keep("callers", Err(error)),
            }
        }
    }
}

async fn crowd(row: &dyn Row, callers: usize, plan: &Plan) -> Result<Crowd> {
    let begun = Instant::now();
    let all = join_all((0..callers).map(|_| async move {
        let mut times = Times::default();
        for turn in 0..plan.calls.div_ceil(callers) {
            if turn > 0 && begun.elapsed() > plan.budget {
                break;
            }
            let begun = Instant::now();
            let instance = row.create().await?;
            let [_, first, _] = sample(row, instance, begun).await?;
            times.add(first);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times)
    }))
    .await;
    // What is removed behind a caller is a part of it.
    row.settle().await?;
    let took = begun.elapsed();
    let mut first = Times::default();
    for times in all {
        first.0.extend(times?.0);
    }
    let a_second = first.0.len() as f64 / took.as_secs_f64();
    Ok(Crowd { callers, first, a_second })
}

async fn extents_of(subject: &mut Subject, looks: usize) -> Result<()> {
    let row = &*subject.row;
    for _ in 0..looks {
        let instance = row.create().await?;
        let seen = look(row, &instance).await;
        row.delete(instance).await?;
        row.settle().await?;
        let Some(seen) = seen? else {
            subject.measured.notes.push("extents: its data is in no folder".to_owned());
            return Ok(());
        };
        let most = subject.measured.extents.get_or_insert_default();
        most.looks += 1;
        most.created = most.created.max(seen.created);
        most.queried = most.queried.max(seen.queried);
        most.updated = most.updated.max(seen.updated);
    }
    Ok(())
}

async fn look(row: &dyn Row, instance: &Instance) -> Result<Option<Extents>> {
    let Some(data) = row.data(instance).await? else { return Ok(None) };
    let created = extents::own(&data)?;
    row.run(instance, FIRST_QUERY).await?;
    let queried = extents::own(&data)?;
    row.run(instance, seed::UPDATE).await?;
    // It is in memory until then.
    row.run(instance, "CHECKPOINT").await?;
    let updated = extents::own(&data)?;
    Ok(Some(Extents { looks: 1, created, queried, updated }))
}

async fn memory_of(subject: &mut Subject, plan: &Plan) -> Result<()> {
    // The floor has one at a time, with the settings of Velo's row.
    if subject.measured.kind == Kind::Floor || subject.is_left_out(plan) {
        return Ok(());
    }
    subject.row.settle().await?;
    let mut alive = Vec::new();
    let result = within(LONG, idle(subject, plan, &mut alive)).await;
    let deleted = within(LONG, async {
        let mut deleted = Ok(());
        for instance in alive {
            deleted = deleted.and(subject.row.delete(instance).await);
        }
        deleted
    });
    result.and(deleted.await)?;
    subject.row.settle().await
}

async fn idle(subject: &mut Subject, plan: &Plan, alive: &mut Vec<Instance>) -> Result<()> {
    let row = &*subject.row;
    for branches in plan.idle.iter().copied() {
        while alive.len() < branches {
            let folder = subject.measured.place.folder();
            let left = folder.as_deref().map(space::left).transpose()?;
            if left.is_some_and(|left| left < space::LEAST) && !plan.short {
                let note =
                    format!("memory: {} at most, for their data left no more room", alive.len());
                subject.measured.notes.push(note);
                return Ok(());
            }
            if space::memory()? < LEAST_MEMORY {
                let note = format!("memory: {} at most, for no more was left", alive.len());
                subject.measured.notes.push(note);
                return Ok(());
            }
            let instance = row.create().await?;
            let asked = row.run(&instance, FIRST_QUERY).await;
            alive.push(instance);
            asked?;
        }
        tokio::time::sleep(plan.rest).await;
        let mut servers = Vec::new();
        for instance in alive.iter() {
            servers.extend(row.servers(instance).await?);
        }
        servers.sort_unstable();
        servers.dedup();
        let mut parts = BTreeMap::new();
        for (what, kb) in servers
            .into_iter()
            .map(server::memory)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
        {
            *parts.entry(what).or_insert(0.0) += kb as f64 / branches as f64;
        }
        let each = parts.values().sum();
        subject.measured.memory.push(Memory { branches, each, parts });
    }
    Ok(())
}
