//! Names for moments.

use super::plan::{Incarnation, incarnations};
use super::reader::PREFIX;
use super::target::Kind;
use crate::boot;
use crate::branch::Branch;
use crate::effect::step;
use crate::engine::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Mode;
use crate::postgres::lsn::Lsn;
use crate::postgres::session::{Session, literal};
use crate::run_dir::RunDir;
use crate::runtime::Status;
use crate::wal::Target;

/// A moment of a branch that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// Everything before it is in a branch that begins with it.
    pub lsn: Lsn,
}

impl Branch {
    /// Gives the present moment a name, for [`Target::restore_point`]. Where a name is given again, the
    /// last one counts.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if no WAL of the branch is kept, [`ErrorKind::Conflict`] if its server
    /// does not run, or there is no snapshot that leads there.
    pub async fn restore_point(&self, name: impl Into<String>) -> Result<RestorePoint> {
        self.restore_point_call(name.into()).await
    }

    pub(crate) fn restore_point_call(&self, name: String) -> Call<RestorePoint> {
        self.call(move |branch, home, op| async move {
            let target = Target::restore_point(&name);
            target.check()?;
            debug_assert!(matches!(target.kind, Kind::RestorePoint(_)));
            let shown = branch.full_name();
            let what = format!("the branch {shown}");
            // Shared: a reset or a deletion would take the server away in the middle.
            let _lock = home.lock(branch.id(), Mode::Shared, &what, &op.cancel).await?;
            let record = branch.current(&home).await?;
            let project = &branch.project_record();
            let archived = incarnations(&home, record.id).await?;
            let kept =
                |one: &&Incarnation| one.archive.id == record.volume && one.archive.archiving;
            let Some(incarnation) = archived.iter().find(kept) else {
                return Err(super::unreachable::keeps_none(project, &record, &shown));
            };
            if incarnation.bases.is_empty() {
                let what = format!("nothing would lead to a restore point of {shown}: there is no snapshot of its data");
                return Err(Error::new(ErrorKind::Conflict, what)
                    .with_hint(format!("take one first: velo snapshot create {shown} NAME")));
            }
            if !matches!(boot::status(&home, project, &record).await?, Status::Running { .. }) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("the server of {shown} does not run, and so writes no restore point"),
                )
                .with_hint(format!(
                    "start it: velo branch start {shown}; or take a snapshot, which has a name too"
                )));
            }
            let socket_dir = RunDir::of(&home, record.id).socket();
            let written = async {
                let session = Session::connect(boot::target(&socket_dir, project, &record)).await?;
                let create = format!("SELECT pg_create_restore_point({})", literal(&name));
                let made = session.value("create a restore point", &create);
                let lsn = step("create a restore point", made).await?.parse()?;
                // It is no transaction's, and so on disk only when the next one is.
                session.execute("commit at once", "SET synchronous_commit = on").await?;
                let flush = format!("SELECT pg_logical_emit_message(true, '{PREFIX}', '')");
                session.execute("flush a restore point", &flush).await?;
                Ok(lsn)
            };
            // A server that does not answer is restarted by whoever needs the lock.
            let lsn = op.cancel.guard(written).await??;
            Ok(RestorePoint { name, lsn })
        })
    }
}
