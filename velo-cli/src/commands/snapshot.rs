//! `velo snapshot`.

use std::time::Instant;

use serde_json::{Value, json};
use velo_core::blocking::Branch;
use velo_core::{Error, ErrorKind, Fate, Result, Retention, SnapshotInfo};

use crate::args::{Keep, Snapshot};
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::target::{Target, open_project};

pub(crate) fn run(command: Snapshot, out: &Out) -> Result<()> {
    match command {
        Snapshot::Create { branch, name } => create(&branch, name, out),
        Snapshot::Schedule { branch, keep } => schedule(&branch, &keep, out),
        Snapshot::Prune { branch, keep, dry_run } => {
            prune(&Target::source(&branch).open()?, &keep, dry_run, out)
        }
        Snapshot::List { project, size } => list(&project, size, out),
        Snapshot::Delete { snapshot } => delete(&snapshot, out),
    }
}

fn full_name(info: &SnapshotInfo) -> String {
    format!("{}/{}@{}", info.project, info.branch, info.name)
}

/// The shape `snapshot` of docs/json.md.
fn shape(info: &SnapshotInfo) -> Value {
    json!({
        "name": full_name(info),
        "id": info.id.to_string(),
        "project": info.project,
        "branch": info.branch,
        "snapshot": info.name,
        "scheduled": info.scheduled,
        "cut": info.cut,
        "created_at": info.created_at,
    })
}

fn create(branch: &str, name: Option<String>, out: &Out) -> Result<()> {
    let (target, name) = match name {
        Some(name) => (Target::branch(branch)?, name),
        None if branch.contains('@') => Target::snapshot(branch)?,
        None => {
            return Err(Error::new(ErrorKind::InvalidInput, "the snapshot's name is missing")
                .with_hint(format!("velo snapshot create {branch} NAME")));
        }
    };
    let branch = target.open()?;
    let begun = Instant::now();
    let snapshot = {
        let _spinner = Spinner::new(out, format!("taking a snapshot of {}", branch.full_name()));
        branch.snapshot(name)?
    };
    let took = begun.elapsed();
    out.result(
        || {
            let mut value = shape(snapshot.info());
            value["timings_ms"] = json!({ "total": output::ms(took) });
            value
        },
        |out| {
            out.line(format!(
                "{} taken in {}, storage {}",
                full_name(snapshot.info()),
                output::took(took),
                branch.as_async().project().info().storage,
            ));
        },
    );
    Ok(())
}

impl Keep {
    /// None if no rule is given.
    fn retention(&self) -> Option<Retention> {
        let retention = Retention::new()
            .last(self.keep_last)
            .hourly(self.keep_hourly)
            .daily(self.keep_daily)
            .weekly(self.keep_weekly)
            .monthly(self.keep_monthly);
        Some(retention).filter(|retention| *retention != Retention::new())
    }
}

/// Takes a snapshot, and then removes what is to go: older ones, and WAL that is kept no longer.
fn schedule(branch: &str, keep: &Keep, out: &Out) -> Result<()> {
    let branch = Target::source(branch).open()?;
    let snapshot = {
        let _spinner = Spinner::new(out, format!("taking a snapshot of {}", branch.full_name()));
        branch.scheduled_snapshot()?
    };
    let fates = match keep.retention() {
        Some(retention) => branch.prune_snapshots(retention, false)?,
        None => Vec::new(),
    };
    // Whoever is at work on one of the branches takes nothing back of what was done.
    let pruned = open_project(branch.as_async().project().name())?.prune_wal(false);
    let (pruned, failed) = match pruned {
        Ok(pruned) => (pruned, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let gone: Vec<&Fate> = fates.iter().filter(|fate| fate.kept.is_none()).collect();
    out.result(
        || {
            let mut value = shape(snapshot.info());
            value["removed"] = json!(gone);
            value["wal"] = json!(pruned);
            value
        },
        |out| {
            out.line(format!("{} taken", full_name(snapshot.info())));
            for fate in &gone {
                out.line(format!("{} removed", fate.name));
            }
            for one in &pruned {
                super::wal::about_snapshot(one, false, out);
                if one.segments == 0 {
                    continue;
                }
                let bytes = output::bytes(one.bytes);
                out.line(format!(
                    "{}: {} segments of WAL removed ({bytes})",
                    one.branch, one.segments
                ));
            }
        },
    );
    failed.map_or(Ok(()), Err)
}

fn prune(branch: &Branch, keep: &Keep, dry_run: bool, out: &Out) -> Result<()> {
    let retention = keep.retention().unwrap_or_default();
    let fates = branch.prune_snapshots(retention, dry_run)?;
    out.result(
        || json!(fates),
        |out| {
            if fates.is_empty() {
                return out.line(format!("no schedule took a snapshot of {}", branch.full_name()));
            }
            let gone = if dry_run { "would go" } else { "removed" };
            let rows: Vec<_> = fates
                .iter()
                .map(|fate| {
                    vec![
                        fate.name.clone(),
                        output::age(fate.created_at),
                        fate.bytes.map_or_else(|| "?".to_owned(), output::bytes),
                        fate.kept
                            .as_ref()
                            .map_or_else(|| gone.to_owned(), |why| format!("stays: {why}")),
                    ]
                })
                .collect();
            out.table(&["SNAPSHOT", "AGE", "OWN", ""], &rows);
        },
    );
    Ok(())
}

fn list(project: &str, size: bool, out: &Out) -> Result<()> {
    let project = open_project(project)?;
    let infos = project.snapshots()?;
    let mut sizes = Vec::new();
    if size {
        let _spinner = Spinner::new(out, "measuring");
        for info in &infos {
            // One that went away meanwhile has no size; the list is still right.
            let usage = project.snapshot(info.id.to_string());
            sizes.push(usage.and_then(|s| s.usage()).ok());
        }
    } else {
        sizes.resize(infos.len(), None);
    }
    out.result(
        || {
            infos
                .iter()
                .zip(&sizes)
                .map(|(info, usage)| {
                    let mut value = shape(info);
                    if size {
                        value["size"] = super::branch::size_shape(usage.as_ref());
                    }
                    value
                })
                .collect()
        },
        |out| {
            if infos.is_empty() {
                return out.line(format!("no snapshots in {}", project.name()));
            }
            let mut head = vec!["SNAPSHOT", "AGE"];
            if size {
                head.extend(["OWN", "SHARED"]);
            }
            let rows: Vec<_> = infos
                .iter()
                .zip(&sizes)
                .map(|(info, usage)| {
                    let mut row = vec![full_name(info), output::age(info.created_at)];
                    if size {
                        row.extend(super::branch::size_cells(usage.as_ref()));
                    }
                    row
                })
                .collect();
            out.table(&head, &rows);
        },
    );
    Ok(())
}

fn delete(name: &str, out: &Out) -> Result<()> {
    let (target, snapshot) = Target::snapshot(name)?;
    let project = open_project(&target.project)?;
    let snapshot = project.snapshot(format!("{}@{snapshot}", target.branch))?;
    let (id, shown) = (snapshot.id(), full_name(snapshot.info()));
    {
        let _spinner = Spinner::new(out, format!("deleting {shown}"));
        snapshot.delete()?;
    }
    out.result(
        || json!({ "name": shown, "id": id.to_string(), "deleted": true }),
        |out| out.line(format!("{shown} deleted")),
    );
    Ok(())
}
