//! How long it takes to bring a database in, beside PostgreSQL's own programs used by hand:
//! `cargo bench -p velo-benches --bench import`.
//!
//! A server has one database of a size. In turn are measured, each from the call to the first answer of a query,
//! - `Project::create` from it, by each method;
//! - the same by hand: `pg_basebackup` and a start; `initdb`, a start without durability, `pg_dump` and `pg_restore` in as
//!   many processes, `ANALYZE` and a start as servers run; `cp --reflink` of the stopped server's folder and a start.
//!
//! ```text
//! cargo bench -p velo-benches --bench import -- [--short] [--samples N] [--size SIZE,…] [--json FILE] [--write]
//! ```
//! In the folder that `VELO_TEST_BTRFS` names; PostgreSQL is the newest of `VELO_TEST_PG`. `--write` renews
//! `benches/results/import.md`.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use velo_benches::figures::{Times, label, ms};
use velo_benches::{Args, Result, Table, client, in_project, machine, postgres, process, publish};
use velo_core::import::{Method, Source};
use velo_core::storage::StorageKind;
use velo_core::{Branch, Config, Project};

const METHODS: [Method; 3] = [Method::Basebackup, Method::Dump, Method::Files];

struct Measured {
    size: u64,
    method: Method,
    velo: Times,
    hand: Times,
}

fn main() -> std::process::ExitCode {
    velo_benches::ended(run())
}

fn run() -> Result<()> {
    let args = Args::parse(&["--size"], &[])?;
    let Some(folder) = std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from) else {
        println!("skipped: VELO_TEST_BTRFS names no folder");
        return Ok(());
    };
    let Some(bin) = postgres() else {
        println!("skipped: VELO_TEST_PG names no PostgreSQL");
        return Ok(());
    };
    let sizes = args.sizes("--size", if args.short { "10MB" } else { "10MB,100MB,1GB" })?;
    let samples = args.samples(2, 7, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Vec::new();
    for size in sizes {
        let home = folder.join(format!("velo-import-{}-{size}", std::process::id()));
        let measured = in_project(&home, StorageKind::Btrfs, async |source| {
            sample(source, &bin, &home, size, samples).await
        });
        all.extend(runtime.block_on(measured)?);
    }
    publish("import", &render(&folder, &all), &data(&all), args.json.as_deref(), args.write)
}

/// One size, in all ways.
async fn sample(
    source: &Project,
    bin: &Path,
    home: &Path,
    size: u64,
    samples: usize,
) -> Result<Vec<Measured>> {
    let main = source.main().await?;
    fill(&main, size).await?;
    let rows = count(&main).await?;
    // Where it is stopped, for the copy of its files.
    let still = home.join("still");
    let hand = Hand::new(bin, home, source.info().role.clone())?;
    hand.run(
        "pg_basebackup",
        &["-D", text(&still)?, "-c", "fast", "--no-sync", "-d", &main.url()],
    )?;
    hand.start(&still)?.stop()?;
    let mut all = Vec::new();
    for method in METHODS {
        let mut one = Measured { size, method, velo: Times::default(), hand: Times::default() };
        let from = match method {
            Method::Files => text(&still)?.to_owned(),
            _ => main.url(),
        };
        for _ in 0..samples {
            let config = Config::builder().home(home).storage(StorageKind::Btrfs).pg_bin(bin);
            let wanted = Source::new(&from)?.method(method)?;
            let builder = Project::builder("copy").config(config.build()?).from(wanted);
            let begun = Instant::now();
            let copy = builder.create().await?;
            let found = count(&copy.main().await?).await?;
            one.velo.add(begun.elapsed());
            copy.delete(true).await?;
            if found != rows {
                return Err(format!("{found} of {rows} rows came by {method}").into());
            }
            let target = hand.folder("by-hand")?;
            let begun = Instant::now();
            let running = match method {
                Method::Dump => hand.dump(&main.url(), &target)?,
                Method::Files => {
                    hand.program(
                        Path::new("cp"),
                        &["-a", "-T", "--reflink=always", &from, text(&target)?],
                    )?;
                    hand.start(&target)?
                }
                _ => {
                    let args = ["-D", text(&target)?, "-c", "fast", "--no-sync", "--no-manifest"];
                    hand.run("pg_basebackup", &[&args[..], &["-d", &main.url()]].concat())?;
                    hand.start(&target)?
                }
            };
            hand.count(rows).await?;
            one.hand.add(begun.elapsed());
            running.stop()?;
            std::fs::remove_dir_all(&target)?;
        }
        all.push(one);
    }
    std::fs::remove_dir_all(&still)?;
    Ok(all)
}

/// Four tables with an index each, of about so many bytes together.
async fn fill(main: &Branch, size: u64) -> Result<()> {
    let session = client::connect(&main.connection()).await?;
    let rows = size / 4 / 128;
    for table in 0..4 {
        session
            .batch_execute(&format!(
                "CREATE TABLE t{table} AS SELECT n, md5(n::text) AS a, md5(n::text) AS b FROM generate_series(1, {rows}) n; \
                 ALTER TABLE t{table} ADD PRIMARY KEY (n)"
            ))
            .await?;
    }
    session.batch_execute("ANALYZE; CHECKPOINT").await?;
    Ok(())
}

const COUNT: &str = "SELECT (SELECT count(*) FROM t0) + (SELECT count(*) FROM t3)";

async fn count(main: &Branch) -> Result<i64> {
    let session = client::first_answer(&main.connection()).await?;
    Ok(session.query_one(COUNT, &[]).await?.get(0))
}

/// A server that is started by hand.
struct Running(Option<Child>);

impl Running {
    fn stop(mut self) -> Result<()> {
        if let Some(mut child) = self.0.take() {
            process::signal(child.id(), Signal::INT)?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0
            && let Err(error) = process::quit(child)
        {
            eprintln!("error: {error}");
        }
    }
}

/// What somebody does with PostgreSQL's own programs.
struct Hand<'a> {
    bin: &'a Path,
    home: PathBuf,
    owner: Option<(u32, u32)>,
    /// The superuser of the data.
    role: String,
}

impl<'a> Hand<'a> {
    fn new(bin: &'a Path, home: &Path, role: String) -> Result<Self> {
        let hand = Self { bin, home: home.to_path_buf(), owner: process::server_user()?, role };
        for name in ["still", "socket"] {
            hand.folder(name)?;
        }
        std::fs::write(home.join("trust.conf"), "local all all trust\n")?;
        Ok(hand)
    }

    /// An empty folder that servers' user may write to.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.home.join(name);
        std::fs::create_dir(&path)?;
        if let Some((uid, gid)) = self.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        Ok(path)
    }

    fn run(&self, tool: &str, args: &[&str]) -> Result<()> {
        self.program(&self.bin.join(tool), args)
    }

    fn program(&self, program: &Path, args: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command.args(args).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        match command.status()?.success() {
            true => Ok(()),
            false => Err(format!("{} failed", program.display()).into()),
        }
    }

    fn start(&self, data: &Path) -> Result<Running> {
        self.start_with(data, &[])
    }

    /// A server that listens on a socket in its own folder alone. `pg_ctl` would look ten times a second whether it is up.
    fn start_with(&self, data: &Path, more: &[&str]) -> Result<Running> {
        let mut command = Command::new(self.bin.join("postgres"));
        command.args(["-D", text(data)?, "-p", "5432", "-c", "listen_addresses="]);
        for (name, file) in [("unix_socket_directories", "socket"), ("hba_file", "trust.conf")] {
            command.arg("-c").arg(format!("{name}={}", self.home.join(file).display()));
        }
        command.args(more.iter().flat_map(|setting| ["-c", setting]));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        process::tie(&mut command, self.owner);
        let mut child = command.spawn()?;
        let begun = Instant::now();
        while !process::is_ready(data) {
            if begun.elapsed() > Duration::from_secs(600) || child.try_wait()?.is_some() {
                process::quit(&mut child)?;
                return Err("the server that is started by hand does not come up".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Running(Some(child)))
    }

    async fn count(&self, rows: i64) -> Result<()> {
        let mut to = tokio_postgres::Config::new();
        to.host_path(self.home.join("socket")).port(5432).user(&self.role).dbname("postgres");
        let found: i64 = client::open(&to).await?.query_one(COUNT, &[]).await?.get(0);
        match found == rows {
            true => Ok(()),
            false => Err(format!("{found} of {rows} rows came by hand").into()),
        }
    }

    fn url(&self) -> String {
        format!(
            "host={} port=5432 user={} dbname=postgres",
            self.home.join("socket").display(),
            self.role
        )
    }

    /// A new cluster with what `pg_dump` writes of the other.
    fn dump(&self, from: &str, data: &Path) -> Result<Running> {
        let dump = self.folder("dump")?;
        let jobs = format!("-j{}", std::thread::available_parallelism()?);
        let out = dump.join("d");
        self.run(
            "initdb",
            &["-D", text(data)?, "--no-sync", "-A", "trust", "-U", &self.role, "--locale=C.UTF-8"],
        )?;
        let fast = ["fsync=off", "full_page_writes=off", "autovacuum=off"];
        let large = ["maintenance_work_mem=256MB", "max_wal_size=4GB"];
        let running = self.start_with(data, &[&fast[..], &large].concat())?;
        self.run("pg_dump", &["-Fd", &jobs, "--no-sync", "-Z0", "-f", text(&out)?, "-d", from])?;
        let url = self.url();
        self.run("pg_restore", &[&jobs, "-d", &url, text(&out)?])?;
        self.run("psql", &["-X", "-q", "-d", &url, "-c", "ANALYZE"])?;
        running.stop()?;
        std::fs::remove_dir_all(&dump)?;
        self.run("initdb", &["-D", text(data)?, "--sync-only"])?;
        self.start(data)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()).into())
}

fn render(folder: &Path, all: &[Measured]) -> String {
    let mut table =
        Table::new(&["size", "method", "samples", "by hand", "p95", "velo", "p95", "ratio"]);
    for one in all {
        table.row(vec![
            label(one.size),
            one.method.to_string(),
            one.velo.0.len().to_string(),
            ms(one.hand.median()),
            ms(one.hand.at(0.95)),
            ms(one.velo.median()),
            ms(one.velo.at(0.95)),
            format!("{:.2}", one.velo.median() / one.hand.median()),
        ]);
    }
    format!(
        "# How long it takes to bring a database in\n\n\
         Written by `cargo bench -p velo-benches --bench import -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n- btrfs: {}\n\n\
         From the call to the first answer, of a server on the same machine. By hand is what PostgreSQL's own programs do: \
         `pg_basebackup` and\na start; `initdb`, `pg_dump` and `pg_restore` in two processes without durability, `ANALYZE`, a sync \
         and a start; `cp\n--reflink` and a start. Milliseconds; samples were taken in turn. What Velo does beside that: it looks at \
         what fits,\nmakes its own role, starts a server that only it reaches, stops that, and flushes all to the disk before it calls \
         it done.\n\n{}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        machine::file_system(folder),
        table.render()
    )
}

fn data(all: &[Measured]) -> Value {
    let rows = all.iter().map(|one| {
        json!({
            "bytes": one.size,
            "method": one.method.to_string(),
            "velo": one.velo.json(),
            "hand": one.hand.json(),
        })
    });
    json!({"date": machine::today(), "machine": machine::describe(), "rows": rows.collect::<Vec<_>>()})
}
