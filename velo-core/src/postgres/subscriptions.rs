//! Subscriptions of a parent, cut off from their publishers in the clone.
//!
//! Disabling is not enough: `DROP SUBSCRIPTION` on the clone would still drop the parent's slot on
//! the publisher. So each is unbound from its slot too.

use crate::error::Result;
use crate::postgres::session::{Session, Target, ident, literal};

/// Disables every subscription of every database and unbinds it from its slot.
pub(crate) async fn cut_off(session: &Session, target: Target<'_>) -> Result<()> {
    let databases = session
        .rows(
            "list its subscriptions",
            "SELECT DISTINCT datname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
             ORDER BY 1",
        )
        .await?;
    for database in databases.into_iter().flatten().flatten() {
        let session = Session::connect(Target { database: &database, ..target }).await?;
        let names = session
            .rows(
                "list its subscriptions",
                &format!(
                    "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
                     WHERE datname = {}",
                    literal(&database)
                ),
            )
            .await?;
        for name in names.into_iter().flatten().flatten() {
            let name = ident(&name);
            session
                .execute(
                    "cut a subscription off from its publisher",
                    &format!(
                        "ALTER SUBSCRIPTION {name} DISABLE; \
                         ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"
                    ),
                )
                .await?;
        }
    }
    Ok(())
}
