//! What a source's server wrote of its work: logs and statistics. They hold the text of statements, with the
//! values of rows, and a copy needs neither.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::import::bring::Import;
use crate::import::source::Place;
use crate::storage::{FileOp, Object};

/// What the source says of its logs, as far as the role may see it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::import) struct Logs {
    /// The folder that they are in.
    folder: Option<String>,
    /// The folder that its data is in.
    data: Option<PathBuf>,
}

/// What PostgreSQL itself has in a data folder, wherever somebody says that his logs are.
const OWN: [&str; 17] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];

impl Import<'_> {
    /// Asks the source where its logs are.
    pub(super) async fn look_for_logs(&self) -> Result<Logs> {
        // Who may not see a setting is not told of it.
        let sql = "SELECT json_build_object( \
             'folder', (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'log_directory'), \
             'data', (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'))";
        let database = self.server.as_ref().and_then(|server| server.get("dbname"));
        self.ask(database.unwrap_or("postgres"), sql).await
    }

    /// Removes logs and statistics from the copy, on which no server has been started yet.
    pub(super) async fn remove_logs(&self) -> Result<()> {
        let data = self.location.host_path().to_path_buf();
        let mut roots: Vec<PathBuf> = self.logs.data.clone().into_iter().collect();
        if let Place::Files(from) = &self.recipe.place {
            roots.push(from.clone());
            roots.extend(from.canonicalize());
        }
        let folders = [self.logs.folder.clone(), Some(self.would_be("log_directory").await?)];
        let told = folders.iter().flatten().filter_map(|folder| within(folder, &roots));
        let mut gone: BTreeSet<String> = told.filter(|path| data.join(path).is_dir()).collect();
        gone.extend(["log", "pg_log"].map(str::to_owned));
        // The folder itself has to be there.
        gone.extend(names(&data.join("pg_stat"))?.iter().map(|name| format!("pg_stat/{name}")));
        // As `pg_ctl -l` writes them.
        let is_log = |name: &String| name.ends_with(".log") || name == "logfile";
        gone.extend(names(&data)?.into_iter().filter(is_log));
        let ops = gone.into_iter().map(|path| FileOp::Remove { path }).collect();
        self.storage.edit(Object::Volume(self.volume), ops).await
    }
}

/// Where in the data a folder of logs is, if it is, whose server had its data in one of `roots`.
fn within(folder: &str, roots: &[PathBuf]) -> Option<String> {
    let folder = Path::new(folder);
    let path = match folder.is_absolute() {
        false => folder,
        true => match roots.iter().find_map(|root| folder.strip_prefix(root).ok()) {
            Some(path) => path,
            // Where the data was, or by which name, is not known to everybody.
            None => Path::new(folder.file_name()?),
        },
    };
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let first = parts.first()?;
    (!OWN.contains(first)).then(|| parts.join("/"))
}

/// The names in a folder, if it is there.
pub(in crate::import) fn names(folder: &Path) -> Result<Vec<String>> {
    let failure = |e: std::io::Error| Error::io(format!("look at {}", folder.display()), e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failure)?,
    };
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| entry.map(name).map_err(failure)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_found_where_they_are_in_the_data() {
        let roots = [PathBuf::from("/srv/pg/data")];
        for (folder, place) in [
            ("diary", Some("diary")),
            ("./a/b/", Some("a/b")),
            ("/srv/pg/data/x/y", Some("x/y")),
            ("/mnt/linked/diary", Some("diary")),
            ("../log", None),
            ("base", None),
            ("pg_wal/log", None),
            ("/srv/pg/data", None),
            ("/", None),
            (".", None),
            ("", None),
        ] {
            assert_eq!(within(folder, &roots).as_deref(), place, "{folder}");
        }
    }
}
