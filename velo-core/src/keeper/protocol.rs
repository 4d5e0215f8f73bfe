//! What a process of a run and its keeper say to each other: a line of JSON each way, in turn. Only
//! [`Ask::GiveUp`] comes out of turn.
//!
//! A connection holds at most one branch. Whatever ends the connection, the process's death too, gives the
//! branch back.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::branch::{Change, Keep};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::lock::NotInChildren;
use crate::pool::PoolInfo;
use crate::record::BranchRecord;
use crate::timings::Timings;

/// What somebody asks of a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A branch of this seed, for the connection to hold, and what to call it.
    Acquire { project: String, seed: Id, label: Option<String> },
    /// What the pool of this seed keeps ready.
    KeepReady { project: String, seed: Id, least: usize, most: usize },
    /// What is known of the pool of this seed.
    Info { project: String, seed: Id },
    /// The branch goes; answered when its server is gone.
    Close,
    /// The branch stays, if it may.
    Keep(Keep),
    /// The branch is renewed, or its server is switched.
    Change(Change),
    /// Nobody wants what was asked last any more. It has no answer of its own: what was asked has, be it
    /// that it was undone. It may come too late.
    GiveUp,
}

/// What the keeper says to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Branch(Box<BranchRecord>),
    /// How it is now, and what the steps to that took.
    Changed(Box<(BranchRecord, Timings)>),
    Info(PoolInfo),
    Done,
    Failed {
        kind: ErrorKind,
        message: String,
        hint: Option<String>,
    },
}

impl Answer {
    pub(super) fn of_error(error: &Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// One end of a connection. A forked child has none: it would keep a branch whose holder was killed.
#[derive(Debug)]
pub(super) struct Line {
    _guard: NotInChildren,
    stream: BufReader<UnixStream>,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { _guard: NotInChildren::of(&stream), stream: BufReader::new(stream) }
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(message).map_err(|e| {
            Error::new(ErrorKind::Internal, "a message cannot be written").with_source(e)
        })?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).await.map_err(broken)
    }

    /// What the other end says next; none when it has ended.
    pub(super) async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut text = String::new();
        if self.stream.read_line(&mut text).await.map_err(broken)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::new(ErrorKind::Incompatible, format!("the keeper of another Velo answers: {e}"))
                .with_hint("all processes of a run must have the same version of velo-core")
        })
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        self.send(ask).await?;
        self.answer().await
    }

    /// The same for what may be given up: the answer is waited for nevertheless, or the next one would be
    /// taken for it.
    pub(super) async fn ask_unless(&mut self, ask: &Ask, cancel: &Cancel) -> Result<Answer> {
        self.send(ask).await?;
        if cancel.guard(self.spoken()).await.is_err() {
            self.send(&Ask::GiveUp).await?;
        }
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer> {
        match self.next().await? {
            Some(Answer::Failed { kind, message, hint }) => {
                let error = Error::new(kind, message);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            Some(answer) => Ok(answer),
            None => Err(gone()),
        }
    }

    /// Waits until the other end says something, or is gone.
    pub(super) async fn spoken(&mut self) {
        let _ = self.stream.fill_buf().await;
    }

    /// The process at the other end, and when that was started.
    pub(super) fn peer(&self) -> Option<(i32, u64)> {
        let pid = self.stream.get_ref().peer_cred().ok()?.pid()?;
        Some((pid, crate::run::started(pid)?))
    }

    /// Gives back what it holds, whoever else has a copy of the descriptor.
    pub(super) fn hang_up(&self) {
        use std::os::fd::AsFd;
        let _ = rustix::net::shutdown(self.stream.get_ref().as_fd(), rustix::net::Shutdown::Both);
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Conflict, "the keeper of this run is gone, and its branches with it")
        .with_hint("ask again: another one is started")
}

fn broken(e: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    match e.kind() {
        Io::BrokenPipe | Io::ConnectionReset | Io::NotConnected => gone(),
        _ => Error::io("talk to the keeper of this run", e),
    }
}
