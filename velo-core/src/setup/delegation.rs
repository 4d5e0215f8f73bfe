//! A dataset of an existing pool, given to a user who is not root.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{LIMIT, Setup, Step, missing, need, need_root, owner, present, run};
use crate::command::Program;
use crate::engine::{self, Call};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::zfs::delegate;

/// A dataset below which a user may make volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delegation {
    /// The dataset, like `tank/velo`; made if it is missing.
    pub dataset: String,
    /// Who is to use it.
    pub user: String,
    /// The folder of sudo's rules.
    pub sudoers: PathBuf,
}

impl Delegation {
    /// Gives `dataset` to `user`.
    #[must_use]
    pub fn new(dataset: impl Into<String>, user: impl Into<String>) -> Self {
        let (dataset, user) = (dataset.into(), user.into());
        Self { dataset, user, sudoers: "/etc/sudoers.d".into() }
    }

    fn steps(&self) -> Vec<DelegationStep> {
        let (dataset, user) = (self.dataset.clone(), self.user.clone());
        let file = self.sudoers.join(delegate::rule_name(&user, &dataset));
        vec![
            DelegationStep::Dataset { dataset: dataset.clone() },
            DelegationStep::Allow { dataset: dataset.clone(), user: user.clone() },
            DelegationStep::Rule { dataset, user, file },
        ]
    }

    fn check(&self) -> Result<()> {
        crate::storage::zfs::check_dataset(&self.dataset)?;
        need_root()?;
        owner(&self.user).map(drop)
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
            need("zfs", "apt-get install zfsutils-linux zfs-dkms").await?;
            let steps = missing(delegation.steps()).await?;
            Ok(Self { steps, journal: None, undoing: false })
        })
    }

    /// What takes back what a delegation gave. The dataset stays, with all that is in it.
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
            let steps = present(delegation.steps()).await?;
            Ok(Self { steps, journal: None, undoing: true })
        })
    }
}

#[derive(Debug)]
enum DelegationStep {
    /// The dataset. It is never taken back: it may have been there, and hold what somebody needs.
    Dataset { dataset: String },
    /// What ZFS lets the user do below it.
    Allow { dataset: String, user: String },
    /// What sudo lets the user do: mounting.
    Rule { dataset: String, user: String, file: PathBuf },
}

#[async_trait]
impl Step for DelegationStep {
    fn doing(&self) -> String {
        match self {
            Self::Dataset { dataset } => format!("zfs create {dataset}"),
            Self::Allow { dataset, user } => delegate::allow(user, dataset),
            Self::Rule { dataset, user, file } => {
                // Where it is mounted once it is made, if it is not yet.
                let at = usual_mountpoint(dataset);
                format!("echo '{}' > {}", delegate::sudoers(user, dataset, &at), file.display())
            }
        }
    }

    fn undoing(&self) -> String {
        match self {
            Self::Dataset { dataset } => format!("# {dataset} stays"),
            Self::Allow { dataset, user } => {
                format!("zfs unallow -u {user} {} {dataset}", delegate::PERMISSIONS)
            }
            Self::Rule { file, .. } => format!("rm {}", file.display()),
        }
    }

    async fn is_done(&self) -> Result<bool> {
        Ok(match self {
            Self::Dataset { dataset } => ask("zfs", &["list", "-H", dataset]).await?.is_some(),
            Self::Allow { dataset, user } => allowed(dataset, user).await?,
            Self::Rule { dataset, user, file } => match mountpoint(dataset).await? {
                Some(at) => std::fs::read_to_string(file)
                    .is_ok_and(|text| text.trim_end() == delegate::sudoers(user, dataset, &at)),
                None => false,
            },
        })
    }

    async fn is_there(&self) -> Result<bool> {
        Ok(match self {
            Self::Dataset { .. } => false,
            Self::Allow { dataset, user } => allowed(dataset, user).await?,
            Self::Rule { user, file, .. } => std::fs::read_to_string(file)
                .is_ok_and(|text| text.starts_with(&format!("{user} ALL=(root) NOPASSWD: "))),
        })
    }

    async fn check(&self) -> Result<()> {
        match self {
            Self::Dataset { dataset } => {
                let pool = dataset.split('/').next().unwrap_or_default();
                if ask("zpool", &["list", "-H", pool]).await?.is_some() {
                    return Ok(());
                }
                Err(Error::new(ErrorKind::NotFound, format!("there is no pool {pool}"))
                    .with_hint("zpool list names those that are there; zpool import the others"))
            }
            Self::Allow { .. } => Ok(()),
            Self::Rule { .. } => need("visudo", "apt-get install sudo").await,
        }
    }

    async fn run(&self) -> Result<()> {
        match self {
            Self::Dataset { dataset } => run("zfs", ["create", dataset]).await,
            Self::Allow { dataset, user } => {
                run("zfs", ["allow", "-u", user, delegate::PERMISSIONS, dataset]).await
            }
            Self::Rule { dataset, user, file } => {
                let at = mountpoint(dataset).await?.ok_or_else(|| {
                    Error::new(ErrorKind::Conflict, format!("{dataset} is not mounted anywhere"))
                        .with_hint(format!(
                            "give it a mount point: zfs set mountpoint=/… {dataset}"
                        ))
                })?;
                write_rule(file, &delegate::sudoers(user, dataset, &at)).await
            }
        }
    }

    async fn undo(&self) -> Result<()> {
        if !self.is_there().await? {
            return Ok(());
        }
        match self {
            Self::Dataset { .. } => Ok(()),
            Self::Allow { dataset, user } => {
                run("zfs", ["unallow", "-u", user, delegate::PERMISSIONS, dataset]).await
            }
            Self::Rule { file, .. } => std::fs::remove_file(file)
                .map_err(|e| Error::io(format!("remove {}", file.display()), e)),
        }
    }
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

/// Whether the user has every permission on the dataset.
async fn allowed(dataset: &str, user: &str) -> Result<bool> {
    let said = ask("zfs", &["allow", dataset]).await?.unwrap_or_default();
    Ok(has_permissions(&said, user))
}

fn has_permissions(said: &str, user: &str) -> bool {
    let own = said.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("user") && words.next() == Some(user)).then(|| words.next())?
    });
    let own: Vec<&str> = own.unwrap_or_default().split(',').collect();
    delegate::PERMISSIONS.split(',').all(|wanted| own.contains(&wanted))
}

/// Where a dataset is mounted unless somebody said otherwise.
fn usual_mountpoint(dataset: &str) -> PathBuf {
    let said = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = said.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - zfs ")?;
        (source.split(' ').next()? == dataset).then(|| mount.split(' ').nth(4)).flatten()
    });
    mounted.map_or_else(|| Path::new("/").join(dataset), PathBuf::from)
}

/// Where the dataset is mounted.
async fn mountpoint(dataset: &str) -> Result<Option<PathBuf>> {
    let said = ask("zfs", &["get", "-H", "-o", "value", "mountpoint", dataset]).await?;
    Ok(said.map(|text| PathBuf::from(text.trim_end())).filter(|path| path.is_absolute()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_zfs_says_of_permissions() {
        let all = delegate::PERMISSIONS;
        let said = format!(
            "---- Permissions on tank/velo ------\nLocal+Descendent permissions:\n\
             \tuser ann {all},send\n\tuser bob create,mount\n"
        );
        assert!(has_permissions(&said, "ann"));
        assert!(!has_permissions(&said, "bob") && !has_permissions(&said, "an"));
        assert!(!has_permissions("", "ann"));
    }
}
