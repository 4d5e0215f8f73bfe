//! A normal user: what `velo setup --delegate` gives, all that it is enough for, and what each error
//! says without.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use velo_core::doctor::Status;
use velo_core::setup::{Delegation, Setup};
use velo_core::storage::zfs::delegate;
use velo_core::storage::{StorageConfig, StorageKind, build};
use velo_core::{Branch, BranchSpec, Config, ErrorKind, Id, Method, Project};

use super::servers::sql;
use crate::common::zfs::{Place, attempt, place, run};
use crate::common::{copy_program, installations, newest};

const USER: &str = "velo-ci";

/// One that is not among Velo's own.
const PROPERTY: (&str, &str) = ("logbias", "throughput");

fn id(what: &str) -> u32 {
    run("id", &[what, USER]).parse().unwrap()
}

/// Runs a test of this file as the user.
fn as_user(test: &str, home: &Path, place: &Place) {
    let (uid, gid) = (id("-u"), id("-g"));
    let program = home.with_extension("test");
    copy_program(&std::env::current_exe().unwrap(), &program);
    std::fs::create_dir_all(home).unwrap();
    std::os::unix::fs::chown(home, Some(uid), Some(gid)).unwrap();
    let output = Command::new(&program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("VELO_TEST_HOME", home)
        .env("VELO_TEST_DATASET", &place.dataset)
        .env("HOME", home)
        // As a normal user's is.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    std::fs::remove_file(&program).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
}

/// Carries out what is left to do, and gives the commands.
async fn set_up(delegation: &Delegation) -> Vec<String> {
    let setup = Setup::delegation(delegation).await.unwrap_or_else(|e| panic!("{e:?}"));
    let commands = setup.commands().collect();
    setup.run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
    commands
}

#[tokio::test]
async fn zfs_as_a_normal_user() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let dataset = &own.place.dataset;
    let mountpoint = format!("/{dataset}");
    let folder = place.folder();
    let home = folder.path().join("h");
    as_user("users::without_delegation", &home, &own.place);

    // Without the property that the user's settings name.
    let plain = Delegation::new(dataset, USER);
    assert_eq!(set_up(&plain).await.len(), 3, "the dataset is there");
    as_user("users::without_the_property", &home, &own.place);
    let settings = Config::builder().home(&home).zfs_property(PROPERTY.0, PROPERTY.1);
    let full = plain.properties_of(&settings.build().unwrap());
    let commands = set_up(&full).await;
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert_eq!(commands[1], format!("zfs allow -d -u {USER} {} {dataset}", PROPERTY.0));
    let rule = Path::new("/etc/sudoers.d").join(delegate::rule_name(USER, dataset));
    std::fs::remove_file(&rule).unwrap();
    as_user("users::without_sudo", &home, &own.place);
    assert_eq!(set_up(&full).await.len(), 1, "the rule");
    run("visudo", &["-c"]);
    assert_eq!(set_up(&full).await, [""; 0], "nothing is done twice");

    as_user("users::with_all", &home, &own.place);
    as_user("users::from_a_projects_creation_to_its_deletion", &home, &own.place);
    // The dataset is the user's to fill, and no more: not even where it is not mounted.
    run("zfs", &["unmount", dataset]);
    as_user("users::the_dataset_itself_stays", &home, &own.place);
    run("zfs", &["mount", dataset]);
    assert_eq!(std::fs::read_dir(&mountpoint).unwrap().count(), 0, "empty folders are left");

    let undo = Setup::undo_delegation(&full).await.unwrap();
    undo.run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
    assert!(!rule.exists());
    assert_eq!(run("zfs", &["allow", dataset]), "", "nothing is left of it");
}

/// The rule would let whoever owns the folder mount over any other.
#[tokio::test]
async fn zfs_datasets_in_somebodys_folder_are_not_delegated() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let folder = format!("/{}", own.place.dataset);
    std::os::unix::fs::chown(&folder, Some(id("-u")), None).unwrap();
    let refused = Setup::delegation(&Delegation::new(&own.place.dataset, USER)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    assert!(refused.to_string().contains(&folder), "{refused:?}");
    assert_eq!(run("zfs", &["allow", &own.place.dataset]), "", "nothing was done");
}

/// The user who may not enter a folder of root's is told so, and nothing of keys.
#[tokio::test]
async fn zfs_datasets_below_a_closed_folder_are_refused() {
    let Some(place) = place() else { return };
    let closed = tempfile::Builder::new().prefix("velo-closed.").tempdir_in("/run").unwrap();
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(closed.path(), mode).unwrap();
    };
    let mountpoint = format!("mountpoint={}/below", closed.path().display());
    let own = place.own(&["-o", &mountpoint]);
    let settings = Config::builder().zfs_property(PROPERTY.0, PROPERTY.1).build().unwrap();
    let given = Delegation::new(&own.place.dataset, USER).properties_of(&settings);
    mode(0o700);
    let refused = Setup::delegation(&given).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused:?}");
    let what = format!("{USER} cannot enter {},", closed.path().display());
    assert!(refused.to_string().contains(&what), "{refused:?}");
    assert_eq!(run("zfs", &["allow", &own.place.dataset]), "", "nothing was done");

    mode(0o755);
    set_up(&given).await;
    mode(0o700);
    let folder = place.folder();
    let home = folder.path().join("h");
    as_user("users::behind_a_closed_folder", &home, &own.place);
    let undo = Setup::undo_delegation(&given).await.unwrap();
    undo.run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
}

/// What the user had before is theirs after, however a setup ends.
#[tokio::test]
async fn zfs_delegation_takes_back_what_it_gave_and_no_more() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let dataset = &*own.place.dataset;
    let new = &*format!("{dataset}/new");
    let nowhere = place.folder();
    let state = || {
        let marks = run("zfs", &["get", "-H", "-s", "local", "-o", "property", "all", dataset]);
        (run("zfs", &["allow", dataset]), marks)
    };
    run("zfs", &["allow", "-u", USER, "snapshot,send", dataset]);
    let before = state();
    assert!(before.0.contains("send,snapshot"), "{before:?}");

    let given = Delegation::new(dataset, USER);
    set_up(&given).await;
    let settings = Config::builder().home(nowhere.path()).zfs_property(PROPERTY.0, PROPERTY.1);
    let settings = settings.build().unwrap();
    set_up(&given.clone().properties_of(&settings)).await;
    assert_eq!(set_up(&given).await, [""; 0], "nothing is done twice");
    // Also where the settings name the property no more.
    let undo = || async {
        let undo = Setup::undo_delegation(&given).await.unwrap_or_else(|e| panic!("{e:?}"));
        let commands: Vec<_> = undo.commands().collect();
        undo.run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
        commands
    };
    undo().await;
    assert_eq!(state(), before);
    assert_eq!(undo().await, [""; 0], "nothing is left to take back");

    // The last step fails: there is no such folder.
    let failing = |dataset: &str| {
        let mut failing = Delegation::new(dataset, USER);
        failing.sudoers = nowhere.path().join("missing");
        async move { Setup::delegation(&failing).await?.run(|_| {}).await.map(|()| failing) }
    };
    let failed = failing(dataset).await.unwrap_err();
    assert!(failed.cleanup().is_empty(), "{failed:?}");
    assert_eq!(state(), before, "after {failed:?}");
    // What an earlier setup gave is that one's.
    set_up(&given).await;
    let earlier = state();
    let mut more = given.clone().properties_of(&settings);
    more.sudoers = nowhere.path().join("missing");
    let more = Setup::delegation(&more).await.unwrap();
    more.run(|_| {}).await.unwrap_err();
    assert_eq!(state(), earlier);
    undo().await;
    assert_eq!(state(), before);
    let failed = failing(new).await.unwrap_err();
    assert!(failed.cleanup().is_empty(), "{failed:?}");
    attempt("zfs", &["list", new]).unwrap_err();
}

/// What is left of an account that was deleted: the rule by its name, the rest by its number.
#[tokio::test]
async fn zfs_delegation_to_a_deleted_user_is_taken_back() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let dataset = &*own.place.dataset;
    let rule = |user: &str| Path::new("/etc/sudoers.d").join(delegate::rule_name(user, dataset));
    let gone = ["velo-gone-1", "velo-gone-2"];
    // Numbers that no other test takes, nor `useradd` by itself.
    let account = |user: &str, uid: &str| {
        run("useradd", &["--no-create-home", "--uid", uid, user]);
    };
    for (user, uid) in gone.into_iter().zip(["61001", "61002"]) {
        account(user, uid);
        set_up(&Delegation::new(dataset, user)).await;
    }
    for user in gone {
        run("userdel", &[user]);
        assert!(rule(user).exists());
    }
    set_up(&Delegation::new(dataset, USER)).await;
    let undo = async |user| Setup::undo_delegation(&Delegation::new(dataset, user)).await;
    // The one's number is another account's by now, and its name has another number.
    let numbers = || {
        let all = ["get", "-H", "-s", "local", "-o", "property,value", "all", dataset];
        run("zfs", &all)
    };
    account("velo-other", "61001");
    account(gone[0], "61003");
    let unknown = undo("velo-gone-3").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown:?}");

    let shown = |user: &str| match user {
        USER => USER,
        "velo-gone-1" => "velo-other",
        _ => "unknown",
    };
    for (done, user) in [gone[0], gone[1], USER].into_iter().enumerate() {
        let allowed = run("zfs", &["allow", dataset]);
        assert!(allowed.contains(shown(user)), "{user}: {allowed}");
        undo(user).await.unwrap().run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
        assert!(!rule(user).exists(), "{user}");
        let allowed = run("zfs", &["allow", dataset]);
        assert!(!allowed.contains(shown(user)), "{user}: {allowed}");
        let left = numbers().lines().filter(|line| line.starts_with("velo:given-")).count();
        assert_eq!(left, 2 - done, "{user}");
    }
    for user in ["velo-other", gone[0]] {
        run("userdel", &[user]);
    }
    assert_eq!(run("zfs", &["allow", dataset]), "");
}

/// Of several rules the last one counts: where one wants a password that is said, and the rule is not left.
#[tokio::test]
async fn zfs_delegation_that_sudo_overrides_is_refused() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let dataset = &*own.place.dataset;
    let user = "velo-overruled";
    run("useradd", &["--no-create-home", "--uid", "61004", user]);
    let later = Path::new("/etc/sudoers.d/zzz-velo-test");
    let rule = Path::new("/etc/sudoers.d").join(delegate::rule_name(user, dataset));
    // What is still to be done where a later rule wants a password, and what comes of doing it.
    let overruled = async || {
        // sudo skips names with a dot, and wants this mode.
        let written = later.with_extension("new");
        std::fs::write(&written, format!("{user} ALL=(ALL) ALL\n")).unwrap();
        std::fs::set_permissions(&written, std::fs::Permissions::from_mode(0o440)).unwrap();
        std::fs::rename(&written, later).unwrap();
        let setup = Setup::delegation(&Delegation::new(dataset, user)).await.unwrap();
        let steps = setup.commands().count();
        let refused = setup.run(|_| {}).await;
        std::fs::remove_file(later).unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused:?}");
        assert!(refused.to_string().contains("password"), "{refused:?}");
        assert!(!rule.exists());
        steps
    };
    assert_eq!(overruled().await, 3);
    assert_eq!(run("zfs", &["allow", dataset]), "", "what was given is taken back");
    assert_eq!(set_up(&Delegation::new(dataset, user)).await.len(), 3);
    // A rule that is there already, and that sudo no longer goes by, is still to be done.
    assert_eq!(overruled().await, 1);
    assert_ne!(run("zfs", &["allow", dataset]), "");
    assert_eq!(set_up(&Delegation::new(dataset, user)).await.len(), 1);
    let undo = Setup::undo_delegation(&Delegation::new(dataset, user)).await.unwrap();
    undo.run(|_| {}).await.unwrap_or_else(|e| panic!("{e:?}"));
    run("userdel", &[user]);
}

/// Without a mount point there is no rule for sudo: that is known before anything is done.
#[tokio::test]
async fn zfs_datasets_that_are_mounted_nowhere_are_not_delegated() {
    let Some(place) = place() else { return };
    let own = place.own(&[]);
    let dataset = &*own.place.dataset;
    for mountpoint in ["legacy", "none"] {
        run("zfs", &["set", &format!("mountpoint={mountpoint}"), dataset]);
        for (dataset, mends) in [
            (dataset, format!("zfs set mountpoint=/… {dataset}")),
            (&*format!("{dataset}/new"), format!("zfs create -o mountpoint=/… {dataset}/new")),
        ] {
            let refused = Setup::delegation(&Delegation::new(dataset, USER)).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
            assert!(refused.to_string().contains("not mounted anywhere"), "{refused:?}");
            assert!(refused.hint().unwrap().contains(&mends), "{refused:?}");
        }
    }
    assert_eq!(run("zfs", &["allow", dataset]), "", "nothing was done");
}

fn inner() -> StorageConfig {
    let root = std::env::var_os("VELO_TEST_HOME").unwrap();
    let mut config =
        StorageConfig::new(root).zfs_dataset(std::env::var("VELO_TEST_DATASET").unwrap());
    config.zfs_properties.insert(PROPERTY.0.into(), PROPERTY.1.into());
    config
}

fn settings() -> Config {
    let config = inner();
    let bin = newest(installations().unwrap_or_default()).pop().unwrap();
    Config::builder()
        .home(config.root)
        .storage(StorageKind::Zfs)
        .zfs_dataset(config.zfs_dataset.unwrap())
        .zfs_property(PROPERTY.0, PROPERTY.1)
        .pg_bin(bin)
        .build()
        .unwrap()
}

/// Tried or only looked at, by both ways: it is refused, and the hint has this line.
async fn is_refused(line: &str) {
    for config in [inner(), inner().zfs_by_program()] {
        let error = build(StorageKind::Zfs, config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert!(error.hint().unwrap().contains(line), "{error:?}");
    }
    let config = settings();
    let refused = Project::builder("api").config(config.clone()).create().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused:?}");
    assert!(refused.hint().unwrap().contains(line), "{refused:?}");
    let works = velo_core::doctor::storages(&config).unwrap();
    assert!(!works.contains(&StorageKind::Zfs), "{works:?}");
    let found = velo_core::doctor::examine(&config);
    let zfs = found.iter().find(|f| f.name == "zfs").unwrap();
    assert_eq!(zfs.status, Status::Fail, "{zfs:?}");
    assert!(zfs.fix.as_ref().unwrap().contains(line), "{zfs:?}");
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn without_delegation() {
    is_refused(&delegate::allow(USER, &dataset(), [PROPERTY.0])).await;
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn without_the_property() {
    is_refused(&delegate::allow(USER, &dataset(), [PROPERTY.0])).await;
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn without_sudo() {
    let dataset = dataset();
    let mountpoint = PathBuf::from(format!("/{dataset}"));
    is_refused(&delegate::install_sudoers(USER, &dataset, &mountpoint)).await;
}

#[tokio::test]
#[ignore = "started by zfs_datasets_below_a_closed_folder_are_refused"]
async fn behind_a_closed_folder() {
    is_refused("as root: chmod o+x /run/velo-closed.").await;
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn with_all() {
    // An emulated machine takes minutes for it; the project below does what matters most of it.
    if std::env::var_os("VELO_TEST_LONG").is_some() {
        // The project takes the other way, where this build has it.
        let config = inner().zfs_by_program();
        let storage = build(StorageKind::Zfs, config).await.unwrap_or_else(|e| panic!("{e:?}"));
        let suite = velo_core::testing::storage_suite(storage.clone());
        suite.await.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(storage.list().await.unwrap(), []);
    }
    // What the rule is not for is refused.
    let zfs = ["/usr/sbin/zfs", "mount"];
    for target in ["tank", "-a", &format!("tank/velo-test/v-{}", Id::generate())] {
        let tried = Command::new("sudo").arg("-n").args(zfs).arg(target).output().unwrap();
        assert!(!tried.status.success(), "{target}");
    }
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn from_a_projects_creation_to_its_deletion() {
    let config = settings();
    let project = Project::builder("api").config(config.clone()).create().await.unwrap();
    assert_eq!(project.info().storage, StorageKind::Zfs);
    let main = project.main().await.unwrap();
    sql(&main, "CREATE TABLE t AS SELECT 1 AS x").await;
    let dev = Branch::create(&project, BranchSpec::named("dev").quota(1 << 30)).await.unwrap();
    let cut = dev.info().await.unwrap().cut.unwrap();
    assert_eq!(cut.method, Method::Checkpoint, "main runs");
    sql(&dev, "INSERT INTO t VALUES (2)").await;
    assert_eq!(sql(&main, "SELECT count(*) FROM t").await, "1");
    let two = dev.snapshot("two").await.unwrap();
    let child = Branch::create(&project, BranchSpec::ephemeral().from(&two)).await.unwrap();
    assert_eq!(sql(&child, "SELECT count(*) FROM t").await, "2");
    sql(&main, "INSERT INTO t VALUES (3), (4)").await;
    dev.reset().await.unwrap();
    assert_eq!(sql(&dev, "SELECT count(*) FROM t").await, "3");
    assert!(child.usage().await.unwrap().referenced > 0);

    assert_eq!(velo_core::doctor::storages(&config).unwrap()[0], StorageKind::Zfs);
    for finding in velo_core::doctor::examine(&config) {
        assert_ne!(finding.status, Status::Fail, "{finding:?}");
        let of_zfs = ["zfs", "disk", "servers"].contains(&finding.name);
        assert!(!of_zfs || finding.status == Status::Ok, "{finding:?}");
    }
    child.close().await.unwrap();
    two.delete().await.unwrap();
    dev.delete(false).await.unwrap();
    project.delete(true).await.unwrap();
    let dataset = dataset();
    assert_eq!(
        run("/usr/sbin/zfs", &["list", "-H", "-o", "name", "-t", "all", "-r", &dataset]),
        dataset
    );
    assert!(crate::common::home::servers_in(config.home()).is_empty());
}

fn dataset() -> String {
    inner().zfs_dataset.unwrap()
}

#[tokio::test]
#[ignore = "started by zfs_as_a_normal_user"]
async fn the_dataset_itself_stays() {
    let dataset = dataset();
    for args in [
        &["destroy", &*dataset][..],
        &["snapshot", &format!("{dataset}@x")],
        &["set", "compression=off", &dataset],
        &["rename", &dataset, &format!("{dataset}-2")],
    ] {
        let said = attempt("/usr/sbin/zfs", args).unwrap_err();
        assert!(said.contains("permission denied"), "{args:?}: {said}");
    }
}
