//! Names as they are written on the command line: `project/branch@snapshot`.

use velo_core::blocking::{Branch, Project};
use velo_core::{Config, Error, ErrorKind, Result};

/// `project/branch`. A branch's name may hold `/`, so the first one divides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) project: String,
    pub(crate) branch: String,
}

impl Target {
    /// Takes `project/branch` apart; whether the parts are names is for velo-core to say.
    pub(crate) fn branch(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((project, branch)) => {
                Ok(Self { project: project.to_owned(), branch: branch.to_owned() })
            }
            None => Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} names no branch"))
                .with_hint(format!("write project/branch, like {}/main", sample(text)))),
        }
    }

    /// `project`, or with what to start from `project/branch` or `project/branch@snapshot`.
    pub(crate) fn source(text: &str) -> Self {
        let (project, branch) = text.split_once('/').unwrap_or((text, "main"));
        Self { project: project.to_owned(), branch: branch.to_owned() }
    }

    /// `project/branch@snapshot`.
    pub(crate) fn snapshot(text: &str) -> Result<(Self, String)> {
        let target = Self::branch(text)?;
        match target.branch.split_once('@') {
            Some((branch, name)) => Ok((
                Self { project: target.project.clone(), branch: branch.to_owned() },
                name.to_owned(),
            )),
            None => Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} names no snapshot"))
                .with_hint(format!("write project/branch@name, like {text}@before"))),
        }
    }

    /// Opens the project and the branch.
    pub(crate) fn open(&self) -> Result<Branch> {
        open_project(&self.project)?.branch(self.branch.as_str())
    }

    /// What another option names in the same project, with the project in front or without.
    pub(crate) fn beside<'a>(&self, text: &'a str) -> &'a str {
        let own = text.strip_prefix(self.project.as_str()).and_then(|rest| rest.strip_prefix('/'));
        own.unwrap_or(text)
    }
}

/// Opens a project with the settings of the environment.
pub(crate) fn open_project(name: &str) -> Result<Project> {
    Project::builder(name).config(Config::load()?).open()
}

/// Every project of the home. One that goes away meanwhile is none.
pub(crate) fn open_projects(config: &Config) -> Result<Vec<Project>> {
    let mut projects = Vec::new();
    for info in Project::list(config)? {
        match Project::builder(info.name.as_str()).config(config.clone()).open() {
            Ok(project) => projects.push(project),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(projects)
}

/// The project of this name, or every one of the home.
pub(crate) fn one_or_all(name: Option<&str>) -> Result<Vec<Project>> {
    match name {
        Some(name) => Ok(vec![open_project(name)?]),
        None => open_projects(&Config::load()?),
    }
}

fn sample(text: &str) -> &str {
    if velo_core::ProjectName::new(text).is_ok() { text } else { "api" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_slash_divides() {
        let target = Target::branch("api/feature/login").unwrap();
        assert_eq!(target.project, "api");
        assert_eq!(target.branch, "feature/login");
        assert!(Target::branch("api").is_err());
        assert_eq!(Target::source("api").branch, "main");
        assert_eq!(Target::source("api/a/b@c").branch, "a/b@c");
    }

    #[test]
    fn the_project_may_stand_in_front() {
        let target = Target::branch("api/dev").unwrap();
        assert_eq!(target.beside("api/a/b@c"), "a/b@c");
        assert_eq!(target.beside("a/b@c"), "a/b@c");
        assert_eq!(target.beside("apix/b"), "apix/b");
    }

    #[test]
    fn a_snapshot_stands_behind_the_at() {
        let (target, name) = Target::snapshot("api/a/b@c").unwrap();
        assert_eq!((target.branch.as_str(), name.as_str()), ("a/b", "c"));
        assert!(Target::snapshot("api/a").is_err());
    }
}
