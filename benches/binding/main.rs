//! What a language's binding adds to a branch: `cargo bench -p velo-benches --bench binding -- --python PYTHON`.
//!
//! In turn, in one project on btrfs, each a branch of `main` that is closed before the next is made:
//! - `Branch::create` of the library in this process;
//! - `velo.Branch.create` in a process of the Python that is named, in which `velo-py` is installed: the blocking
//!   one, and that of asyncio, as that process measures it;
//! - `Branch.create` in a process of Node, by the `velo-node` that is installed in the folder that is named.
//!
//! ```text
//! cargo bench -p velo-benches --bench binding -- [--python PYTHON] [--node FOLDER] [--short] [--samples N]
//!     [--json FILE] [--write]
//! ```
//! In the folder that `VELO_TEST_BTRFS` names; PostgreSQL is the newest of `VELO_TEST_PG`, else the one that Velo
//! finds. `.ci/python --bench` builds the wheel, `.ci/node --bench` the packages, installs them and runs this; what is
//! given beside that goes to this. `--write` renews `benches/results/binding.md`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use velo_benches::figures::{Times, ms};
use velo_benches::{Args, Result, Table, in_project, machine, publish};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project};

/// The faces of the Python package and of the npm package, by what their workers call them.
const PYTHON: [&str; 2] = ["blocking", "asyncio"];
const NODE: [&str; 1] = ["promise"];

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--python", "--node"], &[])?;
    let bindings = Bindings { python: args.option("--python")?, node: args.option("--node")? };
    if bindings.python.is_none() && bindings.node.is_none() {
        println!("skipped: neither a --python with velo-py nor a --node with velo-node is named");
        return Ok(());
    }
    let Some(folder) = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from) else {
        println!("skipped: VELO_TEST_BTRFS names no folder");
        return Ok(());
    };
    let home = folder.join(format!("velo-binding-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(in_project(&home, StorageKind::Btrfs, async |project| {
        measure(project, &home, &bindings, args.samples(5, 100, 1)).await
    }))?;
    let versions = bindings.versions()?;
    let text = render(&measured, &versions, &folder);
    let rows = measured.iter().map(|(name, times)| json!({"by": name, "create": times.json()}));
    let data = json!({
        "date": machine::today(), "machine": machine::describe(), "bindings": versions,
        "rows": rows.collect::<Vec<_>>(),
    });
    publish("binding", &text, &data, args.json.as_deref(), args.write)
}

/// Where the bindings are installed.
struct Bindings {
    python: Option<PathBuf>,
    node: Option<PathBuf>,
}

impl Bindings {
    /// A worker for each, with the faces that it has.
    fn workers(&self, home: &Path) -> Result<Vec<(&'static [&'static str], Worker)>> {
        let mut workers: Vec<(&'static [&'static str], Worker)> = Vec::new();
        if let Some(python) = &self.python {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("binding/worker.py");
            workers.push((&PYTHON, Worker::start(Command::new(python).arg(script), home)?));
        }
        if let Some(folder) = &self.node {
            // What a module imports is looked for beside it.
            let script = folder.join("worker.mjs");
            workers.push((&NODE, Worker::start(Command::new("node").arg(script), home)?));
        }
        Ok(workers)
    }

    fn versions(&self) -> Result<String> {
        let version = |program: &Path| -> Result<String> {
            let said = Command::new(program).arg("--version").output()?;
            Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
        };
        let mut versions = Vec::new();
        if let Some(python) = &self.python {
            versions.push(version(python)?);
        }
        if self.node.is_some() {
            versions.push(format!("Node {}", version(Path::new("node"))?));
        }
        Ok(versions.join(", "))
    }
}

async fn measure(
    project: &Project,
    home: &Path,
    bindings: &Bindings,
    samples: usize,
) -> Result<Vec<(&'static str, Times)>> {
    let mut workers = bindings.workers(home)?;
    let mut rust = Times::default();
    let mut theirs: Vec<Vec<Times>> =
        workers.iter().map(|(faces, _)| faces.iter().map(|_| Times::default()).collect()).collect();
    // The first of each is not counted: it opens the home.
    for sample in 0..=samples {
        let took = by_rust(project).await?;
        if sample > 0 {
            rust.add(took);
        }
        for ((faces, worker), times) in workers.iter_mut().zip(&mut theirs) {
            for (face, times) in faces.iter().zip(times) {
                let took = worker.create(face)?;
                if sample > 0 {
                    times.add(took);
                }
            }
        }
    }
    let mut all = vec![("Rust", rust)];
    for ((faces, worker), times) in workers.into_iter().zip(theirs) {
        worker.end()?;
        all.extend(faces.iter().copied().zip(times));
    }
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
    fn start(command: &mut Command, home: &Path) -> Result<Self> {
        let mut process =
            command.env("VELO_HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
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

fn render(measured: &[(&str, Times)], versions: &str, folder: &Path) -> String {
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
         Written by `.ci/python --release --bench --write` or `.ci/node --release --bench --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n- {}; {versions}\n\n\
         Milliseconds until `Branch::create` of an ephemeral branch of a fresh cluster returns, in one run and in \
         turn:\nin this process by the library, and in a process of Python's by `velo-py` (blocking, asyncio) or of Node's by \
         `velo-node`\n(promise), as that measures it. The last column is of the differences to Rust's just before.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        machine::file_system(folder),
        table.render()
    )
}
