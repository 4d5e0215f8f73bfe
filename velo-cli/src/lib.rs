//! The command `velo`, as a library: its `main`, the Python wheel and the npm package call
//! [`run`] or [`code`]. It works over velo-core's public API alone, and is the only crate that prints.

mod args;
mod commands;
mod output;
mod progress;
mod run;
mod signals;
mod target;
mod time;
mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::output::Out;

/// Everything was done.
const DONE: u8 = 0;
/// Something failed, and nothing was changed.
const FAILED: u8 = 1;
/// The command was not one that Velo understands.
const USAGE: u8 = 2;

/// Runs the command line `args`, whose first is the program's own name, and gives its exit code: 0
/// done, 1 failed, 2 wrong usage; for `velo run` the command's own.
///
/// It prints to this process's standard output and error, and `velo run` handles this process's
/// signals, so it is meant to be all that a process does.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(code(args))
}

/// The same, with the code as a number.
pub fn code(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args),
    };
    let out = Out::new(cli.global.json);
    log(cli.global.verbose);
    let done = commands::dispatch(cli, &out).and_then(|code| out.finish().map(|()| code));
    match done {
        Ok(code) => code,
        Err(error) => {
            out.error(&error);
            code_of(&error)
        }
    }
}

/// A name that is not one is wrong usage, like an option that is not one.
fn code_of(error: &velo_core::Error) -> u8 {
    match error.kind() {
        velo_core::ErrorKind::InvalidInput => USAGE,
        _ => FAILED,
    }
}

/// What clap has to say: help and version as they are, an error as one line and a hint.
fn usage(error: &clap::Error, args: &[OsString]) -> u8 {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => DONE,
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => DONE,
            Err(_) => FAILED,
        };
    }
    // The command line was not understood, so its --json has to be looked for by hand.
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    use clap::error::ErrorKind as Clap;
    if error.kind() == Clap::DisplayHelpOnMissingArgumentOrSubcommand && !json {
        let _ = error.print();
        return USAGE;
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let first = paragraphs.next().unwrap_or_default();
    let mut message = match error.kind() {
        Clap::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing",
        _ => first.strip_prefix("error: ").unwrap_or(&first),
    };
    // A value that is refused: what it must be says the one who refused it.
    let wanted = std::error::Error::source(error).map(|source| {
        message = message.strip_suffix(&format!(": {source}")).unwrap_or(message);
        let own = source.downcast_ref::<velo_core::Error>().and_then(velo_core::Error::hint);
        own.map_or_else(|| source.to_string(), str::to_owned)
    });
    let hint = wanted
        .or_else(|| {
            paragraphs.find_map(|p| {
                p.strip_prefix("tip: ")
                    .map(str::to_owned)
                    .or_else(|| p.starts_with("Usage: ").then(|| p.to_lowercase_first()))
            })
        })
        .unwrap_or_else(|| "velo --help".to_owned());
    let error = velo_core::Error::new(velo_core::ErrorKind::InvalidInput, message).with_hint(hint);
    Out::new(json).error(&error);
    USAGE
}

trait LowercaseFirst {
    fn to_lowercase_first(&self) -> String;
}

impl LowercaseFirst for String {
    fn to_lowercase_first(&self) -> String {
        let mut chars = self.chars();
        match chars.next() {
            Some(first) => first.to_lowercase().chain(chars).collect(),
            None => String::new(),
        }
    }
}

/// Logs to standard error: warnings, and with `-v` what is done.
fn log(verbose: u8) {
    let level = match verbose {
        0 => tracing_subscriber::filter::LevelFilter::WARN,
        1 => tracing_subscriber::filter::LevelFilter::INFO,
        2 => tracing_subscriber::filter::LevelFilter::DEBUG,
        _ => tracing_subscriber::filter::LevelFilter::TRACE,
    };
    // Fails only if the process that calls this library has a subscriber already: then that one
    // gets the events.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(output::colour_on_stderr())
        .with_target(false)
        .without_time()
        .try_init();
}
