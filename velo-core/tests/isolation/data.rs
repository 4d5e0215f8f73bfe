//! What the parent's data folder may hold: prepared transactions, tablespaces, links.

use std::os::unix::fs::{MetadataExt, symlink};

use velo_core::{BranchSpec, ErrorKind};

use crate::rig::{Parent, Sql, World, installations};

#[tokio::test]
async fn prepared_transactions_are_in_both() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        parent.configure("max_prepared_transactions = 3\n").await;
        let sql = Sql::on(&parent.main).await;
        sql.run("CREATE TABLE t (n int)").await;
        for n in [1, 2] {
            sql.run(&format!("BEGIN; INSERT INTO t VALUES ({n}); PREPARE TRANSACTION 'it''s {n}'"))
                .await;
        }
        let names = "SELECT gid FROM pg_prepared_xacts ORDER BY 1";
        // What the files say is not what the running server has.
        sql.run("ALTER SYSTEM SET max_prepared_transactions = 0").await;
        for running in [true, false] {
            if !running {
                parent.main.stop().await.unwrap();
            }
            for spec in [BranchSpec::ephemeral(), BranchSpec::named("lasting")] {
                let branch = parent.branch(spec).await;
                let mut own = Sql::on(&branch).await;
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                    own = Sql::on(&branch).await;
                }
                assert_eq!(own.run(names).await, ["it's 1", "it's 2"], "{major} {running}");
                own.run("COMMIT PREPARED 'it''s 1'").await;
                own.run("ROLLBACK PREPARED 'it''s 2'").await;
                assert_eq!(own.run("SELECT n FROM t").await, ["1"], "{major} {running}");
                branch.delete(true).await.unwrap();
            }
        }
        parent.write("postgresql.auto.conf", "");
        parent.main.start().await.unwrap();
        let sql = Sql::on(&parent.main).await;
        assert_eq!(sql.run(names).await, ["it's 1", "it's 2"], "{major}: the parent's");
        assert_eq!(sql.one("SELECT count(*) FROM t").await, "0", "{major}: the parent's");
    }
}

#[tokio::test]
async fn in_place_tablespaces_are_cloned() {
    for (major, bin) in installations().into_iter().filter(|(major, _)| *major >= 15) {
        let parent = Parent::new(major, &bin).await;
        let sql = Sql::on(&parent.main).await;
        sql.run("SET allow_in_place_tablespaces = on").await;
        sql.run("CREATE TABLESPACE inside LOCATION ''").await;
        sql.run("CREATE TABLE t TABLESPACE inside AS SELECT generate_series(1, 1000) n").await;
        let sum = "SELECT sum(n) FROM t";
        parent
            .each(async |branch, what| {
                let own = Sql::on(branch).await;
                assert_eq!(own.one(sum).await, "500500", "{what}");
                // A branch of one without fsync is made in backup mode.
                let second = parent.branch(BranchSpec::ephemeral().from(branch)).await;
                assert_eq!(Sql::on(&second).await.one(sum).await, "500500", "{what}");
                second.close().await.unwrap();
                own.run("UPDATE t SET n = 0").await;
                own.run("CHECKPOINT").await;
                own.run("CREATE TABLE u TABLESPACE inside AS TABLE t").await;
                assert_eq!(own.one(sum).await, "0", "{what}");
            })
            .await;
        let sql = Sql::on(&parent.main).await;
        assert_eq!(sql.one(sum).await, "500500", "{major}: the parent's");
        assert_eq!(sql.one("SELECT to_regclass('u')").await, "NULL", "{major}: the parent's");
    }
}

/// Whatever is branched, nothing comes of it, and the error names the link and a way out.
async fn is_refused(parent: &Parent, link: &str) {
    // What was closed before may still be on its way out.
    parent.project.finish_deletions().await.unwrap();
    let left = parent.home.left();
    for spec in [BranchSpec::ephemeral(), BranchSpec::named("lasting")] {
        let error = velo_core::Branch::create(&parent.project, spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.to_string().contains(link), "{error}");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(error.hint().is_some(), "{error}");
        assert!(error.cleanup().is_empty(), "{error:?}");
    }
    let error = parent.main.snapshot("refused").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert_eq!(parent.home.left(), left, "left behind");
    let branches = parent.project.branches().await.unwrap();
    assert_eq!(branches.len(), 1, "{branches:?}");
    assert_eq!(parent.project.snapshots().await.unwrap().len(), 0);
}

#[tokio::test]
async fn links_out_of_the_data_folder_are_refused() {
    for (major, bin) in installations() {
        let world = World::new(&["space", "wal"]);
        let parent = Parent::new(major, &bin).await;
        let owner = parent.data.metadata().unwrap();
        for folder in ["space", "wal"] {
            let path = world.path(folder);
            std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let sql = Sql::on(&parent.main).await;
        sql.run(&format!("CREATE TABLESPACE outside LOCATION '{}'", world.at("space"))).await;
        sql.run("CREATE TABLE t TABLESPACE outside AS SELECT 1 n").await;
        is_refused(&parent, "pg_tblspc/").await;
        assert_eq!(sql.one("SELECT n FROM t").await, "1", "{major}");
        drop(sql);
        parent.main.stop().await.unwrap();
        let before = world.files();
        is_refused(&parent, "pg_tblspc/").await;
        crate::rig::assert_same(&before, &world.files(), "the tablespace");
        parent.main.start().await.unwrap();
        let sql = Sql::on(&parent.main).await;
        sql.run("DROP TABLE t").await;
        sql.run("DROP TABLESPACE outside").await;
        drop(sql);
        parent.ephemeral().await.close().await.unwrap();

        // The WAL elsewhere, as `initdb --waldir` makes it.
        parent.main.stop().await.unwrap();
        let wal = parent.data.join("pg_wal");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(wal.join("."))
            .arg(world.path("wal"))
            .status()
            .unwrap();
        assert!(copied.success());
        std::fs::remove_dir_all(&wal).unwrap();
        symlink(world.path("wal"), &wal).unwrap();
        let before = world.files();
        is_refused(&parent, "pg_wal").await;
        crate::rig::assert_same(&before, &world.files(), "the WAL");
        parent.main.start().await.unwrap();
        is_refused(&parent, "pg_wal").await;
        // The parent's server goes on.
        let sql = Sql::on(&parent.main).await;
        sql.run("CREATE TABLE after (n int)").await;
    }
}

#[tokio::test]
async fn links_within_the_data_folder_lead_to_the_branch_s_own() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        parent.main.stop().await.unwrap();
        parent.write("real/settings.conf", "work_mem = '7MB'\n");
        symlink("../real/settings.conf", parent.data.join("real/link.conf")).unwrap();
        let conf = parent.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, format!("{text}\ninclude 'real/link.conf'\n")).unwrap();
        parent.main.start().await.unwrap();
        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                assert_eq!(sql.show("work_mem").await, "7MB", "{what}");
                let data = crate::rig::data_of(branch).await;
                let real = data.join("real/link.conf").canonicalize().unwrap();
                assert!(real.starts_with(data.canonicalize().unwrap()), "{what}: {real:?}");
            })
            .await;
    }
}
