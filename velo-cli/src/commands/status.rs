//! `velo status`.

use std::path::Path;

use serde_json::{Value, json};
use velo_core::{BranchInfo, Config, Error, ErrorKind, Result, State};

use crate::output::{self, Out};
use crate::target::open_projects;

/// How many branches there are.
#[derive(Debug, Default)]
struct Counts {
    projects: usize,
    branches: usize,
    running: usize,
    restarting: usize,
    unknown: usize,
    ephemeral: usize,
    snapshots: usize,
    hidden: usize,
    /// What is wrong with branches.
    troubled: Vec<BranchInfo>,
}

pub(crate) fn run(out: &Out) -> Result<()> {
    let config = Config::load()?;
    // A look changes nothing: a home that is not there is not made.
    let exists = match std::fs::metadata(config.home()) {
        Ok(found) if !found.is_dir() => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the home {} is not a folder", config.home().display()),
            )
            .with_hint("set VELO_HOME to a folder"));
        }
        found => found.is_ok(),
    };
    let (counts, works, warnings) = if exists {
        let works = match velo_core::doctor::storages(&config) {
            // What works is tried with a file, for which there is no space. The rest can be told.
            Err(error) if error.kind() == ErrorKind::Exhausted => Vec::new(),
            works => works?,
        };
        (count(&config)?, works, velo_core::doctor::space(&config))
    } else {
        (Counts::default(), Vec::new(), Vec::new())
    };
    let best = works.first().copied();
    let disk = disk(config.home());
    out.result(
        || {
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "home": output::path(config.home()),
                "home_exists": exists,
                "storage": best.map(|s| s.as_str()),
                "storages": works.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
                "storage_setting": config.storage().as_str(),
                "runtime": config.chosen_runtime().as_str(),
                "projects": counts.projects,
                "branches": counts.branches,
                "running": counts.running,
                "restarting": counts.restarting,
                "unknown": counts.unknown,
                "ephemeral": counts.ephemeral,
                "snapshots": counts.snapshots,
                "hidden": counts.hidden,
                "disk": disk.map_or(Value::Null, |(total, available)| {
                    json!({ "total": total, "available": available })
                }),
                "warnings": warnings,
            })
        },
        |out| {
            let missing = if exists { "" } else { " (not made yet)" };
            let rare = |count: usize, state: State| match count {
                0 => String::new(),
                count => format!("{count} {}, ", state.as_str()),
            };
            let restarting = rare(counts.restarting, State::Restarting);
            let unknown = rare(counts.unknown, State::Unknown);
            let storage = match best {
                Some(best) => {
                    let all: Vec<_> = works.iter().map(|s| s.as_str()).collect();
                    format!("{best} (works here: {})", all.join(", "))
                }
                None if exists => "unknown: the disk is full".to_owned(),
                None => "unknown until the home is made".to_owned(),
            };
            out.pairs(&[
                ("velo", env!("CARGO_PKG_VERSION").to_owned()),
                ("home", format!("{}{missing}", config.home().display())),
                ("storage", storage),
                ("runtime", config.chosen_runtime().as_str().to_owned()),
                ("projects", counts.projects.to_string()),
                (
                    "branches",
                    format!(
                        "{} ({} running, {restarting}{unknown}{} ephemeral)",
                        counts.branches, counts.running, counts.ephemeral
                    ),
                ),
                (
                    "snapshots",
                    match counts.hidden {
                        0 => counts.snapshots.to_string(),
                        hidden => format!(
                            "{} (and {hidden} states that only clones still need)",
                            counts.snapshots
                        ),
                    },
                ),
                (
                    "disk",
                    disk.map_or_else(
                        || "unknown".to_owned(),
                        |(total, available)| {
                            format!(
                                "{} available of {}",
                                output::bytes(available),
                                output::bytes(total)
                            )
                        },
                    ),
                ),
            ]);
            for warning in &warnings {
                super::doctor::show(warning, out);
            }
        },
    );
    super::branch::note_problems(&counts.troubled, out);
    Ok(())
}

fn count(config: &Config) -> Result<Counts> {
    let mut counts = Counts::default();
    for project in open_projects(config)? {
        counts.projects += 1;
        counts.snapshots += project.snapshots()?.len();
        counts.hidden += project.hidden()?;
        for branch in project.branches()? {
            counts.branches += 1;
            counts.running += usize::from(branch.state == State::Running);
            counts.restarting += usize::from(branch.state == State::Restarting);
            counts.unknown += usize::from(branch.state == State::Unknown);
            counts.ephemeral += usize::from(branch.ephemeral);
            counts.troubled.extend(branch.problem.is_some().then_some(branch));
        }
    }
    Ok(counts)
}

/// Total and available bytes of the file system that the home is or will be on.
fn disk(home: &Path) -> Option<(u64, u64)> {
    let there = home.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}
