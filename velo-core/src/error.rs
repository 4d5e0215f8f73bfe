//! The one error type of the crate.
//!
//! An [`Error`] says what happened, to what, and what to do about it: a [`kind`](Error::kind) to
//! match on, a message of one line that is complete in itself, context pairs, a hint, and for
//! programs that look closer the error below it as its [`source`](std::error::Error::source).

use std::fmt;

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, in one word that programs can match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, an option or a setting is not valid. Nothing was tried.
    InvalidInput,
    /// A project, branch, snapshot or file does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The tree's rules or another operation forbid it: `main` alone, children, a held lock.
    Conflict,
    /// Two things do not fit together: a major version, a collation, a storage and a folder.
    Incompatible,
    /// The backend or the machine cannot do this.
    Unsupported,
    /// No PostgreSQL installation was found.
    PostgresMissing,
    /// A `postgres` process, a PostgreSQL tool or a query failed.
    Postgres,
    /// The code that builds a seed failed.
    Seed,
    /// The operating system refused access.
    PermissionDenied,
    /// The disk, a quota or a range of ports is used up.
    Exhausted,
    /// It did not happen within its time.
    Timeout,
    /// The caller gave up (a future was dropped), and what had been done was undone.
    Canceled,
    /// State or data is damaged, or from a newer version of Velo.
    Corrupt,
    /// Any other failure of the operating system.
    Io,
    /// A bug in Velo.
    Internal,
}

impl ErrorKind {
    /// The kind's stable name, as in JSON output and in the bindings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Incompatible => "incompatible",
            Self::Unsupported => "unsupported",
            Self::PostgresMissing => "postgres_missing",
            Self::Postgres => "postgres",
            Self::Seed => "seed",
            Self::PermissionDenied => "permission_denied",
            Self::Exhausted => "exhausted",
            Self::Timeout => "timeout",
            Self::Canceled => "canceled",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: a kind, what happened to what, what to do, and what caused it.
///
/// `Display` is one line, complete but for the [`hint`](Error::hint), which is to be printed too
/// where a person reads it. [`source`](std::error::Error::source) is the cause, for programs.
///
/// ```
/// let error = velo_core::BranchName::new("a b").unwrap_err();
/// assert_eq!(error.kind(), velo_core::ErrorKind::InvalidInput);
/// assert!(error.hint().is_some());
/// ```
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    #[source]
    source: Option<Source>,
    cleanup: Vec<Error>,
}

impl Error {
    /// A new error of `kind` whose message is `message` (one line, no trailing full stop).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            source: None,
            cleanup: Vec::new(),
        }))
    }

    /// An error of the operating system: `what` says what was tried, to what.
    ///
    /// The kind follows from the source (`ENOSPC` is [`ErrorKind::Exhausted`], …).
    pub fn io(what: impl fmt::Display, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        use std::io::ErrorKind as Io;
        let (kind, hint) = match source.kind() {
            Io::NotFound => (ErrorKind::NotFound, None),
            Io::PermissionDenied => (ErrorKind::PermissionDenied, None),
            Io::StorageFull | Io::QuotaExceeded => {
                (ErrorKind::Exhausted, Some("free some space and try again"))
            }
            Io::ReadOnlyFilesystem => (
                ErrorKind::PermissionDenied,
                Some("mount the file system writable, or use a folder on another one"),
            ),
            Io::Unsupported => (ErrorKind::Unsupported, None),
            _ => (ErrorKind::Io, None),
        };
        let error = Self::new(kind, format!("{what}: {source}")).with_source(source);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// Adds a pair of what the error is about, for logs and JSON.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Says what to do about it, in one line.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says that what failed is recorded, and not over.
    pub(crate) fn with_the_rest_later(mut self) -> Self {
        const LATER: &str = "it is marked to go, and the next command goes on with it";
        let hint = self.0.hint.take();
        self.0.hint =
            Some(hint.map_or_else(|| LATER.to_owned(), |hint| format!("{hint}; {LATER}")));
        self
    }

    /// Attaches the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Attaches an error that happened while the effects of the failed operation were undone.
    #[must_use]
    pub fn with_cleanup(mut self, cleanup: Error) -> Self {
        self.0.cleanup.push(cleanup);
        self
    }

    /// What went wrong, in one word.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do about it, where Velo knows.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What the error is about, as pairs.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(k, v)| (*k, v.as_str()))
    }

    /// Errors that happened while the failed operation was undone. What they name may be left
    /// behind; the next `open` tries again.
    #[must_use]
    pub fn cleanup(&self) -> &[Error] {
        &self.0.cleanup
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.kind).field("message", &self.message);
        if !self.context.is_empty() {
            out.field("context", &self.context);
        }
        if let Some(hint) = &self.hint {
            out.field("hint", hint);
        }
        if let Some(source) = &self.source {
            out.field("source", source);
        }
        if !self.cleanup.is_empty() {
            out.field("cleanup", &self.cleanup);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_full_disk_is_exhausted_and_has_a_hint() {
        let error = Error::io("write x", std::io::Error::from_raw_os_error(28));
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.hint().is_some());
        assert!(std::error::Error::source(&error).is_some());
    }
}
