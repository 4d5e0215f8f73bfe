//! An engine that hangs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Home, Ran, base, folder, wait_until};
use crate::image;

/// An engine that takes connections and answers none, or says what it is and nothing else, until it is
/// dropped.
struct Hung {
    dir: tempfile::TempDir,
    asked: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hung {
    fn new(says_what_it_is: bool) -> Self {
        let dir = folder(&base());
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, end) = (asked.clone(), dir.path().join("end"));
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                if end.exists() {
                    break;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let mut stream = stream.unwrap();
                let mut asked = String::new();
                if says_what_it_is
                    && BufReader::new(&stream).read_line(&mut asked).is_ok()
                    && asked.contains("/_ping")
                {
                    const PONG: &[u8] = b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\
                                          Server: Docker/20.10.24 (linux)\r\n\r\nOK";
                    let _ = stream.write_all(PONG);
                } else {
                    held.push(stream);
                }
            }
        });
        // Whoever runs the command is to reach it.
        std::fs::set_permissions(dir.path().join("s"), PermissionsExt::from_mode(0o666)).unwrap();
        Self { dir, asked, thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Runs the command with this engine: what it gave, how long it took, and how often it asked.
    fn run(&self, home: &Home, args: &[&str]) -> (Ran, Duration, usize) {
        let (before, begun) = (self.asked.load(Ordering::SeqCst), Instant::now());
        let ran = home.run_with(args, |command| {
            command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        });
        (ran, begun.elapsed(), self.asked.load(Ordering::SeqCst) - before)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        std::fs::write(self.dir.path().join("end"), "").unwrap();
        drop(UnixStream::connect(self.socket()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// An engine that hangs is asked once, for a few seconds, however many branches there are.
#[test]
fn docker_that_hangs_is_asked_once_and_said() {
    let Some(image) = image() else { return };
    let home = Home::new();
    for project in ["boxed", "other"] {
        home.ok(&["project", "create", project, "--image", &image]);
    }
    home.ok(&["branch", "create", "boxed/dev"]);
    home.ok(&["branch", "create", "boxed/test", "--stopped"]);
    home.ok(&["project", "create", "api", "--runtime", "process"]);
    let hung = Hung::new(false);
    let socket = hung.socket().display().to_string();
    let soon = Duration::from_secs(20);

    let (list, took, asked) = hung.run(&home, &["branch", "list"]);
    assert_eq!((list.code, asked), (0, 1), "{list:?}");
    assert!(took < soon, "{took:?}");
    assert_eq!(list.stdout.matches("unknown").count(), 4, "{list:?}");
    assert_eq!(list.stdout.matches("running").count(), 1, "{list:?}");
    assert_eq!(list.stderr.matches(&socket).count(), 1, "{list:?}");
    assert!(list.stderr.contains("does not answer within"), "{list:?}");

    let (list, took, asked) = hung.run(&home, &["branch", "list", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    assert!(asked == 1 && took < soon, "{asked} {took:?}");
    for branch in shown.as_array().unwrap() {
        let problem = branch["problem"].as_str();
        assert_eq!(branch["state"] == "unknown", problem.is_some(), "{branch}");
        assert!(problem.is_none_or(|text| text.contains(&socket)), "{branch}");
    }
    let (status, took, asked) = hung.run(&home, &["status"]);
    assert!(status.code == 0 && asked == 1 && took < soon, "{asked} {took:?} {status:?}");
    assert!(status.stdout.contains("4 unknown"), "{status:?}");
    assert!(status.stderr.contains("does not answer within"), "{status:?}");
    // It asks for several things, and waits for none of them long.
    let (doctor, took, _) = hung.run(&home, &["doctor"]);
    assert!(doctor.code == 1 && took < 2 * soon, "{took:?} {doctor:?}");
    assert!(doctor.stdout.contains("does not answer within"), "{doctor:?}");
    let (start, took, _) = hung.run(&home, &["branch", "start", "boxed/dev"]);
    assert!(start.code == 1 && took < 2 * soon, "{took:?} {start:?}");
    assert!(start.stderr.contains("does not answer within"), "{start:?}");
    assert_eq!(home.sql("boxed/main", "SELECT 1"), "1");
}

/// One that is there, and hangs on a container that a dead process left: whoever opens the home does not wait
/// for it, and what was left is done when the engine answers again.
#[test]
fn docker_that_hangs_on_the_dead_keeps_nobody() {
    let Some(image) = image() else { return };
    let home = Home::new();
    home.ok(&["project", "create", "boxed", "--image", &image]);
    home.ok(&["project", "create", "api", "--runtime", "process"]);
    for _ in 0..3 {
        let mut command =
            home.command_with(&["run", "boxed", "--", "sh", "-c", "echo held; read x"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut held = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
        assert_eq!(held.trim(), "held");
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    let hung = Hung::new(true);
    let soon = Duration::from_secs(30);
    for args in [&["branch", "create", "api/dev"][..], &["project", "list"], &["status"]] {
        let (ran, took, _) = hung.run(&home, args);
        assert!(ran.code == 0 && took < soon, "{args:?}: {took:?} {ran:?}");
        assert_eq!(ran.stderr.matches("stays for now").count(), 1, "{ran:?}");
    }
    let (doctor, took, _) = hung.run(&home, &["doctor"]);
    assert!(doctor.code == 1 && took < 2 * soon, "{took:?} {doctor:?}");
    assert!(doctor.stdout.contains("does not answer within"), "{doctor:?}");
    drop(hung);
    wait_until("the next command finishes it", || {
        let mut left = home.branches();
        left.sort();
        left == ["api/dev", "api/main", "boxed/main"]
    });
    assert_eq!(home.sql("boxed/main", "SELECT 1"), "1");
}
