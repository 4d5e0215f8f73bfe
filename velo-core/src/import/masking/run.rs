//! What is done to the copy, so that nothing is left of what was there.

use std::path::Path;

use super::plan::Plan;
use super::{Masking, Objects, bad, statistics};
use crate::error::{Error, ErrorKind, Result};
use crate::import::bring::Import;
use crate::postgres::session::Session;

impl Import<'_> {
    pub(super) async fn run_plan(&self, session: &Session, plan: &Plan) -> Result<()> {
        if !plan.truncate.is_empty() {
            let truncate = format!("TRUNCATE {}", plan.truncate.join(", "));
            session.execute("empty tables", &truncate).await?;
        }
        for rewrite in &plan.rewrite {
            self.op.cancel.check()?;
            let done = session.execute("mask a table", &rewrite.statement).await;
            done.map_err(|error| cannot(&format!("{} cannot be masked", rewrite.target), error))?;
            // What was there before is in dead rows. Before 18 no children are taken along, and there is no such word.
            let table = match session.major >= 18 {
                true => rewrite.target.as_str(),
                false => rewrite.target.trim_start_matches("ONLY "),
            };
            session.execute("remove what was masked", &format!("VACUUM (FULL) {table}")).await?;
        }
        for view in &plan.unfill {
            let refresh = format!("REFRESH MATERIALIZED VIEW {view} WITH NO DATA");
            session.execute("empty a materialized view", &refresh).await?;
        }
        for view in &plan.refresh {
            self.op.cancel.check()?;
            let refresh = format!("REFRESH MATERIALIZED VIEW {view}");
            let done = session.execute("refresh a materialized view", &refresh).await;
            done.map_err(|error| cannot(&format!("{view} cannot be filled anew"), error))?;
        }
        if plan.truncate.is_empty() && plan.rewrite.is_empty() && plan.unfill.is_empty() {
            return Ok(());
        }
        statistics::forget(session).await?;
        statistics::gather(session).await
    }

    pub(super) async fn large_objects(
        &self,
        masking: &Masking,
        path: &Path,
        session: &Session,
    ) -> Result<()> {
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

/// What a file cannot have done to a copy.
fn cannot(what: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::Postgres {
        return error;
    }
    Error::new(ErrorKind::Postgres, format!("{what}: {error}"))
        .with_hint("correct the masking file; nothing of the copy is kept")
        .with_source(error)
}

/// An error where a transaction is prepared: it holds tables, and keeps old rows from being removed.
pub(super) async fn refuse_prepared(session: &Session, path: &Path) -> Result<()> {
    let count = "SELECT count(*) FROM pg_prepared_xacts";
    match session.value("look for prepared transactions", count).await?.as_str() {
        "0" => Ok(()),
        _ => Err(bad(path, "nothing can be masked while there are prepared transactions")
            .with_hint("end them in a transform: pg_prepared_xacts lists them")),
    }
}

/// Removes the WAL up to here, with all rows that were written or masked: while data is brought in nothing keeps it.
pub(super) async fn remove_wal(session: &Session) -> Result<()> {
    for sql in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
        session.execute("remove old WAL", sql).await?;
    }
    Ok(())
}
