//! A network between a source and who brings its data, which fails half-way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::home::eventually;

/// What happens once so many bytes have come over one connection.
pub enum Fault {
    /// Nobody gets through any more.
    Cut,
    /// The server of this folder is killed.
    Kill(PathBuf),
}

/// Passes bytes on between clients and a server, until something happens.
pub struct Cable {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    over: AtomicBool,
    cut: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

/// Half of what there is to come, or less.
const MOST: usize = 2 << 20;

impl Cable {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                if shared.cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to, counts) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = shared.clone();
                    std::thread::spawn(move || pass_on(from, to, counts, &state));
                }
            }
        });
        Self { port: own, state }
    }

    /// What is to happen next.
    pub fn fails(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = Some(fault);
    }

    /// Whether that has happened; it is as it was before.
    pub fn mend(&self) -> bool {
        self.state.cut.store(false, Ordering::Relaxed);
        self.state.fault.lock().unwrap().take().is_none()
    }

    /// The same URL, by this way.
    pub fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}/"), &format!(":{}/", self.port))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.state.cut.store(true, Ordering::Relaxed);
        self.state.over.store(true, Ordering::Relaxed);
        // It waits for somebody who comes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, counts: bool, state: &State) {
    let mut buffer = [0; 16 << 10];
    let mut passed = 0;
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while !state.cut.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                passed += n;
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                let due = counts && passed > MOST;
                match due.then(|| state.fault.lock().unwrap().take()).flatten() {
                    Some(Fault::Cut) => state.cut.store(true, Ordering::Relaxed),
                    Some(Fault::Kill(data)) => kill(&data),
                    None => {}
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Ends a server at once, as its machine's end would.
pub fn kill(data: &Path) {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid =
        rustix::process::Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    assert!(eventually(Duration::from_secs(20), || !data.join("postmaster.pid").exists()));
}
