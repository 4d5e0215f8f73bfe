//! Acting on a server's processes and memory as the user whose they are.
//!
//! Root in a container has no CAP_SYS_PTRACE as a rule, and without it the kernel shows nobody but a process's own user
//! where that works and what it reads. And what the server's user has written down is done with no more than its rights.

use std::fs::Metadata;
use std::io::{ErrorKind, Result};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

/// Does `look`, and where that is denied does it as the user whom the server's file `of` belongs to.
pub(super) fn seen_by<T>(of: &Metadata, look: impl Fn() -> Result<T>) -> Result<T> {
    match look() {
        Err(e) if e.kind() == ErrorKind::PermissionDenied && is_anothers(of) => {
            // Where this is not allowed either, it stays denied.
            done_by(of, look).or(Err(e))
        }
        seen => seen,
    }
}

/// Does `work` as the user whom the server's file `of` belongs to, if this is root.
///
/// # Errors
/// Those of `work`, and that this process may not become that user.
pub(super) fn done_by<T>(of: &Metadata, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _owner = if is_anothers(of) { Some(AsOwner::become_it(of)?) } else { None };
    work()
}

fn is_anothers(of: &Metadata) -> bool {
    let own = rustix::process::geteuid();
    own.is_root() && of.uid() != own.as_raw()
}

/// As long as it lives this thread, and no other one, is another user.
struct AsOwner {
    uid: Uid,
    gid: Gid,
    /// It is this thread's.
    _here: PhantomData<*const ()>,
}

impl AsOwner {
    fn become_it(of: &Metadata) -> Result<Self> {
        let own = Self {
            uid: rustix::process::geteuid(),
            gid: rustix::process::getegid(),
            _here: PhantomData,
        };
        // The group first: the user that is no root may not change it. What was done of it is undone by the drop.
        set_thread_res_gid(None, Gid::from_raw(of.gid()), None)?;
        set_thread_res_uid(None, Uid::from_raw(of.uid()), None)?;
        Ok(own)
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // To have back what one really is, is always allowed.
        let user = set_thread_res_uid(None, self.uid, None);
        let group = set_thread_res_gid(None, self.gid, None);
        debug_assert!(user.is_ok() && group.is_ok());
    }
}
