//! Data that is prepared once: built by one of all who ask, whole or not there, and never stale.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::client::{attempt, sql};
use common::home::{TestHome, eventually};
use common::{fs_dir, installations, zfs};
use velo_core::storage::StorageKind;
use velo_core::{Branch, Config, ErrorKind, Method, Project, Seed, SeedKey};

const FILL: &str = "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x";

async fn filled(branch: Branch) -> Result<(), tokio_postgres::Error> {
    attempt(&branch.url(), FILL).await.map(drop)
}

fn key(text: &str) -> SeedKey {
    SeedKey::new().code("tests/seeds.rs").text(text).label(text)
}

async fn seed(project: &Project, text: &str) -> Seed {
    project.seed(key(text), filled).await.unwrap()
}

/// Nothing is there of what was to become a seed: `main` is alone.
async fn alone(project: &Project, home: &TestHome) {
    assert_eq!(project.seeds().await.unwrap().len(), 0);
    let names = || home.left().len();
    // The volume of `main` and the folder of its server.
    assert!(eventually(Duration::from_secs(30), || names() == 2), "{:?}", home.left());
    assert!(eventually(Duration::from_secs(30), || home.servers_of_branches() == 1));
}

async fn it_is_built_once_and_branches_need_no_recovery(home: &TestHome) {
    let project = home.project("seeds").await;
    let built = AtomicUsize::new(0);
    let ask = || {
        project.seed(key("one"), async |branch| {
            built.fetch_add(1, Ordering::Relaxed);
            filled(branch).await
        })
    };
    // At the same time in one process, and afterwards.
    let (a, b) = tokio::join!(ask(), ask());
    let (a, b, c) = (a.unwrap(), b.unwrap(), ask().await.unwrap());
    assert_eq!(built.into_inner(), 1);
    assert_eq!((a.id(), b.id()), (c.id(), c.id()));
    let [first, second] = [a.branch().await.unwrap(), c.branch().await.unwrap()];
    for branch in [&first, &second] {
        assert_eq!(branch.info().await.unwrap().cut.unwrap().method, Method::Stopped);
        assert_eq!(sql(branch, "SELECT count(*) FROM t").await, "1000");
        sql(branch, "DELETE FROM t").await;
    }
    let log = std::fs::read_to_string(first.log_file()).unwrap();
    assert!(!log.contains("not properly shut down"), "{log}");
    assert_eq!(sql(&c.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
    // What is not the same is another seed.
    let other = seed(&project, "two").await;
    assert_ne!(other.key(), a.key());

    // One that is used stays.
    let error = a.delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    first.close().await.unwrap();
    second.close().await.unwrap();
    project.finish_deletions().await.unwrap();
    assert!(eventually_free(&project, &a).await);
    a.delete().await.unwrap();
    other.delete().await.unwrap();
    assert_eq!(project.seeds().await.unwrap().len(), 0);
    // And is built anew when it is asked for again.
    let again = seed(&project, "one").await;
    assert_ne!(again.id(), a.id());
    assert_eq!(sql(&again.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

/// A handle that was dropped discards its branch behind its holder.
async fn eventually_free(project: &Project, seed: &Seed) -> bool {
    for _ in 0..1000 {
        let seeds = project.seeds().await.unwrap();
        if seeds.iter().find(|s| s.id() == seed.id()).unwrap().info().branches == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn seeds_on_btrfs() {
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    let home = TestHome::with(Some(&base), |b| b.storage(StorageKind::Btrfs));
    it_is_built_once_and_branches_need_no_recovery(&home).await;
}

#[tokio::test]
async fn seeds_on_reflink() {
    let Some(base) = fs_dir("VELO_TEST_XFS") else { return };
    let home = TestHome::with(Some(&base), |b| b.storage(StorageKind::Reflink));
    it_is_built_once_and_branches_need_no_recovery(&home).await;
}

#[tokio::test]
async fn seeds_on_copy() {
    let Some(base) = fs_dir("VELO_TEST_EXT4") else { return };
    let home = TestHome::with(Some(&base), |b| b.storage(StorageKind::Copy));
    it_is_built_once_and_branches_need_no_recovery(&home).await;
}

#[tokio::test]
async fn seeds_on_zfs() {
    let Some(place) = zfs::place() else { return };
    let Some(bin) = common::installations().and_then(|mut bins| bins.pop()) else { return };
    let home = place.home(|b| b.pg_bin(&bin));
    // An emulated machine takes minutes for all of it.
    if std::env::var_os("VELO_TEST_LONG").is_some() {
        return it_is_built_once_and_branches_need_no_recovery(&home).await;
    }
    // What is ZFS's own: the volume that a seed was built in is kept as long as the seed, and no longer.
    let project = home.project("seeds").await;
    let seed = seed(&project, "one").await;
    let branch = seed.branch().await.unwrap();
    assert_eq!(branch.info().await.unwrap().cut.unwrap().method, Method::Stopped);
    assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000");
    branch.close().await.unwrap();
    project.finish_deletions().await.unwrap();
    assert_eq!(project.hidden().await.unwrap(), 1);
    seed.delete().await.unwrap();
    assert_eq!(project.hidden().await.unwrap(), 0);
}

/// A pool may say that it has ended while its connections are just being closed.
#[tokio::test]
async fn a_client_that_is_just_ending_is_not_told_of_the_servers_end() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let (sender, ended) = tokio::sync::oneshot::channel();
    let build = async move |branch: Branch| {
        let (client, connection) =
            tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        client.batch_execute(FILL).await?;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(client);
            sender.send(connection.await.unwrap()).unwrap();
        });
        Ok::<_, tokio_postgres::Error>(())
    };
    let seed = project.seed(key("one"), build).await.unwrap();
    ended.await.unwrap().unwrap();
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

#[tokio::test]
async fn a_build_that_fails_leaves_nothing() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let error = project
        .seed(key("one"), async |branch| attempt(&branch.url(), "SELEC 1").await.map(drop))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Seed);
    assert!(error.hint().is_some());
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.is::<tokio_postgres::Error>(), "{cause:?}");
    alone(&project, &home).await;

    // One that panics, and one that nobody waits for any more.
    let panics = tokio::spawn({
        let project = project.clone();
        async move {
            let build = async |_| -> Result<(), std::io::Error> { panic!("in the build") };
            project.seed(key("one"), build).await
        }
    });
    assert!(panics.await.unwrap_err().is_panic());
    let (sender, begun) = tokio::sync::oneshot::channel();
    let build = async move |_| -> Result<(), std::io::Error> {
        sender.send(()).unwrap();
        std::future::pending().await
    };
    tokio::select! {
        _ = project.seed(key("one"), build) => panic!("it ended"),
        begun = begun => begun.unwrap(),
    }
    // Whoever comes next need not wait for what is cleaned up behind them.
    let seed = seed(&project, "one").await;
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
    assert!(eventually_free(&project, &seed).await);
    seed.delete().await.unwrap();
    alone(&project, &home).await;
}

/// With `+i` nothing can be removed from the folder, with `-i` it can again.
fn change(flag: &str, folder: &Path) {
    assert!(Command::new("chattr").arg(flag).arg(folder).status().unwrap().success());
}

/// Whoever asks next undoes it, in the same process too.
#[tokio::test]
async fn a_build_that_could_not_be_undone_keeps_nobody() {
    let Some(base) = fs_dir("VELO_TEST_EXT4") else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = TestHome::new(Some(&base));
    let project = home.project("seeds").await;
    let volumes = home.config().home().join("volumes");
    let before = home.left().len();
    let fails = async |_| {
        change("+i", &volumes);
        Err::<(), _>(std::io::Error::other("as it happens"))
    };
    let failed = project.seed(key("stuck"), fails).await;
    change("-i", &volumes);
    failed.unwrap_err();
    assert!(home.left().len() > before, "it could be undone");
    let seed = tokio::time::timeout(Duration::from_secs(60), seed(&project, "stuck"));
    assert_eq!(
        sql(&seed.await.unwrap().branch().await.unwrap(), "SELECT count(*) FROM t").await,
        "1000"
    );
}

/// What is in the way is told to whoever waits for the seed, and not waited for without end.
#[tokio::test]
async fn a_seed_that_cannot_be_deleted_is_an_error_to_who_wants_it() {
    let Some(base) = fs_dir("VELO_TEST_EXT4") else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = TestHome::new(Some(&base));
    let project = home.project("seeds").await;
    let first = seed(&project, "stuck").await;
    let snapshots = home.config().home().join("snapshots");
    change("+i", &snapshots);
    let failed = first.delete().await;
    let wanted =
        tokio::time::timeout(Duration::from_secs(60), project.seed(key("stuck"), filled)).await;
    change("-i", &snapshots);
    failed.unwrap_err();
    wanted.expect("it is waited for without end").map(drop).unwrap_err();
    let again = seed(&project, "stuck").await;
    assert_eq!(sql(&again.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

#[tokio::test]
async fn a_server_that_dies_while_a_seed_is_built_makes_none() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let dies = async |branch: Branch| {
        filled(branch.clone()).await?;
        let pid = branch.info().await.unwrap().pid.unwrap();
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        Ok::<_, tokio_postgres::Error>(())
    };
    let error = project.seed(key("dies"), dies).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Seed, "{error}");
    assert!(error.to_string().contains("had ended"), "{error}");
    alone(&project, &home).await;
    let seed = seed(&project, "dies").await;
    let branch = seed.branch().await.unwrap();
    assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000");
}

#[tokio::test]
async fn files_that_change_while_a_seed_is_built_make_none() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1.sql");
    let of_file = || key("files").files(folder.path().to_str().unwrap()).unwrap();
    std::fs::write(&file, "old").unwrap();
    let changes = async |branch: Branch| {
        std::fs::write(&file, "new").unwrap();
        filled(branch).await
    };
    let error = project.seed(of_file(), changes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Seed, "{error}");
    assert!(error.to_string().contains("were changed"), "{error}");
    alone(&project, &home).await;
    // Nothing of it is taken for a seed of the old ones.
    std::fs::write(&file, "old").unwrap();
    let seed = project.seed(of_file(), filled).await.unwrap();
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

#[tokio::test]
async fn sql_files_are_run_whole_or_not_at_all() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1.sql");
    let pattern = folder.path().to_str().unwrap();
    std::fs::write(&file, "BEGIN; CREATE TABLE t (n int);").unwrap();
    let error = project.seed_sql(pattern).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Seed, "{error}");
    assert!(error.to_string().contains("does not end it"), "{error}");
    alone(&project, &home).await;
    // As an editor writes it that marks the order of bytes.
    std::fs::write(&file, "\u{feff}BEGIN; CREATE TABLE t AS SELECT 7 AS n; COMMIT;").unwrap();
    let seed = project.seed_sql(pattern).await.unwrap();
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT n FROM t").await, "7");
}

/// Such a file empties the search path for its session, and may hold what only psql understands.
#[tokio::test]
async fn sql_files_of_pg_dump_are_run_or_it_is_said_how_to_dump() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let pattern = folder.path().to_str().unwrap();
    let dumped = "SET check_function_bodies = false;\n\
                  SELECT pg_catalog.set_config('search_path', '', false);\n\
                  CREATE TABLE public.t (n integer);\n\
                  INSERT INTO public.t VALUES (7);\n";
    file("1.sql", dumped);
    file("2.sql", "CREATE TABLE u AS SELECT n + 1 AS n FROM t");
    let seed = project.seed_sql(pattern).await.unwrap();
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT n FROM u").await, "8");

    for only_psql in
        ["\\restrict aB3\n", "COPY public.t (n) FROM stdin;\n7\n\\.\n", "COPY public.t FROM STDIN;"]
    {
        file("1.sql", &format!("CREATE TABLE public.t (n integer);\n{only_psql}"));
        let error = project.seed_sql(pattern).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Seed, "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("only psql") && hint.contains("--inserts"), "{hint}");
    }
    // Of any other mistake nothing is said of psql.
    file("1.sql", "CREATE TABLE public.t (n number);");
    let error = project.seed_sql(pattern).await.unwrap_err();
    assert!(!error.hint().unwrap().contains("psql"), "{error}");
}

#[tokio::test]
async fn of_sql_files_those_count_that_are_run() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let pattern = folder.path().to_str().unwrap();
    file("README.md", "");
    let error = project.seed_sql(pattern).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("no SQL file is in"), "{error}");
    assert_eq!(project.seeds().await.unwrap().len(), 0);
    file("1.sql", "CREATE TABLE t AS SELECT 7 AS n");
    let seed = project.seed_sql(pattern).await.unwrap();
    // As an editor leaves it, what people write, and what undoes.
    for other in [".1.sql.swp", "1.sql~", "README.md", "1.down.sql", "down.sql"] {
        file(other, "DROP TABLE t");
        assert_eq!(project.seed_sql(pattern).await.unwrap().id(), seed.id(), "{other}");
    }
    file("2.sql", "UPDATE t SET n = 8");
    let other = project.seed_sql(pattern).await.unwrap();
    assert_ne!(other.id(), seed.id());
    assert_eq!(sql(&other.branch().await.unwrap(), "SELECT n FROM t").await, "8");
}

#[tokio::test]
async fn a_seed_may_start_from_another() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let base = seed(&project, "base").await;
    let more = project
        .seed(key("more").from(&base), async |branch| {
            attempt(&branch.url(), "DELETE FROM t WHERE x > 10").await.map(drop)
        })
        .await
        .unwrap();
    assert_eq!(sql(&more.branch().await.unwrap(), "SELECT count(*) FROM t").await, "10");
    assert_eq!(sql(&base.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
    // The same on top of another base is another seed.
    let main = project.seed(key("more"), filled).await.unwrap();
    assert_ne!(main.key(), more.key());
}

// ------------------------------------------------------------------------------------ many processes

const HOME: &str = "VELO_TEST_SEED_HOME";
const PROJECT: &str = "VELO_TEST_SEED_PROJECT";
/// A folder of SQL files, where the seed is made of files.
const CHECKOUT: &str = "VELO_TEST_SEED_CHECKOUT";

/// What a process writes a line to when it begins to build.
fn builds(home: &Path) -> PathBuf {
    home.join("../builds")
}

/// No test but where another one starts it, as a process that asks for a seed.
#[tokio::test]
async fn asks_for_a_seed() {
    let Ok(home) = std::env::var(HOME) else { return };
    let config = Config::builder().home(&home).build().unwrap();
    let name = std::env::var(PROJECT).unwrap_or("seeds".to_owned());
    let project = Project::builder(name).config(config).open().await.unwrap();
    let key = match std::env::var(CHECKOUT) {
        Ok(checkout) => {
            let key = SeedKey::new().code("tests/seeds.rs").label("files");
            key.files(format!("{checkout}/*.sql")).unwrap()
        }
        Err(_) => key("one"),
    };
    let slow = std::env::var_os("VELO_TEST_SEED_SLOW").is_some();
    let exits = std::env::var_os("VELO_TEST_SEED_EXITS").is_some();
    let seed = project
        .seed(key, async |branch: Branch| {
            let file =
                std::fs::File::options().append(true).create(true).open(builds(home.as_ref()));
            file.unwrap().write_all(b"begun\n").unwrap();
            if exits {
                filled(branch).await.unwrap();
                std::process::exit(7);
            }
            if slow {
                std::future::pending::<()>().await;
            }
            filled(branch).await
        })
        .await
        .unwrap();
    let branch = seed.branch().await.unwrap();
    assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000");
    sql(&branch, "DROP TABLE t").await;
    branch.close().await.unwrap();
    project.finish_deletions().await.unwrap();
}

/// A process that asks for a seed.
fn asking(home: &TestHome) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "asks_for_a_seed", "--nocapture"])
        .env(HOME, home.config().home())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn process(home: &TestHome, slow: bool) -> Child {
    let mut command = asking(home);
    if slow {
        command.env("VELO_TEST_SEED_SLOW", "1");
    }
    command.spawn().unwrap()
}

/// Waits until all of them have what they asked for.
fn all_have_it(processes: Vec<Child>) {
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn begun(home: &TestHome) -> usize {
    std::fs::read_to_string(builds(home.config().home())).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn of_sixteen_processes_one_builds_and_another_takes_over_from_the_dead() {
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    let home = TestHome::with(Some(&base), |b| b.storage(StorageKind::Btrfs));
    let project = home.project("seeds").await;
    let mut dying = process(&home, true);
    assert!(eventually(Duration::from_secs(60), || begun(&home) == 1));
    let others: Vec<Child> = (0..16).map(|_| process(&home, false)).collect();
    // Not before the others wait for it: each of them holds its lease by then.
    let leases = || std::fs::read_dir(home.config().home().join("leases")).unwrap().count();
    let here = leases();
    let _ = eventually(Duration::from_secs(2), || leases() >= here + 16);
    assert_eq!(begun(&home), 1);
    dying.kill().unwrap();
    dying.wait().unwrap();
    all_have_it(others);
    assert_eq!(begun(&home), 2, "built by the one that died, and by one of the others");
    let seeds = project.seeds().await.unwrap();
    assert_eq!(seeds.len(), 1);
    assert!(seeds[0].info().ready);
}

#[tokio::test]
async fn a_build_that_exits_leaves_nothing_and_is_taken_over() {
    let home = TestHome::new(None);
    let project = home.project("seeds").await;
    let exits = asking(&home).env("VELO_TEST_SEED_EXITS", "1").output().unwrap();
    let said = String::from_utf8_lossy(&exits.stderr).into_owned();
    assert_eq!((exits.status.code(), begun(&home)), (Some(7), 1), "{said}");
    assert!(eventually(Duration::from_secs(30), || home.servers_of_branches() == 1), "main's");
    all_have_it(vec![process(&home, false)]);
    assert_eq!(begun(&home), 2);
    let [seed] = &project.seeds().await.unwrap()[..] else { panic!("one seed") };
    assert!(seed.info().ready);
    assert_eq!(sql(&seed.branch().await.unwrap(), "SELECT count(*) FROM t").await, "1000");
}

/// As after a state that was copied in the middle of a build, and is put back.
#[tokio::test]
async fn of_a_builder_that_nobody_knows_it_is_said() {
    let home = TestHome::new(None);
    home.project("seeds").await;
    let leases = || {
        let all = std::fs::read_dir(home.config().home().join("leases")).unwrap();
        all.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let before = leases();
    let mut dying = process(&home, true);
    assert!(eventually(Duration::from_secs(60), || begun(&home) == 1));
    let own: Vec<_> = leases().into_iter().filter(|lease| !before.contains(lease)).collect();
    dying.kill().unwrap();
    dying.wait().unwrap();
    own.iter().for_each(|lease| std::fs::remove_file(lease).unwrap());
    let told = process(&home, false).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success() && said.contains("velo gc --unrecorded"), "{said}");
    assert!(eventually(Duration::from_secs(60), || home.servers_of_branches() == 1), "main's");
    let spec = velo_core::gc::GcSpec::new().unrecorded();
    velo_core::gc::collect(home.config(), spec).await.unwrap();
    all_have_it(vec![process(&home, false)]);
}

/// A checkout with one migration.
fn checkout(home: &TestHome, name: &str, sql: &str) -> PathBuf {
    let folder = home.config().home().join("..").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1.sql"), sql).unwrap();
    folder
}

#[tokio::test]
async fn of_two_checkouts_and_two_postgresqls_each_pair_of_data_is_built_once() {
    let Some(bins) = installations() else { return };
    let (Some(old), Some(new)) = (bins.first(), bins.last()) else { return };
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    let home = TestHome::with(Some(&base), |b| b.storage(StorageKind::Btrfs));
    let mut projects = Vec::new();
    for (name, bin) in [("old", old), ("new", new)] {
        let config = home.config().home();
        let config = Config::builder().home(config).storage(StorageKind::Btrfs).pg_bin(bin);
        let config = config.build().unwrap();
        projects.push(Project::builder(name).config(config).create().await.unwrap());
    }
    let checkouts = ["one", "two"].map(|name| checkout(&home, name, FILL));
    let ask = |processes: usize| {
        let one = |n: usize| {
            let mut command = asking(&home);
            command.env(PROJECT, ["old", "new"][n % 2]).env(CHECKOUT, &checkouts[n / 2 % 2]);
            command.spawn().unwrap()
        };
        all_have_it((0..processes).map(one).collect());
    };
    ask(16);
    assert_eq!(begun(&home), 2, "the same files, with two PostgreSQLs");
    checkout(&home, "two", &FILL.replace("1, 1000", "2, 1001"));
    ask(8);
    assert_eq!(
        begun(&home),
        4,
        "what one of them has now is something else, and what the other has is there"
    );
    for project in projects {
        let seeds = project.seeds().await.unwrap();
        assert_eq!(seeds.len(), 2);
        assert!(seeds.iter().all(|seed| seed.info().ready));
        assert_ne!(seeds[0].key(), seeds[1].key());
    }
}
