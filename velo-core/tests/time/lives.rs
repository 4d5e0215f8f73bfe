//! What may have become of a parent: it is idle, stopped, reset, or was itself recovered.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Progress, Project, ResetTarget, Retention, Target};

use crate::common::client::sql;
use crate::common::home::{TestHome, eventually};
use crate::common::{fs_dir, installations, newest};
use crate::oracle::{kill, time};
use crate::rig::{DAY, Rig, holds, rows, write};

fn micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_micros() as u64
}

/// A moment that nothing is committed at.
pub async fn moment() -> Target {
    let at = micros();
    tokio::time::sleep(Duration::from_millis(5)).await;
    time(at)
}

#[tokio::test]
async fn an_idle_a_stopped_and_a_killed_parent() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 30).await;
    // Nothing is committed after it.
    let after = moment().await;
    let branch = rig.at(after.clone()).await;
    holds(&branch, 30, "idle").await;
    branch.close().await.unwrap();
    main.stop().await.unwrap();
    let branch = rig.at(after.clone()).await;
    holds(&branch, 30, "stopped").await;
    branch.close().await.unwrap();
    main.start().await.unwrap();
    write(&main, 30, 40).await;
    let before_crash = moment().await;
    kill(&rig).await;
    write(&main, 40, 60).await;
    // Recovery goes on over the crash.
    for (target, end) in [(after, 30), (before_crash, 40), (moment().await, 60)] {
        let branch = rig.at(target).await;
        holds(&branch, end, "killed").await;
        branch.close().await.unwrap();
    }
}

async fn write_until_it_ends(url: String) {
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let insert = "INSERT INTO big (text) SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000)";
    while client.batch_execute(insert).await.is_ok() {}
}

/// Its WAL ends in the middle of a record, and goes on behind it once it has recovered.
#[tokio::test]
async fn a_parent_that_is_killed_while_it_writes() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    sql(&main, "CREATE TABLE big (n serial, text text)").await;
    let begin = place(&main).await;
    for round in 1..=3 {
        let writers: Vec<_> =
            (0..3).map(|_| tokio::spawn(write_until_it_ends(main.url()))).collect();
        let enough = format!("SELECT count(*) > {} FROM big", round * 40);
        while sql(&main, &enough).await == "f" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kill(&rig).await;
        for writer in writers {
            writer.await.unwrap();
        }
        write(&main, (round - 1) * 10, round * 10).await;
        let all = "SELECT count(*) || ' ' || sum(hashtext(text)) FROM big";
        let branch = rig.at(moment().await).await;
        assert_eq!(sql(&branch, all).await, sql(&main, all).await, "round {round}");
        holds(&branch, round * 10, "killed while it wrote").await;
        branch.close().await.unwrap();
    }
    // Any place, also in what was never finished.
    let end = place(&main).await;
    let commits = rig.commits(&main).await;
    let written = sql(&main, "SELECT xmin FROM big").await;
    let written: Vec<u64> = written
        .split_whitespace()
        .map(|xid| {
            let xid: u64 = xid.parse().unwrap();
            let commit = commits.iter().find(|(_, commit)| *commit == xid);
            commit.unwrap_or_else(|| panic!("transaction {xid} is in no WAL")).0
        })
        .collect();
    for _ in 0..crate::rig::tries() {
        let at = begin + crate::rig::chosen(end - begin);
        let branch = rig.at(Target::lsn(velo_core::postgres::Lsn(at))).await;
        let there = written.iter().filter(|commit| **commit < at).count();
        let count = sql(&branch, "SELECT count(*) FROM big").await;
        assert_eq!(count, there.to_string(), "{at:X}");
        branch.close().await.unwrap();
    }
}

async fn place(branch: &Branch) -> u64 {
    crate::rig::lsn(&sql(branch, "SELECT pg_current_wal_insert_lsn()").await)
}

#[tokio::test]
async fn who_waits_is_told_how_far_the_recovery_is() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    for round in 0..3 {
        write(&main, round * 10, round * 10 + 10).await;
        sql(&main, "SELECT pg_switch_wal()").await;
        // More than there is between two reports.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    // No transaction is replayed before it is so old: it takes as long as it took to write them.
    let spec = BranchSpec::ephemeral().at(moment().await).set("recovery_min_apply_delay", "8s");
    let spec = spec.watch(move |progress: Progress| tell.lock().unwrap().push(progress));
    let branch = Branch::create(&rig.project, spec).await.unwrap();
    let reached = branch.info().await.unwrap().reached.unwrap();
    let told = told.lock().unwrap().clone();
    assert!(!told.is_empty());
    assert!(told.is_sorted_by_key(|progress| progress.replayed), "{told:?}");
    for progress in &told {
        assert_eq!(progress.total, reached.replayed);
        assert!(progress.replayed <= progress.total, "{progress:?}");
        assert!(progress.committed_at <= reached.committed_at, "{progress:?} {reached:?}");
    }
    let is_on_its_way = |progress: &Progress| {
        progress.replayed > told[0].replayed
            && progress.replayed < progress.total
            && progress.committed_at.is_some()
    };
    assert!(told.iter().any(is_on_its_way), "{told:?}");
}

/// What it is told by is the log of the server that replays, which speaks English.
#[tokio::test]
async fn a_server_that_replays_logs_in_english() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    write(&rig.main().await, 0, 10).await;
    let spec = BranchSpec::named("told").at(moment().await).stopped();
    Branch::create(&rig.project, spec.set("lc_messages", "POSIX")).await.unwrap();
    let volumes = std::fs::read_dir(rig.home.config().home().join("volumes")).unwrap();
    let started_with = volumes.filter_map(|volume| {
        std::fs::read_to_string(volume.unwrap().path().join("postmaster.opts")).ok()
    });
    let replayed: Vec<String> =
        started_with.filter(|options| options.contains("restore_command=test")).collect();
    let [options] = &replayed[..] else { panic!("{replayed:?}") };
    let language = options.rsplit_once("lc_messages=").unwrap().1;
    assert!(language.starts_with("C\""), "{options}");
}

#[tokio::test]
async fn moments_before_a_reset_are_reached_and_those_after_it_are_others() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    main.snapshot("empty").await.unwrap();
    let dev = Branch::create(&rig.project, BranchSpec::named("dev")).await.unwrap();
    for (branch, to) in
        [(&dev, ResetTarget::Source), (&main, ResetTarget::Snapshot("empty".into()))]
    {
        around_a_reset(&rig, branch, to).await;
    }
    dev.delete(false).await.unwrap();
    let archives = std::fs::read_dir(rig.archives()).unwrap().count();
    assert_eq!(archives, 2, "only those of main are left");
}

async fn around_a_reset(rig: &Rig, dev: &Branch, to: ResetTarget) {
    write(dev, 0, 30).await;
    let before = moment().await;
    write(dev, 30, 50).await;
    let last = moment().await;
    dev.reset_to(to).await.unwrap();
    // Other bytes under the names that it has written before.
    write(dev, 0, 10).await;
    let after = moment().await;
    write(dev, 10, 20).await;
    for (target, end) in [(before, 30), (last, 50), (after, 10)] {
        let spec = BranchSpec::ephemeral().from(dev).at(target.clone());
        let branch = Branch::create(&rig.project, spec).await.unwrap();
        holds(&branch, end, &format!("{target:?}")).await;
        branch.close().await.unwrap();
    }
    let wal = dev.wal().await.unwrap();
    assert_eq!(wal.incarnations.len(), 2, "{wal:?}");
    assert!(wal.incarnations[0].ended_at.is_none() && wal.incarnations[1].ended_at.is_some());
    assert!(wal.incarnations.iter().all(|one| one.holes.is_empty() && one.windows.len() == 1));
}

#[tokio::test]
async fn a_recovered_branch_of_a_recovered_branch() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    sql(&main, "ALTER SYSTEM SET work_mem = '5MB'").await;
    main.snapshot("conf").await.unwrap();
    write(&main, 0, 30).await;
    let first = moment().await;
    write(&main, 30, 60).await;
    let spec = BranchSpec::named("one").at(first);
    let one = Branch::create(&rig.project, spec).await.unwrap();
    assert_eq!(crate::rig::rows(&one).await.len(), 30);
    write(&one, 30, 35).await;
    let second = moment().await;
    let inside = one.restore_point("inside").await.unwrap();
    write(&one, 35, 50).await;
    let spec = BranchSpec::named("two").from(&one).at(second);
    let two = Branch::create(&rig.project, spec).await.unwrap();
    assert_eq!(rows(&two).await.len(), 35);
    write(&two, 35, 40).await;
    let spec = BranchSpec::ephemeral().from(&two).at(moment().await);
    let three = Branch::create(&rig.project, spec).await.unwrap();
    holds(&three, 40, "three").await;
    let of =
        |timeline: &str| timeline.parse::<u32>().unwrap_or_else(|e| panic!("{timeline:?}: {e}"));
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(of(&sql(&two, timeline).await), 3);
    // The parent's own settings came along, to the byte, and no file of the recovery.
    assert_eq!(sql(&two, "SHOW work_mem").await, "5MB");
    let data = rig.data(&two).await;
    let own = std::fs::read(data.join("postgresql.auto.conf")).unwrap();
    let parents = std::fs::read(rig.data(&main).await.join("postgresql.auto.conf")).unwrap();
    assert!(own == parents, "{}", String::from_utf8_lossy(&own));
    for name in ["recovery.signal", "standby.signal", "backup_label", "backup_label.old"] {
        assert!(!data.join(name).exists(), "{name}");
    }
    let point = Target::restore_point("inside");
    let named = BranchSpec::ephemeral().from(&one).at(point);
    let named = Branch::create(&rig.project, named).await.unwrap();
    holds(&named, 35, "inside").await;
    assert_eq!(named.info().await.unwrap().reached.unwrap().timeline, 2);
    // A position of the parent's timeline is not one of the branch's.
    let early = Target::lsn(main.wal().await.unwrap().incarnations[0].windows[0].from_lsn);
    let error = Branch::create(&rig.project, BranchSpec::ephemeral().from(&one).at(early)).await;
    assert!(error.unwrap_err().to_string().contains("before what is kept"));
    assert!(inside.lsn.0 > 0);
    // What it began with is the moment, and not the snapshot before it.
    sql(&two, "DELETE FROM rows").await;
    two.reset().await.unwrap();
    assert_eq!(rows(&two).await.len(), 35);
    two.stop().await.unwrap();
    two.start().await.unwrap();
    assert_eq!(rows(&two).await.len(), 35);
}

/// The server goes on with another timeline, on the same data.
#[tokio::test]
async fn recovery_goes_over_a_promotion() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 30).await;
    let before = moment().await;
    let place = sql(&main, "SELECT pg_current_wal_insert_lsn()").await;
    let place = Target::lsn(place.parse().unwrap());
    let signal = rig.data(&main).await.join("standby.signal");
    main.stop().await.unwrap();
    std::fs::write(signal, "").unwrap();
    main.start().await.unwrap();
    assert_eq!(sql(&main, "SELECT pg_promote()").await, "t");
    write(&main, 30, 50).await;
    let after = moment().await;
    sql(&main, "SELECT pg_switch_wal()").await;
    write(&main, 50, 60).await;
    let now = moment().await;
    // The first commit behind that moment is on the next timeline.
    for (target, end, timeline) in [(place, 30, 1), (before, 30, 2), (after, 50, 2), (now, 60, 2)] {
        let branch = rig.at(target.clone()).await;
        holds(&branch, end, &format!("{target:?}")).await;
        assert_eq!(branch.info().await.unwrap().reached.unwrap().timeline, timeline, "{target:?}");
        branch.close().await.unwrap();
    }
    let wal = main.wal().await.unwrap();
    let [one] = &wal.incarnations[..] else { panic!("{wal:?}") };
    assert!(one.holes.is_empty() && one.windows.len() == 1 && one.segments > 0, "{wal:?}");
}

#[tokio::test]
async fn a_project_begins_and_ends_to_keep_wal() {
    let (Some(base), Some(bins)) = (fs_dir("VELO_TEST_BTRFS"), installations()) else { return };
    let bin = newest(bins).remove(0);
    let home = TestHome::with(Some(&base), |b| b.pg_bin(bin).storage(StorageKind::Btrfs));
    let project = home.project("later").await;
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE rows (n bigint PRIMARY KEY, xid xid8)").await;
    let point = main.restore_point("none").await.unwrap_err();
    assert!(point.to_string().contains("no WAL of later/main is kept"), "{point}");
    let at = || BranchSpec::ephemeral().at(Target::parse_time("now").unwrap());
    let none = Branch::create(&project, at()).await.unwrap_err();
    assert!(none.hint().unwrap().contains("velo project set later --wal-retention"), "{none:?}");
    assert_eq!(project.set_wal_retention(Some(DAY)).await.unwrap(), ["main"]);
    let project = Project::builder("later").config(home.config().clone()).open().await.unwrap();
    let none = Branch::create(&project, at()).await.unwrap_err();
    assert!(none.hint().unwrap().contains("velo branch restart later/main"), "{none:?}");
    main.restart().await.unwrap();
    assert_eq!(project.set_wal_retention(Some(DAY)).await.unwrap(), [""; 0]);
    write(&main, 0, 30).await;
    let branch = Branch::create(&project, at()).await.unwrap();
    holds(&branch, 30, "later").await;
    branch.close().await.unwrap();
    // Not any more: what is there stays until it is pruned.
    assert_eq!(project.set_wal_retention(None).await.unwrap(), ["main"]);
    main.restart().await.unwrap();
    sql(&main, "SELECT pg_switch_wal()").await;
    assert_eq!(sql(&main, "SHOW archive_mode").await, "off");
    assert_eq!(project.prune_wal(false).await.unwrap().len(), 1);
    let left = std::fs::read_dir(home.config().home().join("wal")).unwrap().count();
    assert_eq!(left, 0);
    assert!(main.wal().await.unwrap().incarnations.is_empty());
}

#[tokio::test]
async fn an_archive_is_private_whole_and_its_server_s_alone() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let dev = Branch::create(&rig.project, BranchSpec::named("dev")).await.unwrap();
    write(&main, 0, 30).await;
    for branch in [&main, &dev] {
        for _ in 0..3 {
            sql(branch, "SELECT pg_logical_emit_message(true, 'x', 'y'); SELECT pg_switch_wal()")
                .await;
        }
    }
    let folder = |data: &std::path::Path| rig.archives().join(data.file_name().unwrap());
    let size = 4 << 20;
    for branch in [&main, &dev] {
        let folder = folder(&rig.data(branch).await);
        let mode = folder.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder:?}");
        let current = sql(branch, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await;
        let archived = || {
            let all = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            let mut all: Vec<_> = all.filter(|p| p.extension().is_none()).collect();
            all.sort();
            all
        };
        let done = "SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') s WHERE s ~ 'ready$'";
        let mut left = String::new();
        for _ in 0..1000 {
            left = sql(branch, done).await;
            if left == "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(left, "0");
        assert!(eventually(Duration::from_secs(1), || archived().len() >= 3));
        for path in archived() {
            let file = path.metadata().unwrap();
            assert_eq!(file.len(), size, "{path:?}");
            assert_eq!(file.permissions().mode() & 0o777, 0o600, "{path:?}");
            assert!(path.file_name().unwrap().to_str().unwrap() < current.as_str(), "{path:?}");
        }
        let wal = branch.wal().await.unwrap();
        assert_eq!(wal.incarnations[0].waiting, 0);
        assert!(wal.incarnations[0].archiving && wal.incarnations[0].segments >= 3);
        // A server that died before it noted one as archived archives it once more.
        let again = archived().pop().unwrap();
        let (bytes, inode) = (std::fs::read(&again).unwrap(), again.metadata().unwrap().ino());
        let status = rig.data(branch).await.join("pg_wal/archive_status");
        let name = again.file_name().unwrap().to_str().unwrap();
        let ready = status.join(format!("{name}.ready"));
        std::fs::rename(status.join(format!("{name}.done")), &ready).unwrap();
        sql(branch, "SELECT pg_logical_emit_message(true, 'x', 'y'); SELECT pg_switch_wal()").await;
        assert!(eventually(Duration::from_secs(20), || !ready.exists()));
        assert_eq!(std::fs::read(&again).unwrap(), bytes);
        assert_ne!(again.metadata().unwrap().ino(), inode, "it is another file");
    }
    // An ephemeral one archives nowhere.
    let throwaway = Branch::create(&rig.project, BranchSpec::ephemeral()).await.unwrap();
    assert_eq!(sql(&throwaway, "SHOW archive_mode").await, "off");
    throwaway.close().await.unwrap();
}

#[tokio::test]
async fn pruning_keeps_every_moment_that_is_to_be_reached() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 30).await;
    let early = sql(&main, "SELECT pg_current_wal_insert_lsn()").await;
    sql(&main, "SELECT pg_switch_wal()").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    // What is so near to the snapshot is in its own WAL, unless settings may have been read since the checkpoint.
    let read = "SELECT extract(epoch FROM clock_timestamp()) >= ceil(extract(epoch FROM pg_conf_load_time()))";
    for _ in 0..200 {
        if sql(&main, read).await == "t" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sql(&main, "CHECKPOINT").await;
    let place = sql(&main, "SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
    let held = "SELECT pg_current_xact_id() FROM pg_logical_emit_message(true, 'x', 'y')";
    let held: u64 = sql(&main, held).await.parse().unwrap();
    main.restore_point("held").await.unwrap();
    main.snapshot("mid").await.unwrap();
    let named = [Target::xid(held), Target::restore_point("held"), Target::lsn(place)];
    for target in &named {
        holds(&rig.at(target.clone()).await, 30, "an older one leads there").await;
    }
    let begun = std::time::Instant::now();
    write(&main, 30, 60).await;
    assert_eq!(rig.project.prune_wal(false).await.unwrap(), [], "nothing is a day old");
    // Everything before that snapshot is too old now.
    while begun.elapsed() < Duration::from_millis(2200) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = moment().await;
    write(&main, 60, 80).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    // What a clone in backup mode leaves goes with its segment.
    let archive = std::fs::read_dir(rig.archives()).unwrap().next().unwrap().unwrap().path();
    let backup = archive.join("000000010000000000000001.00000028.backup");
    std::fs::write(&backup, "").unwrap();
    let would = rig.project.prune_wal(true).await.unwrap();
    assert_eq!(would.len(), 1, "{would:?}");
    assert!(would[0].bases == 1 && would[0].segments > 0, "{would:?}");
    assert_eq!(rig.project.prune_wal(false).await.unwrap(), would, "as it was said");
    assert!(!backup.exists());
    assert_eq!(rig.project.prune_wal(false).await.unwrap(), []);
    let branch = rig.at(kept).await;
    holds(&branch, 60, "kept").await;
    branch.close().await.unwrap();
    let early = Target::lsn(early.parse().unwrap());
    let inside = named.map(|target| (target, "is in the middle of the oldest snapshot"));
    for (target, says) in inside.into_iter().chain([(early, "is before what is kept")]) {
        let spec = BranchSpec::ephemeral().at(target);
        let error = Branch::create(&rig.project, spec).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.hint().unwrap().contains(" to now"), "{error:?}");
    }
}

/// What a schedule took before the oldest moment that is to be reached, as soon as no rule keeps it.
#[tokio::test]
async fn snapshots_whose_wal_is_pruned_go_with_their_schedule() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let second = Duration::from_millis(1100);
    let mut names = Vec::new();
    for round in 0..3 {
        write(&main, round * 10, round * 10 + 10).await;
        names.push(main.scheduled_snapshot().await.unwrap().name().to_owned());
        sql(&main, "SELECT pg_switch_wal()").await;
        // The name of the next is another second, and this one is older than WAL is kept.
        tokio::time::sleep(second).await;
    }
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert!(pruned[0].segments > 0, "{pruned:?}");
    let wal = main.wal().await.unwrap();
    assert_eq!(wal.incarnations[0].windows.len(), 1, "{wal:?}");
    let fates = main.prune_snapshots(Retention::new().last(1), true).await.unwrap();
    let gone: Vec<&str> =
        fates.iter().filter(|f| f.kept.is_none()).map(|f| f.name.as_str()).collect();
    assert_eq!(gone, [&names[1], &names[0]].map(|name| format!("time/main@{name}")), "{fates:?}");
}

#[tokio::test]
async fn a_snapshot_that_kept_moments_need_is_deleted_and_its_data_stays() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let there = || {
        let all = std::fs::read_dir(rig.home.config().home().join("snapshots")).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with(".gone-")).count()
    };
    let own_bases = async || main.wal().await.unwrap().incarnations[0].own_bases;
    assert_eq!((there(), own_bases().await), (1, 1));
    write(&main, 0, 30).await;
    let mid = main.snapshot("mid").await.unwrap();
    write(&main, 30, 60).await;
    // One that nothing needs: an older one leads to each moment behind it.
    main.snapshot("other").await.unwrap().delete().await.unwrap();
    assert_eq!((there(), own_bases().await), (2, 1));
    let kept = moment().await;
    write(&main, 60, 80).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Of all that is so old it is the newest, and what is older goes.
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(rig.project.prune_wal(false).await.unwrap()[0].bases, 1);
    assert_eq!((there(), own_bases().await), (1, 0));
    for _ in 0..2 {
        mid.delete().await.unwrap();
        assert_eq!((there(), own_bases().await), (1, 1));
    }
    assert!(rig.project.snapshots().await.unwrap().is_empty());
    let branch = rig.at(kept).await;
    holds(&branch, 60, "kept").await;
    branch.close().await.unwrap();
    // Its name is free, and it goes once another one is as old.
    main.snapshot("mid").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(rig.project.prune_wal(false).await.unwrap()[0].bases, 1);
    assert_eq!((there(), own_bases().await), (1, 0));
}
