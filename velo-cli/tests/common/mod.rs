//! A home of its own for each test, and the command in it.
#![allow(dead_code, unreachable_pub)] // each test file uses some of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod whole;

/// How long something may take that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// The number of the user nobody, and of its group.
pub const NOBODY: u32 = 65_534;

/// A home that is deleted with every project in it, after a panic too.
pub struct Home {
    dir: tempfile::TempDir,
    home: PathBuf,
}

/// What a run of the command gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Copies a program that is to be run. Another one does it: a child that some other test starts at that moment
/// would hold a file of this process's open for writing, and what is open so cannot be run.
#[allow(clippy::disallowed_methods)]
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} cannot be copied", from.display());
}

pub fn program() -> PathBuf {
    std::env::var_os("VELO_TEST_VELO")
        .map_or_else(|| env!("CARGO_BIN_EXE_velo").into(), PathBuf::from)
}

/// A folder that the servers' user can pass, with a path short enough for sockets.
pub fn folder(base: &Path) -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("velo-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(base)
        .unwrap();
    // Whatever the umask is.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Where folders of tests are made: in `VELO_TEST_DIR`, a folder of the test command's, else where it is no memory
/// and paths are short.
pub fn base() -> PathBuf {
    std::env::var_os("VELO_TEST_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

impl Home {
    pub fn new() -> Self {
        Self::under(&base())
    }

    /// On btrfs where the test command has made one.
    pub fn on_btrfs() -> Self {
        Self::under(&std::env::var_os("VELO_TEST_BTRFS").map_or_else(base, PathBuf::from))
    }

    pub fn under(base: &Path) -> Self {
        let dir = folder(base);
        std::fs::write(dir.path().join("velo.toml"), "").unwrap();
        let home = dir.path().join("h");
        Self { dir, home }
    }

    /// This folder as a home, which somebody else removes.
    pub fn in_folder(home: &Path) -> Self {
        let mut new = Self::new();
        new.home = home.to_path_buf();
        new
    }

    /// A home with the project `api`.
    pub fn with_project() -> Self {
        let home = Self::new();
        home.ok(&["project", "create", "api"]);
        home
    }

    pub fn path(&self) -> &Path {
        &self.home
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command with nothing of this process's settings but where PostgreSQL is.
    pub fn command(&self) -> Command {
        self.command_of(&program())
    }

    /// The command, about to be run with these words.
    pub fn command_with(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        command.args(args);
        command
    }

    /// The same for another program that works on the home.
    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            let kept = ["VELO_PG_BIN", "VELO_PG_VERSION", "VELO_STORAGE", "VELO_USER"];
            if (name.starts_with("VELO_") || name.starts_with("PG"))
                && !kept.contains(&name.as_ref())
            {
                command.env_remove(&key);
            }
        }
        command
            .env("VELO_HOME", &self.home)
            .env("VELO_CACHE", self.dir.path().join("cache"))
            .env("VELO_CONFIG", self.dir.path().join("velo.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// The same as the user nobody, for root: a copy of the program where everybody can run it.
    pub fn command_as_nobody(&self, program: &Path) -> Command {
        let mut command = self.command_of(Path::new("setpriv"));
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]).arg(program);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, |_| {})
    }

    pub fn run_with(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Ran {
        let mut command = self.command_with(args);
        change(&mut command);
        command.output().unwrap().into()
    }

    /// Runs it, and it must be done.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "velo {args:?}: {ran:?}");
        ran.stdout
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("velo {args:?}: {e}: {text}"))
    }

    /// The JSON of a command that ends with this code.
    #[track_caller]
    pub fn json_of(&self, args: &[&str], code: i32) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let ran = self.run(&all);
        assert_eq!(ran.code, code, "velo {args:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Runs it, and it must fail with this code, one line that has `part` in it, and a hint.
    #[track_caller]
    pub fn fails(&self, args: &[&str], code: i32, part: &str) {
        self.fails_with(args, code, part, |_| {});
    }

    #[track_caller]
    pub fn fails_with(
        &self,
        args: &[&str],
        code: i32,
        part: &str,
        change: impl FnOnce(&mut Command),
    ) {
        self.run_with(args, change).is_error(code, part);
    }

    /// The output of an SQL query on a branch, by psql through `velo branch url`.
    #[track_caller]
    pub fn sql(&self, branch: &str, query: &str) -> String {
        let url = self.ok(&["branch", "url", branch]);
        psql(url.trim(), query)
    }

    /// Every branch's full name, as `branch list --json` gives them.
    #[track_caller]
    pub fn branches(&self) -> Vec<String> {
        let list = self.json(&["branch", "list"]);
        let names = list.as_array().unwrap().iter();
        names.map(|b| b["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What is on disk: the names of volumes and snapshots, and the branches with their states.
    #[track_caller]
    pub fn everything(&self) -> String {
        let list = |name: &str| {
            let mut names: Vec<_> = std::fs::read_dir(self.home.join(name))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().file_name())
                .filter(|name| !name.to_string_lossy().starts_with(".gone-"))
                .collect();
            names.sort();
            format!("{names:?}")
        };
        let (volumes, snapshots) = (list("volumes"), list("snapshots"));
        let run = self.json(&["branch", "list"]);
        format!("{volumes}\n{snapshots}\n{run}")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let delete = || {
            let projects: Value =
                serde_json::from_str(&self.run(&["project", "list", "--json"]).stdout).ok()?;
            for project in projects.as_array()? {
                let name = project["name"].as_str()?;
                let ran = self.run(&["project", "delete", name, "--force"]);
                if ran.code != 0 {
                    eprintln!("cannot delete {name}: {ran:?}");
                }
            }
            Some(())
        };
        if self.home.join("state.db").exists() && delete().is_none() {
            eprintln!("cannot list what to delete in {}", self.home.display());
        }
        // Last: a server whose data a test has hidden from Velo.
        kill_servers_in(&self.home.join("volumes"));
    }
}

fn kill_servers_in(volumes: &Path) {
    for entry in std::fs::read_dir(volumes).into_iter().flatten().flatten() {
        let pid = std::fs::read_to_string(entry.path().join("postmaster.pid"));
        let pid = pid.ok().and_then(|t| t.lines().next()?.parse::<i32>().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let cwd = format!("/proc/{}/cwd", pid.as_raw_nonzero());
            if std::fs::read_link(cwd).is_ok_and(|cwd| cwd == entry.path()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map(|s| -s);
        Self {
            code: output.status.code().or(signal).unwrap(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// It must have failed with this code, one line that has `part` in it, and a hint.
    #[track_caller]
    pub fn is_error(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "not an error and a hint: {self:?}");
        assert!(lines[0].starts_with("error: "), "{self:?}");
        assert!(lines[0].contains(part), "{part:?} is not in {self:?}");
        assert!(lines[1].starts_with("hint: "), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }

    /// The same with `--json`: nothing but the error is told, however far it had come.
    #[track_caller]
    pub fn is_json_error(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let told: Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|e| panic!("no error in JSON alone: {e}: {self:?}"));
        let error = &told["error"];
        assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {self:?}");
        assert!(error["hint"].is_string(), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// The output of a query.
#[track_caller]
pub fn psql(url: &str, query: &str) -> String {
    try_psql(url, query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// The output of a query, or what psql said instead.
pub fn try_psql(url: &str, query: &str) -> Result<String, String> {
    let output = Command::new(client())
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query, url])
        .stdin(Stdio::null())
        .output()
        .expect("psql must be there");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The newest `psql` of the rig, or else the one on `PATH`.
pub fn client() -> PathBuf {
    let bins = std::env::var("VELO_TEST_PG").unwrap_or_default();
    let newest = bins.split_whitespace().last().and_then(|pair| pair.split_once('='));
    newest.map_or_else(|| "psql".into(), |(_, bin)| Path::new(bin).join("psql"))
}

/// Whether a server lets clients in.
pub fn answers(url: &str) -> bool {
    try_psql(url, "SELECT 1").is_ok()
}

/// [`LIMIT`], longer on a machine that `VELO_TEST_SLOW` calls so many times slower.
fn limit() -> Duration {
    let slow = std::env::var("VELO_TEST_SLOW").ok().and_then(|text| text.parse::<u32>().ok());
    LIMIT * slow.unwrap_or(1).max(1)
}

/// Waits until `done`, at most as long as [`limit`] says.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    assert!(eventually(&mut done), "not within {:?}: {what}", limit());
}

/// Whether it is `done` within [`limit`].
pub fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let (begun, limit) = (Instant::now(), limit());
    while !done() {
        if begun.elapsed() > limit {
            return false;
        }
        // A poll, bounded: nothing tells what is waited for.
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A folder that the test command has made, or `None` with a loud line. `VELO_TEST_REQUIRE=1` makes
/// its absence a failure.
pub fn prepared(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        assert!(
            std::env::var_os("VELO_TEST_REQUIRE").is_none_or(|v| v != "1"),
            "{variable} is not set, and VELO_TEST_REQUIRE is"
        );
        eprintln!("SKIP: {variable} names no folder");
    }
    folder
}

/// The engine to test with and an image; `None`, said loudly, where there is none for this user.
pub fn engine() -> Option<(String, String)> {
    let why = match (std::env::var("VELO_TEST_DOCKER"), std::env::var("VELO_TEST_IMAGE_DEBIAN")) {
        (Ok(url), Ok(image)) => {
            let socket = url.trim_start_matches("unix://").to_owned();
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(_) => return Some((url, image)),
                Err(error) => format!("{socket} is not for this user: {error}"),
            }
        }
        _ => "VELO_TEST_DOCKER or VELO_TEST_IMAGE_DEBIAN is not set".to_owned(),
    };
    let required = std::env::var_os("VELO_TEST_REQUIRE").is_some_and(|v| v == "1");
    assert!(!required, "{why}, and VELO_TEST_REQUIRE=1");
    // Past the macro, whose output the harness may swallow.
    let _ = writeln!(std::io::stderr(), "SKIP: {why}");
    None
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
