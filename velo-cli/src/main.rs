//! The command `velo`. All of it is in the library, which the wheel and the npm package call too.

use std::process::ExitCode;

fn main() -> ExitCode {
    velo_cli::run(std::env::args_os())
}
