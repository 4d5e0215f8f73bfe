//! A superuser of Velo's own in data that comes from elsewhere.
//!
//! It is made by `postgres --single`, which asks no access rules, needs no name of anybody's, and serves
//! nobody. If the data has to recover first, it does.

use super::bring::Import;
use super::check;
use super::scale;
use super::tools::failed;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::scram;
use crate::postgres::session::{ident, literal};
use crate::postgres::{settings, tablespaces};

/// Makes the project's role, with the branch's password, or gives that to the one of its name.
pub(super) async fn make(import: &Import<'_>) -> Result<()> {
    let role = ident(&import.project.role);
    let verifier = literal(&scram::verifier(&import.branch.password)?);
    // A statement ends with its line.
    if role.contains('\n') {
        return Err(Error::new(ErrorKind::InvalidInput, "a role's name with two lines"));
    }
    let sql = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN\n\
         ALTER ROLE {role} SUPERUSER LOGIN CREATEDB CREATEROLE REPLICATION CONNECTION LIMIT -1 \
         PASSWORD {verifier} VALID UNTIL 'infinity'\n\
         ALTER ROLE {role} RESET ALL\n"
    );
    let user = import.home.server_user(&import.project.postgres);
    let secret = import.run_dir.path().join("role.sql");
    crate::disk::write("write a file of a server", &secret, &sql, user.as_ref())?;
    let data = import.location.host_path();
    let recovers = data.join("recovery.signal").exists();
    let mut args: Vec<String> =
        ["--single", "-D", "{}", "-c", "data_directory={}"].map(str::to_owned).to_vec();
    let mut given = settings::forced(import.project.postgres.version.major);
    given.extend([
        // Nobody sees what is written here but who reads the log, and errors are all that is in it.
        ("log_min_messages", "error".to_owned()),
        ("log_min_error_statement", "panic".to_owned()),
        ("log_statement", "none".to_owned()),
        ("log_min_duration_statement", "-1".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("search_path", "pg_catalog".to_owned()),
        ("default_transaction_read_only", "off".to_owned()),
        ("huge_pages", "off".to_owned()),
        ("recovery_init_sync_method", "syncfs".to_owned()),
        ("fsync", "off".to_owned()),
        // A segment that is used again holds what was in it.
        ("wal_recycle", "off".to_owned()),
    ]);
    given.extend(scale::buffers_for_single_user());
    if recovers {
        given.push(("restore_command", "false".to_owned()));
        // A standby's own: else it would take so long before it goes on from where it is consistent.
        given.push(("recovery_min_apply_delay", "0".to_owned()));
        // Nobody is let in meanwhile, and a server of one process has no place for what that needs.
        given.push(("hot_standby", "off".to_owned()));
    }
    if tablespaces::has_one_in_place(data) {
        given.push(("allow_in_place_tablespaces", "on".to_owned()));
    }
    for (name, value) in given {
        args.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    args.push("template1".to_owned());
    let mut spec = import.tool("postgres", args);
    spec.input = Some(secret.clone());
    let output = import.runtime.run(spec).await;
    crate::disk::remove("remove a secret", &secret)?;
    let output = output?;
    if !output.success {
        return Err(check::explain(failed("postgres", &output.stderr, &output.status)));
    }
    // It ends well also where a statement did not.
    let errors: Vec<&str> = output.stderr.lines().filter(|line| line.contains("ERROR:")).collect();
    let taken = errors.iter().any(|line| line.contains("already exists"));
    match errors.iter().find(|line| !line.contains("already exists")) {
        Some(error) => Err(Error::new(
            ErrorKind::Postgres,
            format!("Velo's role cannot be made: {}", error.trim()),
        )),
        None if taken && !import.role_is_told => Err(check::role_is_there(&import.project.role)),
        None => Ok(()),
    }
}
