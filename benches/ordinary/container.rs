//! The same in a container that may nothing.

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters as query;
use futures_util::StreamExt;
use velo_benches::{Result, engine};

use crate::measure::Measured;

/// Where it finds this program.
const PROGRAM: &str = "/ordinary";
/// The user whom Debian's PostgreSQL makes: no other reads its own home.
const USER: &str = "postgres";

/// Measures in a container of `image`, on the engine's overlayfs or in memory.
pub(crate) async fn measure(image: &str, memory: bool, samples: usize) -> Result<Measured> {
    let engine = engine::connect(120).await?;
    let body = body(image, memory, samples)?;
    let id = engine.create_container(None::<query::CreateContainerOptions>, body).await?.id;
    let measured = run(&engine, &id).await;
    let remove = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    engine.remove_container(&id, Some(remove)).await?;
    let place = if memory { "container, memory" } else { "container" };
    Ok(Measured { place: place.to_owned(), ..measured? })
}

fn body(image: &str, memory: bool, samples: usize) -> Result<ContainerCreateBody> {
    let program = std::env::current_exe()?;
    let tmpfs = memory.then(|| [("/memory".to_owned(), "mode=1777,size=1g".to_owned())].into());
    let folder = if memory { "/memory" } else { "/tmp" };
    Ok(ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some(USER.to_owned()),
        entrypoint: Some(vec![PROGRAM.to_owned()]),
        cmd: Some(vec!["--samples".to_owned(), samples.to_string()]),
        env: Some(vec![format!("{}={folder}", crate::FOLDER), "HOME=/tmp".to_owned()]),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{}:{PROGRAM}:ro", program.display())]),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            network_mode: Some("none".to_owned()),
            shm_size: Some(64 << 20),
            tmpfs,
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    })
}

async fn run(engine: &Docker, id: &str) -> Result<Measured> {
    let options =
        query::AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
    let mut attached = engine.attach_container(id, Some(options)).await?.output;
    engine.start_container(id, None).await?;
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(part) = attached.next().await {
        match part? {
            LogOutput::StdOut { message } => out += &String::from_utf8_lossy(&message),
            other => err += &other.to_string(),
        }
    }
    eprint!("{err}");
    serde_json::from_str(&out)
        .map_err(|_| format!("the container measured nothing:\n{out}{err}").into())
}
