//! The command with containers on ZFS, where `VELO_TEST_ENGINE` stops and starts the engine
//! (`.ci/zfs-vm`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::RwLock;

use common::{Home, wait_until};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

/// Read by who uses the engine, written by who stops it.
static ENGINE: RwLock<()> = RwLock::new(());

/// What a program printed, or what went wrong.
fn attempt(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(format!("{program} {args:?}: {output:?}")),
    }
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    attempt(program, args).unwrap_or_else(|said| panic!("{said}"))
}

/// A home of containers on ZFS.
struct Place {
    home: Home,
    psql: String,
}

impl Place {
    /// `None` where there is none, which is no skip: `.ci/zfs-vm` runs these tests as root.
    fn new(image: &str) -> Option<Self> {
        let dataset = std::env::var("VELO_TEST_ZFS").ok()?;
        if !common::is_root() {
            return None;
        }
        let home = Home::under(Path::new(&std::env::var("VELO_TEST_RIG").unwrap()));
        let image = std::env::var(image).unwrap();
        let settings = format!(
            "storage = \"zfs\"\nzfs_dataset = \"{dataset}\"\nruntime = \"docker\"\n\
             image = \"{image}\"\nstart_timeout = 600\n"
        );
        std::fs::write(home.dir().join("velo.toml"), settings).unwrap();
        let bin = std::env::var("VELO_TEST_PG").unwrap();
        let bin = bin.split_whitespace().last().unwrap().split_once('=').unwrap().1;
        Some(Self { home, psql: format!("{bin}/psql") })
    }

    fn url(&self, branch: &str) -> String {
        self.home.ok(&["branch", "url", branch]).trim().to_owned()
    }

    #[track_caller]
    fn sql(&self, branch: &str, query: &str) -> String {
        run(&self.psql, &["-XAtqc", query, &self.url(branch)])
    }

    /// The containers of this home: name and branch.
    fn containers(&self) -> Vec<(String, String)> {
        let label = format!("label=velo.home={}", self.home.path().display());
        let format = "{{.Names}} {{.Label \"velo.branch\"}}";
        let listed = run("docker", &["ps", "-a", "--filter", &label, "--format", format]);
        let lines = listed.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(name, branch)| (name.to_owned(), branch.to_owned())).collect()
    }

    fn container_of(&self, branch: &str) -> String {
        let mut all = self.containers().into_iter();
        all.find_map(|(name, of)| (of == branch).then_some(name)).unwrap()
    }

    /// The datasets of this home's that are mounted, with where.
    fn mounted(&self) -> Vec<(String, String)> {
        let home = self.home.path().to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let ours = fields.filter(|f| f[2] == "zfs" && f[1].starts_with(home));
        ours.map(|f| (f[0].to_owned(), f[1].to_owned())).collect()
    }

    /// As when the machine goes down and comes up: the engine starts what ran, and nothing is mounted.
    fn restart_machine(&self) {
        let _alone = ENGINE.write();
        let engine = std::env::var("VELO_TEST_ENGINE").unwrap();
        run(&engine, &["stop"]);
        for (dataset, _) in self.mounted() {
            wait_until("a dataset is free", || attempt("zfs", &["unmount", &dataset]).is_ok());
        }
        run(&engine, &["start"]);
    }
}

/// What the engine says of a container.
fn inspect(container: &str, what: &str) -> String {
    run("docker", &["inspect", "-f", &format!("{{{{{what}}}}}"), container])
}

#[test]
fn docker_on_zfs_from_a_projects_creation_over_a_restart_to_its_deletion() {
    let Some(place) = Place::new("VELO_TEST_IMAGE_DEBIAN") else { return };
    let home = &place.home;
    let project = home.json(&["project", "create", "api"]);
    assert_eq!((&project["storage"], &project["runtime"]), (&"zfs".into(), &"docker".into()));
    place.sql("api/main", "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    let dev = home.json(&["branch", "create", "api/dev"]);
    assert_eq!((&dev["cut"]["method"], &dev["state"]), (&"checkpoint".into(), &"running".into()));
    assert_eq!(place.sql("api/dev", "DELETE FROM t WHERE n > 1; SELECT count(*) FROM t"), "1");
    home.ok(&["branch", "reset", "api/dev"]);
    assert_eq!(place.sql("api/dev", "INSERT INTO t VALUES (0); SELECT count(*) FROM t"), "101");
    assert_eq!(place.sql("api/main", "SELECT count(*) FROM t"), "100");
    // ZFS has it mounted since it was looked at, which a container that starts now is not to see.
    home.ok(&["snapshot", "create", "api/dev@s"]);
    home.ok(&["branch", "restart", "api/dev"]);
    home.ok(&["snapshot", "delete", "api/dev@s"]);
    ends_with_its_holder(&place);

    let urls = ["api/main", "api/dev"].map(|branch| place.url(branch));
    place.restart_machine();
    comes_back_once_it_is_mounted(&place);
    comes_back_while_it_tries(&place);
    assert_eq!(["api/main", "api/dev"].map(|branch| place.url(branch)), urls);
    assert_eq!(place.sql("api/main", "SELECT count(*) FROM t"), "100");
    assert_eq!(place.sql("api/dev", "SELECT count(*) FROM t"), "101");

    home.ok(&["branch", "delete", "api/dev"]);
    home.ok(&["project", "delete", "api"]);
    assert_eq!(place.containers(), []);
    assert_eq!(place.mounted(), []);
}

/// A throwaway branch's container, when the command that holds it is killed.
fn ends_with_its_holder(place: &Place) {
    let mut command = place.home.command();
    command.args(["run", "api", "--", "sh", "-c", "echo held; sleep 600"]).process_group(0);
    let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut held = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
    assert_eq!((held.trim(), place.containers().len()), ("held", 3));
    holder.kill().unwrap();
    wait_until("the container ends with its holder", || place.containers().len() == 2);
    // The program that it ran.
    let group = Pid::from_raw(holder.id().try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    holder.wait().unwrap();
}

/// The usual case: the engine has tried for a while, in vain.
fn comes_back_once_it_is_mounted(place: &Place) {
    let container = place.container_of("dev");
    wait_until("the engine tries", || inspect(&container, ".State.Restarting") == "true");
    // While it tries, the engine tells nothing of that container, which may take longer than a look waits.
    wait_until("it is said that the server is started again and again", || {
        let dev = place.home.json(&["branch", "get", "api/dev"]);
        assert_ne!(dev["state"], "stopped", "the engine is at it: {dev}");
        dev["state"] == "restarting"
    });
    assert_eq!(place.mounted(), [], "nothing mounts it by itself");
    place.home.ok(&["branch", "start", "api/dev"]);
    assert_eq!(place.mounted().len(), 1);
}

/// A server of a moment ago, which does not know yet that it has no data: it is caught where it reads
/// its settings.
fn comes_back_while_it_tries(place: &Place) {
    let container = place.container_of("main");
    let volume = inspect(&container, "index .Config.Labels \"velo.volume\"");
    let settings = Path::new(&volume).join("postgresql.conf");
    run("mkfifo", &[settings.to_str().unwrap()]);
    // The next try would come, but maybe in a minute.
    let _ = attempt("docker", &["restart", "-t", "0", &container]);
    let mut caught = None;
    let mut writer = OpenOptions::new();
    // Which fails as long as nobody reads.
    writer.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    wait_until("a server reads its settings", || {
        caught = writer.open(&settings).ok();
        caught.is_some()
    });
    std::fs::remove_file(settings).unwrap();
    let mut start = place.home.command();
    let mut start = start.args(["branch", "start", "api/main"]).spawn().unwrap();
    wait_until("its data is mounted", || place.mounted().len() == 2);
    drop(caught);
    assert!(start.wait().unwrap().success());
}

/// As the official images of Alpine have it. In a short run other file systems answer for that, for this machine
/// is slow.
#[test]
fn docker_on_zfs_with_another_uid() {
    if std::env::var_os("VELO_TEST_LONG").is_none() {
        return;
    }
    let Some(place) = Place::new("VELO_TEST_IMAGE_ALPINE") else { return };
    let _stays = ENGINE.read();
    place.home.ok(&["project", "create", "api"]);
    place.sql("api/main", "CREATE TABLE t AS SELECT 1 AS n");
    let ran = place.home.ok(&["run", "api", "--", &place.psql, "-XAtqc", "TABLE t"]);
    assert_eq!(ran.trim(), "1");
    let volume = &place.mounted()[0].1;
    assert_eq!(run("stat", &["-c", "%u:%g", volume]), "70:70");
    place.home.ok(&["project", "delete", "api"]);
    assert_eq!(place.containers(), []);
}
