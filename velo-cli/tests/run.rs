//! `velo run`: its variables, its exit codes, its signals, and that the branch always goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::whole::{names, nothing_else, working};
use common::{Home, wait_until};
use rustix::process::{Pid, Signal};

#[track_caller]
fn nothing_left(home: &Home) {
    assert_eq!(home.branches(), ["api/main"]);
    let volumes = std::fs::read_dir(home.path().join("volumes")).unwrap();
    let left: Vec<_> = volumes
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn the_command_gets_a_branch_and_its_exit_code_is_passed_on() {
    let home = Home::with_project();
    home.sql("api/main", "CREATE TABLE t (x int)");
    let script = "psql -XAtqc 'INSERT INTO t VALUES (1) RETURNING x' && \
                  psql -XAtqc 'SELECT count(*) FROM t' \"$DATABASE_URL\" && \
                  psql -XAtqc 'SHOW fsync' && exit 7";
    let ran = home.run(&["run", "api", "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "1\n1\noff\n"), "{ran:?}");
    assert_eq!(home.sql("api/main", "SELECT count(*) FROM t"), "0");
    nothing_left(&home);

    assert_eq!(home.run(&["run", "api/main", "--", "true"]).code, 0);
    let killed = home.run(&["run", "api", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137);
    home.run(&["run", "api", "--", "/no/such/program"]).is_error(127, "/no/such/program");
    home.run(&["run", "api", "--", "/etc/passwd"]).is_error(126, "/etc/passwd");
    let set = ["run", "api", "--set", "work_mem=9MB", "--", "psql", "-XAtqc", "SHOW work_mem"];
    assert_eq!(home.run(&set).stdout, "9MB\n");
    nothing_left(&home);

    // What the branch is of, and its label.
    home.ok(&["branch", "create", "api/a/b"]);
    home.sql("api/a/b", "CREATE TABLE only_here (x int)");
    home.ok(&["snapshot", "create", "api/a/b@s"]);
    home.sql("api/a/b", "DROP TABLE only_here");
    let ran =
        home.run(&["run", "api/a/b@s", "--", "psql", "-XAtqc", "SELECT to_regclass('only_here')"]);
    assert_eq!(ran.stdout, "only_here\n", "{ran:?}");
    home.fails(&["run", "nope", "--", "true"], 1, "nope");
    home.fails(&["run", "api/nope", "--", "true"], 1, "nope");
    home.fails(&["run", "api/a b", "--", "true"], 2, "a b");
    home.fails(&["run", "api"], 2, "CMD");
}

/// Whatever the caller's own database wants, the branch is what libpq reaches.
#[test]
fn variables_of_another_server_do_not_reach_the_command() {
    let home = Home::with_project();
    let psql = ["run", "api", "--", "psql", "-XAtqc", "SHOW fsync"];
    for (name, value) in [
        ("PGSSLMODE", "require"),
        ("PGSSLROOTCERT", "system"),
        ("PGREQUIRESSL", "1"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGGSSENCMODE", "require"),
        ("PGREQUIREAUTH", "none"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGMINPROTOCOLVERSION", "3.2"),
        ("PGSERVICE", "nope"),
        ("PGSERVICEFILE", "/nonexistent"),
        ("PGSYSCONFDIR", "/nonexistent"),
        ("PGOPTIONS", "-c fsync=never"),
        ("PGHOSTADDR", "192.0.2.1"),
    ] {
        let ran = home.run_with(&psql, |c| {
            c.env(name, value);
        });
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "off\n"), "{name}={value}: {ran:?}");
    }
    let shown = home.run_with(&["run", "api", "--", "psql", "-XAtqc", "SHOW TimeZone"], |c| {
        c.env("PGTZ", "Asia/Tokyo");
    });
    assert_eq!(shown.stdout, "Asia/Tokyo\n");
}

/// Starts a command that writes a file once it listens to signals, and says which one it got.
fn start(home: &Home, own_group: bool) -> Child {
    let script = "trap 'echo TERM >> got; exit 41' TERM; trap 'echo INT >> got; exit 42' INT; \
                  trap 'echo HUP >> got; exit 43' HUP; trap 'echo QUIT >> got; exit 44' QUIT; \
                  trap 'echo USR1 >> got; exit 45' USR1; trap 'echo USR2 >> got; exit 46' USR2; \
                  trap 'echo ALRM >> got; exit 47' ALRM; trap 'echo PROF >> got; exit 48' PROF; \
                  trap 'echo WINCH >> got; exit 49' WINCH; \
                  echo > up; while :; do sleep 0.05; done";
    let mut command = home.command();
    command
        .args(["run", "api", "--", "bash", "-c", script])
        .current_dir(home.dir())
        .stdout(Stdio::null());
    if own_group {
        use std::os::unix::process::CommandExt;
        command.process_group(0);
    }
    let child = command.spawn().unwrap();
    wait_until("the command runs", || home.dir().join("up").exists());
    std::fs::remove_file(home.dir().join("up")).unwrap();
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

#[test]
fn a_signal_reaches_the_command_and_the_branch_goes() {
    let home = Home::with_project();
    for (signal, name, code) in [
        (Signal::TERM, "TERM\n", 41),
        (Signal::INT, "INT\n", 42),
        (Signal::HUP, "HUP\n", 43),
        (Signal::QUIT, "QUIT\n", 44),
        (Signal::USR1, "USR1\n", 45),
        (Signal::USR2, "USR2\n", 46),
        (Signal::ALARM, "ALRM\n", 47),
        (Signal::PROF, "PROF\n", 48),
        (Signal::WINCH, "WINCH\n", 49),
    ] {
        let mut child = start(&home, false);
        let list = home.branches();
        assert_eq!(list.len(), 2);
        assert!(list[1].starts_with("api/~bash."), "{list:?}");
        // As lists show it is how commands take it.
        assert_eq!(home.json(&["branch", "get", &list[1]])["ephemeral"], true);
        home.fails(&["branch", "stop", &list[1]], 1, "ephemeral");
        rustix::process::kill_process(pid(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let got = home.dir().join("got");
        assert_eq!(std::fs::read_to_string(&got).unwrap(), name);
        std::fs::remove_file(got).unwrap();
        nothing_left(&home);
    }
}

/// How long a server may outlive its holder.
const SOON: Duration = Duration::from_secs(1);

/// The servers of throwaway branches end soon after their holder, and the next use of the home removes
/// all else.
#[track_caller]
fn ends_soon(home: &Home, what: &str) {
    let ended = Instant::now();
    wait_until("only main's server runs", || working(home).len() == 1);
    assert!(ended.elapsed() < SOON, "{what}: only after {:?}", ended.elapsed());
    nothing_else(home, &["api/main"], what);
}

#[test]
fn a_killed_velo_leaves_no_server_and_the_next_one_cleans_up() {
    let home = Home::with_project();
    let mut child = start(&home, true);
    assert_eq!(working(&home).len(), 2);
    rustix::process::kill_process(pid(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    ends_soon(&home, "SIGKILL");
    // The command was not velo's to end; its group is ours.
    let _ = rustix::process::kill_process_group(pid(&child), Signal::KILL);
}

/// The first one asks it to undo what it makes; at the second one it ends at once, wherever it is.
#[test]
fn an_impatient_ctrl_c_leaves_no_server() {
    let home = Home::with_project();
    for round in 0..5 {
        let mut child = home.command().args(["run", "api", "--", "sleep", "60"]).spawn().unwrap();
        wait_until("the branch is being made", || names(&home, "volumes").len() > 1);
        for _ in 0..2 {
            rustix::process::kill_process(pid(&child), Signal::INT).unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(130), "round {round}");
        ends_soon(&home, &format!("Ctrl-C twice, round {round}"));
    }
}

#[test]
fn a_signal_while_the_branch_is_made_leaves_nothing() {
    let home = Home::with_project();
    // Big enough that the copy takes a moment; where it is a clone, this is a signal like others.
    home.sql(
        "api/main",
        "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 60000)",
    );
    let mut child = home.command().args(["run", "api", "--", "sleep", "60"]).spawn().unwrap();
    wait_until("the branch is being made", || {
        std::fs::read_dir(home.path().join("volumes")).unwrap().count() > 1
    });
    rustix::process::kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    nothing_left(&home);
}

/// A terminal: the side that a window holds, and the one that programs use.
fn terminal() -> (std::fs::File, std::fs::File) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags | rustix::pty::OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap());
    (master.into(), slave.unwrap())
}

/// Starts `velo run api -- bash -c SCRIPT` as the leader of a session in that terminal, as `ssh -t`
/// and tmux do.
fn start_in(slave: std::fs::File, home: &Home, script: &str) -> Child {
    use std::os::unix::process::CommandExt;
    let mut command = home.command();
    command
        .args(["run", "api", "--", "bash", "-c", script])
        .current_dir(home.dir())
        .stdin(slave)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: both are system calls, which a forked child may make.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    wait_until("the command runs", || home.dir().join("up").exists());
    child
}

/// Ctrl-C in a terminal reaches the command once, not twice.
#[test]
fn ctrl_c_in_a_terminal_reaches_the_command_once() {
    use std::io::Write;
    let home = Home::with_project();
    let (mut master, slave) = terminal();
    // It counts what it gets until it is told to end. It spins, because bash counts what comes
    // during a `sleep` as one.
    let script = "n=0; trap 'n=$((n+1)); echo $n > got' INT; trap 'exit $n' TERM; \
                  echo > up; while :; do :; done";
    let mut child = start_in(slave, &home, script);
    master.write_all(b"\x03").unwrap();
    wait_until("the command gets it", || home.dir().join("got").exists());
    // Were it passed on too, that would be done by now or, at the latest, before this one.
    rustix::process::kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    nothing_left(&home);
}

/// The kernel tells the leader of a session alone that its terminal went away.
#[test]
fn a_terminal_that_goes_away_ends_the_command() {
    let home = Home::with_project();
    let (master, slave) = terminal();
    let script = "trap 'echo >> got; exit 43' HUP; echo > up; while :; do sleep 0.05; done";
    let mut child = start_in(slave, &home, script);
    drop(master);
    wait_until("velo ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(43));
    assert_eq!(std::fs::read_to_string(home.dir().join("got")).unwrap(), "\n");
    ends_soon(&home, "a closed terminal");
}
