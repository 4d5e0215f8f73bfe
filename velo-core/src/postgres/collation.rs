//! Whether text sorts here as it did where its indexes were built.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::session::Session;

/// Refuses a cluster whose databases were built with another version of their collations. Those of
/// PostgreSQL itself (C, POSIX, builtin) never change and bear no version, or one of the major's.
pub(crate) async fn check(session: &Session) -> Result<()> {
    if session.major < 15 {
        return Ok(()); // databases record no version
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
    let names: Vec<String> = differing.into_iter().flatten().flatten().collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "the collations of {} are of another version here: indexes on text may be wrong",
            names.join(", ")
        ),
    )
    .with_hint(
        "run it on the system it comes from, or there REINDEX and ALTER DATABASE … REFRESH COLLATION \
         VERSION after starting it with PostgreSQL's own tools",
    ))
}
