//! One-off containers (`initdb`, a look into an image) end with whoever runs them, and what a killed
//! process left of them goes when the home is opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerSummary};
use bollard::query_parameters as query;
use velo_core::doctor::{self, Status};
use velo_core::runtime::RuntimeKind;
use velo_core::{Config, Id};

use crate::common::scaled;
use crate::engine::{containers, engine, images, usual_home};

/// Of one-off containers that never ran, as if `home` had made them: their names.
async fn left(engine: &Docker, image: &str, id: &str, home: &Path) -> String {
    let name = format!("velo-tool-{}", id.to_lowercase());
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(HashMap::from([
            ("velo.home".into(), home.display().to_string()),
            ("velo.tool".into(), "initdb".into()),
        ])),
        entrypoint: Some(vec!["/bin/sh".into()]),
        ..Default::default()
    };
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    engine.create_container(Some(options), body).await.unwrap();
    name
}

async fn is_there(engine: &Docker, name: &str) -> bool {
    engine.inspect_container(name, None).await.is_ok()
}

async fn remove(engine: &Docker, name: &str) {
    let options = query::RemoveContainerOptionsBuilder::new().v(true).force(true).build();
    engine.remove_container(name, Some(options)).await.unwrap();
}

#[tokio::test]
async fn docker_tools_of_dead_processes_go_and_no_others() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let image = images().remove(0);
    let folder = home.config().home().to_path_buf();
    let leases = folder.join("docker/tools");
    std::fs::create_dir_all(&leases).unwrap();
    // Its own id each, and no other run's.
    let unique = format!("{:08}", std::process::id());
    let id = |last: &str| format!("01M85Q712A381HG2Q{unique}{last}");
    let lease = |last: &str| std::fs::File::create(leases.join(id(last))).unwrap();

    lease("D");
    let dead = left(&engine, &image, &id("D"), &folder).await;
    let held = lease("H");
    held.lock().unwrap();
    let alive = left(&engine, &image, &id("H"), &folder).await;
    // A copy of a home has the leases of the other one.
    lease("A");
    let of_another = left(&engine, &image, &id("A"), Path::new("/elsewhere")).await;
    // Before there is a home there is no lease.
    let without = left(&engine, &image, &id("W"), &folder).await;

    home.project("api").await;
    assert!(!is_there(&engine, &dead).await);
    for other in [&alive, &of_another, &without] {
        assert!(is_there(&engine, other).await, "{other}");
    }
    let leases_left: Vec<_> =
        std::fs::read_dir(&leases).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(leases_left, [leases.join(id("H"))]);

    let warned = || {
        let found = doctor::examine(home.config()).into_iter();
        let strays = found.filter(|f| f.name == "docker" && f.status == Status::Warn);
        strays.map(|f| f.what).collect::<String>()
    };
    assert_eq!(warned(), "");
    drop(held);
    let told = warned();
    assert!(told.contains(&alive), "{told:?}");
    assert!(!told.contains(&of_another) && !told.contains(&without), "{told:?}");
    for other in [alive, of_another, without] {
        remove(&engine, &other).await;
    }
}

/// Which tool runs in the container.
fn tool(container: &ContainerSummary) -> Option<&str> {
    container.labels.as_ref()?.get("velo.tool").map(String::as_str)
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // the test starts itself once more, to be killed
async fn docker_tools_end_with_a_killed_process() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let image = images().remove(0);
    let folder = home.config().home().to_path_buf();
    // A home that is there, so that it can be opened.
    home.project("other").await.delete(true).await.unwrap();
    for (wanted, pause) in [("sh", 0), ("sh", 5), ("initdb", 0), ("initdb", 40), ("initdb", 300)] {
        let mut runner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tools::docker_tool_runner", "--ignored", "--nocapture"])
            .env("VELO_TEST_HOME", &folder)
            .env("VELO_TEST_IMAGE", &image)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + scaled(Duration::from_secs(60));
        loop {
            let there = containers(&engine, &folder).await;
            if there.iter().any(|c| tool(c).is_some_and(|tool| tool.ends_with(wanted))) {
                break;
            }
            assert!(Instant::now() < deadline, "no {wanted} runs: {there:?}");
            assert!(runner.try_wait().unwrap().is_none(), "it ended before {wanted}");
        }
        // The moment is what is tested.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        runner.kill().unwrap();
        runner.wait().unwrap();
        // Once more with this program, so that the home is opened anew.
        let opened = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tools::docker_home_opener", "--ignored"])
            .env("VELO_TEST_HOME", &folder)
            .output()
            .unwrap();
        assert!(opened.status.success(), "{opened:?}");
        let left = containers(&engine, &folder).await;
        assert!(left.is_empty(), "killed {pause} ms into {wanted}: {left:?}");
        let leases = std::fs::read_dir(folder.join("docker/tools")).unwrap().count();
        assert_eq!(leases, 0, "killed {pause} ms into {wanted}");
        assert!(home.servers().is_empty());
        assert_eq!(home.left(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
#[ignore = "started by docker_tools_end_with_a_killed_process"]
async fn docker_tool_runner() {
    let home = PathBuf::from(std::env::var_os("VELO_TEST_HOME").unwrap());
    let image = std::env::var("VELO_TEST_IMAGE").unwrap();
    let config = Config::builder().home(home).runtime(RuntimeKind::Docker).image(image);
    let config = config.ports(40_100..=40_199).build().unwrap();
    let project = velo_core::Project::builder("api").config(config).create().await.unwrap();
    project.delete(true).await.unwrap();
}

#[test]
#[ignore = "started by docker_tools_end_with_a_killed_process"]
fn docker_home_opener() {
    let home = PathBuf::from(std::env::var_os("VELO_TEST_HOME").unwrap());
    let config = Config::builder().home(home).build().unwrap();
    assert!(velo_core::blocking::Project::list(&config).unwrap().is_empty());
}

/// A container of a server that never ran, under a lease, as if `home` had asked for it.
async fn asked_for(engine: &Docker, image: &str, lease: Id, home: &Path) -> String {
    let name = format!("velo-{}", Id::generate().to_string().to_lowercase());
    let volume = home.join("volumes/01M85Q712A381HG2QDVG2FJSJX");
    let labels = [
        ("velo.home", home.display().to_string()),
        ("velo.volume", volume.display().to_string()),
        ("velo.lease", lease.to_string()),
    ];
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        entrypoint: Some(["/bin/sh", "-c", "sleep 600"].map(str::to_owned).to_vec()),
        ..Default::default()
    };
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    engine.create_container(Some(options), body).await.unwrap();
    name
}

/// A process is killed while the engine makes a container for it, and the home is opened before the
/// engine is done.
#[tokio::test]
async fn docker_servers_that_are_made_for_the_dead_go_and_no_others() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let image = images().remove(0);
    let folder = home.config().home().to_path_buf();
    let leases = folder.join("docker/servers");
    std::fs::create_dir_all(&leases).unwrap();
    let lease = || {
        let id = Id::generate();
        (id, std::fs::File::create(leases.join(id.to_string())).unwrap())
    };
    let (alive, held) = lease();
    held.lock().unwrap();
    let of_the_living = asked_for(&engine, &image, alive, &folder).await;
    let (started, _) = lease();
    let runs = asked_for(&engine, &image, started, &folder).await;
    engine.start_container(&runs, None).await.unwrap();
    let (elsewhere, _) = lease();
    let of_another = asked_for(&engine, &image, elsewhere, Path::new("/elsewhere")).await;

    let (late, _) = lease();
    let (api, create) = (engine.clone(), image.clone());
    let home_of = folder.clone();
    let made = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        asked_for(&api, &create, late, &home_of).await
    });
    home.project("api").await;
    let late_one = made.await.unwrap();
    assert!(!is_there(&engine, &late_one).await, "{late_one}");
    for other in [&of_the_living, &runs, &of_another] {
        assert!(is_there(&engine, other).await, "{other}");
        remove(&engine, other).await;
    }
    // What may appear yet is looked for by the next ones; what was found is settled.
    let left: Vec<_> =
        std::fs::read_dir(&leases).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| [late, started].iter().any(|id| *name == *id.to_string())),
        "{left:?}"
    );
    assert!(left.iter().any(|name| *name == *alive.to_string()), "{left:?}");
}
