//! What `velo project` says and asks of real data.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use velo_core::import::{Progress, Source, SourceInfo};
use velo_core::{ProjectInfo, RefreshSpec, Result, blocking};

use crate::args::Import;
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::signals::unless_given_up;

/// The source that the options name.
pub(crate) fn source(args: &Import) -> Result<Option<Source>> {
    let Some(from) = &args.from else { return Ok(None) };
    let mut source = Source::new(from)?;
    if let Some(method) = args.method {
        source = source.method(method)?;
    }
    source = source.databases(args.databases.clone()).schemas(args.schemas.clone());
    if let Some(jobs) = args.jobs {
        source = source.jobs(jobs);
    }
    if let Some(roles) = &args.roles {
        source = source.roles(roles);
    }
    for file in &args.transform {
        source = source.transform(file);
    }
    if let Some(file) = &args.mask {
        source = source.masking(file);
    }
    if args.reindex {
        source = source.reindex();
    }
    if args.save_password {
        source = source.save_password();
    }
    Ok(Some(source))
}

/// Tells what is done and how far that is, behind the spinner.
pub(crate) fn told(spinner: &Spinner) -> impl Fn(Progress) + Send + Sync + 'static {
    let say = spinner.steps();
    let begun = std::sync::Mutex::new((String::new(), Instant::now()));
    move |progress| {
        let what = format!("{} {}", progress.stage.as_str(), progress.what);
        let elapsed = {
            let mut begun = begun.lock().unwrap_or_else(|e| e.into_inner());
            if begun.0 != what {
                *begun = (what.clone(), Instant::now());
            }
            begun.1.elapsed()
        };
        if progress.bytes == 0 {
            return say(&what, "");
        }
        let rate = progress.bytes as f64 / elapsed.as_secs_f64().max(0.001);
        let rest = progress.total.map(|total| {
            let left = total.saturating_sub(progress.bytes) as f64 / rate.max(1.0);
            let left = output::took(Duration::from_secs_f64(left.min(1e9)));
            format!(" of about {}, {left} to go", output::bytes(total))
        });
        let far = format!(
            ": {}{}, {}/s",
            output::bytes(progress.bytes),
            rest.unwrap_or_default(),
            output::bytes(rate as u64),
        );
        say(&what, &far);
    }
}

/// Creates a project; Ctrl-C leaves nothing of it.
pub(crate) fn create(builder: blocking::ProjectBuilder) -> Result<blocking::Project> {
    let made = unless_given_up(
        move |cancel| async move { builder.into_async().create_unless(&cancel).await },
        |project| async move { project.delete(true).await.map(|()| None) },
    );
    made.map(blocking::Project::from)
}

/// Brings `main` anew; Ctrl-C leaves it as it was, unless the new data has taken its place already.
pub(crate) fn refresh(project: &blocking::Project, spec: RefreshSpec) -> Result<blocking::Project> {
    let project = project.as_async().clone();
    let made = unless_given_up(
        move |cancel| async move { project.refresh_unless(spec, &cancel).await },
        // There is nothing to go back to.
        |project| async move { Ok(Some(project)) },
    );
    made.map(blocking::Project::from)
}

/// The shape `source` of docs/json.md.
pub(crate) fn shape(info: &SourceInfo) -> Value {
    let path = |path: &std::path::PathBuf| output::path(path);
    json!({
        "method": info.method.as_str(),
        "from": info.from,
        "brought_at": info.brought_at,
        "transforms": info.transforms.iter().map(path).collect::<Vec<_>>(),
        "masking": info.masking.as_ref().map(path),
        "notes": info.notes,
    })
}

/// Where a project's data came from.
pub(crate) fn from(info: &ProjectInfo) -> String {
    info.source.as_ref().map_or_else(
        || "an empty cluster".to_owned(),
        |source| {
            format!("{} ({}), {} ago", source.from, source.method, output::age(source.brought_at))
        },
    )
}

/// What is not as it was in the source.
pub(crate) fn notes(info: &ProjectInfo, out: &Out) {
    for note in info.source.iter().flat_map(|source| &source.notes) {
        out.note(note);
    }
}
