//! `velo project`.

use serde_json::{Value, json};
use velo_core::blocking;
use velo_core::{Config, ProjectInfo, RefreshSpec, Result};

use crate::args::{Project, ProjectCreate, ProjectRefresh, ProjectSet};
use crate::output::{self, Out};
use crate::progress::Spinner;
use crate::target::open_project;

pub(crate) fn run(command: Project, out: &Out) -> Result<()> {
    match command {
        Project::Create(args) => create(*args, out),
        Project::List => list(out),
        Project::Get { name } => get(&name, out),
        Project::Set(args) => set(&args, out),
        Project::Refresh(args) => refresh(&args, out),
        Project::Follow { name, stop: true, .. } => super::follow::stop(&name, out),
        Project::Follow { name, slot, .. } => super::follow::begin(&name, slot, out),
        Project::Delete { name, force } => delete(&name, force, out),
    }
}

/// The shape `project` of docs/json.md.
pub(crate) fn shape(info: &ProjectInfo) -> Value {
    json!({
        "name": info.name.as_str(),
        "id": info.id.to_string(),
        "storage": info.storage.as_str(),
        "runtime": info.runtime.as_str(),
        "postgres": super::pg::shape(&info.postgres),
        "role": info.role,
        "database": info.database,
        "wal_retention": info.wal_retention,
        "source": info.source.as_ref().map(super::import::shape),
        "created_at": info.created_at,
    })
}

fn create(args: ProjectCreate, out: &Out) -> Result<()> {
    let mut config = Config::builder();
    if let Some(storage) = args.storage {
        config = config.storage(storage);
    }
    if let Some(runtime) = args.runtime {
        config = config.runtime(runtime);
    }
    if let Some(image) = args.image {
        config = config.image(image);
    }
    if let Some(size) = args.limits.memory {
        config = config.memory(size);
    }
    if let Some(number) = args.limits.cpus {
        config = config.cpus(number);
    }
    if let Some(size) = args.limits.shm_size {
        config = config.shm_size(size);
    }
    if let Some(major) = args.pg_version {
        config = config.pg_version(major);
    }
    let config = config.build()?;
    let mut builder = blocking::Project::builder(&args.name).config(config.clone());
    if let Some(role) = args.role {
        builder = builder.role(role);
    }
    if let Some(database) = args.database {
        builder = builder.database(database);
    }
    if let Some(locale) = args.locale {
        builder = builder.locale(locale);
    }
    if let Some(time) = args.wal_retention {
        builder = builder.wal_retention(time);
    }
    let source = super::import::source(&args.import)?;
    if let Some(source) = &source {
        builder = builder.from(source.clone());
    }
    // Nothing is fetched for a project that cannot be.
    builder.check()?;
    super::pg::ensure(&config, out)?;
    let project = match source {
        None => {
            let _spinner = Spinner::new(out, format!("creating {}", args.name));
            builder.create()?
        }
        Some(source) => {
            let spinner = Spinner::new(out, format!("creating {}", args.name));
            let source = source.progress(super::import::told(&spinner));
            super::import::create(builder.from(source))?
        }
    };
    let main = project.main()?;
    let info = project.info();
    let total = project.timings().total;
    out.result(
        || {
            let mut value = shape(&info);
            value["url"] = json!(main.url());
            value["timings_ms"] = output::timings(project.timings());
            value
        },
        |out| {
            out.line(main.url());
            out.line(format!(
                "{} created in {}: PostgreSQL {}, storage {}, runtime {}",
                info.name,
                output::took(total),
                info.postgres.version,
                info.storage,
                info.runtime.as_str(),
            ));
            super::import::notes(&info, out);
        },
    );
    Ok(())
}

fn refresh(args: &ProjectRefresh, out: &Out) -> Result<()> {
    let name = &args.name;
    let source = super::import::source(&args.import)?;
    let project = open_project(name)?;
    let project = {
        let spinner = Spinner::new(out, format!("refreshing {name}"));
        let mut spec = RefreshSpec::new().progress(super::import::told(&spinner));
        if let Some(source) = source {
            spec = spec.source(source);
        }
        super::import::refresh(&project, spec)?
    };
    let (info, main) = (project.info(), project.main()?);
    out.result(
        || {
            let mut value = shape(&info);
            value["url"] = json!(main.url());
            value["timings_ms"] = output::timings(project.timings());
            value
        },
        |out| {
            out.line(main.url());
            out.line(format!("{name} refreshed in {}", output::took(project.timings().total)));
            super::import::notes(&info, out);
        },
    );
    Ok(())
}

fn list(out: &Out) -> Result<()> {
    let projects = blocking::Project::list(&Config::load()?)?;
    out.result(
        || projects.iter().map(shape).collect(),
        |out| {
            if projects.is_empty() {
                return out.line("no projects; create one: velo project create NAME");
            }
            let rows: Vec<_> = projects
                .iter()
                .map(|p| {
                    vec![
                        p.name.to_string(),
                        p.storage.to_string(),
                        p.runtime.as_str().to_owned(),
                        p.postgres.version.to_string(),
                        output::age(p.created_at),
                    ]
                })
                .collect();
            out.table(&["PROJECT", "STORAGE", "RUNTIME", "POSTGRES", "AGE"], &rows);
        },
    );
    Ok(())
}

fn get(name: &str, out: &Out) -> Result<()> {
    let project = open_project(name)?;
    let info = project.info();
    let url = project.main()?.url();
    let follows = project.following()?;
    out.result(
        || {
            let mut value = shape(&info);
            value["url"] = json!(url);
            value["follows"] = follows.as_ref().map_or(Value::Null, super::follow::shape);
            value
        },
        |out| {
            out.pairs(&[
                ("name", info.name.to_string()),
                ("id", info.id.to_string()),
                ("url", url.clone()),
                ("storage", info.storage.to_string()),
                ("runtime", info.runtime.as_str().to_owned()),
                ("postgres", format!("{} ({})", info.postgres.version, info.postgres.place())),
                ("role", info.role.clone()),
                ("database", info.database.clone()),
                ("wal kept", kept(info.wal_retention)),
                ("source", super::import::from(&info)),
                ("follows", super::follow::told(follows.as_ref())),
                ("age", output::age(info.created_at)),
            ]);
        },
    );
    Ok(())
}

/// How long WAL is kept.
fn kept(seconds: Option<u64>) -> String {
    seconds.map_or_else(
        || "not at all".to_owned(),
        |seconds| crate::time::shown(std::time::Duration::from_secs(seconds)),
    )
}

fn set(args: &ProjectSet, out: &Out) -> Result<()> {
    let project = open_project(&args.name)?;
    let time = args.wal_retention.and_then(|time| time.0);
    let waiting = project.set_wal_retention(time)?;
    let restart = args.restart || (!waiting.is_empty() && ask(&args.name, &waiting, out));
    let mut restarted = Vec::new();
    for name in waiting.iter().filter(|_| restart) {
        let _spinner = Spinner::new(out, format!("restarting {}/{name}", args.name));
        project.branch(name.as_str())?.restart()?;
        restarted.push(name.clone());
    }
    let names = |names: &[String]| -> Vec<String> {
        names.iter().map(|name| format!("{}/{name}", args.name)).collect()
    };
    let info = open_project(&args.name)?.info();
    let left = if restart { Vec::new() } else { names(&waiting) };
    out.result(
        || {
            let mut value = shape(&info);
            value["restarted"] = json!(names(&restarted));
            value["to_restart"] = json!(left);
            value
        },
        |out| {
            out.line(format!("the WAL of {} is kept: {}", info.name, kept(info.wal_retention)));
        },
    );
    if !left.is_empty() && !out.json {
        let commands: Vec<_> = left.iter().map(|n| format!("velo branch restart {n}")).collect();
        out.note(&format!(
            "it holds from the next start of each server on; those that run: {}",
            commands.join("; ")
        ));
    }
    Ok(())
}

/// Whether servers may be restarted, whose clients lose their connections.
fn ask(project: &str, branches: &[String], out: &Out) -> bool {
    use std::io::{BufRead, IsTerminal, Write};
    let (input, error) = (std::io::stdin(), std::io::stderr());
    if out.json || !input.is_terminal() || !error.is_terminal() {
        return false;
    }
    let names: Vec<_> = branches.iter().map(|name| format!("{project}/{name}")).collect();
    let _ = write!(
        error.lock(),
        "it needs a restart, which disconnects their clients: {}. Restart now? [y/N] ",
        names.join(", ")
    );
    let mut answer = String::new();
    let _ = input.lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

fn delete(name: &str, force: bool, out: &Out) -> Result<()> {
    let project = open_project(name)?;
    let id = project.info().id;
    {
        let _spinner = Spinner::new(out, format!("deleting {name}"));
        project.delete(force)?;
    }
    out.result(
        || json!({ "name": name, "id": id.to_string(), "deleted": true }),
        |out| out.line(format!("{name} deleted")),
    );
    Ok(())
}
