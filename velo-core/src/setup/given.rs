//! What setups gave a user on a dataset, written down before they do: a property of the dataset, for
//! ZFS keeps permissions there too, so that both go with it, wherever its pool is.
//!
//! What the user had before is not in it, and so is never taken back.

use std::collections::BTreeSet;

use super::{LIMIT, run};
use crate::command::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::zfs::permitted::Allowed;

/// What the property's name begins with; the user's number follows.
const PROPERTY: &str = "velo:given-";

/// The property. Permissions are by number in ZFS, and a name may have what a property's may not.
fn property(uid: u32) -> String {
    format!("{PROPERTY}{uid}")
}

/// The arguments of `zfs` that write it down, with the user's name at that time; nothing is no property.
pub(super) fn record_call(dataset: &str, uid: u32, name: &str, given: &Allowed) -> Vec<String> {
    let (property, value) = (property(uid), write(name, given));
    match *given == Allowed::default() {
        true => vec!["inherit".into(), property, dataset.into()],
        false => vec!["set".into(), format!("{property}={value}"), dataset.into()],
    }
}

pub(super) async fn record(dataset: &str, uid: u32, name: &str, given: &Allowed) -> Result<()> {
    run("zfs", record_call(dataset, uid, name, given)).await
}

/// What is written down on the dataset itself: above it there may be another of the name.
pub(super) async fn recorded(dataset: &str, uid: u32) -> Result<Allowed> {
    Ok(read(value(dataset, uid).await?.trim()))
}

async fn value(dataset: &str, uid: u32) -> Result<String> {
    let property = property(uid);
    look(dataset, &["get", "-H", "-s", "local", "-o", "value", &property, dataset]).await
}

/// Whether exactly this is written down, in the user's name.
pub(super) async fn is_recorded(
    dataset: &str,
    uid: u32,
    name: &str,
    given: &Allowed,
) -> Result<bool> {
    let said = value(dataset, uid).await?;
    Ok(match *given == Allowed::default() {
        true => said.trim().is_empty(),
        false => said.trim() == write(name, given),
    })
}

/// The numbers that the user `name` had when something was written down for it: an account may be deleted
/// since, and made anew with another one.
pub(super) async fn numbers_of(dataset: &str, name: &str) -> Result<Vec<u32>> {
    let args = ["get", "-H", "-s", "local", "-o", "property,value", "all", dataset];
    Ok(numbers(&look(dataset, &args).await?, name).collect())
}

fn numbers(properties: &str, name: &str) -> impl Iterator<Item = u32> {
    properties.lines().filter_map(move |line| {
        let (property, value) = line.split_once('\t')?;
        let uid = property.strip_prefix(PROPERTY)?.parse().ok()?;
        (value.splitn(3, ':').nth(2) == Some(name)).then_some(uid)
    })
}

/// What `zfs` says of a dataset; nothing of one that is not there.
async fn look(dataset: &str, args: &[&str]) -> Result<String> {
    let output = Program::new("zfs").args(args).output(LIMIT).await?;
    let said = output.stderr.trim();
    match said.contains("does not exist") {
        _ if output.success => Ok(output.stdout),
        true => Ok(String::new()),
        false => Err(Error::new(ErrorKind::Io, format!("cannot look at {dataset}: {said}"))),
    }
}

/// The permissions on the dataset, those below it, and whose they are.
fn write(name: &str, given: &Allowed) -> String {
    let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
    format!("{}:{}:{name}", list(&given.here), list(&given.below))
}

fn read(value: &str) -> Allowed {
    // Programs are to get it: nothing but names.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(plain);
    let set = |list: &str| list.split(',').filter(is_name).map(str::to_owned).collect();
    let mut parts = value.splitn(3, ':');
    match (parts.next(), parts.next()) {
        (Some(here), Some(below)) => Allowed { here: set(here), below: set(below) },
        _ => Allowed::default(),
    }
}

/// What is in either.
pub(super) fn both(one: &Allowed, other: &Allowed) -> Allowed {
    Allowed { here: &one.here | &other.here, below: &one.below | &other.below }
}

/// What is in each of them.
pub(super) fn common(one: &Allowed, other: &Allowed) -> Allowed {
    Allowed { here: &one.here & &other.here, below: &one.below & &other.below }
}

/// What is in the one alone.
pub(super) fn without(one: &Allowed, other: &Allowed) -> Allowed {
    Allowed { here: &one.here - &other.here, below: &one.below - &other.below }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> BTreeSet<String> {
        list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for (here, below) in [("create,mount", "atime,special_small_blocks"), ("", "x"), ("x", "")]
        {
            let given = Allowed { here: set(here), below: set(below) };
            assert_eq!(read(&write("ann", &given)), given);
        }
        for odd in ["", ":", "create", "-r:a b,$(x),@set,"] {
            assert_eq!(read(odd), Allowed::default(), "{odd:?}");
        }
        let given = Allowed { here: set("create"), below: set("atime,mount") };
        let call = record_call("tank/velo", 1000, "ann", &given);
        assert_eq!(call, ["set", "velo:given-1000=create:atime,mount:ann", "tank/velo"]);
        let properties = "compression\tlz4\nvelo:given-1000\tcreate:mount:ann\nvelo:given-\tx:y:ann\n\
                          velo:given-x\tx:y:ann\nvelo:home\t/x\nvelo:given-7\t::ann\n\
                          velo:given-8\tcreate:mount:bob\nvelo:given-9\tcreate:mount\n";
        assert_eq!(numbers(properties, "ann").collect::<Vec<_>>(), [1000, 7]);
        let none = record_call("tank/velo", 1000, "ann", &Allowed::default());
        assert_eq!(none, ["inherit", "velo:given-1000", "tank/velo"]);
    }
}
