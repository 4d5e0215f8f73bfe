//! What must fit before data comes.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::bring::Import;
use super::preload;
use super::remote::{Database, Facts};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Libc, collation};
use crate::runtime::RuntimeKind;

/// Images that have extensions which many use, by a part of a library's name: `{}` is the major.
const IMAGES: [(&str, &str); 4] = [
    ("postgis", "postgis/postgis:{}-3.5"),
    ("vector", "pgvector/pgvector:pg{}"),
    ("timescaledb", "timescale/timescaledb:latest-pg{}"),
    ("citus", "citusdata/citus"),
];

/// Whether the role may take a physical copy, as the source itself says.
/// Gives the source's system identifier.
pub(super) async fn rights(import: &Import<'_>, facts: &Facts) -> Result<Option<u64>> {
    if !facts.replication {
        let what = "the role has no REPLICATION, which a copy of the files needs";
        return Err(Error::new(ErrorKind::PermissionDenied, what)
            .with_hint("ALTER ROLE … REPLICATION in the source, or use --method dump"));
    }
    let told = import.psql("postgres", "replication='true'", "IDENTIFY_SYSTEM").await?;
    Ok(told.split('|').next().and_then(|identifier| identifier.trim().parse().ok()))
}

/// What a physical copy needs beside that.
pub(super) async fn basebackup(import: &mut Import<'_>, facts: &Facts) -> Result<()> {
    let all: Vec<&str> = facts.databases.iter().map(|database| database.name.as_str()).collect();
    database(import, &all)?;
    for (what, size) in [("pages", &facts.block_size), ("WAL pages", &facts.wal_block_size)] {
        if size != "8192" {
            let text =
                format!("the source's {what} have {size} bytes, and those of PostgreSQL here 8192");
            return Err(Error::new(ErrorKind::Incompatible, text).with_hint("use --method dump"));
        }
    }
    if !facts.tablespaces.is_empty() {
        let names = facts.tablespaces.join(", ");
        let what = format!("the source has tablespaces outside its data folder: {names}");
        return Err(Error::new(ErrorKind::Incompatible, what)
            .with_hint("use --method dump, which puts all into the data folder"));
    }
    own_role(import, facts)?;
    synchronous(import, facts)?;
    for database in &facts.databases {
        locale(import, database)?;
        sorted(import, facts, database)?;
    }
    libraries(import, facts).await?;
    room(import, facts.bytes() + facts.bytes() / 10 + (256 << 20))
}

/// What a dump needs.
pub(super) async fn dump(import: &mut Import<'_>, facts: &Facts) -> Result<()> {
    let have = import.project.postgres.version;
    if have.major < facts.major() {
        let what = format!("the source is PostgreSQL {}, and this is {have}", facts.major());
        return Err(Error::new(ErrorKind::Incompatible, what).with_hint(format!(
            "a dump is read by its own major or a newer one: velo pg install {0}, and use that (--pg-version {0})",
            facts.major()
        )));
    }
    own_role(import, facts)?;
    if !facts.tablespaces.is_empty() {
        let names = facts.tablespaces.join(", ");
        import.note(format!("what is in the tablespaces {names} is in the data folder here"));
    }
    let wanted = import.wanted(facts)?;
    // Who chooses one alone means that one, whatever the URL says.
    let is_open = import.is_first && !import.recipe.database_is_told;
    if let ([only], true) = (import.recipe.databases.as_slice(), is_open) {
        import.project.database.clone_from(only);
    }
    let coming: Vec<&str> = wanted.iter().map(|database| database.name.as_str()).collect();
    // These two are in every new cluster.
    if !["postgres", "template1"].contains(&import.project.database.as_str()) {
        database(import, &coming)?;
    }
    let bytes: u64 = wanted.iter().map(|database| database.bytes).sum();
    let is_part = !import.recipe.schemas.is_empty();
    let objects = "SELECT to_json(EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata))";
    for database in &wanted {
        locale(import, database)?;
        if is_part && import.ask::<bool>(&database.name, objects).await? {
            import.note(format!(
                "the large objects of {} did not come: they are in no schema",
                database.name
            ));
        }
    }
    preload::of_source(import, facts).await?;
    // The dump, compressed, lies beside the data that it becomes.
    room(import, bytes + bytes / 2 + (256 << 20))
}

/// The database that URLs name has to be among those that come.
fn database(import: &Import<'_>, coming: &[&str]) -> Result<()> {
    let name = import.project.database.as_str();
    match import.database_is_open() || coming.contains(&name) {
        true => Ok(()),
        false => Err(no_database(name, coming)),
    }
}

/// The database that URLs name is not among these, which come.
pub(super) fn no_database(name: &str, coming: &[impl AsRef<str>]) -> Error {
    let names: Vec<&str> = coming.iter().map(AsRef::as_ref).collect();
    Error::new(ErrorKind::NotFound, format!("there is no database {name:?} in the data"))
        .with_hint(format!("these come: {}", names.join(", ")))
}

/// Under its slot a copy reports the WAL that it has, as standbys do. Where commits wait for whoever does that, they would
/// wait for it, and take for safe what is written here without a sync. No commit waits for a standby of a standby.
fn synchronous(import: &Import<'_>, facts: &Facts) -> Result<()> {
    let own = import.server.as_ref().and_then(|server| server.get("application_name"));
    if facts.in_recovery || !counts(&facts.synchronous, own.unwrap_or("velo")) {
        return Ok(());
    }
    let what = format!(
        "commits of the source would wait for this copy: its synchronous_standby_names is {:?}",
        facts.synchronous
    );
    Err(Error::new(ErrorKind::Conflict, what)
        .with_hint("name its standbys there, and not *; or use --method dump"))
}

/// Whether a list of synchronous standbys has one of this name in it.
fn counts(list: &str, name: &str) -> bool {
    let parts = list.split([',', '(', ')', ' ', '"']);
    parts.into_iter().any(|part| part == "*" || part.eq_ignore_ascii_case(name))
}

/// Whether Velo's role can be the one that the source has of its name, if it has one.
fn own_role(import: &Import<'_>, facts: &Facts) -> Result<()> {
    let role = &import.project.role;
    let may = import.role_is_told && facts.superusers.contains(role);
    if !may && facts.roles.contains(role) {
        return Err(role_is_there(role));
    }
    Ok(())
}

/// A role of the source's has the name that Velo's own is to have.
pub(super) fn role_is_there(role: &str) -> Error {
    let what = format!("the source has a role {role:?}, which is to be Velo's own superuser");
    Error::new(ErrorKind::Conflict, what).with_hint(
        "give Velo's another name (--role), or name that one, if it is a superuser: its password becomes Velo's",
    )
}

/// Enough space for so many bytes, beside what must stay free.
pub(super) fn room(import: &Import<'_>, bytes: u64) -> Result<()> {
    let home = import.home.config.home();
    let keep = import.home.config.keep_free;
    let free = rustix::fs::statvfs(home).map(|fs| fs.f_bavail * fs.f_frsize);
    let free =
        free.map_err(|e| Error::io(format!("look at the free space of {}", home.display()), e))?;
    if free >= bytes + keep {
        return Ok(());
    }
    let what = format!(
        "No space left in {}: the data needs about {} MB, and {} MB are free, of which {} MB must stay so",
        home.display(),
        bytes >> 20,
        free >> 20,
        keep >> 20
    );
    Err(Error::new(ErrorKind::Exhausted, what)
        .with_hint("free some space, or use another VELO_HOME"))
}

/// A database needs its locale of the C library here.
fn locale(import: &Import<'_>, database: &Database) -> Result<()> {
    if import.project.runtime != RuntimeKind::Process {
        return Ok(());
    }
    for name in [&database.collate, &database.ctype] {
        if !is_here(name) {
            let what = format!(
                "the database {:?} has the locale {name:?}, which this machine lacks",
                database.name
            );
            return Err(Error::new(ErrorKind::Incompatible, what).with_hint(
                "install it (Debian: dpkg-reconfigure locales), or run the project in an image that has it",
            ));
        }
    }
    Ok(())
}

/// Indexes that are copied need it in the same version; a dump's are built here.
///
/// PostgreSQL 14 records no version of a database's collation, and nobody would see that rows are not found. So the
/// version that the source's C library has *now* is compared with that of here. That is sound: what the indexes were
/// built with is not known, but if they are right in the source, they are right here, where text is sorted alike.
/// And any collation of that library tells it, for `glibc` has one version, its own, for all of them. Where nothing
/// tells, the data is refused. What `initdb` recorded of the collations that it found would not do:
/// a source whose system was upgraded since then, and its indexes built anew, has it as it was.
fn sorted(import: &Import<'_>, facts: &Facts, database: &Database) -> Result<()> {
    let stable = ["C", "POSIX", "C.UTF-8", "C.utf8"];
    let provider = database.provider.as_deref().unwrap_or("c");
    if provider != "c" || stable.contains(&database.collate.as_str()) || import.recipe.reindex {
        return Ok(());
    }
    // In an image its server looks, once the data is there.
    let is_process = import.project.runtime == RuntimeKind::Process;
    if database.version.is_some() && !is_process {
        return Ok(());
    }
    if facts.musl && import.project.postgres.libc() == Some(Libc::Musl) {
        return Ok(());
    }
    let ours = match &import.project.postgres.image {
        Some(image) => image.libc_version.clone().filter(|_| image.libc == Libc::Glibc),
        None => glibc(),
    };
    let what = match (database.version.as_ref().or(facts.libc.as_ref()), ours) {
        (Some(theirs), Some(ours)) if *theirs == ours => return Ok(()),
        (Some(theirs), Some(ours)) => format!(
            "the database {:?} was sorted by version {theirs} of its collation, and here it is {ours}",
            database.name
        ),
        // A version that is recorded the server compares.
        (Some(_), None) if database.version.is_some() => return Ok(()),
        _ => format!(
            "the database {:?} is sorted by {:?} of the C library, and whether that sorts alike here is not known: \
             there is no version of it",
            database.name, database.collate
        ),
    };
    Err(Error::new(ErrorKind::Incompatible, what).with_hint(
        "have its indexes built anew (--reindex), use --method dump, or run the project in an image with that version",
    ))
}

/// Whether the C library knows a locale.
fn is_here(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name is a valid C string, and what is made is freed.
    unsafe {
        let locale = libc::newlocale(
            libc::LC_COLLATE_MASK | libc::LC_CTYPE_MASK,
            name.as_ptr(),
            std::ptr::null_mut(),
        );
        if locale.is_null() {
            return false;
        }
        libc::freelocale(locale);
    }
    true
}

/// The version of this machine's C library, which is that of its collations.
fn glibc() -> Option<String> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it gives a string that lives as long as the process.
        let text = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        return Some(text.to_string_lossy().into_owned());
    }
    #[allow(unreachable_code)]
    None
}

/// The extensions of a database of the source: an error, unless PostgreSQL has them here, where it has a folder for them.
pub(super) async fn extensions(import: &Import<'_>, database: &str) -> Result<Vec<String>> {
    let sql = "SELECT coalesce(json_agg(extname), '[]') FROM pg_catalog.pg_extension";
    let names: Vec<String> = import.ask(database, sql).await?;
    let share = import.project.share_dir.as_ref();
    let missing = |name: &&String| {
        let file = format!("extension/{name}.control");
        share.is_some_and(|share| !share.join(file).exists())
    };
    match names.iter().find(missing) {
        None => Ok(names),
        Some(name) => Err(extension_missing(import, name, database)),
    }
}

pub(super) fn extension_missing(import: &Import<'_>, name: &str, database: &str) -> Error {
    let major = import.project.postgres.version.major;
    let image = IMAGES.iter().find(|(part, _)| name.contains(part));
    let image = match image {
        Some((_, image)) => {
            format!("--runtime docker --image {}", image.replace("{}", &major.to_string()))
        }
        None => "one that has it, with --runtime docker --image …".to_owned(),
    };
    let what = format!(
        "the database {database:?} needs the extension {name}, which PostgreSQL {} in {} lacks",
        import.project.postgres.version,
        import.project.postgres.place()
    );
    Error::new(ErrorKind::Incompatible, what).with_context("extension", name).with_hint(format!(
        "install it for that PostgreSQL (Debian: apt-get install postgresql-{major}-{name}), or take an image: {image}",
    ))
}

/// The libraries that functions of the source, and its server, are in.
async fn libraries(import: &Import<'_>, facts: &Facts) -> Result<()> {
    let Some(folder) = library_folder(import).await else { return Ok(()) };
    let is_there = |name: &str| has_library(&folder, name);
    for name in facts.preloaded().split(',').map(|name| name.trim().trim_matches('"')) {
        if !name.is_empty() && !is_there(name) {
            let mut error = extension_missing(import, name, "shared_preload_libraries");
            error = error.with_context("library", name);
            return Err(error);
        }
    }
    let sql = "SELECT coalesce(json_agg(DISTINCT probin), '[]') FROM pg_catalog.pg_proc \
               WHERE probin IS NOT NULL AND prolang = 13";
    for database in facts.databases.iter().filter(|database| database.open) {
        let names: Vec<String> = import.ask(&database.name, sql).await?;
        if let Some(name) = names.iter().find(|name| !is_there(name)) {
            let short = name.rsplit('/').next().unwrap_or(name);
            return Err(extension_missing(import, short, &database.name));
        }
    }
    Ok(())
}

/// Whether a library is there that a server's settings or functions name.
pub(super) fn has_library(folder: &Path, name: &str) -> bool {
    let name = name.strip_prefix("$libdir/").unwrap_or(name);
    let path = if name.starts_with('/') { PathBuf::from(name) } else { folder.join(name) };
    path.exists() || path.with_extension("so").exists() || {
        let mut with = path.into_os_string();
        with.push(".so");
        Path::new(&with).exists()
    }
}

/// Where this machine's PostgreSQL has its libraries; `None` where that cannot be told.
pub(super) async fn library_folder(import: &Import<'_>) -> Option<PathBuf> {
    if import.project.runtime != RuntimeKind::Process {
        return None;
    }
    let bin = &import.project.postgres.bin_dir;
    let lib = bin.parent()?.join("lib");
    let mut folders = vec![lib.clone(), lib.join("postgresql"), bin.parent()?.join("lib64")];
    let told = crate::command::Program::new(bin.join("pg_config")).arg("--pkglibdir");
    if let Ok(output) = told.output(std::time::Duration::from_secs(60)).await {
        folders.insert(0, PathBuf::from(output.stdout.trim()));
    }
    folders.into_iter().find(|folder| folder.join("plpgsql.so").exists())
}

/// What a server that does not come up on the copy lacks.
pub(super) fn explain(error: Error) -> Error {
    let said = |words: &str| {
        error.to_string().contains(words) || error.context().any(|(_, text)| text.contains(words))
    };
    let hint = if said("could not access file") || said("could not load library") {
        "the log names a library that is not here: install its extension for this PostgreSQL, or take an image that \
         has it"
    } else if said("could not open configuration") || said("unrecognized configuration parameter") {
        "the source's postgresql.conf names what is not here: its log says what"
    } else if said("of another version here") {
        "have its indexes built anew (--reindex), bring a dump of it (of a server --method dump), or run the project \
         in an image with that version"
    } else {
        return error;
    };
    error.with_hint(hint)
}

impl Import<'_> {
    /// Loads every library that functions of the copy are in.
    pub(super) async fn check_libraries(&self) -> Result<()> {
        for database in self.databases().await? {
            let session = self.session(&database).await?;
            let rows = session
                .rows(
                    "list its libraries",
                    "SELECT DISTINCT probin FROM pg_proc WHERE probin IS NOT NULL AND prolang = 13",
                )
                .await?;
            for library in rows.into_iter().flatten().flatten() {
                let sql = format!("LOAD {}", crate::postgres::session::literal(&library));
                let Err(error) = session.rows("load a library", &sql).await else { continue };
                // Some say that they have to be loaded at the start, and are there.
                if error.context().any(|(key, value)| key == "sqlstate" && value == "58P01") {
                    let short = library.rsplit('/').next().unwrap_or(&library);
                    return Err(extension_missing(self, short, &database).with_source(error));
                }
            }
        }
        Ok(())
    }

    /// A server looks at the collations of the database that it is asked for; here all come.
    pub(super) async fn check_collations(&self) -> Result<()> {
        for database in self.databases().await? {
            let session = self.session(&database).await?;
            collation::columns(&session).await.map_err(explain)?;
            // A source that runs was asked.
            if self.server.is_none() {
                collation::unrecorded(&session).await.map_err(explain)?;
            }
        }
        Ok(())
    }

    /// Builds indexes anew, and says that their collations are those of here.
    pub(super) async fn reindex(&self) -> Result<()> {
        use super::progress::{Stage, begin};
        let major = self.project.postgres.version.major;
        for database in self.databases().await? {
            begin(self.watch, Stage::Reindex, &database);
            let session = self.session(&database).await?;
            let name = crate::postgres::session::ident(&database);
            let sql = format!("REINDEX DATABASE {name}");
            let work = session.execute("build indexes anew", &sql);
            self.op.steps.run("reindex", self.op.cancel.guard(work)).await??;
            let mut statements = vec![
                "DO $velo$ DECLARE c record; BEGIN FOR c IN SELECT oid::regcollation AS name FROM pg_collation \
                 WHERE collversion <> pg_collation_actual_version(oid) \
                 LOOP EXECUTE format('ALTER COLLATION %s REFRESH VERSION', c.name); END LOOP; END $velo$"
                    .to_owned(),
            ];
            // None is never changed to one, nor one to none.
            let is_refreshed = "SELECT count(*) FROM pg_database WHERE datname = current_database() \
                 AND datcollversion <> pg_database_collation_actual_version(oid)";
            if major >= 15 && session.value("look at its collation", is_refreshed).await? != "0" {
                statements.push(format!("ALTER DATABASE {name} REFRESH COLLATION VERSION"));
            }
            for sql in statements {
                session.execute("take over the versions of collations", &sql).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_commits_would_wait_for_is_seen() {
        for list in ["*", "FIRST 2 (a, *)", "velo", "ANY 1 (\"Velo\",b)"] {
            assert!(counts(list, "velo"), "{list}");
        }
        for list in ["", "FIRST 2 (velo1, b)", "a"] {
            assert!(!counts(list, "velo"), "{list}");
        }
    }
}
