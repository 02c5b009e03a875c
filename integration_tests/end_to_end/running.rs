//! Runs beside each other, runs that change nothing, and runs that cannot succeed.

use std::collections::BTreeSet;
use std::fs;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::{Ended, command, succeed};
use crate::support::tool::{Tool, data, snapshots};
use crate::support::tree::{Recorded, random_bytes, total_bytes};

/// A source with a little data.
fn small_source() -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), random_bytes(1 << 20, 1)).unwrap();
    (source, tool)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_second_run_at_once_exits_4() {
    let (_source, tool) = small_source();
    let shim = BtrfsShim::new(&Act::HoldSend);
    let first = tool.start_with(shim.path(), ["backup"]);
    shim.wait_until_held();
    tool.run(["backup"]).assert_code(4);
    tool.run(["backup", "--no-s3"]).assert_code(4);
    shim.release();
    Ended::from(first.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(tool.list().len(), 1);
    // The lock went with its holder.
    tool.back_up([]);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn two_backups_within_a_second_do_not_collide() {
    let (source, tool) = small_source();
    for _ in 0..3 {
        tool.run(["backup", "--no-s3"]).assert_code(0);
    }
    let back_up = |number: u64| {
        fs::write(data(&source).join("file"), random_bytes(1 << 10, number)).unwrap();
        tool.back_up([])
    };
    let backups: Vec<_> = (0..3).map(back_up).collect();
    assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 6);
    let different: BTreeSet<_> = backups.iter().map(|backup| backup.snapshot_uuid.as_ref().unwrap()).collect();
    assert_eq!(different.len(), 3);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn no_s3_takes_snapshots_only() {
    let (source, tool) = small_source();
    let before_bytes = total_bytes(&tool.repository());
    tool.run(["backup", "--no-s3"]).assert_code(0);
    assert_eq!(total_bytes(&tool.repository()), before_bytes);
    assert_eq!(tool.list(), []);
    assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 1);
    assert_eq!(tool.back_up([]).kind, "full");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn dry_run_changes_nothing() {
    let (source, tool) = small_source();
    // Also before there is any backup, and any state.
    assert_dry_runs_change_nothing(&source, &tool);
    tool.back_up([]);
    fs::write(data(&source).join("file"), random_bytes(1 << 20, 2)).unwrap();
    assert_dry_runs_change_nothing(&source, &tool);
    assert_eq!(tool.back_up([]).kind, "incremental");
}

fn assert_dry_runs_change_nothing(source: &TestBtrfs, tool: &Tool) {
    let repository = Recorded::of(&tool.repository());
    let state = tool.state().is_dir().then(|| Recorded::of(&tool.state()));
    let subvolumes = source.subvolumes();
    tool.run(["backup", "--dry-run"]).assert_code(0);
    tool.run(["backup", "--dry-run", "--full"]).assert_code(0);
    repository.assert_equals(&tool.repository());
    match state {
        Some(state) => state.assert_equals(&tool.state()),
        None => assert!(!tool.state().exists()),
    }
    assert_eq!(source.subvolumes(), subvolumes);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn nested_subvolumes_are_named_in_a_warning() {
    let (source, tool) = small_source();
    for nested in ["nested", "folder/deeper inside"] {
        let nested = data(&source).join(nested);
        fs::create_dir_all(nested.parent().unwrap()).unwrap();
        succeed(command("btrfs").args(["subvolume", "create"]).arg(&nested));
    }
    let ended = tool.run(["backup"]);
    ended.assert_code(0);
    for nested in ["nested", "folder/deeper inside"] {
        assert!(ended.stderr.contains(nested), "'{nested}' is not named in:\n{}", ended.stderr);
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_send_that_fails_publishes_nothing() {
    let (_source, tool) = small_source();
    let shim = BtrfsShim::new(&Act::FailAfterSend);
    let ended = Ended::from(tool.start_with(shim.path(), ["backup"]).wait_with_output().unwrap());
    ended.assert_code(1);
    ended.assert_failed_naming("made to fail");
    assert_eq!(tool.list(), []);
    assert_eq!(tool.back_up([]).kind, "full");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_backup_killed_while_sending_is_simply_run_again() {
    let (source, tool) = small_source();
    let shim = BtrfsShim::new(&Act::HoldSend);
    let mut killed = tool.start_with(shim.path(), ["backup"]);
    shim.wait_until_held();
    killed.kill().unwrap();
    killed.wait().unwrap();
    shim.release();
    assert_eq!(tool.list(), []);

    let tree = Recorded::of(&data(&source));
    let backup = tool.back_up([]);
    let restored = TestBtrfs::new(512, "");
    tool.restore(&backup.id, &restored.path().join("target"));
    tree.assert_equals(&restored.path().join("target"));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_user_without_privileges_is_told_so_in_one_line() {
    let (source, mut tool) = small_source();
    tool.drop_privileges();
    let ended = tool.run(["backup"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("root"), "{}", ended.stderr);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    assert_eq!(fs::read_dir(snapshots(&source)).unwrap().count(), 0);
}
