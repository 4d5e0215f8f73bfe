//! Names of datasets and snapshots.
//!
//! ```text
//! <parent>/v-<id>             a volume
//! <parent>/v-<id>@<id>        a snapshot
//! <parent>/v-<id>@b-<id>      what the volume with the second id was cloned from: it goes with it
//! <parent>/v-probe-<id>       a try whether it works here
//! ```
//! Ids are in lower case there. Nothing else ever gets into a name, and the parent is checked once.

use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// The longest parent: ZFS takes 255 bytes, and its children's snapshots add 58.
const MAX_PARENT: usize = 190;

/// The parent of all volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent(String);

/// What a child of the parent, or a snapshot of one, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Volume(Id),
    Snapshot {
        volume: Id,
        id: Id,
    },
    /// The snapshot of `source` that the volume `target` is, or was to be, a clone of.
    Implicit {
        source: Id,
        target: Id,
    },
    /// The volume of a try.
    Probe(Id),
}

impl Parent {
    /// Checks a dataset's name. ZFS takes more; what it takes and this does not (spaces, colons) needs
    /// care in every program that reads names.
    pub(super) fn new(name: &str) -> Result<Self> {
        let part = |part: &str| {
            part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let pool = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if pool && name.len() <= MAX_PARENT && name.split('/').all(part) {
            return Ok(Self(name.to_owned()));
        }
        let shown: String = name.chars().take(60).collect();
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{shown:?} is not the name of a ZFS dataset that Velo can use"),
        )
        .with_hint(
            "use a name like tank/velo: letters, digits, '-', '_', '.' and at most 190 of them",
        ))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// A child's last component.
    pub(super) fn leaf(volume: Id) -> String {
        format!("v-{}", lower(volume))
    }

    pub(super) fn volume(&self, volume: Id) -> String {
        format!("{}/{}", self.0, Self::leaf(volume))
    }

    pub(super) fn probe(&self, id: Id) -> String {
        format!("{}/v-probe-{}", self.0, lower(id))
    }

    pub(super) fn snapshot(&self, volume: Id, id: Id) -> String {
        format!("{}@{}", self.volume(volume), lower(id))
    }

    pub(super) fn implicit(&self, source: Id, target: Id) -> String {
        format!("{}@b-{}", self.volume(source), lower(target))
    }

    /// What the name of a dataset or a snapshot means; `None` if it is none of Velo's.
    pub(super) fn parse(&self, name: &str) -> Option<Found> {
        let rest = name.strip_prefix(&self.0)?.strip_prefix("/v-")?;
        if let Some(id) = rest.strip_prefix("probe-") {
            return Some(Found::Probe(id_of(id)?));
        }
        Some(match rest.split_once('@') {
            None => Found::Volume(id_of(rest)?),
            Some((volume, snapshot)) => {
                let volume = id_of(volume)?;
                match snapshot.strip_prefix("b-") {
                    Some(target) => Found::Implicit { source: volume, target: id_of(target)? },
                    None => Found::Snapshot { volume, id: id_of(snapshot)? },
                }
            }
        })
    }
}

pub(super) fn lower(id: Id) -> String {
    id.to_string().to_ascii_lowercase()
}

/// An id that is written as Velo writes it.
fn id_of(text: &str) -> Option<Id> {
    Id::from_str(text).ok().filter(|id| lower(*id) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let parent = Parent::new("tank/velo").unwrap();
        let (a, b) = (Id::generate(), Id::generate());
        for (name, found) in [
            (parent.volume(a), Found::Volume(a)),
            (parent.snapshot(a, b), Found::Snapshot { volume: a, id: b }),
            (parent.implicit(a, b), Found::Implicit { source: a, target: b }),
            (parent.probe(a), Found::Probe(a)),
        ] {
            assert_eq!(parent.parse(&name), Some(found), "{name}");
            assert_eq!(Parent::new("tank/vel").unwrap().parse(&name), None, "{name}");
        }
        let upper = format!("tank/velo/v-{a}");
        for other in ["tank/velo", "tank/velo/v-1", "tank/velo/mine", &upper] {
            assert_eq!(parent.parse(other), None, "{other}");
        }
        assert_eq!(parent.parse(&format!("{}@auto", parent.volume(a))), None);
        assert_eq!(parent.parse(&format!("{}/child", parent.volume(a))), None);
    }

    #[test]
    fn only_names_that_no_program_misreads_are_taken() {
        for good in ["tank", "tank/velo", "rpool/data/velo_1.2-x"] {
            assert_eq!(Parent::new(good).unwrap().as_str(), good);
        }
        let long = format!("tank/{}", "x".repeat(200));
        for bad in [
            "", "-r", "/tank", "tank/", "tank//x", "tank/-x", "tank/..", "a b", "tank@x", "t%",
            &long,
        ] {
            assert_eq!(Parent::new(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
