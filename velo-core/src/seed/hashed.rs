//! The hash that a seed is known by: its key, with what Velo itself knows of what it is made from.

use std::path::{Path, PathBuf};

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
    let (key, postgres) = (key.clone(), installation.clone());
    engine::blocking(move || {
        let programs = match &postgres.image {
            Some(image) => image.id.clone(),
            None => extensions(&postgres)?,
        };
        key.finish(&[
            ("postgres", postgres.version.to_string()),
            ("extensions", programs),
            ("from", source.object().to_string()),
        ])
    })
    .await
}

/// What the extensions beside an installation say of their versions, as a hash.
fn extensions(installation: &Installation) -> Result<String> {
    let bin = &installation.bin_dir;
    let beside = |path: &str| bin.parent().map(|prefix| prefix.join(path));
    let debian =
        PathBuf::from(format!("/usr/share/postgresql/{}/extension", installation.version.major));
    let folders = [
        beside("share/extension"),
        beside("share/postgresql/extension"),
        bin.starts_with("/usr/lib/postgresql").then_some(debian),
    ];
    let mut hash = Sha256::new();
    for folder in folders.iter().flatten() {
        for (name, content) in controls(folder)? {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
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
