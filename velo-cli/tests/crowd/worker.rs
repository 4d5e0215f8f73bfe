//! One of the crowd: what it does, and what it was told that must be there.

use serde_json::Value;

use crate::Dice;
use crate::common::{Home, Ran, psql, try_psql, wait_until};
use crate::running::{Commands, Ended};

/// The kind of the error that it printed as JSON.
fn kind(ran: &Ran) -> String {
    let error = ran.stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    error.and_then(|e| Some(e["error"]["kind"].as_str()?.to_owned())).unwrap_or_default()
}

/// What became of what a worker asked for.
enum Answer {
    Done(Ran),
    Refused,
    /// Nobody knows.
    Killed,
}

/// A worker's own branch, as far as it was told.
struct Own {
    id: Value,
    port: Value,
    url: String,
    /// How many rows it added to those of `main`.
    rows: u64,
    /// When its time is up.
    expires: Option<u64>,
}

pub(crate) struct Worker<'a> {
    home: &'a Home,
    commands: &'a Commands,
    number: usize,
    dice: Dice,
    /// The branch that all write to.
    shared: String,
    /// How many rows of this worker are in it.
    pub(crate) acknowledged: u64,
    own: Option<Own>,
}

/// What `SELECT count(*), sum(x) FROM t` gives with this many rows more than those of `main`.
fn whole(rows: u64) -> String {
    format!("{}|{}", 100 + rows, 5050 + rows * 1000)
}

const ROWS: &str = "SELECT count(*), sum(x) FROM t";

impl<'a> Worker<'a> {
    pub(crate) fn new(home: &'a Home, commands: &'a Commands, shared: &str, number: usize) -> Self {
        let dice = Dice::of(number as u64 + 1);
        let shared = shared.to_owned();
        Self { home, commands, number, dice, shared, acknowledged: 0, own: None }
    }

    /// Runs a command, which may fail by one of these kinds alone.
    fn velo(&self, args: &[&str], conflicts: &[&str]) -> Answer {
        match self.commands.run(self.home, &[args, &["--json"]].concat()) {
            Ended::Done(ran) => Answer::Done(ran),
            Ended::Killed => Answer::Killed,
            Ended::Refused(ran) => {
                let expected = ran.code == 1 && conflicts.contains(&kind(&ran).as_str());
                assert!(expected && !ran.stderr.contains("state.db"), "{args:?}: {ran:?}");
                Answer::Refused
            }
        }
    }

    /// A command that fails for nobody; whether it was done, and not killed.
    fn sure(&self, args: &[&str]) -> bool {
        match self.velo(args, &[]) {
            Answer::Done(_) => true,
            Answer::Killed => false,
            Answer::Refused => unreachable!("no kind of error is expected"),
        }
    }

    fn name(&self) -> String {
        format!("api/own/{}", self.number)
    }

    /// What the list says of the worker's own branch, once nobody works on it any more. Whoever opens the
    /// home while another one cleans up does not wait for that one.
    fn settled(&self) -> Option<Value> {
        let name = self.name();
        let mut found = None;
        wait_until("what a killed command worked on is whole or gone", || {
            let Answer::Done(ran) = self.velo(&["branch", "list"], &[]) else { return false };
            let list: Value = serde_json::from_str(&ran.stdout).unwrap();
            found = list.as_array().unwrap().iter().find(|b| b["name"] == name.as_str()).cloned();
            found.as_ref().is_none_or(|branch| branch["state"] == "running")
        });
        found
    }

    /// What the branch has after a command on it was killed: a server may still be on its way down, to be
    /// brought up again by whoever cleans up.
    fn rows_of(&self, url: &str) -> String {
        let mut rows = String::new();
        wait_until("the branch answers", || match try_psql(url, ROWS) {
            Ok(found) => {
                rows = found;
                true
            }
            Err(_) => {
                self.velo(&["branch", "list"], &[]);
                false
            }
        });
        rows
    }

    fn create(&mut self) {
        let name = self.name();
        let shared = self.dice.below(3) == 0;
        let source = if shared { "shared" } else { "main" };
        let before = self.acknowledged;
        let done = self.sure(&["branch", "create", &name, "--from", source]);
        let Some(branch) = self.settled() else {
            assert!(!done, "{name} was made, and is not there");
            return;
        };
        let url = self.home.ok(&["branch", "url", &name]).trim().to_owned();
        assert_eq!(self.rows_of(&url), whole(0), "{name}");
        if shared {
            let mine = format!("SELECT count(*) FROM told WHERE worker = {}", self.number);
            assert_eq!(psql(&url, &mine), before.to_string(), "{name}");
        }
        let (id, port) = (branch["id"].clone(), branch["port"].clone());
        self.own = Some(Own { id, port, url, rows: 0, expires: None });
    }

    /// Nobody else knows this name, so that nothing may fail, and all that was told holds.
    fn alone(&mut self) {
        let name = self.name();
        let Some(mut own) = self.own.take() else { return self.create() };
        match self.dice.below(8) {
            0..=2 => {
                psql(&own.url, "INSERT INTO t VALUES (1000)");
                own.rows += 1;
            }
            3 => {
                let done = self.sure(&["branch", "reset", &name]);
                let there = self.settled().unwrap_or_else(|| panic!("a reset lost {name}"));
                assert_eq!((&there["id"], &there["port"]), (&own.id, &own.port), "{name}");
                let rows = self.rows_of(&own.url);
                // Old or new, and the whole of it.
                if rows == whole(0) {
                    own.rows = 0;
                }
                assert!(rows == whole(own.rows) && (own.rows == 0 || !done), "{name}: {rows}");
            }
            4 => {
                self.sure(&["branch", "restart", &name]);
                self.settled().unwrap_or_else(|| panic!("a restart lost {name}"));
                assert_eq!(self.rows_of(&own.url), whole(own.rows), "{name}");
            }
            5 => {
                let before = own.expires;
                let (told, done) = match self.velo(&["branch", "ttl", &name, "10h"], &[]) {
                    Answer::Done(ran) => {
                        let branch: Value = serde_json::from_str(&ran.stdout).unwrap();
                        (branch["expires_at"].as_u64(), true)
                    }
                    _ => (None, false),
                };
                let there = self.settled().unwrap_or_else(|| panic!("{name} is not there"));
                own.expires = there["expires_at"].as_u64();
                let right = if done { own.expires == told } else { own.expires >= before };
                assert!(right, "{name}: {told:?} and {before:?}, but {there}");
            }
            6 => {
                let done = self.sure(&["branch", "delete", &name]);
                match self.settled() {
                    None => return,
                    Some(there) => assert!(!done, "{name} was deleted, and is there: {there}"),
                }
            }
            _ => {
                self.own = Some(own);
                return self.holds();
            }
        }
        self.own = Some(own);
    }

    /// What it was told of its own branch is so.
    pub(crate) fn holds(&self) {
        let Some(own) = &self.own else { return };
        let name = self.name();
        let there = self.settled().unwrap_or_else(|| panic!("{name} is lost"));
        assert_eq!((&there["id"], &there["port"]), (&own.id, &own.port), "{name}");
        assert_eq!(there["expires_at"].as_u64(), own.expires, "{name}");
        assert_eq!(self.rows_of(&own.url), whole(own.rows), "{name}");
    }

    /// Everybody wants these names, and makes branches of each other's.
    fn together(&mut self) {
        let ours = |n: u64| format!("ours/{n}");
        let name = format!("api/{}", ours(self.dice.below(6)));
        match self.dice.below(5) {
            0 => {
                let args = ["branch", "create", &name, "--from", "main"];
                self.velo(&args, &["already_exists", "not_found"]);
            }
            1 => {
                let from = ours(self.dice.below(6));
                let args = ["branch", "create", &name, "--from", &from];
                self.velo(&args, &["already_exists", "not_found", "conflict"]);
            }
            2 => {
                self.velo(&["branch", "reset", &name], &["not_found", "conflict"]);
            }
            3 => {
                self.velo(&["branch", "delete", &name], &["not_found", "conflict"]);
            }
            // With what others are just making of it.
            _ => {
                self.velo(&["branch", "delete", &name, "--force"], &["not_found"]);
            }
        }
    }

    /// Holds a throwaway branch for a while.
    fn hold(&self) {
        let psql = ["psql", "-XAtq", "-c", "SELECT sum(x) FROM t", "-c", "SELECT pg_sleep(0.3)"];
        match self.commands.run(self.home, &[&["run", "api", "--"], &psql[..]].concat()) {
            Ended::Done(ran) => assert_eq!(ran.stdout, "5050\n\n", "{ran:?}"),
            Ended::Refused(ran) => panic!("a throwaway branch: {ran:?}"),
            Ended::Killed => {}
        }
    }

    /// Adds a row to the branch that nobody changes otherwise.
    fn tell(&mut self) {
        let row = format!("INSERT INTO told VALUES ({}, {})", self.number, self.acknowledged);
        psql(&self.shared, &row);
        self.acknowledged += 1;
    }

    /// What is left of the dead may be in the hands of others, who see to it themselves.
    fn collect(&self) {
        let Ended::Refused(ran) = self.commands.run(self.home, &["gc", "--json"]) else { return };
        let others = match serde_json::from_str::<Value>(&ran.stdout) {
            Ok(said) => said["deeds"].as_array().unwrap().iter().all(|deed| {
                deed["error"].as_str().is_none_or(|error| error.contains("in use by another"))
            }),
            Err(_) => kind(&ran) == "conflict",
        };
        assert!(ran.code == 1 && others, "{ran:?}");
    }

    pub(crate) fn work(&mut self, goes_on: impl Fn() -> bool) {
        while goes_on() {
            match self.dice.below(10) {
                0..=3 => self.alone(),
                4 | 5 => self.hold(),
                6 => self.tell(),
                7 => self.collect(),
                _ => self.together(),
            }
        }
    }
}
