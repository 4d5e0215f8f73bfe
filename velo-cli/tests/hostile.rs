//! What somebody damaged, planted or restored: it is refused or said, and nothing is destroyed that
//! nobody asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::whole::{names, processes};
use common::{Home, Ran, is_root, program, psql, wait_until};

/// The files of the state, which belong together.
const STATE: [&str; 3] = ["state.db", "state.db-wal", "state.db-shm"];

fn read_state(home: &Home) -> BTreeMap<&'static str, Vec<u8>> {
    let file = |name| Some((name, std::fs::read(home.path().join(name)).ok()?));
    STATE.into_iter().filter_map(file).collect()
}

/// Puts these in the place of what is there. The index of the WAL is made anew.
fn put_state(home: &Home, files: &BTreeMap<&'static str, Vec<u8>>) {
    for name in STATE {
        let path = home.path().join(name);
        let _ = std::fs::remove_file(&path);
        if let Some(bytes) = files.get(name).filter(|_| name != "state.db-shm") {
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// As root is in a container: it may not look at others' processes.
#[test]
#[cfg(target_os = "linux")]
fn root_without_a_right_to_trace_sees_its_servers() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let run = |args: &[&str]| -> Ran {
        let mut command = home.command_of(Path::new("setpriv"));
        command.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
        command.arg(program()).args(args).output().unwrap().into()
    };
    for args in [
        &["project", "create", "api"][..],
        &["branch", "create", "api/dev"],
        &["branch", "stop", "api/dev"],
        &["branch", "start", "api/dev"],
        &["run", "api", "--", "true"],
        &["branch", "delete", "api/dev"],
        &["branch", "restart", "api/main"],
        &["doctor"],
    ] {
        let ran = run(args);
        assert!(ran.code == 0 && !ran.stderr.contains("not gone"), "{args:?}: {ran:?}");
    }
    // One that was killed is no obstacle either.
    let pid = home.json(&["branch", "get", "api/main"])["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let ran = run(&["project", "delete", "api", "--force"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(processes(home.path()).is_empty());
}

#[test]
fn a_state_of_yesterday_destroys_nothing() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/gone"]);
    let yesterday = read_state(&home);
    home.ok(&["branch", "delete", "api/gone"]);
    home.ok(&["branch", "create", "api/new"]);
    home.sql("api/new", "CREATE TABLE precious AS SELECT 42 AS x");
    home.ok(&["snapshot", "create", "api/new@s"]);
    let url = home.ok(&["branch", "url", "api/new"]).trim().to_owned();
    let (volumes, snapshots) = (names(&home, "volumes"), names(&home, "snapshots"));
    put_state(&home, &yesterday);

    // What the records have and the disk has not, and the other way round.
    assert_eq!(home.branches(), ["api/main", "api/gone"]);
    let doctor = home.json_of(&["doctor"], 1).to_string();
    assert!(doctor.contains("recorded, and not there: the branch api/gone"), "{doctor}");
    let main = home.json(&["branch", "get", "api/main"])["id"].as_str().unwrap().to_owned();
    let unknown = volumes.iter().filter(|volume| doctor.contains(*volume)).count();
    assert_eq!(unknown, 1, "the volume of api/new is not named: {doctor}, main is {main}");
    home.fails(&["branch", "start", "api/gone"], 1, "gone");
    home.fails(&["branch", "get", "api/new"], 1, "api/new");

    // Work goes on beside it, and what nobody knows of stays, with its server.
    home.ok(&["branch", "create", "api/other"]);
    home.ok(&["branch", "delete", "api/other"]);
    home.ok(&["branch", "delete", "api/gone"]);
    home.ok(&["status"]);
    assert!(names(&home, "volumes").is_superset(&volumes));
    assert!(names(&home, "snapshots").is_superset(&snapshots));
    assert_eq!(psql(&url, "SELECT x FROM precious"), "42");
    home.ok(&["project", "delete", "api", "--force"]);
    assert_eq!(psql(&url, "SELECT x FROM precious"), "42");
    assert_eq!(names(&home, "volumes").len(), 1);
}

/// The state as it is in the middle of a command, which then ends well.
fn in_the_middle_of(home: &Home, args: &[&str], step: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let file =
        |name: &str| home.dir().join(format!("{name} of {}", args.join("-").replace('/', "-")));
    let (steps, gate, at) = (file("steps"), file("gate"), format!("before {step}"));
    let mut command = home.command();
    command.args(args).env("VELO_TEST_STEPS", &steps);
    command.env("VELO_TEST_GATE_AT", &at).env("VELO_TEST_GATE", &gate);
    let mut velo = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it waits", || std::fs::read_to_string(&steps).is_ok_and(|text| text.contains(&at)));
    let state = read_state(home);
    std::fs::write(gate, "").unwrap();
    assert!(velo.wait().unwrap().success(), "{args:?}");
    state
}

/// What was half done when the backup was made, and whole long since.
#[test]
fn a_state_of_the_middle_of_an_operation_destroys_nothing() {
    for (args, step, kept) in [
        (&["branch", "create", "api/b"][..], "commit a branch", "the branch api/b"),
        (&["project", "create", "other"], "commit a project", "the project other"),
        (&["snapshot", "create", "api/main@s"], "commit a snapshot", "the snapshot api/main@s"),
        (&["branch", "reset", "api/old"], "point a branch to a volume", "the reset api/old"),
        // Its server runs, and ought to.
        (&["branch", "start", "api/old"], "record that a server was switched", ""),
    ] {
        let home = Home::with_project();
        home.ok(&["branch", "create", "api/old"]);
        if args[1] == "start" {
            home.ok(&["branch", "stop", "api/old"]);
        }
        let state = in_the_middle_of(&home, args, step);
        // It is known as one that ended, and nothing is left under its lease.
        home.ok(&["branch", "list"]);
        assert!(names(&home, "leases").len() <= 1, "{:?}", names(&home, "leases"));
        let url = home.run(&["branch", "url", args[2]]).stdout.trim().to_owned();
        if args[0] == "branch" {
            psql(&url, "CREATE TABLE precious AS SELECT 42 AS x");
        }
        let (volumes, snapshots) = (names(&home, "volumes"), names(&home, "snapshots"));
        put_state(&home, &state);

        for args in [&["branch", "list"][..], &["gc"], &["gc", "--unrecorded", "--dry-run"]] {
            home.ok(args);
        }
        assert!(names(&home, "volumes").is_superset(&volumes), "{args:?}");
        assert!(names(&home, "snapshots").is_superset(&snapshots), "{args:?}");
        if args[0] == "branch" {
            assert_eq!(psql(&url, "SELECT x FROM precious"), "42", "{args:?}");
        }
        let doctor = home.run(&["doctor"]).stdout;
        if kept.is_empty() {
            assert!(!doctor.contains("never had"), "{args:?}: {doctor}");
            continue;
        }
        assert!(doctor.contains("never had") && doctor.contains(kept), "{args:?}: {doctor}");

        // What is said of how it can be removed is true.
        if args[..2] == ["branch", "create"] {
            home.fails(args, 1, "exists already");
            assert!(!home.run(args).stderr.contains("velo branch delete"), "{args:?}");
            assert!(!doctor.contains("velo branch delete"), "{doctor}");
        }

        // Somebody who knows can have it removed.
        let name = args[2];
        if args[1] == "reset" {
            home.ok(&["branch", "delete", name]);
        } else if args[0] == "snapshot" {
            home.ok(&["gc", "--unrecorded"]);
        } else {
            let refused = home.run(&["gc", "--unrecorded"]);
            assert!(refused.code == 1 && refused.stdout.contains("a server runs"), "{refused:?}");
            home.run(&["doctor", "--fix"]);
            home.ok(&["gc", "--unrecorded"]);
        }
        let doctor = home.run(&["doctor"]).stdout;
        assert!(!doctor.contains("never had"), "{name}: {doctor}");
        assert!(!names(&home, "volumes").is_superset(&volumes) || args[0] == "snapshot", "{name}");
        assert_eq!(home.sql("api/main", "SELECT 1"), "1");
    }
}

/// The same where nobody has opened the home in between: the lease that the backup names has a file still,
/// and looks like a dead process's.
#[test]
fn a_state_of_the_middle_of_the_last_operation_destroys_nothing() {
    for (args, step, kept) in [
        (&["branch", "create", "api/b"][..], "commit a branch", "the branch api/b"),
        (&["project", "create", "other"], "commit a project", "the project other"),
        (&["snapshot", "create", "api/main@s"], "commit a snapshot", "the snapshot api/main@s"),
    ] {
        let home = Home::with_project();
        let state = in_the_middle_of(&home, args, step);
        let (volumes, snapshots) = (names(&home, "volumes"), names(&home, "snapshots"));
        put_state(&home, &state);
        for args in [&["branch", "list"][..], &["gc"], &["gc"]] {
            home.ok(args);
        }
        assert!(names(&home, "volumes").is_superset(&volumes), "{args:?}");
        assert!(names(&home, "snapshots").is_superset(&snapshots), "{args:?}");
        let doctor = home.run(&["doctor"]).stdout;
        assert!(doctor.contains("never had") && doctor.contains(kept), "{args:?}: {doctor}");
        // What comes after it is a process's own as ever.
        home.ok(&["branch", "create", "api/after"]);
        home.ok(&["branch", "delete", "api/after"]);
        assert_eq!(home.sql("api/main", "SELECT 1"), "1");
        home.run(&["doctor", "--fix"]);
        home.ok(&["gc", "--unrecorded"]);
    }
}

#[test]
fn a_state_that_is_cut_short_or_scribbled_over() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    let whole = read_state(&home);
    let (volumes, run) = (names(&home, "volumes"), names(&home, "run"));
    let bytes = &whole["state.db"];
    let mut damaged: Vec<(String, Vec<u8>)> =
        [0, 1, 50, 99, 100, 1000, 4096, 8192, bytes.len() - 1]
            .into_iter()
            .filter(|length| *length < bytes.len())
            .map(|length| (format!("cut at {length}"), bytes[..length].to_vec()))
            .collect();
    for at in (0..bytes.len()).step_by(bytes.len() / 12 + 1) {
        let mut bytes = bytes.clone();
        let end = (at + 700).min(bytes.len());
        bytes[at..end].fill(0xa5);
        damaged.push((format!("scribbled over at {at}"), bytes));
    }
    let mut refused = 0;
    for (what, bytes) in damaged {
        let files = BTreeMap::from([("state.db", bytes)]);
        put_state(&home, &files);
        for args in
            [&["branch", "list"][..], &["status"], &["branch", "create", "api/c"], &["doctor"]]
        {
            let ran = home.run(&[args, &["--json"]].concat());
            // Where the damage is in nothing that is read, or in what is not used.
            assert!([0, 1].contains(&ran.code), "{what}: {args:?}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
            if args[0] == "branch" && ran.code == 1 {
                assert!(ran.stderr.contains("\"hint\":\""), "{what}: {ran:?}");
                refused += u32::from(ran.stderr.contains("\"corrupt\""));
            }
        }
        assert!(names(&home, "volumes").is_superset(&volumes), "{what}: a volume is gone");
        assert!(names(&home, "run").is_superset(&run), "{what}");
    }
    assert!(refused > 30, "only {refused} were called corrupt");
    put_state(&home, &whole);
    assert_eq!(home.branches(), ["api/main", "api/b"]);
    // What was made while the records were another's belongs to nobody.
    for volume in names(&home, "volumes").difference(&volumes) {
        wait_until("no server runs on it", || {
            let path = home.path().join("volumes").join(volume);
            for (pid, _) in processes(&path) {
                let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
            processes(&path).is_empty()
        });
    }
    assert_eq!(home.sql("api/main", "SELECT 1"), "1");
}

/// A folder of somebody else's that nothing may be changed in.
struct Victim {
    folder: PathBuf,
}

impl Victim {
    fn new(home: &Home) -> Self {
        let folder = home.dir().join("victim");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.join("file"), "precious").unwrap();
        Self { folder }
    }

    #[track_caller]
    fn is_untouched(&self, what: &str) {
        let meta = self.folder.metadata().unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{what}: its mode was changed");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{what}");
        let names: Vec<_> = std::fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(names.len(), 1, "{what}: {names:?}");
        assert_eq!(std::fs::read(self.folder.join("file")).unwrap(), b"precious", "{what}");
    }
}

/// Puts a link where something is, and what is there aside.
fn plant(at: &Path, to: &Path) -> PathBuf {
    let aside = at.with_extension("aside");
    if at.symlink_metadata().is_ok() {
        std::fs::rename(at, &aside).unwrap();
    }
    symlink(to, at).unwrap();
    aside
}

fn put_back(at: &Path, aside: &Path) {
    std::fs::remove_file(at).unwrap();
    if aside.exists() {
        std::fs::rename(aside, at).unwrap();
    }
}

#[test]
fn links_that_were_planted_in_the_home() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    let branch = home.json(&["branch", "get", "api/b"])["id"].as_str().unwrap().to_owned();
    let victim = Victim::new(&home);
    for name in ["run", "locks", "leases", "volumes", "snapshots"] {
        let at = home.path().join(name);
        let aside = plant(&at, &victim.folder);
        for args in [&["branch", "create", "api/c"][..], &["branch", "start", "api/b"], &["status"]]
        {
            let ran = home.run(args);
            assert_eq!(ran.code, 1, "{name}: {args:?}: {ran:?}");
            assert!(ran.stderr.contains("is a symbolic link"), "{name}: {ran:?}");
        }
        victim.is_untouched(name);
        put_back(&at, &aside);
    }
    for name in STATE {
        let at = home.path().join(name);
        let aside = plant(&at, &victim.folder.join("file"));
        home.run(&["branch", "create", "api/c", "--stopped"]);
        victim.is_untouched(name);
        put_back(&at, &aside);
        if name != "state.db" {
            // What belongs to a file that was written meanwhile.
            let _ = home.run(&["branch", "delete", "api/c"]);
        }
    }
    // In the folder of a server, whole or in part.
    for name in [String::new(), "/s".into()] {
        let folder = home.path().join("run").join(&branch);
        std::fs::create_dir_all(&folder).unwrap();
        let at = PathBuf::from(format!("{}{name}", folder.display()));
        let aside = plant(&at, &victim.folder);
        let ran = home.run(&["branch", "start", "api/b"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        victim.is_untouched(&name);
        put_back(&at, &aside);
    }
    for name in ["hba.conf", "ident.conf", "hba.conf.new", "postgres.log"] {
        let at = home.path().join("run").join(&branch).join(name);
        plant(&at, &victim.folder.join("file"));
        home.run(&["branch", "start", "api/b"]);
        home.run(&["branch", "stop", "api/b"]);
        victim.is_untouched(name);
        let _ = std::fs::remove_file(&at);
    }
    home.ok(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
    // A volume that is a link: the link goes, and not what it leads to.
    home.ok(&["branch", "stop", "api/b"]);
    let data = home.sql("api/main", "SHOW data_directory");
    let volumes = home.path().join("volumes");
    let mut own = names(&home, "volumes").into_iter().map(|name| volumes.join(name));
    let own = own.find(|path| path.canonicalize().unwrap() != Path::new(&data)).unwrap();
    let aside = plant(&own, &victim.folder);
    home.run(&["branch", "start", "api/b"]);
    home.run(&["branch", "delete", "api/b"]);
    victim.is_untouched("a volume");
    let _ = std::fs::remove_file(&own);
    if home.branches().len() == 2 {
        std::fs::rename(aside, own).unwrap();
    } else {
        std::fs::remove_dir_all(aside).unwrap();
    }
}

/// Runs `velo` as far as it may go in half a minute.
fn in_time(home: &Home, args: &[&str]) -> Ran {
    let mut limited = home.command_of(Path::new("timeout"));
    let limited = limited.env("VELO_START_TIMEOUT", "5").arg("30").arg(program());
    let ran: Ran = limited.args(args).output().unwrap().into();
    assert_ne!(ran.code, 124, "velo {args:?} waits for ever: {ran:?}");
    ran
}

/// A pipe that nobody ever writes to.
fn plant_pipe(at: &Path) {
    let _ = std::fs::remove_file(at);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn what_a_servers_user_leaves_in_its_data_is_not_waited_for() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    let main = home.sql("api/main", "SHOW data_directory");
    let volumes = home.path().join("volumes");
    let mut own = names(&home, "volumes").into_iter().map(|name| volumes.join(name));
    let data = own.find(|path| path.canonicalize().unwrap() != Path::new(&main)).unwrap();
    let works = |args: &[&str]| assert_eq!(in_time(&home, args).code, 0, "{args:?}");

    // In place of the file that names the server, with the folder locked.
    plant_pipe(&data.join("postmaster.pid"));
    let folder = std::fs::File::open(&data).unwrap();
    folder.lock().unwrap();
    works(&["branch", "list"]);
    works(&["doctor", "--json"]);
    in_time(&home, &["branch", "start", "api/b"]);
    drop(folder);
    works(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
    works(&["branch", "stop", "api/b"]);
    std::os::unix::fs::symlink("/dev/zero", data.join("postmaster.pid")).unwrap();
    works(&["branch", "list"]);
    std::fs::remove_file(data.join("postmaster.pid")).unwrap();

    // A process that is no server, and stands in its folder.
    let mut bystander = Command::new("sleep").arg("300").current_dir(&data).spawn().unwrap();
    std::fs::write(data.join("postmaster.pid"), format!("{}\n", bystander.id())).unwrap();
    let list = home.json(&["branch", "list"]);
    assert!(list.as_array().unwrap().iter().any(|branch| branch["state"] == "stopped"), "{list}");
    works(&["branch", "start", "api/b"]);
    works(&["branch", "stop", "api/b"]);
    assert!(bystander.try_wait().unwrap().is_none(), "it was taken for the server");
    bystander.kill().unwrap();
    bystander.wait().unwrap();

    // In place of what is read before a start, and before a clone.
    for name in ["postgresql.auto.conf", "global/pg_control"] {
        let at = data.join(name);
        let aside = data.join("aside");
        std::fs::rename(&at, &aside).unwrap();
        plant_pipe(&at);
        works(&["branch", "list"]);
        let ran = in_time(&home, &["branch", "start", "api/b"]);
        ran.is_error(1, "is not a file");
        if name == "global/pg_control" {
            in_time(&home, &["branch", "create", "api/c", "--from", "b"])
                .is_error(1, "is not a file");
        }
        std::fs::rename(&aside, &at).unwrap();
    }
    works(&["branch", "start", "api/b"]);
    assert_eq!(home.sql("api/b", "SELECT 1"), "1");
    plant_pipe(&data.join("postmaster.pid"));
    works(&["branch", "delete", "api/b"]);
    assert_eq!(home.branches(), ["api/main"]);
}

/// A folder where a socket would be, and a pipe in place of the records.
#[test]
fn what_is_no_socket_and_no_state() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    let branch = home.json(&["branch", "get", "api/b"]);
    let socket = format!("run/{}/s/.s.PGSQL.{}", branch["id"].as_str().unwrap(), branch["port"]);
    std::fs::create_dir_all(home.path().join(socket)).unwrap();
    for args in [&["doctor", "--fix"][..], &["branch", "list"]] {
        assert_eq!(in_time(&home, args).code, 0, "{args:?}");
    }
    home.ok(&["branch", "delete", "api/b"]);

    let state = home.path().join("state.db");
    let aside = home.path().join("aside");
    std::fs::rename(&state, &aside).unwrap();
    plant_pipe(&state);
    in_time(&home, &["branch", "list"]).is_error(1, "state.db is no file");
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&aside, &state).unwrap();
    assert_eq!(home.branches(), ["api/main"]);
}

/// A snapshot of btrfs holds nothing of the subvolumes inside, and so no volume of a home.
#[test]
fn a_home_in_a_snapshot_of_the_folder_around_it() {
    let Some(base) = common::prepared("VELO_TEST_BTRFS").filter(|_| is_root()) else { return };
    let around = common::folder(&base);
    let (whole, copy) = (around.path().join("whole"), around.path().join("copy"));
    let btrfs = |args: &[&Path]| {
        let ran = Command::new("btrfs").arg("subvolume").args(args).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    btrfs(&[Path::new("create"), &whole]);
    let home = Home::in_folder(&whole.join("h"));
    home.ok(&["project", "create", "api", "--storage", "btrfs"]);
    home.ok(&["branch", "create", "api/b", "--stopped"]);
    btrfs(&[Path::new("snapshot"), &whole, &copy]);
    {
        let home = Home::in_folder(&copy.join("h"));
        let doctor = home.run(&["doctor", "--json"]).stdout;
        assert!(doctor.contains("recorded, and not there"), "{doctor}");
        home.fails(&["branch", "start", "api/b"], 1, "the data of the branch api/b is gone");
        home.ok(&["branch", "delete", "api/b"]);
        home.ok(&["project", "delete", "api", "--force"]);
    }
    assert_eq!(home.sql("api/main", "SELECT 1"), "1", "the original lives");
    home.ok(&["project", "delete", "api", "--force"]);
    btrfs(&[Path::new("delete"), &copy, &whole]);
}

#[test]
fn folders_of_another_user_in_roots_home() {
    if !is_root() {
        return eprintln!("SKIP: only root has a home that another user could have prepared");
    }
    let home = Home::new();
    std::fs::create_dir(home.path()).unwrap();
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(12_345), Some(12_345)).unwrap();
    home.fails(&["project", "create", "api"], 1, "is not root's");
    std::fs::remove_dir(&run).unwrap();
    home.ok(&["project", "create", "api"]);
}

#[test]
fn names_that_try_paths_options_or_sql() {
    let home = Home::with_project();
    let before = home.everything();
    for bad in [
        ".",
        "..",
        "a/../b",
        "a//b",
        "/etc",
        "a\nb",
        "x'; DROP TABLE t; --",
        "$(id)",
        "`id`",
        "a;b",
        "a|b",
        "%s",
        "né",
        "a\u{202e}b",
        "--",
        "a\\b",
        "*",
        "~",
        "@",
        "a@b@c",
    ] {
        for args in [
            ["project", "create", "--", bad],
            ["branch", "create", "--", &format!("api/{bad}")],
            ["branch", "delete", "--", &format!("api/{bad}")],
            ["snapshot", "create", "--", &format!("api/main@{bad}")],
        ] {
            let ran = home.run(&args);
            assert!([1, 2].contains(&ran.code), "{args:?}: {ran:?}");
            assert!(ran.stderr.contains("\nhint: "), "{args:?}: {ran:?}");
        }
    }
    assert_eq!(home.everything(), before);
    // What PostgreSQL takes as a name is one here, however it looks.
    let (role, database) = ("a b; --", "we\"ird '; DROP DATABASE postgres; --");
    home.ok(&["project", "create", "odd", "--role", role, "--database", database]);
    home.ok(&["branch", "create", "odd/b"]);
    let ask = "SELECT current_user || '|' || current_database()";
    assert_eq!(home.sql("odd/b", ask), format!("{role}|{database}"));
    for role in ["a\"b", "o'brien", "a$b", "a\\b", "", "pg_x"] {
        home.fails(&["project", "create", "odd2", "--role", role], 2, "role");
    }
}

#[test]
fn two_homes_know_nothing_of_each_other() {
    let (one, two) = (Home::with_project(), Home::with_project());
    one.ok(&["branch", "create", "api/mine"]);
    let id = one.json(&["branch", "get", "api/mine"])["id"].as_str().unwrap().to_owned();
    let before = one.everything();
    assert_eq!(two.branches(), ["api/main"]);
    two.fails(&["branch", "delete", "api/mine"], 1, "mine");
    two.fails(&["branch", "delete", &format!("api/{id}")], 1, &id);
    assert_eq!(two.run(&["doctor"]).code, 0);
    two.ok(&["project", "delete", "api", "--force"]);
    assert_eq!(one.everything(), before);
    assert_eq!(one.sql("api/mine", "SELECT 1"), "1");
}

#[test]
fn another_user_gets_nothing_out_of_a_home() {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = passwd.lines().find(|line| line.starts_with("velo-ci:"));
    let (true, Some(user)) = (is_root(), user.and_then(|line| line.split(':').nth(2))) else {
        return eprintln!("SKIP: only root can be another user, and there must be a velo-ci");
    };
    let home = Home::with_project();
    let program = home.dir().join("velo");
    common::copy_program(&common::program(), &program);
    let url = home.ok(&["branch", "url", "api/main"]).trim().to_owned();
    let socket = home.ok(&["branch", "url", "api/main", "--socket"]).trim().to_owned();
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    let before = home.everything();
    let as_user = |program: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", program]).args(args);
        command.env("VELO_HOME", home.path()).env("HOME", "/nonexistent");
        command.env("VELO_CACHE", "/nonexistent").env("VELO_CONFIG", home.dir().join("velo.toml"));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let velo = program.to_str().unwrap();
    for args in [
        &["branch", "url", "api/main"][..],
        &["branch", "list"],
        &["branch", "create", "api/x"],
        &["project", "delete", "api", "--force"],
    ] {
        let (done, text) = as_user(velo, args);
        assert!(!done && text.contains("hint: ") && !text.contains(&password), "{args:?}: {text}");
    }
    let (done, text) = as_user(velo, &["doctor"]);
    assert!(!done && !text.contains(&password), "{text}");
    // Whoever had the password even: the socket is out of reach.
    let (done, text) = as_user("psql", &["-XAtqc", "SELECT 1", &socket]);
    assert!(!done && text.contains("ermission denied"), "{text}");
    let without = url.replace(&format!(":{password}@"), "@");
    let (done, _) = as_user("psql", &["-wXAtqc", "SELECT 1", &without]);
    assert!(!done, "it got in without a password");
    for (pid, _) in processes(&home.path().join("volumes")) {
        let (done, _) = as_user("cat", &[&format!("/proc/{pid}/environ")]);
        assert!(!done, "it reads the environment of a server");
    }
    assert_eq!(home.everything(), before);
}

#[test]
fn a_state_that_others_could_read_is_made_private() {
    let home = Home::with_project();
    let mode =
        |name: &str| home.path().join(name).metadata().map(|m| m.permissions().mode() & 0o777);
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let file = home.path().join(name);
        if file.exists() {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    home.ok(&["status"]);
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        assert!(
            mode(name).is_err() || mode(name).unwrap() == 0o600,
            "{name}: {:o}",
            mode(name).unwrap()
        );
    }
}

#[test]
fn who_opens_a_home_waits_for_no_lock_of_what_a_dead_process_deleted() {
    for what in ["branch", "snapshot"] {
        who_opens_does_not_wait_for_who_clones(what);
    }
}

fn who_opens_does_not_wait_for_who_clones(what: &str) {
    let home = Home::with_project();
    let id = match what {
        "branch" => home.json(&["branch", "get", "api/main"])["id"].as_str().unwrap().to_owned(),
        _ => {
            home.ok(&["snapshot", "create", "api/main@s"]);
            names(&home, "snapshots").into_iter().next().unwrap()
        }
    };
    let lock = home.path().join("locks").join(id);
    let cloned = std::fs::File::options().create(true).append(true).open(lock).unwrap();
    cloned.lock_shared().unwrap();
    let mut delete = home.command();
    let mut delete = delete.args(["project", "delete", "api", "--force"]).spawn().unwrap();
    wait_until("it is marked to go", || home.ok(&["project", "list", "--json"]).trim() == "[]");
    delete.kill().unwrap();
    delete.wait().unwrap();
    in_time(&home, &["status"]);
    drop(cloned);
    home.ok(&["gc"]);
    assert!(names(&home, "volumes").is_empty() && names(&home, "locks").len() < 2);
}
