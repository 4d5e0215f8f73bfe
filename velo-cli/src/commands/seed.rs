//! `velo seed`.

use std::time::Duration;

use serde_json::{Value, json};
use velo_core::{Result, SeedInfo};

use crate::args::Seed;
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::target::one_or_all;

pub(crate) fn run(command: Seed, out: &Out) -> Result<()> {
    match command {
        Seed::List { project, size } => list(project.as_deref(), size, out),
        Seed::Prune { project, unused_for, all } => {
            prune(project.as_deref(), if all { Duration::ZERO } else { unused_for }, out)
        }
    }
}

fn full_name(info: &SeedInfo) -> String {
    format!("{}/{}", info.project, info.shown())
}

/// The shape `seed` of docs/json.md.
fn shape(info: &SeedInfo) -> Value {
    json!({
        "name": full_name(info),
        "id": info.id.to_string(),
        "project": info.project,
        "key": info.key,
        "label": info.label,
        "ready": info.ready,
        "branches": info.branches,
        "created_at": info.created_at,
        "used_at": info.used_at,
    })
}

fn list(project: Option<&str>, size: bool, out: &Out) -> Result<()> {
    let mut seeds = Vec::new();
    for project in one_or_all(project)? {
        seeds.extend(project.seeds()?);
    }
    let usages: Vec<_> = {
        let _spinner = size.then(|| Spinner::new(out, "measuring"));
        // One that goes away meanwhile has no size; the list is still right.
        seeds.iter().map(|seed| size.then(|| seed.usage().ok()).flatten()).collect()
    };
    out.result(
        || {
            let all = seeds.iter().zip(&usages);
            all.map(|(seed, usage)| {
                let mut value = shape(seed.info());
                if size {
                    value["size"] = super::branch::size_shape(usage.as_ref());
                }
                value
            })
            .collect()
        },
        |out| {
            if seeds.is_empty() {
                return out.line("no seeds");
            }
            let mut head = vec!["SEED", "AGE", "USED", "BRANCHES"];
            if size {
                head.extend(["OWN", "SHARED"]);
            }
            let rows: Vec<_> = seeds
                .iter()
                .zip(&usages)
                .map(|(seed, usage)| {
                    let info = seed.info();
                    let used = match info.ready {
                        true => output::age(info.used_at),
                        false => "being built".to_owned(),
                    };
                    let branches = info.branches.to_string();
                    let mut row =
                        vec![full_name(info), output::age(info.created_at), used, branches];
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

fn prune(project: Option<&str>, unused_for: Duration, out: &Out) -> Result<()> {
    let mut gone = Vec::new();
    {
        let _spinner = Spinner::new(out, "deleting seeds");
        for project in one_or_all(project)? {
            gone.extend(project.prune_seeds(unused_for)?);
        }
    }
    out.result(
        || json!({ "deleted": gone.iter().map(shape).collect::<Vec<_>>() }),
        |out| {
            for info in &gone {
                out.line(format!("{} deleted", full_name(info)));
            }
            if gone.is_empty() {
                out.line("no seed was unused for so long");
            }
        },
    );
    Ok(())
}
