//! Old rows in a physical copy that no table of it has: in files that are no relation's, in statistics, and in WAL.
//!
//! A statement that fills a new file, as `VACUUM FULL` or `CREATE TABLE … AS` does, and never commits because its
//! server goes down or the copy ends before it, leaves that file behind, and PostgreSQL never removes it.

use super::bring::Import;
use super::masking::{forget, gather, remove_wal};
use crate::error::Result;
use crate::postgres::session::{Session, literal};
use crate::storage::FileOp;

/// The folders of databases that are none any more.
const FOLDERS: &str = "
SELECT 'base/' || f FROM pg_ls_dir('base') f
 WHERE f ~ '^[0-9]+$' AND f NOT IN (SELECT oid::text FROM pg_database)";

/// The files of this database that are no relation's. The folders of in-place tablespaces are in the data.
const FILES: &str = "
WITH folders(path) AS (
    SELECT 'base/' || oid FROM pg_database WHERE datname = current_database()
  UNION ALL
    SELECT 'pg_tblspc/' || t.oid || '/' || v || '/' || d.oid
      FROM pg_tablespace t, pg_ls_dir('pg_tblspc/' || t.oid, true, false) v, pg_database d
     WHERE t.oid NOT IN (1663, 1664) AND v ~ '^PG_' AND d.datname = current_database()),
files(path, relation) AS (
    SELECT path || '/' || f, path || '/' || substring(f from '^[0-9]+')
      FROM folders, pg_ls_dir(path, true, false) f WHERE f ~ '^[0-9]+([._].*)?$')
SELECT path FROM files
 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE pg_relation_filepath(c.oid) = files.relation)";

impl Import<'_> {
    /// What is to be removed once the server has stopped. Nothing where rows are neither masked nor transformed: then
    /// nobody wants them gone.
    pub(super) async fn old_files(&self) -> Result<Vec<FileOp>> {
        if self.recipe.masking.is_none() && self.recipe.transforms.is_empty() {
            return Ok(Vec::new());
        }
        let session = self.session(&self.project.database).await?;
        let mut found = paths(&session, FOLDERS).await?;
        for database in self.databases().await? {
            // Files of what is prepared, and not committed yet, are no relation's that anybody sees.
            let prepared = format!(
                "SELECT count(*) FROM pg_prepared_xacts WHERE database = {}",
                literal(&database)
            );
            let session = self.session(&database).await?;
            if session.value("look for prepared transactions", &prepared).await? == "0" {
                found.extend(paths(&session, FILES).await?);
            }
        }
        if !found.is_empty() {
            tracing::info!(count = found.len(), "files of the source that are no relation's go");
        }
        Ok(found.into_iter().map(|path| FileOp::Remove { path }).collect())
    }

    /// Removes what is known of rows as they were before transforms, where no masking does so anyway.
    pub(super) async fn forget_rows(&self) -> Result<()> {
        if self.recipe.masking.is_some() || self.recipe.transforms.is_empty() {
            return Ok(());
        }
        for database in self.databases().await? {
            self.op.cancel.check()?;
            let session = self.session(&database).await?;
            let work = async {
                forget(&session).await?;
                gather(&session).await
            };
            self.op.steps.run("analyze", self.op.cancel.guard(work)).await??;
        }
        let session = self.session(&self.project.database).await?;
        let work = remove_wal(&session);
        self.op.steps.run("remove WAL", self.op.cancel.guard(work)).await?
    }
}

async fn paths(session: &Session, sql: &str) -> Result<Vec<String>> {
    let rows = session.rows("look for files of nobody's", sql).await?;
    Ok(rows.into_iter().flatten().flatten().collect())
}
