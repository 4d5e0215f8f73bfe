//! Where somebody else is ahead of Velo, in whatever is measured.

use velo_benches::Table;
use velo_benches::figures::{label, mb, ms};

use crate::measure::Measured;
use crate::report::Report;
use crate::row::Kind;

/// What to do where Velo is behind.
pub(crate) const ADVICE: &str = "\
Who is ahead of Velo with processes, in the same place: by medians, with the most callers and idle branches that both \
had. Where nothing clones, a template database copies a \
database, and Velo\na whole instance: take branches from a pool (`Seed::pool`), put the home in memory or on a file \
system that clones (`velo setup\n--loop` makes one in a file), or keep templates for small data that need no instance \
of its own. Memory and space are what an\ninstance costs that a database within somebody else's does not.";

/// One figure that rows have.
struct Figure {
    what: &'static str,
    /// Unknown where it is NaN.
    of: fn(&Measured, &Measured) -> (f64, f64),
    /// Whether more of it is better.
    more: bool,
    shown: fn(f64) -> String,
}

/// Theirs, and Velo's.
const ALL: [Figure; 9] = [
    Figure {
        what: "first query, cold",
        of: |theirs, velo| (theirs.cold.first.median(), velo.cold.first.median()),
        more: false,
        shown: milliseconds,
    },
    Figure {
        what: "first query, ready",
        of: |theirs, velo| (theirs.ready.first.median(), velo.ready.first.median()),
        more: false,
        shown: milliseconds,
    },
    Figure {
        what: "delete",
        of: |theirs, velo| (theirs.cold.delete.median(), velo.cold.delete.median()),
        more: false,
        shown: milliseconds,
    },
    Figure { what: "concurrent, a second", of: crowds, more: true, shown: a_second },
    Figure {
        what: "tests a second",
        of: |theirs, velo| (tests(theirs), tests(velo)),
        more: true,
        shown: a_second,
    },
    Figure { what: "memory of each", of: memory, more: false, shown: megabytes },
    Figure {
        what: "space, created",
        of: |theirs, velo| (space(theirs)[0], space(velo)[0]),
        more: false,
        shown: megabytes,
    },
    Figure {
        what: "space, first query",
        of: |theirs, velo| (space(theirs)[1], space(velo)[1]),
        more: false,
        shown: megabytes,
    },
    Figure {
        what: "space, 1 % updated",
        of: |theirs, velo| (space(theirs)[2], space(velo)[2]),
        more: false,
        shown: megabytes,
    },
];

/// Whoever is ahead of Velo in the same place with the same seed.
pub(crate) fn table(report: &Report) -> Table {
    let mut table = Table::new(&["place", "seed", "what", "ahead", "theirs", "Velo"]);
    for velo in report.rows.iter().filter(|row| row.kind == Kind::Velo) {
        for figure in &ALL {
            for row in report.all(velo.place, velo.size).filter(|row| is_peer(row.kind)) {
                let (theirs, own) = (figure.of)(row, velo);
                if (figure.more && theirs > own) || (!figure.more && theirs < own) {
                    table.row(vec![
                        velo.place.to_string(),
                        label(velo.size),
                        figure.what.to_owned(),
                        row.kind.to_string(),
                        (figure.shown)(theirs),
                        (figure.shown)(own),
                    ]);
                }
            }
        }
    }
    for (_, place, own) in report.suites.iter().filter(|(kind, ..)| *kind == Kind::Velo) {
        for (kind, _, theirs) in report.suites.iter().filter(|(_, at, _)| at == place) {
            if is_peer(*kind) && theirs.end_to_end() < own.end_to_end() {
                let what = "suite, from end to end".to_owned();
                let shown = |seconds: f64| format!("{seconds:.1} s");
                let (theirs, own) = (shown(theirs.end_to_end()), shown(own.end_to_end()));
                let cells = [place.to_string(), String::new(), what, kind.to_string(), theirs, own];
                table.row(cells.into());
            }
        }
    }
    table
}

fn is_peer(kind: Kind) -> bool {
    !matches!(kind, Kind::Floor | Kind::Velo | Kind::VeloDocker)
}

/// With the most callers that both were measured with.
fn crowds(theirs: &Measured, velo: &Measured) -> (f64, f64) {
    let both = velo.crowds.iter().rev().find_map(|own| {
        let other = theirs.crowds.iter().find(|other| other.callers == own.callers)?;
        Some((other.a_second, own.a_second))
    });
    both.unwrap_or((f64::NAN, f64::NAN))
}

/// With the most branches that both were measured with, in bytes.
fn memory(theirs: &Measured, velo: &Measured) -> (f64, f64) {
    let both = velo.memory.iter().rev().find_map(|own| {
        let other = theirs.memory.iter().find(|other| other.branches == own.branches)?;
        Some((other.each * 1024.0, own.each * 1024.0))
    });
    both.unwrap_or((f64::NAN, f64::NAN))
}

fn tests(row: &Measured) -> f64 {
    row.tests.map_or(f64::NAN, |done| done.a_second())
}

fn space(row: &Measured) -> [f64; 3] {
    let of = |extents: &crate::measure::Extents| {
        [extents.created, extents.queried, extents.updated].map(|bytes| bytes as f64)
    };
    row.extents.as_ref().map_or([f64::NAN; 3], of)
}

fn milliseconds(value: f64) -> String {
    format!("{} ms", ms(value))
}

fn a_second(value: f64) -> String {
    format!("{value:.1}")
}

fn megabytes(bytes: f64) -> String {
    mb(bytes as u64)
}
