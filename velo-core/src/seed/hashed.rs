//! The hash that a seed is known by: its key, with what Velo itself knows of what it is made from.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::SeedKey;
use crate::engine;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::postgres::Installation;
use crate::project;
use crate::source::resolve;

/// The key with what Velo knows.
pub(super) async fn hashed(
    home: &Home,
    project: &project::Inner,
    key: &SeedKey,
    installation: &Installation,
) -> Result<String> {
    let (record, from) = (project.record.clone(), key.from.clone());
    let source = home.state().read(move |tx| resolve(tx, &record, &from)).await?;
    // Where another one is found than the project was made with, it is asked anew.
    let share = match &project.record.share_dir {
        Some(share) if installation.bin_dir == project.record.postgres.bin_dir => {
            Some(share.clone())
        }
        _ if installation.image.is_some() => None,
        _ => installation.share_dir(home.host_user()).await,
    };
    let (key, postgres) = (key.clone(), installation.clone());
    engine::blocking(move || {
        let programs = match &postgres.image {
            Some(image) => image.id.clone(),
            None => share.as_deref().map_or(Ok(String::new()), extensions)?,
        };
        key.finish(&[
            ("postgres", postgres.version.to_string()),
            ("extensions", programs),
            ("from", source.object().to_string()),
        ])
    })
    .await
}

/// What the extensions of an installation say of their versions, as a hash.
fn extensions(share: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, content) in controls(&share.join("extension"))? {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn controls(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let fault = |e| Error::io(format!("look at the extensions in {}", folder.display()), e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fault)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".control") {
            found.push((name, std::fs::read(entry.path()).map_err(fault)?));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_of_an_extension_is_another_seed() {
        let share = tempfile::tempdir().unwrap();
        let none = extensions(share.path()).unwrap();
        let folder = share.path().join("extension");
        std::fs::create_dir(&folder).unwrap();
        let of = |version: &str| {
            let control = format!("default_version = '{version}'\nrelocatable = true\n");
            std::fs::write(folder.join("postgis.control"), control).unwrap();
            extensions(share.path()).unwrap()
        };
        let (old, new) = (of("3.4.0"), of("3.5.0"));
        assert!(old != none && old != new);
        assert_eq!(of("3.4.0"), old);
        // What no `CREATE EXTENSION` looks at by itself changes nothing.
        std::fs::write(folder.join("postgis--3.4.0.sql"), "SELECT 1").unwrap();
        assert_eq!(extensions(share.path()).unwrap(), old);
        std::fs::write(folder.join("another.control"), "default_version = '1'").unwrap();
        assert_ne!(extensions(share.path()).unwrap(), old);
    }
}
