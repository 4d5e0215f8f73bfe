//! A copy of a running server as it is, which is to follow it.
//!
//! Nothing is changed in it, and no server is started on it here: the first one is the standby.

use serde::Deserialize;

use super::bring::{Import, conninfo};
use super::check;
use super::conninfo::Conninfo;
use super::source::{Method, Place, Recipe, Source};
use crate::cut::Cut;
use crate::engine::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::{Follow, Wish};
use crate::home::Home;
use crate::id::Id;
use crate::postgres::control;
use crate::record::{BranchRecord, ProjectRecord, now};
use crate::run_dir::RunDir;
use crate::runtime::RuntimeKind;
use crate::storage::Object;

/// What has come.
pub(crate) struct Standby {
    pub(crate) cut: Cut,
    pub(crate) follow: Follow,
    /// The lines of its password file.
    pub(crate) pass_file: String,
    pub(crate) recipe: Recipe,
}

/// What is asked of the source for a standby beside what every copy asks.
#[derive(Deserialize)]
struct Wanted {
    /// The slot that was named, where there is such a one.
    slot: Option<Slot>,
}

#[derive(Deserialize)]
struct Slot {
    in_use: bool,
    /// Whether it keeps WAL already.
    keeps: bool,
}

/// Copies the source into the volume, whose record exists and which is not made yet.
pub(crate) async fn bring_standby(
    home: &Home,
    project: &ProjectRecord,
    branch: &BranchRecord,
    volume: Id,
    source: &Source,
    wish: &Wish,
    op: &Op,
) -> Result<Standby> {
    let mut import = Import::new(home, project, branch, volume, source, false, op)?;
    let Place::Server(words) = import.recipe.place.clone() else {
        return Err(Error::new(ErrorKind::Internal, "only a server can be followed"));
    };
    let mut server = conninfo(source, &words)?;
    import.make_volume().await?;
    let known = RunDir::of(home, branch.id).pass_file();
    // Another source has nothing to do with the password of this one.
    if branch.follows.is_some() && !import.is_new && known.exists() {
        server = server.with_pass_file(&known);
    }
    let facts = import.look(server).await?;
    // Programs of an import share this machine's network; a server in a container has its own.
    let is_docker = project.runtime == RuntimeKind::Docker;
    if is_docker && import.server.as_ref().is_some_and(is_this_machine) {
        let what = "the source is named by an address that means the container itself in one";
        return Err(Error::new(ErrorKind::Unsupported, what).with_hint(format!(
            "bring it from an address of this machine that containers reach (velo project refresh {} --from …), or \
             make the project with --runtime process",
            project.name
        )));
    }
    let theirs = check::rights(&import, &facts).await?;
    import.use_major(facts.major()).await?;
    check::basebackup(&mut import, &facts).await?;
    // It stands in the access rules, which cannot quote all.
    if facts.bootstrap.contains(['"', '\'', '\\', '/', '\n']) {
        let what =
            format!("the source's superuser {:?} has a name that Velo cannot use", facts.bootstrap);
        return Err(Error::new(ErrorKind::Unsupported, what).with_hint("use velo project refresh"));
    }
    let slot = import.usable_slot(wish, theirs).await?;
    op.cancel.check()?;
    import.copy(&facts, slot).await?;
    import.settle(Some("standby.signal"), Some(&facts)).await?;
    op.cancel.check()?;
    op.steps.run("sync", import.storage.sync(Object::Volume(volume))).await?;
    import.run_dir.remove()?;
    let server = import.server.take().unwrap_or_default();
    let control = control::read(&import.location.host_path().join(control::FILE))?;
    let cut = Cut::of_copied(&control, project.libc);
    let follow = Follow {
        user: server.get("user").unwrap_or_default().to_owned(),
        conninfo: server.shown(),
        superuser: facts.bootstrap,
        slot: wish.slot.clone(),
        since: now(),
    };
    import.recipe.used = Some(Method::Basebackup);
    import.recipe.brought_at = Some(now());
    let pass_file = import.secret.unwrap_or_default();
    Ok(Standby { cut, follow, pass_file, recipe: import.recipe })
}

impl Import<'_> {
    /// An error where a standby would be in the source's way. The slot that the copy can be made under.
    async fn usable_slot<'w>(
        &self,
        wish: &'w Wish,
        theirs: Option<u64>,
    ) -> Result<Option<&'w str>> {
        wish.check()?;
        let name = wish.slot.as_deref().unwrap_or_default();
        let sql = format!(
            "SELECT json_build_object('slot', (SELECT json_build_object('in_use', active, 'keeps', \
                              restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost') \
                              FROM pg_catalog.pg_replication_slots \
                              WHERE slot_name = '{name}' AND slot_type = 'physical'))"
        );
        let database = self.server.as_ref().and_then(|server| server.get("dbname"));
        let wanted: Wanted = self.ask(database.unwrap_or("postgres"), &sql).await?;
        // One of another source's may have the same name.
        let ours = self.branch.cut.as_ref().map(|cut| cut.system_identifier);
        let is_own = theirs.is_some()
            && theirs == ours
            && self.branch.follows.as_ref().is_some_and(|follow| follow.slot == wish.slot);
        match (&wish.slot, wanted.slot) {
            (None, _) => Ok(None),
            // The main that is brought anew has it still, and it keeps what comes from here on. A copy under it would move
            // it: then the old main could not go on, should this one fail.
            (Some(_), Some(slot)) if is_own && (slot.in_use || slot.keeps) => Ok(None),
            (Some(slot), None) => {
                Err(Error::new(ErrorKind::NotFound, format!("the source has no physical slot {slot:?}"))
                    .with_hint(format!(
                        "make it there, SELECT pg_create_physical_replication_slot('{slot}'), and drop it there when \
                         nothing follows any more: it keeps WAL until then"
                    )))
            }
            (Some(slot), Some(Slot { in_use: false, .. })) => Ok(Some(slot.as_str())),
            (Some(slot), Some(_)) => {
                Err(Error::new(ErrorKind::Conflict, format!("the source's slot {slot:?} is in use"))
                    .with_hint("end following (velo project follow NAME --stop), and follow under one that nobody else uses"))
            }
        }
    }
}

/// Whether a server is on this machine, wherever its address is named. libpq goes by a host's address where it has one.
fn is_this_machine(server: &Conninfo) -> bool {
    let list = |key| server.get(key).unwrap_or_default().split(',').collect::<Vec<_>>();
    let (hosts, addresses) = (list("host"), list("hostaddr"));
    let is_own = |host: &&str| {
        host.eq_ignore_ascii_case("localhost") || *host == "::1" || host.starts_with("127.")
    };
    (0..hosts.len().max(addresses.len())).any(|at| {
        let address = addresses.get(at).filter(|address| !address.is_empty());
        address.or(hosts.get(at)).is_some_and(is_own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_takes_for_itself_is_seen() {
        let is_own = |words: &&str| is_this_machine(&Conninfo::parse(words).unwrap());
        for words in [
            "host=localhost",
            "host=127.0.0.1",
            "host=a,::1",
            "host=db.example hostaddr=127.0.0.1",
            "hostaddr=::1",
            "host=a,localhost hostaddr=10.0.0.1,",
        ] {
            assert!(is_own(&words), "{words}");
        }
        for words in [
            "host=db.example",
            "host=10.127.0.1",
            "host=/run/postgresql",
            "user=ann",
            "host=localhost hostaddr=10.0.0.1",
        ] {
            assert!(!is_own(&words), "{words}");
        }
    }
}
