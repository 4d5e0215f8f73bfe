//! What the machine offers.

use std::ops::RangeInclusive;
use std::path::Path;

use super::Finding;
use crate::config::Config;
use crate::error::Error;
use crate::os_user::{OsUser, check_passable};
use crate::postgres::binaries::{self, Search};
use crate::room;
use crate::storage::{self, StorageConfig, StorageKind};

pub(super) fn user(user: Option<&OsUser>) -> Finding {
    match user {
        None => Finding::ok("user", "servers run as you"),
        Some(user) if user.name == "nobody" => Finding::warn(
            "user",
            "there is no user postgres: servers run as nobody, whom other programs may be too",
            "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin postgres",
        ),
        Some(user) => Finding::ok("user", format!("servers run as {}", user.name)),
    }
}

pub(super) async fn postgres(config: &Config, user: Option<&OsUser>) -> Finding {
    let search = Search::from(config);
    match binaries::find(&search, user).await {
        Ok(first) => {
            let others: Vec<String> = search
                .list()
                .await
                .iter()
                .filter(|i| i.bin_dir != first.bin_dir)
                .map(|i| format!("{} in {}", i.version, i.bin_dir.display()))
                .collect();
            let mut what =
                format!("{} in {} ({})", first.version, first.bin_dir.display(), first.source);
            if !others.is_empty() {
                what.push_str(&format!("; also {}", others.join(", ")));
            }
            Finding::ok("postgres", what)
        }
        Err(error) => Finding::error("postgres", &error),
    }
}

/// A home that is there, and was opened.
pub(super) fn home(config: &Config) -> Finding {
    let home = &config.home;
    match room::enough_in(home, config.keep_free) {
        Ok(()) => Finding::ok("home", format!("{} is writable", home.display())),
        Err(error) => Finding::error("home", &error),
    }
}

/// A home that is to be made below the folder `above`.
pub(super) fn no_home(config: &Config, above: &Path, user: Option<&OsUser>) -> Finding {
    let home = &config.home;
    let room = || room::enough_in(above, config.keep_free);
    let writable = || match rustix::fs::access(above, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Ok(()),
        Err(e) => Err(Error::io(format!("make the home {}", home.display()), e)
            .with_hint("set VELO_HOME to a folder that you can write to")),
    };
    let passable = || user.map_or(Ok(()), |user| check_passable(above, user, "VELO_HOME"));
    match writable().and_then(|()| passable()).and_then(|()| room()) {
        Ok(()) => Finding::ok(
            "home",
            format!("{} is not made yet: the first project makes it", home.display()),
        ),
        Err(error) => Finding::error("home", &error),
    }
}

/// What works in `folder`, where the home is or will be.
pub(super) async fn storage(config: &Config, folder: &Path) -> Finding {
    let at = StorageConfig { root: folder.to_path_buf(), ..StorageConfig::from(config) };
    let works = match storage::look(at).await {
        Ok(works) => works,
        Err(error) => return Finding::error("storage", &error),
    };
    let names: Vec<&str> = works.iter().map(|kind| kind.as_str()).collect();
    let home = config.home.display();
    if config.storage != StorageKind::Auto && !works.contains(&config.storage) {
        return Finding::fail(
            "storage",
            format!("{} is set, and does not work in {home}", config.storage),
            format!("unset VELO_STORAGE, or set it to one of: {}", names.join(", ")),
        );
    }
    match works.first() {
        None => Finding::fail(
            "storage",
            format!("no storage works in {home}"),
            "set VELO_HOME to a folder on a local file system",
        ),
        Some(StorageKind::Copy) => Finding::warn(
            "storage",
            format!("{home} cannot clone: every branch is a whole copy of its parent"),
            clones(&config.home),
        ),
        Some(best) => Finding::ok(
            "storage",
            format!("{best} is the best that works in {home} ({})", names.join(", ")),
        ),
    }
}

/// The line that gives real clones: a file system in a file, mounted where a new home can be. A
/// normal user needs root for it once.
fn clones(home: &Path) -> String {
    // It stands in /etc/fstab, and a shell reads it.
    let plain = home.to_str().is_some_and(|text| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.+@:".contains(&b))
    });
    let home = if plain { home } else { Path::new("/var/lib/velo") };
    let target = home.with_extension("clones");
    let target = target.display();
    let (sudo, owner) = match OsUser::by_uid(rustix::process::geteuid().as_raw()) {
        Ok(Some(user)) if user.uid != 0 => ("sudo ", format!(" --owner {}", user.name)),
        _ => ("", String::new()),
    };
    format!("{sudo}velo setup --loop 20G --at {target}{owner} && export VELO_HOME={target}")
}

pub(super) fn ports(config: &Config) -> Finding {
    let range = config.ports();
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let kernel = text.ok().as_deref().and_then(parse_range);
    let (first, last) = (range.start(), range.end());
    if let Some(kernel) = kernel
        && range.start() <= kernel.end()
        && kernel.start() <= range.end()
    {
        let (low, high) = (kernel.start(), kernel.end());
        return Finding::warn(
            "ports",
            format!(
                "{first}-{last} overlaps {low}-{high}, from which the kernel gives ports to \
                 outgoing connections: a stopped branch may find its port taken"
            ),
            "set VELO_PORTS to a range below it, like 21000-29999",
        );
    }
    // A few are tried, spread over the range: a range that somebody else uses shows.
    let step = usize::from(((last - first) / 16).max(1));
    let taken: Vec<u16> = range.clone().step_by(step).filter(|port| is_held(*port)).collect();
    if taken.len() > 4 {
        return Finding::warn(
            "ports",
            format!("much of {first}-{last} is in use"),
            "set VELO_PORTS to a range that is free",
        );
    }
    Finding::ok("ports", format!("{first}-{last}"))
}

/// Whether somebody listens. Asked by connecting: to listen oneself could get in the way of a
/// server that starts at this moment.
pub(super) fn is_held(port: u16) -> bool {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100)).is_ok()
}

/// `32768\t60999`.
fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut parts = text.split_whitespace();
    Some(parts.next()?.parse().ok()?..=parts.next()?.parse().ok()?)
}

pub(super) fn inotify() -> Finding {
    const ENOUGH: u64 = 64;
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let limit = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match limit {
        Some(limit) if limit < ENOUGH => Finding::warn(
            "inotify",
            format!("{limit} inotify instances for each user are few for many branches at once"),
            "sysctl fs.inotify.max_user_instances=512",
        ),
        Some(limit) => Finding::ok("inotify", format!("{limit} instances for each user")),
        None => Finding::ok("inotify", "not limited"),
    }
}

/// What systemd does to a user's servers when the user logs out. A system user keeps its objects.
pub(super) fn logind() -> Vec<Finding> {
    let uid = rustix::process::geteuid().as_raw();
    if uid < 1000 || !Path::new("/run/systemd/system").is_dir() {
        return Vec::new();
    }
    let mut settings = String::new();
    let mut add = |path: &Path| {
        if let Ok(text) = std::fs::read_to_string(path) {
            settings.push_str(&text);
            settings.push('\n');
        }
    };
    add(Path::new("/etc/systemd/logind.conf"));
    let mut extras: Vec<_> = std::fs::read_dir("/etc/systemd/logind.conf.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    extras.sort();
    extras.iter().for_each(|path| add(path));
    let lingers = std::fs::read_dir("/var/lib/systemd/linger").is_ok_and(|mut users| {
        let own = OsUser::by_uid(uid).ok().flatten().map(|user| user.name);
        users.any(|entry| entry.is_ok_and(|e| own.as_deref() == e.file_name().to_str()))
    });
    if lingers {
        return vec![Finding::ok("logind", "your servers outlive your sessions")];
    }
    let mut found = Vec::new();
    // On unless it is switched off.
    if last_value(&settings, "RemoveIPC").is_none_or(is_yes) {
        found.push(Finding::warn(
            "logind",
            "systemd removes your shared memory when you log out: running branches may crash",
            "loginctl enable-linger",
        ));
    }
    if last_value(&settings, "KillUserProcesses").is_some_and(is_yes) {
        found.push(Finding::warn(
            "logind",
            "systemd ends your processes when you log out: branches are stopped uncleanly",
            "loginctl enable-linger",
        ));
    }
    found
}

fn is_yes(value: &str) -> bool {
    ["1", "yes", "true", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// The value that counts of a key in files of the form `Key=value`.
fn last_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_gives_clones_is_one_for_a_shell() {
        assert!(clones(Path::new("/srv/velo")).ends_with("VELO_HOME=/srv/velo.clones"));
        for odd in ["/srv/my velo", "/srv/o'velo", "/srv/$HOME", "/srv/a\\b"] {
            assert!(clones(Path::new(odd)).ends_with("VELO_HOME=/var/lib/velo.clones"), "{odd}");
        }
    }

    #[test]
    fn the_kernels_range_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_range("nonsense"), None);
    }

    #[test]
    fn the_last_value_counts_and_comments_do_not() {
        let text = "[Login]\n#RemoveIPC=yes\nRemoveIPC=yes\nRemoveIPC = no\n";
        assert_eq!(last_value(text, "RemoveIPC"), Some("no"));
        assert_eq!(last_value(text, "KillUserProcesses"), None);
    }
}
