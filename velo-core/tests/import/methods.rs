//! Each way, of each PostgreSQL.

use velo_core::import::{Method, Progress, Source, Stage};
use velo_core::{Branch, BranchSpec, Project};

use crate::common::fs_dir;
use crate::common::home::TestHome;
use crate::data::{fill, roles, sums};
use crate::server::{Server, bins, bins_with_icu};

/// The URL of a database of a branch.
pub fn url_in(branch: &Branch, database: &str) -> String {
    let url = branch.url();
    let (head, _) = url.rsplit_once('/').unwrap();
    format!("{head}/{}", database.replace(' ', "%20"))
}

/// A home on btrfs, where there is one.
pub fn home() -> TestHome {
    let base = std::env::var_os("VELO_TEST_BTRFS").map(std::path::PathBuf::from);
    TestHome::with(base.as_deref().filter(|path| path.is_dir()), |b| b)
}

pub async fn import(home: &TestHome, source: Source) -> velo_core::Result<Project> {
    Project::builder("api").config(home.config().clone()).from(source).create().await
}

/// A home whose PostgreSQL is this one.
pub fn home_of(bin: &std::path::Path) -> TestHome {
    let base = std::env::var_os("VELO_TEST_BTRFS").map(std::path::PathBuf::from);
    TestHome::with(base.as_deref().filter(|path| path.is_dir()), |b| b.pg_bin(bin))
}

/// Source and project agree in these databases, and in the roles.
pub async fn agree(server: &Server, project: &Project, databases: &[&str], what: &str) {
    agree_in(server, project, databases, what).await;
    let main = project.main().await.unwrap();
    assert_eq!(roles(&server.url("postgres")).await, roles(&main.url()).await, "{what}");
}

/// Source and project agree in what is in these databases: in every row, and in what `pg_dump -s` prints.
pub async fn agree_in(server: &Server, project: &Project, databases: &[&str], what: &str) {
    let main = project.main().await.unwrap();
    for database in databases {
        let (theirs, ours) = (server.url(&database.replace(' ', "%20")), url_in(&main, database));
        assert_eq!(sums(&theirs).await, sums(&ours).await, "{what}: {database}");
        // An older major says in a view whose column it is, where there is one table alone.
        let said = |url: &str| server.schema_of(url).replace("users.", "").replace("orders.", "");
        let (theirs, ours) = (said(&theirs), said(&ours));
        if theirs != ours {
            let differ = theirs.lines().zip(ours.lines()).find(|(a, b)| a != b);
            panic!("{what}: pg_dump -s of {database} differs first in {differ:?}");
        }
    }
}

/// A branch of the project is made, and is worth something.
async fn is_branched(project: &Project) {
    let branch = Branch::create(project, BranchSpec::ephemeral()).await.unwrap();
    let count = crate::common::client::sql(&branch, "SELECT count(*) FROM app.users").await;
    assert_eq!(count, "500");
    branch.close().await.unwrap();
}

#[tokio::test]
async fn a_basebackup_brings_all_that_a_server_has() {
    for bin in bins() {
        let server =
            Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "shared_buffers = 32MB");
        fill(&server).await;
        let home = home_of(&bin);
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Progress>::new()));
        let tell = told.clone();
        let source = Source::new(server.url("shop")).unwrap();
        let source = source.progress(move |progress| tell.lock().unwrap().push(progress));
        let project = import(&home, source).await.unwrap();
        let info = project.info();
        let source = info.source.unwrap();
        assert_eq!(source.method, Method::Basebackup);
        assert!(
            !source.from.contains("s3cr") && !source.from.contains("password"),
            "{}",
            source.from
        );
        assert_eq!((info.role.as_str(), info.database.as_str()), ("velo", "shop"));
        assert_eq!(info.postgres.version.major, server.major);
        agree(&server, &project, &["shop", "an other"], &format!("basebackup {}", server.major))
            .await;
        is_branched(&project).await;
        assert!(told.lock().unwrap().iter().any(|p| p.stage == Stage::Copy && p.bytes > 0));
        // The source has nothing left of it.
        let slots = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication)";
        assert_eq!(server.sql("postgres", slots).await, "0");
    }
}

#[tokio::test]
async fn a_standby_is_copied_and_becomes_a_server_of_its_own() {
    for bin in bins() {
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        server.sql("postgres", "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n").await;
        let standby = server.standby();
        server.sql("postgres", "INSERT INTO t SELECT n FROM generate_series(1001, 2000) n").await;
        let home = home();
        let source =
            Source::new(standby.url("postgres")).unwrap().method(Method::Basebackup).unwrap();
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        let state = crate::common::client::sql(&main, "SELECT pg_is_in_recovery()").await;
        assert_eq!(state, "f");
        crate::common::client::sql(&main, "INSERT INTO t VALUES (0)").await;
        assert_eq!(crate::common::client::sql(&main, "SHOW primary_conninfo").await, "");
        // Nor is it in the files, with the primary's password.
        let conf = "SELECT pg_read_file('postgresql.auto.conf')";
        let theirs = standby.sql("postgres", conf).await;
        assert!(theirs.contains("primary_conninfo") && theirs.contains("s3cr"), "{theirs}");
        let ours = crate::common::client::sql(&main, conf).await;
        assert!(!ours.contains("primary") && !ours.contains("s3cr"), "{ours}");
        let notes = project.info().source.unwrap().notes;
        assert!(notes.iter().any(|note| note.contains("primary_conninfo")), "{notes:?}");
        // What the standby had, and so it goes on following.
        let count: u32 =
            crate::common::client::sql(&main, "SELECT count(*) FROM t").await.parse().unwrap();
        assert!((1001..=2001).contains(&count), "{count}");
        assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()").await, "t");
    }
}

#[tokio::test]
async fn settings_of_a_larger_machine_are_brought_down() {
    for bin in bins() {
        let server =
            Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "max_connections = 250");
        // It runs with the old ones still.
        server.sql("postgres", "ALTER SYSTEM SET shared_buffers = '2TB'").await;
        server.sql("postgres", "ALTER SYSTEM SET huge_pages = 'on'").await;
        let home = home();
        let project = import(&home, Source::new(server.url("postgres")).unwrap()).await.unwrap();
        let source = project.info().source.unwrap();
        assert_eq!(source.method, Method::Basebackup);
        assert!(
            source.notes.iter().any(|note| note.contains("shared_buffers")),
            "{:?}",
            source.notes
        );
        assert!(source.notes.iter().any(|note| note.contains("huge_pages")), "{:?}", source.notes);
        let main = project.main().await.unwrap();
        assert_eq!(crate::common::client::sql(&main, "SHOW max_connections").await, "250");
        let small = BranchSpec::ephemeral();
        let branch = Branch::create(&project, small).await.unwrap();
        assert_eq!(crate::common::client::sql(&branch, "SHOW shared_buffers").await, "16MB");
    }
}

#[tokio::test]
async fn a_server_whose_configuration_is_elsewhere_brings_it() {
    let Some(bin) = bins().pop() else { return };
    // As Debian has it, and a container that is given one beside what `initdb` wrote.
    for has_another in [false, true] {
        let settings =
            "max_connections = 123\nwork_mem = '7MB'\nshared_preload_libraries = 'auto_explain'";
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], settings);
        server.sql("postgres", "CREATE ROLE carrier LOGIN REPLICATION PASSWORD 'p'").await;
        server.stop();
        let (conf, data) = (server.dir.path().join("etc"), server.data());
        std::fs::create_dir(&conf).unwrap();
        std::fs::rename(data.join("postgresql.conf"), conf.join("postgresql.conf")).unwrap();
        if has_another {
            std::fs::write(data.join("postgresql.conf"), "work_mem = '3MB'\n").unwrap();
        }
        server.start_with(&conf);
        let home = home();
        let project = import(&home, Source::new(server.url("postgres")).unwrap()).await.unwrap();
        let main = project.main().await.unwrap();
        let shown = "SELECT concat_ws(' ', current_setting('max_connections'), current_setting('work_mem'), \
                       current_setting('shared_preload_libraries'))";
        let found = crate::common::client::sql(&main, shown).await;
        assert_eq!(found, "123 7MB auto_explain", "another: {has_another}");
        project.delete(true).await.unwrap();

        // Who may not see which one it reads is told so, where there is one to be taken for it.
        let url = format!("postgresql://carrier:p@127.0.0.1:{}/postgres", server.port);
        let source = Source::new(url).unwrap().method(Method::Basebackup).unwrap();
        let project = import(&home, source).await.unwrap();
        let notes = project.info().source.unwrap().notes;
        let is_told = notes.iter().any(|note| note.starts_with("postgresql.conf is the one"));
        assert_eq!(is_told, has_another, "{notes:?}");
    }
}

#[tokio::test]
async fn libraries_of_the_sources_command_line_come_with_its_files() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    let carrier = "CREATE ROLE carrier LOGIN REPLICATION PASSWORD 'p'";
    server.sql("postgres", carrier).await;
    server.stop();
    // As a container's.
    server.start_given("-c shared_preload_libraries=auto_explain");
    let home = home_of(&bin);
    let of = |url: String| Source::new(url).unwrap().method(Method::Basebackup).unwrap();
    let project = import(&home, of(server.url("postgres"))).await.unwrap();
    let notes = project.info().source.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("command line")), "{notes:?}");
    let main = project.main().await.unwrap();
    let shown = "SHOW shared_preload_libraries";
    assert_eq!(crate::common::client::sql(&main, shown).await, "auto_explain");
    project.delete(true).await.unwrap();

    // Who may not see it is told so.
    let url = format!("postgresql://carrier:p@127.0.0.1:{}/postgres", server.port);
    let project = import(&home, of(url)).await.unwrap();
    let notes = project.info().source.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("pg_read_all_settings")), "{notes:?}");
    project.delete(true).await.unwrap();

    // One that is not here is missed before anything comes.
    server.stop();
    if !is_copied(&bin, "auto_explain", &server.dir.path().join("postgis-3.so")) {
        return;
    }
    let place = server.dir.path().display();
    server.start_given(&format!(
        "-c dynamic_library_path='{place}' -c shared_preload_libraries=postgis-3"
    ));
    let error = import(&home, of(server.url("postgres"))).await.unwrap_err();
    assert_eq!(error.kind(), velo_core::ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("postgis-3"), "{error}");
}

/// A library of this PostgreSQL's under another name, where it has one.
fn is_copied(bin: &std::path::Path, name: &str, to: &std::path::Path) -> bool {
    let lib = bin.parent().unwrap().join("lib");
    let found = [lib.join("postgresql"), lib].map(|folder| folder.join(format!("{name}.so")));
    let Some(library) = found.into_iter().find(|path| path.exists()) else {
        crate::common::skip("no library to take for another one");
        return false;
    };
    std::fs::copy(library, to).unwrap();
    true
}

/// A library is known by its name.
#[tokio::test]
async fn libraries_whose_workers_would_act_as_the_source_are_not_loaded() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    let place = server.dir.path().display();
    let at = |name: &str| server.dir.path().join(format!("{name}.so"));
    if !is_copied(&bin, "auto_explain", &at("pglogical"))
        || !is_copied(&bin, "citext", &at("citus"))
    {
        return;
    }
    server.stop();
    let conf = server.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let more = format!("shared_preload_libraries = '{place}/pglogical,{place}/citus'\n");
    std::fs::write(&conf, text + &more).unwrap();
    server.start();
    let seen = server.dir.path().join("seen.sql");
    std::fs::write(
        &seen,
        "CREATE TABLE seen AS SELECT current_setting('max_worker_processes') AS workers;",
    )
    .unwrap();
    let home = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().transform(&seen);
    let project = import(&home, source.method(Method::Basebackup).unwrap()).await.unwrap();
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    for branch in [&project.main().await.unwrap(), &branch] {
        let shown = "SELECT concat_ws(' ', current_setting('shared_preload_libraries'), \
                       current_setting('citus.recover_2pc_interval', true), workers, current_setting('max_worker_processes')) \
                     FROM seen";
        // No worker at all began before the transform.
        let wanted = format!("{place}/citus -1 0 8");
        assert_eq!(crate::common::client::sql(branch, shown).await, wanted);
    }
    branch.close().await.unwrap();
}

#[tokio::test]
async fn a_dump_brings_databases_into_the_same_major_and_a_newer_one() {
    let bins = bins();
    let Some(newest) = bins.last() else { return };
    for bin in &bins {
        let server = Server::new(bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        fill(&server).await;
        let home = home_of(newest);
        let source = Source::new(server.url("shop")).unwrap().method(Method::Dump).unwrap();
        let source = source.databases(["shop", "an other", "postgres"]).jobs(2);
        let project = import(&home, source).await.unwrap();
        let info = project.info();
        assert_eq!(info.source.unwrap().method, Method::Dump);
        assert_eq!(info.database, "shop");
        let what = format!("dump of {} into {}", server.major, info.postgres.version);
        agree(&server, &project, &["shop", "an other", "postgres"], &what).await;
        is_branched(&project).await;
    }
}

#[tokio::test]
async fn a_dump_of_schemas_says_that_large_objects_do_not_come() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server.sql("postgres", "CREATE SCHEMA a; CREATE TABLE a.t AS SELECT 7 AS x").await;
    for has_objects in [false, true] {
        let home = home_of(&bin);
        let source = Source::new(server.url("postgres")).unwrap().schemas(["a"]);
        let project = import(&home, source).await.unwrap();
        let notes = project.info().source.unwrap().notes;
        let is_noted = notes.iter().any(|note| note.contains("large objects of postgres"));
        assert_eq!(is_noted, has_objects, "{notes:?}");
        let main = project.main().await.unwrap();
        let found = "SELECT x + (SELECT count(*) FROM pg_largeobject_metadata) FROM a.t";
        assert_eq!(crate::common::client::sql(&main, found).await, "7");
        server.sql("postgres", "SELECT lo_from_bytea(0, 'x')").await;
    }
}

#[tokio::test]
async fn collations_of_icu_come_along_or_are_refused() {
    for bin in bins_with_icu() {
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        fill(&server).await;
        for method in [Method::Basebackup, Method::Dump] {
            let home = home_of(&bin);
            let source = Source::new(server.url("shop")).unwrap().method(method).unwrap();
            let project = import(&home, source).await.unwrap();
            agree(&server, &project, &["shop"], &format!("ICU, {method} of {}", server.major))
                .await;
            is_branched(&project).await;
        }
        // The packages' have none.
        let Some(other) = bins().pop() else { continue };
        let home = home_of(&other);
        let dump = Source::new(server.url("shop")).unwrap().method(Method::Dump).unwrap();
        let error = import(&home, dump).await.unwrap_err();
        assert_eq!(error.kind(), velo_core::ErrorKind::Incompatible, "{error}");
        assert!(error.hint().unwrap_or_default().contains("ICU"), "{error:?}");
        assert!(home.left().is_empty() && home.servers().is_empty());
    }
}

#[tokio::test]
async fn the_files_of_a_stopped_server_are_adopted() {
    for bin in bins() {
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        fill(&server).await;
        let before: Vec<_> =
            vec![sums(&server.url("shop")).await, sums(&server.url("an%20other")).await];
        let data = server.data();
        // One that runs is refused.
        let home = home_of(&bin);
        let of = || Source::new(data.to_str().unwrap()).unwrap();
        let error = import(&home, of()).await.unwrap_err();
        assert_eq!(error.kind(), velo_core::ErrorKind::Conflict, "{error}");
        assert!(home.left().is_empty());
        server.stop();
        let listed = || -> Vec<_> {
            let mut all: Vec<_> = walk(&data)
                .into_iter()
                .map(|p| (p.clone(), p.metadata().unwrap().modified().unwrap()))
                .collect();
            all.sort();
            all
        };
        let files = listed();
        let source = of().reindex();
        let project =
            Project::builder("api").config(home.config().clone()).database("shop").from(source);
        let project = project.create().await.unwrap();
        assert_eq!(files, listed(), "the source's files are as they were");
        let main = project.main().await.unwrap();
        assert_eq!(
            before,
            [sums(&url_in(&main, "shop")).await, sums(&url_in(&main, "an other")).await]
        );
        is_branched(&project).await;
        server.start();
        let what = format!("files of {}", server.major);
        agree(&server, &project, &["shop", "an other"], &what).await;
    }
}

/// What `pg_dumpall` writes of roles.
fn dump_of_roles(roles: &str) -> String {
    let title = "PostgreSQL database cluster dump";
    format!("--\n-- {title}\n--\n\n{roles}\n--\n-- {title} complete\n--\n")
}

#[tokio::test]
async fn roles_in_a_file_begin_with_their_own_first_superuser() {
    let Some(bin) = bins().pop() else { return };
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // Of a container with POSTGRES_USER=app: from 16 on nobody but its first superuser can have granted that.
    let app = "CREATE ROLE app;\nALTER ROLE app WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS;\n\
        CREATE ROLE ann;\nCREATE ROLE reader;\nGRANT reader TO ann GRANTED BY app;\n";
    let table = "CREATE TABLE t (x int);\nALTER TABLE t OWNER TO app;\nINSERT INTO t VALUES (7);\n";
    let data = write("data.sql", table);
    let whole = write("all.sql", &dump_of_roles(&format!("{app}\n\\connect postgres\n{table}")));
    let of = |path: &std::path::Path| Source::new(path.to_str().unwrap()).unwrap();
    let found = "SELECT x::text || ' ' || (SELECT string_agg(rolname, ' ' ORDER BY oid) FROM pg_roles \
                 WHERE rolsuper) FROM t";
    let roles = write("roles.sql", &dump_of_roles(app));
    for source in [of(&data).roles(&roles), of(&whole)] {
        let home = home_of(&bin);
        let project = import(&home, source).await.unwrap();
        let main = project.main().await.unwrap();
        assert_eq!(crate::common::client::sql(&main, found).await, "7 app velo");
    }

    // One of Velo's name would be taken for its own, or take that from it.
    let ordinary = "CREATE ROLE velo;\nALTER ROLE velo WITH NOSUPERUSER LOGIN;\n";
    let own = "CREATE ROLE velo;\nALTER ROLE velo WITH SUPERUSER LOGIN;\n";
    for (roles, may_be_told) in [(ordinary, false), (own, true)] {
        let home = home_of(&bin);
        let text = dump_of_roles(&format!("{app}{roles}"));
        let (roles, whole) = (write("velo.sql", &text), write("whole.sql", &text));
        for source in [of(&data).roles(&roles), of(&whole)] {
            let error = crate::faults::refused(&home, source, "a role of Velo's name").await;
            assert_eq!(error.kind(), velo_core::ErrorKind::Conflict, "{error}");
            assert!(error.hint().unwrap().contains("--role"), "{error:?}");
        }
        let builder = Project::builder("api").config(home.config().clone()).role("velo");
        let told = builder.from(of(&data).roles(&roles)).create().await;
        assert_eq!(told.is_ok(), may_be_told, "{told:?}");
    }
}

#[tokio::test]
async fn a_dump_in_a_file_keeps_its_databases_locale_and_encoding() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    let make = "CREATE DATABASE shop TEMPLATE template0 LOCALE 'C' ENCODING 'LATIN1'";
    server.sql("postgres", make).await;
    server.sql("shop", "CREATE TABLE t AS SELECT 'é'::text AS x").await;
    let at = |name: &str| server.dir.path().join(name).to_str().unwrap().to_owned();
    let url = server.url("shop");
    for (tool, args, name) in [
        ("pg_dump", &["-Fc"][..], "custom"),
        ("pg_dump", &["-Fp"][..], "plain.sql"),
        ("pg_dump", &["-Fp", "-C"][..], "create.sql"),
        ("pg_dumpall", &[][..], "all.sql"),
    ] {
        let path = at(name);
        let done = server.tool(tool, &[args, &["-d", url.as_str(), "-f", path.as_str()]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let found = "SELECT concat_ws(' ', datname, datcollate, pg_encoding_to_char(encoding), \
                   (SELECT x FROM t), \
                   (SELECT count(*) FROM pg_database WHERE NOT datistemplate)) \
                 FROM pg_database WHERE datname = current_database()";
    for (name, told, wanted) in [
        ("custom", None, "shop C LATIN1 é 2"),
        ("custom", Some("other"), "other C LATIN1 é 2"),
        ("custom", Some("postgres"), "postgres C LATIN1 é 1"),
        ("create.sql", None, "shop C LATIN1 é 2"),
        ("create.sql", Some("shop"), "shop C LATIN1 é 2"),
        ("all.sql", Some("shop"), "shop C LATIN1 é 2"),
        // This one does not know.
        ("plain.sql", Some("shop"), "shop C.UTF-8 UTF8 é 2"),
    ] {
        let what = format!("{name} as {told:?}");
        let home = home_of(&bin);
        let source = Source::new(at(name)).unwrap();
        let builder = Project::builder("api").config(home.config().clone()).from(source);
        let builder = told.into_iter().fold(builder, |builder, name| builder.database(name));
        let project = builder.create().await.unwrap_or_else(|e| panic!("{what}: {e} {e:?}"));
        let main = project.main().await.unwrap();
        assert_eq!(crate::common::client::sql(&main, found).await, wanted, "{what}");
        let notes = project.info().source.unwrap().notes;
        let is_noted = notes.iter().any(|note| note.contains("which locale"));
        assert_eq!(is_noted, name == "plain.sql", "{what}: {notes:?}");
    }
    // Nothing is made under a name that a whole cluster's dump does not make.
    let home = home_of(&bin);
    let builder = Project::builder("api").config(home.config().clone()).database("elsewhere");
    let error = builder.from(Source::new(at("all.sql")).unwrap()).create().await.unwrap_err();
    assert_eq!(error.kind(), velo_core::ErrorKind::NotFound, "{error}");

    // Where it does not know, somebody may say it, for each refresh too; data with its own is given no other.
    let told = |from: &str| {
        let source = Source::new(from).unwrap();
        let builder = Project::builder("api").config(home.config().clone()).from(source);
        builder.database("shop").locale("C")
    };
    for from in [server.url("shop"), server.data().to_str().unwrap().to_owned()] {
        let error = told(&from).create().await.unwrap_err();
        assert_eq!(error.kind(), velo_core::ErrorKind::InvalidInput, "{error}");
        assert!(error.hint().unwrap().contains("--locale"), "{error:?}");
    }
    let project = told(&at("plain.sql")).create().await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(crate::common::client::sql(&main, found).await, "shop C UTF8 é 2");
    let project = project.refresh(velo_core::RefreshSpec::new()).await.unwrap();
    let main = project.main().await.unwrap();
    assert_eq!(crate::common::client::sql(&main, found).await, "shop C UTF8 é 2");
}

#[tokio::test]
async fn libraries_that_extensions_of_a_dump_need_are_loaded() {
    let Some(bin) = bins().pop() else { return };
    let settings = "shared_preload_libraries = 'auto_explain, pg_stat_statements'";
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], settings);
    server.sql("postgres", "CREATE EXTENSION pg_stat_statements").await;
    let home = home_of(&bin);
    let source = Source::new(server.url("postgres")).unwrap().method(Method::Dump).unwrap();
    let project = import(&home, source).await.unwrap();
    let notes = project.info().source.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("pg_stat_statements")), "{notes:?}");
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    for branch in [&project.main().await.unwrap(), &branch] {
        let shown = "SHOW shared_preload_libraries";
        assert_eq!(crate::common::client::sql(branch, shown).await, "pg_stat_statements");
        // It says that it must be loaded so, unless it is.
        let works = "SELECT count(*) >= 0 FROM pg_stat_statements";
        assert_eq!(crate::common::client::sql(branch, works).await, "t");
    }
    branch.close().await.unwrap();
}

/// It cannot be made in a server that has not loaded it, and is loaded in none that could run the source's jobs.
#[tokio::test]
async fn a_dump_with_pg_cron_comes_without_running_its_jobs() {
    let Some(bin) = std::env::var_os("VELO_TEST_PG_CRON").map(std::path::PathBuf::from) else {
        crate::common::missing("VELO_TEST_PG_CRON is not set");
        return;
    };
    let settings =
        "shared_preload_libraries = 'auto_explain, pg_cron'\ncron.database_name = 'shop'";
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], settings);
    server.sql("postgres", "CREATE DATABASE shop").await;
    let ran = "CREATE EXTENSION pg_cron; CREATE TABLE ran (at timestamptz DEFAULT now())";
    server.sql("shop", ran).await;
    let job = "SELECT cron.schedule('job', '@reboot', 'INSERT INTO ran DEFAULT VALUES')";
    server.sql("shop", job).await;
    let at = |name: &str| server.dir.path().join(name).to_str().unwrap().to_owned();
    let url = server.url("shop");
    for (tool, args, name) in [
        ("pg_dump", &["-Fc"][..], "custom"),
        ("pg_dump", &["-Fp"][..], "plain.sql"),
        ("pg_dumpall", &[][..], "all.sql"),
    ] {
        let path = at(name);
        let done = server.tool(tool, &[args, &["-d", url.as_str(), "-f", path.as_str()]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    for from in [url.clone(), at("custom"), at("plain.sql"), at("all.sql")] {
        let home = home_of(&bin);
        let mut source = Source::new(&from).unwrap();
        if from == url {
            source = source.method(Method::Dump).unwrap();
        }
        let builder = Project::builder("api").config(home.config().clone()).database("shop");
        let project = builder.from(source).create().await;
        let project = project.unwrap_or_else(|e| panic!("{from}: {e} {e:?}"));
        let notes = project.info().source.unwrap().notes;
        assert!(notes.iter().any(|note| note.contains("pg_cron")), "{from}: {notes:?}");
        let main = project.main().await.unwrap();
        let found = "SELECT concat_ws(' ', jobname, (SELECT count(*) FROM ran), \
                       current_setting('shared_preload_libraries')) FROM cron.job";
        assert_eq!(crate::common::client::sql(&main, found).await, "job 0 ", "{from}");
    }
}

/// Nothing is copied where the home's file system clones, whether the source is a subvolume of its own or not.
#[tokio::test]
async fn files_on_the_homes_btrfs_are_cloned_in_place() {
    let (Some(base), Some(bin)) = (fs_dir("VELO_TEST_BTRFS"), bins().pop()) else { return };
    for subvolume in [true, false] {
        let dir = tempfile::Builder::new().prefix("source.").tempdir_in(&base).unwrap();
        if subvolume {
            let create = ["subvolume", "create", dir.path().join("data").to_str().unwrap()]
                .map(str::to_owned);
            let Ok(made) = std::process::Command::new("btrfs").args(create).output() else {
                crate::common::missing("there is no program btrfs");
                return;
            };
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let server = Server::in_folder(dir, &bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        let rows = "CREATE TABLE t AS SELECT n, repeat(md5(n::text), 20) AS x FROM generate_series(1, 200000) n";
        server.sql("postgres", rows).await;
        // No vacuum has anything to write meanwhile.
        server.sql("postgres", "VACUUM (FREEZE, ANALYZE) t").await;
        let before = sums(&server.url("postgres")).await;
        server.stop();
        let home = home_of(&bin);
        let project = import(&home, Source::new(server.data().to_str().unwrap()).unwrap()).await;
        let project = project.unwrap();
        let notes = project.info().source.unwrap().notes;
        assert!(notes.iter().any(|note| note.ends_with(" files were cloned")), "{notes:?}");
        let main = project.main().await.unwrap();
        main.stop().await.unwrap();
        let usage = main.usage().await.unwrap();
        let is_shared = usage.referenced > 130 << 20 && usage.exclusive < usage.referenced / 2;
        assert!(is_shared, "subvolume: {subvolume}, {usage:?}");
        // It is a server's of its own: the source may go.
        drop(server);
        main.start().await.unwrap();
        assert_eq!(sums(&main.url()).await, before, "subvolume: {subvolume}");
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(walk(&path)),
            false => all.push(path),
        }
    }
    all
}

#[tokio::test]
async fn dumps_of_every_format_are_read() {
    let Some(bin) = bins().pop() else { return };
    let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    fill(&server).await;
    let folder = server.dir.path().join("dumps");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let run = |tool: &str, args: &[&str]| {
        let done = server.tool(tool, args);
        assert!(done.status.success(), "{tool}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let url = server.url("shop");
    run("pg_dumpall", &["--roles-only", "-d", &url, "-f", &at("roles.sql")]);
    run("pg_dump", &["-d", &url, "-f", &at("plain.sql")]);
    run("pg_dump", &["-Fc", "-d", &url, "-f", &at("custom")]);
    run("pg_dump", &["-Ft", "-d", &url, "-f", &at("tar")]);
    run("pg_dump", &["-Fd", "-d", &url, "-f", &at("folder")]);
    run("pg_dumpall", &["-d", &url, "-f", &at("all.sql")]);
    for (program, ending) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz")] {
        let script = format!("{program} -c < {} > {}.{ending}", at("plain.sql"), at("plain.sql"));
        assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }
    for name in [
        "plain.sql",
        "plain.sql.gz",
        "plain.sql.zst",
        "plain.sql.xz",
        "custom",
        "tar",
        "folder",
        "all.sql",
    ] {
        let home = home_of(&bin);
        let mut source = Source::new(at(name)).unwrap();
        if name != "all.sql" {
            source = source.roles(at("roles.sql"));
        }
        let builder = Project::builder("api").config(home.config().clone()).from(source);
        let builder = if name.ends_with(".sql") || name.starts_with("plain") {
            builder.database("shop")
        } else {
            builder
        };
        let project = builder.create().await.unwrap_or_else(|e| panic!("{name}: {e} {e:?}"));
        agree_in(&server, &project, &["shop"], name).await;
        if name == "all.sql" {
            agree(&server, &project, &["an other"], name).await;
        }
        is_branched(&project).await;
    }
    // Without the roles, the error names what to give.
    let home = home_of(&bin);
    let error = import(&home, Source::new(at("custom")).unwrap()).await.unwrap_err();
    assert!(error.hint().unwrap_or_default().contains("--roles"), "{error}");
    assert!(home.left().is_empty() && home.servers().is_empty());
}
