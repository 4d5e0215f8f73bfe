//! `main` brought anew, beside the old one.

use std::os::unix::fs::PermissionsExt;

use velo_core::import::{Method, Source};
use velo_core::{Branch, BranchSpec, ErrorKind, Project, RefreshSpec};

use crate::common::client::sql;
use crate::methods::{home, home_of, import};
use crate::server::{PASSWORD, Server, bins};

#[tokio::test]
async fn a_refresh_takes_the_place_of_the_old_main() {
    let Some(bin) = bins().pop() else { return };
    for method in [Method::Basebackup, Method::Dump] {
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
        let home = home_of(&bin);
        let dir = tempfile::tempdir().unwrap();
        let trim = dir.path().join("trim.sql");
        std::fs::write(&trim, "CREATE TABLE transformed (x int)").unwrap();
        // It goes on until the file is there.
        let (wait, go) = (dir.path().join("wait"), dir.path().join("go"));
        let text = format!(
            "#!/bin/sh\nuntil [ -e '{}' ]; do [ -e \"$0\" ] && sleep 0.05 || exit 1; done\n",
            go.display()
        );
        std::fs::write(&wait, text).unwrap();
        std::fs::set_permissions(&wait, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&go, "").unwrap();
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let source = source.transform(&trim).transform(&wait);
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        let (url, before) = (main.url(), home.left().len());
        let kept = Branch::create(&project, BranchSpec::named("kept")).await.unwrap();
        sql(&main, "DROP TABLE t").await;
        server.sql("postgres", "UPDATE t SET n = 2").await;

        // The password was kept nowhere.
        let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        // While it goes on, branches are made of the old one, and nobody else changes main.
        std::fs::remove_file(&go).unwrap();
        let (other, begun) = (project.clone(), std::sync::Arc::new(tokio::sync::Notify::new()));
        let told = begun.clone();
        let spec = RefreshSpec::new().password(PASSWORD).progress(move |_| told.notify_one());
        let refresh = tokio::spawn(async move { other.refresh(spec).await });
        begun.notified().await;
        let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
        let state = "SELECT coalesce(to_regclass('t')::text, 'none')";
        assert_eq!(sql(&branch, state).await, "none");
        let error = main.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        // Nor does the project go from under it.
        let error = project.delete(true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        std::fs::write(&go, "").unwrap();
        let project = refresh.await.unwrap().unwrap();

        let main = project.main().await.unwrap();
        assert_eq!(main.url(), url, "{method}");
        assert_eq!(sql(&main, "SELECT n FROM t").await, "2", "{method}");
        sql(&main, "SELECT * FROM transformed").await;
        // Who came from the old one stays on it, until he is reset.
        assert_eq!(sql(&kept, "SELECT n FROM t").await, "1", "{method}");
        assert_eq!(sql(&branch, state).await, "none", "{method}");
        branch.close().await.unwrap();
        kept.reset().await.unwrap();
        assert_eq!(sql(&kept, "SELECT n FROM t").await, "2", "{method}");
        kept.delete(true).await.unwrap();
        project.finish_deletions().await.unwrap();
        assert_eq!(home.left().len(), before, "{method}: {:?}", home.left());
        assert!(project.info().source.unwrap().brought_at > 0);
    }
}

/// From a dump in a file to a server, with a transform, and back.
#[tokio::test]
async fn a_refresh_comes_from_elsewhere_and_that_is_recorded_once_it_has_come() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    for (database, n) in [("shop", 1), ("stock", 7)] {
        server.sql("postgres", &format!("CREATE DATABASE {database}")).await;
        server.sql(database, &format!("CREATE TABLE t AS SELECT {n} AS n")).await;
    }
    let dump = server.dir.path().join("dump").to_str().unwrap().to_owned();
    let done = server.tool("pg_dump", &["-Fc", "-d", &server.url("shop"), "-f", &dump]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    server.sql("shop", "UPDATE t SET n = 2").await;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = write("good.sql", "CREATE TABLE transformed AS SELECT n FROM t");
    let bad = write("bad.sql", "SELECT 1 / 0");
    let home = home_of(&bin);
    let project = import(&home, Source::new(&dump).unwrap()).await.unwrap();
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE mine (x int)").await;
    let (url, before) = (main.url(), home.left().len());

    let of =
        |database: &str| Source::new(server.url(database)).unwrap().method(Method::Dump).unwrap();
    for (source, kind) in [
        (of("shop").transform(&bad), ErrorKind::Postgres),
        // URLs name another database.
        (of("stock"), ErrorKind::NotFound),
    ] {
        let error = project.refresh(RefreshSpec::new().source(source)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint().is_some() && error.cleanup().is_empty(), "{error:?}");
        let open = Project::builder("api").config(home.config().clone()).open();
        let recorded = open.await.unwrap().info().source.unwrap();
        assert_eq!((recorded.method, &recorded.from), (Method::Sql, &dump));
        assert!(recorded.transforms.is_empty(), "{recorded:?}");
        assert_eq!(sql(&main, "SELECT n FROM t, (SELECT count(*) FROM mine) x").await, "1");
        project.finish_deletions().await.unwrap();
        assert_eq!(home.left().len(), before, "{:?}", home.left());
    }

    let elsewhere = of("shop").save_password().transform(&good);
    let project = project.refresh(RefreshSpec::new().source(elsewhere)).await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!((main.url(), sql(&main, "SELECT n FROM transformed").await), (url, "2".to_owned()));
    let recorded = project.info().source.unwrap();
    assert_eq!((recorded.method, recorded.transforms), (Method::Dump, vec![good]));

    // With nothing but what is recorded.
    server.sql("shop", "UPDATE t SET n = 3").await;
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(sql(&main, "SELECT n FROM transformed").await, "3");

    // Of which nothing counts for the next one.
    let back = RefreshSpec::new().source(Source::new(&dump).unwrap());
    let project = project.refresh(back).await.unwrap();
    let main = project.main().await.unwrap();
    let found = "SELECT n || ' ' || coalesce(to_regclass('transformed')::text, 'none') FROM t";
    assert_eq!(sql(&main, found).await, "1 none");
    assert!(project.info().source.unwrap().transforms.is_empty());
}

#[tokio::test]
async fn a_project_without_a_source_is_not_refreshed() {
    if bins().is_empty() {
        return;
    }
    let home = home();
    let project = home.project("empty").await;
    let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(project.info().source.is_none());
}

/// URLs go on to name the database that they named, whatever the next dump calls its own.
#[tokio::test]
async fn a_dump_of_another_name_comes_under_the_name_that_urls_have() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    let place = |name: &str| server.dir.path().join(name).to_str().unwrap().to_owned();
    for (database, n) in [("shop", 1), ("stock", 2)] {
        server.sql("postgres", &format!("CREATE DATABASE {database}")).await;
        server.sql(database, &format!("CREATE TABLE t AS SELECT {n} AS n")).await;
    }
    let dump = |tool: &str, args: &[&str], database: &str, name: &str| {
        let (url, path) = (server.url(database), place(name));
        let all = [args, &["-d", url.as_str(), "-f", path.as_str()]].concat();
        let done = server.tool(tool, &all);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for (told, name) in [(None, "shop"), (Some("postgres"), "postgres")] {
        let home = home_of(&bin);
        dump("pg_dump", &["-Fc"], "shop", "dump");
        let source = Source::new(place("dump")).unwrap();
        let builder = Project::builder("api").config(home.config().clone()).from(source);
        let builder = told.into_iter().fold(builder, |builder, name| builder.database(name));
        let project = builder.create().await.unwrap();
        let url = project.main().await.unwrap().url();
        assert!(url.ends_with(&format!("/{name}")), "{name}");
        dump("pg_dump", &["-Fc"], "stock", "dump");
        let project = project.refresh(RefreshSpec::new()).await.unwrap();
        assert_eq!(project.info().database, name);
        let main = project.main().await.unwrap();
        assert_eq!(main.url(), url, "{name}");
        assert_eq!(sql(&main, "SELECT n FROM t").await, "2", "{name}");
        let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
        assert_eq!(sql(&branch, "SELECT n FROM t").await, "2", "{name}");
        branch.close().await.unwrap();
    }

    // Plain SQL says itself where it goes: what is missing then is said, and nothing changes.
    for (tool, args) in [("pg_dump", &["-Fp", "-C"][..]), ("pg_dumpall", &[][..])] {
        let home = home_of(&bin);
        dump("pg_dump", &["-Fp", "-C"], "shop", "plain.sql");
        let project = import(&home, Source::new(place("plain.sql")).unwrap()).await.unwrap();
        let main = project.main().await.unwrap();
        assert_eq!(project.info().database, "shop");
        if tool == "pg_dumpall" {
            server.sql("postgres", "ALTER DATABASE shop RENAME TO shut").await;
        }
        dump(tool, args, "stock", "plain.sql");
        let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{tool}: {error}");
        assert!(error.hint().unwrap().contains("stock"), "{tool}: {error:?}");
        assert_eq!(sql(&main, "SELECT n FROM t").await, "1", "{tool}");
    }
}
