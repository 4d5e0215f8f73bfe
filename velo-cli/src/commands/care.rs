//! `velo gc`, `velo start --all` and `velo stop --all`: what is done to a whole home.

use std::time::Instant;

use serde_json::{Value, json};
use velo_core::gc::GcSpec;
use velo_core::{Config, Deed, Result, blocking};

use crate::args::Gc;
use crate::output::{self, Out};
use crate::progress::Spinner;

pub(crate) fn gc(args: &Gc, out: &Out) -> Result<u8> {
    let mut spec = GcSpec::new();
    if args.dry_run {
        spec = spec.dry_run();
    }
    if args.unrecorded {
        spec = spec.unrecorded();
    }
    let collected = {
        let _spinner = Spinner::new(out, "cleaning up");
        blocking::gc::collect(&Config::load()?, spec)?
    };
    let freed: u64 = done(&collected.deeds).filter_map(|deed| deed.bytes).sum();
    out.result(
        || {
            json!({
                "dry_run": args.dry_run,
                "deeds": collected.deeds,
                "freed": freed,
                "unrecorded": collected.unrecorded,
            })
        },
        |out| {
            for deed in &collected.deeds {
                show(deed, args.dry_run, out);
            }
            let free = if args.dry_run { "would be free" } else { "free" };
            match done(&collected.deeds).count() {
                0 if collected.deeds.is_empty() => out.line("nothing to remove"),
                0 => {}
                _ if freed > 0 => out.line(format!("{} {free}", output::bytes(freed))),
                _ => {}
            }
        },
    );
    warn_unrecorded(args, &collected, out);
    let failed = !args.dry_run && collected.deeds.iter().any(|deed| deed.error.is_some());
    Ok(if failed { crate::FAILED } else { crate::DONE })
}

fn done(deeds: &[Deed]) -> impl Iterator<Item = &Deed> {
    deeds.iter().filter(|deed| deed.error.is_none())
}

/// A state.db that was restored from yesterday's backup names nothing of today's.
fn warn_unrecorded(args: &Gc, collected: &velo_core::gc::Collected, out: &Out) {
    if out.json {
        return;
    }
    let names = |deeds: &[Deed]| {
        let shown = deeds.iter().map(|deed| match deed.bytes {
            Some(bytes) => format!("{} ({})", deed.name, output::bytes(bytes)),
            None => deed.name.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    if !collected.unrecorded.is_empty() {
        out.note(&format!(
            "left alone, because no record names it or who made it, and it may be data that somebody \
             wants (is state.db restored from a backup?): {}; velo gc --unrecorded removes it",
            names(&collected.unrecorded)
        ));
    } else if args.unrecorded && args.dry_run && !collected.deeds.is_empty() {
        out.note(
            "what no record names, or who made it, is removed for good: if state.db was restored from \
             a backup, it is what was made since",
        );
    }
}

/// One line for what was done, or what is in the way.
pub(crate) fn show(deed: &Deed, dry_run: bool, out: &Out) {
    let of = match (deed.kind, deed.deed) {
        ("server", _) => format!("the server of {}", deed.name),
        ("reset", _) => format!("the reset of {}", deed.name),
        ("run", _) => format!("the folder {}", deed.name),
        ("socket", _) => format!("the socket of {}", deed.name),
        ("hidden", _) => format!("the hidden {}", deed.name),
        (kind, _) => format!("the {kind} {}", deed.name),
    };
    let size = match deed.bytes {
        Some(bytes) => format!(" ({})", output::bytes(bytes)),
        None => String::new(),
    };
    let why = deed.why;
    out.line(match &deed.error {
        Some(error) => format!("not {} {of}{size}, {why}: {error}", deed.deed),
        None if dry_run => format!("would be {}: {of}{size}, {why}", deed.deed),
        None => format!("{} {of}{size}, {why}", deed.deed),
    });
}

pub(crate) fn start_all(out: &Out) -> Result<u8> {
    all("starting", "started", out, blocking::Branch::start_all)
}

pub(crate) fn stop_all(out: &Out) -> Result<u8> {
    all("stopping", "stopped", out, blocking::Branch::stop_all)
}

fn all(
    doing: &str,
    done: &str,
    out: &Out,
    work: impl FnOnce(&Config) -> Result<Vec<(blocking::Branch, Result<bool>)>>,
) -> Result<u8> {
    let begun = Instant::now();
    let outcomes = {
        let _spinner = Spinner::new(out, format!("{doing} all"));
        work(&Config::load()?)?
    };
    let failed = outcomes.iter().filter(|(_, result)| result.is_err()).count();
    out.result(
        || {
            outcomes
                .iter()
                .map(|(branch, result)| {
                    let error = result.as_ref().err().map_or(Value::Null, output::error_shape);
                    json!({
                        "name": branch.full_name(),
                        "id": branch.id().to_string(),
                        "done": result.is_ok(),
                        "changed": matches!(result, Ok(true)),
                        "url": branch.url(),
                        "error": error,
                    })
                })
                .collect()
        },
        |out| {
            for (branch, result) in &outcomes {
                match result {
                    Ok(true) => out.line(format!("{} {done}", branch.full_name())),
                    Ok(false) => out.line(format!("{} ran already", branch.full_name())),
                    Err(_) => {}
                }
            }
            let count = |changed| {
                outcomes.iter().filter(|(_, r)| r.as_ref().is_ok_and(|r| *r == changed)).count()
            };
            let ran = match count(false) {
                0 => String::new(),
                ran => format!(", {ran} ran already"),
            };
            let took = output::took(begun.elapsed());
            out.line(format!("{} {done} in {took}{ran}", count(true)));
        },
    );
    if !out.json {
        for (branch, result) in &outcomes {
            if let Err(error) = result {
                out.error_of(&branch.full_name(), error);
            }
        }
    }
    Ok(if failed > 0 { crate::FAILED } else { crate::DONE })
}
