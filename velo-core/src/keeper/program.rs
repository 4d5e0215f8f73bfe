//! Which program the keeper is: the one that wants it, started anew.
//!
//! A bare test binary has no command that could be a keeper, and there may be no `velo` on the machine, or
//! one of another version. So the program itself is started once more, with a variable that says what for;
//! it is looked at before `main`, which never begins.

use std::path::Path;

use tokio::process::Child;

use super::{Task, serve};
use crate::command::Program;
use crate::engine;
use crate::error::{Error, ErrorKind, Result};

/// What a keeper is started for, as JSON.
const VARIABLE: &str = "VELO_KEEPER";

/// Starts a keeper, which outlives this process.
pub(super) fn start(task: &Task, log: &Path) -> Result<Child> {
    let text = serde_json::to_string(task).map_err(|e| {
        Error::new(ErrorKind::Internal, "settings cannot be written").with_source(e)
    })?;
    Program::new("/proc/self/exe")
        .called("velo-keeper")
        .inherit_env()
        .env(VARIABLE, text)
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
    // All that a program pays that is no keeper.
    let Some(task) = std::env::var_os(VARIABLE) else { return };
    let served = task
        .to_str()
        .and_then(|task| serde_json::from_str::<Task>(task).ok())
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("{VARIABLE} is not Velo's own")))
        .and_then(|task| engine::call(move |_| serve(task)).wait());
    let code = match served {
        Ok(()) => 0,
        Err(error) => {
            // Its standard error is its log.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("error: {error}");
            }
            1
        }
    };
    std::process::exit(code);
}
