//! `check --checksums` against the server in this process.

use serde_json::Value;

use super::piped::{Input, tool_on};
use crate::support::process::Ended;
use crate::support::s3_server::{ArchiveCounts, S3Server, checksum};
use crate::support::tool::Tool;

/// A repository with one backup whose packs of file data are archived, and one of these packs.
fn archived() -> (S3Server, Tool, String) {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n");
    Input::random(&tool, 9_000_000, 1).back_up(&tool).assert_code(0);
    let pack = server.keys().into_iter().find(|key| key.contains("/data/")).unwrap();
    (server, tool, pack)
}

fn check(tool: &Tool) -> (Ended, Value) {
    let checked = tool.run(["check", "--checksums", "--json", "--no-notes"]);
    let report = serde_json::from_slice(&checked.stdout).unwrap();
    (checked, report)
}

#[test]
fn lost_and_replaced_objects_are_found_while_they_are_archived() {
    let (server, tool, pack) = archived();
    let (whole, report) = check(&tool);
    whole.assert_code(0);
    assert_eq!(report["checksums_compared"], report["packs"]);
    assert_eq!(report["checksums_not_kept"], 0);

    // A bit that flips on the server's disk changes nothing of what the server says.
    let stored = server.object(&pack).unwrap();
    let mut other = stored.body.to_vec();
    other[1000] ^= 1;
    server.change(&pack, |kept| kept.body = other.clone().into());
    check(&tool).0.assert_code(0);

    // Somebody has stored the other bytes.
    server.change(&pack, |kept| kept.checksum_crc32c = Some(checksum(&other)));
    let (replaced, report) = check(&tool);
    replaced.assert_code(5);
    assert_eq!(report["findings"][0]["invariant"], "packs_are_those_that_were_stored");
    assert!(report["findings"][0]["object"].as_str().unwrap().ends_with(pack.split_once("/data/").unwrap().1));
    assert_eq!(report["affected"].as_array().unwrap().len(), 1);
    assert_eq!(server.archive_counts(), ArchiveCounts::default());
}

#[test]
fn a_server_that_keeps_no_checksums_is_not_taken_for_one_with_the_right_ones() {
    let (server, tool, _) = archived();
    server.set_oddities(|oddities| oddities.keeps_no_checksums = true);
    let (checked, report) = check(&tool);
    checked.assert_code(3);
    checked.assert_failed_naming("the store keeps no checksum");
    assert_eq!(report["checksums_compared"], 0);
    assert_eq!(report["checksums_not_kept"], report["packs"]);
}
