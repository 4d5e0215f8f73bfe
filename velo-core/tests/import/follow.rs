//! A `main` that follows its source: branches of it are servers of their own, and the source knows nothing of them.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use velo_core::cancel::Cancel;
use velo_core::import::{Method, Source, Stage};
use velo_core::{Branch, BranchSpec, ErrorKind, FollowSpec, Following, Project, RefreshSpec};

use crate::common::client::{attempt, sql};
use crate::common::home::{TestHome, base};
use crate::common::{newest, scaled};
use crate::methods::{home, home_of, import};
use crate::server::{PASSWORD, Server, bins};

const LOCALE: [&str; 2] = ["--encoding=UTF8", "--locale=C.UTF-8"];

/// A project that was copied from it.
async fn copied(home: &TestHome, server: &Server) -> Project {
    let source = Source::new(server.url("postgres")).unwrap();
    import(home, source.method(Method::Basebackup).unwrap()).await.unwrap()
}

/// The same, which follows; the password is recorded, so that `main`'s URL has it.
async fn following(home: &TestHome, server: &Server) -> Project {
    let project = copied(home, server).await;
    project.follow(FollowSpec::new().password(PASSWORD).save_password()).await.unwrap()
}

async fn state(project: &Project) -> Following {
    project.following().await.unwrap().expect("it follows")
}

/// Waits until it is so of what `main` follows.
async fn until(project: &Project, what: &str, is_so: impl Fn(&Following) -> bool) -> Following {
    let begun = Instant::now();
    loop {
        let state = state(project).await;
        if is_so(&state) {
            return state;
        }
        assert!(begun.elapsed() < scaled(Duration::from_secs(60)), "{what}: {state:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a query gives that.
async fn gives(url: &str, query: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let got = attempt(url, query).await;
        if got.as_deref().is_ok_and(|got| got == wanted) {
            return;
        }
        assert!(begun.elapsed() < scaled(Duration::from_secs(60)), "{query}: {got:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";
const STANDBYS: &str =
    "SELECT coalesce(string_agg(application_name, ' '), '') FROM pg_stat_replication";

/// A branch is a whole server that leads nowhere.
async fn is_its_own(branch: &Branch, what: &str) {
    for (query, wanted) in [
        ("SELECT pg_is_in_recovery()", "f"),
        ("SELECT current_user", "velo"),
        (
            "SELECT current_setting('primary_conninfo') || current_setting('primary_slot_name') \
             || current_setting('archive_mode') || current_setting('synchronous_standby_names')",
            "off",
        ),
        ("SELECT count(*) FROM pg_file_settings WHERE name LIKE 'primary%'", "0"),
        (SLOTS, "0"),
        ("SELECT count(*) FROM pg_stat_wal_receiver", "0"),
        (
            "SELECT count(*) || ' ' || bool_or(subenabled OR subslotname IS NOT NULL) FROM pg_subscription",
            "1 false",
        ),
        ("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical%worker'", "0"),
        // Of a transfer either both halves are there or none.
        ("SELECT sum(balance) FROM accounts", "1000"),
        ("INSERT INTO log VALUES ('mine') RETURNING line", "mine"),
    ] {
        assert_eq!(sql(branch, query).await, wanted, "{what}: {query}");
    }
}

/// Writes to a server until it is told to end.
fn load(server: &Server) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u64>) {
    let (over, url) = (Arc::new(AtomicBool::new(false)), server.url("postgres"));
    let ends = over.clone();
    let writer = tokio::spawn(async move {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut done = 0;
        while !ends.load(Ordering::Relaxed) {
            let transfer = "BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = 1; \
                UPDATE accounts SET balance = balance + 1 WHERE id = 2; \
                INSERT INTO log SELECT 'x' || n, repeat(md5(n::text), 30) FROM generate_series(1, 20) n; COMMIT";
            client.batch_execute(transfer).await.unwrap();
            done += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        done
    });
    (over, writer)
}

#[tokio::test]
async fn the_source_sees_main_alone_while_branches_are_made_under_load() {
    for bin in bins() {
        let archive = tempfile::Builder::new().prefix("archive.").tempdir_in(base()).unwrap();
        std::fs::set_permissions(archive.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let settings =
            format!("archive_mode = on\narchive_command = 'cp %p {}/%f'", archive.path().display());
        let server = Server::new(&bin, &[&LOCALE[..], &["--wal-segsize=4"]].concat(), &settings);
        let schema = "CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts VALUES (1, 500), (2, 500); \
            CREATE TABLE log (line text DEFAULT 'x', more text); \
            CREATE SUBSCRIPTION theirs CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p WITH (connect = false)";
        // Each by itself: a subscription is made in no transaction block.
        for statement in schema.split("; ") {
            server.sql("postgres", statement).await;
        }
        let what = format!("PostgreSQL {}", server.major);
        let home = home_of(&bin);
        let project = copied(&home, &server).await;
        // It follows a server that is busy from the beginning.
        let (over, writer) = load(&server);
        let project =
            project.follow(FollowSpec::new().password(PASSWORD).save_password()).await.unwrap();
        let main = project.main().await.unwrap();
        assert_eq!(sql(&main, "SELECT pg_is_in_recovery()").await, "t", "{what}");
        assert_eq!(sql(&main, "SHOW hot_standby_feedback").await, "off", "{what}");
        let mut kept = Vec::new();
        for n in 0..20 {
            let what = format!("{what}, branch {n}");
            let spec = match n % 5 {
                0 => BranchSpec::named(format!("b{n}")),
                _ => BranchSpec::ephemeral(),
            };
            let branch = Branch::create(&project, spec)
                .await
                .unwrap_or_else(|e| panic!("{what}: {e} {e:?}"));
            assert!(branch.info().await.unwrap().cut.unwrap().in_recovery, "{what}");
            is_its_own(&branch, &what).await;
            assert_eq!(server.sql("postgres", SLOTS).await, "0", "{what}");
            assert_eq!(server.sql("postgres", STANDBYS).await, "velo", "{what}");
            match n % 5 {
                0 => kept.push(branch),
                _ => branch.close().await.unwrap(),
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(writer.await.unwrap() > 0, "{what}: there was no load");
        // All of it comes.
        let lines = server.sql("postgres", "SELECT count(*) FROM log").await;
        gives(&main.url(), "SELECT count(*) FROM log", &lines).await;
        let caught_up =
            until(&project, &what, |state| state.streams && state.lag_bytes == Some(0)).await;
        assert_eq!((caught_up.lag_seconds, &caught_up.problem), (Some(0), &None), "{what}");
        // Branches go by themselves on, also through a restart, and with a parent that goes on.
        for branch in &kept {
            branch.restart().await.unwrap();
            assert_eq!(
                sql(branch, "SELECT count(*) FROM log WHERE line = 'mine'").await,
                "1",
                "{what}"
            );
        }
        kept[0].reset().await.unwrap();
        is_its_own(&kept[0], &format!("{what}, a reset one")).await;
        assert_eq!(
            sql(&kept[0], "SELECT count(*) FROM log WHERE line <> 'mine'").await,
            lines,
            "{what}"
        );
        // Nobody's WAL but the source's own is in its archive.
        server.sql("postgres", "SELECT pg_switch_wal()").await;
        gives(&server.url("postgres"), "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
            .await;
        for entry in std::fs::read_dir(archive.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_own = name.starts_with("00000001") && !name.ends_with(".history");
            assert!(is_own, "{what}: {name}");
        }
        assert_eq!(server.sql("postgres", SLOTS).await, "0", "{what}");
    }
}

#[tokio::test]
async fn a_standby_is_the_sources_until_it_is_told_to_stop() {
    for bin in newest(bins()) {
        let server = Server::new(&bin, &LOCALE, "max_connections = 130");
        server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
        let home = home_of(&bin);
        let project = following(&home, &server).await;
        let main = project.main().await.unwrap();
        let run = home.config().home().join("run").join(main.id().to_string());
        let secret = run.join("passfile");
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // The password is among no processes, and in no setting.
        let shown = sql(&main, "SHOW primary_conninfo").await;
        assert!(!shown.contains("s3cr") && shown.contains("passfile"), "{shown}");
        for pid in home.servers() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&line).contains("s3cr"), "process {pid}");
        }
        assert!(main.url().contains("//postgres:"), "the source's role");
        assert_eq!(sql(&main, "SHOW max_connections").await, "130");

        // It is nobody's to change.
        let error = attempt(&main.url(), "INSERT INTO t VALUES (2)").await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25006");
        let kept = main.snapshot("kept").await.unwrap();
        for error in [
            main.reset_to(velo_core::ResetTarget::Snapshot("kept".into())).await.unwrap_err(),
            project.follow(FollowSpec::new()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        let early = Branch::create(&project, BranchSpec::named("early")).await.unwrap();
        sql(&early, "INSERT INTO t VALUES (3)").await;

        // The source goes away and comes back: PostgreSQL connects again, also after a restart meanwhile.
        server.stop();
        let away = until(&project, "the source is away", |state| state.problem.is_some()).await;
        assert!(!away.streams && away.lag_bytes.is_none(), "{away:?}");
        main.restart().await.unwrap();
        let lonely = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
        assert_eq!(sql(&lonely, "SELECT count(*) FROM t").await, "1");
        lonely.close().await.unwrap();
        server.start();
        server.sql("postgres", "INSERT INTO t VALUES (4)").await;
        until(&project, "the source is back", |state| state.streams).await;
        gives(&main.url(), "SELECT count(*) FROM t", "2").await;

        // A branch of one that is stopped, whose server never ran, and a branch of that.
        main.stop().await.unwrap();
        assert!(state(&project).await.problem.unwrap().contains("velo branch start"));
        let asleep = Branch::create(&project, BranchSpec::named("asleep").stopped()).await.unwrap();
        let of_asleep =
            Branch::create(&project, BranchSpec::ephemeral().from(&asleep)).await.unwrap();
        assert_eq!(
            sql(&of_asleep, "SELECT format('%s %s', current_user, count(*)) FROM t").await,
            "velo 2"
        );
        of_asleep.close().await.unwrap();
        asleep.start().await.unwrap();
        assert_eq!(
            sql(&asleep, "SELECT format('%s %s', pg_is_in_recovery(), current_user)").await,
            "f velo"
        );
        main.start().await.unwrap();

        // It stops.
        project.stop_following().await.unwrap();
        assert!(project.following().await.unwrap().is_none());
        let main = project.main().await.unwrap();
        assert!(main.url().contains("//velo:"), "Velo's own role");
        assert_eq!(sql(&main, "INSERT INTO t VALUES (5) RETURNING pg_is_in_recovery()").await, "f");
        assert_eq!(sql(&main, "SHOW primary_conninfo").await, "");
        assert!(!secret.exists());
        gives(&server.url("postgres"), STANDBYS, "").await;
        main.restart().await.unwrap();
        assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "3");
        // What was taken of it before is worth as much.
        let old = Branch::create(&project, BranchSpec::ephemeral().from(&kept)).await.unwrap();
        assert_eq!(
            sql(&old, "SELECT format('%s %s', current_user, count(*)) FROM t").await,
            "velo 1"
        );
        old.close().await.unwrap();
        early.reset().await.unwrap();
        assert_eq!(sql(&early, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").await, "1 4 5");
        let error = project.stop_following().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
}

#[tokio::test]
async fn a_password_that_nobody_has_recorded_is_in_its_file_alone() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    let home = home_of(&bin);
    let project = copied(&home, &server).await;
    let project = project.follow(FollowSpec::new().password(PASSWORD)).await.unwrap();
    let main = project.main().await.unwrap();
    assert!(main.url().contains("//postgres@127.0.0.1:"), "it names no password");
    assert!(main.connection().password.is_empty());
    for name in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(home.config().home().join(name)).unwrap_or_default();
        assert!(!bytes.windows(4).any(|part| part == b"s3cr"), "{name}");
    }
    // So that it is brought anew without being asked for it.
    server.sql("postgres", "CREATE TABLE new AS SELECT 1").await;
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    until(&project, "it follows again", |state| state.streams).await;
    assert_eq!(server.sql("postgres", SLOTS).await, "0");
    project.stop_following().await.unwrap();
    sql(&project.main().await.unwrap(), "SELECT * FROM new").await;
}

#[tokio::test]
async fn wal_that_the_source_has_removed_is_said_and_a_refresh_helps() {
    for bin in newest(bins()) {
        let small = "max_wal_size = 2MB\nmin_wal_size = 2MB";
        let server = Server::new(&bin, &[&LOCALE[..], &["--wal-segsize=1"]].concat(), small);
        server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
        let home = home_of(&bin);
        let project = following(&home, &server).await;
        let main = project.main().await.unwrap();
        let branch = Branch::create(&project, BranchSpec::named("old")).await.unwrap();
        main.stop().await.unwrap();
        // It sleeps, and nothing of the source's waits for it.
        for _ in 0..10 {
            server.sql("postgres", "INSERT INTO t SELECT generate_series(1, 20000)").await;
            server.sql("postgres", "SELECT pg_switch_wal()").await;
            server.sql("postgres", "CHECKPOINT").await;
        }
        main.start().await.unwrap();
        let told = |state: &Following| {
            state.problem.as_ref().is_some_and(|why| why.contains("removed WAL"))
        };
        let lost = until(&project, "WAL is gone", told).await;
        assert!(!lost.streams && lost.problem.unwrap().contains("velo project refresh api"));
        // What it has it has still.
        assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "1");
        let url = main.url();
        let project = project.refresh(RefreshSpec::new()).await.unwrap();
        until(&project, "it was brought anew", |state| state.streams).await;
        let main = project.main().await.unwrap();
        assert_eq!(main.url(), url);
        assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "200001");
        assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1");
    }
}

#[tokio::test]
async fn a_source_that_is_given_more_connections_is_followed_after_a_restart() {
    for bin in newest(bins()) {
        let server = Server::new(&bin, &LOCALE, "");
        let home = home_of(&bin);
        let project = following(&home, &server).await;
        let main = project.main().await.unwrap();
        server.sql("postgres", "ALTER SYSTEM SET max_connections = 150").await;
        server.stop();
        server.start();
        server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
        let told = |state: &Following| {
            state.problem.as_ref().is_some_and(|why| why.contains("velo branch restart"))
        };
        until(&project, "it has paused", told).await;
        // It is worth as much to who branches it.
        let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
        assert_eq!(sql(&branch, "SELECT current_user").await, "velo");
        branch.close().await.unwrap();
        main.restart().await.unwrap();
        gives(&main.url(), "SELECT n FROM t", "1").await;
        assert_eq!(sql(&main, "SHOW max_connections").await, "150");
        until(&project, "it goes on", |state| state.streams && state.problem.is_none()).await;
    }
}

/// It is a standby's own, whose commits are to come late, or may be in the files of any server.
#[tokio::test]
async fn nobody_waits_because_the_source_lags_by_intent() {
    for bin in newest(bins()) {
        let server = Server::new(&bin, &LOCALE, "recovery_min_apply_delay = '1h'");
        server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
        let what = format!("PostgreSQL {}", server.major);
        let standby = server.standby();
        server.sql("postgres", "INSERT INTO t VALUES (2)").await;
        let written = server.sql("postgres", "SELECT pg_current_wal_lsn()").await;
        let has_come = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'");
        gives(&standby.url("postgres"), &has_come, "t").await;
        assert_eq!(standby.sql("postgres", "SELECT count(*) FROM t").await, "1", "{what}");
        let patience = scaled(Duration::from_secs(120));

        // A copy of it takes what has come.
        let home = home_of(&bin);
        let project = tokio::time::timeout(patience, copied(&home, &standby)).await.expect(&what);
        let main = project.main().await.unwrap();
        assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "2", "{what}");

        // So does what follows it, and its branches.
        let home = home_of(&bin);
        let follows = following(&home, &server);
        let project = tokio::time::timeout(patience, follows).await.expect(&what);
        server.sql("postgres", "INSERT INTO t VALUES (3)").await;
        let main = project.main().await.unwrap();
        gives(&main.url(), "SELECT count(*) FROM t", "3").await;
        let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
        assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "3", "{what}");
        branch.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_slot_is_used_only_where_one_is_named() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    let home = home_of(&bin);
    let project = copied(&home, &server).await;
    let spec = || FollowSpec::new().password(PASSWORD).slot("laptop");
    let error = project.follow(spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.hint().unwrap().contains("pg_create_physical_replication_slot('laptop')"));
    assert_eq!(server.sql("postgres", SLOTS).await, "0");
    server.sql("postgres", "SELECT pg_create_physical_replication_slot('laptop')").await;
    let project = project.follow(spec()).await.unwrap();
    assert_eq!(state(&project).await.slot.as_deref(), Some("laptop"));
    let used =
        "SELECT string_agg(format('%s %s', slot_name, active), ', ') FROM pg_replication_slots";
    assert_eq!(server.sql("postgres", used).await, "laptop t");
    // One that fails does not move it: the old main goes on from where it was.
    let main = project.main().await.unwrap();
    main.stop().await.unwrap();
    let kept = "SELECT restart_lsn FROM pg_replication_slots";
    let before = server.sql("postgres", kept).await;
    server.sql("postgres", "SELECT pg_switch_wal()").await;
    let cancel = Cancel::new();
    let spec = RefreshSpec::new().progress({
        let cancel = cancel.clone();
        move |progress| {
            if progress.stage == Stage::Copy {
                cancel.cancel();
            }
        }
    });
    let error = project.refresh_unless(spec, &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Canceled, "{error}");
    assert_eq!(server.sql("postgres", kept).await, before);
    main.start().await.unwrap();
    until(&project, "it goes on", |state| state.streams).await;
    // Also by the one that takes its place.
    let project = project.refresh(RefreshSpec::new()).await.unwrap();
    until(&project, "it follows again", |state| state.streams).await;
    assert_eq!(server.sql("postgres", used).await, "laptop t");
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    assert_eq!(sql(&branch, SLOTS).await, "0");
    assert_eq!(sql(&branch, "SHOW primary_slot_name").await, "");
    branch.close().await.unwrap();
    project.stop_following().await.unwrap();
    // It is not Velo's to drop.
    gives(&server.url("postgres"), used, "laptop f").await;
}

#[tokio::test]
async fn what_cannot_follow_is_refused_and_stays_as_it_was() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
    let home = home_of(&bin);
    let project = copied(&home, &server).await;
    let main = project.main().await.unwrap();
    sql(&main, "UPDATE t SET n = 7").await;
    let before = home.left().len();
    let spec = || FollowSpec::new().password(PASSWORD);

    let wrong = project.follow(FollowSpec::new().password("wrong")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::PermissionDenied, "{wrong}");
    let named = project.follow(spec().slot("No-Slot")).await.unwrap_err();
    assert_eq!(named.kind(), ErrorKind::InvalidInput, "{named}");
    // A laptop that sleeps would hold up each commit.
    server.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    server.sql("postgres", "ALTER SYSTEM SET synchronous_commit = 'local'").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;
    gives(&server.url("postgres"), "SHOW synchronous_standby_names", "*").await;
    let waits = project.follow(spec()).await.unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::Conflict, "{waits}");
    server.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;

    for error in [&wrong, &named, &waits] {
        assert!(error.hint().is_some() && error.cleanup().is_empty(), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3cr"), "{error:?}");
    }
    assert_eq!(sql(&main, "UPDATE t SET n = n + 1 RETURNING n").await, "8");
    assert!(project.following().await.unwrap().is_none());
    project.finish_deletions().await.unwrap();
    assert_eq!(home.left().len(), before, "{:?}", home.left());
    assert_eq!(server.sql("postgres", STANDBYS).await, "");
}

#[tokio::test]
async fn what_is_masked_transformed_or_no_servers_does_not_follow() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &LOCALE, "");
    let dir = tempfile::tempdir().unwrap();
    let trim = dir.path().join("trim.sql");
    std::fs::write(&trim, "CREATE TABLE trimmed (x int)").unwrap();
    let trimmed = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().transform(&trim);
    let project = import(&trimmed, source).await.unwrap();
    let error = project.follow(FollowSpec::new().password(PASSWORD)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let empty = home();
    let project = empty.project("empty").await;
    let error = project.follow(FollowSpec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(project.following().await.unwrap().is_none());
}

#[tokio::test]
async fn a_main_that_follows_goes_on_with_another_source() {
    let Some(bin) = bins().pop() else { return };
    let (server, other) = (Server::new(&bin, &LOCALE, ""), Server::new(&bin, &LOCALE, ""));
    other.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n").await;
    let home = home_of(&bin);
    let project = following(&home, &server).await;
    let whole = || Source::new(other.url("postgres")).unwrap();
    let bare = Source::new(other.url_of("postgres", "postgres")).unwrap();
    for (source, kind) in [
        // A standby is what its source is.
        (whole().method(Method::Dump).unwrap(), ErrorKind::Conflict),
        // The password of the one that it follows is for nobody else.
        (bare, ErrorKind::PermissionDenied),
    ] {
        let error = project.refresh(RefreshSpec::new().source(source)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint().is_some() && error.cleanup().is_empty(), "{error:?}");
        until(&project, "it follows the old one", |state| state.streams).await;
    }

    let spec = RefreshSpec::new().source(whole().save_password());
    let project = project.refresh(spec).await.unwrap();
    until(&project, "it follows the new one", |state| state.streams).await;
    other.sql("postgres", "INSERT INTO t VALUES (2)").await;
    let main = project.main().await.unwrap();
    gives(&main.url(), "SELECT count(*) FROM t", "2").await;
    gives(&server.url("postgres"), STANDBYS, "").await;
}

/// Its jobs are the source's to run.
#[tokio::test]
async fn jobs_of_the_source_do_not_run_in_a_main_that_came_from_it() {
    let Some(bin) = std::env::var_os("VELO_TEST_PG_CRON").map(std::path::PathBuf::from) else {
        crate::common::missing("VELO_TEST_PG_CRON is not set");
        return;
    };
    let server = Server::new(&bin, &LOCALE, "shared_preload_libraries = 'auto_explain, pg_cron'");
    server
        .sql(
            "postgres",
            "CREATE EXTENSION pg_cron; CREATE TABLE ran (at timestamptz DEFAULT now())",
        )
        .await;
    let job = "SELECT cron.schedule('job', '@reboot', 'INSERT INTO ran DEFAULT VALUES')";
    server.sql("postgres", job).await;
    let home = home_of(&bin);
    let project = following(&home, &server).await;
    project.stop_following().await.unwrap();
    let main = project.main().await.unwrap();
    for _ in 0..2 {
        assert_eq!(sql(&main, "SHOW shared_preload_libraries").await, "auto_explain");
        assert_eq!(sql(&main, "SELECT count(*) FROM ran").await, "0");
        main.restart().await.unwrap();
    }
}
