//! Whether text sorts here as it did where its indexes were built.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::image::Libc;
use crate::postgres::session::Session;

/// No collation; that of the database, which [`databases`] looks at; C and POSIX, which never change.
const HARMLESS: [u32; 4] = [0, 100, 950, 951];

/// Refuses a cluster whose databases were built with another version of their collations, or whose
/// indexes and partitions in the session's database were: PostgreSQL itself only warns, and then finds
/// wrong rows.
pub(crate) async fn check(session: &Session) -> Result<()> {
    tokio::try_join!(databases(session), columns(session))?;
    Ok(())
}

/// The databases' own collations. Those of PostgreSQL itself (C, POSIX, builtin) never change and bear
/// no version, or one of the major's.
async fn databases(session: &Session) -> Result<()> {
    if session.major < 15 {
        return Ok(()); // databases record no version: an import looks at what else tells it
    }
    let databases = session
        .copy("look at its collations", "pg_database (datcollversion, datlocprovider)")
        .await?;
    let depends = databases.iter().any(
        |row| matches!(row.as_slice(), [Some(_), provider] if provider.as_deref() != Some("b")),
    );
    if !depends {
        return Ok(());
    }
    let differing = session
        .rows(
            "compare its collations",
            "SELECT datname FROM pg_database WHERE datallowconn AND datcollversion IS NOT NULL \
               AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) \
             ORDER BY datname",
        )
        .await?;
    refuse("databases whose collation is", "ALTER DATABASE … REFRESH COLLATION VERSION", differing)
}

/// Refuses a database that sorts by the C library, of which nobody recorded in which version: PostgreSQL 14
/// records none. `glibc` has one for all of its collations, and of those that `initdb` has found it is recorded: data
/// whose system was never another one since then has that of here in all of them. musl has none, and sorts by code
/// point always.
pub(crate) async fn unrecorded(session: &Session) -> Result<()> {
    let unknown = session
        .rows(
            "look for collations without a version",
            "SELECT datname FROM pg_database d WHERE datname = current_database() \
               AND coalesce(to_jsonb(d)->>'datlocprovider', 'c') = 'c' \
               AND to_jsonb(d)->>'datcollversion' IS NULL \
               AND datcollate NOT IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8') \
               AND NOT coalesce( \
                 (SELECT bool_and(collversion IS NOT DISTINCT FROM pg_collation_actual_version(oid)) \
                    FROM pg_collation WHERE collprovider = 'c' AND collversion IS NOT NULL), \
                 version() LIKE '%-musl%')",
        )
        .await?;
    let what = "databases whose collation has no version on record, and so may be";
    refuse(what, "ALTER COLLATION … REFRESH VERSION", unknown)
}

/// Collations that columns of the session's database have of their own.
pub(crate) async fn columns(session: &Session) -> Result<()> {
    let what = "look at the collations of its indexes";
    // At the same time, for every branch waits for this.
    let (indexes, partitions) = tokio::try_join!(
        session.copy(what, "pg_index (indcollation)"),
        session.copy(what, "pg_partitioned_table (partcollation)"),
    )?;
    let lists = indexes.iter().chain(&partitions).flatten().flatten();
    let used: BTreeSet<u32> = lists
        .flat_map(|list| list.split_ascii_whitespace())
        .filter_map(|oid| oid.parse().ok())
        .collect();
    let used: Vec<_> =
        used.iter().filter(|oid| !HARMLESS.contains(oid)).map(u32::to_string).collect();
    if used.is_empty() {
        return Ok(());
    }
    let differing = session
        .rows(
            "compare the collations of its indexes",
            &format!(
                "SELECT collname FROM pg_collation WHERE oid IN ({}) AND collversion IS NOT NULL \
                   AND collversion IS DISTINCT FROM pg_collation_actual_version(oid) \
                 ORDER BY collname",
                used.join(", ")
            ),
        )
        .await?;
    refuse("indexes by collations that are", "ALTER COLLATION … REFRESH VERSION", differing)
}

/// Refuses a cluster that sorts by the C library, which was `sorted` and is `here` now: musl gives its
/// collations no version, so that [`check`] cannot tell.
pub(crate) async fn check_libc(session: &Session, sorted: Libc, here: Libc) -> Result<()> {
    // These sort by code point in both.
    let stable = "('C', 'POSIX', 'C.UTF-8', 'C.utf8')";
    let depends = session
        .rows(
            "look for collations of the C library",
            &format!(
                "SELECT 'database ' || datname FROM pg_database \
                   WHERE datallowconn AND NOT to_jsonb(pg_database) @> '{{\"datlocprovider\": \"i\"}}' \
                     AND NOT to_jsonb(pg_database) @> '{{\"datlocprovider\": \"b\"}}' \
                     AND NOT (datcollate IN {stable} AND datctype IN {stable}) \
                 UNION ALL SELECT DISTINCT 'collation ' || collname FROM pg_collation c \
                   WHERE collprovider = 'c' AND c.oid NOT IN (100, 950, 951) \
                     AND collcollate NOT IN {stable} AND c.oid IN ( \
                       SELECT unnest(indcollation::oid[]) FROM pg_index UNION \
                       SELECT unnest(partcollation::oid[]) FROM pg_partitioned_table) \
                 ORDER BY 1"
            ),
        )
        .await?;
    let names: Vec<String> = depends.into_iter().flatten().flatten().collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "the data was sorted by {sorted}, and the image has {here}, which sorts text in another \
             order: {}",
            names.join(", ")
        ),
    )
    .with_hint(format!("use an image with {sorted}, or dump the data and restore it into a project of this image")))
}

/// An error if there are any in `names`.
fn refuse(what: &str, refresh: &str, names: Vec<Vec<Option<String>>>) -> Result<()> {
    let names: Vec<String> = names.into_iter().flatten().flatten().collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "the data has {what} of another version here, so that text may be sorted wrong: {}",
            names.join(", ")
        ),
    )
    .with_hint(format!(
        "run it on the system it comes from, or there REINDEX and {refresh} after starting it with \
         PostgreSQL's own tools",
    )))
}
