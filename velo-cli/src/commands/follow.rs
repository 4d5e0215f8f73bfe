//! What `velo project` says and asks of a `main` that follows.

use serde_json::{Value, json};
use velo_core::{FollowSpec, Following, Result, blocking};

use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::signals::unless_given_up;
use crate::target::open_project;

/// Makes `main` follow; Ctrl-C leaves it as it was, unless the standby has taken its place already.
pub(crate) fn begin(name: &str, slot: Option<String>, out: &Out) -> Result<()> {
    let project = open_project(name)?;
    let project = {
        let spinner = Spinner::new(out, format!("following {name}"));
        let mut spec = FollowSpec::new().progress(super::import::told(&spinner));
        if let Some(slot) = slot {
            spec = spec.slot(slot);
        }
        let project = project.as_async().clone();
        let made = unless_given_up(
            move |cancel| async move { project.follow_unless(spec, &cancel).await },
            // There is nothing to go back to.
            |project| async move { Ok(Some(project)) },
        );
        made.map(blocking::Project::from)?
    };
    let (info, main, follows) = (project.info(), project.main()?, project.following()?);
    out.result(
        || {
            let mut value = super::project::shape(&info);
            value["url"] = json!(main.url());
            value["follows"] = follows.as_ref().map_or(Value::Null, shape);
            value["timings_ms"] = output::timings(project.timings());
            value
        },
        |out| {
            out.line(main.url());
            out.line(format!(
                "{name}/main follows its source, after {}; velo project get {name} tells how far behind it is",
                output::took(project.timings().total)
            ));
            super::import::notes(&info, out);
        },
    );
    Ok(())
}

/// Makes it a server of its own.
pub(crate) fn stop(name: &str, out: &Out) -> Result<()> {
    let project = open_project(name)?;
    let before = project.following()?;
    {
        let _spinner = Spinner::new(out, format!("ending that {name} follows"));
        project.stop_following()?;
    }
    let (info, main) = (project.info(), project.main()?);
    out.result(
        || {
            let mut value = super::project::shape(&info);
            value["url"] = json!(main.url());
            value["follows"] = Value::Null;
            value
        },
        |out| {
            out.line(main.url());
            out.line(format!("{name}/main is a server of its own"));
        },
    );
    if let Some(slot) = before.and_then(|following| following.slot).filter(|_| !out.json) {
        out.note(&format!(
            "the source keeps WAL for nobody now: SELECT pg_drop_replication_slot('{slot}') there ends that"
        ));
    }
    Ok(())
}

/// The shape `follows` of docs/json.md.
pub(crate) fn shape(following: &Following) -> Value {
    json!({
        "from": following.from,
        "slot": following.slot,
        "since": following.since,
        "streams": following.streams,
        "lag_bytes": following.lag_bytes,
        "lag_seconds": following.lag_seconds,
        "problem": following.problem,
    })
}

/// What it follows, and how far behind it is.
pub(crate) fn told(following: Option<&Following>) -> String {
    let Some(following) = following else { return "nothing".to_owned() };
    let slot = following.slot.as_ref().map_or_else(String::new, |slot| format!(", slot {slot}"));
    let age = following.lag_seconds.map_or_else(
        || "unknown".to_owned(),
        |seconds| crate::time::shown(std::time::Duration::from_secs(seconds)),
    );
    let how = match (&following.problem, following.lag_bytes) {
        (Some(problem), _) => format!("its last commit is {age} old; {problem}"),
        (None, Some(0)) => "no lag".to_owned(),
        (None, bytes) => {
            format!("lag {}, {age}", bytes.map_or_else(|| "unknown".to_owned(), output::bytes))
        }
    };
    format!("{}{slot}: {how}", following.from)
}
