//! The measurements of one storage.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use velo_benches::figures::{GB, label};
use velo_benches::server::{self, data_of};
use velo_benches::{Result, client, engine, machine};
use velo_core::runtime::RuntimeKind;
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Config, Project};

use crate::container::Container;
use crate::report::{Facts, MB40, Report, Row};
use velo_benches::floor::Floor;

/// What to measure.
pub(crate) struct Plan {
    pub(crate) kind: StorageKind,
    pub(crate) folder: PathBuf,
    pub(crate) postgres: Option<PathBuf>,
    /// The image, where servers are containers.
    pub(crate) image: Option<String>,
    pub(crate) sizes: Vec<u64>,
    pub(crate) samples: usize,
    pub(crate) short: bool,
}

/// How many idle branches the memory is measured with.
const IDLE: usize = 10;

/// Measures one storage, and leaves nothing in its folder, also when it is interrupted.
pub(crate) async fn backend(plan: &Plan, report: &mut Report) -> Result<()> {
    // A home's path is never used twice: this process knows the first one as open.
    let kind = if plan.image.is_some() { "c" } else { "" };
    let base = plan.folder.join(format!("velo-bench-{}{kind}", std::process::id()));
    std::fs::create_dir(&base)?;
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o711))?;
    let mut config = Config::builder().home(base.join("h")).storage(plan.kind);
    if let Some(bin) = &plan.postgres {
        config = config.pg_bin(bin);
    }
    if let Some(image) = &plan.image {
        config = config.runtime(RuntimeKind::Docker).image(image);
    }
    let config = config.build()?;
    let measured = tokio::select! {
        measured = async {
            match &plan.image {
                Some(_) => containers(plan, &base, &config, report).await,
                None => all(plan, &base, &config, report).await,
            }
        } => measured,
        interrupt = tokio::signal::ctrl_c() => Err(match interrupt {
            Ok(()) => "interrupted".into(),
            Err(error) => error.into(),
        }),
    };
    let removed = async {
        for info in Project::list(&config).await? {
            Project::builder(info.name.to_string())
                .config(config.clone())
                .open()
                .await?
                .delete(true)
                .await?;
        }
        Ok(std::fs::remove_dir_all(&base)?)
    };
    let removed: Result<()> = removed.await;
    measured.and(removed)
}

async fn all(plan: &Plan, base: &Path, config: &Config, report: &mut Report) -> Result<()> {
    let project = Project::builder("bench").config(config.clone()).create().await?;
    let main = project.main().await?;
    let backend = plan.kind.to_string();
    report.facts(Facts {
        backend: backend.clone(),
        file_system: machine::file_system(base),
        postgres: project.info().postgres.version.to_string(),
    });
    let mut filled = 0;
    for size in plan.sizes.iter().copied() {
        eprintln!("{backend}, {}: filling", label(size));
        main.start().await?;
        fill(&main, size, &mut filled).await?;
        let pid = main.info().await?.pid.ok_or("main does not run")?;
        let source = data_of(pid)?;
        let files = count(&source)?;
        // A branch, for its command line. Its password is that of main's data.
        let real = Branch::create(&project, BranchSpec::ephemeral()).await?;
        let real_pid = real.info().await?.pid.ok_or("the branch does not run")?;
        let to = real.connection();
        let floor = Floor::new(plan.kind, base.join("f"), source, real_pid, to)?;
        real.close().await?;

        let samples = match plan.kind {
            StorageKind::Copy if size >= GB => plan.samples.min(7),
            _ => plan.samples,
        };
        for running in [true, false] {
            if !running {
                main.stop().await?;
            }
            let state = if running { "running" } else { "stopped" };
            eprintln!("{backend}, {}: from a {state} main", label(size));
            let mut row = Row::new(&backend, size, state, files);
            // The first pair warms caches and is not counted.
            for i in 0..=samples {
                for turn in 0..2 {
                    if running {
                        write_a_little(&main).await?;
                    }
                    if (i + turn) % 2 == 0 {
                        let sample = floor.sample().await?;
                        row.floor(i > 0, sample.total, sample.clone);
                    } else {
                        velo(&project, i > 0, &mut row).await?;
                    }
                }
            }
            report.row(row);
        }
        if size == *plan.sizes.first().unwrap_or(&size) {
            eprintln!("{backend}, {}: memory and space", label(size));
            memory(&project, &backend, report).await?;
        }
        for _ in 0..if plan.short { 2 } else { 5 } {
            space(&project, &backend, size, report).await?;
        }
        if !plan.short {
            eprintln!("{backend}, {}: resets", label(size));
            resets(&project, &backend, size, report).await?;
        }
        project.finish_deletions().await?;
    }
    Ok(())
}

/// Branches whose servers are containers, of a running and of a stopped main.
async fn containers(plan: &Plan, base: &Path, config: &Config, report: &mut Report) -> Result<()> {
    let project = Project::builder("bench").config(config.clone()).create().await?;
    let main = project.main().await?;
    let backend = "docker";
    report.facts(Facts {
        backend: backend.to_owned(),
        file_system: machine::file_system(base),
        postgres: format!("{}, {}", project.info().postgres.version, engine::describe().await?),
    });
    let mut filled = 0;
    fill(&main, MB40, &mut filled).await?;
    let source = data_of(main.info().await?.pid.ok_or("main does not run")?)?;
    let files = count(&source)?;
    let real = Branch::create(&project, BranchSpec::ephemeral()).await?;
    let pid = real.info().await?.pid.ok_or("the branch does not run")?;
    let floor = Floor::new(plan.kind, base.join("f"), source, pid, real.connection())?;
    let floor = Container::like(&data_of(pid)?, &real.log_file(), floor).await?;
    real.close().await?;
    for running in [true, false] {
        if !running {
            main.stop().await?;
        }
        let state = if running { "running" } else { "stopped" };
        eprintln!("{backend}: from a {state} main");
        let mut row = Row::new(backend, MB40, state, files);
        for i in 0..=plan.samples {
            for turn in 0..2 {
                if running {
                    write_a_little(&main).await?;
                }
                if (i + turn) % 2 == 0 {
                    let sample = floor.sample().await?;
                    row.floor(i > 0, sample.total, sample.clone);
                } else {
                    velo(&project, i > 0, &mut row).await?;
                }
            }
        }
        report.container(row);
    }
    project.finish_deletions().await?;
    Ok(())
}

/// One branch, from the call to its first answer and to its end.
async fn velo(project: &Project, counts: bool, row: &mut Row) -> Result<()> {
    let begun = Instant::now();
    let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
    let created = begun.elapsed();
    let client = client::first_answer(&branch.connection()).await?;
    let total = begun.elapsed();
    let timings = branch.timings();
    drop(client);
    let begun = Instant::now();
    branch.close().await?;
    let closed = begun.elapsed();
    if counts {
        row.velo(total, created, closed, &timings.steps);
    }
    // What is removed behind the caller must weigh on no other sample.
    project.finish_deletions().await?;
    Ok(())
}

/// Adds tables until the cluster has about `size` bytes.
async fn fill(main: &Branch, size: u64, filled: &mut u64) -> Result<()> {
    const TABLE: u64 = 256 << 20;
    let client = client::connect(&main.connection()).await?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS written (n bigint)").await?;
    let wanted = size.saturating_sub(MB40);
    while *filled < wanted {
        // Eight rows to a page of 8 kB; autovacuum would go on while it is measured.
        let rows = TABLE.min(wanted - *filled) / 1024;
        let table = format!("filled_{}", *filled >> 20);
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} WITH (autovacuum_enabled = off) AS
                   SELECT g AS id, repeat(md5(g::text), 30) AS text
                   FROM generate_series(1, {rows}) g"
            ))
            .await?;
        *filled += TABLE;
    }
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// What happened in main since its last checkpoint, so that recovery has something to do.
async fn write_a_little(main: &Branch) -> Result<()> {
    let client = client::connect(&main.connection()).await?;
    client.batch_execute("INSERT INTO written SELECT generate_series(1, 100)").await?;
    Ok(())
}

/// Files below a folder.
fn count(folder: &Path) -> Result<usize> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(sum)
}

/// The memory of idle branches, each after one query.
async fn memory(project: &Project, backend: &str, report: &mut Report) -> Result<()> {
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
        drop(client::first_answer(&branch.connection()).await?);
        idle.push(branch);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for branch in &idle {
        let pid = branch.info().await?.pid.ok_or("an idle branch does not run")?;
        let parts = server::memory(pid)?;
        report.memory(backend, parts.values().sum(), parts);
    }
    for branch in idle {
        branch.close().await?;
    }
    Ok(())
}

/// What a branch takes of its own, before and after its first query.
async fn space(project: &Project, backend: &str, size: u64, report: &mut Report) -> Result<()> {
    let branch = Branch::create(project, BranchSpec::ephemeral()).await?;
    let created = branch.usage().await?.exclusive;
    drop(client::first_answer(&branch.connection()).await?);
    let queried = branch.usage().await?.exclusive;
    report.space(backend, size, created, queried);
    branch.close().await?;
    Ok(())
}

/// How long a reset of a lasting branch takes, and how long its clients get no answer.
async fn resets(project: &Project, backend: &str, size: u64, report: &mut Report) -> Result<()> {
    let branch = Branch::create(project, BranchSpec::named("reset")).await?;
    for _ in 0..5 {
        let done = Arc::new(AtomicBool::new(false));
        let (to, flag) = (branch.connection(), done.clone());
        // A client that asks again and again, on a thread of its own.
        let asking = std::thread::spawn(move || -> Result<Duration> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut longest = Duration::ZERO;
                let mut last = Instant::now();
                let mut session = None;
                while !flag.load(Ordering::Relaxed) {
                    if session.is_none() {
                        session = client::first_answer(&to).await.ok();
                    } else if let Some(open) = &session
                        && open.simple_query("SELECT 1").await.is_err()
                    {
                        session = None;
                    }
                    if session.is_some() {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(longest)
            })
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        branch.reset().await?;
        let took = begun.elapsed();
        tokio::time::sleep(Duration::from_millis(200)).await;
        done.store(true, Ordering::Relaxed);
        let gap = asking.join().unwrap_or_else(|_| Err("the asking thread panicked".into()))?;
        report.reset(backend, size, took, gap);
    }
    branch.delete(false).await?;
    Ok(())
}
