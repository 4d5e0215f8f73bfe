//! A spinner for whatever takes over a second.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::output::{self, Out};

/// Shows its message with a spinner on standard error, once it has lived for a second, until it is
/// dropped. Nothing is shown where standard error is no terminal, nor with `--json`, where nothing but
/// an error is printed there.
#[derive(Debug)]
pub(crate) struct Spinner {
    running: Option<(Sender<()>, JoinHandle<()>)>,
    bar: ProgressBar,
    what: String,
    /// Lines are printed, for nothing can be drawn.
    prints: bool,
}

impl Spinner {
    pub(crate) fn new(out: &Out, message: impl Into<String>) -> Self {
        let what = message.into();
        if out.json || !std::io::stderr().is_terminal() {
            return Self { running: None, bar: ProgressBar::hidden(), what, prints: !out.json };
        }
        let bar = ProgressBar::new_spinner().with_message(what.clone());
        // Nothing is drawn before its first second is over.
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let shown = bar.clone();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("velo-spinner".into()).spawn(move || {
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            shown.set_draw_target(ProgressDrawTarget::stderr());
            shown.enable_steady_tick(Duration::from_millis(100));
            // Ends with the sender.
            let _ = stopped.recv();
            shown.finish_and_clear();
        });
        let running = thread.ok().map(|thread| (stop, thread));
        Self { running, bar, what, prints: false }
    }

    /// Shows lines of what is going on behind the message. Where standard error is no terminal,
    /// only the message is printed, with the first of them.
    pub(crate) fn lines(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (bar, what, prints) = (self.bar.clone(), self.what.clone(), self.prints);
        let said = AtomicBool::new(false);
        move |line| {
            if !prints {
                bar.set_message(format!("{what}: {line}"));
            } else if !said.swap(true, Ordering::Relaxed) {
                let _ = writeln!(std::io::stderr().lock(), "{what} …");
            }
        }
    }

    /// Shows steps behind the message, with how far each is. Where standard error is no terminal, each
    /// is printed once, as it begins: what takes hours has more than one line in a log, and not thousands.
    pub(crate) fn steps(&self) -> impl Fn(&str, &str) + Send + Sync + 'static {
        let (bar, what, prints) = (self.bar.clone(), self.what.clone(), self.prints);
        let said = Mutex::new(BTreeSet::new());
        move |step, far| {
            if !prints {
                return bar.set_message(format!("{what}: {step}{far}"));
            }
            let is_new = said.lock().unwrap_or_else(|e| e.into_inner()).insert(step.to_owned());
            if is_new {
                let _ = writeln!(std::io::stderr().lock(), "{what}: {step}");
            }
        }
    }
}

/// How many bytes are done each second, and how long the rest takes at that; nothing before any are.
pub(crate) fn pace(done: u64, rest: u64, since: Duration) -> String {
    let rate = done as f64 / since.as_secs_f64();
    match Duration::try_from_secs_f64(rest as f64 / rate) {
        Ok(rest) if rate >= 1.0 && rate.is_finite() => {
            format!(", {}/s, {} to go", output::bytes(rate as u64), output::took(rest))
        }
        _ => String::new(),
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // Waited for, so that what is printed next does not meet the spinner.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_a_pace_before_there_is_one() {
        let second = Duration::from_secs(1);
        assert_eq!(pace(0, 16_000_000, second), "");
        assert_eq!(pace(0, 16_000_000, Duration::ZERO), "");
        assert_eq!(pace(16_000_000, 16_000_000, Duration::ZERO), "");
        let told = ", 16.0 MB/s, 2000 ms to go";
        assert_eq!(pace(32_000_000, 32_000_000, second * 2), told);
        assert_eq!(pace(32_000_000, 0, second * 2), ", 16.0 MB/s, 0 ms to go");
    }
}
