//! From what people write to records: one way for every operation that takes a name.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{BranchName, Id, SnapshotName};
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::source::settled;
use crate::state::Tx;

/// A branch, in one of the forms that commands take and lists show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BranchRef {
    /// `feature/login`.
    Name(BranchName),
    /// Its identity.
    Id(Id),
    /// An ephemeral one as lists show it: `~label.1a2b3c4d`.
    Shown(String),
}

impl FromStr for BranchRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('~') {
            return Ok(Self::Shown(text.to_owned()));
        }
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => BranchName::new(text).map(Self::Name),
        }
    }
}

impl fmt::Display for BranchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
            Self::Shown(text) => f.write_str(text),
        }
    }
}

impl BranchRef {
    /// The branch of the project that is meant, in whatever phase it is.
    pub(crate) fn find(
        &self,
        tx: &Tx<'_>,
        project: &ProjectRecord,
    ) -> Result<Option<BranchRecord>> {
        let scope = project.id.to_string();
        match self {
            Self::Name(name) => tx.named(&scope, name.as_str()),
            Self::Id(id) => Ok(tx.get::<BranchRecord>(*id)?.filter(|b| b.project == project.id)),
            Self::Shown(text) => {
                // Behind the last point of it, if it has one, is the end of its id.
                let end = text.trim_start_matches('~').rsplit('.').next().unwrap_or_default();
                let branches = tx.ending::<BranchRecord>(&scope, &end.to_uppercase())?;
                Ok(branches.into_iter().find(|b| b.name.is_none() && b.shown() == *text))
            }
        }
    }
}

/// A name taken apart: the branch, and perhaps one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) branch: BranchRef,
    pub(crate) snapshot: Option<SnapshotName>,
}

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.split_once('@') {
            Some((branch, snapshot)) => {
                Self { branch: branch.parse()?, snapshot: Some(SnapshotName::new(snapshot)?) }
            }
            None => Self { branch: text.parse()?, snapshot: None },
        })
    }
}

/// The project is there and not on its way out.
pub(crate) fn alive(tx: &Tx<'_>, project: &ProjectRecord) -> Result<()> {
    match tx.get::<ProjectRecord>(project.id)? {
        Some(record) if record.phase == Phase::Ready => Ok(()),
        _ => Err(Error::new(ErrorKind::NotFound, format!("project {} is gone", project.name))
            .with_hint(format!(
                "somebody deleted it meanwhile; create it anew: velo project create {}",
                project.name
            ))),
    }
}

/// No branch has the name.
pub(crate) fn vacant(tx: &Tx<'_>, project: &ProjectRecord, name: &BranchName) -> Result<()> {
    match tx.named::<BranchRecord>(&project.id.to_string(), name.as_str())? {
        None => Ok(()),
        Some(taken) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("a branch {}/{name} exists already", project.name),
        )
        .with_hint(match taken.parent {
            None => "take another name: this is the project's first branch".to_owned(),
            // It cannot be deleted by its name, and may be nobody's that this home knows.
            Some(_) if !settled(&taken) => {
                "take another name, or wait until it is made or gone; velo doctor says if it is left \
                 by a process that is not there"
                    .to_owned()
            }
            Some(_) => format!(
                "take another name, or delete it: velo branch delete {}/{name}",
                project.name
            ),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_has_three_forms() {
        let id = Id::generate();
        let branch = |text: &str| text.parse::<Named>().map(|named| named.branch);
        assert_eq!(branch("a/b@s").unwrap(), BranchRef::Name(BranchName::new("a/b").unwrap()));
        assert_eq!(branch(&format!("{id}@s")).unwrap(), BranchRef::Id(id));
        assert_eq!(branch("~x.12345678@s").unwrap(), BranchRef::Shown("~x.12345678".into()));
        assert!(branch("a b").is_err());
        assert!("a@b c".parse::<Named>().is_err());
    }
}
