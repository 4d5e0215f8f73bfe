//! What is known of things, as plain objects, of which the package makes those that people see.

use std::path::PathBuf;

use napi_derive::napi;

/// A whole number of JavaScript's, which is exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(number: u64) -> f64 {
    number as f64
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct ProjectInfo {
    pub id: String,
    pub name: String,
    pub storage: String,
    pub runtime: String,
    pub postgres: String,
    pub role: String,
    pub database: String,
    /// Milliseconds.
    pub wal_retention: Option<f64>,
    pub source: Option<SourceInfo>,
    pub created_at: f64,
}

impl From<velo_core::ProjectInfo> for ProjectInfo {
    fn from(info: velo_core::ProjectInfo) -> Self {
        Self {
            id: info.id.to_string(),
            name: info.name.to_string(),
            storage: info.storage.to_string(),
            runtime: info.runtime.to_string(),
            postgres: info.postgres.version.to_string(),
            role: info.role,
            database: info.database,
            wal_retention: info.wal_retention.map(|seconds| number(seconds) * 1000.0),
            source: info.source.map(SourceInfo::from),
            created_at: number(info.created_at),
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct SourceInfo {
    pub method: &'static str,
    pub from: String,
    pub brought_at: f64,
    pub transforms: Vec<String>,
    pub masking: Option<String>,
    pub notes: Vec<String>,
}

impl From<velo_core::import::SourceInfo> for SourceInfo {
    fn from(source: velo_core::import::SourceInfo) -> Self {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        Self {
            method: source.method.as_str(),
            from: source.from,
            brought_at: number(source.brought_at),
            transforms: source.transforms.iter().map(path).collect(),
            masking: source.masking.as_ref().map(path),
            notes: source.notes,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct BranchInfo {
    pub id: String,
    pub project: String,
    pub name: Option<String>,
    pub shown: String,
    pub parent: Option<String>,
    pub parent_shown: Option<String>,
    pub from_snapshot: Option<String>,
    pub ephemeral: bool,
    pub state: &'static str,
    pub storage: String,
    pub runtime: String,
    pub port: u32,
    pub pid: Option<u32>,
    pub created_at: f64,
    pub cut: Option<Cut>,
    pub reached: Option<Reached>,
    pub expires_at: Option<f64>,
    pub kept_by: Vec<String>,
    pub protected: bool,
    pub problem: Option<String>,
}

impl From<velo_core::BranchInfo> for BranchInfo {
    fn from(info: velo_core::BranchInfo) -> Self {
        Self {
            id: info.id.to_string(),
            project: info.project,
            name: info.name,
            shown: info.shown,
            parent: info.parent.map(|id| id.to_string()),
            parent_shown: info.parent_shown,
            from_snapshot: info.from_snapshot,
            ephemeral: info.ephemeral,
            state: info.state.as_str(),
            storage: info.storage.to_string(),
            runtime: info.runtime.to_string(),
            port: info.port.into(),
            pid: info.pid,
            created_at: number(info.created_at),
            cut: info.cut.map(Cut::from),
            reached: info.reached.map(Reached::from),
            expires_at: info.expires_at.map(number),
            kept_by: info.kept_by,
            protected: info.protected,
            problem: info.problem,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct SnapshotInfo {
    pub id: String,
    pub project: String,
    pub branch: String,
    pub name: String,
    pub scheduled: bool,
    pub cut: Option<Cut>,
    pub created_at: f64,
}

impl From<velo_core::SnapshotInfo> for SnapshotInfo {
    fn from(info: velo_core::SnapshotInfo) -> Self {
        Self {
            id: info.id.to_string(),
            project: info.project,
            branch: info.branch,
            name: info.name,
            scheduled: info.scheduled,
            cut: info.cut.map(Cut::from),
            created_at: number(info.created_at),
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct SeedInfo {
    pub id: String,
    pub project: String,
    pub key: String,
    pub label: Option<String>,
    pub shown: String,
    pub ready: bool,
    pub created_at: f64,
    pub used_at: f64,
    pub branches: f64,
}

impl From<velo_core::SeedInfo> for SeedInfo {
    fn from(info: velo_core::SeedInfo) -> Self {
        Self {
            id: info.id.to_string(),
            shown: info.shown(),
            project: info.project,
            key: info.key,
            label: info.label,
            ready: info.ready,
            created_at: number(info.created_at),
            used_at: number(info.used_at),
            branches: number(info.branches as u64),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct PoolInfo {
    pub ready: f64,
    pub starting: f64,
    pub wanted: f64,
    pub limit: f64,
}

impl From<velo_core::PoolInfo> for PoolInfo {
    fn from(info: velo_core::PoolInfo) -> Self {
        Self {
            ready: number(info.ready as u64),
            starting: number(info.starting as u64),
            wanted: number(info.wanted as u64),
            limit: number(info.limit as u64),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct Usage {
    pub referenced: f64,
    pub exclusive: f64,
    pub available: f64,
}

impl From<velo_core::storage::Usage> for Usage {
    fn from(usage: velo_core::storage::Usage) -> Self {
        Self {
            referenced: number(usage.referenced),
            exclusive: number(usage.exclusive),
            available: number(usage.available),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct Cut {
    pub method: &'static str,
    pub lsn: String,
    pub next_xid: f64,
    pub oldest_active_xid: f64,
    pub timeline: u32,
    pub at: f64,
    /// As text: it has more digits than a number of JavaScript's holds.
    pub system_identifier: String,
    pub major: u32,
    pub in_recovery: bool,
}

impl From<velo_core::Cut> for Cut {
    fn from(cut: velo_core::Cut) -> Self {
        Self {
            method: cut.method.as_str(),
            lsn: cut.lsn.to_string(),
            next_xid: number(cut.next_xid),
            oldest_active_xid: number(cut.oldest_active_xid.into()),
            timeline: cut.timeline,
            at: number(cut.at),
            system_identifier: cut.system_identifier.to_string(),
            major: cut.major,
            in_recovery: cut.in_recovery,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct Reached {
    pub lsn: String,
    pub timeline: u32,
    pub committed_at: Option<f64>,
    pub last_xid: Option<u32>,
    pub replayed: f64,
    pub since: f64,
}

impl From<velo_core::Reached> for Reached {
    fn from(reached: velo_core::Reached) -> Self {
        Self {
            lsn: reached.lsn.to_string(),
            timeline: reached.timeline,
            // A date of JavaScript's is in milliseconds.
            committed_at: reached.committed_at.map(|at| number(at.cast_unsigned() / 1000)),
            last_xid: reached.last_xid,
            replayed: number(reached.replayed),
            since: number(reached.since),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct RestorePoint {
    pub name: String,
    pub lsn: String,
}

impl From<velo_core::RestorePoint> for RestorePoint {
    fn from(point: velo_core::RestorePoint) -> Self {
        Self { name: point.name, lsn: point.lsn.to_string() }
    }
}

/// Milliseconds.
#[napi(object, object_from_js = false)]
pub struct Timings {
    pub total: f64,
    pub steps: Vec<Step>,
}

#[napi(object, object_from_js = false)]
pub struct Step {
    pub name: String,
    pub took: f64,
}

impl From<velo_core::Timings> for Timings {
    fn from(timings: velo_core::Timings) -> Self {
        let steps = timings.steps.iter();
        Self {
            total: timings.total.as_secs_f64() * 1000.0,
            steps: steps
                .map(|(name, took)| Step {
                    name: name.as_str().to_owned(),
                    took: took.as_secs_f64() * 1000.0,
                })
                .collect(),
        }
    }
}

/// A list of what each of these becomes.
pub(crate) fn list<T, V: From<T>>(all: Vec<T>) -> Vec<V> {
    all.into_iter().map(V::from).collect()
}
