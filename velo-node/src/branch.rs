//! Branches.

use std::collections::{BTreeMap, HashMap};

use napi_derive::napi;
use velo_core::__binding::WantedMoment;
use velo_core::{BranchSource, BranchSpec, Error, ErrorKind, ResetTarget, Result};

use crate::call::Call;
use crate::config::{time, whole};
use crate::info::{BranchInfo, RestorePoint, Timings, Usage};
use crate::project::Project;
use crate::snapshot::Snapshot;

/// A complete, isolated PostgreSQL on a clone of its parent's data.
#[napi]
pub struct Branch(pub(crate) velo_core::Branch);

/// What something starts from: a name, or what a handle's `source` gives.
#[napi]
pub struct Source(pub(crate) BranchSource);

#[napi]
impl Source {
    #[napi(constructor)]
    pub fn new(name: String) -> Self {
        Self(name.into())
    }
}

/// What can be said of a branch that is made.
#[napi(object, object_to_js = false)]
pub struct Spec {
    pub name: Option<String>,
    pub label: Option<String>,
    pub settings: Option<HashMap<String, String>>,
    pub memory: Option<f64>,
    pub cpus: Option<f64>,
    pub shm_size: Option<f64>,
    pub quota: Option<f64>,
    pub ttl: Option<f64>,
    pub start: Option<bool>,
    pub at: Option<String>,
    pub at_lsn: Option<String>,
    pub at_name: Option<String>,
    /// As text: it may have more digits than a number of JavaScript's holds.
    pub at_xid: Option<String>,
    pub exclusive: Option<bool>,
}

impl Spec {
    fn made(self, source: Option<BranchSource>) -> Result<BranchSpec> {
        let mut spec = self.name.map_or_else(BranchSpec::ephemeral, BranchSpec::named);
        if let Some(source) = source {
            spec = spec.from(source);
        }
        if let Some(label) = self.label {
            spec = spec.label(label);
        }
        let settings: BTreeMap<_, _> = self.settings.into_iter().flatten().collect();
        for (name, value) in settings {
            spec = spec.set(name, value);
        }
        if let Some(bytes) = self.memory {
            spec = spec.memory(whole(bytes)?);
        }
        if let Some(processors) = self.cpus {
            spec = spec.millicpus(whole((processors * 1000.0).round())?);
        }
        if let Some(bytes) = self.shm_size {
            spec = spec.shm_size(whole(bytes)?);
        }
        if let Some(bytes) = self.quota {
            spec = spec.quota(whole(bytes)?);
        }
        if let Some(milliseconds) = self.ttl {
            spec = spec.ttl(time(milliseconds)?);
        }
        let moment = WantedMoment {
            at: self.at,
            lsn: self.at_lsn,
            name: self.at_name,
            xid: self.at_xid.map(|text| transaction(&text)).transpose()?,
            exclusive: self.exclusive.unwrap_or_default(),
        };
        if let Some(target) = moment.target()? {
            spec = spec.at(target);
        }
        Ok(if self.start == Some(false) { spec.stopped() } else { spec })
    }
}

fn transaction(text: &str) -> Result<u64> {
    text.parse().map_err(|_| {
        let what = format!("{text} is not the number of a transaction");
        Error::new(ErrorKind::InvalidInput, what)
            .with_hint("pg_current_xact_id() gives such numbers")
    })
}

/// The parts of a branch's URL.
#[napi(object, object_from_js = false)]
pub struct Connection {
    pub host: String,
    pub port: u32,
    pub user: String,
    pub password: String,
    pub database: String,
}

#[napi]
impl Branch {
    #[napi]
    pub fn create(project: &Project, spec: Spec, source: Option<&Source>) -> Call {
        let (project, source) = (project.0.clone(), source.map(|source| source.0.clone()));
        let work = async move { velo_core::Branch::create(&project, spec.made(source)?).await };
        Call::new(work, Self)
    }

    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    #[napi(getter)]
    pub fn name(&self) -> Option<String> {
        self.0.name()
    }

    #[napi(getter)]
    pub fn full_name(&self) -> String {
        self.0.full_name()
    }

    #[napi(getter)]
    pub fn ephemeral(&self) -> bool {
        self.0.is_ephemeral()
    }

    #[napi(getter)]
    pub fn project(&self) -> Project {
        Project(self.0.project())
    }

    #[napi(getter)]
    pub fn log_file(&self) -> String {
        self.0.log_file().to_string_lossy().into_owned()
    }

    #[napi(getter)]
    pub fn url(&self) -> String {
        self.0.url()
    }

    #[napi(getter)]
    pub fn socket_url(&self) -> String {
        self.0.socket_url()
    }

    #[napi(getter)]
    pub fn socket_dir(&self) -> String {
        self.0.socket_dir().to_string_lossy().into_owned()
    }

    #[napi(getter)]
    pub fn connection(&self) -> Connection {
        let to = self.0.connection();
        Connection {
            host: to.host,
            port: to.port.into(),
            user: to.user,
            password: to.password,
            database: to.database,
        }
    }

    #[napi(getter)]
    pub fn timings(&self) -> Timings {
        self.0.timings().into()
    }

    #[napi]
    pub fn source(&self) -> Source {
        Source((&self.0).into())
    }

    #[napi]
    pub fn info(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.info().await }, BranchInfo::from)
    }

    #[napi]
    pub fn usage(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.usage().await }, Usage::from)
    }

    #[napi]
    pub fn outgoing(&self) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.outgoing().await }, |all| all)
    }

    #[napi]
    pub fn snapshot(&self, name: String) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.snapshot(name).await }, Snapshot)
    }

    #[napi]
    pub fn restore_point(&self, name: String) -> Call {
        let branch = self.0.clone();
        Call::new(async move { branch.restore_point(name).await }, RestorePoint::from)
    }

    #[napi]
    pub fn start(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.start().await })
    }

    #[napi]
    pub fn stop(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.stop().await })
    }

    #[napi]
    pub fn restart(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.restart().await })
    }

    /// To its source, to its origin, or to a snapshot.
    #[napi]
    pub fn reset(&self, snapshot: Option<String>, origin: bool) -> Call {
        let branch = self.0.clone();
        let target = match snapshot {
            Some(name) => ResetTarget::Snapshot(name),
            None if origin => ResetTarget::Origin,
            None => ResetTarget::Source,
        };
        Call::nothing(async move { branch.reset_to(target).await })
    }

    #[napi]
    pub fn keep(&self, name: Option<String>, ttl: Option<f64>) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move {
            match (name, ttl.map(time).transpose()?) {
                (Some(name), None) => branch.keep_as(name).await,
                (Some(name), Some(time)) => {
                    branch.keep_as(name).await?;
                    branch.set_ttl(Some(time)).await
                }
                (None, Some(time)) => branch.keep_for(time).await,
                (None, None) => branch.keep().await,
            }
        })
    }

    #[napi]
    pub fn protect(&self, protected: bool) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.protect(protected).await })
    }

    #[napi]
    pub fn set_ttl(&self, ttl: Option<f64>) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.set_ttl(ttl.map(time).transpose()?).await })
    }

    #[napi]
    pub fn close(&self) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.close().await })
    }

    #[napi]
    pub fn delete(&self, force: bool) -> Call {
        let branch = self.0.clone();
        Call::nothing(async move { branch.delete(force).await })
    }
}
