//! Parents that follow a primary, recover to a target, or hold slots.

use velo_core::{Branch, BranchSpec};

use crate::rig::{Parent, Silence, Sql, assert_same, data_of, files, installations};

/// Settings with which a server would connect to `port` and never take a write.
fn following(port: u16) -> String {
    format!(
        "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n\
         primary_slot_name = 'the_parents'\nrecovery_target_action = 'shutdown'\n\
         recovery_target_timeline = '7'\nrecovery_min_apply_delay = '1h'\n\
         hot_standby_feedback = on\n"
    )
}

const TARGETS: [&str; 5] = [
    "recovery_target = 'immediate'",
    "recovery_target_xid = '1'",
    "recovery_target_lsn = '0/1'",
    "recovery_target_name = 'never'",
    "recovery_target_time = '2001-01-01 00:00:00+00'",
];

/// A branch goes its own way: it takes writes, and still does after a start of its own.
async fn goes_its_own_way(branch: &Branch, what: &str) {
    let sql = Sql::on(branch).await;
    sql.run("CREATE TABLE own (n int); INSERT INTO own VALUES (1)").await;
    assert_eq!(sql.one("SELECT pg_is_in_recovery()").await, "f", "{what}");
    assert_eq!(sql.one("SELECT count(*) FROM pg_stat_wal_receiver").await, "0", "{what}");
    for name in ["primary_conninfo", "primary_slot_name", "restore_command"] {
        assert_eq!(sql.show(name).await.replace("false", ""), "", "{what}: {name}");
    }
    assert_eq!(sql.one("SELECT n FROM parents").await, "1", "{what}");
    let data = data_of(branch).await;
    for signal in ["standby.signal", "recovery.signal"] {
        assert!(!data.join(signal).exists(), "{what}: {signal}");
    }
    if !branch.is_ephemeral() {
        branch.restart().await.unwrap();
        let sql = Sql::on(branch).await;
        assert_eq!(sql.one("SELECT n FROM own").await, "1", "{what}");
    }
}

async fn parent_with_a_table(major: u32, bin: &std::path::Path) -> Parent {
    with_a_table(Parent::new(major, bin).await).await
}

async fn with_a_table(parent: Parent) -> Parent {
    let sql = Sql::on(&parent.main).await;
    sql.run("CREATE TABLE parents (n int); INSERT INTO parents VALUES (1)").await;
    parent
}

#[tokio::test]
async fn targets_of_the_parent_are_none_of_the_branch() {
    for (major, bin) in installations() {
        let silence = Silence::new();
        let parent = parent_with_a_table(major, &bin).await;
        for target in TARGETS {
            let slots = if major >= 17 { "sync_replication_slots = on\n" } else { "" };
            let settings = format!("{}{slots}{target}\n", following(silence.port()));
            parent.configure(&settings).await;
            parent.main.stop().await.unwrap();
            // Only a recovery looks at targets.
            parent.write("recovery.signal", "");
            let before = files(&parent.data);
            let branch = parent.ephemeral().await;
            goes_its_own_way(&branch, target).await;
            branch.close().await.unwrap();
            assert_same(&before, &files(&parent.data), target);
            std::fs::remove_file(parent.data.join("recovery.signal")).unwrap();
        }
        silence.assert_unbroken("a primary that the parent names");
    }
}

#[tokio::test]
async fn a_branch_of_a_standby_does_not_follow() {
    for (major, bin) in installations() {
        does_not_follow(parent_with_a_table(major, &bin).await).await;
    }
}

#[tokio::test]
async fn a_branch_of_a_standby_on_zfs_does_not_follow() {
    for parent in Parent::on_zfs().await {
        does_not_follow(with_a_table(parent).await).await;
    }
}

async fn does_not_follow(parent: Parent) {
    let major = parent.major;
    let silence = Silence::new();
    parent.configure(&following(silence.port())).await;
    parent.main.stop().await.unwrap();
    for signals in [&["standby.signal"][..], &["standby.signal", "recovery.signal"]] {
        for signal in signals {
            parent.write(signal, "");
        }
        let before = files(&parent.data);
        let ephemeral = parent.ephemeral().await;
        goes_its_own_way(&ephemeral, &format!("{major} {signals:?}, ephemeral")).await;
        ephemeral.close().await.unwrap();
        let lasting = parent.branch(BranchSpec::named("lasting")).await;
        goes_its_own_way(&lasting, &format!("{major} {signals:?}, lasting")).await;
        lasting.delete(true).await.unwrap();
        assert_same(&before, &files(&parent.data), "a stopped standby");
        for signal in signals {
            std::fs::remove_file(parent.data.join(signal)).unwrap();
        }
    }
    // A running one.
    parent.write("standby.signal", "");
    parent.main.start().await.unwrap();
    let sql = Sql::on(&parent.main).await;
    assert_eq!(sql.one("SELECT pg_is_in_recovery()").await, "t", "{major}: no standby");
    let ephemeral = parent.ephemeral().await;
    goes_its_own_way(&ephemeral, &format!("{major} running standby, ephemeral")).await;
    ephemeral.close().await.unwrap();
    let lasting = parent.branch(BranchSpec::named("lasting")).await;
    goes_its_own_way(&lasting, &format!("{major} running standby, lasting")).await;
    lasting.delete(true).await.unwrap();
    assert_eq!(sql.one("SELECT pg_is_in_recovery()").await, "t", "{major}: promoted");
    silence.assert_unbroken("the primary of the parent");
}

async fn make_slots(sql: &Sql, logical: &[&str]) {
    sql.run("SELECT pg_create_physical_replication_slot('physical', true)").await;
    for name in logical {
        sql.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')"))
            .await;
    }
}

#[tokio::test]
async fn slots_stay_with_the_parent() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        parent.configure("wal_level = logical\nmax_replication_slots = 3\n").await;
        let sql = Sql::on(&parent.main).await;
        sql.run("CREATE TABLE t (n int)").await;
        make_slots(&sql, &["logical"]).await;
        drop(sql);
        let names = "SELECT slot_name FROM pg_replication_slots ORDER BY 1";
        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                assert_eq!(sql.run(names).await, [""; 0], "{what}");
                // The names are free, and as many as in the parent can be made.
                make_slots(&sql, &["logical", "third"]).await;
                // Decoding sees what is on disk, which an asynchronous commit need not be.
                sql.run("SET synchronous_commit = on; INSERT INTO t VALUES (1)").await;
                let seen = sql
                    .run("SELECT data FROM pg_logical_slot_get_changes('logical', NULL, NULL)")
                    .await;
                assert!(seen.iter().any(|row| row.contains("INSERT")), "{what}: {seen:?}");
            })
            .await;
        let sql = Sql::on(&parent.main).await;
        assert_eq!(sql.run(names).await, ["logical", "physical"], "{major}");
        sql.run("INSERT INTO t VALUES (7)").await;
        let seen =
            sql.run("SELECT data FROM pg_logical_slot_get_changes('logical', NULL, NULL)").await;
        let inserts: Vec<_> = seen.iter().filter(|row| row.contains("INSERT")).collect();
        assert_eq!(inserts.len(), 1, "{major}: {seen:?}");
        assert!(inserts[0].contains('7'), "{major}: {seen:?}");
    }
}

#[tokio::test]
async fn decoding_waits_for_no_standby_of_the_parent() {
    // 17 brought the setting.
    for (major, bin) in installations().into_iter().filter(|(major, _)| *major >= 17) {
        let parent = Parent::new(major, &bin).await;
        parent.configure("wal_level = logical\nsynchronized_standby_slots = 'the_standby'\n").await;
        let sql = Sql::on(&parent.main).await;
        sql.run("CREATE TABLE t (n int)").await;
        drop(sql);
        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                sql.run(
                    "SELECT pg_create_logical_replication_slot('s', 'test_decoding', false, false,
                       true)",
                )
                .await;
                sql.run("SET synchronous_commit = on; INSERT INTO t VALUES (1)").await;
                let seen =
                    sql.run("SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL)").await;
                assert!(seen.iter().any(|row| row.contains("INSERT")), "{what}: {seen:?}");
            })
            .await;
    }
}
