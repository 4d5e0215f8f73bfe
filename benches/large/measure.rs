//! What is measured, in turn of both databases.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use velo_benches::figures::label;
use velo_benches::server::data_of;
use velo_benches::{Result, client, machine};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Config, Project};

use crate::load::{self, Loaded};
use crate::report::{Database, Report};
use crate::space;

/// What to measure.
pub(crate) struct Plan {
    /// Velo's home.
    pub(crate) folder: PathBuf,
    /// Whether it stays.
    pub(crate) keep: bool,
    pub(crate) postgres: Option<PathBuf>,
    /// The small database and the large one.
    pub(crate) sizes: [u64; 2],
    pub(crate) samples: usize,
    /// Whether only to load them.
    pub(crate) load: bool,
}

/// One of the two databases.
pub(crate) struct Subject {
    /// Which of the report's columns it is.
    pub(crate) column: usize,
    pub(crate) project: Project,
    pub(crate) main: Branch,
    /// Main's PGDATA.
    pub(crate) data: PathBuf,
    pub(crate) loaded: Loaded,
}

/// Measures both, and leaves nothing but a home that was asked for, also when it is interrupted.
pub(crate) async fn all(plan: &Plan) -> Result<Option<Report>> {
    let known = plan.folder.exists();
    if !known {
        std::fs::create_dir(&plan.folder)?;
        std::fs::set_permissions(&plan.folder, std::fs::Permissions::from_mode(0o711))?;
    }
    let mut config = Config::builder().home(plan.folder.join("h")).storage(StorageKind::Btrfs);
    if let Some(bin) = &plan.postgres {
        config = config.pg_bin(bin);
    }
    let config = config.build()?;
    let measured = tokio::select! {
        measured = run(plan, &config) => measured,
        interrupt = tokio::signal::ctrl_c() => Err(match interrupt {
            Ok(()) => "interrupted".into(),
            Err(error) => error.into(),
        }),
    };
    let ended = end(plan, &config).await;
    let report = measured?;
    ended?;
    Ok(report)
}

/// Stops and keeps, or removes.
async fn end(plan: &Plan, config: &Config) -> Result<()> {
    for info in Project::list(config).await? {
        let project = Project::builder(info.name.to_string()).config(config.clone()).open().await?;
        if !plan.keep {
            project.delete(true).await?;
            continue;
        }
        for branch in project.branches().await?.into_iter().filter(|b| b.parent.is_some()) {
            project.branch(branch.id.to_string()).await?.delete(true).await?;
        }
        project.main().await?.stop().await?;
    }
    if !plan.keep {
        std::fs::remove_dir_all(&plan.folder)?;
    }
    Ok(())
}

async fn run(plan: &Plan, config: &Config) -> Result<Option<Report>> {
    let mut subjects = Vec::new();
    for (column, size) in plan.sizes.into_iter().enumerate() {
        subjects.push(subject(column, size, plan, config).await?);
    }
    stop(&subjects).await?;
    if plan.load {
        return Ok(None);
    }
    let mut report = Report::new(plan.sizes, machine::file_system(&plan.folder));
    for subject in &subjects {
        let usage = subject.main.usage().await?;
        report.databases.push(Database {
            postgres: subject.project.info().postgres.version.to_string(),
            rows: subject.loaded.rows,
            bytes: subject.loaded.bytes,
            folder: usage.referenced,
            files: space::files(&subject.data)?.len(),
        });
    }
    space::all(plan, &subjects, &mut report).await?;
    branches(plan, &subjects, &mut report, false).await?;
    start(&subjects).await?;
    branches(plan, &subjects, &mut report, true).await?;
    snapshots(plan, &subjects, &mut report).await?;
    resets(plan, &subjects, &mut report).await?;
    Ok(Some(report))
}

/// The database of this size, from an earlier run if there is one.
async fn subject(column: usize, size: u64, plan: &Plan, config: &Config) -> Result<Subject> {
    let name = format!("of-{}mb", size >> 20);
    let builder = Project::builder(&name).config(config.clone());
    let mut project = builder.clone().open_or_create().await?;
    let mut main = project.main().await?;
    main.start().await?;
    let loaded = match load::found(&main).await? {
        Some(loaded) => loaded,
        None => {
            eprintln!("loading {}", label(size));
            // An earlier run may have ended in the midst of it.
            project.delete(true).await?;
            project = builder.create().await?;
            main = project.main().await?;
            load::fill(&main, &plan.folder, size).await?
        }
    };
    let data = data_of(main.info().await?.pid.ok_or("main does not run")?)?;
    Ok(Subject { column, project, main, data, loaded })
}

async fn start(subjects: &[Subject]) -> Result<()> {
    for subject in subjects {
        subject.main.start().await?;
    }
    Ok(())
}

async fn stop(subjects: &[Subject]) -> Result<()> {
    for subject in subjects {
        subject.main.stop().await?;
    }
    Ok(())
}

/// The subjects in turn, each as often first as last. What comes before the first sample warms caches
/// and does not count.
fn turns(subjects: &[Subject], samples: usize) -> impl Iterator<Item = (bool, &Subject)> {
    (0..=samples).flat_map(move |i| {
        let order: Vec<&Subject> =
            if i % 2 == 0 { subjects.iter().collect() } else { subjects.iter().rev().collect() };
        order.into_iter().map(move |subject| (i > 0, subject))
    })
}

async fn branches(
    plan: &Plan,
    subjects: &[Subject],
    report: &mut Report,
    running: bool,
) -> Result<()> {
    let of = if running { "a running main" } else { "a stopped main" };
    eprintln!("branches of {of}");
    for (counts, subject) in turns(subjects, plan.samples) {
        if running {
            write_a_little(&subject.main).await?;
        }
        one(subject, BranchSpec::ephemeral(), &format!("ephemeral, of {of}"), counts, report)
            .await?;
        if running {
            write_a_little(&subject.main).await?;
        }
        one(subject, BranchSpec::named("one"), &format!("persistent, of {of}"), counts, report)
            .await?;
    }
    Ok(())
}

async fn snapshots(plan: &Plan, subjects: &[Subject], report: &mut Report) -> Result<()> {
    eprintln!("snapshots");
    for (counts, subject) in turns(subjects, plan.samples.min(7)) {
        write_a_little(&subject.main).await?;
        let begun = Instant::now();
        let snapshot = subject.main.snapshot("s").await?;
        report.time(subject, "snapshot, of a running main", counts, begun.elapsed());
        let spec = BranchSpec::ephemeral().from("main@s");
        one(subject, spec, "ephemeral, of a snapshot", counts, report).await?;
        let begun = Instant::now();
        snapshot.delete().await?;
        report.time(subject, "snapshot: delete", counts, begun.elapsed());
        subject.project.finish_deletions().await?;
    }
    Ok(())
}

async fn resets(plan: &Plan, subjects: &[Subject], report: &mut Report) -> Result<()> {
    eprintln!("resets");
    for subject in subjects {
        Branch::create(&subject.project, BranchSpec::named("reset")).await?;
    }
    for (counts, subject) in turns(subjects, plan.samples.min(7)) {
        let branch = subject.project.branch("reset").await?;
        write_a_little(&subject.main).await?;
        let begun = Instant::now();
        branch.reset().await?;
        drop(client::first_answer(&branch.connection()).await?);
        report.time(subject, "reset, persistent, of a running main", counts, begun.elapsed());
        subject.project.finish_deletions().await?;
    }
    for subject in subjects {
        subject.project.branch("reset").await?.delete(false).await?;
    }
    Ok(())
}

/// A branch, from the call to its first answer, to a row of its table, and to its end.
async fn one(
    subject: &Subject,
    spec: BranchSpec,
    what: &str,
    counts: bool,
    report: &mut Report,
) -> Result<()> {
    let begun = Instant::now();
    let branch = Branch::create(&subject.project, spec).await?;
    let client = client::first_answer(&branch.connection()).await?;
    report.time(subject, what, counts, begun.elapsed());
    if counts {
        report.steps(subject, what, &branch.timings().steps);
    }
    let id = (subject.loaded.rows / 2) as i64;
    client.query_one("SELECT payload FROM events WHERE id = $1", &[&id]).await?;
    report.time(subject, &format!("{what}: a row read"), counts, begun.elapsed());
    drop(client);
    let begun = Instant::now();
    let end = if branch.is_ephemeral() {
        branch.close().await?;
        "close"
    } else {
        branch.delete(false).await?;
        "delete"
    };
    report.time(subject, &format!("{what}: {end}"), counts, begun.elapsed());
    // What is removed behind the caller must weigh on no other sample.
    Ok(subject.project.finish_deletions().await?)
}

/// What happened in main since its last checkpoint, so that recovery has something to do.
async fn write_a_little(main: &Branch) -> Result<()> {
    let client = client::connect(&main.connection()).await?;
    client.batch_execute("INSERT INTO written SELECT generate_series(1, 100)").await?;
    Ok(())
}
