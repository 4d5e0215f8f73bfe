//! Looking at processes as the user whose they are.
//!
//! Root in a container has no CAP_SYS_PTRACE as a rule, and without it the kernel shows nobody but a process's own user
//! where that works and what it reads.

use std::fs::Metadata;
use std::io::{ErrorKind, Result};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

/// Does `look`, and where that is denied does it as the user whom the server's file `of` belongs to.
pub(super) fn seen_by<T>(of: &Metadata, look: impl Fn() -> Result<T>) -> Result<T> {
    match look() {
        Err(e) if e.kind() == ErrorKind::PermissionDenied && is_anothers(of) => {
            let _owner = AsOwner::become_it(of.uid(), of.gid());
            look()
        }
        seen => seen,
    }
}

fn is_anothers(of: &Metadata) -> bool {
    let own = rustix::process::geteuid();
    own.is_root() && of.uid() != own.as_raw()
}

/// As long as it lives this thread, and no other one, meets files as another user.
struct AsOwner {
    uid: libc::uid_t,
    gid: libc::gid_t,
    /// It is this thread's.
    _here: PhantomData<*const ()>,
}

impl AsOwner {
    /// Where it is not allowed nothing changes, and the look is denied again.
    fn become_it(uid: libc::uid_t, gid: libc::gid_t) -> Self {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // SAFETY: both change who this thread is to file systems, no memory and no other thread. The group first: the
        // user that is no root may not change it.
        unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
        }
        Self { uid: own.0, gid: own.1, _here: PhantomData }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // SAFETY: as above. The effective ids are always allowed.
        unsafe {
            libc::setfsuid(self.uid);
            libc::setfsgid(self.gid);
        }
    }
}
