//! Projects.

use std::sync::Arc;

use napi::Env;
use napi_derive::napi;
use velo_core::__binding::{AskedSeed, WantedSeed};

use crate::branch::{Branch, Source};
use crate::call::Call;
use crate::config::{Config, given, time};
use crate::error::raised;
use crate::info::{self, BranchInfo, ProjectInfo, SeedInfo, SnapshotInfo};
use crate::seed::{Building, Seed};
use crate::snapshot::Snapshot;

/// A repository: branches and snapshots of one PostgreSQL cluster.
#[napi]
pub struct Project(pub(crate) velo_core::Project);

/// What a new project is made with.
#[napi(object, object_to_js = false)]
pub struct Founding {
    pub role: Option<String>,
    pub database: Option<String>,
    pub locale: Option<String>,
    pub main_stopped: Option<bool>,
    pub wal_retention: Option<f64>,
}

#[napi]
impl Project {
    /// Opens, creates, or both: `how` is `open`, `create` or `openOrCreate`.
    #[napi]
    pub fn get(how: String, name: String, config: Option<&Config>, founding: Founding) -> Call {
        let config = given(config);
        let work = async move {
            let mut builder = velo_core::Project::builder(name).config(config?);
            if let Some(role) = founding.role {
                builder = builder.role(role);
            }
            if let Some(database) = founding.database {
                builder = builder.database(database);
            }
            if let Some(locale) = founding.locale {
                builder = builder.locale(locale);
            }
            if founding.main_stopped == Some(true) {
                builder = builder.main_stopped();
            }
            if let Some(milliseconds) = founding.wal_retention {
                builder = builder.wal_retention(time(milliseconds)?);
            }
            match how.as_str() {
                "open" => builder.open().await,
                "create" => builder.create().await,
                _ => builder.open_or_create().await,
            }
        };
        Call::new(work, Self)
    }

    #[napi]
    pub fn list(config: Option<&Config>) -> Call {
        let config = given(config);
        let work = async move { velo_core::Project::list(&config?).await };
        Call::new(work, info::list::<_, ProjectInfo>)
    }

    /// Refuses a suite's project that was made with other settings than it was opened with.
    #[napi]
    pub fn refuse_other_settings(&self, env: &Env) -> napi::Result<()> {
        velo_core::__binding::refuse_other_settings(&self.0).map_err(|error| raised(*env, &error))
    }

    /// Looks for its PostgreSQL, which may have gone since it was made.
    #[napi]
    pub fn find_postgres(&self) -> Call {
        let project = self.0.clone();
        Call::nothing(async move { velo_core::__binding::find_postgres(&project).await })
    }

    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[napi(getter)]
    pub fn name(&self) -> String {
        self.0.name().to_owned()
    }

    #[napi]
    pub fn info(&self) -> ProjectInfo {
        self.0.info().into()
    }

    /// Its branch `main`.
    #[napi]
    pub fn main(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.main().await }, Branch)
    }

    #[napi]
    pub fn branch(&self, name: String) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.branch(name).await }, Branch)
    }

    #[napi]
    pub fn branches(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.branches().await }, info::list::<_, BranchInfo>)
    }

    #[napi]
    pub fn snapshot(&self, name: String) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.snapshot(name).await }, Snapshot)
    }

    #[napi]
    pub fn snapshots(&self) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.snapshots().await }, info::list::<_, SnapshotInfo>)
    }

    #[napi]
    pub fn seeds(&self) -> Call {
        let project = self.0.clone();
        let work = async move { project.seeds().await };
        Call::new(work, |all| all.into_iter().map(Seed).collect::<Vec<_>>())
    }

    /// The seed that this key is of, or who builds it.
    #[napi]
    pub fn seed(
        &self,
        files: Vec<String>,
        texts: Vec<String>,
        code: String,
        label: Option<String>,
        source: Option<&Source>,
    ) -> Building {
        let from = source.map(|source| source.0.clone());
        let wanted = WantedSeed { files, texts, code, label, from };
        Building(Arc::new(AskedSeed::new(&self.0, wanted)))
    }

    #[napi]
    pub fn seed_sql(&self, pattern: String, texts: Vec<String>, label: Option<String>) -> Call {
        let project = self.0.clone();
        Call::new(async move { project.seed_sql_as(pattern, texts, label).await }, Seed)
    }

    #[napi]
    pub fn prune_seeds(&self, unused_for: f64) -> Call {
        let project = self.0.clone();
        let work = async move { project.prune_seeds(time(unused_for)?).await };
        Call::new(work, info::list::<_, SeedInfo>)
    }

    /// The branches whose servers have to be restarted for it.
    #[napi]
    pub fn set_wal_retention(&self, kept: Option<f64>) -> Call {
        let project = self.0.clone();
        let work = async move { project.set_wal_retention(kept.map(time).transpose()?).await };
        Call::new(work, |all| all)
    }

    #[napi]
    pub fn finish_deletions(&self) -> Call {
        let project = self.0.clone();
        Call::nothing(async move { project.finish_deletions().await })
    }

    #[napi]
    pub fn delete(&self, force: bool) -> Call {
        let project = self.0.clone();
        Call::nothing(async move { project.delete(force).await })
    }
}
