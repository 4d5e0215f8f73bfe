//! Libraries that a server must not load, for they would act by themselves.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Installation, settings};
use crate::runtime::Runtime;

use super::{Boot, Doors};

impl Boot<'_> {
    /// Libraries to load in place of what the settings of the data may ask for; none if they can stay.
    pub(super) async fn libraries(
        &self,
        runtime: &dyn Runtime,
        postgres: &Installation,
        location: &crate::storage::Location,
    ) -> Result<Option<String>> {
        // `main` is the project's own; it may run its jobs, but not in a rehearsal beside itself, nor those
        // of a server that its data came from.
        let own = self.branch.parent.is_none() && self.project.source.is_none();
        if own && self.doors != Doors::Private {
            return Ok(None);
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
        Ok(Some(settings::without_pg_cron(output.stdout.trim())))
    }
}
