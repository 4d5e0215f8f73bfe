//! Lengths of time as they are written and read: `90s`, `2h`, `1h30m`, `7d`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(char, u64); 5] =
    [('w', 7 * 86_400), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// A length of time: whole numbers with units, the larger ones first.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "write a time like 90s, 15m, 2h, 1h30m, 7d or 2w";
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(WANTED)?;
        let number: u64 = rest[..digits].parse().map_err(|_| WANTED)?;
        let unit = rest[digits..].chars().next().ok_or(WANTED)?;
        let (_, size) = units.find(|(name, _)| *name == unit).ok_or(WANTED)?;
        seconds = number.checked_mul(*size).and_then(|n| seconds.checked_add(n)).ok_or(WANTED)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    // What is over before the year 10000.
    if seconds == 0 || seconds > 8000 * 366 * 86_400 {
        return Err(WANTED.to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// A length of time, or `none`.
pub(crate) fn parse_or_none(text: &str) -> Result<Ttl, String> {
    match text {
        "none" => Ok(Ttl(None)),
        _ => parse(text).map(|time| Ttl(Some(time))).map_err(|error| format!("{error}, or none")),
    }
}

/// How long a branch stays: for ever, or so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Option<Duration>);

/// A length of time as it is written: `7d`, `1h30m`.
pub(crate) fn shown(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut text = String::new();
    for (unit, size) in UNITS.iter().filter(|(unit, _)| *unit != 'w') {
        if rest >= *size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// How long it is until then, in milliseconds since 1970: `12s`, `5m`, `3h`, `8d`; `None` if it is over.
pub(crate) fn until(then: u64) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let left = then.checked_sub(now).filter(|left| *left > 0)?;
    let seconds = left.div_ceil(1000);
    // To the nearest, so that two hours are still two a moment later.
    let rounded = |unit: u64| (seconds + unit / 2) / unit;
    Some(match (rounded(60), rounded(3600)) {
        _ if seconds < 120 => format!("{seconds}s"),
        (minutes @ 0..120, _) => format!("{minutes}m"),
        (_, hours @ 0..48) => format!("{hours}h"),
        _ => format!("{}d", rounded(86_400)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let seconds = |text| parse(text).map(|time| time.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("1w2d3h4m5s"), Ok(788_645));
        for bad in [
            "",
            "2",
            "h",
            "0s",
            "-1h",
            "1.5h",
            "2x",
            "1m1h",
            "1h1h",
            "2 h",
            "1ſ",
            "9999999999999w",
            "99999999999999999999s",
            "none",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_or_none("none"), Ok(Ttl(None)));
        assert!(parse_or_none("never").is_err());
    }

    #[test]
    fn what_is_left_is_short() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert_eq!(until(now), None);
        assert_eq!(until(now + 7_200_500).as_deref(), Some("2h"));
        assert_eq!(until(now + 7_190_000).as_deref(), Some("2h"));
        assert_eq!(until(now + 172_790_000).as_deref(), Some("2d"));
        assert_eq!(until(now + 60_500).as_deref(), Some("61s"));
    }
}
