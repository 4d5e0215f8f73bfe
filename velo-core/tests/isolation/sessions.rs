//! What the parent does to every session, and so to Velo's own; its passwords; and what is left
//! for sessions to reach out with.

use velo_core::{Branch, BranchSpec, ErrorKind};

use crate::rig::{Parent, Sql, installations};

const SETTINGS: [&str; 18] = [
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '1ms'",
    "search_path = evil, pg_catalog",
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "default_transaction_deferrable = on",
    "synchronous_commit = remote_apply",
    "log_statement = 'all'",
    "log_min_duration_statement = 0",
    "standard_conforming_strings = off",
    "client_encoding = latin1",
    "row_security = off",
    "role = powerless",
    "enable_seqscan = off",
    "session_preload_libraries = 'no_such_library'",
    "local_preload_libraries = 'no_such_library'",
];

#[tokio::test]
async fn settings_of_roles_and_databases_do_not_reach_velo() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let sql = Sql::on(&parent.main).await;
        for statement in [
            "CREATE ROLE powerless",
            "CREATE SCHEMA evil",
            "CREATE TABLE evil.pg_authid (rolname name, rolpassword text)",
            "CREATE VIEW evil.pg_database AS SELECT 1 / 0 AS datname",
            "CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'",
            "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql
             AS $$ SELECT 'off' $$",
        ] {
            sql.run(statement).await;
        }
        for setting in SETTINGS {
            for whom in ["ROLE postgres", "DATABASE postgres", "ROLE postgres IN DATABASE postgres"]
            {
                sql.run(&format!("ALTER {whom} SET {setting}")).await;
            }
        }
        if major >= 17 {
            sql.run("ALTER ROLE postgres SET transaction_timeout = '1ms'").await;
        }
        drop(sql);
        parent
            .each(async |branch, what| {
                let sql = Sql::unharmed(branch, major).await;
                sql.run("CREATE TABLE t (n int)").await;
                let left = "SELECT count(*) FROM pg_db_role_setting";
                assert_eq!(sql.one(left).await, "3", "{what}: the user's settings are gone");
                drop(sql);
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                    branch.snapshot("one").await.unwrap();
                    branch.reset().await.unwrap();
                }
                let second = parent.branch(BranchSpec::ephemeral().from(branch)).await;
                Sql::unharmed(&second, major).await.run("SELECT 1").await;
                assert_eq!(second.outgoing().await.unwrap(), [""; 0], "{what}");
                second.close().await.unwrap();
                let log = std::fs::read_to_string(branch.log_file()).unwrap();
                assert!(!log.contains("SCRAM-SHA-256$"), "{what}: the log has the password");
            })
            .await;
    }
}

#[tokio::test]
async fn login_triggers_are_not_fired_by_velo() {
    // 17 brought them.
    for (major, bin) in installations().into_iter().filter(|(major, _)| *major >= 17) {
        let parent = Parent::new(major, &bin).await;
        let sql = Sql::on(&parent.main).await;
        for statement in [
            "CREATE TABLE logins (who text)",
            "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.logins VALUES (current_setting('application_name'));
               IF current_setting('application_name') <> 'the test' THEN RAISE 'not you'; END IF;
             END $$",
            "CREATE EVENT TRIGGER note ON login EXECUTE FUNCTION note()",
            "ALTER EVENT TRIGGER note ENABLE ALWAYS",
        ] {
            sql.run(statement).await;
        }
        drop(sql);
        parent
            .each(async |branch, what| {
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                }
                // The user's own sessions fire it.
                let mut config: tokio_postgres::Config = branch.url().parse().unwrap();
                assert!(Sql::with(&config).await.is_err(), "{what}: the trigger is gone");
                config.application_name("the test");
                let sql = Sql::with(&config).await.unwrap();
                assert_eq!(sql.run("SELECT who FROM logins").await, ["the test"], "{what}");
            })
            .await;
    }
}

/// Who gets in with which password over TCP.
async fn lets_in(branch: &Branch, password: &str) -> bool {
    let mut config: tokio_postgres::Config = branch.url().parse().unwrap();
    config.password(password);
    Sql::with(&config).await.is_ok()
}

#[tokio::test]
async fn a_branch_s_url_works_whatever_became_of_the_password() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let recorded = parent.main.connection().password;
        for change in [
            "PASSWORD 'changed'",
            "PASSWORD NULL",
            "PASSWORD 'md5bec26d25a0e4a8bd8f3a0d1e5ae1e2a9'",
            "VALID UNTIL '2001-01-01'",
        ] {
            let sql = Sql::on(&parent.main).await;
            sql.run(&format!("ALTER ROLE postgres {change}")).await;
            let kept =
                sql.one("SELECT concat(rolpassword, rolvaliduntil) FROM pg_authid WHERE oid = 10");
            let kept = kept.await;
            for running in [true, false] {
                if !running {
                    parent.main.stop().await.unwrap();
                }
                for spec in [BranchSpec::ephemeral(), BranchSpec::named("lasting")] {
                    let branch = parent.branch(spec).await;
                    let what = format!("{major} {change} {running} {}", branch.is_ephemeral());
                    let own = branch.connection().password;
                    assert!(lets_in(&branch, &own).await, "{what}");
                    assert!(!lets_in(&branch, "changed").await, "{what}");
                    assert!(!lets_in(&branch, "").await, "{what}");
                    if !branch.is_ephemeral() {
                        assert_ne!(own, recorded, "{what}");
                        assert!(!lets_in(&branch, &recorded).await, "{what}: the parent's");
                    }
                    branch.delete(true).await.unwrap();
                }
                if running {
                    let now = sql.one(
                        "SELECT concat(rolpassword, rolvaliduntil) FROM pg_authid WHERE oid = 10",
                    );
                    assert_eq!(now.await, kept, "{major} {change}: the parent's was changed");
                }
            }
            parent.main.start().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_reaches_out_is_listed() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let sql = Sql::on(&parent.main).await;
        assert_eq!(parent.ephemeral().await.outgoing().await.unwrap(), [""; 0], "{major}");
        sql.run("CREATE DATABASE \"größe \"\"x\"\"\"").await;
        sql.run("CREATE DATABASE closed").await;
        sql.run("CREATE EXTENSION dblink").await;
        let other = Sql::database(&parent.main, "größe \"x\"").await;
        other.run("CREATE EXTENSION postgres_fdw").await;
        other.run("CREATE SERVER \"a 'server'\" FOREIGN DATA WRAPPER postgres_fdw").await;
        other
            .run(
                "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
                 WITH (connect = false)",
            )
            .await;
        let closed = Sql::database(&parent.main, "closed").await;
        closed.run("CREATE EXTENSION dblink").await;
        drop((other, closed));
        sql.run("ALTER DATABASE closed ALLOW_CONNECTIONS false").await;
        drop(sql);
        parent
            .each(async |branch, what| {
                let mut found = branch.outgoing().await.unwrap();
                found.sort();
                assert_eq!(
                    found,
                    [
                        "extension dblink in database postgres",
                        "foreign server a 'server' in database größe \"x\"",
                        "subscription s in database größe \"x\"",
                    ],
                    "{what}"
                );
            })
            .await;
        let stopped = parent.branch(BranchSpec::named("stopped").stopped()).await;
        assert_eq!(stopped.outgoing().await.unwrap_err().kind(), ErrorKind::Postgres);
    }
}
