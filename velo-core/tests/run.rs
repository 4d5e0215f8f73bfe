//! The processes of a run draw on one pool, which their keeper holds: no test sees another's data, and
//! nothing is left, whoever is killed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::client::{attempt, sql};
use common::home::{TestHome, eventually};
use rustix::process::{Pid, Signal};
use velo_core::{Branch, BranchSpec, Config, Project, ResetTarget, Seed, SeedKey, State};

const LONG: Duration = Duration::from_secs(60);

async fn seed(project: &Project) -> Seed {
    let key = SeedKey::new().code("tests/run.rs").label("run");
    let build = async |branch: Branch| {
        let fill = "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x";
        attempt(&branch.url(), fill).await.map(drop)
    };
    project.seed(key, build).await.unwrap()
}

// -------------------------------------------------------------------------------------------- a worker

const HOME: &str = "VELO_TEST_RUN_HOME";
/// A worker with this does nothing until it is told to.
const BEGINS_LATE: &str = "VELO_TEST_RUN_BEGINS_LATE";

/// No test but where another one starts it, as a process of a run: it does what it is told, line by line,
/// and says what came of it.
#[tokio::test]
async fn works() {
    let Ok(home) = std::env::var(HOME) else { return };
    if std::env::var_os(BEGINS_LATE).is_some() {
        println!("said begun");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    let config = Config::builder().home(&home).build().unwrap();
    let project = Project::builder("run").config(config).open().await.unwrap();
    let pool = seed(&project).await.pool().unwrap();
    let mut branches: Vec<Branch> = Vec::new();
    for line in std::io::stdin().lines() {
        let said = match line.unwrap().as_str() {
            "acquire" => match pool.acquire().await {
                Ok(branch) => {
                    let count = sql(&branch, "SELECT count(*) FROM t").await;
                    assert_eq!(count, "1000", "somebody else's");
                    sql(&branch, "DELETE FROM t").await;
                    branches.push(branch);
                    branches.last().unwrap().url()
                }
                Err(error) => format!("error: {error}"),
            },
            "close" => {
                branches.pop().unwrap().close().await.unwrap();
                "closed".to_owned()
            }
            "drop" => {
                branches.pop();
                "dropped".to_owned()
            }
            "keep" => {
                branches.last().unwrap().keep_as("kept").await.unwrap();
                "kept".to_owned()
            }
            "keep ready" => said(pool.keep_ready(2, 2).await.map(|()| "kept ready")),
            "wanted" => said(pool.info().await.map(|info| info.wanted.to_string())),
            "keep failed" => {
                let kept = branches.last().unwrap().keep_failed(LONG).await;
                said(kept.map(|stays| stays.to_string()))
            }
            "fork" => fork(),
            "reset" => said(branches.last().unwrap().reset().await.map(|()| "reset")),
            // Until the keeper goes.
            "reset for ever" => loop {
                if let Err(error) = branches.last().unwrap().reset().await {
                    break error.to_string();
                }
            },
            "reset a little" => {
                for limit in [0, 1, 2, 5, 10, 15, 20, 25, 30, 40, 60, 100] {
                    let limit = Duration::from_millis(limit);
                    let _ = tokio::time::timeout(limit, branches.last().unwrap().reset()).await;
                }
                "reset a little".to_owned()
            }
            "reset to @little" => {
                let target = ResetTarget::Snapshot("little".into());
                said(branches.last().unwrap().reset_to(target).await.map(|()| "reset"))
            }
            "reset to @nothing" => {
                let target = ResetTarget::Snapshot("nothing".into());
                said(branches.last().unwrap().reset_to(target).await.map(|()| "reset"))
            }
            "restart" => said(branches.last().unwrap().restart().await.map(|()| "restarted")),
            "start" => said(branches.last().unwrap().start().await.map(|()| "started")),
            "stop" => said(branches.last().unwrap().stop().await.map(|()| "stopped")),
            "snapshot" => {
                said(branches.last().unwrap().snapshot("little").await.map(|s| s.name().to_owned()))
            }
            "outgoing" => {
                said(branches.last().unwrap().outgoing().await.map(|all| format!("{all:?}")))
            }
            "steps" => {
                let timings = branches.last().unwrap().timings();
                timings.steps.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other}"),
        };
        println!("said {said}");
    }
}

/// Starts a process as `multiprocessing` and daemons do. It lives until its standard input ends, which is this one's
/// too: whoever has it forked says nothing more.
fn fork() -> String {
    // SAFETY: the child makes calls alone that are safe in it, and leaves without running destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut byte = [0_u8; 1];
        // SAFETY: the buffer has room for the one byte.
        while unsafe { libc::read(0, byte.as_mut_ptr().cast(), 1) } > 0 {}
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    child.to_string()
}

/// No test but where another one starts it: it starts a worker by a runner, kills that, and takes the worker over.
#[test]
fn takes_over() {
    if std::env::var_os(BEGINS_LATE).is_none() {
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut runner = Command::new("sh")
        .args(["-c", "exec 3<&0; \"$0\" --exact works --nocapture <&3 3<&- & wait"])
        .arg(std::env::current_exe().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(runner.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.ends_with("said begun") {
            runner.kill().unwrap();
            runner.wait().unwrap();
        }
        println!("{line}");
    }
    runner.wait().unwrap();
}

fn said(result: velo_core::Result<impl Into<String>>) -> String {
    result.map_or_else(|error| format!("{}: {error}", error.kind()), Into::into)
}

struct Worker {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Worker {
    /// One that is told what to do by its standard input.
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.to.as_mut().unwrap(), "{what}").unwrap();
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        let mut all = String::new();
        while self.from.read_line(&mut all).unwrap() > 0 {
            let line = all.lines().next_back().unwrap();
            if let Some((_, said)) = line.split_once("said ") {
                return said.to_owned();
            }
        }
        panic!("it has ended: {:?}\n{all}", self.child.wait());
    }

    #[track_caller]
    fn does(&mut self, what: &str) -> String {
        self.tell(what);
        self.hear()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends well.
    fn end(mut self) {
        drop(self.to.take());
        let mut rest = String::new();
        self.from.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

// ---------------------------------------------------------------------------------------------- a run

/// A worker that nobody started who lives: whoever takes it over is not the root of a run.
fn orphan(home: &TestHome) -> Worker {
    let own = std::env::current_exe().unwrap();
    // It begins when the shell has ended.
    let begin = "{ read -r go; exec \"$0\" --exact works --nocapture; } <&3 3<&- &";
    let mut worker = Worker::spawn(
        Command::new("setsid")
            .args(["sh", "-c", &format!("exec 3<&0; {begin}")])
            .arg(own)
            .env(HOME, home.config().home())
            .env("VELO_RUN", "a test")
            .env_remove("VELO_RUN_ROOT"),
    );
    assert!(worker.child.wait().unwrap().success());
    worker.tell("go");
    worker
}

/// A worker whose runner is killed before it asks for anything. What takes it over is of its session, as the first process
/// of a container is.
fn taken_over(home: &TestHome) -> Worker {
    let mut worker = Worker::spawn(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "takes_over", "--nocapture"])
            .env(HOME, home.config().home())
            .env(BEGINS_LATE, "1")
            .env("VELO_RUN", "a test")
            .env_remove("VELO_RUN_ROOT"),
    );
    assert_eq!(worker.hear(), "begun");
    worker.tell("go");
    worker
}

/// A run, whose root is a process that does nothing.
struct Run {
    home: TestHome,
    root: Child,
}

impl Run {
    async fn new() -> (Self, Project) {
        let home = TestHome::new(None);
        let project = home.project("run").await;
        seed(&project).await;
        let root = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        (Self { home, root }, project)
    }

    fn worker(&self) -> Worker {
        Worker::spawn(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "works", "--nocapture"])
                .env(HOME, self.home.config().home())
                .env("VELO_RUN", "a test")
                .env("VELO_RUN_ROOT", self.root.id().to_string()),
        )
    }

    /// The keepers of the home, by what they are started for.
    fn keepers(&self) -> Vec<i32> {
        let home = self.home.config().home().to_str().unwrap().to_owned();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_keeper = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environ.split(|b| *b == 0).map(String::from_utf8_lossy);
            variables.any(|v| v.starts_with("VELO_KEEPER=") && v.contains(&home))
        };
        let keepers: Vec<i32> = pids.filter(is_keeper).collect();
        // What one of them starts has its environment until it is another program.
        keepers.iter().copied().filter(|pid| !keepers.contains(&parent(*pid))).collect()
    }

    /// Ends it as a kill of its root does; nothing but `main` and the seed is left.
    #[track_caller]
    fn is_killed(&mut self) {
        self.root.kill().unwrap();
        self.root.wait().unwrap();
        self.is_over();
    }

    #[track_caller]
    fn is_over(&self) {
        let begun = std::time::Instant::now();
        let over = || {
            self.keepers().is_empty()
                && self.home.servers_of_branches() == 1
                && self.home.left().len() == 3
        };
        assert!(
            eventually(LONG, over),
            "keepers {:?}, servers {}, {:?}",
            self.keepers(),
            self.home.servers_of_branches(),
            self.home.left()
        );
        println!("what a run had is gone after {} ms", begun.elapsed().as_millis());
        let keepers = self.home.config().home().join("keepers");
        let left: Vec<_> = std::fs::read_dir(keepers).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.root.kill();
        let _ = self.root.wait();
        let _ = eventually(LONG, || self.keepers().is_empty());
    }
}

/// The process that a process was started by, or 0 when it has ended.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().nth(1));
    after.flatten().map_or(0, |parent| parent.parse().unwrap())
}

fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a branch takes no connection any more.
async fn is_gone(url: &str) -> bool {
    let begun = std::time::Instant::now();
    while attempt(url, "SELECT 1").await.is_ok() {
        if begun.elapsed() > common::scaled(Duration::from_secs(10)) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("what a process had is gone after {} ms", begun.elapsed().as_millis());
    true
}

#[tokio::test]
async fn eight_processes_have_one_pool_and_nothing_of_each_other() {
    let (mut run, _project) = Run::new().await;
    let mut workers: Vec<Worker> = (0..8).map(|_| run.worker()).collect();
    let mut urls = BTreeSet::new();
    for round in 0..3 {
        workers.iter_mut().for_each(|worker| worker.tell("acquire"));
        for worker in &mut workers {
            let url = worker.hear();
            assert!(url.starts_with("postgres"), "{url}");
            urls.insert(url);
        }
        let what = ["close", "drop", "drop"][round];
        workers.iter_mut().for_each(|worker| assert!(worker.does(what).ends_with("ed")));
    }
    assert_eq!(run.keepers().len(), 1);
    assert!(urls.len() >= 8, "{urls:?}");
    workers.into_iter().for_each(Worker::end);
    run.is_killed();
}

#[tokio::test]
async fn what_a_killed_process_had_goes_and_the_others_go_on() {
    let (mut run, _project) = Run::new().await;
    let (mut one, mut other) = (run.worker(), run.worker());
    let url = one.does("acquire");
    let others = other.does("acquire");
    assert_ne!(url, others);
    one.kill();
    assert!(is_gone(&url).await, "it lives on");
    assert_eq!(attempt(&others, "SELECT count(*) FROM t").await.unwrap(), "0");
    assert_eq!(other.does("close"), "closed");
    // The run is over while somebody still has a branch.
    other.does("acquire");
    run.is_killed();
    other.kill();
}

#[tokio::test]
async fn a_run_that_is_over_gives_no_branch() {
    let (mut run, _project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    assert!(url.starts_with("postgres"), "{url}");
    // As long as nobody has waited for it, its process is in the list.
    run.root.kill().unwrap();
    assert!(eventually(LONG, || run.keepers().is_empty()), "{:?}", run.keepers());
    for is_waited_for in [false, true] {
        if is_waited_for {
            run.root.wait().unwrap();
        }
        let told = worker.does("acquire");
        assert!(told.contains("the run that this process is of has ended"), "{told}");
    }
    // Nor did anybody begin to start another keeper.
    run.is_over();
    worker.kill();
}

#[tokio::test]
async fn what_a_killed_process_had_goes_although_one_that_it_forked_lives() {
    let (mut run, _project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    let child: i32 = worker.does("fork").parse().unwrap();
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    assert!(is_gone(&url).await, "it lives on");
    let child = Pid::from_raw(child).unwrap();
    rustix::process::test_kill_process(child).expect("the forked one lives");
    // It ends with its input.
    drop(worker);
    run.is_killed();
}

#[tokio::test]
async fn a_killed_keeper_takes_its_servers_along_and_another_comes() {
    let (mut run, project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    let [keeper] = run.keepers()[..] else { panic!("{:?}", run.keepers()) };
    let begun = std::time::Instant::now();
    kill(keeper);
    assert!(
        eventually(Duration::from_secs(10), || run.home.servers_of_branches() == 1),
        "{}",
        run.home.servers_of_branches()
    );
    println!("what a keeper had is gone after {} ms", begun.elapsed().as_millis());
    assert!(attempt(&url, "SELECT 1").await.is_err());
    let next = worker.does("acquire");
    assert!(next.starts_with("postgres"), "{next}");
    assert_ne!(run.keepers(), [keeper]);
    // Both at the same time.
    let keepers = run.keepers();
    run.root.kill().unwrap();
    keepers.into_iter().for_each(kill);
    run.root.wait().unwrap();
    assert!(
        eventually(Duration::from_secs(10), || run.home.servers_of_branches() == 1),
        "{}",
        run.home.servers_of_branches()
    );
    worker.kill();
    // What they had on disk goes with whoever cleans up, once they have ended: their leases do a moment later
    // than their servers.
    let begun = std::time::Instant::now();
    while run.home.left().len() != 3 {
        assert!(begun.elapsed() < LONG, "{:?}", run.home.left());
        velo_core::gc::collect(run.home.config(), velo_core::gc::GcSpec::default()).await.unwrap();
    }
    let keepers = run.home.config().home().join("keepers");
    assert_eq!(std::fs::read_dir(keepers).unwrap().count(), 0);
    assert_eq!(project.branches().await.unwrap().len(), 1);
}

#[tokio::test]
async fn another_keeper_is_told_what_is_to_be_ready() {
    let (mut run, _project) = Run::new().await;
    let (mut worker, mut other) = (run.worker(), run.worker());
    assert_eq!(worker.does("keep ready"), "kept ready");
    assert_eq!(other.does("wanted"), "2");
    let [keeper] = run.keepers()[..] else { panic!("{:?}", run.keepers()) };
    kill(keeper);
    assert!(eventually(LONG, || run.keepers().is_empty()));
    // Somebody else starts the next one.
    assert_eq!(other.does("wanted"), "0");
    assert!(worker.does("acquire").starts_with("postgresql://"));
    assert_eq!(other.does("wanted"), "2");
    assert_eq!(worker.does("close"), "closed");
    worker.end();
    other.end();
    run.is_killed();
}

/// Takes longer than a keeper stays that nobody asks.
#[tokio::test]
async fn a_keeper_that_is_to_have_some_ready_stays() {
    if std::env::var_os("VELO_TEST_LONG").is_none() {
        return;
    }
    let (mut run, _project) = Run::new().await;
    let mut worker = run.worker();
    assert_eq!(worker.does("keep ready"), "kept ready");
    worker.end();
    let ready = || run.home.servers_of_branches() == 3;
    assert!(eventually(LONG, ready), "main and two: {}", run.home.servers_of_branches());
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(run.keepers().len(), 1);
    assert!(ready(), "{}", run.home.servers_of_branches());
    run.is_killed();
}

#[tokio::test]
async fn what_is_kept_outlives_the_run() {
    let (mut run, project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    assert_eq!(worker.does("keep"), "kept");
    // Once more changes nothing.
    assert_eq!(worker.does("keep"), "kept");
    worker.end();
    run.root.kill().unwrap();
    run.root.wait().unwrap();
    assert!(eventually(LONG, || run.keepers().is_empty()));
    assert_eq!(attempt(&url, "SELECT count(*) FROM t").await.unwrap(), "0");
    project.branch("kept").await.unwrap().delete(false).await.unwrap();
    run.is_over();
}

#[tokio::test]
async fn what_may_not_stay_goes_as_ever() {
    let (mut run, project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    let mut others = Vec::new();
    for test in 0..10 {
        let spec = BranchSpec::named(format!("kept/other-{test}"));
        others.push(Branch::create(&project, spec).await.unwrap());
    }
    assert_eq!(worker.does("keep failed"), "false");
    assert_eq!(attempt(&url, "SELECT count(*) FROM t").await.unwrap(), "0");
    assert_eq!(worker.does("close"), "closed");
    assert!(is_gone(&url).await, "it lives on");
    // There is a place again.
    others.pop().unwrap().delete(false).await.unwrap();
    worker.does("acquire");
    assert_eq!(worker.does("keep failed"), "true");
    worker.end();
    let kept = project.branches().await.unwrap().into_iter();
    for name in kept.filter_map(|branch| branch.name).filter(|name| name != "main") {
        project.branch(name).await.unwrap().delete(false).await.unwrap();
    }
    run.is_killed();
}

#[tokio::test]
async fn who_has_a_branch_can_change_it() {
    let (mut run, project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    let asked = async |query: &str| attempt(&url, query).await.unwrap();
    let count = "SELECT count(*) FROM t";
    // The seed's state again, where it was.
    assert_eq!(asked(count).await, "0");
    assert_eq!(worker.does("reset"), "reset");
    assert_eq!(asked(count).await, "1000");
    assert!(worker.does("steps").contains("stop"), "{}", worker.does("steps"));
    assert_eq!(asked("DELETE FROM t WHERE x > 3; SELECT count(*) FROM t").await, "3");
    // Its own states too, which go with it.
    assert_eq!(worker.does("snapshot"), "little");
    asked("DROP TABLE t").await;
    assert_eq!(worker.does("reset to @little"), "reset");
    assert_eq!(asked(count).await, "3");
    let missing = worker.does("reset to @nothing");
    assert!(missing.starts_with("not_found: "), "{missing}");
    assert_eq!(asked(count).await, "3");
    // Another server on the same data.
    let begun = asked("SELECT pg_postmaster_start_time()").await;
    assert_eq!(worker.does("restart"), "restarted");
    assert_ne!(asked("SELECT pg_postmaster_start_time()").await, begun);
    assert_eq!(asked(count).await, "3");
    assert_eq!(worker.does("start"), "started");
    let refused = worker.does("stop");
    assert!(refused.starts_with("conflict: ") && refused.contains("ephemeral"), "{refused}");
    assert_eq!(asked(count).await, "3");
    assert_eq!(worker.does("outgoing"), "[]");
    // Nobody else's to change.
    let all = project.branches().await.unwrap();
    let own = all.iter().find(|branch| url.contains(&format!(":{}/", branch.port))).unwrap();
    let others = project.branch(own.id.to_string()).await.unwrap();
    assert_eq!(others.reset().await.unwrap_err().kind(), velo_core::ErrorKind::Conflict);
    assert_eq!(others.restart().await.unwrap_err().kind(), velo_core::ErrorKind::Conflict);
    assert_eq!(worker.does("close"), "closed");
    // What was kept is the worker's as it is anybody's.
    let kept = worker.does("acquire");
    assert_eq!(worker.does("keep"), "kept");
    assert_eq!(worker.does("reset"), "reset");
    assert_eq!(attempt(&kept, count).await.unwrap(), "1000");
    worker.end();
    project.branch("kept").await.unwrap().delete(false).await.unwrap();
    run.is_killed();
}

#[tokio::test]
async fn who_gives_up_in_a_reset_can_go_on() {
    let (mut run, _project) = Run::new().await;
    let mut worker = run.worker();
    let url = worker.does("acquire");
    assert_eq!(worker.does("reset a little"), "reset a little");
    assert_eq!(worker.does("reset"), "reset");
    assert_eq!(attempt(&url, "SELECT count(*) FROM t").await.unwrap(), "1000");
    // And be heard at once, whatever was given up.
    assert_eq!(worker.does("reset a little"), "reset a little");
    assert_eq!(worker.does("close"), "closed");
    worker.end();
    run.is_killed();
}

/// Waits until a branch is being reset.
async fn one_is_reset(project: &Project) {
    let begun = std::time::Instant::now();
    while !project.branches().await.unwrap().iter().any(|b| b.state == State::Resetting) {
        assert!(begun.elapsed() < LONG, "none is ever reset");
    }
}

#[tokio::test]
async fn who_is_killed_in_a_reset_leaves_nothing() {
    let (mut run, project) = Run::new().await;
    let mut other = run.worker();
    let others = other.does("acquire");
    for _ in 0..3 {
        let mut one = run.worker();
        one.does("acquire");
        one.tell("reset for ever");
        one_is_reset(&project).await;
        one.kill();
    }
    assert_eq!(attempt(&others, "SELECT count(*) FROM t").await.unwrap(), "0");
    assert_eq!(run.keepers().len(), 1);
    // The run is over in the middle of one.
    other.tell("reset for ever");
    one_is_reset(&project).await;
    run.is_killed();
    other.kill();
}

#[tokio::test]
async fn an_orphan_is_of_no_run() {
    for begin in [orphan, taken_over] {
        let (run, project) = Run::new().await;
        let mut worker = begin(&run.home);
        assert!(worker.does("acquire").starts_with("postgresql://"));
        assert_eq!(run.keepers(), [] as [i32; 0]);
        assert_eq!(worker.does("close"), "closed");
        // It ends, and what it had ready ends with it.
        worker.end();
        assert!(eventually(LONG, || run.home.servers_of_branches() <= 1));
        project.finish_deletions().await.unwrap();
    }
}
