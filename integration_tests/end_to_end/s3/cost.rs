//! What is said of costs, against what a server has.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::piped::{Input, tool_on};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::documented::{assert_all_documented, assert_documented};
use crate::support::s3_server::{ArchiveCounts, S3Server};
use crate::support::tool::{Tool, data, make_subvolume, subvolume_section};
use crate::support::tree::random_bytes;

const DOCUMENT: &str = include_str!("../../../docs/cost.md");
const DEEP_ARCHIVE: &str = "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n";
const GB: f64 = 1_073_741_824.0;

/// What a command prints with `--json`; it must not have keys that are not documented.
#[track_caller]
fn documented_json(tool: &Tool, arguments: &[&str], heading: &str) -> Value {
    let ended = tool.run(arguments);
    ended.assert_code(0);
    let value: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_documented(&value, DOCUMENT, heading);
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
    assert_all_documented(&cost, DOCUMENT, "`cost --json`");
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

const DRY_RUN: [&str; 5] = ["restore", "latest", "--subvolume", "pipe", "--dry-run"];

/// What a dry run says; of a stream.
#[track_caller]
fn dry_run(tool: &Tool, options: &[&str]) -> Value {
    let arguments: Vec<&str> = DRY_RUN.iter().chain(&["--json"]).chain(options).copied().collect();
    documented_json(tool, &arguments, "`restore --dry-run --json`")
}

#[test]
fn a_dry_run_of_a_restore_says_what_it_takes_and_asks_for_nothing() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, DEEP_ARCHIVE);
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    let before = dry_run(&tool, &["--stream", "x"]);
    assert_all_documented(&before, DOCUMENT, "`restore --dry-run --json`");
    let packs: Vec<_> = server.keys().into_iter().filter(|key| key.contains("/data/")).collect();
    let bytes: usize = packs.iter().map(|key| server.object(key).unwrap().body.len()).sum();
    let deep = class_of(&before, "DEEP_ARCHIVE");
    assert_eq!((&deep["packs"], &deep["archived_packs"]), (&packs.len().into(), &packs.len().into()));
    assert_eq!((&deep["bytes"], &deep["archived_bytes"]), (&bytes.into(), &bytes.into()));
    assert_eq!((&before["streams"], &before["stream_bytes"]), (&1.into(), &9_000_000.into()));
    let tiers: Vec<&str> =
        before["thaws"].as_array().unwrap().iter().filter_map(|thaw| thaw["tier"].as_str()).collect();
    assert_eq!(tiers, ["standard", "bulk"]);
    assert_eq!((&before["thaws"][0]["seconds"], &before["thaw_tier"]), (&(12 * 3600).into(), &"standard".into()));
    let (bytes, count) = (number(bytes), number(packs.len()));
    assert_near(&before["thaws"][0]["thaw"], bytes / GB * 0.02 + count * 0.1 / 1000.0);
    let days = before["thaw_days"].as_f64().unwrap();
    assert_near(&before["thaws"][0]["copies"], bytes / GB * 0.023 * days / 30.0);
    assert_near(&before["transfer_out"], 9_000_000.0 / GB * 0.09);
    assert_eq!(server.archive_counts(), ArchiveCounts::default());
    let text = tool.run(DRY_RUN).text();
    for word in ["are archived in DEEP_ARCHIVE", "standard (as it is set)", "12 h", "USD", "nothing has been asked for"]
    {
        assert!(text.contains(word), "'{word}' is not in:\n{text}");
    }

    let restore = ["restore", "latest", "--subvolume", "pipe", "--stream", "-"];
    tool.run(restore).assert_code(6);
    assert_eq!(dry_run(&tool, &[])["thawing_packs"], packs.len());
    server.pass(Duration::from_hours(12));
    let after = dry_run(&tool, &[]);
    assert_eq!((&after["thawing_packs"], &after["thawed_packs"]), (&0.into(), &packs.len().into()));
    assert_eq!(after["thaws"], Value::Array(Vec::new()));
    // The estimate of requests, against those of a restore: of packs alone, and neither half as many nor twice.
    server.take_requests();
    tool.run(restore).assert_code(0);
    let is_read = |request: &&String| request.contains("/data/") || request.contains("/meta/");
    let requests = server.take_requests();
    let gets = requests.iter().filter(|request| !request.starts_with("List")).filter(is_read).count();
    let estimated = usize::try_from(after["requests"].as_u64().unwrap()).unwrap();
    assert!(estimated <= 2 * gets && gets <= 2 * estimated, "{estimated} estimated, {gets} made: {requests:#?}");
}

#[test]
fn a_dry_run_tells_of_packs_that_are_gone() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    Input::random(&tool, 5_000_000, 1).back_up(&tool).assert_code(0);
    let key = server.keys().into_iter().find(|key| key.contains("/data/")).unwrap();
    server.remove(&key);
    let ended = tool.run(DRY_RUN);
    ended.assert_code(3);
    let name = key.rsplit_once('/').unwrap().1;
    assert!(ended.stderr.contains(name) && ended.stderr.contains("is not there"), "{}", ended.stderr);
}

#[test]
fn a_dry_run_of_a_local_restore_has_no_price() {
    let tool = Tool::without_configuration();
    tool.configure("");
    tool.run(["init"]).assert_code(0);
    Input::random(&tool, 1_000_000, 1).back_up(&tool).assert_code(0);
    let value = dry_run(&tool, &["--stream", "x"]);
    assert!(value["total"].is_null() && value["bytes"].as_u64() > Some(900_000));
    assert!(tool.run(DRY_RUN).text().contains("the repository is a directory"));
    tool.run(["restore", "latest", "--subvolume", "pipe", "--stream", "-", "--json"]).assert_code(2);
}

/// What a run costs by what the server has kept and was asked, with the built-in prices: for requests, and a month.
fn cost_by_hand(server: &S3Server, requests: &[String]) -> (f64, f64) {
    let is_deep = |key: &str| server.object(key).is_some_and(|kept| kept.storage_class.is_some());
    let price = |request: &String| match request.split_once(' ').unwrap() {
        ("PutObject", key) if is_deep(key) => 0.05,
        ("GetObject" | "HeadObject", _) => 0.000_4,
        _ => 0.005,
    };
    let of_object = |key: String| {
        let bytes = number(server.object(&key).unwrap().body.len());
        let overhead = 32.0 * 1024.0 * 0.000_99 + 8.0 * 1024.0 * 0.023;
        if is_deep(&key) { bytes * 0.000_99 + overhead } else { bytes * 0.023 }
    };
    // The config was there before.
    let stored = server.keys().into_iter().filter(|key| !key.ends_with("config/0"));
    (requests.iter().map(price).sum::<f64>() / 1000.0, stored.map(of_object).sum::<f64>() / GB)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_run_says_what_it_costs_where_prices_are_known() {
    let server = S3Server::start_in_thread();
    let (source, tool) = (TestBtrfs::new(512, ""), tool_on(&server, ""));
    make_subvolume(&source);
    let section = subvolume_section(&source, 3);
    let metrics = tool.folder().join("m.prom");
    let monitoring = format!("[monitoring]\nmetrics_textfile = \"{}\"\n", metrics.display());
    let run = |prices: &str, arguments: &[&str], seed: u64| {
        fs::write(data(&source).join("file"), random_bytes(9_000_000, seed)).unwrap();
        tool.configure(&format!("{DEEP_ARCHIVE}{prices}{monitoring}{section}"));
        let ended = tool.run(arguments);
        ended.assert_code(0);
        ended
    };
    server.take_requests();
    let prices = "[prices]\ncurrency = \"dollars\"\n";
    let report: Value = serde_json::from_slice(&run(prices, &["backup", "--json"], 1).stdout).unwrap();
    let requests = server.take_requests();
    let (for_requests, month) = cost_by_hand(&server, &requests);
    assert!(for_requests > 0.000_1 && month > 0.000_001, "{for_requests}, {month}");
    assert_near(&report["cost"]["requests"], for_requests);
    assert_near(&report["cost"]["month"], month);
    assert_eq!(report["cost"]["currency"], "dollars");
    assert_documented(&report, include_str!("../../../docs/operating.md"), "`backup --json`");
    let metrics = fs::read_to_string(metrics).unwrap();
    let line = format!("\nbtrfs_to_s3_last_run_requests_cost {}\n", report["cost"]["requests"]);
    assert!(metrics.contains(&line), "{line}{metrics}");

    let text = run(prices, &["backup"], 2).text();
    assert!(text.contains(" dollars for these, and <0.0001 dollars a month for what was stored"), "{text}");
    // The built-in prices are not those of a server that is not AWS.
    let report: Value = serde_json::from_slice(&run("", &["backup", "--json"], 3).stdout).unwrap();
    assert!(report["cost"].is_null() && report["requests"]["writes"].as_u64() > Some(3), "{report}");
}
