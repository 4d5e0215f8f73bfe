//! `velo snapshot`.

use std::time::Instant;

use serde_json::{Value, json};
use velo_core::{Error, ErrorKind, Result, SnapshotInfo};

use crate::args::Snapshot;
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::target::{Target, open_project};

pub(crate) fn run(command: Snapshot, out: &Out) -> Result<()> {
    match command {
        Snapshot::Create { branch, name } => create(&branch, name, out),
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
        let _spinner = Spinner::new(format!("taking a snapshot of {}", branch.full_name()));
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

fn list(project: &str, size: bool, out: &Out) -> Result<()> {
    let project = open_project(project)?;
    let infos = project.snapshots()?;
    let mut sizes = Vec::new();
    if size {
        let _spinner = Spinner::new("measuring");
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
        let _spinner = Spinner::new(format!("deleting {shown}"));
        snapshot.delete()?;
    }
    out.result(
        || json!({ "name": shown, "id": id.to_string(), "deleted": true }),
        |out| out.line(format!("{shown} deleted")),
    );
    Ok(())
}
