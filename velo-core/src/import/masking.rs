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
//! is not branched before somebody has said what it is. Equal values stay equal, in whichever table, so that
//! foreign keys hold; where the two sides of one are masked in different ways, that is refused.

mod databases;
mod quiet;
mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::bring::Import;
use super::progress::{Stage, begin};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::session::{Session, ident, literal};

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

/// A column of the copy.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) name: String,
    /// The type's own name, of a domain that of what it is based on.
    pub(super) base: String,
    /// As it is written in a cast.
    pub(super) full: String,
    /// The most letters that it holds.
    pub(super) length: Option<u32>,
    is_generated: bool,
    is_always_identity: bool,
}

/// A table of the copy.
#[derive(Debug, Clone, Default)]
struct Relation {
    schema: String,
    name: String,
    is_partitioned: bool,
    columns: Vec<Found>,
}

impl Relation {
    fn sql(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// What is to be done with the tables of the copy.
#[derive(Debug, Default)]
struct Plan {
    empty: Vec<String>,
    /// The table, and what each column is set to.
    update: Vec<(String, Vec<String>)>,
}

impl Masking {
    fn of<'a>(&'a self, full: &str, schema: &str) -> Option<&'a Table> {
        self.tables.get(full).or_else(|| self.tables.get(&format!("{schema}.*")))
    }

    /// What becomes of each column of a table, by its name.
    fn masks(&self, full: &str, schema: &str) -> BTreeMap<String, Mask> {
        match self.of(full, schema) {
            Some(Table::Columns(columns)) => columns
                .iter()
                .filter_map(|(name, column)| Some((name.clone(), column.mask().ok()?)))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// Holds the file against the tables that there are.
    fn plan(&self, path: &Path, relations: &BTreeMap<String, Relation>) -> Result<Plan> {
        let mut unknown = Vec::new();
        let mut wrong = Vec::new();
        let mut plan = Plan::default();
        for (full, relation) in relations {
            let columns = match self.of(full, &relation.schema) {
                None => {
                    unknown.push(format!("the table {full}"));
                    continue;
                }
                Some(Table::Whole(Whole::Keep)) => continue,
                Some(Table::Whole(Whole::Empty)) => {
                    plan.empty.push(relation.sql());
                    continue;
                }
                Some(Table::Columns(columns)) => columns,
            };
            let known: BTreeSet<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
            let lost = columns.keys().filter(|name| !known.contains(name.as_str()));
            wrong.extend(lost.map(|name| format!("{full} has no column {name}")));
            let mut sets = Vec::new();
            let masks = self.masks(full, &relation.schema);
            for column in &relation.columns {
                match masks.get(&column.name) {
                    // Computed of others.
                    _ if column.is_generated => {}
                    None => unknown.push(format!("the column {full}.{}", column.name)),
                    Some(Mask::Keep) => {}
                    Some(_) if column.is_always_identity => wrong.push(format!(
                        "{full}.{} is GENERATED ALWAYS AS IDENTITY, and cannot be set",
                        column.name
                    )),
                    Some(mask) => match sql::value(mask, column) {
                        Ok(value) => sets.push(format!("{} = {value}", ident(&column.name))),
                        Err(why) => wrong.push(format!("{full}.{}: {why}", column.name)),
                    },
                }
            }
            if !sets.is_empty() {
                let only = if relation.is_partitioned { "" } else { "ONLY " };
                plan.update.push((format!("{only}{}", relation.sql()), sets));
            }
        }
        let gone = self
            .tables
            .keys()
            .filter(|name| !name.ends_with(".*") && !relations.contains_key(name.as_str()));
        wrong.extend(gone.map(|name| format!("there is no table {name}")));
        if !unknown.is_empty() {
            return Err(bad(path, format!("it does not say what becomes of {}", list(&unknown)))
                .with_hint("name each, with keep where nothing is to be masked"));
        }
        if !wrong.is_empty() {
            return Err(bad(path, list(&wrong)).with_hint("correct the masking file"));
        }
        Ok(plan)
    }

    /// The two sides of a foreign key are to be masked in one way.
    fn check_keys(
        &self,
        path: &Path,
        relations: &BTreeMap<String, Relation>,
        keys: &[[String; 5]],
    ) -> Result<()> {
        let mask = |full: &str, column: &str| {
            let schema = relations.get(full).map_or("", |relation| relation.schema.as_str());
            self.masks(full, schema).remove(column).unwrap_or(Mask::Keep)
        };
        let is_empty = |full: &str| {
            let schema = relations.get(full).map_or("", |relation| relation.schema.as_str());
            matches!(self.of(full, schema), Some(Table::Whole(Whole::Empty)))
        };
        let base = |full: &str, column: &str| {
            let columns = relations.get(full).map(|relation| relation.columns.as_slice());
            let mut found = columns.unwrap_or_default().iter().filter(|c| c.name == column);
            found.next().map(|c| c.base.clone())
        };
        for [name, from, column, to, target] in keys {
            let (ours, theirs) = (mask(from, column), mask(to, target));
            let types_differ = ours == Mask::Hash && base(from, column) != base(to, target);
            if is_empty(from)
                || ours == Mask::Null
                || (ours == theirs && !types_differ && !is_empty(to))
            {
                continue;
            }
            let what = format!(
                "the foreign key {name} leads from {from}.{column} to {to}.{target}, which are masked in different ways"
            );
            return Err(
                bad(path, what).with_hint("mask both in the same way, or the first as null")
            );
        }
        Ok(())
    }
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
        let undo = quiet::quiet(&session).await?;
        self.large_objects(&masking, &file.path, &session).await?;
        let relations = relations(&session).await?;
        let plan = masking.plan(&file.path, &relations)?;
        masking.check_keys(&file.path, &relations, &keys(&session).await?)?;
        let (inner, outer) = pads(masking.key_env.as_deref())?;
        let set = format!(
            "SELECT set_config('velo_masking.inner', '{inner}', false), set_config('velo_masking.outer', '{outer}', false)"
        );
        session.execute_secret("set the key of a masking", &set).await?;
        session.execute("make the functions of a masking", sql::FUNCTIONS).await?;
        let work = self.run_plan(&session, &plan);
        self.op.steps.run("mask", self.op.cancel.guard(work)).await??;
        let drop = "DROP SCHEMA velo_masking CASCADE";
        session.execute("remove the functions of a masking", drop).await?;
        quiet::loud(&session, &undo).await?;
        let work = remove_wal(&session);
        self.op.steps.run("remove WAL", self.op.cancel.guard(work)).await??;
        if let Some(masking) = &mut self.recipe.masking {
            masking.sha256 = Some(sha256);
        }
        Ok(())
    }

    async fn run_plan(&self, session: &Session, plan: &Plan) -> Result<()> {
        if !plan.empty.is_empty() {
            let tables = plan.empty.join(", ");
            session.execute("empty tables", &format!("TRUNCATE {tables}")).await?;
        }
        for (table, sets) in &plan.update {
            self.op.cancel.check()?;
            let update = format!("UPDATE {table} SET {}", sets.join(", "));
            session.execute("mask a table", &update).await.map_err(|error| {
                let what = format!("{table} cannot be masked: {error}");
                Error::new(ErrorKind::Postgres, what)
                    .with_hint("correct the masking file; nothing of the copy is kept")
                    .with_source(error)
            })?;
            // What was there before is in dead rows.
            let table = table.trim_start_matches("ONLY ");
            let vacuum = format!("VACUUM (FULL) {table}");
            session.execute("remove what was masked", &vacuum).await?;
        }
        for view in views(session).await? {
            let refresh = format!("REFRESH MATERIALIZED VIEW {view}");
            session.execute("refresh a materialized view", &refresh).await?;
        }
        if plan.update.is_empty() && plan.empty.is_empty() {
            return Ok(());
        }
        // What the planner knows are values of rows; of a table that is empty it forgets none by itself.
        for sql in [
            "DELETE FROM pg_statistic",
            "DELETE FROM pg_statistic_ext_data",
            "VACUUM (FULL) pg_statistic",
            "VACUUM (FULL) pg_statistic_ext_data",
        ] {
            session.execute("remove what was masked", sql).await?;
        }
        session.execute("gather statistics", "ANALYZE").await
    }

    async fn large_objects(&self, masking: &Masking, path: &Path, session: &Session) -> Result<()> {
        let count = "SELECT count(*) FROM pg_largeobject_metadata";
        if session.value("count large objects", count).await? == "0" {
            return Ok(());
        }
        match masking.large_objects {
            Some(Objects::Keep) => Ok(()),
            Some(Objects::Remove) => {
                self.remove_large_objects(session).await?;
                session.execute("remove what was masked", "VACUUM FULL pg_largeobject").await
            }
            None => Err(bad(path, "it does not say what becomes of large objects")
                .with_hint("add large_objects = \"remove\", or \"keep\"")),
        }
    }

    /// Each that is removed takes a lock, of which one transaction cannot have many.
    async fn remove_large_objects(&self, session: &Session) -> Result<()> {
        const WHAT: &str = "remove large objects";
        let mut last = "0".to_owned();
        loop {
            self.op.cancel.check()?;
            let sql = format!(
                "SELECT max(oid), count(lo_unlink(oid)) FROM (SELECT oid FROM pg_largeobject_metadata \
                 WHERE oid > '{last}'::oid ORDER BY oid LIMIT 1000) x"
            );
            let row = crate::effect::step(WHAT, session.row(WHAT, &sql)).await?;
            match row.into_iter().next().flatten() {
                Some(oid) => last = oid,
                None => return Ok(()),
            }
        }
    }
}

/// Removes the WAL up to here, with all rows that were written or masked: while data is brought in nothing keeps it.
async fn remove_wal(session: &Session) -> Result<()> {
    for sql in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
        session.execute("remove old WAL", sql).await?;
    }
    Ok(())
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

/// The tables of a database that are somebody's, by schema and name.
async fn relations(session: &Session) -> Result<BTreeMap<String, Relation>> {
    let rows = session
        .rows(
            "list its columns",
            "WITH RECURSIVE base(oid, root, length) AS ( \
                 SELECT oid, oid, CASE WHEN typtypmod > 4 THEN typtypmod END FROM pg_type WHERE typtype <> 'd' \
               UNION ALL \
                 SELECT t.oid, b.root, coalesce(CASE WHEN t.typtypmod > 4 THEN t.typtypmod END, b.length) \
                   FROM pg_type t JOIN base b ON t.typbasetype = b.oid WHERE t.typtype = 'd') \
             SELECT n.nspname, c.relname, c.relkind, a.attname, r.typname, format_type(a.atttypid, a.atttypmod), \
                    CASE WHEN a.atttypmod > 4 THEN a.atttypmod ELSE b.length END, \
                    a.attgenerated <> '', a.attidentity = 'a' \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               LEFT JOIN base b ON b.oid = a.atttypid LEFT JOIN pg_type r ON r.oid = b.root \
              WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
                AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' \
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                                  AND d.objid = c.oid AND d.deptype = 'e') \
              ORDER BY 1, 2, a.attnum",
        )
        .await?;
    let mut found = BTreeMap::<String, Relation>::new();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let relation = found.entry(format!("{}.{}", text(0), text(1))).or_default();
        relation.schema = text(0);
        relation.name = text(1);
        relation.is_partitioned = text(2) == "p";
        if text(3).is_empty() {
            continue;
        }
        let is_text = ["varchar", "bpchar"].contains(&text(4).as_str());
        let length = text(6).parse::<u32>().ok().filter(|_| is_text);
        relation.columns.push(Found {
            name: text(3),
            base: text(4),
            full: text(5),
            length: length.map(|length| length - 4),
            is_generated: text(7) == "t",
            is_always_identity: text(8) == "t",
        });
    }
    Ok(found)
}

/// The foreign keys of a database, a pair of columns at a time: name, from, column, to, column.
async fn keys(session: &Session) -> Result<Vec<[String; 5]>> {
    let rows = session
        .rows(
            "list its foreign keys",
            "SELECT k.conname, fn.nspname || '.' || f.relname, fa.attname, \
                    tn.nspname || '.' || t.relname, ta.attname \
               FROM pg_constraint k \
               JOIN pg_class f ON f.oid = k.conrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace \
               JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace \
               CROSS JOIN LATERAL unnest(k.conkey, k.confkey) u(a, b) \
               JOIN pg_attribute fa ON fa.attrelid = f.oid AND fa.attnum = u.a \
               JOIN pg_attribute ta ON ta.attrelid = t.oid AND ta.attnum = u.b \
              WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT f.relispartition AND NOT t.relispartition \
              ORDER BY 1, 2, 3",
        )
        .await?;
    let whole = |row: Vec<Option<String>>| {
        let row: Option<Vec<String>> = row.into_iter().collect();
        <[String; 5]>::try_from(row?).ok()
    };
    Ok(rows.into_iter().filter_map(whole).collect())
}

/// The materialized views of a database that hold rows, in the order in which they were made: one that reads
/// another was made after it.
async fn views(session: &Session) -> Result<Vec<String>> {
    let rows = session
        .rows(
            "list its materialized views",
            "SELECT oid::regclass FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY oid",
        )
        .await?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Masking> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn column(name: &str, base: &str) -> Found {
        Found {
            name: name.into(),
            base: base.into(),
            full: base.into(),
            length: None,
            is_generated: false,
            is_always_identity: false,
        }
    }

    fn users() -> BTreeMap<String, Relation> {
        let columns = vec![column("id", "int4"), column("email", "text")];
        let users = Relation {
            schema: "public".into(),
            name: "users".into(),
            columns,
            ..Default::default()
        };
        BTreeMap::from([("public.users".to_owned(), users)])
    }

    #[test]
    fn what_a_file_does_not_name_is_refused() {
        let path = Path::new("m.toml");
        let plan = |text: &str| parsed(text).unwrap().plan(path, &users());
        let told = |text: &str| plan(text).unwrap_err().to_string();
        assert!(told("[tables]").contains("the table public.users"));
        let without = "[tables.\"public.users\"]\nid = \"keep\"";
        assert!(told(without).contains("the column public.users.email"));
        let more = "[tables.\"public.users\"]\nid = \"keep\"\nemail = \"hash\"\nx = \"keep\"";
        assert!(told(more).contains("no column x"));
        let whole = "[tables.\"public.users\"]\nid = \"keep\"\nemail = \"hash\"";
        assert_eq!(plan(whole).unwrap().update.len(), 1);
        assert_eq!(
            plan("[tables]\n\"public.*\" = \"empty\"").unwrap().empty,
            ["\"public\".\"users\""]
        );
        assert!(
            told("[tables]\n\"public.*\" = \"keep\"\n\"public.x\" = \"keep\"")
                .contains("no table public.x")
        );
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

    #[test]
    fn two_sides_of_a_foreign_key_are_masked_alike() {
        let path = Path::new("m.toml");
        let key = ["k", "public.users", "id", "public.users", "id"].map(str::to_owned);
        let masking = parsed("[tables.\"public.users\"]\nid = \"hash\"\nemail = \"null\"").unwrap();
        masking.check_keys(path, &users(), std::slice::from_ref(&key)).unwrap();
        let key = ["k", "public.users", "id", "public.users", "email"].map(str::to_owned);
        let error = masking.check_keys(path, &users(), &[key]).unwrap_err();
        assert!(error.to_string().contains("masked in different ways"), "{error}");
    }
}
