//! What a masking has to be told of, and must leave alone: other databases, what belongs to extensions, and
//! whatever leads elsewhere.

use std::path::PathBuf;

use velo_core::import::{Method, Source};
use velo_core::{Branch, ErrorKind};

use crate::common::client::{attempt, sql};
use crate::common::home::TestHome;
use crate::masks::{data, has};
use crate::methods::{home_of, import, url_in};
use crate::server::{Server, bins};

const LOCALE: [&str; 2] = ["--encoding=UTF8", "--locale=C.UTF-8"];

/// A server, and what a copy of its files is masked with.
struct Case {
    server: Server,
    home: TestHome,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Case {
    fn new(settings: &str) -> Option<Self> {
        let bin = bins().pop()?;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("masking.toml");
        let server = Server::new(&bin, &LOCALE, settings);
        Some(Self { home: home_of(&bin), server, file, _dir: dir })
    }

    fn source(&self, masking: &str) -> Source {
        std::fs::write(&self.file, masking).unwrap();
        let source = Source::new(self.server.url("postgres")).unwrap();
        source.method(Method::Basebackup).unwrap().masking(&self.file)
    }

    /// The masking is refused with these words, and nothing is left.
    async fn refused(&self, masking: &str, words: &str) {
        let error = import(&self.home, self.source(masking)).await.expect_err(words);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.hint().is_some(), "{error}");
        assert!(self.home.left().is_empty(), "{words}");
    }

    /// The masked `main`.
    async fn masked(&self, masking: &str) -> Branch {
        import(&self.home, self.source(masking)).await.unwrap().main().await.unwrap()
    }
}

#[tokio::test]
async fn no_database_is_left_unseen() {
    let Some(case) = Case::new("") else { return };
    case.server.sql("template1", "CREATE TABLE left_here AS SELECT 'SECRET' AS x").await;
    case.refused("[tables]\n", "there are others: template1").await;
    case.server.sql("postgres", "CREATE DATABASE shut").await;
    case.server.sql("shut", "CREATE TABLE t AS SELECT 'SECRET' AS x").await;
    let shut = "ALTER DATABASE shut ALLOW_CONNECTIONS false IS_TEMPLATE true";
    case.server.sql("postgres", shut).await;
    case.refused("[tables]\n", "others: shut, which takes no connections, template1").await;
    let main = case.masked("other_databases = \"drop\"\n[tables]\n").await;
    let names = "SELECT string_agg(datname || ' ' || datistemplate || ' ' || datallowconn, ', ' ORDER BY datname) \
                 FROM pg_database";
    let left = "postgres false true, template0 true false, template1 true true";
    assert_eq!(sql(&main, names).await, left);
    let count = "SELECT count(*) FROM pg_class WHERE relname = 'left_here'";
    assert_eq!(attempt(&url_in(&main, "template1"), count).await.unwrap(), "0");
    let folder = data(&main).await;
    main.stop().await.unwrap();
    assert_eq!(has(&folder, b"SECRET"), None);
    main.start().await.unwrap();
}
