//! The way through the program `zfs`. It works with every OpenZFS from 2.1 on.

use std::ffi::OsString;
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

/// More links than this are a ring to the kernel too.
const LINKS: u32 = 40;

/// The program `zfs`.
#[derive(Debug)]
pub(super) struct Program;

/// Finds a system program.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    of_path().chain(SYSTEM.map(PathBuf::from)).find_map(|folder| in_folder(&folder, name))
}

/// Finds a system program as sudo's rules name it: whoever writes them and whoever goes by them find the
/// same, though their `PATH`s differ. Debian has `zfs` in `/usr/sbin`, and a link to it in `/usr/bin`. One
/// that somebody else than root could replace is passed over: the rule would give away root.
pub(super) fn find_for_sudo(name: &str) -> Option<PathBuf> {
    find_safe(SYSTEM.map(PathBuf::from).into_iter().chain(of_path()), name)
}

fn find_safe(folders: impl IntoIterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let mut found = folders.into_iter().filter_map(|folder| in_folder(&folder, name));
    found.find(|file| is_roots_alone(file))
}

/// Whether root alone can change what the path leads to: every folder on the way, every link and what they
/// lead to. In a sticky folder of a group's its members make files, but replace none of root's (`/nix/store`);
/// where everybody may, what is cleared away is soon somebody else's.
fn is_roots_alone(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mut ahead: Vec<OsString> = Vec::new();
    let put = |ahead: &mut Vec<OsString>, path: &Path| {
        ahead.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
    };
    put(&mut ahead, path);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = ahead.pop() {
        // `..` of a folder that a link leads to is its own.
        match part.as_encoded_bytes() {
            b".." => drop(at.pop()),
            _ => at.push(part),
        }
        let Ok(metadata) = at.symlink_metadata() else { return false };
        if metadata.uid() != 0 {
            return false;
        }
        if metadata.is_symlink() {
            links += 1;
            let Ok(target) = std::fs::read_link(&at) else { return false };
            if links > LINKS {
                return false;
            }
            at.pop();
            put(&mut ahead, &target);
        }
        let is_sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if !metadata.is_symlink() && metadata.mode() & if is_sticky { 0o002 } else { 0o022 } != 0 {
            return false;
        }
    }
    true
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
            Fault::Other(said) if is_of_sudo(&said) => {
                tracing::debug!(%said, "sudo does not run it");
                Fault::Denied
            }
            fault => fault,
        }
    })
}

/// Whether what was said is sudo's refusal. It may warn of something (a host name that nobody knows) and run
/// the program all the same, which then speaks last.
pub(super) fn is_of_sudo(said: &str) -> bool {
    let refused = ["password is required", "not allowed", "not in the sudoers", "may not run sudo"];
    refused.iter().any(|words| said.contains(words))
        || said.starts_with("sudo") && !said.contains("unable to resolve host")
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_sudo_says_is_told_from_what_the_program_says() {
        for refused in [
            "sudo: a password is required",
            "sudo: unable to resolve host x: Name or service not known sudo: a password is required",
            "Sorry, user ann is not allowed to execute '/usr/bin/rmdir /tank/v' as root on x.",
            "ann is not in the sudoers file.",
            "sudo: The \"no new privileges\" flag is set, which prevents sudo from running as root.",
        ] {
            assert!(is_of_sudo(refused), "{refused}");
        }
        for ran in [
            "rmdir: failed to remove '/tank/pseudo/v-1': No such file or directory",
            "sudo: unable to resolve host x: Name or service not known rmdir: failed to remove \
             '/tank/v-1': No such file or directory",
            "cannot mount 'tank/sudo': dataset is busy",
        ] {
            assert!(!is_of_sudo(ran), "{ran}");
        }
    }

    #[test]
    fn a_program_that_a_user_could_replace_is_passed_over() {
        // To a user who is not root nothing of theirs is safe, whatever its mode.
        let is_root = rustix::process::geteuid().is_root();
        // What is above the folder is root's own.
        let dir = tempfile::tempdir_in(if is_root { "/var" } else { "/tmp" }).unwrap();
        let dir = &*dir.path().canonicalize().unwrap();
        let program = dir.join("rmdir");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        mode(&program, 0o755);
        mode(dir, 0o755);
        let find = |first: &Path| find_safe([first.to_owned(), "/usr/bin".into()], "rmdir");
        let system = Path::new("/usr/bin").canonicalize().unwrap().join("rmdir");
        let whose = |safe: bool| Some(if safe { program.clone() } else { system.clone() });
        for (folder, file, safe) in [
            (0o755, 0o755, true),
            (0o755, 0o775, false),
            (0o755, 0o757, false),
            (0o775, 0o755, false),
            (0o777, 0o755, false),
            (0o1775, 0o755, true),
            (0o1777, 0o755, false),
        ] {
            mode(dir, folder);
            mode(&program, file);
            assert_eq!(find(dir), whose(safe && is_root), "{folder:o} {file:o}");
        }

        // By links: they and all that they lead to are looked at.
        mode(dir, 0o755);
        let (links, open) = (dir.join("links"), dir.join("open"));
        for folder in [&links, &open] {
            std::fs::create_dir(folder).unwrap();
            mode(folder, 0o755);
        }
        let link = links.join("rmdir");
        symlink("../rmdir", &link).unwrap();
        assert_eq!(find(&links), Some(if is_root { link.clone() } else { system.clone() }));
        for (target, name) in [("../rmdir", "rmdir"), ("..", "above")] {
            symlink(target, open.join(name)).unwrap();
        }
        mode(&open, 0o777);
        for through in ["../open/rmdir", "../open/above/rmdir"] {
            std::fs::remove_file(&link).unwrap();
            symlink(through, &link).unwrap();
            assert!(link.exists());
            assert_eq!(find(&links), Some(system.clone()), "{through}");
        }
        assert!(!is_roots_alone(Path::new("/nowhere/zfs")));
        if is_root {
            std::os::unix::fs::chown(&program, Some(65534), None).unwrap();
            assert_eq!(find(dir), Some(system));
        }
    }
}
