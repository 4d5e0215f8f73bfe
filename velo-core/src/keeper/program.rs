//! Which program the keeper is: the one that wants it, started anew.
//!
//! A bare test binary has no command that could be a keeper, and there may be no `velo` on the machine, or
//! one of another version. So the program itself is started once more, with a variable that says what for;
//! it is looked at before `main`, which never begins.
//!
//! What is loaded into another program, as a Python extension is, has no say over how that begins. Whoever loads it
//! names a program that calls [`serve_if_asked`], and the task comes by a variable of its own: nothing may run for long
//! while a library is being loaded.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::process::Child;

use super::{Task, serve};
use crate::command::Program;
use crate::engine;
use crate::error::{Error, ErrorKind, Result};

/// What a keeper is started for, as JSON.
const VARIABLE: &str = "VELO_KEEPER";
/// The same for a program that asks.
const ASKED: &str = "VELO_KEEPER_TASK";

/// The program that asks, with its arguments, where one was named.
static PROGRAM: OnceLock<(PathBuf, Vec<OsString>)> = OnceLock::new();

/// Has keepers be this program, which calls [`serve_if_asked`] when it begins. The first call counts.
pub fn use_program(program: PathBuf, args: Vec<OsString>) {
    let _ = PROGRAM.set((program, args));
}

/// Serves if this process was started as a keeper, and then gives the code to exit with.
pub fn serve_if_asked() -> Option<u8> {
    std::env::var_os(ASKED).map(|task| served(&task))
}

/// Starts a keeper, which outlives this process.
pub(super) fn start(task: &Task, log: &Path) -> Result<Child> {
    let text = serde_json::to_string(task).map_err(|e| {
        Error::new(ErrorKind::Internal, "settings cannot be written").with_source(e)
    })?;
    let (program, args, variable) = match PROGRAM.get() {
        Some((program, args)) => (program.as_path(), args.as_slice(), ASKED),
        None => (Path::new("/proc/self/exe"), &[][..], VARIABLE),
    };
    let mut keeper = Program::new(program);
    if PROGRAM.get().is_none() {
        keeper = keeper.called("velo-keeper");
    }
    keeper
        .args(args)
        .inherit_env()
        .env(variable, text)
        .log(crate::runtime::log::open(log)?)
        .detached()
        .spawn()
}

/// Before `main` of whatever program this is linked into.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[cfg(target_os = "linux")]
extern "C" fn before_main() {
    // These two are all that a program pays that is no keeper.
    crate::run::note_parent();
    let Some(task) = std::env::var_os(VARIABLE) else { return };
    std::process::exit(i32::from(served(&task)));
}

/// Serves until the run is over. The code to exit with.
fn served(task: &OsStr) -> u8 {
    let served = task
        .to_str()
        .and_then(|task| serde_json::from_str::<Task>(task).ok())
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "what a keeper is to do is not Velo's own text")
        })
        .and_then(|task| engine::call(move |_| serve(task)).wait());
    match served {
        Ok(()) => 0,
        Err(error) => {
            // Its standard error is its log.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("error: {error}");
            }
            1
        }
    }
}
