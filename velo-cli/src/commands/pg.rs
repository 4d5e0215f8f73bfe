//! `velo pg`.

use serde_json::{Value, json};
use velo_core::blocking::install::{self, Wanted};
use velo_core::postgres::{Installation, Version};
use velo_core::runtime::RuntimeKind;
use velo_core::{Config, Error, ErrorKind, Result};

use crate::args::Pg;
use crate::output::{self, Out};
use crate::progress::Spinner;

pub(crate) fn run(command: Pg, out: &Out) -> Result<()> {
    match command {
        Pg::List => list(out),
        Pg::Install { version } => fetch(version.as_deref(), out),
        Pg::Remove { version } => remove(&version, out),
    }
}

/// The shape `postgres` of docs/json.md.
pub(crate) fn shape(found: &Installation) -> Value {
    json!({
        "version": found.version.to_string(),
        "major": found.version.major,
        "bin_dir": output::path(&found.bin_dir),
        "source": found.source,
        "image": found.image,
    })
}

/// Fetches a PostgreSQL where there is none: once, into Velo's cache, or an image into the engine.
pub(crate) fn ensure(config: &Config, out: &Out) -> Result<()> {
    let major = config.pg_version().map_or_else(String::new, |major| format!(" {major}"));
    let missing = match config.chosen_runtime() {
        RuntimeKind::Docker => format!("the image {} is not on the engine", config.image()),
        _ => format!("no PostgreSQL{major} found: fetching one into Velo's cache"),
    };
    let spinner = Spinner::new(out, missing);
    install::find_or_install(config, spinner.lines())?;
    Ok(())
}

fn list(out: &Out) -> Result<()> {
    let config = Config::load()?;
    let found = velo_core::doctor::installations(&config)?;
    out.result(
        || found.iter().map(shape).collect(),
        |out| {
            if found.is_empty() {
                return out.line("no PostgreSQL found");
            }
            let rows: Vec<_> = found
                .iter()
                .map(|i| {
                    vec![
                        i.version.to_string(),
                        i.source.to_string(),
                        i.bin_dir.display().to_string(),
                    ]
                })
                .collect();
            out.table(&["VERSION", "FOUND BY", "PROGRAMS"], &rows);
        },
    );
    Ok(())
}

fn fetch(version: Option<&str>, out: &Out) -> Result<()> {
    let config = Config::load()?;
    let wanted = match version {
        Some(version) => version.parse()?,
        None => Wanted { major: config.pg_version(), minor: None },
    };
    let fetched = {
        let spinner = Spinner::new(out, format!("fetching {wanted}"));
        install::install(&config, wanted, spinner.lines())?
    };
    out.result(
        || shape(&fetched),
        |out| out.line(format!("PostgreSQL {} in {}", fetched.version, fetched.bin_dir.display())),
    );
    Ok(())
}

fn remove(version: &str, out: &Out) -> Result<()> {
    let config = Config::load()?;
    let Wanted { major: Some(major), minor: Some(minor) } = version.parse()? else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("which PostgreSQL {version} is to be removed?"),
        )
        .with_hint("name the version, like 18.6: velo pg list"));
    };
    let version = Version { major, minor };
    install::remove(&config, version)?;
    out.result(
        || json!({ "version": version.to_string(), "removed": true }),
        |out| out.line(format!("PostgreSQL {version} removed")),
    );
    Ok(())
}
