//! Containers that are not as Velo left them.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Home, Ran, is_root, program, wait_until};
use crate::engine::{Foreign, ask, container_of, is_podman, is_rootless, told};
use crate::image;

/// A home on btrfs with the branch `boxed/dev`, in containers.
fn boxed(image: &str) -> Home {
    let home = Home::on_btrfs();
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

/// Kills it as somebody does with the engine's own command, which does not start it again then.
fn kill_by_hand(home: &Home, branch: &str) {
    let (name, _) = container_of(home, branch);
    told("POST", &format!("/containers/{name}/kill"), &Value::Null);
    wait_until("the container ended", || {
        told("GET", &format!("/containers/{name}/json"), &Value::Null)["State"]["Running"] == false
    });
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
    let doctor = home.run(&["doctor"]);
    assert!(doctor.stdout.contains("dies, and is started again: boxed/dev"), "{doctor:?}");
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

/// A signal that comes before a container's first process listens to it is lost.
#[test]
fn docker_stops_what_is_just_starting_again() {
    let Some(image) = image() else { return };
    if is_podman() {
        // There nothing is started again.
        return;
    }
    let home = boxed(&image);
    let log = home.json(&["branch", "get", "boxed/dev"])["id"].as_str().unwrap().to_owned();
    let log = home.path().join("run").join(log).join("postgres.log");
    for pause in [0, 100, 200, 300, 400, 500] {
        let (name, _) = container_of(&home, "boxed/dev");
        let runs = || told("GET", &format!("/containers/{name}/json"), &Value::Null);
        let before = runs()["RestartCount"].as_u64().unwrap();
        kill(&home, "boxed/dev");
        wait_until("it is started again", || {
            let now = runs();
            now["RestartCount"].as_u64().unwrap() > before && now["State"]["Running"] == true
        });
        // Another moment of its start each time.
        std::thread::sleep(Duration::from_millis(pause));
        let ran = home.run(&["branch", "stop", "boxed/dev"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.stderr.contains("does not stop in time"), "after {pause} ms: {ran:?}");
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(!said.contains("immediate shutdown"), "after {pause} ms: {said}");
        home.ok(&["branch", "start", "boxed/dev"]);
    }
}

#[test]
fn docker_containers_of_a_home_that_is_gone_are_ended() {
    let Some(image) = image() else { return };
    let home = boxed(&image);
    let names = ["boxed/main", "boxed/dev"].map(|branch| container_of(&home, branch).0);
    let there = |name: &str| ask("GET", &format!("/containers/{name}/json"), &Value::Null).0 == 200;
    remove_all(home.path());
    // Without a home only the engine can do it.
    let doctor = home.run(&["doctor"]);
    assert!(
        doctor.stdout.contains(&format!("rm -f -v {}", names[0]))
            || doctor.stdout.contains(&names[1]),
        "{doctor:?}"
    );
    home.ok(&["project", "create", "new", "--image", &image]);
    // PostgreSQL notices by itself that its data is gone, a minute later or at its next checkpoint; then gc can do it.
    let gc = home.run(&["gc", "--unrecorded"]);
    let said = gc.stdout.contains("doctor --fix") || gc.stderr.contains("doctor --fix");
    let lives = names.iter().any(|name| there(name));
    assert!(gc.code == i32::from(lives) && said == lives, "{gc:?}");
    let fixed = home.run(&["doctor", "--fix"]);
    assert_eq!(fixed.code, 0, "{fixed:?}");
    for name in &names {
        assert!(!there(name), "{name}: {fixed:?}");
    }
    assert!(there(&container_of(&home, "new/main").0));
    assert!(!home.run(&["doctor"]).stdout.contains("no record names"));
}

/// Another home may have the path in another mount namespace, and the same engine.
#[test]
fn docker_containers_of_another_home_of_the_path_are_left_to_it() {
    let Some(image) = image() else { return };
    if !is_root() {
        return;
    }
    let home = boxed(&image);
    let name = container_of(&home, "boxed/main").0;
    let there = "mount -t tmpfs -o mode=755 other \"$1\" && shift && velo=$1 && \
        \"$velo\" project create api && \"$velo\" doctor && \"$velo\" doctor --fix && \
        \"$velo\" gc --unrecorded && exec \"$@\"";
    let args = ["project", "delete", "api", "--force"];
    let Some(ran) = elsewhere(&home, there, &[home.path()], home.path(), &args) else { return };
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("of another home that has this path"), "{ran:?}");
    let (code, said) = ask("GET", &format!("/containers/{name}/json"), &Value::Null);
    assert!(code == 200 && said["State"]["Running"] == true, "{said}");
    assert_eq!(home.sql("boxed/main", "SELECT 1"), "1");
}

/// An engine that is not there hides nothing else.
#[test]
fn docker_that_is_gone_keeps_nothing_else_from_being_set_right() {
    let Some(image) = image() else { return };
    let home = boxed(&image);
    home.ok(&["project", "create", "local"]);
    kill(&home, "local/main");
    let stray = home.path().join("volumes/01ARZ3NDEKTSV4RRFFQ69G5FAV");
    std::fs::create_dir(&stray).unwrap();
    let without = |args: &[&str]| {
        home.run_with(args, |command| {
            command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        })
    };
    let fixed = without(&["doctor", "--fix"]);
    assert!(fixed.stdout.contains("local/main"), "{fixed:?}");
    assert_eq!(home.sql("local/main", "SELECT 1"), "1");
    std::fs::remove_dir(&stray).unwrap();
}

/// Removes all that is in a home, as somebody does who means well.
fn remove_all(home: &Path) {
    for entry in std::fs::read_dir(home).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// A container has the labels of its image, and so those of a server that the image was made of.
#[test]
fn docker_containers_of_an_image_of_a_server_are_somebodys_own() {
    let Some(image) = image() else { return };
    let home = boxed(&image);
    let (name, volume) = container_of(&home, "boxed/dev");
    let own = format!("{}-of-somebody", name.to_lowercase());
    let server = told("GET", &format!("/containers/{name}/json"), &Value::Null);
    let labels = &server["Config"]["Labels"];
    assert_eq!(labels["velo.volume"], *volume, "{server}");
    let made = [own.clone(), format!("{own}-idle")].map(|name| {
        let body = serde_json::json!({
            "Image": image,
            "Labels": labels,
            "Entrypoint": ["/bin/sh", "-c", "read _"],
            "OpenStdin": true,
        });
        told("POST", &format!("/containers/create?name={name}"), &body);
        Foreign(name)
    });
    let [foreign, idle] = made;
    told("POST", &format!("/containers/{own}/start"), &Value::Null);

    home.ok(&["branch", "delete", "boxed/dev"]);
    let doctor = home.run(&["doctor"]);
    assert!(!doctor.stdout.contains(&own), "{doctor:?}");
    let gc = home.run(&["gc", "--unrecorded"]);
    assert!(gc.code == 0 && !gc.stdout.contains(&own), "{gc:?}");
    home.run(&["doctor", "--fix"]);
    foreign.must_run();
    assert_eq!(ask("GET", &format!("/containers/{}/json", idle.0), &Value::Null).0, 200);
    if is_podman() {
        return; // It makes images by rules that this machine has none of.
    }
    // A project of such an image is one as any.
    told("POST", &format!("/commit?container={own}&repo={own}&tag=1"), &serde_json::json!({}));
    let image = Image(format!("{own}:1"));
    home.ok(&["project", "create", "again", "--image", &image.0]);
    let doctor = home.run(&["doctor"]);
    assert!(
        !doctor.stdout.contains("nobody's") && !doctor.stdout.contains("no record"),
        "{doctor:?}"
    );
    home.ok(&["project", "delete", "again"]);
}

/// An image, until this is dropped.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        ask("DELETE", &format!("/images/{}?force=1", self.0), &Value::Null);
    }
}

#[test]
fn docker_tablespaces_outlive_a_crash() {
    let Some(image) = image() else { return };
    if is_rootless() {
        // There the server's user can write nowhere else.
        return;
    }
    let home = boxed(&image);
    let make = "CREATE TABLESPACE ts LOCATION '/var/lib/postgresql/data'";
    home.sql("boxed/dev", make);
    home.sql("boxed/dev", "CREATE TABLE t (n int) TABLESPACE ts");
    home.sql("boxed/dev", "INSERT INTO t VALUES (7)");
    home.sql("boxed/dev", "CHECKPOINT");

    kill_by_hand(&home, "boxed/dev");
    home.ok(&["branch", "start", "boxed/dev"]);
    assert_eq!(home.sql("boxed/dev", "TABLE t"), "7");
    // Nor does a start that fails.
    kill_by_hand(&home, "boxed/dev");
    let port = home.json(&["branch", "get", "boxed/dev"])["port"].as_u64().unwrap();
    let held = TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    home.fails(&["branch", "start", "boxed/dev"], 1, "held by another program");
    drop(held);
    home.ok(&["start", "--all"]);
    assert_eq!(home.sql("boxed/dev", "TABLE t"), "7");
    kill_by_hand(&home, "boxed/dev");
    home.run(&["doctor", "--fix"]);
    assert_eq!(home.sql("boxed/dev", "TABLE t"), "7");
    home.fails(&["branch", "stop", "boxed/dev"], 1, "tablespace");

    if !is_podman() {
        // One that its engine starts again and again is not made anew either.
        let (name, volume) = container_of(&home, "boxed/dev");
        let settings = Path::new(&volume).join("postgresql.auto.conf");
        let good = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, format!("{good}no_such_setting = 7\n")).unwrap();
        kill(&home, "boxed/dev");
        wait_until("it is started again", || state(&home, "boxed/dev") == "restarting");
        home.fails(&["branch", "start", "boxed/dev"], 1, "tablespace");
        std::fs::write(&settings, good).unwrap();
        wait_until("it is back", || state(&home, "boxed/dev") == "running");
        assert_eq!(container_of(&home, "boxed/dev").0, name);
        assert_eq!(home.sql("boxed/dev", "TABLE t"), "7");
        // Nor is one whose network is gone.
        let found = told("GET", &format!("/containers/{name}/json"), &Value::Null);
        for network in found["NetworkSettings"]["Networks"].as_object().unwrap().keys() {
            let body = serde_json::json!({ "Container": name, "Force": true });
            told("POST", &format!("/networks/{network}/disconnect"), &body);
        }
        home.fails(&["branch", "start", "boxed/dev"], 1, "tablespace");
        assert_eq!(ask("GET", &format!("/containers/{name}/json"), &Value::Null).0, 200);
    }
    home.ok(&["branch", "delete", "boxed/dev"]);
}

/// As an engine in a virtual machine, or in a container of its own.
#[test]
fn docker_that_does_not_see_the_home_is_said() {
    let Some(image) = image() else { return };
    if !is_root() {
        return;
    }
    let home = Home::new();
    let there = home.dir().join("hidden");
    std::fs::create_dir(&there).unwrap();
    let mount = "mount -t tmpfs -o mode=755 hidden \"$1\" && shift && exec \"$@\"";
    let create = ["project", "create", "boxed", "--image", &image];
    let Some(ran) = elsewhere(&home, mount, &[&there], &there.join("h"), &create) else { return };
    ran.is_error(1, "the engine does not see");
    assert!(ran.stderr.contains("VELO_HOME"), "{ran:?}");
}

/// As one that was started before a volume was mounted.
#[test]
fn docker_that_sees_an_empty_folder_is_said() {
    let Some(image) = image() else { return };
    if !is_root() {
        return;
    }
    let home = boxed(&image);
    let (_, volume) = container_of(&home, "boxed/dev");
    home.ok(&["branch", "stop", "boxed/dev"]);
    let (volume, aside) = (Path::new(&volume), home.dir().join("aside"));
    let found = std::fs::metadata(volume).unwrap();
    std::fs::rename(volume, &aside).unwrap();
    std::fs::create_dir(volume).unwrap();
    std::fs::set_permissions(volume, found.permissions()).unwrap();
    std::os::unix::fs::chown(volume, Some(found.uid()), Some(found.gid())).unwrap();
    let mount = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let start = ["branch", "start", "boxed/dev"];
    let ran = elsewhere(&home, mount, &[&aside, volume], home.path(), &start);
    std::fs::remove_dir(volume).unwrap();
    std::fs::rename(&aside, volume).unwrap();
    if let Some(ran) = ran {
        ran.is_error(1, "the engine does not see");
        assert!(ran.stderr.contains("VELO_HOME"), "{ran:?}");
    }
    home.ok(&["branch", "start", "boxed/dev"]);
}

/// Runs the command on `velo_home` where `mount` was done, which nobody else sees; `None` where nothing can
/// be mounted.
#[allow(clippy::disallowed_methods)] // `unshare`
fn elsewhere(
    home: &Home,
    mount: &str,
    folders: &[&Path],
    velo_home: &Path,
    args: &[&str],
) -> Option<Ran> {
    let unshare = ["--mount", "--propagation", "private"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|s| s.success()) {
        return None;
    }
    let mut command = home.command_of(Path::new("unshare"));
    command.args(unshare).args(["sh", "-c", mount, "sh"]).args(folders).arg(program()).args(args);
    Some(command.env("VELO_HOME", velo_home).output().unwrap().into())
}
