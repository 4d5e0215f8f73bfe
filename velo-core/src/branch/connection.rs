//! How clients reach a branch: its URL, and the parts of it.

use std::path::{Path, PathBuf};

use super::Branch;

/// The parts of a branch's URL.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Always 127.0.0.1 here.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The role's password; empty where it is a role of the source's, and nobody has recorded it.
    pub password: String,
    /// The database.
    pub database: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Branch {
    /// The URL for clients: `postgresql://role:password@127.0.0.1:port/database`. It stays the
    /// same as long as the branch exists. It holds the password.
    ///
    /// Of a `main` that [follows](crate::Project::follow) its source it names the role that connects to that, with
    /// its password only where [that is recorded](crate::FollowSpec::save_password).
    #[must_use]
    pub fn url(&self) -> String {
        let Connection { host, port, database, .. } = self.connection();
        format!("postgresql://{}@{host}:{port}/{}", self.login(), encode(&database))
    }

    /// Who logs in, in a URL.
    fn login(&self) -> String {
        let Connection { user, password, .. } = self.connection();
        match password.as_str() {
            "" => encode(&user),
            password => format!("{}:{}", encode(&user), encode(password)),
        }
    }

    /// The same over the Unix socket: `postgresql://role:password@/database?host=…&port=…`.
    ///
    /// libpq and most drivers take it. Those whose URLs must have a host (`sqlx`, `postgres.js`) take
    /// [`url`](Self::url) and, as the host, [`socket_dir`](Self::socket_dir).
    #[must_use]
    pub fn socket_url(&self) -> String {
        let Connection { port, database, .. } = self.connection();
        format!(
            "postgresql://{}@/{}?host={}&port={port}",
            self.login(),
            encode(&database),
            encode(&self.socket_dir().to_string_lossy()),
        )
    }

    /// The folder of its Unix socket. As root it belongs to the servers' user, and nobody else can
    /// enter it.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        let home = &self.0.project.config.home;
        home.join("run").join(self.id().to_string()).join("s")
    }

    /// The parts of the URL, for clients that take them one by one.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let (record, project) = (self.record(), &self.0.project.record);
        let (user, password) = match &record.follows {
            Some(follow) => {
                let saved = project.source.as_ref().and_then(|source| source.password.as_ref());
                (&follow.user, saved.map_or("", |password| password.0.as_str()))
            }
            None => (&project.role, record.password.expose()),
        };
        Connection {
            host: "127.0.0.1".into(),
            port: record.port,
            user: user.clone(),
            password: password.to_owned(),
            database: project.database.clone(),
        }
    }
}

/// A URL for who is let in without a password, as Velo's own processes are.
pub(crate) fn private_url(role: &str, database: &str, socket_dir: &Path, port: u16) -> String {
    let (role, database) = (encode(role), encode(database));
    let host = encode(&socket_dir.to_string_lossy());
    format!("postgresql://{role}@/{database}?host={host}&port={port}")
}

/// Percent-encodes a part of a URL.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
