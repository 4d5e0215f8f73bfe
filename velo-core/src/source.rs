//! What a branch or a snapshot is made from, as the records say.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lookup::Named;
use crate::postgres::scram::Password;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord, Role, SnapshotRecord};
use crate::runtime::Limits;
use crate::spec::BranchSource;
use crate::state::Tx;
use crate::storage::Object;

/// One of them.
// There is one for each branch that is made: nothing is won by a box.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum SourceRecord {
    Branch(BranchRecord),
    Snapshot(SnapshotRecord),
}

impl SourceRecord {
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Branch(branch) => Origin::Branch(branch.id),
            Self::Snapshot(snapshot) => Origin::Snapshot(snapshot.id),
        }
    }

    /// The branch that the new one hangs from in the tree.
    pub(crate) fn tree_parent(&self) -> Id {
        match self {
            Self::Branch(branch) => branch.id,
            Self::Snapshot(snapshot) => snapshot.branch,
        }
    }

    pub(crate) fn object(&self) -> Object {
        match self {
            Self::Branch(branch) => Object::Volume(branch.volume),
            Self::Snapshot(snapshot) => Object::Snapshot(snapshot.id),
        }
    }

    /// Settings that were given for the server of its branch.
    pub(crate) fn settings(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Branch(branch) => &branch.settings,
            Self::Snapshot(snapshot) => &snapshot.settings,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Branch(branch) => branch.limits,
            Self::Snapshot(snapshot) => snapshot.limits,
        }
    }

    /// The password that Velo's role has in it.
    pub(crate) fn password(&self) -> &Password {
        match self {
            Self::Branch(branch) => &branch.password,
            Self::Snapshot(snapshot) => &snapshot.password,
        }
    }
}

/// Whether a branch's volume is whole. While it is reset, the volume that its record names is.
pub(crate) fn settled(branch: &BranchRecord) -> bool {
    matches!(branch.phase, Phase::Ready | Phase::Resetting)
}

/// The records of what a branch is to start from.
pub(crate) fn resolve(
    tx: &Tx<'_>,
    project: &ProjectRecord,
    source: &BranchSource,
) -> Result<SourceRecord> {
    let missing = |what: String| {
        Error::new(ErrorKind::NotFound, what)
            .with_hint(format!("velo branch list {0}; velo snapshot list {0}", project.name))
    };
    let branch = |id: Id| {
        tx.get::<BranchRecord>(id)?
            .filter(|b| b.project == project.id && settled(b))
            .ok_or_else(|| missing("the branch to start from is gone".into()))
    };
    match source {
        BranchSource::Branch(id) => Ok(SourceRecord::Branch(branch(*id)?)),
        BranchSource::Snapshot(id) => tx
            .get::<SnapshotRecord>(*id)?
            .filter(|s| s.project == project.id && s.phase == Phase::Ready)
            .filter(|s| s.role != Role::Hidden)
            .map(SourceRecord::Snapshot)
            .ok_or_else(|| missing("the snapshot to start from is gone".into())),
        BranchSource::Named(text) => {
            let named: Named = text.parse()?;
            let parent = named.branch.find(tx, project)?.ok_or_else(|| {
                missing(format!("there is no branch {}/{}", project.name, named.branch))
            })?;
            if !settled(&parent) {
                return Err(missing(format!(
                    "the branch {}/{} is just being made or deleted",
                    project.name, named.branch
                )));
            }
            let Some(snapshot) = named.snapshot else {
                return Ok(SourceRecord::Branch(parent));
            };
            find_snapshot(tx, &parent, snapshot.as_str())?
                .filter(|s| s.phase == Phase::Ready)
                .map(SourceRecord::Snapshot)
                .ok_or_else(|| {
                    missing(format!(
                        "there is no snapshot {}/{}@{snapshot}",
                        project.name, named.branch
                    ))
                })
        }
    }
}

/// The named snapshot of a branch.
pub(crate) fn find_snapshot(
    tx: &Tx<'_>,
    branch: &BranchRecord,
    name: &str,
) -> Result<Option<SnapshotRecord>> {
    let mut all = tx.of::<SnapshotRecord>(branch.id)?.into_iter();
    Ok(all.find(|s| s.name.as_ref().is_some_and(|n| n.as_str() == name)))
}
