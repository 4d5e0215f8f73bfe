//! Random moments of each kind, against what PostgreSQL says was committed up to them.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use velo_core::Target;
use velo_core::postgres::Lsn;
use velo_core::storage::StorageKind;

use crate::common::client::{session, sql};
use crate::common::zfs::place;
use crate::common::{fs_dir, installations, newest};
use crate::rig::{Rig, chosen, holds, lsn, rows, tries, write};

pub fn time(micros: u64) -> Target {
    Target::time(UNIX_EPOCH + Duration::from_micros(micros))
}

/// When each row was committed, in microseconds since 1970.
async fn times(rig: &Rig) -> Vec<u64> {
    let text = sql(
        &rig.main().await,
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint \
         FROM rows ORDER BY n",
    )
    .await;
    text.split_whitespace().map(|t| t.parse().unwrap()).collect()
}

async fn by_time(rig: &Rig, tries: usize) {
    let main = rig.main().await;
    write(&main, 0, 150).await;
    main.snapshot(format!("s{}", chosen(1_000_000_000))).await.unwrap();
    write(&main, 150, 400).await;
    let times = times(rig).await;
    assert!(times.is_sorted(), "one writer's times are in order");
    for turn in 0..tries {
        let n = 1 + chosen(times.len() as u64 - 1);
        let (target, exclusive) = match turn % 4 {
            0 => (times[n as usize], false),
            1 => (times[n as usize], true),
            2 => (times[n as usize] - 1, false),
            _ => (times[n as usize] + chosen(2000), false),
        };
        let expected = times.iter().filter(|t| **t < target || (!exclusive && **t == target));
        let wanted = if exclusive { time(target).exclusive() } else { time(target) };
        let branch = rig.at(wanted.clone()).await;
        holds(&branch, expected.count() as u64, &format!("{wanted:?}")).await;
        let reached = branch.info().await.unwrap().reached.unwrap();
        // None where the first commit behind the snapshot is the one that is left out.
        assert!(reached.committed_at.is_none_or(|at| at <= target as i64), "{reached:?}");
        branch.close().await.unwrap();
    }
    // A moment ago, and the present one, which no segment has been filled since.
    write(&main, 400, 405).await;
    let branch = rig.at(Target::parse_time("now").unwrap()).await;
    holds(&branch, 405, "now").await;
    branch.close().await.unwrap();
}

/// Several writers at once: rows with the numbers of their transactions.
/// Beside them the restore points, and the transactions that emptied a table.
async fn crowd(rig: &Rig, from: u64, names: &mut Vec<(String, u64)>, marks: &mut Vec<u64>) {
    let main = rig.main().await;
    sql(&main, "CREATE TABLE IF NOT EXISTS mark (xid xid8)").await;
    let url = main.url();
    let work = move || {
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let url = &url;
                scope.spawn(move || {
                    session(url, |run| {
                        for turn in 0..120 {
                            let n = from + writer * 1000 + turn;
                            let insert =
                                format!("INSERT INTO rows VALUES ({n}, pg_current_xact_id())");
                            match turn % 10 {
                                // Rolled back, and one that another session would finish.
                                3 => run(&format!("BEGIN; {insert}; ROLLBACK")),
                                7 => run(&format!(
                                    "BEGIN; SAVEPOINT a; {insert}; RELEASE a; SELECT pg_sleep(0.004); COMMIT"
                                )),
                                _ => run(&insert),
                            };
                        }
                    });
                });
            }
            let points = scope.spawn(|| {
                let (mut points, mut marks) = (Vec::new(), Vec::new());
                session(&url, |run| {
                    for n in 0..4 {
                        std::thread::sleep(Duration::from_millis(40));
                        let name = format!("point {from} {n}");
                        let made = run(&format!("SELECT pg_create_restore_point('{name}')"));
                        points.push((name, lsn(&made[0])));
                        run(&format!(
                            "CREATE TABLE d_{from}_{n} (x int); DROP TABLE d_{from}_{n}; CHECKPOINT"
                        ));
                        // One row, of whoever emptied it last.
                        let mark = run(
                            "BEGIN; TRUNCATE mark; INSERT INTO mark VALUES (pg_current_xact_id()) RETURNING xid; COMMIT",
                        );
                        marks.push(mark[0].parse().unwrap());
                        run("VACUUM rows");
                    }
                });
                (points, marks)
            });
            points.join().unwrap()
        })
    };
    let (points, emptied) = tokio::task::spawn_blocking(work).await.unwrap();
    names.extend(points);
    marks.extend::<Vec<u64>>(emptied);
}

/// With a parent that is killed and recovers in between, or not.
async fn by_order(rig: &Rig, tries: usize, killed: bool) {
    let main = rig.main().await;
    sql(&main, "DELETE FROM rows; DROP TABLE IF EXISTS mark").await;
    let (mut names, mut marks) = (Vec::new(), Vec::new());
    main.snapshot(format!("o{}", chosen(1_000_000_000))).await.unwrap();
    let begin = lsn(&sql(&main, "SELECT pg_current_wal_insert_lsn()").await);
    crowd(rig, 10_000, &mut names, &mut marks).await;
    match killed {
        // So that recovery goes over it.
        true => kill(rig).await,
        false => drop(main.snapshot(format!("p{}", chosen(1_000_000_000))).await.unwrap()),
    }
    crowd(rig, 20_000, &mut names, &mut marks).await;
    let end = lsn(&sql(&main, "SELECT pg_current_wal_insert_lsn()").await);
    let commits = rig.commits(&main).await;
    let list = sql(&main, "SELECT n || ':' || xid FROM rows").await;
    let written: Vec<(u64, u64)> = list
        .split_whitespace()
        .map(|row| {
            let (n, xid) = row.split_once(':').unwrap();
            let (n, xid): (u64, u64) = (n.parse().unwrap(), xid.parse().unwrap());
            let place = commits.iter().find(|(_, commit)| *commit == xid);
            (place.unwrap_or_else(|| panic!("transaction {xid} is in no WAL")).0, n)
        })
        .collect();
    let marks: Vec<_> = commits.iter().filter(|(_, xid)| marks.contains(xid)).collect();
    let before = |place: u64| -> BTreeSet<u64> {
        written.iter().filter(|(at, _)| *at < place).map(|(_, n)| *n).collect()
    };
    let is = async |target: Target, expected: BTreeSet<u64>| {
        let branch = rig.at(target.clone()).await;
        let found = rows(&branch).await;
        let (more, fewer): (Vec<_>, Vec<_>) =
            (found.difference(&expected).collect(), expected.difference(&found).collect());
        assert!(more.is_empty() && fewer.is_empty(), "{target:?}: +{more:?} -{fewer:?}");
        if sql(&branch, "SELECT to_regclass('mark') IS NOT NULL").await == "t" {
            let mark = sql(&branch, "SELECT xid FROM mark").await;
            let reached = branch.info().await.unwrap().reached.unwrap().lsn.0;
            let last = marks.iter().rfind(|(at, _)| *at < reached);
            let wanted = last.map_or_else(String::new, |(_, xid)| xid.to_string());
            assert_eq!(mark, wanted, "{target:?}");
        }
        branch.close().await.unwrap();
    };
    let own: Vec<_> = commits.iter().filter(|(at, _)| *at >= begin && *at < end).collect();
    for turn in 0..tries {
        // Any place, a commit's own, and the one behind it.
        let (at, _) = own[chosen(own.len() as u64) as usize];
        let place = match turn % 3 {
            0 => begin + chosen(end - begin),
            1 => *at,
            _ => at + 1,
        };
        is(Target::lsn(Lsn(place)), before(place)).await;
        let (name, place) = &names[chosen(names.len() as u64) as usize];
        is(Target::restore_point(name), before(*place)).await;
        let (at, xid) = own[chosen(own.len() as u64) as usize];
        match turn % 2 {
            0 => is(Target::xid(*xid), before(at + 1)).await,
            _ => is(Target::xid(*xid).exclusive(), before(*at)).await,
        }
    }
    is(Target::lsn(Lsn(end)), before(end)).await;
}

async fn proof(var: &str, storage: StorageKind, all: bool) {
    let (Some(base), Some(bins)) = (fs_dir(var), installations()) else { return };
    let bins = if all { bins } else { newest(bins) };
    for bin in bins {
        let rig = Rig::new(&bin, storage, &base).await;
        by_time(&rig, tries()).await;
        by_order(&rig, tries(), false).await;
        by_order(&rig, tries(), true).await;
    }
}

/// Ends the server of `main` at once, as a crash does, and starts it again.
pub async fn kill(rig: &Rig) {
    let main = rig.main().await;
    let pid = main.info().await.unwrap().pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    let gone = crate::common::home::eventually(Duration::from_secs(20), || {
        rustix::process::test_kill_process(pid).is_err()
    });
    assert!(gone, "it does not end");
    main.start().await.unwrap();
}

#[tokio::test]
async fn any_moment_on_btrfs() {
    proof("VELO_TEST_BTRFS", StorageKind::Btrfs, true).await;
}

#[tokio::test]
async fn any_moment_on_reflink() {
    if std::env::var_os("VELO_TEST_LONG").is_some() {
        proof("VELO_TEST_XFS", StorageKind::Reflink, false).await;
    }
}

#[tokio::test]
async fn any_moment_on_copy() {
    if std::env::var_os("VELO_TEST_LONG").is_some() {
        proof("VELO_TEST_EXT4", StorageKind::Copy, false).await;
    }
}

/// In the machine that `.ci/zfs-vm` boots, where all takes longer.
#[tokio::test]
async fn any_moment_on_zfs() {
    let (Some(place), Some(bins)) = (place(), installations()) else { return };
    let bin = newest(bins).remove(0);
    let rig = Rig::in_home(&bin, place.home(|b| b.pg_bin(&bin))).await;
    let tries = tries().div_ceil(10);
    by_time(&rig, tries.max(2)).await;
    by_order(&rig, tries, false).await;
}
