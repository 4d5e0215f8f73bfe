//! Where operations are tried: a storage and a runtime, and what is in them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::common::whole::{names, processes};
use super::common::{Home, client, eventually};
use super::library::KEPT;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    Btrfs,
    Reflink,
    Copy,
    Zfs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    Process,
    Docker { engine: String, image: String },
}

#[derive(Debug, Clone)]
pub struct Place {
    pub storage: Storage,
    pub runtime: Runtime,
    /// The folder for homes.
    base: PathBuf,
    /// On ZFS, the dataset of volumes.
    dataset: Option<String>,
}

fn zfs(args: &[&str]) -> String {
    let output = Command::new("zfs").args(args).output().unwrap();
    assert!(output.status.success(), "zfs {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Place {
    /// Processes on folders of `base`.
    pub fn new(storage: Storage, base: PathBuf) -> Self {
        Self { storage, runtime: Runtime::Process, base, dataset: None }
    }

    /// Containers of the engine at the URL `engine`.
    pub fn with_containers(self, engine: String, image: String) -> Self {
        Self { runtime: Runtime::Docker { engine, image }, ..self }
    }

    /// Processes on a dataset of its own, below `parent`, with homes in `base`.
    pub fn on_zfs(parent: &str, base: PathBuf) -> Self {
        let dataset = format!("{parent}/faults-{}", std::process::id());
        zfs(&["create", &dataset]);
        Self { dataset: Some(dataset), ..Self::new(Storage::Zfs, base) }
    }

    /// Takes away what [`on_zfs`](Self::on_zfs) made, once no home is left in it.
    pub fn end(&self) {
        if let Some(dataset) = &self.dataset {
            zfs(&["destroy", dataset]);
        }
    }

    pub fn name(&self) -> &'static str {
        match (self.storage, &self.runtime) {
            (Storage::Btrfs, Runtime::Docker { .. }) => "docker on btrfs",
            (_, Runtime::Docker { .. }) => "docker",
            (Storage::Btrfs, _) => "btrfs",
            (Storage::Reflink, _) => "reflink",
            (Storage::Copy, _) => "copy",
            (Storage::Zfs, _) => "zfs",
        }
    }

    /// A home whose projects are all of this kind.
    pub fn home(&self) -> Home {
        let home = Home::under(&self.base);
        let mut settings = match self.storage {
            Storage::Btrfs => "storage = \"btrfs\"\n",
            Storage::Reflink => "storage = \"reflink\"\n",
            Storage::Copy => "storage = \"copy\"\n",
            Storage::Zfs => "storage = \"zfs\"\nstart_timeout = 600\n",
        }
        .to_owned();
        if let Some(dataset) = &self.dataset {
            // Nothing is on PATH in the machine with ZFS.
            let client = client();
            let bin = client.parent().unwrap().display();
            settings += &format!("zfs_dataset = \"{dataset}\"\npg_bin = \"{bin}\"\n");
        }
        if let Runtime::Docker { image, .. } = &self.runtime {
            settings += &format!("runtime = \"docker\"\nimage = \"{image}\"\n");
        }
        std::fs::write(home.dir().join("velo.toml"), settings).unwrap();
        home
    }

    /// Volumes, snapshots and containers are those of these branches, and nothing else runs.
    #[track_caller]
    pub fn agrees(&self, home: &Home, branches: &[Value], named: usize, what: &str) {
        let running = branches.iter().filter(|b| b["state"] == "running").count();
        let volumes = home.path().join("volumes");
        // A process that ends may still be there for a moment.
        let mut working = BTreeSet::new();
        let all_run = || {
            working = processes(&volumes).into_iter().map(|(_, volume)| volume).collect();
            working.len() == running
        };
        assert!(eventually(all_run), "{what}: {working:?} run in {volumes:?}: {branches:?}");
        if let Runtime::Docker { engine, .. } = &self.runtime {
            let containers = containers(engine, home.path());
            assert_eq!(containers.len(), running, "{what}: {containers:?}");
        }
        match &self.dataset {
            Some(dataset) => {
                let list = zfs(&["list", "-H", "-o", "name", "-t", "filesystem", "-r", dataset]);
                let there = list.lines().filter(|name| name.contains("/v-")).count();
                let hidden = home.json(&["status"])["hidden"].as_u64().unwrap() as usize;
                let needed = branches.len()..=branches.len() + hidden;
                assert!(needed.contains(&there), "{what}: {list}");
                if branches.len() == 1 && named == 0 {
                    assert_eq!(hidden, 0, "{what}: {list}");
                    let snapshots =
                        zfs(&["list", "-H", "-o", "name", "-t", "snapshot", "-r", dataset]);
                    assert_eq!(snapshots, "", "{what}");
                }
            }
            None => {
                let volumes = names(home, "volumes");
                assert_eq!(volumes.len(), branches.len(), "{what}: {volumes:?}");
                let has_origin = |branch: &&Value| {
                    let kept = branch["name"] == format!("api/{KEPT}");
                    branch["parent"].is_string() && branch["storage"] != "copy" && !kept
                };
                let origins = branches.iter().filter(has_origin).count();
                let there = names(home, "snapshots");
                assert_eq!(there.len(), named + origins, "{what}: {there:?}");
            }
        }
    }
}

/// The names of a home's containers, whether they run or not.
pub fn containers(engine: &str, home: &Path) -> Vec<String> {
    let filter = format!("{{\"label\":[\"velo.home={}\"]}}", home.display());
    let filter = filter.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let found = ask(engine, "GET", &format!("/containers/json?all=1&filters={filter}"), "");
    let name = |found: &Value| found["Names"][0].as_str().unwrap().to_owned();
    found.as_array().unwrap().iter().map(name).collect()
}

/// What an engine answers, by the oldest protocol, which says all in one piece.
pub fn ask(engine: &str, verb: &str, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(engine.trim_start_matches("unix://")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{verb} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 20"), "{verb} {path}: {answer}");
    serde_json::from_str(body).unwrap_or_default()
}
