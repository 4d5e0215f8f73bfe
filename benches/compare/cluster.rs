//! A server of a peer: PostgreSQL as it comes, with some settings, and the databases in it.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config};
use velo_benches::{Result, client, process};

/// Of the superuser: the guides of most peers start the official image, which wants one.
const PASSWORD: &str = "test";

/// What a server stores of it, with one iteration, as Velo's servers do: PostgreSQL's own 4,096 cost each new connection
/// some milliseconds, which have nothing to do with where its database comes from. Majors before 16 have no setting for
/// that, and take what is written.
const VERIFIER: &str = "SCRAM-SHA-256$1:dmVsby1iZW5jaGVzLXB3IQ==$mY/AP4LGZC1FmrgNlA01BgtAdRk2bxl7VnEJeUNF9W0=:\
    8GL4wKAssshz/3xPORIE2V4BnUQcR4eH5m+rPEgdEw8=";

/// Ends, and its folder goes, when it is dropped.
pub(crate) struct Cluster {
    dir: PathBuf,
    port: u16,
    child: Child,
    /// Sessions with `postgres` that nobody uses.
    idle: RefCell<Vec<Client>>,
}

impl Cluster {
    /// A new one in a folder that is not there yet, with PostgreSQL's own authentication over TCP.
    pub(crate) async fn start(
        bin: &Path,
        dir: PathBuf,
        initdb: &[String],
        settings: &[(String, String)],
    ) -> Result<Self> {
        let user = process::server_user()?;
        make_folder(&dir, user)?;
        let data = dir.join("d");
        let password = dir.join("password");
        std::fs::write(&password, PASSWORD)?;
        let mut command = Command::new(bin.join("initdb"));
        command.arg("-D").arg(&data).arg("--pwfile").arg(password);
        command.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        process::tie(command.arg("--no-sync").args(initdb).env_clear().current_dir("/"), user);
        let made = command.output()?;
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            std::fs::remove_dir_all(&dir)?;
            return Err(format!("initdb: {}", why.trim()).into());
        }
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&data);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("-c").arg(format!("port={port}"));
        command.args(["-c", "listen_addresses=127.0.0.1"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", dir.display()));
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process::tie(&mut command, user);
        let child = command.spawn()?;
        let mut cluster = Self { dir, port, child, idle: RefCell::default() };
        let begun = Instant::now();
        while !process::is_ready(&data) {
            if begun.elapsed() > Duration::from_secs(60) || cluster.child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(cluster.dir.join("log")).unwrap_or_default();
                return Err(format!("a server does not come up:\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cluster.manage(&format!("ALTER ROLE postgres PASSWORD '{VERIFIER}'")).await?;
        Ok(cluster)
    }

    /// How clients reach one of its databases.
    pub(crate) fn to(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").password(PASSWORD);
        config.dbname(database);
        config
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("d")
    }

    /// Does something to databases, over a session that is open already where there is one.
    pub(crate) async fn manage(&self, sql: &str) -> Result<()> {
        let session = self.session().await?;
        session.batch_execute(sql).await?;
        self.idle.borrow_mut().push(session);
        Ok(())
    }

    /// How many sessions a database has, by the same.
    pub(crate) async fn sessions(&self, database: &str) -> Result<i64> {
        let session = self.session().await?;
        let ask = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        let count = session.query_one(ask, &[&database]).await?.get(0);
        self.idle.borrow_mut().push(session);
        Ok(count)
    }

    async fn session(&self) -> Result<Client> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(session) => Ok(session),
            None => Ok(client::open(&self.to("postgres")).await?),
        }
    }

    /// The folder of a database, below its data.
    pub(crate) async fn folder(&self, database: &str) -> Result<PathBuf> {
        let session = client::open(&self.to("postgres")).await?;
        let row = session
            .query_one("SELECT oid::text FROM pg_database WHERE datname = $1", &[&database])
            .await?;
        Ok(self.data().join("base").join(row.get::<_, String>(0)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = process::quit(&mut self.child);
        if let Err(error) = ended.and_then(|()| Ok(std::fs::remove_dir_all(&self.dir)?)) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// A folder of this user's, where root makes it.
pub(crate) fn make_folder(dir: &Path, user: Option<(u32, u32)>) -> Result<()> {
    std::fs::create_dir(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(dir, Some(uid), Some(gid))?;
    }
    Ok(())
}
