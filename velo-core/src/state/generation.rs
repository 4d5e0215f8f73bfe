//! Telling a `state.db` that was restored from a backup.
//!
//! What it says is half done, or some process's own, may long be whole and somebody's; and the lease that it
//! names may have a file still, so that it looks like a dead process's. So each durable transaction counts one
//! up, in `state.db` and then in a file beside it. A `state.db` that is behind the file is older than the home.
//! It may be ahead, after a crash between the two.

use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rusqlite::{Connection, Row, TransactionBehavior};

use super::sql;
use crate::error::Result;
use crate::id::Id;

/// The file's name.
pub(crate) const FILE: &str = "generation";

/// The file beside `state.db`.
pub(super) fn beside(state: &Path) -> PathBuf {
    state.with_file_name(FILE)
}

/// How far a `state.db` is, and which one it is: of another one a file says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    state: String,
    number: i64,
}

impl Generation {
    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { state: row.get(0)?, number: row.get(1)? })
    }

    fn of(db: &Connection) -> Result<Self> {
        db.query_row("SELECT state, number FROM generation", [], Self::of_row)
            .map_err(sql("read it"))
    }

    fn is_behind(&self, other: &Self) -> bool {
        self.state == other.state && self.number < other.number
    }
}

/// More than anybody counts up to, and less than SQLite can.
const MOST: i64 = 1_000_000_000_000_000_000;

/// Its text in the file, always of the same length.
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {:018}", self.state, self.number)
    }
}

impl FromStr for Generation {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (state, number) = text.strip_suffix('\n').and_then(|l| l.split_once(' ')).ok_or(())?;
        let read = Self { state: state.to_owned(), number: number.parse().map_err(drop)? };
        // Nothing else is in it, and no number that could not be counted up.
        let counts = (0..MOST).contains(&read.number);
        if counts && read.to_string() == text { Ok(read) } else { Err(()) }
    }
}

/// The table of both, for a new `state.db` and one that has none.
pub(super) const TABLE: &str =
    "CREATE TABLE generation (state TEXT NOT NULL, number INTEGER NOT NULL);
     INSERT INTO generation VALUES (lower(hex(randomblob(8))), 0);";

/// Counts one up, in the transaction.
pub(super) fn count(tx: &Connection) -> Result<Generation> {
    tx.query_row(
        "UPDATE generation SET number = number + 1 RETURNING state, number",
        [],
        Generation::of_row,
    )
    .map_err(sql("count"))
}

/// Notes how far the state is that a transaction was committed to. Where that fails a restored one is not
/// told, and nothing else is lost.
pub(super) fn note(file: &Path, now: &Generation) {
    let noted = || {
        // Somebody else has counted on meanwhile.
        if read(file).is_some_and(|there| now.is_behind(&there)) {
            return Ok(());
        }
        crate::disk::open(file)?.write_all_at(now.to_string().as_bytes(), 0)
    };
    if let Err(error) = noted() {
        tracing::debug!(%error, "cannot note how old the state is");
    }
}

/// Takes every lease that the records name for one that this home never had, if the state is older than
/// the home: what is recorded under such a one is left alone.
pub(super) fn disown(db: &mut Connection, file: &Path) -> Result<()> {
    // Before the state: whoever counts up writes this last.
    let Some(noted) = read(file) else { return Ok(()) };
    if !Generation::of(db)?.is_behind(&noted) {
        return Ok(());
    }
    let tx = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql("set it right"))?;
    if !Generation::of(&tx)?.is_behind(&noted) {
        return Ok(());
    }
    tracing::warn!(
        "state.db is older than the home: what it says is half done, or a process's own, is left alone"
    );
    let never_held = Id::generate().to_string();
    let disown = "UPDATE record SET lease = ?1, body = json_set(body, '$.lease', ?1) WHERE lease IS NOT NULL";
    tx.prepare(disown)
        .and_then(|mut s| s.execute([&never_held]))
        .and_then(|_| tx.prepare("UPDATE generation SET number = ?1"))
        .and_then(|mut s| s.execute([noted.number]))
        .map_err(sql("set it right"))?;
    tx.commit().map_err(sql("set it right"))
}

fn read(file: &Path) -> Option<Generation> {
    let bytes = crate::postgres::data_file::read(file, 64).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(db: &Connection) -> Vec<Option<String>> {
        let mut all = db
            .prepare("SELECT body ->> 'lease' FROM record WHERE lease IS body ->> 'lease'")
            .unwrap();
        all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn state() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE record (lease TEXT, body TEXT);
             INSERT INTO record VALUES ('a', '{\"lease\":\"a\"}'), (NULL, '{\"lease\":null}')",
        )
        .unwrap();
        db.execute_batch(TABLE).unwrap();
        db
    }

    #[test]
    fn a_state_that_is_behind_disowns_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let mut db = state();
        let own = [Some("a".to_owned()), None];
        let mut first = None;
        for _ in 0..3 {
            disown(&mut db, &file).unwrap();
            assert_eq!(leases(&db), own, "it is as far as the file, or ahead");
            let now = count(&db).unwrap();
            disown(&mut db, &file).unwrap();
            note(&file, &now);
            first.get_or_insert(now);
        }
        note(&file, &first.unwrap());
        assert_eq!(read(&file).unwrap().number, 3, "a later number stays");

        // Another one's file, and one that somebody scribbled over, say nothing.
        let noted = std::fs::read(&file).unwrap();
        db.execute_batch("UPDATE generation SET number = 2").unwrap();
        let other = Generation { state: "0123456789abcdef".into(), number: 9 }.to_string();
        let huge = Generation { number: i64::MAX, ..Generation::of(&db).unwrap() }.to_string();
        let short = &noted[..20];
        for text in [other.as_bytes(), huge.as_bytes(), short, b"", &[0xff; 8]] {
            std::fs::write(&file, text).unwrap();
            disown(&mut db, &file).unwrap();
            assert_eq!(leases(&db), own, "{text:?}");
        }
        std::fs::write(&file, noted).unwrap();
        disown(&mut db, &file).unwrap();
        let after = leases(&db);
        assert!(after[0].is_some() && after[0] != own[0] && after[1].is_none(), "{after:?}");
        disown(&mut db, &file).unwrap();
        assert_eq!(leases(&db), after, "once");
        assert_eq!(count(&db).unwrap().number, 4);
        // The file of a new state takes the old one's place.
        let new = state();
        note(&file, &count(&new).unwrap());
        assert_eq!(read(&file).unwrap().number, 1);
    }
}
