//! Ports of servers.

use crate::error::{Error, ErrorKind, Result};
use crate::state::Tx;

/// Whether a server could listen on `port` now.
pub(crate) fn is_free(port: u16) -> bool {
    try_one(port).unwrap_or(false)
}

/// The same; an error where nobody can tell, as without a file to spare.
fn try_one(port: u16) -> Result<bool> {
    use std::io::ErrorKind as Io;
    // std sets SO_REUSEADDR, as PostgreSQL does: connections of a server that ended a moment ago
    // do not count.
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), Io::AddrInUse | Io::PermissionDenied) => Ok(false),
        Err(e) => Err(Error::io(format!("try port {port}"), e)),
    }
}

/// A port that no record names and that nobody listens on.
pub(crate) fn find(tx: &Tx<'_>, candidates: impl Iterator<Item = u16>) -> Result<u16> {
    let taken = tx.ports()?;
    for port in candidates.filter(|port| !taken.contains(port)) {
        if try_one(port)? {
            return Ok(port);
        }
    }
    Err(Error::new(ErrorKind::Exhausted, "every port of the range is taken")
        .with_hint("delete branches, or set VELO_PORTS to a larger range"))
}
