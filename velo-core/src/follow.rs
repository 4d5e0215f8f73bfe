//! A `main` that follows the server its data came from, as a streaming standby.
//!
//! It is a copy as it was made, with nothing of Velo's in it: nobody can write to it, so that Velo works in it as
//! a superuser of the source's, over the private socket, and clients log in with the source's roles. Branches are
//! clones that recover what they hold and are promoted; Velo's role is made in them then, and nothing leads from
//! them to the source: where it is, `main`'s command line alone says.
//!
//! It connects without a slot unless one is named, which somebody has made in the source: so a machine that
//! sleeps, or is gone, keeps no WAL there. Where the source has removed WAL that `main` lacks, it is brought anew.
//!
//! To stop is recorded when the standby is down. Before that whoever finds it starts it as it was, and after
//! that every start promotes it.

mod state;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::import::Conninfo;
use crate::lock::Mode;
use crate::postgres::control::ControlFile;
use crate::record::{BranchRecord, Origin, Phase, ProjectRecord};
use crate::reset::{self, being_changed};
use crate::run_dir::RunDir;
use crate::state::Tx;
use crate::switch::{Switch, after};

pub use state::Following;
pub(crate) use state::{LINES, explain, look};

/// What is recorded of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Follow {
    /// How the source is reached, in words without a password, whatever a later process has in its environment.
    pub(crate) conninfo: String,
    /// The role that connects to it, which clients may log in as.
    pub(crate) user: String,
    /// As whom Velo works in it: the superuser that `initdb` made.
    pub(crate) superuser: String,
    /// A physical slot of the source's that somebody has made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slot: Option<String>,
    /// In milliseconds since 1970, UTC.
    pub(crate) since: u64,
}

impl Follow {
    /// Where the source's socket is, if it is reached by one.
    pub(crate) fn socket_dir(&self) -> Option<PathBuf> {
        let conninfo = Conninfo::parse(&self.conninfo).ok()?;
        conninfo.get("host").filter(|host| host.starts_with('/')).map(PathBuf::from)
    }

    /// The settings of the server, beside all others.
    pub(crate) fn settings(
        &self,
        control: &ControlFile,
        run_dir: &RunDir,
    ) -> Result<Vec<(String, String)>> {
        let pass_file = Some(run_dir.pass_file()).filter(|path| path.exists());
        let conninfo = Conninfo::parse(&self.conninfo)?;
        let mut settings = vec![
            ("primary_conninfo", conninfo.to_follow(pass_file.as_deref())),
            ("primary_slot_name", self.slot.clone().unwrap_or_default()),
            ("hot_standby", "on".to_owned()),
            // The source may be a standby that lags by intent, or have that in its files for when it is one.
            ("recovery_min_apply_delay", "0".to_owned()),
            // Its queries keep no row of the source's.
            ("hot_standby_feedback", "off".to_owned()),
            ("wal_receiver_create_temp_slot", "off".to_owned()),
            // Where the source fails over, it goes on with who takes its place.
            ("recovery_target_timeline", "latest".to_owned()),
            // What it says of its connection is read.
            ("lc_messages", "C".to_owned()),
        ];
        // With fewer it would not come up, and its files may not say how many the source was started with.
        for (name, value) in [
            ("max_connections", control.max_connections),
            ("max_worker_processes", control.max_worker_processes),
            ("max_wal_senders", control.max_wal_senders),
            ("max_prepared_transactions", control.max_prepared_xacts),
            ("max_locks_per_transaction", control.max_locks_per_xact),
        ] {
            settings.push((name, value.to_string()));
        }
        Ok(settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// What somebody asks for who wants `main` to follow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) slot: Option<String>,
}

impl Wish {
    /// An error unless the name is one of a slot.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        match &self.slot {
            Some(slot) if slot.is_empty() || slot.len() > 63 || !slot.chars().all(fits) => {
                let what = format!("{slot:?} is not the name of a slot");
                Err(Error::new(ErrorKind::InvalidInput, what)
                    .with_hint("those have lower case letters, digits and underscores"))
            }
            _ => Ok(()),
        }
    }
}

/// The project's `main`, as it is recorded.
pub(crate) fn main_of(tx: &Tx<'_>, project: &ProjectRecord) -> Result<BranchRecord> {
    let mut branches = tx.list::<BranchRecord>(&project.id.to_string())?.into_iter();
    branches.find(|branch| branch.made_from == Origin::Initdb).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("project {} has no main", project.name))
    })
}

/// An error for what nobody can do with a `main` that follows.
pub(crate) fn refuse(project: &ProjectRecord, branch: &BranchRecord, what: &str) -> Result<()> {
    if branch.follows.is_none() {
        return Ok(());
    }
    let (project, shown) = (&project.name, branch.shown());
    Err(Error::new(ErrorKind::Conflict, format!("{project}/{shown} follows its source: it cannot be {what}"))
        .with_hint(format!(
            "velo project refresh {project} brings it anew; velo project follow {project} --stop makes it a server \
             of its own"
        )))
}

/// Makes `main` a server of its own, with all that has come. Returns its record as it is then.
pub(crate) async fn stop(home: &Home, project: &ProjectRecord, op: &Op) -> Result<BranchRecord> {
    let owned = project.clone();
    let main = home.state().read(move |tx| main_of(tx, &owned)).await?;
    let shown = format!("the branch {}/{}", project.name, main.shown());
    let _lock = home.lock(main.id, Mode::Exclusive, &shown, &op.cancel).await?;
    op.cancel.check()?;
    reset::finish_locked(home, project, main.id).await?;
    let switch = Switch { home, project, op };
    switch.nothing_is_lost(main.id).await?;
    let main = begin_to_stop(home, project, &main, shown).await?;
    let stopped = async {
        switch.down(&main).await?;
        let main = commit_stop(home, &main).await?;
        let run_dir = RunDir::of(home, main.id);
        run_dir.forget_pass_file()?;
        run_dir.forget_old_pass_file()?;
        if main.wanted {
            switch.up(&main).await?;
        }
        Ok(main)
    };
    match stopped.await {
        Ok(main) => switch.done(main.id, main.wanted).await,
        Err(error) => {
            let id = main.id;
            let now = home.state().read(move |tx| tx.get::<BranchRecord>(id)).await?;
            match now {
                // In a box: the callers' futures would be nested too deep for the compiler.
                Some(now) => Err(after(error, Box::pin(switch.as_recorded(&now)).await)),
                None => Err(error),
            }
        }
    }
}

/// Records that its server is switched. Whoever finds that half-way starts it as a standby again.
async fn begin_to_stop(
    home: &Home,
    project: &ProjectRecord,
    main: &BranchRecord,
    shown: String,
) -> Result<BranchRecord> {
    let (id, lease, name) = (main.id, home.lease()?, project.name.clone());
    let work = move |tx: &Tx<'_>| {
        tx.update(id, |branch: &mut BranchRecord| {
            if branch.phase != Phase::Ready {
                return Err(being_changed(&shown));
            }
            if branch.follows.is_none() {
                return Err(Error::new(ErrorKind::Conflict, format!("{shown} follows nothing"))
                    .with_hint(format!("velo project follow {name} begins it")));
            }
            branch.lease = Some(lease);
            Ok(())
        })
    };
    home.state().write_durable("record that main is to follow no more", work).await
}

/// From now on every start of it makes it a server of its own.
async fn commit_stop(home: &Home, main: &BranchRecord) -> Result<BranchRecord> {
    let id = main.id;
    let work = move |tx: &Tx<'_>| {
        tx.update(id, |branch: &mut BranchRecord| {
            let follow = branch.follows.take();
            if let (Some(cut), Some(follow)) = (&mut branch.cut, follow) {
                cut.in_recovery = true;
                cut.superuser = Some(follow.superuser);
            }
            branch.settled = false;
            Ok(())
        })
    };
    home.state().write_durable("record that main follows no more", work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_name_of_one() {
        let named = |name: &str| Wish { slot: Some(name.to_owned()) }.check();
        assert!(named("velo_1").is_ok() && Wish::default().check().is_ok());
        for bad in ["", "Velo", "a-b", "a'b", &"x".repeat(64)] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }
}
