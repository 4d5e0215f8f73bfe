//! A parent to alter, its branches, and SQL on both.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use velo_core::storage::StorageKind;
use velo_core::{Branch, BranchSpec, Project};

use crate::common::home::TestHome;

/// The PostgreSQLs to prove it with: `VELO_TEST_PG="15=/…/bin 18=/…/bin"`.
pub fn installations() -> Vec<(u32, PathBuf)> {
    let Ok(text) = std::env::var("VELO_TEST_PG") else {
        crate::common::missing("VELO_TEST_PG is not set");
        return Vec::new();
    };
    text.split_whitespace()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(major, bin)| (major.parse().unwrap(), bin.into()))
        .collect()
}

/// A folder on the best file system that there is.
fn base() -> Option<PathBuf> {
    std::env::var_os("VELO_TEST_BTRFS").map(PathBuf::from).filter(|path| path.is_dir())
}

/// A project whose `main` is the parent.
pub struct Parent {
    pub main: Branch,
    pub project: Project,
    pub data: PathBuf,
    pub major: u32,
    pub home: TestHome,
}

impl Parent {
    pub async fn new(major: u32, bin: &Path) -> Self {
        Self::with(major, TestHome::with(base().as_deref(), |b| b.pg_bin(bin))).await
    }

    /// On a storage of one kind, in a folder that has it.
    pub async fn on(major: u32, bin: &Path, base: &Path, kind: StorageKind) -> Self {
        Self::with(major, TestHome::with(Some(base), |b| b.pg_bin(bin).storage(kind))).await
    }

    /// On ZFS, of the newest PostgreSQL; none where there is no ZFS. In long runs alone: an emulated
    /// machine takes minutes for it, and a standby there is met by `sources` as well.
    pub async fn on_zfs() -> Vec<Self> {
        if std::env::var_os("VELO_TEST_LONG").is_none() {
            return Vec::new();
        }
        match (crate::common::zfs::place(), installations().pop()) {
            (Some(place), Some((major, bin))) => {
                vec![Self::with(major, place.home(|b| b.pg_bin(bin))).await]
            }
            _ => Vec::new(),
        }
    }

    async fn with(major: u32, home: TestHome) -> Self {
        let project = home.project("isolation").await;
        let main = project.main().await.unwrap();
        let data = data_of(&main).await;
        Self { main, project, data, major, home }
    }

    /// Writes settings into a file that `postgresql.conf` includes, and starts the server anew.
    pub async fn configure(&self, settings: &str) {
        self.main.stop().await.unwrap();
        self.write("conf.d/hostile.conf", settings);
        let conf = self.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        if !text.contains("\ninclude_dir = 'conf.d'\n") {
            std::fs::write(&conf, format!("{text}\ninclude_dir = 'conf.d'\n")).unwrap();
        }
        self.main.start().await.unwrap();
    }

    /// A file in the data folder, of the server's user.
    pub fn write(&self, path: &str, content: &str) {
        let meta = self.data.metadata().unwrap();
        let path = self.data.join(path);
        let folder = path.parent().unwrap();
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(&path, content).unwrap();
        for path in [folder, &path] {
            std::os::unix::fs::lchown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
        }
    }

    pub async fn ephemeral(&self) -> Branch {
        self.branch(BranchSpec::ephemeral()).await
    }

    pub async fn branch(&self, spec: BranchSpec) -> Branch {
        Branch::create(&self.project, spec).await.unwrap()
    }

    /// Hands `check` branches of the running and of the stopped parent, ephemeral and lasting, with
    /// what they are called in messages. The parent runs afterwards.
    pub async fn each(&self, check: impl AsyncFn(&Branch, &str)) {
        for running in [true, false] {
            if !running {
                self.main.stop().await.unwrap();
            }
            let of = if running { "running" } else { "stopped" };
            let ephemeral = self.ephemeral().await;
            let what = format!("PostgreSQL {}, ephemeral, of the {of} parent", self.major);
            check(&ephemeral, &what).await;
            ephemeral.close().await.unwrap();
            let lasting = self.branch(BranchSpec::named("lasting")).await;
            let what = format!("PostgreSQL {}, lasting, of the {of} parent", self.major);
            check(&lasting, &what).await;
            lasting.delete(true).await.unwrap();
        }
        self.main.start().await.unwrap();
    }
}

/// The data folder of a branch that runs.
pub async fn data_of(branch: &Branch) -> PathBuf {
    let pid = branch.info().await.unwrap().pid.unwrap();
    std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

/// One connection.
pub struct Sql(tokio_postgres::Client);

impl Sql {
    pub async fn on(branch: &Branch) -> Self {
        Self::connect(&branch.url()).await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub async fn database(branch: &Branch, database: &str) -> Self {
        let mut config: tokio_postgres::Config = branch.url().parse().unwrap();
        config.dbname(database);
        Self::with(&config).await.unwrap_or_else(|e| panic!("{database}: {e:?}"))
    }

    /// Where the role's own settings would harm the session.
    pub async fn unharmed(branch: &Branch, major: u32) -> Self {
        let mut config: tokio_postgres::Config = branch.url().parse().unwrap();
        let transaction = if major >= 17 { "-c transaction_timeout=0 " } else { "" };
        config.options(
            transaction.to_owned()
                + "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 \
             -c idle_in_transaction_session_timeout=0 -c search_path=public -c role=none \
             -c default_transaction_read_only=off -c synchronous_commit=on \
             -c session_preload_libraries= -c local_preload_libraries=",
        );
        Self::with(&config).await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub async fn connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        Self::with(&url.parse().unwrap()).await
    }

    pub async fn with(config: &tokio_postgres::Config) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// The first column of what a statement gives, which must not take long.
    pub async fn run(&self, sql: &str) -> Vec<String> {
        self.attempt(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    pub async fn attempt(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let limit = crate::common::scaled(std::time::Duration::from_secs(60));
        let messages = tokio::time::timeout(limit, self.0.simple_query(sql))
            .await
            .unwrap_or_else(|_| panic!("{sql}: no answer"))?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or("NULL").to_owned())
                }
                _ => None,
            })
            .collect())
    }

    /// The only value of a query.
    pub async fn one(&self, sql: &str) -> String {
        let rows = self.run(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap()
    }

    pub async fn show(&self, name: &str) -> String {
        self.one(&format!("SHOW {name}")).await
    }
}

/// A folder outside all projects, in which a server could write.
pub struct World(tempfile::TempDir);

impl World {
    pub fn new(folders: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("velo.world.")
            .tempdir_in(crate::common::home::base())
            .unwrap();
        let world = Self(dir);
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(world.0.path(), open.clone()).unwrap();
        for folder in folders {
            std::fs::create_dir(world.path(folder)).unwrap();
            std::fs::set_permissions(world.path(folder), open.clone()).unwrap();
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path as settings write it.
    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(self.0.path())
    }
}

/// Every file, link and folder under `dir`, with its content.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let content = if kind.is_dir() {
                folders.push(path.clone());
                b"a folder".to_vec()
            } else if kind.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if kind.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                b"something else".to_vec()
            };
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), content);
        }
    }
    found
}

/// Says how two sets of files differ, without their content.
pub fn assert_same(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
    what: &str,
) {
    let differ: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(differ.is_empty(), "{what}: changed: {differ:?}");
}

/// A port on which a server might be; nobody may ever connect to it.
pub struct Silence(std::net::TcpListener);

impl Silence {
    pub fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    pub fn assert_unbroken(&self, what: &str) {
        // The kernel completes connections by itself: whoever has connected waits here.
        let error = self.0.accept().map(|(_, from)| from).expect_err(what);
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{what}");
    }
}
