//! What of the WAL is kept: what is older goes, also where nobody takes snapshots.

use std::time::Duration;

use velo_core::{Branch, ErrorKind, Incarnation};

use crate::bad::refused;
use crate::common::client::sql;
use crate::lives::moment;
use crate::rig::{DAY, Rig, holds, write};

async fn info(main: &Branch) -> Incarnation {
    main.wal().await.unwrap().incarnations.remove(0)
}

/// Fills three segments, which are archived then.
async fn fill(main: &Branch) {
    let before = info(main).await.segments;
    for _ in 0..3 {
        let fill = "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()";
        sql(main, fill).await;
    }
    for _ in 0..1500 {
        let one = info(main).await;
        if one.waiting == 0 && one.segments >= before + 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("they are not archived: {:?}", info(main).await);
}

#[tokio::test]
async fn wal_is_pruned_where_nobody_takes_snapshots() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 30).await;
    let early = moment().await;
    write(&main, 30, 40).await;
    fill(&main).await;
    assert_eq!(rig.project.prune_wal(false).await.unwrap(), [], "nothing is half a day old");
    tokio::time::sleep(Duration::from_millis(4100)).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(8))).await.unwrap();
    for dry_run in [true, false] {
        let pruned = rig.project.prune_wal(dry_run).await.unwrap();
        assert_eq!((pruned[0].taken, pruned[0].wants_snapshot), (1, false), "{pruned:?}");
        assert_eq!(info(&main).await.own_bases, if dry_run { 1 } else { 2 });
    }
    let taken = std::time::Instant::now();
    // It is new, and what was taken before leads to older moments.
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert!(pruned.iter().all(|one| one.taken + one.bases == 0), "{pruned:?}");
    let branch = rig.at(early).await;
    holds(&branch, 30, "before it was taken").await;
    branch.close().await.unwrap();
    write(&main, 40, 60).await;
    let kept = moment().await;
    write(&main, 60, 80).await;
    let old = Duration::from_millis(8100);
    tokio::time::sleep(old.saturating_sub(taken.elapsed())).await;
    let before = info(&main).await.segments;
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert!(pruned[0].bases == 1 && pruned[0].segments >= 3, "{pruned:?}");
    let one = info(&main).await;
    assert!(one.segments < before && one.holes.is_empty() && one.windows.len() == 1, "{one:?}");
    for (target, end) in [(kept, 60), (moment().await, 80)] {
        let branch = rig.at(target).await;
        holds(&branch, end, "kept").await;
        branch.close().await.unwrap();
    }
}

/// The checkpoint of a server that is written to begins behind the place that was looked at before it.
#[tokio::test]
async fn a_snapshot_that_was_taken_while_others_wrote_leads_to_what_came_after_it() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    // So much that the snapshot takes a checkpoint of its own.
    sql(&main, "SELECT length(pg_logical_emit_message(true, 'x', repeat('y', 1000000))::text)")
        .await;
    let (_, snapshot) = tokio::join!(write(&main, 0, 400), main.snapshot("busy"));
    snapshot.unwrap();
    let after = moment().await;
    fill(&main).await;
    tokio::time::sleep(Duration::from_millis(6100)).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(6))).await.unwrap();
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert_eq!(pruned[0].bases, 1, "the one before it: {pruned:?}");
    let one = info(&main).await;
    assert!(one.holes.is_empty() && one.bases >= 2 && one.windows.len() == 1, "{one:?}");
    let branch = rig.at(after).await;
    holds(&branch, 400, "after it").await;
    branch.close().await.unwrap();
}

#[tokio::test]
async fn where_no_snapshot_can_be_taken_that_is_said() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let (_world, space) = rig.outside(&main).await;
    // No clone is made of data with such a link.
    let create = format!("CREATE TABLESPACE outside LOCATION '{}'", space.display());
    sql(&main, &create).await;
    fill(&main).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    let left = rig.home.left();
    let said = || {
        let found = velo_core::doctor::examine(rig.home.config());
        let mut wal = found.iter().filter(|finding| finding.name == "wal");
        wal.any(|finding| finding.what.contains("time/main is older than it is to be kept"))
    };
    assert!(said());
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert_eq!((pruned[0].taken, pruned[0].wants_snapshot), (0, true), "{pruned:?}");
    assert_eq!((rig.home.left(), info(&main).await.own_bases), (left, 1));
    assert!(said());
    sql(&main, "DROP TABLESPACE outside").await;
    // So is one of a server that does not run.
    main.stop().await.unwrap();
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert_eq!((pruned[0].taken, pruned[0].wants_snapshot), (1, false), "{pruned:?}");
    assert!(!said());
}

#[tokio::test]
async fn where_wal_was_not_kept_for_a_while_there_is_a_hole() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 10).await;
    let before = moment().await;
    write(&main, 10, 15).await;
    rig.project.set_wal_retention(None).await.unwrap();
    main.restart().await.unwrap();
    let lost = sql(&main, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await;
    write(&main, 15, 20).await;
    let between = moment().await;
    for _ in 0..4 {
        sql(&main, "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()").await;
    }
    sql(&main, "CHECKPOINT").await;
    let there = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{lost}'");
    assert_eq!(sql(&main, &there).await, "0", "it has another name by now");
    rig.project.set_wal_retention(Some(DAY)).await.unwrap();
    main.restart().await.unwrap();
    write(&main, 20, 30).await;
    // No segment has been filled since.
    let one = info(&main).await;
    assert!(one.holes.contains(&lost), "{lost}: {one:?}");
    assert!(one.windows.len() == 2 && one.windows[0].until_lsn.is_some(), "{one:?}");
    let error = refused(&rig, between, ErrorKind::Corrupt, &lost).await;
    assert!(error.hint().unwrap().contains(" to the hole at 0/"), "{error:?}");
    for (target, end) in [(before, 10), (moment().await, 30)] {
        let branch = rig.at(target).await;
        holds(&branch, end, "beside the hole").await;
        branch.close().await.unwrap();
    }
}

/// Whatever is in the way of a recovery from an older one, a snapshot from which moments are reached stays.
#[tokio::test]
async fn a_snapshot_behind_what_cannot_be_replayed_stays() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let (_world, space) = rig.outside(&main).await;
    write(&main, 0, 10).await;
    sql(&main, &format!("CREATE TABLESPACE outside LOCATION '{}'", space.display())).await;
    sql(&main, "DROP TABLESPACE outside").await;
    sql(&main, "CHECKPOINT").await;
    let without = main.snapshot("without").await.unwrap();
    write(&main, 10, 20).await;
    fill(&main).await;
    let after = moment().await;
    write(&main, 20, 30).await;
    // One that nothing is in the way of goes.
    main.snapshot("needless").await.unwrap().delete().await.unwrap();
    let bases = info(&main).await.bases;
    without.delete().await.unwrap();
    let one = info(&main).await;
    assert_eq!((one.bases, one.own_bases), (bases, 2), "{one:?}");
    let branch = rig.at(after.clone()).await;
    holds(&branch, 20, "behind a tablespace").await;
    branch.close().await.unwrap();

    // A byte of a segment between two of a schedule.
    let first = main.scheduled_snapshot().await.unwrap();
    write(&main, 30, 40).await;
    fill(&main).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = main.scheduled_snapshot().await.unwrap();
    write(&main, 40, 50).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    main.scheduled_snapshot().await.unwrap();
    let last = moment().await;
    write(&main, 50, 60).await;
    let gone = async || {
        let fates = main.prune_snapshots(velo_core::Retention::new().last(1), true).await.unwrap();
        let gone = fates.iter().filter(|fate| fate.kept.is_none()).map(|fate| fate.id);
        gone.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(gone().await, [first.id(), second.id()].into(), "an older one leads to both");
    let data = rig.data(&main).await;
    let archive = rig.archives().join(data.file_name().unwrap());
    let at = |snapshot: &velo_core::Snapshot| snapshot.info().cut.as_ref().unwrap().lsn.0;
    let (from, to) = (at(&first), at(&second));
    // The one behind the first's, of which nobody has another copy.
    let size = 4_u64 << 20;
    let number = from / size + 1;
    assert!(number < to / size, "{from:X} {to:X}");
    let name = format!("{:08X}{:08X}{:08X}", 1, number >> 10, number & 0x3FF);
    let _ = std::fs::remove_file(data.join("pg_wal").join(&name));
    let path = archive.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let record = bytes.iter().skip(40).position(|byte| *byte != 0).unwrap() + 60;
    bytes[record] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(gone().await, [first.id()].into(), "only the second leads to what comes after it");
    main.prune_snapshots(velo_core::Retention::new().last(1), false).await.unwrap();
    let branch = rig.at(last).await;
    holds(&branch, 50, "behind a damaged segment").await;
    branch.close().await.unwrap();
}

#[tokio::test]
async fn what_nobody_prunes_is_said() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let said = || {
        let found = velo_core::doctor::examine(rig.home.config());
        let mut wal = found.iter().filter(|finding| finding.name == "wal");
        wal.any(|finding| finding.what.contains("WAL of time/main is kept for more than twice"))
    };
    write(&main, 0, 10).await;
    fill(&main).await;
    main.snapshot("newer").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(!said(), "nothing is a day old");
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    assert!(said());
    rig.project.prune_wal(false).await.unwrap();
    assert!(!said());
}
