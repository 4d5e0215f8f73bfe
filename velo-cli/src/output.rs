//! What is printed: lines and tables for people, JSON for programs, errors for both.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use velo_core::{ErrorKind, Timings};

/// Where results go, and how.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) json: bool,
    /// What came in the way of the first result that could not be written.
    lost: RefCell<Option<io::Error>>,
}

/// Colours, as the terminal's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Grey = 90,
}

fn colour_allowed() -> bool {
    // https://no-color.org: any value but an empty one.
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn colour_on_stdout() -> bool {
    std::io::stdout().is_terminal() && colour_allowed()
}

pub(crate) fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && colour_allowed()
}

fn paint(text: &str, colour: Colour, on: bool) -> String {
    if on { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, lost: RefCell::new(None) }
    }

    /// Prints one line of a result.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        self.write(format!("{}\n", text.as_ref()).as_bytes());
    }

    /// Prints a part of a result.
    pub(crate) fn write(&self, bytes: &[u8]) {
        if self.lost.borrow().is_some() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            *self.lost.borrow_mut() = Some(error);
        }
    }

    /// Whether every result was written. Nobody to read it (a closed pipe) is no failure.
    pub(crate) fn finish(&self) -> velo_core::Result<()> {
        match self.lost.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(velo_core::Error::io("write the result to standard output", error)
                    .with_hint("the command itself was carried out; only what it says is lost"))
            }
            _ => Ok(()),
        }
    }

    /// Prints `value` if JSON is wanted, and otherwise what `people` prints.
    pub(crate) fn result(&self, value: impl FnOnce() -> Value, people: impl FnOnce(&Self)) {
        if self.json {
            self.line(format!("{:#}", value()));
        } else {
            people(self);
        }
    }

    /// The text in a colour, if standard output shows colours.
    pub(crate) fn paint(&self, text: &str, colour: Colour) -> String {
        paint(text, colour, colour_on_stdout())
    }

    /// Pairs of a name and a value, one a line.
    pub(crate) fn pairs(&self, pairs: &[(&str, String)]) {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs {
            let name = format!("{name:width$}");
            self.line(format!("{}  {value}", self.paint(&name, Colour::Grey)));
        }
    }

    /// A table. The columns are as wide as what is in them.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        self.line(self.paint(&line(&head), Colour::Grey));
        for row in rows {
            self.line(line(row));
        }
    }

    /// Prints an error to standard error: what happened, why, and what to do about it.
    pub(crate) fn error(&self, error: &velo_core::Error) {
        let text = match self.json {
            true => format!("{}\n", json!({ "error": error_shape(error) })),
            false => lines(&with_causes(error), error),
        };
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Prints an error of one of many things.
    pub(crate) fn error_of(&self, name: &str, error: &velo_core::Error) {
        let text = lines(&format!("{name}: {}", with_causes(error)), error);
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Says something on standard error that is no result.
    pub(crate) fn note(&self, text: &str) {
        let label = paint("note:", Colour::Yellow, colour_on_stderr());
        let _ = writeln!(std::io::stderr().lock(), "{label} {text}");
    }
}

/// `error` of docs/json.md.
pub(crate) fn error_shape(error: &velo_core::Error) -> Value {
    json!({
        "kind": error.kind().as_str(),
        "message": with_causes(error),
        "hint": error.hint().or_else(|| last_resort(error.kind())),
        "left_behind": error.cleanup().iter().map(with_causes).collect::<Vec<_>>(),
    })
}

/// An error as people read it.
fn lines(message: &str, error: &velo_core::Error) -> String {
    let on = colour_on_stderr();
    let mut text = format!("{} {message}\n", paint("error:", Colour::Red, on));
    for cleanup in error.cleanup() {
        let label = paint("left behind:", Colour::Yellow, on);
        text.push_str(&format!("{label} {}\n", with_causes(cleanup)));
    }
    if let Some(hint) = error.hint().or_else(|| last_resort(error.kind())) {
        text.push_str(&format!("{} {hint}\n", paint("hint:", Colour::Yellow, on)));
    }
    text
}

/// The message and its causes in one line, without saying anything twice.
fn with_causes(error: &velo_core::Error) -> String {
    let mut message = one_line(&error.to_string());
    let mut source = std::error::Error::source(error);
    // A message is complete in itself; what caused it adds something only where Velo says it.
    while let Some(cause) = source.and_then(|source| source.downcast_ref::<velo_core::Error>()) {
        let text = one_line(&cause.to_string());
        if !text.is_empty() && !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = std::error::Error::source(cause);
    }
    message
}

/// What to do about an error that says nothing of it.
fn last_resort(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::Corrupt
        | ErrorKind::Io
        | ErrorKind::Unsupported => Some("velo doctor looks at all that Velo needs"),
        ErrorKind::Postgres => Some("velo branch get PROJECT/BRANCH names the server's log"),
        ErrorKind::Internal => Some("this is a fault of Velo: please report it, with velo -vv"),
        _ => None,
    }
}

/// A path in JSON, which is UTF-8 whatever the path is.
pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Milliseconds with three decimals.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// `{"total": 41.2, "clone": 3.1, …}`, in milliseconds. A step that ran more than once is summed.
pub(crate) fn timings(timings: &Timings) -> Value {
    let mut map = serde_json::Map::new();
    map.insert("total".into(), json!(ms(timings.total)));
    for (step, took) in &timings.steps {
        let sum = map.get(step).and_then(Value::as_f64).unwrap_or(0.0) + ms(*took);
        map.insert(step.clone(), json!((sum * 1e3).round() / 1e3));
    }
    Value::Object(map)
}

/// `41 ms`, `3.2 s`.
pub(crate) fn took(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// How long ago: `12s`, `5m`, `3h`, `8d`.
pub(crate) fn age(created_at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let seconds = now.saturating_sub(created_at) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `40.1 MB`, in powers of 1000.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(40_123_456), "40.1 MB");
    }

    #[test]
    fn a_cause_is_told_once_and_in_one_line() {
        let io = std::io::Error::other("disk\non fire");
        let error = velo_core::Error::io("write x", io);
        assert_eq!(with_causes(&error), "write x: disk; on fire");
        let below = velo_core::Error::new(ErrorKind::PermissionDenied, "cannot enter y");
        let error = velo_core::Error::new(ErrorKind::PostgresMissing, "none").with_source(below);
        assert_eq!(with_causes(&error), "none: cannot enter y");
    }

    #[test]
    fn a_foreign_cause_is_not_repeated_in_other_words() {
        let cause = std::io::Error::other("Error code 13: database or disk is full");
        let error = velo_core::Error::new(ErrorKind::Exhausted, "the disk is full");
        assert_eq!(with_causes(&error.with_source(cause)), "the disk is full");
    }
}
