//! Parsers of foreign text, one entry for each, for fuzzers.
//!
//! An entry takes any bytes and says what does not hold for them. That nothing panics, overflows or
//! takes without end is what the fuzzer itself looks at.

use crate::config;
use crate::id::{self, BranchName, Id, ProjectName, SnapshotName};
use crate::lookup::{BranchRef, Named};
use crate::postgres::backup::Segment;
use crate::postgres::binaries::Version;
use crate::postgres::install::runpath;
use crate::postgres::lsn::Lsn;
use crate::postgres::{control, scram, settings};
use crate::record::{BranchRecord, ProjectRecord, SnapshotRecord, VolumeRecord};
use crate::setup::fstab;

/// What an entry says of some bytes.
pub type Verdict = Result<(), String>;
/// A parser under test.
pub type Entry = fn(&[u8]) -> Verdict;

/// Every entry, by the name of its fuzz target.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("names", names),
    ("settings", settings_file),
    ("control", control_file),
    ("wal", wal),
    ("elf", elf),
    ("outputs", outputs),
    ("records", records),
    ("fstab", fstab_lines),
    #[cfg(all(feature = "zfs", target_os = "linux"))]
    ("zfs", crate::storage::zfs::any_text),
];

fn holds(right: bool, what: impl FnOnce() -> String) -> Verdict {
    if right { Ok(()) } else { Err(what()) }
}

/// Names reach paths, options, SQL and URLs, and come back as they were.
fn names(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    let harmless = |name: &str| {
        !name.is_empty()
            && name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
            && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    };
    if let Ok(name) = ProjectName::new(text) {
        holds(harmless(name.as_str()) && !text.contains('/'), || format!("a project {name}"))?;
    }
    if let Ok(name) = BranchName::new(text) {
        holds(harmless(name.as_str()), || format!("a branch {name}"))?;
        let again: Option<BranchRef> = text.parse().ok();
        holds(again == Some(BranchRef::Name(name)), || format!("{text} is another reference"))?;
    }
    if let Ok(name) = SnapshotName::new(text) {
        holds(harmless(name.as_str()) && !text.contains('/'), || format!("a snapshot {name}"))?;
    }
    if let Ok(id) = text.parse::<Id>() {
        holds(id.to_string().parse().ok() == Some(id), || format!("the id {id} is another one"))?;
        holds(BranchName::new(text).is_err(), || format!("{text} is an id and a name"))?;
    }
    if let Ok(named) = text.parse::<Named>() {
        let branch = named.branch.to_string();
        holds(branch.parse().ok() == Some(named.branch), || format!("{branch} is another one"))?;
    }
    let label = id::label(text);
    holds(label.is_empty() || (harmless(&label) && !label.contains('/')), || {
        format!("the label {label:?}")
    })
}

/// The settings file and the values in it.
fn settings_file(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    config::any_text(text)?;
    let list = settings::without_acting(text);
    holds(settings::without_acting(&list) == list, || format!("a library twice in {text:?}"))?;
    let _ = (settings::of_libraries(text), settings::may_load_acting(data));
    Ok(())
}

/// `pg_control`: whatever is read has the right checksum.
fn control_file(data: &[u8]) -> Verdict {
    let _ = control::parse(data);
    Ok(())
}

/// Places in the WAL.
fn wal(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    let _ = Segment::of_label(text);
    if let Ok(lsn) = text.parse::<Lsn>() {
        holds(lsn.to_string().parse().ok() == Some(lsn), || format!("{text} is not {lsn}"))?;
    }
    if let Some(segment) = Segment::parse(text) {
        for size in [1 << 20, 16 << 20, 1 << 30] {
            let _ = segment.names_until(Lsn(0), size);
        }
    }
    Ok(())
}

/// Libraries whose run path is mended.
fn elf(data: &[u8]) -> Verdict {
    match runpath::run_path(data) {
        Some((at, path)) => {
            let end = at.checked_add(path.len() as u64);
            holds(end.is_some_and(|end| end < data.len() as u64), || {
                format!("a run path at {at} in {} bytes", data.len())
            })
        }
        None => Ok(()),
    }
}

/// What programs and servers print.
fn outputs(data: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(data);
    let _ = Version::of_output(&text);
    #[cfg(all(feature = "process", unix))]
    crate::runtime::process::any_bytes(data);
    #[cfg(all(feature = "process", unix))]
    if let Some(pid) = crate::runtime::process::named(&text) {
        holds(pid.as_raw_nonzero().get() > 0, || format!("process {pid:?} in {text:?}"))?;
    }
    let password = scram::Password::generate().map_err(|e| e.to_string())?;
    holds(!scram::matches(&text, &password), || format!("{text:?} is a verifier of everything"))?;
    #[cfg(all(feature = "docker", unix))]
    crate::runtime::docker::any_text(&text);
    Ok(())
}

/// Records of a `state.db` that somebody else has written.
fn records(data: &[u8]) -> Verdict {
    let _ = serde_json::from_slice::<ProjectRecord>(data);
    let _ = serde_json::from_slice::<VolumeRecord>(data);
    let _ = serde_json::from_slice::<SnapshotRecord>(data);
    if let Ok(branch) = serde_json::from_slice::<BranchRecord>(data) {
        let _ = branch.shown();
    }
    Ok(())
}

/// Lines come and go, and the others stay.
fn fstab_lines(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Ok(()) };
    let line = fstab::Line { image: "/var/lib/velo.img".into(), at: "/var/lib/velo".into() };
    if text.lines().any(|there| line.mounts_as(there)) {
        return Ok(());
    }
    let without = fstab::without(&fstab::with(text, &line), &line);
    holds(without == text || without.strip_suffix('\n') == Some(text), || {
        format!("{text:?} became {without:?}")
    })
}

/// The entry of a fuzz target.
///
/// # Errors
/// What does not hold for `data`.
pub fn fuzz(target: &str, data: &[u8]) -> Verdict {
    let entry = ENTRIES.iter().find(|(name, _)| *name == target);
    entry.map_or_else(|| Err(format!("there is no entry {target}")), |(_, entry)| entry(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzers once kept, and cheap changes of it: not a search, but nothing of it falls again.
    #[test]
    fn the_kept_corpus_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut dice = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        for (target, entry) in ENTRIES {
            let mut files = 0;
            for file in std::fs::read_dir(corpus.join(target)).unwrap() {
                let data = std::fs::read(file.unwrap().path()).unwrap();
                assert_eq!(entry(&data), Ok(()), "{target}: {data:?}");
                files += 1;
                for _ in 0..50 {
                    let mut changed = data.clone();
                    for _ in 0..=dice(4) {
                        match (dice(3), changed.len()) {
                            (0, length) => changed.insert(dice(length + 1), dice(256) as u8),
                            (_, 0) => {}
                            (1, length) => drop(changed.remove(dice(length))),
                            (_, length) => changed[dice(length)] = dice(256) as u8,
                        }
                    }
                    assert_eq!(entry(&changed), Ok(()), "{target}: {changed:?}");
                }
            }
            assert!(files > 0, "{target} has no corpus");
        }
    }
}
