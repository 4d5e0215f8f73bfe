//! A data folder that is a dataset of somebody else's.

use velo_core::import::Source;
use velo_core::{Branch, BranchSpec, Project};

use crate::common::client::sql;
use crate::common::installations;
use crate::common::zfs::{place_in_turn, run};
use crate::server::Server;

/// A clone would hang on a snapshot there, and keep its owner from destroying it.
#[tokio::test]
async fn zfs_copies_a_dataset_and_leaves_it_to_its_owner() {
    let Some(place) = place_in_turn("files") else { return };
    let Some(bin) = installations().and_then(|mut bins| bins.pop()) else { return };
    let dir = place.folder();
    let data = dir.path().join("data");
    let own = place.own(&["-o", &format!("mountpoint={}", data.display())]);
    let server = Server::in_folder(dir, &bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
    server.sql("postgres", "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n").await;
    server.stop();

    let home = place.home(|builder| builder.pg_bin(&bin));
    let source = Source::new(data.to_str().unwrap()).unwrap();
    let builder = Project::builder("api").config(home.config().clone()).from(source);
    let project = builder.create().await.unwrap();
    let snapshots = ["list", "-H", "-r", "-t", "snapshot", "-o", "name", &own.place.dataset];
    assert_eq!(run("zfs", &snapshots), "");
    drop(own);
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000");
    branch.close().await.unwrap();
}
