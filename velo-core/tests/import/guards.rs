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

#[tokio::test]
async fn what_fires_always_does_not_fire_and_is_as_it_was() {
    let Some(case) = Case::new("") else { return };
    let schema = "
        CREATE TABLE people (id int PRIMARY KEY, name text);
        INSERT INTO people SELECT n, 'SECRET' || n FROM generate_series(1, 100) n;
        CREATE TABLE parts (id int, name text) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
        INSERT INTO parts SELECT * FROM people;
        CREATE TABLE gone AS SELECT * FROM people;
        CREATE TABLE audit (line text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO audit SELECT to_jsonb(OLD)::text; RETURN NULL; END $$;
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER note AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER \"all\" AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER usual AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER off AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER note AFTER UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER no BEFORE TRUNCATE ON gone EXECUTE FUNCTION no();
        ALTER TABLE people ENABLE ALWAYS TRIGGER note, ENABLE REPLICA TRIGGER \"all\", DISABLE TRIGGER off;
        ALTER TABLE parts_1 ENABLE ALWAYS TRIGGER note;
        ALTER TABLE gone ENABLE ALWAYS TRIGGER no;
        CREATE RULE also AS ON UPDATE TO people DO ALSO INSERT INTO audit VALUES (OLD.name);
        CREATE RULE usual AS ON UPDATE TO people DO ALSO INSERT INTO audit VALUES (OLD.name);
        ALTER TABLE people ENABLE ALWAYS RULE also;
        CREATE EXTENSION postgres_fdw;
        CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL'; END $$;
        CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl();
        ALTER EVENT TRIGGER no_ddl ENABLE ALWAYS;
    ";
    case.server.sql("postgres", schema).await;
    let main = case
        .masked(
            "[tables]\n\"public.audit\" = \"keep\"\n\"public.gone\" = \"empty\"\n\
             [tables.\"public.people\"]\nid = \"keep\"\nname = \"hash\"\n\
             [tables.\"public.parts\"]\nid = \"keep\"\nname = \"hash\"\n",
        )
        .await;
    assert_eq!(sql(&main, "SELECT count(*) FROM audit").await, "0");
    assert_eq!(sql(&main, "SELECT count(*) FROM people WHERE name ~ 'SECRET'").await, "0");
    assert_eq!(sql(&main, "SELECT count(*) FROM parts WHERE name ~ 'SECRET'").await, "0");
    for state in [
        "SELECT string_agg(tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text, ', ' ORDER BY tgrelid::regclass::text, tgname) \
         FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT string_agg(rulename || ' ' || ev_enabled::text, ', ' ORDER BY rulename) \
         FROM pg_rewrite WHERE ev_type <> '1' AND ev_class = 'people'::regclass",
        "SELECT string_agg(evtname || ' ' || evtenabled::text, ', ') FROM pg_event_trigger",
        "SELECT string_agg(fdwname || ' ' || fdwhandler::regproc || ' ' || fdwvalidator::regproc, ', ') \
         FROM pg_foreign_data_wrapper",
        "SELECT count(*)::text FROM pg_depend WHERE refclassid = 'pg_proc'::regclass \
         AND classid = 'pg_foreign_data_wrapper'::regclass",
    ] {
        assert_eq!(sql(&main, state).await, case.server.sql("postgres", state).await, "{state}");
    }
}
