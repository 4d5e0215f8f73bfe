//! What a source's server wrote of its rows elsewhere than in its tables: none of it comes along.

use velo_core::import::{Method, Source};

use crate::common::client::sql;
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
    assert!(has(&server.data().join("diary"), b"SECRET").is_some());
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
