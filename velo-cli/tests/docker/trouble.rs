//! Containers that are not as Velo left them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Home, wait_until};
use crate::engine::{Foreign, container_of, is_podman, told};
use crate::image;

/// A home on btrfs with the branch `boxed/dev`, in containers.
fn boxed(image: &str) -> Home {
    let base = std::env::var_os("VELO_TEST_BTRFS").unwrap_or_else(|| "/var/tmp".into());
    let home = Home::under(Path::new(&base));
    home.ok(&["project", "create", "boxed", "--image", image]);
    home.ok(&["branch", "create", "boxed/dev"]);
    home
}

fn state(home: &Home, branch: &str) -> Value {
    home.json(&["branch", "get", branch])["state"].clone()
}

/// Kills a server as a machine does that is out of memory.
fn kill(home: &Home, branch: &str) {
    let pid = home.json(&["branch", "get", branch])["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn docker_servers_that_die_again_and_again_do_not_run() {
    let Some(image) = image() else { return };
    if is_podman() {
        // There nothing is started again.
        return;
    }
    let home = boxed(&image);
    let (_, volume) = container_of(&home, "boxed/dev");
    let settings = Path::new(&volume).join("postgresql.auto.conf");
    let good = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{good}no_such_setting = 7\n")).unwrap();
    kill(&home, "boxed/dev");
    wait_until("it is started again", || state(&home, "boxed/dev") == "restarting");
    // Through several starts, at whatever moment it is looked at.
    let starts = || {
        let (name, _) = container_of(&home, "boxed/dev");
        told("GET", &format!("/containers/{name}/json"), &Value::Null)["RestartCount"].as_u64()
    };
    let before = starts().unwrap();
    wait_until("it died three more times", || {
        let list = home.json(&["branch", "list"]);
        let dev = list.as_array().unwrap().iter().find(|branch| branch["branch"] == "dev").unwrap();
        assert_eq!(dev["state"], "restarting", "{dev}");
        assert!(dev["problem"].as_str().unwrap().contains("postgres.log"), "{dev}");
        starts().unwrap() >= before + 3
    });
    let list = home.run(&["branch", "list"]);
    assert!(list.stdout.contains("restarting"), "{list:?}");
    assert!(list.stderr.contains("boxed/dev") && list.stderr.contains("postgres.log"), "{list:?}");
    let status = home.json(&["status"]);
    assert_eq!((&status["running"], &status["restarting"]), (&1.into(), &1.into()), "{status}");
    home.fails(&["branch", "start", "boxed/dev"], 1, "postgresql.auto.conf");
    std::fs::write(&settings, good).unwrap();
    home.ok(&["branch", "start", "boxed/dev"]);
    assert_eq!(state(&home, "boxed/dev"), "running");
}

#[test]
fn docker_containers_of_others_with_a_servers_name_are_left_alone() {
    let Some(image) = image() else { return };
    let home = boxed(&image);
    let (name, _) = container_of(&home, "boxed/dev");
    home.ok(&["branch", "stop", "boxed/dev"]);
    let foreign = Foreign::new(&name, &image);
    assert_eq!(state(&home, "boxed/dev"), "stopped");
    let ran = home.run(&["branch", "start", "boxed/dev"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in [&*name, &*image, "none of Velo's", "rename"] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    foreign.must_run();
    home.ok(&["branch", "stop", "boxed/dev"]);
    home.run(&["doctor", "--fix"]);
    foreign.must_run();
    home.ok(&["branch", "delete", "boxed/dev"]);
    foreign.must_run();
}
