//! A seed whose builder is no function of Rust's: it runs where whoever asked runs, between two calls of a binding's.

use std::sync::{Mutex, MutexGuard};

use super::{Building, Claim, Seed, SeedKey};
use crate::branch::Branch;
use crate::error::{Error, ErrorKind, Result};
use crate::project::Project;
use crate::spec::BranchSource;

/// What a seed is made of, as a binding is told.
#[derive(Debug)]
pub struct WantedSeed {
    /// Files and patterns.
    pub files: Vec<String>,
    /// Any texts.
    pub texts: Vec<String>,
    /// The code that builds it.
    pub code: String,
    /// What it is called in lists.
    pub label: Option<String>,
    /// What it starts from.
    pub from: Option<BranchSource>,
}

impl WantedSeed {
    fn key(self) -> Result<SeedKey> {
        let mut key = SeedKey::new().code(self.code);
        for pattern in self.files {
            key = key.files(pattern)?;
        }
        for text in self.texts {
            key = key.text(text);
        }
        if let Some(label) = self.label {
            key = key.label(label);
        }
        Ok(match self.from {
            Some(from) => key.from(from),
            None => key,
        })
    }
}

/// A seed that somebody asked for: [`next`](Self::next) gives it, or the branch that is to become it; then
/// [`built`](Self::built) says that it is done. Dropped in the middle, what was begun is undone.
#[allow(missing_debug_implementations)]
pub struct AskedSeed(Mutex<State>);

enum State {
    Asked(Project, WantedSeed),
    Begun(Box<Building>),
    Over,
}

/// What there is of a seed that was asked for.
#[derive(Debug)]
pub enum NextOfSeed {
    /// Somebody has built it.
    Seed(Seed),
    /// Nobody has: this is to become it.
    Branch(Branch),
}

impl AskedSeed {
    /// Nothing happens yet.
    #[must_use]
    pub fn new(project: &Project, wanted: WantedSeed) -> Self {
        Self(Mutex::new(State::Asked(project.clone(), wanted)))
    }

    /// Waits as long as somebody else builds it.
    ///
    /// # Errors
    /// As [`Project::seed`].
    pub async fn next(&self) -> Result<NextOfSeed> {
        let State::Asked(project, wanted) =
            self.taken(|state| matches!(state, State::Asked(..)))?
        else {
            return Err(again());
        };
        Ok(match project.seed_or_build_call(wanted.key()?).await? {
            Claim::There(seed) => NextOfSeed::Seed(seed),
            Claim::Build(building) => {
                let branch = building.branch.clone();
                *self.state() = State::Begun(building);
                NextOfSeed::Branch(branch)
            }
        })
    }

    /// The seed, where it was built well; else what was made is undone.
    ///
    /// # Errors
    /// As [`Project::seed`].
    pub async fn built(&self, well: bool) -> Result<Option<Seed>> {
        let State::Begun(building) = self.taken(|state| matches!(state, State::Begun(_)))? else {
            return Err(again());
        };
        match well {
            true => building.finish_call().await.map(Some),
            false => building.give_up_call().await.map(|()| None),
        }
    }

    /// The state, if it is of this kind; any other stays.
    fn taken(&self, is_right: impl Fn(&State) -> bool) -> Result<State> {
        let mut state = self.state();
        match is_right(&state) {
            true => Ok(std::mem::replace(&mut *state, State::Over)),
            false => Err(again()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn again() -> Error {
    Error::new(ErrorKind::Conflict, "this seed was waited for already")
}
