//! Holds what `--json` prints to the tables of the documents.

use std::collections::BTreeSet;

use serde_json::Value;

/// The words in backticks in the rows of the table below a heading.
fn documented_keys(document: &str, heading: &str) -> BTreeSet<String> {
    let (_, below) = document.split_once(&format!("## {heading}\n")).unwrap();
    let section = below.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

/// The keys of all objects in a value.
fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => members.keys().cloned().chain(members.values().flat_map(keys)).collect(),
        Value::Array(elements) => elements.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

/// Checks that a value that has everything has all documented keys, and no others.
#[track_caller]
pub(crate) fn assert_all_documented(value: &Value, document: &str, heading: &str) {
    assert_eq!(keys(value), documented_keys(document, heading));
}

/// Checks that a value has no key that is not documented.
#[track_caller]
pub(crate) fn assert_documented(value: &Value, document: &str, heading: &str) {
    let found = keys(value);
    assert!(found.is_subset(&documented_keys(document, heading)), "{found:?}");
}
