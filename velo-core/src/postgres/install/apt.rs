//! By apt, without root: packages are downloaded and unpacked, never installed.

use std::path::{Path, PathBuf};

use super::{Attempt, not_offered};
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};

/// A library that only just-in-time compilation needs, which Velo's branches do without; it is
/// larger than all else together.
const NOT_NEEDED: [&str; 1] = ["libllvm"];

pub(super) async fn fetch(attempt: &Attempt<'_>) -> Result<()> {
    let mut apt = Apt { attempt, options: Vec::new() };
    (attempt.progress)("asking apt-get for PostgreSQL");
    let major = match apt.offered().await? {
        Some(major) => major,
        None => {
            // The lists of an image of Debian are empty. They are the system's; these are ours.
            apt.own_lists().await?;
            apt.offered().await?.ok_or_else(|| not_offered("apt-get", attempt.wanted))?
        }
    };
    let (packages, libraries) = apt.needed(major).await?;
    (attempt.progress)(&format!("fetching {}", packages.join(", ")));
    apt.unpack(&packages, &attempt.tree).await?;
    let bin = PathBuf::from(format!("usr/lib/postgresql/{major}/bin"));
    std::os::unix::fs::symlink(&bin, attempt.tree.join("bin"))
        .map_err(|e| Error::io(format!("create {}", attempt.tree.join("bin").display()), e))?;
    if libraries { apt.point_to_libraries(&bin).await } else { Ok(()) }
}

/// The server's package, and that of its programs.
fn packages(major: u32) -> (String, String) {
    (format!("postgresql-{major}"), format!("postgresql-client-{major}"))
}

struct Apt<'a> {
    attempt: &'a Attempt<'a>,
    options: Vec<String>,
}

impl Apt<'_> {
    async fn get(&self, args: impl IntoIterator<Item = &str>) -> Result<String> {
        let program = Program::new("apt-get")
            // As root apt would become a user who cannot write here.
            .args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"])
            .args(&self.options)
            .args(args);
        self.attempt.run(program).await
    }

    /// The major to take, of those that are wanted and that apt knows.
    async fn offered(&self) -> Result<Option<u32>> {
        for major in self.attempt.wanted.majors() {
            let (server, client) = packages(major);
            // What is installed is known without lists, and yet cannot be downloaded.
            match self.get(["--print-uris", "download", &server, &client]).await {
                Ok(_) => return Ok(Some(major)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
                Err(error) => tracing::debug!(%error, "not offered"),
            }
        }
        Ok(None)
    }

    async fn own_lists(&mut self) -> Result<()> {
        let dir = self.attempt.work.join("apt");
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = dir.join(folder);
            std::fs::create_dir_all(&folder)
                .map_err(|e| Error::io(format!("create {}", folder.display()), e))?;
        }
        let dir = dir.display();
        self.options = vec![
            "-o".into(),
            format!("Dir::State::lists={dir}/lists"),
            "-o".into(),
            format!("Dir::Cache={dir}/cache"),
            "-o".into(),
            "Acquire::Languages=none".into(),
        ];
        self.get(["update"]).await?;
        Ok(())
    }

    /// The packages to unpack: the server, its programs, and each library that this machine lacks;
    /// and whether there are such libraries.
    async fn needed(&self, major: u32) -> Result<(Vec<String>, bool)> {
        let (server, client) = packages(major);
        let plan = self.get(["-s", "--no-install-recommends", "install", &server]).await?;
        let mut packages = vec![server, client];
        let programs = packages.len();
        for line in plan.lines() {
            let Some(name) = line.strip_prefix("Inst ").and_then(|l| l.split(' ').next()) else {
                continue;
            };
            let library = name.starts_with("lib") && !name.ends_with("-perl");
            if library && !NOT_NEEDED.iter().any(|prefix| name.starts_with(prefix)) {
                packages.push(name.to_owned());
            }
        }
        let libraries = packages.len() > programs;
        Ok((packages, libraries))
    }

    async fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        // Downloads go to the current folder, which is the attempt's.
        self.get(std::iter::once("download").chain(packages.iter().map(String::as_str))).await?;
        let fault = |e| Error::io(format!("read {}", self.attempt.work.display()), e);
        for entry in std::fs::read_dir(self.attempt.work).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                let unpack = Program::new("dpkg-deb").arg("-x").arg(&path).arg(into);
                self.attempt.run(unpack).await?;
                std::fs::remove_file(&path).map_err(fault)?;
            }
        }
        Ok(())
    }

    /// Debian's programs look for libraries in the system's folders only; tells them where theirs
    /// are, by Debian's own patchelf, which is unpacked beside them and goes with the attempt.
    async fn point_to_libraries(&self, bin: &Path) -> Result<()> {
        let tree = &self.attempt.tree;
        let mut folders = Vec::new();
        for base in ["usr/lib", "lib"] {
            let entries = std::fs::read_dir(tree.join(base)).into_iter().flatten().flatten();
            // The multiarch folder: x86_64-linux-gnu, aarch64-linux-gnu, ….
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            folders.extend(
                names
                    .filter(|n| n.contains("-linux-"))
                    .map(|n| format!("$ORIGIN/../../../../../{base}/{n}")),
            );
        }
        let tools = self.attempt.work.join("tools");
        self.unpack(&["patchelf".to_owned()], &tools).await?;
        let programs = std::fs::read_dir(tree.join(bin))
            .map_err(|e| Error::io(format!("read {}", tree.join(bin).display()), e))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_elf(path));
        let patchelf = Program::new(tools.join("usr/bin/patchelf"))
            // DT_RPATH holds for what the libraries need too, unlike DT_RUNPATH.
            .args(["--force-rpath", "--set-rpath", &folders.join(":")])
            .args(programs);
        self.attempt.run(patchelf).await?;
        Ok(())
    }
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok())
        && magic == *b"\x7fELF"
}
