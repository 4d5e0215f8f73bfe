//! What a language's binding adds to a branch: `cargo bench -p velo-benches --bench binding -- --python PYTHON`.
//!
//! In turn, in one project on btrfs, each a branch of `main` that is closed before the next is made:
//! - `Branch::create` of the library in this process;
//! - `velo.Branch.create` in a process of the Python that is named, in which `velo-py` is installed: the blocking
//!   one, and that of asyncio, as that process measures it.
//!
//! ```text
//! cargo bench -p velo-benches --bench binding -- --python PYTHON [--short] [--samples N] [--json FILE] [--write]
//! ```
//! In the folder that `VELO_TEST_BTRFS` names; PostgreSQL is the newest of `VELO_TEST_PG`, else the one that Velo
//! finds. `.ci/python --bench` builds the wheel, installs it and runs this. `--write` renews
//! `benches/results/binding.md`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use velo_benches::figures::{Times, ms};
use velo_benches::{Args, Result, Table, in_project, machine, publish};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project};

/// The faces of the package, by what the worker calls them.
const FACES: [&str; 2] = ["blocking", "asyncio"];

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let (args, mut own) = Args::with(5, 100, 1, &["--python"])?;
    let Some(python) = own.remove("--python").map(PathBuf::from) else {
        println!("skipped: no --python with velo-py is named");
        return Ok(());
    };
    let Some(folder) = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from) else {
        println!("skipped: VELO_TEST_BTRFS names no folder");
        return Ok(());
    };
    let home = folder.join(format!("velo-binding-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(in_project(&home, StorageKind::Btrfs, async |project| {
        measure(project, &home, &python, args.samples).await
    }))?;
    let version = Command::new(&python).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let text = render(&measured, &version, &folder);
    let rows = measured.iter().map(|(name, times)| json!({"by": name, "create": times.json()}));
    let data = json!({
        "date": machine::today(), "machine": machine::describe(), "python": version,
        "rows": rows.collect::<Vec<_>>(),
    });
    publish("binding", &text, &data, args.json.as_deref(), args.write)
}

async fn measure(
    project: &Project,
    home: &Path,
    python: &Path,
    samples: usize,
) -> Result<Vec<(&'static str, Times)>> {
    let mut worker = Worker::start(python, home)?;
    let mut all = vec![("Rust", Times::default())];
    all.extend(FACES.map(|face| (face, Times::default())));
    // The first of each is not counted: it opens the home.
    for sample in 0..=samples {
        for (name, times) in &mut all {
            let took = match *name {
                "Rust" => by_rust(project).await?,
                face => worker.create(face)?,
            };
            if sample > 0 {
                times.add(took);
            }
        }
    }
    worker.end()?;
    Ok(all)
}

async fn by_rust(project: &Project) -> Result<Duration> {
    let begun = Instant::now();
    let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
    let took = begun.elapsed();
    branch.close().await?;
    Ok(took)
}

/// A process that makes branches by the binding.
struct Worker {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(python: &Path, home: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("binding/worker.py");
        let mut process = Command::new(python)
            .arg(script)
            .env("VELO_HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(asks), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the worker has no pipes".into());
        };
        Ok(Self { process, asks, answers: BufReader::new(answers) })
    }

    fn create(&mut self, face: &str) -> Result<Duration> {
        writeln!(self.asks, "{face}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let nanoseconds = answer.trim().parse();
        Ok(Duration::from_nanos(nanoseconds.map_err(|_| "the worker ended, and said why")?))
    }

    fn end(mut self) -> Result<()> {
        drop(self.asks);
        match self.process.wait()?.success() {
            true => Ok(()),
            false => Err("the worker failed".into()),
        }
    }
}

fn render(measured: &[(&str, Times)], python: &str, folder: &Path) -> String {
    let mut table = Table::new(&[
        "by",
        "samples",
        "median",
        "p95",
        "beyond Rust: median",
        "least to most of the middle half",
    ]);
    let rust = &measured[0].1;
    for (name, times) in measured {
        let mut beyond = Times::default();
        beyond.0.extend(times.0.iter().zip(&rust.0).map(|(one, other)| one - other));
        table.row(vec![
            (*name).to_owned(),
            times.0.len().to_string(),
            ms(times.median()),
            ms(times.at(0.95)),
            ms(times.median() - rust.median()),
            format!("{} to {}", ms(beyond.at(0.25)), ms(beyond.at(0.75))),
        ]);
    }
    format!(
        "# What a language's binding adds to a branch\n\n\
         Written by `.ci/python --release --bench --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n- {}; {python}\n\n\
         Milliseconds until `Branch::create` of an ephemeral branch of a fresh cluster returns, in one run and in \
         turn:\nin this process by the library, and in a process of Python's by `velo-py`, as that measures it. The last \
         column\nis of the differences of neighbours.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        machine::file_system(folder),
        table.render()
    )
}
