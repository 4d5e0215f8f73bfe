//! What every [`Runtime`] must do, whatever is below it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::server::{Bench, Up, within};
use super::{RuntimePlace, ensure};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::runtime::{InstanceRef, Lifeline, Runtime, Status, StopMode};
use crate::storage::Object;

/// Runs every check on `runtime`. The first that fails is the error, which says what was expected.
///
/// It makes servers of its own in `place` and removes them, also after a failure, and looks at no
/// others: several suites may run at the same time. Call it in a tokio runtime whose threads outlive
/// it.
///
/// A server is killed and a false `postmaster.pid` is written only where
/// [`status`](Runtime::status) gives the process id of a server on this machine.
///
/// # Errors
/// What `runtime` does not do as the trait asks; or its own error.
pub async fn runtime_suite(runtime: Arc<dyn Runtime>, place: RuntimePlace) -> Result<()> {
    let mut bench = Bench::new(runtime, place);
    let result = run(&mut bench).await;
    match (result, bench.clear().await) {
        (Err(error), Err(cleanup)) => Err(error.with_cleanup(cleanup)),
        (Ok(()), cleared) => cleared,
        (error, Ok(())) => error,
    }
}

async fn run(bench: &mut Bench) -> Result<()> {
    bench.seed().await?;
    a_tool_tells_how_it_ended(bench).await?;
    a_tool_reads_what_it_is_given(bench).await?;
    a_tool_ends_when_it_is_not_wanted(bench).await?;
    a_started_server_answers(bench).await?;
    a_second_start_does_no_harm(bench).await?;
    a_fast_stop_is_clean(bench).await?;
    an_immediate_stop_is_recovered_from(bench).await?;
    servers_are_apart(bench).await?;
    what_does_not_run_is_stopped(bench).await?;
    a_held_port_is_told(bench).await?;
    a_killed_server_is_noticed(bench).await?;
    a_lasting_server_comes_back(bench).await?;
    a_false_pid_file_means_nothing(bench).await
}

async fn a_tool_tells_how_it_ended(bench: &Bench) -> Result<()> {
    let good = bench.tool(bench.seed_location(), "pg_controldata", &["-D", "{}"]).await?;
    ensure(good.success && good.stdout.contains("system identifier"), || {
        format!("a tool's output is given, with {{}} as the volume: {good:?}")
    })?;
    let bad = bench.tool(bench.seed_location(), "pg_controldata", &["-D", "{}/no"]).await?;
    ensure(!bad.success && !bad.stderr.is_empty() && !bad.status.is_empty(), || {
        format!("a tool that fails is no error, and says why: {bad:?}")
    })?;
    let missing = bench.tool(bench.seed_location(), "pg_nothing", &[]).await;
    ensure(missing.is_err(), || "a tool that is missing is an error".into())
}

async fn a_tool_reads_what_it_is_given(bench: &mut Bench) -> Result<()> {
    let location = bench.server().await?.instance.location;
    let mut tool = bench.tool_spec(location, "postgres", &["--single", "-D", "{}", "template1"]);
    let input = bench.file("input", "SELECT current_setting('work_mem')\n")?;
    tool.input = Some(input.clone());
    tool.env = vec![("PGOPTIONS", String::new()), ("PGDATESTYLE", "ISO".to_owned())];
    let said = bench.runtime.run(tool).await;
    std::fs::remove_file(&input).map_err(|e| Error::io("remove the file of a tool", e))?;
    let said = said?;
    ensure(said.success && said.stdout.contains("4MB"), || {
        format!("a tool has a file as its standard input: {said:?}")
    })
}

async fn a_tool_ends_when_it_is_not_wanted(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let location = spec.instance.location;
    let pid_file = location.host_path().join("postmaster.pid");
    let args = [
        "-D",
        "{}",
        "-c",
        "listen_addresses=",
        "-c",
        // In its data; without any it would end by itself.
        "unix_socket_directories=.",
        "-c",
        "fsync=off",
    ];
    let mut tool = bench.tool_spec(location.clone(), "postgres", &args);
    let cancel = tool.cancel.clone();
    tool.limit = None;
    let wish = async {
        for _ in 0..2000 {
            if pid_file.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(bench.runtime.run(tool), wish);
    for name in [".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
        match std::fs::remove_file(location.host_path().join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove a socket of a tool", e));
            }
            _ => {}
        }
    }
    let error = ran.err().map(|error| error.kind());
    ensure(error == Some(ErrorKind::Canceled), || {
        format!("a tool that is not wanted any more is canceled, and not {error:?}")
    })?;
    ensure(!crate::runtime::has_processes(&location), || {
        "nothing of a tool is left that was canceled".into()
    })
}

async fn a_started_server_answers(bench: &mut Bench) -> Result<()> {
    let mut spec = bench.server().await?;
    for value in ["5MB", "7MB"] {
        spec.settings.push(("work_mem".into(), value.into()));
    }
    let up = bench.up(&spec).await?;
    ensure(up.value("SHOW work_mem").await? == "7MB", || "a later setting wins".into())?;
    let running = bench.runtime.status(&spec.instance).await?;
    ensure(matches!(running, Status::Running { .. }), || {
        format!("a server that answers is running, not {running:?}")
    })?;
    ensure(bench.listed(&spec).await?, || "list has a running server".into())?;
    ensure(up.endpoint.port == spec.port, || {
        "the endpoint has the port that was asked for".into()
    })?;
    if bench.runtime.capability().unix_socket {
        let Some(folder) = up.endpoint.socket_dir.clone() else {
            return ensure(false, || "the endpoint has the socket's folder".into());
        };
        let mut config = tokio_postgres::Config::new();
        let by_socket = Up::session(config.host_path(folder).port(up.endpoint.port)).await?;
        ensure(by_socket.is_some(), || "the socket takes connections".into())?;
    }
    let whole = bench.runtime.logs(&spec.log, 1000).await?;
    ensure(whole.contains("ready to accept connections"), || {
        format!("logs has what the server printed: {whole:?}")
    })?;
    let two = bench.runtime.logs(&spec.log, 2).await?;
    ensure(two.lines().count() == 2 && whole.trim_end().ends_with(two.trim_end()), || {
        format!("logs has as many last lines as were asked for: {two:?}")
    })?;
    bench.stop(&spec, StopMode::Fast).await
}

async fn a_second_start_does_no_harm(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let up = bench.up(&spec).await?;
    let before = bench.runtime.status(&spec.instance).await?;
    // An error, a server that ends at once, or the one that runs already: any is right.
    if let Ok(second) = bench.runtime.start(spec.clone()).await
        && second.endpoint == up.endpoint
    {
        let _ = tokio::time::timeout(Duration::from_secs(5), second.exited).await;
    }
    let after = bench.runtime.status(&spec.instance).await?;
    ensure(before == after, || format!("a second start leaves {before:?}, not {after:?}"))?;
    up.value("SELECT 1").await?;
    ensure(!up.has_exited(), || "a second start does not end the first server".into())?;
    let mut again = tokio_postgres::Config::new();
    let again = again.host(&up.endpoint.host).port(up.endpoint.port);
    ensure(Up::session(again).await?.is_some(), || "the first server still answers".into())?;
    bench.stop(&spec, StopMode::Fast).await
}

async fn a_fast_stop_is_clean(bench: &mut Bench) -> Result<()> {
    let mut spec = bench.server().await?;
    spec.lifeline = Lifeline::Process;
    let up = bench.up(&spec).await?;
    up.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
    // It waits for no client, and rolls back.
    up.execute("BEGIN; INSERT INTO t VALUES (2)").await?;
    bench.stop(&spec, StopMode::Fast).await?;
    up.exits().await?;
    let state = bench.state(&spec).await?;
    ensure(state == "shut down", || format!("a fast stop leaves it shut down, not {state}"))?;
    let up = bench.up(&spec).await?;
    ensure(up.value("SELECT sum(n) FROM t").await? == "1", || {
        "a restarted server has what was committed and nothing else".into()
    })?;
    let log = bench.runtime.logs(&spec.log, 1000).await?;
    let starts = log.matches("ready to accept connections").count();
    ensure(starts == 2, || format!("a restart appends to the log: {log}"))?;
    bench.stop(&spec, StopMode::Fast).await
}

async fn an_immediate_stop_is_recovered_from(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let up = bench.up(&spec).await?;
    up.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
    bench.stop(&spec, StopMode::Immediate).await?;
    up.exits().await?;
    let state = bench.state(&spec).await?;
    ensure(state == "in production", || format!("an immediate stop cuts it off, but: {state}"))?;
    let up = bench.up(&spec).await?;
    ensure(up.value("SELECT sum(n) FROM t").await? == "1", || {
        "what was committed is there after an immediate stop".into()
    })?;
    bench.stop(&spec, StopMode::Immediate).await
}

async fn servers_are_apart(bench: &mut Bench) -> Result<()> {
    let (one, two) = (bench.server().await?, bench.server().await?);
    let (up_one, up_two) = (bench.up(&one).await?, bench.up(&two).await?);
    up_one.execute("CREATE TABLE only_here ()").await?;
    let there = up_two.value("SELECT count(*) FROM pg_class WHERE relname = 'only_here'").await?;
    ensure(there == "0", || "each server works on its own volume".into())?;
    bench.stop(&one, StopMode::Fast).await?;
    up_two.value("SELECT 1").await?;
    ensure(bench.listed(&two).await?, || "stopping one server leaves the other".into())?;
    bench.stop(&two, StopMode::Fast).await
}

async fn what_does_not_run_is_stopped(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let id = Id::generate();
    let nowhere = InstanceRef { id, location: bench.place.storage.location(Object::Volume(id)) };
    for instance in [&spec.instance, &nowhere] {
        for mode in [StopMode::Fast, StopMode::Immediate] {
            let stopped = bench.runtime.stop(instance, mode);
            within("stopping what does not run", stopped).await??;
        }
        let status = bench.runtime.status(instance).await?;
        ensure(status == Status::Stopped, || format!("what was never started is no {status:?}"))?;
    }
    let up = bench.up(&spec).await?;
    bench.stop(&spec, StopMode::Fast).await?;
    bench.stop(&spec, StopMode::Fast).await?;
    up.exits().await
}

async fn a_held_port_is_told(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let holder = TcpListener::bind(("127.0.0.1", spec.port)).map_err(|e| Error::io("listen", e))?;
    if let Ok(started) = bench.runtime.start(spec.clone()).await {
        within("a server whose port is held ends", started.exited).await?;
        let log = bench.runtime.logs(&spec.log, 100).await?;
        ensure(log.contains("127.0.0.1"), || format!("the log says what is held: {log:?}"))?;
    }
    let status = bench.runtime.status(&spec.instance).await?;
    ensure(status == Status::Stopped, || format!("a server without its port is no {status:?}"))?;
    drop(holder);
    bench.up(&spec).await?;
    bench.stop(&spec, StopMode::Fast).await
}

async fn a_killed_server_is_noticed(bench: &mut Bench) -> Result<()> {
    let mut spec = bench.server().await?;
    if bench.runtime.capability().restarts {
        // That of a process is not brought up again.
        spec.lifeline = Lifeline::Process;
    }
    let up = bench.up(&spec).await?;
    let Some(pid) = bench.pid(&spec).await? else {
        return bench.stop(&spec, StopMode::Fast).await;
    };
    up.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
    // A backend that computes does not see that its server is gone.
    let busy = up.busy();
    up.waits_for_busy().await?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .map_err(|e| Error::io("kill a server", e))?;
    up.exits().await?;
    let status = bench.runtime.status(&spec.instance).await?;
    ensure(status == Status::Stopped, || format!("a killed server is no {status:?}"))?;
    ensure(!bench.listed(&spec).await?, || "list has no killed server".into())?;
    bench.stop(&spec, StopMode::Fast).await?;
    busy.abort();
    let up = bench.up(&spec).await?;
    ensure(up.value("SELECT sum(n) FROM t").await? == "1", || {
        "a killed server starts again with what was committed".into()
    })?;
    bench.stop(&spec, StopMode::Fast).await
}

/// Where a runtime brings servers up again by itself, it does so with one that nobody stopped, and with
/// no other; and until it does, the server is none that has stopped.
async fn a_lasting_server_comes_back(bench: &mut Bench) -> Result<()> {
    if !bench.runtime.capability().restarts {
        return Ok(());
    }
    let spec = bench.server().await?;
    let up = bench.up(&spec).await?;
    let Some(pid) = bench.pid(&spec).await? else {
        return bench.stop(&spec, StopMode::Fast).await;
    };
    up.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .map_err(|e| Error::io("kill a server", e))?;
    let endpoint = up.endpoint.clone();
    up.exits().await?;
    let mut again = tokio_postgres::Config::new();
    again.host(&endpoint.host).port(endpoint.port);
    let answers = async {
        loop {
            let status = bench.runtime.status(&spec.instance).await?;
            ensure(status != Status::Stopped, || {
                format!("a server that will come back is not {status:?}")
            })?;
            if let Some(client) = Up::session(&mut again).await? {
                return Ok::<_, Error>(client);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let client = within("a lasting server comes back", answers).await??;
    let there = client.simple_query("SELECT n FROM t").await;
    ensure(there.is_ok(), || "it comes back with what was committed".into())?;
    drop(client);
    bench.stop(&spec, StopMode::Immediate).await
}

/// The number in a `postmaster.pid` that a crash left may be another process's by now.
async fn a_false_pid_file_means_nothing(bench: &mut Bench) -> Result<()> {
    let spec = bench.server().await?;
    let up = bench.up(&spec).await?;
    if bench.pid(&spec).await?.is_none() {
        return bench.stop(&spec, StopMode::Fast).await;
    }
    bench.stop(&spec, StopMode::Immediate).await?;
    up.exits().await?;
    let mut stranger = bench.stranger()?;
    let number = stranger.id().unwrap_or_default();
    // One of a process that is nobody's server, one that no process can have, and rubbish.
    for first in [number.to_string(), "4194305".to_owned(), "x".to_owned(), String::new()] {
        bench.leave_pid_files(&spec, &first)?;
        let status = bench.runtime.status(&spec.instance).await?;
        ensure(status == Status::Stopped, || {
            format!("a postmaster.pid with {first:?} is no {status:?}")
        })?;
        ensure(!bench.listed(&spec).await?, || "list believes no pid file".into())?;
        bench.stop(&spec, StopMode::Immediate).await?;
        let ended = stranger.try_wait().map_err(|e| Error::io("look at a process", e))?;
        ensure(ended.is_none(), || "stop leaves a process alone that is no server".into())?;
    }
    bench.leave_pid_files(&spec, &number.to_string())?;
    bench.up(&spec).await?;
    let stopped = bench.stop(&spec, StopMode::Fast).await;
    stranger.kill().await.map_err(|e| Error::io("end a process", e))?;
    stopped
}
