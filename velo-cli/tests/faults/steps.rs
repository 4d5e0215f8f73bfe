//! The steps that the library's sources name.

use std::collections::BTreeSet;
use std::path::Path;

/// Every step that the library's sources name.
pub fn named() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../velo-core/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("src/testing") {
                // The suites for others are no operation of Velo's; what is watched there is.
                let watched = std::fs::read_to_string(path.join("faults.rs")).unwrap();
                found.extend(steps_in(&watched));
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                found.extend(steps_in(&source));
            }
        }
    }
    found
}

/// The names that are given to what makes a step, wherever the line breaks.
fn steps_in(source: &str) -> Vec<String> {
    const CALLS: [&str; 10] = [
        "step(",
        "step_now(",
        ".write(",
        ".write_durable(",
        ".execute(",
        ".execute_secret(",
        "disk::write(",
        "disk::remove(",
        "disk::remove_folder(",
        "disk::make_folder(",
    ];
    let mut found = Vec::new();
    for call in CALLS {
        for (at, _) in source.match_indices(call) {
            let rest = source[at + call.len()..].trim_start();
            if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                found.push(name.to_owned());
            }
        }
    }
    found
}
