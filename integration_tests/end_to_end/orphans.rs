//! What becomes of the snapshots of runs that were killed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::btrfs_shim::{Act, BtrfsShim};
use crate::support::tool::{Tool, data, snapshot_of, snapshots};

fn source() -> (TestBtrfs, Tool) {
    let source = TestBtrfs::new(512, "");
    let tool = Tool::for_subvolume_of(&source);
    fs::write(data(&source).join("file"), "content").unwrap();
    (source, tool)
}

/// The snapshots there are, by their paths.
fn all(source: &TestBtrfs) -> BTreeSet<PathBuf> {
    fs::read_dir(snapshots(source)).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Changes all subvolumes, so that none of them is passed over.
fn change(source: &TestBtrfs) {
    for name in ["data", "other"] {
        let subvolume = source.path().join(name);
        if subvolume.exists() {
            let file = OpenOptions::new().append(true).create(true).open(subvolume.join("file")).unwrap();
            (&file).write_all(b"more").unwrap();
        }
    }
}

/// Runs a backup and kills it when its snapshots are taken and the first `sent` of them have been backed up.
fn kill_a_run(source: &TestBtrfs, tool: &Tool, sent: usize) {
    change(source);
    let shim = BtrfsShim::new(&Act::HoldSend);
    let mut run = tool.start_with(shim.path(), ["backup"]);
    shim.wait_until_held();
    for _ in 0..sent {
        shim.release();
        shim.wait_until_held();
    }
    run.kill().unwrap();
    run.wait().unwrap();
    shim.release();
}

/// The file in which the program lists the snapshots it has under way.
fn journal(tool: &Tool) -> PathBuf {
    let mut caches = fs::read_dir(tool.state().join("cache")).unwrap();
    let cache = caches.next().unwrap().unwrap().path();
    assert!(caches.next().is_none(), "there is one repository");
    cache.join("snapshots/under_way")
}

#[track_caller]
fn assert_gone(path: &Path) {
    assert!(!path.exists(), "{} is still there", path.display());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn the_snapshot_of_a_killed_run_is_deleted_by_the_next_run_and_no_other_is() {
    let (source, tool) = source();
    let backup = tool.back_up([]);
    tool.run(["backup", "--no-s3"]).assert_code(0);
    let kept = all(&source);
    assert_eq!(kept.len(), 2);
    kill_a_run(&source, &tool, 0);
    let orphans: Vec<_> = all(&source).difference(&kept).cloned().collect();
    assert_eq!(orphans.len(), 1);

    // What takes snapshots only does not ask the repository which are needed.
    tool.run(["backup", "--no-s3"]).assert_code(0);
    assert!(orphans[0].exists());
    let next = tool.back_up([]);
    assert_eq!((next.kind.as_str(), next.parent), ("incremental", Some(backup.id)));
    assert_gone(&orphans[0]);
    assert!(all(&source).is_superset(&kept));
    assert_eq!(all(&source).len(), kept.len() + 2, "one of --no-s3, one of the last backup");
    assert_gone(&journal(&tool));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_snapshot_whose_backup_was_published_before_the_kill_stays_as_the_next_parent() {
    let (source, tool) = source();
    tool.add_subvolume(&source, "other");
    kill_a_run(&source, &tool, 1);
    let published = tool.list();
    assert_eq!(published.len(), 1);
    let parent = snapshot_of(&source, &published[0]);
    let orphans: Vec<_> = all(&source).into_iter().filter(|path| *path != parent).collect();
    assert_eq!(orphans.len(), 1);
    let listed = fs::read(journal(&tool)).unwrap();

    tool.run(["backup"]).assert_code(0);
    assert!(parent.exists());
    assert_gone(&orphans[0]);
    let backups = tool.list();
    let next = backups.iter().find(|backup| backup.parent.is_some()).unwrap();
    assert_eq!((&next.subvolume, &next.parent), (&published[0].subvolume, &Some(published[0].id.clone())));

    // An older copy of the list changes nothing, and neither does none.
    let kept = all(&source);
    fs::write(journal(&tool), listed).unwrap();
    tool.run(["backup"]).assert_code(0);
    assert!(all(&source).is_superset(&kept));
    kill_a_run(&source, &tool, 1);
    tool.lose_state();
    let kept = all(&source);
    tool.run(["backup"]).assert_code(0);
    assert!(all(&source).is_superset(&kept));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_snapshot_of_a_killed_run_stays_while_a_manifest_cannot_be_read() {
    let (source, tool) = source();
    tool.back_up([]);
    kill_a_run(&source, &tool, 0);
    let kept = all(&source);
    let folder = tool.repository().join("manifests");
    let manifest = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    // Past the copies of records, too.
    let cache = journal(&tool).parent().unwrap().with_file_name("records");
    fs::remove_dir_all(cache).unwrap();
    tool.run(["backup"]).assert_code(3);
    assert!(all(&source).is_superset(&kept));

    fs::write(&manifest, whole).unwrap();
    tool.run(["backup"]).assert_code(0);
    assert_eq!(all(&source).intersection(&kept).count(), 1);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_run_that_fails_leaves_neither_snapshot_nor_journal() {
    let (source, tool) = source();
    let shim = BtrfsShim::new(&Act::FailAfterSend);
    let failed = tool.start_with(shim.path(), ["backup"]).wait_with_output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(all(&source), BTreeSet::new());
    assert_gone(&journal(&tool));
}
