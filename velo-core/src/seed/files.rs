//! The files that a pattern names.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// What a part of a pattern, between two slashes, takes of a folder.
enum Part {
    /// What is called so.
    Named(String),
    Like(glob::Pattern),
    /// The folder itself, and all folders below it.
    Below,
}

/// Every file that matches, with its place beneath where the pattern begins to vary; sorted.
///
/// Linked folders are looked into, but for a link that leads back to a folder that it lies in.
pub(super) fn matching(pattern: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
    let path = Path::new(pattern);
    if path.is_file() {
        let name = path.file_name().map_or_else(|| path.to_owned(), PathBuf::from);
        return Ok(vec![(name, path.to_owned())]);
    }
    let (base, parts) = match path.is_dir() {
        true => (path.to_owned(), vec![Part::Below, like("*", pattern)?]),
        // That names folders alone.
        false if pattern.ends_with('/') => return Ok(Vec::new()),
        false => taken_apart(pattern)?,
    };
    let mut search = Search { above: Vec::new(), found: Vec::new() };
    search.enter(base.clone(), &parts, true)?;
    let place = |path: PathBuf| (path.strip_prefix(&base).unwrap_or(&path).to_owned(), path);
    let mut found: Vec<_> = search.found.into_iter().map(place).collect();
    found.sort();
    // One may match in two ways, as `a/a/b` does `**/a/**/*`.
    found.dedup();
    Ok(found)
}

struct Search {
    /// The folders on the way to where it is, as the file system tells them apart.
    above: Vec<(u64, u64)>,
    found: Vec<PathBuf>,
}

impl Search {
    /// Looks at what is at `path`, of which `parts` are still to match. Whoever `named` it wants it, wherever it leads.
    fn enter(&mut self, path: PathBuf, parts: &[Part], named: bool) -> Result<()> {
        // What a broken link names is not there.
        let Ok(metadata) = std::fs::metadata(here(&path)) else { return Ok(()) };
        if metadata.is_file() && parts.is_empty() {
            self.found.push(path);
        } else if metadata.is_dir() {
            let folder = (metadata.dev(), metadata.ino());
            if named || !self.above.contains(&folder) {
                self.above.push(folder);
                self.look(&path, parts)?;
                self.above.pop();
            }
        }
        Ok(())
    }

    fn look(&mut self, folder: &Path, parts: &[Part]) -> Result<()> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        match part {
            Part::Named(name) => return self.enter(folder.join(name), rest, true),
            Part::Below => self.look(folder, rest)?,
            Part::Like(_) => {}
        }
        let fault = |e| Error::io(format!("look for files at {}", folder.display()), e);
        for entry in std::fs::read_dir(here(folder)).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            let next = match part {
                Part::Like(pattern) if !pattern.matches(&name.to_string_lossy()) => continue,
                Part::Below => parts,
                _ => rest,
            };
            self.enter(folder.join(name), next, false)?;
        }
        Ok(())
    }
}

/// The folder that the program runs in has no name in a relative path.
fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// The folder in which a pattern begins to vary, and how it goes on from there.
fn taken_apart(pattern: &str) -> Result<(PathBuf, Vec<Part>)> {
    let (mut base, mut parts) = (PathBuf::new(), Vec::new());
    for part in Path::new(pattern).components() {
        let text = part.as_os_str().to_string_lossy();
        match plain(&text) {
            Some(name) if parts.is_empty() => base.push(name),
            Some(name) => parts.push(Part::Named(name)),
            None if text != "**" => parts.push(like(&text, pattern)?),
            None if matches!(parts.last(), Some(Part::Below)) => {}
            None => parts.push(Part::Below),
        }
    }
    // All files that are below, for folders are none.
    if matches!(parts.last(), Some(Part::Below)) {
        parts.push(like("*", pattern)?);
    }
    Ok((base, parts))
}

fn like(part: &str, pattern: &str) -> Result<Part> {
    glob::Pattern::new(part).map(Part::Like).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("{pattern:?} is no pattern of files: {e}"))
            .with_hint("write one like migrations/**/*.sql")
    })
}

/// What a part of a pattern names, if that is one thing: `[[]` is no more than a bracket.
fn plain(part: &str) -> Option<String> {
    let (mut text, mut rest) = (String::new(), part);
    while let Some(at) = rest.find(['*', '?', '[']) {
        let mut quoted = rest[at..].chars();
        let is_quoted = quoted.next() == Some('[');
        let (char, end) = (quoted.next()?, quoted.next()?);
        if !is_quoted || char == '!' || end != ']' {
            return None;
        }
        text.extend([&rest[..at], char.encode_utf8(&mut [0; 4])]);
        rest = quoted.as_str();
    }
    Some(text + rest)
}

/// A pattern of files in `folder`, which is none itself, whatever its name.
pub(crate) fn pattern_in(folder: &Path, pattern: &str) -> String {
    let path = folder.join(pattern);
    if path.exists() || Path::new(pattern).is_absolute() {
        return path.to_string_lossy().into_owned();
    }
    let folder = glob::Pattern::escape(&folder.to_string_lossy());
    Path::new(&folder).join(pattern).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The places of what matches in `folder`, in order.
    fn places(folder: &Path, pattern: &str) -> Vec<String> {
        let found = matching(&pattern_in(folder, pattern)).unwrap();
        found.into_iter().map(|(place, _)| place.to_string_lossy().into_owned()).collect()
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        folder
    }

    #[test]
    fn patterns_mean_what_they_say() {
        let folder =
            folder(&["1.sql", "a/2.sql", "a/b/3.sql", "a/b/.4.sql", "a/a/5.sql", "x[1]/6.sql"]);
        let cases: &[(&str, &[&str])] = &[
            ("1.sql", &["1.sql"]),
            ("*.sql", &["1.sql"]),
            ("*", &["1.sql"]),
            ("a", &["2.sql", "a/5.sql", "b/.4.sql", "b/3.sql"]),
            ("a/", &["2.sql", "a/5.sql", "b/.4.sql", "b/3.sql"]),
            ("a/**", &["2.sql", "a/5.sql", "b/.4.sql", "b/3.sql"]),
            ("a/**/**/*.sql", &["2.sql", "a/5.sql", "b/.4.sql", "b/3.sql"]),
            ("*/*.sql", &["a/2.sql", "x[1]/6.sql"]),
            ("*/?.sql", &["a/2.sql", "x[1]/6.sql"]),
            ("*/[!2].sql", &["x[1]/6.sql"]),
            ("x[[]1]/*", &["6.sql"]),
            ("**/b/*", &["a/b/.4.sql", "a/b/3.sql"]),
            ("**/a/**/*", &["a/2.sql", "a/a/5.sql", "a/b/.4.sql", "a/b/3.sql"]),
            ("*/b/../2.sql", &["a/b/../2.sql"]),
            ("*/", &[]),
            ("1.sql/**", &[]),
            ("*/*/*/*", &[]),
        ];
        for &(pattern, found) in cases {
            assert_eq!(places(folder.path(), pattern), found, "{pattern}");
        }
    }

    #[test]
    fn a_link_that_leads_back_leads_nowhere() {
        let folder = folder(&["1.sql", "sub/2.sql"]);
        for link in ["sub/one", "sub/two"] {
            symlink("..", folder.path().join(link)).unwrap();
        }
        for pattern in ["", "**", "**/*.sql"] {
            assert_eq!(places(folder.path(), pattern), ["1.sql", "sub/2.sql"], "{pattern:?}");
        }
        // It is another folder to who begins in the subfolder.
        assert_eq!(places(folder.path(), "sub"), ["2.sql", "one/1.sql", "two/1.sql"]);
        symlink(".", folder.path().join("current")).unwrap();
        for pattern in ["", "**", "**/*.sql", "current/", "current/**/*.sql"] {
            assert_eq!(places(folder.path(), pattern), ["1.sql", "sub/2.sql"], "{pattern:?}");
        }
    }

    #[test]
    fn a_linked_folder_is_one_as_any() {
        let (folder, other) = (folder(&["1.sql"]), folder(&["2.sql", "sub/3.sql"]));
        symlink(other.path(), folder.path().join("linked")).unwrap();
        symlink("nowhere", folder.path().join("broken.sql")).unwrap();
        symlink("1.sql", folder.path().join("same.sql")).unwrap();
        let all = ["1.sql", "linked/2.sql", "linked/sub/3.sql", "same.sql"];
        assert_eq!(places(folder.path(), ""), all);
        assert_eq!(places(folder.path(), "**/*.sql"), all);
        assert_eq!(places(folder.path(), "*/*.sql"), ["linked/2.sql"]);
    }
}
