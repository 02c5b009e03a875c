//! An increment is only made on the very snapshot that was backed up.

use std::fs;
use std::path::Path;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{command, succeed};
use crate::support::tool::{Tool, data, snapshot_of, snapshots};
use crate::support::tree::{Recorded, mutate, seed};

/// Deletes the snapshot.
fn delete(_source: &TestBtrfs, snapshot: &Path) {
    succeed(command("btrfs").args(["subvolume", "delete"]).arg(snapshot));
}

/// Puts another snapshot in its place, of other contents.
fn replace(source: &TestBtrfs, snapshot: &Path) {
    delete(source, snapshot);
    succeed(command("btrfs").args(["subvolume", "snapshot", "-r"]).arg(data(source)).arg(snapshot));
}

/// Changes it and makes it read-only again: it keeps its UUID.
fn edit(_source: &TestBtrfs, snapshot: &Path) {
    let set_read_only = |value: &str| {
        succeed(command("btrfs").args(["property", "set", "-f"]).arg(snapshot).args(["ro", value]));
    };
    set_read_only("false");
    fs::write(snapshot.join("sizes/random-4096"), "edited").unwrap();
    set_read_only("true");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_parent_replaced_edited_or_deleted_gives_a_full_that_restores() {
    let source = TestBtrfs::new(4096, "");
    let tool = Tool::for_subvolume_of(&source);
    seed(&data(&source), 4);
    tool.back_up([]);

    for (night, spoil) in (1..).zip([delete, replace, edit]) {
        mutate(&data(&source), 2 * night);
        // Leaves one snapshot only that could be the parent.
        let parent = tool.back_up(["--full"]);
        let only = snapshot_of(&source, &parent);
        for (_, other) in source.subvolumes() {
            if other.starts_with(snapshots(&source)) && other != only {
                delete(&source, &other);
            }
        }
        mutate(&data(&source), 2 * night + 1);
        spoil(&source, &only);

        let tree = Recorded::of(&data(&source));
        let backup = tool.back_up([]);
        assert_eq!((backup.kind.as_str(), &backup.parent), ("full", &None), "after spoil {night}");
        let restored = TestBtrfs::new(2048, "");
        tool.restore(&backup.id, &restored.path().join("target"));
        tree.assert_equals(&restored.path().join("target"));
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn snapshots_are_kept_by_count_and_the_next_parent_is_among_them() {
    let source = TestBtrfs::new(1024, "");
    let tool = Tool::keeping_snapshots_of(&source, 2);
    for night in 0..4 {
        fs::write(data(&source).join("file"), format!("night {night}")).unwrap();
        let backup = tool.back_up([]);
        assert_eq!(backup.kind, if night == 0 { "full" } else { "incremental" });
        snapshot_of(&source, &backup);
    }
    let kept = source.subvolumes().into_iter().filter(|(_, path)| path.starts_with(snapshots(&source)));
    assert_eq!(kept.count(), 2);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_parent_is_found_again_when_the_local_state_is_gone() {
    let source = TestBtrfs::new(1024, "");
    let tool = Tool::for_subvolume_of(&source);
    let first = tool.back_up([]);
    tool.lose_state();
    fs::write(data(&source).join("file"), "changed").unwrap();
    let second = tool.back_up([]);
    assert_eq!((second.kind.as_str(), second.parent), ("incremental", Some(first.id)));
}
