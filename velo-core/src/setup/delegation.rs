//! A dataset of an existing pool, given to a user who is not root.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::given::{self, both, common, without};
use super::{LIMIT, Setup, Step, missing, need, need_root, owner, present, run};
use crate::command::Program;
use crate::config::Config;
use crate::engine::{self, Call};
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;
use crate::storage::zfs::permitted::{self, Allowed};
use crate::storage::zfs::{delegate, passable};

/// A dataset below which a user may make volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delegation {
    /// The dataset, like `tank/velo`; made if it is missing.
    pub dataset: String,
    /// Who is to use it.
    pub user: String,
    /// The properties of volumes that the user may set beside Velo's own: those of the user's
    /// settings (`zfs_properties`).
    pub properties: Vec<String>,
    /// The folder of sudo's rules.
    pub sudoers: PathBuf,
}

impl Delegation {
    /// Gives `dataset` to `user`.
    #[must_use]
    pub fn new(dataset: impl Into<String>, user: impl Into<String>) -> Self {
        let (dataset, user) = (dataset.into(), user.into());
        Self { dataset, user, properties: Vec::new(), sudoers: delegate::SUDOERS.into() }
    }

    /// Lets the user set the properties that these settings give volumes.
    #[must_use]
    pub fn properties_of(mut self, config: &Config) -> Self {
        self.properties = config.zfs_properties.keys().cloned().collect();
        self
    }

    /// What gives it to the user.
    async fn giving(&self, uid: u32) -> Result<Vec<DelegationStep>> {
        let (dataset, user) = (self.dataset.clone(), self.user.clone());
        let wanted = Allowed::of_volumes(delegate::below(&self.properties));
        let said = permissions(&dataset).await?;
        let has = Allowed::read(&said, &dataset, |kind, name| kind == "user" && name == user);
        let own = Allowed::own(&said, &dataset, &user);
        let before = given::recorded(&dataset, uid).await?;
        let (given, after) = match has.has(&wanted.below) {
            true => (Allowed::default(), before.clone()),
            false => {
                // What was given earlier and taken back by hand since is in the record all the same.
                let given = without(&wanted, &own);
                let after = both(&common(&before, &own), &given);
                (given, after)
            }
        };
        Ok(vec![
            DelegationStep::Dataset { dataset: dataset.clone(), made: !exists(&dataset).await? },
            DelegationStep::Record {
                dataset: dataset.clone(),
                uid,
                name: user.clone(),
                before,
                after,
            },
            DelegationStep::Allow { dataset, user, given },
            self.rule(will_be_at(&self.dataset).await?),
        ])
    }

    /// What setups gave the user, as steps that were done: under the number that the name has, and those that
    /// it had when something was given.
    async fn given(&self) -> Result<Vec<DelegationStep>> {
        let (dataset, now) = (&self.dataset, OsUser::by_name(&self.user)?.map(|user| user.uid));
        let mut numbers = given::numbers_of(dataset, &self.user).await?;
        numbers.extend(now.filter(|uid| !numbers.contains(uid)));
        let mut steps = Vec::new();
        for uid in numbers {
            // Of an account that is deleted ZFS has no more than the number, which may be another's by now.
            let user = OsUser::by_uid(uid)?.map_or_else(|| uid.to_string(), |user| user.name);
            let after = given::recorded(dataset, uid).await?;
            let given = common(&after, &Allowed::own(&permissions(dataset).await?, dataset, &user));
            let (dataset, before) = (dataset.clone(), Allowed::default());
            let name = self.user.clone();
            steps.push(DelegationStep::Record {
                dataset: dataset.clone(),
                uid,
                name,
                before,
                after,
            });
            steps.push(DelegationStep::Allow { dataset, user, given });
        }
        let rule = self.rule(will_be_at(dataset).await?);
        if steps.is_empty() && !rule.is_there().await? {
            owner(&self.user)?;
        }
        steps.push(rule);
        Ok(steps)
    }

    fn rule(&self, at: PathBuf) -> DelegationStep {
        let (dataset, user) = (self.dataset.clone(), self.user.clone());
        let file = self.sudoers.join(delegate::rule_name(&user, &dataset));
        DelegationStep::Rule { dataset, user, at, file }
    }

    fn check(&self) -> Result<()> {
        crate::storage::zfs::check_dataset(&self.dataset)?;
        // A value that every name may have.
        let any = |name: &String| (name.clone(), "8k".to_owned());
        crate::storage::zfs::check_properties(&self.properties.iter().map(any).collect())?;
        need_root()
    }
}

impl Setup {
    /// What is still to be done so that a user who is not root can work below a dataset.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if this is not root, [`ErrorKind::NotFound`] if there is no such
    /// user or pool, [`ErrorKind::Unsupported`] if a program is missing.
    pub async fn delegation(delegation: &Delegation) -> Result<Self> {
        Self::delegation_call(delegation).await
    }

    pub(crate) fn delegation_call(delegation: &Delegation) -> Call<Self> {
        let delegation = delegation.clone();
        engine::call(move |_| async move {
            delegation.check()?;
            let uid = owner(&delegation.user)?.uid;
            need("zfs", "apt-get install zfsutils-linux zfs-dkms").await?;
            let steps = missing(delegation.giving(uid).await?).await?;
            Ok(Self { steps, journal: None, undoing: false, _alone: None })
        })
    }

    /// What takes back what delegations gave to the user, whatever their properties were, and nothing
    /// that the user had before. The dataset stays, with all that is in it. The user's account may be
    /// deleted already.
    ///
    /// # Errors
    /// As [`delegation`](Self::delegation).
    pub async fn undo_delegation(delegation: &Delegation) -> Result<Self> {
        Self::undo_delegation_call(delegation).await
    }

    pub(crate) fn undo_delegation_call(delegation: &Delegation) -> Call<Self> {
        let delegation = delegation.clone();
        engine::call(move |_| async move {
            delegation.check()?;
            let steps = present(delegation.given().await?).await?;
            Ok(Self { steps, journal: None, undoing: true, _alone: None })
        })
    }
}

#[derive(Debug)]
enum DelegationStep {
    /// The dataset. Only a run that fails takes it back, and only if it has `made` it: later it may hold
    /// what somebody needs.
    Dataset { dataset: String, made: bool },
    /// What setups have given the user, before this one and with it.
    Record { dataset: String, uid: u32, name: String, before: Allowed, after: Allowed },
    /// What ZFS lets the user do from now on: make children of it, and all that volumes need with those.
    Allow { dataset: String, user: String, given: Allowed },
    /// What sudo lets the user do: mounting. `at` is where the dataset is mounted, or is going to be.
    Rule { dataset: String, user: String, at: PathBuf, file: PathBuf },
}

#[async_trait]
impl Step for DelegationStep {
    fn doing(&self) -> String {
        match self {
            Self::Dataset { dataset, .. } => format!("zfs create {dataset}"),
            Self::Record { dataset, uid, name, after, .. } => {
                delegate::shown(&[given::record_call(dataset, *uid, name, after)])
            }
            Self::Allow { dataset, user, given } => {
                delegate::shown(&delegate::allow_calls(user, dataset, given))
            }
            Self::Rule { dataset, user, at, file } => {
                format!("echo '{}' > {}", delegate::sudoers(user, dataset, at), file.display())
            }
        }
    }

    fn undoing(&self) -> String {
        match self {
            Self::Dataset { dataset, .. } => format!("zfs destroy {dataset}"),
            Self::Record { dataset, uid, name, before, .. } => {
                delegate::shown(&[given::record_call(dataset, *uid, name, before)])
            }
            Self::Allow { dataset, user, given } => {
                delegate::shown(&delegate::unallow_calls(user, dataset, given))
            }
            Self::Rule { file, .. } => format!("rm {}", file.display()),
        }
    }

    async fn is_done(&self) -> Result<bool> {
        Ok(match self {
            Self::Dataset { dataset, .. } => exists(dataset).await?,
            // What an account that is deleted had is this one's now, and goes with it.
            Self::Record { dataset, uid, name, after, .. } => {
                given::is_recorded(dataset, *uid, name, after).await?
            }
            Self::Allow { dataset, user, given } => {
                without(given, &own(dataset, user).await?) == Allowed::default()
            }
            Self::Rule { dataset, user, file, .. } => match mountpoint(dataset).await? {
                Some(at) => {
                    let rule = delegate::sudoers(user, dataset, Path::new(&at));
                    let is_written =
                        std::fs::read_to_string(file).is_ok_and(|text| text.trim_end() == rule);
                    is_written && disobeyed(file, user, Path::new(&at)).await?.is_none()
                }
                None => false,
            },
        })
    }

    async fn is_there(&self) -> Result<bool> {
        Ok(match self {
            Self::Dataset { dataset, made } => *made && exists(dataset).await?,
            Self::Record { dataset, uid, before, .. } => {
                given::recorded(dataset, *uid).await? != *before
            }
            Self::Allow { dataset, user, given } => {
                common(given, &own(dataset, user).await?) != Allowed::default()
            }
            Self::Rule { user, file, .. } => std::fs::read_to_string(file)
                .is_ok_and(|text| text.starts_with(&format!("{user} ALL=(root) NOPASSWD: "))),
        })
    }

    async fn check(&self) -> Result<()> {
        match self {
            Self::Dataset { dataset, .. } => {
                let pool = dataset.split('/').next().unwrap_or_default();
                if ask("zpool", &["list", "-H", pool]).await?.is_some() {
                    return Ok(());
                }
                Err(Error::new(ErrorKind::NotFound, format!("there is no pool {pool}"))
                    .with_hint("zpool list names those that are there; zpool import the others"))
            }
            Self::Record { .. } | Self::Allow { .. } => Ok(()),
            Self::Rule { dataset, user, .. } => {
                need("visudo", "apt-get install sudo").await?;
                if let Some(at) = mountpoint(dataset).await? {
                    return safe(folder(dataset, &at)?, user).await;
                }
                // It is going to be mounted below its parent.
                let parent = dataset.rsplit_once('/').map_or(&**dataset, |(parent, _)| parent);
                match mountpoint(parent).await? {
                    Some(at) if folder(parent, &at).is_err() => Err(nowhere(
                        dataset,
                        &format!("make it with one: zfs create -o mountpoint=/… {dataset}"),
                    )),
                    Some(at) => passable::check(folder(parent, &at)?, &owner(user)?).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn run(&self) -> Result<()> {
        match self {
            Self::Dataset { dataset, .. } => run("zfs", ["create", dataset]).await,
            Self::Record { dataset, uid, name, after, .. } => {
                given::record(dataset, *uid, name, after).await
            }
            Self::Allow { dataset, user, given } => {
                for call in delegate::allow_calls(user, dataset, given) {
                    run("zfs", call).await?;
                }
                Ok(())
            }
            Self::Rule { dataset, user, file, .. } => {
                let at = mountpoint(dataset).await?.unwrap_or_default();
                let at = folder(dataset, &at)?;
                safe(at, user).await?;
                write_rule(file, &delegate::sudoers(user, dataset, at)).await?;
                goes_by(file, user, at).await
            }
        }
    }

    async fn undo(&self) -> Result<()> {
        if !self.is_there().await? {
            return Ok(());
        }
        match self {
            // Alone: what somebody has made in it meanwhile is not this run's.
            Self::Dataset { dataset, .. } => run("zfs", ["destroy", dataset]).await,
            Self::Record { dataset, uid, name, before, .. } => {
                given::record(dataset, *uid, name, before).await
            }
            Self::Allow { dataset, user, given } => {
                for call in delegate::unallow_calls(user, dataset, given) {
                    run("zfs", call).await?;
                }
                Ok(())
            }
            Self::Rule { file, .. } => std::fs::remove_file(file)
                .map_err(|e| Error::io(format!("remove {}", file.display()), e)),
        }
    }
}

/// An error if the rule would give more away than a dataset, or be of no use to the user.
async fn safe(at: &Path, user: &str) -> Result<()> {
    if let Some(why) = delegate::unsafe_program() {
        let what = format!("{why}: a rule for another would give away root");
        return Err(Error::new(ErrorKind::Conflict, what).with_hint(
            "install it where root alone writes: apt-get install zfsutils-linux coreutils",
        ));
    }
    if let Some(why) = delegate::unsafe_folder(at) {
        let what = format!("{why}: a rule for mounting there would give away root");
        return Err(Error::new(ErrorKind::Conflict, what).with_hint(format!(
            "let root alone write there, or give the dataset a plainer mount point than {}",
            at.display()
        )));
    }
    passable::check(at, &owner(user)?).await
}

/// An error if sudo does not go by the rule that was written, which then goes: a setup that says that all is
/// done and is of no use would leave its user with nothing but the rule to look at.
async fn goes_by(file: &Path, user: &str, at: &Path) -> Result<()> {
    let Some(said) = disobeyed(file, user, at).await? else { return Ok(()) };
    std::fs::remove_file(file).map_err(|e| Error::io(format!("remove {}", file.display()), e))?;
    let what = format!("of the rule for {user} in {}: {said}", file.display());
    Err(Error::new(ErrorKind::Unsupported, what).with_hint(delegate::DISOBEYED))
}

/// Why sudo does not go by the rule in `file`, where it is one of this sudo's.
async fn disobeyed(file: &Path, user: &str, at: &Path) -> Result<Option<String>> {
    if file.parent() != Some(Path::new(delegate::SUDOERS)) {
        return Ok(None);
    }
    Ok(permitted::disobeys(&owner(user)?, at).await)
}

/// A rule that sudo cannot read would lock everybody out of sudo: it is checked before it is put there.
async fn write_rule(file: &Path, rule: &str) -> Result<()> {
    use std::io::Write;
    // sudo skips names with a dot.
    let new = file.with_extension("new");
    let write = || {
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut to = options.write(true).create_new(true).mode(0o440).open(&new)?;
        writeln!(to, "{rule}")?;
        to.sync_all()
    };
    let fault = |e| Error::io(format!("write {}", file.display()), e);
    write().map_err(fault)?;
    let checked = run("visudo", ["-cqf", &new.display().to_string()]).await;
    if let Err(error) = checked {
        std::fs::remove_file(&new).map_err(fault)?;
        return Err(error);
    }
    std::fs::rename(&new, file).map_err(fault)
}

/// What a program says, if it succeeds.
async fn ask(program: &str, args: &[&str]) -> Result<Option<String>> {
    let output = Program::new(program).args(args).output(LIMIT).await?;
    Ok(output.success.then_some(output.stdout))
}

async fn exists(dataset: &str) -> Result<bool> {
    Ok(ask("zfs", &["list", "-H", dataset]).await?.is_some())
}

/// What `zfs allow` says of a dataset; nothing if it does not exist.
async fn permissions(dataset: &str) -> Result<String> {
    Ok(ask("zfs", &["allow", dataset]).await?.unwrap_or_default())
}

/// What the user was given on it, and no other: by a group it is not taken back.
async fn own(dataset: &str, user: &str) -> Result<Allowed> {
    Ok(Allowed::own(&permissions(dataset).await?, dataset, user))
}

/// Where a dataset is mounted, or is going to be once it is made: below its parent.
async fn will_be_at(dataset: &str) -> Result<PathBuf> {
    let path = |said: Option<String>| said.map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(at) = path(mountpoint(dataset).await?) {
        return Ok(at);
    }
    let above = match dataset.rsplit_once('/') {
        Some((parent, name)) => path(mountpoint(parent).await?).map(|at| at.join(name)),
        None => None,
    };
    Ok(above.unwrap_or_else(|| Path::new("/").join(dataset)))
}

/// The dataset's property; `None` if there is no such dataset.
async fn mountpoint(dataset: &str) -> Result<Option<String>> {
    let said = ask("zfs", &["get", "-H", "-o", "value", "mountpoint", dataset]).await?;
    Ok(said.map(|text| text.trim_end().to_owned()))
}

/// The folder that the property names: it may name none.
fn folder<'a>(dataset: &str, mountpoint: &'a str) -> Result<&'a Path> {
    Some(Path::new(mountpoint)).filter(|path| path.is_absolute()).ok_or_else(|| {
        nowhere(dataset, &format!("give it a mount point: zfs set mountpoint=/… {dataset}"))
    })
}

fn nowhere(dataset: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{dataset} is not mounted anywhere")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_may_be_mounted_nowhere() {
        assert_eq!(folder("tank/velo", "/tank/velo").unwrap(), Path::new("/tank/velo"));
        for none in ["legacy", "none", "-", ""] {
            let error = folder("tank/velo", none).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            assert!(error.to_string().contains("tank/velo is not mounted anywhere"), "{error:?}");
            assert!(error.hint().is_some_and(|hint| hint.ends_with("/… tank/velo")), "{error:?}");
        }
    }
}
