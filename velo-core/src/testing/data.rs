//! The files that the suites make, and how they are compared.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::ensure;
use crate::error::{Error, Result};

/// Each path with its mode, owner and content (of a link, its target).
pub(super) type Tree = std::collections::BTreeMap<String, (u32, u32, u32, Vec<u8>)>;

pub(super) fn tree(root: &Path) -> Result<Tree> {
    let mut out = Tree::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(folder) = todo.pop() {
        let fault = |e| Error::io(format_args!("read {}", folder.display()), e);
        for entry in fs::read_dir(&folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let meta = stat(&path)?;
            let content = if meta.is_dir() {
                todo.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).map_err(fault)?.into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).map_err(fault)?
            };
            let rel = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            out.insert(rel, (meta.mode(), meta.uid(), meta.gid(), content));
        }
    }
    Ok(out)
}

pub(super) fn same(wanted: &Tree, found: &Tree, what: &str) -> Result<()> {
    let differs = |a: &Tree, b: &Tree| {
        a.iter().find(|(path, value)| b.get(*path) != Some(value)).map(|(path, _)| path.clone())
    };
    let first = differs(wanted, found).or_else(|| differs(found, wanted));
    ensure(first.is_none(), || format!("{what}; {} is not", first.clone().unwrap_or_default()))
}

/// Something like a PGDATA: nested folders, files of many sizes, modes and links.
pub(super) fn fill(root: &Path) -> Result<()> {
    for folder in [
        "base",
        "base/1",
        "base/pgsql_tmp",
        "global",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_tblspc",
        "empty",
    ] {
        let path = root.join(folder);
        fs::create_dir(&path).map_err(|e| Error::io("make a folder", e))?;
        chmod(&path, if folder == "global" { 0o750 } else { 0o700 })?;
    }
    put(root, "PG_VERSION", b"18\n")?;
    put(root, "global/pg_control", &[5; 8192])?;
    put(root, "pg_wal/000000010000000000000001", &vec![3; 300_000])?;
    put(root, "base/pgsql_tmp/t", b"x")?;
    put(root, "base/1/1259", &vec![1; 100_000])?;
    for i in 0..100_usize {
        put(root, &format!("base/1/{i}"), &vec![i as u8; i * 97])?;
    }
    for (file, mode) in [("base/1/1", 0o640), ("base/1/2", 0o400), ("base/1/3", 0o644)] {
        chmod(&root.join(file), mode)?;
    }
    symlink("../1/1259", root.join("base/1/link")).map_err(|e| Error::io("make a link", e))?;
    Ok(())
}

/// Bytes that no file system can compress, the same each time.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io(format_args!("change {}", path.display()), e))
}

pub(super) fn put(root: &Path, name: &str, content: &[u8]) -> Result<()> {
    fs::write(root.join(name), content).map_err(|e| Error::io(format_args!("write {name}"), e))
}

pub(super) fn read(root: &Path, name: &str) -> Result<Vec<u8>> {
    fs::read(root.join(name)).map_err(|e| Error::io(format_args!("read {name}"), e))
}

pub(super) fn unlink(root: &Path, name: &str) -> Result<()> {
    fs::remove_file(root.join(name)).map_err(|e| Error::io(format_args!("remove {name}"), e))
}

pub(super) fn stat(path: &Path) -> Result<fs::Metadata> {
    fs::symlink_metadata(path).map_err(|e| Error::io(format_args!("look at {}", path.display()), e))
}
