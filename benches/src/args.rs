//! The command line of a benchmark: what all have, and what one has beside it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Result, figures};

/// What the command line says.
pub struct Args {
    /// Whether it is to be over soon.
    pub short: bool,
    /// Where the data goes, if anywhere.
    pub json: Option<PathBuf>,
    /// Whether the results are renewed.
    pub write: bool,
    samples: Option<usize>,
    options: HashMap<String, String>,
    flags: HashSet<String>,
}

impl Args {
    /// Reads this process's, with options of the benchmark's own, each of which has a value, and flags, which have none.
    ///
    /// # Errors
    /// For an argument that is none.
    pub fn parse(options: &[&str], flags: &[&str]) -> Result<Self> {
        let mut parsed = Self {
            short: false,
            json: None,
            write: false,
            samples: None,
            options: HashMap::new(),
            flags: HashSet::new(),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--bench" => {} // cargo's
                "--short" => parsed.short = true,
                "--write" => parsed.write = true,
                "--samples" => parsed.samples = Some(value()?.parse()?),
                "--json" => parsed.json = Some(value()?.into()),
                option if options.contains(&option) => {
                    let value = value()?;
                    parsed.options.insert(arg, value);
                }
                flag if flags.contains(&flag) => drop(parsed.flags.insert(arg)),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(parsed)
    }

    /// How many samples are taken: as it says, else so many, or fewer where it is to be short; never less than `least`.
    #[must_use]
    pub fn samples(&self, short: usize, samples: usize, least: usize) -> usize {
        self.samples.unwrap_or(if self.short { short } else { samples }).max(least)
    }

    /// What an option says, if it is given.
    ///
    /// # Errors
    /// If that is no value of its kind.
    pub fn option<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error,
    {
        let parsed = self.options.get(name).map(|text| text.parse::<T>());
        parsed.transpose().map_err(|error| format!("{name}: {error}").into())
    }

    /// Whether a flag is given.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// The size that an option names (`100GB`), else this.
    ///
    /// # Errors
    /// If it is none.
    pub fn size(&self, name: &str, unless: &str) -> Result<u64> {
        figures::size(self.options.get(name).map_or(unless, String::as_str))
    }

    /// The sizes that an option lists (`40MB,1GB`), smallest first, else these.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn sizes(&self, name: &str, unless: &str) -> Result<Vec<u64>> {
        let text = self.options.get(name).map_or(unless, String::as_str);
        let mut sizes = text.split(',').map(figures::size).collect::<Result<Vec<u64>>>()?;
        sizes.sort_unstable();
        Ok(sizes)
    }
}
