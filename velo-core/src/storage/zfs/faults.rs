//! What can be in the way of a call, whichever way to the kernel it took.

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The dataset or snapshot, or the parent of a new one, does not exist.
    Missing,
    Exists,
    /// An open file, another mount namespace, or a hold.
    Busy,
    /// Clones need the snapshot.
    HasClones,
    /// The dataset has snapshots or datasets of its own.
    HasChildren,
    Denied,
    /// The pool, or a quota, is full.
    Full,
    /// A quota below what the volume holds already.
    QuotaTooSmall,
    /// An encrypted dataset's key is not loaded.
    NoKey,
    /// The pool is suspended, or its devices fail.
    Unwell,
    /// The kernel's module is not loaded, or `/dev/zfs` is missing.
    NoModule,
    /// There is no program `zfs`.
    NoProgram,
    /// What the program or the kernel said, where Velo knows no more.
    Other(String),
}

/// What the programs say, each with what it means: from 2.1 to 2.4 they use the same words, but for a
/// snapshot that is held.
const SAYINGS: [(&str, Fault); 24] = [
    ("dataset already exists", Fault::Exists),
    ("dependent clones", Fault::HasClones),
    ("filesystem has children", Fault::HasChildren),
    ("has snapshots", Fault::HasChildren),
    ("permission denied", Fault::Denied),
    ("Permission denied", Fault::Denied),
    ("dataset is busy", Fault::Busy),
    ("target is busy", Fault::Busy),
    ("it's being held", Fault::Busy),
    ("modules are not loaded", Fault::NoModule),
    ("modules cannot be auto-loaded", Fault::NoModule),
    ("/dev/zfs and /proc/self/mounts are required", Fault::NoModule),
    ("Unable to open /dev/zfs", Fault::NoModule),
    ("size is less than current used", Fault::QuotaTooSmall),
    ("out of space", Fault::Full),
    ("quota exceeded", Fault::Full),
    ("encryption key not loaded", Fault::NoKey),
    ("key must be loaded", Fault::NoKey),
    ("key is not loaded", Fault::NoKey),
    ("I/O is currently suspended", Fault::Unwell),
    ("dataset does not exist", Fault::Missing),
    ("no such pool", Fault::Missing),
    ("could not find any snapshots to destroy", Fault::Missing),
    ("does not exist", Fault::Missing),
];

/// Reads a program's standard error.
pub(super) fn of_stderr(text: &str) -> Fault {
    SAYINGS.iter().find(|(saying, _)| text.contains(saying)).map_or_else(
        || Fault::Other(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        |(_, fault)| fault.clone(),
    )
}

/// Reads an error number of libzfs_core.
#[cfg(feature = "libzetta")]
pub(super) fn of_errno(number: i32) -> Fault {
    match number {
        libc::ENOENT => Fault::Missing,
        libc::EEXIST => Fault::Exists,
        libc::EBUSY => Fault::Busy,
        libc::EPERM | libc::EACCES => Fault::Denied,
        libc::ENOSPC | libc::EDQUOT => Fault::Full,
        libc::EAGAIN => Fault::Unwell,
        _ => Fault::Other(std::io::Error::from_raw_os_error(number).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the programs of OpenZFS 2.1 to 2.4 print it with `LC_ALL=C`.
    #[test]
    fn what_programs_say_is_understood() {
        for (text, fault) in [
            ("cannot open 'tank/x': dataset does not exist\n", Fault::Missing),
            ("cannot open 'nope': no such pool\n", Fault::Missing),
            ("could not find any snapshots to destroy; check snapshot names.\n", Fault::Missing),
            ("cannot create snapshot 'tank/v@s': dataset already exists\n", Fault::Exists),
            ("cannot create 'tank/v': dataset already exists\n", Fault::Exists),
            ("cannot destroy 'tank/v': dataset is busy\n", Fault::Busy),
            ("cannot destroy snapshot tank/v@s: dataset is busy\n", Fault::Busy),
            (
                "cannot destroy snapshot tank/v@s: it's being held. Run 'zfs holds -r tank/v@s' to see \
                 holders.\n",
                Fault::Busy,
            ),
            (
                "cannot destroy 'tank/v@s': snapshot has dependent clones\nuse '-R' to destroy the \
                 following datasets:\ntank/c\n",
                Fault::HasClones,
            ),
            (
                "cannot destroy 'tank/v': filesystem has children\nuse '-r' to destroy the following \
                 datasets:\ntank/v@s\n",
                Fault::HasChildren,
            ),
            ("cannot create 'tank/v': permission denied\n", Fault::Denied),
            (
                "The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load \
                 them.\n",
                Fault::NoModule,
            ),
            ("cannot create 'tank/v': out of space\n", Fault::Full),
            (
                "cannot set property for 'tank/v': size is less than current used or reserved \
                 space\n",
                Fault::QuotaTooSmall,
            ),
            ("cannot mount 'tank/v': encryption key not loaded\n", Fault::NoKey),
            (
                "cannot create 'tank/v': encryption root's key is not loaded or provided\n",
                Fault::NoKey,
            ),
            ("cannot frob\n 'tank/v'\n", Fault::Other("cannot frob 'tank/v'".into())),
        ] {
            assert_eq!(of_stderr(text), fault, "{text}");
        }
    }
}
