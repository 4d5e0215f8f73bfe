//! Time travel where servers are containers: their WAL is archived, and fetched again, by what an image has.

use std::time::{Duration, UNIX_EPOCH};

use velo_core::{Branch, BranchSpec, Project, Target};

use crate::branches::sql;
use crate::common::home::TestHome;
use crate::engine::{engine, images, places, with_docker};

async fn ask(branch: &Branch, text: &str) -> String {
    sql(&branch.url(), text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

/// How many moments of each kind are tried.
fn tries() -> usize {
    if std::env::var_os("VELO_TEST_LONG").is_some() { 10 } else { 1 }
}

/// Where to begin, another place each time.
fn seed() -> usize {
    let given = std::env::var("VELO_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap().subsec_micros() as usize
    })
}

pub(crate) async fn moments(home: &TestHome) {
    let builder = Project::builder("api").config(home.config().clone());
    let project = builder.wal_retention(Duration::from_secs(86_400)).create().await.unwrap();
    let main = project.main().await.unwrap();
    ask(&main, "CREATE TABLE t (n int)").await;
    // Between each two rows a moment at which nothing is committed, in all its forms; the time is by the server's
    // own clock.
    let mut between = Vec::new();
    for n in 0..20 {
        let insert = format!("INSERT INTO t VALUES ({n}) RETURNING pg_current_xact_id()");
        let xid: u64 = ask(&main, &insert).await.parse().unwrap();
        let lsn = ask(&main, "SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
        let name = format!("row {n}");
        main.restore_point(&name).await.unwrap();
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let at: u64 = ask(&main, clock).await.parse().unwrap();
        let time = Target::time(UNIX_EPOCH + Duration::from_micros(at));
        between.push([time, Target::lsn(lsn), Target::restore_point(name), Target::xid(xid)]);
        if n % 5 == 4 {
            ask(&main, "SELECT pg_switch_wal()").await;
        }
    }
    main.restore_point("whole").await.unwrap();
    let delete = "WITH gone AS (DELETE FROM t WHERE n < 10) SELECT pg_current_xact_id()";
    let xid: u64 = ask(&main, delete).await.parse().unwrap();
    ask(&main, "DROP TABLE t").await;

    // Whole segments, and nothing beside them.
    let mut one = main.wal().await.unwrap().incarnations.remove(0);
    for _ in 0..1200 {
        if one.waiting == 0 && one.segments >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        one = main.wal().await.unwrap().incarnations.remove(0);
    }
    assert!(one.waiting == 0 && one.segments >= 4 && one.holes.is_empty(), "{one:?}");
    let archive = home.config().home().join("wal").join(one.volume.to_string());
    for entry in std::fs::read_dir(&archive).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.len() == 24 || name.ends_with(".backup"), "{path:?}");
        assert!(name.len() != 24 || path.metadata().unwrap().len() == 4 << 20, "{path:?}");
    }

    let at = async |target: &Target, name: Option<&str>| {
        let spec = name.map_or_else(BranchSpec::ephemeral, BranchSpec::named);
        let made = Branch::create(&project, spec.at(target.clone())).await;
        made.unwrap_or_else(|e| panic!("{target:?}: {e} ({:?}) {e:?}", e.hint()))
    };
    let count = "SELECT count(*) FROM t";
    let seed = seed();
    for turn in 0..tries() {
        let n = (turn * 7 + seed) % between.len();
        for target in &between[n] {
            let branch = at(target, None).await;
            let found = ask(&branch, count).await;
            assert_eq!(found, (n + 1).to_string(), "{target:?}, VELO_TEST_SEED={seed}");
            branch.close().await.unwrap();
        }
    }
    let branch = at(&Target::xid(xid).exclusive(), None).await;
    assert_eq!(ask(&branch, count).await, "20");
    branch.close().await.unwrap();
    // One that stays keeps WAL of its own, and a reset brings it back to the moment.
    let named = at(&Target::restore_point("whole"), Some("named")).await;
    assert_eq!(ask(&named, count).await, "20");
    assert_eq!(ask(&named, "SHOW archive_mode").await, "on");
    ask(&named, "DELETE FROM t").await;
    let again = Branch::create(
        &project,
        BranchSpec::ephemeral().from(&named).at(Target::parse_time("now").unwrap()),
    );
    let again = again.await.unwrap();
    assert_eq!(ask(&again, count).await, "0");
    again.close().await.unwrap();
    main.stop().await.unwrap();
    let last = at(&Target::parse_time("now").unwrap(), None).await;
    assert_eq!(ask(&last, "SELECT to_regclass('t') IS NULL").await, "t");
    last.close().await.unwrap();
    named.delete(true).await.unwrap();
}

#[tokio::test]
async fn docker_runs_a_projects_time_travel() {
    if engine().await.is_none() {
        return;
    }
    for (image, place) in images().iter().zip(places()) {
        moments(&TestHome::with(Some(&place), with_docker(image))).await;
    }
}
