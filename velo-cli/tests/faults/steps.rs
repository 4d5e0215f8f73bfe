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
            let (before, rest) = (source[..at].trim_end(), source[at + call.len()..].trim_start());
            match literal(rest).or_else(|| constant(source, rest)) {
                Some(name) => found.push(name.to_owned()),
                None => {
                    let records = call == ".write_durable(" || before.ends_with("state()");
                    let line = rest.lines().next();
                    assert!(
                        !records,
                        "a record is written under a name that is not read: {line:?}"
                    );
                }
            }
        }
    }
    found
}

fn literal(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.split('"').next()
}

/// What the constant is that a text begins with.
fn constant<'a>(source: &'a str, text: &str) -> Option<&'a str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let name = &text[..text.find(|c| !is_name(c))?];
    let (_, value) = source.split_once(&format!("const {name}: &str = "))?;
    literal(value)
}

#[test]
fn a_step_is_found_however_it_is_named() {
    let source = "const WHAT: &str = \"b\"; a.execute(WHAT, 1); state\n.write_durable(\n\"a\", 2)";
    assert_eq!(steps_in(source), ["a", "b"]);
    let named = named();
    for step in [
        "commit a branch",
        "record that a server was switched",
        "record that a server stays off",
        "cut its subscriptions off from their publishers",
    ] {
        assert!(named.contains(step), "{step} is not in {named:?}");
    }
}

#[test]
#[should_panic(expected = "a name that is not read")]
fn a_record_whose_name_is_not_read_is_an_error() {
    steps_in("home\n.state()\n.write(step, work)");
}
