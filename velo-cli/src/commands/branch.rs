//! `velo branch`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use velo_core::blocking;
use velo_core::storage::Usage;
use velo_core::{BranchInfo, BranchSpec, Reached, ResetTarget, Result, State};

use crate::args::{Branch, BranchCreate, Moment};
use crate::output::{self, Colour, Out};
use crate::progress::{Spinner, pace};
use crate::target::{Target, one_or_all, open_project};
use crate::{time, tree};

pub(crate) fn run(command: Branch, out: &Out) -> Result<()> {
    match command {
        Branch::Create(args) => create(*args, out),
        Branch::List { project, size } => list(project, size, out),
        Branch::Get(branch) => get(&branch.name, out),
        Branch::Delete { branch, force } => delete(&branch.name, force, out),
        Branch::Reset { branch, to, to_origin } => {
            let named = Target::branch(&branch.name)?;
            let target = match to {
                Some(name) => ResetTarget::Snapshot(named.beside(&name).to_owned()),
                None if to_origin => ResetTarget::Origin,
                None => ResetTarget::Source,
            };
            change(&branch.name, "reset", out, |b| b.reset_to(target))
        }
        Branch::Start(branch) => change(&branch.name, "started", out, blocking::Branch::start),
        Branch::Stop(branch) => change(&branch.name, "stopped", out, blocking::Branch::stop),
        Branch::Restart(branch) => {
            change(&branch.name, "restarted", out, blocking::Branch::restart)
        }
        Branch::Ttl { branch, time } => note(&branch.name, out, |b| b.set_ttl(time.0)),
        Branch::Protect(branch) => note(&branch.name, out, |b| b.protect(true)),
        Branch::Unprotect(branch) => note(&branch.name, out, |b| b.protect(false)),
        Branch::Url { branch, socket } => url(&branch.name, socket, out),
    }
}

/// The shape `branch` of docs/json.md, but for what only a handle knows.
fn shape(info: &BranchInfo) -> Value {
    json!({
        "name": format!("{}/{}", info.project, info.shown),
        "id": info.id.to_string(),
        "project": info.project,
        "branch": info.shown,
        "parent": info.parent_shown.as_ref().map(|p| format!("{}/{p}", info.project)),
        "from_snapshot": info.from_snapshot,
        "ephemeral": info.ephemeral,
        "state": info.state,
        "storage": info.storage.as_str(),
        "runtime": info.runtime.as_str(),
        "port": info.port,
        "pid": info.pid,
        "created_at": info.created_at,
        "cut": info.cut,
        "reached": info.reached.as_ref().map(reached),
        "expires_at": info.expires_at,
        "kept_by": info.kept_by,
        "protected": info.protected,
        "problem": info.problem,
    })
}

/// `reached` of docs/json.md.
fn reached(reached: &Reached) -> Value {
    json!({
        "lsn": reached.lsn,
        "timeline": reached.timeline,
        "time": reached.time(),
        "since": reached.begun(),
        "last_xid": reached.last_xid,
        "replayed": reached.replayed,
    })
}

/// The shape with what a handle knows too.
fn whole(branch: &blocking::Branch, info: &BranchInfo) -> Value {
    let mut value = shape(info);
    value["url"] = json!(branch.url());
    value["socket_url"] = json!(branch.socket_url());
    value
}

/// `size` of docs/json.md; null if it could not be measured.
pub(crate) fn size_shape(usage: Option<&Usage>) -> Value {
    usage.map_or(Value::Null, |usage| {
        json!({
            "referenced": usage.referenced,
            "exclusive": usage.exclusive,
            "shared": usage.referenced.saturating_sub(usage.exclusive),
        })
    })
}

/// The cells OWN and SHARED.
pub(crate) fn size_cells(usage: Option<&Usage>) -> [String; 2] {
    match usage {
        Some(usage) => [
            output::bytes(usage.exclusive),
            output::bytes(usage.referenced.saturating_sub(usage.exclusive)),
        ],
        None => ["?".into(), "?".into()],
    }
}

fn create(args: BranchCreate, out: &Out) -> Result<()> {
    let target = Target::branch(&args.branch.name)?;
    let project = open_project(&target.project)?;
    let mut spec = BranchSpec::named(&target.branch).from(target.beside(&args.from));
    for (key, value) in &args.settings {
        spec = spec.set(key, value);
    }
    if let Some(size) = &args.limits.memory {
        spec = spec.memory(velo_core::runtime::Limits::parse_size(size)?);
    }
    if let Some(number) = &args.limits.cpus {
        spec = spec.millicpus(velo_core::runtime::Limits::parse_cpus(number)?);
    }
    if let Some(size) = &args.limits.shm_size {
        spec = spec.shm_size(velo_core::runtime::Limits::parse_size(size)?);
    }
    if let Some(bytes) = args.quota {
        spec = spec.quota(bytes);
    }
    if let Some(time) = args.ttl {
        spec = spec.ttl(time);
    }
    if args.stopped {
        spec = spec.stopped();
    }
    let branch = {
        let spinner = Spinner::new(out, format!("creating {}", args.branch.name));
        match moment(&args.moment)? {
            // It may take a while, and whoever gives up leaves nothing.
            Some(at) => unless_given_up(&project, recovered(spec.at(at), &spinner))?,
            None => blocking::Branch::create(&project, spec)?,
        }
    };
    let info = branch.info()?;
    let (timings, outgoing) = (branch.timings(), outgoing(&branch, &info, out));
    out.result(
        || {
            let mut value = whole(&branch, &info);
            value["timings_ms"] = output::timings(&timings);
            value["outgoing"] = json!(outgoing);
            value
        },
        |out| {
            out.line(branch.url());
            out.line(format!(
                "{} created in {} from {}, storage {}, {}",
                branch.full_name(),
                output::took(timings.total),
                args.from,
                info.storage,
                info.state.as_str(),
            ));
            if let Some(reached) = &info.reached {
                out.line(told(reached));
            }
        },
    );
    warn_outgoing(outgoing.as_deref(), out);
    Ok(())
}

/// Tells how far the recovery is.
fn recovered(spec: BranchSpec, spinner: &Spinner) -> BranchSpec {
    let (say, first) = (spinner.lines(), OnceLock::new());
    spec.watch(move |progress| {
        // Not what was made before, nor what the snapshot itself holds.
        let (begun, from) = *first.get_or_init(|| (Instant::now(), progress.replayed));
        let done = progress.replayed.saturating_sub(from);
        let rest = progress.total.saturating_sub(progress.replayed);
        let time = progress.time().map_or_else(String::new, |time| format!(", at {time}"));
        say(&format!(
            "{} of {} replayed{time}{}",
            output::bytes(progress.replayed),
            output::bytes(progress.total),
            pace(done, rest, begun.elapsed()),
        ));
    })
}

/// Makes a branch. At a signal it is undone.
fn unless_given_up(project: &blocking::Project, spec: BranchSpec) -> Result<blocking::Branch> {
    let project = project.as_async().clone();
    let made = crate::signals::unless_given_up(
        move |cancel| async move { velo_core::Branch::create_unless(&project, spec, &cancel).await },
        // It was done before it could be given up.
        |branch| async move { branch.delete(true).await.map(|()| None) },
    );
    made.map(blocking::Branch::from)
}

/// The moment that is asked for.
fn moment(args: &Moment) -> Result<Option<velo_core::Target>> {
    use velo_core::Target;
    let target = match args {
        Moment { at: Some(text), .. } => Target::parse_time(text)?,
        Moment { at_lsn: Some(text), .. } => Target::lsn(text.parse()?),
        Moment { at_name: Some(name), .. } => Target::restore_point(name),
        Moment { at_xid: Some(xid), .. } => Target::xid(*xid),
        _ => return Ok(None),
    };
    Ok(Some(if args.exclusive { target.exclusive() } else { target }))
}

/// The moment that was really reached.
fn told(reached: &Reached) -> String {
    let replayed = output::bytes(reached.replayed);
    match (reached.time(), reached.last_xid) {
        (Some(time), Some(xid)) => format!(
            "reached {}: its last transaction is {xid}, committed {time}; {replayed} of WAL replayed",
            reached.lsn
        ),
        _ => format!(
            "reached {}: no transaction was committed since the snapshot before it, of {}; {replayed} of WAL \
             replayed",
            reached.lsn,
            reached.begun()
        ),
    }
}

/// What of the parent's data can still reach out, which only a server that runs can tell. The branch is
/// there, whether that can be told or not.
fn outgoing(branch: &blocking::Branch, info: &BranchInfo, out: &Out) -> Option<Vec<String>> {
    if info.state != State::Running {
        return None;
    }
    let told = branch.outgoing();
    let untold =
        |error| out.note(&format!("what the branch can still reach is not known: {error}"));
    told.map_err(untold).ok()
}

/// What of the parent's data can still reach out is the user's to know.
fn warn_outgoing(outgoing: Option<&[String]>, out: &Out) {
    if let Some(outgoing) = outgoing.filter(|outgoing| !outgoing.is_empty() && !out.json) {
        out.note(&format!(
            "the branch can still reach other servers when a session asks it to: {}",
            outgoing.join(", ")
        ));
    }
}

fn list(project: Option<String>, size: bool, out: &Out) -> Result<()> {
    let projects = one_or_all(project.as_deref())?;
    let mut all = Vec::new();
    for project in &projects {
        for info in project.branches()? {
            all.push((info, None));
        }
    }
    if size {
        let _spinner = Spinner::new(out, "measuring");
        for (info, usage) in &mut all {
            let project = projects.iter().find(|p| p.name() == info.project);
            // One that is being made or went away meanwhile has no size; the list is still right.
            *usage = project
                .and_then(|p| p.branch(info.id.to_string()).ok())
                .and_then(|b| b.usage().ok());
        }
    }
    out.result(
        || {
            all.iter()
                .map(|(info, usage)| {
                    let mut value = shape(info);
                    if size {
                        value["size"] = size_shape(usage.as_ref());
                    }
                    value
                })
                .collect()
        },
        |out| draw(&all, size, out),
    );
    note_problems(all.iter().map(|(info, _)| info), out);
    Ok(())
}

/// What is wrong with branches, each thing once with all that it is wrong with.
pub(crate) fn note_problems<'a>(all: impl IntoIterator<Item = &'a BranchInfo>, out: &Out) {
    if out.json {
        return;
    }
    let mut told: Vec<(&str, Vec<String>)> = Vec::new();
    for info in all {
        let Some(problem) = info.problem.as_deref() else { continue };
        let name = format!("{}/{}", info.project, info.shown);
        match told.iter_mut().find(|(known, _)| *known == problem) {
            Some((_, names)) => names.push(name),
            None => told.push((problem, vec![name])),
        }
    }
    for (problem, names) in told {
        out.note(&format!("{}: {problem}", names.join(", ")));
    }
}

/// How long it stays: `2h`, or what keeps it.
fn stays(info: &BranchInfo) -> String {
    let left = info.expires_at.map(|then| time::until(then).unwrap_or_else(|| "over".to_owned()));
    match (left, info.protected) {
        (None, true) => "protected".to_owned(),
        (Some(left), true) => format!("protected ({left})"),
        (Some(left), false) if info.kept_by.is_empty() => left,
        (Some(left), false) => format!("{left}, needed by {}", info.kept_by.join(", ")),
        (None, false) => "-".to_owned(),
    }
}

fn draw(all: &[(BranchInfo, Option<Usage>)], size: bool, out: &Out) {
    if all.is_empty() {
        return out.line("no branches; create a project: velo project create NAME");
    }
    let parents: Vec<Option<usize>> = all
        .iter()
        .map(|(info, _)| {
            let parent = info.parent?;
            all.iter().position(|(other, _)| other.id == parent)
        })
        .collect();
    let mut head = vec!["BRANCH", "STATE", "AGE", "STAYS", "PORT", "STORAGE"];
    if size {
        head.extend(["OWN", "SHARED"]);
    }
    let rows: Vec<Vec<String>> = tree::arrange(&parents)
        .into_iter()
        .map(|(i, lines)| {
            let (info, usage) = &all[i];
            let mut name = match parents[i] {
                Some(_) => format!("{lines}{}", info.shown),
                None => format!("{lines}{}/{}", info.project, info.shown),
            };
            if let Some(snapshot) = &info.from_snapshot {
                name.push_str(&format!(" (@{snapshot})"));
            }
            let mut row = vec![
                name,
                info.state.as_str().to_owned(),
                output::age(info.created_at),
                stays(info),
                info.port.to_string(),
                info.storage.to_string(),
            ];
            if size {
                row.extend(size_cells(usage.as_ref()));
            }
            row
        })
        .collect();
    out.table(&head, &rows);
}

fn get(name: &str, out: &Out) -> Result<()> {
    let branch = Target::branch(name)?.open()?;
    let info = branch.info()?;
    let usage = {
        let _spinner = Spinner::new(out, "measuring");
        branch.usage().ok()
    };
    out.result(
        || {
            let mut value = whole(&branch, &info);
            value["size"] = size_shape(usage.as_ref());
            value
        },
        |out| {
            let from = match (&info.parent_shown, &info.from_snapshot) {
                (Some(parent), Some(snapshot)) => format!("{parent}@{snapshot}"),
                (Some(parent), None) => parent.clone(),
                (None, _) => "-".to_owned(),
            };
            let colour = match info.state {
                State::Running => Colour::Green,
                _ => Colour::Yellow,
            };
            let [own, shared] = size_cells(usage.as_ref());
            out.pairs(&[
                ("name", branch.full_name()),
                ("id", info.id.to_string()),
                ("url", branch.url()),
                ("from", from),
                ("state", out.paint(info.state.as_str(), colour)),
                ("lifetime", if info.ephemeral { "ephemeral" } else { "persistent" }.to_owned()),
                ("stays", stays(&info)),
                ("storage", info.storage.to_string()),
                ("runtime", info.runtime.as_str().to_owned()),
                ("size", format!("{own} of its own, {shared} shared")),
                ("age", output::age(info.created_at)),
                ("log", branch.as_async().log_file().display().to_string()),
            ]);
        },
    );
    note_problems([&info], out);
    Ok(())
}

fn delete(name: &str, force: bool, out: &Out) -> Result<()> {
    let branch = Target::branch(name)?.open()?;
    let (shown, id) = (branch.full_name(), branch.id());
    let begun = Instant::now();
    {
        let _spinner = Spinner::new(out, format!("deleting {shown}"));
        branch.delete(force)?;
    }
    let took = begun.elapsed();
    out.result(
        || {
            json!({
                "name": shown,
                "id": id.to_string(),
                "deleted": true,
                "timings_ms": { "total": output::ms(took) },
            })
        },
        |out| out.line(format!("{shown} deleted in {}", output::took(took))),
    );
    Ok(())
}

/// A command that changes what is recorded of a branch.
fn note(name: &str, out: &Out, work: impl FnOnce(&blocking::Branch) -> Result<()>) -> Result<()> {
    let branch = Target::branch(name)?.open()?;
    work(&branch)?;
    let info = branch.info()?;
    out.result(
        || whole(&branch, &info),
        |out| {
            let name = branch.full_name();
            out.line(match (info.protected, info.expires_at) {
                (true, _) => format!("{name} is protected"),
                (false, None) => format!("{name} stays until it is deleted"),
                (false, Some(then)) => match time::until(then) {
                    Some(left) => format!("{name} stays for {left}"),
                    None => format!("the time of {name} is over: it goes with the next command"),
                },
            });
        },
    );
    Ok(())
}

/// A command that changes a branch and leaves it there.
fn change(
    name: &str,
    done: &str,
    out: &Out,
    work: impl FnOnce(&blocking::Branch) -> Result<()>,
) -> Result<()> {
    let branch = Target::branch(name)?.open()?;
    let begun = Instant::now();
    {
        let _spinner = Spinner::new(out, format!("{name}: waiting until it is {done}"));
        work(&branch)?;
    }
    let took: Duration = begun.elapsed();
    let info = branch.info()?;
    let (mut timings, outgoing) = (branch.timings(), outgoing(&branch, &info, out));
    timings.total = took;
    out.result(
        || {
            let mut value = whole(&branch, &info);
            value["timings_ms"] = output::timings(&timings);
            value["outgoing"] = json!(outgoing);
            value
        },
        |out| {
            let (name, took) = (branch.full_name(), output::took(took));
            // What a reset costs depends on it, as what a creation does.
            let storage = match done {
                "reset" => format!(", storage {}", info.storage),
                _ => String::new(),
            };
            out.line(format!("{name} {done} in {took}{storage}"));
        },
    );
    warn_outgoing(outgoing.as_deref(), out);
    Ok(())
}

fn url(name: &str, socket: bool, out: &Out) -> Result<()> {
    let branch = Target::branch(name)?.open()?;
    let url = if socket { branch.socket_url() } else { branch.url() };
    out.result(|| json!({ "url": url }), |out| out.line(&url));
    Ok(())
}
