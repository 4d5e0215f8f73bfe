//! `velo wal` and `velo restore-point`.

use serde_json::json;
use velo_core::{Incarnation, Pruned, Result};

use crate::args::{RestorePoint, Wal};
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::target::{Target, one_or_all};
use crate::time;

pub(crate) fn run(command: Wal, out: &Out) -> Result<()> {
    match command {
        Wal::Info { branch } => info(&branch, out),
        Wal::Prune { project, dry_run } => prune(project.as_deref(), dry_run, out),
    }
}

pub(crate) fn restore_point(command: RestorePoint, out: &Out) -> Result<()> {
    let RestorePoint::Create { branch, name } = command;
    let branch = Target::source(&branch).open()?;
    let point = branch.restore_point(name)?;
    out.result(
        || {
            json!({
                "branch": branch.full_name(),
                "name": point.name,
                "lsn": point.lsn,
            })
        },
        |out| {
            out.line(format!("{} is at {} of {}", point.name, point.lsn, branch.full_name()));
        },
    );
    Ok(())
}

fn info(branch: &str, out: &Out) -> Result<()> {
    let branch = Target::source(branch).open()?;
    let wal = branch.wal()?;
    let name = branch.full_name();
    out.result(
        || {
            json!({
                "branch": name,
                "retention": wal.retention,
                "incarnations": wal.incarnations,
            })
        },
        |out| {
            if wal.incarnations.is_empty() {
                return out.line(match wal.retention {
                    Some(_) => format!("no WAL of {name} is kept yet: velo branch restart {name}"),
                    None => format!("no WAL of {name} is kept"),
                });
            }
            for one in &wal.incarnations {
                draw(one, wal.retention, out);
            }
        },
    );
    Ok(())
}

fn draw(one: &Incarnation, retention: Option<u64>, out: &Out) {
    let windows = one.reachable();
    let kept = retention.map_or_else(
        || "not any more".to_owned(),
        |seconds| time::shown(std::time::Duration::from_secs(seconds)),
    );
    out.pairs(&[
        ("data", one.volume.to_string()),
        (
            "reachable",
            if windows.is_empty() { "nothing: no snapshot yet".into() } else { windows.join("; ") },
        ),
        ("kept", kept),
        ("snapshots", one.bases.to_string()),
        ("segments", format!("{} ({})", one.segments, output::bytes(one.bytes))),
        ("holes", if one.holes.is_empty() { "none".into() } else { one.holes.join(", ") }),
        ("waiting", waiting(one)),
    ]);
}

/// What is not archived yet: what lies in no archive is the server's alone.
fn waiting(one: &Incarnation) -> String {
    let since = time::shown(std::time::Duration::from_secs(one.waiting_for));
    match one.waiting {
        0 => "no segment".to_owned(),
        1 => format!("1 segment to be archived, for {since}"),
        several => format!("{several} segments to be archived, for {since}"),
    }
}

fn prune(project: Option<&str>, dry_run: bool, out: &Out) -> Result<()> {
    let (mut pruned, mut failed) = (Vec::new(), None);
    for project in one_or_all(project)? {
        let _spinner = Spinner::new(out, format!("looking through the WAL of {}", project.name()));
        match project.prune_wal(dry_run) {
            Ok(more) => pruned.extend(more),
            Err(error) => {
                if let Some(other) = failed.replace(error) {
                    out.error(&other);
                }
            }
        }
    }
    if pruned.is_empty()
        && let Some(error) = failed
    {
        return Err(error);
    }
    out.result(
        || json!(pruned),
        |out| {
            if pruned.is_empty() {
                return out.line("no WAL is older than it is to be kept");
            }
            let verb = if dry_run { "would go" } else { "removed" };
            for one in &pruned {
                about_snapshot(one, dry_run, out);
                if one.segments + one.bases + one.incarnations == 0 {
                    continue;
                }
                out.line(format!(
                    "{}: {verb}: {} segments ({}), {} snapshots",
                    one.branch,
                    one.segments,
                    output::bytes(one.bytes),
                    one.bases,
                ));
            }
        },
    );
    failed.map_or(Ok(()), Err)
}

/// Whether a snapshot was taken so that WAL can go, or could not be.
pub(super) fn about_snapshot(one: &Pruned, dry_run: bool, out: &Out) {
    if one.taken > 0 {
        let verb = if dry_run { "would be" } else { "was" };
        out.line(format!(
            "{}: a snapshot {verb} taken, so that older WAL can go later",
            one.branch
        ));
    }
    if one.wants_snapshot {
        out.line(format!(
            "{0}: its WAL cannot be pruned for want of a newer snapshot; velo snapshot create {0} NAME says why",
            one.branch
        ));
    }
}
