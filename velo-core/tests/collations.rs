//! Data whose text was sorted by another version of a collation gets no server: indexes would be
//! wrong. Another version is made up by changing the recorded one, of collations that have none:
//! those are on every machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::home::TestHome;
use velo_core::{Branch, BranchSpec, ErrorKind, Project};

/// A project of a PostgreSQL of its own.
struct Bench {
    project: Project,
    url: String,
    major: u32,
    _home: TestHome,
}

/// One for each PostgreSQL, with the collations `aged` and `old`.
async fn benches() -> Vec<Bench> {
    let mut benches = Vec::new();
    for bin in common::installations().unwrap_or_default() {
        let home = TestHome::with(None, |b| b.pg_bin(&bin));
        let project = home.project("sorted").await;
        let url = project.main().await.unwrap().url();
        let major = project.info().postgres.version.major;
        let bench = Bench { project, url, major, _home: home };
        for name in ["aged", "old"] {
            bench
                .sql(&format!("CREATE COLLATION {name} (provider = libc, locale = 'C.UTF-8')"))
                .await;
        }
        benches.push(bench);
    }
    benches
}

impl Bench {
    /// Runs SQL in `main`; the first value.
    async fn sql(&self, sql: &str) -> String {
        let (client, connection) =
            tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let messages = client.simple_query(sql).await.unwrap();
        messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Records a version of a collation, which is not the one that PostgreSQL sees.
    async fn age(&self, collation: &str, version: &str) {
        self.sql(&format!(
            "UPDATE pg_collation SET collversion = {version} WHERE collname = '{collation}'"
        ))
        .await;
    }

    async fn branch(&self) -> velo_core::Result<()> {
        Branch::create(&self.project, BranchSpec::ephemeral()).await?.close().await
    }

    /// Checks that a branch is refused because of what is `named`, and that nothing is left of it.
    async fn refused(&self, named: &str) {
        let error = self.branch().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{}: {error}", self.major);
        assert!(error.to_string().contains(named), "{}: {error}", self.major);
        assert!(error.hint().is_some_and(|hint| hint.contains("REINDEX")), "{}", self.major);
        assert_eq!(self.project.branches().await.unwrap().len(), 1, "{}", self.major);
        assert_eq!(self.sql("SELECT 1").await, "1", "main goes on");
    }
}

#[tokio::test]
async fn of_a_database() {
    for bench in benches().await {
        if bench.major < 15 {
            continue; // its databases record no version
        }
        bench
            .sql("CREATE DATABASE aged TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C.UTF-8'")
            .await;
        bench.branch().await.unwrap();
        bench.sql("UPDATE pg_database SET datcollversion = '1' WHERE datname = 'aged'").await;
        bench.refused("aged").await;
        bench.sql("UPDATE pg_database SET datcollversion = NULL WHERE datname = 'aged'").await;
        bench.branch().await.unwrap();
    }
}

#[tokio::test]
async fn of_an_index() {
    for bench in benches().await {
        bench.sql("CREATE TABLE people (name text COLLATE aged)").await;
        bench.age("aged", "'1'").await;
        // Nothing is sorted by it.
        bench.branch().await.unwrap();
        bench.age("aged", "NULL").await;
        bench.sql("CREATE INDEX ON people (length(name), name)").await;
        bench.sql("CREATE INDEX ON people ((name COLLATE old))").await;
        bench.branch().await.unwrap();
        for collation in ["aged", "old"] {
            bench.age(collation, "'1'").await;
            bench.refused(collation).await;
            bench.age(collation, "NULL").await;
        }
        bench.branch().await.unwrap();
    }
}

#[tokio::test]
async fn of_a_partition_key() {
    for bench in benches().await {
        bench.sql("CREATE TABLE people (name text COLLATE aged) PARTITION BY RANGE (name)").await;
        bench.branch().await.unwrap();
        bench.age("aged", "'1'").await;
        bench.refused("aged").await;
    }
}

#[tokio::test]
async fn of_a_branch_that_is_started_again() {
    for bench in benches().await {
        let branch = Branch::create(&bench.project, BranchSpec::named("other")).await.unwrap();
        bench.sql("CREATE TABLE people (name text COLLATE aged PRIMARY KEY)").await;
        bench.age("aged", "'1'").await;
        let main = bench.project.main().await.unwrap();
        main.stop().await.unwrap();
        let error = main.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{}: {error}", bench.major);
        assert!(main.info().await.unwrap().pid.is_none(), "it is not left running");
        // One that has no such data starts as ever.
        branch.restart().await.unwrap();
    }
}
