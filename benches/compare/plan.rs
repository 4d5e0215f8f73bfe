//! How much is measured.

use std::time::Duration;

use velo_benches::{Args, Result};

use crate::row::Place;
use crate::seed::Seed;

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) short: bool,
    pub(crate) sizes: Vec<u64>,
    pub(crate) places: Vec<Place>,
    pub(crate) samples: usize,
    /// So many samples are taken however long they take.
    pub(crate) least: usize,
    /// How long the samples of one row may take in one stage.
    pub(crate) budget: Duration,
    /// How many are ready before one is asked for, as in a pool that has had the time to fill.
    pub(crate) ready: usize,
    pub(crate) callers: Vec<usize>,
    /// How many branches all callers together make.
    pub(crate) calls: usize,
    /// How often extents are looked at.
    pub(crate) looks: usize,
    /// How many idle branches memory is counted with, and how long they rest before.
    pub(crate) idle: Vec<usize>,
    pub(crate) rest: Duration,
    pub(crate) tests: usize,
    /// In so many turns.
    pub(crate) tests_turns: usize,
    pub(crate) tests_limit: Duration,
    pub(crate) suite: usize,
    pub(crate) suite_limit: Duration,
    /// pgbench: so many rounds of so long, with so much data.
    pub(crate) rounds: usize,
    pub(crate) pgbench: Duration,
    pub(crate) scale: usize,
}

impl Plan {
    pub(crate) fn of(args: &Args) -> Result<Self> {
        let short = args.short;
        let sizes = args.sizes("--sizes", if short { "10MB" } else { "10MB,1GB,10GB" })?;
        let places = match args.option::<String>("--places")? {
            Some(list) => list.split(',').map(place).collect::<Result<_>>()?,
            None => Place::ALL.to_vec(),
        };
        let seconds = Duration::from_secs;
        Ok(Self {
            short,
            sizes,
            places,
            samples: args.samples(2, 120, 1),
            least: if short { 1 } else { 4 },
            budget: if short { seconds(2) } else { seconds(20) },
            ready: if short { 1 } else { 4 },
            callers: if short { vec![1, 4] } else { vec![1, 4, 16] },
            calls: if short { 4 } else { 64 },
            looks: if short { 1 } else { 3 },
            idle: if short { vec![1, 3] } else { vec![1, 10, 100] },
            rest: if short { Duration::from_millis(200) } else { seconds(3) },
            tests: args.option("--tests")?.unwrap_or(if short { 6 } else { 1000 }),
            tests_turns: if short { 2 } else { 4 },
            tests_limit: if short { seconds(2) } else { seconds(40) },
            suite: if short { 10 } else { 300 },
            suite_limit: if short { seconds(4) } else { seconds(60) },
            rounds: if short { 1 } else { 7 },
            pgbench: if short { seconds(1) } else { seconds(10) },
            scale: if short { 1 } else { 20 },
        })
    }

    pub(crate) fn smallest(&self) -> u64 {
        self.sizes.first().copied().unwrap_or_default()
    }

    /// Whether tests are counted there: where a target is, and where templates may win.
    pub(crate) fn tests_in(&self, place: Option<Place>, seed: &Seed) -> bool {
        match place {
            None => false,
            Some(_) if seed.is_huge() => false,
            Some(Place::Btrfs) => true,
            Some(Place::Ext4) => !self.short,
            // Of more it would be full of copies.
            Some(Place::Memory) => !self.short && seed.is_small(),
            // It is as btrfs is, and a run is long.
            Some(Place::Xfs) => false,
        }
    }
}

/// The place of that name.
fn place(name: &str) -> Result<Place> {
    let found =
        Place::ALL.into_iter().find(|one| one.to_string().eq_ignore_ascii_case(name.trim()));
    found.ok_or_else(|| {
        let all = Place::ALL.map(|place| place.to_string()).join(", ");
        format!("--places: {name} is none; there are {all}").into()
    })
}
