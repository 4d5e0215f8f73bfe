//! A branch's URLs are opened with the drivers that programs use. Each writes a row over TCP and one
//! over the Unix socket, and reads both; `main` has neither.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use common::home::TestHome;
use common::missing;
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use velo_core::{Branch, BranchSpec, Project, blocking};

/// Shared by every test of this file.
static HOME: LazyLock<Mutex<Option<TestHome>>> =
    LazyLock::new(|| Mutex::new(Some(TestHome::new(None))));

/// A project whose `main` has the empty table that every client writes to.
static PROJECT: LazyLock<Project> = LazyLock::new(|| {
    let config = HOME.lock().unwrap().as_ref().unwrap().config().clone();
    let project = blocking::Project::builder("clients").config(config).create().unwrap();
    let project = project.as_async().clone();
    smol::block_on(async {
        let main = project.main().await.unwrap();
        let table = "CREATE TABLE written (over text NOT NULL, what text NOT NULL,
            address inet DEFAULT inet_client_addr())";
        execute(&main.url(), table).await;
    });
    // A static is not dropped: the end of the process clears the home.
    extern "C" fn clear() {
        drop(HOME.lock().unwrap().take());
    }
    // SAFETY: registers a plain function.
    unsafe { libc::atexit(clear) };
    project
});

/// What a driver could stumble over: another alphabet, and what SQL and the shell treat as special.
const TEXT: &str = r#"Grüße, 世界: ' " \ $1 %s ?"#;

/// A branch for one client.
async fn branch(client: &str) -> Branch {
    Branch::create(&PROJECT, BranchSpec::ephemeral().label(client)).await.unwrap()
}

/// The two URLs of a branch, each with what its row says.
fn urls(branch: &Branch) -> [(&'static str, String); 2] {
    [("tcp", branch.url()), ("socket", branch.socket_url())]
}

/// Checks that the branch has what a client wrote over both, that `main` has nothing, and ends it.
async fn check(branch: Branch) {
    let rows = "SELECT over || ' ' || coalesce(host(address), 'none') || ' ' || what
        FROM written ORDER BY over DESC";
    let wanted = [format!("tcp 127.0.0.1 {TEXT}"), format!("socket none {TEXT}")];
    assert_eq!(execute(&branch.url(), rows).await, wanted, "the branch");
    let main = PROJECT.main().await.unwrap();
    assert!(execute(&main.url(), rows).await.is_empty(), "main");
    branch.close().await.unwrap();
}

/// Runs SQL over a connection with a thread and a runtime of its own; the first column of the rows.
async fn execute(url: &str, sql: &str) -> Vec<String> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let messages = client.simple_query(&sql).await.unwrap();
            messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect()
        })
    })
    .join()
    .unwrap()
}

/// Runs a program to its end; what it printed.
fn run(command: &mut Command) -> String {
    // Nothing but the URL may say where to.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}: {out}{err}", output.status);
    out.trim_end().to_owned()
}

/// Runs a script over both URLs. Its arguments are the way, the text and a URL; it writes the first
/// two and prints the text that it reads. A driver whose URLs know no socket gets the TCP URL twice,
/// the second time with the socket's folder.
async fn script(client: &str, socket_url: bool, command: impl Fn() -> Command) {
    let branch = branch(client).await;
    let folder = branch.socket_dir().display().to_string();
    let socket = if socket_url { vec![branch.socket_url()] } else { vec![branch.url(), folder] };
    for (over, place) in [("tcp", vec![branch.url()]), ("socket", socket)] {
        let read = run(command().args([over, TEXT]).args(place));
        assert_eq!(read, TEXT, "{client} over {over}");
    }
    check(branch).await;
}

#[tokio::test]
async fn libpq() {
    let Some(bins) = common::installations() else { return };
    for bin in bins {
        let branch = branch("libpq").await;
        for (over, url) in urls(&branch) {
            // Variables are replaced in what is read from a file only.
            let sql = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(
                sql.path(),
                "INSERT INTO written VALUES (:'over', :'what');
                 SELECT what FROM written WHERE over = :'over'",
            )
            .unwrap();
            let read = run(Command::new(bin.join("psql"))
                .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-v", &format!("over={over}")])
                .args(["-v", &format!("what={TEXT}"), "-f"])
                .arg(sql.path())
                .env("PGCLIENTENCODING", "UTF8")
                .arg(&url));
            assert_eq!(read, TEXT, "{} over {over}", bin.display());
        }
        check(branch).await;
    }
}

/// The Python with the drivers, if it has this one.
fn python(module: &str) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("VELO_TEST_PYTHON").map(PathBuf::from) else {
        missing("VELO_TEST_PYTHON is not set");
        return None;
    };
    match Command::new(&python).args(["-c", &format!("import {module}")]).status() {
        Ok(status) if status.success() => Some(python),
        _ => {
            missing(&format!("{} has no {module}", python.display()));
            None
        }
    }
}

async fn python_script(module: &str, text: &str) {
    let Some(python) = python(module) else { return };
    let command = || {
        let mut command = Command::new(&python);
        command.env("PYTHONIOENCODING", "utf-8").args(["-c", text]);
        command
    };
    script(module, true, command).await;
}

#[tokio::test]
async fn psycopg() {
    python_script("psycopg", include_str!("clients/psycopg_client.py")).await;
}

#[tokio::test]
async fn asyncpg() {
    python_script("asyncpg", include_str!("clients/asyncpg_client.py")).await;
}

#[tokio::test]
async fn sqlalchemy() {
    python_script("sqlalchemy", include_str!("clients/sqlalchemy_client.py")).await;
}

/// The folder whose `node_modules` has the drivers, if it has this one.
fn node_modules(module: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("VELO_TEST_NODE_MODULES").map(PathBuf::from) else {
        missing("VELO_TEST_NODE_MODULES is not set");
        return None;
    };
    if !dir.join("node_modules").join(module).is_dir() {
        missing(&format!("{} has no {module}", dir.display()));
        return None;
    }
    Some(dir)
}

async fn node_script(module: &str, socket_url: bool, text: &str) {
    let Some(dir) = node_modules(module) else { return };
    let command = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", dir.join("node_modules")).args(["-e", text]);
        command
    };
    script(module, socket_url, command).await;
}

#[tokio::test]
async fn node_pg() {
    node_script("pg", true, include_str!("clients/pg_client.js")).await;
}

#[tokio::test]
async fn node_postgres_js() {
    node_script("postgres", false, include_str!("clients/postgres_js_client.js")).await;
}

#[tokio::test]
async fn tokio_postgres_crate() {
    let branch = branch("tokio-postgres").await;
    for (over, url) in urls(&branch) {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.execute("INSERT INTO written VALUES ($1, $2)", &[&over, &TEXT]).await.unwrap();
        let row =
            client.query_one("SELECT what FROM written WHERE over = $1", &[&over]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), TEXT, "over {over}");
    }
    check(branch).await;
}

#[tokio::test]
async fn sqlx_crate() {
    let branch = branch("sqlx").await;
    let tcp: PgConnectOptions = branch.url().parse().unwrap();
    // It takes no URL without a host, which is what libpq's for sockets are.
    let socket = tcp.clone().socket(branch.socket_dir());
    for (over, options) in [("tcp", tcp), ("socket", socket)] {
        let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
        sqlx::query("INSERT INTO written VALUES ($1, $2)")
            .bind(over)
            .bind(TEXT)
            .execute(&mut connection)
            .await
            .unwrap();
        let read: String = sqlx::query_scalar("SELECT what FROM written WHERE over = $1")
            .bind(over)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(read, TEXT, "over {over}");
        connection.close().await.unwrap();
    }
    check(branch).await;
}
