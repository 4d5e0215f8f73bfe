//! How long a branch from a moment takes, beside a bare `postgres` that recovers the same:
//! `cargo bench -p velo-benches --bench recover`.
//!
//! A project keeps WAL. Behind a snapshot of it so much WAL is written, and in turn are measured
//! - `Branch::create` with that position, from the call to the first answer;
//! - the floor: a bare clone of the same snapshot, and a bare `postgres` on it with the settings of a real
//!   branch, `recovery.signal`, a `restore_command` that copies from the same archive, and that position as
//!   its target.
//!
//! ```text
//! cargo bench -p velo-benches --bench recover -- [--short] [--samples N] [--wal SIZE,…] [--json FILE] [--write]
//! ```
//! In the folder that `VELO_TEST_BTRFS` names; PostgreSQL is the newest of `VELO_TEST_PG`, else the one that Velo
//! finds. `--short` takes the smallest amount of WAL alone. `--write` renews `benches/results/recover.md`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use velo_benches::figures::{Times, ms};
use velo_benches::floor::Floor;
use velo_benches::{Args, Result, Table, client, machine, postgres, publish};
use velo_core::postgres::Lsn;
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Config, Project, Target};

/// What was measured of one amount of WAL.
struct Measured {
    megabytes: u64,
    velo: Times,
    floor: Times,
    /// What Velo does beside that: it reads the WAL before anything is made,
    look: Times,
    /// and starts the server anew, without the settings of a recovery.
    again: Times,
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--wal"], &[])?;
    let Some(folder) = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from) else {
        println!("skipped: VELO_TEST_BTRFS names no folder");
        return Ok(());
    };
    let sizes = args.sizes("--wal", if args.short { "16MB" } else { "16MB,160MB,1600MB" })?;
    let sizes: Vec<u64> = sizes.into_iter().map(|bytes| bytes >> 20).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = args.samples(3, 9, 1);
    let all = runtime.block_on(measure(&folder, &sizes, samples))?;
    publish("recover", &render(&folder, &all), &data(&all), args.json.as_deref(), args.write)
}

async fn measure(folder: &Path, sizes: &[u64], samples: usize) -> Result<Vec<Measured>> {
    let home = folder.join(format!("velo-recover-{}", std::process::id()));
    let mut config = Config::builder().home(&home).storage(StorageKind::Btrfs);
    if let Some(bin) = postgres() {
        config = config.pg_bin(bin);
    }
    let day = Duration::from_secs(86_400);
    let builder = Project::builder("api").config(config.build()?);
    let project = builder.wal_retention(day).create().await?;
    let mut all = Vec::new();
    let mut measured = Ok(());
    for megabytes in sizes {
        match sample(&project, &home, *megabytes, samples).await {
            Ok(one) => all.push(one),
            Err(error) => {
                measured = Err(error);
                break;
            }
        }
    }
    let deleted = project.delete(true).await;
    measured?;
    deleted?;
    std::fs::remove_dir_all(&home)?;
    Ok(all)
}

async fn sample(
    project: &Project,
    home: &Path,
    megabytes: u64,
    samples: usize,
) -> Result<Measured> {
    let main = project.main().await?;
    let session = client::connect(&main.connection()).await?;
    session.batch_execute("CREATE TABLE IF NOT EXISTS bulk (n int, text text); CHECKPOINT").await?;
    let snapshot = main.snapshot(format!("before-{megabytes}")).await?;
    let position = async || -> Result<u64> {
        let row = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        Ok(row.get::<_, String>(0).parse::<Lsn>()?.0)
    };
    let begin = position().await?;
    let mut end = begin;
    while end < begin + (megabytes << 20) {
        let insert =
            "INSERT INTO bulk SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 2000) n";
        session.batch_execute(insert).await?;
        end = position().await?;
    }
    // All of it is archived, for both to read.
    session.batch_execute("SELECT pg_switch_wal()").await?;
    session.batch_execute("INSERT INTO bulk VALUES (0)").await?;
    let begun = Instant::now();
    while main.wal().await?.incarnations.first().is_none_or(|one| one.waiting > 0) {
        if begun.elapsed() > Duration::from_secs(120) {
            return Err("the WAL is not archived".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let wal = main.wal().await?;
    let incarnation = wal.incarnations.first().ok_or("no WAL is kept")?;
    let archive = home.join("wal").join(incarnation.volume.to_string());
    let source = home.join("snapshots").join(snapshot.id().to_string());
    let signal = source.join("recovery.signal");
    std::fs::write(&signal, "")?;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&source)?);
    std::os::unix::fs::chown(&signal, Some(owner), None)?;
    // What a throwaway branch is started with, the floor is too.
    let throwaway = Branch::create(project, BranchSpec::ephemeral()).await?;
    let pid = throwaway.info().await?.pid.ok_or("it does not run")?;
    let dir = home.join("floor");
    let mut floor = Floor::new(StorageKind::Btrfs, dir, source, pid, throwaway.connection())?;
    let restore = format!("restore_command=cp '{}/%f' \"%p\"", archive.display());
    let target = format!("recovery_target_lsn={}", Lsn(end));
    for setting in [restore.as_str(), &target, "recovery_target_inclusive=off", "hot_standby=off"] {
        floor.args.extend(["-c".into(), setting.into()]);
    }
    throwaway.close().await?;
    let mut measured = Measured {
        megabytes,
        velo: Times::default(),
        floor: Times::default(),
        look: Times::default(),
        again: Times::default(),
    };
    let rows = "SELECT count(*) FROM bulk";
    let expected = {
        let row = session.query_one(rows, &[]).await?;
        row.get::<_, i64>(0) - 1
    };
    for _ in 0..samples {
        let begun = Instant::now();
        let spec = BranchSpec::ephemeral().at(Target::lsn(Lsn(end)));
        let branch = Branch::create(project, spec).await?;
        let answer = client::first_answer(&branch.connection()).await?;
        measured.velo.add(begun.elapsed());
        let steps = branch.timings().steps;
        let took =
            |step: &str| steps.iter().rev().find(|(name, _)| name == step).map(|(_, took)| *took);
        measured.look.add(took("plan").unwrap_or_default());
        let again = ["stop", "start", "ready", "check"].map(|step| took(step).unwrap_or_default());
        measured.again.add(again.iter().sum());
        if answer.query_one(rows, &[]).await?.get::<_, i64>(0) != expected {
            return Err("the branch does not hold what it should".into());
        }
        drop(answer);
        branch.close().await?;
        project.finish_deletions().await?;
        measured.floor.add(floor.sample().await?.total);
    }
    drop(floor);
    snapshot.delete().await?;
    Ok(measured)
}

fn render(folder: &Path, all: &[Measured]) -> String {
    let mut table =
        Table::new(&["WAL", "samples", "floor", "p95", "velo", "p95", "ratio", "look", "again"]);
    for one in all {
        table.row(vec![
            format!("{} MB", one.megabytes),
            one.velo.0.len().to_string(),
            ms(one.floor.median()),
            ms(one.floor.at(0.95)),
            ms(one.velo.median()),
            ms(one.velo.at(0.95)),
            format!("{:.2}", one.velo.median() / one.floor.median()),
            ms(one.look.median()),
            ms(one.again.median()),
        ]);
    }
    format!(
        "# How long a branch from a moment takes\n\n\
         Written by `cargo bench -p velo-benches --bench recover -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n- btrfs: {}\n\n\
         From the call to the first answer, with so much WAL between the snapshot and the moment. The floor \
         is a bare clone of\nthe same snapshot and a bare `postgres` that recovers to the same position from \
         the same archive. Milliseconds; samples\nwere taken in turn. At most 1.15 is wanted. What Velo does beside \
         the floor's work: *look* is the reading of all that\nWAL, checksums and all, before anything is made; \
         *again* is the stop behind the recovery and the start without its\nsettings.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        machine::file_system(folder),
        table.render()
    )
}

fn data(all: &[Measured]) -> Value {
    let rows = all.iter().map(|one| {
        json!({
            "megabytes": one.megabytes,
            "velo": one.velo.json(),
            "floor": one.floor.json(),
            "look": one.look.json(),
            "again": one.again.json(),
        })
    });
    json!({"date": machine::today(), "machine": machine::describe(), "rows": rows.collect::<Vec<_>>()})
}
