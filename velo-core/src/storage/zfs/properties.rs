//! Properties: what volumes get, and how `zfs get -Hp` is read.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::Label;

/// Of new volumes, unless the settings say otherwise: PostgreSQL's pages are 8 kB, and with larger
/// records each write of a page reads and writes all of its record.
pub(super) const DEFAULTS: [(&str, &str); 3] =
    [("recordsize", DEFAULT_RECORD), ("compression", "lz4"), ("atime", "off")];

const DEFAULT_RECORD: &str = "8k";

/// The size of PostgreSQL's pages, unless it was built with another one.
const PAGE: u64 = 8 << 10;

/// What the settings may not say: Velo's own, and what would make a volume another thing.
/// One of these would let whoever may set it reach beyond the volume; the last three no clone can be
/// given.
const FORBIDDEN: [&str; 23] = [
    "mountpoint",
    "canmount",
    "snapdir",
    "refquota",
    "readonly",
    "zoned",
    "origin",
    "volsize",
    "encryption",
    "keyformat",
    "keylocation",
    "exec",
    "setuid",
    "devices",
    "sharenfs",
    "sharesmb",
    "casesensitivity",
    "normalization",
    "utf8only",
    // Short names that `zfs` takes too, beside which the long ones would say something else.
    "recsize",
    "rdonly",
    "case",
    "compress",
];

pub(super) const HOME: &str = "velo:home";

/// Where a mark that is a dataset's own comes from: it was set, or came along in a replica
/// (`zfs send -R`). An inherited one says nothing.
pub(super) const OWN: &str = "local,received";

/// Names and values, in the order in which programs get them.
pub(super) type Properties = Vec<(String, String)>;

/// Checks properties of the settings.
pub(super) fn check(properties: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in properties {
        let fine = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !FORBIDDEN.contains(&name.as_str())
            && !value.is_empty()
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/'));
        if !fine {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{name}={value} is not a ZFS property that volumes can be given"),
            )
            .with_hint("use properties like compression = \"zstd\" or logbias = \"throughput\""));
        }
    }
    check_records(properties.get("recordsize").map_or(DEFAULT_RECORD, String::as_str))
}

/// ZFS cuts a write where a record ends, and the pieces may come into different transaction groups: a
/// snapshot could hold one half of a page, which nothing mends where `full_page_writes` is off.
fn check_records(size: &str) -> Result<()> {
    let error = |what: String| {
        Err(Error::new(ErrorKind::InvalidInput, what)
            .with_hint("set recordsize to 8k, to more, or not at all"))
    };
    match bytes(size) {
        Some(bytes) if bytes >= PAGE => Ok(()),
        Some(_) => error(format!(
            "recordsize={size} is smaller than a page of PostgreSQL's, 8 kB: a snapshot of a running \
             server could hold half of a page"
        )),
        None => error(format!("recordsize={size} is no size")),
    }
}

/// A size as ZFS reads it, rounded down: `8192`, `8k`, `128KiB`, `0.5m`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.is_empty() {
        return whole.parse::<u64>().ok()?.checked_mul(1u64 << shift);
    }
    // As ZFS, which takes a fraction for a floating-point number too.
    Some((number.parse::<f64>().ok()? * f64::from(shift).exp2()) as u64)
}

/// What every volume gets: Velo's own where the settings say nothing.
pub(super) fn of_volumes(settings: &BTreeMap<String, String>) -> Properties {
    let mut all: BTreeMap<&str, &str> = DEFAULTS.into_iter().collect();
    all.extend(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Who owns an object, and whose it is.
pub(super) fn marks(home: &str, label: Option<&Label>) -> Properties {
    let mut marks = vec![(HOME.to_owned(), home.to_owned())];
    if let Some(label) = label {
        marks.push(("velo:project".into(), label.project.clone()));
        marks.push(("velo:branch".into(), label.branch.clone()));
        marks.push(("velo:role".into(), label.role.to_owned()));
    }
    marks
}

/// A path as a property's value: what could end a line or a field of a program's output is not in it.
pub(super) fn encode(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The fields of each line of `zfs get -H` and `zfs list -H`.
pub(super) fn rows<const N: usize>(text: &str) -> impl Iterator<Item = [&str; N]> {
    text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let row = std::array::from_fn(|_| fields.next());
        if row.iter().any(Option::is_none) {
            return None;
        }
        Some(row.map(Option::unwrap_or_default))
    })
}

/// What there is to know of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The snapshot that it is a clone of.
    pub(super) origin: Option<String>,
    /// Its own mark of a home, never an inherited one.
    pub(super) home: Option<String>,
}

/// Reads `zfs get -Hp -o property,value,source origin,velo:home <dataset>`.
pub(super) fn facts(text: &str) -> Facts {
    let mut facts = Facts::default();
    for [property, value, source] in rows(text) {
        match property {
            "origin" if value != "-" => facts.origin = Some(value.to_owned()),
            HOME if OWN.split(',').any(|own| own == source) => facts.home = Some(value.to_owned()),
            _ => {}
        }
    }
    facts
}

/// Reads the numbers of `zfs get -Hp -o name,property,value …`.
#[derive(Debug)]
pub(super) struct Numbers<'a>(Vec<[&'a str; 3]>);

impl<'a> Numbers<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self(rows(text).collect())
    }

    /// `None` also where the property does not apply.
    pub(super) fn get(&self, name: &str, property: &str) -> Option<u64> {
        let row = self.0.iter().find(|[n, p, _]| *n == name && *p == property)?;
        row[2].parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_mark_is_not_the_datasets_own() {
        let own = "origin\ttank/v/v-a@b-b\t-\nvelo:home\t/h\tlocal\n";
        assert_eq!(
            facts(own),
            Facts { origin: Some("tank/v/v-a@b-b".into()), home: Some("/h".into()) }
        );
        let received = "origin\t-\t-\nvelo:home\t/h\treceived\n";
        assert_eq!(facts(received).home.as_deref(), Some("/h"));
        let inherited = "origin\t-\t-\nvelo:home\t/h\tinherited from tank/v\n";
        assert_eq!(facts(inherited), Facts::default());
        assert_eq!(facts("origin\t-\t-\nvelo:home\t-\t-\n"), Facts::default());
    }

    #[test]
    fn numbers_are_found_by_name() {
        let text = "tank/v\tavailable\t1048576\ntank/v@s\tavailable\t-\ntank/v@s\tused\t0\n";
        let numbers = Numbers::of(text);
        assert_eq!(numbers.get("tank/v", "available"), Some(1 << 20));
        assert_eq!(numbers.get("tank/v@s", "available"), None);
        assert_eq!(numbers.get("tank/v@s", "used"), Some(0));
        assert_eq!(numbers.get("tank", "used"), None);
    }

    #[test]
    fn settings_win_over_the_defaults() {
        let settings = BTreeMap::from([("compression".to_owned(), "zstd-3".to_owned())]);
        let all = of_volumes(&settings);
        assert!(all.contains(&("compression".into(), "zstd-3".into())), "{all:?}");
        assert!(all.contains(&("recordsize".into(), "8k".into())), "{all:?}");
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn what_no_clone_can_be_given_is_refused() {
        let checked = |name: &str| check(&BTreeMap::from([(name.to_owned(), "on".to_owned())]));
        assert!(checked("compression").is_ok());
        for name in ["utf8only", "mountpoint", "velo:home", "-o"] {
            assert_eq!(checked(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn records_are_no_smaller_than_pages() {
        let checked = |size: &str| check(&BTreeMap::from([("recordsize".into(), size.into())]));
        for size in
            ["8k", "8K", "8192", "8192B", "8KB", "8kib", "8.0k", "0.5M", "16k", "128K", "1M"]
        {
            checked(size).unwrap_or_else(|e| panic!("{size}: {e:?}"));
        }
        for size in
            ["512", "512B", "1k", "4K", "4096", "4096B", "4KiB", "7.9k", "0.004M", "0", "1.5"]
        {
            let error = checked(size).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{size}");
            let what = format!("recordsize={size} is smaller than a page");
            assert!(error.to_string().contains(&what), "{error:?}");
            assert!(error.hint().unwrap().contains("8k"), "{error:?}");
        }
        for size in
            ["x", "k", "8x", "8ib", "8bb", "8k8", "4.096e3", "1.2.3k", ".", "99999999999999999999"]
        {
            let error = checked(size).unwrap_err();
            assert!(error.to_string().contains("is no size"), "{size}: {error:?}");
        }
        check(&BTreeMap::new()).unwrap();
    }

    #[test]
    fn a_path_has_no_tab_as_a_value() {
        assert_eq!(encode(Path::new("/var/lib/velo-1")), "/var/lib/velo-1");
        assert_eq!(encode(Path::new("/a b\tc%")), "/a%20b%09c%25");
    }
}
