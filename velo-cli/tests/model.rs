//! Random operations, with crashes among them, against a model of what a project is: which branches and
//! snapshots there are, which servers run, and which rows each branch has. On real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use common::whole::{doctor_agrees, names, working};
use common::{Home, is_root, prepared, wait_until};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What a branch is made from: a branch, or one of its snapshots.
type Source = (String, Option<String>);
type Rows = BTreeSet<u32>;

#[derive(Debug, Clone)]
struct Branch {
    /// `main` has none.
    from: Option<Source>,
    rows: Rows,
    /// The rows that it began with.
    began: Rows,
    wanted: bool,
    running: bool,
}

/// What there ought to be.
#[derive(Debug, Clone)]
struct Model {
    branches: BTreeMap<String, Branch>,
    snapshots: BTreeMap<Source, Rows>,
    /// The last row that was written.
    last: u32,
}

#[derive(Debug, Clone)]
enum Step {
    Create(String, Source),
    Write(String),
    Reset(String),
    ResetToOrigin(String),
    Stop(String),
    Start(String),
    Restart(String),
    Delete(String, bool),
    Snapshot(Source),
    DeleteSnapshot(Source),
    /// The server is killed, as if it had run out of memory.
    KillServer(String),
    /// A process with a throwaway branch, in which it writes.
    Run(Source),
}

/// A step, and the moment at which the process that does it is killed.
type Transition = (Step, Option<u16>);

impl Model {
    fn rows(&self, source: &Source) -> Option<&Rows> {
        match &source.1 {
            None => self.branches.get(&source.0).map(|branch| &branch.rows),
            Some(_) => self.snapshots.get(source),
        }
    }

    fn below(&self, branch: &str) -> Vec<String> {
        let mut all = vec![branch.to_owned()];
        let mut done = 0;
        while let Some(parent) = all.get(done).cloned() {
            let of = |b: &Branch| b.from.as_ref().is_some_and(|(from, _)| *from == parent);
            all.extend(self.branches.iter().filter(|(_, b)| of(b)).map(|(name, _)| name.clone()));
            done += 1;
        }
        all
    }

    /// What `velo` must say to it: nothing, or an error of this kind.
    fn refusal(&self, step: &Step) -> Option<&'static str> {
        let missing =
            |branch: &String| (!self.branches.contains_key(branch)).then_some("not_found");
        match step {
            Step::Create(name, _) if self.branches.contains_key(name) => Some("already_exists"),
            Step::Create(_, source) | Step::Run(source) => {
                self.rows(source).is_none().then_some("not_found")
            }
            Step::Reset(branch) | Step::ResetToOrigin(branch) if branch == "main" => {
                Some(if matches!(step, Step::Reset(_)) { "invalid_input" } else { "unsupported" })
            }
            Step::Delete(branch, _) if branch == "main" => Some("conflict"),
            Step::Delete(branch, force) => missing(branch).or_else(|| {
                let alone = self.below(branch).len() == 1
                    && !self.snapshots.keys().any(|(of, _)| of == branch);
                (!alone && !force).then_some("conflict")
            }),
            Step::Snapshot(source) => missing(&source.0)
                .or_else(|| self.snapshots.contains_key(source).then_some("already_exists")),
            Step::DeleteSnapshot(source) => match self.snapshots.contains_key(source) {
                false => Some("not_found"),
                true => {
                    let needed = self.branches.values().any(|b| b.from.as_ref() == Some(source));
                    needed.then_some("conflict")
                }
            },
            Step::Write(branch)
            | Step::Reset(branch)
            | Step::ResetToOrigin(branch)
            | Step::Stop(branch)
            | Step::Start(branch)
            | Step::Restart(branch)
            | Step::KillServer(branch) => missing(branch),
        }
    }

    fn renew(&mut self, branch: &str, rows: Rows) {
        let branch = self.branches.get_mut(branch).unwrap();
        branch.rows = rows;
        branch.running |= branch.wanted;
    }

    fn switch(&mut self, branch: &str, on: bool) {
        let branch = self.branches.get_mut(branch).unwrap();
        (branch.wanted, branch.running) = (on, on);
    }
}

fn branch_name() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just("main".to_owned()), 6 => "[a-d]"]
}

fn snapshot_name() -> impl Strategy<Value = Source> {
    (branch_name(), "[st]").prop_map(|(branch, name)| (branch, Some(name)))
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![2 => branch_name().prop_map(|branch| (branch, None)), 1 => snapshot_name()]
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self> {
        let main = Branch {
            from: None,
            rows: Rows::new(),
            began: Rows::new(),
            wanted: true,
            running: true,
        };
        let branches = BTreeMap::from([("main".to_owned(), main)]);
        Just(Self { branches, snapshots: BTreeMap::new(), last: 0 }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Transition> {
        let step = prop_oneof![
            6 => ("[a-d]", source()).prop_map(|(name, source)| Step::Create(name, source)),
            6 => branch_name().prop_map(Step::Write),
            4 => branch_name().prop_map(Step::Reset),
            2 => branch_name().prop_map(Step::ResetToOrigin),
            1 => branch_name().prop_map(Step::Stop),
            2 => branch_name().prop_map(Step::Start),
            1 => branch_name().prop_map(Step::Restart),
            2 => (branch_name(), any::<bool>()).prop_map(|(name, force)| Step::Delete(name, force)),
            3 => snapshot_name().prop_map(Step::Snapshot),
            2 => snapshot_name().prop_map(Step::DeleteSnapshot),
            1 => branch_name().prop_map(Step::KillServer),
            2 => source().prop_map(Step::Run),
        ];
        (step, prop_oneof![2 => Just(None), 1 => (1..60u16).prop_map(Some)]).boxed()
    }

    fn apply(mut model: Self, (step, _): &Transition) -> Self {
        if model.refusal(step).is_some() {
            return model;
        }
        match step {
            Step::Create(name, source) => {
                let rows = model.rows(source).unwrap().clone();
                let from = Some(source.clone());
                let branch =
                    Branch { from, began: rows.clone(), rows, wanted: true, running: true };
                model.branches.insert(name.clone(), branch);
            }
            Step::Write(branch) => {
                model.last += 1;
                let last = model.last;
                let branch = model.branches.get_mut(branch).unwrap();
                if branch.running {
                    branch.rows.insert(last);
                }
            }
            Step::Reset(branch) => {
                let from = model.branches[branch].from.clone().unwrap();
                let rows = model.rows(&from).unwrap().clone();
                model.renew(branch, rows);
            }
            Step::ResetToOrigin(branch) => {
                let began = model.branches[branch].began.clone();
                model.renew(branch, began);
            }
            Step::Stop(branch) => model.switch(branch, false),
            Step::Start(branch) | Step::Restart(branch) => model.switch(branch, true),
            Step::Delete(branch, _) => {
                for branch in model.below(branch) {
                    model.branches.remove(&branch);
                    model.snapshots.retain(|(of, _), _| *of != branch);
                }
            }
            Step::Snapshot(source) => {
                let rows = model.branches[&source.0].rows.clone();
                model.snapshots.insert(source.clone(), rows);
            }
            Step::DeleteSnapshot(source) => drop(model.snapshots.remove(source)),
            Step::KillServer(branch) => model.branches.get_mut(branch).unwrap().running = false,
            Step::Run(_) => {}
        }
        model
    }

    fn preconditions(_: &Self, _: &Transition) -> bool {
        true
    }
}

/// What is tested: a home with one project.
struct Real {
    home: Home,
    /// What there was before the step that is done next.
    before: Model,
}

/// The storage of a test's project, and where. Each test runs on a thread of its own.
type Place = (std::path::PathBuf, &'static str);
thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

fn shown(source: &Source) -> String {
    match &source.1 {
        None => source.0.clone(),
        Some(snapshot) => format!("{}@{snapshot}", source.0),
    }
}

impl Real {
    /// The arguments of a step that is one command.
    fn args(step: &Step) -> Vec<String> {
        let of = |noun: &str, verb: &str, name: &str| {
            vec![noun.to_owned(), verb.to_owned(), format!("api/{name}")]
        };
        let and = |mut args: Vec<String>, more: &[&str]| {
            args.extend(more.iter().map(|&arg| arg.to_owned()));
            args
        };
        match step {
            Step::Create(name, source) => {
                and(of("branch", "create", name), &["--from", &shown(source)])
            }
            Step::Reset(branch) => of("branch", "reset", branch),
            Step::ResetToOrigin(branch) => and(of("branch", "reset", branch), &["--to-origin"]),
            Step::Stop(branch) => of("branch", "stop", branch),
            Step::Start(branch) => of("branch", "start", branch),
            Step::Restart(branch) => of("branch", "restart", branch),
            Step::Delete(branch, false) => of("branch", "delete", branch),
            Step::Delete(branch, true) => and(of("branch", "delete", branch), &["--force"]),
            Step::Snapshot(source) => of("snapshot", "create", &shown(source)),
            Step::DeleteSnapshot(source) => of("snapshot", "delete", &shown(source)),
            Step::Run(source) => {
                let args = vec!["run".to_owned(), format!("api/{}", shown(source))];
                and(args, &["--", "psql", "-XAtqc", "DELETE FROM t"])
            }
            Step::Write(_) | Step::KillServer(_) => unreachable!("{step:?} is no command"),
        }
    }

    /// Does a step; one that is killed in the middle is done again where it was not done.
    fn command(&self, model: &Model, step: &Step, kill: Option<u16>) {
        let args = Self::args(step);
        let args: Vec<&str> =
            ["--json"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let mut again = false;
        if let Some(moment) = kill {
            let fault = format!("kill@{moment}");
            let ran = self.home.run_with(&args, |velo| {
                velo.env("VELO_TEST_FAULT", fault);
            });
            if ran.code != -9 {
                return Self::check(&ran, model.refusal(step), &args);
            }
            again = true;
        }
        let ran = self.home.run(&args);
        // It may have been done before it was killed.
        let done = match step {
            Step::Create(..) | Step::Snapshot(_) => Some("already_exists"),
            Step::Delete(..) | Step::DeleteSnapshot(_) => Some("not_found"),
            _ => None,
        };
        match model.refusal(step) {
            None if again && ran.code != 0 && done.is_some() => Self::check(&ran, done, &args),
            refusal => Self::check(&ran, refusal, &args),
        }
    }

    fn check(ran: &common::Ran, refusal: Option<&str>, args: &[&str]) {
        let error = ran.stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let kind = error.and_then(|e| Some(e["error"]["kind"].as_str()?.to_owned()));
        match refusal {
            None => assert_eq!(ran.code, 0, "{args:?}: {ran:?}"),
            Some(refusal) => assert_eq!(kind.as_deref(), Some(refusal), "{args:?}: {ran:?}"),
        }
    }

    /// Ends the first process of a server, as the system does that is out of memory.
    fn kill_server(&self, branch: &str) {
        let name = format!("api/{branch}");
        let branch = self.home.json(&["branch", "get", &name]);
        let pid = i32::try_from(branch["pid"].as_i64().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        wait_until("a server that was killed is gone", || {
            self.home.json(&["branch", "get", &name])["state"] == "stopped"
        });
    }

    /// Everything is as the model says.
    fn compare(&self, model: &Model) {
        let list = self.home.json(&["branch", "list"]);
        let list = list.as_array().unwrap();
        let text = |b: &Value, key: &str| b[key].as_str().unwrap().to_owned();
        let there: BTreeMap<String, String> =
            list.iter().map(|b| (text(b, "name"), text(b, "state"))).collect();
        let state = |branch: &Branch| if branch.running { "running" } else { "stopped" };
        let ought: BTreeMap<String, String> = model
            .branches
            .iter()
            .map(|(name, branch)| (format!("api/{name}"), state(branch).to_owned()))
            .collect();
        assert_eq!(there, ought);
        for (name, branch) in model.branches.iter().filter(|(_, branch)| branch.running) {
            let rows = self.home.sql(&format!("api/{name}"), "SELECT x FROM t ORDER BY x");
            let rows: Rows = rows.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(rows, branch.rows, "the rows of {name}");
        }
        let snapshots = self.home.json(&["snapshot", "list", "api"]);
        let named = snapshots.as_array().unwrap().len();
        assert_eq!(named, model.snapshots.len(), "{snapshots}");
        assert_eq!(names(&self.home, "volumes").len(), list.len());
        let copies = list.iter().any(|b| b["storage"] == "copy");
        let origins = if copies { 0 } else { list.len() - 1 };
        assert_eq!(names(&self.home, "snapshots").len(), named + origins);
        let running = model.branches.values().filter(|branch| branch.running).count();
        wait_until("only the servers that ought to run do", || {
            working(&self.home).len() == running
        });
        doctor_agrees(&self.home, &["state", "disk", "leases"], "after a step");
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        let (base, storage) = PLACE.with_borrow(|place| place.clone().unwrap());
        let home = Home::under(&base);
        home.ok(&["project", "create", "api", "--storage", storage]);
        home.sql("api/main", "CREATE TABLE t (x int)");
        Self { home, before: model.clone() }
    }

    fn apply(mut real: Self, after: &Model, (step, kill): Transition) -> Self {
        let before = std::mem::replace(&mut real.before, after.clone());
        let runs = |branch: &String| before.branches.get(branch).is_some_and(|b| b.running);
        match &step {
            Step::Write(branch) if runs(branch) => {
                let sql = format!("INSERT INTO t VALUES ({})", after.last);
                real.home.sql(&format!("api/{branch}"), &sql);
            }
            Step::KillServer(branch) if runs(branch) => real.kill_server(branch),
            Step::Write(_) | Step::KillServer(_) => {}
            step => real.command(&before, step, kill),
        }
        STEPS.set(STEPS.get() + 1);
        real.compare(after);
        real
    }
}

thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn random_operations(variable: &str, storage: &'static str, cases: u32) {
    let Some(base) = prepared(variable) else { return };
    PLACE.set(Some((base, storage)));
    let long = std::env::var_os("VELO_TEST_LONG").is_some();
    let cases = if long { cases * 20 } else { cases };
    // Root's run is the long one of the two.
    let cases = if is_root() { cases } else { cases.div_ceil(3) };
    let config =
        Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config.clone()).run(
        &Model::sequential_strategy(20..60),
        |(model, steps, seen)| {
            Real::test_sequential(config.clone(), model, steps, seen);
            Ok(())
        },
    );
    println!("{storage}: {} steps in {cases} cases", STEPS.get());
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn random_operations_do_what_the_model_says_on_btrfs() {
    random_operations("VELO_TEST_BTRFS", "btrfs", 6);
}

#[test]
fn random_operations_do_what_the_model_says_on_xfs() {
    random_operations("VELO_TEST_XFS", "reflink", 3);
}
