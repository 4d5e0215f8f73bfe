//! How far a standby is.

use super::main_of;
use crate::boot;
use crate::error::Result;
use crate::home::Home;
use crate::import::Place;
use crate::postgres::session::Session;
use crate::record::{BranchRecord, Phase, ProjectRecord};
use crate::run_dir::RunDir;
use crate::runtime::Status;

/// A `main` that follows its source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Following {
    /// Words that name the source, without a password.
    pub from: String,
    /// The slot of the source's that keeps its WAL; `None` is that nothing does.
    pub slot: Option<String>,
    /// Since when it follows, in milliseconds since 1970, UTC.
    pub since: u64,
    /// Whether WAL comes now.
    pub streams: bool,
    /// How much WAL of the source's it has not replayed, as far as it was told.
    pub lag_bytes: Option<u64>,
    /// How old what it shows may be, in seconds: 0 where it has all that it was told of, else the age of the last
    /// commit that it has. By the clocks of both machines.
    pub lag_seconds: Option<u64>,
    /// Why no WAL comes or is replayed, and what helps.
    pub problem: Option<String>,
}

/// How many lines of a log hold the last reason.
pub(crate) const LINES: usize = 40;

/// What is known of it; `None` where `main` follows nothing.
pub(crate) async fn look(home: &Home, project: &ProjectRecord) -> Result<Option<Following>> {
    let owned = project.clone();
    let main = home.state().read(move |tx| main_of(tx, &owned)).await?;
    let Some(follow) = &main.follows else { return Ok(None) };
    let mut following = Following {
        from: match project.source.as_ref().map(|source| &source.place) {
            Some(Place::Server(words)) => words.clone(),
            _ => follow.conninfo.clone(),
        },
        slot: follow.slot.clone(),
        since: follow.since,
        streams: false,
        lag_bytes: None,
        lag_seconds: None,
        problem: None,
    };
    let name = project.name.as_str();
    let end = boot::end_of_look();
    following.problem = match boot::look(home, project, &main, end).await? {
        Status::Running { .. } => {
            let ask = ask(home, project, &main, &mut following);
            match boot::in_time(project.runtime, end, ask).await {
                Ok(true) => Some(format!(
                    "it replays nothing, for the source was given more connections, workers or locks: \
                     velo branch restart {name}/{} gives it as many",
                    main.shown()
                )),
                Ok(false) if following.streams => None,
                Ok(false) => {
                    let log = RunDir::of(home, main.id).log();
                    let runtime = home.runtime(project.runtime)?;
                    let tail = runtime.logs(&log, LINES).await.unwrap_or_default();
                    Some(explain(&tail, name))
                }
                Err(error) => Some(error.to_string()),
            }
        }
        _ if main.phase == Phase::Ready => {
            Some(format!("its server does not run: velo branch start {name}/{}", main.shown()))
        }
        _ => Some("it is being changed".to_owned()),
    };
    Ok(Some(following))
}

/// Of the receiver's row all is NULL where it is not there.
const QUESTION: &str = "SELECT streaming, pg_wal_lsn_diff(known, replayed)::bigint, \
     CASE WHEN streaming AND known <= replayed THEN 0 \
          ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::bigint END, \
     pg_get_wal_replay_pause_state() = 'paused' \
     FROM (SELECT coalesce(bool_or(status = 'streaming'), false) AS streaming, \
                  coalesce(max(latest_end_lsn), pg_last_wal_receive_lsn()) AS known, \
                  pg_last_wal_replay_lsn() AS replayed \
             FROM pg_stat_wal_receiver) x";

/// Asks it. Whether it has paused.
async fn ask(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    following: &mut Following,
) -> Result<bool> {
    let socket_dir = RunDir::of(home, main.id).socket();
    let session = Session::connect(boot::target(&socket_dir, project, main)).await?;
    let row = session.row("look at what it follows", QUESTION).await?;
    let value = |at: usize| row.get(at).and_then(Option::as_deref);
    // It may have replayed more than it was told of, and the clocks may differ.
    let number = |at: usize| value(at)?.parse::<i64>().ok().map(|n| n.max(0).unsigned_abs());
    following.streams = value(0) == Some("t");
    // What it knew when the connection was lost says nothing of the source now.
    following.lag_bytes = number(1).filter(|_| following.streams);
    following.lag_seconds = number(2);
    Ok(value(3) == Some("t"))
}

/// What the messages of a server's receiver have in them.
const OWN: [&str; 5] =
    ["WAL stream", "primary server", "walreceiver", "the primary", "recovery timeline"];

/// Why no WAL comes, as the end of the log says, and what helps.
pub(crate) fn explain(tail: &str, project: &str) -> String {
    let lines: Vec<&str> = tail.lines().collect();
    // Clients that were not let in have theirs there, too.
    let is_own = |said: &str| OWN.iter().any(|words| said.contains(words));
    let found = lines.iter().enumerate().rev().find_map(|(at, line)| {
        let (_, said) = line.split_once("FATAL:")?;
        is_own(said).then(|| (at, said.trim()))
    });
    let Some((at, said)) = found else { return "it is connecting".to_owned() };
    let refresh = format!("velo project refresh {project} brings main anew");
    // A message may have more lines.
    let has = |words: &str| lines.iter().skip(at).take(3).any(|line| line.contains(words));
    let helps = if has("has already been removed") {
        format!("the source has removed WAL that main needs: {refresh}")
    } else if has("can no longer") || has("has been invalidated") {
        format!("the slot keeps its WAL no more: drop it there and make it again; then {refresh}")
    } else if has("system identifier differs")
        || has("is not in this server's history")
        || has("behind recovery timeline")
    {
        format!("the source is another server now: {refresh}")
    } else if has("replication slot") && has("does not exist") {
        "make the slot in the source again: SELECT pg_create_physical_replication_slot('…')"
            .to_owned()
    } else if has("password authentication failed") || has("no password supplied") {
        format!("is the source's password another one now? With the new one {refresh}")
    } else {
        "PostgreSQL tries again every few seconds".to_owned()
    };
    format!("{said}; {helps}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_to_do() {
        let gone = "2026-11-29 15:00:00 UTC [1] LOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n\
            2026-11-29 15:00:00 UTC [1] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL \
            segment 000000010000000000000003 has already been removed\n\
            2026-11-29 15:00:00 UTC [2] LOG:  waiting for WAL to become available at 0/3002000\n";
        let told = explain(gone, "api");
        assert!(told.starts_with("could not receive data"), "{told}");
        assert!(told.contains("velo project refresh api"), "{told}");
        let client = format!("{gone}x FATAL:  password authentication failed for user \"ann\"\n");
        assert_eq!(explain(&client, "api"), told);
        let away = "x FATAL:  could not connect to the primary server: connection to server at \"127.0.0.1\", port 1 \
            failed: Connection refused\n";
        let told = explain(away, "api");
        assert!(told.contains("refused") && told.ends_with("every few seconds"), "{told}");
        assert_eq!(explain("", "api"), "it is connecting");
    }
}
