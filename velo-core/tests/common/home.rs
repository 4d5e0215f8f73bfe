//! A home of a test's own, which leaves nothing behind.

use std::path::{Path, PathBuf};

use velo_core::{Config, Project};

/// Where folders of tests are made: in `VELO_TEST_DIR`, a folder of the test command's, else in the system's for larger
/// temporary files.
pub fn base() -> PathBuf {
    std::env::var_os("VELO_TEST_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// A home in a temporary folder; what it holds is deleted on drop, also after a panic.
pub struct TestHome {
    dir: Option<tempfile::TempDir>,
    config: Config,
}

impl TestHome {
    /// A home under this base, or where folders of tests are made.
    pub fn new(base: Option<&Path>) -> Self {
        Self::with(base, |builder| builder)
    }

    pub fn with(
        base: Option<&Path>,
        settings: impl FnOnce(velo_core::ConfigBuilder) -> velo_core::ConfigBuilder,
    ) -> Self {
        let base = base.map_or_else(self::base, Path::to_path_buf);
        let dir =
            tempfile::Builder::new().prefix("velo.").tempdir_in(base).expect("temporary folder");
        // As root, servers run as another user, who must be able to pass.
        open_to_all(dir.path());
        let home = dir.path().join("h");
        let config = settings(Config::builder().home(home)).build().expect("settings");
        Self { dir: Some(dir), config }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A new project in it.
    pub async fn project(&self, name: &str) -> Project {
        Project::builder(name).config(self.config.clone()).create().await.expect("create a project")
    }

    /// Deletes every project, and checks that nothing of Velo's is left: no server, no volume, no
    /// snapshot, no file of a server.
    fn clear(&self) {
        for info in velo_core::blocking::Project::list(&self.config).expect("list projects") {
            velo_core::blocking::Project::builder(info.name.as_str())
                .config(self.config.clone())
                .open()
                .and_then(|project| project.delete(true))
                .expect("delete a project");
        }
    }

    /// What is left of branches and snapshots on disk.
    pub fn left(&self) -> Vec<PathBuf> {
        ["volumes", "snapshots", "run"]
            .iter()
            .filter_map(|name| std::fs::read_dir(self.config.home().join(name)).ok())
            .flatten()
            .map(|entry| entry.expect("entry").path())
            .collect()
    }

    /// How many volumes are worked in.
    pub fn servers_of_branches(&self) -> usize {
        let folder = |pid: u32| std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let folders: std::collections::BTreeSet<_> =
            self.servers().into_iter().filter_map(folder).collect();
        folders.len()
    }

    /// The processes that work in the home.
    pub fn servers(&self) -> Vec<u32> {
        servers_in(self.config.home())
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let cleared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.clear();
            // A handle that was dropped a moment ago may still be discarding its branch.
            let gone = eventually(std::time::Duration::from_secs(30), || {
                self.left().is_empty() && self.servers().is_empty()
            });
            assert!(gone, "left behind: {:?}, servers {:?}", self.left(), self.servers());
        }));
        drop(self.dir.take());
        if let (Err(panic), false) = (cleared, failed) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The processes whose working folder is under `dir`.
pub fn servers_in(dir: &Path) -> Vec<u32> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&dir))
        })
        .collect()
}

/// Polls `condition` until it holds, at most `limit`.
pub fn eventually(limit: std::time::Duration, mut condition: impl FnMut() -> bool) -> bool {
    let (begun, limit) = (std::time::Instant::now(), super::scaled(limit));
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}
