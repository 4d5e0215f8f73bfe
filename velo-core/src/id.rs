//! Names that people give, and identities that Velo makes.
//!
//! A name is checked once, when it is made into a type of this module; from then on no backend
//! checks it again. An identity is a ULID: it sorts by time, and it alone names folders, datasets
//! and containers, so no name that a person chose ever reaches a path or a program.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The longest name, in bytes.
const MAX_NAME: usize = 128;

/// Says why `segment` is not a name, if it is not.
fn fault(segment: &str) -> Option<&'static str> {
    let mut bytes = segment.bytes();
    match bytes.next() {
        None => return Some("it has an empty part"),
        Some(first) if !first.is_ascii_alphanumeric() => {
            return Some("each part must begin with a letter or a digit");
        }
        Some(_) => {}
    }
    if bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        None
    } else {
        Some("it may hold only letters, digits, '-', '_' and '.'")
    }
}

fn check(what: &str, name: &str, slashes: bool) -> Result<()> {
    let why = if name.is_empty() {
        Some("it is empty")
    } else if name.len() > MAX_NAME {
        Some("it is longer than 128 characters")
    } else if slashes {
        name.split('/').find_map(fault)
    } else {
        fault(name)
    };
    match why {
        None => Ok(()),
        Some(why) => {
            let shown: String = name.chars().take(40).collect();
            let shown = if shown.len() < name.len() { format!("{shown}…") } else { shown };
            Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{shown:?} is not a valid {what} name: {why}"),
            )
            .with_hint(format!(
                "use a name like {}",
                if slashes { "\"dev\" or \"feature/login\"" } else { "\"api\"" }
            )))
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $slashes:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `name`.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidInput`] if it is empty, longer than 128 bytes, or holds
            /// anything else than the type allows.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                check($what, &name, $slashes)?;
                // Where a name is asked for an id is taken too, and must mean one thing.
                if name.parse::<Id>().is_ok() {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        format!("{name} is an id, and no name of a {}", $what),
                    )
                    .with_hint("choose a name that says what it is for"));
                }
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                Self::new(s)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(s: &str) -> Result<Self> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name! {
    /// A project's name: letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
    ProjectName, "project", false
}
name! {
    /// A branch's name: like a project's, and parts may be joined with `/` (`feature/login`).
    BranchName, "branch", true
}
name! {
    /// A snapshot's name: like a project's. It is unique among the snapshots of its branch.
    SnapshotName, "snapshot", false
}

impl BranchName {
    /// The branch that every project begins with.
    #[must_use]
    pub fn main() -> Self {
        Self("main".to_owned())
    }
}

/// The identity of a project, a branch, a volume or a snapshot: a ULID, 26 characters of
/// Crockford's base 32, which sorts by the time it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(ulid::Ulid);

impl Id {
    /// A new identity.
    #[must_use]
    pub fn generate() -> Self {
        Self(ulid::Ulid::generate())
    }

    /// When it was made, in milliseconds since 1970, UTC.
    #[cfg(any(feature = "zfs", feature = "docker"))]
    pub(crate) fn made_at(self) -> u64 {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Id {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        s.parse().map(Self).map_err(|source: ulid::DecodeError| {
            Error::new(ErrorKind::InvalidInput, format!("{s:?} is not an id")).with_source(source)
        })
    }
}

/// A label made from any text (a test's path, say): what a name cannot hold becomes `-`, at most
/// 60 bytes are kept, from the end, where test names differ.
pub(crate) fn label(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '-' })
        .collect();
    if out.len() > 60 {
        out.drain(..out.len() - 60);
    }
    out.trim_matches(['-', '.', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_refused() {
        let long = "a".repeat(300);
        for bad in
            ["", "../x", "a b", "-a", "a//b", "/a", "a/", "ä", "a;b", ".", "a/../b", "a'b", &long]
        {
            assert!(BranchName::new(bad).is_err(), "{bad}");
            assert!(ProjectName::new(bad).is_err(), "{bad}");
        }
        let id = Id::generate().to_string();
        assert!(BranchName::new(&id).is_err() && BranchName::new(id.to_lowercase()).is_err());
        assert!(BranchName::new(format!("of/{id}")).is_ok());
        assert!(ProjectName::new("a/b").is_err());
    }

    #[test]
    fn names_that_are_taken() {
        for good in ["a", "main", "feature/login-2", "v1.2_3", "0"] {
            assert_eq!(BranchName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_label_is_made_from_anything() {
        assert_eq!(label("tests/test_a.py::test_x[ä-1]"), "tests-test_a.py--test_x---1");
        assert_eq!(label(&"x".repeat(100)).len(), 60);
    }
}
