//! Seeds of SQL files: migrations, schemas, fixtures.

use std::cmp::Ordering;
use std::path::Path;

use tokio_postgres::NoTls;
use tokio_postgres::error::ErrorPosition;

use super::files::matching;
use super::{Claim, Seed, SeedKey, claim, failed};
use crate::branch::Branch;
use crate::engine::{self, Call, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::project::Project;

/// What is hashed in the place of the code that runs the files: any program makes the same of them.
const CODE: &str = "velo: SQL files in order, 2";

impl Project {
    /// The seed that SQL files make of a branch of `main`, which is empty unless somebody has worked in it:
    /// those that match `pattern` ([`SeedKey::files`]), a folder of migrations for example. They are run in the order of their names, in which numbers
    /// count as such (`2_b.sql` before `10_a.sql`); what undoes a migration (`down.sql`, `….down.sql`)
    /// is left out. The key counts what is run, and nothing else that lies beside it.
    ///
    /// Each file is sent as a whole, so that it is one transaction unless it says otherwise, and what it sets for
    /// its session (`SET`, temporary tables, …) ends with it. What only `psql` understands (`\connect`,
    /// `COPY … FROM stdin`) is an error.
    ///
    /// ```no_run
    /// # async fn example(project: velo_core::Project) -> velo_core::Result<()> {
    /// let seed = project.seed_sql("migrations/").await?;
    /// let branch = seed.pool()?.acquire().await?;
    /// # let _ = branch;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Project::seed`]; [`ErrorKind::Seed`] tells which file PostgreSQL refuses, and why.
    pub async fn seed_sql(&self, pattern: impl AsRef<str>) -> Result<Seed> {
        self.seed_sql_call(pattern.as_ref().to_owned()).await
    }

    /// [`seed_sql`](Self::seed_sql) of a key that counts `texts` too, and is called `label`.
    #[doc(hidden)]
    pub async fn seed_sql_as(
        &self,
        pattern: String,
        texts: Vec<String>,
        label: Option<String>,
    ) -> Result<Seed> {
        self.seed_sql_as_call(pattern, texts, label).await
    }

    pub(crate) fn seed_sql_call(&self, pattern: String) -> Call<Seed> {
        self.seed_sql_as_call(pattern, Vec::new(), None)
    }

    fn seed_sql_as_call(
        &self,
        pattern: String,
        texts: Vec<String>,
        label: Option<String>,
    ) -> Call<Seed> {
        let project = self.0.clone();
        engine::call(move |op| async move {
            let label = label.unwrap_or_else(|| label_of(&pattern).to_owned());
            let named = pattern.clone();
            let key = engine::blocking(move || key_of(&named)).await?;
            let key = texts.iter().fold(key.code(CODE).label(label), SeedKey::text);
            let home = Engine::get()?.home(&project.config).await?;
            let building = match claim(&home, &project, key, &op).await? {
                Claim::There(seed) => return Ok(seed),
                Claim::Build(building) => building,
            };
            let run = async { op.cancel.guard(run_files(&pattern, &building.branch)).await? };
            match run.await {
                Ok(()) => building.finish_call().await,
                Err(error) => {
                    let hint = error.hint().map(str::to_owned);
                    let error = failed(error, building.give_up_call().await);
                    Err(match hint {
                        Some(hint) => error.with_hint(hint),
                        None => error,
                    })
                }
            }
        })
    }
}

/// The key of what is run, and of nothing else that matches: an editor's swap file makes no other seed.
fn key_of(pattern: &str) -> Result<SeedKey> {
    let key = SeedKey::new().files_that(pattern, is_run);
    match &key {
        Err(error) if error.kind() == ErrorKind::NotFound && !matching(pattern)?.is_empty() => {
            Err(Error::new(ErrorKind::NotFound, format!("no SQL file is in {pattern}"))
                .with_hint("a seed of SQL files takes those that end in .sql"))
        }
        _ => key,
    }
}

/// The last part of a pattern that names something.
fn label_of(pattern: &str) -> &str {
    let named = |part: &&str| !part.is_empty() && !part.contains(['*', '?', '[']) && *part != ".";
    pattern.rsplit('/').find(named).unwrap_or("sql")
}

async fn run_files(pattern: &str, branch: &Branch) -> Result<()> {
    let named = pattern.to_owned();
    let found = engine::blocking(move || matching(&named)).await?;
    let files = in_order(found.into_iter().map(|(_, path)| path));
    let cannot = |e: tokio_postgres::Error| {
        let what = format!("the branch that a seed is built in takes no connection: {e}");
        Error::new(ErrorKind::Postgres, what).with_source(e)
    };
    let (client, connection) =
        tokio_postgres::connect(&branch.socket_url(), NoTls).await.map_err(cannot)?;
    let run = async {
        for file in &files {
            run_file(file, &client).await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        done = run => done,
        // An end that no file was told of.
        ended = connection => Err(match ended {
            Err(e) => cannot(e),
            Ok(()) => Error::new(ErrorKind::Postgres, "the server ended while a seed was built"),
        }),
    }
}

/// Sends a file as a whole.
pub(crate) async fn run_file(file: &Path, client: &tokio_postgres::Client) -> Result<()> {
    let sql = std::fs::read_to_string(file)
        .map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    // A mark of its byte order, as some editors write it, is no SQL.
    let sql = sql.strip_prefix('\u{feff}').unwrap_or(&sql);
    client.batch_execute(sql).await.map_err(|e| refused(file, sql, e))?;
    if in_transaction(client).await.map_err(|e| refused(file, "", e))? {
        return Err(Error::new(
            ErrorKind::Seed,
            format!("{} begins a transaction and does not end it", file.display()),
        )
        .with_hint("end it with COMMIT, or take its BEGIN out: each file is one transaction"));
    }
    // As `psql -f` for each of them: pg_dump's empty search_path is not for the next one.
    client.batch_execute("DISCARD ALL").await.map_err(|e| refused(file, "", e))?;
    Ok(())
}

/// Whether a transaction goes on that began earlier.
async fn in_transaction(client: &tokio_postgres::Client) -> Result<bool, tokio_postgres::Error> {
    // In one message, which is a transaction of its own unless there is one.
    let began = "SELECT transaction_timestamp() < statement_timestamp()";
    let said = client.simple_query(began).await?;
    Ok(said.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    }))
}

/// What PostgreSQL has against a file, and in which line.
fn refused(file: &Path, sql: &str, e: tokio_postgres::Error) -> Error {
    let told = e.as_db_error();
    let position = told.and_then(|told| match told.position() {
        Some(ErrorPosition::Original(position)) => usize::try_from(*position).ok(),
        _ => None,
    });
    // It counts characters, from 1.
    let line = position.map(|position| {
        let before = sql.chars().take(position.saturating_sub(1));
        before.filter(|c| *c == '\n').count() + 1
    });
    let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let why = told.map_or_else(|| e.to_string(), |told| told.message().to_owned());
    let error = Error::new(ErrorKind::Postgres, format!("{}{place}: {why}", file.display()));
    let error = error.with_source(e);
    match is_for_psql(sql) {
        true => error.with_hint(
            "it has lines that only psql understands (a command with \\, or COPY ... FROM stdin): dump with \
             --inserts and take the lines with \\ out, or have a program do it (of a seed `build`)",
        ),
        false => error,
    }
}

/// Whether something in it looks like what psql does itself, as in what `pg_dump` writes.
fn is_for_psql(sql: &str) -> bool {
    let copies = |line: &str| line.trim_end().to_ascii_lowercase().ends_with("from stdin;");
    sql.lines().any(|line| line.starts_with('\\') || copies(line))
}

/// Whether a file is run: what undoes a migration is not, nor what is no SQL.
fn is_run(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase());
    name.is_some_and(|n| n.ends_with(".sql") && n != "down.sql" && !n.ends_with(".down.sql"))
}

fn in_order<P: AsRef<Path>>(files: impl Iterator<Item = P>) -> Vec<P> {
    let mut files: Vec<P> = files.filter(|file| is_run(file.as_ref())).collect();
    files.sort_by(|a, b| natural(&a.as_ref().to_string_lossy(), &b.as_ref().to_string_lossy()));
    files
}

/// Compares names as people do: a run of digits is a number.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (pieces(a), pieces(b));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (one, other) => one.cmp(&other),
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The text in pieces that are compared one by one: digits, without leading zeros, by their length first.
fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (piece, after) = rest.split_at(if digits > 0 { digits } else { first.len_utf8() });
        rest = after;
        let number = piece.trim_start_matches('0');
        Some(if digits > 0 { (number.len(), number) } else { (usize::MAX, piece) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_run_in_the_order_that_people_gave_them() {
        let names = [
            "m/10_c.sql",
            "m/2_b.sql",
            "m/0001_a.sql",
            "m/2_b.down.sql",
            "m/20240101120000_z.up.sql",
            "m/20240101120000_z.down.sql",
            "m/README.md",
            "m/V30__d.SQL",
            "m/V4__d.sql",
        ];
        assert_eq!(
            in_order(names.into_iter()),
            [
                "m/0001_a.sql",
                "m/2_b.sql",
                "m/10_c.sql",
                "m/20240101120000_z.up.sql",
                "m/V4__d.sql",
                "m/V30__d.SQL",
            ]
        );
        assert_eq!(in_order(["m/1/down.sql", "m/1/up.sql"].into_iter()), ["m/1/up.sql"]);
        assert_eq!(natural("a01", "a1"), "a01".cmp("a1"), "never the same unless they are");
    }

    #[test]
    fn a_seed_is_called_after_its_files() {
        for (pattern, label) in [
            ("migrations/", "migrations"),
            ("db/schema.sql", "schema.sql"),
            ("db/migrations/**/*.sql", "migrations"),
            ("*.sql", "sql"),
        ] {
            assert_eq!(label_of(pattern), label);
        }
    }
}
