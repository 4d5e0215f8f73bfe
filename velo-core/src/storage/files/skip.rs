//! The patterns of [`CloneSpec::skip`](crate::storage::CloneSpec::skip).

/// Patterns that a tree is walked with, from the top: what is inside a folder that matches is never
/// asked for.
pub(in crate::storage) struct Patterns<'a>(&'a [&'static str]);

impl<'a> Patterns<'a> {
    pub(in crate::storage) fn new(patterns: &'a [&'static str]) -> Self {
        Self(patterns)
    }

    /// Whether the file or folder `rel` is left out.
    pub(in crate::storage) fn matches(&self, rel: &[u8]) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            None => pattern.as_bytes() == rel,
            Some(prefix) => rel
                .strip_prefix(prefix.as_bytes())
                // A star stands for a part of one name, and behind a slash for a whole one.
                .is_some_and(|rest| {
                    !rest.contains(&b'/') && (!rest.is_empty() || !prefix.ends_with('/'))
                }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Patterns;

    #[test]
    fn a_pattern_names_what_its_docs_say() {
        let skip = Patterns::new(&["postmaster.pid", "pg_notify/*", "base/pgsql_tmp*"]);
        for yes in ["postmaster.pid", "pg_notify/0000", "base/pgsql_tmp", "base/pgsql_tmp1.2"] {
            assert!(skip.matches(yes.as_bytes()), "{yes}");
        }
        for no in
            ["postmaster.pid2", "a/postmaster.pid", "pg_notify", "base", "base/1", "base/pgsql"]
        {
            assert!(!skip.matches(no.as_bytes()), "{no}");
        }
    }
}
