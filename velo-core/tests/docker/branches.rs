//! Branches whose servers are containers.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::NetworkDisconnectRequest;
use velo_core::runtime::RuntimeKind;
use velo_core::{Branch, BranchSpec, Config, ErrorKind, Project};

use crate::common::fs_dir;
use crate::common::home::{TestHome, eventually};
use crate::engine::{
    can_limit, containers, engine, images, is_podman, is_rootless, places, told, usual_home,
    volumes, with_docker,
};

/// The first column of what the statements give, on a connection of their own.
pub(crate) async fn sql(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let rows = client.simple_query(sql).await?;
    let values = rows.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(values.collect::<Vec<_>>().join(" "))
}

async fn ask(branch: &Branch, text: &str) -> String {
    sql(&branch.url(), text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

/// Everything that a project's life is made of, on `base`.
async fn life(image: &str, base: &Path) {
    let home = TestHome::with(Some(base), with_docker(image));
    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    ask(&main, "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 100)").await;

    let throwaway = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    assert_eq!(ask(&throwaway, "DELETE FROM t; SELECT count(*) FROM t").await, "0");
    let dev = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    let url = dev.url();
    assert_eq!(ask(&dev, "INSERT INTO t VALUES (0); SELECT count(*) FROM t").await, "101");
    dev.snapshot("before").await.unwrap();
    let from = BranchSpec::ephemeral().from("dev@before");
    let from_snapshot = Branch::create(&project, from).await.unwrap();
    assert_eq!(ask(&from_snapshot, "SELECT count(*) FROM t").await, "101");
    ask(&main, "INSERT INTO t VALUES (0), (0)").await;
    dev.reset().await.unwrap();
    assert_eq!((dev.url(), ask(&dev, "SELECT count(*) FROM t").await), (url, "102".into()));
    throwaway.reset().await.unwrap();
    assert_eq!(ask(&throwaway, "SELECT count(*) FROM t").await, "102");

    dev.stop().await.unwrap();
    assert!(sql(&dev.url(), "SELECT 1").await.is_err());
    let of_stopped = Branch::create(&project, BranchSpec::ephemeral().from("dev")).await.unwrap();
    assert_eq!(ask(&of_stopped, "SELECT count(*) FROM t").await, "102");
    dev.start().await.unwrap();
    assert_eq!(ask(&dev, "SELECT count(*) FROM t").await, "102");
    let kept = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    kept.keep_as("kept").await.unwrap();
    assert_eq!(ask(&kept, "SELECT count(*) FROM t").await, "102");

    // A fixed port, on 127.0.0.1 alone, and a process of this machine.
    let info = dev.info().await.unwrap();
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", info.pid.unwrap()));
    assert!(cwd.is_ok_and(|cwd| cwd.starts_with(home.config().home())));
    assert!(TcpListener::bind(("127.0.0.2", info.port)).is_ok());
    for branch in [throwaway, from_snapshot, of_stopped] {
        branch.close().await.unwrap();
    }
    dev.delete(true).await.unwrap();
    kept.delete(true).await.unwrap();
    project.finish_deletions().await.unwrap();
    let engine = engine().await.unwrap();
    let left = containers(&engine, home.config().home()).await;
    assert_eq!(left.len(), 1, "main's: {left:?}");
    // The image declares a volume, and so the engine made one for the container.
    let mounts = left.into_iter().flat_map(|found| found.mounts.unwrap_or_default());
    let declared: Vec<_> = mounts.filter_map(|mount| mount.name).collect();
    assert!(!declared.is_empty());
    project.delete(false).await.unwrap();
    assert!(containers(&engine, home.config().home()).await.is_empty());
    assert!(!volumes(&engine).await.iter().any(|name| declared.contains(name)));
}

#[tokio::test]
async fn docker_runs_a_projects_whole_life() {
    if engine().await.is_none() {
        return;
    }
    for (image, place) in images().iter().zip(places()) {
        life(image, &place).await;
    }
    if let (Some(image), Some(place)) = (images().first(), fs_dir("VELO_TEST_EXT4")) {
        life(image, &place).await;
    }
}

#[tokio::test]
async fn docker_lets_nobody_in_without_the_password() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    let found = containers(&engine, home.config().home()).await;
    let name = found[0].names.as_ref().unwrap()[0].trim_start_matches('/').to_owned();
    let container = engine.inspect_container(&name, None).await.unwrap();
    // A rootless engine's network cannot be reached from outside.
    let networks = container.network_settings.unwrap().networks.unwrap_or_default();
    let inside = networks.into_values().filter_map(|network| network.ip_address);
    let mut hosts: Vec<_> = inside.filter(|host| !host.is_empty()).collect();
    if is_rootless(&engine).await {
        hosts.clear();
    } else {
        assert!(!hosts.is_empty());
    }
    for host in hosts.into_iter().chain(["127.0.0.1".to_owned()]) {
        let mut there = tokio_postgres::Config::new();
        there.host(&host).port(main.connection().port).user("postgres").dbname("postgres");
        for password in ["", "postgres", "wrong"] {
            let error = there.password(password).connect(tokio_postgres::NoTls).await.err();
            let error = error.unwrap_or_else(|| panic!("{host} lets {password:?} in"));
            let code = error.code().map(|code| code.code().to_owned());
            assert!(password.is_empty() || code.as_deref() == Some("28P01"), "{host}: {error:?}");
        }
    }
    let env = container.config.unwrap();
    let said = format!("{:?} {:?} {:?} {:?}", env.env, env.cmd, env.entrypoint, env.labels);
    assert!(!said.contains(&main.connection().password), "the engine knows a password");
}

#[tokio::test]
async fn docker_takes_no_tablespace_along_with_a_stop() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    // The folder that images declare a volume at: the server's user can write there.
    let made = sql(&main.url(), "CREATE TABLESPACE ts LOCATION '/var/lib/postgresql/data'").await;
    if is_rootless(&engine).await {
        return;
    }
    made.unwrap();
    ask(&main, "CREATE TABLE t TABLESPACE ts AS SELECT 7 AS n").await;
    for refused in [main.stop().await, main.restart().await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{}", told(&refused));
        assert!(refused.to_string().contains("tablespace"), "{}", told(&refused));
    }
    assert_eq!(ask(&main, "SELECT n FROM t").await, "7");
    ask(&main, "ALTER TABLE t SET TABLESPACE pg_default").await;
    ask(&main, "DROP TABLESPACE ts").await;
    main.restart().await.unwrap();
    assert_eq!(ask(&main, "SELECT n FROM t").await, "7");
    // Nor with a reset, which may fail when the old server is gone.
    let dev = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    ask(&dev, "CREATE TABLESPACE ts LOCATION '/var/lib/postgresql/data'").await;
    let refused = dev.reset().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{}", told(&refused));
    assert!(refused.to_string().contains("tablespace"), "{}", told(&refused));
}

/// Cuts the container of a branch off its networks, as somebody may by hand.
async fn cut_off(engine: &Docker, home: &Path, branch: &Branch) {
    let id = branch.id().to_string();
    let all = containers(engine, home).await;
    let own = all.iter().find(|c| c.labels.as_ref().unwrap().get("velo.id") == Some(&id)).unwrap();
    let name = own.id.clone().unwrap();
    let networks = engine.inspect_container(&name, None).await.unwrap().network_settings;
    for network in networks.unwrap().networks.unwrap_or_default().into_keys() {
        let request = NetworkDisconnectRequest { container: name.clone(), force: Some(true) };
        engine.disconnect_network(&network, request).await.unwrap();
    }
}

#[tokio::test]
async fn docker_brings_back_a_server_that_was_cut_off() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    if is_podman(&engine).await {
        // There a client waits for an answer that never comes, as of a machine that is busy.
        return;
    }
    let project = home.project("api").await;
    let branch = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    cut_off(&engine, home.config().home(), &branch).await;
    assert!(sql(&branch.url(), "SELECT 1").await.is_err());
    branch.start().await.unwrap();
    assert_eq!(ask(&branch, "SELECT 1").await, "1");
}

#[tokio::test]
async fn docker_leaves_the_original_s_containers_to_it_where_a_copy_has_no_data() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let main = project.main().await.unwrap();
    // As who looks into a backup of the records.
    let original = home.config().home();
    let copy = original.with_file_name("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(original).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name.to_str().unwrap().starts_with("state.db") {
            std::fs::copy(entry.path(), copy.join(name)).unwrap();
        }
    }
    let builder = Config::builder().home(&copy).runtime(RuntimeKind::Docker);
    let config = builder.image(home.config().image()).build().unwrap();
    let copied = Project::builder("api").config(config).open().await.unwrap();
    // Whether it is an error or there is nothing to do: it does nothing.
    let _ = copied.main().await.unwrap().stop().await;
    let _ = copied.delete(true).await;
    assert_eq!(containers(&engine, original).await.len(), 1);
    assert_eq!(ask(&main, "SELECT 1").await, "1");
}

#[tokio::test]
async fn docker_takes_another_port_and_says_which_is_held() {
    let (Some(_), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let dev = Branch::create(&project, BranchSpec::named("dev")).await.unwrap();
    dev.stop().await.unwrap();
    let port = dev.connection().port;
    let holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = dev.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", told(&error));
    assert!(error.to_string().contains(&port.to_string()), "{}", told(&error));
    drop(holder);
    dev.start().await.unwrap();
    assert_eq!(dev.connection().port, port);
    // A new branch passes over what is held.
    let range = home.config().ports();
    let held: Vec<_> = range.filter_map(|p| TcpListener::bind(("127.0.0.1", p)).ok()).collect();
    let freed = held[held.len() / 2].local_addr().unwrap().port();
    drop(held.into_iter().filter(|l| l.local_addr().unwrap().port() != freed).collect::<Vec<_>>());
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    assert_ne!(branch.connection().port, port);
    branch.close().await.unwrap();
}

#[tokio::test]
async fn docker_tells_at_once_why_a_server_dies() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    for spec in [BranchSpec::ephemeral(), BranchSpec::named("dying")] {
        let begun = Instant::now();
        let spec = spec.set("shared_preload_libraries", "no_such_library");
        let error = Branch::create(&project, spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Postgres, "{}", told(&error));
        assert!(told(&error).contains("log_tail"), "{}", told(&error));
        assert!(error.to_string().contains("no_such_library"), "{}", told(&error));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
    assert_eq!(containers(&engine, home.config().home()).await.len(), 1);
}

#[tokio::test]
async fn docker_homes_on_one_engine_do_not_meet() {
    let (Some(engine), Some(one), Some(two)) = (engine().await, usual_home(), usual_home()) else {
        return;
    };
    let (first, second) = (one.project("api").await, two.project("api").await);
    assert_eq!(containers(&engine, one.config().home()).await.len(), 1);
    assert_eq!(containers(&engine, two.config().home()).await.len(), 1);
    first.delete(true).await.unwrap();
    assert!(containers(&engine, one.config().home()).await.is_empty());
    assert_eq!(ask(&second.main().await.unwrap(), "SELECT 1").await, "1");
}

/// The volumes of both have the same names.
#[tokio::test]
#[allow(clippy::disallowed_methods)] // `cp`
async fn docker_servers_of_a_home_are_not_those_of_its_copy() {
    let (Some(engine), Some(one)) = (engine().await, usual_home()) else { return };
    let project = one.project("api").await;
    let held = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    let original = one.config().home();
    let copy = original.with_file_name("copy");
    let copied = Command::new("cp").arg("-a").args([original, &copy]).status().unwrap();
    assert!(copied.success());

    // Whoever opens the copy finds the leases of dead processes in it.
    let mut builder = Config::builder().home(&copy).runtime(RuntimeKind::Docker);
    builder = builder.image(one.config().image());
    let config = builder.build().unwrap();
    let same = Project::builder("api").config(config).open().await.unwrap();
    let branches = same.branches().await.unwrap();
    assert_eq!(branches.len(), 1, "{branches:?}");
    assert_eq!(branches[0].state.as_str(), "stopped");
    let main = same.main().await.unwrap();
    let refused = main.start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{}", told(&refused));
    main.stop().await.unwrap();
    same.delete(true).await.unwrap();

    assert_eq!(containers(&engine, original).await.len(), 2);
    assert_eq!(ask(&held, "SELECT 1").await, "1");
    assert_eq!(ask(&project.main().await.unwrap(), "SELECT 1").await, "1");
}

#[tokio::test]
async fn docker_holds_servers_to_their_limits() {
    let Some(engine) = engine().await else { return };
    let (Some(image), Some(base)) = (images().into_iter().next(), fs_dir("VELO_TEST_BTRFS")) else {
        return;
    };
    let home = TestHome::with(Some(&base), |config| {
        with_docker(&image)(config).memory("512M").cpus("1.5").shm_size("96M")
    });
    if !can_limit(&engine).await {
        // What cannot be had is refused, and nothing is left of it.
        let create = Project::builder("api").config(home.config().clone()).create();
        let error = create.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", told(&error));
        assert!(error.to_string().contains("limit"), "{}", told(&error));
        return;
    }
    let project = home.project("api").await;
    let dev = BranchSpec::named("dev").memory(256 << 20).millicpus(500);
    let dev = Branch::create(&project, dev).await.unwrap();
    let mut seen = Vec::new();
    for found in containers(&engine, home.config().home()).await {
        let whole = engine.inspect_container(&found.id.unwrap(), None).await.unwrap();
        let host = whole.host_config.unwrap();
        seen.push((
            host.memory.unwrap() >> 20,
            host.nano_cpus.unwrap(),
            host.shm_size.unwrap() >> 20,
        ));
        let labels = found.labels.unwrap();
        assert_eq!(labels["velo.project"], "api");
        assert!(["main", "dev"].contains(&&*labels["velo.branch"]), "{labels:?}");
    }
    seen.sort_unstable();
    assert_eq!(seen, [(256, 500_000_000, 96), (512, 1_500_000_000, 96)]);
    // What is too little is named.
    for (spec, part) in [
        (BranchSpec::named("tight").memory(6 << 20), "limit of memory"),
        (BranchSpec::named("tight").shm_size(1 << 10), "shared memory segment"),
    ] {
        let error = Branch::create(&project, spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Postgres, "{}", told(&error));
        assert!(error.to_string().contains(part), "{}", told(&error));
    }
    // What is limited is what PostgreSQL has: a parallel query takes its shared memory from it.
    let parallel = "SET debug_parallel_query = on; SELECT count(*) FROM generate_series(1, 1000)";
    let parallel = match project.info().postgres.version.major {
        ..16 => parallel.replace("debug_parallel_query", "force_parallel_mode"),
        _ => parallel.to_owned(),
    };
    assert_eq!(ask(&dev, &parallel).await, "1000");
}

#[tokio::test]
async fn docker_containers_that_nobody_knows_are_found() {
    let (Some(engine), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let known = velo_core::doctor::examine(home.config());
    let of = |found: &[velo_core::doctor::Finding]| {
        let rows = found.iter().filter(|f| f.name == "docker");
        rows.map(|f| (f.status, f.what.clone())).collect::<Vec<_>>()
    };
    assert_eq!(of(&known).len(), 1, "{known:?}");
    assert_eq!(of(&known)[0].0, velo_core::doctor::Status::Ok, "{known:?}");
    // Its name is its volume's: else it is somebody's own, of an image that was made of a server.
    let volume = project.info().id.to_string();
    let name = format!("velo-{}", volume.to_lowercase());
    let body = bollard::models::ContainerCreateBody {
        image: Some(project.info().postgres.image.unwrap().id),
        labels: Some(std::collections::HashMap::from([
            ("velo.home".into(), home.config().home().display().to_string()),
            ("velo.volume".into(), format!("/nowhere/{volume}")),
        ])),
        entrypoint: Some(vec!["/bin/sh".into()]),
        ..Default::default()
    };
    let stray = engine
        .create_container(
            Some(
                bollard::query_parameters::CreateContainerOptionsBuilder::new().name(&name).build(),
            ),
            body,
        )
        .await
        .unwrap()
        .id;
    let found = velo_core::doctor::examine(home.config());
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().v(true).build();
    engine.remove_container(&stray, Some(options)).await.unwrap();
    let warned = of(&found);
    assert!(
        warned.iter().any(|(status, _)| *status == velo_core::doctor::Status::Warn),
        "{warned:?}"
    );
}

/// What was dropped without a word is discarded all the same.
#[tokio::test]
async fn docker_branches_go_with_their_handles() {
    let (Some(_), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    let branch = Branch::create(&project, BranchSpec::ephemeral()).await.unwrap();
    let servers = home.servers().len();
    drop(branch);
    assert!(eventually(Duration::from_secs(20), || home.servers().len() < servers));
}
