//! Ephemeral branches end with the process that holds them, however that ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use velo_core::{Branch, BranchSpec, Config};

use crate::common::home::eventually;
use crate::engine::{containers, engine, usual_home};

/// How long a container may outlive its holder.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
#[allow(clippy::disallowed_methods)] // the test starts itself once more, to be killed
async fn docker_containers_end_with_a_killed_holder() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    for forks in ["", "1"] {
        let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder::docker_holder", "--ignored", "--nocapture"])
            .env("VELO_TEST_HOME", home.config().home())
            .env("VELO_TEST_FORKS", forks)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let pids = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, pids) = line.split_once("holds ")?;
            Some(pids.split(' ').map(|pid| pid.parse::<i32>().unwrap()).collect::<Vec<_>>())
        });
        let [server, heir] = pids.expect("the holder says so").try_into().unwrap();
        let lives = || std::path::Path::new(&format!("/proc/{server}")).exists();
        assert!(lives());
        assert_eq!(containers(&engine, home.config().home()).await.len(), 2);
        holder.kill().unwrap();
        let killed = Instant::now();
        holder.wait().unwrap();
        let gone = eventually(SOON, || !lives());
        eprintln!("gone {:?} after its holder was killed", killed.elapsed());
        if let Some(heir) = rustix::process::Pid::from_raw(heir) {
            let _ = rustix::process::kill_process(heir, rustix::process::Signal::KILL);
        }
        assert!(gone, "the server outlives its holder");
        let deadline = Instant::now() + SOON;
        while containers(&engine, home.config().home()).await.len() > 1 {
            assert!(Instant::now() < deadline, "its container stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Its files go with the next that opens the home.
    project.finish_deletions().await.unwrap();
    let _ = velo_core::doctor::examine(home.config());
}

#[tokio::test]
#[ignore = "started by docker_containers_end_with_a_killed_holder"]
async fn docker_holder() {
    let home = PathBuf::from(std::env::var_os("VELO_TEST_HOME").unwrap());
    let config = Config::builder().home(home).ports(40_000..=40_099).build().unwrap();
    let project = velo_core::Project::builder("api").config(config).open().await.unwrap();
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    let mut heir = 0;
    if std::env::var_os("VELO_TEST_FORKS").is_some_and(|v| v == "1") {
        // SAFETY: the child only waits, without running anything that a fork broke.
        heir = unsafe { libc::fork() };
        if heir == 0 {
            // SAFETY: as above.
            unsafe {
                libc::close(1);
                libc::sleep(60);
                libc::_exit(0)
            };
        }
    }
    let pid = branch.info().await.unwrap().pid.unwrap();
    println!("holds {pid} {heir}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(branch);
}
