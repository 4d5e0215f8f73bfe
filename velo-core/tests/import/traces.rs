//! What a source's server wrote of its rows elsewhere than in its tables: none of it comes along.

use velo_core::import::{Method, Source};

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
