//! The databases beside the one that is masked: each that may hold rows of somebody's is to be named.

use std::path::Path;

use super::catalog::relations;
use super::{Databases, Masking, bad, list};
use crate::error::{Error, ErrorKind, Result};
use crate::import::bring::Import;
use crate::postgres::session::{Session, ident};

/// One of them.
struct Other {
    name: String,
    /// Whether it can be looked into. An interrupted DROP DATABASE leaves a ruin that takes no connections either.
    is_open: bool,
    is_template: bool,
}

impl Other {
    fn shown(&self) -> String {
        match self.is_open {
            true => self.name.clone(),
            false => format!("{}, which takes no connections", self.name),
        }
    }
}

impl Import<'_> {
    /// Does with them what the file says; refuses it where it says nothing and there are some.
    pub(super) async fn other_databases(&self, masking: &Masking, path: &Path) -> Result<()> {
        let session = self.session(&self.project.database).await?;
        let others = self.others(&session).await?;
        match masking.other_databases {
            _ if others.is_empty() => Ok(()),
            Some(Databases::Keep) => Ok(()),
            Some(Databases::Drop) => {
                for other in &others {
                    self.op.cancel.check()?;
                    drop_database(&session, other).await?;
                }
                Ok(())
            }
            None => {
                let names: Vec<String> = others.iter().map(Other::shown).collect();
                let what = format!(
                    "it masks the database {:?} alone, and there are others: {}",
                    self.project.database,
                    list(&names)
                );
                Err(bad(path, what).with_hint("add other_databases = \"drop\", or \"keep\""))
            }
        }
    }

    /// Those with rows of somebody's, or with what nobody can see.
    async fn others(&self, session: &Session) -> Result<Vec<Other>> {
        let rows = session
            .rows(
                "list its databases",
                "SELECT datname, datallowconn AND datconnlimit <> -2, datistemplate FROM pg_database \
                 WHERE datname <> current_database() ORDER BY datname",
            )
            .await?;
        let mut others = Vec::new();
        for row in rows {
            let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
            let other =
                Other { name: text(0), is_open: text(1) == "t", is_template: text(2) == "t" };
            let holds_data = match other.is_open {
                true => holds_data(&self.session(&other.name).await?).await?,
                false if other.name == "template0" => self.template0_holds_data(session).await?,
                false => true,
            };
            if holds_data {
                others.push(other);
            }
        }
        Ok(others)
    }

    /// Every cluster has it closed, and empty unless somebody has opened it once.
    async fn template0_holds_data(&self, session: &Session) -> Result<bool> {
        const WHAT: &str = "look into template0";
        let allow = "ALTER DATABASE template0 ALLOW_CONNECTIONS";
        session.execute(WHAT, &format!("{allow} true")).await?;
        let holds_data = holds_data(&self.session("template0").await?).await?;
        session.execute(WHAT, &format!("{allow} false")).await?;
        Ok(holds_data)
    }
}

/// Whether there is anything in a database that a masking file would have to name.
async fn holds_data(session: &Session) -> Result<bool> {
    let count = "SELECT (SELECT count(*) FROM pg_largeobject_metadata) \
                      + (SELECT count(*) FROM pg_class WHERE relkind = 'm' AND relispopulated)";
    let found = relations(session).await?;
    Ok(found.values().any(|relation| !relation.is_extensions_own)
        || session.value("count large objects", count).await? != "0")
}

async fn drop_database(session: &Session, other: &Other) -> Result<()> {
    if other.name == "template0" {
        let what = "there are tables in template0, which cannot be dropped";
        return Err(Error::new(ErrorKind::Incompatible, what)
            .with_hint("drop them in the source: other databases are made of it"));
    }
    let name = ident(&other.name);
    if other.is_template {
        let alter = format!("ALTER DATABASE {name} IS_TEMPLATE false");
        session.execute("drop a database", &alter).await?;
    }
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    session.execute("drop a database", &drop).await?;
    if other.name != "template1" {
        return Ok(());
    }
    // As `initdb` makes it: programs connect to it, and databases are made of it.
    let owner = "SELECT rolname FROM pg_roles WHERE oid = 10";
    let owner = ident(&session.value("look for the first superuser", owner).await?);
    for sql in [
        format!("CREATE DATABASE template1 OWNER {owner} TEMPLATE template0 IS_TEMPLATE true"),
        "REVOKE CREATE, TEMPORARY ON DATABASE template1 FROM PUBLIC".to_owned(),
    ] {
        session.execute("make template1 anew", &sql).await?;
    }
    Ok(())
}
