//! Figures, and what they are measured by.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use velo_benches::figures::{Times, ms};
use velo_benches::{Table, machine};

use crate::Plan;
use crate::measure::{End, Measured};

/// One of the figures of an end.
type Of = fn(&End) -> &Times;

const RATIO: f64 = 1.1;
const PSS_MB: f64 = 10.0;
const CREATED_KB: u64 = 100;
const QUERIED_KB: u64 = 500;

/// As Markdown.
pub(crate) fn render(all: &[Measured], plan: &Plan) -> String {
    let mut systems = String::new();
    for one in all {
        let (storage, system) = (one.storage, &one.file_system);
        systems.push_str(&format!("- {storage}: {system}, PostgreSQL {}\n", one.postgres));
    }
    format!(
        "# What a branch costs when many live already\n\n\
         Written by `cargo bench -p velo-benches --bench scale -- --write`.\n\n\
         - Date: {}\n- Machine: {}; load {}, niceness {}\n{systems}\n\
         ## With few and with all of them alive\n\n\
         Ephemeral branches of a seed of 40 MB. Create: `Seed::branch`. Info: `Branch::info`. List: \
         `Project::branches`,\nfor each branch in the list. Close: `Branch::close`; gone: the same until its \
         files are gone too. Delete:\n`Branch::delete` of a lasting branch whose server does not run. Medians in \
         milliseconds; few was measured\nbefore and after, many once all had rested for {} s.\n\n{}\n\
         ## Steps of a creation\n\n\
         Medians in milliseconds. Ready is PostgreSQL's own: from the start of its program until it answers. Keys is a \
         part\nof it, done again by the benchmark: the search for a key that no other server's shared memory \
         has.\n\n{}\n\
         ## Processor time\n\n\
         Of Velo's process, with what the kernel does for it, for a creation, a closing until all is gone and a \
         deletion; of\nthe postmaster until it answers. It says more than the time that passes where others use the \
         machine. Medians in\nmilliseconds.\n\n{}\n\
         ## Memory and space\n\n\
         PSS of all processes of each of {} idle branches, which have answered a query; extents of its own of \
         each of\n{} branches.\n\n{}\n## Targets\n\n{}{CAUSES}",
        machine::today(),
        machine::describe(),
        machine::load(),
        machine::niceness(),
        plan.rest().as_secs(),
        ends(all).render(),
        steps(all).render(),
        processor(all).render(),
        all.first().map_or(0, |one| one.memory.len()),
        all.first().map_or(0, |one| one.created.len()),
        sizes(all).render(),
        targets(all, plan).render(),
    )
}

/// What is behind figures that miss their target.
const CAUSES: &str = "
What is behind those that are missed:

- A creation on btrfs: PostgreSQL begins its search for a key of shared memory at the inode of PGDATA, which
  is the same for every subvolume, and looks into the segment of each server that it meets (keys, above). With
  an IPC namespace of its own a server beside 500 others needed no more processor time than beside none. And
  each clone that changes a block of metadata adds a reference to every extent that the block names, which the
  next snapshot waits for (`btrfs_run_delayed_refs` in a profile).
- A closing and a deletion on btrfs: Velo does no more than on XFS, where they cost what they cost with few; removing the
  files of a server and its subvolume costs btrfs more, for the same references.
- The time that passes, beside the processor time: 500 servers at rest still wake up, each some times in ten
  seconds and once a minute for a worker of autovacuum, and other work used the machine too.
- Extents when created: PostgreSQL removes its caches of the catalog (`pg_internal.init`) at every start, and
  the first session, Velo's look whether it answers, writes them anew: 164 kB for the database and 28 kB for
  all. Whoever comes next is answered sooner for it. ZFS, which compresses them, is not measured here but in
  its tests (`zfs_branches_of_a_seed_begin_small`): 121 kB when created (100 are wanted), 126 to 137 after the first query.
- Memory below 8 MB: a third of what a server takes are its tables of locks, whose size follows from
  `max_connections`, `max_locks_per_transaction` and `max_pred_locks_per_transaction`. With smaller ones SQL
  would meet errors that it does not meet in the parent.
";

fn ends(all: &[Measured]) -> Table {
    let mut table = Table::new(&[
        "storage", "alive", "create", "p95", "info", "list", "close", "gone", "delete",
    ]);
    for one in all {
        for end in [&one.few, &one.many] {
            table.row(vec![
                one.storage.to_string(),
                if end.alive == 0 { "few".to_owned() } else { end.alive.to_string() },
                ms(end.create.median()),
                ms(end.create.at(0.95)),
                fine(&end.info),
                fine(&end.list),
                ms(end.close.median()),
                ms(end.gone.median()),
                ms(end.delete.median()),
            ]);
        }
        let ratio = |of: fn(&End) -> &Times| format!("{:.2}", ratio(one, of));
        table.row(vec![
            one.storage.to_string(),
            "ratio".to_owned(),
            ratio(|end| &end.create),
            String::new(),
            ratio(|end| &end.info),
            ratio(|end| &end.list),
            ratio(|end| &end.close),
            ratio(|end| &end.gone),
            ratio(|end| &end.delete),
        ]);
    }
    table
}

/// What takes less than a millisecond.
fn fine(times: &Times) -> String {
    format!("{:.3}", times.median())
}

fn ratio(one: &Measured, of: impl Fn(&End) -> &Times) -> f64 {
    of(&one.many).median() / of(&one.few).median()
}

fn steps(all: &[Measured]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in all.iter().flat_map(|one| &one.few.steps) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut head = vec!["storage", "alive"];
    head.extend(&names);
    head.push("(keys)");
    let mut table = Table::new(&head);
    for one in all {
        for end in [&one.few, &one.many] {
            let alive = if end.alive == 0 { "few".to_owned() } else { end.alive.to_string() };
            let mut cells = vec![one.storage.to_string(), alive];
            for name in &names {
                let times = end.steps.iter().find(|(known, _)| known == name);
                cells.push(times.map_or_else(String::new, |(_, times)| fine(times)));
            }
            cells.push(fine(&end.keys));
            table.row(cells);
        }
    }
    table
}

fn processor(all: &[Measured]) -> Table {
    let mut table = Table::new(&["storage", "alive", "create", "close", "delete", "postmaster"]);
    let figures: [Of; 4] = [
        |end| &end.cpu_create,
        |end| &end.cpu_close,
        |end| &end.cpu_delete,
        |end| &end.cpu_postmaster,
    ];
    for one in all {
        for end in [&one.few, &one.many] {
            let alive = if end.alive == 0 { "few".to_owned() } else { end.alive.to_string() };
            let cells = figures.map(|of| fine(of(end)));
            table.row([one.storage.to_string(), alive].into_iter().chain(cells).collect());
        }
        let cells = figures.map(|of| format!("{:.2}", ratio(one, of)));
        table.row([one.storage.to_string(), "ratio".to_owned()].into_iter().chain(cells).collect());
    }
    table
}

/// The mean and the largest PSS of a branch, in MB.
fn pss(one: &Measured) -> (f64, f64) {
    let all = one.memory.iter().map(|parts| parts.values().sum::<u64>() as f64 / 1024.0);
    let (sum, most) = all.fold((0.0, 0.0), |(sum, most), mb| (sum + mb, f64::max(most, mb)));
    (sum / one.memory.len() as f64, most)
}

/// The largest, in kB.
fn most(bytes: &[u64]) -> u64 {
    bytes.iter().max().map_or(0, |bytes| bytes.div_ceil(1024))
}

fn sizes(all: &[Measured]) -> Table {
    let mut table = Table::new(&[
        "storage",
        "PSS each, mean",
        "most",
        "of which (mean, kB)",
        "extents when created, most",
        "after the first query",
    ]);
    for one in all {
        let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
        for (what, kb) in one.memory.iter().flatten() {
            *parts.entry(what).or_insert(0) += kb;
        }
        let branches = one.memory.len().max(1) as u64;
        let parts: Vec<String> =
            parts.iter().map(|(what, kb)| format!("{what} {}", kb / branches)).collect();
        let (mean, largest) = pss(one);
        table.row(vec![
            one.storage.to_string(),
            format!("{mean:.1} MB"),
            format!("{largest:.1} MB"),
            parts.join(", "),
            format!("{} kB", most(&one.created)),
            format!("{} kB", most(&one.queried)),
        ]);
    }
    table
}

fn targets(all: &[Measured], plan: &Plan) -> Table {
    let mut table = Table::new(&["target", "storage", "figure", ""]);
    let said = |met: bool| if met { "met" } else { "missed" }.to_owned();
    for one in all {
        let storage = one.storage.to_string();
        let costs: [(&str, Of); 3] = [
            ("create", |end| &end.create),
            ("close", |end| &end.gone),
            ("delete", |end| &end.delete),
        ];
        for (what, of) in costs {
            let ratio = ratio(one, of);
            table.row(vec![
                format!("{what} with {} alive at most {RATIO} of that with few", plan.branches()),
                storage.clone(),
                format!("{ratio:.2}"),
                said(ratio <= RATIO),
            ]);
        }
        let (mean, largest) = pss(one);
        table.row(vec![
            format!("{PSS_MB} MB of PSS for each of {} idle branches at most", one.memory.len()),
            storage.clone(),
            format!("{mean:.1} MB, most {largest:.1} MB"),
            said(largest <= PSS_MB),
        ]);
        for (when, bytes, limit) in [
            ("when created", &one.created, CREATED_KB),
            ("after the first query", &one.queried, QUERIED_KB),
        ] {
            table.row(vec![
                format!("{limit} kB of own extents at most {when}"),
                storage.clone(),
                format!("{} kB", most(bytes)),
                said(most(bytes) <= limit),
            ]);
        }
    }
    table
}

/// As JSON.
pub(crate) fn data(all: &[Measured]) -> Value {
    let end = |end: &End| {
        let steps: BTreeMap<&str, Value> =
            end.steps.iter().map(|(name, times)| (name.as_str(), times.json())).collect();
        json!({
            "alive": end.alive,
            "create": end.create.json(),
            "steps": steps,
            "cpu_create": end.cpu_create.json(),
            "cpu_close": end.cpu_close.json(),
            "cpu_delete": end.cpu_delete.json(),
            "cpu_postmaster": end.cpu_postmaster.json(),
            "keys": end.keys.json(),
            "info": end.info.json(),
            "list_each": end.list.json(),
            "close": end.close.json(),
            "gone": end.gone.json(),
            "delete": end.delete.json(),
        })
    };
    let rows = all.iter().map(|one| {
        json!({
            "storage": one.storage.to_string(),
            "file_system": one.file_system,
            "postgres": one.postgres,
            "few": end(&one.few),
            "many": end(&one.many),
            "memory_kb": one.memory,
            "extents_created": one.created,
            "extents_queried": one.queried,
        })
    });
    json!({"date": machine::today(), "machine": machine::describe(), "rows": rows.collect::<Vec<_>>()})
}
