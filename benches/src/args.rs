//! The command line of a benchmark that has little else to be told than how often.

use std::collections::HashMap;
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
        Self::with(short_samples, samples, least, &[]).map(|(args, _)| args)
    }

    /// The same of one that has options of its own, each of which has a value.
    ///
    /// # Errors
    /// For an argument that is none, or whose value is.
    pub fn with(
        short_samples: usize,
        samples: usize,
        least: usize,
        options: &[&str],
    ) -> Result<(Self, HashMap<String, String>)> {
        let mut own = HashMap::new();
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
                option if options.contains(&option) => {
                    let value = value()?;
                    own.insert(arg, value);
                }
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        let samples = told.unwrap_or(if short { short_samples } else { samples }).max(least);
        Ok((Self { samples, json, write }, own))
    }
}
