//! Tests of the choice of a parent.

use std::path::PathBuf;

use super::*;
use crate::id::{SnapshotVersion, Uuid};

fn uuid(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn snapshot(number: u8, ctransid: u64) -> Subvolume {
    let info = SubvolumeInfo {
        id: 256 + u64::from(number),
        parent_id: 5,
        generation: ctransid,
        ctransid,
        otransid: ctransid,
        stransid: 0,
        rtransid: 0,
        uuid: uuid(number),
        parent_uuid: Some(uuid(99)),
        received_uuid: None,
        read_only: true,
        created_at: Timestamp::UNIX_EPOCH,
    };
    let path = PathBuf::from(format!("snapshots/{number}"));
    Subvolume { info, path: Some(PathBuf::from("/mnt").join(&path)), path_from_top: path }
}

/// Received here from what elsewhere was snapshot `from` in the state `stransid`.
fn received(number: u8, from: u8, stransid: u64) -> Subvolume {
    let mut subvolume = snapshot(number, 1000);
    subvolume.info.received_uuid = Some(uuid(from));
    subvolume.info.stransid = stransid;
    subvolume.info.rtransid = 1001;
    subvolume
}

fn candidate(number: u8, ctransid: u64) -> ParentCandidate {
    ParentCandidate {
        manifest: ManifestId::from_bytes([number; 16]),
        identity: SnapshotVersion { uuid: uuid(number), ctransid },
        created_at: Timestamp::from_second(i64::from(number)).unwrap(),
    }
}

#[track_caller]
fn assert_parent(subvolumes: &[Subvolume], candidates: &[ParentCandidate], index: usize, number: u8) {
    let manifest = ManifestId::from_bytes([number; 16]);
    let expected = ParentChoice::Parent { snapshot: subvolumes[index].clone(), manifest };
    assert_eq!(choose_parent(subvolumes, candidates), expected);
}

#[track_caller]
fn assert_none(subvolumes: &[Subvolume], candidates: &[ParentCandidate], words: &str) {
    match choose_parent(subvolumes, candidates) {
        ParentChoice::None { reason } => assert!(reason.contains(words), "{reason}"),
        parent @ ParentChoice::Parent { .. } => panic!("{parent:?}"),
    }
}

/// A subvolume, and the snapshot that was taken of it in transaction 50.
fn source_and_snapshot() -> (SubvolumeInfo, SubvolumeInfo) {
    let mut snapshot = snapshot(1, 48).info;
    (snapshot.otransid, snapshot.generation) = (50, 50);
    let source = SubvolumeInfo {
        generation: 50,
        otransid: 7,
        uuid: uuid(99),
        parent_uuid: None,
        read_only: false,
        ..snapshot.clone()
    };
    (source, snapshot)
}

#[test]
fn a_subvolume_is_unchanged_only_if_everything_says_so() {
    let (source, snapshot) = source_and_snapshot();
    assert!(is_unchanged(&source, &snapshot));
    let changed: [fn(&mut SubvolumeInfo, &mut SubvolumeInfo); 7] = [
        |source, _| source.ctransid = 51,
        // As after a crash, when the log was written to the tree.
        |source, _| source.generation = 51,
        |source, _| source.uuid = uuid(98),
        |_, snapshot| snapshot.parent_uuid = None,
        |_, snapshot| snapshot.read_only = false,
        |_, snapshot| snapshot.received_uuid = Some(uuid(5)),
        |_, snapshot| snapshot.otransid = 49,
    ];
    for (number, change) in changed.iter().enumerate() {
        let (mut source, mut snapshot) = source_and_snapshot();
        change(&mut source, &mut snapshot);
        assert!(!is_unchanged(&source, &snapshot), "change {number}");
    }
    let nil = Uuid::from_bytes([0; 16]);
    let (source, snapshot) = source_and_snapshot();
    let (source, snapshot) =
        (SubvolumeInfo { uuid: nil, ..source }, SubvolumeInfo { parent_uuid: Some(nil), ..snapshot });
    assert!(!is_unchanged(&source, &snapshot), "a file system without UUIDs");
}

#[test]
fn the_newest_backup_whose_snapshot_is_here_is_the_parent() {
    let subvolumes = [snapshot(1, 10), snapshot(2, 20), snapshot(4, 40)];
    let candidates = [candidate(2, 20), candidate(3, 30), candidate(1, 10)];
    assert_parent(&subvolumes, &candidates, 1, 2);
}

#[test]
fn the_first_backup_has_no_parent() {
    assert_none(&[snapshot(1, 10)], &[], "no earlier backup");
}

#[test]
fn a_host_without_the_snapshots_makes_a_full_backup() {
    assert_none(&[snapshot(3, 10)], &[candidate(1, 10), candidate(2, 20)], "no snapshot any more of the 2 earlier");
}

#[test]
fn a_snapshot_that_was_edited_is_no_parent_and_an_older_one_is_taken() {
    let subvolumes = [snapshot(1, 10), snapshot(2, 21)];
    assert_none(&subvolumes[1..], &[candidate(2, 20)], "/mnt/snapshots/2 is not in the state that was backed up");
    assert_parent(&subvolumes, &[candidate(1, 10), candidate(2, 20)], 0, 1);
}

#[test]
fn a_snapshot_that_is_writable_is_no_parent() {
    let mut subvolume = snapshot(1, 10);
    subvolume.info.read_only = false;
    assert_none(&[subvolume], &[candidate(1, 10)], "writable");
}

#[test]
fn a_snapshot_out_of_reach_is_no_parent() {
    let mut subvolume = snapshot(1, 10);
    subvolume.path = None;
    assert_none(&[subvolume], &[candidate(1, 10)], "snapshots/1 cannot be reached");
}

#[test]
fn a_restored_snapshot_is_a_parent_by_where_it_came_from() {
    assert_parent(&[received(7, 1, 10)], &[candidate(1, 10)], 0, 1);
    assert_none(&[received(7, 1, 11)], &[candidate(1, 10)], "not in the state");
}

#[test]
fn a_restored_snapshot_that_was_sent_itself_is_a_parent() {
    assert_parent(&[received(7, 1, 10)], &[candidate(1, 1000)], 0, 1);
}

#[test]
fn a_restored_snapshot_that_was_edited_is_no_parent_even_if_numbers_happen_to_match() {
    for ctransid in [10, 1002] {
        let mut subvolume = received(7, 1, 10);
        subvolume.info.ctransid = 1002;
        assert_none(&[subvolume], &[candidate(1, ctransid)], "may have been changed");
    }
}

#[test]
fn two_that_were_received_from_the_same_snapshot_are_no_parents() {
    assert_none(&[received(7, 1, 10), received(8, 1, 10)], &[candidate(1, 10)], "were both received from");
}

#[test]
fn the_uuid_of_a_received_subvolume_itself_is_not_what_a_stream_says() {
    assert_none(&[received(7, 1, 10)], &[candidate(7, 1000)], "no snapshot any more");
    let identity = SnapshotVersion { uuid: uuid(1), ctransid: 1000 };
    assert_eq!(sent_identity(&received(7, 1, 10).info), identity);
    assert_eq!(sent_identity(&snapshot(1, 10).info), SnapshotVersion { uuid: uuid(1), ctransid: 10 });
}

#[test]
fn the_original_is_taken_before_its_restored_copies() {
    let subvolumes = [received(7, 1, 10), snapshot(1, 10), received(8, 1, 10)];
    assert_parent(&subvolumes, &[candidate(1, 10)], 1, 1);
}

#[test]
fn a_restored_copy_is_taken_where_the_original_was_edited() {
    assert_parent(&[snapshot(1, 11), received(7, 1, 10)], &[candidate(1, 10)], 1, 1);
}
