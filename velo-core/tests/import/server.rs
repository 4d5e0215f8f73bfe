//! A server that is nobody's branch: what data is brought from.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::client::attempt;
use crate::common::home::base;

/// A server in a folder of its own; it ends with this.
pub struct Server {
    pub bin: PathBuf,
    pub major: u32,
    pub port: u16,
    pub dir: tempfile::TempDir,
    /// Whom it runs as, where this is root.
    pub user: Option<(u32, u32)>,
}

/// The password of its superuser.
pub const PASSWORD: &str = "s3cr:t\\ p@ss";

impl Server {
    /// A new cluster with these arguments of `initdb` and settings.
    pub fn new(bin: &Path, initdb: &[&str], settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("source.").tempdir_in(base()).unwrap();
        Self::in_folder(dir, bin, initdb, settings)
    }

    /// The same in this folder, in which there may be an empty one for its data.
    pub fn in_folder(dir: tempfile::TempDir, bin: &Path, initdb: &[&str], settings: &str) -> Self {
        let user = rustix::process::geteuid().is_root().then(|| {
            let of = |flag: &str| {
                let id = Command::new("id").args([flag, "postgres"]).output().unwrap();
                String::from_utf8(id.stdout).unwrap().trim().parse::<u32>().unwrap()
            };
            (of("-u"), of("-g"))
        });
        if let Some((uid, gid)) = user {
            for folder in [dir.path(), &dir.path().join("data")] {
                if folder.exists() {
                    std::os::unix::fs::chown(folder, Some(uid), Some(gid)).unwrap();
                }
            }
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let major = bin.ancestors().nth(1).unwrap().file_name().unwrap().to_str().unwrap();
        let major = major.split('.').next().unwrap().parse().unwrap();
        let server = Self { bin: bin.to_path_buf(), major, port, dir, user };
        let secret = server.dir.path().join("secret");
        std::fs::write(&secret, PASSWORD).unwrap();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&secret, Some(uid), Some(gid)).unwrap();
        }
        let mut args = vec!["--auth=scram-sha-256", "--username=postgres", "--no-sync"];
        let pwfile = format!("--pwfile={}", secret.display());
        args.push(&pwfile);
        args.extend(initdb);
        let data = server.data();
        args.extend(["-D", data.to_str().unwrap()]);
        let made = server.tool("initdb", &args);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        let place = server.dir.path().display();
        let more = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{place}'\nfsync = off\n{settings}\n"
        );
        std::fs::write(data.join("postgresql.conf"), text + &more).unwrap();
        server.start();
        server
    }

    /// A standby of this one, which follows it.
    pub fn standby(&self) -> Self {
        let dir = tempfile::Builder::new().prefix("standby.").tempdir_in(base()).unwrap();
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = dir.path().join("data");
        let url = self.url("postgres");
        let args = ["-d", &url, "-D", data.to_str().unwrap(), "-R", "-c", "fast", "--no-sync"];
        let made = self.tool("pg_basebackup", &args);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        let place = dir.path().display();
        let more = format!("port = {port}\nunix_socket_directories = '{place}'\n");
        std::fs::write(&conf, text + &more).unwrap();
        let (bin, user) = (self.bin.clone(), self.user);
        let standby = Self { bin, major: self.major, port, dir, user };
        standby.start();
        standby
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of its programs, as its user.
    pub fn tool(&self, name: &str, args: &[&str]) -> Output {
        let mut command = Command::new(self.bin.join(name));
        command.args(args).current_dir("/").env("LC_ALL", "C").env("PGPASSWORD", PASSWORD);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.output().unwrap()
    }

    fn ctl(&self, args: &[&str]) {
        let (data, log) = (self.data(), self.dir.path().join("log"));
        let mut all = vec!["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-w", "-s"];
        all.extend(args);
        // Its output would be held open by the server.
        let mut command = Command::new(self.bin.join("pg_ctl"));
        command.args(all).current_dir("/").env("LC_ALL", "C");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let done = command.status().unwrap();
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(done.success() || std::thread::panicking(), "{args:?}: {log}");
    }

    pub fn start(&self) {
        self.ctl(&["start", "-t", "120"]);
    }

    /// With its configuration in another folder.
    pub fn start_with(&self, conf: &Path) {
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(conf, Some(uid), Some(gid)).unwrap();
        }
        self.start_given(&format!("-c config_file={}", conf.join("postgresql.conf").display()));
    }

    /// With more on its command line.
    pub fn start_given(&self, options: &str) {
        self.ctl(&["start", "-t", "120", "-o", options]);
    }

    pub fn stop(&self) {
        self.ctl(&["stop", "-m", "fast", "-t", "120"]);
    }

    /// For a role and a database, without a password.
    pub fn url_of(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// For its superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres:s3cr%3At%5C%20p%40ss@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn sql(&self, database: &str, sql: &str) -> String {
        let done = attempt(&self.url(database), sql).await;
        done.unwrap_or_else(|e| panic!("{}: {e:?}", sql.chars().take(200).collect::<String>()))
    }

    /// What `pg_dump -s` says of a database of any server, without what differs from run to run.
    pub fn schema_of(&self, url: &str) -> String {
        // The newest, which knows all: what two of them print differs.
        let dump = Command::new(bins().pop().unwrap().join("pg_dump"))
            .args(["-s", "-d", url])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let text = String::from_utf8(dump.stdout).unwrap();
        let own = |line: &&str| {
            !line.starts_with("\\restrict")
                && !line.starts_with("\\unrestrict")
                && !line.starts_with("-- Dumped")
        };
        text.lines().filter(own).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            self.ctl(&["stop", "-m", "immediate"]);
        }
    }
}

/// Those that are built with ICU: the packages' that the others come from are not.
pub fn bins_with_icu() -> Vec<PathBuf> {
    let all = (14..=18).map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let found: Vec<_> = all.filter(|bin| bin.join("initdb").exists()).collect();
    if found.is_empty() {
        crate::common::skip("no PostgreSQL of the system's, which would have ICU");
    }
    found
}

/// The PostgreSQLs to test with, by major.
pub fn bins() -> Vec<PathBuf> {
    crate::common::installations().unwrap_or_default()
}
