//! A database of pgbench's, in each way: 2 GB of the oldest and the newest PostgreSQL with `VELO_TEST_LONG`, else 50 MB.

use velo_core::Project;
use velo_core::import::{Method, Source};

use crate::methods::{agree, agree_in, home_of, import};
use crate::server::{Server, bins};

/// What pgbench calls a scale is 15 MB.
const SMALL: (&str, u64) = ("4", 50 << 20);
const LARGE: (&str, u64) = ("145", 2 << 30);

/// A server with the database `bench`, in which clients have worked.
async fn benched(bin: &std::path::Path, (scale, bytes): (&str, u64)) -> Server {
    let server = Server::new(bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "max_wal_size = 4GB");
    server.sql("postgres", "CREATE DATABASE bench").await;
    let url = server.url("bench");
    for args in [
        &["-i", "-q", "-I", "dtGvpf", "--partitions=3", "-s", scale, &url][..],
        &["-n", "-c", "4", "-t", "500", &url],
    ] {
        let done = server.tool("pgbench", args);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let size = server.sql("bench", "SELECT pg_database_size('bench')").await;
    assert!(size.parse::<u64>().unwrap() >= bytes, "it has {size} bytes");
    server
}

#[tokio::test]
async fn a_database_of_pgbench_comes_whole_in_each_way() {
    let bins = bins();
    let (Some(oldest), Some(newest)) = (bins.first(), bins.last()) else { return };
    let is_long = std::env::var_os("VELO_TEST_LONG").is_some();
    for bin in &bins {
        let is_large = is_long && [oldest, newest].contains(&bin);
        let server = benched(bin, if is_large { LARGE } else { SMALL }).await;
        let of = |from: &str, method| Source::new(from).unwrap().method(method).unwrap();
        let what = |method: Method| format!("{method} of pgbench's, of {}", server.major);
        let dump = server.dir.path().join("bench.dump");
        let dump = dump.to_str().unwrap();
        let done = server.tool("pg_dump", &["-Fc", "-Z1", "-d", &server.url("bench"), "-f", dump]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

        // Into its own major, and into the newest.
        for (method, into) in [(Method::Basebackup, bin), (Method::Dump, newest)] {
            let home = home_of(into);
            let project = import(&home, of(&server.url("bench"), method)).await;
            let project = project.unwrap_or_else(|e| panic!("{}: {e} {e:?}", what(method)));
            assert_eq!(project.info().source.unwrap().method, method);
            agree(&server, &project, &["bench"], &what(method)).await;
            is_whole(&project, &what(method)).await;
        }
        let home = home_of(newest);
        let project = import(&home, of(dump, Method::Sql)).await.unwrap();
        agree_in(&server, &project, &["bench"], &what(Method::Sql)).await;
        is_whole(&project, &what(Method::Sql)).await;
        drop(home);

        server.stop();
        let home = home_of(bin);
        let project = import(&home, of(server.data().to_str().unwrap(), Method::Files)).await;
        let project = project.unwrap();
        server.start();
        agree(&server, &project, &["bench"], &what(Method::Files)).await;
        is_whole(&project, &what(Method::Files)).await;
    }
}

/// What each of its transactions keeps equal is so in a branch, and pgbench works in it.
async fn is_whole(project: &Project, what: &str) {
    let branch = velo_core::Branch::create(project, velo_core::BranchSpec::ephemeral()).await;
    let branch = branch.unwrap_or_else(|e| panic!("{what}: {e} {e:?}"));
    let bin = &project.info().postgres.bin_dir;
    let mut pgbench = std::process::Command::new(bin.join("pgbench"));
    let done = pgbench.args(["-n", "-c", "2", "-t", "50", &branch.url()]).output().unwrap();
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
        AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)";
    assert_eq!(crate::common::client::sql(&branch, sums).await, "t", "{what}");
    let count = "SELECT count(*) FROM pgbench_history";
    assert_eq!(crate::common::client::sql(&branch, count).await, "2100", "{what}");
    branch.close().await.unwrap();
}
