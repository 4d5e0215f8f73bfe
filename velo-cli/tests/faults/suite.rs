//! An operation is tried with a fault, and then everything is looked at.

use std::any::Any;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::whole::{DIFFERENCES, doctor_agrees, locks_but, main_is_well, names};
use super::common::{Home, Ran, answers, try_psql, wait_until};
use super::library;
use super::operations::{Moment, OPERATIONS, Operation, is_there, seeds, snapshots};
use super::place::{Place, Storage};

/// Records, disk and processes agree, whatever there is. Returns the branches.
#[track_caller]
fn agrees(home: &Home, place: &Place, what: &str) -> Vec<Value> {
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap();
    let text = |b: &Value, key: &str| b[key].as_str().unwrap().to_owned();
    for branch in list {
        let state = text(branch, "state");
        assert!(["running", "stopped"].contains(&state.as_str()), "{what}: {branch}");
    }
    let ids: BTreeSet<String> = list.iter().map(|b| text(b, "id")).collect();
    let run = names(home, "run");
    assert!(run.is_subset(&ids), "{what}: {run:?}");
    let projects: BTreeSet<String> = list.iter().map(|b| text(b, "project")).collect();
    let named: usize = projects.iter().map(|project| snapshots(home, project)).sum();
    let named = named + seeds(home).as_array().unwrap().len() + bases(home, list);
    place.agrees(home, list, named, what);
    let locks = locks_but(home, &(&ids | &names(home, "snapshots")));
    // On ZFS snapshots are no files.
    assert!(place.storage == Storage::Zfs || locks.is_empty(), "{what}: orphaned locks {locks:?}");
    list.clone()
}

/// The snapshots that Velo took where WAL is kept, and archives for nobody else.
#[track_caller]
fn bases(home: &Home, branches: &[Value]) -> usize {
    if !home.path().join("wal").exists() {
        return 0;
    }
    let (mut bases, mut archives) = (0, 0);
    for branch in branches.iter().filter(|branch| branch["ephemeral"] == false) {
        let wal = home.json(&["wal", "info", branch["name"].as_str().unwrap()]);
        for one in wal["incarnations"].as_array().unwrap() {
            bases += one["own_bases"].as_u64().unwrap() as usize;
            archives += 1;
        }
    }
    let there = names(home, "wal");
    assert!(there.len() <= archives, "{there:?}");
    bases
}

/// Every branch that runs lets clients in, but for `main`, at which more is looked.
#[track_caller]
fn lets_clients_in(home: &Home, branches: &[Value], what: &str) {
    for branch in branches.iter().filter(|b| b["state"] == "running" && b["name"] != "api/main") {
        let url = home.ok(&["branch", "url", branch["name"].as_str().unwrap()]);
        assert_eq!(try_psql(url.trim(), "SELECT 1").as_deref(), Ok("1"), "{what}");
    }
}

/// The steps that a command went through.
fn steps(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.splitn(3, ' ').last().unwrap().to_owned()).collect()
}

/// Who opens a home whose processes have all ended well does this, and nothing else.
const HOUSEKEEPING: [&str; 2] = ["sweep locks", "bury a dead lease"];

/// Where clones need what they were made from: whether what is hidden is needed still.
const LOOKS: [&str; 2] = ["hide a volume or let it go", "hide a snapshot or let it go"];

/// What the choice of a run is made by, which differs from run to run unless `VELO_TEST_SEED` says
/// which it is to be.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("VELO_TEST_SEED").ok().and_then(|text| text.parse().ok());
        given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos())
        })
    })
}

/// A number below `end`, of what is called `key` in this run.
fn chosen(key: &str, end: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (seed(), key).hash(&mut hasher);
    (hasher.finish() % end as u64) as usize
}

fn is_long() -> bool {
    std::env::var_os("VELO_TEST_LONG").is_some()
}

struct Suite<'a> {
    home: Home,
    place: &'a Place,
    /// Where the steps are noted: on another disk than the one that is filled.
    notes: tempfile::TempDir,
    /// What is done at each moment.
    faults: &'static [&'static str],
    main: String,
    /// Every so many moments one is tried, beginning with a random one.
    stride: usize,
    /// Whether a fault is tried on one side of what lies between two steps, and not on both.
    one_side: bool,
    beats: std::cell::Cell<usize>,
}

impl<'a> Suite<'a> {
    fn new(place: &'a Place, faults: &'static [&'static str], stride: usize) -> Self {
        let home = place.home();
        home.ok(&["project", "create", "api"]);
        home.sql(
            "api/main",
            "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x; \
             CREATE TABLE beat AS SELECT 0 AS n",
        );
        let main = home.ok(&["branch", "url", "api/main"]).trim().to_owned();
        let notes = tempfile::tempdir().unwrap();
        Self { home, place, notes, faults, main, stride, one_side: !is_long(), beats: 0.into() }
    }

    /// Back to `main` alone.
    fn clear(&self, what: &str) {
        let there = self.home.branches();
        if there.iter().any(|branch| branch.starts_with("other/")) {
            self.home.ok(&["project", "delete", "other", "--force"]);
        }
        for branch in there.iter().filter(|b| b.starts_with("api/") && *b != "api/main") {
            // It may have gone with its parent.
            if self.home.run(&["branch", "delete", branch, "--force"]).code != 0 {
                assert!(!is_there(&self.home, branch), "{what}: {branch} cannot be deleted");
            }
        }
        for snapshot in self.home.json(&["snapshot", "list", "api"]).as_array().unwrap() {
            self.home.ok(&["snapshot", "delete", snapshot["name"].as_str().unwrap()]);
        }
        self.home.ok(&["seed", "prune", "--all"]);
        let left = agrees(&self.home, self.place, what);
        assert_eq!(left.len(), 1, "{what}: {left:?}");
    }

    /// Tries an operation with a fault at a moment; false if it has fewer moments.
    fn attempt(&self, operation: &Operation, fault: &str, moment: usize) -> (bool, Vec<String>) {
        let file = self.notes.path().join("steps");
        (operation.prepare)(&self.home);
        let _ = std::fs::remove_file(&file);
        let what = format!("{} with {fault}@{moment}", operation.shown());
        let filler = self.home.dir().join("filler");
        let leaves = LEAVES[moment % LEAVES.len()];
        let mut command = match operation.by_library {
            true => library::command(&self.home, operation.args[0]),
            false => {
                let mut command = self.home.command_with(operation.args);
                // Files that are imported are named from here.
                command.current_dir(self.home.dir());
                command
            }
        };
        command
            .envs(operation.env.iter().copied())
            .env("VELO_TEST_FAULT", format!("{fault}@{moment}"))
            .env("VELO_TEST_STEPS", &file)
            .env("VELO_TEST_FILLER", &filler)
            .env("VELO_TEST_FILLER_LEAVES", leaves.to_string());
        let ran = self.ran(operation, command, &file);
        let _ = std::fs::remove_file(filler);
        let went = steps(&file);
        let hit = went.len() >= moment;
        let step = went.get(moment - 1).cloned().unwrap_or_default();
        let what = format!("{what} ({step})");
        match fault {
            "kill" if hit => assert_eq!(ran.code, -9, "{what}: {ran:?}"),
            "full" => {
                says_that_it_is_full(&ran, &what);
                self.space_is_made();
                start_again(&self.home);
            }
            // What is in the way of cleaning up may be left to the next one.
            _ => assert!([0, 1].contains(&ran.code), "{what}: {ran:?}"),
        }
        let expected = i32::from(operation.is_refused);
        assert!(hit || ran.code == expected, "{what}: {ran:?}");
        if !operation.ends.is_empty() {
            self.home.ok(operation.ends);
        }
        let branches = agrees(&self.home, self.place, &what);
        lets_clients_in(&self.home, &branches, &what);
        // The dearest of the looks: in short runs every third time.
        if is_long() || chosen(&what, 3) == 0 {
            doctor_agrees(&self.home, &DIFFERENCES, &what);
        }
        self.beats.set(self.beats.get() + 1);
        let beats = main_is_well(&self.main, &what);
        assert_eq!(beats, self.beats.get(), "{what}: main has lost a write");
        (operation.outcome)(&self.home, ran.code == 0, &what);
        let _ = std::fs::remove_file(&file);
        self.home.run_with(&["status"], |velo| {
            velo.env("VELO_TEST_STEPS", &file);
        });
        let more = steps(&file);
        let hidden = self.place.storage == Storage::Zfs;
        let usual = |step: &str| HOUSEKEEPING.contains(&step) || hidden && LOOKS.contains(&step);
        assert!(more.iter().all(|step| usual(step)), "{what}: there was more to do: {more:?}");
        self.clear(&what);
        (hit, went)
    }

    /// Waits until there is as much space as a clone needs: btrfs gives back what was deleted after its
    /// next commit.
    fn space_is_made(&self) {
        let dir = self.home.dir();
        wait_until("what was deleted is given back", || {
            let fs = rustix::fs::statvfs(dir).unwrap();
            let there = fs.f_bavail * fs.f_frsize >= CLONE;
            if !there && self.place.storage == Storage::Btrfs {
                let dir = dir.to_str().unwrap();
                Command::new("btrfs").args(["filesystem", "sync", dir]).output().unwrap();
            }
            there
        });
    }

    /// Runs it to its end, with what happens beside it.
    fn ran(&self, operation: &Operation, mut command: Command, steps: &Path) -> Ran {
        let gate = self.notes.path().join("gate");
        let mut beside: Option<Box<dyn Any>> = None;
        match &operation.beside {
            Some((Moment::Before, what)) => beside = Some(what(&self.home, steps)),
            Some((Moment::At(at), _)) => {
                command.env("VELO_TEST_GATE_AT", at).env("VELO_TEST_GATE", &gate);
            }
            None => {}
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let Some((Moment::At(at), what)) = &operation.beside {
            if is_at(&mut child, steps, at) {
                beside = Some(what(&self.home, steps));
            }
            std::fs::write(&gate, "").unwrap();
        }
        let ran = child.wait_with_output().unwrap().into();
        let _ = std::fs::remove_file(gate);
        drop(beside);
        ran
    }

    /// All of an operation, or of the part of it that counts: how many faults were tried, and the steps
    /// that it has.
    fn run(&self, operation: &Operation, sparser: usize) -> (usize, BTreeSet<String>) {
        let (mut tried, mut seen) = (0, BTreeSet::new());
        let (mut begin, mut end) = (1, NEVER);
        if let (Some((first, last)), false) = (operation.part, is_long()) {
            let (_, steps) = self.attempt(operation, self.faults[0], NEVER);
            begin = 1 + steps.iter().position(|step| step == first).unwrap();
            end = 1 + steps.iter().rposition(|step| step == last).unwrap();
            seen.extend(steps);
        }
        for fault in self.faults {
            // Between the end of a step and the beginning of the next nothing happens that outlives a
            // process: a short run tries one of both, and which one differs from run to run.
            let halves = self.one_side && *fault != "full";
            let stride = if halves { self.stride * 2 } else { self.stride } * sparser;
            let mut moment = begin + chosen(&format!("{} {fault}", operation.shown()), stride);
            while moment <= end {
                let (hit, steps) = self.attempt(operation, fault, moment);
                seen.extend(met(hit, moment, steps));
                if !hit {
                    break;
                }
                tried += 1;
                moment += stride;
            }
        }
        (tried, seen)
    }
}

/// The steps that a run answers for: all of one without a fault, and of another one that which it hit. What
/// else comes after a fault has none of its own.
fn met(hit: bool, moment: usize, mut steps: Vec<String>) -> Vec<String> {
    if hit { vec![steps.swap_remove(moment - 1)] } else { steps }
}

/// Waits until an operation has come to a moment; false if it has ended before.
fn is_at(child: &mut Child, steps: &Path, at: &str) -> bool {
    let came = || {
        let text = std::fs::read_to_string(steps).unwrap_or_default();
        text.lines().any(|line| line.split_once(' ').is_some_and(|(_, moment)| moment == at))
    };
    let mut ended = false;
    wait_until("an operation comes to its moment", || {
        ended = child.try_wait().unwrap().is_some();
        ended || came()
    });
    !ended
}

/// How much is left free where a fault fills the disk, in bytes: nothing, enough for a record, for a
/// file of a server's, and for a segment of WAL.
const LEAVES: [u64; 4] = [0, 128 << 10, 1 << 20, 5 << 20];

/// What must be free for a clone, in bytes, and a little more.
const CLONE: u64 = 56 << 20;

/// It was done all the same, or says what is the matter and what to do.
#[track_caller]
fn says_that_it_is_full(ran: &Ran, what: &str) {
    if ran.code != 0 {
        // `doctor` says it among its findings.
        let text = format!("{}{}", ran.stdout, ran.stderr);
        let said = ["No space left", "disk is full"].iter().any(|words| text.contains(words));
        let hint =
            ["\nhint: ", " fix: ", "; free some space"].iter().any(|words| text.contains(words));
        assert!(ran.code == 1 && said && hint, "{what}: {ran:?}");
    }
}

/// Brings up the servers that died of the full disk, until every one that ought to run lets clients in.
/// A file system may take a moment to have space again, and one of them die until then.
fn start_again(home: &Home) {
    home.ok(&["status"]);
    wait_until("every server is up again", || {
        let doctor = home.run(&["doctor", "--json"]).stdout;
        let findings: Value = serde_json::from_str(&doctor).unwrap();
        for finding in findings.as_array().unwrap() {
            let what = finding["what"].as_str().unwrap();
            for says in ["ought to run, and do not: ", "run, and let no client in: "] {
                for name in what.strip_prefix(says).into_iter().flat_map(|n| n.split(", ")) {
                    home.run(&["branch", "start", name]);
                }
            }
        }
        let list = home.json(&["branch", "list"]);
        let mut running = list.as_array().unwrap().iter().filter(|b| b["state"] == "running");
        running.all(|branch| {
            let url = home.run(&["branch", "url", branch["name"].as_str().unwrap()]).stdout;
            answers(url.trim())
        }) && !doctor.contains("ought to run")
    });
}

/// The operations that are tried there.
fn operations(place: &Place, faults: &[&str]) -> Vec<&'static Operation> {
    let only = std::env::var("VELO_TEST_FAULTS_OF").ok();
    let chosen = |operation: &&Operation| {
        // Whoever disturbs an operation would be disturbed by a full disk as well.
        let can = operation.beside.is_none() || !faults.contains(&"full");
        can && operation.fits(place) && only.as_ref().is_none_or(|o| operation.shown().contains(o))
    };
    OPERATIONS.iter().filter(chosen).collect()
}

/// How long one of them goes on in a short run, on a machine that is too slow for all of it: each operation
/// is tried then with fewer faults.
const ENOUGH: Duration = Duration::from_secs(480);

/// Runs every operation, on so many homes at a time. Returns the steps that they have.
pub fn suite(
    place: &Place,
    faults: &'static [&'static str],
    stride: usize,
    homes: usize,
) -> Option<BTreeSet<String>> {
    let stride = if is_long() { 1 } else { stride };
    println!("{}: VELO_TEST_SEED={}", place.name(), seed());
    let mut operations = operations(place, faults);
    // Not always the same ones are the last.
    operations.sort_by_key(|operation| chosen(&operation.shown(), usize::MAX));
    let (begun, operations) = (Instant::now(), Mutex::new(operations));
    let (all, tried) = (Mutex::new(BTreeSet::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..homes {
            scope.spawn(|| {
                let suite = Suite::new(place, faults, stride);
                loop {
                    let Some(operation) = operations.lock().unwrap().pop() else { break };
                    let late = !is_long() && begun.elapsed() > ENOUGH;
                    let (faults, steps) = suite.run(operation, if late { LATE } else { 1 });
                    let few = if late { ", a sample: it is late" } else { "" };
                    println!("{}: {}: {faults} faults{few}", place.name(), operation.shown());
                    all.lock().unwrap().extend(steps);
                    *tried.lock().unwrap() += faults;
                }
            });
        }
    });
    println!("{}: {} faults in all", place.name(), tried.into_inner().unwrap());
    let whole = std::env::var_os("VELO_TEST_FAULTS_OF").is_none();
    whole.then(|| all.into_inner().unwrap())
}

/// Tries faults of any operation at any moment, each time others, until the time is up; but first those
/// operations that are of this place alone. Returns the steps that were gone through.
pub fn sample(
    place: &Place,
    faults: &'static [&'static str],
    time: Duration,
) -> Option<BTreeSet<String>> {
    println!("{}: VELO_TEST_SEED={}", place.name(), seed());
    let (begun, operations) = (Instant::now(), operations(place, faults));
    // And one that starts a server, which each place does in a way of its own.
    let is_sure = |operation: &Operation| {
        operation.is_of(place) || operation.args == ["branch", "restart", "api/b"]
    };
    let own = operations.iter().filter(|operation| is_sure(operation)).copied();
    let any = (0..).map(|n| operations[chosen(&format!("operation {n}"), operations.len())]);
    let of_all = operations.len() == OPERATIONS.iter().filter(|o| o.fits(place)).count();
    let suite = Suite::new(place, faults, 1);
    let (mut tried, mut seen) = (0, BTreeSet::new());
    for (n, operation) in own.chain(any).enumerate() {
        if tried > 0 && begun.elapsed() > time && !is_sure(operation) {
            break;
        }
        let fault = faults[chosen(&format!("fault {n}"), faults.len())];
        // One that is to be seen is seen whole before.
        let mut moment = match is_sure(operation) {
            true => NEVER,
            false => 1 + chosen(&format!("moment {n}"), MOMENTS),
        };

        loop {
            let (hit, steps) = suite.attempt(operation, fault, moment);
            let step = steps.get(moment - 1).map_or("it has fewer", String::as_str);
            println!("{}: {} with {fault}@{moment}: {step}", place.name(), operation.shown());
            tried += usize::from(hit);
            let end = steps.len();
            seen.extend(met(hit, moment, steps));
            if hit {
                break;
            }
            moment = 1 + chosen(&format!("moment {n} of {end}"), end);
        }
    }
    println!("{}: {tried} faults in all", place.name());
    of_all.then_some(seen)
}

/// About as many as most operations have.
const MOMENTS: usize = 40;

/// How many times fewer faults are tried of an operation when it is late.
const LATE: usize = 16;

/// More than any has.
const NEVER: usize = 1_000_000;
