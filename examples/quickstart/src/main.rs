//! A project, a branch of it, a change in the branch, and the parent untouched, with real timings.
//!
//! Run it with `cargo run --release -p quickstart`. It works in a home of its own, which it removes
//! at the end; with `VELO_HOME` set it works there, and removes only its project.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use velo_core::postgres::install::find_or_install;
use velo_core::{Branch, BranchSpec, Config, Project};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Enough that a copy takes noticeably longer than a clone.
const ROWS: u32 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (config, _home) = home()?;
    let name = format!("quickstart-{}", std::process::id());

    // Where this machine has none, it is fetched into Velo's cache, once.
    find_or_install(&config, |line| eprintln!("{line}")).await?;
    let begun = Instant::now();
    let project = Project::builder(&name).config(config).create().await?;
    let info = project.info();
    println!(
        "project created   {:>8}   PostgreSQL {}, storage {}",
        ms(begun.elapsed()),
        info.postgres.version,
        info.storage
    );
    // Whatever happens from here on, the project goes at the end.
    let shown = show(&project).await;
    let begun = Instant::now();
    project.delete(true).await?;
    shown?;
    println!("project deleted   {:>8}", ms(begun.elapsed()));
    Ok(())
}

async fn show(project: &Project) -> Result<()> {
    let main = project.main().await?;
    let begun = Instant::now();
    let client = connect(&main).await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE orders AS
               SELECT id, 'customer ' || id % 1000 AS customer, 'open' AS status
               FROM generate_series(1, {ROWS}) AS id;
             ALTER TABLE orders ADD PRIMARY KEY (id)"
        ))
        .await?;
    println!("main filled       {:>8}   {}", ms(begun.elapsed()), of_orders(&client).await?);

    let begun = Instant::now();
    let branch = Branch::create(project, BranchSpec::ephemeral().label("quickstart")).await?;
    let ready = begun.elapsed();
    let on_branch = connect(&branch).await?;
    let first = of_orders(&on_branch).await?;
    println!("branch created    {:>8}   {first}, a server of its own: {}", ms(ready), branch.url());

    let begun = Instant::now();
    on_branch
        .batch_execute("DELETE FROM orders WHERE id % 2 = 0; UPDATE orders SET status = 'paid'")
        .await?;
    println!("branch changed    {:>8}   {}", ms(begun.elapsed()), of_orders(&on_branch).await?);
    println!("main is untouched {:>8}   {}", "", of_orders(&client).await?);

    let begun = Instant::now();
    branch.reset().await?;
    let again = connect(&branch).await?;
    println!("branch reset      {:>8}   {}", ms(begun.elapsed()), of_orders(&again).await?);

    let usage = branch.usage().await?;
    println!(
        "branch on disk              {} MB, {} MB of its own",
        usage.referenced / 1_000_000,
        usage.exclusive / 1_000_000
    );
    let begun = Instant::now();
    branch.close().await?;
    println!("branch discarded  {:>8}", ms(begun.elapsed()));
    Ok(())
}

/// A home of its own, in a folder that is removed at the end, unless `VELO_HOME` names one.
fn home() -> Result<(Config, Option<tempfile::TempDir>)> {
    if std::env::var_os("VELO_HOME").is_some() {
        return Ok((Config::load()?, None));
    }
    // Not under the target folder: as root, servers run as another user, who may not be able to
    // pass this folder's parents. And not in the usual folder for short-lived files, which is often
    // memory.
    let base = match std::env::var_os("HOME") {
        Some(home) if !is_root() => PathBuf::from(home),
        _ => PathBuf::from("/var/tmp"),
    };
    let folder = tempfile::Builder::new().prefix(".velo-").tempdir_in(base)?;
    // Velo makes the home itself, with the mode that servers need; only the folder above is opened.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder.path(), mode)?;
    let config = Config::builder().home(folder.path().join("h")).build()?;
    Ok((config, Some(folder)))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

async fn connect(branch: &Branch) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&branch.url(), NoTls).await?;
    // It ends with the client; its error is the client's too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn of_orders(client: &Client) -> Result<String> {
    let query = "SELECT count(*), count(*) FILTER (WHERE status = 'paid') FROM orders";
    let row = client.query_one(query, &[]).await?;
    let (all, paid): (i64, i64) = (row.get(0), row.get(1));
    Ok(format!("{all} orders, {paid} paid"))
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
