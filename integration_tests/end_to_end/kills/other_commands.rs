//! Kills of `init`, `list` and `restore`.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::points::{Ending, Folder, Point};
use super::traces::{Unfinished, leftovers};
use super::{SMALL_PACKS, small_packs_tool};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{command, succeed};
use crate::support::tool::{Backup, Tool, data, make_subvolume, subvolume_section};
use crate::support::tree::{Recorded, files, random_bytes, seed};

/// Backs up some bytes from standard input.
fn back_up_bytes(tool: &Tool, bytes: &[u8]) {
    let input = tool.folder().join("input");
    fs::write(&input, bytes).unwrap();
    let mut backup = tool.command(["backup", "--stdin", "--name", "pipe"]);
    succeed(backup.stdin(File::open(&input).unwrap()));
}

/// A repository with one backup of these bytes.
fn tool_with(bytes: &[u8]) -> (Tool, Backup) {
    let tool = small_packs_tool();
    back_up_bytes(&tool, bytes);
    let backup = tool.list().pop().unwrap();
    (tool, backup)
}

/// Some times, spread over a run.
fn times(count: u32) -> impl Iterator<Item = Point> {
    (1..=count).map(move |number| Point::After { thousandths: 1000 * number / (count + 1) })
}

fn kill(tool: &Tool, point: &Point, arguments: &[&str], whole: Duration) -> Ending {
    point.run(tool, tool.command(arguments), Stdio::null(), whole)
}

#[test]
fn an_init_killed_anywhere_is_simply_run_again() {
    let calls = [("mkdir", 1), ("mkdirat", 1), ("mkdirat", 300), ("fsync", 1), ("fsync", 3), ("fsync", 6)];
    let calls = calls.into_iter().chain([("flock", 1), ("renameat2", 1), ("exit_group", 1)]);
    let mut killed = 0;
    for point in calls.map(|(call, when)| Point::call(call, when)).chain(times(3)) {
        let tool = Tool::without_configuration();
        tool.configure(SMALL_PACKS);
        killed += u32::from(kill(&tool, &point, &["init"], Duration::from_millis(40)) == Ending::Killed);

        let again = tool.run(["init"]);
        if again.code != Some(0) {
            // The first one had come so far that only its success was not told.
            again.assert_failed_naming("is a repository already");
        }
        let bytes = random_bytes(100_000, 1);
        back_up_bytes(&tool, &bytes);
        assert_eq!(leftovers(&tool.repository(), &tool.state()), []);
        assert!(tool.restore_stream(&tool.list()[0].id) == bytes);
    }
    assert!(killed >= 9, "only {killed} were killed");
}

#[test]
fn a_list_killed_while_it_keeps_a_record_is_simply_run_again() {
    let (tool, backup) = tool_with(&random_bytes(100_000, 1));
    for when in 1..=2 {
        tool.lose_state();
        let point = Point::call("/^rename(at)?$", when);
        assert_eq!(kill(&tool, &point, &["list"], Duration::ZERO), Ending::Killed);
        let left = leftovers(&tool.repository(), &tool.state());
        assert_eq!(left.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Unfinished::Record]);
        assert_eq!(tool.list(), std::slice::from_ref(&backup));
        assert_eq!(leftovers(&tool.repository(), &tool.state()), []);
    }
}

#[test]
fn a_restore_to_a_file_killed_anywhere_leaves_the_whole_file_or_none() {
    let bytes = random_bytes(10 << 20, 1);
    let (tool, backup) = tool_with(&bytes);
    let folder = tool.folder().join("restored");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("stream");
    let restore = ["restore", &backup.id, "--stream", file.to_str().unwrap()];

    let start = Instant::now();
    tool.run(restore).assert_code(0);
    let whole = start.elapsed();
    let calls = [("linkat", 1), ("exit_group", 1), ("fsync", 1)].map(|(call, when)| Point::call(call, when));
    let of_folder = Point::call_in("fsync", Folder::At(folder.clone()));
    let mut killed = 0;
    for point in calls.into_iter().chain([of_folder]).chain(times(8)) {
        fs::remove_file(&file).ok();
        killed += u32::from(kill(&tool, &point, &restore, whole) == Ending::Killed);
        let left = files(&folder);
        match left.as_slice() {
            [] => tool.run(restore).assert_code(0),
            [only] => assert_eq!(only, &file, "{point:?}"),
            more => panic!("{point:?}: {more:?}"),
        }
        assert!(fs::read(&file).unwrap() == bytes, "{point:?}");
    }
    // Runs are faster and slower than the first one was; at the calls they are killed in any case.
    assert!(killed >= 6, "only {killed} were killed");
}

/// A full backup and an increment.
fn chain(source: &TestBtrfs) -> (Tool, Backup, Recorded) {
    let tool = Tool::without_configuration();
    make_subvolume(source);
    tool.configure(&format!("{SMALL_PACKS}{}", subvolume_section(source, 2)));
    tool.run(["init"]).assert_code(0);
    seed(&data(source), 4);
    tool.back_up([]);
    fs::write(data(source).join("new"), random_bytes(5 << 20, 1)).unwrap();
    let tree = Recorded::of(&data(source));
    let backup = tool.back_up([]);
    (tool, backup, tree)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_to_a_subvolume_killed_anywhere_leaves_it_whole_or_not_at_all() {
    let source = TestBtrfs::new(1024, "");
    let (tool, backup, tree) = chain(&source);
    // Room for all restores: what is deleted is freed only every half a minute.
    let restored = TestBtrfs::new(16 << 10, "");
    let folder = restored.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let target = folder.join("target");
    let restore = ["restore", &backup.id, "--target", target.to_str().unwrap()];

    let start = Instant::now();
    tool.run(restore).assert_code(0);
    let whole = start.elapsed();
    // The target is made, and then what is kept beside it, by calls on their folder; `btrfs receive` makes none there.
    let makes = |when| Point::Call { call: "ioctl", folder: Some(Folder::At(folder.clone())), when };
    let mut killed = 0;
    for point in [makes(1), makes(2)].into_iter().chain(times(10)) {
        remove_restored(&folder);
        killed += u32::from(kill(&tool, &point, &restore, whole) == Ending::Killed);
        if target.exists() {
            tree.assert_equals(&target);
            remove_restored(&folder);
        }
        tool.run(restore).assert_code(0);
        tree.assert_equals(&target);
        assert_eq!(restored.subvolumes().len(), 2, "{point:?}: {:?}", restored.subvolumes());
    }
    assert!(killed >= 5, "only {killed} were killed");
}

/// Deletes the target and what is kept beside it, but nothing that a user does not see.
fn remove_restored(folder: &Path) {
    for name in ["target", "target.received"] {
        if folder.join(name).exists() {
            succeed(command("btrfs").args(["subvolume", "delete"]).arg(folder.join(name)));
        }
    }
}
