//! `velo completions`.

use clap::CommandFactory;

use crate::args::Cli;
use crate::output::Out;

pub(crate) fn run(shell: clap_complete::Shell, out: &Out) {
    // Generated first: writing straight to a closed pipe would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "velo", &mut script);
    out.write(&script);
}
