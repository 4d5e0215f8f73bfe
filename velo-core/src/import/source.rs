//! What data is brought from, and what a project records of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::conninfo::Conninfo;
use super::progress::{Progress, Watch};
use crate::error::{Error, ErrorKind, Result};

/// How data is brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// `pg_basebackup`: all databases, byte by byte. The role needs REPLICATION, and the major is the source's.
    Basebackup,
    /// `pg_dump` and `pg_restore`, in parallel: chosen databases or schemas, from an older major too.
    Dump,
    /// The data folder of a server that is stopped.
    Files,
    /// A dump that is there: plain, custom, directory or tar, compressed or not.
    Sql,
}

impl Method {
    /// The name in settings and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basebackup => "basebackup",
            Self::Dump => "dump",
            Self::Files => "files",
            Self::Sql => "sql",
        }
    }

    /// Whether the files themselves come, with all that is in them.
    pub(crate) fn is_physical(self) -> bool {
        matches!(self, Self::Basebackup | Self::Files)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Basebackup, Self::Dump, Self::Files, Self::Sql];
        all.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a method"))
                .with_hint("use basebackup, dump, files or sql")
        })
    }
}

/// What a project's `main` is brought from.
///
/// See the [module](crate::import) for an example.
#[derive(Debug, Clone)]
#[must_use]
pub struct Source {
    pub(crate) recipe: Recipe,
    pub(crate) password: Option<Secret>,
    /// Whether the password that lets it in is to be recorded.
    pub(crate) saves_password: bool,
    pub(crate) watch: Option<Watch>,
    /// Whether somebody names it now, and no record: then the variables of this process say where it is, too.
    pub(crate) is_new: bool,
}

impl Source {
    /// From a running server (a URL, or words `key=value`), a data folder, or a dump: what it is, is seen.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what is none of them.
    pub fn new(from: impl AsRef<str>) -> Result<Self> {
        let from = from.as_ref();
        let path = Path::new(from);
        if from.contains("://") || (from.contains('=') && !path.exists()) {
            return Self::server(from);
        }
        let path = absolute(path)?;
        let place = match path.metadata() {
            Ok(found) if found.is_dir() && path.join("PG_VERSION").exists() => Place::Files(path),
            Ok(found) if found.is_dir() && !path.join("toc.dat").exists() => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{} is no data folder of PostgreSQL and no dump", path.display()),
                )
                .with_hint("a data folder holds PG_VERSION, a dump's folder toc.dat"));
            }
            Ok(_) => Place::Sql(path),
            // A URL without its scheme, perhaps: the password in it is not told again.
            Err(_) if from.contains('@') => {
                let what = "what is given is neither a URL of a server nor a file or folder";
                return Err(Error::new(ErrorKind::NotFound, what).with_hint(
                    "name a URL like postgres://user@host/database, a data folder, or a dump",
                ));
            }
            Err(e) => {
                return Err(Error::io(format!("look at {}", path.display()), e).with_hint(
                    "name a URL like postgres://user@host/database, a data folder, or a dump",
                ));
            }
        };
        Ok(Self::of(place))
    }

    /// From a running server.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what libpq would not take.
    pub fn server(url: impl AsRef<str>) -> Result<Self> {
        let conninfo = Conninfo::parse(url.as_ref())?;
        let mut source = Self::of(Place::Server(conninfo.shown()));
        source.password = conninfo.password().map(|password| Secret(password.to_owned()));
        Ok(source)
    }

    fn of(place: Place) -> Self {
        let recipe = Recipe {
            place,
            method: None,
            databases: Vec::new(),
            schemas: Vec::new(),
            jobs: None,
            roles: None,
            transforms: Vec::new(),
            masking: None,
            reindex: false,
            role_is_told: false,
            database_is_told: false,
            locale: None,
            password: None,
            used: None,
            brought_at: None,
            notes: Vec::new(),
        };
        Self { recipe, password: None, saves_password: false, watch: None, is_new: true }
    }

    /// What a project has recorded.
    pub(crate) fn recorded(recipe: Recipe) -> Self {
        Self { recipe, password: None, saves_password: false, watch: None, is_new: false }
    }

    /// This one for a project that was brought from another one. What the project itself was made with stays.
    pub(crate) fn instead_of(mut self, old: Recipe) -> Self {
        self.recipe.role_is_told = old.role_is_told;
        self.recipe.database_is_told = true;
        self.recipe.locale = old.locale;
        self
    }

    /// In this way, and not in the one that fits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is none for such a source.
    pub fn method(mut self, method: Method) -> Result<Self> {
        let fits = matches!(
            (&self.recipe.place, method),
            (Place::Server(_), Method::Basebackup | Method::Dump)
                | (Place::Files(_), Method::Files)
                | (Place::Sql(_), Method::Sql)
        );
        if !fits {
            let what = format!("{} is nothing for the method {method}", self.recipe.place);
            return Err(Error::new(ErrorKind::InvalidInput, what).with_hint(
                "basebackup and dump take a server's URL, files a data folder, sql a dump",
            ));
        }
        self.recipe.method = Some(method);
        Ok(self)
    }

    /// Only these databases ([`Method::Dump`]); unless told the one of the URL, or all.
    pub fn databases<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.recipe.databases = names.into_iter().map(Into::into).collect();
        self
    }

    /// Only these schemas of them ([`Method::Dump`]).
    pub fn schemas<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.recipe.schemas = names.into_iter().map(Into::into).collect();
        self
    }

    /// How many tables are dumped and restored at a time; unless told as many as there are processors.
    pub fn jobs(mut self, jobs: u32) -> Self {
        self.recipe.jobs = Some(jobs.max(1));
        self
    }

    /// SQL that makes the roles which a dump names ([`Method::Sql`]), as `pg_dumpall --roles-only` writes it.
    pub fn roles(mut self, file: impl AsRef<Path>) -> Self {
        self.recipe.roles = Some(file.as_ref().to_path_buf());
        self
    }

    /// A file that is run on the copy before anybody can branch it: SQL if it ends in `.sql`, else a program, which
    /// finds the copy by `DATABASE_URL` and `PG…`. They are run in the order in which they were given, before
    /// the masking, and again at each refresh. SQL is sent as a whole, and so is one transaction, unless it says
    /// otherwise: `VACUUM` and the like stand alone in a file of their own.
    pub fn transform(mut self, file: impl AsRef<Path>) -> Self {
        self.recipe.transforms.push(Transform { path: file.as_ref().into(), sha256: None });
        self
    }

    /// The file that says how each column is masked, or that it is kept.
    pub fn masking(mut self, file: impl AsRef<Path>) -> Self {
        self.recipe.masking = Some(Transform { path: file.as_ref().into(), sha256: None });
        self
    }

    /// Builds indexes anew whose collation has another version here, instead of refusing the data.
    pub fn reindex(mut self) -> Self {
        self.recipe.reindex = true;
        self
    }

    /// Records the password that the source lets in, for refreshes: that of the URL, of the service file or of
    /// `PGPASSWORD`. Unless told, it is kept nowhere. One of a password file (`~/.pgpass`) is not recorded, for that is
    /// read again at each refresh. A refresh that is given another one by
    /// [`RefreshSpec::password`](crate::RefreshSpec::password), or by the service file or `PGPASSWORD` where the source
    /// refuses the recorded one, records that instead.
    pub fn save_password(mut self) -> Self {
        self.saves_password = true;
        self
    }

    /// Tells how far it is, a few times a second.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.watch = Some(Watch(std::sync::Arc::new(tell)));
        self
    }

    /// Its paths from the root: a refresh may have another working folder.
    pub(crate) fn anchored(mut self) -> Result<Self> {
        let recipe = &mut self.recipe;
        let files = recipe.transforms.iter_mut().chain(&mut recipe.masking);
        for file in files {
            file.path = absolute(&file.path)?;
        }
        if let Some(roles) = &mut recipe.roles {
            *roles = absolute(roles)?;
        }
        let is_dump =
            matches!(recipe.place, Place::Server(_)) && recipe.method != Some(Method::Basebackup);
        let is_chosen = !recipe.databases.is_empty() || !recipe.schemas.is_empty();
        if is_chosen && !is_dump {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "databases and schemas can only be chosen of a server, by the method dump",
            )
            .with_hint("leave them out, or use --method dump"));
        }
        if is_chosen {
            recipe.method = Some(Method::Dump);
        }
        Ok(self)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(format!("resolve {}", path.display()), e))
}

/// A password that somebody gave.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// Words `key=value`, without a password.
    Server(String),
    Files(PathBuf),
    Sql(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(conninfo) => write!(f, "a server ({conninfo})"),
            Self::Files(path) | Self::Sql(path) => path.display().fmt(f),
        }
    }
}

/// A file that changes the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transform {
    pub(crate) path: PathBuf,
    /// Of its content when it was last run, in hexadecimal.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
}

/// What is recorded: enough to bring it anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    pub(crate) place: Place,
    /// As it was told.
    pub(crate) method: Option<Method>,
    #[serde(default)]
    pub(crate) databases: Vec<String>,
    #[serde(default)]
    pub(crate) schemas: Vec<String>,
    #[serde(default)]
    pub(crate) jobs: Option<u32>,
    #[serde(default)]
    pub(crate) roles: Option<PathBuf>,
    #[serde(default)]
    pub(crate) transforms: Vec<Transform>,
    #[serde(default)]
    pub(crate) masking: Option<Transform>,
    #[serde(default)]
    pub(crate) reindex: bool,
    /// Whether somebody named the project's role, which may then be one of the source's.
    #[serde(default)]
    pub(crate) role_is_told: bool,
    /// Whether somebody named the project's database.
    #[serde(default)]
    pub(crate) database_is_told: bool,
    /// Of the cluster that a dump in a file is read into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locale: Option<String>,
    /// Only where somebody has asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Secret>,
    /// As it really came.
    #[serde(default)]
    pub(crate) used: Option<Method>,
    /// In milliseconds since 1970, UTC.
    #[serde(default)]
    pub(crate) brought_at: Option<u64>,
    /// What is not as it was in the source.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// What a project's `main` was brought from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceInfo {
    /// How it came.
    pub method: Method,
    /// Words that name the server, without a password; or a path.
    pub from: String,
    /// When it was last brought, in milliseconds since 1970, UTC.
    pub brought_at: u64,
    /// The files that were run on it, in their order.
    pub transforms: Vec<PathBuf>,
    /// The file that it was masked by.
    pub masking: Option<PathBuf>,
    /// What is not as it was in the source, in words.
    pub notes: Vec<String>,
}

impl Recipe {
    /// Records the password that the source has let in, if somebody wishes that, or one is recorded already. There is
    /// none where it stands in a file.
    pub(super) fn keep_password(&mut self, is_wished: bool, let_in: Option<String>) {
        if is_wished || self.password.is_some() {
            self.password = let_in.map(Secret).or(self.password.take());
        }
    }

    /// As it is told, once it has come.
    pub(crate) fn info(&self) -> Option<SourceInfo> {
        Some(SourceInfo {
            method: self.used?,
            from: match &self.place {
                Place::Server(conninfo) => conninfo.clone(),
                Place::Files(path) | Place::Sql(path) => path.display().to_string(),
            },
            brought_at: self.brought_at?,
            transforms: self.transforms.iter().map(|t| t.path.clone()).collect(),
            masking: self.masking.as_ref().map(|m| m.path.clone()),
            notes: self.notes.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_recorded_where_somebody_wishes_it_or_one_is() {
        let secret = |text: &str| Some(Secret(text.to_owned()));
        for (recorded, is_wished, let_in, then) in [
            (None, false, Some("new"), None),
            (None, true, Some("new"), Some("new")),
            // Of a file.
            (None, true, None, None),
            (Some("old"), true, None, Some("old")),
            (Some("old"), false, Some("new"), Some("new")),
        ] {
            let mut recipe = Source::server("host=h").unwrap().recipe;
            recipe.password = recorded.and_then(secret);
            recipe.keep_password(is_wished, let_in.map(str::to_owned));
            let what = format!("{recorded:?}, {is_wished}, {let_in:?}");
            assert_eq!(recipe.password, then.and_then(secret), "{what}");
        }
    }

    #[test]
    fn another_source_brings_its_own_and_leaves_the_projects() {
        let mut old = Source::server("host=a").unwrap().transform("a.sql").recipe;
        old.password = Some(Secret("s3cret".to_owned()));
        (old.role_is_told, old.locale) = (true, Some("C".to_owned()));
        let source = Source::server("postgres://ann:x@b/d").unwrap().reindex().instead_of(old);
        let Source { recipe, is_new, .. } = source;
        assert!(is_new && recipe.role_is_told && recipe.database_is_told && recipe.reindex);
        assert_eq!(recipe.locale.as_deref(), Some("C"));
        assert!(recipe.transforms.is_empty() && recipe.password.is_none());
    }
}
