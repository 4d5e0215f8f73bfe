//! What exists: SQLite in WAL mode, the one source of truth, for many processes at once.
//!
//! Behind a small seam: a [`Record`] has an id, perhaps a name that is unique in a scope, and
//! perhaps a lease; records are read, listed, inserted, replaced and removed in transactions. A
//! write that rests on what was read happens in the same transaction, which SQLite runs alone.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

mod file;
pub(crate) mod generation;
mod open;
mod tx;

use open::BUSY;
pub(crate) use tx::Tx;

/// Something that is recorded.
pub(crate) trait Record: Serialize + DeserializeOwned + Clone + Send + 'static {
    const KIND: &'static str;
    fn id(&self) -> Id;
    /// What its name is unique in: a project's id, or nothing.
    fn scope(&self) -> String;
    fn name(&self) -> Option<&str>;
    /// The lease under which it lives or is worked on. If that is dead, the record is nobody's,
    /// and whoever finds out undoes it.
    fn lease(&self) -> Option<Id>;
    /// A number that no two records share: a port.
    fn port(&self) -> Option<u16> {
        None
    }
    /// When its time is up, in milliseconds since 1970.
    fn expires(&self) -> Option<u64> {
        None
    }
    /// What it hangs from: a branch.
    fn owner(&self) -> Option<Id> {
        None
    }
    /// What its data was cloned from.
    fn source(&self) -> Option<Id> {
        None
    }
}

/// The file with the connection to it, which is closed first.
#[derive(Debug)]
struct Opened {
    connection: Mutex<Connection>,
    file: file::Held,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    db: Arc<Opened>,
    /// The home's leases, which records name.
    leases: PathBuf,
    path: PathBuf,
}

fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |e| {
        use rusqlite::ErrorCode;
        let code = match &e {
            rusqlite::Error::SqliteFailure(e, _) => Some(e.code),
            _ => None,
        };
        let (kind, hint) = match code {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
                ErrorKind::Corrupt,
                "state.db is damaged: restore it and state.db-wal from a backup; nobody else knows whose the data is",
            ),
            Some(ErrorCode::DiskFull) => (ErrorKind::Exhausted, "free some space and try again"),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
                ErrorKind::PermissionDenied,
                "VELO_HOME must be writable, and belongs to the user who made it",
            ),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (ErrorKind::Timeout, "another process holds state.db; is one of them stopped?")
            }
            _ => (ErrorKind::Io, "velo doctor looks at the home, and says what is wrong with it"),
        };
        if kind == ErrorKind::Timeout {
            let waited = BUSY.as_secs();
            let what = format!(
                "state.db: cannot {what}: another process has been writing to it for {waited} s"
            );
            return Error::new(kind, what).with_hint(hint);
        }
        Error::new(kind, format!("state.db: cannot {what}: {e}")).with_hint(hint).with_source(e)
    }
}

impl State {
    /// Runs `work` in a transaction that may write: the step `step`. An error rolls all of it back.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        step: &str,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let transaction = self.transact("NORMAL", TransactionBehavior::Immediate, work);
        crate::effect::step(step, transaction).await
    }

    /// Like [`write`](Self::write), and what was written survives a crash of the machine.
    pub(crate) async fn write_durable<T: Send + 'static>(
        &self,
        step: &str,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (leases, path, db) = (self.leases.clone(), self.path.clone(), self.db.clone());
        let transaction = self.transact("FULL", TransactionBehavior::Immediate, move |tx| {
            // It makes earlier transactions last as well, and a record may not outlast its lease.
            match std::fs::File::open(&leases).and_then(|folder| folder.sync_all()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("sync {}", leases.display()), e));
                }
                _ => {}
            }
            let out = work(tx)?;
            Ok((out, generation::count(&tx.0)?))
        });
        let noted = async move {
            let (out, now) = transaction.await?;
            crate::engine::blocking(move || {
                // Another one may have been put in its place, whose file this is then.
                if db.file.is_at(&path) {
                    generation::note(&generation::beside(&path), &now);
                }
                Ok(out)
            })
            .await
        };
        crate::effect::step(step, noted).await
    }

    /// Runs `work` on one consistent view.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact("NORMAL", TransactionBehavior::Deferred, work).await
    }

    /// Runs `work` on one view while nobody writes, so that what is made in a transaction of somebody's
    /// is not met without its record.
    pub(crate) async fn read_alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact("NORMAL", TransactionBehavior::Immediate, work).await
    }

    async fn transact<T: Send + 'static>(
        &self,
        synchronous: &'static str,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = self.db.clone();
        crate::engine::blocking(move || {
            let mut db = db.connection.lock().unwrap_or_else(|e| e.into_inner());
            db.pragma_update(None, "synchronous", synchronous).map_err(sql("write"))?;
            let tx = db.transaction_with_behavior(behavior).map_err(sql("begin"))?;
            let tx = Tx(tx);
            let out = work(&tx)?;
            tx.0.commit().map_err(sql("write"))?;
            Ok(out)
        })
        .await
    }
}
