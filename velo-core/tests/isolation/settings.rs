//! Settings of the parent that name places and servers.

use crate::rig::{Parent, Sql, World, assert_same, data_of, installations};

#[tokio::test]
async fn nothing_is_archived_or_restored() {
    for (major, bin) in installations() {
        let world = World::new(&["archive", "library"]);
        let parent = Parent::new(major, &bin).await;
        let mark = |name: &str| format!("touch {} && false", world.at(name));
        let mut settings = format!(
            "archive_mode = always\narchive_timeout = 1\nrestore_command = '{}'\n\
             archive_cleanup_command = '{}'\nrecovery_end_command = '{}'\n",
            mark("restored"),
            mark("cleaned"),
            mark("ended")
        );
        // Only one of the two may be set.
        let commands = [
            format!("archive_command = 'cp %p {}/%f'\n", world.at("archive")),
            format!(
                "archive_library = 'basic_archive'\nbasic_archive.archive_directory = '{}'\n",
                world.at("library")
            ),
        ];
        for command in commands.iter().filter(|c| major >= 15 || !c.contains("library")) {
            settings.push_str(command);
            parent.configure(&settings).await;
            parent
                .each(async |branch, what| {
                    let sql = Sql::on(branch).await;
                    sql.run("CREATE TABLE t (n int); SELECT pg_switch_wal(); CHECKPOINT").await;
                    assert_eq!(sql.show("archive_mode").await, "off", "{what}");
                    let archiver =
                        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'";
                    assert_eq!(sql.one(archiver).await, "0", "{what}");
                    assert_eq!(sql.show("restore_command").await, "", "{what}");
                    // A crash recovery must not look into the archive either.
                    if !branch.is_ephemeral() {
                        sql.run("INSERT INTO t VALUES (1)").await;
                        branch.restart().await.unwrap();
                    }
                })
                .await;
            settings = settings.replace(command.as_str(), "");
        }
        let left: Vec<_> = world.files().into_keys().collect();
        assert_eq!(left, ["archive", "library"].map(std::path::PathBuf::from), "{major}");
    }
}

#[tokio::test]
async fn no_standby_is_waited_for() {
    for (major, bin) in installations() {
        let parent = Parent::new(major, &bin).await;
        let sql = Sql::on(&parent.main).await;
        sql.run("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"a standby\", b)'").await;
        parent.configure("synchronous_commit = remote_apply\n").await;
        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                sql.run("SET synchronous_commit = remote_apply; CREATE TABLE t (n int)").await;
                assert_eq!(sql.one("SELECT count(*) FROM t").await, "0", "{what}");
                // Also after the branch reads its files again.
                sql.run("SELECT pg_reload_conf()").await;
                let sql = Sql::on(branch).await;
                sql.run("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1)").await;
            })
            .await;
    }
}

#[tokio::test]
async fn a_branch_has_its_own_places() {
    for (major, bin) in installations() {
        let world = World::new(&["sockets", "log", "stats"]);
        std::fs::write(world.path("hba.conf"), "local all all trust\nhost all all all trust\n")
            .unwrap();
        std::fs::write(world.path("ident.conf"), "velo /.* all\n").unwrap();
        let before = world.files();
        let parent = Parent::new(major, &bin).await;
        let port = parent.main.connection().port;
        let mut settings = format!(
            "data_directory = '{data}'\nhba_file = '{hba}'\nident_file = '{ident}'\n\
             external_pid_file = '{pid}'\nunix_socket_directories = '{sockets}'\n\
             logging_collector = on\nlog_destination = 'stderr,csvlog,syslog'\n\
             log_directory = '{log}'\nlisten_addresses = '*'\nport = {port}\n\
             unix_socket_group = 'root'\nunix_socket_permissions = 0777\n\
             cluster_name = 'the parent'\nssl = on\nssl_cert_file = '{cert}'\n\
             ssl_key_file = '{key}'\nssl_ca_file = '{cert}'\n",
            data = parent.data.display(),
            hba = world.at("hba.conf"),
            ident = world.at("ident.conf"),
            pid = world.at("the.pid"),
            sockets = world.at("sockets"),
            log = world.at("log"),
            cert = world.at("missing.crt"),
            key = world.at("missing.key"),
        );
        if major == 14 {
            settings.push_str(&format!("stats_temp_directory = '{}'\n", world.at("stats")));
        }
        parent.configure(&settings).await;
        parent
            .each(async |branch, what| {
                let sql = Sql::on(branch).await;
                let data = data_of(branch).await;
                assert_ne!(data, parent.data, "{what}");
                assert_eq!(sql.show("data_directory").await, data.to_str().unwrap(), "{what}");
                let run = parent.home.config().home().join("run").join(branch.id().to_string());
                for file in ["hba_file", "ident_file", "external_pid_file"] {
                    let path = sql.show(file).await;
                    assert!(std::path::Path::new(&path).starts_with(&run), "{what}: {path}");
                }
                let own = branch.connection().port;
                assert_ne!(own, port, "{what}");
                assert_eq!(sql.show("port").await, own.to_string(), "{what}");
                assert_eq!(sql.show("listen_addresses").await, "127.0.0.1", "{what}");
                assert_eq!(sql.show("ssl").await, "off", "{what}");
                assert_eq!(sql.show("cluster_name").await, "", "{what}");
                // It logs where Velo says, and nobody comes in without the password.
                sql.run("DO $$ BEGIN RAISE WARNING 'a line of the log'; END $$").await;
                let log = std::fs::read_to_string(branch.log_file()).unwrap();
                assert!(log.contains("a line of the log"), "{what}: {log}");
                let mut stranger: tokio_postgres::Config = branch.url().parse().unwrap();
                stranger.password("not it");
                assert!(Sql::with(&stranger).await.is_err(), "{what}: let in");
                if !branch.is_ephemeral() {
                    branch.restart().await.unwrap();
                }
            })
            .await;
        assert_same(&before, &world.files(), "the world");
    }
}
