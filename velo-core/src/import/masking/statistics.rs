//! What the planner knows of a copy's rows.

use crate::error::Result;
use crate::postgres::session::Session;

/// Removes it: it is values of rows, and of a table that is empty now PostgreSQL forgets none by itself.
pub(in crate::import) async fn forget(session: &Session) -> Result<()> {
    for sql in [
        "DELETE FROM pg_statistic",
        "DELETE FROM pg_statistic_ext_data",
        "VACUUM (FULL) pg_statistic",
        "VACUUM (FULL) pg_statistic_ext_data",
    ] {
        session.execute("remove what was masked", sql).await?;
    }
    Ok(())
}

/// The tables to look at where some have foreign tables as parts, whose rows ANALYZE would get from elsewhere; none
/// where there are no such.
const TABLES: &str = "
WITH RECURSIVE away(oid) AS (
    SELECT i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'f'
  UNION
    SELECT i.inhparent FROM pg_inherits i JOIN away a ON a.oid = i.inhrelid)
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE EXISTS (SELECT FROM away) AND NOT EXISTS (SELECT FROM away a WHERE a.oid = c.oid)
   AND c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'";

/// Gathers it anew, of what is here, but of tables that a prepared transaction has locked.
pub(in crate::import) async fn gather(session: &Session) -> Result<()> {
    let rows = session.rows("list tables", TABLES).await?;
    let tables: Vec<String> = rows.into_iter().flatten().flatten().collect();
    session
        .execute("gather statistics", &format!("ANALYZE (SKIP_LOCKED) {}", tables.join(", ")))
        .await
}
