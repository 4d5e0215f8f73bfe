//! Moments as people write and read them.

use crate::error::{Error, ErrorKind, Result};

/// Microseconds in a second.
const SECOND: i64 = 1_000_000;

/// A moment in microseconds since 1970, as it is shown: in UTC, with all that is known of it.
pub(crate) fn shown(micros: i64) -> String {
    let (seconds, rest) = (micros.div_euclid(SECOND), micros.rem_euclid(SECOND));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, date) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}.{rest:06} UTC")
}

/// Milliseconds since 1970, in UTC and in a form that is a name: `20261120T133205Z`.
pub(crate) fn compact(millis: u64) -> String {
    let text = shown(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000));
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at_checked(8).unwrap_or((&digits, ""));
    format!("{day}T{}Z", time.get(..6).unwrap_or_default())
}

/// The month, counted from the beginning of time, that a day since 1970 is in.
pub(crate) fn month(day: i64) -> i64 {
    let (year, month, _) = civil(day);
    year * 12 + month
}

/// Reads a moment. `now` is in microseconds since 1970, and `zone` gives the seconds that clocks of this
/// machine are before UTC at a second since 1970.
pub(crate) fn parse(text: &str, now: i64, zone: impl Fn(i64) -> i64) -> Result<i64> {
    let wanted = || {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a moment")).with_hint(
            "write it like \"2026-11-20 14:32:05.5+01\", \"2026-11-20T13:32:05Z\" or \"5 minutes ago\"",
        )
    };
    let trimmed = text.trim();
    if trimmed == "now" {
        return Ok(now);
    }
    if let Some(length) = trimmed.strip_suffix("ago") {
        let ago = ago(length).ok_or_else(wanted)?;
        return now.checked_sub(ago).ok_or_else(wanted);
    }
    let (civil_second, micros, rest) = date_and_time(trimmed).ok_or_else(wanted)?;
    let seconds = match rest.trim() {
        "" => at_this_machine(text, civil_second, zone)?,
        "Z" | "z" | "UTC" | "GMT" => civil_second,
        offset => civil_second - offset_of(offset).ok_or_else(wanted)?,
    };
    Ok(seconds * SECOND + micros)
}

/// How many seconds this machine's clocks are before UTC at that second.
#[cfg(unix)]
pub(crate) fn zone_of_machine(second: i64) -> i64 {
    // SAFETY: an all-zero `tm` is valid, and `localtime_r` writes nothing else.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let second = second as libc::time_t;
        if libc::localtime_r(&second, &mut tm).is_null() { 0 } else { tm.tm_gmtoff as i64 }
    }
}

/// The second at which this machine's clocks show that time.
fn at_this_machine(text: &str, civil: i64, zone: impl Fn(i64) -> i64) -> Result<i64> {
    // Whatever changes, it has not changed twice within two days.
    let mut found: Vec<i64> = [-86_400, 86_400]
        .map(|away| civil - zone(civil + away))
        .into_iter()
        .filter(|second| second + zone(*second) == civil)
        .collect();
    found.sort_unstable();
    found.dedup();
    let hint = "write the zone behind it, like +01 or Z";
    match found[..] {
        [one] => Ok(one),
        [] => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{text:?} never was: this machine's clocks were set forward over it"),
        )
        .with_hint(hint)),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{text:?} was twice: this machine's clocks were set back over it"),
        )
        .with_hint(hint)),
    }
}

/// `5 minutes`, `90s`, `1h30m`: in microseconds.
fn ago(text: &str) -> Option<i64> {
    let (mut rest, mut total) = (text.trim(), 0_i64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match rest.get(..letters)? {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 7 * 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(seconds)?)?;
        rest = rest.get(letters..)?.trim_start();
    }
    total.checked_mul(SECOND)
}

/// `2026-11-20 14:32:05.5`, and what stands behind it: seconds as if it were UTC, microseconds, the rest.
fn date_and_time(text: &str) -> Option<(i64, i64, &str)> {
    let number = |text: &str, range: std::ops::RangeInclusive<i64>| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten().filter(|n| range.contains(n))
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let sign = |at: usize, signs: &[&str]| part(at, at + 1).is_some_and(|s| signs.contains(&s));
    let fine = sign(4, &["-"]) && sign(7, &["-"]) && sign(10, &[" ", "T", "t"]) && sign(13, &[":"]);
    if !fine {
        return None;
    }
    let year = number(part(0, 4)?, 1970..=9999)?;
    let month = number(part(5, 7)?, 1..=12)?;
    let date = number(part(8, 10)?, 1..=31)?;
    let hour = number(part(11, 13)?, 0..=23)?;
    let minute = number(part(14, 16)?, 0..=59)?;
    let day = days(year, month, date);
    if civil(day) != (year, month, date) {
        return None;
    }
    let (mut second, mut micros, mut rest) = (0, 0, part(16, text.len())?);
    if let Some(behind) = rest.strip_prefix(':') {
        second = number(behind.get(..2)?, 0..=59)?;
        rest = behind.get(2..)?;
        if let Some(behind) = rest.strip_prefix('.') {
            let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
            if !(1..=6).contains(&digits) {
                return None;
            }
            micros = number(behind.get(..digits)?, 0..=999_999)? * 10_i64.pow(6 - digits as u32);
            rest = behind.get(digits..)?;
        }
    }
    Some((day * 86_400 + hour * 3600 + minute * 60 + second, micros, rest))
}

/// `+01`, `-0530`, `+05:30`: in seconds.
fn offset_of(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = rest.chars().filter(|c| *c != ':').collect();
    let fine = digits.bytes().all(|b| b.is_ascii_digit())
        && (rest.len() == digits.len() || (rest.len() == 5 && rest.find(':') == Some(2)));
    let (hours, minutes): (i64, i64) = match digits.len() {
        2 if fine => (digits.parse().ok()?, 0),
        4 if fine => (digits.get(..2)?.parse().ok()?, digits.get(2..)?.parse().ok()?),
        _ => return None,
    };
    (hours <= 15 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// The days from 1970 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, date: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + date - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

/// The date of a day since 1970.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * march + 2) / 5 + 1, (march + 2) % 12 + 1);
    (year + era * 400 + i64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000 * SECOND;

    /// Central Europe: an hour before UTC, and two from the end of March to the end of October.
    fn berlin(second: i64) -> i64 {
        let summer = |year: i64| {
            let last_sunday = |month: i64| {
                let day = days(year, month, 31);
                (day - (day + 4).rem_euclid(7)) * 86_400 + 3600
            };
            last_sunday(3)..last_sunday(10)
        };
        let (year, ..) = civil(second.div_euclid(86_400));
        if summer(year).contains(&second) { 7200 } else { 3600 }
    }

    #[test]
    fn what_is_read_is_shown_in_utc() {
        let read = |text: &str| parse(text, NOW, berlin).map(shown).unwrap();
        for (text, utc) in [
            ("2026-11-20 14:32:05.5+01", "2026-11-20 13:32:05.500000 UTC"),
            ("2026-11-20T13:32:05Z", "2026-11-20 13:32:05.000000 UTC"),
            ("2026-11-20 14:32", "2026-11-20 13:32:00.000000 UTC"),
            ("2026-07-01 00:30:00.123456", "2026-06-30 22:30:00.123456 UTC"),
            ("2024-02-29 00:00:00 -05:30", "2024-02-29 05:30:00.000000 UTC"),
            ("1999-12-31 23:59:59 UTC", "1999-12-31 23:59:59.000000 UTC"),
            ("2000-03-01 00:00:00 +0000", "2000-03-01 00:00:00.000000 UTC"),
        ] {
            assert_eq!(read(text), utc, "{text}");
        }
        assert_eq!(parse("5 minutes ago", NOW, berlin).unwrap(), NOW - 300 * SECOND);
        assert_eq!(parse("1h30m ago", NOW, berlin).unwrap(), NOW - 5400 * SECOND);
        assert_eq!(parse("now", NOW, berlin).unwrap(), NOW);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for bad in [
            "",
            "yesterday",
            "2026-11-20",
            "2026-02-30 00:00:00Z",
            "2026-13-01 00:00:00Z",
            "2026-11-20 24:00:00Z",
            "2026-11-20 14:32:05.1234567Z",
            "2026-11-20 14:32:05 CET",
            "2026-11-20 14:32:05 +1",
            "2026-11-20 14:32:05 +16",
            "2026-11-20 14:32:05+01:3",
            "ago",
            "5 ago",
            "5 fortnights ago",
            "-5 minutes ago",
            "2026-11-20 14:32:0é",
        ] {
            let error = parse(bad, NOW, berlin).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(error.hint().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused_where_clocks_changed() {
        let read = |text: &str| parse(text, NOW, berlin);
        let twice = read("2026-10-25 02:30:00").unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
        let never = read("2026-03-29 02:30:00").unwrap_err();
        assert!(never.to_string().contains("never was"), "{never}");
        assert_eq!(
            read("2026-10-25 02:30:00+02").unwrap() + 3600 * SECOND,
            read("2026-10-25 02:30:00+01").unwrap()
        );
        for fine in ["2026-10-25 01:59:59", "2026-10-25 03:00:00", "2026-03-29 03:00:00"] {
            read(fine).unwrap();
        }
    }

    #[test]
    fn days_and_dates_agree() {
        for day in (-1000..60_000).step_by(13) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(civil(0), (1970, 1, 1));
    }
}
