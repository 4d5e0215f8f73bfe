//! `velo seed`: what test suites prepared is listed and deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Home, psql};
use velo_core::blocking::{Project, Seed};
use velo_core::{Config, SeedKey};

fn seed(home: &Home, label: &str) -> Seed {
    let config = Config::builder().home(home.path()).build().unwrap();
    let project = Project::builder("api").config(config).open().unwrap();
    let key = SeedKey::new().code("tests/seeds.rs").text(label).label(label);
    project
        .seed(key, |branch| {
            psql(&branch.url(), "CREATE TABLE t AS SELECT 1 AS x");
            Ok::<(), std::convert::Infallible>(())
        })
        .unwrap()
}

#[test]
fn seeds_are_listed_and_pruned() {
    let home = Home::with_project();
    assert_eq!(home.ok(&["seed", "list"]).trim(), "no seeds");
    let one = seed(&home, "one");
    let two = seed(&home, "two");
    let list = home.json(&["seed", "list", "api", "--size"]);
    let list = list.as_array().unwrap();
    let labels: Vec<_> = list.iter().map(|seed| seed["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["one", "two"]);
    assert_eq!(list[0]["key"], one.info().key);
    assert_eq!(list[0]["ready"], true);
    assert!(list[0]["size"].is_object(), "{list:?}");
    let text = home.ok(&["seed", "list"]);
    assert!(text.contains(&format!("api/{}", one.info().shown())), "{text}");

    // They are no snapshots that people made, and keep no project from going.
    assert_eq!(home.json(&["snapshot", "list", "api"]).as_array().unwrap().len(), 0);

    // A week is not over, and what is used stays whatever is asked for.
    assert_eq!(home.json(&["seed", "prune"])["deleted"].as_array().unwrap().len(), 0);
    let branch = two.branch().unwrap();
    let gone = home.json(&["seed", "prune", "api", "--all"]);
    let gone = gone["deleted"].as_array().unwrap();
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(gone[0]["label"], "one");
    assert_eq!(home.json(&["seed", "list"])[0]["branches"], 1);
    branch.close().unwrap();
    home.ok(&["project", "delete", "api"]);
    assert_eq!(home.ok(&["seed", "list"]).trim(), "no seeds");
}

#[test]
fn a_time_that_is_none_is_refused() {
    let home = Home::new();
    home.fails(&["seed", "prune", "--unused-for", "x"], 2, "--unused-for");
    home.fails(&["seed", "list", "nothing"], 1, "there is no project nothing");
}
