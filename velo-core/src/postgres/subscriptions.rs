//! Subscriptions of a parent, cut off from their publishers in the clone.
//!
//! Disabling is not enough: `DROP SUBSCRIPTION` on the clone would still drop the parent's slot on
//! the publisher. So each is unbound from its slot too. And it would drop the slots of tables that
//! are not synchronized yet, whose names it makes from the cluster's identity, which the clone
//! shares. So these are no tables of the subscription any more.
//!
//! The catalogs are written, because `ALTER SUBSCRIPTION` fires the user's event triggers and has
//! nothing for such tables.
//!
//! Those of pglogical and its kin are rows of theirs, and stay: their libraries are not loaded ([`super::settings`]).

use crate::error::Result;
use crate::postgres::session::{Session, Target, ident};

/// Disables every subscription of every database and unbinds it from its slots.
pub(crate) async fn cut_off(session: &Session, target: Target<'_>) -> Result<()> {
    const WHAT: &str = "cut its subscriptions off from their publishers";
    session
        .execute(WHAT, "UPDATE pg_subscription SET subenabled = false, subslotname = NULL")
        .await?;
    let databases = session
        .rows(
            "list its subscriptions",
            "SELECT datname, datallowconn FROM pg_database d \
             WHERE EXISTS (SELECT FROM pg_subscription s WHERE s.subdbid = d.oid) ORDER BY 1",
        )
        .await?;
    for row in databases {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let (database, open) = (row.next().unwrap_or_default(), row.next());
        let closed = open.as_deref() == Some("f");
        let allow = async |allow: bool| {
            let name = ident(&database);
            session.execute(WHAT, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allow}")).await
        };
        if closed {
            allow(true).await?;
        }
        // `r` is a table in step, which has no slot of its own.
        Session::connect_to(target, &database)
            .await?
            .execute(WHAT, "DELETE FROM pg_subscription_rel WHERE srsubstate <> 'r'")
            .await?;
        if closed {
            allow(false).await?;
        }
    }
    Ok(())
}
