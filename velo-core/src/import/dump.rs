//! A logical copy of a running server: roles, then each database, in parallel.

use super::bring::Import;
use super::preload;
use super::progress::{Stage, during};
use super::remote::{Database, Facts};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::session::ident;
use crate::project::initdb::Cluster;

impl Import<'_> {
    /// Makes an empty cluster, whose first superuser is the source's: what roles were granted names it.
    pub(super) async fn new_cluster(&mut self, facts: Option<&Facts>) -> Result<()> {
        let first = match facts {
            Some(facts) => Some(facts.bootstrap.clone()),
            None => self.first_role().await?,
        };
        let role = first.as_deref().unwrap_or("postgres");
        let cluster = Cluster {
            home: self.home,
            project: &self.project,
            run_dir: &self.run_dir,
            volume: self.volume,
            role,
            password: None,
            // What is dumped of a server names that of each database.
            locale: self.recipe.locale.as_deref().filter(|_| facts.is_none()),
            is_for_dump: true,
            cancel: self.op.cancel.clone(),
        };
        self.op.steps.run("initdb", cluster.make(&*self.storage, &*self.runtime)).await?;
        if role == self.project.role {
            self.role_is_told = true;
        }
        Ok(())
    }

    /// The databases that are to come.
    pub(super) fn wanted<'f>(&self, facts: &'f Facts) -> Result<Vec<&'f Database>> {
        let of_url = self.server.as_ref().and_then(|server| server.get("dbname"));
        let mut names: Vec<&str> = self.recipe.databases.iter().map(String::as_str).collect();
        if names.is_empty() {
            names.extend(of_url);
        }
        if names.is_empty() {
            let all = facts.databases.iter().filter(|database| database.open && !database.template);
            return Ok(all.collect());
        }
        let find = |name: &str| {
            let found = facts.databases.iter().find(|database| database.name == name);
            found.ok_or_else(|| {
                let all: Vec<_> = facts.databases.iter().map(|d| d.name.as_str()).collect();
                Error::new(ErrorKind::NotFound, format!("the source has no database {name:?}"))
                    .with_hint(format!("it has these: {}", all.join(", ")))
            })
        };
        let found = names.into_iter().map(find).collect::<Result<Vec<_>>>()?;
        match found.iter().find(|database| !database.open) {
            Some(closed) => Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("the role may not connect to the database {:?}", closed.name),
            )
            .with_hint("GRANT CONNECT in the source, or take another role")),
            None => Ok(found),
        }
    }

    /// Brings the roles, and one database after the other.
    pub(super) async fn load_dump(&mut self, facts: &Facts) -> Result<()> {
        let needed = preload::of_source(self, facts).await?;
        // In a box: the callers' futures would be nested too deep for the compiler.
        Box::pin(self.preload(needed)).await?;
        let folder = self.run_dir.path().join("dump");
        let user = self.home.server_user(&self.project.postgres);
        crate::disk::make_folder("make the folder of a dump", &folder, 0o700, user.as_ref())?;
        self.roles_of(facts, &folder).await?;
        let wanted: Vec<(String, u64)> =
            self.wanted(facts)?.into_iter().map(|d| (d.name.clone(), d.bytes)).collect();
        for (number, (database, bytes)) in wanted.iter().enumerate() {
            self.op.cancel.check()?;
            let place = folder.join(number.to_string());
            self.dump_one(database, *bytes, &place, &folder).await?;
            self.restore_one(database, *bytes, &place, &folder).await?;
            crate::disk::remove_folder("remove a dump", &place)?;
        }
        crate::disk::remove("remove a secret", &self.run_dir.path().join("secret"))
    }

    async fn roles_of(&mut self, facts: &Facts, folder: &std::path::Path) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let file = folder.join("roles.sql");
        let database = server.get("dbname").unwrap_or("postgres");
        let mut args =
            vec![format!("--dbname={}", server.to(database)), format!("--file={}", file.display())];
        args.extend(["--roles-only", "--no-password"].map(str::to_owned));
        if !facts.superuser {
            args.push("--no-role-passwords".to_owned());
            self.note(
                "roles have no passwords: only a superuser of the source may read them".into(),
            );
        }
        let mut spec = self.tool_for_source("pg_dumpall", args);
        spec.writes.push(folder.to_path_buf());
        self.op.steps.run("roles", self.run(spec)).await?;
        self.run_roles(&file).await?;
        crate::disk::remove("remove a secret", &file)
    }

    async fn dump_one(
        &self,
        database: &str,
        bytes: u64,
        place: &std::path::Path,
        folder: &std::path::Path,
    ) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let mut args = vec![
            format!("--dbname={}", server.to(database)),
            format!("--file={}", place.display()),
            format!("--jobs={}", self.jobs()),
        ];
        // What makes a database names its tablespace, whatever `pg_restore` is told.
        let more = ["--format=directory", "--compress=1", "--no-tablespaces", "--no-password"];
        args.extend(more.map(str::to_owned));
        if self.project.postgres.version.major >= 14 {
            args.push("--no-sync".to_owned());
        }
        if !self.recipe.schemas.is_empty() {
            args.push("--strict-names".to_owned());
            args.extend(self.recipe.schemas.iter().map(|name| format!("--schema={}", ident(name))));
            // Without a wish of their own schemas come without the extensions that they use.
            args.push("--extension=*".to_owned());
        }
        let mut spec = self.tool_for_source("pg_dump", args);
        spec.writes.push(folder.to_path_buf());
        let run = self.run(spec);
        let dumped = during(self.watch, Stage::Dump, database, folder, Some(bytes), run);
        self.op.steps.run("dump", dumped).await.map(drop)
    }

    async fn restore_one(
        &self,
        database: &str,
        bytes: u64,
        place: &std::path::Path,
        folder: &std::path::Path,
    ) -> Result<()> {
        self.drop_empty(database).await?;
        let mut args = vec![
            "--dbname=template1".to_owned(),
            format!("--jobs={}", self.jobs()),
            place.display().to_string(),
        ];
        args.extend(
            ["--create", "--exit-on-error", "--no-tablespaces", "--no-password"].map(str::to_owned),
        );
        let mut spec = self.tool_for_copy("pg_restore", args);
        spec.reads.push(folder.to_path_buf());
        let data = self.location.host_path().to_path_buf();
        let run = self.run(spec);
        let restored = during(self.watch, Stage::Restore, database, &data, Some(bytes), run);
        self.op.steps.run("restore", restored).await.map(drop)
    }

    /// Makes way for a database of the source's, where `initdb` has made one of its name.
    pub(super) async fn drop_empty(&self, database: &str) -> Result<()> {
        if database == "postgres" {
            let session = self.session("template1").await?;
            let drop = "DROP DATABASE IF EXISTS postgres WITH (FORCE)";
            session.execute("make way for a database", drop).await?;
        }
        Ok(())
    }
}
