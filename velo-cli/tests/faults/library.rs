//! Operations that the command has not: this program, started anew, does them by the library.

use std::process::Command;

use velo_core::blocking::{Branch, Project};
use velo_core::{BranchSpec, Result, SeedKey};

use super::common::Home;

/// An ephemeral branch becomes a persistent one, which has no state that it began with.
pub const KEEP: &str = "keep an ephemeral branch";
/// What it is called then.
pub const KEPT: &str = "kept";
/// A project is made unless there is one.
pub const OPEN_OR_CREATE: &str = "open or create other";

/// Data is prepared once.
pub const SEED: &str = "seed of api";

const VARIABLE: &str = "VELO_TEST_OPERATION";

/// The command for an operation.
pub fn command(home: &Home, operation: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = home.command_of(&program);
    command.args(["--exact", "library::one_operation", "--nocapture"]).env(VARIABLE, operation);
    // Where its client is, which may not be on PATH.
    command.envs(std::env::vars_os().filter(|(key, _)| key == "VELO_TEST_PG"));
    command
}

/// No test but where the suite starts it.
#[test]
fn one_operation() {
    let Ok(operation) = std::env::var(VARIABLE) else { return };
    let done = match operation.as_str() {
        KEEP => keep(),
        OPEN_OR_CREATE => Project::builder("other").open_or_create().map(drop),
        SEED => seed(),
        _ => panic!("there is no operation {operation:?}"),
    };
    if let Err(error) = done {
        // As the command prints it.
        eprintln!("error: {error}\nhint: {}", error.hint().unwrap_or_default());
        std::process::exit(1);
    }
}

fn seed() -> Result<()> {
    let project = Project::open("api")?;
    let key = SeedKey::new().code("faults").text("a seed");
    project.seed(key, |branch| match super::common::try_psql(&branch.url(), "DELETE FROM t") {
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    })?;
    project.finish_deletions()
}

fn keep() -> Result<()> {
    let project = Project::open("api")?;
    let branch = Branch::create(&project, BranchSpec::ephemeral())?;
    let kept = branch.keep_as(KEPT);
    match kept {
        Ok(()) => Ok(()),
        Err(error) => {
            // Kept already, perhaps: then this does nothing.
            let closed = branch.close();
            project.finish_deletions().and(closed).and(Err(error))
        }
    }
}
