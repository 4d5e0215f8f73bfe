//! What exists: SQLite in WAL mode, the one source of truth, for many processes at once.
//!
//! Behind a small seam: a [`Record`] has an id, perhaps a name that is unique in a scope, and
//! perhaps a lease; records are read, listed, inserted, replaced and removed in transactions. A
//! write that rests on what was read happens in the same transaction, which SQLite runs alone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// What leads from each format of the file to the next, beginning with an empty file.
const FORMATS: [&str; 3] = [
    "CREATE TABLE record (
       kind TEXT NOT NULL, id TEXT NOT NULL, scope TEXT NOT NULL, name TEXT,
       lease TEXT, port INTEGER, body TEXT NOT NULL,
       PRIMARY KEY (kind, id)) WITHOUT ROWID;
     CREATE UNIQUE INDEX record_name ON record (kind, scope, name) WHERE name IS NOT NULL;
     CREATE INDEX record_scope ON record (kind, scope);
     CREATE INDEX record_lease ON record (lease) WHERE lease IS NOT NULL;
     CREATE UNIQUE INDEX record_port ON record (port) WHERE port IS NOT NULL;",
    "ALTER TABLE record ADD COLUMN expires INTEGER;
     CREATE INDEX record_expires ON record (kind, expires) WHERE expires IS NOT NULL;",
    "ALTER TABLE record ADD COLUMN owner TEXT;
     ALTER TABLE record ADD COLUMN source TEXT;
     UPDATE record SET owner = json_extract(body, '$.parent') WHERE kind = 'branch';
     UPDATE record SET owner = json_extract(body, '$.branch'),
       source = coalesce(json_extract(body, '$.source.volume'), json_extract(body, '$.source.snapshot'))
       WHERE kind IN ('volume', 'snapshot');
     CREATE INDEX record_owner ON record (owner) WHERE owner IS NOT NULL;
     CREATE INDEX record_source ON record (source) WHERE source IS NOT NULL;",
];
/// The format of the file. An older one is brought to it; a newer one is refused, untouched.
const VERSION: i32 = FORMATS.len() as i32;
/// "velo" in the file's header says whose it is.
const APPLICATION: i32 = 0x7665_6c6f;

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

#[derive(Debug, Clone)]
pub(crate) struct State {
    db: Arc<Mutex<Connection>>,
    /// The home's leases, which records name.
    leases: PathBuf,
}

/// One transaction.
pub(crate) struct Tx<'a>(rusqlite::Transaction<'a>);

/// How long another process's transaction is waited for. They take milliseconds; this is for a
/// machine that swaps.
const BUSY: Duration = Duration::from_secs(60);

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
                "state.db is damaged: restore it from a backup, or move it away and run `velo doctor`",
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
        Error::new(kind, format!("state.db: cannot {what}: {e}")).with_hint(hint).with_source(e)
    }
}

impl State {
    /// Opens `path`, or makes it (mode 0600), but not where there is data that it ought to name: a file
    /// that was emptied, or parted from its WAL, is no new one.
    pub(crate) fn open(path: &Path, has_data: bool) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // SQLite follows a link, to whatever whoever put it there wanted to be written to.
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|e| {
                let hint = match e.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "it belongs to the user who made it: be that user, or set VELO_HOME"
                    }
                    std::io::ErrorKind::ReadOnlyFilesystem => {
                        "set VELO_HOME to a folder that can be written to"
                    }
                    _ => "it must be a file: move it away, or set VELO_HOME to another folder",
                };
                let error = Error::io(format!("open {}", path.display()), e);
                match error.kind() {
                    ErrorKind::Exhausted => error,
                    _ => error.with_hint(hint),
                }
            })?;
        if !file.metadata().is_ok_and(|file| file.is_file()) {
            return Err(Error::new(ErrorKind::Corrupt, format!("{} is no file", path.display()))
                .with_hint("move it away, or set VELO_HOME to another folder"));
        }
        drop(file);
        keep_index_in_place(path);
        let mut db = Connection::open(path).map_err(sql("open it"))?;
        db.busy_timeout(BUSY).map_err(sql("set it up"))?;
        // Whoever is refused below writes no WAL back into a file that is not his.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(sql("set it up"))?;
        let tx =
            db.transaction_with_behavior(TransactionBehavior::Deferred).map_err(sql("read it"))?;
        let (application, version) = header(&tx)?;
        drop(tx);
        if application != 0 && application != APPLICATION {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is a database, but not Velo's", path.display()),
            )
            .with_hint("set VELO_HOME to another folder"));
        }
        known(version, path)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map_err(sql("set it up"))?;
        if version == 0 && has_data {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is empty, and there is data that it named", path.display()),
            )
            .with_hint(
                "restore it and state.db-wal from a backup; without them nobody knows whose the \
                 volumes are",
            ));
        }
        if version < VERSION {
            let mode: String = db
                .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
                .map_err(sql("set it up"))?;
            if mode != "wal" {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{} is on a file system without shared memory", path.display()),
                )
                .with_hint("set VELO_HOME to a folder on a local file system"));
            }
            let tx = db
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(sql("set it up"))?;
            // Another process may have been first.
            let version = header(&tx)?.1;
            known(version, path)?;
            for format in FORMATS.iter().skip(usize::try_from(version).unwrap_or(0)) {
                tx.execute_batch(format).map_err(sql("set it up"))?;
            }
            tx.pragma_update(None, "application_id", APPLICATION).map_err(sql("set it up"))?;
            tx.pragma_update(None, "user_version", VERSION).map_err(sql("set it up"))?;
            tx.commit().map_err(sql("set it up"))?;
        }
        // A crash of the machine may lose the last transactions but never tears them; operations
        // on persistent things ask for more with `durable`.
        db.pragma_update(None, "synchronous", "NORMAL").map_err(sql("set it up"))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { db: Arc::new(Mutex::new(db)), leases: path.with_file_name("leases") })
    }

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
        let leases = self.leases.clone();
        let transaction = self.transact("FULL", TransactionBehavior::Immediate, move |tx| {
            // It makes earlier transactions last as well, and a record may not outlast its lease.
            match std::fs::File::open(&leases).and_then(|folder| folder.sync_all()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(format!("sync {}", leases.display()), e))
                }
                _ => work(tx),
            }
        });
        crate::effect::step(step, transaction).await
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
            let mut db = db.lock().unwrap_or_else(|e| e.into_inner());
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

/// Makes the file that processes share as the index of the WAL, where there is none, as one that is
/// changed in place. They write to it through memory: on a btrfs that is full a page that had to be
/// copied first could not be, and whoever writes to it would die of SIGBUS. Other file systems need and
/// know nothing of it, and SQLite makes the file itself if this does not.
#[cfg(target_os = "linux")]
fn keep_index_in_place(path: &Path) {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut begin = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(16).read_to_end(&mut begin));
    if read.is_err() || !(begin.is_empty() || begin == b"SQLite format 3\0") {
        return; // it is refused, and nothing is made beside it
    }
    let mut index = path.as_os_str().to_owned();
    index.push("-shm");
    let mut options = std::fs::OpenOptions::new();
    if let Ok(file) = options.read(true).write(true).create_new(true).mode(0o600).open(index)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&file)
    {
        let _ = rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::NOCOW);
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_index_in_place(_: &Path) {}

fn known(version: i32, path: &Path) -> Result<()> {
    if version <= VERSION {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("{} is from a newer version of Velo (format {version})", path.display()),
    )
    .with_hint("use that version, or set VELO_HOME to another folder"))
}

fn header(db: &Connection) -> Result<(i32, i32)> {
    let read = |pragma: &str| db.query_row(pragma, [], |row| row.get(0)).map_err(sql("read it"));
    Ok((read("PRAGMA application_id")?, read("PRAGMA user_version")?))
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
                .with_hint("another process deleted it meanwhile")
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

fn to_sql(e: Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(e))
}

/// SQLite's numbers have a sign.
fn time(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::VolumeRecord;

    /// A file as the first format had it, with a record in it.
    fn of_the_first_format(path: &Path) {
        let db = Connection::open(path).unwrap();
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        db.execute_batch(FORMATS[0]).unwrap();
        db.execute_batch(
            "INSERT INTO record VALUES ('volume', '01M85Q712A381HG2QDVG2FJSJY', 'x', NULL, NULL,
               NULL, '{\"id\":\"01M85Q712A381HG2QDVG2FJSJY\",
                       \"project\":\"01M85Q712A381HG2QDVG2FJSJZ\",\"branch\":null,\"source\":null}'),
               ('volume', '01M85Q712A381HG2QDVG2FJSK0', 'x', NULL, NULL, NULL,
                '{\"id\":\"01M85Q712A381HG2QDVG2FJSK0\",
                  \"project\":\"01M85Q712A381HG2QDVG2FJSJZ\",
                  \"branch\":\"01M85Q712A381HG2QDVG2FJSK1\",
                  \"source\":{\"snapshot\":\"01M85Q712A381HG2QDVG2FJSK2\"}}')",
        )
        .unwrap();
        db.pragma_update(None, "application_id", APPLICATION).unwrap();
        db.pragma_update(None, "user_version", 1).unwrap();
    }

    fn version(path: &Path) -> i32 {
        header(&Connection::open(path).unwrap()).unwrap().1
    }

    #[test]
    fn an_older_file_is_brought_to_this_format_once_and_keeps_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        of_the_first_format(&path);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| State::open(&path, false).unwrap());
            }
        });
        assert_eq!(version(&path), VERSION);
        let state = State::open(&path, false).unwrap();
        let db = state.db.lock().unwrap();
        let tx = Tx(db.unchecked_transaction().unwrap());
        let id = |text: &str| text.parse::<Id>().unwrap();
        let volumes = tx.every::<VolumeRecord>().unwrap();
        assert_eq!(volumes.len(), 2);
        let of_branch = tx.of::<VolumeRecord>(id("01M85Q712A381HG2QDVG2FJSK1")).unwrap();
        assert_eq!(of_branch.iter().map(|v| v.id).collect::<Vec<_>>(), [volumes[1].id]);
        assert!(tx.has_clones(id("01M85Q712A381HG2QDVG2FJSK2")).unwrap());
        assert!(!tx.has_clones(volumes[0].id).unwrap());
        assert_eq!(tx.expired::<crate::record::BranchRecord>(u64::MAX).unwrap().len(), 0);
    }

    #[test]
    fn what_one_branch_needs_is_found_without_a_look_at_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.db"), false).unwrap();
        let db = state.db.lock().unwrap();
        for (query, index) in [
            ("kind = 'branch' AND expires <= 5 ORDER BY id DESC", "record_expires"),
            ("kind = 'volume' AND owner = 'x' ORDER BY id", "record_owner"),
            ("kind = 'branch' AND lease = 'x' ORDER BY id", "record_lease"),
            ("source = 'x'", "record_source"),
        ] {
            let explain = format!("EXPLAIN QUERY PLAN SELECT body FROM record WHERE {query}");
            let plan: String = db.query_row(&explain, [], |row| row.get(3)).unwrap();
            assert!(plan.contains(index), "{query}: every record is looked at: {plan}");
        }
    }

    #[test]
    fn a_new_file_has_the_format_of_one_that_was_brought_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["new", "old"].map(|name| dir.path().join(name));
        of_the_first_format(&paths[1]);
        let schemas = paths.map(|path| {
            State::open(&path, false).unwrap();
            let db = Connection::open(&path).unwrap();
            let mut query = db.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
            let rows = query.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
            rows.map(Result::<_, rusqlite::Error>::unwrap).collect::<Vec<_>>()
        });
        assert_eq!(schemas[0], schemas[1]);
    }

    #[test]
    fn a_newer_file_is_refused_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        State::open(&path, false).unwrap();
        // With a WAL that whoever wrote it has not written back.
        let newer = Connection::open(&path).unwrap();
        newer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        newer.pragma_update(None, "user_version", VERSION + 1).unwrap();
        drop(newer);
        let wal = dir.path().join("state.db-wal");
        assert!(wal.metadata().unwrap().len() > 0);
        let before = std::fs::read(&path).unwrap();
        let error = State::open(&path, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("newer"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(wal.metadata().unwrap().len() > 0, "its WAL was written back");
    }
}
