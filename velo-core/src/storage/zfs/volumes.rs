//! Volumes: a clone and the snapshot it is made of, and the end of both.

use super::faults::Fault;
use super::names::Found;
use super::properties::{self, Numbers};
use super::{Zfs, already, explain, foreign, missing, mounts, program};
use crate::engine::blocking;
use crate::error::Result;
use crate::id::Id;
use crate::storage::files::Scrub;
use crate::storage::{CloneSpec, Label, Object};

impl Zfs {
    /// Makes the snapshot and the clone of it, and leaves out what the clone is not to hold.
    pub(super) async fn clone_volume(&self, spec: CloneSpec) -> Result<()> {
        let (origin, made) = self.origin(&spec).await?;
        if let Err(error) = self.make_clone(&origin, &spec).await {
            if !made {
                return Err(error);
            }
            let doing = format!("undo {}", Object::Volume(spec.target));
            return Err(match self.destroy_named(&origin, &doing).await {
                Ok(()) => error,
                Err(cleanup) => error.with_cleanup(cleanup),
            });
        }
        self.mount(spec.target).await?;
        let (files, source) = (self.files.clone(), spec.source);
        blocking(move || {
            let clone = files.open(Object::Volume(spec.target))?;
            let source = files.path(source);
            Scrub::new(&clone, &source, &spec).run(|_, _| Ok(()))
        })
        .await
    }

    /// The snapshot that a clone of `source` is to be made of, and whether it was made for it.
    async fn origin(&self, spec: &CloneSpec) -> Result<(String, bool)> {
        match spec.source {
            Object::Snapshot(id) => {
                let volume = self.volume_of(id).await?.ok_or_else(|| missing(spec.source))?;
                Ok((self.parent.snapshot(volume, id), false))
            }
            Object::Volume(source) => {
                mounts::check_inside(&self.folder(source))?;
                let snapshot = self.parent.implicit(source, spec.target);
                let label = spec.label.clone().map(|label| Label { role: "implicit", ..label });
                self.take(&snapshot, source, Object::Volume(spec.target), label.as_ref()).await?;
                Ok((snapshot, true))
            }
        }
    }

    /// Makes a snapshot of the volume `source`, from which `target` comes into being.
    pub(super) async fn take(
        &self,
        snapshot: &str,
        source: Id,
        target: Object,
        label: Option<&Label>,
    ) -> Result<()> {
        let marks = properties::marks(&self.home, label);
        let Err(fault) = self.way.snapshot(snapshot, &marks).await else {
            return Ok(());
        };
        let source = Object::Volume(source);
        Err(match fault {
            Fault::Exists => already(target),
            Fault::Missing if explain::machine(&self.parent).await.is_none() => missing(source),
            fault => {
                let doing = format!("make a snapshot of {source}");
                self.explain(fault, &doing, snapshot, &self.root).await
            }
        })
    }

    /// Step two of a clone: the dataset.
    async fn make_clone(&self, origin: &str, spec: &CloneSpec) -> Result<()> {
        let target = Object::Volume(spec.target);
        let (dataset, folder) = (self.parent.volume(spec.target), self.folder(spec.target));
        if let Some(quota) = spec.quota {
            self.check_quota(origin, target, quota).await?;
        }
        let properties = self.properties_at(&folder, spec.label.as_ref(), spec.quota);
        let Err(fault) = self.way.clone(origin, &dataset, &properties).await else {
            return Ok(());
        };
        Err(match fault {
            Fault::Exists => already(target),
            Fault::Missing if self.way.exists(self.parent.as_str()).await == Ok(false) => {
                self.no_parent().await
            }
            Fault::Missing => missing(spec.source),
            fault => {
                let doing = format!("make {target} as a clone of {}", spec.source);
                self.explain(fault, &doing, &dataset, &folder).await
            }
        })
    }

    /// ZFS takes a quota below what a clone begins with, and then nothing can be written to it.
    async fn check_quota(&self, origin: &str, target: Object, quota: u64) -> Result<()> {
        let doing = format!("hold {target} to {quota} bytes");
        let asked = program::get(&["-o", "name,property,value", "referenced", origin]).await;
        match asked {
            Ok(text) if Numbers::of(&text).get(origin, "referenced").unwrap_or(0) < quota => Ok(()),
            Ok(_) => Err(self.explain(Fault::QuotaTooSmall, &doing, origin, &self.root).await),
            Err(Fault::Missing) => Ok(()), // the clone says what is missing
            Err(fault) => Err(self.explain(fault, &doing, origin, &self.root).await),
        }
    }

    /// Removes a clone's leavings: the dataset, if it exists, and then the snapshot made for it.
    pub(super) async fn destroy(&self, id: Id) -> Result<()> {
        let (dataset, folder) = (self.parent.volume(id), self.folder(id));
        let doing = format!("destroy {}", Object::Volume(id));
        let implicit = match self.facts(&dataset).await? {
            None => self.orphaned(id).await?,
            Some(facts) => {
                if facts.home.as_deref() != Some(&self.home) {
                    return Err(foreign(&dataset, facts.home.as_deref()));
                }
                if let Err(fault) = mounts::unmount(&dataset, &folder).await? {
                    return Err(match fault {
                        Fault::Denied => {
                            mounts::not_allowed(self.parent.as_str(), &self.layout.folder)
                        }
                        fault => self.explain(fault, &doing, &dataset, &folder).await,
                    });
                }
                let destroy = || self.way.destroy(&dataset);
                match mounts::once_free(&folder, destroy).await {
                    Ok(()) | Err(Fault::Missing) => {}
                    Err(fault) => {
                        let error = self.explain(fault, &doing, &dataset, &folder).await;
                        // It stays, and so it is as it was.
                        return Err(match self.mount(id).await {
                            Ok(()) => error,
                            Err(cleanup) => error.with_cleanup(cleanup),
                        });
                    }
                }
                facts.origin.filter(|origin| self.is_implicit_of(origin, id)).into_iter().collect()
            }
        };
        for snapshot in implicit {
            self.destroy_named(&snapshot, &doing).await?;
        }
        mounts::remove_point(&folder).await
    }

    pub(super) fn is_implicit_of(&self, snapshot: &str, id: Id) -> bool {
        matches!(self.parent.parse(snapshot), Some(Found::Implicit { target, .. }) if target == id)
    }

    /// Snapshots that were made for a clone which then was not made, or is gone.
    async fn orphaned(&self, id: Id) -> Result<Vec<String>> {
        let found = self.own().await?;
        Ok(found
            .into_iter()
            .filter_map(|found| match found {
                Found::Implicit { source, target } if target == id => {
                    Some(self.parent.implicit(source, target))
                }
                _ => None,
            })
            .collect())
    }
}
