//! PostgreSQL's own programs, which connect to the source or to the new server, and what their errors mean.

use std::path::PathBuf;

use super::bring::Import;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{ToolOutput, ToolSpec};

impl Import<'_> {
    /// A program that connects to the source, for which the password is in a file while it runs.
    pub(super) fn tool_for_source(&self, tool: &'static str, args: Vec<String>) -> ToolSpec {
        let secret = self.run_dir.secret_file();
        let mut spec = self.tool(tool, args);
        spec.network = true;
        // Named also where there is none, so that no other user's is looked for.
        spec.env.push(("PGPASSFILE", secret.display().to_string()));
        if self.home.server_user(&self.project.postgres).is_some() {
            // It could not enter root's, and libpq takes that for an error.
            spec.env.push(("HOME", "/nonexistent".to_owned()));
        }
        let host = self.server.as_ref().and_then(|server| server.get("host"));
        let sockets = host.filter(|host| host.starts_with('/')).map(PathBuf::from);
        spec.reads.extend(sockets.filter(|path| path.exists()));
        spec.reads.extend(self.secret.is_some().then_some(secret));
        spec
    }

    /// A program that connects to the new server, over its private socket.
    pub(super) fn tool_for_copy(&self, tool: &'static str, args: Vec<String>) -> ToolSpec {
        let mut spec = self.tool(tool, args);
        let socket_dir = self.run_dir.socket();
        spec.env.extend([
            ("PGHOST", socket_dir.display().to_string()),
            ("PGPORT", self.branch.port.to_string()),
            ("PGUSER", self.project.role.clone()),
            // Its messages are read, and nothing of a role's or a database's own is in its way.
            ("PGOPTIONS", "-c lc_messages=C -c statement_timeout=0 -c lock_timeout=0 \
              -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c log_statement=none \
              -c log_min_duration_statement=-1 -c log_min_error_statement=panic".to_owned()),
        ]);
        spec.writes.push(socket_dir);
        spec
    }

    pub(super) fn tool(&self, tool: &'static str, args: Vec<String>) -> ToolSpec {
        ToolSpec {
            args,
            limit: None,
            cancel: self.op.cancel.clone(),
            ..ToolSpec::new(self.project.postgres.clone(), tool, self.location.clone())
        }
    }

    /// Runs a program to its end; an error unless it succeeds.
    pub(super) async fn run(&self, spec: ToolSpec) -> Result<ToolOutput> {
        let tool = spec.tool;
        let output = self.run_to_its_end(spec).await?;
        match output.success {
            true => Ok(output),
            false => Err(failed(tool, &output.stderr, &output.status)),
        }
    }

    /// The same, however it ends. While one of the others runs, the source's password is not there: what comes from the
    /// source may run programs as the user who can read it.
    pub(super) async fn run_to_its_end(&self, spec: ToolSpec) -> Result<ToolOutput> {
        let is_there = self.run_dir.secret_file().exists();
        match &self.secret {
            Some(lines) if spec.network && !is_there => {
                let user = self.home.server_user(&self.project.postgres);
                self.run_dir.secret(lines.trim_end_matches('\n'), user.as_ref())?;
            }
            Some(_) if !spec.network && is_there => self.run_dir.forget_secret()?,
            _ => {}
        }
        self.runtime.run(spec).await
    }

    /// How many tables are worked on at a time.
    pub(super) fn jobs(&self) -> u32 {
        let cores = u32::try_from(crate::engine::cores()).unwrap_or(2);
        self.recipe.jobs.unwrap_or(cores)
    }
}

/// What programs say, and what that is: the kind of error, and what to do.
const MEANINGS: &[(&str, ErrorKind, &str)] = &[
    (
        "password authentication failed",
        ErrorKind::PermissionDenied,
        "is the password right? It is taken from the URL, PGPASSWORD, the service file or ~/.pgpass; PGPASSWORD takes \
         the place of one that is recorded",
    ),
    (
        "no password supplied",
        ErrorKind::PermissionDenied,
        "give the password in the URL, PGPASSWORD, the service file or ~/.pgpass",
    ),
    (
        "no pg_hba.conf entry for replication",
        ErrorKind::PermissionDenied,
        "let the role in for replication in the source's pg_hba.conf, or use --method dump",
    ),
    (
        "no pg_hba.conf entry",
        ErrorKind::PermissionDenied,
        "let the role in from this machine in the source's pg_hba.conf; some ask for sslmode=require",
    ),
    (
        "must be superuser or replication role",
        ErrorKind::PermissionDenied,
        "ALTER ROLE … REPLICATION in the source, or use --method dump",
    ),
    (
        "permission denied to start WAL sender",
        ErrorKind::PermissionDenied,
        "ALTER ROLE … REPLICATION in the source, or use --method dump",
    ),
    (
        "permission denied",
        ErrorKind::PermissionDenied,
        "the role may not read that in the source: GRANT pg_read_all_data, or take another role; or choose \
         databases and schemas that it may read",
    ),
    ("No space left on device", ErrorKind::Exhausted, "free some space and try again"),
    (
        "number of requested standby connections exceeds max_wal_senders",
        ErrorKind::Postgres,
        "a copy needs two of the source's max_wal_senders: raise it, or use --method dump",
    ),
    (
        "all replication slots are in use",
        ErrorKind::Postgres,
        "a copy needs a temporary slot of the source's max_replication_slots: raise it, or use --method dump",
    ),
    (
        "aborting because of server version mismatch",
        ErrorKind::Incompatible,
        "use a PostgreSQL that is at least as new as the source",
    ),
    (
        "unsupported version (",
        ErrorKind::Incompatible,
        "the dump was written by a newer pg_dump: use a PostgreSQL that is at least as new",
    ),
    (
        "invalid locale name",
        ErrorKind::Incompatible,
        "this machine lacks a locale of the source: install it (locale -a lists those that are here)",
    ),
    (
        "invalid LC_COLLATE locale name",
        ErrorKind::Incompatible,
        "this machine lacks a locale of the source: install it (locale -a lists those that are here)",
    ),
    (
        "is not available",
        ErrorKind::Incompatible,
        "install that extension for this PostgreSQL, or take an image that has it",
    ),
    (
        "could not access file",
        ErrorKind::Incompatible,
        "install the extension that this library is of for this PostgreSQL, or take an image that has it",
    ),
    (
        "ICU is not supported in this build",
        ErrorKind::Incompatible,
        "the data has collations of ICU: use a PostgreSQL that is built with it, as Debian's and the official images are",
    ),
    ("could not translate host name", ErrorKind::NotFound, "is the host's name right?"),
    ("Connection refused", ErrorKind::Postgres, "does the source run, and is the port right?"),
    (
        "No such file or directory",
        ErrorKind::Postgres,
        "does the source run, and is its place right?",
    ),
    ("timeout expired", ErrorKind::Timeout, "can the source be reached from this machine?"),
    (
        "server closed the connection unexpectedly",
        ErrorKind::Postgres,
        "the source ended, or the network to it: nothing was kept, try again",
    ),
    (
        "terminating connection due to administrator command",
        ErrorKind::Postgres,
        "the source was stopped: nothing was kept, try again",
    ),
    (
        "could not receive data",
        ErrorKind::Postgres,
        "the source ended, or the network to it: nothing was kept, try again",
    ),
];

/// What a program that failed means.
pub(super) fn failed(tool: &str, stderr: &str, status: &str) -> Error {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error =
        |line: &&str| ["error:", "ERROR:", "FATAL:"].iter().any(|word| line.contains(word));
    let why = lines().find(is_error).or_else(|| lines().next_back()).unwrap_or(status);
    let why = why.strip_prefix(&format!("{tool}: error: ")).unwrap_or(why);
    let found = MEANINGS.iter().find(|(words, ..)| stderr.contains(words));
    let error = match found {
        Some((_, kind, hint)) => {
            Error::new(*kind, format!("{tool} failed: {why}")).with_hint(*hint)
        }
        None => Error::new(ErrorKind::Postgres, format!("{tool} failed ({status}): {why}"))
            .with_hint("nothing was kept; what it printed is in the error's context"),
    };
    let tail: Vec<&str> = stderr.lines().rev().take(20).collect();
    error.with_context("stderr", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
