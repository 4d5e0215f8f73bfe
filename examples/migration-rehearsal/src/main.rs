//! A migration rehearsed on real data: import, branch, run it, look, throw away.
//!
//! `cargo run -p migration-rehearsal -- URL MIGRATION.sql`, which masks nothing; without arguments it plays production
//! itself. It works in a home of its own, which it removes at the end; with `VELO_HOME` set it works there, and removes
//! only its projects.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_postgres::{Client, NoTls};
use velo_core::import::Source;
use velo_core::postgres::install::find_or_install;
use velo_core::{Branch, BranchSpec, Config, Project};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (config, _home) = home()?;
    find_or_install(&config, |line| eprintln!("{line}")).await?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [url, migration] => {
            let source = Source::new(url)?;
            let migrations = [PathBuf::from(migration)];
            rehearse(&config, source, &migrations).await
        }
        [] => {
            let production = project(&config, "production");
            let production = production.create().await?;
            let shown = show(&config, &production).await;
            production.delete(true).await?;
            shown
        }
        _ => Err("give a URL and a migration, or nothing".into()),
    }
}

/// Plays production, and rehearses on it.
async fn show(config: &Config, production: &Project) -> Result<()> {
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let main = production.main().await?;
    let text = std::fs::read_to_string(sql.join("production.sql"))?;
    connect(&main).await?.batch_execute(&text).await?;
    let source = Source::new(main.url())?.masking(sql.join("masking.toml"));
    rehearse(config, source, &[sql.join("bad.sql"), sql.join("good.sql")]).await
}

async fn rehearse(config: &Config, source: Source, migrations: &[PathBuf]) -> Result<()> {
    let begun = Instant::now();
    let copy = project(config, "rehearsal").from(source).create().await?;
    if let Some(source) = copy.info().source {
        println!("imported by {} in {:.1?}", source.method, begun.elapsed());
    }
    let rehearsed = on_branches(&copy, migrations).await;
    copy.delete(true).await?;
    rehearsed
}

async fn on_branches(copy: &Project, migrations: &[PathBuf]) -> Result<()> {
    for migration in migrations {
        let text = std::fs::read_to_string(migration)?;
        // Each begins with the data as it came, whatever the one before did.
        let branch = Branch::create(copy, BranchSpec::ephemeral().label("rehearsal")).await?;
        let client = connect(&branch).await?;
        let begun = Instant::now();
        let name = migration.file_name().unwrap_or_default().to_string_lossy();
        match client.batch_execute(&text).await {
            Ok(()) => println!("{name}: done in {:.1?}", begun.elapsed()),
            Err(e) => {
                let why = e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_owned());
                println!("{name}: failed after {:.1?}: {why}", begun.elapsed());
            }
        }
        branch.close().await?;
    }
    Ok(())
}

fn project(config: &Config, name: &str) -> velo_core::ProjectBuilder {
    Project::builder(format!("{name}-{}", std::process::id())).config(config.clone())
}

/// A home of its own, in a folder that is removed at the end, unless `VELO_HOME` names one.
fn home() -> Result<(Config, Option<tempfile::TempDir>)> {
    if std::env::var_os("VELO_HOME").is_some() {
        return Ok((Config::load()?, None));
    }
    let folder = tempfile::Builder::new().prefix(".velo-").tempdir_in("/var/tmp")?;
    // As root, servers run as another user, who must be able to pass.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder.path(), mode)?;
    let config = Config::builder().home(folder.path().join("h")).build()?;
    Ok((config, Some(folder)))
}

async fn connect(branch: &Branch) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&branch.url(), NoTls).await?;
    // It ends with the client; its error is the client's too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
