//! Velo's own connections: as the superuser, unaffected by what the cluster's settings do to
//! sessions.

use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::scram::Password;

/// What a query gives, as text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// One connection.
pub(crate) struct Session {
    client: Client,
    pub(crate) major: u32,
    /// Whether the server let it in by the password, which so is known to be right.
    pub(crate) by_password: bool,
}

/// Where a session goes in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door<'a> {
    /// The private socket, as the system's user that Velo is.
    Socket,
    /// TCP, as any client. Where the password is wrong, the socket.
    Tcp(&'a Password),
}

/// Whom to connect to, and as whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) socket_dir: &'a Path,
    pub(crate) port: u16,
    pub(crate) role: &'a str,
    pub(crate) database: &'a str,
    pub(crate) major: u32,
}

/// Settings of every session of Velo's: no time limit ends it, no trigger and no library of the
/// user's runs in it, it is the superuser, nothing it says is logged (it sets passwords), and its
/// commits wait for no standby. They win over those of roles and databases.
fn options(major: u32) -> String {
    let mut options = String::from(
        "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
         -c idle_session_timeout=0 -c search_path=pg_catalog -c synchronous_commit=local \
         -c log_statement=none -c log_min_duration_statement=-1 -c log_duration=off \
         -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 \
         -c log_min_error_statement=panic -c log_min_messages=warning \
         -c debug_print_parse=off -c debug_print_rewritten=off -c debug_print_plan=off \
         -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
         -c session_preload_libraries= -c local_preload_libraries= -c role=none",
    );
    if major >= 17 {
        options.push_str(" -c transaction_timeout=0 -c event_triggers=off");
    }
    options
}

/// How long a server may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// How a connection attempt ended.
pub(crate) enum Attempt {
    Connected(Session),
    /// The server does not listen yet, or recovers: try again.
    NotYet(Error),
    Failed(Error),
}

impl Attempt {
    pub(crate) fn done(self) -> Result<Session> {
        match self {
            Self::Connected(session) => Ok(session),
            Self::NotYet(error) | Self::Failed(error) => Err(error),
        }
    }
}

impl Session {
    /// Connects, to `template1` where the database is missing or lets nobody in.
    pub(crate) async fn connect(target: Target<'_>) -> Result<Self> {
        Self::attempt(target, Door::Socket).await.done()
    }

    /// Connects to this database and no other.
    pub(crate) async fn connect_to(target: Target<'_>, database: &str) -> Result<Self> {
        Self::attempt_one(Target { database, ..target }, Door::Socket).await.done()
    }

    /// Tries once.
    pub(crate) async fn attempt(target: Target<'_>, door: Door<'_>) -> Attempt {
        let mut attempt = Self::attempt_one(target, door).await;
        if let (Attempt::Failed(error), Door::Tcp(_)) = (&attempt, door)
            && has_state(error, &SqlState::INVALID_PASSWORD)
        {
            attempt = Self::attempt_one(target, Door::Socket).await;
        }
        match attempt {
            Attempt::Failed(error)
                if is_no_such_database(&error) && target.database != "template1" =>
            {
                Self::attempt_one(Target { database: "template1", ..target }, Door::Socket).await
            }
            other => other,
        }
    }

    async fn attempt_one(target: Target<'_>, door: Door<'_>) -> Attempt {
        let mut config = tokio_postgres::Config::new();
        match door {
            Door::Socket => config.host_path(target.socket_dir),
            Door::Tcp(password) => config.host("127.0.0.1").password(password.expose()),
        };
        let connecting = config
            .port(target.port)
            .user(target.role)
            .dbname(target.database)
            .application_name("velo")
            .options(options(target.major))
            .connect(NoTls);
        // tokio-postgres' own limit ends once the socket is connected.
        let Ok(connected) = tokio::time::timeout(CONNECT, connecting).await else {
            let what = format!("PostgreSQL takes a connection and says nothing for {CONNECT:?}");
            return Attempt::NotYet(
                Error::new(ErrorKind::Timeout, what).with_hint("is its process stopped?"),
            );
        };
        match connected {
            Ok((client, connection)) => {
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a session of Velo's ended");
                    }
                });
                Attempt::Connected(Self {
                    client,
                    major: target.major,
                    by_password: matches!(door, Door::Tcp(_)),
                })
            }
            Err(e) if e.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                Attempt::NotYet(failed("connect", e))
            }
            // No SQLSTATE: the socket is missing, refused or was closed.
            Err(e) if e.code().is_none() => Attempt::NotYet(failed("connect", e)),
            Err(e) => Attempt::Failed(failed("connect", e)),
        }
    }

    /// Whether a client over TCP gets in with the password.
    pub(crate) async fn lets_in(target: Target<'_>, password: &Password) -> bool {
        match Self::attempt_one(target, Door::Tcp(password)).await {
            Attempt::Connected(_) => true,
            Attempt::NotYet(_) => false,
            // Let in, and the database is made later, or is none for anybody.
            Attempt::Failed(error) => is_no_such_database(&error),
        }
    }

    /// Whether clients over TCP are asked for a password, be it that of Velo's records or another.
    pub(crate) async fn is_open(target: Target<'_>, password: &Password) -> bool {
        match Self::attempt_one(target, Door::Tcp(password)).await {
            Attempt::Connected(_) => true,
            // It recovers, or nobody listens.
            Attempt::NotYet(_) => false,
            // The access rules' own word; whatever else is wrong, they are passed.
            Attempt::Failed(error) => {
                !has_state(&error, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
        }
    }

    /// Runs statements; their results are thrown away.
    pub(crate) async fn execute(&self, what: &str, sql: &str) -> Result<()> {
        let work = async { self.client.batch_execute(sql).await.map_err(|e| failed(what, e)) };
        crate::effect::step(what, work).await
    }

    /// Runs one statement that holds a secret. Not as the others: of those the client's library tells
    /// the text to whoever listens to its log.
    pub(crate) async fn execute_secret(&self, what: &str, sql: &str) -> Result<()> {
        let work = async {
            self.client.query_typed(sql, &[]).await.map(drop).map_err(|e| failed(what, e))
        };
        crate::effect::step(what, work).await
    }

    /// The rows of a query, as text.
    pub(crate) async fn rows(&self, what: &str, sql: &str) -> Result<Rows> {
        let messages = self.client.simple_query(sql).await.map_err(|e| failed(what, e))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// Columns of a table as `COPY` gives them. It passes the planner by, which costs the first query
    /// of a server a millisecond. For columns whose text holds no tab, backslash or end of line.
    pub(crate) async fn copy(&self, what: &str, table: &str) -> Result<Rows> {
        let stream = self
            .client
            .copy_out(&format!("COPY {table} TO STDOUT"))
            .await
            .map_err(|e| failed(what, e))?;
        let chunks: Vec<_> = stream.try_collect().await.map_err(|e| failed(what, e))?;
        let text = String::from_utf8_lossy(&chunks.concat()).into_owned();
        let field = |field: &str| (field != r"\N").then(|| field.to_owned());
        Ok(text.lines().map(|line| line.split('\t').map(field).collect()).collect())
    }

    /// The only row of a query, as text.
    pub(crate) async fn row(&self, what: &str, sql: &str) -> Result<Vec<Option<String>>> {
        self.rows(what, sql).await?.into_iter().next().ok_or_else(|| {
            Error::new(ErrorKind::Postgres, format!("PostgreSQL gave no row: {what}"))
        })
    }

    /// The only value of a query, as text; an error if it is NULL.
    pub(crate) async fn value(&self, what: &str, sql: &str) -> Result<String> {
        self.row(what, sql).await?.into_iter().next().flatten().ok_or_else(|| {
            Error::new(ErrorKind::Postgres, format!("PostgreSQL gave no value: {what}"))
        })
    }
}

/// Whether the database, not the client, was why a connection was refused: it is missing, or takes
/// no connections.
fn is_no_such_database(error: &Error) -> bool {
    has_state(error, &SqlState::INVALID_CATALOG_NAME)
        || has_state(error, &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
}

fn has_state(error: &Error, state: &SqlState) -> bool {
    error.context().any(|(key, value)| key == "sqlstate" && value == state.code())
}

/// An error of the server's or of the connection.
fn failed(what: &str, e: tokio_postgres::Error) -> Error {
    let error = match e.as_db_error() {
        Some(db) => {
            let kind = if *db.code() == SqlState::DISK_FULL {
                ErrorKind::Exhausted
            } else {
                ErrorKind::Postgres
            };
            let error = Error::new(kind, format!("PostgreSQL cannot {what}: {}", db.message()))
                .with_context("sqlstate", db.code().code());
            match kind {
                ErrorKind::Exhausted if db.message().contains("shared memory segment") => {
                    error.with_hint("give it more shared memory: a container by --shm-size")
                }
                ErrorKind::Exhausted => error.with_hint("free some space and try again"),
                _ => error,
            }
        }
        None => {
            let why = std::error::Error::source(&e).map_or_else(String::new, |e| format!(": {e}"));
            Error::new(ErrorKind::Postgres, format!("cannot {what} to PostgreSQL: {e}{why}"))
        }
    };
    error.with_source(e)
}

/// `name` as an SQL identifier.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as an SQL string.
pub(crate) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
