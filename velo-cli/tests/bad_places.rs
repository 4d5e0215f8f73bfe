//! Homes that cannot hold what they should: one line, a hint, and nothing changed.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::whole::names;
use common::{Home, is_root, prepared, wait_until};

#[test]
fn a_home_that_is_too_deep_for_a_socket() {
    let home = Home::new();
    let deep = home.dir().join("d".repeat(100));
    home.fails_with(&["project", "create", "x"], 2, "too deep", |c| {
        c.env("VELO_HOME", &deep);
    });
    assert!(!deep.exists());
}

#[test]
fn a_home_that_may_not_be_entered() {
    let home = Home::new();
    let closed = home.dir().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let mode = if is_root() { 0o700 } else { 0o500 };
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(mode)).unwrap();
    home.fails_with(&["project", "create", "x"], 1, "closed", |c| {
        c.env("VELO_HOME", closed.join("h"));
    });
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!closed.join("h").exists());
    // A file where the home should be.
    let file = home.dir().join("file");
    std::fs::write(&file, "").unwrap();
    home.fails_with(&["project", "create", "x"], 2, "file", |c| {
        c.env("VELO_HOME", &file);
    });
}

/// Whoever makes the folders above the home makes them such that servers can pass.
#[test]
fn a_home_below_folders_that_are_missing() {
    use std::os::unix::process::CommandExt;
    let home = Home::new();
    let deep = Home::in_folder(&home.dir().join("um/a/b"));
    let ran = deep.run_with(&["project", "create", "x"], |c| {
        // SAFETY: a system call, which a forked child may make.
        unsafe {
            c.pre_exec(|| {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                Ok(())
            });
        }
    });
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(deep.sql("x/main", "SELECT 1"), "1");
}

/// Root that works in a home which another user's Velo made is told whose it is, and to be that user.
#[test]
fn a_users_home_as_root() {
    if !is_root() {
        return eprintln!("SKIP: only root can be another user");
    }
    let home = Home::new();
    let program = home.dir().join("velo");
    common::copy_program(&common::program(), &program);
    std::os::unix::fs::chown(home.dir(), Some(common::NOBODY), Some(common::NOBODY)).unwrap();
    for args in [&["project", "create", "api"][..], &["project", "delete", "api", "--force"]] {
        let mut command = home.command_as_nobody(&program);
        let ran: common::Ran = command.args(args).output().unwrap().into();
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let there = || {
        let entries = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> =
            entries.map(|e| (e.file_name(), e.metadata().unwrap().uid())).collect();
        all.sort();
        all
    };
    let before = there();
    let be_them = |ran: &common::Ran, part: &str| {
        ran.is_error(1, part);
        assert!(ran.stderr.contains("run it as nobody"), "{ran:?}");
        assert!(!ran.stderr.contains("move it away"), "{ran:?}");
    };
    // As Velo made it, and as somebody may have opened it since.
    for mode in [0o700, 0o755] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(home.path(), mode).unwrap();
        for args in [&["project", "list"][..], &["project", "create", "x"]] {
            be_them(&home.run(args), "belongs to the user nobody");
        }
        let doctor = home.json_of(&["doctor"], 1);
        let told = |f: &serde_json::Value| {
            f["name"] == "home" && f.to_string().contains("belongs to the user nobody")
        };
        assert!(doctor.as_array().unwrap().iter().any(told), "{doctor}");
    }
    assert_eq!(there(), before);
    // Nor can servers of root's pass a folder that is theirs.
    std::fs::set_permissions(home.dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let ran = home.run_with(&["project", "create", "x"], |c| {
        c.env("VELO_HOME", home.dir().join("new"));
    });
    be_them(&ran, "cannot enter");
    std::fs::set_permissions(home.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_user_that_is_not_there() {
    if !is_root() {
        return eprintln!("SKIP: servers run as another user only where Velo is root");
    }
    let home = Home::new();
    home.fails_with(&["project", "create", "x"], 1, "no-such-user", |c| {
        c.env("VELO_USER", "no-such-user");
    });
    home.fails_with(&["project", "create", "x"], 2, "root", |c| {
        c.env("VELO_USER", "root");
    });
    assert!(!home.path().exists());
}

#[test]
fn a_read_only_home() {
    let Some(folder) = prepared("VELO_TEST_READONLY") else {
        return;
    };
    let home = Home::new();
    home.fails_with(&["project", "create", "x"], 1, "Read-only", |c| {
        c.env("VELO_HOME", folder.join("h"));
    });
    let doctor = home.run_with(&["doctor", "--json"], |c| {
        c.env("VELO_HOME", folder.join("h"));
    });
    assert_eq!(doctor.code, 1, "{doctor:?}");

    // The cache is another folder, and another variable.
    let cache = home.run_with(&["pg", "install", "18"], |c| {
        c.env("VELO_CACHE", folder.join("c"));
    });
    cache.is_error(1, "Read-only");
    assert!(cache.stderr.contains("VELO_CACHE") && !cache.stderr.contains("VELO_HOME"));
}

#[test]
fn a_full_disk() {
    let Some(folder) = prepared("VELO_TEST_SMALL") else {
        return;
    };
    // Large enough for one cluster at the most: in the end a branch does not fit.
    let home = Home::under(&folder);
    let full = |ran: &common::Ran| {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("No space left"), "{ran:?}");
        assert!(ran.stderr.contains("hint: "), "{ran:?}");
    };
    let created = home.run(&["project", "create", "api"]);
    if created.code != 0 {
        full(&created);
        assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
        return;
    }
    let filler = home.dir().join("filler");
    fill(&filler);
    let before = home.everything();
    full(&home.run(&["branch", "create", "api/x"]));
    let doctor = home.json_of(&["doctor"], 1);
    let told = |f: &serde_json::Value| f["name"] == "home" && f["status"] == "fail";
    assert!(doctor.as_array().unwrap().iter().any(told), "{doctor}");
    assert_eq!(home.everything(), before);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(home.sql("api/main", "SELECT 1"), "1");
}

/// What deletes and stops has to write as well.
#[test]
fn a_disk_that_is_full_can_be_emptied() {
    for variable in ["VELO_TEST_FULL_BTRFS", "VELO_TEST_FULL_XFS", "VELO_TEST_FULL_EXT4"] {
        let Some(folder) = prepared(variable) else { continue };
        let home = Home::under(&folder);
        home.ok(&["project", "create", "api"]);
        home.ok(&["branch", "create", "api/dev"]);
        home.ok(&["branch", "create", "api/other"]);
        let filler = home.dir().join("filler");
        fill_up(&filler);
        let works = |args: &[&str]| {
            let ran = home.run(args);
            assert_eq!(ran.code, 0, "{variable}: {args:?}: {ran:?}");
        };
        works(&["status"]);
        works(&["branch", "list"]);
        works(&["branch", "stop", "api/dev"]);
        works(&["branch", "delete", "api/dev"]);
        assert!(!home.path().join("reserve").exists());
        // What it gave back is not full any more.
        std::fs::remove_file(&filler).unwrap();
        // XFS and btrfs do that by and by.
        wait_until("the space is there again", || {
            let free = rustix::fs::statvfs(home.dir()).unwrap();
            free.f_bavail * free.f_frsize > 60 << 20
        });
        works(&["branch", "create", "api/next"]);
        assert!(home.path().join("reserve").exists(), "{variable}");
        // A throwaway branch goes, whatever its command has done to the disk.
        let fill = "for size in 1048576 65536 4096; do
            dd if=/dev/zero of=\"$0\" bs=$size oflag=append conv=notrunc status=none 2>/dev/null
            sync -f \"$0\"
        done";
        let ran = home.run(&["run", "api", "--", "sh", "-c", fill, filler.to_str().unwrap()]);
        assert!(!ran.stderr.contains("not gone"), "{variable}: {ran:?}");
        assert_eq!(names(&home, "volumes").len(), 3, "{variable}");
        std::fs::remove_file(&filler).unwrap();
        works(&["branch", "create", "api/last"]);
        fill_up(&filler);
        works(&["project", "delete", "api", "--force"]);
        works(&["gc"]);
        std::fs::remove_file(&filler).unwrap();
    }
}

/// Writes until nobody can write any more.
fn fill_up(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let file_system = std::fs::File::open(path.parent().unwrap()).unwrap();
    // What is not written yet takes space of its own when it is.
    for _ in 0..3 {
        for size in [1 << 20, 1 << 16, 1 << 12] {
            while file.write_all(&vec![7u8; size]).is_ok() {}
        }
        let _ = rustix::fs::syncfs(&file_system);
    }
}

/// Writes until the disk is full, but for what a record needs.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let block = vec![1u8; 1 << 16];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(1 << 20)).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_state_that_is_damaged_newer_or_somebody_elses() {
    let home = Home::with_project();
    let state = home.path().join("state.db");
    let whole = std::fs::read(&state).unwrap();
    let wal = home.path().join("state.db-wal");
    let whole_wal = std::fs::read(&wal).ok();

    let put = |bytes: &[u8]| {
        // The WAL would be replayed into the file.
        let _ = std::fs::remove_file(&wal);
        let _ = std::fs::remove_file(home.path().join("state.db-shm"));
        std::fs::write(&state, bytes).unwrap();
    };
    put(b"this is no database, and it is longer than the header of one: 0123456789 0123456789");
    home.fails(&["branch", "list"], 1, "state.db");
    home.fails(&["project", "create", "x"], 1, "state.db");
    assert_eq!(home.run(&["doctor"]).code, 1);

    // The header's fields: user_version at 60, application_id at 68.
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99i32.to_be_bytes());
    newer[68..72].copy_from_slice(&0x7665_6c6fi32.to_be_bytes());
    put(&newer);
    home.fails(&["branch", "list"], 1, "newer version");
    assert_eq!(std::fs::read(&state).unwrap(), newer, "it was changed");
    let mut other = newer.clone();
    other[68..72].copy_from_slice(&1i32.to_be_bytes());
    put(&other);
    home.fails(&["branch", "list"], 1, "not Velo's");
    assert_eq!(std::fs::read(&state).unwrap(), other, "it was changed");

    // Taken away, it is missed.
    std::fs::remove_file(&state).unwrap();
    for args in
        [&["branch", "list"][..], &["gc", "--unrecorded"], &["status"], &["project", "create", "x"]]
    {
        home.fails(args, 1, "is gone");
        assert!(!state.exists(), "{args:?} made a new one");
    }
    home.fails(&["doctor", "--fix"], 1, "is gone");
    let doctor = home.run(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("state.db"), "{doctor:?}");

    put(&whole);
    if let Some(bytes) = whole_wal {
        std::fs::write(&wal, bytes).unwrap();
    }
    assert_eq!(home.branches(), ["api/main"]);
    assert_eq!(home.sql("api/main", "SELECT 1"), "1");
}

#[test]
fn a_storage_that_the_file_system_cannot_do() {
    let home = Home::new();
    std::fs::create_dir(home.path()).unwrap();
    let works = home.json(&["status"])["storages"].to_string();
    for kind in ["btrfs", "reflink"] {
        if !works.contains(kind) {
            let create = ["project", "create", "x", "--storage", kind];
            home.fails(&create, 1, "does not work in");
            let doctor = home.run_with(&["doctor"], |c| {
                c.env("VELO_STORAGE", kind);
            });
            assert_eq!(doctor.code, 1, "{doctor:?}");
        }
    }
    assert_eq!(home.json(&["project", "list"]), serde_json::json!([]));
}

#[test]
fn what_the_disk_holds_and_no_record_names() {
    let home = Home::with_project();
    let strange = home.path().join("volumes/01ARZ3NDEKTSV4RRFFQ69G5FAV");
    std::fs::create_dir(&strange).unwrap();
    let ran = home.run(&["doctor"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("01ARZ3NDEKTSV4RRFFQ69G5FAV"), "{ran:?}");
    assert!(strange.is_dir(), "doctor removed it");
    std::fs::remove_dir(&strange).unwrap();

    // A record without its volume.
    home.ok(&["branch", "create", "api/dev", "--stopped"]);
    let volumes = home.path().join("volumes");
    let mut names: Vec<_> =
        std::fs::read_dir(&volumes).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let last = names.pop().unwrap();
    let away = home.dir().join("away");
    std::fs::rename(&last, &away).unwrap();
    let ran = home.run(&["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("not there"), "{ran:?}");
    std::fs::rename(&away, &last).unwrap();
    assert_eq!(home.run(&["doctor"]).code, 0);
}
