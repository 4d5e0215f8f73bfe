//! No password, and nothing that PostgreSQL keeps of one, is in a log at any level, in what `Debug`
//! shows, in a process list, or in a file that another user can read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::home::TestHome;
use velo_core::{Branch, BranchSpec, Project};

/// What anybody logged: through `tracing`, as Velo does, and through `log`, as libraries below it do.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        writeln!(self.clone(), "{} {}", record.target(), record.args()).unwrap();
    }

    fn flush(&self) {}
}

fn listen() -> Logged {
    let logged = Logged::default();
    let sink = logged.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || sink.clone())
        .with_ansi(false)
        .init();
    log::set_logger(Box::leak(Box::new(logged.clone()))).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    logged
}

/// The arguments and the environment of every process that started meanwhile.
fn watch(done: &AtomicBool) -> HashSet<Vec<u8>> {
    let pids = || -> BTreeSet<u32> {
        let all = std::fs::read_dir("/proc").unwrap();
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    let (before, mut seen) = (pids(), HashSet::new());
    while !done.load(Ordering::Relaxed) {
        for pid in pids().difference(&before) {
            for file in ["cmdline", "environ"] {
                // It may be gone, or another user's.
                seen.extend(std::fs::read(format!("/proc/{pid}/{file}")));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    seen
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

/// Whether a user who is neither the owner nor in the group gets at a file or a socket.
fn is_open_to_others(home: &Path, path: &Path) -> bool {
    let Ok(meta) = path.symlink_metadata() else { return false };
    let allowed = |path: &Path, bits| {
        path.metadata().is_ok_and(|meta| meta.permissions().mode() & bits == bits)
    };
    let mut above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(home));
    !meta.is_dir() && !meta.is_symlink() && allowed(path, 0o004) && above.all(|f| allowed(f, 0o001))
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Every password that the records hold.
fn recorded(home: &Path) -> BTreeSet<String> {
    const KEY: &str = "\"password\":\"";
    let mut found = BTreeSet::new();
    for name in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(home.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for (at, _) in text.match_indices(KEY) {
            found.extend(text[at + KEY.len()..].split('"').next().map(str::to_owned));
        }
    }
    found
}

async fn query(branch: &Branch, sql: &str) -> Vec<Option<String>> {
    let (client, connection) =
        tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await.unwrap();
    let values = rows.iter().map(|row| row.get(0)).collect();
    drop(client);
    connection.await.unwrap().unwrap();
    values
}

/// As another user, whom `.ci/test` makes: what the file system really allows.
fn reached_by_another(home: &Path) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = passwd.lines().find(|line| line.starts_with("velo-ci:"))?.split(':').nth(2)?;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let found = std::process::Command::new("setpriv")
        .args(["--reuid", user, "--regid", user, "--clear-groups", "find"])
        .arg(home)
        .args(["(", "-type", "f", "-readable", ")", "-o", "(", "-type", "s", "-writable", ")"])
        .args(["-o", "(", "-type", "d", "-writable", ")"])
        .output()
        .unwrap();
    Some(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// Makes the parent log whatever it is asked to do.
async fn make_talkative(main: &Branch, home: &Path) {
    let mut volumes = std::fs::read_dir(home.join("volumes")).unwrap();
    let conf = volumes.next().unwrap().unwrap().path().join("postgresql.conf");
    let mut file = std::fs::OpenOptions::new().append(true).open(conf).unwrap();
    writeln!(
        file,
        "log_statement = 'all'\nlog_min_duration_statement = 0\nlog_min_messages = 'debug2'\n\
         log_min_error_statement = 'debug5'\nlog_parameter_max_length = -1\n\
         debug_print_parse = on\nlog_transaction_sample_rate = 1\nlog_connections = 'on'\nlog_replication_commands = on"
    )
    .unwrap();
    main.restart().await.unwrap();
}

#[tokio::test]
async fn no_secret_is_told() {
    let logged = listen();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let done = done.clone();
        move || watch(&done)
    });
    let base = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from);
    let home = TestHome::new(base.as_deref());
    let folder = home.config().home().to_path_buf();

    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    make_talkative(&main, &folder).await;
    let dev = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    let snapshot = main.snapshot("s").await.unwrap();
    let from = Branch::create(&project, BranchSpec::named("from").from(&snapshot)).await.unwrap();
    dev.reset().await.unwrap();
    dev.stop().await.unwrap();
    dev.start().await.unwrap();
    let ephemeral = Branch::create(&project, BranchSpec::ephemeral().label("test")).await.unwrap();
    ephemeral.reset().await.unwrap();
    let kept = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    kept.keep_as("kept").await.unwrap();
    // Errors, with all that they carry.
    let taken = Branch::create(&project, BranchSpec::named("dev")).await.unwrap_err();
    let wrong = BranchSpec::named("wrong").set("work_mem", "lots");
    let wrong = Branch::create(&project, wrong).await.unwrap_err();
    let findings = velo_core::doctor::examine(home.config());
    done.store(true, Ordering::Relaxed);
    let processes = watcher.join().unwrap();

    let branches = [&main, &dev, &from, &ephemeral, &kept];
    let mut secrets = BTreeMap::new();
    for branch in branches {
        secrets.insert(branch.connection().password, format!("the password of {branch:?}"));
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL";
        for verifier in query(branch, sql).await.into_iter().flatten() {
            secrets.insert(verifier, format!("what {branch:?} keeps of its password"));
        }
    }
    for password in recorded(&folder) {
        secrets.entry(password).or_insert_with(|| "a recorded password".into());
    }
    assert!(secrets.len() >= 6, "these are not all: {}", secrets.len());
    // Else nothing would have been looked at.
    let logged = logged.0.lock().unwrap().clone();
    assert!(contains(&logged, "tokio_postgres"), "the log has nothing of the libraries");
    assert!(contains(&logged, "took_us"), "the log has nothing of Velo's");
    assert!(processes.iter().any(|p| contains(p, "cluster_name=")), "no server was seen");
    let server_log = std::fs::read(main.log_file()).unwrap();
    assert!(contains(&server_log, "rolpassword"), "the server does not log statements");

    let shown = format!(
        "{project:?} {branches:?} {snapshot:?} {:?} {:?} {:?} {:?} {taken:?} {wrong:?} {findings:?} {:?}",
        main.connection(),
        dev.info().await.unwrap(),
        dev.timings(),
        project.info(),
        home.config(),
    );
    let mut files = Vec::new();
    walk(&folder, &mut files);
    for (secret, whose) in &secrets {
        let is_verifier = secret.starts_with("SCRAM");
        assert!(!contains(&logged, secret), "{whose} is in the log");
        assert!(!contains(shown.as_bytes(), secret), "{whose} is shown by Debug");
        assert!(!processes.iter().any(|p| contains(p, secret)), "{whose} is in a process list");
        for file in files.iter().filter(|file| file.is_file()) {
            let name = file.strip_prefix(&folder).unwrap();
            let kept = match is_verifier {
                // Where PostgreSQL keeps it.
                true => name.starts_with("volumes") || name.starts_with("snapshots"),
                false => name.to_string_lossy().starts_with("state.db"),
            };
            let bytes = std::fs::read(file).unwrap_or_default();
            assert!(kept || !contains(&bytes, secret), "{whose} is in {}", name.display());
        }
    }
    let open: Vec<_> = files.iter().filter(|path| is_open_to_others(&folder, path)).collect();
    assert!(open.is_empty(), "open to others: {open:?}");
    match reached_by_another(&folder) {
        Some(reached) => assert_eq!(reached, "", "another user reaches these"),
        None => eprintln!("SKIP: what another user reaches is tried by root, as velo-ci"),
    }
    // Nor does anybody get in without the password.
    let mut wrong: tokio_postgres::Config = dev.url().parse().unwrap();
    for password in ["", "postgres", "wrong"] {
        let refused = wrong.password(password).connect(tokio_postgres::NoTls).await;
        assert!(refused.is_err(), "{password:?} lets in");
    }
    ephemeral.close().await.unwrap();
    let _ = Project::list(home.config()).await.unwrap();
}
