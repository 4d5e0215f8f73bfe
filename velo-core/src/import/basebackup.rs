//! A physical copy of a running server.

mod logs;

use std::path::Path;

use super::auto_conf;
use super::bring::Import;
use super::progress::{Stage, during};
use super::remote::Facts;
use crate::error::Result;
use crate::postgres::settings;
use crate::storage::{FileOp, Object};

pub(super) use logs::{Logs, names};

const CONF: &str = "postgresql.conf";

/// Settings of the source's machine, whose values mean nothing here.
const ELSEWHERE: [&str; 8] = [
    "log_directory",
    "log_filename",
    "krb_server_keyfile",
    "dynamic_library_path",
    "extension_control_path",
    "unix_socket_group",
    "stats_temp_directory",
    "include_dir",
];

impl Import<'_> {
    /// Copies all that the source has, and makes it a server's of its own.
    pub(super) async fn basebackup(&mut self, facts: &Facts) -> Result<()> {
        self.copy(facts, None).await?;
        self.settle(facts.in_recovery.then_some("recovery.signal"), Some(facts)).await
    }

    /// Copies all files, and the WAL that comes meanwhile.
    pub(super) async fn copy(&mut self, facts: &Facts, slot: Option<&str>) -> Result<()> {
        // Its password is gone once all is here.
        self.logs = self.look_for_logs().await?;
        let Some(server) = &self.server else { return Ok(()) };
        let mut args =
            vec![format!("--dbname={}", server.to("postgres")), "--pgdata={}".to_owned()];
        // The WAL comes over a second connection, under a temporary slot that ends with it, or one that is
        // there and keeps what comes afterwards.
        let more = [
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            "--no-manifest",
            "--no-password",
        ];
        args.extend(more.map(str::to_owned));
        args.push("--label=velo".to_owned());
        args.extend(slot.map(|slot| format!("--slot={slot}")));
        let spec = self.tool_for_source("pg_basebackup", args);
        let folder = self.location.host_path().to_path_buf();
        let total = Some(facts.bytes()).filter(|bytes| *bytes > 0);
        let run = self.run(spec);
        let copied = during(self.watch, Stage::Copy, "the data", &folder, total, run);
        self.op.steps.run("copy", copied).await?;
        crate::disk::remove("remove a secret", &self.run_dir.path().join("secret"))
    }

    /// Makes copied files a server's of its own: nothing of a standby's or of another server's settings is left,
    /// and one of a standby recovers to where it is consistent, or goes on as one: that is what `signal` says.
    pub(super) async fn settle(
        &mut self,
        signal: Option<&str>,
        facts: Option<&Facts>,
    ) -> Result<()> {
        let data = self.location.host_path().to_path_buf();
        let gone = [
            "standby.signal",
            "recovery.signal",
            "postmaster.pid",
            "postmaster.opts",
            "recovery.done",
            "current_logfiles",
        ];
        let mut ops: Vec<FileOp> =
            gone.iter().map(|path| FileOp::Remove { path: (*path).to_owned() }).collect();
        ops.extend(
            signal.map(|signal| FileOp::Write { path: signal.to_owned(), content: Vec::new() }),
        );
        let is_there = data.join(CONF).exists();
        let is_elsewhere = facts.map(Facts::conf_is_elsewhere);
        if !is_there || is_elsewhere == Some(Some(true)) {
            // As Debian has it, and containers that are given one. What `initdb` wrote may lie in the data still.
            let content = facts.map(conf).unwrap_or_default().into_bytes();
            ops.push(FileOp::Write { path: CONF.to_owned(), content });
            self.note(match facts {
                Some(_) => "postgresql.conf was made of what the source's server shows".to_owned(),
                None => {
                    "there was no postgresql.conf: its settings are PostgreSQL's own".to_owned()
                }
            });
        } else if is_elsewhere == Some(None) {
            self.note(
                "postgresql.conf is the one in the source's data, whichever its server reads: its role may not see \
                 that (GRANT pg_read_all_settings)"
                    .to_owned(),
            );
        }
        for name in ["pg_hba.conf", "pg_ident.conf"] {
            // Velo's own are outside; a server that somebody starts by hand needs some.
            if !data.join(name).exists() {
                ops.push(FileOp::Write {
                    path: name.into(),
                    content: b"local all all peer\n".to_vec(),
                });
            }
        }
        let own = auto_conf::read(&data)?;
        let (mut text, gone) = auto_conf::without_recovery(&own);
        if !gone.is_empty() {
            let gone = gone.join(", ");
            self.note(format!("what a standby had in {} is gone: {gone}", auto_conf::NAME));
        }
        if is_there && is_elsewhere != Some(Some(true)) {
            ops.extend(self.main_conf(&data)?);
        }
        if let Some(facts) = facts {
            self.take_libraries(facts, &mut text);
        }
        if text != own {
            ops.push(FileOp::Write { path: auto_conf::NAME.into(), content: text });
        }
        self.storage.edit(Object::Volume(self.volume), ops).await?;
        self.remove_logs().await?;
        self.scale().await
    }

    /// Takes what a standby had out of `postgresql.conf`, where there is any: its password may stand in it.
    fn main_conf(&mut self, data: &Path) -> Result<Option<FileOp>> {
        let path = data.join(CONF);
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Ok(None);
        }
        let own = auto_conf::read_file(&path)?;
        if auto_conf::includes(&own) {
            self.note(format!("{CONF} includes other files, which come as they are"));
        }
        let (content, gone) = auto_conf::without_recovery(&own);
        if gone.is_empty() {
            return Ok(None);
        }
        self.note(format!("what a standby had in {CONF} is gone: {}", gone.join(", ")));
        Ok(Some(FileOp::Write { path: CONF.to_owned(), content }))
    }
}

/// A `postgresql.conf` with what the source's server shows.
fn conf(facts: &Facts) -> String {
    let wanted = facts.settings.iter().filter(|(name, _)| {
        !settings::is_forced(name)
            && !auto_conf::is_of_recovery(name)
            && !ELSEWHERE.contains(&name.as_str())
            && !name.starts_with("ssl")
            && !name.starts_with("syslog")
    });
    let line =
        |(name, value): &(String, String)| format!("{name} = '{}'\n", value.replace('\'', "''"));
    let head = "# What the source's server had in its configuration files.\n".to_owned();
    head + &wanted.map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_another_machine_stay_there() {
        let json = r#"{"version":150004,"in_recovery":false,"block_size":"8192","wal_block_size":"8192",
            "superuser":true,"replication":true,"bootstrap":"postgres","roles":[],"superusers":[],"databases":[],"tablespaces":[],
            "settings":[["max_connections","500"],["hba_file","/etc/x"],["ssl_cert_file","/etc/y"],
                        ["recovery_min_apply_delay","1h"],["log_line_prefix","it's %m"],["archive_command","cp"]]}"#;
        let mut facts: Facts = serde_json::from_str(json).unwrap();
        assert_eq!(facts.major(), 15);
        let text = conf(&facts);
        assert!(text.contains("max_connections = '500'\nlog_line_prefix = 'it''s %m'\n"), "{text}");
        assert!(!text.contains("/etc/") && !text.contains("archive"), "{text}");
        assert!(!text.contains("delay"), "{text}");

        assert_eq!(facts.conf_is_elsewhere(), None);
        facts.data_directory = Some("/srv/pg/".to_owned());
        for (file, is_elsewhere) in [
            ("/srv/pg/postgresql.conf", false),
            ("/etc/postgresql/postgresql.conf", true),
            ("/srv/pg/mine.conf", true),
        ] {
            facts.config_file = Some(file.to_owned());
            assert_eq!(facts.conf_is_elsewhere(), Some(is_elsewhere), "{file}");
        }
    }
}
