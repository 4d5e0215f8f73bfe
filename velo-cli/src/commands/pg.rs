//! `velo pg`.

use serde_json::{Value, json};
use velo_core::postgres::Installation;
use velo_core::{Config, Result};

use crate::args::Pg;
use crate::output::Out;

pub(crate) fn run(command: Pg, out: &Out) -> Result<()> {
    match command {
        Pg::List => list(out),
    }
}

/// The shape `postgres` of docs/json.md.
pub(crate) fn shape(found: &Installation) -> Value {
    json!({
        "version": found.version.to_string(),
        "major": found.version.major,
        "bin_dir": found.bin_dir,
        "source": found.source,
    })
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
