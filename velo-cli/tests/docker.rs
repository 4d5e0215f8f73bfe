//! The command with servers in containers, on the engine of `VELO_TEST_DOCKER`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

#[path = "docker/engine.rs"]
mod engine;
#[path = "docker/hung.rs"]
mod hung;
#[path = "docker/trouble.rs"]
mod trouble;

use common::Home;

/// The image to test with; `None`, said loudly, where there is no engine for this user.
pub(crate) fn image() -> Option<String> {
    common::engine().map(|(_, image)| image)
}

#[test]
fn docker_main_path() {
    let Some(image) = image() else { return };
    let home = Home::on_btrfs();
    let project = home.json(&["project", "create", "api", "--image", &image, "--memory", "1G"]);
    assert_eq!(project["runtime"], "docker");
    assert_eq!(project["postgres"]["source"], "image");
    assert_eq!(project["postgres"]["image"]["reference"], *image);
    assert_eq!(project["postgres"]["image"]["libc"], "glibc");
    assert!(home.ok(&["project", "get", "api"]).contains(&format!("image {image}")));

    home.sql("api/main", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    let dev = home.json(&["branch", "create", "api/dev", "--cpus", "0.5", "--shm-size", "64M"]);
    assert_eq!(dev["state"], "running");
    assert!(dev["pid"].as_u64().is_some());
    assert_eq!(dev["cut"]["libc"], "glibc");
    assert_eq!(home.sql("api/dev", "DELETE FROM t RETURNING n").trim().lines().next(), Some("7"));
    home.ok(&["branch", "reset", "api/dev"]);
    assert_eq!(home.sql("api/dev", "SELECT n FROM t").trim(), "7");
    // The program runs outside, where clients do.
    let ran = home.ok(&["run", "api", "--", "sh", "-c", "psql \"$DATABASE_URL\" -Atc 'TABLE t'"]);
    assert_eq!(ran.trim(), "7");
    let doctor = home.json(&["doctor"]);
    let docker = doctor.as_array().unwrap().iter().find(|row| row["name"] == "docker").unwrap();
    assert_eq!(docker["status"], "ok", "{doctor}");
    home.fails(&["branch", "create", "api/x", "--memory", "much"], 2, "is not a size");
    home.ok(&["branch", "delete", "api/dev"]);
    home.ok(&["project", "delete", "api"]);
}

#[test]
fn docker_that_is_not_there_is_said() {
    let home = Home::new();
    let create = ["project", "create", "api", "--runtime", "docker", "--image", "postgres:18"];
    for (host, part) in [
        ("unix:///nowhere/docker.sock", "/nowhere/docker.sock: No such file"),
        ("tcp://192.0.2.1:2375", "is no engine of this machine"),
    ] {
        home.fails_with(&create, 1, part, |command| {
            command.env("DOCKER_HOST", host);
        });
        let doctor = home.run_with(&["doctor", "--json"], |command| {
            command.env("DOCKER_HOST", host).env("VELO_RUNTIME", "docker");
        });
        assert!(doctor.code == 1 && doctor.stdout.contains(part), "{doctor:?}");
    }
    assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
}

/// One project whose engine does not answer hides none of the others.
#[test]
fn docker_that_is_down_hides_no_other_project() {
    let Some(image) = image() else { return };
    let home = Home::new();
    home.ok(&["project", "create", "boxed", "--image", &image]);
    home.ok(&["project", "create", "api", "--runtime", "process"]);
    let down = |args: &[&str]| {
        home.run_with(args, |command| {
            command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        })
    };
    let list = down(&["branch", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    let states: Vec<_> = list.as_array().unwrap().iter().map(|b| &b["state"]).collect();
    assert_eq!(states, ["unknown", "running"], "{list}");
    let status = down(&["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    let gc = down(&["gc"]);
    assert!(gc.code == 1 && gc.stdout.contains("the container that may be there"), "{gc:?}");
    assert_eq!(home.sql("boxed/main", "SELECT 1"), "1");
    // What was asked for is done as soon as it can be, and who asked knows.
    let gone = down(&["project", "delete", "boxed", "--force"]);
    let told = gone.stderr.contains("the next command goes on with it");
    assert!(gone.code == 1 && told, "{gone:?}");
    assert_eq!(home.branches(), ["api/main"]);
}

/// Only containers are held to limits.
#[test]
fn limits_need_docker() {
    let home = Home::new();
    let create = ["project", "create", "api", "--runtime", "process", "--memory", "1G"];
    home.fails(&create, 1, "limits neither memory nor processors");
}
