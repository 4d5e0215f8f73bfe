//! How much memory there is for servers that are started ahead of time.

use std::path::{Component, Path, PathBuf};

/// What new processes could be given, in bytes, where the machine says so: what it has, and what the control groups that
/// this process is in, as that of a container, may still take.
pub(super) fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let groups = groups(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    groups.iter().filter_map(left).chain(machine(&read("/proc/meminfo"))).min()
}

/// What the whole machine has, of /proc/meminfo.
fn machine(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kilobytes << 10)
}

/// A control group, and what its files are called: of the second version of them, or of the first.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    /// What of that the kernel would give up first, as a line of `memory.stat`: files that were read.
    cache: &'static str,
}

/// The groups that a process is in, up to the root of those that are to be seen, of its /proc/PID/cgroup.
fn groups(mounted: &Path, text: &str) -> Vec<Group> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, [limit, used, cache]) = if controllers.is_empty() {
            (mounted.to_owned(), ["memory.max", "memory.current", "inactive_file"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
            (mounted.join("memory"), names)
        } else {
            continue;
        };
        // One that is outside of what this process sees has no name here, but the root has.
        let names = Path::new(path).components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let below = root.join(names.collect::<PathBuf>());
        let folders = below.ancestors().take_while(|folder| folder.starts_with(&root));
        all.extend(folders.map(|folder| Group { folder: folder.to_owned(), limit, used, cache }));
    }
    all
}

/// What a group may still take, if it has a limit.
fn left(group: &Group) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // Without a limit it is a word.
    let (limit, used) = (number(group.limit)?, number(group.used)?);
    let stat = read("memory.stat").unwrap_or_default();
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let cache =
        lines.find_map(|(name, bytes)| (name == group.cache).then(|| bytes.parse().ok())?);
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), format!("{text}\n")).unwrap();
        }
    }

    fn least(mounted: &Path, text: &str) -> Option<u64> {
        groups(mounted, text).iter().filter_map(left).min()
    }

    #[test]
    fn what_the_machine_has() {
        let text = "MemTotal:       16384 kB\nMemFree:          100 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(machine(text), Some(2 << 20));
        assert_eq!(machine("MemTotal:       16384 kB\n"), None);
        assert_eq!(machine(""), None);
    }

    #[test]
    fn the_narrowest_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let text = "0::/user/tests\n";
        assert_eq!(least(root, text), None, "none is there");
        write(&root.join("user/tests"), &[("memory.max", "max"), ("memory.current", "70")]);
        assert_eq!(least(root, text), None, "it has no limit");
        write(&root.join("user"), &[("memory.max", "1000"), ("memory.current", "300")]);
        assert_eq!(least(root, text), Some(700), "of the one that it is in");
        write(&root.join("user/tests"), &[("memory.max", "100"), ("memory.current", "70")]);
        assert_eq!(least(root, text), Some(30));
        // A container sees its own as the root.
        write(root, &[("memory.max", "90"), ("memory.current", "70")]);
        assert_eq!(least(root, text), Some(20));
        assert_eq!(least(root, "0::/\n"), Some(20));
        assert_eq!(least(root, "0::/../../other\n"), Some(20));
        assert_eq!(least(root, "0::/of/the/host\n"), Some(20));
        // More than it may, as after a limit was lowered.
        write(root, &[("memory.current", "91")]);
        assert_eq!(least(root, text), Some(0));
    }

    #[test]
    fn files_that_were_read_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let stat = "anon 20\ninactive_file 40\nactive_file 9";
        let files = [("memory.max", "100"), ("memory.current", "70"), ("memory.stat", stat)];
        write(dir.path(), &files);
        assert_eq!(least(dir.path(), "0::/\n"), Some(70));
    }

    #[test]
    fn groups_of_the_first_version() {
        let dir = tempfile::tempdir().unwrap();
        let text = "12:cpu,cpuacct:/a\n5:memory:/docker/x\n1:name=systemd:/b\n";
        let stat = "inactive_file 1\ntotal_inactive_file 10";
        let memory = dir.path().join("memory");
        let none =
            [("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "5")];
        write(&memory.join("docker"), &none);
        assert_eq!(least(dir.path(), text), Some(9_223_372_036_854_771_707), "as good as none");
        let files = [
            ("memory.limit_in_bytes", "500"),
            ("memory.usage_in_bytes", "400"),
            ("memory.stat", stat),
        ];
        write(&memory.join("docker/x"), &files);
        assert_eq!(least(dir.path(), text), Some(110));
        // Nothing is said of memory.
        assert_eq!(least(dir.path(), "12:cpu,cpuacct:/a\n\nnonsense\n"), None);
    }
}
