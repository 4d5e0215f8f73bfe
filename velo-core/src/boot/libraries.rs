//! Libraries that a server must not load, or not as the data has them, for their workers would act as the parent.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Installation, settings};
use crate::runtime::Runtime;

use super::{Boot, Doors};

impl Boot<'_> {
    /// Settings in place of those of the data, which may ask for such libraries; none if they can stay.
    pub(super) async fn libraries(
        &self,
        runtime: &dyn Runtime,
        postgres: &Installation,
        location: &crate::storage::Location,
    ) -> Result<Vec<(String, String)>> {
        // `main` is the project's own; it may run its jobs and pull from its publishers, but not in a rehearsal beside
        // itself, nor for a server that its data came from.
        let own = self.branch.parent.is_none() && self.project.source.is_none();
        if own && self.doors != Doors::Private {
            return Ok(Vec::new());
        }
        // Without it, a `data_directory` in the files would lead to another one's.
        let mut args = ["-D", "{}", "-c", "data_directory={}"].map(str::to_owned).to_vec();
        args.extend(
            settings::forced(postgres.version.major)
                .into_iter()
                .flat_map(|(k, v)| ["-c".to_owned(), format!("{k}={v}")]),
        );
        args.extend(["-C".to_owned(), "shared_preload_libraries".to_owned()]);
        let tool = crate::runtime::ToolSpec {
            args,
            ..crate::runtime::ToolSpec::new(postgres.clone(), "postgres", location.clone())
        };
        let output = runtime.run(tool).await?;
        if !output.success {
            return Err(Error::new(
                ErrorKind::Postgres,
                format!("postgres cannot read the settings of the data: {}", output.stderr.trim()),
            ));
        }
        Ok(settings::of_libraries(output.stdout.trim()))
    }
}
