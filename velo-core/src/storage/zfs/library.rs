//! The way through libzfs_core, for the calls that every branch makes: no program is started.
//!
//! Not all of libzetta is sound (its `create` drops the mount point, its lists stop at names that it
//! does not expect), and it has no clone. So of it only what is named here is used; a clone goes
//! through its system crate, and everything else through the program.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::OnceLock;

use async_trait::async_trait;
use libnv::nvpair::{NvList, Value};
use libzetta::zfs::{DestroyTiming, Error as ZettaError, ZfsEngine, ZfsLzc};

use super::Way;
use super::faults::{Fault, of_errno};
use super::program::Program;
use super::properties::Properties;

/// libzfs_core.
#[derive(Debug)]
pub(super) struct Library;

/// The library's handle: one for the process, which it counts anyway.
fn engine() -> Result<&'static ZfsLzc, Fault> {
    static ENGINE: OnceLock<ZfsLzc> = OnceLock::new();
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine = ZfsLzc::new().map_err(|_| Fault::NoModule)?;
    Ok(ENGINE.get_or_init(|| engine))
}

/// Runs a call, which blocks.
async fn call<T: Send + 'static>(
    work: impl FnOnce(&ZfsLzc) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(move || work(engine()?)).await {
        Ok(done) => done,
        Err(e) => Err(Fault::Other(format!("a call of libzfs_core panicked: {e}"))),
    }
}

fn fault(error: ZettaError) -> Fault {
    match error {
        ZettaError::Io(e) => of_errno(e.raw_os_error().unwrap_or(0)),
        // One of each snapshot; here it is always one.
        ZettaError::MultiOpError(errors) => {
            let number = errors.values().find_map(|value| match value {
                Value::Int32(number) => Some(*number),
                _ => None,
            });
            of_errno(number.unwrap_or(0))
        }
        other => Fault::Other(format!("libzfs_core: {other:?}")),
    }
}

/// Properties as the kernel takes them; `None` if one is not known here.
fn encoded(properties: &Properties) -> Option<NvList> {
    let mut list = NvList::default();
    for (name, value) in properties {
        let number = match (name.as_str(), value.as_str()) {
            ("canmount", "noauto") => Some(2),
            ("snapdir", "hidden") => Some(0),
            ("atime", "off") => Some(0),
            ("atime", "on") | ("compression", "on") => Some(1),
            ("compression", "off") => Some(2),
            ("compression", "lz4") => Some(15),
            ("refquota", bytes) => Some(bytes.parse().ok()?),
            ("recordsize", size) => Some(bytes(size)?),
            ("mountpoint", _) => None,
            (name, _) if name.contains(':') => None,
            _ => return None,
        };
        let name = name.as_str();
        match number {
            Some(number) => list.insert_u64(name, number).ok()?,
            None => list.insert_string(name, value.as_str()).ok()?,
        }
    }
    Some(list)
}

/// `8k`, `128K`, `1M` or `8192`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => lower.strip_suffix('m').map_or((lower.as_str(), 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[async_trait]
impl Way for Library {
    async fn exists(&self, name: &str) -> Result<bool, Fault> {
        let name = PathBuf::from(name);
        call(move |engine| engine.exists(name).map_err(fault)).await
    }

    async fn snapshot(&self, snapshot: &str, properties: &Properties) -> Result<(), Fault> {
        let name = PathBuf::from(snapshot);
        let properties = properties.iter().cloned().collect();
        call(move |engine| {
            match engine.snapshot(std::slice::from_ref(&name), Some(properties)).map_err(fault) {
                // Of two snapshots in one transaction group the kernel makes the second in the next,
                // and keeps the note of its first attempt among the errors.
                Err(Fault::Unwell) if engine.exists(name).map_err(fault)? => Ok(()),
                other => other,
            }
        })
        .await
    }

    async fn clone(
        &self,
        snapshot: &str,
        dataset: &str,
        properties: &Properties,
    ) -> Result<(), Fault> {
        let name =
            |name: &str| CString::new(name).map_err(|_| Fault::Other("a name with NUL".to_owned()));
        if encoded(properties).is_none() {
            return Program.clone(snapshot, dataset, properties).await;
        }
        let (from, to, properties) = (name(snapshot)?, name(dataset)?, properties.clone());
        call(move |_| {
            // Made here: it is no thing to send to another thread.
            let Some(list) = encoded(&properties) else {
                return Err(Fault::Other("properties that libzfs_core does not take".to_owned()));
            };
            // SAFETY: the library is initialised (`call` holds its engine), both names end with NUL
            // and the list is a valid one; all three outlive the call, which keeps none of them.
            match unsafe { zfs_core_sys::lzc_clone(to.as_ptr(), from.as_ptr(), list.as_ptr()) } {
                0 => Ok(()),
                number => Err(of_errno(number)),
            }
        })
        .await
    }

    async fn destroy(&self, dataset: &str) -> Result<(), Fault> {
        // The program tells apart what the kernel's number does not: snapshots, children, a file.
        Program.destroy(dataset).await
    }

    async fn destroy_snapshot(&self, snapshot: &str) -> Result<(), Fault> {
        let name = PathBuf::from(snapshot);
        call(move |engine| {
            // To the library one that is not there is one that it has destroyed.
            if !engine.exists(name.clone()).map_err(fault)? {
                return Err(Fault::Missing);
            }
            engine.destroy_snapshots(&[name], DestroyTiming::RightNow).map_err(|error| match fault(
                error,
            ) {
                Fault::Exists => Fault::HasClones,
                fault => fault,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_here_is_left_to_the_program() {
        let list = |name: &str, value: &str| encoded(&vec![(name.to_owned(), value.to_owned())]);
        for (name, value) in [
            ("recordsize", "8k"),
            ("compression", "lz4"),
            ("velo:home", "/h"),
            ("mountpoint", "/m"),
        ] {
            assert!(list(name, value).is_some(), "{name}");
        }
        for (name, value) in [("compression", "zstd-3"), ("logbias", "latency")] {
            assert!(list(name, value).is_none(), "{name}");
        }
        assert_eq!(bytes("128K"), Some(128 << 10));
        assert_eq!(bytes("1M"), Some(1 << 20));
        assert_eq!(bytes("x"), None);
    }
}
