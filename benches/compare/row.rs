//! What is compared: the one trait that each way to a fresh database implements.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Config;
use velo_benches::floor::Running;
use velo_benches::{Result, client};
use velo_core::Branch;

use crate::seed::Seed;

/// Which way it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Floor,
    Velo,
    VeloDocker,
    /// `CREATE DATABASE … TEMPLATE` of a major, and how.
    Template(u32, Strategy),
    Mitosis,
    Container,
    PgTmp,
    Pglite,
}

/// How `CREATE DATABASE` copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Strategy {
    WalLog,
    FileCopy,
    /// FILE_COPY under `file_copy_method = clone`.
    Clone,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor => f.write_str("floor"),
            Self::Velo => f.write_str("Velo"),
            Self::VeloDocker => f.write_str("Velo, Docker"),
            Self::Template(major, Strategy::WalLog) => write!(f, "template {major}, WAL_LOG"),
            Self::Template(major, Strategy::FileCopy) => write!(f, "template {major}, FILE_COPY"),
            Self::Template(major, Strategy::Clone) => write!(f, "template {major}, clone"),
            Self::Mitosis => f.write_str("mitosis-db"),
            Self::Container => f.write_str("container"),
            Self::PgTmp => f.write_str("pg_tmp"),
            Self::Pglite => f.write_str("PGlite"),
        }
    }
}

/// On what its data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Btrfs,
    Xfs,
    Ext4,
    Memory,
}

impl Place {
    pub(crate) const ALL: [Self; 4] = [Self::Btrfs, Self::Xfs, Self::Ext4, Self::Memory];

    /// The variable that names a folder on it.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Btrfs => "VELO_TEST_BTRFS",
            Self::Xfs => "VELO_TEST_XFS",
            Self::Ext4 => "VELO_TEST_EXT4",
            Self::Memory => "VELO_TEST_MEMORY",
        }
    }

    /// A folder on it, if there is one; in memory there is.
    pub(crate) fn folder(self) -> Option<PathBuf> {
        let named = std::env::var_os(self.variable()).map(PathBuf::from);
        named.or_else(|| (self == Self::Memory).then(|| "/dev/shm".into()))
    }

    /// Whether files on it can share what they hold.
    pub(crate) fn clones(self) -> bool {
        matches!(self, Self::Btrfs | Self::Xfs)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::Xfs => "XFS",
            Self::Ext4 => "ext4",
            Self::Memory => "memory",
        })
    }
}

/// A branch of whoever made it.
pub(crate) struct Instance {
    /// How clients reach it; one that lives in another program's memory has no address.
    pub(crate) to: Option<Config>,
    pub(crate) held: Held,
}

/// What it is to who made it.
pub(crate) enum Held {
    Bare(Running),
    Branch(Branch),
    /// A name: of a database, a clone, a container.
    Name(String),
    Folder(PathBuf),
    Number(u64),
}

/// A way to a fresh database with a seed's data. All of it happens on one thread.
#[async_trait(?Send)]
pub(crate) trait Row {
    fn kind(&self) -> Kind;

    /// What it runs with, as far as that is not PostgreSQL's default: for the report.
    fn settings(&self) -> String;

    /// Which PostgreSQL; known once it is prepared.
    fn postgres(&self) -> String;

    /// Whether a branch shares its seed's data, so that its size does not matter.
    fn clones(&self) -> bool;

    /// Makes what branches are made of.
    async fn prepare(&mut self, seed: &Seed) -> Result<()>;

    /// From the request to the endpoint.
    async fn create(&self) -> Result<Instance>;

    /// Runs statements over a connection of their own.
    async fn run(&self, instance: &Instance, sql: &str) -> Result<()> {
        let client = client::open(instance.to.as_ref().ok_or("it has no address")?).await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// Until it is gone for who had it.
    async fn delete(&self, instance: Instance) -> Result<()>;

    /// Waits for what goes behind the caller, so that it weighs on no other sample.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// What the steps of the creation took, where somebody tells.
    fn steps(&self, _instance: &Instance) -> Vec<(String, Duration)> {
        Vec::new()
    }

    /// The processes at the head of its servers.
    async fn servers(&self, instance: &Instance) -> Result<Vec<u32>>;

    /// Where its data is, if in a folder.
    async fn data(&self, instance: &Instance) -> Result<Option<PathBuf>>;

    /// Whether branches can be had that are ready.
    fn has_ready(&self) -> bool {
        false
    }

    /// Has so many ready.
    async fn fill(&self, _count: usize) -> Result<()> {
        Ok(())
    }

    /// One that is ready, where [`fill`](Self::fill) was called before.
    async fn ready(&self) -> Result<Instance> {
        self.create().await
    }

    /// Lets go of those that are ready.
    async fn empty(&self) -> Result<()> {
        Ok(())
    }

    /// One as a test suite takes it.
    async fn take(&self) -> Result<Instance> {
        self.create().await
    }

    /// Removes everything.
    async fn end(&mut self) -> Result<()>;
}

/// What a client asks first.
pub(crate) const FIRST_QUERY: &str = "SELECT 1";
