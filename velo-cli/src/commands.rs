//! The commands, a file for each noun.

mod branch;
mod care;
mod completions;
mod doctor;
mod follow;
mod import;
mod pg;
mod project;
mod seed;
mod setup;
mod snapshot;
mod status;
mod wal;

use velo_core::Result;

use crate::args::{Cli, Command};
use crate::output::Out;

/// Runs a command, and gives the exit code if it did not fail.
pub(crate) fn dispatch(cli: Cli, out: &Out) -> Result<u8> {
    match cli.command {
        Command::Project(command) => project::run(command, out)?,
        Command::Branch(command) => branch::run(command, out)?,
        Command::Snapshot(command) => snapshot::run(command, out)?,
        Command::RestorePoint(command) => wal::restore_point(command, out)?,
        Command::Wal(command) => wal::run(command, out)?,
        Command::Seed(command) => seed::run(command, out)?,
        Command::Run(command) => return crate::run::run(command, out),
        Command::Status => status::run(out)?,
        Command::Doctor { fix } => return doctor::run(fix, out),
        Command::Gc(args) => return care::gc(&args, out),
        Command::Start(_) => return care::start_all(out),
        Command::Stop(_) => return care::stop_all(out),
        Command::Setup(command) => setup::run(command, out)?,
        Command::Pg(command) => pg::run(command, out)?,
        Command::Completions { shell } => completions::run(shell, out),
    }
    Ok(crate::DONE)
}
