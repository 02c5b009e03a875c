//! What comes back is what was backed up, at every point in time, and a restore that fails leaves nothing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::process::{command, succeed};
use crate::support::tool::{Backup, Tool, data};
use crate::support::tree::{Recorded, files, mutate, seed};

/// A night's backup with the tree as it was.
struct Point {
    backup: Backup,
    tree: Recorded,
}

fn back_up_night(tool: &Tool, source: &TestBtrfs, night: u64) -> Point {
    if night == 0 {
        seed(&data(source), 16);
    } else {
        mutate(&data(source), night);
    }
    let tree = Recorded::of(&data(source));
    Point { backup: tool.back_up([]), tree }
}

/// A full backup and increments on it; the source is gone.
fn chain_without_source(nights: u64) -> (Tool, Vec<Point>) {
    let source = TestBtrfs::new(4096, "noatime");
    let tool = Tool::for_subvolume_of(&source);
    let points = (0..=nights).map(|night| back_up_night(&tool, &source, night)).collect();
    (tool, points)
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_full_and_ten_increments_restore_at_each_point() {
    let (tool, points) = chain_without_source(10);
    assert_eq!(points[0].backup.kind, "full");
    for pair in points.windows(2) {
        assert_eq!(pair[1].backup.kind, "incremental");
        assert_eq!(pair[1].backup.parent.as_ref(), Some(&pair[0].backup.id));
    }

    // As on a new host: nothing but the repository is left.
    tool.lose_state();
    let restored = TestBtrfs::new(6144, "noatime");
    for (night, point) in points.iter().enumerate() {
        let target = restored.path().join(format!("night-{night}"));
        tool.restore(&point.backup.id, &target);
        point.tree.assert_equals(&target);
    }
}

/// Tells a fault of the program from one of the tests: what it must keep, `btrfs` alone keeps as well.
#[test]
#[ignore = "needs root and Btrfs"]
fn the_trees_survive_plain_send_and_receive() {
    let (source, target) = (TestBtrfs::new(2048, "noatime"), TestBtrfs::new(2048, "noatime"));
    let original = source.path().join("data");
    succeed(command("btrfs").args(["subvolume", "create"]).arg(&original));
    seed(&original, 4);
    for night in 0..3_u64 {
        if night > 0 {
            mutate(&original, night);
        }
        let tree = Recorded::of(&original);
        let snapshot = source.path().join(night.to_string());
        succeed(command("btrfs").args(["subvolume", "snapshot", "-r"]).arg(&original).arg(&snapshot));
        let stream = source.path().join("stream");
        let mut send = command("btrfs");
        send.args(["send", "-q", "-f"]).arg(&stream);
        if night > 0 {
            send.arg("-p").arg(source.path().join((night - 1).to_string()));
        }
        succeed(send.arg(&snapshot));
        succeed(command("btrfs").args(["receive", "-q", "-f"]).arg(&stream).arg(target.path()));
        tree.assert_equals(&target.path().join(night.to_string()));
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_says_whose_backup_it_is_and_guesses_none() {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    tool.add_subvolume(&source, "other");
    tool.run(["backup"]).assert_code(0);
    let restored = TestBtrfs::new(512, "");
    let target = |name: &str| restored.path().join(name).display().to_string();
    let refused = tool.run(["restore", "latest", "--target", &target("guessed")]);
    refused.assert_failed_naming("there are backups of 'data' of host");
    let refused = tool.run(["restore", "latest", "--subvolume", "third", "--target", &target("guessed")]);
    refused.assert_failed_naming("there is no backup of 'third'");
    for backup in tool.list() {
        let ended = tool.try_restore(&backup.id, &restored.path().join(&backup.subvolume));
        ended.assert_code(0);
        let said = format!("restored backup {} of '{}', as it was at ", backup.id, backup.subvolume);
        assert!(ended.text().contains(&said), "{}", ended.text());
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn restoring_twice_on_one_file_system_works() {
    let (tool, points) = chain_without_source(2);
    let restored = TestBtrfs::new(4096, "");
    for (target, night) in [("first", 2), ("second", 2), ("earlier", 1), ("earliest", 0), ("third", 2)] {
        let target = restored.path().join(target);
        tool.restore(&points[night].backup.id, &target);
        points[night].tree.assert_equals(&target);
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restored_subvolume_is_writable_unless_asked_otherwise() {
    let (tool, points) = chain_without_source(0);
    let restored = TestBtrfs::new(2048, "");
    let id = &points[0].backup.id;
    let (writable, read_only) = (restored.path().join("writable"), restored.path().join("read only"));
    tool.restore(id, &writable);
    fs::write(writable.join("new"), "new").unwrap();
    tool.run(["restore", id, "--read-only", "--target", read_only.to_str().unwrap()]).assert_code(0);
    fs::write(read_only.join("new"), "new").unwrap_err();
    points[0].tree.assert_equals(&read_only);
}

/// Makes a read-only subvolume writable, changes a file of every size, and makes it read-only again, as the kernel
/// allows: `btrfs property` would take away the mark that it was received, which is not what this is about.
fn edit_read_only(subvolume: &Path) {
    const SUBVOL_SETFLAGS: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x4008941A, struct.pack('=Q', int(sys.argv[2])))";
    let set_flags = |flags: &str| {
        succeed(command("python3").args(["-c", SUBVOL_SETFLAGS]).arg(subvolume).arg(flags));
    };
    set_flags("0");
    fs::write(subvolume.join("sizes/random-4096"), "edited").unwrap();
    fs::remove_dir_all(subvolume.join("same")).unwrap();
    set_flags("2");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn an_edited_earlier_restore_is_never_used_as_base() {
    let (tool, points) = chain_without_source(1);
    let restored = TestBtrfs::new(4096, "");
    let first = restored.path().join("first");
    tool.restore(&points[0].backup.id, &first);
    let received: Vec<_> =
        restored.subvolumes().into_iter().map(|(_, path)| path).filter(|path| *path != first).collect();
    assert_eq!(received.len(), 1, "the received snapshot is kept: {received:?}");
    edit_read_only(&received[0]);

    for (name, point) in [("second", &points[1]), ("third", &points[0])] {
        let target = restored.path().join(name);
        let ended = tool.try_restore(&point.backup.id, &target);
        if ended.code == Some(0) {
            point.tree.assert_equals(&target);
        } else {
            ended.assert_failed_naming(received[0].to_str().unwrap());
            assert!(!target.exists());
        }
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn an_existing_target_is_refused() {
    let (tool, points) = chain_without_source(0);
    let restored = TestBtrfs::new(2048, "");
    let (folder, file) = (restored.path().join("folder"), restored.path().join("file"));
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "precious").unwrap();
    let before = Recorded::of(restored.path());
    for target in [&folder, &file] {
        tool.try_restore(&points[0].backup.id, target).assert_failed_naming(target.to_str().unwrap());
    }
    let elsewhere = restored.path().join("missing/target");
    tool.try_restore(&points[0].backup.id, &elsewhere)
        .assert_failed_naming(elsewhere.parent().unwrap().to_str().unwrap());
    before.assert_equals(restored.path());
    assert_eq!(restored.subvolumes(), []);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_killed_half_way_leaves_nothing_in_the_way() {
    let (tool, points) = chain_without_source(1);
    let restored = TestBtrfs::new(4096, "");
    let target = restored.path().join("target");
    let shim = BtrfsShim::new(&Act::HoldReceiveHalfWay);
    let id = &points[1].backup.id;
    let mut running = tool.start_with(shim.path(), ["restore", id, "--target", target.to_str().unwrap()]);
    shim.wait_until_held();
    running.kill().unwrap();
    running.wait().unwrap();
    shim.release();
    assert!(!target.exists());

    tool.restore(id, &target);
    points[1].tree.assert_equals(&target);
    // The target and the received snapshot that it was made of.
    let left = restored.subvolumes();
    assert_eq!(left.len(), 2, "what the killed restore left is removed by the next: {left:?}");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_of_damaged_data_leaves_nothing_and_names_the_object() {
    let (tool, points) = chain_without_source(0);
    let restored = TestBtrfs::new(2048, "");
    let target = restored.path().join("target");
    let damaged = files(&tool.repository().join("data")).pop().unwrap();
    let middle = fs::metadata(&damaged).unwrap().len() / 2;
    flip_a_bit(&damaged, middle);

    let name = damaged.file_name().unwrap().to_str().unwrap();
    let to_target = tool.try_restore(&points[0].backup.id, &target);
    let to_stream = tool.run(["restore", &points[0].backup.id, "--stream", "-"]);
    for ended in [to_target, to_stream] {
        ended.assert_failed_naming(name);
        ended.assert_code(5);
    }
    assert_eq!(restored.subvolumes(), []);
    assert_eq!(fs::read_dir(restored.path()).unwrap().count(), 0);

    flip_a_bit(&damaged, middle);
    tool.restore(&points[0].backup.id, &target);
    points[0].tree.assert_equals(&target);
}

fn flip_a_bit(file: &Path, offset: u64) {
    let mut permissions = fs::metadata(file).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "root owns it, and so does this test")]
    permissions.set_readonly(false);
    fs::set_permissions(file, permissions).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}
