//! The addon of the npm package `velo-node`: velo-core's handles, each call of which is a `Call` that
//! JavaScript has begin and gets a promise of. The face that people see is written in JavaScript over it.
//!
//! Nothing in here is a state: that is velo-core's, which is there once for the process, however many of its threads
//! load the addon and however often.

// What the macros of napi-derive export has to be public.
#![allow(unreachable_pub)]

mod branch;
mod call;
mod config;
mod error;
mod info;
mod project;
mod seed;
mod snapshot;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use napi_derive::napi;
use rustix::io::FdFlags;

/// The version of the addon, which is the package's.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Runs the command `velo` with these words, the first of which is its name, and gives its exit code. It is meant to
/// be all that a process does.
#[napi(js_name = "main")]
pub fn command(args: Vec<String>) -> u32 {
    // Node has its standard streams closed in what it starts, and gives its own children others; those of Velo's are to
    // have these. One that is closed is closed.
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [input.as_fd(), output.as_fd(), errors.as_fd()] {
        let _ = rustix::io::fcntl_setfd(stream, FdFlags::empty());
    }
    let served = velo_core::__binding::serve_if_asked();
    u32::from(served.unwrap_or_else(|| velo_cli::code(args.into_iter().map(OsString::from))))
}

/// Has the keepers of runs be `program` with `args`, which calls [`command`].
#[napi]
pub fn use_keeper(program: String, args: Vec<String>) {
    let args = args.into_iter().map(OsString::from).collect();
    velo_core::__binding::use_program(PathBuf::from(program), args);
}

/// Has this process be of one run with all others of the process that started it.
#[napi]
pub fn use_parents_run() {
    velo_core::__binding::use_parents_run();
}

/// Has whoever waits for a seed that another process builds be told, on standard error as it is now.
#[napi]
pub fn tell_waits() {
    velo_core::__binding::tell_waits();
}

/// Has the branch of a failed test stay for so many milliseconds; whether it does.
#[napi]
pub fn keep_failed(branch: &branch::Branch, milliseconds: f64) -> call::Call {
    let branch = branch.0.clone();
    let work = async move { branch.keep_failed(config::time(milliseconds)?).await };
    call::Call::new(work, |stays| stays)
}
