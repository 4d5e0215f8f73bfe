//! What goes wrong: an error that says it, nothing left, and an old `main` as it was.

use std::net::TcpListener;

use velo_core::cancel::Cancel;
use velo_core::import::{Method, Source, Stage};
use velo_core::{Error, ErrorKind, Project, RefreshSpec};

use crate::cable::{Cable, Fault, kill};
use crate::common::client::sql;
use crate::common::home::TestHome;
use crate::methods::{home_of, import};
use crate::server::{Server, bins};

/// A small server of the newest PostgreSQL.
pub async fn small() -> Option<Server> {
    let bin = bins().pop()?;
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server.sql("postgres", "CREATE TABLE t AS SELECT n, repeat(md5(n::text), 20) AS x FROM generate_series(1, 20000) n").await;
    Some(server)
}

/// Nothing of it is there: no volume, no server, no record.
fn is_clean(home: &TestHome, what: &str) {
    assert!(home.left().is_empty(), "{what}: {:?}", home.left());
    assert!(home.servers().is_empty(), "{what}");
    let projects = velo_core::blocking::Project::list(home.config()).unwrap();
    assert!(projects.is_empty(), "{what}: {projects:?}");
}

pub async fn refused(home: &TestHome, source: Source, what: &str) -> Error {
    let error = import(home, source).await.expect_err(what);
    assert!(error.hint().is_some(), "{what}: {error}");
    assert!(error.cleanup().is_empty(), "{what}: {error:?}");
    assert!(!format!("{error} {error:?}").contains("s3cr:t"), "{what}: {error:?}");
    is_clean(home, what);
    error
}

#[tokio::test]
async fn what_cannot_come_is_refused_and_says_why() {
    let Some(server) = small().await else { return };
    server.sql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE velo").await;
    let home = home_of(&server.bin);
    let of = |url: &str| Source::new(url).unwrap();

    let wrong = format!("postgresql://postgres:wrong@127.0.0.1:{}/postgres", server.port);
    let error = refused(&home, of(&wrong), "a wrong password").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("password authentication failed"), "{error}");

    let error = refused(&home, of(&server.url_of("postgres", "postgres")), "no password").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    let plain = format!("postgresql://plain:p@127.0.0.1:{}/postgres", server.port);
    let basebackup = of(&plain).method(Method::Basebackup).unwrap();
    let error = refused(&home, basebackup, "a role without REPLICATION").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.hint().unwrap().contains("REPLICATION"), "{error:?}");

    let dump = of(&plain).method(Method::Dump).unwrap();
    let error = refused(&home, dump, "a role of Velo's name").await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.hint().unwrap().contains("--role"), "{error:?}");
    server.sql("postgres", "DROP ROLE velo").await;

    let dump = of(&plain).method(Method::Dump).unwrap();
    let error = refused(&home, dump, "a role that may not read").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    let missing = of(&server.url("postgres")).databases(["nowhere"]);
    let error = refused(&home, missing, "a database that is not there").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = refused(&home, of(&server.url("nowhere")), "a database that is not there").await;
    assert!(error.to_string().contains("nowhere"), "{error}");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("postgresql://postgres:x@127.0.0.1:{closed}/postgres");
    let error = refused(&home, of(&nobody), "nobody listens").await;
    assert!(error.hint().unwrap().contains("port"), "{error:?}");
}

#[test]
fn what_is_no_source_is_not_told_again_for_there_may_be_a_password_in_it() {
    for text in [
        "postgress://ann:s3cr:t@h/d",
        "psql postgres://ann:s3cr:t@h/d?sslmode=require",
        "postgres:/ann:s3cr:t@h/d",
        "ann:s3cr:t@h/d",
        "postgres://h/d?oauth_client_secret=s3cr:t",
    ] {
        let error = Source::new(text).expect_err(text);
        assert!(error.hint().is_some(), "{text}: {error}");
        assert!(!format!("{error} {error:?}").contains("s3cr:t"), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn a_transform_that_fails_leaves_nothing() {
    let Some(server) = small().await else { return };
    let home = home_of(&server.bin);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let of = || Source::new(server.url("postgres")).unwrap();
    let bad = write("bad.sql", "DELETE FROM t;\nSELECT * FROM nothing;\n");
    let error = refused(&home, of().transform(&bad), "SQL that fails").await;
    assert!(error.to_string().contains("bad.sql, line 2"), "{error}");
    let bad = write("bad.sh", "#!/bin/sh\necho it is wrong >&2\nexit 3\n");
    let error = refused(&home, of().transform(&bad), "a program that fails").await;
    assert!(error.to_string().contains("it is wrong"), "{error}");
    let error = refused(&home, of().transform(dir.path().join("none.sql")), "no such file").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // In their order; a program finds the copy by its environment.
    let first = write(
        "1.sql",
        "CREATE TABLE trimmed AS SELECT count(*) AS n FROM t; DELETE FROM t WHERE n > 10",
    );
    let psql = server.bin.join("psql");
    let second = write(
        "2.sh",
        &format!(
            "#!/bin/sh\n{} -X -q -w -c 'UPDATE trimmed SET n = n + (SELECT count(*) FROM t)'\n",
            psql.display()
        ),
    );
    let project = import(&home, of().transform(&first).transform(&second)).await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, "SELECT n FROM trimmed").await, "20010");
    assert_eq!(project.info().source.unwrap().transforms, [first, second]);
}

#[tokio::test]
async fn an_extension_that_is_missing_is_named() {
    let bins = bins();
    let (Some(bin), true) = (bins.first(), bins.len() > 1) else { return };
    let server = Server::new(bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    // As if it were installed there alone.
    server.sql("postgres", "INSERT INTO pg_extension SELECT 99999, 'vector', extowner, extnamespace, false, '1', NULL, NULL FROM pg_extension LIMIT 1").await;
    let home = home_of(bins.last().unwrap());
    let dump = Source::new(server.url("postgres")).unwrap().method(Method::Dump).unwrap();
    let error = refused(&home, dump, "an extension that is not here").await;
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("vector"), "{error}");
    assert!(error.hint().unwrap().contains("pgvector/pgvector"), "{error:?}");

    server.sql("postgres", "DELETE FROM pg_extension WHERE extname = 'vector'").await;
    server.sql("postgres", "UPDATE pg_proc SET probin = '$libdir/postgis-3' WHERE oid = (SELECT oid FROM pg_proc WHERE prolang = 13 LIMIT 1)").await;
    let copy = Source::new(server.url("postgres")).unwrap().method(Method::Basebackup).unwrap();
    let error = refused(&crate::methods::home(), copy, "a library that is not here").await;
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(
        error.to_string().contains("postgis-3")
            && error.hint().unwrap().contains("postgis/postgis"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_network_that_is_cut_half_way_leaves_nothing() {
    let Some(server) = small().await else { return };
    let cable = Cable::to(server.port);
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(&server.bin);
        cable.fails(Fault::Cut);
        let url = cable.url(&server.url("postgres"), server.port);
        let source = Source::new(url).unwrap().method(method).unwrap().jobs(1);
        let error = refused(&home, source, method.as_str()).await;
        assert!(error.hint().unwrap().contains("network"), "{method}: {error:?}");
        assert!(cable.mend(), "{method}: it was not cut");
    }
}

#[tokio::test]
async fn a_source_that_is_killed_half_way_leaves_nothing() {
    let Some(server) = small().await else { return };
    let cable = Cable::to(server.port);
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(&server.bin);
        cable.fails(Fault::Kill(server.data()));
        let url = cable.url(&server.url("postgres"), server.port);
        let source = Source::new(url).unwrap().method(method).unwrap();
        let error = refused(&home, source, method.as_str()).await;
        assert_eq!(error.kind(), ErrorKind::Postgres, "{method}: {error}");
        assert!(cable.mend(), "{method}: it was not killed");
        server.start();
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM t").await, "20000");
    }
}

#[tokio::test]
async fn who_gives_up_leaves_nothing() {
    let Some(server) = small().await else { return };
    for stage in [Stage::Check, Stage::Copy, Stage::Dump, Stage::Restore, Stage::Transform] {
        let home = home_of(&server.bin);
        let dir = tempfile::tempdir().unwrap();
        let slow = dir.path().join("slow.sql");
        std::fs::write(&slow, "SELECT pg_sleep(600)").unwrap();
        let cancel = Cancel::new();
        let wish = cancel.clone();
        let method = if stage == Stage::Copy { Method::Basebackup } else { Method::Dump };
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let source = source.transform(&slow).progress(move |progress| {
            if progress.stage == stage {
                wish.cancel();
            }
        });
        let builder = Project::builder("api").config(home.config().clone()).from(source);
        let error = builder.create_unless(&cancel).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Canceled, "{stage:?}: {error}");
        is_clean(&home, stage.as_str());
    }
}

#[tokio::test]
async fn a_refresh_that_fails_changes_nothing() {
    let Some(server) = small().await else { return };
    // No superuser: REPLICATION is all that a copy of the files needs.
    server.sql("postgres", "CREATE ROLE carrier LOGIN REPLICATION PASSWORD 'p'").await;
    let cable = Cable::to(server.port);
    let home = home_of(&server.bin);
    let dir = tempfile::tempdir().unwrap();
    let trim = dir.path().join("trim.sql");
    let good = "DELETE FROM t WHERE n > 100";
    std::fs::write(&trim, good).unwrap();
    let url = format!("postgresql://carrier:p@127.0.0.1:{}/postgres", server.port);
    let url = cable.url(&url, server.port);
    let source = Source::new(url).unwrap().method(Method::Basebackup).unwrap();
    let project = import(&home, source.save_password().transform(&trim)).await.unwrap();
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE mine (x int)").await;
    let (url, before) = (main.url(), home.left().len());
    let fails = async |spec: RefreshSpec, what: &str| {
        let error = project.refresh(spec).await.expect_err(what);
        assert!(error.cleanup().is_empty(), "{what}: {error:?}");
        is_old(&home, &project, &url, before, what).await;
        error
    };

    std::fs::write(&trim, "SELECT 1/0").unwrap();
    let error = fails(RefreshSpec::new(), "a transform that fails").await;
    assert!(error.to_string().contains("division by zero"), "{error}");

    std::fs::write(&trim, "SELECT pg_sleep(600)").unwrap();
    let cancel = Cancel::new();
    let wish = cancel.clone();
    let spec = RefreshSpec::new().progress(move |progress| {
        if progress.stage == Stage::Transform {
            wish.cancel();
        }
    });
    let error = project.refresh_unless(spec, &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Canceled, "{error}");
    is_old(&home, &project, &url, before, "who gives up").await;
    std::fs::write(&trim, good).unwrap();

    let error = fails(RefreshSpec::new().password("wrong"), "a wrong password").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    server.sql("postgres", "ALTER ROLE carrier NOREPLICATION").await;
    let error = fails(RefreshSpec::new(), "a role without rights").await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.hint().unwrap().contains("REPLICATION"), "{error:?}");
    server.sql("postgres", "ALTER ROLE carrier REPLICATION").await;

    let library = "UPDATE pg_proc SET probin = '$libdir/NAME' WHERE proname = 'plpgsql_validator'";
    server.sql("postgres", &library.replace("NAME", "postgis-3")).await;
    let error = fails(RefreshSpec::new(), "an extension that is missing").await;
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("postgis-3"), "{error}");
    server.sql("postgres", &library.replace("NAME", "plpgsql")).await;

    cable.fails(Fault::Cut);
    let error = fails(RefreshSpec::new(), "a network that is cut").await;
    assert!(error.hint().unwrap().contains("network"), "{error:?}");
    assert!(cable.mend(), "it was not cut");

    cable.fails(Fault::Kill(server.data()));
    let error = fails(RefreshSpec::new(), "a source that is killed").await;
    assert_eq!(error.kind(), ErrorKind::Postgres, "{error}");
    assert!(cable.mend(), "it was not killed");
    fails(RefreshSpec::new(), "a source that is gone").await;

    server.start();
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, STATE).await, "100 false");
}

/// What `small` has, and whether `main` was changed since.
pub const STATE: &str = "SELECT count(*) || ' ' || (to_regclass('mine') IS NOT NULL)::text FROM t";

/// Main has the old data under the old URL, there is nothing beside it, and it is branched.
async fn is_old(home: &TestHome, project: &Project, url: &str, before: usize, what: &str) {
    let main = project.main().await.unwrap();
    assert_eq!(main.url(), url, "{what}");
    assert_eq!(sql(&main, STATE).await, "100 true", "{what}");
    project.finish_deletions().await.unwrap();
    assert_eq!(home.left().len(), before, "{what}: {:?}", home.left());
    let branch =
        velo_core::Branch::create(project, velo_core::BranchSpec::ephemeral()).await.unwrap();
    assert_eq!(sql(&branch, STATE).await, "100 true", "{what}");
    branch.close().await.unwrap();
}

#[tokio::test]
async fn a_dump_that_is_damaged_leaves_nothing() {
    let Some(server) = small().await else { return };
    let at = |name: &str| server.dir.path().join(name);
    for (format, name) in [("-Fp", "plain.sql"), ("-Fc", "custom")] {
        let path = at(name).to_str().unwrap().to_owned();
        let done = server.tool("pg_dump", &[format, "-d", &server.url("postgres"), "-f", &path]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let script = format!("gzip -c < {0} > {0}.gz", at("plain.sql").display());
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    for name in ["plain.sql", "custom", "plain.sql.gz"] {
        let bytes = std::fs::read(at(name)).unwrap();
        // The end of a line, after which there is nothing wrong with what is there.
        let half = bytes.len() / 2;
        let end = bytes[half..].iter().position(|byte| *byte == b'\n').unwrap_or_default();
        let cut = at(&format!("cut-{name}"));
        std::fs::write(&cut, &bytes[..half + end + 1]).unwrap();
        let home = home_of(&server.bin);
        refused(&home, Source::new(cut.to_str().unwrap()).unwrap(), name).await;
    }
}

/// One that ended in the middle of its work recovers where it is, before anybody takes its files.
#[tokio::test]
async fn files_of_a_server_that_was_killed_are_refused() {
    let Some(server) = small().await else { return };
    kill(&server.data());
    let home = home_of(&server.bin);
    let source = Source::new(server.data().to_str().unwrap()).unwrap();
    let error = refused(&home, source, "a server that was killed").await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    server.start();
    server.stop();
    let project = import(&home, Source::new(server.data().to_str().unwrap()).unwrap()).await;
    let main = project.unwrap().main().await.unwrap();
    assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "20000");
}
