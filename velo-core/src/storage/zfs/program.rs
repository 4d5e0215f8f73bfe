//! The way through the program `zfs`. It works with every OpenZFS from 2.1 on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use crate::command::Program as Command;
use crate::error::Result;
use crate::storage::zfs::Way;
use crate::storage::zfs::faults::{Fault, of_stderr};
use crate::storage::zfs::properties::Properties;

/// How long a call may take. A pool whose devices fail answers never.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// Where system programs are that a normal user's `PATH` may not have.
const SYSTEM: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The program `zfs`.
#[derive(Debug)]
pub(super) struct Program;

/// Finds a system program.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    of_path().chain(SYSTEM.map(PathBuf::from)).find_map(|folder| in_folder(&folder, name))
}

/// Finds a system program as sudo's rules name it: whoever writes them and whoever goes by them find the
/// same, though their `PATH`s differ. Debian has `zfs` in `/usr/sbin`, and a link to it in `/usr/bin`.
pub(super) fn find_for_sudo(name: &str) -> Option<PathBuf> {
    SYSTEM
        .map(PathBuf::from)
        .into_iter()
        .chain(of_path())
        .find_map(|folder| in_folder(&folder, name))
}

fn of_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect::<Vec<_>>()
        .into_iter()
}

/// Whichever of the folders are links. The name stays: where one program is many, by links to it, that
/// says which one it is to be.
fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let file = folder.canonicalize().ok()?.join(name);
    let is_program =
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    is_program.then_some(file)
}

/// Runs `zfs` or `zpool`, and gives what it printed.
pub(super) async fn ask(name: &str, args: &[&str]) -> Result<String, Fault> {
    let Some(program) = find(name) else {
        return Err(Fault::NoProgram);
    };
    if !Path::new("/dev/zfs").exists() {
        return Err(Fault::NoModule);
    }
    run(Command::new(program).args(args)).await
}

/// Runs a program of the system through `sudo`, which asks for nothing.
pub(super) async fn sudo(program: &Path, args: &[&str]) -> Result<(), Fault> {
    let Some(sudo) = find("sudo") else {
        return Err(Fault::Denied);
    };
    run(Command::new(sudo).arg("-n").arg(program).args(args)).await.map(drop).map_err(|fault| {
        match fault {
            // It wants a password, or says that the user may not.
            Fault::Other(said) if said.contains("sudo") || said.contains("not allowed") => {
                Fault::Denied
            }
            fault => fault,
        }
    })
}

async fn run(command: Command) -> Result<String, Fault> {
    let output = command.output(LIMIT).await.map_err(|e| Fault::Other(e.to_string()))?;
    tracing::trace!(stderr = %output.stderr.trim(), success = output.success, "zfs");
    if output.success { Ok(output.stdout) } else { Err(of_stderr(&output.stderr)) }
}

/// `zfs get`, with its arguments behind `-Hp`.
pub(super) async fn get(args: &[&str]) -> Result<String, Fault> {
    ask("zfs", &[&["get", "-Hp"], args].concat()).await
}

/// Each property as `-o name=value`.
fn options(properties: &Properties) -> Vec<String> {
    properties
        .iter()
        .flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")])
        .collect()
}

async fn make(verb: &str, properties: &Properties, names: &[&str]) -> Result<(), Fault> {
    let options = options(properties);
    let mut args = vec![verb];
    args.extend(options.iter().map(String::as_str));
    args.extend(names);
    ask("zfs", &args).await.map(drop)
}

/// Makes a dataset. There is no other way: libzetta's drops the mount point.
pub(super) async fn create(dataset: &str, properties: &Properties) -> Result<(), Fault> {
    make("create", properties, &[dataset]).await
}

#[async_trait]
impl Way for Program {
    async fn exists(&self, name: &str) -> Result<bool, Fault> {
        match ask("zfs", &["list", "-H", "-o", "name", name]).await {
            Ok(_) => Ok(true),
            Err(Fault::Missing) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn snapshot(&self, snapshot: &str, properties: &Properties) -> Result<(), Fault> {
        make("snapshot", properties, &[snapshot]).await
    }

    async fn clone(
        &self,
        snapshot: &str,
        dataset: &str,
        properties: &Properties,
    ) -> Result<(), Fault> {
        make("clone", properties, &[snapshot, dataset]).await
    }

    async fn destroy(&self, dataset: &str) -> Result<(), Fault> {
        ask("zfs", &["destroy", dataset]).await.map(drop)
    }

    async fn destroy_snapshot(&self, snapshot: &str) -> Result<(), Fault> {
        ask("zfs", &["destroy", snapshot]).await.map(drop)
    }
}
