//! What is said of costs, against what a server has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::piped::{Input, tool_on};
use crate::support::s3_server::{ArchiveCounts, S3Server};
use crate::support::tool::Tool;

const DOCUMENT: &str = include_str!("../../../docs/cost.md");
const DEEP_ARCHIVE: &str = "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n";
const GB: f64 = 1_073_741_824.0;

/// The words in backticks in the first table below a heading, but for those in a third column.
fn documented_keys(heading: &str) -> BTreeSet<String> {
    let (_, below) = DOCUMENT.split_once(&format!("## {heading}\n")).unwrap();
    let section = below.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

/// The keys of all objects in a value.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.keys().cloned());
            members.values().for_each(|member| keys(member, found));
        }
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, found)),
        _ => {}
    }
}

/// What a command prints with `--json`; it has to have the documented keys.
#[track_caller]
fn documented_json(tool: &Tool, arguments: &[&str], heading: &str) -> Value {
    let ended = tool.run(arguments);
    ended.assert_code(0);
    let value: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let mut found = BTreeSet::new();
    keys(&value, &mut found);
    assert_eq!(found, documented_keys(heading));
    value
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

#[track_caller]
fn assert_near(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!((value - expected).abs() < 1e-8, "{value} instead of {expected}");
}

/// A class as `cost --json` shows it.
fn class_of<'v>(cost: &'v Value, name: &str) -> &'v Value {
    let mut classes = cost["classes"].as_array().unwrap().iter();
    classes.find(|class| class["class"] == name).unwrap()
}

#[test]
fn a_bucket_costs_what_the_classes_of_its_objects_say() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, DEEP_ARCHIVE);
    Input::random(&tool, 9_000_000, 1).back_up(&tool).assert_code(0);
    let cost = documented_json(&tool, &["cost", "--json"], "`cost --json`");
    let kept: Vec<_> = server.keys().iter().map(|key| server.object(key).unwrap()).collect();
    let is_deep = |deep: bool| kept.iter().filter(move |kept| kept.storage_class.is_some() == deep);
    let bytes_of = |deep: bool| is_deep(deep).map(|kept| number(kept.body.len())).sum::<f64>();
    let count = number(is_deep(true).count());

    let deep = class_of(&cost, "DEEP_ARCHIVE");
    let overhead = count * (32.0 * 0.000_99 + 8.0 * 0.023) * 1024.0 / GB;
    assert_near(&deep["storage"], bytes_of(true) / GB * 0.000_99);
    assert_near(&deep["overhead"], overhead);
    assert_near(&deep["early_deletion"], bytes_of(true) / GB * 0.000_99 * 6.0);
    assert_near(&deep["retrieval"]["bulk"], bytes_of(true) / GB * 0.0025 + count * (0.025 + 0.0004) / 1000.0);
    assert!(deep["retrieval"]["expedited"].is_null() && deep["retrieval"]["without_thaw"].is_null());
    let standard = class_of(&cost, "STANDARD");
    assert_near(&standard["storage"], bytes_of(false) / GB * 0.023);
    assert_near(&cost["month"], (bytes_of(true) * 0.000_99 + bytes_of(false) * 0.023) / GB + overhead);
    // The one backup there is; the config is nobody's.
    assert_eq!(cost["next"]["backups"], 1);
    assert_eq!(cost["next"]["bytes"], tool.list()[0].stored_bytes);
    assert_eq!(cost["next"]["objects"], kept.len() - 1);
    assert_eq!(server.archive_counts(), ArchiveCounts::default());

    let text = tool.run(["cost"]).text();
    for word in ["amounts in USD", "as of January 2025", "DEEP_ARCHIVE", "total", "bulk", "the next backups add"] {
        assert!(text.contains(word), "'{word}' is not in:\n{text}");
    }
}

#[test]
fn the_prices_of_the_configuration_count_and_a_class_without_any_is_told() {
    let server = S3Server::start_in_thread();
    let prices =
        "[prices]\ncurrency = \"EUR\"\n[[prices.classes]]\nclass = \"STANDARD\"\nstorage_per_gb_month = 1000\n";
    let tool = tool_on(&server, prices);
    Input::random(&tool, 1_000_000, 1).back_up(&tool).assert_code(0);
    for key in server.keys().iter().filter(|key| key.contains("/data/")) {
        server.change(key, |kept| kept.storage_class = Some("COLD".to_owned()));
    }
    let ended = tool.run(["cost", "--json"]);
    ended.assert_code(0);
    assert!(ended.stderr.contains("there are no prices of class COLD"), "{}", ended.stderr);
    let cost: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let standard = class_of(&cost, "STANDARD");
    assert_near(&standard["storage"], (standard["bytes"].as_f64().unwrap() / GB * 1000.0 * 1e9).round() / 1e9);
    assert_eq!((&cost["month"], &cost["currency"]), (&standard["storage"], &"EUR".into()));
    assert!(class_of(&cost, "COLD")["storage"].is_null() && class_of(&cost, "COLD")["bytes"].as_u64() > Some(900_000));
}

#[test]
fn a_directory_has_objects_and_no_price() {
    let tool = Tool::without_configuration();
    tool.configure("");
    tool.run(["init"]).assert_code(0);
    Input::random(&tool, 1_000_000, 1).back_up(&tool).assert_code(0);
    let cost = documented_json(&tool, &["cost", "--json"], "`cost --json`");
    assert!(cost["month"].is_null() && cost["currency"].is_null() && cost["bytes"].as_u64() > Some(1_000_000));
    let text = tool.run(["cost"]).text();
    assert!(text.contains("a directory has no price"), "{text}");
}
