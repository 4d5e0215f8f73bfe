//! The password of a source: where it is while data comes, and which one is taken.

use velo_core::import::{Method, Source};
use velo_core::{ErrorKind, FollowSpec, RefreshSpec};

use crate::common::client::sql;
use crate::common::newest;
use crate::methods::{home_of, import};
use crate::server::{PASSWORD, Server, bins};

const LOCALE: [&str; 2] = ["--encoding=UTF8", "--locale=C.UTF-8"];

/// A function of the source's that fails where it finds a password: an index of its values is built by the restore, as the
/// user who runs the servers. A copy's socket is in a folder beside it.
const LOOKS: &str = "CREATE FUNCTION looks(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$ \
    DECLARE place text := pg_catalog.btrim(pg_catalog.current_setting('unix_socket_directories'), '\"'); \
    BEGIN IF place ~ '/s$' AND (pg_catalog.pg_stat_file(pg_catalog.regexp_replace(place, '/s$', '/secret'), true)).size > 0 \
    THEN RAISE 'the password is here'; END IF; RETURN n; END $f$; \
    CREATE TABLE t AS SELECT 1 AS n; CREATE INDEX ON t (looks(n))";

#[tokio::test]
async fn sql_of_the_source_finds_no_password_of_it() {
    for bin in newest(bins()) {
        let server = Server::new(&bin, &LOCALE, "");
        server.sql("postgres", "CREATE DATABASE shop").await;
        for database in ["postgres", "shop"] {
            server.sql(database, LOOKS).await;
        }
        let home = home_of(&bin);
        let source = Source::new(server.url("postgres")).unwrap().method(Method::Dump).unwrap();
        // Of the second one the password is needed again, once the first one's has run.
        let project = import(&home, source.databases(["postgres", "shop"])).await.unwrap();
        let main = project.main().await.unwrap();
        assert_eq!(sql(&main, "SELECT n FROM t").await, "1", "{}", server.major);
    }
}

#[tokio::test]
async fn a_password_that_is_recorded_is_replaced_by_one_that_is_let_in() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    server.sql("postgres", "CREATE ROLE ann SUPERUSER LOGIN PASSWORD 'one'").await;
    let home = home_of(&bin);
    let url = format!("postgresql://ann:one@127.0.0.1:{}/postgres", server.port);
    let source = Source::new(url).unwrap().method(Method::Basebackup).unwrap();
    let project = import(&home, source.save_password()).await.unwrap();
    let project = project.refresh(RefreshSpec::new()).await.unwrap();

    server.sql("postgres", "ALTER ROLE ann PASSWORD 'two'").await;
    for spec in [RefreshSpec::new(), RefreshSpec::new().password("three")] {
        let error = project.refresh(spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.hint().unwrap().contains("recorded"), "{error:?}");
    }
    let project = project.refresh(RefreshSpec::new().password("two")).await.unwrap();
    let project = project.refresh(RefreshSpec::new()).await.unwrap();

    // The URL of a main that follows has the new one.
    server.sql("postgres", "ALTER ROLE ann PASSWORD 'four'").await;
    let project = project.follow(FollowSpec::new().password("four")).await.unwrap();
    let main = project.main().await.unwrap();
    assert!(main.url().contains("//ann:four@"), "the recorded password");
    // One that is not given again stays as it is recorded.
    project.stop_following().await.unwrap();
    let project = project.follow(FollowSpec::new().save_password()).await.unwrap();
    assert!(project.main().await.unwrap().url().contains("//ann:four@"), "the recorded password");
}

#[tokio::test]
async fn a_password_that_is_not_recorded_stays_so() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    let home = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().method(Method::Dump).unwrap();
    let project = import(&home, source).await.unwrap();
    let project = project.refresh(RefreshSpec::new().password(PASSWORD)).await.unwrap();
    let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    for name in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(home.config().home().join(name)).unwrap_or_default();
        assert!(!bytes.windows(4).any(|part| part == b"s3cr"), "{name}");
    }
}
