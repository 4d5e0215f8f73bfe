//! Telling a `state.db` that was restored from a backup.
//!
//! What it says is half done, or some process's own, may long be whole and somebody's; and the lease that it
//! names may have a file still, so that it looks like a dead process's. So each durable transaction counts one
//! up, in `state.db` and then in a file beside it. A `state.db` that is behind the file is older than the home.
//! It may be ahead, after a crash between the two.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::sql;
use crate::error::Result;
use crate::id::Id;

/// The file's name.
pub(crate) const FILE: &str = "generation";

/// The file beside `state.db`.
pub(super) fn beside(state: &Path) -> PathBuf {
    state.with_file_name(FILE)
}

/// Counts one up, in the transaction, and gives the number.
pub(super) fn count(tx: &Connection) -> Result<u64> {
    tx.query_row("UPDATE generation SET n = n + 1 RETURNING n", [], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
        .map_err(sql("count"))
}

/// Notes the number of a transaction that is committed. Where that fails a restored state is not told, and
/// nothing else is lost.
pub(super) fn note(file: &Path, number: u64) {
    let noted = || {
        // One that was counted up later, by somebody else, stays.
        if read(file).is_some_and(|there| there >= number) {
            return Ok(());
        }
        crate::disk::open(file)?.write_all_at(&number.to_le_bytes(), 0)
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
    let behind = |db: &Connection| {
        let number = db.query_row("SELECT n FROM generation", [], |row| row.get::<_, i64>(0));
        let number = number.optional().map_err(sql("read it"))?;
        Ok::<_, crate::error::Error>(number.is_none_or(|number| number.cast_unsigned() < noted))
    };
    if !behind(db)? {
        return Ok(());
    }
    let tx = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql("set it right"))?;
    if !behind(&tx)? {
        return Ok(());
    }
    tracing::warn!(
        "state.db is older than the home: what it says is half done, or a process's own, is left alone"
    );
    let never_held = Id::generate().to_string();
    let disown = "UPDATE record SET lease = ?1, body = json_set(body, '$.lease', ?1) WHERE lease IS NOT NULL";
    tx.prepare(disown)
        .and_then(|mut s| s.execute([&never_held]))
        .and_then(|_| tx.prepare("UPDATE generation SET n = ?1"))
        .and_then(|mut s| s.execute([noted.cast_signed()]))
        .map_err(sql("set it right"))?;
    tx.commit().map_err(sql("set it right"))
}

fn read(file: &Path) -> Option<u64> {
    let bytes = crate::postgres::data_file::read(file, 8).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_behind_disowns_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE record (lease TEXT, body TEXT);
             CREATE TABLE generation (n INTEGER NOT NULL); INSERT INTO generation VALUES (0);
             INSERT INTO record VALUES ('a', '{\"lease\":\"a\"}'), (NULL, '{\"lease\":null}')",
        )
        .unwrap();
        let leases = |db: &Connection| -> Vec<Option<String>> {
            let mut all = db
                .prepare("SELECT body ->> 'lease' FROM record WHERE lease IS body ->> 'lease'")
                .unwrap();
            all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let own = [Some("a".to_owned()), None];
        for _ in 0..3 {
            disown(&mut db, &file).unwrap();
            assert_eq!(leases(&db), own, "it is as far as the file, or ahead");
            let number = count(&db).unwrap();
            disown(&mut db, &file).unwrap();
            note(&file, number);
        }
        note(&file, 1);
        assert_eq!(read(&file), Some(3), "a later number stays");
        db.execute_batch("UPDATE generation SET n = 2").unwrap();
        disown(&mut db, &file).unwrap();
        let after = leases(&db);
        assert!(after[0].is_some() && after[0] != own[0] && after[1].is_none(), "{after:?}");
        disown(&mut db, &file).unwrap();
        assert_eq!(leases(&db), after, "once");
        // One that somebody scribbled over says nothing.
        std::fs::write(&file, "xyz").unwrap();
        disown(&mut db, &file).unwrap();
    }
}
