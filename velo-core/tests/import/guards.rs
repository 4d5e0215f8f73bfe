//! What a masking has to be told of, and must leave alone: other databases, what belongs to extensions, and
//! whatever leads elsewhere.

use std::path::PathBuf;

use velo_core::import::{Method, Source};
use velo_core::{Branch, ErrorKind};

use crate::common::client::{attempt, sql};
use crate::common::home::TestHome;
use crate::masks::{data, has};
use crate::methods::{home_of, import, url_in};
use crate::server::{PASSWORD, Server, bins};

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

/// What another server is seen through, which has a table `far`.
fn foreign(far: &Server) -> String {
    format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER production FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '127.0.0.1', port '{}', dbname 'postgres');
         CREATE USER MAPPING FOR PUBLIC SERVER production OPTIONS (user 'postgres', password '{PASSWORD}');
         CREATE FOREIGN TABLE far (id int, at date, secret text) SERVER production;",
        far.port
    )
}

const REACHING: &str = "
CREATE TABLE orders (id int, at date, secret text) PARTITION BY RANGE (at);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE FOREIGN TABLE orders_far PARTITION OF orders FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
    SERVER production OPTIONS (table_name 'far');
INSERT INTO orders SELECT n, date '2020-01-01' + n, 'SECRET' || n FROM generate_series(1, 100) n;
CREATE TABLE old (id int, at date, secret text) PARTITION BY RANGE (at);
CREATE TABLE old_1 PARTITION OF old FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE FOREIGN TABLE old_far PARTITION OF old FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
    SERVER production OPTIONS (table_name 'far');
INSERT INTO old SELECT * FROM orders WHERE at < '2021-01-01';
CREATE TABLE base (id int, secret text); INSERT INTO base VALUES (1, 'SECRET');
CREATE TABLE kid () INHERITS (base); INSERT INTO kid VALUES (2, 'kept');
CREATE FOREIGN TABLE kid_far () INHERITS (base) SERVER production OPTIONS (table_name 'far');
CREATE MATERIALIZED VIEW seen AS SELECT * FROM far;
CREATE MATERIALIZED VIEW of_seen AS SELECT secret FROM seen;
CREATE VIEW through AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW of_orders AS SELECT secret FROM through;
CREATE MATERIALIZED VIEW of_kid AS SELECT secret FROM kid;
";

const REACHED: &str = r#"
[tables]
"public.far" = "keep"
"public.orders_far" = "keep"
"public.old" = "empty"
"public.old_far" = "keep"
"public.base" = "empty"
"public.kid" = "keep"
"public.kid_far" = "keep"
"public.seen" = "empty"
"public.of_seen" = "empty"
"public.of_orders" = "empty"
[tables."public.orders"]
id = "keep"
at = "keep"
secret = "hash"
"#;

#[tokio::test]
async fn production_is_neither_read_nor_written() {
    let (Some(case), Some(bin)) = (Case::new(""), bins().pop()) else { return };
    let far = Server::new(&bin, &LOCALE, "");
    let rows = "CREATE TABLE far (id int, at date, secret text); \
                INSERT INTO far SELECT n, date '2021-01-01' + n, 'SECRET' || n FROM generate_series(1, 50) n";
    far.sql("postgres", rows).await;
    case.server.sql("postgres", &foreign(&far)).await;
    case.server.sql("postgres", REACHING).await;
    let without =
        |name: &str, word: &str| REACHED.replace(&format!("\"{name}\" = \"{word}\"\n"), "");
    for (masking, words) in [
        (without("public.far", "keep"), "the foreign table public.far"),
        (without("public.orders_far", "keep"), "the foreign table public.orders_far"),
        (REACHED.replace("at = \"keep\"", "at = { constant = \"2020-05-05\" }"), "split by at"),
        (without("public.seen", "empty"), "filled from the foreign table public.far"),
        (without("public.of_orders", "empty"), "filled from the foreign table public.orders_far"),
    ] {
        case.refused(&masking, words).await;
    }
    // Whoever wanted something of it would fail.
    far.stop();
    let main = case.masked(REACHED).await;
    let one = async |query: &str| sql(&main, query).await;
    assert_eq!(one("SELECT count(*) FROM orders_1 WHERE secret ~ '^[0-9a-f]{32}$'").await, "100");
    assert_eq!(one("SELECT count(*) FROM old_1").await, "0");
    assert_eq!(one("SELECT count(*) FROM ONLY base").await, "0");
    assert_eq!(one("SELECT secret FROM ONLY kid").await, "kept");
    assert_eq!(one("SELECT secret FROM of_kid").await, "kept");
    let filled =
        "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'm' AND relispopulated";
    assert_eq!(one(filled).await, "of_kid");
    let folder = data(&main).await;
    main.stop().await.unwrap();
    assert_eq!(has(&folder, b"SECRET"), None);
    main.start().await.unwrap();
    far.start();
    let count = "SELECT count(*) || ' ' || count(DISTINCT secret) FROM far WHERE secret ~ 'SECRET'";
    assert_eq!(far.sql("postgres", count).await, "50 50");
    // Who keeps it can read it, as he could before.
    assert_eq!(one("SELECT count(*) FROM far").await, "50");
}

#[tokio::test]
async fn what_a_function_reads_from_elsewhere_is_not_read() {
    let (Some(case), Some(bin)) = (Case::new(""), bins().pop()) else { return };
    let far = Server::new(&bin, &LOCALE, "");
    far.sql("postgres", "CREATE TABLE far (id int, at date, secret text)").await;
    case.server.sql("postgres", &foreign(&far)).await;
    let view = "CREATE FUNCTION hidden() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN \
                    RETURN (SELECT count(*) FROM public.far); END $$; \
                CREATE MATERIALIZED VIEW seen AS SELECT hidden()";
    case.server.sql("postgres", view).await;
    let kept = "[tables]\n\"public.far\" = \"keep\"\n";
    let error = import(&case.home, case.source(kept)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Postgres, "{error}");
    assert!(error.to_string().contains("has no handler"), "{error}");
    case.masked(&format!("{kept}\"public.seen\" = \"empty\"\n")).await;
}

#[tokio::test]
async fn rows_in_tables_of_extensions_are_named() {
    let Some(case) = Case::new("") else { return };
    let schema = "
        CREATE SCHEMA ext;
        CREATE TABLE ext.settings (own boolean, x text); INSERT INTO ext.settings VALUES (true, 'of the script');
        CREATE TABLE ext.jobs (command text); INSERT INTO ext.jobs VALUES ('SECRET');
        CREATE TABLE ext.nothing (x text);
        ALTER EXTENSION plpgsql ADD TABLE ext.settings;
        ALTER EXTENSION plpgsql ADD TABLE ext.jobs;
        ALTER EXTENSION plpgsql ADD TABLE ext.nothing;
        UPDATE pg_extension SET extconfig = ARRAY['ext.settings'::regclass::oid], extcondition = ARRAY['WHERE NOT own']
         WHERE extname = 'plpgsql';
    ";
    case.server.sql("postgres", schema).await;
    case.refused("[tables]\n", "becomes of the extension's table ext.jobs").await;
    let settings = "INSERT INTO ext.settings VALUES (false, 'SECRET')";
    case.server.sql("postgres", settings).await;
    let jobs = "[tables]\n\"ext.jobs\" = \"empty\"\n";
    case.refused(jobs, "becomes of the extension's table ext.settings").await;
    let main = case.masked("[tables]\n\"ext.*\" = \"empty\"\n").await;
    assert_eq!(sql(&main, "SELECT x FROM ext.settings").await, "of the script");
    assert_eq!(sql(&main, "SELECT count(*) FROM ext.jobs").await, "0");
}

#[tokio::test]
async fn names_are_not_taken_for_one_another() {
    let Some(case) = Case::new("") else { return };
    let schema = "CREATE SCHEMA a; CREATE TABLE a.\"b.c\" AS SELECT 'SECRET' AS x; \
                  CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".c AS SELECT 'kept' AS x";
    case.server.sql("postgres", schema).await;
    let both = "[tables]\n\"a.b.c\" = \"keep\"\n";
    case.refused(both, "the table \"a.b\".c, the table a.\"b.c\"").await;
    let main =
        case.masked("[tables]\n'\"a.b\".c' = \"keep\"\n[tables.'a.\"b.c\"']\nx = \"hash\"\n").await;
    assert_eq!(sql(&main, "SELECT x FROM \"a.b\".c").await, "kept");
    assert_eq!(sql(&main, "SELECT x ~ '^[0-9a-f]{32}$' FROM a.\"b.c\"").await, "t");
}

#[tokio::test]
async fn keys_of_partitions_and_onto_empty_tables_hold() {
    let Some(case) = Case::new("max_prepared_transactions = 5") else { return };
    let schema = "
        CREATE TABLE people (id int PRIMARY KEY, name text);
        INSERT INTO people SELECT n, 'SECRET' || n FROM generate_series(1, 100) n;
        CREATE TABLE gone (id int PRIMARY KEY, up int REFERENCES gone); INSERT INTO gone VALUES (1, NULL), (2, 1);
        CREATE TABLE gone_too (id int REFERENCES gone); INSERT INTO gone_too VALUES (2);
        CREATE TABLE kept (id int, gone int REFERENCES gone); INSERT INTO kept VALUES (1, 2);
        CREATE TABLE visits (at int, person int) PARTITION BY RANGE (at);
        CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (1000);
        ALTER TABLE visits_1 ADD CONSTRAINT of_a_part FOREIGN KEY (person) REFERENCES people;
        INSERT INTO visits SELECT id, id FROM people;
        CREATE TABLE split (person int, name text) PARTITION BY HASH (person);
        CREATE TABLE split_0 PARTITION OF split FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE split_1 PARTITION OF split FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO split SELECT * FROM people;
    ";
    case.server.sql("postgres", schema).await;
    let masking = |person: &str| {
        format!(
            "[tables]\n\"public.gone\" = \"empty\"\n\"public.gone_too\" = \"empty\"\n\
             [tables.\"public.people\"]\nid = \"hash\"\nname = \"hash\"\n\
             [tables.\"public.kept\"]\nid = \"keep\"\ngone = \"null\"\n\
             [tables.\"public.visits\"]\nat = \"keep\"\nperson = \"{person}\"\n\
             [tables.\"public.split\"]\nperson = \"hash\"\nname = \"hash\"\n"
        )
    };
    let prepared = "BEGIN; INSERT INTO kept VALUES (7, NULL); PREPARE TRANSACTION 'a'";
    case.server.sql("postgres", prepared).await;
    case.refused(&masking("hash"), "prepared transactions").await;
    case.server.sql("postgres", "ROLLBACK PREPARED 'a'").await;
    case.refused(&masking("keep"), "of_a_part leads from public.visits.person").await;
    let main = case.masked(&masking("hash")).await;
    let one = async |query: &str| sql(&main, query).await;
    let left = "SELECT (SELECT count(*) FROM gone) || ' ' || (SELECT count(*) FROM gone_too) || ' ' || \
                       (SELECT count(*) FROM kept WHERE gone IS NULL)";
    assert_eq!(one(left).await, "0 0 1");
    for table in ["visits", "split"] {
        let joined = format!("SELECT count(*) FROM {table} JOIN people ON person = people.id");
        assert_eq!(one(&joined).await, "100", "{table}");
    }
    // Each key is what it was: of data that it does not hold it could not be made again.
    let again = "ALTER TABLE visits_1 DROP CONSTRAINT of_a_part, \
                 ADD CONSTRAINT of_a_part FOREIGN KEY (person) REFERENCES people";
    one(again).await;
}

/// Nothing checks them while columns are masked.
#[tokio::test]
async fn constraints_hold_afterwards_or_nothing_comes() {
    let Some(case) = Case::new("") else { return };
    let schema = "
        CREATE EXTENSION citext;
        CREATE TABLE codes (code varchar(40) PRIMARY KEY);
        INSERT INTO codes SELECT 'SECRET' || n FROM generate_series(1, 100) n;
        CREATE TABLE uses (code varchar(20) REFERENCES codes); INSERT INTO uses SELECT * FROM codes;
        CREATE TABLE people (name citext PRIMARY KEY); INSERT INTO people VALUES ('Bob');
        CREATE TABLE calls (name citext REFERENCES people); INSERT INTO calls VALUES ('bob');
        CREATE TABLE small (x text PRIMARY KEY); INSERT INTO small SELECT lower(code) FROM codes;
        CREATE TABLE of_small (x text, made text GENERATED ALWAYS AS (lower(x)) STORED REFERENCES small);
        INSERT INTO of_small SELECT * FROM codes;
        CREATE TABLE late (name text UNIQUE DEFERRABLE); INSERT INTO late SELECT * FROM codes;
        CREATE TABLE apart (name text, EXCLUDE USING btree (name WITH =) DEFERRABLE); INSERT INTO apart SELECT * FROM codes;
        CREATE TABLE pairs (a int, b text, PRIMARY KEY (a, b)); INSERT INTO pairs SELECT 1, code FROM codes;
        CREATE TABLE of_pairs (a int, b text COLLATE \"C\", FOREIGN KEY (a, b) REFERENCES pairs MATCH FULL);
        INSERT INTO of_pairs TABLE pairs; INSERT INTO of_pairs VALUES (NULL, NULL);
    ";
    case.server.sql("postgres", schema).await;
    let tables = [
        "codes", "uses", "people", "calls", "small", "of_small", "late", "apart", "pairs",
        "of_pairs",
    ];
    // All that is not named is kept.
    let masking = |columns: &[(&str, &str)]| {
        let is_named = |table: &str| columns.iter().any(|(named, _)| *named == table);
        let kept = tables.iter().filter(|table| !is_named(table));
        let kept: String = kept.map(|table| format!("\"public.{table}\" = \"keep\"\n")).collect();
        let masked =
            columns.iter().map(|(table, said)| format!("[tables.\"public.{table}\"]\n{said}\n"));
        format!("[tables]\n{kept}{}", masked.collect::<String>())
    };
    for said in ["code = \"hash\"", "code = \"fake:email\""] {
        let lengths = masking(&[("codes", said), ("uses", said)]);
        case.refused(&lengths, "uses_code_fkey leads from public.uses.code").await;
    }
    let letters = masking(&[("people", "name = \"hash\""), ("calls", "name = \"hash\"")]);
    case.refused(&letters, "calls_name_fkey leads from public.calls.name").await;
    let computed = masking(&[("of_small", "x = \"hash\"")]);
    case.refused(&computed, "the foreign key of_small_made_fkey does not hold any more").await;
    for (table, index) in [("late", "late_name_key"), ("apart", "apart_name_excl")] {
        // There are fewer cities than rows.
        let source = case.source(&masking(&[(table, "name = \"fake:city\"")]));
        let error = import(&case.home, source).await.expect_err(table);
        assert_eq!(error.kind(), ErrorKind::Postgres, "{error}");
        assert!(error.to_string().contains(index) && error.hint().is_some(), "{error:?}");
        assert!(case.home.left().is_empty(), "{table}");
    }

    let hash = "name = \"hash\"";
    let both = "a = \"hash\"\nb = \"hash\"";
    let main = case
        .masked(&masking(&[("late", hash), ("apart", hash), ("pairs", both), ("of_pairs", both)]))
        .await;
    let found = "SELECT (SELECT count(DISTINCT name) FROM late) || ' ' || (SELECT count(DISTINCT name) FROM apart) || ' ' || \
                        (SELECT count(*) FROM of_pairs JOIN pairs USING (a) WHERE of_pairs.b = pairs.b COLLATE \"C\")";
    assert_eq!(sql(&main, found).await, "100 100 100");
    // They are looked at as before.
    let twice = "INSERT INTO late SELECT name FROM late LIMIT 1";
    let error = attempt(&main.url(), twice).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
}

#[tokio::test]
async fn a_foreign_key_over_a_time_holds_or_nothing_comes() {
    let Some(case) = Case::new("").filter(|case| case.server.major >= 18) else { return };
    let schema = "
        CREATE EXTENSION btree_gist;
        CREATE TABLE held (id int, begins int, during int4range GENERATED ALWAYS AS (int4range(begins, begins + 10)) STORED,
                           PRIMARY KEY (id, during WITHOUT OVERLAPS));
        INSERT INTO held VALUES (1, 0);
        CREATE TABLE of_held (id int, during int4range,
                              CONSTRAINT held_then FOREIGN KEY (id, PERIOD during) REFERENCES held (id, PERIOD during));
        INSERT INTO of_held VALUES (1, '[5,10)');
    ";
    case.server.sql("postgres", schema).await;
    let masking = |id: &str, begins: &str| {
        format!(
            "[tables.\"public.held\"]\nid = \"{id}\"\nbegins = {begins}\n\
             [tables.\"public.of_held\"]\nid = \"{id}\"\nduring = \"keep\"\n"
        )
    };
    let moved = masking("keep", "{ constant = 100 }");
    case.refused(&moved, "the foreign key held_then does not hold any more").await;
    // Two rows cover the time of one.
    let more = "INSERT INTO held VALUES (1, 10); INSERT INTO of_held VALUES (1, '[5,15)')";
    case.server.sql("postgres", more).await;
    let main = case.masked(&masking("hash", "\"keep\"")).await;
    let joined = "SELECT count(*) FROM held JOIN of_held USING (id) WHERE id <> 1";
    assert_eq!(sql(&main, joined).await, "4");
}

/// Citus itself is in no registry that tests have: what it says of its tables is made by hand.
#[tokio::test]
async fn tables_whose_rows_are_on_other_servers_are_refused() {
    let Some(case) = Case::new("allow_system_table_mods = on") else { return };
    let make = "CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass); \
                CREATE TABLE people (name text)";
    case.server.sql("postgres", make).await;
    let masking = "[tables]\n\"pg_catalog.pg_dist_partition\" = \"keep\"\n\
                   [tables.\"public.people\"]\nname = \"null\"\n";
    case.masked(masking).await.project().delete(true).await.unwrap();
    let distribute = "INSERT INTO pg_catalog.pg_dist_partition VALUES ('people')";
    case.server.sql("postgres", distribute).await;
    case.refused(masking, "rows of Citus' tables are on its workers").await;
}

/// Numbers that are hashed meet others on their way; and no table without a replica identity can be changed while its
/// updates are published.
#[tokio::test]
async fn keys_of_small_numbers_are_hashed_in_tables_that_are_published() {
    let Some(case) = Case::new("") else { return };
    let schema = "
        CREATE TABLE small (id int2 PRIMARY KEY, n int2);
        CREATE UNIQUE INDEX of_no_constraint ON small (n);
        INSERT INTO small SELECT n, n FROM generate_series(1, 2000) n;
        CREATE TABLE of_small (id int2 REFERENCES small, line text) PARTITION BY HASH (id);
        CREATE TABLE of_small_0 PARTITION OF of_small FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE of_small_1 PARTITION OF of_small FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO of_small SELECT n, 'SECRET' FROM generate_series(1, 2000) n;
        CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert, update');
        CREATE PUBLICATION nothing WITH (publish = 'truncate');
    ";
    case.server.sql("postgres", schema).await;
    let masking = "[tables.\"public.small\"]\nid = \"hash\"\nn = \"hash\"\n\
                   [tables.\"public.of_small\"]\nid = \"hash\"\nline = \"null\"\n";
    let main = case.masked(masking).await;
    let joined = "SELECT concat_ws(' ', count(*), count(DISTINCT id), count(DISTINCT n), count(line), \
                                   count(*) FILTER (WHERE id = n)) FROM small JOIN of_small USING (id)";
    assert_eq!(sql(&main, joined).await, "2000 2000 2000 0 2000");
    let kept = "SELECT string_agg(concat_ws(' ', pubname, pubinsert, pubupdate, pubdelete, pubtruncate), ', ' ORDER BY pubname) \
                FROM pg_publication";
    assert_eq!(sql(&main, kept).await, "everything t t f f, nothing f f f t");
    let double = "INSERT INTO small SELECT (SELECT min(id) - 1 FROM small), max(n) FROM small";
    assert!(attempt(&main.url(), double).await.is_err(), "the index holds no more");
    assert_eq!(sql(&main, "SELECT count(*) FROM pg_index WHERE NOT indimmediate").await, "0");
}
