//! The settings that a branch's server is started with, on its command line, so that the parent's
//! `postgresql.conf` and `ALTER SYSTEM` survive in the data as they are. What the command line
//! holds, `ALTER SYSTEM` does not change.

use std::path::Path;

use crate::postgres::control::ControlFile;

/// A server to write settings for.
pub(crate) struct Server<'a> {
    pub(crate) major: u32,
    pub(crate) data: &'a Path,
    pub(crate) hba: &'a Path,
    pub(crate) ident: &'a Path,
    pub(crate) socket_dir: &'a Path,
    pub(crate) port: u16,
    /// The addresses for TCP; `None` is no TCP at all.
    pub(crate) listen: Option<&'a str>,
    pub(crate) ephemeral: bool,
    pub(crate) control: &'a ControlFile,
    /// Whether it will recover as a clone of a standby.
    pub(crate) recovery: bool,
    /// Whether the data has tablespaces that are folders in it.
    pub(crate) in_place_tablespaces: bool,
}

/// What keeps a branch from acting on its parent or on the world: name, value, first major that
/// knows it (an unknown name on the command line is fatal), and why.
#[rustfmt::skip]
const FORCED: &[(&str, &str, u32, &str)] = &[
    ("archive_mode", "off", 14, "it would archive into the parent's archive"),
    ("archive_command", "", 14, "the same"),
    ("archive_library", "", 15, "the same"),
    ("restore_command", "", 14, "it would read, and could write, elsewhere"),
    ("archive_cleanup_command", "", 14, "the same"),
    ("recovery_end_command", "", 14, "the same"),
    ("primary_conninfo", "", 14, "it would follow the parent's primary"),
    ("primary_slot_name", "", 14, "the same"),
    ("synchronous_standby_names", "", 14, "its first commit would wait for ever"),
    ("sync_replication_slots", "off", 17, "it would connect to the parent's primary"),
    ("synchronized_standby_slots", "", 17, "its logical decoding would wait for ever"),
    ("max_logical_replication_workers", "0", 14, "its subscriptions would pull from their publishers"),
    ("recovery_target", "", 14, "only one target may be set, and this data has reached its own"),
    ("recovery_target_lsn", "", 14, "the same"),
    ("recovery_target_name", "", 14, "the same"),
    ("recovery_target_time", "", 14, "the same"),
    ("recovery_target_xid", "", 14, "the same"),
    ("recovery_target_action", "promote", 14, "a branch is for writing"),
    ("recovery_target_timeline", "current", 14, "no other timeline belongs to this data"),
    ("logging_collector", "off", 14, "log_directory may be the parent's"),
    ("log_destination", "stderr", 14, "the system's log is shared"),
    ("cluster_name", "", 14, "it would bear the parent's name in process lists"),
    ("unix_socket_group", "", 14, "the server's user may not be in the parent's group"),
    ("bonjour", "off", 14, "it would announce itself in the network"),
    ("ssl", "off", 14, "it listens on this machine alone; the parent's key may be out of reach"),
    ("event_source", "PostgreSQL", 14, "the parent's name in the system's event log"),
];

/// Names that [`of`] gives values of its own for each server.
const PLACE: [&str; 10] = [
    "data_directory",
    "config_file",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "stats_temp_directory",
    "unix_socket_directories",
    "unix_socket_permissions",
];

/// What an ephemeral branch gives up for speed and memory: name, value, first major, and why.
/// None of it changes what SQL sees.
#[rustfmt::skip]
const EPHEMERAL: &[(&str, &str, u32, &str)] = &[
    ("fsync", "off", 14, "nobody wants it after a crash of the machine"),
    ("synchronous_commit", "off", 14, "the same"),
    ("full_page_writes", "off", 14, "the same; half of the WAL"),
    ("wal_init_zero", "off", 14, "a new segment takes no space before it is written"),
    ("wal_recycle", "off", 14, "the same"),
    ("shared_buffers", "16MB", 14, "idle branches are many; the kernel caches their files"),
    ("wal_buffers", "64kB", 14, "all of it is written to at the start, and without fsync a write costs little"),
    ("huge_pages", "off", 14, "they could not be shared out among many"),
    ("io_method", "sync", 18, "no worker processes: less memory, and a faster start"),
    ("io_max_concurrency", "1", 18, "with io_method=sync nothing uses more, and each takes shared memory"),
    ("autovacuum_worker_slots", "3", 18, "each takes shared memory; three work unless told otherwise"),
    ("max_wal_size", "256MB", 14, "a branch that nobody keeps need not hold much WAL"),
    ("min_wal_size", "32MB", 14, "the same"),
];

/// What a persistent branch is given: full durability as its data says, and a recovery that does
/// not open every file.
#[rustfmt::skip]
const PERSISTENT: &[(&str, &str, u32, &str)] = &[
    ("recovery_init_sync_method", "syncfs", 14, "one call instead of opening every file"),
];

/// Libraries whose workers begin by themselves to act as the parent: they run its jobs, or pull from those whom it
/// subscribes to, under its slots' names.
const ACTING: [&str; 5] = ["pg_cron", "pglogical", "spock", "bdr", "pgactive"];

/// Without it nobody reads its tables, so that it is loaded; its daemon is told to leave the parent's workers alone.
const CITUS: &str = "citus";

/// What that daemon does there by itself, and why it is off. One of a version that does not know a setting says so in
/// its log, and starts.
#[rustfmt::skip]
const OF_CITUS: &[(&str, &str, &str)] = &[
    ("citus.recover_2pc_interval", "-1", "it would commit or roll back the parent's distributed transactions"),
    ("citus.defer_shard_delete_interval", "-1", "it would drop the shards that the parent has marked for that"),
    ("citus.background_task_queue_interval", "-1", "it would go on with the parent's tasks, and move shards"),
    ("citus.distributed_deadlock_detection_factor", "-1", "it would ask all workers every two seconds"),
];

/// The forced settings of a major.
pub(crate) fn forced(major: u32) -> Vec<(&'static str, String)> {
    rows(FORCED, major).collect()
}

fn rows(
    table: &'static [(&str, &str, u32, &str)],
    major: u32,
) -> impl Iterator<Item = (&'static str, String)> {
    table
        .iter()
        .filter(move |(_, _, since, _)| major >= *since)
        .map(|(name, value, _, _)| (*name, (*value).to_owned()))
}

/// Whether `name` is Velo's own, so that a caller may not set it.
pub(crate) fn is_forced(name: &str) -> bool {
    let same = |own: &str| own.eq_ignore_ascii_case(name);
    FORCED.iter().any(|(own, ..)| same(own)) || PLACE.iter().any(|own| same(own))
}

/// All settings of a server.
pub(crate) fn of(server: &Server<'_>) -> Vec<(String, String)> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut settings = forced(server.major);
    let table = if server.ephemeral { EPHEMERAL } else { PERSISTENT };
    settings.extend(rows(table, server.major));
    settings.extend([
        // A parent's own setting would start the clone's server on the parent's folder.
        ("data_directory", path(server.data)),
        // The parent's would be overwritten, and an empty one is said to be wrong at each start.
        ("external_pid_file", path(&server.socket_dir.join("postgres.pid"))),
        ("hba_file", path(server.hba)),
        ("ident_file", path(server.ident)),
        ("listen_addresses", server.listen.unwrap_or_default().to_owned()),
        ("port", server.port.to_string()),
        ("unix_socket_directories", quoted(&path(server.socket_dir))),
        // The folder of the socket keeps others out.
        ("unix_socket_permissions", "0700".to_owned()),
    ]);
    if server.major < 15 {
        // Debian's names a folder outside. 15 has no such setting any more.
        settings.push(("stats_temp_directory", "pg_stat_tmp".to_owned()));
    }
    let prepared = server.control.max_prepared_xacts;
    if prepared > 0 {
        // With fewer, a server whose data holds a prepared transaction does not start.
        settings.push(("max_prepared_transactions", prepared.to_string()));
    }
    if server.in_place_tablespaces {
        // Else recovery from a backup's label refuses them.
        settings.push(("allow_in_place_tablespaces", "on".to_owned()));
    }
    if server.recovery {
        settings.push(("restore_command", "false".to_owned()));
        // Nobody is let in before it is consistent, and it may have fewer connections than the
        // primary it comes from.
        settings.push(("hot_standby", "off".to_owned()));
        // A standby's, which the data may have: nobody waits until its commits are that old.
        settings.push(("recovery_min_apply_delay", "0".to_owned()));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An element of a list setting.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Whether a configuration file may load a library that would act as the parent: it names one, or takes in another
/// file. Only then the server's own parser is asked.
pub(crate) fn may_load_acting(conf: &[u8]) -> bool {
    let is_named = |line: &[u8], name: &str| {
        line.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name.as_bytes()))
    };
    conf.split(|b| *b == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        !line.starts_with(b"#")
            && (line.to_ascii_lowercase().starts_with(b"include")
                || ACTING.iter().chain([&CITUS]).any(|name| is_named(line, name)))
    })
}

/// The name of a library, which is that of its extension, as a list of libraries has it.
pub(crate) fn short(library: &str) -> &str {
    let name = library.trim_matches('"').rsplit('/').next().unwrap_or(library);
    name.strip_suffix(".so").unwrap_or(name)
}

/// Whether a library would act as the parent.
pub(crate) fn acts(library: &str) -> bool {
    ACTING.iter().any(|name| short(library).eq_ignore_ascii_case(name))
}

/// A list of libraries without those.
pub(crate) fn without_acting(list: &str) -> String {
    let libraries = list.split(',').map(str::trim);
    libraries.filter(|library| !library.is_empty() && !acts(library)).collect::<Vec<_>>().join(",")
}

/// What a server is given that would load these libraries, so that none of them acts as the parent.
pub(crate) fn of_libraries(list: &str) -> Vec<(String, String)> {
    let list = without_acting(list);
    let is_citus = |library: &str| short(library.trim()).eq_ignore_ascii_case(CITUS);
    let off = if list.split(',').any(is_citus) { OF_CITUS } else { &[] };
    let off = off.iter().map(|(name, value, ..)| ((*name).to_owned(), (*value).to_owned()));
    [("shared_preload_libraries".to_owned(), list)].into_iter().chain(off).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_as_the_parent_is_found_and_left_out() {
        assert!(may_load_acting(b"a = 1\nshared_preload_libraries = 'x, pg_cron'\n"));
        assert!(may_load_acting(b"shared_preload_libraries = 'Spock'"));
        assert!(may_load_acting(b"  include_dir 'conf.d'\n"));
        assert!(!may_load_acting(b"#shared_preload_libraries = 'pg_cron'\n# include 'x'\n"));
        assert_eq!(without_acting("a, pg_cron,\"b\",$libdir/pg_cron, c.so"), "a,\"b\",c.so");
        assert_eq!(without_acting("pg_cron"), "");
        let list = "\"$libdir/pglogical\", /x/spock.so,bdr,pglogical_output,my_bdr";
        assert_eq!(without_acting(list), "pglogical_output,my_bdr");
    }

    #[test]
    fn citus_is_loaded_and_leaves_the_parents_workers_alone() {
        assert!(may_load_acting(b"shared_preload_libraries = 'citus'\n"));
        let given = of_libraries("$libdir/citus, pg_cron, a");
        assert_eq!(given[0], ("shared_preload_libraries".into(), "$libdir/citus,a".into()));
        let off = ("citus.recover_2pc_interval".to_owned(), "-1".to_owned());
        assert!(given.contains(&off) && given.len() == 1 + OF_CITUS.len(), "{given:?}");
        assert_eq!(of_libraries("citus_columnar, pglogical").len(), 1);
    }

    #[test]
    fn a_caller_may_not_set_what_is_forced() {
        assert!(is_forced("Port") && is_forced("archive_command") && is_forced("data_directory"));
        assert!(!is_forced("work_mem"));
    }
}
