//! `velo completions`.

use std::io::Write;

use clap::CommandFactory;

use crate::args::Cli;

pub(crate) fn run(shell: clap_complete::Shell) {
    // Generated first: writing straight to a closed pipe would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "velo", &mut script);
    let _ = std::io::stdout().lock().write_all(&script);
}
