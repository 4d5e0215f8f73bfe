//! The folder of a server's files: its log, its access rules, its secrets, its socket.

use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::id::Id;
use crate::os_user::OsUser;

/// What a server that follows another reads its password in.
pub(crate) const PASS_FILE: &str = "passfile";

/// What that was until new data has taken the place of the old.
pub(crate) const OLD_PASS_FILE: &str = "passfile.before";

/// What a tool reads a secret in.
const SECRET: &str = "secret";

/// `run/<id>`, with the socket in `run/<id>/s`.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    pub(crate) fn of(home: &Home, id: Id) -> Self {
        Self { dir: home.run_dir(id) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Makes the folder. As root it stays root's, and only the socket's belongs to the server's
    /// user, so that what Velo writes as root can never be a link that a server planted.
    pub(crate) fn make(&self, user: Option<&OsUser>) -> Result<()> {
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        disk::make_folder("make the folder of a server", &self.dir, mode, None)?;
        disk::make_folder("make the folder of a socket", &self.socket(), 0o700, user)
    }

    /// Writes one of the server's files anew.
    pub(crate) fn put(&self, name: &str, content: &str, user: Option<&OsUser>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        disk::write("write a file of a server", &path, content, user)?;
        Ok(path)
    }

    /// Writes a secret that a tool of the server's user reads.
    pub(crate) fn secret(&self, secret: &str, user: Option<&OsUser>) -> Result<PathBuf> {
        self.make(user)?;
        self.put(SECRET, &format!("{secret}\n"), user)
    }

    /// Where that is.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.dir.join(SECRET)
    }

    /// Removes it; missing is fine.
    pub(crate) fn forget_secret(&self) -> Result<()> {
        disk::remove("remove a secret", &self.secret_file())
    }

    /// The password file that a server which follows another connects with.
    pub(crate) fn pass_file(&self) -> PathBuf {
        self.dir.join(PASS_FILE)
    }

    /// Removes it; missing is fine.
    pub(crate) fn forget_pass_file(&self) -> Result<()> {
        remove_if_there(&self.pass_file())
    }

    /// Removes the one that was kept; missing is fine.
    pub(crate) fn forget_old_pass_file(&self) -> Result<()> {
        remove_if_there(&self.dir.join(OLD_PASS_FILE))
    }

    /// The one that was kept, if one was, takes its place again. An empty one stands for none.
    pub(crate) fn restore_pass_file(&self, user: Option<&OsUser>) -> Result<()> {
        match std::fs::read_to_string(self.dir.join(OLD_PASS_FILE)) {
            Ok(old) if old.is_empty() => self.forget_pass_file()?,
            Ok(old) => drop(self.put(PASS_FILE, &old, user)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("read what a password file was", e)),
        }
        self.forget_old_pass_file()
    }

    /// The socket of a server on `port`.
    pub(crate) fn socket_file(&self, port: u16) -> PathBuf {
        self.socket().join(format!(".s.PGSQL.{port}"))
    }

    /// Removes the sockets that a server left which does not run any more, and their lock files.
    /// Whether there were any.
    pub(crate) fn forget_sockets(&self) -> Result<bool> {
        let left = self.sockets();
        for path in &left {
            disk::remove("remove a socket of no server", path)?;
        }
        Ok(!left.is_empty())
    }

    /// Every socket in the folder, and its lock file.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.socket()).into_iter().flatten().flatten();
        // A folder of such a name is no server's, and cannot be removed as one's socket.
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        let sockets = files.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let port = name.strip_prefix(".s.PGSQL.").map(|rest| rest.trim_end_matches(".lock"));
            port.is_some_and(|port| port.parse::<u16>().is_ok())
        });
        sockets.collect()
    }

    /// Whether a server listens on a socket in the folder.
    pub(crate) fn is_served(&self) -> bool {
        self.sockets().iter().any(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
    }

    /// Removes the folder of a server that no record names.
    pub(crate) fn remove_orphaned(&self) -> Result<()> {
        disk::remove_folder("remove an orphaned folder of a server", &self.dir)
    }

    /// Removes the folder; missing is fine.
    pub(crate) fn remove(&self) -> Result<()> {
        disk::remove_folder("remove the folder of a server", &self.dir)
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => disk::remove("remove a password file", path),
        Err(_) => Ok(()),
    }
}
