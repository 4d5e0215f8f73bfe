//! Which machine it was.

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The value behind `key` in a file like `/proc/cpuinfo`.
fn value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Processor, cores, memory, kernel.
#[must_use]
pub fn describe() -> String {
    let cpu = value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into());
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let memory = value(&read("/proc/meminfo"), "MemTotal")
        .and_then(|kb| kb.split_whitespace().next()?.parse::<u64>().ok())
        .map_or_else(|| "?".into(), |kb| format!("{:.0} GB", kb as f64 / f64::from(1 << 20)));
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpu}, {cores} cores, {memory} of memory, Linux {}", kernel.trim())
}

/// How many processes wanted to run in the last minute, on average: what else the machine did.
#[must_use]
pub fn load() -> String {
    read("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned()
}

/// The priority of this process and those that it starts: lower is before others.
#[must_use]
pub fn niceness() -> String {
    rustix::process::getpriority_process(None).map_or_else(|_| "?".into(), |n| n.to_string())
}

/// What is mounted where `path` is.
pub struct Mount {
    /// On what it lies.
    pub device: String,
    /// Which file system.
    pub kind: String,
    /// With commas between.
    pub options: String,
}

/// What `path` is on, if it is there.
#[must_use]
pub fn mount(path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    let mounts = read("/proc/self/mounts");
    let on = mounts.lines().filter_map(|line| {
        let mut parts = line.split(' ');
        let (device, at) = (parts.next()?, parts.next()?);
        let (kind, options) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let mount = Mount { device: device.to_owned(), kind, options };
        path.starts_with(at).then_some((at.len(), mount))
    });
    // The last of those that lie over each other is the one that is seen.
    on.max_by_key(|(length, _)| *length).map(|(_, mount)| mount)
}

/// The commit of this checkout, and whether it was changed since.
#[must_use]
pub fn commit() -> String {
    let args = ["-c", "safe.directory=*", "-C", env!("CARGO_MANIFEST_DIR"), "describe"];
    let git = std::process::Command::new("git")
        .args(args)
        .args(["--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output();
    match git {
        Ok(git) if git.status.success() => String::from_utf8_lossy(&git.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The file system and its options that `path` is on.
#[must_use]
pub fn file_system(path: &Path) -> String {
    let Some(Mount { device, kind, options }) = mount(path) else { return "unknown".into() };
    let device = match kind.as_str() {
        "tmpfs" => "in memory",
        _ if device.contains("loop") => "on a loop device",
        _ => "on a disk",
    };
    // Some options name folders.
    let options: Vec<&str> = options.split(',').filter(|o| !o.contains('/')).collect();
    format!("{kind} {device} ({})", options.join(","))
}

/// Today, in UTC.
#[must_use]
pub fn today() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    // Days to a date, by H. Hinnant's algorithm.
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let doe = days.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let month = (5 * doy + 2) / 153;
    let day = doy - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
