//! What would run, or reach elsewhere, while a copy is masked: it is turned off, and then is as it was.
//!
//! `session_replication_role` turns off the triggers, rules and event triggers that fire in the ordinary way, and
//! the checks of foreign keys. One that fires always, or in replicas, would still see each row as it was. And
//! without its handler nothing of a foreign-data wrapper's is read or written, by whatever way somebody comes to it.
//! A table that is published can be changed only where it has a replica identity.

use crate::error::Result;
use crate::postgres::session::Session;

const WHAT: &str = "turn off what would run meanwhile";

/// Pairs of statements: the first turns something off, the second makes it as it was. Event triggers come first, for
/// they fire on the other statements, and not on their own.
const PAIRS: &str = "
SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname),
       format('ALTER EVENT TRIGGER %I ENABLE %s', evtname,
              CASE evtenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END), 1
  FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')
UNION ALL
SELECT format('ALTER TABLE ONLY %I.%I DISABLE TRIGGER %I', n.nspname, c.relname, t.tgname),
       format('ALTER TABLE ONLY %I.%I ENABLE %s TRIGGER %I', n.nspname, c.relname,
              CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, t.tgname), 2
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgenabled IN ('A', 'R') AND c.relkind IN ('r', 'p')
UNION ALL
SELECT format('ALTER TABLE ONLY %I.%I DISABLE RULE %I', n.nspname, c.relname, r.rulename),
       format('ALTER TABLE ONLY %I.%I ENABLE %s RULE %I', n.nspname, c.relname,
              CASE r.ev_enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, r.rulename), 3
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.ev_enabled IN ('A', 'R') AND r.ev_type <> '1' AND c.relkind IN ('r', 'p')
UNION ALL
SELECT format('ALTER FOREIGN DATA WRAPPER %I NO HANDLER', w.fdwname),
       format('ALTER FOREIGN DATA WRAPPER %I HANDLER %I.%I', w.fdwname, n.nspname, p.proname), 4
  FROM pg_foreign_data_wrapper w JOIN pg_proc p ON p.oid = w.fdwhandler JOIN pg_namespace n ON n.oid = p.pronamespace
UNION ALL
SELECT format('ALTER PUBLICATION %I SET (publish = '''')', pubname),
       format('ALTER PUBLICATION %I SET (publish = %L)', pubname, concat_ws(', ',
              CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
              CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END)), 5
  FROM pg_publication
 ORDER BY 3";

/// Turns all of it off. What is given makes it as it was, in this order.
pub(super) async fn quiet(session: &Session) -> Result<Vec<String>> {
    session.execute(WHAT, "SET session_replication_role = replica").await?;
    let mut undo = Vec::new();
    for row in session.rows(WHAT, PAIRS).await? {
        let mut row = row.into_iter().flatten();
        let (Some(off), Some(on)) = (row.next(), row.next()) else { continue };
        session.execute(WHAT, &off).await?;
        undo.push(on);
    }
    undo.reverse();
    Ok(undo)
}

/// Makes it as it was.
pub(super) async fn loud(session: &Session, undo: &[String]) -> Result<()> {
    for sql in undo {
        session.execute("turn on what ran before", sql).await?;
    }
    Ok(())
}
