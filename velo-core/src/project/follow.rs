//! `main` as a standby of where its data came from.

use super::{Inner, Project, RefreshSpec};
use crate::cancel::Cancel;
use crate::engine::{self, Call, Engine};
use crate::error::Result;
use crate::follow::{self, Following, Wish};
use crate::import::{Progress, Recipe};
use crate::refresh;

/// How `main` is to [follow](Project::follow).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
#[must_use]
pub struct FollowSpec {
    source: RefreshSpec,
    slot: Option<String>,
    save_password: bool,
}

impl FollowSpec {
    /// Without a slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Under this physical slot of the source's, which somebody has made there. It keeps all WAL that `main` has
    /// not received, for as long as it exists, whatever room that takes there.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.slot = Some(name.into());
        self
    }

    /// The source's password, as [`RefreshSpec::password`] takes it. It is written into a file in the folder of `main`'s
    /// server, which goes when `main` follows no more.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.source = self.source.password(password);
        self
    }

    /// Records the password with the project, that one, or the one of the service file or of `PGPASSWORD` that the
    /// source lets in: then the URL of a `main` that follows has it. One of a password file (`~/.pgpass`) is not
    /// recorded: that is read again at each refresh.
    pub fn save_password(mut self) -> Self {
        self.save_password = true;
        self
    }

    /// Tells how far the copy is, a few times a second.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.source = self.source.progress(tell);
        self
    }
}

impl Project {
    /// Makes `main` a streaming standby of the server that its data [came from](crate::ProjectBuilder::from): it is
    /// copied anew, beside the old one, and from then on lags by seconds. Nobody can write to it, and clients log in
    /// with the source's roles and their passwords: its [`url`](crate::Branch::url) names the role of the source's.
    /// Branches of it are servers of their own, and nothing of them reaches the source.
    ///
    /// A failure changes nothing. This handle's [`info`](Project::info) is as it was; the one that is given back is new.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if its data did not come from a server,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if it was masked or transformed,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if it follows already, or commits of the source would wait for
    /// it; and those of [`refresh`](Self::refresh).
    pub async fn follow(&self, spec: FollowSpec) -> Result<Self> {
        self.follow_call(spec, Cancel::default()).await
    }

    /// The same until `cancel` asks it to stop: then what was done is undone, and that is waited for.
    ///
    /// # Errors
    /// As [`follow`](Self::follow), and [`ErrorKind::Canceled`](crate::ErrorKind::Canceled).
    pub async fn follow_unless(&self, spec: FollowSpec, cancel: &Cancel) -> Result<Self> {
        self.follow_call(spec, cancel.clone()).await
    }

    pub(crate) fn follow_call(&self, spec: FollowSpec, cancel: Cancel) -> Call<Self> {
        let project = self.0.clone();
        engine::call_unless(cancel, move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let FollowSpec { source, slot, save_password } = spec;
            let tune = move |recipe: Recipe| {
                let source = source.over(recipe);
                if save_password { source.save_password() } else { source }
            };
            let wish = Some(Wish { slot });
            let record = refresh::refresh(&home, &project.record, tune, wish, &op).await?;
            let timings = op.steps.timings();
            let config = project.config.clone();
            Ok(Project(std::sync::Arc::new(Inner { config, record, timings })))
        })
    }

    /// Makes a `main` that follows a server of its own, which can be written to, with all that has come.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if it does not follow.
    pub async fn stop_following(&self) -> Result<()> {
        self.stop_following_call().await
    }

    pub(crate) fn stop_following_call(&self) -> Call<()> {
        let project = self.0.clone();
        engine::call(move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            follow::stop(&home, &project.record, &op).await.map(drop)
        })
    }

    /// What its `main` follows, and how far behind it is; `None` where it follows nothing.
    ///
    /// # Errors
    /// If the state cannot be read. That no WAL comes is none: it is told.
    pub async fn following(&self) -> Result<Option<Following>> {
        self.following_call().await
    }

    pub(crate) fn following_call(&self) -> Call<Option<Following>> {
        let project = self.0.clone();
        engine::call(move |_| async move {
            let home = Engine::get()?.home(&project.config).await?;
            follow::look(&home, &project.record).await
        })
    }
}
