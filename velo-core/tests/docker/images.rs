//! Images: what they are asked for, those that cannot be had, and those that are replaced.

use bollard::Docker;
use bollard::models::{ContainerConfig, ContainerCreateBody, ImageInspect};
use bollard::query_parameters as query;
use futures_util::StreamExt;
use sha2::Digest;
use velo_core::postgres::{Libc, Source, install};
use velo_core::{Branch, BranchSpec, ErrorKind, Project};

use crate::branches::sql;
use crate::common::fs_dir;
use crate::common::home::TestHome;
use crate::engine::{engine, images, told, usual_home, with_docker};

#[tokio::test]
async fn docker_images_are_asked_once() {
    let Some(engine) = engine().await else { return };
    for (image, uid) in images().into_iter().zip([999, 70]) {
        let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
        let home = TestHome::with(Some(&base), with_docker(&image));
        let postgres = home.project("api").await.info().postgres;
        let said = postgres.image.clone().unwrap();
        assert_eq!((said.reference.as_str(), said.uid, said.libc), (&*image, uid, Libc::Glibc));
        assert_eq!(postgres.source, Source::Image);
        assert!(said.libc_version.is_some());
        let engines: ImageInspect = engine.inspect_image(&image).await.unwrap();
        assert_eq!(Some(said.id), engines.id);
        let again = Project::builder("api").config(home.config().clone()).open().await.unwrap();
        assert_eq!(again.info().postgres, postgres);
    }
}

#[tokio::test]
async fn docker_images_that_cannot_be_had_are_refused() {
    let Some(_) = engine().await else { return };
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    let image = "registry.invalid/velo/none:18";
    let home = TestHome::with(Some(&base), with_docker(image));
    // The library pulls nothing by itself.
    let create = || Project::builder("api").config(home.config().clone()).create();
    let error = create().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PostgresMissing, "{}", told(&error));
    assert!(told(&error).contains(&format!("pull {image}")), "{}", told(&error));
    // Asked to, it tries, and says what came of it.
    let (said, heard) = std::sync::mpsc::channel();
    let error =
        install::find_or_install(home.config(), move |line| drop(said.send(line.to_owned())))
            .await
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PostgresMissing, "{}", told(&error));
    assert!(error.to_string().contains(image) && error.hint().is_some(), "{}", told(&error));
    assert!(heard.iter().any(|line| line.contains(image)), "it says what it pulls");
    for bad in ["", "no image", "-x;y", "../containers", "postgres:", "postgres:18@x"] {
        let home = TestHome::with(Some(&base), with_docker(bad));
        let error = home_error(&home).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}: {}", told(&error));
    }
    assert!(home.left().is_empty());
}

/// A registry on 127.0.0.1 with one image, in which there is nothing; for one name and every tag.
fn registry() -> u16 {
    use std::io::{BufRead, BufReader, Write};
    let digest = |data: &[u8]| {
        let hash = sha2::Sha256::digest(data);
        format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let layer = vec![0; 1024]; // an archive's end
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, data: &[u8]| {
        let kind = format!("application/vnd.docker.{kind}");
        serde_json::json!({ "mediaType": kind, "size": data.len(), "digest": digest(data) })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": part("container.image.v1+json", &config),
        "layers": [part("image.rootfs.diff.tar.gzip", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let request = head.first().cloned().unwrap_or_default();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let kind = "application/vnd.docker.distribution.manifest.v2+json";
            let (kind, body) = match path {
                _ if path.contains("/manifests/") => (kind, &manifest[..]),
                _ if path.ends_with(&digest(&config)) => ("application/octet-stream", &config[..]),
                _ if path.ends_with(&digest(&layer)) => ("application/octet-stream", &layer[..]),
                _ => ("application/json", &b"{}"[..]),
            };
            let (length, digest) = (body.len(), digest(body));
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
                 Docker-Content-Digest: {digest}\r\nConnection: close\r\n\r\n"
            );
            let body = if request.starts_with("HEAD") { b"" } else { body };
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    port
}

#[tokio::test]
async fn docker_images_are_pulled_where_they_are_missing() {
    let Some(engine) = engine().await else { return };
    let Some(base) = fs_dir("VELO_TEST_BTRFS") else { return };
    let version = engine.version().await.unwrap();
    if version.components.iter().flatten().any(|part| part.name.contains("Podman")) {
        return; // it wants TLS, or to be told
    }
    let image = format!("127.0.0.1:{}/velo/empty", registry());
    let home = TestHome::with(Some(&base), with_docker(&image));
    let (said, heard) = std::sync::mpsc::channel();
    let error =
        install::find_or_install(home.config(), move |line| drop(said.send(line.to_owned())))
            .await
            .unwrap_err();
    let there = engine.inspect_image(&format!("{image}:latest")).await.is_ok();
    let heard: Vec<_> = heard.iter().collect();
    assert!(there, "{}: {heard:?}", told(&error));
    forget(&engine, &image).await;
    assert_eq!(heard[0], format!("pulling {image}:latest"));
    assert!(heard.iter().any(|line| line.contains("complete")), "{heard:?}");
    // Pulled it is, and it has not even a shell.
    assert_eq!(error.kind(), ErrorKind::PostgresMissing, "{}", told(&error));
    assert!(error.to_string().contains("its shell does not start"), "{}", told(&error));
}

async fn home_error(home: &TestHome) -> velo_core::Error {
    Project::builder("api").config(home.config().clone()).create().await.unwrap_err()
}

/// An image that is `from` after a shell did `script` in it.
async fn derived(engine: &Docker, from: &str, script: &str, tag: &str) -> String {
    let body = ContainerCreateBody {
        image: Some(from.to_owned()),
        user: Some("0:0".into()),
        entrypoint: Some(vec!["/bin/sh".into(), "-ec".into(), script.to_owned()]),
        ..Default::default()
    };
    let made = engine.create_container(None::<query::CreateContainerOptions>, body).await.unwrap();
    engine.start_container(&made.id, None).await.unwrap();
    let wait = query::WaitContainerOptionsBuilder::new().condition("not-running").build();
    let ended = engine.wait_container(&made.id, Some(wait)).next().await;
    ended.unwrap().unwrap();
    let options = query::CommitContainerOptionsBuilder::new()
        .container(&made.id)
        .repo("velo-test/derived")
        .tag(tag)
        .build();
    engine.commit_container(options, ContainerConfig::default()).await.unwrap();
    let remove = query::RemoveContainerOptionsBuilder::new().v(true).force(true).build();
    engine.remove_container(&made.id, Some(remove)).await.unwrap();
    format!("velo-test/derived:{tag}")
}

async fn forget(engine: &Docker, image: &str) {
    let options = query::RemoveImageOptionsBuilder::new().force(true).build();
    engine.remove_image(image, Some(options), None).await.unwrap();
}

#[tokio::test]
async fn docker_images_without_postgres_are_refused() {
    let Some(engine) = engine().await else { return };
    let (Some(image), Some(base)) = (images().into_iter().next(), fs_dir("VELO_TEST_BTRFS")) else {
        return;
    };
    let tag = format!("none-{}", std::process::id());
    let empty = derived(&engine, &image, "rm -r /usr/lib/postgresql", &tag).await;
    let home = TestHome::with(Some(&base), with_docker(&empty));
    let error = home_error(&home).await;
    forget(&engine, &empty).await;
    assert_eq!(error.kind(), ErrorKind::PostgresMissing, "{}", told(&error));
    assert!(error.to_string().contains("no postgres"), "{}", told(&error));
}

/// The name of an image means another one by and by. As long as the first is there it is run; after
/// that the next, unless it sorts text by another C library. That one says it is musl's.
#[tokio::test]
async fn docker_data_is_not_given_to_another_libc() {
    let Some(engine) = engine().await else { return };
    let (Some(image), Some(base)) = (images().into_iter().next(), fs_dir("VELO_TEST_BTRFS")) else {
        return;
    };
    let tag = format!("moving-{}", std::process::id());
    let moving = derived(&engine, &image, "touch /first", &tag).await;
    let home = TestHome::with(Some(&base), with_docker(&moving));
    let by_code_point = home.project("plain").await;
    let by_language = Project::builder("sorted").config(home.config().clone()).locale("en_US.utf8");
    let by_language = by_language.create().await.unwrap();
    let first = by_code_point.info().postgres.image.unwrap().id;
    for project in [&by_code_point, &by_language] {
        project.main().await.unwrap().stop().await.unwrap();
    }

    let musl = "for f in /usr/lib/postgresql/*/bin/postgres; do printf ld-musl- >>$f; done";
    let second = derived(&engine, &image, musl, &tag).await;
    assert_eq!(second, moving);
    let open = async |name: &str| {
        Project::builder(name).config(home.config().clone()).open().await.unwrap()
    };
    let same = open("plain").await.info().postgres.image.unwrap();
    assert_eq!((same.id, same.libc), (first.clone(), Libc::Glibc), "it is still there");

    forget(&engine, &first).await;
    let plain = open("plain").await;
    assert_eq!(plain.info().postgres.image.unwrap().id, first, "what it was made with");
    plain.main().await.unwrap().start().await.unwrap();
    assert_eq!(sql(&plain.main().await.unwrap().url(), "SELECT 1").await.unwrap(), "1");
    let sorted = open("sorted").await;
    let refused = [
        sorted.main().await.unwrap().start().await.unwrap_err(),
        Branch::create(&sorted, BranchSpec::ephemeral()).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{}", told(&error));
        assert!(error.to_string().contains("musl"), "{}", told(&error));
    }
    open("plain").await.delete(true).await.unwrap();
    forget(&engine, &moving).await;
    let found = velo_core::doctor::examine(home.config());
    let of_sorted = found.iter().find(|f| f.name == "postgres" && f.what.contains("sorted"));
    let fix = of_sorted.and_then(|f| f.fix.clone()).unwrap_or_default();
    assert!(fix.contains(&format!("docker pull {moving}")), "{found:?}");
    open("sorted").await.delete(true).await.unwrap();
}

#[tokio::test]
async fn docker_projects_outlive_a_moved_tag() {
    let (Some(_), Some(home)) = (engine().await, usual_home()) else { return };
    let project = home.project("api").await;
    // What the environment says now is for new projects.
    let other = velo_core::Config::builder().home(home.config().home()).image("none:1").build();
    let again = Project::builder("api").config(other.unwrap()).open().await.unwrap();
    assert_eq!(again.info().postgres, project.info().postgres);
}
