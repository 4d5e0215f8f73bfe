//! The file of `ALTER SYSTEM` in a copy, which is read last.

use std::path::Path;

use crate::error::{Error, Result};
use crate::postgres::data_file;

pub(super) const NAME: &str = "postgresql.auto.conf";

/// What leads a standby to its primary or its archive, with passwords in it, or says where a recovery ends.
/// `pg_basebackup -R` writes the first of them here.
const OF_RECOVERY: [&str; 15] = [
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "promote_trigger_file",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
];

/// Whether a setting is such a one.
pub(super) fn is_of_recovery(name: &str) -> bool {
    OF_RECOVERY.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// What is in it; nothing where it is not there.
pub(super) fn read(data: &Path) -> Result<Vec<u8>> {
    read_file(&data.join(NAME))
}

/// The same of another file of settings.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    match data_file::read(path, data_file::SETTINGS) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

/// The text without what is of a standby's or a recovery's, else byte for byte; and the names of what was there.
pub(super) fn without_recovery(text: &[u8]) -> (Vec<u8>, Vec<&'static str>) {
    let (mut kept, mut gone) = (Vec::with_capacity(text.len()), Vec::new());
    // A value never has more than one line.
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match OF_RECOVERY.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(name_in(line))) {
            Some(name) if !gone.contains(name) => gone.push(*name),
            Some(_) => {}
            None => kept.extend_from_slice(line),
        }
    }
    (kept, gone)
}

/// Whether more settings are read from elsewhere.
pub(super) fn includes(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 3] = [b"include", b"include_dir", b"include_if_exists"];
    text.split(|byte| *byte == b'\n')
        .any(|line| WORDS.iter().any(|word| word.eq_ignore_ascii_case(name_in(line))))
}

/// The name of the setting in a line; nothing in a comment.
fn name_in(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_start();
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(*byte, b'_' | b'.');
    let end = line.iter().position(|byte| !is_of_name(byte)).unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

/// Adds a line.
pub(super) fn add(text: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.replace('\'', "''");
    text.extend_from_slice(format!("\n{name} = '{value}'\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_had_goes_and_all_else_stays_as_it_is() {
        let text = b"# Do not edit\r\nwork_mem = '7MB'\nprimary_conninfo = 'user=ann password=s3cret'\n\
            PRIMARY_SLOT_NAME='a'\n  restore_command 'cp x'\nsearch_path = '\xff'\n# primary_conninfo = 'x'\n\
            primary_conninfo_of.mine = 'x'\nprimary_conninfo = 'twice'\narchive_mode = 'on'";
        let (kept, gone) = without_recovery(text);
        let wanted =
            b"# Do not edit\r\nwork_mem = '7MB'\nsearch_path = '\xff'\n# primary_conninfo = 'x'\n\
            primary_conninfo_of.mine = 'x'\narchive_mode = 'on'";
        assert_eq!(kept, wanted);
        assert_eq!(gone, ["primary_conninfo", "primary_slot_name", "restore_command"]);
        let plain = b"a = 'b'\n\n".to_vec();
        assert_eq!(without_recovery(&plain), (plain.clone(), vec![]));
        assert!(
            includes(b"a = 1\n include_dir 'conf.d'\n")
                && !includes(b"# include 'x'\nincluded = 1")
        );
    }

    #[test]
    fn a_value_is_quoted() {
        let mut text = b"a = 'b'".to_vec();
        add(&mut text, "shared_preload_libraries", "\"it's\", b");
        assert_eq!(text, b"a = 'b'\nshared_preload_libraries = '\"it''s\", b'\n");
    }
}
