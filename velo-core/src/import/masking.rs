//! Masking, declared in a file: what becomes of every column before anybody can branch the copy.
//!
//! ```toml
//! key_env = "MASKING_KEY"       # the same key gives the same values; without one they differ from run to run
//! large_objects = "remove"      # or "keep"; needed where there are any
//! other_databases = "drop"      # or "keep"; needed where there are any with tables
//!
//! [tables]
//! "public.products" = "keep"    # the whole table
//! "audit.*" = "empty"           # every table of a schema, without its rows
//! "public.far" = "keep"         # a foreign table, of which nothing else can be said
//! "public.totals" = "empty"     # a materialized view that is filled from one
//!
//! [tables."public.users"]
//! id = "keep"
//! email = "fake:email"
//! name = "fake:name"
//! ssn = "hash"
//! phone = "null"
//! note = { constant = "removed" }
//! ```
//!
//! Whatever the file does not name, be it a table or a column, is refused: a column that is new in production
//! is not branched before somebody has said what it is. Equal values stay equal, in whichever table, as far as
//! columns hold them; a foreign key is refused whose two sides would not. No constraint is left that does not hold: those
//! that PostgreSQL does not look at meanwhile are looked at afterwards. A masking writes to nothing that lies
//! elsewhere, and reads nothing from there.

mod catalog;
mod databases;
mod plan;
mod quiet;
mod run;
mod sql;
mod statistics;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::bring::Import;
use super::progress::{Stage, begin};
use crate::error::{Error, ErrorKind, Result};

pub(super) use run::remove_wal;
pub(super) use statistics::{forget, gather};

/// What a masking file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Masking {
    #[serde(default)]
    key_env: Option<String>,
    #[serde(default)]
    large_objects: Option<Objects>,
    #[serde(default)]
    other_databases: Option<Databases>,
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Objects {
    Keep,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Databases {
    Keep,
    Drop,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Table {
    Whole(Whole),
    Columns(BTreeMap<String, Column>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whole {
    Keep,
    Empty,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Column {
    Word(String),
    Constant { constant: toml::Value },
}

/// What becomes of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mask {
    Keep,
    Null,
    Hash,
    Fake(Fake),
    Constant(String),
}

/// What a made-up value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fake {
    Name,
    FirstName,
    LastName,
    Email,
    Phone,
    Street,
    City,
    Company,
    Text,
}

const FAKES: [(&str, Fake); 9] = [
    ("name", Fake::Name),
    ("first_name", Fake::FirstName),
    ("last_name", Fake::LastName),
    ("email", Fake::Email),
    ("phone", Fake::Phone),
    ("street", Fake::Street),
    ("city", Fake::City),
    ("company", Fake::Company),
    ("text", Fake::Text),
];

impl Column {
    fn mask(&self) -> std::result::Result<Mask, String> {
        match self {
            Self::Word(word) => match word.as_str() {
                "keep" => Ok(Mask::Keep),
                "null" => Ok(Mask::Null),
                "hash" => Ok(Mask::Hash),
                word => {
                    let kind = word.strip_prefix("fake:");
                    let fake = FAKES.iter().find(|(name, _)| Some(*name) == kind);
                    fake.map(|(_, fake)| Mask::Fake(*fake)).ok_or_else(|| {
                        let names: Vec<_> = FAKES.iter().map(|(name, _)| *name).collect();
                        format!(
                            "{word:?} is no mask: use keep, null, hash, fake:KIND (of {}) or {{ constant = … }}",
                            names.join(", ")
                        )
                    })
                }
            },
            Self::Constant { constant } => Ok(Mask::Constant(match constant {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            })),
        }
    }
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{}: {what}", path.display()))
        .with_hint("the README says what a masking file holds")
}

/// Reads a masking file, and whether each mask of it is one.
pub(super) fn read(path: &Path) -> Result<Masking> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    let masking: Masking = toml::from_str(&text).map_err(|e| bad(path, e.message()))?;
    for (table, said) in &masking.tables {
        if !table.contains('.') {
            return Err(bad(path, format!("{table:?} names no schema: write \"public.{table}\"")));
        }
        let Table::Columns(columns) = said else { continue };
        for (name, column) in columns {
            column.mask().map_err(|what| bad(path, format!("{table}.{name}: {what}")))?;
        }
    }
    Ok(masking)
}

/// A list for people, and how many more there are.
fn list(items: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match items.len() {
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}

impl Import<'_> {
    /// Masks the copy as its file says.
    pub(super) async fn mask(&mut self) -> Result<()> {
        let Some(file) = self.recipe.masking.clone() else { return Ok(()) };
        let masking = read(&file.path)?;
        let sha256 = self.noted(&file)?;
        begin(self.watch, Stage::Mask, &file.path.display().to_string());
        self.other_databases(&masking, &file.path).await?;
        let session = self.session(&self.project.database).await?;
        run::refuse_prepared(&session, &file.path).await?;
        run::refuse_shards(&session, &file.path).await?;
        let undo = quiet::quiet(&session).await?;
        let plan = masking.plan(&file.path, &catalog::contents(&session).await?)?;
        let objects = self.large_objects(&masking, &file.path, &session).await?;
        let (inner, outer) = pads(masking.key_env.as_deref())?;
        let set = format!(
            "SELECT set_config('velo_masking.inner', '{inner}', false), set_config('velo_masking.outer', '{outer}', false)"
        );
        session.execute_secret("set the key of a masking", &set).await?;
        session.execute("make the functions of a masking", sql::FUNCTIONS).await?;
        let work = self.run_plan(&session, &plan, &file.path, objects);
        self.op.steps.run("mask", self.op.cancel.guard(work)).await??;
        let drop = "DROP SCHEMA velo_masking CASCADE";
        session.execute("remove the functions of a masking", drop).await?;
        quiet::loud(&session, &undo).await?;
        let work = run::remove_wal(&session);
        self.op.steps.run("remove WAL", self.op.cancel.guard(work)).await??;
        if let Some(masking) = &mut self.recipe.masking {
            masking.sha256 = Some(sha256);
        }
        Ok(())
    }
}

/// The key in the two forms in which HMAC takes it, in hexadecimal.
fn pads(variable: Option<&str>) -> Result<(String, String)> {
    let mut key = [0u8; 64];
    match variable {
        Some(name) => {
            let value = std::env::var(name).unwrap_or_default();
            if value.is_empty() {
                let what = format!("the masking file takes its key from {name}, which is not set");
                return Err(Error::new(ErrorKind::InvalidInput, what)
                    .with_hint(format!("set {name} to a secret that you keep")));
            }
            for (to, from) in key.iter_mut().zip(Sha256::digest(value.as_bytes())) {
                *to = from;
            }
        }
        None => getrandom::fill(&mut key).map_err(|e| {
            Error::new(ErrorKind::Io, format!("the system has no random bytes: {e}"))
        })?,
    }
    let pad = |with: u8| key.iter().map(|byte| format!("{:02x}", byte ^ with)).collect::<String>();
    Ok((pad(0x36), pad(0x5c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parsed(text: &str) -> Result<Masking> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn what_is_no_mask_is_refused() {
        for bad in [
            "[tables]\nusers = \"keep\"",
            "[tables.\"a.b\"]\nc = \"fake:x\"",
            "[tables.\"a.b\"]\nc = \"hsah\"",
            "[tables]\n\"a.b\" = \"drop\"",
            "x = 1\n[tables]",
        ] {
            assert_eq!(parsed(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
