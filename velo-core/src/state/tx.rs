//! What a transaction can do with records.

use rusqlite::{OptionalExtension, params};

use super::{Record, sql};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// One transaction.
pub(crate) struct Tx<'a>(pub(super) rusqlite::Transaction<'a>);

impl Tx<'_> {
    /// The record with this id.
    pub(crate) fn get<R: Record>(&self, id: Id) -> Result<Option<R>> {
        self.0
            .prepare_cached("SELECT body FROM record WHERE kind = ?1 AND id = ?2")
            .and_then(|mut s| {
                s.query_row(params![R::KIND, id.to_string()], |row| row.get::<_, String>(0))
                    .optional()
            })
            .map_err(sql("read"))?
            .map(|body| decode(&body))
            .transpose()
    }

    /// Whether there is a record of any kind with this id.
    pub(crate) fn has_any(&self, id: Id) -> Result<bool> {
        self.0
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM record WHERE id = ?1)")
            .and_then(|mut s| s.query_row([id.to_string()], |row| row.get(0)))
            .map_err(sql("read"))
    }

    /// The record with this name in `scope`.
    pub(crate) fn named<R: Record>(&self, scope: &str, name: &str) -> Result<Option<R>> {
        self.0
            .prepare_cached("SELECT body FROM record WHERE kind = ?1 AND scope = ?2 AND name = ?3")
            .and_then(|mut s| {
                s.query_row(params![R::KIND, scope, name], |row| row.get::<_, String>(0)).optional()
            })
            .map_err(sql("read"))?
            .map(|body| decode(&body))
            .transpose()
    }

    /// Every record of the kind in `scope`, oldest first.
    pub(crate) fn list<R: Record>(&self, scope: &str) -> Result<Vec<R>> {
        self.all(
            "SELECT body FROM record WHERE kind = ?1 AND scope = ?2 ORDER BY id",
            params![R::KIND, scope],
        )
    }

    /// Every record of the kind, whatever it is in, oldest first.
    pub(crate) fn every<R: Record>(&self) -> Result<Vec<R>> {
        self.all("SELECT body FROM record WHERE kind = ?1 ORDER BY id", params![R::KIND])
    }

    /// Every record of the kind whose time is up at `now`, the youngest first.
    pub(crate) fn expired<R: Record>(&self, now: u64) -> Result<Vec<R>> {
        self.all(
            "SELECT body FROM record WHERE kind = ?1 AND expires <= ?2 ORDER BY id DESC",
            params![R::KIND, time(now)],
        )
    }

    /// Every record of the kind that hangs from `owner`, oldest first.
    pub(crate) fn of<R: Record>(&self, owner: Id) -> Result<Vec<R>> {
        self.all(
            "SELECT body FROM record WHERE kind = ?1 AND owner = ?2 ORDER BY id",
            params![R::KIND, owner.to_string()],
        )
    }

    /// Every record of the kind in `scope` whose id ends so, oldest first.
    pub(crate) fn ending<R: Record>(&self, scope: &str, end: &str) -> Result<Vec<R>> {
        self.all(
            "SELECT body FROM record WHERE kind = ?1 AND scope = ?2 AND substr(id, -length(?3)) = ?3
             ORDER BY id",
            params![R::KIND, scope, end],
        )
    }

    /// Whether any record's data was cloned from `source`.
    pub(crate) fn has_clones(&self, source: Id) -> Result<bool> {
        self.0
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM record WHERE source = ?1)")
            .and_then(|mut s| s.query_row([source.to_string()], |row| row.get(0)))
            .map_err(sql("read"))
    }

    /// Every record of the kind that lives under this lease.
    pub(crate) fn under<R: Record>(&self, lease: Id) -> Result<Vec<R>> {
        self.all(
            "SELECT body FROM record WHERE kind = ?1 AND lease = ?2 ORDER BY id",
            params![R::KIND, lease.to_string()],
        )
    }

    /// Every lease that any record names.
    pub(crate) fn leases(&self) -> Result<Vec<Id>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT DISTINCT lease FROM record WHERE lease IS NOT NULL")
            .map_err(sql("read"))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(sql("read"))?;
        rows.map(|row| row.map_err(sql("read"))?.parse()).collect()
    }

    fn all<R: Record>(&self, query: &str, params: impl rusqlite::Params) -> Result<Vec<R>> {
        let mut statement = self.0.prepare_cached(query).map_err(sql("read"))?;
        let rows =
            statement.query_map(params, |row| row.get::<_, String>(0)).map_err(sql("read"))?;
        rows.map(|row| decode(&row.map_err(sql("read"))?)).collect()
    }

    /// Every port that is taken.
    pub(crate) fn ports(&self) -> Result<std::collections::HashSet<u16>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT port FROM record WHERE port IS NOT NULL")
            .map_err(sql("read"))?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(sql("read"))?;
        rows.map(|row| row.map_err(sql("read"))).collect()
    }

    /// Adds a record. Its name must be free: look with [`named`](Self::named) in the same
    /// transaction.
    pub(crate) fn insert<R: Record>(&self, record: &R) -> Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO record (kind, id, scope, name, lease, port, expires, body, owner, source)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    R::KIND,
                    record.id().to_string(),
                    record.scope(),
                    record.name(),
                    record.lease().map(|l| l.to_string()),
                    record.port(),
                    record.expires().map(time),
                    encode(record).map_err(to_sql)?,
                    record.owner().map(|id| id.to_string()),
                    record.source().map(|id| id.to_string()),
                ])
            })
            .map_err(sql("write"))?;
        Ok(())
    }

    /// Changes the record with this id, as it is now, by `change`. [`ErrorKind::NotFound`] if it
    /// is gone. Returns it as it was written.
    pub(crate) fn update<R: Record>(
        &self,
        id: Id,
        change: impl FnOnce(&mut R) -> Result<()>,
    ) -> Result<R> {
        let mut record = self.get::<R>(id)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the {} is gone", R::KIND))
                .with_context("id", id)
                .with_hint("it was closed or deleted meanwhile")
        })?;
        change(&mut record)?;
        self.0
            .prepare_cached(
                "UPDATE record SET scope = ?3, name = ?4, lease = ?5, port = ?6, expires = ?7,
                   body = ?8, owner = ?9, source = ?10 WHERE kind = ?1 AND id = ?2",
            )
            .and_then(|mut s| {
                s.execute(params![
                    R::KIND,
                    id.to_string(),
                    record.scope(),
                    record.name(),
                    record.lease().map(|l| l.to_string()),
                    record.port(),
                    record.expires().map(time),
                    encode(&record).map_err(to_sql)?,
                    record.owner().map(|id| id.to_string()),
                    record.source().map(|id| id.to_string()),
                ])
            })
            .map_err(sql("write"))?;
        Ok(record)
    }

    /// Removes a record; missing is fine.
    pub(crate) fn remove<R: Record>(&self, id: Id) -> Result<()> {
        self.0
            .prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")
            .and_then(|mut s| s.execute(params![R::KIND, id.to_string()]))
            .map_err(sql("write"))?;
        Ok(())
    }
}

fn decode<R: Record>(body: &str) -> Result<R> {
    serde_json::from_str(body).map_err(|e| {
        Error::new(
            ErrorKind::Corrupt,
            format!("state.db holds a {} that cannot be read: {e}", R::KIND),
        )
        .with_hint("was it written by a newer version of Velo?")
        .with_source(e)
    })
}

fn encode<R: Record>(record: &R) -> Result<String> {
    serde_json::to_string(record).map_err(|e| {
        Error::new(ErrorKind::Internal, format!("cannot encode a {}", R::KIND)).with_source(e)
    })
}

fn to_sql(e: Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(e))
}

/// SQLite's numbers have a sign.
fn time(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}
