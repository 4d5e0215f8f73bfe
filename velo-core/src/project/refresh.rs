//! Bringing `main` anew.

use super::Project;
use crate::cancel::Cancel;
use crate::engine::{self, Call, Engine};
use crate::error::Result;
use crate::import::{Progress, Recipe, Secret, Source, Watch};
use crate::refresh;
use crate::timings::Timings;

/// What a [refresh](Project::refresh) is told.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
#[must_use]
pub struct RefreshSpec {
    source: Option<Source>,
    password: Option<Secret>,
    watch: Option<Watch>,
}

impl RefreshSpec {
    /// With what the project has recorded.
    pub fn new() -> Self {
        Self::default()
    }

    /// The data comes from there from now on, in the way, and with the roles, transforms and masking, that this source
    /// is told; nothing of the one that was recorded counts any more, nor does its password. As when a project is made,
    /// `PG…` variables say of it what it does not, and that is recorded. A refresh that fails leaves the recorded one
    /// as it is.
    ///
    /// What the project was made with stays: its PostgreSQL, and the role and the database that its URLs name. So that
    /// database has to be in the data; an archive of another one is given its name. A `main` that
    /// [follows](Project::follow) goes on with that, so that this has to be a server then, whose data is neither
    /// dumped, transformed nor masked.
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// The source's password, where neither the project's record nor `PGPASSWORD` nor a password file has it, or it is
    /// another one by now. It goes before all of them. It takes the place of one that is recorded, as that of
    /// `PGPASSWORD` does, and else is kept nowhere.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret(password.into()));
        self
    }

    /// Tells how far it is, a few times a second.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watch = Some(Watch(std::sync::Arc::new(tell)));
        self
    }

    /// With paths from the root: what is none is refused before anything is recorded.
    fn anchored(mut self) -> Result<Self> {
        self.source = self.source.map(Source::anchored).transpose()?;
        Ok(self)
    }

    /// What it comes from, for a project that has this recorded.
    pub(super) fn over(self, recorded: Recipe) -> Source {
        let mut source = match self.source {
            Some(source) => source.instead_of(recorded),
            None => Source::recorded(recorded),
        };
        source.password = self.password.or(source.password);
        source.watch = self.watch.or(source.watch);
        source
    }
}

impl Project {
    /// Brings `main` anew from where its data [came from](crate::ProjectBuilder::from), with the same transforms and
    /// masking, or from [elsewhere](RefreshSpec::source), beside the old one, which then goes. `main` keeps its name
    /// and its URL, and branches stay on what they came from; they can be reset to the new data. A failure changes
    /// nothing. One that [follows](Project::follow) does so again.
    ///
    /// This handle's [`info`](Project::info) is as it was; the one that is given back is new.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if it was made without a source,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) while `main` is being changed, is protected, or follows and
    /// cannot follow the [source](RefreshSpec::source) that is told; and those of
    /// [`ProjectBuilder::create`](crate::ProjectBuilder::create).
    pub async fn refresh(&self, spec: RefreshSpec) -> Result<Self> {
        self.refresh_call(spec, Cancel::default()).await
    }

    /// The same until `cancel` asks it to stop: then what was done is undone, and that is waited for.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh), and [`ErrorKind::Canceled`](crate::ErrorKind::Canceled).
    pub async fn refresh_unless(&self, spec: RefreshSpec, cancel: &Cancel) -> Result<Self> {
        self.refresh_call(spec, cancel.clone()).await
    }

    pub(crate) fn refresh_call(&self, spec: RefreshSpec, cancel: Cancel) -> Call<Self> {
        let project = self.0.clone();
        engine::call_unless(cancel, move |op| async move {
            let home = Engine::get()?.home(&project.config).await?;
            let spec = spec.anchored()?;
            let tune = move |recipe| spec.over(recipe);
            let record = refresh::refresh(&home, &project.record, tune, None, &op).await?;
            let timings: Timings = op.steps.timings();
            let config = project.config.clone();
            Ok(Project(std::sync::Arc::new(super::Inner { config, record, timings })))
        })
    }
}
