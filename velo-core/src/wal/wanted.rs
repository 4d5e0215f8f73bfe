//! A moment as another language names it: [`WantedMoment`].

use super::target::Target;
use crate::error::{Error, ErrorKind, Result};

/// Of these at most one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedMoment {
    /// A time, as people write it.
    pub at: Option<String>,
    /// A position in the WAL.
    pub lsn: Option<String>,
    /// A restore point.
    pub name: Option<String>,
    /// A transaction.
    pub xid: Option<u64>,
    /// Without what was committed exactly then, or by that transaction.
    pub exclusive: bool,
}

impl WantedMoment {
    /// None if none is named.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if several are, or what is named is no moment.
    pub fn target(self) -> Result<Option<Target>> {
        let mut named = [
            self.at.map(|text| Target::parse_time(&text)),
            self.lsn.map(|text| text.parse().map(Target::lsn)),
            self.name.map(|name| Ok(Target::restore_point(name))),
            self.xid.map(|xid| Ok(Target::xid(xid))),
        ]
        .into_iter()
        .flatten();
        let bad = |what| Err(Error::new(ErrorKind::InvalidInput, what));
        match (named.next(), named.next()) {
            (None, _) if self.exclusive => {
                bad("exclusive leaves something out of a moment, and none is named")
            }
            (None, _) => Ok(None),
            (Some(target), None) => {
                target.map(|target| Some(if self.exclusive { target.exclusive() } else { target }))
            }
            (Some(_), Some(_)) => bad("a branch begins with one moment: several are named"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_moment_is_named_or_none() {
        let none = WantedMoment::default();
        assert_eq!(none.clone().target().unwrap(), None);
        let xid = WantedMoment { xid: Some(700), ..none.clone() };
        assert_eq!(xid.clone().target().unwrap(), Some(Target::xid(700)));
        let before = WantedMoment { exclusive: true, ..xid.clone() };
        assert_eq!(before.target().unwrap(), Some(Target::xid(700).exclusive()));
        let lsn = WantedMoment { lsn: Some("0/10".into()), ..none.clone() };
        assert_eq!(lsn.target().unwrap(), Some(Target::lsn("0/10".parse().unwrap())));
        for bad in [
            WantedMoment { exclusive: true, ..none.clone() },
            WantedMoment { name: Some("a".into()), ..xid },
            WantedMoment { at: Some("yesterday".into()), ..none.clone() },
            WantedMoment { lsn: Some("0".into()), ..none },
        ] {
            let error = bad.clone().target().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}: {error}");
        }
    }
}
