//! What comes in between and does not roll back: tablespaces outside of the data, databases that are dropped,
//! settings of the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use velo_core::postgres::Lsn;
use velo_core::storage::StorageKind;
use velo_core::{Branch, ErrorKind, Target};

use crate::bad::refused;
use crate::common::client::sql;
use crate::common::{fs_dir, installations};
use crate::lives::moment;
use crate::rig::{Rig, holds, rows, write};

/// Every file and folder under `dir`, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let content = match path.is_dir() {
                true => {
                    folders.push(path.clone());
                    Vec::new()
                }
                false => std::fs::read(&path).unwrap(),
            };
            found.insert(path, content);
        }
    }
    found
}

#[tokio::test]
async fn moments_after_a_tablespace_outside_of_the_data_are_refused() {
    let (Some(base), Some(bins)) = (fs_dir("VELO_TEST_BTRFS"), installations()) else { return };
    for bin in bins {
        let rig = Rig::new(&bin, StorageKind::Btrfs, &base).await;
        let main = rig.main().await;
        let (_world, space) = rig.outside(&main).await;

        write(&main, 0, 30).await;
        let before = moment().await;
        write(&main, 30, 32).await;
        let place = sql(&main, "SELECT pg_current_wal_insert_lsn()").await;
        let place = Target::lsn(place.parse().unwrap());
        let idle = moment().await;
        let shown = space.to_str().unwrap();
        sql(&main, &format!("CREATE TABLESPACE outside LOCATION '{shown}'")).await;
        sql(&main, "CREATE TABLE o TABLESPACE outside AS SELECT generate_series(1, 1000) n").await;
        main.restore_point("outside").await.unwrap();
        let xid = sql(&main, "INSERT INTO o VALUES (0) RETURNING pg_current_xact_id()").await;
        sql(&main, "VACUUM ANALYZE o").await;
        let after = moment().await;
        write(&main, 32, 40).await;
        sql(&main, "CHECKPOINT").await;
        let parent = files(&space);
        assert!(parent.len() > 2, "{parent:?}");
        let unsupported = ErrorKind::Unsupported;
        let all = [
            after,
            moment().await,
            Target::restore_point("outside"),
            Target::xid(xid.parse().unwrap()),
        ];
        for target in all {
            let error = refused(&rig, target.clone(), unsupported, shown).await;
            assert!(error.to_string().contains(": at 0/"), "{error}");
            assert!(parent == files(&space), "{target:?}: the parent's files are others");
        }
        // Before it was made it is not in the way.
        for (target, end) in [(before, 30), (place, 32), (idle, 32)] {
            let branch = rig.at(target.clone()).await;
            holds(&branch, end, &format!("{target:?}")).await;
            branch.close().await.unwrap();
            assert!(parent == files(&space), "{target:?}: the parent's files are others");
        }
        assert_eq!(sql(&main, "SELECT count(*) || ' ' || sum(n) FROM o").await, "1001 500500");

        // That it is dropped again is as bad: the folder is another one's by now.
        sql(&main, "DROP TABLE o").await;
        sql(&main, "DROP TABLESPACE outside").await;
        std::fs::write(space.join("else"), "somebody else's").unwrap();
        let other = files(&space);
        write(&main, 40, 50).await;
        refused(&rig, moment().await, unsupported, shown).await;
        assert!(other == files(&space), "its files are others");
        sql(&main, "CHECKPOINT").await;
        main.snapshot("without").await.unwrap();
        write(&main, 50, 60).await;
        let branch = rig.at(moment().await).await;
        holds(&branch, 60, "dropped").await;
        branch.close().await.unwrap();
        assert!(other == files(&space), "its files are others");
    }
}

/// In another database.
async fn in_shop(branch: &Branch, text: &str) -> Result<String, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = branch.url().parse().unwrap();
    let (client, connection) = config.dbname("shop").connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(text).await?;
    drop(client);
    // Nobody is left in it.
    connection.await.unwrap()?;
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(rows.collect())
}

#[tokio::test]
async fn a_database_is_whole_until_it_was_dropped() {
    let (Some(base), Some(bins)) = (fs_dir("VELO_TEST_BTRFS"), installations()) else { return };
    for bin in bins {
        let rig = Rig::new(&bin, StorageKind::Btrfs, &base).await;
        let main = rig.main().await;
        // Nothing else is committed.
        sql(&main, "ALTER SYSTEM SET autovacuum = off").await;
        sql(&main, "SELECT pg_reload_conf()").await;
        write(&main, 0, 30).await;
        sql(&main, "CREATE DATABASE shop").await;
        in_shop(&main, "CREATE TABLE goods AS SELECT generate_series(1, 1000) n").await.unwrap();
        let before = moment().await;
        sql(&main, "DROP DATABASE shop").await;
        let inside = sql(&main, "SELECT pg_current_wal_insert_lsn()").await;
        let inside = crate::rig::lsn(&inside);
        let (_, xid) = *rig.commits(&main).await.last().unwrap();
        let after = moment().await;
        for target in [before, Target::xid(xid).exclusive()] {
            let branch = rig.at(target.clone()).await;
            let sum = in_shop(&branch, "SELECT count(*) || ' ' || sum(n) FROM goods").await;
            assert_eq!(sum.unwrap(), "1000 500500", "{target:?}");
            holds(&branch, 30, &format!("{target:?}")).await;
            branch.close().await.unwrap();
        }
        let shops = "SELECT count(*) FROM pg_database WHERE datname = 'shop'";
        for target in [Target::xid(xid), Target::lsn(Lsn(inside)), after] {
            let branch = rig.at(target.clone()).await;
            assert_eq!(sql(&branch, shops).await, "0", "{target:?}");
            branch.close().await.unwrap();
        }
    }
}

/// There is place for prepared transactions only since the snapshot that recovery begins with.
#[tokio::test]
async fn prepared_transactions_have_the_place_that_they_had() {
    let (Some(base), Some(bins)) = (fs_dir("VELO_TEST_BTRFS"), installations()) else { return };
    for bin in bins {
        let rig = Rig::new(&bin, StorageKind::Btrfs, &base).await;
        let main = rig.main().await;
        assert_eq!(sql(&main, "SHOW max_prepared_transactions").await, "0");
        sql(&main, "ALTER SYSTEM SET max_prepared_transactions = 3").await;
        main.restart().await.unwrap();
        write(&main, 0, 10).await;
        for n in [10, 11] {
            let insert = format!("INSERT INTO rows VALUES ({n})");
            sql(&main, &format!("BEGIN; {insert}; PREPARE TRANSACTION 'p{n}'")).await;
        }
        let prepared = moment().await;
        sql(&main, "COMMIT PREPARED 'p10'").await;
        sql(&main, "ROLLBACK PREPARED 'p11'").await;
        let over = moment().await;

        let branch = rig.at(prepared).await;
        assert_eq!(rows(&branch).await.len(), 10);
        let gids = sql(&branch, "SELECT gid FROM pg_prepared_xacts ORDER BY 1").await;
        assert_eq!(gids, "p10 p11");
        sql(&branch, "COMMIT PREPARED 'p10'").await;
        sql(&branch, "ROLLBACK PREPARED 'p11'").await;
        holds(&branch, 11, "prepared").await;
        branch.close().await.unwrap();
        let branch = rig.at(over).await;
        assert_eq!(sql(&branch, "SELECT count(*) FROM pg_prepared_xacts").await, "0");
        holds(&branch, 11, "over").await;
        branch.close().await.unwrap();
    }
}
