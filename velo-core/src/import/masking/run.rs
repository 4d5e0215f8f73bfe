//! What is done to the copy, so that nothing is left of what was there.

use std::path::Path;

use super::plan::Plan;
use super::{Masking, Objects, bad, statistics};
use crate::error::{Error, ErrorKind, Result};
use crate::import::bring::Import;
use crate::postgres::session::{Session, literal};

impl Import<'_> {
    /// Does what is planned, once large objects are gone or kept.
    pub(super) async fn run_plan(
        &self,
        session: &Session,
        plan: &Plan,
        path: &Path,
        objects_are_gone: bool,
    ) -> Result<()> {
        if !plan.truncate.is_empty() {
            let truncate = format!("TRUNCATE {}", plan.truncate.join(", "));
            session.execute("empty tables", &truncate).await?;
        }
        loosen(session, &plan.loosen, false).await?;
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
        loosen(session, &plan.loosen, true).await?;
        self.check_constraints(session, plan, path).await?;
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
        let tables_are_kept =
            plan.truncate.is_empty() && plan.rewrite.is_empty() && plan.unfill.is_empty();
        if tables_are_kept && !objects_are_gone && self.recipe.transforms.is_empty() {
            return Ok(());
        }
        statistics::forget(session).await?;
        statistics::gather(session).await
    }

    /// Looks at the constraints that PostgreSQL itself did not: with triggers off it checks neither foreign keys nor what
    /// it would check later, and indexes that are built as part of a table are not asked whether values are unique.
    async fn check_constraints(&self, session: &Session, plan: &Plan, path: &Path) -> Result<()> {
        for index in &plan.deferred {
            self.op.cancel.check()?;
            let reindex = format!("REINDEX INDEX {index}");
            let done = session.execute("check a constraint", &reindex).await;
            let what = format!("the constraint of the index {index} does not hold any more");
            done.map_err(|error| cannot(&what, error))?;
        }
        for key in &plan.keys {
            self.op.cancel.check()?;
            if session.value("check a foreign key", &key.is_broken).await? == "t" {
                let what = format!(
                    "the foreign key {} does not hold any more: masked rows of {} lead to none of {}",
                    key.name, key.from, key.to
                );
                return Err(bad(path, what).with_hint(
                    "mask what both sides are computed of in the same way, or drop the key in a transform; \
                     where it does not hold in the source itself, mend that in a transform",
                ));
            }
        }
        Ok(())
    }

    /// Does with them what the file says. Whether none is left, and nothing is to tell of those that were there.
    pub(super) async fn large_objects(
        &self,
        masking: &Masking,
        path: &Path,
        session: &Session,
    ) -> Result<bool> {
        let count = "SELECT count(*) FROM pg_largeobject_metadata";
        let are_there = session.value("count large objects", count).await? != "0";
        match masking.large_objects {
            Some(Objects::Keep) => return Ok(false),
            None if are_there => {
                return Err(bad(path, "it does not say what becomes of large objects")
                    .with_hint("add large_objects = \"remove\", or \"keep\""));
            }
            None | Some(Objects::Remove) => {}
        }
        if are_there {
            self.remove_large_objects(session).await?;
        }
        // Those that the source has removed may be there as dead rows.
        session.execute("remove what was masked", "VACUUM FULL pg_largeobject").await?;
        Ok(true)
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

/// Says of unique indexes whether rows are held against each other one by one, as those of deferrable constraints are not.
/// No statement does that for an index of no constraint.
async fn loosen(session: &Session, indexes: &[String], immediate: bool) -> Result<()> {
    if indexes.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        indexes.iter().map(|index| format!("{}::regclass", literal(index))).collect();
    let update = format!(
        "UPDATE pg_index SET indimmediate = {immediate} WHERE indexrelid IN ({})",
        names.join(", ")
    );
    session.execute("let unique numbers change places", &update).await
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
            .with_hint(
                "end them in a transform, each alone in a file of its own, or in a program; pg_prepared_xacts has them",
            )),
    }
}

/// An error where tables are Citus': their rows are on its workers, which would be asked to change and to show them. They
/// may be production's.
pub(super) async fn refuse_shards(session: &Session, path: &Path) -> Result<()> {
    let exists = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
    let some = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition)";
    if session.value("look for tables of Citus", exists).await? == "f"
        || session.value("look for tables of Citus", some).await? == "f"
    {
        return Ok(());
    }
    Err(bad(path, "rows of Citus' tables are on its workers, and cannot be masked here")
        .with_hint("make them local in a copy of the source (undistribute_table), and bring that"))
}

/// Removes the WAL up to here, with all rows that were written or masked: while data is brought in nothing keeps it.
pub(in crate::import) async fn remove_wal(session: &Session) -> Result<()> {
    for sql in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
        session.execute("remove old WAL", sql).await?;
    }
    Ok(())
}
