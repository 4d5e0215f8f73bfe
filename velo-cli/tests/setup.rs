//! `velo setup`: a file system in a file, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Home, Ran, is_root, prepared, program};

/// A machine's corner: a folder for images, and a table of file systems of its own.
struct Corner {
    dir: tempfile::TempDir,
}

const FSTAB: &str = "# a comment\n/dev/vda1 / ext4 defaults 0 1\n";

impl Corner {
    /// None where file systems cannot be mounted.
    fn new() -> Option<Self> {
        let rig = prepared("VELO_TEST_RIG")?;
        if !is_root() {
            eprintln!("SKIP: only root can mount");
            return None;
        }
        prepared("VELO_TEST_BTRFS")?;
        let dir = common::folder(&rig);
        std::fs::write(dir.path().join("fstab"), FSTAB).unwrap();
        Some(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fstab(&self) -> String {
        std::fs::read_to_string(self.path("fstab")).unwrap()
    }

    fn setup(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Ran {
        self.setup_at("home", args, change)
    }

    fn setup_at(&self, at: &str, args: &[&str], change: impl FnOnce(&mut Command)) -> Ran {
        let mut command = Command::new(program());
        command
            .args(["setup", "--fstab"])
            .arg(self.path("fstab"))
            .arg("--at")
            .arg(self.path(at))
            .args(args)
            .stdin(std::process::Stdio::null());
        change(&mut command);
        command.output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.setup(args, |_| {});
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran
    }

    /// Everything in it that something is mounted at, the last one first.
    fn mounted(&self) -> Vec<PathBuf> {
        let corner = self.dir.path().canonicalize().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut points: Vec<_> = points.filter(|point| point.starts_with(&corner)).collect();
        points.reverse();
        points
    }

    fn is_mounted(&self) -> bool {
        !self.mounted().is_empty()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        self.nothing_is_left_but(&["fstab"]);
    }

    #[track_caller]
    fn nothing_is_left_but(&self, names: &[&str]) {
        assert!(!self.is_mounted());
        assert_eq!(self.names(), names);
        assert_eq!(self.fstab(), FSTAB);
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        for point in self.mounted() {
            let umounted = Command::new("umount").arg(point).status();
            assert!(umounted.is_ok_and(|s| s.success()) || std::thread::panicking());
        }
    }
}

#[test]
fn folders_around_it_go_with_it_and_a_home_deep_in_it_is_seen() {
    let Some(corner) = Corner::new() else { return };
    let (at, image) = (corner.path("deep/er/home"), corner.path("home.img"));
    let setup = |args: &[&str]| -> Ran {
        let mut command = Command::new(program());
        command.arg("setup").arg("--fstab").arg(corner.path("fstab")).arg("--at").arg(&at);
        command.arg("--image").arg(&image).args(args).output().unwrap().into()
    };
    let made = setup(&["--loop", "300M", "--yes"]);
    assert_eq!(made.code, 0, "{made:?}");
    // As deep as in a user's own folder, and short enough for a socket.
    let home = Home::in_folder(&at.join("a/b/c/d/e/f"));
    home.ok(&["project", "create", "api"]);
    home.ok(&["stop", "--all"]);
    setup(&["--undo", "--yes"]).is_error(1, "holds branches");
    home.ok(&["project", "delete", "--force", "api"]);
    let undone = setup(&["--undo", "--yes"]);
    assert_eq!(undone.code, 0, "{undone:?}");
    corner.nothing_is_left();
}

/// Tables of mounts hold the one real path, whatever links lead there.
#[test]
fn links_to_the_folder_and_the_image_are_followed() {
    use std::os::unix::fs::symlink;
    let Some(corner) = Corner::new() else { return };
    let real = corner.dir.path().canonicalize().unwrap().join("real");
    std::fs::create_dir_all(real.join("home")).unwrap();
    symlink("real", corner.path("above")).unwrap();
    symlink(real.join("home"), corner.path("link")).unwrap();
    let there = ["above", "fstab", "link", "real"];
    let elsewhere = corner.path("above/x.img").display().to_string();
    for (at, image) in [
        ("above/home", None),
        ("link", None),
        ("above/new/home", None),
        ("link", Some(&*elsewhere)),
    ] {
        let whole = |args: &[&'static str]| {
            let image = image.map_or(vec![], |image| vec!["--image", image]);
            let args: Vec<&str> = args.iter().copied().chain(image).collect();
            let ran = corner.setup_at(at, &args, |_| {});
            assert_eq!(ran.code, 0, "{at} {args:?}: {ran:?}");
            assert!(!format!("{ran:?}").contains("above"), "{at}: {ran:?}");
            ran.stdout
        };
        let new = if at.ends_with("new/home") { real.join("new/home") } else { real.join("home") };
        let file = if image.is_some() { real.join("x.img") } else { new.with_extension("img") };
        let file = file.display().to_string();
        let named = format!("VELO_HOME={}\n", new.display());
        // The folder around the image is for whoever names it to make.
        std::fs::create_dir_all(new.parent().unwrap()).unwrap();
        let said = whole(&["--loop", "300M", "--yes"]);
        assert!(said.ends_with(&named), "{said} is not of {named}");
        assert_eq!(corner.mounted(), std::slice::from_ref(&new));
        let table = corner.fstab();
        assert!(table.ends_with(" 0 0\n") && table.contains(&format!("{file} {} ", new.display())));
        assert!(whole(&["--loop", "300M", "--yes"]).contains("nothing to do"));
        let json = whole(&["--loop", "300M", "--yes", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["at"], &json["image"]), (&new.to_str().into(), &file.as_str().into()));
        assert!(whole(&["--undo", "--yes"]).contains(&file));
        corner.nothing_is_left_but(&there);
        let left: Vec<_> = std::fs::read_dir(new.parent().unwrap()).unwrap().collect();
        assert!(left.len() <= 1, "{left:?}");
        let _ = std::fs::remove_dir(real.join("new"));
    }

    let (args, link) = (["--loop", "300M", "--yes"], corner.path("link"));
    // One to nothing is nobody's wish.
    std::fs::remove_dir(real.join("home")).unwrap();
    corner.setup_at("link", &args, |_| {}).is_error(1, "leads nowhere");
    corner.setup_at("link/home", &args, |_| {}).is_error(1, "leads nowhere");
    let image = ["--image", link.to_str().unwrap()];
    corner.setup(&[&args[..], &image].concat(), |_| {}).is_error(1, "leads nowhere");
    corner.nothing_is_left_but(&there);
}

#[test]
fn a_folder_that_was_moved_since_is_found_by_a_link_in_its_place() {
    use std::os::unix::fs::symlink;
    let Some(corner) = Corner::new() else { return };
    let (old, args) = (corner.path("old"), ["--loop", "300M", "--yes"]);
    std::fs::create_dir(&old).unwrap();
    let ok = |args: &[&str]| {
        let ran = corner.setup_at("old/home", args, |_| {});
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    ok(&args);
    tool("umount", &[old.join("home").to_str().unwrap()]);
    std::fs::rename(&old, corner.path("new")).unwrap();
    symlink("new", &old).unwrap();
    let table = corner.fstab();
    ok(&args);
    assert!(corner.is_mounted());
    assert_eq!(corner.fstab(), table);
    // The image may be named by a link, too.
    let link = corner.path("image").display().to_string();
    symlink("old/home.img", &link).unwrap();
    ok(&["--undo", "--image", &link, "--yes"]);
    corner.nothing_is_left_but(&["fstab", "image", "new", "old"]);
    assert_eq!(std::fs::read_dir(corner.path("new")).unwrap().count(), 0);
}

/// What somebody wrote into the table is never doubled.
#[test]
fn a_line_that_somebody_changed_is_the_same_or_in_the_way() {
    let Some(corner) = Corner::new() else { return };
    let args = ["--loop", "300M", "--yes"];
    let put =
        |line: &str| std::fs::write(corner.path("fstab"), format!("{FSTAB}{line}\n")).unwrap();
    let (home, image) = (corner.path("home"), corner.path("home.img"));
    let (home, image) = (home.to_str().unwrap(), image.to_str().unwrap());
    let options = "loop,noatime,nofail,user_subvol_rm_allowed";
    let ours = format!("{image} {home} btrfs {options},commit=1 0 0");
    corner.ok(&args);
    assert_eq!(corner.fstab(), format!("{FSTAB}{ours}\n"));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|mount| mount.contains(&format!(" {home} "))).unwrap();
    assert!(mount.ends_with(",commit=1") || mount.contains(",commit=1,"), "{mount}");
    // What does the same is the same.
    for same in [
        ours.replace(' ', "\t"),
        format!("  {image}  {home}/ btrfs {options},commit=5"),
        format!(
            "{image} {home} btrfs user_subvol_rm_allowed,nofail,loop,compress=zstd,noatime 0 2"
        ),
    ] {
        put(&same);
        let table = corner.fstab();
        assert!(corner.ok(&args).stdout.contains("nothing to do"), "{same}");
        assert_eq!(corner.fstab(), table);
    }
    // Anything else is named.
    let others = [
        format!("{image} {home} btrfs loop,noatime,nofail 0 0"),
        format!("{image} {home} btrfs {options},ro 0 0"),
        format!("{image} {home} btrfs {options},noauto 0 0"),
        format!("{image} {home} btrfs {options},subvol=/x 0 0"),
        format!("{image} {home} ext4 {options} 0 0"),
        format!("{image} {home}-2 btrfs {options} 0 0"),
        format!("/dev/vdb1 {home} ext4 defaults 0 2"),
        format!("server:/export {home}/ nfs defaults 0 0"),
        format!("{ours}\n/dev/vdb1 {home} ext4 defaults 0 2"),
    ];
    for other in &others {
        put(other);
        let table = corner.fstab();
        let line = if other.contains('\n') { "line 4 of" } else { "line 3 of" };
        let ran = corner.setup(&args, |_| {});
        ran.is_error(1, line);
        assert!(ran.stderr.contains(&corner.path("fstab").display().to_string()), "{ran:?}");
        assert!(ran.stderr.contains("remove that line"), "{ran:?}");
        assert_eq!(corner.fstab(), table);
    }
    // The line of an image that goes, goes too, as it is now.
    put(&others[0]);
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    // Nor is anything made beside a line that is somebody's.
    for other in &others {
        put(other);
        let table = corner.fstab();
        let line = if other.contains('\n') { "line 4 of" } else { "line 3 of" };
        corner.setup(&args, |_| {}).is_error(1, line);
        assert!(!corner.is_mounted() && corner.names() == ["fstab"]);
        assert_eq!(corner.fstab(), table);
    }
    // A comment is nobody's line.
    put(&format!("#{ours}"));
    corner.ok(&args);
    assert_eq!(corner.fstab(), format!("{FSTAB}#{ours}\n{ours}\n"));
    corner.ok(&["--undo", "--yes"]);
    assert_eq!(corner.fstab(), format!("{FSTAB}#{ours}\n"));
}

/// Some systems make the table themselves, and link to it.
#[test]
fn a_table_that_is_a_link_stays_one() {
    use std::os::unix::fs::symlink;
    let Some(corner) = Corner::new() else { return };
    let args = ["--loop", "300M", "--yes"];
    let folder = corner.path("static");
    let real = folder.join("table");
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(corner.path("fstab"), &real).unwrap();
    symlink("static/table", corner.path("fstab")).unwrap();
    let stays = || {
        assert!(corner.path("fstab").is_symlink());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    };
    corner.ok(&args);
    assert!(std::fs::read_to_string(&real).unwrap().contains("home.img"));
    stays();
    corner.ok(&["--undo", "--yes"]);
    stays();
    corner.nothing_is_left_but(&["fstab", "static"]);

    // One that cannot be written: said before anything is made, or taken back.
    let closed = || {
        tool("mount", &["--bind", folder.to_str().unwrap(), folder.to_str().unwrap()]);
        tool("mount", &["-o", "remount,bind,ro", folder.to_str().unwrap()]);
    };
    let open = || tool("umount", &[folder.to_str().unwrap()]);
    closed();
    let ran = corner.setup(&args, |_| {});
    open();
    ran.is_error(1, "Read-only");
    let line =
        format!("{} {} btrfs", corner.path("home.img").display(), corner.path("home").display());
    assert!(ran.stderr.contains("static/table") && ran.stderr.contains(&line), "{ran:?}");
    corner.nothing_is_left_but(&["fstab", "static"]);
    corner.ok(&args);
    closed();
    // Once the line is there, nothing has to be written.
    assert!(corner.ok(&args).stdout.contains("nothing to do"));
    let ran = corner.setup(&["--undo", "--yes"], |_| {});
    open();
    ran.is_error(1, "Read-only");
    assert!(ran.stderr.contains("static/table") && ran.stderr.contains(&line), "{ran:?}");
    assert!(corner.is_mounted());
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left_but(&["fstab", "static"]);

    std::fs::remove_file(&real).unwrap();
    corner.setup(&args, |_| {}).is_error(1, "leads nowhere");
    assert!(!corner.is_mounted() && corner.names() == ["fstab", "static"]);
}

#[test]
fn a_file_system_comes_and_goes() {
    let Some(corner) = Corner::new() else { return };
    let plan = corner.ok(&["--loop", "300M", "--dry-run"]).stdout;
    let home = corner.path("home").display().to_string();
    for part in ["truncate -s 314572800 ", "mkfs.btrfs", "fstab", &format!("mount {home}")] {
        assert!(plan.contains(part), "{part} is not in {plan}");
    }
    corner.nothing_is_left();

    // Nobody can be asked.
    let ran = corner.setup(&["--loop", "300M"], |_| {});
    ran.is_error(1, "nobody can be asked");
    corner.nothing_is_left();

    let ran = corner.ok(&["--loop", "300M", "--yes"]);
    let said: Vec<String> =
        ran.stderr.lines().map(|line| line.trim_start_matches("+ ").to_owned()).collect();
    assert_eq!(said, plan.lines().collect::<Vec<_>>(), "what was said is what was run");
    assert!(corner.is_mounted() && corner.fstab().starts_with(FSTAB));

    let home = Home::in_folder(&corner.path("home"));
    let project = home.json(&["project", "create", "api"]);
    assert_eq!(project["storage"], "btrfs");
    home.ok(&["branch", "create", "api/dev"]);

    // A second time there is nothing to do, and what lives in it is not lost.
    assert!(corner.ok(&["--loop", "300M", "--yes"]).stdout.contains("nothing to do"));
    let again = corner.setup(&["--loop", "400M", "--yes"], |_| {});
    again.is_error(1, "size 314572800 bytes, and not 419430400 bytes");
    assert!(!again.stderr.contains("--owner"), "{again:?}");
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "holds branches");
    // Nor by a journal under another image's name.
    let (other, journal) = (corner.path("other.img"), corner.path("other.img.json"));
    std::fs::copy(corner.path("home.img.json"), &journal).unwrap();
    let other = other.to_str().unwrap();
    corner.setup(&["--undo", "--image", other, "--yes"], |_| {}).is_error(1, "of another image");
    std::fs::remove_file(journal).unwrap();
    // Nor what somebody has made larger since.
    let image = std::fs::OpenOptions::new().write(true).open(corner.path("home.img")).unwrap();
    image.set_len(400 << 20).unwrap();
    assert!(corner.ok(&["--loop", "300M", "--yes"]).stdout.contains("nothing to do"));
    assert_eq!(image.metadata().unwrap().len(), 400 << 20);
    // What is not mounted only looks empty.
    home.ok(&["branch", "stop", "api/main"]);
    home.ok(&["branch", "stop", "api/dev"]);
    let umount = || Command::new("umount").arg(corner.path("home")).status().unwrap().success();
    assert!(umount());
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "not mounted");
    // Nor is a new home made below it.
    for args in [&["project", "create", "other"][..], &["project", "list"], &["status"]] {
        home.fails(args, 1, "is not mounted");
    }
    let doctor = home.run(&["doctor"]);
    let home_is_missing = |line: &str| line.contains("home") && line.contains("is not mounted");
    assert!(doctor.code == 1 && doctor.stdout.lines().any(home_is_missing), "{doctor:?}");
    assert_eq!(std::fs::read_dir(corner.path("home")).unwrap().count(), 0);
    corner.ok(&["--loop", "300M", "--yes"]);
    assert_eq!(home.branches(), ["api/main", "api/dev"]);
    home.ok(&["project", "delete", "api", "--force"]);

    // As after a restart of the machine that did not mount it, and a table that lost its line.
    assert!(Command::new("umount").arg(corner.path("home")).status().unwrap().success());
    std::fs::write(corner.path("fstab"), FSTAB).unwrap();
    let ran = corner.ok(&["--loop", "300M", "--yes", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["commands"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json["done"], true);
    assert!(corner.is_mounted());

    // Somebody else's file is in it.
    let notes = corner.path("home").join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("today"), "mine").unwrap();
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "none of Velo's");
    assert!(corner.is_mounted());
    std::fs::remove_dir_all(&notes).unwrap();
    // However it is called.
    for name in ["reserved-seats.csv", "state.db.bak"] {
        let file = corner.path("home").join(name);
        std::fs::write(&file, "mine").unwrap();
        corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "none of Velo's");
        std::fs::remove_file(file).unwrap();
    }

    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "no setup has made");
}

#[test]
fn what_came_while_it_was_asked_for_stays() {
    use velo_core::blocking::setup::Setup;
    let Some(corner) = Corner::new() else { return };
    corner.ok(&["--loop", "300M", "--yes"]);
    let undo = Setup::undo(corner.path("home.img")).unwrap();
    let mine = corner.path("home").join("mine");
    std::fs::write(&mine, "mine").unwrap();
    let error = undo.run(|_| {}).unwrap_err();
    assert!(error.to_string().contains("none of Velo's"), "{error:?}");
    assert!(mine.exists() && corner.is_mounted());
    std::fs::remove_file(mine).unwrap();
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    let ran = corner.setup(&["--loop", "300M", "--image", "/nowhere/x.img", "--yes"], |_| {});
    ran.is_error(1, "the folder of the file does not exist: /nowhere");
}

#[test]
fn what_fails_is_taken_back() {
    let Some(corner) = Corner::new() else { return };
    // Only mkfs.btrfs is there: the last but one step fails.
    let bin = common::folder(corner.dir.path());
    let path = std::env::var_os("PATH").unwrap();
    let mkfs = std::env::split_paths(&path).map(|dir| dir.join("mkfs.btrfs"));
    let mkfs = mkfs.chain(["/usr/sbin/mkfs.btrfs".into(), "/sbin/mkfs.btrfs".into()]);
    let mkfs = mkfs.into_iter().find(|file| file.exists()).unwrap();
    std::os::unix::fs::symlink(mkfs, bin.path().join("mkfs.btrfs")).unwrap();
    let ran = corner.setup(&["--loop", "300M", "--yes"], |command| {
        command.env("PATH", bin.path());
    });
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("error: start mount"), "{ran:?}");
    assert!(ran.stderr.contains("+ rm "), "{ran:?}");
    drop(bin);
    corner.nothing_is_left();
}

#[test]
fn of_two_at_once_neither_takes_back_what_the_other_makes() {
    let Some(corner) = Corner::new() else { return };
    for _ in 0..3 {
        let [one, two] = std::thread::scope(|scope| {
            let run = || corner.setup(&["--loop", "300M", "--yes"], |_| {});
            [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())
        });
        assert!(one.code == 0 || two.code == 0, "{one:?} {two:?}");
        for ran in [one, two] {
            assert!(ran.code == 0 || ran.stderr.contains("another setup"), "{ran:?}");
        }
        assert!(corner.is_mounted() && corner.path("home.img").exists());
        corner.ok(&["--undo", "--yes"]);
        corner.nothing_is_left();
    }
}

#[test]
fn what_somebody_else_made_is_not_touched() {
    let Some(corner) = Corner::new() else { return };
    std::fs::create_dir(corner.path("home")).unwrap();
    std::fs::write(corner.path("home/file"), "").unwrap();
    corner.setup(&["--loop", "300M", "--yes"], |_| {}).is_error(1, "is not empty");
    std::fs::remove_dir_all(corner.path("home")).unwrap();

    std::fs::write(corner.path("home.img"), "somebody's").unwrap();
    corner.setup(&["--loop", "300M", "--yes"], |_| {}).is_error(1, "no setup made it");
    assert_eq!(std::fs::read_to_string(corner.path("home.img")).unwrap(), "somebody's");
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "no setup has made");
    std::fs::remove_file(corner.path("home.img")).unwrap();

    corner.setup(&["--loop", "900T", "--yes"], |_| {}).is_error(1, "too few for an image");
    corner.setup(&["--loop", "1M", "--yes"], |_| {}).is_error(2, "too few for a file system");
    corner.setup(&["--loop", "1.5G", "--yes"], |_| {}).is_error(2, "'1.5G'");
    let inside = corner.path("home/inside.img").display().to_string();
    corner
        .setup(&["--loop", "300M", "--image", &inside, "--yes"], |_| {})
        .is_error(2, "would lie in the file system");
    corner
        .setup(&["--loop", "300M", "--owner", "nobody-by-this-name", "--yes"], |_| {})
        .is_error(1, "there is no user");
    corner.nothing_is_left();
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    if is_root() {
        return;
    }
    let output = Command::new(program())
        .args(["setup", "--loop", "300M", "--at", "/nonexistent/velo", "--yes"])
        .output()
        .unwrap();
    Ran::from(output).is_error(1, "only root");
    assert!(!Path::new("/nonexistent").exists());
}

#[test]
fn it_can_belong_to_a_user() {
    use std::os::unix::fs::MetadataExt;
    let Some(corner) = Corner::new() else { return };
    corner.ok(&["--loop", "300M", "--owner", "postgres", "--yes"]);
    let home = corner.path("home").metadata().unwrap();
    assert_ne!(home.uid(), 0);
    assert_eq!(home.mode() & 0o777, 0o700);
    assert!(
        corner.ok(&["--loop", "300M", "--owner", "postgres", "--yes"]).stdout.contains("nothing")
    );
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
}

/// Runs a program to its end.
#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The dataset for tests, where there is ZFS.
fn zfs() -> Option<String> {
    let dataset = std::env::var("VELO_TEST_ZFS").ok();
    if dataset.is_none() {
        eprintln!("SKIP: VELO_TEST_ZFS names no dataset");
        return None;
    }
    is_root().then_some(dataset)?
}

#[test]
fn zfs_pool_in_a_file_comes_and_goes() {
    if zfs().is_none() {
        return;
    }
    let dir = common::folder(&prepared("VELO_TEST_RIG").unwrap());
    let corner = Corner { dir };
    std::fs::write(corner.path("fstab"), FSTAB).unwrap();
    let args = ["--loop", "300M", "--fs", "zfs", "--pool", "velo-setup-test", "--yes"];
    let plan = corner.ok(&[&args[..6], &["--dry-run"]].concat()).stdout;
    assert!(plan.contains("zpool create"), "{plan}");
    corner.nothing_is_left();
    corner.ok(&args);
    assert!(corner.is_mounted());
    assert!(corner.ok(&args).stdout.contains("nothing to do"));
    let of = tool("zfs", &["get", "-H", "-o", "value", "recordsize", "velo-setup-test/velo"]);
    assert_eq!(of.trim(), "8K");
    // The same name on another image is somebody's.
    let other = corner.path("other.img").display().to_string();
    let home = corner.path("elsewhere").display().to_string();
    let mut command = Command::new(program());
    command.args(["setup", "--at", &home, "--image", &other]).args(args);
    Ran::from(command.output().unwrap()).is_error(1, "there is a pool");
    // What is not mounted or not imported is neither made again nor lost.
    std::fs::write(corner.path("home/precious"), "").unwrap();
    tool("zfs", &["unmount", "velo-setup-test/velo"]);
    corner.setup(&args, |_| {}).is_error(1, "is there, and not mounted");
    tool("zpool", &["export", "velo-setup-test"]);
    corner.setup(&args, |_| {}).is_error(1, "is not imported");
    let ran = Home::in_folder(&corner.path("home")).run(&["project", "list"]);
    ran.is_error(1, "is not mounted");
    assert!(ran.stderr.contains("zpool import -d"), "{ran:?}");
    corner
        .setup(&["--undo", "--yes"], |command| {
            command.env("PATH", "/usr/bin:/bin");
        })
        .is_error(1, "there is no program z");
    // One that was made larger has two of its four labels where they were, and `zdb` fails.
    let image = std::fs::File::options().write(true).open(corner.path("home.img")).unwrap();
    let size = image.metadata().unwrap().len();
    image.set_len(size + (64 << 20)).unwrap();
    let undo = corner.setup(&["--undo", "--yes"], |_| {});
    undo.is_error(1, "nobody can see what is in");
    image.set_len(size).unwrap();
    let folder = corner.dir.path().to_str().unwrap().to_owned();
    tool("zpool", &["import", "-d", &folder, "velo-setup-test"]);
    let precious = corner.path("home/precious");
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "precious is none of Velo's");
    std::fs::remove_file(precious).unwrap();
    // What nobody can list may hold anything.
    let broken = corner.path("broken");
    std::fs::create_dir(&broken).unwrap();
    std::os::unix::fs::symlink("/bin/false", broken.join("zfs")).unwrap();
    let path = std::env::var("PATH").unwrap();
    corner
        .setup(&["--undo", "--yes"], |command| {
            command.env("PATH", format!("{}:{path}", broken.display()));
        })
        .is_error(1, "nobody can see what is in the pool velo-setup-test");
    std::fs::remove_dir_all(&broken).unwrap();
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    assert!(!Command::new("zpool").args(["list", "velo-setup-test"]).status().unwrap().success());
    // A setup that was killed between the two made the pool alone; it is finished, or taken back.
    let image = corner.path("home.img").display().to_string();
    let alone = || {
        corner.ok(&args);
        tool("zfs", &["destroy", "velo-setup-test/velo"]);
    };
    alone();
    corner.ok(&args);
    assert!(corner.is_mounted());
    tool("zfs", &["unmount", "velo-setup-test/velo"]);
    let ran = corner.setup(&["--undo", "--yes"], |_| {});
    ran.is_error(1, "nobody can see what is in");
    assert!(ran.stderr.contains("zfs mount velo-setup-test/velo"), "{ran:?}");
    tool("zfs", &["destroy", "velo-setup-test/velo"]);
    // Somebody's are not lost with it.
    tool("zfs", &["create", "velo-setup-test/mine"]);
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "velo-setup-test/mine is in the pool");
    tool("zfs", &["destroy", "velo-setup-test/mine"]);
    let top = corner.path("top").display().to_string();
    let mount = format!("mountpoint={top}");
    tool("zfs", &["set", "canmount=on", &mount, "velo-setup-test"]);
    let _ = Command::new("zfs").args(["mount", "velo-setup-test"]).status().unwrap();
    corner.setup(&["--undo", "--yes"], |_| {}).is_error(1, "velo-setup-test itself is mounted");
    tool("zfs", &["set", "canmount=off", "mountpoint=none", "velo-setup-test"]);
    let _ = std::fs::remove_dir(&top);
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    // A destroyed pool leaves its label in the file: whoever destroyed it, an undo that was killed perhaps.
    corner.ok(&args);
    tool("zpool", &["destroy", "velo-setup-test"]);
    assert!(tool("zdb", &["-l", &image]).contains("state: 2"));
    corner.ok(&args);
    assert!(corner.is_mounted());
    tool("zpool", &["destroy", "velo-setup-test"]);
    corner.ok(&["--undo", "--yes"]);
    corner.nothing_is_left();
    // ZFS too knows the real paths alone.
    std::os::unix::fs::symlink(".", corner.path("above")).unwrap();
    for (args, part) in
        [(&args[..], "is ready"), (&args, "nothing to do"), (&["--undo", "--yes"], "gone")]
    {
        let ran = corner.setup_at("above/home", args, |_| {});
        assert!(ran.code == 0 && ran.stdout.contains(part), "{args:?}: {ran:?}");
    }
    corner.nothing_is_left_but(&["above", "fstab"]);
}

#[test]
fn zfs_dataset_is_given_to_a_user_and_taken_back() {
    let Some(parent) = zfs() else { return };
    let dataset = format!("{parent}/given");
    let velo = |args: &[&str]| -> Ran {
        let mut command = Command::new(program());
        command.args(["setup", "--delegate", &dataset, "--owner", "velo-ci", "--yes"]).args(args);
        command.output().unwrap().into()
    };
    let plan = velo(&["--dry-run"]);
    assert_eq!(plan.stdout.lines().count(), 4, "{plan:?}");
    let done = velo(&[]);
    assert_eq!(done.code, 0, "{done:?}");
    tool("visudo", &["-c"]);
    assert!(velo(&[]).stdout.contains("nothing to do"));
    let allowed = tool("zfs", &["allow", &dataset]);
    let local = allowed.split("Descendent permissions:").next().unwrap();
    assert!(local.contains("user velo-ci create") && !local.contains("destroy"), "{allowed}");
    let undone = velo(&["--undo"]);
    assert_eq!(undone.code, 0, "{undone:?}");
    assert!(!tool("zfs", &["allow", &dataset]).contains("velo-ci"));
    let rules = std::fs::read_dir("/etc/sudoers.d").unwrap();
    let left =
        rules.filter(|rule| rule.as_ref().unwrap().file_name().to_string_lossy().contains("given"));
    assert_eq!(left.count(), 0, "a rule is left");
    tool("zfs", &["destroy", &dataset]);
    let mut command = Command::new(program());
    command.args(["setup", "--delegate", "no-such-pool/x", "--owner", "velo-ci", "--yes"]);
    Ran::from(command.output().unwrap()).is_error(1, "there is no pool");
}
