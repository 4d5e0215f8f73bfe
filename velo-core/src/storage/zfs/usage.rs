//! How much space objects take, and how much there is.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::faults::Fault;
use super::properties::Numbers;
use super::{Zfs, explain, missing, program};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::files::free;
use crate::storage::{Object, Usage};

/// Below this it is looked at how full the pool is before a clone.
const LITTLE: u64 = 1 << 30;

/// How old what is counted may be. ZFS itself counts that often, as it writes to disk.
const FRESH: Duration = Duration::from_secs(5);

/// When all that had been written was last counted.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<Option<Instant>>);

impl Counted {
    /// Whether it has to be counted again; who asks does it. Once is enough for the rows of a list.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let due = last.is_none_or(|last| now.duration_since(last) > FRESH);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Somebody wants what was written just now on disk, and so counted.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
}

impl Zfs {
    /// What an object takes.
    pub(super) async fn measure(&self, object: Object) -> Result<Usage> {
        if self.counted.is_due(Instant::now())
            && let Err(fault) = program::ask("zpool", &["sync", self.parent.pool()]).await
        {
            tracing::debug!(?fault, "what is counted may be some seconds old");
        }
        let (name, own) = match object {
            Object::Volume(id) => (self.parent.volume(id), "usedbydataset"),
            Object::Snapshot(id) => {
                let volume = self.volume_of(id).await?.ok_or_else(|| missing(object))?;
                (self.parent.snapshot(volume, id), "used")
            }
        };
        let parent = self.parent.as_str();
        let mut names = vec![name.as_str(), parent];
        let origin = match object {
            Object::Volume(id) => {
                let Some(facts) = self.facts(&name).await? else {
                    // Of a pool that is not there nothing is known.
                    let error = explain::machine(&self.parent).await;
                    return Err(error.unwrap_or_else(|| missing(object)));
                };
                facts.origin.filter(|origin| self.is_implicit_of(origin, id))
            }
            Object::Snapshot(_) => None,
        };
        names.extend(origin.as_deref());
        let fields = ["-o", "name,property,value", "referenced,used,usedbydataset,available"];
        let text = match program::get(&[&fields[..], &names].concat()).await {
            Ok(text) => text,
            Err(Fault::Missing) if explain::machine(&self.parent).await.is_none() => {
                return Err(missing(object));
            }
            Err(fault) => {
                let doing = format!("measure {object}");
                return Err(self.explain(fault, &doing, &name, &self.root).await);
            }
        };
        let numbers = Numbers::of(&text);
        let number = |name: &str, property| numbers.get(name, property).unwrap_or(0);
        Ok(Usage {
            referenced: number(&name, "referenced"),
            exclusive: number(&name, own)
                + origin.as_deref().map_or(0, |origin| number(origin, "used")),
            available: numbers
                .get(&name, "available")
                .unwrap_or_else(|| number(parent, "available")),
        })
    }

    /// What is free for new volumes.
    async fn pool_available(&self) -> Result<u64> {
        let parent = self.parent.as_str();
        match program::get(&["-o", "name,property,value", "available", parent]).await {
            Ok(text) => Ok(Numbers::of(&text).get(parent, "available").unwrap_or(0)),
            Err(Fault::Missing) => Err(self.no_parent().await),
            Err(fault) => Err(self.explain(fault, "look at free space", parent, &self.root).await),
        }
    }

    /// What a clone of `source` could take.
    pub(super) async fn room(&self, source: Object) -> Result<u64> {
        // Where the source is mounted no program has to be asked. A quota of its own may make it
        // little there.
        let seen = match source {
            Object::Volume(id) => free(&self.folder(id)).unwrap_or(0),
            Object::Snapshot(_) => 0,
        };
        if seen > LITTLE {
            return Ok(seen);
        }
        let available = self.pool_available().await?;
        if available > LITTLE {
            return Ok(available);
        }
        match explain::pool(self.parent.pool()).await {
            Ok(pool) if pool.capacity >= explain::FULL => Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the ZFS pool {} is {} % full, with {} MB left for data: a clone could not \
                     grow, and its parent neither",
                    self.parent.pool(),
                    pool.capacity,
                    available >> 20
                ),
            )
            .with_hint(format!("free some: zfs list -o space -t all {}", self.parent.pool()))),
            _ => Ok(available),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_counted_once() {
        let counted = Counted::default();
        let begun = Instant::now();
        assert!(counted.is_due(begun));
        assert!(!counted.is_due(begun + FRESH));
        assert!(counted.is_due(begun + FRESH + Duration::from_millis(1)));
        counted.forget();
        assert!(counted.is_due(begun + FRESH + Duration::from_millis(2)));
    }
}
