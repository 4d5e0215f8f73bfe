//! A spinner for whatever takes over a second.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::ProgressBar;

/// Shows its message with a spinner on standard error, once it has lived for a second, until it is
/// dropped. Nothing is shown where standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Spinner {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Spinner {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        if !std::io::stderr().is_terminal() {
            return Self { running: None };
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("velo-spinner".into()).spawn(move || {
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::new_spinner().with_message(message);
            bar.enable_steady_tick(Duration::from_millis(100));
            // Ends with the sender.
            let _ = stopped.recv();
            bar.finish_and_clear();
        });
        Self { running: thread.ok().map(|thread| (stop, thread)) }
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
