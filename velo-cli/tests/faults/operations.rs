//! What is tried: every operation, what it needs, and what may be there after it.

use std::any::Any;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::common::whole::{cut_power, main_is_well, outlive};
use super::common::{Home, engine, wait_until};
use super::library;
use super::place::{Place, Runtime, Storage, ask};

/// An operation, what it needs, and what may be there after it.
pub struct Operation {
    pub args: &'static [&'static str],
    /// Whether it is the library's, and the command has none such.
    pub by_library: bool,
    /// What it is told by the environment.
    pub env: &'static [(&'static str, &'static str)],
    /// What is made before each try.
    pub prepare: fn(&Home),
    /// Whether what is there is right, after an end that was a success or not.
    pub outcome: fn(&Home, bool, &str),
    /// What brings to its end what is left half-way, where every opening of the home does not.
    pub ends: &'static [&'static str],
    /// What happens at a moment of it, or before it, and what is held until it has ended.
    pub beside: Option<(Moment, Beside)>,
    /// Whether it ends with an error where nothing else goes wrong.
    pub is_refused: bool,
    /// The first and the last step of the part that is tried, where the rest is another operation's. In
    /// long runs all of it is.
    pub part: Option<(&'static str, &'static str)>,
    fits: fn(&Place) -> bool,
}

pub enum Moment {
    Before,
    At(&'static str),
}

/// What somebody else does. Told the file to which the operation's steps are added.
pub type Beside = fn(&Home, &Path) -> Box<dyn Any>;

impl Operation {
    const fn new(
        args: &'static [&'static str],
        prepare: fn(&Home),
        outcome: fn(&Home, bool, &str),
    ) -> Self {
        Self {
            args,
            by_library: false,
            env: &[],
            prepare,
            outcome,
            ends: &[],
            beside: None,
            is_refused: false,
            part: None,
            fits: |_| true,
        }
    }

    const fn ended_by(mut self, ends: &'static [&'static str]) -> Self {
        self.ends = ends;
        self
    }

    const fn by_library(mut self) -> Self {
        self.by_library = true;
        self
    }

    const fn with_env(mut self, env: &'static [(&'static str, &'static str)]) -> Self {
        self.env = env;
        self
    }

    const fn beside(mut self, moment: Moment, what: Beside) -> Self {
        self.beside = Some((moment, what));
        self
    }

    const fn refused(mut self) -> Self {
        self.is_refused = true;
        self
    }

    const fn between(mut self, first: &'static str, last: &'static str) -> Self {
        self.part = Some((first, last));
        self
    }

    /// Where it can be tried.
    const fn only(mut self, fits: fn(&Place) -> bool) -> Self {
        self.fits = fits;
        self
    }

    pub fn fits(&self, place: &Place) -> bool {
        (self.fits)(place)
    }

    /// Whether it can be tried in this kind of place alone.
    pub fn is_of(&self, place: &Place) -> bool {
        self.fits(place) && !(self.fits)(&Place::new(Storage::Btrfs, "/".into()))
    }

    /// What a person would write.
    pub fn shown(&self) -> String {
        let env = self.env.iter().map(|(key, value)| format!("{key}={value} ")).collect::<String>();
        let what = if self.by_library { "library:" } else { "velo" };
        let beside = match self.beside {
            Some((Moment::At(at), _)) => format!(", disturbed {at}"),
            _ => String::new(),
        };
        format!("{env}{what} {}{beside}", self.args.join(" "))
    }
}

const ROWS: &str = "SELECT count(*), sum(x) FROM t";
const WHOLE: &str = "1000|500500";

fn nothing(_: &Home) {}

fn branch(home: &Home) {
    home.ok(&["branch", "create", "api/b"]);
}

/// A branch whose data is not its parent's any more.
fn changed_branch(home: &Home) {
    branch(home);
    home.sql("api/b", "DELETE FROM t; CREATE TABLE mine (x int)");
}

fn stopped_branch(home: &Home) {
    changed_branch(home);
    home.ok(&["branch", "stop", "api/b"]);
}

/// As it is when the disk was full.
fn without_reserve(home: &Home) {
    let _ = std::fs::remove_file(home.path().join("reserve"));
}

fn snapshot(home: &Home) {
    home.ok(&["snapshot", "create", "api/main@s"]);
}

fn tree(home: &Home) {
    branch(home);
    home.ok(&["snapshot", "create", "api/b@s"]);
    home.ok(&["branch", "create", "api/c", "--from", "b@s"]);
}

fn project(home: &Home) {
    home.ok(&["project", "create", "other"]);
    home.ok(&["branch", "create", "other/b"]);
    home.ok(&["snapshot", "create", "other/b@s"]);
}

/// Processes that died in the middle of these; all are found at once.
fn died(home: &Home, operations: &[(&[&str], usize)]) {
    changed_branch(home);
    // Held by the one who cleans up, so that none of these undoes what those before it left.
    let lock = home.path().join("locks/reconcile");
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(lock);
    let lock = lock.unwrap();
    lock.lock().unwrap();
    for (args, moment) in operations {
        let mut velo = home.command();
        velo.args(*args).env("VELO_TEST_FAULT", format!("kill@{moment}"));
        let ran = velo.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(!ran.success(), "{args:?} has fewer moments than {moment}");
    }
}

const SNAPSHOT: (&[&str], usize) = (&["snapshot", "create", "api/main@s"], 8);

fn dead(home: &Home) {
    died(home, &[SNAPSHOT]);
}

/// A reset whose process died when its new data was there.
fn dead_reset(home: &Home) {
    died(home, &[(&["branch", "reset", "api/b"], 32)]);
}

pub fn is_there(home: &Home, branch: &str) -> bool {
    home.branches().contains(&branch.to_owned())
}

/// It was made, and all of it, or it is not there.
fn made(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "api/b");
    assert!(there || !done, "{what}: it was done, and is not there");
    if there {
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

fn gone(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "api/b");
    assert!(!there || !done, "{what}: it was done, and is there");
    if there {
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

/// The tree went as a whole.
fn tree_gone(home: &Home, done: bool, what: &str) {
    gone(home, done, what);
    assert_eq!(is_there(home, "api/b"), is_there(home, "api/c"), "{what}");
}

fn alone(home: &Home, _: bool, what: &str) {
    assert_eq!(home.branches(), ["api/main"], "{what}");
}

/// The URL answers with the old data or the new, and with the whole of it.
fn old_or_new(home: &Home, done: bool, what: &str) {
    let state = home.sql("api/b", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t");
    assert!(state == "f|1000" || (state == "t|0" && !done), "{what}: {state}");
    home.sql("api/b", "CREATE TABLE usable AS SELECT 1 AS x");
}

fn state_of(home: &Home, branch: &str) -> String {
    home.json(&["branch", "get", branch])["state"].as_str().unwrap().to_owned()
}

fn stopped(home: &Home, done: bool, what: &str) {
    assert!(!done || state_of(home, "api/b") == "stopped", "{what}");
    kept(home, what);
}

fn started(home: &Home, done: bool, what: &str) {
    assert!(!done || state_of(home, "api/b") == "running", "{what}");
    kept(home, what);
}

/// Its data is what it was, once it runs.
fn kept(home: &Home, what: &str) {
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(
        home.sql("api/b", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t"),
        "t|0",
        "{what}"
    );
}

pub fn snapshots(home: &Home, project: &str) -> usize {
    home.json(&["snapshot", "list", project]).as_array().unwrap().len()
}

pub fn seeds(home: &Home) -> Value {
    home.json(&["seed", "list"])
}

/// It is there and whole, or not there.
fn seeded(home: &Home, done: bool, what: &str) {
    let there = seeds(home);
    let there = there.as_array().unwrap();
    assert!(there.len() == 1 || !done, "{what}: it was done, and is not there");
    assert!(there.iter().all(|seed| seed["ready"] == true), "{what}: {there:?}");
}

fn snapshot_made(home: &Home, done: bool, what: &str) {
    assert!(snapshots(home, "api") == 1 || !done, "{what}");
    if snapshots(home, "api") == 1 {
        home.ok(&["branch", "create", "api/b", "--from", "main@s"]);
        assert_eq!(home.sql("api/b", ROWS), WHOLE, "{what}");
    }
}

fn snapshot_gone(home: &Home, done: bool, what: &str) {
    assert!(snapshots(home, "api") == 0 || !done, "{what}");
    snapshot_made(home, false, what);
}

pub fn has_project(home: &Home) -> bool {
    let list = home.json(&["project", "list"]);
    list.as_array().unwrap().iter().any(|p| p["name"] == "other")
}

fn project_made(home: &Home, done: bool, what: &str) {
    assert!(has_project(home) || !done, "{what}");
    if has_project(home) {
        assert_eq!(home.sql("other/main", "SELECT 1"), "1", "{what}");
    }
}

fn project_gone(home: &Home, done: bool, what: &str) {
    assert!(!has_project(home) || !done, "{what}");
    if has_project(home) {
        assert_eq!(home.sql("other/b", "SELECT 1"), "1", "{what}");
        assert_eq!(snapshots(home, "other"), 1, "{what}");
    }
}

/// What the dead left is finished or undone, whoever died over it as well.
fn cleaned(home: &Home, _: bool, what: &str) {
    assert_eq!(home.branches(), ["api/main", "api/b"], "{what}");
    assert_eq!(snapshots(home, "api"), 0, "{what}");
    old_or_new(home, false, what);
}

fn timed(home: &Home, done: bool, what: &str) {
    let expires = &home.json(&["branch", "get", "api/b"])["expires_at"];
    assert!(expires.is_u64() || !done, "{what}");
}

fn is_protected(home: &Home) -> bool {
    home.json(&["branch", "get", "api/b"])["protected"].as_bool().unwrap()
}

fn protected_branch(home: &Home) {
    branch(home);
    home.ok(&["branch", "protect", "api/b"]);
}

fn protected(home: &Home, done: bool, what: &str) {
    assert!(is_protected(home) || !done, "{what}");
    home.ok(&["branch", "unprotect", "api/b"]);
}

fn unprotected(home: &Home, done: bool, what: &str) {
    assert!(!is_protected(home) || !done, "{what}");
    home.ok(&["branch", "unprotect", "api/b"]);
}

/// A branch whose time is up.
fn expired(home: &Home) {
    branch(home);
    outlive(home, "api/b");
}

/// What dead processes left, a branch whose time is up, and files of what is not there.
fn leftovers(home: &Home) {
    // What else may be left is found in the same way as by any other command.
    died(home, &[SNAPSHOT]);
    let [folder, lock] =
        [("run", "01M85Q712A381HG2QDVG2FJSJX"), ("locks", "01M85Q712A381HG2QDVG2FJSJY")]
            .map(|(shelf, name)| home.path().join(shelf).join(name));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("postgres.log"), "").unwrap();
    std::fs::write(lock, "").unwrap();
}

/// Data that no record names.
fn strays(home: &Home) {
    for shelf in ["volumes", "snapshots"] {
        let folder = home.path().join(shelf).join("01M85Q712A381HG2QDVG2FJSJX");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("PG_VERSION"), "15").unwrap();
    }
}

/// Data and a container that no record names.
fn strays_and_a_container(home: &Home) {
    strays(home);
    let (engine, image) = engine().unwrap();
    let volume = home.path().join("volumes/01M87Q712A381HG2QDVG2FJSJX");
    // As this home's own say it, and those of another one of its path do not.
    let found = home.path().metadata().unwrap();
    let born = found.created().unwrap().duration_since(UNIX_EPOCH).unwrap();
    let folder = format!("{}-{}", found.ino(), born.as_nanos());
    let body = json!({
        "Image": image,
        "Cmd": ["true"],
        "Labels": { "velo.home": home.path(), "velo.volume": volume, "velo.folder": folder },
    });
    ask(
        &engine,
        "POST",
        "/containers/create?name=velo-01m87q712a381hg2qdvg2fjsjx",
        &body.to_string(),
    );
}

/// A server that ought to run and does not, and a socket of one that ought not to.
fn at_odds(home: &Home) {
    changed_branch(home);
    home.ok(&["branch", "create", "api/c"]);
    cut_power(home);
    home.ok(&["branch", "start", "api/main"]);
    home.ok(&["branch", "stop", "api/c"]);
    let get = home.json(&["branch", "get", "api/c"]);
    let folder = home.path().join("run").join(get["id"].as_str().unwrap()).join("s");
    assert!(folder.join(format!(".s.PGSQL.{}", get["port"])).exists());
}

fn in_accord(home: &Home, _: bool, what: &str) {
    assert_eq!(state_of(home, "api/b"), "running", "{what}");
    assert_eq!(state_of(home, "api/c"), "stopped", "{what}");
    kept(home, what);
}

fn all_stopped(home: &Home) {
    changed_branch(home);
    home.ok(&["stop", "--all"]);
}

fn all_run(home: &Home, _: bool, what: &str) {
    assert_eq!(state_of(home, "api/b"), "running", "{what}");
    kept(home, what);
}

/// A parent that no file system's own snapshot makes consistent: it is cloned in backup mode.
fn unsynced_parent(home: &Home) {
    let set = ["--set", "fsync=off", "--set", "full_page_writes=off"];
    home.ok(&[&["branch", "create", "api/p"][..], &set].concat());
}

/// A branch of it is whole or not there; it is not left in backup mode, has no slot left, and works.
fn made_of_unsynced(home: &Home, done: bool, what: &str) {
    made(home, done, what);
    let url = home.ok(&["branch", "url", "api/p"]);
    main_is_well(url.trim(), what);
}

/// A parent that would pull from another server.
fn subscribed_parent(home: &Home) {
    parent(home);
    home.sql(
        "api/p",
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION x WITH (connect = false)",
    );
}

/// A branch of it is whole and pulls from nobody, or it is not there.
fn made_of_subscribed(home: &Home, done: bool, what: &str) {
    made(home, done, what);
    if is_there(home, "api/b") {
        let bound =
            "SELECT count(*) FROM pg_subscription WHERE subenabled OR subslotname IS NOT NULL";
        assert_eq!(home.sql("api/b", bound), "0", "{what}");
    }
}

/// Somebody who holds a slot, until this is dropped or the file says that another one waits for it.
struct Holder(Child, std::path::PathBuf);

impl Drop for Holder {
    fn drop(&mut self) {
        std::fs::write(&self.1, "").unwrap();
        assert!(self.0.wait().unwrap().success() || std::thread::panicking());
        std::fs::remove_file(&self.1).unwrap();
    }
}

fn hold(home: &Home, until: &str) -> Box<dyn Any> {
    let (held, free) = (home.dir().join("held"), home.dir().join("free"));
    let script = format!(
        "touch {}; until [ -e {} ]{until}; do sleep 0.02; done",
        held.display(),
        free.display()
    );
    let mut velo = home.command();
    velo.args(["run", "api", "--", "sh", "-c", &script]);
    let child = velo.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut holder = Holder(child, free);
    wait_until("somebody holds a slot", || {
        held.exists() || holder.0.try_wait().unwrap().is_some_and(|ended| panic!("{ended}"))
    });
    std::fs::remove_file(held).unwrap();
    Box::new(holder)
}

fn a_holder(home: &Home, _: &Path) -> Box<dyn Any> {
    hold(home, "")
}

/// It goes when somebody has joined the line behind it.
fn a_holder_that_goes(home: &Home, steps: &Path) -> Box<dyn Any> {
    hold(home, &format!(" || grep -qs 'after join the line' {}", steps.display()))
}

/// Takes the port that a branch is about to listen on, unless another test's server has it.
fn take_its_port(home: &Home, _: &Path) -> Box<dyn Any> {
    let list = home.json(&["branch", "list"]);
    let list = list.as_array().unwrap();
    let branch = list.iter().find(|branch| branch["name"] == "api/b").unwrap();
    let port = u16::try_from(branch["port"].as_u64().unwrap()).unwrap();
    match TcpListener::bind(("127.0.0.1", port)) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => Box::new(()),
        taken => Box::new(taken.unwrap()),
    }
}

/// A parent of a branch that is made.
fn parent(home: &Home) {
    home.ok(&["branch", "create", "api/p"]);
}

fn reset_its_parent(home: &Home, _: &Path) -> Box<dyn Any> {
    home.ok(&["branch", "reset", "api/p"]);
    Box::new(())
}

/// It is persistent, under its name, whole and running; or it went with its process.
fn kept_or_gone(home: &Home, done: bool, what: &str) {
    let kept = format!("api/{}", library::KEPT);
    let there = is_there(home, &kept);
    assert!(there || !done, "{what}: it was done, and is not there");
    if there {
        assert_eq!(state_of(home, &kept), "running", "{what}");
        assert_eq!(home.sql(&kept, ROWS), WHOLE, "{what}");
    }
}

/// `main`, and one more.
const TWO: &[(&str, &str)] = &[("VELO_MAX_RUNNING", "2")];
const TWO_AND_NO_WAIT: &[(&str, &str)] = &[("VELO_MAX_RUNNING", "2"), ("VELO_SLOT_TIMEOUT", "1")];

/// A project that keeps WAL, with rows that go.
fn archiving(home: &Home) {
    home.ok(&["project", "create", "other", "--wal-retention", "7d"]);
    home.sql("other/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 1000) x");
}

/// The same, with a moment that has a name before they went.
fn named_moment(home: &Home) {
    archiving(home);
    home.ok(&["restore-point", "create", "other", "whole"]);
    home.sql("other/main", "DELETE FROM t");
}

/// A branch of it whose data has an archive of its own.
fn archiving_branch(home: &Home) {
    archiving(home);
    home.ok(&["branch", "create", "other/b"]);
    home.sql("other/b", "DELETE FROM t; CREATE TABLE mine (x int)");
}

/// WAL that is older than it is to be kept: none of it is.
fn old_wal(home: &Home) {
    archiving(home);
    home.ok(&["snapshot", "create", "other/main@first"]);
    home.sql("other/main", "SELECT pg_switch_wal()");
    home.ok(&["snapshot", "create", "other/main@later"]);
    home.sql("other/main", "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()");
    home.ok(&["project", "set", "other", "--wal-retention", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

/// WAL that is to go, and no snapshot that is newer.
fn unpruned_wal(home: &Home) {
    archiving(home);
    for _ in 0..3 {
        home.sql("other/main", "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()");
    }
    home.ok(&["project", "set", "other", "--wal-retention", "1s"]);
    wait_until("segments are archived", || {
        let one = &home.json(&["wal", "info", "other"])["incarnations"][0];
        one["waiting"] == 0 && one["segments"].as_u64().unwrap() >= 3
    });
    std::thread::sleep(std::time::Duration::from_millis(600));
}

fn scheduled(home: &Home) {
    archiving(home);
    home.ok(&["snapshot", "schedule", "other"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    home.ok(&["snapshot", "schedule", "other"]);
}

/// It is there as it was at that moment, or not there.
fn recovered(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "other/b");
    assert!(there || !done, "{what}: it was done, and is not there");
    if there {
        assert_eq!(home.sql("other/b", ROWS), WHOLE, "{what}");
    }
    assert_eq!(home.sql("other/main", "SELECT count(*) FROM t"), "0", "{what}");
}

/// The project's main works, and any moment of it can be reached from now on.
fn archives(home: &Home, done: bool, what: &str) {
    assert!(has_project(home) || !done, "{what}");
    if has_project(home) {
        home.ok(&["branch", "restart", "other/main"]);
        home.ok(&["branch", "create", "other/now", "--at", "now"]);
        assert_eq!(home.sql("other/now", "SELECT 1"), "1", "{what}");
    }
}

/// The same, and nothing that was pruned is taken for missing.
fn pruned(home: &Home, done: bool, what: &str) {
    archives(home, done, what);
    let wal = home.json(&["wal", "info", "other"]);
    for one in wal["incarnations"].as_array().unwrap() {
        assert_eq!(one["holes"], json!([]), "{what}: {wal}");
    }
}

/// Old or new data, and moments of the old are there.
fn reset_archived(home: &Home, done: bool, what: &str) {
    let state = home.sql("other/b", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t");
    assert!(state == "f|1000" || (state == "t|0" && !done), "{what}: {state}");
    let wal = home.json(&["wal", "info", "other/b"]);
    for one in wal["incarnations"].as_array().unwrap() {
        assert_eq!(one["holes"], json!([]), "{what}");
        // Of one that came to nothing there is none.
        assert!(one["ended_at"].is_null() || one["bases"] != 0, "{what}: {wal}");
    }
}

/// It works, whether its WAL is kept or not.
fn archives_no_more(home: &Home, done: bool, what: &str) {
    let kept = &home.json(&["project", "get", "other"])["wal_retention"];
    assert!(kept.is_null() || !done, "{what}: {kept}");
    assert_eq!(home.sql("other/main", ROWS), WHOLE, "{what}");
}

fn archived_branch_gone(home: &Home, done: bool, what: &str) {
    let there = is_there(home, "other/b");
    assert!(!there || !done, "{what}: it was done, and is there");
}

/// What a masking file and a transform have to do with.
const REAL: &str = "CREATE TABLE people (id int2 PRIMARY KEY, email text); INSERT INTO people VALUES (1, 'a@b'); \
    CREATE TABLE log (line text); INSERT INTO log VALUES ('x'); \
    CREATE MATERIALIZED VIEW emails AS SELECT email FROM people; SELECT lo_from_bytea(0, 'x'); \
    CREATE MATERIALIZED VIEW two AS SELECT 2 AS n; CREATE PUBLICATION everything FOR ALL TABLES";

const MASKING: &str = "large_objects = \"remove\"\nother_databases = \"drop\"\n[tables]\n\"public.t\" = \"keep\"\n\
    \"public.beat\" = \"keep\"\n\"public.trimmed\" = \"keep\"\n\"public.log\" = \"empty\"\n\"public.two\" = \"empty\"\n\
    [tables.\"public.people\"]\nid = \"hash\"\nemail = \"fake:email\"\n";

/// Files that are named from the home's folder: of a server that was stopped, and what is to become of them.
fn real_files(home: &Home) {
    let pgdata = home.dir().join("pgdata");
    if pgdata.exists() {
        return;
    }
    home.ok(&["branch", "create", "api/real"]);
    home.sql("api/real", REAL);
    home.sql("api/real", "CREATE DATABASE another");
    let url = home.ok(&["branch", "url", "api/real"]);
    let url = url.trim().strip_suffix("/postgres").unwrap();
    for database in ["another", "template1"] {
        main_has(&format!("{url}/{database}"), "CREATE TABLE t (x int)");
    }
    let pid = &home.json(&["branch", "get", "api/real"])["pid"];
    let data = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    home.ok(&["branch", "stop", "api/real"]);
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &pgdata]).status();
    assert!(copied.unwrap().success());
    home.ok(&["branch", "delete", "api/real"]);
    std::fs::write(home.dir().join("trim.sql"), "CREATE TABLE trimmed (x int)").unwrap();
    std::fs::write(home.dir().join("masking.toml"), MASKING).unwrap();
}

fn main_has(url: &str, sql: &str) {
    super::common::psql(url, sql);
}

/// A dump of `main`, compressed.
fn real_dump(home: &Home) {
    let file = home.dir().join("dump.gz");
    if file.exists() {
        return;
    }
    let url = home.ok(&["branch", "url", "api/main"]);
    let pg_dump = super::common::client().with_file_name("pg_dump");
    let script = format!(
        "'{}' -Fc -Z0 -d '{}' | gzip -1 > '{}'",
        pg_dump.display(),
        url.trim(),
        file.display()
    );
    let made = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(made.success());
}

/// A project that was made of it, and has changed since.
fn imported(home: &Home) {
    real_dump(home);
    home.ok(&[
        "project",
        "create",
        "other",
        "--from",
        home.dir().join("dump.gz").to_str().unwrap(),
    ]);
    home.sql("other/main", "DELETE FROM t; CREATE TABLE mine (x int)");
}

/// It is there, masked and transformed, or not there.
fn real_made(home: &Home, done: bool, what: &str) {
    assert!(has_project(home) || !done, "{what}: it was done, and is not there");
    if has_project(home) {
        assert_eq!(home.sql("other/main", ROWS), WHOLE, "{what}");
        let masked = "SELECT count(*) FROM people WHERE email ~ '@example.com'";
        assert_eq!(home.sql("other/main", masked), "1", "{what}");
        home.sql("other/main", "SELECT * FROM trimmed");
    }
}

fn dump_read(home: &Home, done: bool, what: &str) {
    assert!(has_project(home) || !done, "{what}: it was done, and is not there");
    if has_project(home) {
        assert_eq!(home.sql("other/main", ROWS), WHOLE, "{what}");
    }
}

/// Its main has the old data or the new, under its URL, and the whole of it.
fn refreshed(home: &Home, done: bool, what: &str) {
    let state = home.sql("other/main", "SELECT to_regclass('mine') IS NOT NULL, count(*) FROM t");
    assert!(state == "f|1000" || (state == "t|0" && !done), "{what}: {state}");
    home.ok(&["branch", "create", "other/b"]);
}

/// A project that was copied from `api/main`, while that runs.
fn copied(home: &Home) {
    let url = home.ok(&["branch", "url", "api/main"]);
    home.ok(&["project", "create", "other", "--from", url.trim(), "--save-password"]);
}

/// The same, whose main follows `api/main`.
fn follower(home: &Home) {
    copied(home);
    home.ok(&["project", "follow", "other"]);
}

/// Its main follows, or is a server of its own; the whole of it either way, and a branch of it is one as well.
fn follows_or_not(home: &Home, what: &str) -> bool {
    let follows = !home.json(&["project", "get", "other"])["follows"].is_null();
    let recovers = home.sql("other/main", "SELECT pg_is_in_recovery()");
    assert_eq!(recovers, if follows { "t" } else { "f" }, "{what}");
    assert_eq!(home.sql("other/main", ROWS), WHOLE, "{what}");
    if !is_there(home, "other/b") {
        home.ok(&["branch", "create", "other/b"]);
    }
    assert_eq!(home.sql("other/b", "SELECT pg_is_in_recovery(), current_user"), "f|velo", "{what}");
    assert_eq!(home.sql("other/b", ROWS), WHOLE, "{what}");
    let run = home.path().join("run");
    let files = std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path().join("passfile"));
    let secrets = files.filter(|file| file.exists()).count();
    assert_eq!(secrets, usize::from(follows), "{what}: a password is left");
    follows
}

fn followed(home: &Home, done: bool, what: &str) {
    assert!(follows_or_not(home, what) || !done, "{what}: it was done, and nothing follows");
}

fn follows_no_more(home: &Home, done: bool, what: &str) {
    assert!(!follows_or_not(home, what) || !done, "{what}: it was done, and main follows still");
}

fn made_of_a_standby(home: &Home, done: bool, what: &str) {
    assert!(is_there(home, "other/b") || !done, "{what}: it was done, and is not there");
    assert!(follows_or_not(home, what), "{what}");
}

/// Nothing. What has somebody beside it is not tried on a disk that is full: there a standby waits for space,
/// tries again every five seconds, and says so in its log alone.
fn nobody(_: &Home, _: &Path) -> Box<dyn Any> {
    Box::new(())
}

/// A copy keeps no state that it began with.
fn keeps_origins(place: &Place) -> bool {
    place.storage != Storage::Copy
}

/// Volumes are folders of the home, and servers are processes that stay dead when they are killed.
fn has_folders_and_processes(place: &Place) -> bool {
    place.storage != Storage::Zfs && place.runtime == Runtime::Process
}

/// Servers have the PostgreSQL that dumps are made with.
fn has_processes(place: &Place) -> bool {
    place.runtime == Runtime::Process
}

pub const OPERATIONS: &[Operation] = &[
    Operation::new(&["branch", "create", "api/b"], nothing, made),
    Operation::new(&["branch", "create", "api/b", "--from", "main@s"], snapshot, made)
        .between("record a branch", "storage: clone a volume"),
    Operation::new(&["run", "api", "--", "true"], nothing, alone),
    Operation::new(&["branch", "reset", "api/b"], changed_branch, old_or_new),
    Operation::new(&["branch", "reset", "api/b", "--to-origin"], changed_branch, old_or_new)
        .between("record a reset", "storage: clone a volume")
        .only(keeps_origins),
    Operation::new(&["branch", "stop", "api/b"], changed_branch, stopped),
    Operation::new(&["branch", "start", "api/b"], stopped_branch, started),
    Operation::new(&["branch", "restart", "api/b"], changed_branch, started),
    Operation::new(&["branch", "delete", "api/b"], branch, gone),
    Operation::new(&["branch", "delete", "api/b", "--force"], tree, tree_gone),
    Operation::new(&["snapshot", "create", "api/main@s"], nothing, snapshot_made),
    Operation::new(&["snapshot", "delete", "api/main@s"], snapshot, snapshot_gone),
    Operation::new(&["project", "create", "other"], without_reserve, project_made),
    Operation::new(&["project", "create", "other", "--database", "app"], nothing, project_made)
        .between("runtime: start", "commit a project"),
    Operation::new(&["project", "delete", "other", "--force"], project, project_gone),
    Operation::new(&["status"], dead, cleaned),
    Operation::new(&["status"], dead_reset, cleaned)
        .between("end a reset", "record that a server was switched"),
    Operation::new(&["branch", "ttl", "api/b", "2h"], branch, timed),
    Operation::new(&["branch", "protect", "api/b"], branch, protected),
    Operation::new(&["branch", "unprotect", "api/b"], protected_branch, unprotected),
    Operation::new(&["status"], expired, alone),
    Operation::new(&["gc"], leftovers, cleaned).ended_by(&["gc"]),
    Operation::new(&["gc", "--unrecorded"], strays, alone)
        .ended_by(&["gc", "--unrecorded"])
        .only(has_folders_and_processes),
    Operation::new(&["doctor", "--fix"], at_odds, in_accord)
        .ended_by(&["doctor", "--fix"])
        .only(has_folders_and_processes),
    Operation::new(&["start", "--all"], all_stopped, all_run).ended_by(&["start", "--all"]),
    Operation::new(&["stop", "--all"], changed_branch, all_run).ended_by(&["start", "--all"]),
    Operation::new(
        &["branch", "create", "api/b", "--from", "p"],
        unsynced_parent,
        made_of_unsynced,
    )
    .between("begin a backup", "end a backup"),
    Operation::new(
        &["branch", "create", "api/b", "--from", "p"],
        subscribed_parent,
        made_of_subscribed,
    )
    .between(
        "cut its subscriptions off from their publishers",
        "cut its subscriptions off from their publishers",
    ),
    Operation::new(&["run", "api", "--", "true"], nothing, alone)
        .with_env(TWO)
        .beside(Moment::Before, a_holder_that_goes)
        .between("join the line for a slot", "record a branch"),
    Operation::new(&["run", "api", "--", "true"], nothing, alone)
        .with_env(TWO_AND_NO_WAIT)
        .beside(Moment::Before, a_holder)
        .refused(),
    Operation::new(&["branch", "create", "api/b"], nothing, made)
        .beside(Moment::At("before runtime: start"), take_its_port)
        .between("runtime: start", "record another port"),
    Operation::new(&["branch", "start", "api/b"], stopped_branch, started)
        .beside(Moment::At("before runtime: start"), take_its_port)
        .refused()
        .between("runtime: start", "record that a server stays off")
        .only(has_folders_and_processes),
    Operation::new(&["branch", "create", "api/b", "--from", "p"], parent, made)
        .beside(Moment::At("after record a branch"), reset_its_parent)
        .between("record a branch", "record another source")
        .only(|place| place.storage == Storage::Zfs),
    Operation::new(&["gc", "--unrecorded"], strays_and_a_container, alone)
        .ended_by(&["gc", "--unrecorded"])
        .only(|place| place.runtime != Runtime::Process),
    Operation::new(&["project", "create", "other", "--wal-retention", "7d"], nothing, archives)
        .between("record a WAL archive", "commit a project"),
    Operation::new(&["branch", "create", "other/b", "--at-name", "whole"], named_moment, recovered)
        .between("make the folder of WAL to replay", "runtime: stop"),
    Operation::new(&["branch", "reset", "other/b"], archiving_branch, reset_archived)
        .between("point a branch to a volume", "end a WAL archive"),
    Operation::new(&["branch", "delete", "other/b"], archiving_branch, archived_branch_gone)
        .between("remove a WAL archive", "forget a WAL archive"),
    Operation::new(&["wal", "prune", "other"], old_wal, pruned)
        .between("hide a snapshot or let it go", "prune a WAL archive"),
    Operation::new(&["wal", "prune", "other"], unpruned_wal, archives)
        .between("record a base", "note that an archive has a base"),
    // Its data stays, for moments are reached from it.
    Operation::new(&["snapshot", "delete", "other/main@later"], old_wal, archives)
        .between("mark a snapshot to go", "mark a snapshot to go"),
    Operation::new(
        &["project", "set", "other", "--wal-retention", "none", "--restart"],
        archiving,
        archives_no_more,
    )
    .between("record how long WAL is kept", "note whether WAL is archived"),
    Operation::new(&["restore-point", "create", "other", "again"], archiving, archives)
        .between("create a restore point", "create a restore point"),
    Operation::new(&["snapshot", "schedule", "other"], archiving, archives)
        .between("record a snapshot", "commit a snapshot"),
    Operation::new(&["snapshot", "prune", "other", "--keep-last", "1"], scheduled, archives)
        .between("mark a snapshot to go", "forget a snapshot"),
    Operation::new(
        &[
            "project",
            "create",
            "other",
            "--from",
            "pgdata",
            "--database",
            "postgres",
            "--reindex",
            "--transform",
            "trim.sql",
            "--mask",
            "masking.toml",
        ],
        real_files,
        real_made,
    )
    .between("take over files", "storage: edit")
    .only(has_folders_and_processes),
    Operation::new(
        &["project", "create", "other", "--from", "dump.gz", "--database", "app"],
        real_dump,
        dump_read,
    )
    .between("make the folder of a dump", "make way for a database")
    .only(has_processes),
    Operation::new(&["project", "refresh", "other"], imported, refreshed)
        .between("point a branch to a volume", "end a refresh")
        .only(has_processes),
    Operation::new(&["project", "follow", "other"], copied, followed)
        .between("point a branch to a volume", "end a refresh")
        .beside(Moment::Before, nobody)
        .only(has_folders_and_processes),
    Operation::new(&["project", "follow", "other", "--stop"], follower, follows_no_more)
        .between("record that main is to follow no more", "make Velo's role")
        .beside(Moment::Before, nobody)
        .only(has_folders_and_processes),
    Operation::new(&["branch", "create", "other/b"], follower, made_of_a_standby)
        .between("make Velo's role", "make Velo's role")
        .beside(Moment::Before, nobody)
        .only(has_folders_and_processes),
    Operation::new(&[library::KEEP], nothing, kept_or_gone)
        .by_library()
        .between("runtime: stop", "record that a server was switched"),
    Operation::new(&[library::SEED], nothing, seeded)
        .by_library()
        .between("record a seed", "record a branch"),
    Operation::new(&[library::SEED], nothing, seeded)
        .by_library()
        .between("record what a seed is taken from", "remove a lock"),
    Operation::new(&[library::OPEN_OR_CREATE], nothing, project_made)
        .by_library()
        .between("runtime: start", "remove a lock by name"),
];
