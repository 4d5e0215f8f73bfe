//! Disks that are too small, or become so meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use velo_core::import::{Method, Source, Stage};
use velo_core::{ErrorKind, RefreshSpec};

use crate::common::client::sql;
use crate::common::fs_dir;
use crate::common::home::TestHome;
use crate::faults::{STATE, refused, small};
use crate::methods::{home_of, import};
use crate::server::bins;

#[tokio::test]
async fn a_disk_that_is_too_small_is_refused_before_anything_comes() {
    let (Some(base), Some(server)) = (fs_dir("VELO_TEST_SMALL"), small().await) else {
        return;
    };
    let home = TestHome::with(Some(&base), |b| b.pg_bin(&server.bin));
    for method in [Method::Basebackup, Method::Dump] {
        let source = Source::new(server.url("postgres")).unwrap().method(method).unwrap();
        let error = refused(&home, source, method.as_str()).await;
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{method}: {error}");
    }
}

/// What it becomes is not known, but that is more than it has itself.
#[tokio::test]
async fn a_dump_in_a_file_that_is_larger_than_the_disk_is_refused_before_it_is_read() {
    let Some(bin) = bins().pop() else { return };
    let home = home_of(&bin);
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.sql");
    // It takes no space itself.
    std::fs::File::create(&dump).unwrap().set_len(8 << 40).unwrap();
    let source = Source::new(dump.to_str().unwrap()).unwrap();
    let error = refused(&home, source, "a dump of 8 TB").await;
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
}

/// What takes nearly all that is free on a disk.
struct Filler(PathBuf);

/// What is left of it: less than what comes.
const LEFT: u64 = 256 << 10;

impl Filler {
    fn fill(&self) {
        let file = std::fs::File::create(&self.0).unwrap();
        let found = rustix::fs::fstatvfs(&file).unwrap();
        let free = found.f_bavail * found.f_frsize;
        let none = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, none, 0, free.saturating_sub(LEFT)).unwrap();
    }

    /// Whether it was there.
    fn empty(&self) -> bool {
        std::fs::remove_file(&self.0).is_ok()
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.empty();
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_half_way_leaves_nothing_and_the_old_main() {
    let (Some(base), Some(server)) = (fs_dir("VELO_TEST_EXT4"), small().await) else {
        return;
    };
    let size = rustix::fs::statvfs(&base).unwrap();
    if size.f_blocks * size.f_frsize > 20 << 30 {
        crate::common::skip("VELO_TEST_EXT4 is no disk that may be filled");
        return;
    }
    let home = TestHome::with(Some(&base), |b| b.pg_bin(&server.bin));
    let dir = tempfile::tempdir_in(&base).unwrap();
    let filler = Arc::new(Filler(dir.path().join("filler")));
    // It is told of before it begins.
    let fills = |filler: Arc<Filler>| {
        let filled = AtomicBool::new(false);
        move |progress: velo_core::import::Progress| {
            let begins = matches!(progress.stage, Stage::Copy | Stage::Dump | Stage::Restore);
            if begins && !filled.swap(true, Ordering::Relaxed) {
                filler.fill();
            }
        }
    };
    let dump = server.dir.path().join("dump").to_str().unwrap().to_owned();
    let done = server.tool("pg_dump", &["-Fc", "-d", &server.url("postgres"), "-f", &dump]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for method in [Method::Basebackup, Method::Dump, Method::Sql, Method::Files] {
        let from = match method {
            Method::Sql => dump.clone(),
            Method::Files => {
                server.stop();
                server.data().to_str().unwrap().to_owned()
            }
            _ => server.url("postgres"),
        };
        let of = || Source::new(&from).unwrap().method(method).unwrap();
        let what = format!("{method} onto a disk that fills up");
        let error = refused(&home, of().progress(fills(filler.clone())), &what).await;
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{what}: {error}");
        assert!(filler.empty(), "{what}: it was not filled");

        let project = import(&home, of().save_password()).await.unwrap();
        let main = project.main().await.unwrap();
        sql(&main, "CREATE TABLE mine (x int)").await;
        let before = home.left().len();
        let spec = RefreshSpec::new().progress(fills(filler.clone()));
        let error = project.refresh(spec).await.expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{what}: {error}");
        assert!(error.cleanup().is_empty(), "{what}: {error:?}");
        assert!(filler.empty(), "{what}: it was not filled");
        let main = project.main().await.unwrap();
        assert_eq!(sql(&main, STATE).await, "20000 true", "{what}");
        project.finish_deletions().await.unwrap();
        assert_eq!(home.left().len(), before, "{what}: {:?}", home.left());
        project.delete(true).await.unwrap();
    }
}
