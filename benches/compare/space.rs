//! Whether a place has room for what is measured there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;
use velo_benches::{Result, machine};

use crate::row::{Kind, Place, Row, Strategy};
use crate::seed::Seed;

/// What must be left when idle branches are made, each of which may have a copy of its own.
pub(crate) const LEAST: u64 = 2 << 30;

/// How long what was deleted may take until it is given back: a file system does that behind whoever deleted it.
const GIVEN_BACK: Duration = Duration::from_secs(300);

/// What rows need with a seed of this size, about: a seed for each server, a few copies that live at the same time where
/// branches are copies, half as much again for WAL; and what is in every cluster.
pub(crate) fn needed(rows: &[Box<dyn Row>], place: Place, seed: &Seed) -> u64 {
    // The floor's is a clone of Velo's, where files can be.
    let own = rows.iter().filter(|row| row.kind() != Kind::Floor || !row.clones());
    let mut seeds: Vec<Kind> = own.map(|row| one_of_a_server(row.kind())).collect();
    seeds.dedup();
    // The one row that copies a huge seed copies files, and no more than one at a time. In memory none of much data is made
    // ahead of time.
    let (copies, each) = match rows.iter().any(|row| !row.clones()) {
        false => (0, seed.size / 2 * 3),
        true if seed.is_huge() => (2, seed.size / 10 * 11),
        true if place == Place::Memory => (2, seed.size / 2 * 3),
        true => (8, seed.size / 2 * 3),
    };
    (seeds.len() as u64 + copies) * each + rows.len() as u64 * (128 << 20)
}

/// Rows of one server have one seed.
fn one_of_a_server(kind: Kind) -> Kind {
    match kind {
        Kind::Template(major, _) => Kind::Template(major, Strategy::FileCopy),
        other => other,
    }
}

/// Why so many bytes do not fit on the file system of `folder`, if they do not once all that was deleted is given back:
/// there, and on those of `others`, which may be files on the same disk.
pub(crate) async fn lacks(
    folder: &Path,
    others: impl Iterator<Item = &Path> + Clone,
    needed: u64,
) -> Result<Option<String>> {
    let begun = Instant::now();
    loop {
        if left(folder)? < needed {
            for place in others.clone() {
                give_back(place).await;
            }
        }
        let left = left(folder)?;
        if left >= needed {
            return Ok(None);
        }
        if begun.elapsed() > GIVEN_BACK {
            let gb = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let (needed, left) = (gb(needed), gb(left));
            return Ok(Some(format!("it needs about {needed:.1} GB, and {left:.1} GB are left")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Bytes that are left: on the file system of `folder`, on the disk of the file under it if it is one, or of memory.
pub(crate) fn left(folder: &Path) -> Result<u64> {
    let free = |folder: &Path| -> Result<u64> {
        let about = rustix::fs::statvfs(folder)?;
        Ok(about.f_bavail * about.f_frsize)
    };
    let mut left = free(folder)?;
    if let Some(file) = file_under(folder) {
        left = left.min(free(file.parent().unwrap_or(&file))?);
    }
    if machine::mount(folder).is_some_and(|mount| mount.kind == "tmpfs") {
        left = left.min(memory()?);
    }
    Ok(left)
}

/// What the machine could give to new processes, in bytes.
pub(crate) fn memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("/proc/meminfo says nothing of MemAvailable")?.parse::<u64>()? << 10)
}

/// The file that a loop device shows as a disk.
fn file_under(folder: &Path) -> Option<PathBuf> {
    let device = machine::mount(folder)?.device;
    let name = device.strip_prefix("/dev/loop")?;
    let file = std::fs::read_to_string(format!("/sys/block/loop{name}/loop/backing_file")).ok()?;
    Some(file.trim_end().into())
}

/// Has a file that stands in for a disk give back what its file system has deleted.
async fn give_back(folder: &Path) {
    if file_under(folder).is_some() {
        // Where they cannot, what is left says so. What is not committed yet is not free.
        let _ = Command::new("sync").arg("-f").arg(folder).kill_on_drop(true).output().await;
        let _ = Command::new("fstrim").arg(folder).kill_on_drop(true).output().await;
    }
}
