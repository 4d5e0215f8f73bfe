//! `velo setup`.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::{Value, json};
use velo_core::blocking::setup::{LoopKind, LoopSpec, Setup, image_of};
use velo_core::{Config, Error, ErrorKind, Result};

use crate::args::{self, FileSystem};
use crate::output::{self, Out};

/// What is to be done, and what people and programs are told of it.
struct Plan {
    setup: Setup,
    shape: Value,
    ready: String,
    already: String,
    gone: String,
}

pub(crate) fn run(args: args::Setup, out: &Out) -> Result<()> {
    let (dry_run, yes, undo) = (args.dry_run, args.yes, args.undo);
    let Plan { setup, shape, ready, already, gone } = match args.delegate.clone() {
        Some(dataset) => delegation(dataset, &args)?,
        None => on_loop(args)?,
    };
    let commands: Vec<String> = setup.commands().collect();
    let shape = |done: bool| {
        let mut shape = shape;
        shape["commands"] = json!(commands);
        shape["done"] = json!(done);
        shape
    };
    if dry_run {
        out.result(
            || shape(commands.is_empty()),
            |out| match commands.is_empty() {
                true => out.line("nothing to do"),
                false => commands.iter().for_each(|command| out.line(command)),
            },
        );
        return Ok(());
    }
    if !commands.is_empty() && !yes {
        confirm(&commands)?;
    }
    let quiet = out.json;
    setup.run(move |command| {
        if !quiet {
            let _ = writeln!(std::io::stderr().lock(), "+ {command}");
        }
    })?;
    let what = match (undo, commands.is_empty()) {
        (true, _) => gone,
        (false, true) => format!("nothing to do: {already}"),
        (false, false) => ready,
    };
    out.result(|| shape(true), |out| out.line(what));
    Ok(())
}

fn on_loop(args: args::Setup) -> Result<Plan> {
    let at = match args.at {
        Some(at) => std::path::absolute(&at)
            .map_err(|e| Error::io(format!("find the folder {}", at.display()), e))?,
        None => Config::load()?.home().to_path_buf(),
    };
    let image = args.image.unwrap_or_else(|| image_of(&at));
    let setup = match args.size {
        None => Setup::undo(&image)?,
        Some(size) => {
            let kind = match args.fs {
                FileSystem::Btrfs => LoopKind::Btrfs,
                FileSystem::Zfs => LoopKind::Zfs,
            };
            let mut spec =
                LoopSpec::new(&at, size).image(&image).kind(kind).pool(args.pool).fstab(args.fstab);
            if let Some(owner) = args.owner {
                spec = spec.owner(owner);
            }
            Setup::on_loop(&spec)?
        }
    };
    // As they really are: links may lead there.
    let at = setup.at().unwrap_or(&at).to_owned();
    let image = setup.image().unwrap_or(&image).to_owned();
    Ok(Plan {
        setup,
        shape: json!({
            "at": output::path(&at), "image": output::path(&image), "dataset": null, "user": null,
        }),
        ready: format!("{} is ready: VELO_HOME={0}", at.display()),
        already: format!("{} is mounted already", at.display()),
        gone: format!("{} is gone", image.display()),
    })
}

#[cfg(feature = "zfs")]
fn delegation(dataset: String, args: &args::Setup) -> Result<Plan> {
    use velo_core::setup::Delegation;
    let user = args.owner.clone().unwrap_or_default();
    // Those of volumes: what the user sets beside Velo's own has to be the user's to set.
    let delegation = Delegation::new(&dataset, &user).properties_of(&Config::load()?);
    let setup = match args.undo {
        true => Setup::undo_delegation(&delegation)?,
        false => Setup::delegation(&delegation)?,
    };
    Ok(Plan {
        setup,
        shape: json!({ "at": null, "image": null, "dataset": dataset, "user": user }),
        ready: format!("{user} can work below {dataset}: VELO_ZFS_DATASET={dataset}"),
        already: format!("{user} can work below {dataset} already"),
        gone: format!("what {user} was given on {dataset} is taken back"),
    })
}

#[cfg(not(feature = "zfs"))]
fn delegation(_: String, _: &args::Setup) -> Result<Plan> {
    Err(Error::new(ErrorKind::Unsupported, "this build of velo knows no ZFS")
        .with_hint("build it with the feature zfs"))
}

/// Shows what is going to be run, and asks whether it may be.
fn confirm(commands: &[String]) -> Result<()> {
    let refused =
        |what: &str, hint: &str| Err(Error::new(ErrorKind::Canceled, what).with_hint(hint));
    if !std::io::stdin().is_terminal() {
        return refused(
            "nobody can be asked whether these commands may be run",
            "look at them with --dry-run, and add --yes",
        );
    }
    let mut stderr = std::io::stderr().lock();
    for command in commands {
        let _ = writeln!(stderr, "  {command}");
    }
    let _ = write!(stderr, "Run these commands? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| Error::io("read the answer", e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refused("nothing was done", "answer y to run them"),
    }
}
