//! What is there already is not stored again.

use std::fs;
use std::path::Path;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{command, succeed};
use crate::support::tool::{Backup, Tool, data};
use crate::support::tree::{Recorded, random_bytes, seed, total_bytes};

const LARGE_BYTES: usize = 64 << 20;

/// Backs up and gives what the repository has grown by, all objects counted.
fn back_up_measured<const N: usize>(tool: &Tool, arguments: [&str; N]) -> (Backup, u64) {
    let before = total_bytes(&tool.repository());
    let backup = tool.back_up(arguments);
    (backup, total_bytes(&tool.repository()) - before)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_second_full_of_an_unchanged_subvolume_stores_under_half_a_percent() {
    let source = TestBtrfs::new(2048, "");
    let tool = Tool::for_subvolume_of(&source);
    seed(&data(&source), 128);
    let (first, first_bytes) = back_up_measured(&tool, []);
    let (second, second_bytes) = back_up_measured(&tool, ["--full"]);
    assert_eq!((first.kind.as_str(), second.kind.as_str()), ("full", "full"));
    assert_eq!(second.parent, None);
    assert!(second_bytes * 200 < first_bytes, "{second_bytes} bytes after {first_bytes}");
    assert!(second.new_bytes * 200 < first.new_bytes, "{} new after {}", second.new_bytes, first.new_bytes);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn the_list_says_what_the_repository_grew_by() {
    let source = TestBtrfs::new(1024, "");
    let tool = Tool::for_subvolume_of(&source);
    seed(&data(&source), 16);
    let (backup, grown_bytes) = back_up_measured(&tool, []);
    assert_eq!(backup.subvolume, "data");
    assert!(!backup.host.is_empty());
    assert!(backup.created_at.ends_with('Z'), "{} is not in UTC", backup.created_at);
    assert!(backup.stored_bytes <= grown_bytes, "{} of {grown_bytes}", backup.stored_bytes);
    // A manifest cannot count itself and the end of its session.
    assert!(backup.stored_bytes + 4096 >= grown_bytes, "{} of {grown_bytes}", backup.stored_bytes);
    assert!(backup.new_bytes <= backup.stream_bytes);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_moved_or_shifted_large_file_costs_little() {
    let source = TestBtrfs::new(4096, "");
    let tool = Tool::for_subvolume_of(&source);
    let file = data(&source).join("large");
    fs::write(&file, random_bytes(LARGE_BYTES, 1)).unwrap();
    tool.back_up([]);

    let moved = data(&source).join("folder/moved");
    fs::create_dir(moved.parent().unwrap()).unwrap();
    fs::rename(&file, &moved).unwrap();
    assert_little_is_stored(&tool, "moving");

    let copied = data(&source).join("copied");
    succeed(command("cp").arg("--reflink=never").arg(&moved).arg(&copied));
    assert_little_is_stored(&tool, "copying");

    shift_by_a_byte(&copied);
    assert_little_is_stored(&tool, "shifting");

    let tree = Recorded::of(&data(&source));
    let last = tool.list().pop().unwrap();
    let restored = TestBtrfs::new(1024, "");
    tool.restore(&last.id, &restored.path().join("target"));
    tree.assert_equals(&restored.path().join("target"));
}

/// Both ways of sending it: as an increment, and anew.
fn assert_little_is_stored(tool: &Tool, what: &str) {
    let (_, incremental_bytes) = back_up_measured(tool, []);
    let (_, full_bytes) = back_up_measured(tool, ["--full"]);
    for stored_bytes in [incremental_bytes, full_bytes] {
        assert!(stored_bytes * 20 < LARGE_BYTES as u64, "{what} it stores {stored_bytes} bytes");
    }
}

fn shift_by_a_byte(file: &Path) {
    let mut contents = b"!".to_vec();
    contents.extend(fs::read(file).unwrap());
    fs::write(file, contents).unwrap();
}
