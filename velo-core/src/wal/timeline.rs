//! Timelines: a server that ends a recovery, or is promoted, begins another one, and with it segments of other
//! names. Up to where it began it has the WAL of the one before it, a copy of the segment included in which
//! that ended.

use std::io::Read;

use super::files::Folder;
use crate::error::{Error, Result};
use crate::postgres::lsn::Lsn;

/// A timeline, and those that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timelines {
    /// The oldest first, and where each ended.
    before: Vec<(u32, Lsn)>,
    pub(super) last: u32,
}

impl Timelines {
    pub(super) fn only(timeline: u32) -> Self {
        Self { before: Vec::new(), last: timeline }
    }

    /// From a timeline on to the newest one that came from it, as far as these folders know.
    pub(super) fn since(timeline: u32, folders: [&Option<Folder>; 2]) -> Result<Self> {
        let mut newest = Self::only(timeline);
        for folder in folders.into_iter().flatten() {
            for number in folder.names()?.iter().filter_map(|name| history_of(name)) {
                if number > newest.last
                    && let Some(found) = Self::read(folder, number)?
                    && let Some(found) = found.since_that(timeline)
                {
                    newest = found;
                }
            }
        }
        Ok(newest)
    }

    /// What a server has written about a timeline of its own; none if it has not.
    pub(super) fn read(folder: &Folder, timeline: u32) -> Result<Option<Self>> {
        let name = history(timeline);
        let Some((file, _)) = folder.file(&name)? else { return Ok(None) };
        let mut text = String::new();
        let read = file.take(1 << 20).read_to_string(&mut text);
        read.map_err(|e| Error::io(format!("read {name}"), e))?;
        Ok(Self::parse(&text, timeline))
    }

    /// None if it cannot be read, or was cut off.
    fn parse(text: &str, timeline: u32) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let before = lines.map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        });
        Some(Self { before: before.collect::<Option<_>>()?, last: timeline })
    }

    /// Without those before `timeline`, if that is one of them.
    fn since_that(mut self, timeline: u32) -> Option<Self> {
        let at = self.before.iter().position(|(one, _)| *one == timeline)?;
        self.before.drain(..at);
        Some(self)
    }

    /// Where the one before the last ended.
    pub(super) fn begin(&self) -> Option<Lsn> {
        self.before.last().map(|(_, end)| *end)
    }

    /// Whose name a segment has.
    pub(super) fn of_segment(&self, number: u64, size: u32) -> u32 {
        self.first(|end| number < end.0 / u64::from(size.max(1)))
    }

    /// The one on which all WAL before a place is.
    pub(super) fn at(&self, lsn: Lsn) -> u32 {
        self.first(|end| lsn <= end)
    }

    fn first(&self, has: impl Fn(Lsn) -> bool) -> u32 {
        self.before.iter().find(|(_, end)| has(*end)).map_or(self.last, |(timeline, _)| *timeline)
    }

    /// Up to one of them.
    pub(super) fn until(mut self, timeline: u32) -> Self {
        if let Some(at) = self.before.iter().position(|(one, _)| *one == timeline) {
            self.before.truncate(at);
            self.last = timeline;
        }
        self
    }
}

/// The file in which a server writes about a timeline.
pub(super) fn history(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

pub(super) fn is_history(name: &str) -> bool {
    history_of(name).is_some()
}

fn history_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".history").filter(|number| number.len() == 8)?;
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 1 << 20;

    fn place(megabytes: u64, bytes: u64) -> Lsn {
        Lsn((megabytes << 20) + bytes)
    }

    #[test]
    fn a_segment_in_which_a_timeline_ends_is_the_next_one_s() {
        let text =
            "1\t0/300100\tno recovery target specified\n\n# by hand\n2\t0/500000\tbefore 0\n";
        let all = Timelines::parse(text, 7).unwrap();
        let of = |all: &Timelines| [2, 3, 4, 5, 9].map(|number| all.of_segment(number, SIZE));
        assert_eq!(of(&all), [1, 2, 2, 7, 7]);
        assert_eq!(all.begin(), Some(place(5, 0)));
        let places = [place(3, 0x100), place(3, 0x101), place(5, 0), place(5, 1)];
        assert_eq!(places.map(|place| all.at(place)), [1, 2, 2, 7]);
        assert_eq!(of(&all.clone().since_that(2).unwrap()), [2, 2, 2, 7, 7]);
        assert_eq!(all.clone().since_that(7), None);
        assert_eq!(of(&all.clone().until(2)), [1, 2, 2, 2, 2]);
        assert_eq!(all.clone().until(1), Timelines::only(1));
        assert_eq!(all.clone().until(7), all);
    }

    #[test]
    fn what_is_cut_off_is_no_history() {
        assert_eq!(Timelines::parse("1\t0/3001", 2).unwrap().begin(), Some(Lsn(0x3001)));
        for bad in ["1", "1\t0/", "x\t0/1", "1 2 3"] {
            assert_eq!(Timelines::parse(bad, 2), None, "{bad:?}");
        }
        assert_eq!(history_of(&history(26)), Some(26));
        assert_eq!(history_of("0000001A"), None);
    }
}
