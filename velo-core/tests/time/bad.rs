//! What cannot be reached: each has an error of its own, and nothing is made.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use velo_core::{Branch, BranchSpec, Error, ErrorKind, Target};

use crate::common::client::{session, sql};
use crate::common::home::eventually;
use crate::rig::{Rig, write};

pub async fn refused(rig: &Rig, target: Target, kind: ErrorKind, says: &str) -> Error {
    let before = rig.project.branches().await.unwrap().len();
    let left = rig.home.left();
    let spec = BranchSpec::named("bad").at(target.clone());
    let error = Branch::create(&rig.project, spec).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{target:?}: {error}");
    assert!(error.to_string().contains(says), "{target:?}: {error}");
    assert!(error.hint().is_some(), "{target:?}: {error}");
    assert_eq!(rig.project.branches().await.unwrap().len(), before);
    assert_eq!(rig.home.left(), left, "{target:?}");
    error
}

#[tokio::test]
async fn moments_that_are_none() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 30).await;
    let future = SystemTime::now() + Duration::from_secs(60);
    let bad = ErrorKind::InvalidInput;
    refused(&rig, Target::time(future), bad, "is in the future").await;
    let past = SystemTime::now() - Duration::from_secs(3600);
    let missing = ErrorKind::NotFound;
    let error = refused(&rig, Target::time(past), missing, "is outside of what is kept").await;
    assert!(error.hint().unwrap().contains("what can be reached of time/main: "), "{error:?}");
    let lsn = |text: &str| Target::lsn(text.parse().unwrap());
    refused(&rig, lsn("0/10"), missing, "is before what is kept").await;
    refused(&rig, lsn("7/0"), missing, "is in the future: the WAL of time/main ends at").await;
    refused(&rig, Target::restore_point("none"), missing, "no restore point \"none\"").await;
    refused(&rig, Target::restore_point(""), bad, "is not the name of a restore point").await;
    refused(&rig, Target::xid(0), bad, "is not the number of a transaction").await;
    // One that was rolled back, one that only read, a part of another, and one that does not exist.
    let url = main.url();
    let work = move || {
        session(&url, |run| {
            let aborted =
                run("BEGIN; SELECT pg_current_xact_id(); CREATE TABLE a (x int); ROLLBACK");
            run("BEGIN; INSERT INTO rows VALUES (500)");
            run("SAVEPOINT a; INSERT INTO rows VALUES (501)");
            let part = run("SELECT xmin FROM rows WHERE n = 501");
            run("RELEASE a");
            run("COMMIT");
            let next = run(
                "BEGIN; SELECT count(*) FROM rows; SELECT pg_snapshot_xmax(pg_current_snapshot()); COMMIT",
            );
            let number = |found: &str| found.parse::<u64>().unwrap();
            (number(&aborted[0]), number(&part[0]), number(&next[1]))
        })
    };
    let (aborted, part, next) = tokio::task::spawn_blocking(work).await.unwrap();
    // Who only reads has no number: the next one is nobody's yet. Nor is it that of another epoch.
    let error = refused(&rig, Target::xid(next + 10), missing, "was not committed").await;
    assert!(error.to_string().contains("it may have only read"), "{error}");
    refused(&rig, Target::xid((1 << 32) + next - 1), missing, "was not committed").await;
    refused(&rig, Target::xid(aborted), missing, "was rolled back").await;
    let error = refused(&rig, Target::xid(part), missing, "is a part of transaction").await;
    assert!(error.hint().unwrap().contains("--at-xid"), "{error:?}");
    refused(&rig, Target::xid(2_000_000), missing, "was not committed").await;
    for time in [Duration::ZERO, Duration::MAX] {
        let error = rig.project.set_wal_retention(Some(time)).await.unwrap_err();
        assert_eq!(error.kind(), bad, "{error}");
    }
    // A snapshot is one moment.
    main.snapshot("s").await.unwrap();
    let spec = BranchSpec::ephemeral().from("main@s").at(Target::parse_time("now").unwrap());
    assert_eq!(Branch::create(&rig.project, spec).await.unwrap_err().kind(), bad);
}

#[tokio::test]
async fn a_hole_and_a_damaged_segment() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    for round in 0..4 {
        write(&main, round * 10, round * 10 + 10).await;
        sql(&main, "SELECT pg_switch_wal()").await;
    }
    sql(&main, "CHECKPOINT").await;
    let data = rig.data(&main).await;
    let archive = rig.archives().join(data.file_name().unwrap());
    let segments = || segments_in(&archive);
    assert!(eventually(Duration::from_secs(20), || segments().len() >= 5));
    let middle = segments()[segments().len() - 2].clone();
    let name = middle.file_name().unwrap().to_str().unwrap().to_owned();
    let kept = std::fs::read(&middle).unwrap();
    // The server may have it still.
    let _ = std::fs::remove_file(data.join("pg_wal").join(&name));
    std::fs::remove_file(&middle).unwrap();
    let now = || Target::parse_time("now").unwrap();
    let corrupt = ErrorKind::Corrupt;
    let error = refused(&rig, now(), corrupt, "a hole in the WAL").await;
    assert!(error.to_string().contains(&name), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("what can be reached of time/main: 20"), "{hint}");
    assert!(hint.contains(" to the hole at 0/"), "{hint}");
    let wal = main.wal().await.unwrap();
    assert_eq!(wal.incarnations[0].holes, std::slice::from_ref(&name));
    assert!(wal.incarnations[0].windows[0].until_lsn.is_some());
    let mut broken = kept.clone();
    let at = broken.iter().position(|byte| *byte != 0).unwrap() + 60;
    broken[at] ^= 1;
    std::fs::write(&middle, &broken).unwrap();
    let error = refused(&rig, now(), corrupt, "is damaged").await;
    assert!(error.to_string().contains(&name), "{error}");
    std::fs::write(&middle, &kept[..1000]).unwrap();
    refused(&rig, now(), corrupt, &name).await;
    std::fs::write(&middle, &kept).unwrap();
    let branch = rig.at(now()).await;
    crate::rig::holds(&branch, 40, "mended").await;
    branch.close().await.unwrap();
}

/// The segments of a branch's archive, in order.
async fn segments(rig: &Rig, branch: &Branch) -> Vec<PathBuf> {
    let data = rig.data(branch).await;
    segments_in(&rig.archives().join(data.file_name().unwrap()))
}

fn segments_in(archive: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(archive).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.extension().is_none()).collect();
    all.sort();
    all
}

/// Ends a segment, and waits until all are archived.
async fn archived(main: &Branch) {
    sql(main, "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()").await;
    for _ in 0..1500 {
        if main.wal().await.unwrap().incarnations[0].waiting == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("WAL waits to be archived");
}

/// A restore point may be given again: one that is older than what cannot be read is another moment.
#[tokio::test]
async fn a_restore_point_is_not_taken_from_before_what_cannot_be_read() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let dev = Branch::create(&rig.project, BranchSpec::named("dev")).await.unwrap();
    write(&dev, 0, 10).await;
    dev.restore_point("deploy").await.unwrap();
    dev.reset().await.unwrap();
    write(&dev, 0, 20).await;
    let lsn = dev.restore_point("deploy").await.unwrap().lsn;
    archived(&dev).await;
    write(&dev, 20, 30).await;
    archived(&dev).await;
    write(&dev, 30, 40).await;
    archived(&dev).await;
    let at = |target: Target| BranchSpec::named("bad").from(&dev).at(target);
    let deploy = || Target::restore_point("deploy");
    let all = segments(&rig, &dev).await;
    let middle = &all[all.len() - 2];
    let kept = std::fs::read(middle).unwrap();
    let _ =
        std::fs::remove_file(rig.data(&dev).await.join("pg_wal").join(middle.file_name().unwrap()));
    std::fs::remove_file(middle).unwrap();
    let error = Branch::create(&rig.project, at(deploy())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint().unwrap().contains(&format!("--at-lsn {lsn}")), "{error:?}");
    let known = BranchSpec::ephemeral().from(&dev).at(Target::lsn(lsn));
    let branch = Branch::create(&rig.project, known).await.unwrap();
    crate::rig::holds(&branch, 20, "the last that is known").await;
    branch.close().await.unwrap();
    // Where it is in none that can be read it may be in the others.
    let error = Branch::create(&rig.project, at(Target::restore_point("none"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    std::fs::write(middle, kept).unwrap();
    let spec = BranchSpec::ephemeral().from(&dev).at(deploy());
    let branch = Branch::create(&rig.project, spec).await.unwrap();
    crate::rig::holds(&branch, 20, "mended").await;
    branch.close().await.unwrap();
    dev.delete(true).await.unwrap();
}

/// What a reset has left is whole, or that is said.
#[tokio::test]
async fn the_end_of_what_was_reset_is_not_taken_for_its_last_moment() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let dev = Branch::create(&rig.project, BranchSpec::named("dev")).await.unwrap();
    write(&dev, 0, 10).await;
    archived(&dev).await;
    write(&dev, 10, 20).await;
    let last = crate::lives::moment().await;
    let lsn = sql(&dev, "SELECT pg_current_wal_insert_lsn()").await;
    let archive = rig.archives().join(rig.data(&dev).await.file_name().unwrap());
    dev.reset().await.unwrap();
    let spec = || BranchSpec::ephemeral().from(&dev).at(last.clone());
    let branch = Branch::create(&rig.project, spec()).await.unwrap();
    crate::rig::holds(&branch, 20, "whole").await;
    branch.close().await.unwrap();
    // Its positions are not those of what is there now.
    write(&dev, 0, 5).await;
    let of_old = BranchSpec::ephemeral().from(&dev).at(Target::lsn(lsn.parse().unwrap()));
    if let Ok(branch) = Branch::create(&rig.project, of_old).await {
        assert!(crate::rig::rows(&branch).await.len() <= 5, "that is of the old data");
        branch.close().await.unwrap();
    }
    let file = segments_in(&archive).pop().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = Branch::create(&rig.project, spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(dev.wal().await.unwrap().incarnations[1].holes, std::slice::from_ref(&name));
    // One that is too short is none either.
    std::fs::write(&file, &whole[..5000]).unwrap();
    assert_eq!(dev.wal().await.unwrap().incarnations[1].holes, std::slice::from_ref(&name));
    std::fs::write(&file, &whole).unwrap();
    let branch = Branch::create(&rig.project, spec()).await.unwrap();
    crate::rig::holds(&branch, 20, "mended").await;
    branch.close().await.unwrap();
    // Nor is a number of the old data looked for where none of the new is kept.
    rig.project.set_wal_retention(None).await.unwrap();
    dev.reset().await.unwrap();
    rig.project.set_wal_retention(Some(crate::rig::DAY)).await.unwrap();
    for target in [Target::lsn(lsn.parse().unwrap()), Target::xid(800)] {
        let spec = BranchSpec::ephemeral().from(&dev).at(target);
        let error = Branch::create(&rig.project, spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    let error = dev.restore_point("none").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    dev.delete(true).await.unwrap();
}

#[tokio::test]
async fn what_was_pruned_is_no_hole() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let info = async || main.wal().await.unwrap().incarnations.remove(0);
    main.snapshot("old").await.unwrap();
    write(&main, 0, 10).await;
    sql(&main, "SELECT pg_switch_wal()").await;
    let (time, place) = (SystemTime::now(), info().await.windows[0].from_lsn);
    tokio::time::sleep(Duration::from_millis(5)).await;
    write(&main, 10, 20).await;
    sql(&main, "SELECT pg_switch_wal()").await;
    sql(&main, "CHECKPOINT").await;
    main.snapshot("mid").await.unwrap();
    write(&main, 20, 30).await;
    sql(&main, "SELECT pg_switch_wal()").await;
    write(&main, 30, 40).await;
    for _ in 0..1000 {
        if info().await.waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    let pruned = rig.project.prune_wal(false).await.unwrap();
    assert!(pruned[0].segments > 0, "{pruned:?}");
    rig.project.finish_deletions().await.unwrap();
    let one = info().await;
    assert!(one.segments > 0 && one.holes.is_empty() && one.bases == 1, "{one:?}");
    assert_eq!(one.windows.len(), 1, "{one:?}");
    let missing = ErrorKind::NotFound;
    let error = refused(&rig, Target::time(time), missing, "is outside of what is kept").await;
    assert!(error.hint().unwrap().contains(" to now"), "{error:?}");
    refused(&rig, Target::lsn(place), missing, "is before what is kept").await;
    refused(&rig, Target::restore_point("none"), missing, "no restore point \"none\"").await;
    refused(&rig, Target::xid(2_000_000), missing, "was not committed").await;
    let branch = rig.at(Target::parse_time("now").unwrap()).await;
    crate::rig::holds(&branch, 40, "pruned").await;
    branch.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_broken_or_gone() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    write(&main, 0, 20).await;
    let newest = main.snapshot("newest").await.unwrap();
    write(&main, 20, 30).await;
    let data = rig.home.config().home().join("snapshots").join(newest.id().to_string());
    let control = data.join("global/pg_control");
    let whole = std::fs::read(&control).unwrap();
    let now = || Target::parse_time("now").unwrap();
    // An older one leads to the same moment.
    for broken in [&whole[..100], &[]] {
        std::fs::write(&control, broken).unwrap();
        let branch = rig.at(now()).await;
        crate::rig::holds(&branch, 30, "broken").await;
        branch.close().await.unwrap();
    }
    let wal = main.wal().await.unwrap();
    assert_eq!(wal.incarnations[0].windows.len(), 1, "{wal:?}");
    // Nor is the older one removed as if this one led there.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rig.project.set_wal_retention(Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(rig.project.prune_wal(false).await.unwrap(), []);
    std::fs::remove_dir_all(&data).unwrap();
    let branch = rig.at(now()).await;
    crate::rig::holds(&branch, 30, "gone").await;
    branch.close().await.unwrap();
    // Where none is left, that is said.
    for entry in std::fs::read_dir(data.parent().unwrap()).unwrap() {
        std::fs::write(entry.unwrap().path().join("global/pg_control"), [0; 100]).unwrap();
    }
    let spec = BranchSpec::named("bad").at(now());
    let error = Branch::create(&rig.project, spec).await.unwrap_err();
    assert!([ErrorKind::Corrupt, ErrorKind::NotFound].contains(&error.kind()), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_to() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let data = rig.data(&main).await;
    let archive = rig.archives().join(data.file_name().unwrap());
    let mode = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o500);
    write(&main, 0, 10).await;
    sql(&main, "SELECT pg_switch_wal()").await;
    write(&main, 10, 20).await;
    // The parent goes on, and the archive says so; what is there leads to every moment all the same.
    let wal = main.wal().await.unwrap();
    assert!(wal.incarnations[0].waiting > 0, "{wal:?}");
    let branch = rig.at(Target::parse_time("now").unwrap()).await;
    crate::rig::holds(&branch, 20, "not archived").await;
    branch.close().await.unwrap();
    // After a while doctor says so too.
    let said = || {
        let found = velo_core::doctor::examine(rig.home.config());
        let wal: Vec<_> = found.into_iter().filter(|finding| finding.name == "wal").collect();
        wal.iter().any(|finding| finding.what.contains("of time/main are not archived"))
    };
    assert!(!said());
    let long_ago = SystemTime::now() - Duration::from_secs(200);
    for entry in std::fs::read_dir(data.join("pg_wal/archive_status")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "ready") {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(long_ago).unwrap();
        }
    }
    assert!(said());
    // Its server goes on with it until it is started again.
    rig.project.set_wal_retention(None).await.unwrap();
    assert!(said());
    rig.project.set_wal_retention(Some(crate::rig::DAY)).await.unwrap();
    mode(0o700);
    // That wakes it.
    sql(&main, "SELECT pg_switch_wal()").await;
    let mut waiting = 1;
    for _ in 0..1500 {
        waiting = main.wal().await.unwrap().incarnations[0].waiting;
        if waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting, 0, "it goes on by itself");
}

/// A small disk of its own over a folder; unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    /// None where nothing can be mounted.
    fn over(folder: &Path) -> Option<Self> {
        let stat = std::fs::metadata(folder).unwrap();
        let (user, group) = (stat.uid(), stat.gid());
        let options = format!("size=6m,mode=0700,uid={user},gid={group}");
        let can = rustix::process::geteuid().is_root()
            && mount(&["-t", "tmpfs", "-o", &options, "tmpfs", folder.to_str().unwrap()]);
        if !can {
            println!("skipped: nothing can be mounted");
        }
        can.then(|| Self(folder.to_path_buf()))
    }

    fn grow(&self) {
        assert!(mount(&["-o", "remount,size=64m", self.0.to_str().unwrap()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str]) -> bool {
    Command::new("mount").args(args).status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn an_archive_on_a_full_disk() {
    let Some(rig) = Rig::on_btrfs().await else { return };
    let main = rig.main().await;
    let data = rig.data(&main).await;
    let archive = rig.archives().join(data.file_name().unwrap());
    let Some(disk) = Disk::over(&archive) else { return };
    // What was archived before is out of sight.
    main.snapshot("begin").await.unwrap();
    for round in 0..3 {
        write(&main, round * 10, round * 10 + 10).await;
        sql(&main, "SELECT pg_switch_wal()").await;
    }
    let log = main.log_file();
    let is_full = || std::fs::read_to_string(&log).unwrap().contains("No space left on device");
    assert!(eventually(Duration::from_secs(20), is_full));
    // One segment fits. The parent goes on, and every moment can be reached.
    write(&main, 30, 40).await;
    let wal = main.wal().await.unwrap();
    assert!(wal.incarnations[0].waiting >= 2 && wal.incarnations[0].segments == 1, "{wal:?}");
    let now = || Target::parse_time("now").unwrap();
    let branch = rig.at(now()).await;
    crate::rig::holds(&branch, 40, "full").await;
    branch.close().await.unwrap();
    disk.grow();
    sql(&main, "SELECT pg_switch_wal()").await;
    let mut one = main.wal().await.unwrap().incarnations.remove(0);
    for _ in 0..1500 {
        if one.waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        one = main.wal().await.unwrap().incarnations.remove(0);
    }
    assert!(one.waiting == 0 && one.segments >= 4, "{one:?}");
    for entry in std::fs::read_dir(&archive).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.len() != 24 || path.metadata().unwrap().len() == 4 << 20, "{path:?}");
    }
    let branch = rig.at(now()).await;
    crate::rig::holds(&branch, 40, "no longer full").await;
    branch.close().await.unwrap();
}
