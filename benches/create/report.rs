//! Figures, and what they are measured by.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use velo_benches::figures::{Times, label, mb, ms};
use velo_benches::{Table, machine};

/// What a fresh cluster has.
pub(crate) const MB40: u64 = 40 << 20;

const RATIO: f64 = 1.3;
/// On btrfs, of what was stopped cleanly, as a seed is.
const SEED_RATIO: f64 = 1.15;
const CLOSE_MS: f64 = 15.0;
const PSS_MB: f64 = 10.0;
const OWN_MB: f64 = 1.0;
const BEYOND_MS: f64 = 60.0;

/// One storage, size and state of main.
pub(crate) struct Row {
    backend: String,
    size: u64,
    main: &'static str,
    files: usize,
    floor: Times,
    floor_clone: Times,
    velo: Times,
    create: Times,
    close: Times,
    steps: Vec<(String, Times)>,
}

impl Row {
    pub(crate) fn new(backend: &str, size: u64, main: &'static str, files: usize) -> Self {
        Self {
            backend: backend.to_owned(),
            size,
            main,
            files,
            floor: Times::default(),
            floor_clone: Times::default(),
            velo: Times::default(),
            create: Times::default(),
            close: Times::default(),
            steps: Vec::new(),
        }
    }

    pub(crate) fn floor(&mut self, counts: bool, total: Duration, clone: Duration) {
        if counts {
            self.floor.add(total);
            self.floor_clone.add(clone);
        }
    }

    pub(crate) fn velo(
        &mut self,
        total: Duration,
        created: Duration,
        closed: Duration,
        steps: &[(String, Duration)],
    ) {
        self.velo.add(total);
        self.create.add(created);
        self.close.add(closed);
        for (name, took) in steps {
            match self.steps.iter_mut().find(|(known, _)| known == name) {
                Some((_, times)) => times.add(*took),
                None => {
                    let mut times = Times::default();
                    times.add(*took);
                    self.steps.push((name.clone(), times));
                }
            }
        }
    }

    fn beyond(&self) -> f64 {
        self.velo.median() - self.floor.median()
    }

    fn ratio(&self) -> f64 {
        self.velo.median() / self.floor.median()
    }

    fn most(&self) -> f64 {
        match (self.backend.as_str(), self.main) {
            ("btrfs", "stopped") => SEED_RATIO,
            _ => RATIO,
        }
    }
}

/// Where a storage was measured.
pub(crate) struct Facts {
    pub(crate) backend: String,
    pub(crate) file_system: String,
    pub(crate) postgres: String,
}

struct Memory {
    backend: String,
    kb: u64,
    parts: BTreeMap<String, u64>,
}

struct Space {
    backend: String,
    size: u64,
    created: u64,
    queried: u64,
}

struct Reset {
    backend: String,
    size: u64,
    took: Times,
    gap: Times,
}

/// All of a run.
pub(crate) struct Report {
    facts: Vec<Facts>,
    rows: Vec<Row>,
    /// Those whose servers are containers.
    containers: Vec<Row>,
    memory: Vec<Memory>,
    space: Vec<Space>,
    resets: Vec<Reset>,
    skipped: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            facts: Vec::new(),
            rows: Vec::new(),
            containers: Vec::new(),
            memory: Vec::new(),
            space: Vec::new(),
            resets: Vec::new(),
            skipped: Vec::new(),
        }
    }

    pub(crate) fn facts(&mut self, facts: Facts) {
        self.facts.push(facts);
    }

    pub(crate) fn skip(&mut self, what: String) {
        eprintln!("SKIPPED {what}");
        self.skipped.push(what);
    }

    pub(crate) fn row(&mut self, row: Row) {
        eprintln!(
            "  floor {:.1} ms, velo {:.1} ms ({:.2}), close {:.1} ms",
            row.floor.median(),
            row.velo.median(),
            row.ratio(),
            row.close.median()
        );
        self.rows.push(row);
    }

    pub(crate) fn container(&mut self, row: Row) {
        eprintln!(
            "  the engine's start {:.1} ms, velo {:.1} ms ({:.1} ms beyond), close {:.1} ms",
            row.floor.median(),
            row.velo.median(),
            row.beyond(),
            row.close.median()
        );
        self.containers.push(row);
    }

    pub(crate) fn memory(&mut self, backend: &str, kb: u64, parts: BTreeMap<String, u64>) {
        self.memory.push(Memory { backend: backend.to_owned(), kb, parts });
    }

    pub(crate) fn space(&mut self, backend: &str, size: u64, created: u64, queried: u64) {
        self.space.push(Space { backend: backend.to_owned(), size, created, queried });
    }

    pub(crate) fn reset(&mut self, backend: &str, size: u64, took: Duration, gap: Duration) {
        let same = |r: &&mut Reset| r.backend == backend && r.size == size;
        if let Some(reset) = self.resets.iter_mut().find(same) {
            reset.took.add(took);
            reset.gap.add(gap);
            return;
        }
        let (mut all, mut gaps) = (Times::default(), Times::default());
        all.add(took);
        gaps.add(gap);
        self.resets.push(Reset { backend: backend.to_owned(), size, took: all, gap: gaps });
    }

    /// The largest sum of PSS of one branch, in MB.
    fn most_memory(&self, backend: &str) -> Option<(f64, f64)> {
        let all: Vec<f64> = self
            .memory
            .iter()
            .filter(|m| m.backend == backend)
            .map(|m| m.kb as f64 / 1024.0)
            .collect();
        let most = all.iter().copied().reduce(f64::max)?;
        Some((all.iter().sum::<f64>() / all.len() as f64, most))
    }

    /// As Markdown.
    pub(crate) fn render(&self) -> String {
        let mut out = String::from("# Creating a branch, over the least that it could cost\n\n");
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line("Written by `cargo bench -p velo-benches --bench create -- --write`.\n");
        line(&format!("- Date: {}", machine::today()));
        line(&format!("- Machine: {}", machine::describe()));
        for facts in &self.facts {
            line(&format!(
                "- {}: {}, PostgreSQL {}",
                facts.backend, facts.file_system, facts.postgres
            ));
        }
        for skipped in &self.skipped {
            line(&format!("- Skipped: {skipped}"));
        }
        line("\n## To the first answered query\n");
        line(
            "The floor is one bare clone call and one bare `postgres` with a branch's own settings, \
             to the first\nanswer over TCP; a running main's bare clone recovers from a crash. Velo \
             is `Branch::create` to the\nsame. Milliseconds; samples were taken in turn.\n",
        );
        out.push_str(&self.times().render());
        if !self.containers.is_empty() {
            out.push_str(
                "\n## Containers, to the first answered query\n\nThe floor is the engine's own start \
                 of the same container on a clone that is there already.\nMilliseconds.\n\n",
            );
            out.push_str(&self.container_table().render());
        }
        out.push_str("\n## Velo's steps\n\nMedians in milliseconds.\n\n");
        out.push_str(&self.steps().render());
        out.push_str("\n## Memory of 10 idle branches, and space of their own\n\n");
        out.push_str(&self.memories().render());
        out.push('\n');
        out.push_str(&self.spaces().render());
        if !self.resets.is_empty() {
            out.push_str(
                "\n## Reset of a lasting branch, main stopped\n\nMilliseconds; the gap is the \
                 longest time without an answer to a client that goes on asking.\n\n",
            );
            out.push_str(&self.reset_table().render());
        }
        out.push_str("\n## Targets\n\n");
        out.push_str(&self.targets().render());
        out
    }

    fn times(&self) -> Table {
        let mut table = Table::new(&[
            "storage", "size", "files", "main", "samples", "floor", "p95", "(clone)", "Velo",
            "p95", "ratio", "close", "p95",
        ]);
        for row in &self.rows {
            table.row(vec![
                row.backend.clone(),
                label(row.size),
                row.files.to_string(),
                row.main.to_owned(),
                row.velo.0.len().to_string(),
                ms(row.floor.median()),
                ms(row.floor.at(0.95)),
                ms(row.floor_clone.median()),
                ms(row.velo.median()),
                ms(row.velo.at(0.95)),
                format!("{:.2}", row.ratio()),
                ms(row.close.median()),
                ms(row.close.at(0.95)),
            ]);
        }
        table
    }

    fn container_table(&self) -> Table {
        let mut table = Table::new(&[
            "storage", "main", "samples", "engine", "p95", "Velo", "p95", "beyond", "(clone)",
            "close", "p95",
        ]);
        for row in &self.containers {
            table.row(vec![
                "btrfs".to_owned(),
                row.main.to_owned(),
                row.velo.0.len().to_string(),
                ms(row.floor.median()),
                ms(row.floor.at(0.95)),
                ms(row.velo.median()),
                ms(row.velo.at(0.95)),
                ms(row.beyond()),
                ms(row.floor_clone.median()),
                ms(row.close.median()),
                ms(row.close.at(0.95)),
            ]);
        }
        table
    }

    fn steps(&self) -> Table {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.rows.iter().chain(&self.containers).flat_map(|row| &row.steps) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut head = vec!["storage", "size", "main"];
        head.extend(&names);
        head.extend(["create", "client"]);
        let mut table = Table::new(&head);
        for row in self.rows.iter().chain(&self.containers) {
            let mut cells = vec![row.backend.clone(), label(row.size), row.main.to_owned()];
            for name in &names {
                let times = row.steps.iter().find(|(known, _)| known == name);
                cells.push(times.map_or_else(String::new, |(_, times)| ms(times.median())));
            }
            cells.push(ms(row.create.median()));
            cells.push(ms(row.velo.median() - row.create.median()));
            table.row(cells);
        }
        table
    }

    fn memories(&self) -> Table {
        let mut table = Table::new(&["storage", "PSS each, mean", "most", "of which (mean, kB)"]);
        for facts in &self.facts {
            let all: Vec<_> = self.memory.iter().filter(|m| m.backend == facts.backend).collect();
            let Some((mean, most)) = self.most_memory(&facts.backend) else { continue };
            let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
            for (name, kb) in all.iter().flat_map(|m| &m.parts) {
                *parts.entry(name).or_insert(0) += kb;
            }
            let mut text = String::new();
            for (name, kb) in parts {
                let comma = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{comma}{name} {}", kb / all.len() as u64);
            }
            table.row(vec![
                facts.backend.clone(),
                format!("{mean:.1} MB"),
                format!("{most:.1} MB"),
                text,
            ]);
        }
        table
    }

    fn spaces(&self) -> Table {
        let mut table =
            Table::new(&["storage", "size", "own extents when created", "after the first query"]);
        for (backend, size) in self.space_keys() {
            let (created, queried) = self.most_space(&backend, size);
            table.row(vec![backend, label(size), mb(created), mb(queried)]);
        }
        table
    }

    fn space_keys(&self) -> Vec<(String, u64)> {
        let mut keys: Vec<_> = self.space.iter().map(|s| (s.backend.clone(), s.size)).collect();
        keys.dedup();
        keys
    }

    fn most_space(&self, backend: &str, size: u64) -> (u64, u64) {
        let all = self.space.iter().filter(|s| s.backend == backend && s.size == size);
        all.fold((0, 0), |(a, b), s| (a.max(s.created), b.max(s.queried)))
    }

    fn reset_table(&self) -> Table {
        let mut table = Table::new(&["storage", "size", "reset", "p95", "gap", "p95"]);
        for reset in &self.resets {
            table.row(vec![
                reset.backend.clone(),
                label(reset.size),
                ms(reset.took.median()),
                ms(reset.took.at(0.95)),
                ms(reset.gap.median()),
                ms(reset.gap.at(0.95)),
            ]);
        }
        table
    }

    /// What is to be reached. A copy has no targets: it is the way out where nothing clones.
    fn targets(&self) -> Table {
        let mut table = Table::new(&["target", "storage", "figure", ""]);
        let mut say = |target: &str, backend: &str, figure: String, met: bool| {
            let met = if met { "met" } else { "MISSED" };
            table.row(vec![target.to_owned(), backend.to_owned(), figure, met.to_owned()]);
        };
        let cloning = |row: &&Row| row.backend != "copy";
        for row in self.rows.iter().filter(cloning) {
            let (ratio, most) = (row.ratio(), row.most());
            let target = format!("{most} of the floor at most ({}, {})", label(row.size), row.main);
            say(&target, &row.backend, format!("{ratio:.2}"), ratio <= most);
        }
        for row in self.rows.iter().filter(cloning) {
            let close = row.close.median();
            let target = format!("closed under {CLOSE_MS} ms ({}, {})", label(row.size), row.main);
            say(&target, &row.backend, format!("{close:.1} ms"), close < CLOSE_MS);
        }
        for row in &self.containers {
            let beyond = row.beyond();
            let target =
                format!("{BEYOND_MS} ms beyond the engine's own start at most ({})", row.main);
            say(&target, &row.backend, format!("{beyond:.1} ms"), beyond <= BEYOND_MS);
        }
        for facts in &self.facts {
            if let Some((mean, most)) = self.most_memory(&facts.backend) {
                let target = format!("{PSS_MB} MB of PSS for each idle branch at most");
                let figure = format!("{mean:.1} MB, most {most:.1} MB");
                say(&target, &facts.backend, figure, most <= PSS_MB);
            }
        }
        for (backend, size) in self.space_keys().into_iter().filter(|(b, _)| b != "copy") {
            let (_, queried) = self.most_space(&backend, size);
            let target = format!("{OWN_MB} MB of own extents at most ({})", label(size));
            let met = queried as f64 <= OWN_MB * f64::from(1 << 20);
            say(&target, &backend, mb(queried), met);
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .chain(&self.containers)
            .map(|row| {
                let steps: serde_json::Map<_, _> = row
                    .steps
                    .iter()
                    .map(|(name, times)| (name.clone(), json!(times.median())))
                    .collect();
                json!({
                    "storage": row.backend, "size_bytes": row.size, "files": row.files,
                    "main": row.main, "floor": row.floor.json(),
                    "floor_clone": row.floor_clone.json(), "velo": row.velo.json(),
                    "create": row.create.json(), "close": row.close.json(),
                    "ratio": row.ratio(), "steps_median_ms": steps,
                })
            })
            .collect();
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|f| {
                json!({"storage": f.backend, "file_system": f.file_system, "postgres": f.postgres})
            })
            .collect();
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|m| json!({"storage": m.backend, "pss_kb": m.kb, "processes_kb": m.parts}))
            .collect();
        let space: Vec<Value> = self
            .space
            .iter()
            .map(|s| {
                json!({"storage": s.backend, "size_bytes": s.size, "created_bytes": s.created,
                       "queried_bytes": s.queried})
            })
            .collect();
        let resets: Vec<Value> = self
            .resets
            .iter()
            .map(|r| {
                json!({"storage": r.backend, "size_bytes": r.size, "reset": r.took.json(),
                       "gap": r.gap.json()})
            })
            .collect();
        json!({
            "date": machine::today(), "machine": machine::describe(), "measured": facts,
            "skipped": self.skipped, "create": rows, "memory": memory, "space": space,
            "resets": resets,
        })
    }
}
