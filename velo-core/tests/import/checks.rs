//! What must fit before data comes, and the way that is taken where it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use velo_core::import::{Method, Source, Stage};
use velo_core::{Branch, BranchSpec, Error, ErrorKind, Project};

use crate::common::client::sql;
use crate::common::home::{TestHome, eventually};
use crate::data::{fill, sums};
use crate::faults::refused;
use crate::methods::{home_of, import, url_in};
use crate::server::{Server, bins, bins_with_icu};

const LOCALE: [&str; 2] = ["--encoding=UTF8", "--locale=C.UTF-8"];

/// The error of a copy of its files, of which nothing is left.
async fn not_copied(home: &TestHome, url: &str, what: &str) -> Error {
    let source = Source::new(url).unwrap().method(Method::Basebackup).unwrap();
    let error = import(home, source).await.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{what}: {error}");
    assert!(error.hint().is_some(), "{what}: {error}");
    assert!(home.left().is_empty() && home.servers().is_empty(), "{what}");
    error
}

#[tokio::test]
async fn collations_of_another_version_are_refused_or_their_indexes_built_anew() {
    let Some(bin) = bins_with_icu().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    fill(&server).await;
    // As if its ICU were an older one.
    let older = "UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'german'";
    server.sql("shop", older).await;
    let home = home_of(&bin);
    // All databases come, so all must sort as they did.
    for database in ["shop", "an%20other"] {
        let error = not_copied(&home, &server.url(database), database).await;
        assert!(error.to_string().contains("german"), "{database}: {error}");
        assert!(error.hint().unwrap().contains("--reindex"), "{database}: {error:?}");
    }
    let source = Source::new(server.url("shop")).unwrap().method(Method::Basebackup).unwrap();
    let project = import(&home, source.reindex()).await.unwrap();
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    let is_own = "SELECT bool_and(collversion = pg_collation_actual_version(oid)) FROM pg_collation \
                  WHERE collname = 'german'";
    assert_eq!(sql(&branch, is_own).await, "t");
    assert_eq!(sums(&url_in(&branch, "shop")).await, sums(&server.url("shop")).await);
    branch.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_was_sorted_otherwise_is_dumped_and_not_copied() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    server.sql("postgres", "CREATE DATABASE sorted").await;
    server
        .sql("sorted", "CREATE TABLE t (x text PRIMARY KEY); INSERT INTO t VALUES ('a'), ('b')")
        .await;
    // Databases have known their version since 15. This name is the C library's, and not among those that never change.
    let other = "UPDATE pg_database SET datcollate = 'C.utf-8', datcollversion = '1.0' WHERE datname = 'sorted'";
    server.sql("postgres", other).await;
    let home = home_of(&bin);
    let error = not_copied(&home, &server.url("sorted"), "another version").await;
    assert!(error.to_string().contains("version 1.0"), "{error}");
    assert!(error.hint().unwrap().contains("--reindex"), "{error:?}");

    // Its indexes are built here, whatever they were there.
    let project = import(&home, Source::new(server.url("sorted")).unwrap()).await.unwrap();
    let source = project.info().source.unwrap();
    assert_eq!(source.method, Method::Dump);
    let is_told = |note: &String| note.contains("cannot be copied") && note.contains("version 1.0");
    assert!(source.notes.iter().any(is_told), "{:?}", source.notes);
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, "SELECT string_agg(x, '') FROM t").await, "ab");
    project.delete(true).await.unwrap();

    let missing = "UPDATE pg_database SET datcollate = 'xx_YY.UTF-8' WHERE datname = 'sorted'";
    server.sql("postgres", missing).await;
    let error = not_copied(&home, &server.url("postgres"), "a locale that is not here").await;
    assert!(error.to_string().contains("\"xx_YY.UTF-8\""), "{error}");
}

#[tokio::test]
async fn a_database_of_which_no_version_is_known_is_copied_where_text_sorts_alike() {
    // 14 knows none of any.
    let bins = bins();
    for bin in [bins.first(), bins.last()].into_iter().flatten() {
        let server = Server::new(bin, &LOCALE, "");
        server.sql("postgres", "CREATE DATABASE sorted").await;
        server.sql("sorted", "CREATE TABLE t AS SELECT 'a' AS x; CREATE INDEX ON t (x)").await;
        // This name is the C library's, and not among those that never change.
        let other = "UPDATE pg_database SET datcollate = 'C.utf-8' WHERE datname = 'sorted'";
        server.sql("postgres", other).await;
        let home = home_of(bin);
        let error = not_copied(&home, &server.url("sorted"), "no version").await;
        assert!(error.to_string().contains("is not known"), "{error}");
        assert!(error.hint().unwrap().contains("--reindex"), "{error:?}");
        let copy =
            || Source::new(server.url("sorted")).unwrap().method(Method::Basebackup).unwrap();
        is_sorted(&home, copy().reindex(), "built anew").await;

        // Any collation of the C library's tells which it is: that of here.
        let told = "CREATE COLLATION told (provider = libc, locale = 'C.UTF-8')";
        server.sql("sorted", told).await;
        for set in ["collcollate = 'xx_YY.utf8'", "collversion = pg_collation_actual_version(oid)"]
        {
            let told = format!("UPDATE pg_collation SET {set} WHERE collname = 'told'");
            server.sql("sorted", &told).await;
        }
        is_sorted(&home, copy(), "the same library").await;

        // A server that is stopped tells what was recorded.
        server.stop();
        let files = || Source::new(server.data().to_str().unwrap()).unwrap();
        is_sorted(&home, files(), "the same library in files").await;
        server.start();
        let older = "UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'told'";
        server.sql("sorted", older).await;
        server.stop();
        let error = refused(&home, files(), "another library in files").await;
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.hint().unwrap().contains("--reindex"), "{error:?}");
        is_sorted(&home, files().reindex(), "files, built anew").await;
    }
}

/// It comes.
async fn is_sorted(home: &TestHome, source: Source, what: &str) {
    let project = import(home, source).await.unwrap_or_else(|e| panic!("{what}: {e} {e:?}"));
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, "SELECT x FROM t").await, "a", "{what}");
    project.delete(true).await.unwrap();
    let gone = eventually(std::time::Duration::from_secs(30), || home.left().is_empty());
    assert!(gone, "{what}: {:?}", home.left());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_missed_before_anything_comes() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    for database in ["shop", "stock"] {
        server.sql("postgres", &format!("CREATE DATABASE {database}")).await;
    }
    let home = home_of(&bin);
    let of = |database: &str| Source::new(server.url(database)).unwrap();
    for (method, told) in [
        (Some(Method::Basebackup), "nowhere"),
        (Some(Method::Dump), "nowhere"),
        (None, "nowhere"),
        // It is there, and does not come.
        (Some(Method::Dump), "stock"),
    ] {
        let what = format!("{told}, {method:?}");
        let came = Arc::new(AtomicBool::new(false));
        let tells = came.clone();
        let source = of("shop").progress(move |progress| {
            if progress.stage != Stage::Check {
                tells.store(true, Ordering::Relaxed);
            }
        });
        let source = method.into_iter().fold(source, |source, own| source.method(own).unwrap());
        let builder = Project::builder("api").config(home.config().clone()).database(told);
        let error = builder.from(source).create().await.expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
        assert!(error.to_string().contains(told), "{what}: {error}");
        assert!(error.hint().unwrap().contains("shop"), "{what}: {error:?}");
        assert!(!came.load(Ordering::Relaxed), "{what}: something came");
        assert!(home.left().is_empty() && home.servers().is_empty(), "{what}");
    }

    // One that is chosen alone is the one that URLs name.
    let project = import(&home, of("postgres").databases(["stock"])).await.unwrap();
    assert_eq!(project.info().database, "stock");
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, "SELECT current_database()").await, "stock");
}

#[tokio::test]
async fn names_of_a_server_in_another_encoding_are_known() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=LATIN1", "--locale=C"], "");
    server.sql("postgres", "CREATE ROLE \"Zoë Müller\"").await;
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(&bin);
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let builder = Project::builder("api").config(home.config().clone()).role("Zoë Müller");
        // No superuser, and so not to be Velo's.
        let error = builder.from(source).create().await.expect_err("a role that is there");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{method}: {error}");
        assert!(error.to_string().contains("Zoë Müller"), "{method}: {error}");
        assert!(home.left().is_empty() && home.servers().is_empty(), "{method}");
    }
}

#[tokio::test]
async fn a_source_whose_commits_would_wait_for_a_copy_is_dumped() {
    let Some(bin) = bins().pop() else { return };
    let settings = "synchronous_standby_names = '*'\nsynchronous_commit = local";
    let server = Server::new(&bin, &LOCALE, settings);
    server.sql("postgres", "CREATE TABLE t AS SELECT 7 AS x").await;
    let home = home_of(&bin);
    let copy = Source::new(server.url("postgres")).unwrap().method(Method::Basebackup).unwrap();
    let error = refused(&home, copy, "commits would wait").await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("synchronous_standby_names"), "{error}");
    let project = import(&home, Source::new(server.url("postgres")).unwrap()).await.unwrap();
    assert_eq!(project.info().source.unwrap().method, Method::Dump);
    assert_eq!(sql(&project.main().await.unwrap(), "SELECT x FROM t").await, "7");
}

/// Makes a tablespace in a folder beside the server's data.
async fn tablespace_away(server: &Server) {
    let away = server.dir.path().join("away");
    std::fs::create_dir(&away).unwrap();
    if let Some((uid, gid)) = server.user {
        std::os::unix::fs::chown(&away, Some(uid), Some(gid)).unwrap();
    }
    let make = format!("CREATE TABLESPACE away LOCATION '{}'", away.display());
    server.sql("postgres", &make).await;
}

/// What makes a database names it.
#[tokio::test]
async fn a_database_in_a_tablespace_elsewhere_is_dumped_into_the_data_folder() {
    for bin in bins() {
        let server = Server::new(&bin, &LOCALE, "");
        tablespace_away(&server).await;
        server.sql("postgres", "CREATE DATABASE shop TABLESPACE away").await;
        server.sql("shop", "CREATE TABLE t AS SELECT 7 AS x").await;
        let home = home_of(&bin);
        let source = Source::new(server.url("shop")).unwrap().method(Method::Dump).unwrap();
        let main = import(&home, source).await.unwrap().main().await.unwrap();
        let found = "SELECT concat_ws(' ', current_database(), x, spcname) FROM t, pg_tablespace s \
                     JOIN pg_database d ON d.dattablespace = s.oid WHERE datname = current_database()";
        assert_eq!(sql(&main, found).await, "shop 7 pg_default", "{}", server.major);
    }
}

#[tokio::test]
async fn a_tablespace_elsewhere_is_dumped_into_the_data_folder() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    tablespace_away(&server).await;
    server.sql("postgres", "CREATE TABLE t TABLESPACE away AS SELECT 7 AS x").await;
    let home = home_of(&bin);
    let error = not_copied(&home, &server.url("postgres"), "a tablespace").await;
    assert!(error.to_string().contains("away"), "{error}");
    let project = import(&home, Source::new(server.url("postgres")).unwrap()).await.unwrap();
    let source = project.info().source.unwrap();
    assert_eq!(source.method, Method::Dump);
    assert!(
        source.notes.iter().any(|note| note.contains("tablespaces away")),
        "{:?}",
        source.notes
    );
    let main = project.main().await.unwrap();
    let found = "SELECT x::text || ' ' || (SELECT count(*) FROM pg_tablespace) FROM t";
    assert_eq!(sql(&main, found).await, "7 2");
}
