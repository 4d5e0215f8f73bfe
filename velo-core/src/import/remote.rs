//! What the source says of itself. It is asked through `psql`, because that takes all that libpq does: TLS,
//! several hosts, GSSAPI, ….

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::bring::Import;
use crate::error::{Error, ErrorKind, Result};

/// What is known of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Facts {
    version: u32,
    pub(super) in_recovery: bool,
    pub(super) block_size: String,
    pub(super) wal_block_size: String,
    pub(super) superuser: bool,
    pub(super) replication: bool,
    /// The superuser that `initdb` made.
    pub(super) bootstrap: String,
    pub(super) roles: Vec<String>,
    pub(super) superusers: Vec<String>,
    pub(super) databases: Vec<Database>,
    pub(super) tablespaces: Vec<String>,
    /// What its configuration files set, as far as the role may see it.
    pub(super) settings: Vec<(String, String)>,
    /// The file that has them, and the folder of its data; nothing where the role may not see that.
    #[serde(default)]
    pub(super) config_file: Option<String>,
    #[serde(default)]
    pub(super) data_directory: Option<String>,
    /// Which version the collations of its C library have now, where one of them tells.
    #[serde(default)]
    pub(super) libc: Option<String>,
    /// Whether that library is musl, which has no versions, and sorts by code point in all of them.
    #[serde(default)]
    pub(super) musl: bool,
    /// The standbys that its commits wait for.
    #[serde(default)]
    pub(super) synchronous: String,
    /// What its server loads at its start, wherever it was told; nothing where the role may not see that.
    #[serde(default)]
    pub(super) preload: Option<Libraries>,
}

/// A list of libraries.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Libraries {
    pub(super) list: String,
    pub(super) on_command_line: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Whether the role may connect to it.
    pub(super) open: bool,
    pub(super) template: bool,
    /// `c`, `i` or `b`; nothing before 15, where it is `c`.
    pub(super) provider: Option<String>,
    pub(super) collate: String,
    pub(super) ctype: String,
    pub(super) version: Option<String>,
}

/// Names are qualified, for the role may have any `search_path`.
const QUESTION: &str = "SELECT json_build_object( \
 'version', current_setting('server_version_num')::int, \
 'in_recovery', pg_is_in_recovery(), \
 'block_size', current_setting('block_size'), \
 'wal_block_size', current_setting('wal_block_size'), \
 'superuser', r.rolsuper, \
 'replication', r.rolsuper OR r.rolreplication, \
 'bootstrap', (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10), \
 'roles', (SELECT json_agg(rolname) FROM pg_catalog.pg_roles), \
 'superusers', (SELECT json_agg(rolname) FROM pg_catalog.pg_roles WHERE rolsuper), \
 'databases', (SELECT json_agg(json_build_object( \
    'name', datname, \
    'bytes', CASE WHEN has_database_privilege(d.oid, 'CONNECT') \
                    OR pg_has_role('pg_read_all_stats', 'MEMBER') \
                  THEN pg_database_size(d.oid) ELSE 0 END, \
    'open', datallowconn AND has_database_privilege(d.oid, 'CONNECT'), \
    'template', datistemplate, \
    'provider', to_jsonb(d)->>'datlocprovider', \
    'collate', datcollate, \
    'ctype', datctype, \
    'version', to_jsonb(d)->>'datcollversion') ORDER BY datname) \
    FROM pg_catalog.pg_database d WHERE datconnlimit <> -2), \
 'tablespaces', (SELECT coalesce(json_agg(spcname), '[]') FROM pg_catalog.pg_tablespace \
    WHERE oid NOT IN (1663, 1664) AND pg_tablespace_location(oid) NOT LIKE 'pg_tblspc/%'), \
 'libc', (SELECT max(pg_collation_actual_version(oid)) FROM pg_catalog.pg_collation \
    WHERE collprovider = 'c' AND collcollate !~* '^(C|POSIX)($|[.])'), \
 'musl', version() LIKE '%-musl%', \
 'synchronous', current_setting('synchronous_standby_names'), \
 'config_file', (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'config_file'), \
 'data_directory', (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'), \
 'preload', (SELECT json_build_object('list', setting, 'on_command_line', source = 'command line') \
    FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'), \
 'settings', (SELECT coalesce(json_agg(json_build_array(name, current_setting(name))), '[]') \
    FROM pg_catalog.pg_settings WHERE source = 'configuration file' AND name !~ '[.]')) \
 FROM pg_catalog.pg_roles r WHERE rolname = current_user";

impl Facts {
    pub(super) fn major(&self) -> u32 {
        self.version / 10_000
    }

    pub(super) fn bytes(&self) -> u64 {
        self.databases.iter().map(|database| database.bytes).sum()
    }

    /// Whether its server reads another `postgresql.conf` than the one in its data, if there is one; nothing where the
    /// role may not see that.
    pub(super) fn conf_is_elsewhere(&self) -> Option<bool> {
        let (file, data) = (self.config_file.as_ref()?, self.data_directory.as_ref()?);
        Some(Path::new(file) != Path::new(data).join("postgresql.conf"))
    }

    /// The libraries that its server loads at its start, as far as the role may see them.
    pub(super) fn preloaded(&self) -> &str {
        self.preload.as_ref().map_or("", |libraries| libraries.list.as_str())
    }
}

impl Import<'_> {
    /// What the source is.
    pub(super) async fn facts(&self) -> Result<Facts> {
        let database = self.server.as_ref().and_then(|server| server.get("dbname"));
        let first = match database {
            Some(name) => name.to_owned(),
            None => "postgres".to_owned(),
        };
        self.ask(&first, QUESTION).await
    }

    /// Asks the source for one value in JSON.
    pub(super) async fn ask<T: DeserializeOwned>(&self, database: &str, sql: &str) -> Result<T> {
        let text = self.psql(database, "", sql).await?;
        serde_json::from_str(text.trim()).map_err(|e| {
            Error::new(ErrorKind::Postgres, format!("the source gave no answer that fits: {e}"))
                .with_source(e)
        })
    }

    /// What the source answers; `more` are further words of the connection.
    pub(super) async fn psql(&self, database: &str, more: &str, sql: &str) -> Result<String> {
        let Some(server) = &self.server else {
            return Err(Error::new(ErrorKind::Internal, "there is no server to ask"));
        };
        let dbname = format!("--dbname={} {more}", server.to(database));
        let args = ["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.extend([dbname, "-c".to_owned(), sql.to_owned()]);
        let mut spec = self.tool_for_source("psql", args);
        // Else it answers in the database's own, and names with other letters than ASCII's would be lost.
        spec.env.push(("PGCLIENTENCODING", "UTF8".to_owned()));
        Ok(self.run(spec).await?.stdout)
    }
}
