//! What Velo says when something is wrong: one line, and a hint that can be followed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Home, Ran, is_root};

/// The hint of an error that is one line and a hint.
#[track_caller]
fn hint(ran: &Ran, code: i32, part: &str) -> String {
    ran.is_error(code, part);
    ran.stderr.lines().nth(1).unwrap().to_owned()
}

#[track_caller]
fn hints(home: &Home, args: &[&str], code: i32, part: &str, wanted: &str) {
    let hint = hint(&home.run(args), code, part);
    assert!(hint.contains(wanted), "{wanted:?} is not in {hint:?}");
}

/// A hint that could not work must not be given either.
#[test]
fn hints_that_can_be_followed() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev"]);
    home.ok(&["snapshot", "create", "api/main@s"]);
    for major in ["13", "99"] {
        let create = ["project", "create", "x", "--pg-version", major];
        let hint = hint(&home.run(&create), 1, &format!("PostgreSQL {major}"));
        assert!(hint.contains("14 to 18") && !hint.contains("pg install"), "{hint}");
    }
    let doctor = home.run_with(&["doctor"], |c| {
        c.env("VELO_PG_VERSION", "13");
    });
    assert!(!doctor.stdout.contains("pg install 13"), "{doctor:?}");
    let main = hint(&home.run(&["branch", "create", "api/main"]), 1, "exists already");
    assert!(!main.contains("delete"), "{main}");
    let delete = "velo project delete api";
    hints(&home, &["project", "create", "api"], 1, "exists already", delete);
    let delete = "velo snapshot delete api/main@s";
    hints(&home, &["snapshot", "create", "api/main@s"], 1, "exists already", delete);
    hints(&home, &["project", "delete", "api"], 1, "the snapshot api/main@s", "--force");
    let set = ["branch", "create", "api/x", "--set", "work_mem=lots"];
    hints(&home, &set, 1, "\"work_mem\"", "work_mem");
    let set = ["branch", "create", "api/x", "--set", "nonsense=1"];
    hints(&home, &set, 1, "\"nonsense\"", "nonsense");
    let ran = home.run_with(&["status"], |c| {
        c.env("VELO_HOEM", "/x");
    });
    assert!(hint(&ran, 2, "VELO_HOEM").contains("VELO_HOME"));
    let storage = ["project", "create", "x", "--storage", "tape"];
    hints(&home, &storage, 2, "tape", "auto, zfs, btrfs, reflink or copy");
    hints(&home, &["branch", "create", "api/x", "--set", "foo"], 2, "'foo'", "KEY=VALUE");
    hints(&home, &["project", "create", "x", "--pg-version", "new"], 2, "'new'", "like 18");
    let locale = ["project", "create", "x", "--locale", "tlh_KX"];
    hints(&home, &locale, 1, "locale", "locale -a");
    let role = ["project", "create", "x", "--role", "a b\"c"];
    hints(&home, &role, 2, "role", "without quotes");
    assert_eq!(home.json(&["project", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_settings_file_that_cannot_be_used() {
    let home = Home::new();
    let file = home.dir().join("other.toml");
    let status = |wrong: &std::path::Path| {
        home.run_with(&["status"], |c| {
            c.env("VELO_CONFIG", wrong);
        })
    };
    assert!(hint(&status(&file), 2, "other.toml").contains("VELO_CONFIG"));
    assert!(hint(&status(home.dir()), 2, "settings file").contains("VELO_CONFIG"));
    std::fs::write(&file, b"home = \"\xff\"\n").unwrap();
    assert!(hint(&status(&file), 2, "UTF-8").contains("VELO_CONFIG"));
    std::fs::write(&file, "# mine\nstorage = 5\n").unwrap();
    let ran = status(&file);
    assert!(hint(&ran, 2, "line 2 (storage = 5)").contains("line"));
    assert_eq!(ran.stderr.matches("storage").count(), 1, "{ran:?}");
    let none = home.run_with(&["status"], |c| {
        c.env("VELO_START_TIMEOUT", "0");
    });
    none.is_error(2, "0 seconds");
}

#[test]
fn a_state_that_is_no_file() {
    let home = Home::new();
    std::fs::create_dir(home.path()).unwrap();
    let state = home.path().join("state.db");
    std::fs::create_dir(&state).unwrap();
    hints(&home, &["project", "list"], 1, "state.db", "move it away");
    let doctor = home.json_of(&["doctor"], 1);
    let broken = doctor.as_array().unwrap().iter().find(|f| f["status"] == "fail").unwrap();
    assert!(broken["fix"].is_string(), "{broken}");
    std::fs::remove_dir(&state).unwrap();
    std::os::unix::fs::symlink("/nonexistent/state.db", &state).unwrap();
    hints(&home, &["project", "list"], 1, "state.db", "move it away");
    std::fs::remove_file(&state).unwrap();
}

#[test]
fn data_that_is_gone() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev", "--stopped"]);
    let mut volumes: Vec<_> = std::fs::read_dir(home.path().join("volumes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    volumes.sort();
    let data = volumes.pop().unwrap();
    let away = home.dir().join("away");
    std::fs::rename(&data, &away).unwrap();
    hints(&home, &["branch", "start", "api/dev"], 1, "dev", "bring it back");
    let from = ["branch", "create", "api/x", "--from", "dev"];
    hints(&home, &from, 1, "api/dev is gone", "bring it back");
    let doctor = home.json_of(&["doctor"], 1);
    let broken = doctor.as_array().unwrap().iter().find(|f| f["status"] == "fail").unwrap();
    assert!(broken["what"].as_str().unwrap().contains("the branch api/dev"), "{broken}");
    std::fs::rename(&away, &data).unwrap();
    home.ok(&["branch", "start", "api/dev"]);
}

/// Every command takes a branch in every form that lists show, with the project or, where it is
/// named already, without.
#[test]
fn a_branch_in_every_form() {
    let home = Home::with_project();
    let dev = home.json(&["branch", "create", "api/dev"]);
    let id = dev["id"].as_str().unwrap();
    home.sql("api/dev", "CREATE TABLE here (x int)");
    home.ok(&["snapshot", "create", &format!("api/{id}@s")]);
    for (i, from) in
        ["dev", "api/dev", "dev@s", "api/dev@s", id, &format!("{id}@s"), &format!("api/{id}@s")]
            .iter()
            .enumerate()
    {
        let name = format!("api/x{i}");
        home.ok(&["branch", "create", &name, "--from", from, "--stopped"]);
        let parent = &home.json(&["branch", "get", &name])["parent"];
        assert_eq!(parent, "api/dev", "{from}");
        if from.contains('@') {
            home.ok(&["branch", "reset", &name, "--to", from]);
        }
        home.ok(&["branch", "delete", &name]);
    }
    let to_own = ["branch", "reset", "api/dev", "--to", "s"];
    home.ok(&to_own);
    home.ok(&["branch", "get", &format!("api/{id}")]);

    // An ephemeral one, from within.
    let velo = common::program();
    let velo = velo.to_str().unwrap();
    let script = format!(
        "set -e; name=$({velo} branch list api --json | sed -n 's/.*\"name\": \"\\(api.~[^\"]*\\)\".*/\\1/p'); \
         {velo} run $name -- psql -XAtqc \"SELECT to_regclass('here')\"; \
         {velo} branch create api/kept --from $name --stopped >&2; \
         {velo} snapshot create $name@e >&2; {velo} snapshot delete $name@e >&2; \
         {velo} branch get $name >&2"
    );
    let ran = home.run(&["run", &format!("api/{id}"), "--", "sh", "-c", &script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "here\n"), "{ran:?}");
    home.ok(&["branch", "delete", "api/kept"]);
    home.ok(&["snapshot", "delete", &format!("api/{id}@s")]);
    home.fails(&["branch", "create", "api/x", "--from", "~no.12345678"], 1, "~no.12345678");
    home.fails(&["snapshot", "delete", "api/~no.12345678@s"], 1, "~no.12345678");
}

#[test]
fn a_result_that_cannot_be_written() {
    let home = Home::with_project();
    let full = |args: &[&str]| {
        home.run_with(args, |c| {
            c.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
        })
    };
    for args in [
        &["branch", "list"][..],
        &["branch", "url", "api/main"],
        &["completions", "bash"],
        &["status"],
    ] {
        full(args).is_error(1, "No space left");
    }
    let json = full(&["branch", "list", "--json"]);
    assert_eq!(json.code, 1, "{json:?}");
    assert!(json.stderr.contains("\"exhausted\""), "{json:?}");
    // A reader who has seen enough.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = home.run_with(&["completions", "bash"], |c| {
        c.stdout(writer);
    });
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
}

/// A look changes nothing, and what is refused leaves nothing.
#[test]
fn looking_makes_no_home() {
    let home = Home::new();
    for args in [
        &["project", "list"][..],
        &["branch", "list"],
        &["branch", "get", "nope/x"],
        &["project", "get", "nope"],
        &["run", "nope", "--", "true"],
        &["status"],
        &["doctor"],
        &["pg", "list"],
        &["pg", "remove", "17.1"],
        &["project", "create", "a b"],
        &["project", "create", "x", "--role", "pg_x"],
    ] {
        let ran = home.run(args);
        assert!(!home.path().exists(), "{args:?} made the home: {ran:?}");
        assert!(!home.dir().join("cache").exists(), "{args:?} made the cache: {ran:?}");
    }
    home.fails(&["branch", "get", "nope/x"], 1, "nothing was made in");
    let doctor = home.ok(&["doctor"]);
    assert!(doctor.contains("not made yet"), "{doctor}");
    let file = home.dir().join("file");
    std::fs::write(&file, "").unwrap();
    for args in [&["status"][..], &["project", "list"]] {
        let ran = home.run_with(args, |c| {
            c.env("VELO_HOME", &file);
        });
        ran.is_error(2, "not a folder");
    }
}

#[test]
fn a_home_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let odd = home.dir().join(std::ffi::OsStr::from_bytes(b"h\xff"));
    for args in [&["status", "--json"][..], &["status"], &["project", "create", "x"], &["doctor"]] {
        let ran = home.run_with(args, |c| {
            c.env("VELO_HOME", &odd);
        });
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("VELO_HOME"), "{ran:?}");
    }
    assert!(!odd.exists());
}

/// What went wrong in undoing is told to programs too, and a home in the way is named as a path.
#[test]
fn errors_for_programs_have_every_field() {
    let home = Home::new();
    let ran = home.run(&["project", "get", "nope", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["left_behind"], serde_json::json!([]));
}

/// An ordinary command does not speak of the dead where nobody died.
#[test]
fn a_velo_that_ended_well_left_nothing() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev", "--stopped"]);
    let ran = home.run(&["-v", "branch", "list"]);
    assert!(!ran.stderr.contains("dead"), "{ran:?}");
}

/// At the highest verbosity too.
#[test]
fn no_password_is_logged() {
    let home = Home::with_project();
    home.ok(&["branch", "create", "api/dev"]);
    let mut logged = String::new();
    for args in [
        &["branch", "create", "api/other"][..],
        &["branch", "reset", "api/dev"],
        &["snapshot", "create", "api/dev@s"],
        &["run", "api", "--", "true"],
        &["branch", "stop", "api/dev"],
        &["branch", "start", "api/dev"],
        &["doctor"],
    ] {
        let ran = home.run(&[&["-vvv"], args].concat());
        assert!(ran.code == 0, "{args:?}: {ran:?}");
        logged.push_str(&ran.stderr);
    }
    assert!(logged.lines().count() > 20, "hardly anything was logged: {logged}");
    for branch in ["api/main", "api/dev", "api/other"] {
        let url = home.ok(&["branch", "url", branch]);
        let password = url.split([':', '@']).nth(2).unwrap();
        assert!(!logged.contains(password), "{branch}: {logged}");
    }
}

/// Where a copy is made, what made it says so.
#[test]
fn outputs_name_the_storage() {
    let home = Home::with_project();
    let storage = home.json(&["project", "get", "api"])["storage"].as_str().unwrap().to_owned();
    for args in [
        &["branch", "create", "api/dev"][..],
        &["branch", "reset", "api/dev"],
        &["snapshot", "create", "api/dev@s"],
        &["branch", "list"],
    ] {
        let said = home.ok(args);
        assert!(said.contains(&storage), "{args:?} says nothing of {storage}: {said}");
    }
}

/// A normal user's look at what root has made.
#[test]
fn another_users_state() {
    if !is_root() {
        return eprintln!("SKIP: only root can be another user");
    }
    let home = Home::with_project();
    let program = home.dir().join("velo");
    common::copy_program(&common::program(), &program);
    let mut command = home.command_as_nobody(&program);
    command.args(["project", "list"]);
    let mut told = |part: &str| hint(&command.output().unwrap().into(), 1, part);
    let hint = told("state.db");
    assert!(hint.contains("user who made it"), "{hint}");
    // One that may not even be entered is not taken for none.
    let mode = |mode| PermissionsExt::from_mode(mode);
    std::fs::set_permissions(home.path(), mode(0o700)).unwrap();
    let hint = told("Permission denied");
    std::fs::set_permissions(home.path(), mode(0o711)).unwrap();
    assert!(hint.contains("VELO_HOME"), "{hint}");
}
