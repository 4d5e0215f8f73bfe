//! What goes wrong: an error that says it, nothing left, and an old `main` as it was.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use velo_core::cancel::Cancel;
use velo_core::import::{Method, Source, Stage};
use velo_core::{Error, ErrorKind, Project, RefreshSpec};

use crate::common::client::sql;
use crate::common::home::{TestHome, eventually};
use crate::methods::{home, home_of, import};
use crate::server::{Server, bins};

/// A small server of the newest PostgreSQL.
async fn small() -> Option<Server> {
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

async fn refused(home: &TestHome, source: Source, what: &str) -> Error {
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

/// Passes bytes on between a client and a server, until it is cut after so many.
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cable {
    /// With `most`, a connection that has brought so many bytes is cut, and all others with it.
    fn to(port: u16, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let shared = cut.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if shared.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to, counts) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = shared.clone();
                    std::thread::spawn(move || pass_on(from, to, counts.then_some(most), &cut));
                }
            }
        });
        Self { port: own, cut }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        // It waits for somebody who comes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, most: Option<usize>, cut: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    let mut passed = 0;
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    loop {
        if cut.load(Ordering::Relaxed) {
            break;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                passed += n;
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                if most.is_some_and(|most| passed > most) {
                    cut.store(true, Ordering::Relaxed);
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test]
async fn a_network_that_is_cut_leaves_nothing() {
    let Some(server) = small().await else { return };
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(&server.bin);
        let cable = Cable::to(server.port, 2 << 20);
        let url = server.url("postgres").replace(&server.port.to_string(), &cable.port.to_string());
        let source = Source::new(url).unwrap().method(method).unwrap().jobs(1);
        let error = refused(&home, source, method.as_str()).await;
        assert!(error.hint().unwrap().contains("network"), "{method}: {error:?}");
    }
}

#[tokio::test]
async fn a_source_that_is_killed_leaves_nothing() {
    let Some(server) = small().await else { return };
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(&server.bin);
        let data = server.data();
        let killed = Arc::new(AtomicBool::new(false));
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let source = source.progress(move |progress| {
            let begun = matches!(progress.stage, Stage::Copy | Stage::Dump);
            if begun && !killed.swap(true, Ordering::Relaxed) {
                kill(&data);
            }
        });
        refused(&home, source, method.as_str()).await;
        server.start();
        sql_of(&server).await;
    }
}

fn kill(data: &Path) {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid =
        rustix::process::Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    assert!(eventually(Duration::from_secs(20), || !data.join("postmaster.pid").exists()));
}

async fn sql_of(server: &Server) {
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM t").await, "20000");
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
async fn a_disk_that_is_full_leaves_nothing() {
    let (Some(base), Some(server)) = (crate::common::fs_dir("VELO_TEST_SMALL"), small().await)
    else {
        return;
    };
    let home = TestHome::with(Some(&base), |b| b.pg_bin(&server.bin));
    server.sql("postgres", "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 60) AS x FROM generate_series(1, 400000) n").await;
    for method in [Method::Basebackup, Method::Dump] {
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let error = refused(&home, source, method.as_str()).await;
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{method}: {error}");
    }
}

#[tokio::test]
async fn a_refresh_that_fails_changes_nothing() {
    let Some(server) = small().await else { return };
    let home = home();
    let dir = tempfile::tempdir().unwrap();
    let trim = dir.path().join("trim.sql");
    std::fs::write(&trim, "DELETE FROM t WHERE n > 100").unwrap();
    let source = Source::new(server.url("postgres")).unwrap().save_password().transform(&trim);
    let project = import(&home, source).await.unwrap();
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE mine (x int)").await;
    let (url, before) = (main.url(), home.left().len());
    let is_old = async |what: &str| {
        let main = project.main().await.unwrap();
        assert_eq!(main.url(), url, "{what}");
        let state = "SELECT count(*)::text || ' ' || (to_regclass('mine') IS NOT NULL) FROM t";
        assert_eq!(sql(&main, state).await, "100 true", "{what}");
        assert_eq!(home.left().len(), before, "{what}: {:?}", home.left());
        let branch =
            velo_core::Branch::create(&project, velo_core::BranchSpec::ephemeral()).await.unwrap();
        branch.close().await.unwrap();
    };

    std::fs::write(&trim, "SELECT 1/0").unwrap();
    let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    is_old("a transform that fails").await;

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
    is_old("who gives up").await;

    server.stop();
    project.refresh(RefreshSpec::new()).await.unwrap_err();
    is_old("a source that is gone").await;
}
