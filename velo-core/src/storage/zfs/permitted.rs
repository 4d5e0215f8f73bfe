//! Whether ZFS would work here, told by what can be read: for those who only look, and for whom
//! nothing is to be made in a pool.
//!
//! All that a try could run into can be read: the pool, the dataset, its key, what `zfs allow` gives
//! and what sudo would run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::faults::Fault;
use super::names::Parent;
use super::{Zfs, delegate, explain, mounts, passable, program, properties};
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::os_user::OsUser;
use crate::storage::StorageConfig;

/// An error if something is missing that a volume needs.
pub(crate) async fn would_work(config: &StorageConfig) -> Result<()> {
    let zfs = Zfs::new(config)?;
    let parent = zfs.parent();
    if let Some(error) = explain::machine(parent).await {
        return Err(error);
    }
    let doing = format!("make a volume in {}", parent.as_str());
    let explain = async |fault| match fault {
        Fault::Missing => zfs.no_parent().await,
        fault => zfs.explain(fault, &doing, parent.as_str(), &config.root).await,
    };
    let args = ["-o", "property,value", "type,readonly,keystatus", parent.as_str()];
    let text = match program::get(&args).await {
        Ok(text) => text,
        Err(fault) => return Err(explain(fault).await),
    };
    for [property, value] in properties::rows(&text) {
        match (property, value) {
            ("keystatus", "unavailable") => return Err(explain(Fault::NoKey).await),
            ("type", "volume") => return Err(cannot_hold(parent, "is a block device")),
            ("readonly", "on") => return Err(cannot_hold(parent, "is read-only")),
            _ => {}
        }
    }
    if is_privileged() {
        return Ok(());
    }
    let said = match program::ask("zfs", &["allow", parent.as_str()]).await {
        Ok(said) => said,
        Err(fault) => return Err(explain(fault).await),
    };
    let (user, groups) = (mounts::user(), groups().await?);
    let allowed = Allowed::read(&said, parent.as_str(), |kind, name| match kind {
        "user" => name == user,
        "group" => groups.contains(name),
        _ => true,
    });
    let wanted = delegate::below(zfs.properties.iter().map(|(name, _)| name));
    if !allowed.has(&wanted) {
        return Err(explain(Fault::Denied).await);
    }
    if let Some(closed) = passable::closed_to_us(&zfs.layout.folder) {
        return Err(passable::cannot_enter(&user, &closed));
    }
    match would_mount(parent, &zfs.layout.folder).await {
        true => Ok(()),
        false => Err(mounts::not_allowed(parent.as_str(), &zfs.layout.folder)),
    }
}

fn cannot_hold(parent: &Parent, why: &str) -> Error {
    let parent = parent.as_str();
    Error::new(ErrorKind::Unsupported, format!("{parent} can hold no volumes: it {why}"))
        .with_hint("set VELO_ZFS_DATASET to a dataset that can be written to")
}

/// Whether this process mounts by itself, and is asked for no permission by ZFS.
fn is_privileged() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// The names of this process's groups.
async fn groups() -> Result<BTreeSet<String>> {
    let said = Program::new("id").arg("-Gn").output(program::LIMIT).await?.stdout;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// Whether sudo would mount it, as it says itself without doing it. To whom another rule gives
/// something without a password it does not say whether this one wants one.
async fn would_mount(parent: &Parent, folder: &Path) -> bool {
    let id = Id::generate();
    let (Some(zfs), Some(sudo)) = (program::find_for_sudo("zfs"), program::find("sudo")) else {
        return false;
    };
    let asked = Program::new(sudo).args(["-n", "-l"]).arg(zfs).args(["mount", &parent.volume(id)]);
    asked.output(program::LIMIT).await.is_ok_and(|output| output.success)
        // It lists what wants a password as well: a rule that comes later may say that of all.
        && removes_nothing(folder, id).await
}

/// Whether sudo runs what the rule names: here to remove the folder of a volume that there never was.
async fn removes_nothing(folder: &Path, id: Id) -> bool {
    let (Some(rmdir), Some(never)) = (program::find_for_sudo("rmdir"), never_there(folder, id))
    else {
        return false;
    };
    program::sudo(&rmdir, &[&never]).await != Err(Fault::Denied)
}

fn never_there(folder: &Path, id: Id) -> Option<String> {
    Some(folder.join(Parent::leaf(id)).to_str()?.to_owned())
}

/// Why sudo does not go by a rule for `user` that is there, asked as that user. Only root can ask; where that
/// is not to be found out nothing is the matter.
pub(crate) async fn disobeys(user: &OsUser, folder: &Path) -> Option<String> {
    let rmdir = program::find_for_sudo("rmdir")?;
    let never = never_there(folder, Id::generate())?;
    let asked = passable::as_user(user).args(["sudo", "-n"]).arg(rmdir).arg(never);
    let output = asked.output(program::LIMIT).await.ok().filter(|output| !output.success)?;
    // It is run where the folder is missed, and not even asked for where setpriv cannot do that.
    program::is_of_sudo(&output.stderr).then(|| {
        let line = output.stderr.lines().rfind(|line| !line.trim().is_empty());
        line.unwrap_or_default().to_owned()
    })
}

/// What somebody may do, as `zfs allow` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// On the dataset itself.
    pub(crate) here: BTreeSet<String>,
    /// On what is below it.
    pub(crate) below: BTreeSet<String>,
}

impl Allowed {
    /// What volumes need which need `below`.
    pub(crate) fn of_volumes(below: BTreeSet<String>) -> Self {
        Self { here: delegate::ON_DATASET.map(str::to_owned).into(), below }
    }

    /// Reads what was given to `user` on the dataset itself, by name, or by number where it has none. That alone `zfs unallow` takes
    /// back there: not what a dataset above gives, and of a set not one of its permissions.
    pub(crate) fn own(said: &str, dataset: &str, user: &str) -> Self {
        let mut is_here = false;
        let own = said.lines().filter(|line| {
            if let Some(rest) = line.strip_prefix("---- Permissions on ") {
                is_here = rest.split(' ').next() == Some(dataset);
            }
            is_here && !line.starts_with("\t@")
        });
        let own = own.collect::<Vec<_>>().join("\n");
        Self::read(&own, dataset, |kind, name| kind == "user" && name == user)
    }

    /// Reads what `zfs allow <dataset>` prints: what was given on the dataset, and on each above it.
    /// `is_theirs` tells of a `user`, a `group` and `everyone` whether it is them.
    pub(crate) fn read(said: &str, dataset: &str, is_theirs: impl Fn(&str, &str) -> bool) -> Self {
        let mut sets = BTreeMap::<&str, Vec<&str>>::new();
        let mut allowed = Self::default();
        let (mut is_here, mut part) = (false, "");
        for line in said.lines() {
            if let Some(rest) = line.strip_prefix("---- Permissions on ") {
                is_here = rest.split(' ').next() == Some(dataset);
                // A set of a dataset above may have the same name, and another content.
                sets.clear();
                continue;
            }
            let Some(line) = line.strip_prefix('\t') else {
                part = line;
                continue;
            };
            let words: Vec<&str> = line.split(' ').collect();
            let (theirs, permissions) = match words[..] {
                [set, permissions] if set.starts_with('@') => {
                    sets.insert(set, permissions.split(',').collect());
                    continue;
                }
                [kind @ ("user" | "group"), name, permissions] => {
                    (is_theirs(kind, name), permissions)
                }
                // An account that is no more, by its number.
                [kind @ ("user" | "group"), "(unknown:", number, permissions] => {
                    (is_theirs(kind, number.trim_end_matches(')')), permissions)
                }
                ["everyone", permissions] => (is_theirs("everyone", ""), permissions),
                _ => continue,
            };
            if !theirs {
                continue;
            }
            let (local, descendent) = match part {
                "Local permissions:" => (true, false),
                "Descendent permissions:" => (false, true),
                "Local+Descendent permissions:" => (true, true),
                _ => continue,
            };
            for permission in permissions.split(',') {
                let one = [permission];
                let all = sets.get(permission).map_or(&one[..], Vec::as_slice);
                let all = all.iter().map(|name| (*name).to_owned());
                match is_here {
                    true if local => allowed.here.extend(all.clone()),
                    // What is below another is here.
                    false if descendent => allowed.here.extend(all.clone()),
                    _ => {}
                }
                if descendent {
                    allowed.below.extend(all);
                }
            }
        }
        allowed
    }

    /// Whether it is enough for volumes that need `below`.
    pub(crate) fn has(&self, below: &BTreeSet<String>) -> bool {
        delegate::ON_DATASET.iter().all(|name| self.here.contains(*name))
            && below.is_subset(&self.below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OpenZFS 2.1 prints it.
    const SAID: &str = "\
---- Permissions on tank/velo ----------------------------------------
Permission sets:
\t@set snapdir,userprop
Create time permissions:
\tsend
Local permissions:
\tuser ann create
Descendent permissions:
\tuser ann atime,canmount,clone,compression,recordsize,refquota,snapshot
Local+Descendent permissions:
\tuser ann logbias,mount
\tuser an create,mount
\tgroup staff @set
\teveryone hold
---- Permissions on tank ---------------------------------------------
Local permissions:
\tuser ann quota
Descendent permissions:
\tuser ann destroy
";

    #[test]
    fn what_zfs_says_of_permissions() {
        let read = |said, kinds: &[&str]| {
            Allowed::read(said, "tank/velo", |kind, name| {
                kinds.contains(&kind) && ["ann", "staff", ""].contains(&name)
            })
        };
        let all = read(SAID, &["user", "group", "everyone"]);
        assert!(all.has(&delegate::below(["logbias", "velo:home"])), "{all:?}");
        assert!(!all.has(&delegate::below(["primarycache"])), "{all:?}");
        for (name, here, below) in [
            ("create", true, false),
            ("mount", true, true),
            ("atime", false, true),
            ("destroy", true, true),
            ("quota", false, false),
            ("hold", true, true),
            ("send", false, false),
        ] {
            assert_eq!(all.here.contains(name), here, "{name}");
            assert_eq!(all.below.contains(name), below, "{name}");
        }
        assert!(!read(SAID, &["user"]).has(&delegate::below([""; 0])));
        assert_eq!(read("", &["user"]), Allowed::default());
    }

    #[test]
    fn what_can_be_taken_back_was_given_here_and_by_name() {
        let said = SAID.replace("user an create,mount", "user an @set,create,mount");
        let set = |names: &str| names.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        let ann = Allowed::own(&said, "tank/velo", "ann");
        assert_eq!(ann.here, set("create,logbias,mount"));
        assert_eq!(
            ann.below,
            set("atime,canmount,clone,compression,logbias,mount,recordsize,refquota,snapshot")
        );
        let an = Allowed::own(&said, "tank/velo", "an");
        assert_eq!((an.here, an.below), (set("@set,create,mount"), set("@set,create,mount")));
        assert_eq!(Allowed::own(&said, "tank/velo", "bob"), Allowed::default());
        // As it is printed once the account is deleted.
        let gone = said.replace("user ann", "user (unknown: 1001)");
        assert_eq!(Allowed::own(&gone, "tank/velo", "1001"), ann);
        for other in ["ann", "100", "(unknown:", "unknown"] {
            assert_eq!(Allowed::own(&gone, "tank/velo", other), Allowed::default(), "{other}");
        }
    }
}
