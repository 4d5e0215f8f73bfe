//! Many processes open one home at the same moment, in which dead ones have left something: it is undone
//! once, by one of them, and the others neither wait for that nor pay for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use common::whole::{DIFFERENCES, doctor_agrees, names, working};
use common::{Home, prepared, wait_until};

/// How many throwaway branches have lost their holders.
const HOLDERS: usize = 6;

/// How many processes ended and left nothing but the file of their lease.
const LEASES: usize = 300;

fn openers() -> usize {
    if std::env::var_os("VELO_TEST_LONG").is_some() { 1000 } else { 150 }
}

/// A home in which killed processes left branches, and others their leases.
fn ruin(base: &Path) -> Home {
    let home = Home::under(base);
    home.ok(&["project", "create", "api", "--storage", "btrfs"]);
    let hold = || {
        let mut run = home.command();
        // The command ends with its input, which ends with this test's hold of it.
        run.args(["run", "api", "--", "sh", "-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut holders: Vec<Child> = (0..HOLDERS).map(|_| hold()).collect();
    wait_until("each has a branch", || {
        let list = home.json(&["branch", "list"]);
        let running = list.as_array().unwrap().iter().filter(|b| b["state"] == "running");
        running.count() == HOLDERS + 1
    });
    for holder in &mut holders {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    for number in 0..LEASES {
        let name = format!("01M85Q712A381HG2QDVG2F{number:04}");
        File::create(home.path().join("leases").join(name)).unwrap();
    }
    wait_until("their servers are gone", || working(&home).len() == 1);
    home
}

#[test]
fn whoever_opens_a_home_does_not_wait_for_the_one_who_cleans_up() {
    let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
    let home = ruin(&base);
    // As the one who cleans up holds it, and is not done.
    let lock = File::options().write(true).open(home.path().join("locks/reconcile")).unwrap();
    lock.lock().unwrap();
    for _ in 0..5 {
        assert_eq!(home.branches().len(), HOLDERS + 1);
    }
    assert_eq!(names(&home, "volumes").len(), HOLDERS + 1);
    drop(lock);
    assert_eq!(home.branches(), ["api/main"]);
}

#[test]
fn many_who_open_a_home_at_once_undo_what_the_dead_left_once() {
    let Some(base) = prepared("VELO_TEST_BTRFS") else { return };
    let home = ruin(&base);
    let (steps, said) = (home.dir().join("steps"), home.dir().join("said"));
    let begun = Instant::now();
    let openers: Vec<Child> = (0..openers())
        .map(|_| {
            // Files, and no pipe for each: there may be more of them than descriptors.
            let said = File::options().append(true).create(true).open(&said).unwrap();
            let mut open = home.command();
            open.args(["branch", "list"]).env("VELO_TEST_STEPS", &steps);
            open.stdout(Stdio::null()).stderr(said).spawn().unwrap()
        })
        .collect();
    let count = openers.len();
    for mut opener in openers {
        let ended = opener.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", std::fs::read_to_string(&said).unwrap());
    }
    println!("{count} opened it within {:?}", begun.elapsed());
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "");

    let text = std::fs::read_to_string(&steps).unwrap();
    let done = |step: &str| text.lines().filter(|line| line.ends_with(step)).count();
    // Each thing once, whoever did it.
    assert_eq!(done(" after storage: destroy a volume"), HOLDERS);
    assert_eq!(done(" after forget a branch"), HOLDERS);
    assert_eq!(names(&home, "volumes").len(), 1);
    assert!(done(" after bury a dead lease") >= HOLDERS + LEASES);
    // Looking through all that is there is what whoever cleaned up does, and whoever buries that one; a
    // machine that is short of time may need some more to finish it.
    for once in [" after sweep locks", " after take a lease"] {
        println!("{once}: {}", done(once));
        assert!((1..=5).contains(&done(once)), "{}{once}", done(once));
    }
    doctor_agrees(&home, &DIFFERENCES, "after all");
}
