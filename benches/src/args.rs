//! The command line of a benchmark that has nothing else to be told than how often.

use std::path::PathBuf;

use crate::Result;

/// What the command line says.
pub struct Args {
    /// How many samples are taken.
    pub samples: usize,
    /// Where the data goes, if anywhere.
    pub json: Option<PathBuf>,
    /// Whether the results are renewed.
    pub write: bool,
}

impl Args {
    /// Reads this process's: so many samples unless it says, fewer with `--short`, and never less than `least`.
    ///
    /// # Errors
    /// For an argument that is none, or whose value is.
    pub fn parse(short_samples: usize, samples: usize, least: usize) -> Result<Self> {
        let mut args = std::env::args().skip(1);
        let (mut told, mut json, mut write, mut short) = (None, None, false, false);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--bench" => {} // cargo's
                "--short" => short = true,
                "--write" => write = true,
                "--samples" => told = Some(value()?.parse()?),
                "--json" => json = Some(value()?.into()),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        let samples = told.unwrap_or(if short { short_samples } else { samples }).max(least);
        Ok(Self { samples, json, write })
    }
}
