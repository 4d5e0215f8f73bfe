//! `#[velo_core::test]`: what a test is given, what stays of one that fails, and that nothing does of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(clippy::print_stdout)]

mod common;

use std::fs::File;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::client::sql;
use common::home::{TestHome, eventually};
use common::installations;
use velo_core::postgres::{Installation, Source};
use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchInfo, BranchSpec, Project, SeedKey};

const LONG: Duration = Duration::from_secs(60);

/// Tests that are run in a home of another test's, by this program once more; by nobody else.
mod given {
    use tokio_postgres::Client;
    use velo_core::{Branch, FromBranch, blocking};

    use crate::common::client::{attempt, sql};

    /// What `tests/migrations` makes is there, and nothing of another test's.
    async fn is_untouched(branch: &Branch) {
        let found = sql(branch, "SELECT string_agg(id || name, ' ' ORDER BY id) FROM people").await;
        assert_eq!(found, "1Ann 2Ben");
        sql(branch, "DELETE FROM people").await;
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn a_branch(branch: Branch) {
        assert!(branch.full_name().contains("given.a_branch"), "{}", branch.full_name());
        is_untouched(&branch).await;
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn another(branch: Branch, client: Client) -> Result<(), tokio_postgres::Error> {
        client.batch_execute("UPDATE people SET name = name").await?;
        is_untouched(&branch).await;
        Ok(())
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    fn one_that_is_not_async(branch: blocking::Branch, same: Branch) {
        assert_eq!(branch.url(), same.url());
        // It may start a runtime of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(is_untouched(&same));
    }

    #[cfg(feature = "sqlx-0_8")]
    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn one_of_sqlx(pool: sqlx::PgPool, mut alone: sqlx::PgConnection) {
        let count = |found: (i64,)| found.0;
        let query = "SELECT count(*) FROM people";
        assert_eq!(count(sqlx::query_as(query).fetch_one(&pool).await.unwrap()), 2);
        sqlx::query("DELETE FROM people").execute(&mut alone).await.unwrap();
        assert_eq!(count(sqlx::query_as(query).fetch_one(&pool).await.unwrap()), 0);
    }

    struct Url(String);

    impl FromBranch for Url {
        type Error = velo_core::Error;

        async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
            Ok(Self(branch.url()))
        }
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    #[should_panic(expected = "as it should")]
    async fn one_that_should_panic(url: Url) {
        assert!(url.0.starts_with("postgresql://"), "{}", url.0);
        panic!("as it should");
    }

    async fn build(branch: Branch) -> Result<(), tokio_postgres::Error> {
        // The runtime of a test that waits for it does other things meanwhile.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        attempt(&branch.url(), "CREATE TABLE built AS SELECT 7 AS n").await.map(drop)
    }

    #[velo_core::test(seed = "tests/migrations/", build = build)]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn one_that_is_built(branch: Branch) {
        assert_eq!(sql(&branch, "SELECT n FROM built").await, "7");
        sql(&branch, "DROP TABLE built").await;
    }

    /// Another one of the same name.
    mod other {
        use velo_core::Branch;

        use crate::common::client::{attempt, sql};

        async fn build(branch: Branch) -> Result<(), tokio_postgres::Error> {
            attempt(&branch.url(), "CREATE TABLE built AS SELECT 8 AS n").await.map(drop)
        }

        #[velo_core::test(seed = "tests/migrations/", build = build)]
        #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
        async fn one_that_is_built(branch: Branch) {
            assert_eq!(sql(&branch, "SELECT n FROM built").await, "8");
        }

        const BUILD: fn(Branch) -> super::Built = |branch| Box::pin(build(branch));

        #[velo_core::test(seed = "tests/migrations/", build = BUILD)]
        #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
        async fn one_that_is_built_by_a_pointer(branch: Branch) {
            assert_eq!(sql(&branch, "SELECT n FROM built").await, "8");
        }
    }

    type Built = std::pin::Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>>>>;
    const BUILD: fn(Branch) -> Built = |branch| Box::pin(build(branch));

    #[velo_core::test(seed = "tests/migrations/", build = BUILD)]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn one_that_is_built_by_a_pointer(branch: Branch) {
        assert_eq!(sql(&branch, "SELECT n FROM built").await, "7");
    }

    /// Called as what the attribute itself calls something.
    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn branch(branch: Branch) {
        is_untouched(&branch).await;
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    fn case(branch: blocking::Branch) {
        assert!(branch.full_name().contains("given.case"), "{}", branch.full_name());
    }

    #[velo_core::test(build = build)]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    fn one_that_is_built_of_nothing(branch: blocking::Branch) {
        assert!(branch.info().unwrap().ephemeral);
    }

    #[velo_core::test(project = "another")]
    #[ignore = "for `several_tests_share_a_seed_and_no_data`"]
    async fn one_of_main(branch: Branch) {
        assert!(branch.full_name().starts_with("another/~"), "{}", branch.full_name());
        assert_eq!(sql(&branch, "SELECT 1").await, "1");
    }
}

mod failing {
    use velo_core::Branch;

    use crate::common::client::sql;

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `a_failed_tests_branch_stays_for_its_time`"]
    async fn panics(branch: Branch) {
        sql(&branch, "UPDATE people SET name = 'Cid'").await;
        panic!("on purpose");
    }

    #[velo_core::test(seed = "tests/migrations/")]
    #[ignore = "for `a_failed_tests_branch_stays_for_its_time`"]
    fn errs(branch: Branch) -> Result<(), String> {
        Err(format!("on purpose, {}", branch.id()))
    }

    #[velo_core::test(seed = "tests/none/")]
    #[ignore = "for `what_is_wrong_is_told`"]
    async fn of_nothing(_branch: Branch) {}

    #[velo_core::test(seed = "tests/attribute.rs")]
    #[ignore = "for `what_is_wrong_is_told`"]
    async fn of_no_sql(_branch: Branch) {}
}

/// A seed that cannot be built.
mod unbuilt {
    use velo_core::Branch;

    async fn build(_branch: Branch) -> Result<(), std::io::Error> {
        println!("a build begins");
        Err(std::io::Error::other("on purpose"))
    }

    #[velo_core::test(build = build)]
    #[ignore = "for `a_seed_that_cannot_be_built_is_tried_once`"]
    async fn one(_branch: Branch) {}

    #[velo_core::test(build = build)]
    #[ignore = "for `a_seed_that_cannot_be_built_is_tried_once`"]
    async fn two(_branch: Branch) {}

    #[velo_core::test(build = build)]
    #[ignore = "for `a_seed_that_cannot_be_built_is_tried_once`"]
    fn three(_branch: Branch) {}
}

/// A seed whose building panics.
mod panicking {
    use velo_core::Branch;

    async fn build(branch: Branch) -> Result<(), std::io::Error> {
        println!("a build begins");
        panic!("on purpose, in {}", branch.is_ephemeral());
    }

    #[velo_core::test(build = build)]
    #[ignore = "for `a_seed_whose_building_panics_is_tried_once`"]
    async fn one(_branch: Branch) {}

    #[velo_core::test(build = build)]
    #[ignore = "for `a_seed_whose_building_panics_is_tried_once`"]
    fn two(_branch: Branch) {}
}

/// A seed that somebody deletes while a process has its pool.
mod deleted {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use velo_core::{Branch, Project};

    static BUILT: AtomicUsize = AtomicUsize::new(0);

    async fn build(_branch: Branch) -> Result<(), std::io::Error> {
        BUILT.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    #[velo_core::test(build = build)]
    #[ignore = "for `between`"]
    async fn one(_branch: Branch) {}

    #[test]
    #[ignore = "for `a_seed_that_is_deleted_meanwhile_is_built_again`"]
    fn between() {
        one();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let project = Project::builder("velo-core-tests").open().await.unwrap();
            let begun = Instant::now();
            // As long as some are ready it has branches.
            while project.prune_seeds(Duration::ZERO).await.unwrap().is_empty() {
                assert!(begun.elapsed() < super::LONG, "it always has branches");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        one();
        assert_eq!(BUILT.load(Ordering::Relaxed), 2);
    }
}

/// A seed that takes until somebody lets its building go on.
mod slow {
    use std::path::Path;
    use std::time::Duration;

    use velo_core::Branch;

    async fn build(_branch: Branch) -> Result<(), std::io::Error> {
        let go = std::env::var(super::GO).unwrap();
        for _ in 0..12_000 {
            if Path::new(&go).exists() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(std::io::Error::other("nobody let it go on"))
    }

    #[velo_core::test(build = build)]
    #[ignore = "for `who_waits_for_the_seed_of_another_process_is_told`"]
    async fn one(_branch: Branch) {}
}

/// Names the file that lets `slow::build` go on once it is there.
const GO: &str = "VELO_TEST_GO";

/// Runs those of the tests above that match, and says all that they said.
fn run(home: &TestHome, tests: &str, set: &[(&str, &str)]) -> (Output, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--test-threads", "4", tests])
        .env("VELO_HOME", home.config().home())
        .env_remove("NEXTEST_RUN_ID")
        .env_remove("VELO_KEEP_FAILED")
        .env_remove("RUST_BACKTRACE")
        .envs(set.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = said + &told;
    // Not as it is: what these tests say is none of what the outer ones do, and they are to fail.
    all.lines().for_each(|line| println!("| {}", line.replace("FAILED", "as told")));
    (output, all)
}

async fn project(home: &TestHome) -> Project {
    Project::builder("velo-core-tests").config(home.config().clone()).open().await.unwrap()
}

/// The branches that stay, but `main`: records of those that were ready for a test that has ended go with the
/// next use of the home.
async fn stays(project: &Project) -> Vec<BranchInfo> {
    let all = project.branches().await.unwrap().into_iter();
    all.filter(|branch| !branch.ephemeral && branch.name.as_deref() != Some("main")).collect()
}

#[tokio::test]
async fn several_tests_share_a_seed_and_no_data() {
    let home = TestHome::new(None);
    let (output, said) = run(&home, "given::", &[]);
    assert!(output.status.success());
    let tests = if cfg!(feature = "sqlx-0_8") { 13 } else { 12 };
    assert!(said.contains(&format!("{tests} passed; 0 failed")));

    assert!(eventually(LONG, || home.servers().is_empty()));
    let project = project(&home).await;
    assert_eq!(stays(&project).await.len(), 0);
    let seeds = project.seeds().await.unwrap();
    let labels: Vec<_> = seeds.iter().map(|seed| seed.info().label.clone().unwrap()).collect();
    assert_eq!(labels.iter().filter(|label| *label == "migrations").count(), 1, "{labels:?}");
    assert_eq!(labels.iter().filter(|label| *label == "build").count(), 3, "{labels:?}");
    assert_eq!(labels.iter().filter(|label| *label == "BUILD").count(), 2, "{labels:?}");
}

#[tokio::test]
async fn a_failed_tests_branch_stays_for_its_time() {
    let home = TestHome::new(None);
    let mut urls = Vec::new();
    // The second run's are in the place of the first one's; of the third none stays.
    for (set, stay) in [
        (vec![], 2),
        (vec![("VELO_KEEP_FAILED", "2h")], 2),
        (vec![("VELO_KEEP_FAILED", "none")], 2),
    ] {
        let (output, said) = run(&home, "failing::panics", &set);
        assert!(!output.status.success());
        assert!(said.contains("on purpose"));
        let (output, more) = run(&home, "failing::errs", &set);
        assert!(!output.status.success());
        let said = said + &more;
        let kept = stays(&project(&home).await).await;
        assert_eq!(kept.len(), stay, "{kept:?}");
        let told: Vec<_> = said.lines().filter_map(|l| l.trim().strip_prefix("psql '")).collect();
        let told: Vec<_> = told.into_iter().map(|l| l.trim_end_matches('\'').to_owned()).collect();
        match set.first() {
            Some((_, "none")) => assert!(told.is_empty(), "{told:?}"),
            _ => urls = told,
        }
        for branch in &kept {
            assert!(branch.name.as_deref().unwrap().starts_with("kept/attribute.failing."));
            assert!(branch.expires_at.is_some() && !branch.ephemeral, "{branch:?}");
        }
    }
    assert_eq!(urls.len(), 2, "{urls:?}");
    let names = common::client::attempt(&urls[0], "SELECT DISTINCT name FROM people").await;
    assert_eq!(names.unwrap(), "Cid");
}

#[tokio::test]
async fn what_somebody_made_of_a_failed_tests_branch_stays_with_it() {
    let home = TestHome::new(None);
    assert!(!run(&home, "failing::panics", &[]).0.status.success());
    let project = project(&home).await;
    let [first] = &stays(&project).await[..] else { panic!("one stays") };
    let kept = project.branch(first.name.clone().unwrap()).await.unwrap();
    let spec = BranchSpec::named("finding").from(&kept);
    Branch::create(&project, spec).await.unwrap();
    assert!(!run(&home, "failing::panics", &[]).0.status.success());
    let names: Vec<_> = stays(&project).await.into_iter().filter_map(|b| b.name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(first.name.as_ref().unwrap()), "{names:?}");
    // The other one goes for the next.
    assert!(!run(&home, "failing::panics", &[]).0.status.success());
    assert_eq!(stays(&project).await.len(), 3);
}

#[tokio::test]
async fn of_tests_that_fail_at_the_same_time_ten_stay() {
    let home = TestHome::new(None);
    let project = home.project("velo-core").await;
    let mut branches = Vec::new();
    for test in 0..11 {
        let spec = BranchSpec::ephemeral().label(format!("fails-{test}"));
        branches.push(Branch::create(&project, spec).await.unwrap());
    }
    let fail = branches.iter().cloned().map(|branch| {
        tokio::spawn(async move { branch.keep_failed(Duration::from_secs(3600)).await.unwrap() })
    });
    let mut refused = Vec::new();
    for (fails, branch) in fail.collect::<Vec<_>>().into_iter().zip(&branches) {
        if !fails.await.unwrap() {
            refused.push(branch);
        }
    }
    assert_eq!(stays(&project).await.len(), 10);
    // It is what it was, and goes with its handles.
    let [one] = refused[..] else { panic!("{refused:?}") };
    assert!(one.is_ephemeral());
    assert_eq!(sql(one, "SELECT 1").await, "1");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_run_keeps_what_fails_too() {
    let home = TestHome::new(None);
    let own = std::process::id().to_string();
    let set = [("VELO_RUN", "attribute"), ("VELO_RUN_ROOT", own.as_str())];
    assert!(run(&home, "given::a", &set).0.status.success());
    assert!(!run(&home, "failing::panics", &set).0.status.success());
    let project = project(&home).await;
    let kept = |name: &str| name.starts_with("kept/attribute.failing.panics-");
    let branches = project.branches().await.unwrap();
    let kept: Vec<_> =
        branches.iter().filter_map(|b| b.name.as_deref()).filter(|name| kept(name)).collect();
    let [name] = kept[..] else { panic!("{branches:?}") };
    let branch = project.branch(name).await.unwrap();
    assert_eq!(sql(&branch, "SELECT count(*) FROM people WHERE name = 'Cid'").await, "2");
    assert!(branch.info().await.unwrap().expires_at.is_some());
}

#[tokio::test]
async fn a_seed_that_cannot_be_built_is_tried_once() {
    let home = TestHome::new(None);
    let (output, said) = run(&home, "unbuilt::", &[]);
    assert!(!output.status.success());
    let times = |what: &str| said.matches(what).count();
    assert_eq!(times("a build begins"), 1, "{said}");
    // All are told why.
    assert_eq!(times("has no branch: the seed cannot be built: on purpose"), 3, "{said}");
    assert!(eventually(LONG, || home.servers().is_empty()));
}

#[tokio::test]
async fn a_seed_that_is_deleted_meanwhile_is_built_again() {
    let home = TestHome::new(None);
    let (output, said) = run(&home, "deleted::between", &[]);
    assert!(output.status.success(), "{said}");
    assert!(eventually(LONG, || home.servers().is_empty()));
}

/// A project of the package's name is anybody's: its tests have none of what somebody did there.
#[tokio::test]
async fn tests_see_nothing_of_what_somebody_works_in() {
    let home = TestHome::new(None);
    let worked_in = home.project("velo-core").await;
    let main = worked_in.main().await.unwrap();
    sql(&main, "CREATE TABLE people AS SELECT 9 AS id, 'Eve' AS name").await;
    let (output, said) = run(&home, "given::a_branch", &[]);
    assert!(output.status.success(), "{said}");
    assert_eq!(worked_in.seeds().await.unwrap().len(), 0);
    assert_eq!(project(&home).await.seeds().await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_postgresql_that_is_asked_for_has_a_project_of_its_own() {
    let Some(bins) = installations() else { return };
    let home = TestHome::new(None);
    let mut made = Vec::new();
    for bin in bins {
        let major = Installation::at(&bin, Source::Explicit).await.unwrap().version.major;
        let (bin, version) = (bin.to_str().unwrap(), major.to_string());
        let set = [("VELO_PG_BIN", bin), ("VELO_PG_VERSION", version.as_str())];
        let (output, said) = run(&home, "given::a_branch", &set);
        assert!(output.status.success(), "{said}");
        made.push((format!("velo-core-tests-pg{major}"), major));
    }
    let there = Project::list(home.config()).await.unwrap();
    let there: Vec<_> =
        there.iter().map(|p| (p.name.to_string(), p.postgres.version.major)).collect();
    assert_eq!(there, made);
}

#[tokio::test]
async fn a_folder_of_another_postgresql_is_refused_with_the_way_out() {
    let Some(bins) = installations() else { return };
    let [one, .., other] = &bins[..] else { return common::missing("VELO_TEST_PG names one") };
    let home = TestHome::new(None);
    for (bin, is_taken) in [(one, true), (other, false)] {
        let set = [("VELO_PG_BIN", bin.to_str().unwrap())];
        let (output, said) = run(&home, "given::one_of_main", &set);
        assert_eq!(output.status.success(), is_taken, "{said}");
        assert_eq!(said.contains("velo project delete another"), !is_taken, "{said}");
    }
}

#[tokio::test]
async fn a_project_that_is_not_as_asked_is_refused() {
    let home = TestHome::new(None);
    let tests = "given::one_of_main";
    assert!(run(&home, tests, &[]).0.status.success());
    let set = [("VELO_STORAGE", "auto"), ("VELO_RUNTIME", "auto")];
    assert!(run(&home, tests, &set).0.status.success());

    let there = Project::list(home.config()).await.unwrap().remove(0);
    let major = there.postgres.version.major;
    let other = if major == 15 { "16" } else { "15" };
    let storage = if there.storage == StorageKind::Copy { "reflink" } else { "copy" };
    let has = there.storage.to_string();
    for (variable, setting, wanted, has) in [
        ("VELO_PG_VERSION", "pg_version", other, major.to_string()),
        ("VELO_RUNTIME", "runtime", "docker", "process".into()),
        ("VELO_IMAGE", "image", "postgres:15", "none".into()),
        ("VELO_STORAGE", "storage", storage, has),
    ] {
        let (output, said) = run(&home, tests, &[(variable, wanted)]);
        assert!(!output.status.success(), "{variable}");
        let why = format!("{setting} is {wanted}, and the project another was made with {has}");
        assert!(said.contains(&why), "{variable}: {said}");
        assert!(said.contains("velo project delete another"), "{variable}: {said}");
    }
}

#[tokio::test]
async fn a_seed_whose_building_panics_is_tried_once() {
    let home = TestHome::new(None);
    let (output, said) = run(&home, "panicking::", &[]);
    assert!(!output.status.success());
    let times = |what: &str| said.matches(what).count();
    assert_eq!(times("a build begins"), 1, "{said}");
    let why = "has no branch: the seed cannot be built: it panicked: on purpose, in true";
    assert_eq!(times(why), 2, "{said}");
    assert!(eventually(LONG, || home.servers().is_empty()));
    assert_eq!(project(&home).await.seeds().await.unwrap().len(), 0);
}

/// Killed the moment its project is there, a test leaves no server: nobody would stop that one later.
#[tokio::test]
#[cfg(feature = "testing")]
async fn a_test_that_is_killed_when_it_has_made_the_project_leaves_no_server() {
    let home = TestHome::new(None);
    let folder = tempfile::tempdir().unwrap();
    let steps = folder.path().join("steps");
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "given::a_branch"])
        .env("VELO_HOME", home.config().home())
        .env("VELO_TEST_STEPS", &steps)
        .env("VELO_TEST_GATE_AT", "after commit a project")
        .env("VELO_TEST_GATE", folder.path().join("never"))
        .env_remove("NEXTEST_RUN_ID")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_made = eventually(LONG, || {
        std::fs::read_to_string(&steps).is_ok_and(|all| all.contains("after commit a project"))
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(is_made);
    let is_left = !eventually(Duration::from_secs(10), || home.servers().is_empty());
    assert!(!is_left, "{:?}", home.servers());
    // It is whole, and the next one takes it as it is.
    assert!(project(&home).await.main().await.is_ok());
    assert!(run(&home, "given::a_branch", &[]).0.status.success());
    assert!(eventually(LONG, || home.servers().is_empty()));
}

/// As each program that is compiled anew builds one of its own.
#[tokio::test]
async fn a_seed_that_is_built_takes_the_place_of_those_that_nobody_uses() {
    let home = TestHome::new(None);
    let project = home.project("velo-core-tests").await;
    let nothing = async |_: Branch| Ok::<_, std::io::Error>(());
    let mut seeds = Vec::new();
    for (text, label) in [("old", "build"), ("new", "build"), ("other", "other")] {
        let key = SeedKey::new().code("attribute").text(text).label(label);
        seeds.push(project.seed(key, nothing).await.unwrap().key().to_owned());
    }
    {
        let state = rusqlite::Connection::open(home.config().home().join("state.db")).unwrap();
        state.busy_timeout(LONG).unwrap();
        for key in [&seeds[0], &seeds[2]] {
            let aged = "UPDATE record SET body = json_set(body, '$.seed.used_at', 0)
                        WHERE json_extract(body, '$.seed.key') = ?1";
            assert_eq!(state.execute(aged, [key]).unwrap(), 1);
        }
    }
    assert!(run(&home, "given::one_that_is_built_of_nothing", &[]).0.status.success());
    let there = project.seeds().await.unwrap();
    let old: Vec<_> = seeds.iter().map(|key| there.iter().any(|s| s.key() == key)).collect();
    assert_eq!(old, [false, true, true]);
    // And the one that was built.
    assert_eq!(there.len(), 3);
}

#[tokio::test]
async fn who_waits_for_the_seed_of_another_process_is_told() {
    let home = TestHome::new(None);
    let folder = tempfile::tempdir().unwrap();
    let (go, said) = (folder.path().join("go"), folder.path().join("said"));
    let told = File::create(&said).unwrap();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "slow::one"])
            .env("VELO_HOME", home.config().home())
            .env(GO, &go)
            .env_remove("NEXTEST_RUN_ID")
            .stdout(Stdio::null())
            .stderr(told.try_clone().unwrap())
            .spawn()
            .unwrap()
    };
    let mut both = [start(), start()];
    let all = || std::fs::read_to_string(&said).unwrap();
    // While it waits, and not when all is over.
    let is_told = eventually(LONG, || all().contains("velo: waiting for the seed "));
    File::create(&go).unwrap();
    for process in &mut both {
        assert!(process.wait().unwrap().success(), "{}", all());
    }
    assert!(is_told, "{}", all());
    assert!(all().contains(" (build), which another process has been building for "), "{}", all());
    assert_eq!(all().matches("velo: waiting").count(), 1, "{}", all());
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let home = TestHome::new(None);
    for (test, set, why) in [
        ("failing::of_nothing", None, "no file matches"),
        ("failing::of_no_sql", None, "no SQL file is in"),
        (
            "given::a_branch",
            Some(("VELO_KEEP_FAILED", "soon")),
            "write one like 30m or 2h, or none",
        ),
        ("given::a_branch", Some(("VELO_PG_BIN", "/nowhere")), "/nowhere"),
    ] {
        let (output, said) = run(&home, test, set.as_slice());
        assert!(!output.status.success());
        assert!(said.contains(why), "{test}");
    }
    assert!(eventually(LONG, || home.servers().is_empty()));
}
