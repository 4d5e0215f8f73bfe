//! Gives a machine a file system that clones, where it has none.
//!
//! A [`Setup`] is a list of steps that was made by looking at the machine: what is done already is
//! not in it, so that a second run has nothing to do. Before the first step a journal is written
//! beside the image, which names all that is going to be made; so a run that was killed is finished
//! by the next one or taken back by [`Setup::undo`], and nothing that somebody else made is touched.
//!
//! ```no_run
//! use velo_core::setup::{LoopSpec, Setup};
//!
//! # async fn example() -> velo_core::Result<()> {
//! let spec = LoopSpec::new("/var/lib/velo", 20 << 30);
//! let setup = Setup::on_loop(&spec).await?;
//! for command in setup.commands() {
//!     println!("{command}");
//! }
//! setup.run(|command| println!("running {command}")).await?;
//! # Ok(()) }
//! ```

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::command::Program;
use crate::config::resolved;
use crate::engine::{self, Call};
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;

#[cfg(all(feature = "zfs", target_os = "linux"))]
mod delegation;
pub(crate) mod fstab;
#[cfg(all(feature = "zfs", target_os = "linux"))]
mod given;
mod journal;
mod step;
pub(crate) mod unmounted;

#[cfg(all(feature = "zfs", target_os = "linux"))]
pub use delegation::Delegation;
use journal::Journal;

/// How long one program may run.
const LIMIT: Duration = Duration::from_secs(300);

/// The smallest btrfs that is worth having, in bytes.
const SMALLEST: u64 = 256 << 20;

/// Which file system goes into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoopKind {
    /// btrfs, mounted by a line in `/etc/fstab`. Needs btrfs-progs.
    #[default]
    Btrfs,
    /// A ZFS pool, which ZFS itself imports and mounts at boot. Needs OpenZFS.
    Zfs,
}

/// A file system in a sparse file, mounted where Velo's home is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoopSpec {
    /// Where it is mounted: an empty folder, or none yet.
    pub at: PathBuf,
    /// Its size in bytes. The file takes space only for what is written to it.
    pub size: u64,
    /// The file; beside the mount point unless told otherwise.
    pub image: PathBuf,
    /// What goes into it.
    pub kind: LoopKind,
    /// The name of the ZFS pool.
    pub pool: String,
    /// The user that the mounted folder belongs to; root unless told otherwise.
    pub owner: Option<String>,
    /// The table of file systems that are mounted at boot.
    pub fstab: PathBuf,
}

impl LoopSpec {
    /// A btrfs of `size` bytes, mounted at `at`, in a file beside it (`<at>.img`).
    #[must_use]
    pub fn new(at: impl Into<PathBuf>, size: u64) -> Self {
        let at = at.into();
        Self {
            image: image_of(&at),
            at,
            size,
            kind: LoopKind::Btrfs,
            pool: "velo".into(),
            owner: None,
            fstab: fstab::TABLE.into(),
        }
    }

    /// In this file.
    #[must_use]
    pub fn image(mut self, image: impl Into<PathBuf>) -> Self {
        self.image = image.into();
        self
    }

    /// With this file system.
    #[must_use]
    pub fn kind(mut self, kind: LoopKind) -> Self {
        self.kind = kind;
        self
    }

    /// In a ZFS pool of this name.
    #[must_use]
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = pool.into();
        self
    }

    /// Belonging to this user.
    #[must_use]
    pub fn owner(mut self, user: impl Into<String>) -> Self {
        self.owner = Some(user.into());
        self
    }

    /// Written into this table instead of `/etc/fstab`.
    #[must_use]
    pub fn fstab(mut self, fstab: impl Into<PathBuf>) -> Self {
        self.fstab = fstab.into();
        self
    }

    /// The same with its places by their real paths.
    fn real(self) -> Result<Self> {
        Ok(Self { at: real(&self.at)?, image: real(&self.image)?, ..self })
    }

    /// What is not the same in another one, for people: this one's, and the other's.
    fn differs_from(&self, other: &Self) -> Vec<String> {
        let owner = |spec: &Self| spec.owner.clone().unwrap_or_else(|| "root".to_owned());
        let shown = |spec: &Self| {
            [
                ("size", format!("{} bytes", spec.size)),
                ("--at", spec.at.display().to_string()),
                ("kind", format!("{:?}", spec.kind).to_lowercase()),
                ("--pool", spec.pool.clone()),
                ("--owner", owner(spec)),
                ("fstab", spec.fstab.display().to_string()),
            ]
        };
        let pairs = shown(self).into_iter().zip(shown(other));
        let differ = pairs.filter(|((_, this), (_, other))| this != other);
        differ.map(|((name, this), (_, other))| format!("{name} {this}, and not {other}")).collect()
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String, hint: &str| {
            Err(Error::new(ErrorKind::InvalidInput, what).with_hint(hint))
        };
        for path in [&self.at, &self.image] {
            // So that it means the same in /etc/fstab and to the shell that a command is pasted into.
            let plain = path.to_str().is_some_and(|text| {
                text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&b))
            });
            if !plain || path.file_name().is_none() {
                return wrong(
                    format!("{} cannot stand in /etc/fstab and in commands", path.display()),
                    "use a path of letters, digits and /._-+:@%,=",
                );
            }
        }
        if self.image.starts_with(&self.at) {
            return wrong(
                format!("{} would lie in the file system that it holds", self.image.display()),
                "put the image beside the mount point, not into it",
            );
        }
        if self.size < SMALLEST {
            return wrong(
                format!("{} bytes are too few for a file system with databases in it", self.size),
                "give it some GB, like 20G",
            );
        }
        if self.kind == LoopKind::Zfs && self.owner.is_some() {
            return wrong(
                "a pool that belongs to a user would let them mount anything anywhere".to_owned(),
                "make it without --owner, and give the user a dataset: velo setup --delegate",
            );
        }
        let named = !self.pool.is_empty()
            && self.pool.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            && self.pool.as_bytes()[0].is_ascii_alphabetic();
        if !named {
            return wrong(
                format!("{:?} is no name for a pool", self.pool),
                "use letters, digits, - and _, beginning with a letter",
            );
        }
        Ok(())
    }
}

/// The image that [`LoopSpec::new`] takes for a mount point: beside its real path.
#[must_use]
pub fn image_of(at: &Path) -> PathBuf {
    let at = resolved(at);
    let mut name = at.file_name().unwrap_or_default().to_owned();
    name.push(".img");
    at.with_file_name(name)
}

/// The one real path of what a setup makes or takes back: the kernel knows mounts and images by that.
fn real(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path)
        .map_err(|e| Error::io(format!("resolve {}", path.display()), e))?;
    let real = resolved(&whole);
    let Some(link) = real.ancestors().find(|path| path.is_symlink()) else {
        return Ok(real);
    };
    let what = format!("{} is a symbolic link that leads nowhere", link.display());
    Err(Error::new(ErrorKind::Conflict, what).with_hint("remove it, or name another place"))
}

/// One thing that is done, and can be taken back.
#[async_trait]
trait Step: std::fmt::Debug + Send + Sync {
    /// The command that does it.
    fn doing(&self) -> String;

    /// The command that takes it back.
    fn undoing(&self) -> String;

    /// Whether there is nothing to do.
    async fn is_done(&self) -> Result<bool>;

    /// Whether there is something to take back.
    async fn is_there(&self) -> Result<bool>;

    /// Whether it can be done: before anything is.
    async fn check(&self) -> Result<()>;

    async fn run(&self) -> Result<()>;

    /// Whether it can be taken back: before anything is.
    async fn check_undo(&self) -> Result<()> {
        Ok(())
    }

    /// Takes it back, whatever of it was done.
    async fn undo(&self) -> Result<()>;
}

/// What is still to be done on this machine.
#[derive(Debug, Clone)]
pub struct Setup {
    steps: Vec<Arc<dyn Step>>,
    /// What is going to be made, where that cannot be told from what is there.
    journal: Option<Journal>,
    /// Whether all of it is taken back.
    undoing: bool,
    /// Keeps other setups away from the image: of two at once one would take back the other's.
    _alone: Option<Arc<File>>,
}

impl Setup {
    /// What is still to be done for a file system in a file.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if this is not root, [`ErrorKind::Conflict`] if the image or
    /// the mount point are somebody else's or in use, [`ErrorKind::Exhausted`] if there is no room,
    /// [`ErrorKind::Unsupported`] if a program is missing, [`ErrorKind::InvalidInput`] for a spec
    /// that cannot be.
    pub async fn on_loop(spec: &LoopSpec) -> Result<Self> {
        Self::on_loop_call(spec).await
    }

    pub(crate) fn on_loop_call(spec: &LoopSpec) -> Call<Self> {
        let spec = spec.clone();
        engine::call(move |_| async move { plan(spec).await })
    }

    /// What takes back all that was made with this image: the file system with all that is in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if no setup has made the image, [`ErrorKind::Conflict`] if projects
    /// live in it, [`ErrorKind::PermissionDenied`] if this is not root.
    pub async fn undo(image: impl Into<PathBuf>) -> Result<Self> {
        Self::undo_call(image.into()).await
    }

    pub(crate) fn undo_call(image: PathBuf) -> Call<Self> {
        engine::call(move |_| async move { plan_undo(&image).await })
    }

    /// Where its file system is mounted, by its real path. None of a delegation.
    #[must_use]
    pub fn at(&self) -> Option<&Path> {
        self.journal.as_ref().map(|journal| &*journal.spec.at)
    }

    /// The file that it is in, by its real path. None of a delegation.
    #[must_use]
    pub fn image(&self) -> Option<&Path> {
        self.journal.as_ref().map(|journal| &*journal.spec.image)
    }

    /// Every command that is going to be run, as a shell would take it. Empty if all is done.
    pub fn commands(&self) -> impl Iterator<Item = String> {
        let undoing = self.undoing;
        self.steps.iter().map(move |step| if undoing { step.undoing() } else { step.doing() })
    }

    /// Runs the steps, and tells `say` of each before it does. If one fails, what this run did is
    /// taken back.
    ///
    /// # Errors
    /// That of the step that failed; what could not be taken back is in its
    /// [`cleanup`](Error::cleanup).
    pub async fn run(self, say: impl FnMut(&str) + Send + 'static) -> Result<()> {
        self.run_call(say).await
    }

    pub(crate) fn run_call(self, say: impl FnMut(&str) + Send + 'static) -> Call<()> {
        engine::call(move |_| self.carry_out(say))
    }

    async fn carry_out(self, mut say: impl FnMut(&str) + Send) -> Result<()> {
        if self.undoing {
            if let Some(journal) = &self.journal {
                // Whoever was asked may have taken their time over it.
                step::nothing_lives_in(journal).await?;
            }
            for step in &self.steps {
                say(&step.undoing());
                step.undo().await?;
            }
            return self.journal.as_ref().map_or(Ok(()), Journal::remove);
        }
        if self.steps.is_empty() {
            return Ok(());
        }
        // What was there before is not this run's to take back: it may hold data.
        let mut made = Vec::new();
        for step in &self.steps {
            made.push(!step.is_there().await?);
        }
        let new = self.journal.as_ref().map_or(Ok(false), Journal::write)?;
        for (at, step) in self.steps.iter().enumerate() {
            say(&step.doing());
            let Err(mut error) = step.run().await else { continue };
            // The step that failed may have done a part of it.
            let own = self.steps[..=at].iter().zip(&made).filter(|(_, made)| **made);
            for (step, _) in own.rev() {
                // What it does not do is not said. Where it cannot look its undoing says so.
                if matches!(step.is_there().await, Ok(false)) {
                    continue;
                }
                say(&step.undoing());
                if let Err(cleanup) = step.undo().await {
                    error = error.with_cleanup(cleanup);
                }
            }
            if new
                && error.cleanup().is_empty()
                && let Some(Err(cleanup)) = self.journal.as_ref().map(Journal::remove)
            {
                error = error.with_cleanup(cleanup);
            }
            return Err(error);
        }
        Ok(())
    }
}

/// The lock on the folder that an image is in.
fn alone_with(image: &Path) -> Result<Option<Arc<File>>> {
    let folder = image.parent().unwrap_or(Path::new("/"));
    let fault = |e| Error::io(format!("open {}", folder.display()), e);
    let file = File::open(folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let what = format!("the folder of the file does not exist: {}", folder.display());
            Error::new(ErrorKind::NotFound, what).with_hint(format!(
                "make it (mkdir -p {0}), or choose another file: --image",
                folder.display()
            ))
        }
        _ => fault(e),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Arc::new(file))),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Conflict,
            format!("another setup is at work in {}", folder.display()),
        )
        .with_hint("wait until it has ended")),
        Err(TryLockError::Error(e)) => Err(fault(e)),
    }
}

fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PermissionDenied, "only root can make and mount a file system")
        .with_hint("run it with sudo; --owner USER gives the result to a user"))
}

async fn plan(spec: LoopSpec) -> Result<Setup> {
    let spec = spec.real()?;
    spec.check()?;
    need_root()?;
    let alone = alone_with(&spec.image)?;
    let known = Journal::read(&spec.image)?;
    let journal = match known {
        Some(journal) if journal.spec == spec => journal,
        Some(journal) => {
            let what = format!(
                "{} was made by an earlier setup, which differs: {}",
                spec.image.display(),
                journal.spec.differs_from(&spec).join(", ")
            );
            return Err(Error::new(ErrorKind::Conflict, what).with_hint(
                "undo that one first (velo setup --undo), say the same again, or use another --image",
            ));
        }
        None if spec.image.symlink_metadata().is_ok() => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{} is there already, and no setup made it", spec.image.display()),
            )
            .with_hint("use another --image"));
        }
        None => Journal::of(spec),
    };
    let steps = missing(step::of(&journal)).await?;
    Ok(Setup { steps, journal: Some(journal), undoing: false, _alone: alone })
}

/// The steps that are not done yet, all of which can be.
async fn missing(all: Vec<impl Step + 'static>) -> Result<Vec<Arc<dyn Step>>> {
    let mut steps: Vec<Arc<dyn Step>> = Vec::new();
    for step in all {
        if !step.is_done().await? {
            step.check().await?;
            steps.push(Arc::new(step));
        }
    }
    Ok(steps)
}

/// The steps that can be taken back, the last one first.
async fn present(all: Vec<impl Step + 'static>) -> Result<Vec<Arc<dyn Step>>> {
    let mut steps: Vec<Arc<dyn Step>> = Vec::new();
    for step in all.into_iter().rev() {
        if step.is_there().await? {
            step.check_undo().await?;
            steps.push(Arc::new(step));
        }
    }
    Ok(steps)
}

async fn plan_undo(image: &Path) -> Result<Setup> {
    need_root()?;
    let image = &real(image)?;
    let alone = alone_with(image)?;
    let Some(journal) = Journal::read(image)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("no setup has made {}", image.display()),
        )
        .with_hint("name the file that it made: velo setup --undo --image FILE"));
    };
    step::nothing_lives_in(&journal).await?;
    let steps = present(step::of(&journal)).await?;
    Ok(Setup { steps, journal: Some(journal), undoing: true, _alone: alone })
}

fn owner(user: &str) -> Result<OsUser> {
    OsUser::by_name(user)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no user {user}"))
            .with_hint("name a user of this machine: --owner USER")
    })
}

async fn need(program: &str, install: &str) -> Result<()> {
    // Whatever it says: it is there.
    match Program::new(program).arg("--version").output(LIMIT).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::Unsupported, format!("there is no program {program}"))
                .with_hint(install))
        }
        _ => Ok(()),
    }
}

async fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
    let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let output = Program::new(program).args(&args).output(LIMIT).await?;
    if output.success {
        return Ok(());
    }
    let said = output.stderr.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Err(Error::new(ErrorKind::Io, format!("{program} {} failed: {said}", args.join(" "))))
}
