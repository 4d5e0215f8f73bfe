//! What a branch takes of its own: by Velo, by `btrfs filesystem du`, and by what is gone from the file
//! system; and what a plain copy costs. Both mains are stopped, so that nothing else writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tokio_postgres::Client;
use velo_benches::figures::GB;
use velo_benches::server::{self, data_of};
use velo_benches::{Result, client};
use velo_core::{Branch, BranchSpec};

use crate::measure::{Plan, Subject};
use crate::report::{Copied, Report, Space};

/// What is written into a branch: in its name, which rows of how many.
const UPDATES: [(&str, &str); 2] = [
    ("1,000 rows side by side updated", "id BETWEEN $1::bigint / 2 AND $1::bigint / 2 + 999"),
    (
        "1,000 rows all over updated",
        "id = ANY (ARRAY(SELECT g * ($1::bigint / 1000) FROM generate_series(0, 999) g))",
    ),
];

/// How often each is measured at most.
const ROUNDS: usize = 2;

/// More than that is not copied whole.
const WHOLE: u64 = 2 * GB;

pub(crate) async fn all(plan: &Plan, subjects: &[Subject], report: &mut Report) -> Result<()> {
    eprintln!("space");
    for _ in 0..plan.samples.min(ROUNDS) {
        for subject in subjects {
            for (what, rows) in UPDATES {
                one(plan, subject, what, rows, report).await?;
            }
        }
    }
    eprintln!("a plain copy");
    for subject in subjects {
        let copied = copy(plan, subject)?;
        report.copies.push(copied);
    }
    settled(&plan.folder)
}

/// A branch, before and after an update.
async fn one(
    plan: &Plan,
    subject: &Subject,
    what: &'static str,
    rows: &str,
    report: &mut Report,
) -> Result<()> {
    settled(&plan.folder)?;
    let before = used(&plan.folder)?;
    let branch = Branch::create(&subject.project, BranchSpec::ephemeral()).await?;
    let client = client::first_answer(&branch.connection()).await?;
    let pid = branch.info().await?.pid.ok_or("the branch does not run")?;
    let data = data_of(pid)?;
    let first = "first query answered";
    look(plan, subject, first, before, &branch, &data, report).await?;
    report.memory[subject.column].push(server::memory(pid)?.values().sum());
    let begun = Instant::now();
    let updated = update(&client, rows, subject.loaded.rows).await?;
    report.time(subject, &format!("{what}, in a branch"), true, begun.elapsed());
    if updated != 1000 {
        return Err(format!("{updated} rows were updated, and not 1000").into());
    }
    // It is in memory until then.
    client.batch_execute("CHECKPOINT").await?;
    look(plan, subject, what, before, &branch, &data, report).await?;
    drop(client);
    branch.close().await?;
    Ok(subject.project.finish_deletions().await?)
}

async fn update(client: &Client, rows: &str, count: u64) -> Result<u64> {
    let update = format!("UPDATE events SET kind = 'order.changed' WHERE {rows}");
    Ok(client.execute(&update, &[&(count as i64)]).await?)
}

/// All three figures, and what it takes to get two of them.
async fn look(
    plan: &Plan,
    subject: &Subject,
    when: &'static str,
    before: u64,
    branch: &Branch,
    data: &Path,
    report: &mut Report,
) -> Result<()> {
    rustix::fs::syncfs(std::fs::File::open(&plan.folder)?)?;
    let taken = used(&plan.folder)?.saturating_sub(before);
    let begun = Instant::now();
    let velo = branch.usage().await?.exclusive;
    report.time(subject, "usage, by Velo", true, begun.elapsed());
    let begun = Instant::now();
    let du = btrfs_du(data)?;
    report.time(subject, "usage, by btrfs filesystem du", true, begun.elapsed());
    report.space.push(Space { column: subject.column, when, velo, du, taken });
    Ok(())
}

/// What `btrfs filesystem du` calls exclusive. Like Velo it counts before compression.
fn btrfs_du(data: &Path) -> Result<u64> {
    let text = output(Command::new("btrfs").args(["filesystem", "du", "-s", "--raw"]).arg(data))?;
    let line = text.lines().nth(1).unwrap_or_default();
    let exclusive = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    exclusive.ok_or_else(|| format!("btrfs filesystem du says: {text}").into())
}

fn output(command: &mut Command) -> Result<String> {
    let out = command.env("LC_ALL", "C").output()?;
    if !out.status.success() {
        let error = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{command:?}: {}", error.trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits until btrfs has given back what was deleted, which it does behind the caller.
fn settled(folder: &Path) -> Result<()> {
    rustix::fs::syncfs(std::fs::File::open(folder)?)?;
    // Only root may ask.
    if rustix::process::geteuid().is_root() {
        // This one wakes the cleaner, which else looks every half minute.
        output(Command::new("btrfs").args(["filesystem", "sync"]).arg(folder))?;
        output(Command::new("btrfs").args(["subvolume", "sync"]).arg(folder))?;
        rustix::fs::syncfs(std::fs::File::open(folder)?)?;
    }
    Ok(())
}

/// What is taken of the file system, in bytes.
fn used(folder: &Path) -> Result<u64> {
    let fs = rustix::fs::statvfs(folder)?;
    Ok((fs.f_blocks - fs.f_bfree) * fs.f_frsize)
}

/// Copies the folder of a stopped main; of a large one so many of its largest files as are a twentieth of
/// it.
fn copy(plan: &Plan, subject: &Subject) -> Result<Copied> {
    let mut all = files(&subject.data)?;
    let total: u64 = all.iter().map(|(_, bytes)| bytes).sum();
    let largest = all.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let (what, bytes) = if total <= WHOLE {
        (vec![subject.data.clone()], total)
    } else {
        all.retain(|(_, bytes)| *bytes == largest);
        // Those that were written first: the page cache has the others.
        all.sort();
        let number = (total / 20 / largest.max(1)).max(1);
        let what: Vec<_> = all.into_iter().take(number as usize).map(|(path, _)| path).collect();
        let bytes = what.len() as u64 * largest;
        (what, bytes)
    };
    settled(&plan.folder)?;
    let before = used(&plan.folder)?;
    let target = plan.folder.join("copy");
    std::fs::create_dir(&target)?;
    let begun = Instant::now();
    let mut cp = Command::new("cp");
    let copied = output(cp.args(["-r", "--reflink=never", "-t"]).arg(&target).args(what))
        .and_then(|_| Ok(rustix::fs::syncfs(std::fs::File::open(&target)?)?));
    let took = begun.elapsed();
    let taken = used(&plan.folder)?.saturating_sub(before);
    std::fs::remove_dir_all(&target)?;
    copied.map(|()| Copied { bytes, total, taken, took })
}

/// The files below a folder, and what each has.
pub(crate) fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let (mut all, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => all.push((entry.path(), entry.metadata()?.len())),
            }
        }
    }
    Ok(all)
}
