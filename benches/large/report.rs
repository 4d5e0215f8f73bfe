//! The figures of both databases, side by side.

use std::time::Duration;

use serde_json::{Value, json};
use velo_benches::figures::{GB, Times, label, mb, ms};
use velo_benches::{Table, machine};

use crate::measure::Subject;

/// What is in a database.
pub(crate) struct Database {
    pub(crate) postgres: String,
    pub(crate) rows: u64,
    /// `pg_database_size`.
    pub(crate) bytes: u64,
    /// What main's folder has, before compression.
    pub(crate) folder: u64,
    pub(crate) files: usize,
}

/// What a branch takes of its own, in bytes.
pub(crate) struct Space {
    pub(crate) column: usize,
    pub(crate) when: &'static str,
    pub(crate) velo: u64,
    pub(crate) du: u64,
    /// What is gone from the file system.
    pub(crate) taken: u64,
}

/// A plain copy of a part.
pub(crate) struct Copied {
    pub(crate) bytes: u64,
    /// What all of it has.
    pub(crate) total: u64,
    /// What the copy takes of the disk.
    pub(crate) taken: u64,
    pub(crate) took: Duration,
}

/// Something that was timed with both databases.
struct Series {
    what: String,
    columns: [Times; 2],
}

/// All of it.
pub(crate) struct Report {
    sizes: [u64; 2],
    file_system: String,
    /// The load average when it began.
    load: String,
    pub(crate) databases: Vec<Database>,
    series: Vec<Series>,
    steps: Vec<(String, Series)>,
    pub(crate) space: Vec<Space>,
    /// PSS of a branch in kB.
    pub(crate) memory: [Vec<u64>; 2],
    pub(crate) copies: Vec<Copied>,
}

impl Report {
    pub(crate) fn new(sizes: [u64; 2], file_system: String) -> Self {
        Self {
            sizes,
            file_system,
            load: machine::load(),
            databases: Vec::new(),
            series: Vec::new(),
            steps: Vec::new(),
            space: Vec::new(),
            memory: Default::default(),
            copies: Vec::new(),
        }
    }

    /// One sample, unless it does not count.
    pub(crate) fn time(&mut self, subject: &Subject, what: &str, counts: bool, took: Duration) {
        if counts {
            let index = self.series.iter().position(|series| series.what == what);
            let index = index.unwrap_or_else(|| {
                self.series.push(Series::new(what));
                self.series.len() - 1
            });
            self.series[index].columns[subject.column].add(took);
            if took > Duration::from_secs(1) {
                eprintln!("  {what}: {:.1} s ({})", took.as_secs_f64(), self.label(subject.column));
            }
        }
    }

    /// Velo's own steps.
    pub(crate) fn steps(&mut self, subject: &Subject, what: &str, steps: &[(String, Duration)]) {
        for (step, took) in steps {
            let same = |(of, series): &(String, Series)| of == what && series.what == *step;
            let index = self.steps.iter().position(same).unwrap_or_else(|| {
                self.steps.push((what.to_owned(), Series::new(step)));
                self.steps.len() - 1
            });
            self.steps[index].1.columns[subject.column].add(*took);
        }
    }

    fn label(&self, column: usize) -> String {
        label(self.sizes[column])
    }

    /// As Markdown.
    pub(crate) fn render(&self) -> String {
        let [small, large] = [self.label(0), self.label(1)];
        let mut out = format!(
            "# A branch of {large} beside one of {small}\n\n\
             Written by `cargo bench -p velo-benches --bench large -- --size {} --write`, through \
             `.ci/large`.\n\n",
            large.replace(' ', "")
        );
        out.push_str(&format!("- Date: {}\n", machine::today()));
        out.push_str(&format!("- Machine: {}\n", machine::describe()));
        out.push_str(&format!("- File system: {}\n", self.file_system));
        out.push_str(&format!(
            "- Load average at the beginning and at the end: {}, {}; niceness {}\n",
            self.load,
            machine::load(),
            machine::niceness()
        ));
        out.push_str("\n## The databases\n\n");
        out.push_str(
            "One table of events: a key, a time, an account, a kind, and a JSON text of about a \
             kilobyte, stored plain,\nin partitions of at most 4 GB, with its primary key.\n\n",
        );
        out.push_str(&self.database_table().render());
        out.push_str(
            "\n## Times\n\nMilliseconds, in turn of both: median (least to most). What makes a \
             branch ends with the first answered\nquery.\n\n",
        );
        out.push_str(&self.times().render());
        out.push_str(
            "\n## Space of a branch's own\n\nAn ephemeral branch of a stopped main, the most that \
             was seen. Velo and `btrfs filesystem du` count\nbefore compression; *taken* is what \
             is gone from the file system, its metadata too.\n\n",
        );
        out.push_str(&self.spaces().render());
        out.push_str("\n## Memory of a branch, after its first query\n\n");
        out.push_str(&self.memories().render());
        out.push_str("\n## A plain copy (`cp --reflink=never`, then a sync)\n\n");
        out.push_str(&self.copied().render());
        out.push_str("\n## Velo's steps\n\nMedians in milliseconds.\n\n");
        out.push_str(&self.step_table().render());
        out
    }

    fn database_table(&self) -> Table {
        let head = ["", "rows", "pg_database_size", "PGDATA", "files", "PostgreSQL"];
        let mut table = Table::new(&head);
        for (column, database) in self.databases.iter().enumerate() {
            table.row(vec![
                self.label(column),
                database.rows.to_string(),
                gb(database.bytes),
                gb(database.folder),
                database.files.to_string(),
                database.postgres.clone(),
            ]);
        }
        table
    }

    fn times(&self) -> Table {
        let [small, large] = [self.label(0), self.label(1)];
        let mut table = Table::new(&["", "samples", &small, &large, "ratio"]);
        for series in &self.series {
            let [of_small, of_large] = &series.columns;
            table.row(vec![
                series.what.clone(),
                of_large.0.len().to_string(),
                spread(of_small),
                spread(of_large),
                format!("{:.2}", of_large.median() / of_small.median()),
            ]);
        }
        table
    }

    fn spaces(&self) -> Table {
        let mut table = Table::new(&["", "of", "by Velo", "by btrfs filesystem du", "taken"]);
        let mut known: Vec<&str> = Vec::new();
        for space in &self.space {
            if !known.contains(&space.when) {
                known.push(space.when);
            }
        }
        for when in known {
            for column in 0..2 {
                let these = || self.space.iter().filter(|s| s.when == when && s.column == column);
                let most = |of: fn(&Space) -> u64| mb(these().map(of).max().unwrap_or(0));
                table.row(vec![
                    when.to_owned(),
                    self.label(column),
                    most(|s| s.velo),
                    most(|s| s.du),
                    most(|s| s.taken),
                ]);
            }
        }
        table
    }

    fn memories(&self) -> Table {
        let mut table = Table::new(&["branch of", "PSS"]);
        for (column, kb) in self.memory.iter().enumerate() {
            let most = kb.iter().max().copied().unwrap_or(0);
            table.row(vec![self.label(column), mb(most << 10)]);
        }
        table
    }

    fn copied(&self) -> Table {
        let mut table =
            Table::new(&["of", "copied", "on the disk", "compression", "took", "all of it"]);
        for (column, copied) in self.copies.iter().enumerate() {
            let seconds = copied.took.as_secs_f64();
            let all = seconds * copied.total as f64 / copied.bytes as f64;
            let estimate = if copied.bytes == copied.total { "" } else { ", estimated" };
            table.row(vec![
                self.label(column),
                gb(copied.bytes),
                gb(copied.taken),
                format!("{:.1} to 1", copied.bytes as f64 / copied.taken as f64),
                format!("{seconds:.1} s"),
                format!("{all:.1} s{estimate}"),
            ]);
        }
        table
    }

    fn step_table(&self) -> Table {
        let [small, large] = [self.label(0), self.label(1)];
        let mut table = Table::new(&["", "step", &small, &large]);
        for (what, series) in &self.steps {
            let [of_small, of_large] = &series.columns;
            table.row(vec![
                what.clone(),
                series.what.clone(),
                ms(of_small.median()),
                ms(of_large.median()),
            ]);
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let columns =
            |series: &Series| -> Vec<Value> { series.columns.iter().map(Times::json).collect() };
        let times: Vec<Value> = self
            .series
            .iter()
            .map(|series| json!({"what": series.what, "of": columns(series)}))
            .collect();
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|(what, series)| json!({"what": what, "step": series.what, "of": columns(series)}))
            .collect();
        let databases: Vec<Value> = self
            .databases
            .iter()
            .map(|d| {
                json!({"rows": d.rows, "database_bytes": d.bytes, "folder_bytes": d.folder,
                       "files": d.files, "postgres": d.postgres})
            })
            .collect();
        let space: Vec<Value> = self
            .space
            .iter()
            .map(|s| {
                json!({"of": self.sizes[s.column], "when": s.when, "velo_bytes": s.velo,
                       "du_bytes": s.du, "taken_bytes": s.taken})
            })
            .collect();
        let copies: Vec<Value> = self
            .copies
            .iter()
            .map(|c| {
                json!({"copied_bytes": c.bytes, "of_bytes": c.total, "taken_bytes": c.taken,
                       "seconds": c.took.as_secs_f64()})
            })
            .collect();
        json!({
            "date": machine::today(), "machine": machine::describe(),
            "file_system": self.file_system, "load": self.load, "niceness": machine::niceness(),
            "sizes": self.sizes, "databases": databases,
            "times": times, "steps": steps, "space": space,
            "pss_kb": self.memory, "copies": copies,
        })
    }
}

impl Series {
    fn new(what: &str) -> Self {
        Self { what: what.to_owned(), columns: Default::default() }
    }
}

fn spread(times: &Times) -> String {
    if times.0.is_empty() {
        return String::new();
    }
    format!("{} ({} to {})", ms(times.median()), ms(times.at(0.0)), ms(times.at(1.0)))
}

fn gb(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / GB as f64)
}
