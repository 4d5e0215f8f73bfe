//! Real OpenZFS, where `VELO_TEST_ZFS` names a dataset to work below: in the machine that
//! `.ci/zfs-vm` boots.

use std::path::{Path, PathBuf};
use std::process::Command;

use velo_core::ConfigBuilder;
use velo_core::storage::{StorageConfig, StorageKind};

use super::home::TestHome;

/// A dataset to work below, and a folder for homes on another file system.
#[derive(Debug, Clone)]
pub struct Place {
    pub dataset: String,
    pub base: PathBuf,
}

/// `None` where there is no ZFS, which is no skip: `.ci/zfs-vm` runs these tests; nor for a user who
/// is not root, whom root's tests start.
pub fn place() -> Option<Place> {
    let dataset = std::env::var("VELO_TEST_ZFS").ok()?;
    let base = std::env::var_os("VELO_TEST_RIG").unwrap_or_else(|| "/var/tmp".into()).into();
    rustix::process::geteuid().is_root().then_some(Place { dataset, base })
}

/// Tests that take minutes each on an emulated machine: a short run has one of them, by the time of day. No two of
/// them look at the same, and what they look at seldom changes.
const IN_TURN: [&str; 4] = ["full pools", "standby", "hidden", "files"];

/// The same for one of those tests, `None` also where it is another's turn.
pub fn place_in_turn(name: &str) -> Option<Place> {
    let place = place()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let turn = IN_TURN[(now.as_secs() / 3600) as usize % IN_TURN.len()];
    assert!(IN_TURN.contains(&name), "{name} has no turn");
    let is_its = std::env::var_os("VELO_TEST_LONG").is_some() || turn == name;
    println!("{name}: {}", if is_its { "its turn" } else { "not its turn in a short run" });
    is_its.then_some(place)
}

impl Place {
    /// A folder for a home.
    pub fn folder(&self) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("velo.").tempdir_in(&self.base).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    pub fn config(&self, root: &Path) -> StorageConfig {
        StorageConfig::new(root).zfs_dataset(&self.dataset)
    }

    pub fn home(&self, settings: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> TestHome {
        let dataset = self.dataset.clone();
        TestHome::with(Some(&self.base), |builder| {
            settings(builder.storage(StorageKind::Zfs).zfs_dataset(dataset))
        })
    }

    /// A dataset of a test's own, which must be empty at the end.
    pub fn own(&self, options: &[&str]) -> Own {
        let name = format!("{}/{}", self.dataset, velo_core::Id::generate());
        run("zfs", &[&["create"], options, &[&name]].concat());
        Own { place: Self { dataset: name, ..self.clone() } }
    }
}

/// Destroys its dataset.
pub struct Own {
    pub place: Place,
}

impl Drop for Own {
    fn drop(&mut self) {
        let done = attempt("zfs", &["destroy", &self.place.dataset]);
        if let (Err(said), false) = (done, std::thread::panicking()) {
            panic!("something is left below {}: {said}", self.place.dataset);
        }
    }
}

/// Runs a program to its end, and gives what it printed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    attempt(program, args).unwrap_or_else(|said| panic!("{program} {args:?}: {said}"))
}

#[allow(clippy::disallowed_methods)]
pub fn attempt(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).env("LC_ALL", "C").output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
