//! What in a branch can still reach other servers when a session asks it to.
//!
//! Nothing known does by itself in one: libraries whose workers would are not loaded, and Citus' daemon is told not to
//! ([`super::settings`]). In a `main` that came from nowhere else they do as it was told.

use crate::error::Result;
use crate::postgres::session::{Session, Target};

/// Extensions through which a session can reach other servers.
const EXTENSIONS: [&str; 5] = ["dblink", "pg_net", "http", "citus", "pglogical"];

/// The foreign servers, subscriptions and such extensions of every database that takes connections.
pub(crate) async fn list(target: Target<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let databases = Session::connect(target)
        .await?
        .rows(
            "list its databases",
            // One with the limit -2 is the ruin of an interrupted DROP DATABASE.
            "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 \
             ORDER BY datname",
        )
        .await?;
    for database in databases.into_iter().flatten().flatten() {
        let session = Session::connect_to(target, &database).await?;
        let column = async |sql: &str| {
            let rows = session.rows("look for what reaches out", sql).await?;
            Result::Ok(rows.into_iter().flatten().flatten().collect::<Vec<_>>())
        };
        let servers = column("SELECT srvname FROM pg_foreign_server ORDER BY srvname").await?;
        let extensions = column("SELECT extname FROM pg_extension ORDER BY extname").await?;
        // They are cut off, but a session can bind one to a slot again.
        let subscriptions = column(
            "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
             WHERE datname = current_database() ORDER BY subname",
        )
        .await?;
        let all = servers.iter().map(|server| format!("foreign server {server}"));
        let all = all
            .chain(subscriptions.iter().map(|subscription| format!("subscription {subscription}")));
        let all = all.chain(
            extensions
                .iter()
                .filter(|extension| EXTENSIONS.contains(&extension.as_str()))
                .map(|extension| format!("extension {extension}")),
        );
        found.extend(all.map(|what| format!("{what} in database {database}")));
    }
    Ok(found)
}
