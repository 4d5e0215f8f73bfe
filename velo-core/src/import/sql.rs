//! A dump that somebody has made: plain SQL, or an archive of `pg_dump`'s, compressed or not.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::bring::Import;
use super::check;
use super::contents::{Archive, CLUSTER, DATABASE, Script};
use super::preload::Preload;
use super::progress::{Stage, during};
use super::source::Place;
use super::tools::failed;
use crate::command::Program;
use crate::engine::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::os_user::OsUser;
use crate::postgres::session::{Session, ident, literal};
use crate::runtime::ToolSpec;

/// What a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Custom,
    /// Which is read by one process alone.
    Tar,
    Directory,
}

/// What a file begins with that is compressed, and the program that undoes it.
const COMPRESSED: [(&[u8], &str); 5] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (&[0xfd, 0x37, 0x7a, 0x58, 0x5a], "xz"),
    (b"BZh", "bzip2"),
];

impl Import<'_> {
    /// The superuser that the cluster is to begin with, as the files that make roles have it. An error where one of their
    /// roles would be taken for Velo's own, or take that from it.
    pub(super) async fn first_role(&mut self) -> Result<Option<String>> {
        let Place::Sql(path) = self.recipe.place.clone() else { return Ok(None) };
        let path = self.uncompressed(path).await?;
        let mut files: Vec<PathBuf> = self.recipe.roles.clone().into_iter().collect();
        if format(&path)? == Format::Plain && head(&path)?.contains(CLUSTER) {
            files.push(path);
        }
        let script = blocking(move || {
            let mut script = Script::default();
            files.iter().try_for_each(|file| script.add_roles(file)).map(|()| script)
        });
        let script = script.await?;
        let role = &self.project.role;
        match script.superuser(role) {
            Some(superuser) if !(superuser && self.role_is_told) => Err(check::role_is_there(role)),
            _ => {
                let first = script.bootstrap(self.project.postgres.version.major)?;
                Ok(first.map(str::to_owned))
            }
        }
    }

    /// Reads the dump into the server.
    pub(super) async fn load_sql(&mut self) -> Result<()> {
        let Place::Sql(path) = self.recipe.place.clone() else {
            return Err(Error::new(ErrorKind::Internal, "no dump to read"));
        };
        if let Some(roles) = self.recipe.roles.clone() {
            self.run_roles(&roles).await?;
        }
        let path = self.uncompressed(path).await?;
        let size =
            super::progress::size_of(path.clone()).max(path.metadata().map_or(0, |m| m.len()));
        let data = self.location.host_path().to_path_buf();
        let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_cluster = format(&path)? == Format::Plain && head(&path)?.contains(CLUSTER);
        let (spec, made) = match format(&path)? {
            Format::Plain => {
                check_end(&path)?;
                (self.plain(&path, is_cluster).await?, None)
            }
            format => self.archive(&path, format).await?,
        };
        let run = async {
            match is_cluster {
                true => self.run_cluster(spec).await,
                false => self.run(spec).await.map(drop).map_err(without),
            }
        };
        let restored = during(self.watch, Stage::Restore, &shown, &data, Some(size), run);
        self.op.steps.run("restore", restored).await?;
        if let Some(made) = made.filter(|made| *made != self.project.database) {
            self.rename(&made).await?;
        }
        crate::disk::remove_folder("remove a dump", &self.run_dir.path().join("dump"))
    }

    /// The same file without its compression: beside the data, where it is compressed. It is there when somebody
    /// asks again.
    async fn uncompressed(&mut self, path: PathBuf) -> Result<PathBuf> {
        if path.is_dir() {
            return Ok(path);
        }
        let mut first = [0; 8];
        let read = open(&path)?.read(&mut first);
        let count = read.map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        let first = first.get(..count).unwrap_or_default();
        let Some((_, program)) = COMPRESSED.iter().find(|(magic, _)| first.starts_with(magic))
        else {
            return Ok(path);
        };
        let folder = self.run_dir.path().join("dump");
        let user = self.home.server_user(&self.project.postgres);
        crate::disk::make_folder("make the folder of a dump", &folder, 0o700, user.as_ref())?;
        let to = folder.join("plain");
        if to.exists() {
            return Ok(to);
        }
        let failure = |e: std::io::Error| Error::io(format!("write {}", to.display()), e);
        let file = std::fs::File::create(&to).map_err(failure)?;
        if let Some(user) = &user {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)).map_err(failure)?;
        }
        let run = Program::new(program)
            .arg("-dc")
            .stdin(open(&path)?)
            .stdout(file)
            .detached()
            .dies_with_us()
            .output_unless(None, &self.op.cancel);
        let shown = path.display().to_string();
        let unpacked = during(self.watch, Stage::Copy, &shown, &folder, None, run);
        let output = self.op.steps.run("unpack", unpacked).await.map_err(|e| {
            e.with_hint(format!("{} is compressed by {program}: install that", path.display()))
        })?;
        match output.success {
            true => Ok(to),
            false => Err(failed(program, &output.stderr, &output.status)),
        }
    }

    /// How plain SQL is run.
    ///
    /// All that `psql` knows is run, `\!` too. To refuse that would protect nobody: whoever wrote the dump has it run by
    /// a superuser, whose `COPY … PROGRAM` does the same as the same user. So the README says whose dumps to take.
    async fn plain(&mut self, path: &Path, is_cluster: bool) -> Result<ToolSpec> {
        let file = path.to_path_buf();
        let script = blocking(move || Script::read(&file, is_cluster)).await?;
        let needed = Preload::of(&script.extensions_in(&self.project.database), "")?;
        // In a box: the callers' futures would be nested too deep for the compiler.
        Box::pin(self.preload(needed)).await?;
        for database in &script.databases {
            self.drop_empty(database).await?;
        }
        // Databases that it makes have their own locale and encoding, which they would not have if they were there.
        let makes_own = is_cluster || (script.connects && !script.databases.is_empty());
        let database = match makes_own {
            true => "template1".to_owned(),
            false => {
                self.make_database().await?;
                self.project.database.clone()
            }
        };
        let args = ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.push(format!("--dbname={database}"));
        let mut spec = self.tool_for_copy("psql", args);
        spec.input = Some(path.to_path_buf());
        Ok(spec)
    }

    /// How an archive is read, and the database that it makes, with its own locale and encoding.
    async fn archive(&mut self, path: &Path, format: Format) -> Result<(ToolSpec, Option<String>)> {
        let user = self.home.server_user(&self.project.postgres);
        // As root, programs run as another user, who may not read what root may.
        let by_path = user.as_ref().is_none_or(|user| readable(path, user));
        if format == Format::Directory && !by_path {
            let what = format!("servers run as another user, who may not read {}", path.display());
            return Err(Error::new(ErrorKind::PermissionDenied, what)
                .with_hint("let everybody read that folder, or put it where they can"));
        }
        let with_file = |mut spec: ToolSpec| {
            match by_path {
                true => {
                    spec.args.push(path.display().to_string());
                    spec.reads.push(path.to_path_buf());
                }
                false => spec.input = Some(path.to_path_buf()),
            }
            spec
        };
        // Without `--create` it leaves the database itself out.
        let list =
            with_file(self.tool("pg_restore", ["--list", "--create"].map(str::to_owned).to_vec()));
        let contents = Archive::of(&self.run(list).await?.stdout);
        // Only the first time: at a refresh it is renamed to what URLs name already.
        if let (true, false, Some(own)) =
            (self.is_first, self.recipe.database_is_told, &contents.database)
        {
            self.project.database.clone_from(own);
        }
        let made = contents.database.filter(|_| contents.makes_database);
        let place = made.clone().unwrap_or_else(|| self.project.database.clone());
        let needed = Preload::of(&[(place, contents.extensions)], "")?;
        // In a box: the callers' futures would be nested too deep for the compiler.
        Box::pin(self.preload(needed)).await?;
        let mut args = vec!["--exit-on-error", "--no-tablespaces", "--no-password"];
        let database = match &made {
            Some(made) => {
                args.push("--create");
                self.drop_empty(made).await?;
                "template1".to_owned()
            }
            None => {
                self.make_database().await?;
                self.project.database.clone()
            }
        };
        let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        args.push(format!("--dbname={database}"));
        if by_path && format != Format::Tar {
            args.push(format!("--jobs={}", self.jobs()));
        }
        Ok((with_file(self.tool_for_copy("pg_restore", args)), made))
    }

    /// Gives a database that was made under its own name the project's.
    async fn rename(&self, made: &str) -> Result<()> {
        let wanted = &self.project.database;
        self.drop_empty(wanted).await?;
        let session = self.session("template1").await?;
        let sql = format!("ALTER DATABASE {} RENAME TO {}", ident(made), ident(wanted));
        session.execute("name the project's database", &sql).await
    }

    /// Makes the project's database where it is not there, for a dump that does not make it.
    async fn make_database(&mut self) -> Result<()> {
        let socket_dir = self.run_dir.socket();
        let target = self.target(&socket_dir);
        let session = Session::connect_to(target, "template1").await?;
        let name = &self.project.database;
        let exists = format!("SELECT count(*) FROM pg_database WHERE datname = {}", literal(name));
        if session.value("look for the database", &exists).await? == "0" {
            let sql = format!("CREATE DATABASE {} TEMPLATE template0", ident(name));
            session.execute("create the project's database", &sql).await?;
        }
        let locale =
            format!("SELECT datcollate FROM pg_database WHERE datname = {}", literal(name));
        let locale = session.value("look at its locale", &locale).await?;
        self.note(format!(
            "the dump does not say which locale its database had: here it is {locale}"
        ));
        Ok(())
    }

    /// Runs SQL that makes roles, of which some are there.
    pub(super) async fn run_roles(&self, file: &Path) -> Result<()> {
        let mut args: Vec<String> =
            ["-X", "-q", "-w", "-o", "/dev/null"].map(str::to_owned).to_vec();
        args.push("--dbname=template1".to_owned());
        let mut spec = self.tool_for_copy("psql", args);
        spec.input = Some(file.to_path_buf());
        self.op.steps.run("make roles", self.run_cluster(spec)).await
    }

    /// Runs SQL as `pg_dumpall` writes it: the first superuser is there, and may be others.
    async fn run_cluster(&self, mut spec: ToolSpec) -> Result<()> {
        spec.args.retain(|arg| arg != "ON_ERROR_STOP=1" && arg != "-v");
        let output = self.run_to_its_end(spec).await?;
        let is_error =
            |line: &&str| ["ERROR:", "FATAL:", "error:"].iter().any(|word| line.contains(word));
        let harmless = |line: &str| line.contains("already exists") && line.contains("role \"");
        let wrong: Vec<&str> =
            output.stderr.lines().filter(is_error).filter(|line| !harmless(line)).collect();
        match output.success && wrong.is_empty() {
            true => Ok(()),
            false => {
                let told = if wrong.is_empty() { output.stderr } else { wrong.join("\n") };
                Err(failed("psql", &told, &output.status))
            }
        }
    }
}

/// A role or a tablespace that a dump names and does not make.
fn without(error: Error) -> Error {
    let text = error.to_string();
    let lacks = |what: &str| text.contains(what) && text.contains("does not exist");
    if lacks("role \"") {
        return error.with_hint(
            "a dump of a database does not make the roles that it names: give them (--roles FILE), as \
             pg_dumpall --roles-only writes them",
        );
    }
    // pg_restore leaves out those of tables, and not that of the database.
    if lacks("tablespace \"") {
        return error
            .with_hint("dump it with pg_dump --no-tablespaces: here all lies in the data folder");
    }
    error
}

fn open(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).map_err(|e| Error::io(format!("read {}", path.display()), e))
}

/// The first of a file, as text.
fn head(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(4096).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An error where plain SQL that `pg_dump` wrote lacks its end: `psql` takes what is there for all.
fn check_end(path: &Path) -> Result<()> {
    let begin = head(path)?;
    let is_whole = !begin.contains(DATABASE) && !begin.contains(CLUSTER)
        || tail(path)?.contains("dump complete");
    if is_whole {
        return Ok(());
    }
    let what = format!("{} was cut short: it has no end as pg_dump writes it", path.display());
    Err(Error::new(ErrorKind::InvalidInput, what).with_hint(
        "make it again, or copy it again; a whole one ends with the words \"dump complete\"",
    ))
}

/// The last of a file, as text.
fn tail(path: &Path) -> Result<String> {
    let failure = |e: std::io::Error| Error::io(format!("read {}", path.display()), e);
    let mut file = open(path)?;
    let size = file.metadata().map_err(failure)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(64 << 10))).map_err(failure)?;
    let mut bytes = Vec::new();
    file.take(64 << 10).read_to_end(&mut bytes).map_err(failure)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn format(path: &Path) -> Result<Format> {
    if path.is_dir() {
        return Ok(Format::Directory);
    }
    let mut bytes = Vec::new();
    let read = open(path)?.take(512).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    let is_tar = bytes.get(257..262) == Some(b"ustar");
    Ok(match bytes.starts_with(b"PGDMP") {
        true => Format::Custom,
        false if is_tar => Format::Tar,
        false => Format::Plain,
    })
}

/// Whether a user may read a file or folder. What is in a folder is taken to be as it is itself.
fn readable(path: &Path, user: &OsUser) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some(above) = path.parent() else { return false };
    if crate::os_user::check_passable(above, user, "").is_err() {
        return false;
    }
    let Ok(found) = path.metadata() else { return false };
    let wanted = if found.is_dir() { 0o5 } else { 0o4 };
    let shift = match () {
        () if found.uid() == user.uid => 6,
        () if found.gid() == user.gid => 3,
        () => 0,
    };
    (found.mode() >> shift) & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_known_by_its_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(format(&write("a", b"PGDMP\x01")).unwrap(), Format::Custom);
        assert_eq!(format(&write("b", b"-- SQL\n")).unwrap(), Format::Plain);
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(format(&write("c", &tar)).unwrap(), Format::Tar);
        assert_eq!(format(dir.path()).unwrap(), Format::Directory);
    }

    #[test]
    fn a_dump_without_its_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.sql");
        for (text, is_whole) in [
            ("--\n-- PostgreSQL database dump\n--\nCOPY t FROM stdin;\n1\n", false),
            ("--\n-- PostgreSQL database cluster dump\n--\nCREATE ROLE a;\n", false),
            (
                "-- PostgreSQL database dump\n-- PostgreSQL database dump complete\n--\n\\unrestrict x\n",
                true,
            ),
            ("CREATE TABLE t (n int);\n", true),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(check_end(&path).is_ok(), is_whole, "{text}");
        }
    }
}
