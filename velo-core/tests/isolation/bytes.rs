//! No byte of a stopped parent's files changes, whatever its branches do, on every storage.

use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec};

use crate::common::fs_dir;
use crate::rig::{Parent, Sql, assert_same, data_of, files, installations};

/// Writes wherever SQL can make a server write.
async fn write_everywhere(branch: &Branch) {
    let sql = Sql::on(branch).await;
    for statement in [
        "UPDATE rows SET n = -n, text = repeat('y', 3000)",
        "DELETE FROM rows WHERE n % 2 = 0",
        "VACUUM FULL rows",
        "CREATE TABLE own AS SELECT * FROM rows",
        "UPDATE unlogged SET n = 0",
        "CREATE DATABASE own",
        "ALTER SYSTEM SET work_mem = '9MB'",
        "ALTER ROLE ALL SET lock_timeout = 1000",
        "SELECT pg_create_physical_replication_slot('own', true)",
        "SELECT pg_switch_wal()",
        "CHECKPOINT",
        "DROP TABLE dropped",
        "DROP DATABASE other",
        "SELECT pg_reload_conf()",
        "REINDEX DATABASE postgres",
        "CHECKPOINT",
    ] {
        sql.run(statement).await;
    }
    assert_eq!(sql.one("SELECT count(*) FROM rows").await, "500");
}

async fn proof(var: &str, kind: StorageKind) {
    let Some(base) = fs_dir(var) else { return };
    for (major, bin) in installations() {
        proof_of(Parent::on(major, &bin, &base, kind).await, kind).await;
    }
}

async fn proof_of(parent: Parent, kind: StorageKind) {
    let major = parent.major;
    let sql = Sql::on(&parent.main).await;
    for statement in [
        "CREATE TABLE rows AS SELECT n, repeat('x', 1000) AS text
         FROM generate_series(1, 1000) n",
        "CREATE INDEX ON rows (n)",
        "CREATE UNLOGGED TABLE unlogged AS SELECT 1 n",
        "CREATE TABLE dropped AS TABLE rows",
        "CREATE DATABASE other",
        "SELECT pg_create_physical_replication_slot('parents', true)",
    ] {
        sql.run(statement).await;
    }
    drop(sql);
    // The parent's own place, as its files may name it.
    parent.configure(&format!("data_directory = '{}'\n", parent.data.display())).await;
    parent.main.stop().await.unwrap();
    let before = files(&parent.data);
    assert!(before.len() > 500, "{}", before.len());
    let same = |what: &str| {
        let what = format!("PostgreSQL {major}, {kind:?}, {what}");
        assert_same(&before, &files(&parent.data), &what);
    };
    for spec in [BranchSpec::ephemeral(), BranchSpec::named("lasting")] {
        let branch = parent.branch(spec).await;
        same("a branch was made");
        assert_ne!(data_of(&branch).await, parent.data);
        write_everywhere(&branch).await;
        same("it was written to");
        let second = parent.branch(BranchSpec::ephemeral().from(&branch)).await;
        Sql::on(&second).await.run("DROP TABLE rows").await;
        second.close().await.unwrap();
        if !branch.is_ephemeral() {
            branch.snapshot("one").await.unwrap();
            branch.reset().await.unwrap();
            write_everywhere(&branch).await;
            branch.stop().await.unwrap();
            same("it was reset and stopped");
        }
        branch.delete(true).await.unwrap();
        parent.project.finish_deletions().await.unwrap();
        same("it was deleted");
    }
    parent.main.start().await.unwrap();
    let sql = Sql::on(&parent.main).await;
    assert_eq!(sql.one("SELECT sum(n) FROM rows").await, "500500");
    assert_eq!(sql.one("SELECT n FROM unlogged").await, "1");
}

#[tokio::test]
async fn zfs() {
    for parent in Parent::on_zfs().await {
        proof_of(parent, StorageKind::Zfs).await;
    }
}

#[tokio::test]
async fn btrfs() {
    proof("VELO_TEST_BTRFS", StorageKind::Btrfs).await;
}

#[tokio::test]
async fn reflink() {
    proof("VELO_TEST_XFS", StorageKind::Reflink).await;
}

#[tokio::test]
async fn copy() {
    proof("VELO_TEST_EXT4", StorageKind::Copy).await;
}
