//! A server that is up, and has everything in memory that a first query needs.

use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::postgres::session::{Door, Session};
use crate::record::{BranchRecord, ProjectRecord};
use crate::run_dir::RunDir;

use super::target;

/// What a session needs for its first query, and a server reads from its files once: the catalogs that are looked
/// into while a query is read and planned, each by its index. It says nothing of the user's own tables, for
/// their statistics are to be as the seed's.
const WARM: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE c.relname = 'pg_class' AND n.oid IS DISTINCT FROM to_regnamespace('public')";

/// How long that may take: nobody waits for it, and without it the branch is as good.
const WARMING: std::time::Duration = std::time::Duration::from_secs(5);

/// Has a session on a server that is up, so that the first client's finds everything in memory. The one that
/// waited for the server does not do: it is the first of all, reads the catalogs' tables where later ones
/// read their indexes, and plans nothing.
pub(crate) async fn warm(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
) -> Result<()> {
    let socket_dir = RunDir::of(home, branch.id).socket();
    let work = async {
        let (server, door) = (target(&socket_dir, project, branch), Door::Tcp(&branch.password));
        let session = Session::attempt(server, door).await.done()?;
        session.rows("warm a server", WARM).await.map(drop)
    };
    match tokio::time::timeout(WARMING, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "a server is not warmed in time")),
    }
}
