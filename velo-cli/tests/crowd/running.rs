//! The commands that run at a moment, and whoever kills one of them now and then.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Dice;
use crate::common::{Home, Ran};

/// How long a command may take before somebody waits for what never comes. A lock is waited for twice
/// as long, so that two commands which wait for each other are met here.
const STUCK: Duration = Duration::from_secs(60);

/// A command that runs: by a descriptor, because its number may be another process's once it ended.
struct Running {
    args: String,
    process: OwnedFd,
    begun: Instant,
}

/// What became of the commands of one kind (`branch create`).
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) done: usize,
    pub(crate) refused: usize,
    pub(crate) killed: usize,
    pub(crate) longest: Duration,
}

#[derive(Default)]
pub(crate) struct Commands {
    running: Mutex<BTreeMap<u32, Running>>,
    tallies: Mutex<BTreeMap<String, Tally>>,
    stuck: Mutex<Vec<String>>,
}

/// What a command came to.
pub(crate) enum Ended {
    Done(Ran),
    Refused(Ran),
    Killed,
}

impl Commands {
    pub(crate) fn run(&self, home: &Home, args: &[&str]) -> Ended {
        let mut command = home.command();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let (number, begun) = (child.id(), Instant::now());
        let pid = Pid::from_raw(number.cast_signed()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let running = Running { args: args.join(" "), process, begun };
        self.running.lock().unwrap().insert(number, running);
        let ran: Ran = child.wait_with_output().unwrap().into();
        // Somebody may have got the number by now, with an entry of its own.
        let mut running = self.running.lock().unwrap();
        if running.get(&number).is_some_and(|entry| entry.begun == begun) {
            running.remove(&number);
        }
        drop(running);
        let words = if args[0] == "branch" { 2 } else { 1 };
        let kind = args[..words].join(" ");
        let mut tallies = self.tallies.lock().unwrap();
        let tally = tallies.entry(kind).or_default();
        tally.longest = tally.longest.max(begun.elapsed());
        let (count, ended) = match ran.code {
            0 => (&mut tally.done, Ended::Done(ran)),
            -9 => (&mut tally.killed, Ended::Killed),
            _ => (&mut tally.refused, Ended::Refused(ran)),
        };
        *count += 1;
        ended
    }

    /// Kills one of those that run, again and again; and whatever runs for too long, which is told.
    pub(crate) fn kill_some(&self, every: Duration, mut dice: Dice, end: &AtomicBool) {
        let mut next = Instant::now() + every;
        while !end.load(Ordering::Relaxed) {
            let running = self.running.lock().unwrap();
            for one in running.values().filter(|one| one.begun.elapsed() > STUCK) {
                self.stuck.lock().unwrap().push(one.args.clone());
                let _ = pidfd_send_signal(&one.process, Signal::KILL);
            }
            if Instant::now() >= next && !running.is_empty() {
                let one = running.values().nth(dice.below(running.len() as u64) as usize).unwrap();
                let _ = pidfd_send_signal(&one.process, Signal::KILL);
                next += every;
            }
            drop(running);
            // The pace itself: this waits for no event.
            std::thread::sleep(every.min(Duration::from_millis(20)));
        }
    }

    /// Whether each of these was done, and killed.
    pub(crate) fn all_happened(&self, done: &[&str], killed: &[&str]) -> bool {
        let tallies = self.tallies.lock().unwrap();
        let of = |kind: &&str| tallies.get(*kind);
        done.iter().all(|kind| of(kind).is_some_and(|tally| tally.done > 0))
            && killed.iter().all(|kind| of(kind).is_some_and(|tally| tally.killed > 0))
    }

    /// What became of all; none was stuck.
    #[track_caller]
    pub(crate) fn tallies(self) -> BTreeMap<String, Tally> {
        let stuck = self.stuck.into_inner().unwrap();
        assert!(stuck.is_empty(), "not done within {STUCK:?}: {stuck:?}");
        self.tallies.into_inner().unwrap()
    }
}
