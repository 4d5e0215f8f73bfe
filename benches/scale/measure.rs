//! A home that fills with branches.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use velo_benches::figures::Times;
use velo_benches::{Result, client, in_project, machine, server};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project, Seed, SeedKey};

use crate::{Plan, keys};

/// How long branches are left alone before their memory is counted.
const REST: Duration = Duration::from_secs(2);

/// How often the list is asked for, and how many branches' extents are counted.
const LISTS: usize = 10;
const COUNTED: usize = 5;

/// What was measured of one storage.
pub(crate) struct Measured {
    pub(crate) storage: StorageKind,
    pub(crate) file_system: String,
    pub(crate) postgres: String,
    pub(crate) few: End,
    pub(crate) many: End,
    /// Of each idle branch: kB of its processes, by what they are.
    pub(crate) memory: Vec<BTreeMap<String, u64>>,
    /// Bytes of extents of its own, of each branch that was looked at.
    pub(crate) created: Vec<u64>,
    pub(crate) queried: Vec<u64>,
}

/// What operations took with so many branches alive.
#[derive(Default)]
pub(crate) struct End {
    pub(crate) alive: usize,
    pub(crate) create: Times,
    pub(crate) steps: Vec<(String, Times)>,
    /// Processor time: this process's for a creation, for a closing and for a deletion, and that of the
    /// postmaster until the branch is there.
    pub(crate) cpu_create: Times,
    pub(crate) cpu_close: Times,
    pub(crate) cpu_delete: Times,
    pub(crate) cpu_postmaster: Times,
    /// What PostgreSQL's search for a key takes, within its start.
    pub(crate) keys: Times,
    pub(crate) info: Times,
    /// For each branch in the list.
    pub(crate) list: Times,
    pub(crate) close: Times,
    pub(crate) gone: Times,
    pub(crate) delete: Times,
}

/// Measures one storage, in a home of its own.
pub(crate) async fn all(storage: StorageKind, folder: &Path, plan: &Plan) -> Result<Measured> {
    let home = folder.join(format!("velo-scale-{}", std::process::id()));
    in_project(&home, storage, async |project| sample(project, storage, folder, plan).await).await
}

async fn sample(
    project: &Project,
    storage: StorageKind,
    folder: &Path,
    plan: &Plan,
) -> Result<Measured> {
    let key = SeedKey::new().code(include_str!("measure.rs")).label("scale");
    let seed = project.seed(key, async |branch| {
        let session = client::connect(&branch.connection()).await?;
        session.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS x").await
    });
    let seed = seed.await?;
    project.main().await?.stop().await?;
    let mut measured = Measured {
        storage,
        file_system: machine::file_system(folder),
        postgres: project.info().postgres.version.to_string(),
        few: End::default(),
        many: End::default(),
        memory: Vec::new(),
        created: Vec::new(),
        queried: Vec::new(),
    };
    for _ in 0..COUNTED {
        let branch = seed.branch().await?;
        measured.created.push(branch.usage().await?.exclusive);
        drop(client::first_answer(&branch.connection()).await?);
        measured.queried.push(branch.usage().await?.exclusive);
        branch.close().await?;
    }
    project.finish_deletions().await?;
    eprintln!("{storage}: with few alive");
    end(project, &seed, plan.samples.div_ceil(2), &mut measured.few).await?;
    let mut alive = Vec::new();
    while alive.len() < plan.branches {
        alive.push(seed.branch().await?);
        if alive.len() == plan.idle() {
            eprintln!("{storage}: memory of {} idle branches", alive.len());
            measured.memory = memory(&alive).await?;
        }
    }
    eprintln!("{storage}: with {} alive", alive.len());
    measured.many.alive = alive.len();
    tokio::time::sleep(plan.rest()).await;
    end(project, &seed, plan.samples, &mut measured.many).await?;
    for branch in alive {
        branch.close().await?;
    }
    project.finish_deletions().await?;
    eprintln!("{storage}: with few alive again");
    end(project, &seed, plan.samples / 2, &mut measured.few).await?;
    Ok(measured)
}

/// Measures everything at one end, so often.
async fn end(project: &Project, seed: &Seed, samples: usize, end: &mut End) -> Result<()> {
    let own = std::process::id();
    for i in 0..samples {
        let (begun, cpu) = (Instant::now(), server::processor_time(own)?);
        let branch = seed.branch().await?;
        end.create.add(begun.elapsed());
        end.cpu_create.add(server::processor_time(own)?.saturating_sub(cpu));
        for (name, took) in branch.timings().steps {
            match end.steps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, times)) => times.add(took),
                None => {
                    let mut times = Times::default();
                    times.add(took);
                    end.steps.push((name, times));
                }
            }
        }
        let begun = Instant::now();
        let info = branch.info().await?;
        end.info.add(begun.elapsed());
        let pid = info.pid.ok_or("a branch that was just made does not run")?;
        end.cpu_postmaster.add(server::processor_time(pid)?);
        end.keys.add(keys::search(&server::data_of(pid)?)?);
        if i < LISTS {
            let begun = Instant::now();
            let listed = project.branches().await?.len();
            end.list.add(begun.elapsed() / u32::try_from(listed)?);
        }
        let (begun, cpu) = (Instant::now(), server::processor_time(own)?);
        branch.close().await?;
        end.close.add(begun.elapsed());
        project.finish_deletions().await?;
        end.gone.add(begun.elapsed());
        end.cpu_close.add(server::processor_time(own)?.saturating_sub(cpu));
        let spec = BranchSpec::named("lasting").from(seed).stopped();
        let branch = Branch::create(project, spec).await?;
        let (begun, cpu) = (Instant::now(), server::processor_time(own)?);
        branch.delete(false).await?;
        end.delete.add(begun.elapsed());
        end.cpu_delete.add(server::processor_time(own)?.saturating_sub(cpu));
    }
    Ok(())
}

/// The memory of each of these branches, once all have answered a query and rested.
async fn memory(branches: &[Branch]) -> Result<Vec<BTreeMap<String, u64>>> {
    for branch in branches {
        drop(client::first_answer(&branch.connection()).await?);
    }
    tokio::time::sleep(REST).await;
    let mut all = Vec::new();
    for branch in branches {
        let pid = branch.info().await?.pid.ok_or("an idle branch does not run")?;
        all.push(server::memory(pid)?);
    }
    Ok(all)
}
