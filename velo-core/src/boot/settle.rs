//! What must hold of a server before anybody gets in: its texts sort as they did, it has its own password, and
//! it reaches for nobody.

use crate::error::Result;
use crate::postgres::scram::{self, Password};
use crate::postgres::session::{Session, Target, ident, literal};
use crate::postgres::{Libc, collation, subscriptions};

use super::{Boot, Doors};

impl Boot<'_> {
    /// Checks what must hold before anybody else gets in, and mends what can be mended.
    pub(super) async fn settle(
        &self,
        session: &Session,
        target: Target<'_>,
        libc: Option<Libc>,
    ) -> Result<()> {
        if !self.loading.is_some_and(|loading| loading.any_collation) {
            collation::check(session).await?;
        }
        if let (Some(sorted), Some(here)) = (self.project.libc, libc)
            && sorted != here
        {
            collation::check_libc(session, sorted, here).await?;
        }
        if self.branch.follows.is_some() {
            return self.streams(session).await;
        }
        if self.stranger().is_some() {
            self.make_role(session).await?;
        } else if !session.by_password {
            self.own_password(session).await?;
        }
        if self.fresh_clone
            && !session.copy("look for subscriptions", "pg_subscription (oid)").await?.is_empty()
        {
            subscriptions::cut_off(session, target).await?;
        }
        Ok(())
    }

    /// Gives Velo's role the branch's password, unless it has it or nothing can be written.
    async fn own_password(&self, session: &Session) -> Result<()> {
        let role = literal(&self.project.role);
        let row = session
            .row(
                "look at its role",
                &format!(
                    "SELECT rolpassword, pg_is_in_recovery(), rolvaliduntil <= now() \
                     FROM pg_authid WHERE rolname = {role}"
                ),
            )
            .await?;
        let value = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let expired = value(2) == "t";
        if value(1) == "t" || (!expired && scram::matches(&value(0), &self.branch.password)) {
            return Ok(());
        }
        if self.doors == Doors::Open {
            // Somebody changed it in the parent. Velo's own is written over it before anybody
            // learns the URL.
            tracing::debug!("the password of the parent's role is not the recorded one");
        }
        set_password(session, &self.project.role, &self.branch.password, expired).await
    }
}

async fn set_password(
    session: &Session,
    role: &str,
    password: &Password,
    expired: bool,
) -> Result<()> {
    let verifier = literal(&scram::verifier(password)?);
    let until = if expired { " VALID UNTIL 'infinity'" } else { "" };
    let sql = format!("ALTER ROLE {} PASSWORD {verifier}{until}", ident(role));
    session.execute_secret("set the password of its role", &sql).await
}
