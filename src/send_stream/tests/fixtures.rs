//! Streams captured from a real Btrfs by `integration_tests/capture_streams.sh`.

use std::path::PathBuf;

use super::dump::dump;
use super::*;

pub(super) const NAMES: [&str; 8] = [
    "v1_clone_source",
    "v1_full",
    "v1_incremental",
    "v1_no_data",
    "v2_compressed",
    "v2_full",
    "v2_incremental",
    "v2_unchanged",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration_tests/fixtures/streams")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

pub(super) fn captured(name: &str) -> Vec<u8> {
    fixture(&format!("{name}.stream"))
}

pub(super) fn facts(name: &str) -> StreamFacts {
    split(&captured(name)[..], SMALL).unwrap().facts
}

fn lines(text: &[u8]) -> Vec<String> {
    text.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect()
}

#[test]
fn every_captured_stream_is_tested() {
    let mut names: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "stream"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, NAMES);
}

#[test]
fn the_reader_agrees_with_btrfs_receive() {
    for name in NAMES {
        let (ours, theirs) = (lines(&dump(&captured(name))), lines(&fixture(&format!("{name}.dump"))));
        for (our_line, their_line) in ours.iter().zip(&theirs) {
            assert_eq!(our_line, their_line, "{name}");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}");
    }
}

#[test]
fn captured_streams_survive_splitting_and_rebuilding() {
    for name in NAMES {
        let stream = captured(name);
        for (read_bytes, piece) in [(1, 100_000), (65_536, 1), (1000, 999)] {
            let parted = split(slow(&stream, read_bytes), SMALL).unwrap();
            assert!(rebuild(&parted.commands, &parted.data, piece, piece).unwrap() == stream, "{name}");
        }
    }
}

#[test]
fn the_file_data_of_both_versions_is_the_same() {
    let (first, second) =
        (split(&captured("v1_full")[..], SMALL).unwrap(), split(&captured("v2_full")[..], SMALL).unwrap());
    assert_eq!(first.data, second.data);
    assert_eq!(first.file_starts, second.file_starts);
    assert_eq!(
        (facts("v1_full").kind, facts("v2_full").kind),
        (StreamKind::Send { version: 1 }, StreamKind::Send { version: 2 })
    );
}

#[test]
fn captured_streams_name_their_subject_and_their_parent() {
    let first = facts("v1_full").subject.unwrap();
    assert_eq!((&first.path[..], first.incremental, facts("v1_full").parent), (&b"first"[..], false, None));
    for name in ["v1_incremental", "v2_incremental", "v1_no_data"] {
        let facts = facts(name);
        let second = facts.subject.unwrap();
        assert_eq!((&second.path[..], second.incremental), (&b"second"[..], true));
        assert_eq!(facts.parent, Some(first.version));
        assert_eq!((facts.unknown_command_count, facts.more_subjects), (0, false));
    }
    let second = facts("v1_incremental").subject.unwrap();
    assert_eq!(facts("v2_unchanged").parent, Some(second.version));
}

#[test]
fn only_the_stream_with_a_clone_source_needs_one() {
    let second = facts("v1_incremental").subject.unwrap();
    for name in NAMES {
        let expected = if name == "v1_clone_source" { [second.version].into() } else { [].into() };
        assert_eq!(facts(name).clone_sources, expected, "{name}");
    }
}

#[test]
fn the_document_lists_every_command_and_attribute() {
    let document = include_str!("../../../docs/send_stream.md");
    for row in COMMANDS {
        let attributes: Vec<_> = row.attributes.iter().map(ToString::to_string).collect();
        let line = format!("| {} | `{}` | {} | {}", row.code.0, row.name, row.since_version, attributes.join(", "));
        assert!(document.contains(&format!("{} |\n", line.trim_end())), "{line}");
    }
    for row in ATTRIBUTES {
        let value = match row.value {
            ValueKind::U8 => "u8",
            ValueKind::U32 => "u32",
            ValueKind::U64 => "u64",
            ValueKind::Uuid => "UUID",
            ValueKind::Time => "time",
            ValueKind::Text => "text",
            ValueKind::Bytes => "bytes",
        };
        let line = format!("| {} | `{}` | {} | {value} |\n", row.code.0, row.name, row.since_version);
        assert!(document.contains(&line), "{line}");
    }
}
