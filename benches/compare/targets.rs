//! What is to be reached, as ratios within one run; and where the time goes where it is not.

use velo_benches::figures::{Times, label, ms};

use crate::measure::{Measured, Memory};
use crate::pgbench;
use crate::report::Report;
use crate::row::{Kind, Place, Strategy};

/// One that is to be reached.
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) size: Option<u64>,
    /// Theirs and Velo's, as a ratio, and what is wanted of it.
    pub(crate) figure: String,
    /// Unknown where one of the two was not measured.
    pub(crate) met: Option<bool>,
    pub(crate) cause: String,
}

const MITOSIS: f64 = 0.25;
const CLONE: f64 = 1.0;
const READY: f64 = 1.0;
const TESTS: [(u64, f64); 2] = [(10 << 20, 1.0), (1 << 30, 10.0)];
const MEMORY: f64 = 0.25;
const PGBENCH: f64 = 0.95;

/// What would have to change for what is missed.
pub(crate) const CHANGE: &str = "\
- **Cold, beside a database of a server that runs, and beside mitosis-db.** All but a few milliseconds are PostgreSQL's own: \
the *floor* is one\nbare clone and one bare `postgres`. Less than that is only had without a start: from a pool, where a \
branch is ahead.\n\
- **Tests a second.** Both cores are busy all the time, with forks, shared memory and files of servers that start and end. \
It takes a\nPostgreSQL with fewer processes and less to set up, or tests that do more than a hundred rows: from some hundred \
megabytes on a\ncopied database costs more than a server.\n\
- **Memory.** Most is what each process of PostgreSQL's has to itself, and no setting that a test would not see takes it \
away. A quarter of\nmitosis-db's is less than a bare postmaster has.\n\
- **pgbench in a fresh branch.** Linux keeps what was read of a file by file, and a clone's are new ones: the first ten \
seconds read what a\nserver that has just written its copy has in memory. The rest is each page's first write, which leaves an extent that is\n\
shared. It takes a page cache that clones share.\n\nOf a cold branch, medians, the longest steps first:";

/// All of them, by what a run has measured.
pub(crate) fn all(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for size in report.sizes() {
        let velo = report.find(Kind::Velo, Place::Btrfs, size);
        let first = |row: &Measured| row.cold.first.median();
        let mitosis = report.find(Kind::Mitosis, Place::Btrfs, size);
        let what = "request to first query on btrfs, cold, of mitosis-db's";
        targets.push(at_most(what, size, MITOSIS, velo, mitosis, first, cold_cause));
        let clone = report.find(Kind::Template(18, Strategy::Clone), Place::Btrfs, size);
        let what = "the same, of file_copy_method=clone's";
        targets.push(at_most(what, size, CLONE, velo, clone, first, cold_cause));
        let ready = |row: &Measured| row.ready.first.median();
        let templates = report.all(Place::Btrfs, size).filter(|row| is_template(row.kind));
        let fastest = templates
            .filter(|row| !row.ready.first.0.is_empty())
            .min_by(|one, other| ready(one).total_cmp(&ready(other)));
        let what =
            "request to first query on btrfs, ready, of the fastest ready template database's";
        targets.push(at_most(what, size, READY, velo, fastest, ready, ready_cause));
    }
    for (size, least) in TESTS {
        let velo = report.find(Kind::Velo, Place::Btrfs, size);
        let fastest = |wanted: fn(&Kind) -> bool| {
            report
                .all(Place::Btrfs, size)
                .filter(|row| wanted(&row.kind) && row.tests.is_some() && row.failed.is_none())
                .max_by(|one, other| a_second(one).total_cmp(&a_second(other)))
        };
        let copying = fastest(|kind| is_template(*kind) && !is_clone(*kind));
        let what = "tests a second on btrfs, of those with template databases that are copied";
        targets.push(at_least(what, size, least, velo, copying));
        let cloning = fastest(|kind| is_clone(*kind));
        let what = "the same, of those with file_copy_method=clone";
        targets.push(at_least(what, size, least, velo, cloning));
    }
    targets.push(memory(report));
    let measured = |place| report.throughput.iter().any(|one| one.place == place);
    for place in Place::ALL.into_iter().filter(|place| place.clones() && !measured(*place)) {
        targets.push(unknown(&format!("pgbench on {place}, of a bare server's"), None));
    }
    for one in &report.throughput {
        let ratio = one.ratio();
        targets.push(Target {
            what: format!("pgbench {} on {}, of a bare server's", one.what, one.place),
            size: None,
            figure: format!("{ratio:.2} (at least {PGBENCH})"),
            met: Some(ratio >= PGBENCH),
            cause: if ratio >= PGBENCH {
                String::new()
            } else {
                let spread = |all: &Times| format!("{:.0} to {:.0}", all.at(0.0), all.at(1.0));
                // A parent's files are none that nobody has read yet.
                let reads = match one.what.as_str() {
                    pgbench::IN_A_BRANCH => "first reads of files that no cache has yet, and ",
                    _ => "",
                };
                format!(
                    "transactions a second: {}; bare {}: {reads}first writes into shared extents, if the two do not \
                     overlap",
                    spread(&one.velo),
                    spread(&one.bare)
                )
            },
        });
    }
    targets
}

fn is_template(kind: Kind) -> bool {
    matches!(kind, Kind::Template(..))
}

fn is_clone(kind: Kind) -> bool {
    matches!(kind, Kind::Template(_, Strategy::Clone))
}

fn a_second(row: &Measured) -> f64 {
    row.tests.map_or(0.0, |done| done.a_second())
}

/// A time of Velo's, as a share of theirs.
fn at_most(
    what: &str,
    size: u64,
    most: f64,
    velo: Option<&Measured>,
    theirs: Option<&Measured>,
    time: fn(&Measured) -> f64,
    cause: fn(&Measured, &Measured) -> String,
) -> Target {
    let known = velo.zip(theirs).filter(|(velo, theirs)| !(time(velo) / time(theirs)).is_nan());
    let Some((velo, theirs)) = known else { return unknown(what, Some(size)) };
    let ratio = time(velo) / time(theirs);
    let met = ratio <= most;
    Target {
        what: what.to_owned(),
        size: Some(size),
        figure: format!(
            "{} ms / {} ms = {ratio:.2} (at most {most})",
            ms(time(velo)),
            ms(time(theirs))
        ),
        met: Some(met),
        cause: if met { String::new() } else { cause(velo, theirs) },
    }
}

fn at_least(
    what: &str,
    size: u64,
    least: f64,
    velo: Option<&Measured>,
    theirs: Option<&Measured>,
) -> Target {
    let known = velo.zip(theirs).filter(|(velo, theirs)| {
        velo.tests.is_some() && velo.failed.is_none() && theirs.tests.is_some()
    });
    let Some((velo, theirs)) = known else { return unknown(what, Some(size)) };
    let ratio = a_second(velo) / a_second(theirs);
    let met = ratio >= least;
    let mut cause = String::new();
    if !met {
        cause = format!(
            "a server each: {}, and {} ms to close; theirs: {} ms to the first query, {} ms to drop",
            profile(velo),
            ms(velo.cold.delete.median()),
            ms(theirs.cold.first.median()),
            ms(theirs.cold.delete.median())
        );
    }
    Target {
        what: what.to_owned(),
        size: Some(size),
        figure: format!(
            "{:.1} / {:.1} ({}) = {ratio:.2} (at least {least})",
            a_second(velo),
            a_second(theirs),
            theirs.kind
        ),
        met: Some(met),
        cause,
    }
}

/// PSS with the most branches that both were measured with.
fn memory(report: &Report) -> Target {
    let what = "PSS of an idle branch on btrfs, of mitosis-db's";
    let size = report.sizes().first().copied().unwrap_or_default();
    let velo = report.find(Kind::Velo, Place::Btrfs, size);
    let theirs = report.find(Kind::Mitosis, Place::Btrfs, size);
    let both = velo.zip(theirs).and_then(|(velo, theirs)| {
        velo.memory.iter().rev().find_map(|one| {
            let other = theirs.memory.iter().find(|other| other.branches == one.branches)?;
            Some((one, other))
        })
    });
    let Some((one, other)) = both else { return unknown(what, None) };
    let ratio = one.each / other.each;
    Target {
        what: what.to_owned(),
        size: None,
        figure: format!(
            "{:.1} MB / {:.1} MB = {ratio:.2} (at most {MEMORY}), each of {}",
            one.each / 1024.0,
            other.each / 1024.0,
            one.branches
        ),
        met: Some(ratio <= MEMORY),
        cause: if ratio <= MEMORY {
            String::new()
        } else {
            let parts = |memory: &Memory| {
                let mut parts: Vec<_> = memory.parts.iter().collect();
                parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
                let shown = parts.iter().map(|(what, kb)| format!("{what} {kb:.0}"));
                shown.take(4).collect::<Vec<_>>().join(", ")
            };
            format!("kB of each: {}; theirs: {}", parts(one), parts(other))
        },
    }
}

fn unknown(what: &str, size: Option<u64>) -> Target {
    Target {
        what: what.to_owned(),
        size,
        figure: String::new(),
        met: None,
        cause: "one of the two was not measured, see what was skipped".to_owned(),
    }
}

fn cold_cause(velo: &Measured, theirs: &Measured) -> String {
    format!(
        "{}; theirs: {} ms to the endpoint, {} ms after it",
        profile(velo),
        ms(theirs.cold.endpoint.median()),
        ms(theirs.cold.first.median() - theirs.cold.endpoint.median())
    )
}

fn ready_cause(velo: &Measured, theirs: &Measured) -> String {
    let parts = |row: &Measured| {
        let endpoint = row.ready.endpoint.median();
        format!(
            "{endpoint:.2} ms to the endpoint, {} ms after it",
            ms(row.ready.first.median() - endpoint)
        )
    };
    format!("{}; theirs ({}): {}", parts(velo), theirs.kind, parts(theirs))
}

/// Where the time of a cold branch goes, the longest step first.
pub(crate) fn profile(velo: &Measured) -> String {
    let mut steps: Vec<(&str, f64)> =
        velo.steps.iter().map(|(name, times)| (name.as_str(), times.median())).collect();
    steps.push(("connection and query", velo.cold.first.median() - velo.cold.endpoint.median()));
    steps.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let shown: Vec<String> =
        steps.iter().take(4).map(|(name, took)| format!("{name} {}", ms(*took))).collect();
    format!("of {} ms ({}): {}", ms(velo.cold.first.median()), label(velo.size), shown.join(", "))
}
