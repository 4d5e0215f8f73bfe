//! All of a run, as text, as data and as plots.

use serde_json::{Value, json};
use velo_benches::figures::{Times, label, mb, ms};
use velo_benches::{Table, machine};

use crate::behind;
use crate::catalog::Skip;
use crate::measure::Measured;
use crate::pgbench::Throughput;
use crate::plot::{self, Bar};
use crate::row::{Kind, Place};
use crate::suite::Done;
use crate::targets::{self, Target};

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) file_systems: Vec<(Place, String)>,
    pub(crate) rows: Vec<Measured>,
    pub(crate) skipped: Vec<Skip>,
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) suites: Vec<(Kind, Place, Done)>,
    /// What broke beside the rows.
    pub(crate) failed: Vec<String>,
    /// Whether the run went to its end.
    pub(crate) whole: bool,
    /// What it was told, and what of: as it began, for it writes into its own checkout.
    pub(crate) arguments: String,
    pub(crate) commit: String,
    /// What the machine did beside it, likewise.
    pub(crate) load: String,
}

impl Report {
    /// Whether nothing was measured yet.
    pub(crate) fn is_empty(&self) -> bool {
        let has = |row: &Measured| !row.cold.first.0.is_empty();
        !self.rows.iter().any(has) && self.suites.is_empty() && self.throughput.is_empty()
    }

    /// Keeps what broke, once.
    pub(crate) fn fail(&mut self, what: &str, error: &dyn std::fmt::Display) {
        let text = format!("{what}: {error}");
        eprintln!("FAILED {text}");
        if !self.failed.contains(&text) {
            self.failed.push(text);
        }
    }

    /// The sizes of seeds, smallest first.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.rows.iter().map(|row| row.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    pub(crate) fn all(&self, place: Place, size: u64) -> impl Iterator<Item = &Measured> {
        self.rows.iter().filter(move |row| row.place == place && row.size == size)
    }

    pub(crate) fn find(&self, kind: Kind, place: Place, size: u64) -> Option<&Measured> {
        self.all(place, size).find(|row| row.kind == kind)
    }

    /// What broke, if anything did.
    pub(crate) fn failures(&self) -> Vec<String> {
        let of = |row: &Measured| {
            let why = row.failed.as_ref()?;
            Some(format!("{} on {}, {}: {why}", row.kind, row.place, label(row.size)))
        };
        self.rows.iter().filter_map(of).chain(self.failed.iter().cloned()).collect()
    }

    /// As Markdown.
    pub(crate) fn render(&self, plots: &[(String, String)]) -> String {
        let mut out = String::from(
            "# Velo beside its peers\n\nWritten by `.ci/compare`, which runs \
             `cargo bench -p velo-benches --bench compare -- --write`.\n\n",
        );
        let mut line = |text: String| out.push_str(&(text + "\n"));
        if !self.whole {
            line(
                "**This run did not go to its end: what is missing was not measured.**\n"
                    .to_owned(),
            );
        }
        line(format!("- Date: {}", machine::today()));
        line(format!(
            "- Machine: {}; load {} when it began, niceness {}",
            machine::describe(),
            self.load,
            machine::niceness()
        ));
        line(format!("- Velo {}, commit {}", env!("CARGO_PKG_VERSION"), self.commit));
        line(format!("- Arguments: {}", self.arguments));
        for (place, text) in &self.file_systems {
            line(format!("- {place}: {text}"));
        }
        line(String::new());
        line(
            "One run. In each place and with each seed the rows take turns at cold, ready and tests, each round \
             in an order of its\nown, and the first round of cold and ready, which warms caches, is not counted; a row whose samples took 20 s \
             has no\nmore turns (four samples it has). At the rest they follow one another. *Delete* is until the server\nis gone: files that take longer Velo removes behind the caller, \
             which *Concurrent callers* and *Tests* wait for.\n*Endpoint* is from the request until there is an address, *first query* \
             until `SELECT 1` is answered over a\nconnection of its own. The floor is one bare clone and one bare \
             `postgres` on it. *p95*\nof fewer than 22 samples and *p99* of fewer than 102 would be the slowest one, and are left out. A template database is no instance:\nroles, settings and WAL are its server's, which \
             runs already. Milliseconds."
                .to_owned(),
        );
        for (name, _) in plots {
            line(format!("\n![{}]({name})", name.trim_end_matches(".svg")));
        }
        let mut part = |title: &str, text: &str, table: Table| {
            out.push_str(&format!("\n## {title}\n\n"));
            if !text.is_empty() {
                out.push_str(&format!("{text}\n\n"));
            }
            out.push_str(&table.render());
        };
        part(
            "To reach",
            "Ratios of medians within this run. Of a miss is said where the time goes. mitosis-db is asked by its command, as its \
             guide\ndoes, and its passwords have PostgreSQL's 4,096 iterations, which each connection pays; Velo is asked as a library, \
             and\nhas one iteration.",
            self.target_table(),
        );
        part(
            "Where the time goes, and what would have to change",
            targets::CHANGE,
            self.profiles(),
        );
        part("Where Velo is not the fastest", behind::ADVICE, behind::table(self));
        part("Cold: nothing is ready", "", self.times(|row| &row.cold));
        part(
            "Ready",
            "Velo: `Pool::acquire`, of a server that a session of Velo's has warmed. Templates: a database that was made before, taken from a list in this process, \
             while the next is\nmade (IntegreSQL's way, without its request over HTTP).",
            self.times(|row| &row.ready),
        );
        part(
            "Concurrent callers",
            "Cold, to the first query answered; branches a second with their deletion.",
            self.crowd_table(),
        );
        part(
            "Tests",
            "A hundred rows in a table of its own, as many at once as there are cores; fewer than 1,000 where 40 s were \
             over.\nVelo's branches are a pool's, and template databases of a list as above, both empty at first, of at \
             most twice as many as\nthere are cores, of which as many as there are cores are made at a time; a copy of a large template is made when a test asks for it.",
            self.test_table(),
        );
        part(
            "A suite of 300 tests",
            "Of a shop, ten kinds of tests, two at once: from the first line of the migration to the end of the last \
             test, each row once;\nfewer than 300 where 60 s were over.\n*Prepared* is all that comes before the first test: a server or a project of its own, and the \
             migration.",
            self.suite_table(),
        );
        part(
            "Space of its own",
            "Data extents that no other file shares, the most that was seen; of a template database its own folder, \
             not the WAL\nof its server, nor what that still has in its buffers. Updated is one row in a hundred, side by side, and a checkpoint.",
            self.space_table(),
        );
        part(
            "Memory of idle branches",
            "PSS of all their servers, for each branch, after one query; of template databases the one server's (of \
             both strategies),\ndivided. What is in no server's process is not in it: in the place *memory* the data itself, which \
             is as large as the\nseed (but in PGlite's); a container's shim and proxy; mitosis-db's daemon; the process that asks.",
            self.memory_table(),
        );
        part(
            "pgbench",
            "Transactions a second, in turn with a server of the same settings that Velo knows nothing of, on the \
             same file system:\nmedian (least to most).",
            self.throughput_table(),
        );
        part("Settings", "", self.settings());
        part("What was not measured", "", self.skips());
        out
    }

    fn target_table(&self) -> Table {
        let mut table = Table::new(&["target", "seed", "figure", "", "where the time goes"]);
        for target in targets::all(self) {
            table.row(vec![
                target.what,
                target.size.map_or_else(String::new, label),
                target.figure,
                said(target.met).to_owned(),
                target.cause,
            ]);
        }
        table
    }

    fn times(&self, of: fn(&Measured) -> &crate::measure::Series) -> Table {
        let mut table = Table::new(&[
            "seed",
            "place",
            "row",
            "samples",
            "endpoint p50",
            "p95",
            "p99",
            "first query p50",
            "p95",
            "p99",
            "delete p50",
            "p95",
        ]);
        for row in self.rows.iter().filter(|row| !of(row).first.0.is_empty()) {
            let series = of(row);
            let mut cells = head(row);
            cells.push(series.first.0.len().to_string());
            for times in [&series.endpoint, &series.first] {
                cells.extend([times.median(), tail(times, 0.95), tail(times, 0.99)].map(two));
            }
            cells.extend([series.delete.median(), tail(&series.delete, 0.95)].map(two));
            table.row(cells);
        }
        table
    }

    fn crowd_table(&self) -> Table {
        let mut table = Table::new(&[
            "seed", "place", "row", "callers", "samples", "p50", "p95", "p99", "a second",
        ]);
        for row in &self.rows {
            for crowd in &row.crowds {
                let mut cells = head(row);
                cells.extend([crowd.callers.to_string(), crowd.first.0.len().to_string()]);
                let first = &crowd.first;
                cells.extend([first.median(), tail(first, 0.95), tail(first, 0.99)].map(ms));
                cells.push(format!("{:.1}", crowd.a_second));
                table.row(cells);
            }
        }
        table
    }

    fn test_table(&self) -> Table {
        let mut table = Table::new(&["seed", "place", "row", "tests", "seconds", "tests a second"]);
        for row in &self.rows {
            if let Some(done) = row.tests {
                let mut cells = head(row);
                cells.extend([
                    done.count.to_string(),
                    format!("{:.1}", done.seconds),
                    format!("{:.1}", done.a_second()),
                ]);
                table.row(cells);
            }
        }
        table
    }

    fn suite_table(&self) -> Table {
        let mut table = Table::new(&[
            "place",
            "row",
            "tests",
            "seconds",
            "prepared",
            "tests a second",
            "all 300",
        ]);
        for (kind, place, done) in &self.suites {
            table.row(vec![
                place.to_string(),
                kind.to_string(),
                done.count.to_string(),
                format!("{:.1}", done.seconds),
                format!("{:.1}", done.prepared),
                format!("{:.1}", done.a_second()),
                format!("{:.1} s", done.end_to_end()),
            ]);
        }
        table
    }

    fn space_table(&self) -> Table {
        let mut table = Table::new(&[
            "seed",
            "place",
            "row",
            "samples",
            "created",
            "first query",
            "1 % updated",
        ]);
        for row in &self.rows {
            if let Some(extents) = &row.extents {
                let mut cells = head(row);
                cells.push(extents.looks.to_string());
                cells.extend([extents.created, extents.queried, extents.updated].map(mb));
                table.row(cells);
            }
        }
        table
    }

    fn memory_table(&self) -> Table {
        let mut table = Table::new(&["place", "row", "samples", "branches", "PSS of each"]);
        for row in &self.rows {
            for memory in &row.memory {
                table.row(vec![
                    row.place.to_string(),
                    row.kind.to_string(),
                    "1".to_owned(),
                    memory.branches.to_string(),
                    format!("{:.2} MB", memory.each / 1024.0),
                ]);
            }
        }
        table
    }

    fn throughput_table(&self) -> Table {
        let mut table = Table::new(&["place", "", "rounds", "Velo", "bare", "ratio"]);
        let spread =
            |all: &Times| format!("{:.0} ({:.0} to {:.0})", all.median(), all.at(0.0), all.at(1.0));
        for one in &self.throughput {
            table.row(vec![
                one.place.to_string(),
                one.what.clone(),
                one.velo.0.len().to_string(),
                spread(&one.velo),
                spread(&one.bare),
                format!("{:.2}", one.ratio()),
            ]);
        }
        table
    }

    fn profiles(&self) -> Table {
        let mut table = Table::new(&["place", "row", "profile"]);
        for row in self.rows.iter().filter(|row| !row.steps.is_empty()) {
            table.row(vec![row.place.to_string(), row.kind.to_string(), targets::profile(row)]);
        }
        table
    }

    fn settings(&self) -> Table {
        let mut table = Table::new(&["row", "PostgreSQL", "runs with"]);
        let mut known = Vec::new();
        for row in &self.rows {
            let cells = vec![row.kind.to_string(), row.postgres.clone(), row.settings.clone()];
            if !known.contains(&cells) {
                known.push(cells.clone());
                table.row(cells);
            }
        }
        table
    }

    fn skips(&self) -> Table {
        let mut table = Table::new(&["place", "seed", "row", "why"]);
        for skip in &self.skipped {
            let (place, size) = (skip.place.to_string(), label(skip.size));
            table.row(vec![place, size, skip.row.clone(), format!("skipped: {}", skip.why)]);
        }
        for row in &self.rows {
            for note in
                row.notes.iter().cloned().chain(row.failed.as_ref().map(|f| format!("FAILED: {f}")))
            {
                let cells =
                    vec![row.place.to_string(), label(row.size), row.kind.to_string(), note];
                table.row(cells);
            }
        }
        for failed in &self.failed {
            let empty = String::new;
            table.row(vec![empty(), empty(), empty(), format!("FAILED: {failed}")]);
        }
        table
    }

    /// Files and what is in them.
    pub(crate) fn plots(&self) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        let mut plot = |name: String, title: &str, unit: &str, bars: Vec<Bar>| {
            if let Some(svg) = plot::bars(title, unit, bars) {
                plots.push((format!("compare-{name}.svg"), svg));
            }
        };
        for size in self.sizes() {
            for (name, what, of) in [
                ("cold", "nothing ready", cold as fn(&Measured) -> f64),
                ("ready", "some ready", ready as fn(&Measured) -> f64),
            ] {
                let short = label(size).replace(' ', "").to_lowercase();
                let title = format!("Request to first query, {what}, a seed of {}", label(size));
                plot(format!("{name}-{short}"), &title, "ms", self.bars(size, of));
            }
            let title = format!("Tests a second, each with a branch, a seed of {}", label(size));
            let short = label(size).replace(' ', "").to_lowercase();
            let tests = |row: &Measured| row.tests.map_or(f64::NAN, |done| done.a_second());
            plot(format!("tests-{short}"), &title, "/s", self.bars(size, tests));
        }
        let memory = |row: &Measured| row.memory.last().map_or(f64::NAN, |m| m.each / 1024.0);
        if let Some(size) = self.sizes().first() {
            plot(
                "memory".to_owned(),
                "Memory of an idle branch (PSS)",
                "MB",
                self.bars(*size, memory),
            );
        }
        plots
    }

    fn bars(&self, size: u64, of: impl Fn(&Measured) -> f64) -> Vec<Bar> {
        let rows = self.rows.iter().filter(|row| row.size == size);
        let bar = |row: &Measured| Bar {
            label: format!("{}, {}", row.kind, row.place),
            value: of(row),
            ours: matches!(row.kind, Kind::Velo | Kind::VeloDocker),
        };
        rows.map(bar).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let series = |series: &crate::measure::Series| {
            json!({"endpoint": series.endpoint.json(), "first_query": series.first.json(),
                   "delete": series.delete.json()})
        };
        let done = |done: &Done| json!({"tests": done.count, "seconds": done.seconds, "prepared_seconds": done.prepared});
        let row = |row: &Measured| {
            let crowds = row.crowds.iter().map(|crowd| {
                json!({"callers": crowd.callers, "first_query": crowd.first.json(), "a_second": crowd.a_second})
            });
            let memory =
                row.memory.iter().map(|m| json!({"branches": m.branches, "pss_kb_each": m.each}));
            let steps: serde_json::Map<_, _> = row
                .steps
                .iter()
                .map(|(name, times)| (name.clone(), json!(times.median())))
                .collect();
            json!({
                "row": row.kind.to_string(), "place": row.place.to_string(), "seed_bytes": row.size,
                "postgres": row.postgres, "settings": row.settings,
                "cold": series(&row.cold), "ready": series(&row.ready),
                "callers": crowds.collect::<Vec<_>>(), "memory": memory.collect::<Vec<_>>(),
                "own_bytes": row.extents.as_ref().map(|e| [e.created, e.queried, e.updated]),
                "tests": row.tests.as_ref().map(done), "steps_median_ms": steps,
                "failed": row.failed, "notes": row.notes,
            })
        };
        let target = |target: Target| {
            json!({"target": target.what, "seed_bytes": target.size, "figure": target.figure,
                   "met": target.met, "cause": target.cause})
        };
        let skip = |skip: &Skip| json!({"row": skip.row, "place": skip.place.to_string(), "seed_bytes": skip.size, "why": skip.why});
        let throughput = |one: &Throughput| json!({"place": one.place.to_string(), "what": one.what, "velo_tps": one.velo.0, "bare_tps": one.bare.0});
        let suites = self.suites.iter().map(|(kind, place, suite)| {
            json!({"row": kind.to_string(), "place": place.to_string(), "suite": done(suite)})
        });
        json!({
            "whole": self.whole, "date": machine::today(), "machine": machine::describe(),
            "velo": env!("CARGO_PKG_VERSION"), "commit": self.commit, "arguments": self.arguments,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "suites": suites.collect::<Vec<_>>(),
            "pgbench": self.throughput.iter().map(throughput).collect::<Vec<_>>(),
            "targets": targets::all(self).into_iter().map(target).collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(skip).collect::<Vec<_>>(),
            "failed": self.failed,
        })
    }
}

fn head(row: &Measured) -> Vec<String> {
    vec![label(row.size), row.place.to_string(), row.kind.to_string()]
}

fn cold(row: &Measured) -> f64 {
    row.cold.first.median()
}

fn ready(row: &Measured) -> f64 {
    row.ready.first.median()
}

/// A percentile, where it is not the slowest of all.
fn tail(times: &Times, p: f64) -> f64 {
    if times.at(p) < times.at(1.0) { times.at(p) } else { f64::NAN }
}

/// Milliseconds, finer where they are few.
fn two(value: f64) -> String {
    if value < 1.0 { format!("{value:.2}") } else { ms(value) }
}

fn said(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    }
}
