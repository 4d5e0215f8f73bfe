//! What test suites of every language ask of their project.

#[cfg(target_os = "linux")]
use crate::engine::{self, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::project::Project;
use crate::runtime::RuntimeKind;
use crate::storage::StorageKind;

/// Refuses a project that was made with other settings than it was opened with: passed over, they would have tests pass
/// on what nobody asked for.
///
/// # Errors
/// [`ErrorKind::Incompatible`], with the first of them.
pub fn refuse_other_settings(project: &Project) -> Result<()> {
    let (config, there) = (project.config(), project.info());
    let runtime = Some(config.runtime()).filter(|kind| *kind != RuntimeKind::Auto);
    let storage = Some(config.storage()).filter(|kind| *kind != StorageKind::Auto);
    // What runs no container runs no image either.
    let image = config.image.clone().filter(|_| config.chosen_runtime() == RuntimeKind::Docker);
    let has = there.postgres.image.as_ref().map(|image| image.reference.clone());
    let major = there.postgres.version.major;
    for (setting, wanted, has) in [
        ("pg_version", config.pg_version().map(|major| major.to_string()), major.to_string()),
        ("runtime", runtime.map(|kind| kind.to_string()), there.runtime.to_string()),
        ("image", image, has.unwrap_or_else(|| "none".into())),
        ("storage", storage.map(|kind| kind.to_string()), there.storage.to_string()),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != has) {
            let name = &there.name;
            let what = format!("{setting} is {wanted}, and the project {name} was made with {has}");
            return Err(Error::new(ErrorKind::Incompatible, what).with_hint(format!(
                "velo project delete {name} has it made anew; or give the suite another project"
            )));
        }
    }
    Ok(())
}

/// Looks for the PostgreSQL of a project, which may have gone since that was made: so that a suite is told once, before
/// its tests. Nothing is started.
///
/// # Errors
/// Those of a start of any of its servers: [`ErrorKind::PostgresMissing`], ….
#[cfg(target_os = "linux")]
pub async fn find_postgres(project: &Project) -> Result<()> {
    let project = project.0.clone();
    let found = engine::call(move |_| async move {
        let home = Engine::get()?.home(&project.config).await?;
        crate::project::installed(&project.record, &home).await.map(drop)
    });
    found.await
}
