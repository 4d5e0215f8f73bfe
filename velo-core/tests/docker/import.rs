//! Real data into containers: `psql`, `pg_basebackup`, `pg_dump` and `pg_restore` run in the project's image, and reach a
//! server of this machine that listens on 127.0.0.1 alone.

use velo_core::import::{Method, Source};
use velo_core::{Branch, BranchSpec, ErrorKind, Project};

use crate::common::client::sql;
use crate::common::fs_dir;
use crate::common::home::TestHome;
use crate::engine::{containers, engine, images, with_docker};
use crate::server::{Server, bins};

#[tokio::test]
async fn data_is_brought_into_containers() {
    let (Some(engine), Some(base)) = (engine().await, fs_dir("VELO_TEST_BTRFS")) else { return };
    for bin in bins() {
        let server = Server::new(&bin, &["--encoding=UTF8", "--locale=C.UTF-8"], "");
        server
            .sql(
                "postgres",
                "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n; CREATE ROLE app",
            )
            .await;
        let dump = server.dir.path().join("custom");
        let path = dump.to_str().unwrap();
        assert!(
            server
                .tool("pg_dump", &["-Fc", "-d", &server.url("postgres"), "-f", path])
                .status
                .success()
        );
        for image in images() {
            for method in [Method::Basebackup, Method::Dump, Method::Sql] {
                let home = TestHome::with(Some(&base), with_docker(&image));
                let from =
                    if method == Method::Sql { path.to_owned() } else { server.url("postgres") };
                let source = Source::new(from).unwrap().method(method).unwrap();
                let builder = Project::builder("api").config(home.config().clone()).from(source);
                let what = format!("{method} of {} into {image}", server.major);
                match builder.create().await {
                    Ok(project) => {
                        let branch =
                            Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
                        assert_eq!(sql(&branch, "SELECT count(*) FROM t").await, "1000", "{what}");
                        branch.close().await.unwrap();
                        project.delete(true).await.unwrap();
                    }
                    // An image is of one major.
                    Err(error) => {
                        println!("{what}: {error}");
                        assert_eq!(
                            error.kind(),
                            ErrorKind::Incompatible,
                            "{what}: {error} {error:?}"
                        );
                        assert!(error.hint().is_some(), "{what}: {error}");
                        assert!(home.left().is_empty(), "{what}: {:?}", home.left());
                    }
                }
                assert!(containers(&engine, home.config().home()).await.is_empty(), "{what}");
            }
        }
    }
}
