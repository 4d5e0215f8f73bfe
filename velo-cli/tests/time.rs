//! Time travel by the command: moments in all their forms, what is printed of them, and what bad input gets.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Stdio;

use common::whole::names;
use common::{Home, Ran, psql, wait_until};
use serde_json::{Value, json};

#[track_caller]
fn has_keys(value: &Value, wanted: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, wanted);
}

/// A command that waits at a step, once it is there; the gate that lets it go on.
fn gated(
    home: &Home,
    args: &[&str],
    step: &str,
    name: &str,
) -> (std::process::Child, std::path::PathBuf) {
    let (gate, steps) =
        (home.dir().join(format!("gate-{name}")), home.dir().join(format!("steps-{name}")));
    let mut command = home.command_with(args);
    command.env("VELO_TEST_GATE_AT", step).env("VELO_TEST_GATE", &gate);
    command.env("VELO_TEST_STEPS", &steps).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait_until(step, || std::fs::read_to_string(&steps).is_ok_and(|told| told.contains(step)));
    (child, gate)
}

#[test]
fn what_is_no_moment_or_none_that_is_kept() {
    let home = Home::with_project();
    home.ok(&["snapshot", "create", "api/main@s"]);
    let before = home.everything();
    let create = |more: &[&str]| {
        let mut args = vec!["branch", "create", "api/b"];
        args.extend(more);
        home.run(&args)
    };
    // Not what the words mean.
    create(&["--at", "yesterday"]).is_error(2, "\"yesterday\" is not a moment");
    create(&["--at", "2026-02-30 00:00:00Z"]).is_error(2, "is not a moment");
    create(&["--at", "9999-01-01 00:00:00Z"]).is_error(2, "is in the future");
    create(&["--at-lsn", "12"]).is_error(2, "is not a position in the WAL");
    create(&["--at-name", ""]).is_error(2, "is not the name of a restore point");
    create(&["--at-xid", "2"]).is_error(2, "is not the number of a transaction");
    create(&["--at", "now", "--from", "main@s"]).is_error(2, "a snapshot is one moment");
    for wrong in [
        &["--at-xid", "x"][..],
        &["--at", "now", "--at-xid", "700"],
        &["--at-name", "a", "--at-lsn", "0/1"],
        &["--exclusive"],
    ] {
        assert_eq!(create(wrong).code, 2, "{wrong:?}");
    }
    // Where clocks were set; the zone's rules are in the variable, so that no file of them is needed.
    let zone = "CET-1CEST,M3.5.0,M10.5.0/3";
    for (time, says) in [("2025-10-26 02:30:00", "was twice"), ("2025-03-30 02:30:00", "never was")]
    {
        let ran = home.run_with(&["branch", "create", "api/b", "--at", time], |command| {
            command.env("TZ", zone);
        });
        ran.is_error(2, says);
        assert!(ran.stderr.contains("write the zone behind it"), "{ran:?}");
    }
    // No WAL is kept.
    create(&["--at", "now"]).is_error(1, "no WAL of api/main is kept");
    let ran = create(&["--at", "5 minutes ago"]);
    assert!(ran.stderr.contains("velo project set api --wal-retention 7d"), "{ran:?}");
    home.fails(&["restore-point", "create", "api", "x"], 1, "no WAL of api/main is kept");
    home.fails(&["restore-point", "create", "nope", "x"], 1, "nope");
    home.fails(&["restore-point", "create", "api/nope", "x"], 1, "nope");
    let long = "a".repeat(64);
    home.fails(&["restore-point", "create", "api", &long], 2, "is not the name of a restore point");
    home.fails(&["wal", "info", "nope"], 1, "nope");
    home.fails(&["wal", "prune", "nope"], 1, "nope");
    assert!(home.ok(&["wal", "info", "api"]).contains("no WAL of api/main is kept"));
    assert_eq!(home.json(&["wal", "prune"]), json!([]));
    // Times to keep something for, and rules.
    for bad in ["soon", "0s", "", "7"] {
        let ran = home.run(&["project", "create", "other", "--wal-retention", bad]);
        assert_eq!(ran.code, 2, "{bad}: {ran:?}");
        let ran = home.run(&["project", "set", "api", "--wal-retention", bad]);
        assert_eq!(ran.code, 2, "{bad}: {ran:?}");
    }
    home.fails(&["project", "set", "api"], 2, "--wal-retention");
    home.fails(&["project", "set", "nope", "--wal-retention", "7d"], 1, "nope");
    home.fails(&["snapshot", "prune", "api"], 2, "--keep-last");
    home.fails(&["snapshot", "prune", "api", "--keep-last", "0"], 2, "keeps nothing");
    home.fails(&["snapshot", "prune", "api", "--keep-daily", "x"], 2, "x");
    home.fails(&["snapshot", "prune", "nope", "--keep-last", "1"], 1, "nope");
    home.fails(&["snapshot", "schedule", "nope"], 1, "nope");
    assert_eq!(home.everything(), before);
}

#[test]
fn moments_by_every_name() {
    let home = Home::new();
    let made = home.json(&["project", "create", "api", "--wal-retention", "7d"]);
    assert_eq!(made["wal_retention"], 604_800);
    assert!(home.ok(&["project", "get", "api"]).contains("7d"));
    // On a busy machine its commit would come after the last one here.
    home.sql("api/main", "ALTER SYSTEM SET autovacuum = off");
    home.sql("api/main", "SELECT pg_reload_conf()");
    home.sql("api/main", "CREATE TABLE t AS SELECT x FROM generate_series(1, 100) x");
    let point = home.json(&["restore-point", "create", "api", "before deploy"]);
    has_keys(&point, &["branch", "lsn", "name"]);
    let xid = home.sql("api/main", "WITH d AS (DELETE FROM t) SELECT pg_current_xact_id()");
    let lsn = home.sql("api/main", "SELECT pg_current_wal_insert_lsn()");
    home.sql("api/main", "DROP TABLE t");

    let named = home.json(&["branch", "create", "api/named", "--at-name", "before deploy"]);
    let reached = &named["reached"];
    has_keys(reached, &["last_xid", "lsn", "replayed", "since", "time", "timeline"]);
    assert!(reached["since"].as_str().unwrap().ends_with(" UTC"), "{reached}");
    assert_eq!((&reached["lsn"], &reached["timeline"]), (&point["lsn"], &json!(1)));
    assert!(reached["time"].as_str().unwrap().ends_with(" UTC"), "{reached}");
    assert_eq!(home.sql("api/named", "SELECT count(*) FROM t"), "100");
    assert_eq!(home.json(&["branch", "get", "api/named"])["reached"], named["reached"]);
    let told = home.ok(&["branch", "create", "api/xid", "--at-xid", &xid]);
    assert!(told.contains(&format!("its last transaction is {xid}, committed 20")), "{told}");
    assert_eq!(home.sql("api/xid", "SELECT count(*) FROM t"), "0");
    home.ok(&["branch", "create", "api/no-xid", "--at-xid", &xid, "--exclusive"]);
    assert_eq!(home.sql("api/no-xid", "SELECT count(*) FROM t"), "100");
    // It needs no server to be recovered, and is as well there.
    home.ok(&["branch", "create", "api/lsn", "--at-lsn", &lsn, "--stopped"]);
    assert_eq!(home.json(&["branch", "get", "api/lsn"])["state"], "stopped");
    home.ok(&["branch", "start", "api/lsn"]);
    assert_eq!(home.sql("api/lsn", "SELECT count(*) FROM t"), "0");
    let now = home.json(&["branch", "create", "api/now", "--at", "now"]);
    assert_eq!(home.sql("api/now", "SELECT to_regclass('t') IS NULL"), "t");
    // That very moment, to the microsecond, and without it.
    let time = now["reached"]["time"].as_str().unwrap();
    home.ok(&["branch", "create", "api/then", "--at", time]);
    assert_eq!(home.sql("api/then", "SELECT to_regclass('t') IS NULL"), "t");
    home.ok(&["branch", "create", "api/just-before", "--at", time, "--exclusive"]);
    assert_eq!(home.sql("api/just-before", "SELECT count(*) FROM t"), "0");

    let missing = |args: &[&str], says: &str| {
        let mut all = vec!["branch", "create", "api/none"];
        all.extend(args);
        let ran = home.run(&all);
        ran.is_error(1, says);
        ran.stderr
    };
    let outside = missing(&["--at", "1h ago"], "is outside of what is kept of the WAL of api/main");
    assert!(outside.contains("hint: what can be reached of api/main: 20"), "{outside}");
    missing(&["--at-lsn", "7FFF/0"], "is in the future: the WAL of api/main ends at");
    missing(&["--at-lsn", "0/10"], "is before what is kept");
    missing(&["--at-name", "nope"], "api/main has no restore point \"nope\"");
    missing(&["--at-xid", "2000000"], "was not committed");

    let wal = home.json(&["wal", "info", "api"]);
    has_keys(&wal, &["branch", "incarnations", "retention"]);
    let of_incarnation = [
        "archiving",
        "bases",
        "begun_at",
        "bytes",
        "ended_at",
        "holes",
        "own_bases",
        "segments",
        "volume",
        "waiting",
        "waiting_for",
        "windows",
    ];
    has_keys(&wal["incarnations"][0], &of_incarnation);
    has_keys(&wal["incarnations"][0]["windows"][0], &["from", "from_lsn", "until_lsn"]);
    let told = home.ok(&["wal", "info", "api/main"]);
    assert!(told.contains(" to now") && told.contains("holes      none"), "{told}");
    assert!(home.ok(&["wal", "prune"]).contains("no WAL is older than it is to be kept"));
    // A stopped server writes no restore point.
    home.ok(&["branch", "stop", "api/main"]);
    home.fails(&["restore-point", "create", "api", "late"], 1, "does not run");
    home.ok(&["branch", "create", "api/late", "--at", "now"]);
    assert_eq!(home.sql("api/late", "SELECT to_regclass('t') IS NULL"), "t");
}

#[test]
fn wal_is_kept_from_a_restart_on() {
    let home = Home::with_project();
    let set = |more: &[&str]| {
        let mut args = vec!["project", "set", "api", "--wal-retention"];
        args.extend(more);
        home.run(&args)
    };
    let ran = set(&["90m"]);
    assert!(ran.stdout.contains("the WAL of api is kept: 1h30m"), "{ran:?}");
    assert!(ran.stderr.contains("velo branch restart api/main"), "{ran:?}");
    assert!(home.ok(&["wal", "info", "api"]).contains("kept yet: velo branch restart api/main"));
    // What doctor says of it, which is broken elsewhere perhaps.
    let said = || {
        let found: Value = serde_json::from_str(&home.run(&["doctor", "--json"]).stdout).unwrap();
        let wal = found.as_array().unwrap().iter().filter(|finding| finding["name"] == "wal");
        wal.map(|finding| finding["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let late = "WAL of api/main is to be kept, and its server was started before that";
    assert_eq!(said(), [late]);
    // From the next start on it is.
    home.ok(&["branch", "stop", "api/main"]);
    assert!(said().is_empty(), "{:?}", said());
    home.ok(&["branch", "start", "api/main"]);
    assert_eq!(said(), ["kept of 1 branches"]);
    home.ok(&["project", "set", "api", "--wal-retention", "none"]);
    home.ok(&["branch", "restart", "api/main"]);
    home.ok(&["wal", "prune", "api"]);
    home.ok(&["project", "set", "api", "--wal-retention", "90m"]);
    assert_eq!(said(), [late]);
    let ran = home.run(&["branch", "create", "api/b", "--at", "now"]);
    assert!(ran.stderr.contains("velo branch restart api/main"), "{ran:?}");
    let set = home.json(&["project", "set", "api", "--wal-retention", "2d", "--restart"]);
    assert_eq!(set["wal_retention"], 172_800);
    assert_eq!((&set["restarted"], &set["to_restart"]), (&json!(["api/main"]), &json!([])));
    home.sql("api/main", "CREATE TABLE t (x int)");
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
    assert_eq!(home.sql("api/b", "SELECT count(*) FROM t"), "0");
    let set = home.json(&["project", "set", "api", "--wal-retention", "none"]);
    assert_eq!(set["wal_retention"], Value::Null);
    assert_eq!(set["to_restart"], json!(["api/main", "api/b"]));
    home.ok(&["branch", "restart", "api/main"]);
    home.ok(&["branch", "restart", "api/b"]);
    let dry = home.json(&["wal", "prune", "api", "--dry-run"]);
    assert_eq!(home.json(&["wal", "prune", "api"]), dry);
    let keys = ["bases", "branch", "bytes", "incarnations", "segments", "taken", "wants_snapshot"];
    has_keys(&dry[0], &keys);
    assert_eq!(std::fs::read_dir(home.path().join("wal")).unwrap().count(), 0);
}

/// The time, as `--at` takes it.
const TIME: &str =
    "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'";

#[test]
fn a_snapshot_from_before_wal_was_kept_leads_nowhere() {
    let home = Home::with_project();
    home.ok(&["snapshot", "create", "api/main@jan"]);
    let time = home.sql("api/main", TIME);
    let fill = "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()";
    for _ in 0..3 {
        home.sql("api/main", fill);
    }
    home.sql("api/main", "CHECKPOINT");
    home.ok(&["project", "set", "api", "--wal-retention", "7d", "--restart"]);
    for _ in 0..2 {
        home.sql("api/main", fill);
    }
    let info = || home.json(&["wal", "info", "api"])["incarnations"][0].clone();
    wait_until("segments are archived", || {
        let one = info();
        one["waiting"] == 0 && one["segments"].as_u64().unwrap() >= 2
    });
    let one = info();
    assert_eq!((&one["holes"], &one["bases"]), (&json!([]), &json!(1)), "{one}");
    assert_eq!(one["windows"].as_array().unwrap().len(), 1, "{one}");
    for (moment, says) in [
        (["--at-name", "nope"], "api/main has no restore point \"nope\""),
        (["--at-xid", "2000000"], "was not committed"),
        (["--at", &time], "is outside of what is kept of the WAL of api/main"),
    ] {
        let mut args = vec!["branch", "create", "api/x"];
        args.extend(moment);
        home.run(&args).is_error(1, says);
    }
    let ran = home.run(&["snapshot", "delete", "api/main@jan"]);
    assert!(ran.code == 0 && !ran.stderr.contains("stays"), "{ran:?}");
    assert_eq!(info()["own_bases"], 1);
    home.ok(&["branch", "create", "api/x", "--at", "now"]);
}

#[test]
fn wal_goes_without_anybody_s_snapshots() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "1s"]);
    for _ in 0..3 {
        home.sql("api/main", "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()");
    }
    wait_until("segments are archived", || {
        let one = &home.json(&["wal", "info", "api"])["incarnations"][0];
        one["waiting"] == 0 && one["segments"].as_u64().unwrap() >= 3
    });
    let second = || std::thread::sleep(std::time::Duration::from_millis(1100));
    second();
    let says = "WAL of api/main is older than it is to be kept, and cannot be pruned";
    assert!(home.run(&["doctor"]).stdout.contains(says));
    let told = home.ok(&["wal", "prune", "--dry-run"]);
    assert!(told.contains("api/main: a snapshot would be taken"), "{told}");
    let told = home.ok(&["wal", "prune"]);
    assert!(told.contains("api/main: a snapshot was taken"), "{told}");
    assert!(!home.run(&["doctor"]).stdout.contains(says));
    second();
    let told = home.ok(&["wal", "prune"]);
    assert!(told.contains("api/main: removed: "), "{told}");
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
}

#[test]
fn a_server_that_logs_too_little_for_it_says_what_to_do() {
    let home = Home::with_project();
    home.sql("api/main", "ALTER SYSTEM SET wal_level = 'minimal'");
    home.sql("api/main", "ALTER SYSTEM SET max_wal_senders = 0");
    home.ok(&["branch", "restart", "api/main"]);
    let ran = home.run(&["project", "set", "api", "--wal-retention", "7d", "--restart"]);
    assert!(ran.code == 1 && ran.stderr.contains("WAL archival cannot be enabled"), "{ran:?}");
    let hint = "velo project set api --wal-retention none";
    assert!(ran.stderr.contains(hint) && ran.stderr.contains("wal_level = 'replica'"), "{ran:?}");
    home.ok(&["project", "set", "api", "--wal-retention", "none"]);
    home.ok(&["branch", "start", "api/main"]);
    home.sql("api/main", "ALTER SYSTEM SET wal_level = 'replica'");
    home.ok(&["project", "set", "api", "--wal-retention", "7d"]);
    home.ok(&["branch", "restart", "api/main"]);
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
}

#[test]
fn a_schedule_keeps_what_its_rules_say() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    let mut names = Vec::new();
    for _ in 0..3 {
        // They are called after the second.
        let mut name = Value::Null;
        wait_until("a second is over", || {
            let ran = home.run(&["snapshot", "schedule", "api", "--json"]);
            let taken: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            name = taken["name"].clone();
            ran.code == 0
        });
        names.push(name.as_str().unwrap().to_owned());
    }
    home.ok(&["snapshot", "create", "api/main@mine"]);
    let list = home.json(&["snapshot", "list", "api"]);
    let scheduled = list.as_array().unwrap().iter().filter(|one| one["scheduled"] == true);
    assert_eq!(scheduled.count(), 3, "{list}");
    home.ok(&["branch", "create", "api/b", "--from", names[0].strip_prefix("api/").unwrap()]);
    let before = home.everything();
    let dry = home.json(&["snapshot", "prune", "api", "--keep-last", "1", "--dry-run"]);
    assert_eq!(home.everything(), before);
    let gone: Vec<&Value> =
        dry.as_array().unwrap().iter().filter(|fate| fate["kept"].is_null()).collect();
    assert_eq!(gone.len(), 1, "{dry}");
    assert_eq!(gone[0]["name"], names[1].as_str(), "{dry}");
    has_keys(gone[0], &["bytes", "created_at", "id", "kept", "name"]);
    let told = home.ok(&["snapshot", "prune", "api", "--keep-last", "1"]);
    assert!(told.contains("removed") && told.contains("api/b"), "{told}");
    let left = home.json(&["snapshot", "list", "api"]);
    let left: Vec<&str> =
        left.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(left, [&names[0], &names[2], "api/main@mine"]);
    // All at once, as a timer does it; what somebody gave a name stays.
    let ran = home.run(&["snapshot", "schedule", "api", "--keep-last", "1"]);
    assert!(ran.code == 0 && ran.stdout.contains("taken"), "{ran:?}");
    let left = home.ok(&["snapshot", "list", "api"]);
    assert!(left.contains("@mine") && !left.contains(&names[2]), "{left}");
}

#[test]
fn the_unit_for_systemd_takes_a_snapshot_and_ends_no_server() {
    let unit = include_str!("../systemd/velo-snapshot@.service");
    let value = |key: &str| {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().unwrap()
    };
    // Its other processes would be killed with it.
    assert_eq!((value("Type"), value("KillMode")), ("oneshot", "process"));
    let home = Home::with_project();
    let command = value("ExecStart").replace("%i", "api");
    let (program, args) = command.split_once(' ').unwrap();
    assert_eq!(program, "velo");
    home.ok(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!(home.json(&["snapshot", "list", "api"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_deleted_snapshot_that_moments_need_is_told_of() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    for name in ["api/main@one", "api/main@two"] {
        home.ok(&["snapshot", "create", name]);
    }
    let ran = home.run(&["snapshot", "delete", "api/main@one"]);
    assert!(ran.code == 0 && !ran.stderr.contains("stays"), "{ran:?}");
    // The newest that is as old as WAL is kept.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    home.ok(&["project", "set", "api", "--wal-retention", "1s"]);
    let ran = home.run(&["snapshot", "delete", "api/main@two"]);
    assert!(ran.code == 0 && ran.stderr.contains("api/main@two is deleted"), "{ran:?}");
    assert!(ran.stderr.contains("its data stays"), "{ran:?}");
    assert_eq!(home.json(&["snapshot", "list", "api"]), json!([]));
    let wal = &home.json(&["wal", "info", "api"])["incarnations"][0];
    assert_eq!((&wal["bases"], &wal["own_bases"]), (&json!(2), &json!(2)));
    // Nothing but the way to older moments is lost with one of them.
    let own = home.dir().join("h/snapshots");
    let folder = std::fs::read_dir(own).unwrap().next().unwrap().unwrap().path();
    let aside = home.dir().join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    let doctor = home.run(&["doctor"]).stdout;
    assert!(doctor.contains("what moments of api/main are reached from"), "{doctor}");
    assert!(!doctor.contains("delete the branches"), "{doctor}");
    std::fs::rename(&aside, &folder).unwrap();
    home.ok(&["wal", "prune", "api"]);
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
    home.fails(&["snapshot", "delete", "api/main@two"], 1, "api/main@two");
}

/// Its server was started by who was killed before a snapshot was taken: it archives all the same.
#[test]
fn an_archive_without_a_snapshot_stays_while_its_server_fills_it() {
    let home = Home::with_project();
    home.ok(&["project", "set", "api", "--wal-retention", "7d"]);
    let restart = ["branch", "restart", "api/main"];
    let (mut child, _) = gated(&home, &restart, "before record a base", "restart");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(home.sql("api/main", "SHOW archive_mode"), "on");
    let none = ["project", "set", "api", "--wal-retention", "none"];
    assert_eq!(home.json(&none)["to_restart"], json!(["api/main"]));
    assert_eq!(home.json(&["wal", "prune", "api"]), json!([]));
    assert_eq!(names(&home, "wal").len(), 1);
    home.ok(&["branch", "restart", "api/main"]);
    assert_eq!(home.json(&["wal", "prune", "api"])[0]["incarnations"], 1);
    assert!(names(&home, "wal").is_empty());
    // Kept again, there is a snapshot with the next start.
    let kept = ["project", "set", "api", "--wal-retention", "7d", "--restart"];
    assert_eq!(home.json(&kept)["restarted"], json!(["api/main"]));
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
}

#[test]
fn what_is_to_be_kept_no_more_goes_from_a_branch_that_does_not_run() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.ok(&["project", "set", "api", "--wal-retention", "none"]);
    let doctor = home.run(&["doctor"]).stdout;
    assert!(doctor.contains("to be kept no more, and its server still archives it"), "{doctor}");
    assert_eq!(home.json(&["wal", "prune", "api"]), json!([]));
    home.ok(&["branch", "stop", "api/main"]);
    assert!(!home.run(&["doctor"]).stdout.contains("still archives"));
    assert_eq!(home.json(&["wal", "prune", "api"])[0]["incarnations"], 1);
    assert!(names(&home, "wal").is_empty() && names(&home, "snapshots").is_empty());
    home.ok(&["branch", "start", "api/main"]);
    assert_eq!(home.sql("api/main", "SHOW archive_mode"), "off");
}

/// Damage is why somebody resets a branch.
#[test]
fn data_that_is_damaged_is_reset_and_goes() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.ok(&["branch", "create", "api/dev"]);
    home.sql("api/dev", "CREATE TABLE old (x int)");
    let moment = home.sql("api/dev", TIME);
    home.sql("api/dev", "SELECT pg_switch_wal()");
    wait_until("it is archived", || {
        home.json(&["wal", "info", "api/dev"])["incarnations"][0]["waiting"] == 0
    });
    home.ok(&["branch", "stop", "api/dev"]);
    let before = names(&home, "volumes");
    for volume in &before {
        let control = home.dir().join("h/volumes").join(volume).join("global/pg_control");
        // Not main's, whose server runs.
        if !control.ancestors().nth(2).unwrap().join("postmaster.pid").exists() {
            std::fs::write(&control, vec![7; 8192]).unwrap();
        }
    }
    home.ok(&["branch", "reset", "api/dev"]);
    home.ok(&["gc"]);
    let after = names(&home, "volumes");
    assert_eq!((before.len(), after.len()), (2, 2));
    assert_ne!(before, after);
    home.ok(&["branch", "create", "api/b", "--from", "dev", "--at", &moment]);
    assert_eq!(home.sql("api/b", "SELECT to_regclass('old') IS NOT NULL"), "t");
}

/// What a reset has put in its place is written to before there is a snapshot of it.
#[test]
fn a_moment_just_after_a_reset_is_not_in_the_data_before_it() {
    for (step, killed, kept) in [
        ("before record a base", false, true),
        ("before record a base", true, true),
        // Where its WAL is not kept, no archive tells when it began.
        ("before end a reset", false, false),
    ] {
        let home = Home::new();
        home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
        home.ok(&["branch", "create", "api/dev"]);
        home.sql("api/dev", "CREATE TABLE old (x int)");
        let last = home.sql("api/dev", TIME);
        if !kept {
            home.ok(&["project", "set", "api", "--wal-retention", "none"]);
        }
        let url = home.ok(&["branch", "url", "api/dev"]);
        let (mut child, gate) = gated(&home, &["branch", "reset", "api/dev"], step, "reset");
        psql(url.trim(), "CREATE TABLE new (x int)");
        let time = psql(url.trim(), TIME);
        if killed {
            child.kill().unwrap();
        }
        std::fs::write(&gate, "").unwrap();
        assert_eq!(child.wait().unwrap().success(), !killed);
        // Whoever opens the home ends what was killed.
        let mut wal = Value::Null;
        wait_until("the reset has ended", || {
            let ran = home.run(&["wal", "info", "api/dev", "--json"]);
            wal = serde_json::from_str(&ran.stdout).unwrap_or_default();
            wal["incarnations"]
                .as_array()
                .and_then(|all| all.last()?["ended_at"].as_u64())
                .is_some()
        });
        let create = |name: &str, time: &str| {
            home.run(&["branch", "create", name, "--from", "dev", "--at", time])
        };
        let what = format!("{step}, killed {killed}: {wal}");
        let ran = create("api/none", &time);
        assert_eq!(ran.code, 1, "{what}: {ran:?}");
        ran.is_error(1, "is outside of what is kept of the WAL of api/dev");
        let ran = create("api/last", &last);
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        assert_eq!(home.sql("api/last", "SELECT to_regclass('old') IS NOT NULL"), "t", "{what}");
        // Nor is it shown as reached.
        let millis = format!("SELECT floor(extract(epoch FROM '{time}'::timestamptz) * 1000)");
        let millis: u64 = psql(url.trim(), &millis).parse().unwrap();
        let old = wal["incarnations"].as_array().unwrap().last().unwrap();
        assert!(old["ended_at"].as_u64().unwrap() <= millis, "{what}: {millis}");
        if killed {
            // What it was written to goes, with all that told when it began.
            home.ok(&["branch", "reset", "api/dev"]);
            create("api/none", &time)
                .is_error(1, "is outside of what is kept of the WAL of api/dev");
        }
    }
}

#[test]
fn a_snapshot_that_waited_for_a_reset_is_of_the_new_data() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.ok(&["branch", "create", "api/dev"]);
    let (mut reset, on) =
        gated(&home, &["branch", "reset", "api/dev"], "before record a base", "reset");
    let take = ["snapshot", "create", "api/dev@s"];
    let (mut taken, also) = gated(&home, &take, "after record a snapshot", "snapshot");
    // It waits for the branch from now on.
    std::fs::write(&also, "").unwrap();
    std::fs::write(&on, "").unwrap();
    assert!(reset.wait().unwrap().success() && taken.wait().unwrap().success());
    let wal = home.json(&["wal", "info", "api/dev"]);
    let bases: Vec<_> =
        wal["incarnations"].as_array().unwrap().iter().map(|i| &i["bases"]).collect();
    assert_eq!(bases, [&json!(2), &json!(1)], "{wal}");
    for one in wal["incarnations"].as_array().unwrap() {
        assert_eq!(one["holes"], json!([]), "{wal}");
    }
}

#[test]
fn a_moment_of_a_branch_that_is_being_deleted_is_refused() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.ok(&["branch", "create", "api/dev"]);
    let create = ["branch", "create", "api/b", "--from", "dev", "--at", "now"];
    let (mut made, on) = gated(&home, &create, "before record a branch", "create");
    let delete = ["branch", "delete", "api/dev"];
    let (mut deleted, also) = gated(&home, &delete, "after mark branches to go", "delete");
    std::fs::write(&on, "").unwrap();
    assert!(!made.wait().unwrap().success());
    std::fs::write(&also, "").unwrap();
    assert!(deleted.wait().unwrap().success());
    let branches = home.json(&["branch", "list", "api"]);
    assert_eq!(branches.as_array().unwrap().len(), 1, "{branches}");
}

/// A restore point of the data that is there now is not the one of that name before a reset, even where nothing leads
/// to it.
#[test]
fn a_restore_point_to_which_nothing_leads_is_no_older_one() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.ok(&["branch", "create", "api/dev"]);
    home.ok(&["restore-point", "create", "api/dev", "deploy"]);
    let url = home.ok(&["branch", "url", "api/dev"]);
    let (mut child, _) =
        gated(&home, &["branch", "reset", "api/dev"], "before record a base", "reset");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the reset has ended", || {
        let ran = home.run(&["wal", "info", "api/dev", "--json"]);
        let wal: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        wal["incarnations"].as_array().is_some_and(|all| all.len() == 2 && all[0]["bases"] == 0)
    });
    let refused = home.run(&["restore-point", "create", "api/dev", "deploy"]);
    refused.is_error(1, "nothing would lead to a restore point of api/dev");
    // Whoever writes one by himself has no snapshot either.
    let at = psql(url.trim(), "SELECT pg_create_restore_point('deploy')");
    psql(url.trim(), "CREATE TABLE new (x int)");
    let create =
        || home.run(&["branch", "create", "api/b", "--from", "dev", "--at-name", "deploy"]);
    let says = format!("the last restore point \"deploy\" of api/dev is at {at}");
    create().is_error(1, &says);
    home.ok(&["snapshot", "create", "api/dev", "s"]);
    create().is_error(1, &says);
    home.ok(&["restore-point", "create", "api/dev", "deploy"]);
    assert_eq!(create().code, 0);
    assert_eq!(home.sql("api/b", "SELECT to_regclass('new') IS NOT NULL"), "t");
}

#[test]
fn who_gives_up_leaves_nothing() {
    let home = Home::new();
    home.ok(&["project", "create", "api", "--wal-retention", "7d"]);
    home.sql("api/main", "CREATE TABLE t (x int)");
    let (before, run) = (home.everything(), names(&home, "run"));
    // No transaction is replayed before it is so old.
    let mut command = home.command_with(&["branch", "create", "api/b", "--at", "now"]);
    command.args(["--set", "recovery_min_apply_delay=1h"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("it replays", || {
        names(&home, "run").iter().any(|name| {
            let log = home.path().join("run").join(name).join("postgres.log");
            std::fs::read_to_string(log).is_ok_and(|log| log.contains("restored log file"))
        })
    });
    let pid = rustix::process::Pid::from_child(&child);
    let begun = std::time::Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    // It would be given up by itself after two minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{ran:?}");
    assert!(ran.code > 0 && ran.stderr.contains("error: "), "{ran:?}");
    assert_eq!((home.everything(), names(&home, "run")), (before, run), "{ran:?}");
    home.ok(&["branch", "create", "api/b", "--at", "now"]);
}
