//! The signals that `velo run` passes on, and by which long work is given up.
//!
//! A handler, not a blocked mask: handlers are gone after `exec`, so neither the command nor the
//! servers start with a signal blocked. It tells what the kernel sent from what a process sent,
//! which tokio's and the standard library's do not.

use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use tokio::sync::mpsc::UnboundedReceiver;
use velo_core::cancel::Cancel;
use velo_core::{Error, ErrorKind, Result};

/// A signal that this process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) signal: i32,
    /// The kernel sent it, and no process.
    pub(crate) from_kernel: bool,
}

impl Got {
    /// Whether the command has not got it too.
    ///
    /// What is typed in a terminal (Ctrl-C, Ctrl-\) and a change of its size reach its whole
    /// foreground group. When it goes away the kernel tells the leader of its session alone; a
    /// process that is none hears of it when its leader has ended, with its group. A file that
    /// grew too large is the own fault of who wrote it. All else was meant for this process.
    pub(crate) fn is_ours_alone(self) -> bool {
        if !self.from_kernel {
            return true;
        }
        match self.signal {
            libc::SIGINT | libc::SIGQUIT | libc::SIGWINCH | libc::SIGXFSZ => false,
            libc::SIGHUP => rustix::process::getsid(None) == Ok(rustix::process::getpid()),
            _ => true,
        }
    }

    /// Whether it would end a process that does nothing about it.
    pub(crate) fn ends(self) -> bool {
        self.signal != libc::SIGWINCH
    }
}

/// All that would end this process and that it can do something about, but for what it can only
/// have brought upon itself (SIGSEGV, …); and the change of the terminal's size.
///
/// SIGTSTP and its kin are not among them: stopped alone, this process loses nothing, and in a
/// terminal the command is stopped as well.
fn passed_on() -> impl Iterator<Item = i32> {
    let named = [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGXCPU,
        libc::SIGXFSZ,
        libc::SIGWINCH,
        #[cfg(target_os = "linux")]
        libc::SIGIO,
        #[cfg(target_os = "linux")]
        libc::SIGPWR,
        #[cfg(target_os = "linux")]
        libc::SIGSTKFLT,
    ];
    #[cfg(target_os = "linux")]
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    #[cfg(not(target_os = "linux"))]
    let real_time = std::iter::empty();
    named.into_iter().chain(real_time)
}

/// The pipe from the handler to the thread that reads it. A handler can use little else.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid pointer.
    let code = unsafe { info.as_ref() }.map_or(0, |info| info.si_code);
    // `kill`, `raise` and `sigqueue` have codes of zero and below; what is above is the kernel's.
    let message = [signal as u8, u8::from(code > 0)];
    // SAFETY: the descriptor is never closed once it is stored, and there is no handler before.
    let pipe = unsafe { BorrowedFd::borrow_raw(PIPE.load(Ordering::Relaxed)) };
    // On Linux a bare system call, which leaves errno alone. A full pipe means that the reader is
    // gone or hundreds of signals behind: nothing is lost that matters.
    let _ = rustix::io::write(pipe, &message);
}

/// Does `work`. At a signal it is undone, and that is waited for; at a second one this process ends at once, and the next
/// `velo` undoes what was left. What was done before it could be given up, `undo` undoes, or gives back where it stays:
/// then that is the result, as if there had been no signal.
pub(crate) fn unless_given_up<T, W, U>(
    work: impl FnOnce(Cancel) -> W,
    undo: impl FnOnce(T) -> U,
) -> Result<T>
where
    W: Future<Output = Result<T>>,
    U: Future<Output = Result<Option<T>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("start a runtime", e))?;
    let done = async {
        let mut signals = listen()?;
        let cancel = Cancel::new();
        let mut work = std::pin::pin!(work(cancel.clone()));
        let mut given_up = false;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                Some(got) = signals.recv() => match given_up {
                    _ if !got.ends() => {}
                    false => {
                        given_up = true;
                        cancel.cancel();
                    }
                    true => return Err(Error::new(
                        ErrorKind::Canceled,
                        "ended at once; what was made goes with the next command",
                    )),
                },
            }
        };
        match done {
            Ok(made) if given_up => undo(made)
                .await?
                .ok_or_else(|| Error::new(ErrorKind::Canceled, "given up: nothing was made")),
            done => done,
        }
    };
    runtime.block_on(done)
}

/// From now on these signals do not end this process, but are received here. A signal that this
/// process was started to ignore (`nohup`) stays ignored, by the command too.
pub(crate) fn listen() -> Result<UnboundedReceiver<Got>> {
    let failed = |e: std::io::Error| Error::io("listen to signals", e);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    // A handler must not wait.
    rustix::io::ioctl_fionbio(&writer, true).map_err(|e| failed(e.into()))?;
    // Never closed: a handler may run until the process ends.
    PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("velo-signals".into())
        .spawn(move || {
            while let Some(got) = next(&reader) {
                if sender.send(got).is_err() {
                    return;
                }
            }
        })
        .map_err(failed)?;
    for signal in passed_on() {
        // SAFETY: both structures are plain data of the right size, and the handler is one that
        // only does what a handler may.
        let result = unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut old) == 0
                && old.sa_sigaction == libc::SIG_IGN
            {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
    }
    Ok(receiver)
}

fn next(reader: &OwnedFd) -> Option<Got> {
    // Two bytes are written at once, and below PIPE_BUF that is never torn.
    let mut message = [0u8; 2];
    loop {
        match rustix::io::read(reader, &mut message) {
            Ok(2) => {
                return Some(Got { signal: i32::from(message[0]), from_kernel: message[1] == 1 });
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}
