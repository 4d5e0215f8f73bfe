//! Masking: nothing that was masked is left in the copy, and what belongs together stays so.

use velo_core::import::{Method, Source};
use velo_core::{Branch, ErrorKind, Project, RefreshSpec};

use crate::common::client::sql;
use crate::common::home::TestHome;
use crate::methods::{home_of, import};
use crate::server::{Server, bins};

const SCHEMA: &str = "
CREATE TABLE people (id bigint PRIMARY KEY, email text UNIQUE, name varchar(12), phone text, ssn text UNIQUE DEFERRABLE, code uuid, note text,
                     shout text GENERATED ALWAYS AS (upper(email)) STORED);
INSERT INTO people SELECT n, 'SECRET' || n || '@real.org', 'SECRETn' || n, 'SECRET-' || n, 'SECRET' || n,
    md5(n::text)::uuid, CASE WHEN n % 2 = 0 THEN 'SECRETnote' END FROM generate_series(1, 300) n;
CREATE TABLE visits (person bigint REFERENCES people, ssn text, at date, PRIMARY KEY (person, at)) PARTITION BY RANGE (at);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
INSERT INTO visits SELECT n, 'SECRET' || n, date '2020-01-01' + n FROM generate_series(1, 300) n;
CREATE TABLE log (line text); INSERT INTO log VALUES ('SECRET');
CREATE MATERIALIZED VIEW emails AS SELECT email FROM people;
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER no BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION no();
SELECT lo_from_bytea(0, 'SECRET');
ANALYZE;
";

const MASKING: &str = r#"
large_objects = "remove"
[tables]
"public.log" = "empty"
[tables."public.people"]
id = "hash"
email = "fake:email"
name = "fake:name"
phone = "null"
ssn = "hash"
code = "hash"
note = { constant = "gone" }
[tables."public.visits"]
person = "hash"
ssn = "hash"
at = "keep"
"#;

/// The file of a folder that a text is in.
pub fn has(folder: &std::path::Path, text: &[u8]) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = has(&path, text) {
                return Some(found);
            }
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|part| part == text) {
            return Some(path);
        }
    }
    None
}

/// The folder of a branch's data, whose server runs.
pub async fn data(branch: &Branch) -> std::path::PathBuf {
    let pid = branch.info().await.unwrap().pid.unwrap();
    std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

#[tokio::test]
async fn nothing_that_was_masked_is_left() {
    for bin in bins() {
        is_masked(&bin).await;
    }
}

/// By either method.
async fn is_masked(bin: &std::path::Path) {
    let server = Server::new(bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server.sql("postgres", SCHEMA).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("masking.toml");
    std::fs::write(&file, MASKING).unwrap();
    for method in [Method::Basebackup, Method::Dump] {
        let home = home_of(bin);
        let what = format!("{method} of {}", server.major);
        let source =
            Source::new(server.url("postgres")).unwrap().method(method).unwrap().masking(&file);
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        let one = async |query: &str| sql(&main, query).await;
        assert_eq!(one("SELECT count(*) FROM people WHERE people::text ~ 'SECRET'").await, "0");
        assert_eq!(
            one("SELECT count(*) || ' ' || count(DISTINCT email) FROM people").await,
            "300 300"
        );
        assert_eq!(one("SELECT count(*) FROM people WHERE email ~ '^user-[0-9a-f]{16}@example.com$' AND shout = upper(email)").await, "300");
        assert_eq!(one("SELECT max(length(name)) <= 12 AND bool_and(phone IS NULL) AND bool_and(note = 'gone') FROM people").await, "t");
        // Keys lead where they led, and equal values are equal in both tables.
        assert_eq!(
            one("SELECT count(*) FROM visits v JOIN people p ON p.id = v.person AND p.ssn = v.ssn")
                .await,
            "300"
        );
        assert_eq!(one("SELECT count(*) FROM people WHERE id BETWEEN 1 AND 300").await, "0");
        assert_eq!(
            one(
                "SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM pg_largeobject_metadata)"
            )
            .await,
            "0"
        );
        assert_eq!(one("SELECT count(*) FROM emails WHERE email ~ 'SECRET'").await, "0");
        assert_eq!(one("SELECT count(*) FROM pg_stats WHERE most_common_vals::text ~ 'SECRET' OR histogram_bounds::text ~ 'SECRET'").await, "0");
        assert_eq!(
            one("SELECT count(*) FROM pg_namespace WHERE nspname = 'velo_masking'").await,
            "0"
        );
        let folder = data(&main).await;
        main.stop().await.unwrap();
        assert_eq!(has(&folder, b"SECRET"), None, "{what}");
        main.start().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_declared_is_refused() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server.sql("postgres", SCHEMA).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("masking.toml");
    let home = home_of(&bin);
    let refused = async |text: &str, words: &str| {
        std::fs::write(&file, text).unwrap();
        let source = Source::new(server.url("postgres")).unwrap().masking(&file);
        let error = import(&home, source).await.expect_err(words);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(home.left().is_empty(), "{words}");
    };
    refused(&MASKING.replace("phone = \"null\"\n", ""), "the column public.people.phone").await;
    refused(&MASKING.replace("\"public.log\" = \"empty\"", ""), "the table public.log").await;
    refused(&MASKING.replace("large_objects = \"remove\"", ""), "large objects").await;
    refused(&MASKING.replace("person = \"hash\"", "person = \"keep\""), "masked in different ways")
        .await;
    refused(&MASKING.replace("at = \"keep\"", "at = \"hash\""), "hash knows no date").await;
    refused(&MASKING.replace("note = {", "nothing = \"keep\"\nnote = {"), "no column nothing")
        .await;
    // A column that is new in production, at a refresh.
    std::fs::write(&file, MASKING).unwrap();
    let source = Source::new(server.url("postgres")).unwrap().masking(&file).save_password();
    let home: TestHome = home_of(&bin);
    let project = import(&home, source).await.unwrap();
    server.sql("postgres", "ALTER TABLE people ADD salary int").await;
    let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
    assert!(error.to_string().contains("the column public.people.salary"), "{error}");
    assert_eq!(sql(&project.main().await.unwrap(), "SELECT count(*) FROM people").await, "300");
}

/// Variables that are set wherever this runs stand for keys.
#[tokio::test]
async fn the_same_key_gives_the_same_values_at_each_refresh() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server
        .sql("postgres", "CREATE TABLE people AS SELECT 7 AS id, 'Ada' AS name, 'Ada' AS city")
        .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("masking.toml");
    let keyed = |variable: &str| {
        let columns = "id = \"hash\"\nname = \"hash\"\ncity = \"fake:text\"\n";
        let text = format!("key_env = \"{variable}\"\n[tables.\"public.people\"]\n{columns}");
        std::fs::write(&file, text).unwrap();
    };
    keyed("VELO_TEST_PG");
    let home = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().masking(&file).save_password();
    let project = import(&home, source).await.unwrap();
    let values = async |project: &Project| {
        let shown = "SELECT id || '/' || name || '/' || city FROM people";
        sql(&project.main().await.unwrap(), shown).await
    };
    let first = values(&project).await;
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    assert_eq!(values(&project).await, first);
    keyed("PATH");
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    let other = values(&project).await;
    for (one, another) in first.split('/').zip(other.split('/')) {
        assert_ne!(one, another);
    }
    keyed("VELO_TEST_THAT_NOBODY_SETS");
    let error = project.refresh(RefreshSpec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("VELO_TEST_THAT_NOBODY_SETS"), "{error}");
    assert_eq!(values(&project).await, other);
}

/// Each takes a lock that lasts as long as its transaction. And what was in them is nowhere else.
#[tokio::test]
async fn more_large_objects_than_locks_are_removed() {
    let Some(bin) = bins().pop() else { return };
    let settings = "max_connections = 20\nmax_locks_per_transaction = 64";
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], settings);
    server.sql("postgres", "SELECT count(lo_create(0)) FROM generate_series(1, 20000)").await;
    let filled = "SELECT count(lo_from_bytea(0, convert_to('SECRET' || n, 'UTF8'))) FROM generate_series(1, 300) n";
    server.sql("postgres", filled).await;
    server.sql("postgres", "ANALYZE pg_largeobject").await;
    let known = "SELECT count(*) > 0 FROM pg_statistic WHERE starelid = 'pg_largeobject'::regclass";
    assert_eq!(server.sql("postgres", known).await, "t");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("masking.toml");
    std::fs::write(&file, "large_objects = \"remove\"\n[tables]\n").unwrap();
    let home = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().masking(&file);
    let source = source.method(Method::Basebackup).unwrap();
    let main = import(&home, source).await.unwrap().main().await.unwrap();
    assert_eq!(sql(&main, "SELECT count(*) FROM pg_largeobject_metadata").await, "0");
    assert_eq!(sql(&main, known).await, "f");
    let folder = data(&main).await;
    main.stop().await.unwrap();
    assert_eq!(has(&folder, b"SECRET"), None);
    main.start().await.unwrap();
}
