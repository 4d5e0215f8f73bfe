//! What a normal user needs to be given, as the lines that root runs once.
//!
//! `zfs allow` gives everything but mounting, which on Linux is root's. A rule for sudo gives that,
//! for the volumes of one dataset and nothing else. The user is **not** given the property
//! `mountpoint`: with it, the rule would mount whatever the user likes over `/etc`. So the volumes
//! of a normal user are mounted where they inherit it, below the mount point of their parent, whose
//! folder had better be root's. Nor may the user destroy that parent, or change it: on the dataset
//! itself there is only what making a child of it needs.

use std::collections::BTreeSet;
use std::path::Path;

use super::permitted::Allowed;
use super::program::{find, find_for_sudo};

/// On the dataset itself. To make a child is all that they are good for there.
pub const ON_DATASET: [&str; 2] = ["create", "mount"];

/// On what is below it, beside the properties of volumes.
const BELOW: [&str; 8] =
    ["canmount", "clone", "destroy", "mount", "refquota", "snapdir", "snapshot", "userprop"];

/// On what is below it. `properties` are those that the settings give volumes: a property that is
/// not the user's to set makes every creation fail.
#[must_use]
pub fn below(properties: impl IntoIterator<Item = impl AsRef<str>>) -> BTreeSet<String> {
    let own = super::properties::DEFAULTS.map(|(name, _)| name);
    let all = BELOW.into_iter().chain(own).map(str::to_owned);
    all.chain(properties.into_iter().map(|name| name.as_ref().to_owned()))
        // A user property is allowed as such.
        .filter(|name| !name.contains(':'))
        .collect()
}

/// The arguments of `zfs` that give `user` this on `dataset`, call by call.
#[must_use]
pub(crate) fn allow_calls(user: &str, dataset: &str, given: &Allowed) -> Vec<Vec<String>> {
    calls("allow", user, dataset, given)
}

/// The arguments of `zfs` that take it back.
#[must_use]
pub(crate) fn unallow_calls(user: &str, dataset: &str, given: &Allowed) -> Vec<Vec<String>> {
    calls("unallow", user, dataset, given)
}

fn calls(verb: &str, user: &str, dataset: &str, given: &Allowed) -> Vec<Vec<String>> {
    let parts = [("-l", &given.here), ("-d", &given.below)];
    let some = parts.into_iter().filter(|(_, permissions)| !permissions.is_empty());
    some.map(|(part, permissions)| {
        let permissions = permissions.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        [verb, part, "-u", user, &permissions, dataset].map(str::to_owned).to_vec()
    })
    .collect()
}

/// Calls of `zfs`, as a shell would take them.
pub(crate) fn shown(calls: &[Vec<String>]) -> String {
    let lines: Vec<_> = calls.iter().map(|call| format!("zfs {}", call.join(" "))).collect();
    lines.join(" && ")
}

/// How an id is matched: sudo's `*` would match spaces and options too.
fn leaf() -> String {
    format!("v-{}", "[0-9a-z]".repeat(26))
}

/// The line that lets `user` make and destroy volumes with these properties below `dataset`.
#[must_use]
pub fn allow(
    user: &str,
    dataset: &str,
    properties: impl IntoIterator<Item = impl AsRef<str>>,
) -> String {
    shown(&allow_calls(user, dataset, &Allowed::of_volumes(below(properties))))
}

/// The rule for sudo that lets `user` mount and unmount the volumes below `dataset`, which is mounted
/// at `mountpoint`, and remove their empty folders there.
#[must_use]
pub fn sudoers(user: &str, dataset: &str, mountpoint: &Path) -> String {
    let [zfs, rmdir] = PROGRAMS.map(|(name, usual)| {
        find_for_sudo(name).map_or_else(|| usual.to_owned(), |path| path.display().to_string())
    });
    let (leaf, folder) = (leaf(), mountpoint.display());
    let probe = leaf.replacen("v-", "v-probe-", 1);
    let rules: Vec<String> = [leaf, probe]
        .iter()
        .flat_map(|leaf| {
            [
                format!("{zfs} mount {dataset}/{leaf}"),
                format!("{zfs} unmount {dataset}/{leaf}"),
                format!("{rmdir} {folder}/{leaf}"),
            ]
        })
        .collect();
    format!("{user} ALL=(root) NOPASSWD: {}", rules.join(", "))
}

/// The line that writes the rule.
#[must_use]
pub fn install_sudoers(user: &str, dataset: &str, mountpoint: &Path) -> String {
    let file = Path::new(SUDOERS).join(rule_name(user, dataset));
    let (rule, file) = (sudoers(user, dataset, mountpoint), file.display());
    format!("echo '{rule}' > {file} && chmod 440 {file}")
}

/// What is the matter where sudo does not go by a rule that is there.
pub(crate) const DISOBEYED: &str = "sudo does not go by it: `sudo -l` shows whether a rule that comes later \
     wants a password, and `sudo --version` whether it is sudo-rs, which knows no patterns in arguments (on \
     Ubuntu, as root: update-alternatives --set sudo /usr/bin/sudo.ws)";

/// The folder of sudo's rules.
pub const SUDOERS: &str = "/etc/sudoers.d";

/// The name of the rule's file. sudo skips names with a dot, and of several rules the last one counts, so that
/// it comes late. Each user and dataset has one of its own.
#[must_use]
pub fn rule_name(user: &str, dataset: &str) -> String {
    let mut name = "zz-velo".to_owned();
    for part in [user, dataset] {
        name.push('-');
        for byte in part.bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(byte.into()),
                other => name.push_str(&format!("_{other:02x}")),
            }
        }
    }
    name
}

/// The programs that the rule names, and where they usually are.
const PROGRAMS: [(&str, &str); 2] = [("zfs", "/usr/sbin/zfs"), ("rmdir", "/usr/bin/rmdir")];

/// Why no rule may be given here: what it would name is missing, or not root's alone.
pub(crate) fn unsafe_program() -> Option<String> {
    let missing = PROGRAMS.iter().find(|(name, _)| find_for_sudo(name).is_none());
    missing.map(|(name, _)| match find(name) {
        Some(path) => format!("{} is not root's alone to replace", path.display()),
        None => format!("there is no program {name}"),
    })
}

/// Why the rule must not be given for a folder: whoever may write there, or above it, could put a link
/// in the place of a volume's folder, and so mount over any other; and what sudo or a shell reads as
/// something else would be another rule. `None` if it may be given.
#[must_use]
pub fn unsafe_folder(folder: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/-_.+@".contains(b);
    if !folder.as_os_str().as_encoded_bytes().iter().all(plain) {
        return Some(format!("{:?} is no name for a rule of sudo", folder.display().to_string()));
    }
    folder.ancestors().find_map(|folder| match folder.symlink_metadata() {
        Ok(m) if m.uid() == 0 && m.mode() & 0o022 == 0 => None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("{} is not there (zfs mount, perhaps)", folder.display()))
        }
        _ => Some(format!("{} is not root's alone to write to", folder.display())),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_rule_names_volumes_and_nothing_else() {
        let rule = sudoers("ann", "tank/velo", Path::new("/tank/velo"));
        assert!(rule.starts_with("ann ALL=(root) NOPASSWD: /"), "{rule}");
        assert!(!rule.contains('*'), "{rule}");
        assert_eq!(rule.matches("[0-9a-z]").count(), 26 * 6, "{rule}");
        let names = [("a.b", "p/x"), ("a_b", "p/x"), ("a.b", "p/y"), ("a.b", "p_x")];
        let names: std::collections::HashSet<_> =
            names.into_iter().map(|(user, dataset)| rule_name(user, dataset)).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.iter().all(|name| !name.contains(['.', '/', '~'])), "{names:?}");
        assert_eq!(unsafe_folder(Path::new("/")), None);
        let open = tempfile::tempdir().unwrap();
        std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let why = unsafe_folder(open.path()).unwrap();
        assert!(why.contains("is not root's"), "{why}");
        let missing = unsafe_folder(Path::new("/nowhere/x")).unwrap();
        assert!(missing.contains("/nowhere/x is not there"), "{missing}");
        for odd in ["/srv/a*b", "/srv/a b", "/srv/a,b", "/srv/a'b", "/srv/a:b"] {
            let why = unsafe_folder(Path::new(odd)).unwrap();
            assert!(why.contains(odd) && why.contains("sudo"), "{why}");
        }
    }

    #[test]
    fn the_dataset_itself_is_not_given_away() {
        let line = allow("ann", "tank/velo", ["logbias", "recordsize", "velo:home"]);
        assert_eq!(
            line,
            "zfs allow -l -u ann create,mount tank/velo && zfs allow -d -u ann atime,canmount,clone,\
             compression,destroy,logbias,mount,recordsize,refquota,snapdir,snapshot,userprop tank/velo"
        );
    }
}
