//! What a container is made of.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};

use super::connect::Engine;
use super::passwd::Seen;
use crate::error::{Error, Result};
use crate::postgres::Image;
use crate::runtime::{InstanceSpec, Lifeline};
use crate::storage::Location;

pub(super) type Body = ContainerCreateBody;

/// The label with the home that a container belongs to.
pub(super) const HOME: &str = "velo.home";
/// The label that tells a home from others that have, had or will have its path: its folder's inode and birth.
pub(super) const FOLDER: &str = "velo.folder";
/// The label with the volume that a server runs on.
pub(super) const VOLUME: &str = "velo.volume";
/// The label with the lease under which a server's container was asked for.
pub(super) const LEASE: &str = "velo.lease";
/// The label with the branch's id.
const ID: &str = "velo.id";
/// The label of a one-off container, which says what runs in it.
pub(super) const TOOL_LABEL: &str = "velo.tool";

/// Shared memory that parallel queries may take, unless told. The engine's own 64 MB make them fail;
/// what is not used takes no memory.
const SHM: u64 = 1 << 30;

/// Runs the rest of the arguments, with its output appended to the first. It becomes the server: the
/// container's signals are PostgreSQL's.
const DETACHED: &str = r#"exec "$@" >>"$0" 2>&1 </dev/null"#;

/// The same, and when nobody holds the container's standard input any more the server is told to end
/// at once: again and again, for it may not listen to signals yet. The shell would give a background
/// job no standard input of its own accord.
const TIED: &str = r#"exec 3<&0
(
    while read -r _; do :; done
    while kill -QUIT 1; do sleep 1; done
) <&3 3<&- >/dev/null 2>&1 &
exec "$@" >>"$0" 2>&1 </dev/null 3<&-"#;

/// Runs the arguments, and says on standard error how they ended. When nobody holds the container's
/// standard input any more it ends, and with its first process all others.
const TOOL: &str = r#"trap 'exit 143' TERM
exec 3<&0
(
    while read -r _; do :; done
    kill -TERM 1
) <&3 3<&- >/dev/null 2>&1 &
if [ -x "$1" ]; then
    "$@" <"${VELO_INPUT:-/dev/null}" 3<&- &
    wait $!
    code=$?
else
    echo "the image has no $1" >&2
    code=$0
fi
printf '\nvelo: exit status: %s\n' "$code" >&2"#;

/// The exit status that stands for a program that is not there. None of PostgreSQL's has it.
pub(super) const NO_PROGRAM: u8 = 127;

/// The folder of a home's files that are for containers.
pub(super) fn files(home: &Path) -> PathBuf {
    home.join("docker")
}

/// The name of the container of a server on a volume.
pub(super) fn name(location: &Location) -> String {
    let last = location.host_path().file_name().unwrap_or_default();
    format!("velo-{}", last.to_string_lossy().to_lowercase())
}

/// Makes the log such that the server may append to it.
pub(super) fn prepare_log(log: &Path, uid: u32, gid: u32) -> Result<()> {
    let file = crate::runtime::log::open(log)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(uid), Some(gid))
        .map_err(|e| Error::io(format!("change the owner of {}", log.display()), e))
}

/// A file or folder of this machine, seen under the same path.
pub(super) fn bind(path: &Path, read_only: bool) -> Mount {
    bind_at(path, path, read_only)
}

/// The folder of a volume, and nothing that is mounted in it: ZFS mounts snapshots there by itself, and one that a
/// container has in its namespace is busy for as long as that lives.
fn bind_volume(path: &Path) -> Mount {
    let alone = MountBindOptions { non_recursive: Some(true), ..Default::default() };
    Mount { bind_options: Some(alone), ..bind(path, false) }
}

fn bind_at(source: &Path, target: impl AsRef<Path>, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.as_ref().display().to_string()),
        read_only: Some(read_only),
        ..Default::default()
    }
}

/// The mounts by which its processes know who is who.
pub(super) fn seen(seen: &Seen) -> Vec<Mount> {
    vec![bind_at(&seen.passwd, "/etc/passwd", true), bind_at(&seen.group, "/etc/group", true)]
}

/// A server's container.
pub(super) fn server(
    engine: &Engine,
    home: &Path,
    spec: &InstanceSpec,
    image: &Image,
    user: (u32, u32),
    files: &Seen,
) -> Body {
    let data = spec.instance.location.host_path();
    let mut mounts = seen(files);
    // Parents before what is mounted in them.
    mounts.extend(spec.reads.iter().map(|path| bind(path, true)));
    mounts.extend(spec.writes.iter().map(|path| bind(path, false)));
    mounts.extend([bind_volume(data), bind(&spec.socket_dir, false), bind(&spec.log, false)]);

    let tied = spec.lifeline == Lifeline::Process;
    let script = if tied { TIED } else { DETACHED };
    let log = spec.log.display().to_string();
    let mut command = vec![
        spec.postgres.program("postgres").display().to_string(),
        "-D".to_owned(),
        data.display().to_string(),
    ];
    for (name, value) in &spec.settings {
        command.extend(["-c".to_owned(), format!("{name}={value}")]);
    }

    let port = format!("{}/tcp", spec.port);
    let published =
        PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(spec.port.to_string()) };
    let mut labels = labels(home);
    labels.insert(VOLUME.to_owned(), data.display().to_string());
    labels.insert(ID.to_owned(), spec.instance.id.to_string());
    labels.insert(TOOL_LABEL.to_owned(), String::new());
    labels.extend(spec.labels.iter().map(|(key, value)| (format!("velo.{key}"), value.clone())));

    let mut body = base(engine, &image.id, user, mounts);
    body.labels = Some(labels);
    body.entrypoint = Some(["/bin/sh", "-c", script, &log].map(str::to_owned).to_vec());
    body.cmd = Some(command);
    body.open_stdin = Some(tied);
    body.stdin_once = Some(tied);
    let host = body.host_config.get_or_insert_default();
    host.auto_remove = Some(tied);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    host.memory = spec.limits.memory.map(signed);
    // Without swap beside it: a server that swaps is as good as none.
    host.memory_swap = host.memory;
    host.nano_cpus = spec.limits.cpus.map(|thousandths| i64::from(thousandths) * 1_000_000);
    host.shm_size = Some(signed(spec.limits.shm.unwrap_or(SHM)));
    if spec.tcp {
        body.exposed_ports = Some(vec![port.clone()]);
        host.port_bindings = Some(HashMap::from([(port, Some(vec![published]))]));
    } else {
        host.network_mode = Some("none".into());
    }
    if !tied && spec.tcp && !engine.podman {
        host.restart_policy = Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        });
    }
    body
}

/// The container of a program that runs to its end, or to that of whoever holds its standard input.
pub(super) fn tool(
    engine: &Engine,
    home: &Path,
    image: &str,
    user: (u32, u32),
    command: Vec<String>,
    mounts: Vec<Mount>,
) -> Body {
    let mut body = base(engine, image, user, mounts);
    let mut labels = labels(home);
    labels.insert(TOOL_LABEL.to_owned(), command.first().cloned().unwrap_or_default());
    // An image that was made of a server has that one's.
    labels.extend([VOLUME, LEASE, ID].map(|name| (name.to_owned(), String::new())));
    body.labels = Some(labels);
    let code = NO_PROGRAM.to_string();
    body.entrypoint = Some(["/bin/sh", "-c", TOOL, &code].map(str::to_owned).to_vec());
    body.cmd = Some(command);
    body.attach_stdout = Some(true);
    body.attach_stderr = Some(true);
    body.open_stdin = Some(true);
    body.stdin_once = Some(true);
    let host = body.host_config.get_or_insert_default();
    host.auto_remove = Some(true);
    host.network_mode = Some("none".into());
    body
}

fn base(engine: &Engine, image: &str, (uid, gid): (u32, u32), mounts: Vec<Mount>) -> Body {
    Body {
        image: Some(image.to_owned()),
        user: Some(format!("{uid}:{gid}")),
        working_dir: Some("/".into()),
        env: Some(vec!["LC_ALL=C".into()]),
        // The image's own would ask a server that is not there.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        stop_signal: Some("SIGINT".into()),
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            // Its output goes to a file of Velo's.
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            cap_drop: Some(vec!["ALL".into()]),
            // Where SELinux is at work it would refuse files that are not labelled for this container,
            // and to label them anew would change what is the machine's.
            security_opt: Some(vec!["no-new-privileges".into(), "label=disable".into()]),
            userns_mode: Some(engine.userns.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn labels(home: &Path) -> HashMap<String, String> {
    HashMap::from([
        (HOME.to_owned(), home.display().to_string()),
        (FOLDER.to_owned(), folder(home).unwrap_or_default()),
    ])
}

/// What tells the folder of a home from any other of its path. Nothing where that cannot be looked at.
pub(super) fn folder(home: &Path) -> Option<String> {
    let found = home.metadata().ok()?;
    let born = found.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(format!("{}-{}", found.ino(), born.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_container_has_its_volumes_name() {
        let location = Location::HostPath("/x/volumes/01JABC".into());
        assert_eq!(name(&location), "velo-01jabc");
    }
}
