//! The engine that the tests use, past Velo.

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters as query;
use velo_core::runtime::RuntimeKind;
use velo_core::{ConfigBuilder, Error};

use crate::common::home::TestHome;
use crate::common::{fs_dir, missing};

/// The engine; `None`, said loudly, where there is none.
pub(crate) async fn engine() -> Option<Docker> {
    let Some(url) = std::env::var("VELO_TEST_DOCKER").ok().filter(|url| !url.is_empty()) else {
        missing("VELO_TEST_DOCKER is not set");
        return None;
    };
    // Velo finds it by the same variable as everybody.
    assert_eq!(std::env::var("DOCKER_HOST").as_deref(), Ok(&*url), "DOCKER_HOST is another engine");
    let engine = Docker::connect_with_unix(&url, 60, bollard::API_DEFAULT_VERSION).unwrap();
    match engine.ping().await {
        Ok(_) => Some(engine.negotiate_version().await.unwrap()),
        // Whoever may not use it has nothing to test.
        Err(error) => {
            crate::common::skip(&format!("the engine at {url} is not for this user: {error}"));
            None
        }
    }
}

/// Whether the engine runs as a normal user.
pub(crate) async fn is_rootless(engine: &Docker) -> bool {
    let socket = std::env::var("VELO_TEST_DOCKER").unwrap();
    let owner = std::fs::metadata(socket.trim_start_matches("unix://")).unwrap();
    let info = engine.info().await.unwrap();
    info.security_options.unwrap_or_default().iter().any(|option| option == "name=rootless")
        || std::os::unix::fs::MetadataExt::uid(&owner) != 0
}

pub(crate) async fn is_podman(engine: &Docker) -> bool {
    let parts = engine.version().await.unwrap().components.unwrap_or_default();
    parts.iter().any(|part| part.name.contains("Podman"))
}

/// Whether the engine can hold a container to limits.
pub(crate) async fn can_limit(engine: &Docker) -> bool {
    let info = engine.info().await.unwrap();
    let first = info.cgroup_version == Some(bollard::models::SystemInfoCgroupVersionEnum::_1);
    info.memory_limit != Some(false) && !(first && is_rootless(engine).await)
}

/// The images to test with: kind and name.
pub(crate) fn images() -> Vec<String> {
    ["VELO_TEST_IMAGE_DEBIAN", "VELO_TEST_IMAGE_ALPINE"]
        .iter()
        .filter_map(|variable| match std::env::var(variable) {
            Ok(image) => Some(image),
            Err(_) => {
                missing(&format!("{variable} is not set"));
                None
            }
        })
        .collect()
}

/// The file systems to test on, by the storage that they are for.
pub(crate) fn places() -> Vec<std::path::PathBuf> {
    ["VELO_TEST_BTRFS", "VELO_TEST_XFS"].iter().filter_map(|variable| fs_dir(variable)).collect()
}

/// What makes a test's home one of containers, in a range of ports that no other test uses.
pub(crate) fn with_docker(image: &str) -> impl FnOnce(ConfigBuilder) -> ConfigBuilder {
    // Below what the suites take, and away from other tests' homes.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 30_000 + 40 * NEXT.fetch_add(1, Ordering::Relaxed);
    let image = image.to_owned();
    move |config| config.runtime(RuntimeKind::Docker).image(image).ports(first..=first + 39)
}

/// A home of containers of the Debian image on btrfs, the usual place of these tests.
pub(crate) fn usual_home() -> Option<TestHome> {
    let image = images().into_iter().next()?;
    Some(TestHome::with(Some(&fs_dir("VELO_TEST_BTRFS")?), with_docker(&image)))
}

/// Every container of a home's, in whatever state.
pub(crate) async fn containers(engine: &Docker, home: &Path) -> Vec<ContainerSummary> {
    let label = format!("velo.home={}", home.display());
    let filters = std::collections::HashMap::from([("label".to_owned(), vec![label])]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let options =
            query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        match engine.list_containers(Some(options)).await {
            // Podman lists a container that just ended in a state that the library does not know, or
            // fails where one ends while it looks.
            Err(
                bollard::errors::Error::JsonDataError { .. }
                | bollard::errors::Error::DockerResponseServerError { status_code: 500, .. },
            ) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            found => return found.unwrap(),
        }
    }
}

/// The names of the engine's volumes: what images declare leaves one where nobody takes care.
pub(crate) async fn volumes(engine: &Docker) -> Vec<String> {
    let listed = engine.list_volumes(None::<query::ListVolumesOptions>).await.unwrap();
    let mut names: Vec<_> =
        listed.volumes.unwrap_or_default().into_iter().map(|v| v.name).collect();
    names.sort();
    names
}

/// All that an error says.
pub(crate) fn told(error: &Error) -> String {
    let context: Vec<_> = error.context().map(|(k, v)| format!("{k}: {v}")).collect();
    format!("{error} {} {:?}", context.join("; "), error.hint())
}
