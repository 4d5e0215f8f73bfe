//! The operating system's user that `postgres` runs as.
//!
//! `postgres` refuses to run as root. Where Velo itself is root, its servers run as the configured
//! user, else `postgres`, else `nobody`.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// What the servers' user is called in containers.
pub(crate) const IN_IMAGES: &str = "postgres";

/// A user of the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsUser {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
}

impl OsUser {
    /// The user that servers run as where this process is root, and `None` where it is not
    /// (they run as this process's own user then).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the configured user does not exist, [`ErrorKind::InvalidInput`]
    /// if it is root.
    pub(crate) fn for_servers(configured: Option<&str>) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let user = match configured {
            Some(name) => Self::by_name(name)?.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no user {name:?} on this machine"),
                )
                .with_hint("set VELO_USER to an existing unprivileged user")
            })?,
            None => match Self::by_name("postgres")? {
                Some(user) => user,
                None => {
                    tracing::warn!("no user named postgres: servers run as nobody; set VELO_USER");
                    Self::by_name("nobody")?.ok_or_else(|| {
                        Error::new(
                            ErrorKind::NotFound,
                            "this machine has neither a user postgres nor a user nobody",
                        )
                        .with_hint("set VELO_USER to an existing unprivileged user")
                    })?
                }
            },
        };
        if user.uid == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "postgres must not run as root")
                .with_hint("set VELO_USER to an unprivileged user"));
        }
        Ok(Some(user))
    }

    /// What the user with the number `uid` is called: by that where it has no name.
    pub(crate) fn name_of(uid: u32) -> Result<String> {
        Ok(Self::by_uid(uid)?.map_or_else(|| uid.to_string(), |user| user.name))
    }

    /// The user named `name`, by the system's own look-up (files, LDAP, …).
    pub(crate) fn by_name(name: &str) -> Result<Option<Self>> {
        let c_name = std::ffi::CString::new(name).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "a user name holds NUL").with_source(e)
        })?;
        lookup(|entry, buffer, result| {
            // SAFETY: every pointer is valid for the call, and the buffer's length is its own.
            unsafe {
                libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result)
            }
        })
    }

    /// The user with the number `uid`.
    pub(crate) fn by_uid(uid: u32) -> Result<Option<Self>> {
        lookup(|entry, buffer, result| {
            // SAFETY: as above.
            unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), result) }
        })
    }
}

fn lookup(
    call: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> libc::c_int,
) -> Result<Option<OsUser>> {
    let mut buffer = vec![0 as libc::c_char; 4096];
    loop {
        // SAFETY: passwd is plain old data, and all zeroes is a valid value of it.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut result = std::ptr::null_mut();
        match call(&mut entry, &mut buffer, &mut result) {
            0 if result.is_null() => return Ok(None),
            0 => {
                // SAFETY: on success pw_name points to a NUL-terminated string in `buffer`.
                let name = unsafe { std::ffi::CStr::from_ptr(entry.pw_name) };
                return Ok(Some(OsUser {
                    name: name.to_string_lossy().into_owned(),
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                }));
            }
            libc::ERANGE if buffer.len() < 1 << 20 => {
                let longer = buffer.len() * 2;
                buffer.resize(longer, 0);
            }
            libc::ENOENT | libc::ESRCH => return Ok(None),
            code => {
                return Err(Error::io("look up a user", std::io::Error::from_raw_os_error(code)));
            }
        }
    }
}

/// Checks that `user` can pass every folder from the root down to `path`, which `variable` can set.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`], naming the first folder that it cannot pass.
pub(crate) fn check_passable(path: &Path, user: &OsUser, variable: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let mut folders: Vec<_> = path.ancestors().collect();
    folders.reverse();
    for folder in folders {
        let metadata = std::fs::metadata(folder)
            .map_err(|e| Error::io(format!("look at {}", folder.display()), e))?;
        let passable = if metadata.uid() == user.uid {
            metadata.mode() & 0o100 != 0
        } else if metadata.gid() == user.gid {
            metadata.mode() & 0o010 != 0
        } else {
            metadata.mode() & 0o001 != 0
        };
        if !passable {
            let shown = folder.display();
            let hint = match metadata.uid() {
                owner if owner == 0 || owner == user.uid => format!(
                    "chmod o+x {shown}, or set {variable} to a folder that everybody can enter"
                ),
                // It was closed by whoever it belongs to.
                owner => format!(
                    "run it as {}, whose folder that is, or set {variable} to a folder that everybody \
                     can enter",
                    OsUser::name_of(owner)?
                ),
            };
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("servers run as the user {}, who cannot enter {shown}", user.name),
            )
            .with_hint(hint));
        }
    }
    Ok(())
}
