//! What a seed is known by: a hash of all that its data is made from.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::files::{matching, pattern_in};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::BranchSource;

/// What a seed is made from, and so known by: files, texts, and the code that builds it.
///
/// Two keys are the same if all that was put into them is, wherever the files lie: two checkouts of one
/// state share a seed. Velo adds the version of PostgreSQL, that of each extension which is installed
/// beside it, and the state of the branch that the seed starts from.
///
/// ```no_run
/// # fn example() -> velo_core::Result<()> {
/// use velo_core::SeedKey;
/// let key = SeedKey::new().files("migrations/**/*.sql")?.text("with the fixtures of 2026");
/// # let _ = key;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct SeedKey {
    hash: Sha256,
    /// The files that were counted, and what they held: they must still when the seed is built.
    files: Vec<(String, Takes, Files)>,
    /// What was said of the code that builds it; unless anything was, this program is the code.
    code: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) from: BranchSource,
}

impl Default for SeedKey {
    fn default() -> Self {
        Self::new()
    }
}

impl SeedKey {
    /// A key of this program's code alone.
    pub fn new() -> Self {
        Self {
            hash: Sha256::new(),
            files: Vec::new(),
            code: None,
            label: None,
            from: BranchSource::Named("main".into()),
        }
    }

    /// Every file that matches `pattern`: a path, a folder with all that is in it, or a path with
    /// `*`, `?`, `[…]` and `**`. Counted are their content and their place beneath the folder in which
    /// the pattern begins to vary, not where that folder lies. Linked files and folders count as what they lead to,
    /// but for a link to a folder that it lies in itself.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nothing matches, [`ErrorKind::InvalidInput`] for a pattern that is
    /// none, [`ErrorKind::Io`] if a file cannot be read.
    pub fn files(self, pattern: impl AsRef<str>) -> Result<Self> {
        self.files_that(pattern, |_| true)
    }

    /// Of the files that match those that are taken.
    pub(super) fn files_that(mut self, pattern: impl AsRef<str>, takes: Takes) -> Result<Self> {
        let pattern = pattern.as_ref();
        let folder = std::env::current_dir()
            .map_err(|e| Error::io("find the folder that the program runs in", e))?;
        let absolute = pattern_in(&folder, pattern);
        let files = files(&absolute, takes)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no file matches {pattern}"))
                .with_hint("the pattern is taken from the folder that the program runs in")
        })?;
        self.put("files", &files);
        self.files.push((absolute, takes, files));
        Ok(self)
    }

    /// The files are what they were when they were counted; else what was built is of another key.
    pub(crate) fn is_of_its_files(&self) -> Result<()> {
        for (pattern, takes, counted) in &self.files {
            if files(pattern, *takes)?.as_ref() != Some(counted) {
                return Err(Error::new(
                    ErrorKind::Seed,
                    format!("files of {pattern} were changed while the seed was built of them"),
                )
                .with_hint("run it again: none of it is kept"));
            }
        }
        Ok(())
    }

    /// Any text: a version, the settings that the build goes by.
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        self.put("text", text.as_ref().as_bytes());
        self
    }

    /// Names the code that builds the seed, as by `include_str!("seed.rs")`. Unless it is named, the
    /// whole program is taken for it: then the seed is never stale, and is built anew for each program
    /// and whenever that changed.
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// What the seed is called in lists.
    pub fn label(mut self, text: impl AsRef<str>) -> Self {
        self.label = Some(crate::id::label(text.as_ref())).filter(|label| !label.is_empty());
        self
    }

    /// What the seed starts from; `main` unless told. Of a branch its state at the time of the build is
    /// taken, and what changes in it later makes no other seed.
    pub fn from(mut self, source: impl Into<BranchSource>) -> Self {
        self.from = source.into();
        self
    }

    /// Parts are told apart by what they are and how long they are, or `ab`, `c` would be `a`, `bc`.
    fn put(&mut self, what: &str, bytes: &[u8]) {
        put(&mut self.hash, what, bytes);
    }

    /// The key with `more` of what Velo knows, in hexadecimal.
    pub(crate) fn finish(&self, more: &[(&str, String)]) -> Result<String> {
        let mut all = self.clone();
        match &self.code {
            Some(code) => all.put("code", code.as_bytes()),
            None => all.put("program", &program()?),
        }
        for (what, text) in more {
            all.put(what, text.as_bytes());
        }
        Ok(all.hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

fn put(hash: &mut Sha256, what: &str, bytes: &[u8]) {
    for part in [what.as_bytes(), bytes] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

/// What all files of a pattern hold, and where, as a hash.
type Files = [u8; 32];

/// Which of the files that match count.
type Takes = fn(&Path) -> bool;

/// The hash of the files that match; none if there are none.
fn files(pattern: &str, takes: Takes) -> Result<Option<Files>> {
    let mut found = matching(pattern)?;
    found.retain(|(_, path)| takes(path));
    let mut hash = Sha256::new();
    for (place, path) in &found {
        let content =
            std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        put(&mut hash, "place", place.as_os_str().as_encoded_bytes());
        put(&mut hash, "content", &content);
    }
    Ok((!found.is_empty()).then(|| hash.finalize().into()))
}

/// What tells this program from another, and from itself before it was compiled anew: the identity that
/// its linker gave it, or else its size and time.
fn program() -> Result<Vec<u8>> {
    let fault = |e| Error::io("look at the program that builds the seed", e);
    let path = std::env::current_exe().map_err(fault)?;
    let file = std::fs::File::open(&path).map_err(fault)?;
    let reader = object::ReadCache::new(&file);
    if let Ok(parsed) = object::File::parse(&reader)
        && let Ok(Some(id)) = object::Object::build_id(&parsed)
    {
        return Ok(id.to_vec());
    }
    let metadata = file.metadata().map_err(fault)?;
    Ok(format!("{} {:?}", metadata.len(), metadata.modified().map_err(fault)?).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: SeedKey) -> String {
        key.finish(&[]).unwrap()
    }

    #[test]
    fn what_is_put_in_makes_the_key() {
        let base = key(SeedKey::new());
        assert_eq!(base, key(SeedKey::new()));
        assert_ne!(base, key(SeedKey::new().text("")));
        assert_ne!(
            key(SeedKey::new().text("a").text("bc")),
            key(SeedKey::new().text("ab").text("c"))
        );
        assert_ne!(key(SeedKey::new().code("x")), key(SeedKey::new().code("y")));
        assert_ne!(key(SeedKey::new().code("x")), key(SeedKey::new().code("x").text("x")));
        let more = SeedKey::new().finish(&[("postgres", "15.8".into())]).unwrap();
        assert_ne!(base, more);
        // What it is called is nothing that it is made from.
        assert_eq!(base, key(SeedKey::new().label("x")));
    }

    #[test]
    fn files_count_by_content_and_by_place_beneath_the_pattern() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            std::fs::create_dir(dir.path().join("sub")).unwrap();
            std::fs::write(dir.path().join("a.sql"), "a").unwrap();
            std::fs::write(dir.path().join("sub/b.sql"), "b").unwrap();
            std::fs::write(dir.path().join("c.txt"), "c").unwrap();
        }
        let of = |dir: &tempfile::TempDir, pattern: &str| {
            let pattern = dir.path().join(pattern);
            key(SeedKey::new().files(pattern.to_str().unwrap()).unwrap())
        };
        for pattern in ["", "**/*.sql", "*.sql", "a.sql", "sub/", "sub/*"] {
            assert_eq!(of(&one, pattern), of(&two, pattern), "{pattern}");
        }
        // Also where the folder itself looks like a pattern.
        let odd = tempfile::Builder::new().prefix("[1]*").tempdir().unwrap();
        std::fs::create_dir(odd.path().join("sub")).unwrap();
        std::fs::write(odd.path().join("a.sql"), "a").unwrap();
        std::fs::write(odd.path().join("sub/b.sql"), "b").unwrap();
        for pattern in ["**/*.sql", "*.sql", "a.sql", "sub/*"] {
            let of_odd = key(SeedKey::new().files(pattern_in(odd.path(), pattern)).unwrap());
            assert_eq!(of_odd, of(&one, pattern), "{pattern}");
        }
        assert_ne!(of(&one, "**/*.sql"), of(&one, "*.sql"));
        assert_eq!(of(&one, "**"), of(&one, ""));
        assert_eq!(of(&one, "sub/**"), of(&one, "sub/"));
        assert_ne!(of(&one, ""), of(&one, "**/*.sql"));
        let before = of(&two, "**/*.sql");
        std::fs::rename(two.path().join("sub"), two.path().join("other")).unwrap();
        assert_ne!(before, of(&two, "**/*.sql"), "another place");
        std::fs::write(one.path().join("a.sql"), "A").unwrap();
        assert_ne!(before, of(&one, "**/*.sql"), "another content");
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        let error = SeedKey::new().files("nothing/of/this/*.sql").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = SeedKey::new().files("a/***/b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
