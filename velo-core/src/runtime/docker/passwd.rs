//! Who is who in a container: `/etc/passwd` and `/etc/group` as its processes see them.
//!
//! PostgreSQL looks up its own user when it starts, and for `peer` the user of whoever connects to
//! its socket, which is Velo. An image knows neither Velo's user nor, where its servers run as
//! that, its own.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::os_user::{IN_IMAGES, OsUser};

/// Makes the files, in a folder of the home's.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    own: OsUser,
}

/// The two files for one user of servers.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) passwd: PathBuf,
    pub(super) group: PathBuf,
}

impl Files {
    pub(super) fn of(home: &Path) -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = OsUser::by_uid(uid)?.map_or_else(|| uid.to_string(), |user| user.name);
        Ok(Self { dir: super::container::files(home), own: OsUser { name, uid, gid } })
    }

    /// The files for a server with these numbers, made if they are missing.
    pub(super) fn seen_by(&self, uid: u32, gid: u32) -> Result<Seen> {
        let (passwd, group) = content(&self.own, uid, gid);
        match std::fs::create_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make {}", self.dir.display()), e));
            }
            _ => {}
        }
        Ok(Seen {
            passwd: self.write(&format!("passwd.{uid}.{gid}"), &passwd)?,
            group: self.write(&format!("group.{uid}.{gid}"), &group)?,
        })
    }

    /// Writes a file, whole or not at all, unless it is there as it should be.
    fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == content) {
            return Ok(path);
        }
        let new = self.dir.join(format!("{name}.{}", crate::id::Id::generate()));
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o644).open(&new)?;
            file.write_all(content.as_bytes())?;
            crate::disk::set_mode(&new, 0o644).map_err(std::io::Error::other)?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|e| Error::io(format!("write {}", path.display()), e))?;
        Ok(path)
    }
}

/// `passwd` and `group`. No number has two names, and the first counts that `ident.conf` knows.
fn content(own: &OsUser, uid: u32, gid: u32) -> (String, String) {
    let mut users = vec![(own.name.as_str(), own.uid, own.gid)];
    for other in [(IN_IMAGES, uid, gid), ("root", 0, 0)] {
        if users.iter().all(|(name, uid, _)| *name != other.0 && *uid != other.1) {
            users.push(other);
        }
    }
    let mut groups: Vec<(&str, u32)> = Vec::new();
    for (name, _, gid) in &users {
        if groups.iter().all(|(known, number)| known != name && number != gid) {
            groups.push((name, *gid));
        }
    }
    let passwd = users.iter().map(|(name, uid, gid)| format!("{name}:x:{uid}:{gid}::/:/bin/sh\n"));
    let group = groups.iter().map(|(name, gid)| format!("{name}:x:{gid}:\n"));
    (passwd.collect(), group.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: u32) -> OsUser {
        OsUser { name: name.into(), uid, gid: uid }
    }

    #[test]
    fn docker_passwd_of_root_has_the_images_user() {
        let (passwd, group) = content(&user("root", 0), 999, 998);
        assert_eq!(passwd, "root:x:0:0::/:/bin/sh\npostgres:x:999:998::/:/bin/sh\n");
        assert_eq!(group, "root:x:0:\npostgres:x:998:\n");
    }

    #[test]
    fn docker_passwd_of_a_user_is_that_user_and_root() {
        let (passwd, _) = content(&user("ann", 1000), 1000, 1000);
        assert_eq!(passwd, "ann:x:1000:1000::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n");
    }
}
