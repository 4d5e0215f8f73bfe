//! Logical subscriptions of the parent to a publisher that really runs.

use std::collections::BTreeSet;

use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project, ResetTarget};

use crate::rig::{Parent, Sql, installations};

/// A publisher beside the parent: the main branch of another project.
struct Publisher {
    main: Branch,
    sql: Sql,
}

impl Publisher {
    async fn beside(parent: &Parent) -> Self {
        let builder = Project::builder("publisher").config(parent.home.config().clone());
        let main = builder.create().await.unwrap().main().await.unwrap();
        let sql = Sql::on(&main).await;
        for setting in ["wal_level = logical", "log_connections = on", "max_wal_senders = 20"] {
            sql.run(&format!("ALTER SYSTEM SET {setting}")).await;
        }
        main.restart().await.unwrap();
        let sql = Sql::on(&main).await;
        sql.run("CREATE TABLE shared (n int PRIMARY KEY)").await;
        sql.run("CREATE PUBLICATION p FOR TABLE shared").await;
        Self { main, sql }
    }

    fn conninfo(&self) -> String {
        let to = self.main.connection();
        format!(
            "host={} port={} user={} password={} dbname={}",
            to.host, to.port, to.user, to.password, to.database
        )
    }

    async fn slots(&self) -> Vec<String> {
        let all = "SELECT slot_name || ' ' || active FROM pg_replication_slots ORDER BY 1";
        self.sql.run(all).await
    }

    /// Everybody who ever connected as a replication client or otherwise.
    fn visitors(&self) -> usize {
        let log = std::fs::read_to_string(self.main.log_file()).unwrap();
        log.lines().filter(|line| line.contains("connection received")).count()
    }
}

/// Creates a subscription whose slot has the name `slot`.
async fn subscribe(sql: &Sql, publisher: &Publisher, name: &str, slot: &str) {
    sql.run("CREATE TABLE IF NOT EXISTS shared (n int PRIMARY KEY)").await;
    sql.run(&format!(
        "CREATE SUBSCRIPTION \"{}\" CONNECTION '{}' PUBLICATION p WITH (slot_name = '{slot}')",
        name.replace('"', "\"\""),
        publisher.conninfo()
    ))
    .await;
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

const DATABASES: [&str; 4] =
    ["app", "with space", "it's a \"quoted\" \\ one\tand a tab", "größe 数据 %s $1"];
const SUBSCRIPTIONS: [&str; 2] = ["plain", "it's \"so\" ünïcode \\ %"];

#[tokio::test]
async fn no_subscription_reaches_its_publisher() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        parent.configure("wal_retrieve_retry_interval = 1\n").await;
        let publisher = Publisher::beside(&parent).await;
        let first = Sql::on(&parent.main).await;
        let mut expected = BTreeSet::new();
        for (d, database) in DATABASES.iter().enumerate() {
            first.run(&format!("CREATE DATABASE {}", quoted(database))).await;
            let sql = Sql::database(&parent.main, database).await;
            for (s, name) in SUBSCRIPTIONS.iter().enumerate() {
                let name = format!("{name} {d}");
                subscribe(&sql, &publisher, &name, &format!("slot_{d}_{s}")).await;
                expected.insert(name);
            }
            // The parent is asked in passing what it does about DDL: the branch must not be.
            sql.run(
                "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE 'refused'; END $$",
            )
            .await;
            sql.run("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
                .await;
        }
        // One that lets nobody in, and none with the name of Velo's own.
        let closed = Sql::database(&parent.main, "app").await;
        closed.run("ALTER DATABASE \"with space\" ALLOW_CONNECTIONS false").await;
        let slots = publisher.slots().await;
        assert_eq!(slots.len(), expected.len(), "{slots:?}");
        drop((first, closed));
        let visitors = publisher.visitors();

        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                let state = sql
                    .run(
                        "SELECT concat_ws(' ', subname, subenabled, coalesce(subslotname, 'NONE'))
                         FROM pg_subscription",
                    )
                    .await;
                let state: BTreeSet<String> = state.into_iter().collect();
                let wanted: BTreeSet<String> =
                    expected.iter().map(|name| format!("{name} f NONE")).collect();
                assert_eq!(state, wanted, "{what}");
                let workers = "SELECT count(*) FROM pg_stat_activity
                               WHERE backend_type LIKE 'logical replication%'";
                assert_eq!(sql.one(workers).await, "0", "{what}");
                let open = "SELECT datname FROM pg_database WHERE NOT datallowconn ORDER BY 1";
                assert_eq!(sql.run(open).await, ["template0", "with space"], "{what}");
                sql.run("ALTER DATABASE \"with space\" ALLOW_CONNECTIONS true").await;
                for (d, database) in DATABASES.iter().enumerate() {
                    let sql = Sql::database(branch, database).await;
                    sql.run("DROP EVENT TRIGGER refuse").await;
                    for name in SUBSCRIPTIONS {
                        let name = quoted(&format!("{name} {d}"));
                        sql.run(&format!("DROP SUBSCRIPTION {name}")).await;
                    }
                    sql.run("DROP TABLE shared").await;
                }
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                }
            })
            .await;

        assert_eq!(publisher.visitors(), visitors, "{major}: somebody connected");
        assert_eq!(publisher.slots().await, slots, "{major}: the parent's slots");
        let sql = Sql::on(&parent.main).await;
        let kept = "SELECT count(*) FROM pg_subscription WHERE subenabled AND subslotname <> ''";
        assert_eq!(sql.one(kept).await, expected.len().to_string(), "{major}: the parent's own");
    }
}

#[tokio::test]
async fn a_table_being_synchronized_keeps_its_slot() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let publisher = Publisher::beside(&parent).await;
        let sql = Sql::on(&parent.main).await;
        subscribe(&sql, &publisher, "s", "s").await;
        // As if the parent were amid its first copy: PostgreSQL has a slot for each such table.
        let name = sql
            .one(
                "SELECT format('pg_%s_sync_%s_%s', srsubid, srrelid, system_identifier)
                 FROM pg_subscription_rel, pg_control_system()",
            )
            .await;
        sql.run("UPDATE pg_subscription_rel SET srsubstate = 'd'").await;
        publisher
            .sql
            .run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"))
            .await;
        drop(sql);
        let (slots, visitors) = (publisher.slots().await, publisher.visitors());
        assert_eq!(slots.len(), 2, "{slots:?}");
        parent
            .each(async |branch, what| {
                Sql::on(branch).await.run("DROP SUBSCRIPTION s").await;
                assert_eq!(publisher.slots().await, slots, "{what}");
            })
            .await;
        assert_eq!(publisher.visitors(), visitors, "{major}: somebody connected");
    }
}

#[tokio::test]
async fn the_database_of_the_urls_may_be_gone_or_closed() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let publisher = Publisher::beside(&parent).await;
        Sql::on(&parent.main).await.run("CREATE DATABASE app").await;
        let sql = Sql::database(&parent.main, "app").await;
        subscribe(&sql, &publisher, "s", "s").await;
        let (slots, visitors) = (publisher.slots().await, publisher.visitors());
        let cut_off = async |branch: &Branch, what: &str| {
            let sql = Sql::database(branch, "app").await;
            let state = "SELECT concat(subenabled, subslotname) FROM pg_subscription";
            assert_eq!(sql.one(state).await, "f", "{what}");
            sql.run("DROP SUBSCRIPTION s").await;
        };
        sql.run("ALTER DATABASE postgres ALLOW_CONNECTIONS false").await;
        parent.each(cut_off).await;
        let sql = Sql::database(&parent.main, "app").await;
        sql.run("DROP DATABASE postgres").await;
        drop(sql);
        parent.each(cut_off).await;
        assert_eq!(publisher.slots().await, slots, "{major}");
        assert_eq!(publisher.visitors(), visitors, "{major}: somebody connected");
    }
}

#[tokio::test]
async fn however_a_branch_is_made_it_is_cut_off() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let publisher = Publisher::beside(&parent).await;
        let sql = Sql::on(&parent.main).await;
        subscribe(&sql, &publisher, "s", "s").await;
        drop(sql);
        let (slots, visitors) = (publisher.slots().await, publisher.visitors());
        let snapshot = parent.main.snapshot("one").await.unwrap();
        let cut_off = async |branch: &Branch, what: &str| {
            let sql = Sql::on(branch).await;
            let state = "SELECT concat(subenabled, subslotname) FROM pg_subscription";
            assert_eq!(sql.one(state).await, "f", "{major} {what}");
        };

        // Nobody has cut off a branch that never ran, nor what is made from it.
        let stopped = parent.branch(BranchSpec::named("stopped").stopped()).await;
        let of_it = parent.branch(BranchSpec::ephemeral().from(&stopped)).await;
        cut_off(&of_it, "a branch of one that never ran").await;
        of_it.close().await.unwrap();
        let early = stopped.snapshot("early").await.unwrap();
        let of_it = parent.branch(BranchSpec::ephemeral().from(&early)).await;
        cut_off(&of_it, "a branch of a snapshot of one that never ran").await;
        of_it.close().await.unwrap();
        stopped.start().await.unwrap();
        cut_off(&stopped, "a branch that was made stopped").await;
        stopped.reset().await.unwrap();
        cut_off(&stopped, "reset").await;
        if parent.project.info().storage != StorageKind::Copy {
            stopped.reset_to(ResetTarget::Origin).await.unwrap();
            cut_off(&stopped, "reset to its origin").await;
        }
        stopped.reset_to(ResetTarget::Snapshot("early".into())).await.unwrap();
        cut_off(&stopped, "reset to a snapshot").await;
        stopped.stop().await.unwrap();
        stopped.reset().await.unwrap();
        stopped.start().await.unwrap();
        cut_off(&stopped, "reset while it was stopped").await;

        let of_it = parent.branch(BranchSpec::ephemeral().from(&snapshot)).await;
        cut_off(&of_it, "of a snapshot").await;
        of_it.reset().await.unwrap();
        cut_off(&of_it, "ephemeral, reset").await;
        of_it.keep_as("kept").await.unwrap();
        cut_off(&of_it, "kept").await;
        of_it.restart().await.unwrap();
        cut_off(&of_it, "kept and restarted").await;

        assert_eq!(publisher.visitors(), visitors, "{major}: somebody connected");
        assert_eq!(publisher.slots().await, slots, "{major}: the parent's slots");
    }
}
