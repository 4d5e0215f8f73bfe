//! What a source's server wrote of its rows elsewhere than in its tables: none of it comes along.

use velo_core::import::{Method, Source};

use crate::common::client::sql;
use crate::common::scaled;
use crate::masks::{data, has};
use crate::methods::{home_of, import};
use crate::server::{Server, bins};

const LOCALE: [&str; 2] = ["--encoding=UTF8", "--locale=C.UTF-8"];

/// Where a method finds a server, which it may need stopped.
fn place(server: &Server, method: Method) -> Source {
    let from = match method {
        Method::Files => {
            server.stop();
            server.data().to_str().unwrap().to_owned()
        }
        _ => server.url("postgres"),
    };
    Source::new(from).unwrap().method(method).unwrap()
}

#[tokio::test]
async fn logs_of_the_source_do_not_come() {
    let Some(bin) = bins().pop() else { return };
    let settings = "logging_collector = on\nlog_directory = 'diary'\nlog_statement = 'all'";
    let server = Server::new(&bin, &LOCALE, settings);
    server.sql("postgres", "SELECT 'SECRET'").await;
    // Its collector writes when it comes to it.
    let begun = std::time::Instant::now();
    while has(&server.data().join("diary"), b"SECRET").is_none() {
        assert!(begun.elapsed() < scaled(std::time::Duration::from_secs(60)), "nothing is logged");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Older ones.
    for folder in ["log", "pg_log"] {
        std::fs::create_dir(server.data().join(folder)).unwrap();
        std::fs::write(server.data().join(folder).join("a"), "SECRET").unwrap();
    }
    std::fs::write(server.data().join("start.log"), "SECRET").unwrap();
    for method in [Method::Basebackup, Method::Files] {
        let home = home_of(&bin);
        let project = import(&home, place(&server, method)).await.unwrap();
        let main = project.main().await.unwrap();
        let folder = data(&main).await;
        main.stop().await.unwrap();
        assert_eq!(has(&folder, b"SECRET"), None, "{method}");
        for name in ["diary", "log", "pg_log", "start.log", "current_logfiles"] {
            assert!(!folder.join(name).exists(), "{method}: {name}");
        }
        main.start().await.unwrap();
    }
}

#[tokio::test]
async fn wal_of_what_was_masked_is_gone() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "min_wal_size = 200MB");
    let rows = "CREATE TABLE people AS SELECT n AS id, 'SECRET' || n AS name FROM generate_series(1, 5000) n";
    server.sql("postgres", rows).await;
    // Segments that are made ready are old ones.
    for _ in 0..3 {
        server.sql("postgres", "UPDATE people SET name = name || 'x'").await;
        server.sql("postgres", "SELECT pg_switch_wal()").await;
        server.sql("postgres", "CHECKPOINT").await;
    }
    // The source would keep all.
    server.sql("postgres", "ALTER SYSTEM SET wal_keep_size = '1GB'").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("masking.toml");
    std::fs::write(&file, "[tables.\"public.people\"]\nid = \"keep\"\nname = \"hash\"\n").unwrap();
    for method in [Method::Basebackup, Method::Dump, Method::Files] {
        let home = home_of(&bin);
        let source = place(&server, method).masking(&file);
        if method == Method::Files {
            assert!(has(&server.data().join("pg_wal"), b"SECRET").is_some());
        }
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        let hashed = "SELECT count(*) FROM people WHERE name ~ '^[0-9a-f]{32}$'";
        assert_eq!(sql(&main, hashed).await, "5000", "{method}");
        let folder = data(&main).await;
        main.stop().await.unwrap();
        assert_eq!(has(&folder, b"SECRET"), None, "{method}");
        main.start().await.unwrap();
    }
}

/// A statement that never commits leaves a file that no table has, and one that ends half-way in DROP DATABASE a folder.
#[tokio::test]
async fn files_of_nobodys_go_where_rows_are_masked_or_transformed() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    let rows = "CREATE TABLE people AS SELECT 'SECRET' || n AS name FROM generate_series(1, 500) n";
    server.sql("postgres", rows).await;
    server.sql("postgres", "ANALYZE").await;
    let ruin = server.data().join("base/4711");
    std::fs::create_dir(&ruin).unwrap();
    std::fs::write(ruin.join("2619"), "SECRET").unwrap();
    let url = server.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; CREATE TABLE other AS TABLE people").await.unwrap();
    server.sql("postgres", "CHECKPOINT").await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let source = || place(&server, Method::Basebackup);
    let masked = at("masking.toml", "[tables.\"public.people\"]\nname = \"hash\"\n");
    let trimmed = at("trim.sql", "TRUNCATE people");
    for source in [source().masking(masked), source().transform(trimmed)] {
        let what = format!("{source:?}");
        let home = home_of(&bin);
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        let known = "SELECT count(*) FROM pg_stats WHERE most_common_vals::text ~ 'SECRET' OR histogram_bounds::text ~ 'SECRET'";
        assert_eq!(sql(&main, known).await, "0", "{what}");
        let folder = data(&main).await;
        main.stop().await.unwrap();
        assert_eq!(has(&folder, b"SECRET"), None, "{what}");
        main.start().await.unwrap();
    }
    drop(client);
}

#[tokio::test]
async fn a_standbys_password_in_its_settings_does_not_come() {
    let Some(bin) = bins().pop() else { return };
    let settings = "primary_conninfo = 'user=ann password=SECRET'\ninclude_if_exists 'more.conf'\nwork_mem = '7MB'";
    let server = Server::new(&bin, &LOCALE, settings);
    for method in [Method::Basebackup, Method::Files] {
        let home = home_of(&bin);
        let project = import(&home, place(&server, method)).await.unwrap();
        let main = project.main().await.unwrap();
        assert_eq!(sql(&main, "SHOW work_mem").await, "7MB", "{method}");
        let folder = data(&main).await;
        main.stop().await.unwrap();
        assert_eq!(has(&folder, b"SECRET"), None, "{method}");
        let notes = project.info().source.unwrap().notes.join("; ");
        assert!(
            notes.contains("is gone: primary_conninfo") && notes.contains("includes"),
            "{notes}"
        );
    }
}
