//! What doctor says of a home whose data is on ZFS.

use std::process::Command;

use velo_core::Config;
use velo_core::doctor::{Finding, Status, examine};

use super::failures::Pool;
use crate::common::zfs::{place, run};
use crate::common::{installations, newest};

/// What is wrong with the data, in doctor's words.
fn of_disk(config: &Config) -> Vec<Finding> {
    examine(config).into_iter().filter(|f| f.name == "disk").collect()
}

#[tokio::test]
async fn zfs_doctor_tells_what_is_missing_from_what_cannot_be_seen() {
    let Some(place) = place() else { return };
    let Some(bin) = newest(installations().unwrap_or_default()).pop() else { return };
    let pool = Pool::make(&place).await;
    let home = pool.place.home(|builder| builder.pg_bin(&bin));
    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    main.stop().await.unwrap();
    let fine = of_disk(home.config());
    assert!(fine.iter().all(|f| f.status == Status::Ok), "{fine:?}");

    // A pool that is not there.
    let volume = run("zfs", &["list", "-H", "-o", "name", "-r", "small/velo"]);
    let volume = volume.lines().last().unwrap().to_owned();
    let _ = Command::new("zfs").args(["unmount", &volume]).status().unwrap();
    pool.export();
    let all = examine(home.config());
    pool.import();
    let unseen: Vec<_> = all.iter().filter(|f| f.name == "disk").collect();
    assert_eq!(unseen.len(), 1, "{all:?}");
    assert!(unseen[0].what.contains("small is not imported"), "{unseen:?}");
    assert!(all.iter().any(|f| f.name == "leases"), "the rest is looked at all the same: {all:?}");

    // Data that is gone, while the folder that it was mounted on is there.
    run("zfs", &["rename", &volume, "small/kept"]);
    let gone = of_disk(home.config());
    run("zfs", &["rename", "small/kept", &volume]);
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(gone[0].status, Status::Fail, "{gone:?}");
    assert!(gone[0].what.contains("recorded, and not there: the branch api/main"), "{gone:?}");
    let fine = of_disk(home.config());
    assert!(fine.iter().all(|f| f.status == Status::Ok), "{fine:?}");
    main.start().await.unwrap();
    project.delete(true).await.unwrap();
}
