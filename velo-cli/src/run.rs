//! `velo run`: a command with a throwaway branch.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedReceiver;
use velo_core::cancel::Cancel;
use velo_core::{Branch, BranchSpec, Config, Error, ErrorKind, Project, Result};

use crate::args::Run;
use crate::output::Out;
use crate::progress::Spinner;
use crate::signals::{self, Got};
use crate::target::Target;

/// What a shell gives when a command cannot be run, or is not there.
const CANNOT_RUN: u8 = 126;
const NOT_THERE: u8 = 127;

pub(crate) fn run(args: Run, out: &Out) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("start a runtime", e))?;
    runtime.block_on(with_branch(args, out))
}

async fn with_branch(args: Run, out: &Out) -> Result<u8> {
    // Before there is anything that a signal could leave behind.
    let mut signals = signals::listen()?;
    let target = Target::source(&args.source);
    let opening = Project::builder(&target.project).config(Config::load()?).open();
    let project = match until_signals(1, opening, &mut signals).await {
        Ok(project) => project?,
        Err(signal) => return Ok(code_of_signal(signal)),
    };
    let mut spec = BranchSpec::ephemeral().from(target.branch.as_str()).label(label(&args.command));
    for (key, value) in &args.settings {
        spec = spec.set(key, value);
    }
    let branch = {
        let _spinner = Spinner::new(out, format!("branching {}", args.source));
        match create(&project, spec, &mut signals).await {
            Ok(branch) => branch?,
            Err(signal) => return Ok(code_of_signal(signal)),
        }
    };
    let ended = match spawn(&args.command, &branch) {
        Ok(child) => wait(child, &mut signals).await,
        Err(error) => Err(error),
    };
    // Whatever the command did, its branch goes. What cannot be undone now the next `velo` undoes,
    // so it is told, but is not the command's failure.
    match until_signals(2, discard(&project, branch), &mut signals).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => out.note(&format!("the throwaway branch is not gone yet: {error}")),
        Err(signal) => return Ok(code_of_signal(signal)),
    }
    match ended {
        Ok(status) => Ok(code(status)),
        Err(error) => {
            out.error(&error);
            Ok(match error.kind() {
                ErrorKind::NotFound => NOT_THERE,
                _ => CANNOT_RUN,
            })
        }
    }
}

/// Discards the branch with all of its files.
async fn discard(project: &Project, branch: Branch) -> Result<()> {
    branch.close().await?;
    project.finish_deletions().await
}

/// Waits for `work`, but no longer than until this many signals have come that end a process. The last one is
/// the error.
async fn until_signals<T>(
    many: usize,
    work: impl Future<Output = T>,
    signals: &mut UnboundedReceiver<Got>,
) -> std::result::Result<T, i32> {
    let mut work = std::pin::pin!(work);
    let mut came = 0;
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            Some(got) = signals.recv() => {
                came += usize::from(got.ends());
                if came >= many {
                    return Err(got.signal);
                }
            }
        }
    }
}

/// Makes the branch. At a signal it is undone, and that is waited for; at a second one this process ends
/// at once, and the next `velo` undoes what was left.
async fn create(
    project: &Project,
    spec: BranchSpec,
    signals: &mut UnboundedReceiver<Got>,
) -> std::result::Result<Result<Branch>, i32> {
    let cancel = Cancel::new();
    let mut creation = std::pin::pin!(Branch::create_unless(project, spec, &cancel));
    let mut first = None;
    let made = loop {
        tokio::select! {
            made = &mut creation => break made,
            Some(got) = signals.recv() => match first {
                _ if !got.ends() => {}
                None => {
                    first = Some(got.signal);
                    cancel.cancel();
                }
                Some(signal) => return Err(signal),
            },
        }
    };
    match (made, first) {
        (made, None) => Ok(made),
        (Ok(branch), Some(signal)) => {
            let _ = discard(project, branch).await;
            Err(signal)
        }
        (Err(_), Some(signal)) => Err(signal),
    }
}

/// The command's name without its folder: what the branch is called in lists.
fn label(command: &[OsString]) -> String {
    let program = command.first().map(Path::new);
    let name = program.and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn spawn(command: &[OsString], branch: &Branch) -> Result<Child> {
    let Some((program, args)) = command.split_first() else {
        return Err(Error::new(ErrorKind::InvalidInput, "the command is missing"));
    };
    let to = branch.connection();
    // Not velo-core's way to spawn programs, which is made for tools: this one belongs to the user,
    // with the terminal, every variable and whatever else this process was given.
    #[allow(clippy::disallowed_methods)]
    let mut command = Command::new(program);
    command
        .args(args)
        .env("DATABASE_URL", branch.url())
        .env("PGHOST", &to.host)
        .env("PGPORT", to.port.to_string())
        .env("PGUSER", &to.user)
        .env("PGPASSWORD", &to.password)
        .env("PGDATABASE", &to.database);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(turns_away) {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(|e| {
        let program = program.to_string_lossy();
        let error = Error::io(format!("run {program}"), e);
        match error.kind() {
            ErrorKind::NotFound => error.with_hint("name a program that is on PATH"),
            ErrorKind::PermissionDenied => error
                .with_hint(format!("name a program; a file becomes one by: chmod +x {program}")),
            _ => error.with_hint("name a program that this machine can run"),
        }
    })
}

/// Whether a variable would turn libpq away from the branch, or make it refuse it, whatever the
/// variables that name the branch say. What is left concerns a session's looks and patience
/// (`PGAPPNAME`, `PGTZ`, `PGCONNECT_TIMEOUT`, …).
fn turns_away(variable: &str) -> bool {
    const OTHERS: [&str; 15] = [
        "PGHOSTADDR",
        "PGSERVICE",
        "PGSERVICEFILE",
        "PGSYSCONFDIR",
        "PGPASSFILE",
        "PGOPTIONS",
        "PGREQUIREAUTH",
        "PGREQUIREPEER",
        "PGREQUIRESSL",
        "PGCHANNELBINDING",
        "PGTARGETSESSIONATTRS",
        "PGLOADBALANCEHOSTS",
        "PGMINPROTOCOLVERSION",
        "PGMAXPROTOCOLVERSION",
        "PGKRBSRVNAME",
    ];
    // Certificates and modes of TLS, Kerberos and OAuth: newer versions add to them.
    let families = ["PGSSL", "PGGSS", "PGOAUTH"];
    OTHERS.contains(&variable) || families.iter().any(|family| variable.starts_with(family))
}

/// Waits for the command, and passes signals on to it.
///
/// The command stays in this process's group, so that it keeps the terminal: what is typed there
/// (Ctrl-C, Ctrl-\) reaches both at once and is not passed on, or the command would get it twice.
/// What reached this process alone is: what a process sends (`kill PID`, a supervisor), and the
/// end of the terminal where this process leads its session. Somebody who sends to the whole group
/// is not to be told apart from that, and makes the command get it twice.
async fn wait(mut child: Child, signals: &mut UnboundedReceiver<Got>) -> Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|e| Error::io("wait for the command", e));
            }
            Some(got) = signals.recv() => {
                // No id: it has been waited for, and its number may be another process's.
                let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                if let Some(pid) = pid.filter(|_| got.is_ours_alone()) {
                    // SAFETY: the kernel gave this signal's number to a handler of this process,
                    // so it is a signal, and none of libc's own.
                    let signal = unsafe { Signal::from_raw_unchecked(got.signal) };
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(crate::FAILED),
        (None, Some(signal)) => code_of_signal(signal),
        (None, None) => crate::FAILED,
    }
}

/// As shells tell that a command was ended by a signal.
fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(crate::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_programs_name() {
        assert_eq!(label(&["/usr/bin/psql".into(), "-c".into()]), "psql");
        assert_eq!(label(&[]), "");
    }

    #[test]
    fn what_concerns_the_connection_goes() {
        for gone in ["PGSSLMODE", "PGSSLROOTCERT", "PGGSSENCMODE", "PGSERVICE", "PGSYSCONFDIR"] {
            assert!(turns_away(gone), "{gone}");
        }
        for kept in ["PGAPPNAME", "PGTZ", "PGCONNECT_TIMEOUT", "PGADMIN", "PG", "PATH"] {
            assert!(!turns_away(kept), "{kept}");
        }
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
    }
}
