//! The file: its format, and what is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use super::file::Held;
use super::{Opened, State, generation, sql};
use crate::error::{Error, ErrorKind, Result};

/// What leads from each format of the file to the next, beginning with an empty file.
const FORMATS: [&str; 4] = [
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
    generation::TABLE,
];
/// The format of the file. An older one is brought to it; a newer one is refused, untouched.
const VERSION: i32 = FORMATS.len() as i32;
/// "velo" in the file's header says whose it is.
const APPLICATION: i32 = 0x7665_6c6f;

/// How long another process's transaction is waited for. They take milliseconds; this is for a
/// machine that swaps.
pub(super) const BUSY: Duration = Duration::from_secs(60);

/// Its files are for their user alone: passwords are in them. What was put back from a backup may have another
/// mode. By their paths, for to open and close one would drop the locks of this process on it.
fn keep_private(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let Ok(found) = Path::new(&file).symlink_metadata() else { continue };
        let own = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_file() || !own || found.mode() & 0o077 == 0 {
            continue;
        }
        tracing::warn!(file = %file.display(), "others could read the state: it is made private");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| Error::io(format!("make {} private", file.display()), e))?;
    }
    Ok(())
}

impl State {
    /// Opens `path`, or makes it (mode 0600), but not where there is data that it ought to name: a file
    /// that was emptied, or parted from its WAL, is no new one.
    pub(crate) fn open(path: &Path, has_data: bool) -> Result<Self> {
        let file = Held::open(path).map_err(|e| {
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
        if !file.is_file() {
            return Err(Error::new(ErrorKind::Corrupt, format!("{} is no file", path.display()))
                .with_hint("move it away, or set VELO_HOME to another folder"));
        }
        keep_private(path)?;
        keep_index_in_place(path, &file);
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
            let mode = write_ahead(&db).map_err(sql("set it up"))?;
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
        generation::disown(&mut db, &generation::beside(path))?;
        // A crash of the machine may lose the last transactions but never tears them; operations
        // on persistent things ask for more with `durable`.
        db.pragma_update(None, "synchronous", "NORMAL").map_err(sql("set it up"))?;
        db.set_prepared_statement_cache_capacity(32);
        let db = Opened { connection: Mutex::new(db), file };
        Ok(Self { db: Arc::new(db), leases: path.with_file_name("leases"), path: path.to_owned() })
    }
}

/// Has the file written by a WAL. SQLite refuses that at once where another process is just doing the same, and asks
/// no busy handler.
fn write_ahead(db: &Connection) -> rusqlite::Result<String> {
    let begun = Instant::now();
    loop {
        match db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(rusqlite::Error::SqliteFailure(e, _))
                if e.code == rusqlite::ErrorCode::DatabaseBusy && begun.elapsed() < BUSY =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

/// Makes the file that processes share as the index of the WAL, where there is none, as one that is
/// changed in place. They write to it through memory: on a btrfs that is full a page that had to be
/// copied first could not be, and whoever writes to it would die of SIGBUS. Other file systems need and
/// know nothing of it, and SQLite makes the file itself if this does not.
#[cfg(target_os = "linux")]
fn keep_index_in_place(path: &Path, file: &Held) {
    use std::os::unix::fs::OpenOptionsExt;
    let is_state = |begin: Vec<u8>| begin.is_empty() || begin == b"SQLite format 3\0";
    if !file.begin(16).is_ok_and(is_state) {
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
fn keep_index_in_place(_: &Path, _: &Held) {}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::record::VolumeRecord;
    use crate::state::Tx;

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

    #[test]
    fn many_may_make_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..60 {
            let path = dir.path().join(format!("{round}.db"));
            std::thread::scope(|scope| {
                let open = || State::open(&path, false).map(drop);
                let all = [(); 4].map(|()| scope.spawn(open));
                for one in all {
                    one.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_second_opening_leaves_the_first_ones_locks() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path, false).unwrap();
        let read = || {
            let db = state.db.connection.lock().unwrap();
            header(&db).unwrap()
        };
        read();
        let inode = format!(":{} ", path.metadata().unwrap().ino());
        let own = format!(" {} ", std::process::id());
        let locked = || {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains(&inode) && line.contains(&own))
        };
        assert!(locked(), "{}", std::fs::read_to_string("/proc/locks").unwrap());
        drop(State::open(&path, false).unwrap());
        assert!(locked());
        drop(state);
        assert!(!locked());
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
        let db = state.db.connection.lock().unwrap();
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
        let db = state.db.connection.lock().unwrap();
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
