//! What test suites of every language ask of their project.

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
