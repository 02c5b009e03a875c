//! The `btrfs` module on real file systems. Each test needs root and Btrfs: `cargo test --test btrfs_module -- --ignored`
#![allow(clippy::disallowed_methods, reason = "tests run commands")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use btrfs_to_s3::btrfs::BtrfsError;
use btrfs_to_s3::btrfs::candidates::{Conflict, Fault, StreamFacts};
use btrfs_to_s3::btrfs::command::{BtrfsCommand, SendOptions};
use btrfs_to_s3::btrfs::parents::{ParentCandidate, ParentChoice, choose_parent, sent_identity};
use btrfs_to_s3::btrfs::receive_target::{ReceiveTarget, Restored, TargetOptions};
use btrfs_to_s3::btrfs::snapshots::{self, Snapshot};
use btrfs_to_s3::btrfs::subvolume::{list_subvolumes, subvolume_info, sync_file_system};
use btrfs_to_s3::clock::{Clock, SystemClock};
use btrfs_to_s3::id::{ManifestId, SnapshotVersion};
use jiff::Timestamp;

use self::support::btrfs_fixture::TestBtrfs;
use self::support::process::{command, succeed};

#[allow(dead_code, reason = "other tests use the rest")]
mod support {
    pub(crate) mod btrfs_fixture;
    pub(crate) mod process;
}

mod receiving {
    mod rejected;
}

const SIZE_MIB: u64 = 160;

/// A stream with what the manifest of a backup says of it.
#[derive(Clone)]
struct Stream {
    facts: StreamFacts,
    bytes: Vec<u8>,
}

/// A subvolume mounted in a place of its own.
struct SubvolumeMount(tempfile::TempDir);

impl SubvolumeMount {
    fn new(file_system: &TestBtrfs, path: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = succeed(command("findmnt").args(["-no", "SOURCE"]).arg(file_system.path())).text();
        let options = format!("subvol={path}");
        succeed(command("mount").args(["-t", "btrfs", "-o", &options, device.trim()]).arg(folder.path()));
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SubvolumeMount {
    fn drop(&mut self) {
        succeed(command("umount").arg("--lazy").arg(self.path()));
    }
}

#[derive(Debug)]
struct StoppedClock(Timestamp);

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn btrfs() -> BtrfsCommand {
    BtrfsCommand::find(None).unwrap()
}

fn subvolume(path: &Path) {
    succeed(command("btrfs").args(["subvolume", "create"]).arg(path));
}

/// Sends a snapshot. `identity` is how its parent is named in the stream.
fn send(snapshot: &Path, parent: Option<&Path>) -> Stream {
    let mut child = btrfs().send(snapshot, parent, &[], SendOptions::default()).unwrap();
    let mut bytes = Vec::new();
    child.read_to_end(&mut bytes).unwrap();
    child.finish().unwrap();
    let identity = |path| sent_identity(&subvolume_info(path).unwrap());
    let facts = StreamFacts { identity: identity(snapshot), parent: parent.map(identity), clone_sources: vec![] };
    Stream { facts, bytes }
}

fn receive(target: &mut ReceiveTarget, stream: &Stream) -> anyhow::Result<()> {
    let mut child = target.start(&btrfs(), &stream.facts)?;
    child.write_all(&stream.bytes)?;
    Ok(target.accept(child)?)
}

fn restore_with(target: &Path, options: TargetOptions, chain: &[Stream]) -> anyhow::Result<Restored> {
    let mut target = ReceiveTarget::prepare(target, options)?;
    let all_facts: Vec<_> = chain.iter().map(|stream| stream.facts.clone()).collect();
    target.check_chain(&all_facts)?;
    chain.iter().try_for_each(|stream| receive(&mut target, stream))?;
    Ok(target.publish()?)
}

fn restore(target: &Path, chain: &[Stream]) -> anyhow::Result<Restored> {
    restore_with(target, TargetOptions::default(), chain)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn take(file_system: &TestBtrfs) -> Snapshot {
    let (source, base_dir) = (file_system.path().join("source"), file_system.path().join("snapshots"));
    take_snapshot(&source, &base_dir, "source", &SystemClock).unwrap()
}

fn take_snapshot(
    source: &Path,
    base_dir: &Path,
    name: &str,
    clock: &dyn Clock,
) -> Result<snapshots::Snapshot, BtrfsError> {
    snapshots::create(source, &snapshots::plan(base_dir, name, clock)?)
}

/// A subvolume that changes over three nights, and the streams of a full and two incremental backups of it.
fn three_nights(file_system: &TestBtrfs) -> (Vec<Snapshot>, Vec<Stream>) {
    let source = file_system.path().join("source");
    subvolume(&source);
    let mut snapshots: Vec<Snapshot> = Vec::new();
    let mut streams = Vec::new();
    for night in 0..3_u8 {
        fs::write(source.join(format!("file {night}")), vec![night; 300_000]).unwrap();
        fs::write(source.join("log"), format!("night {night}")).unwrap();
        let snapshot = take(file_system);
        streams.push(send(&snapshot.path, snapshots.last().map(|parent| parent.path.as_path())));
        assert_eq!(streams[usize::from(night)].facts.identity, sent_identity(&snapshot.info));
        snapshots.push(snapshot);
    }
    (snapshots, streams)
}

#[track_caller]
fn assert_third_night(folder: &Path) {
    assert_eq!(names(folder), ["file 0", "file 1", "file 2", "log"]);
    assert_eq!(fs::read_to_string(folder.join("log")).unwrap(), "night 2");
    for night in 0..3_u8 {
        assert_eq!(fs::read(folder.join(format!("file {night}"))).unwrap(), vec![night; 300_000]);
    }
}

#[track_caller]
fn assert_conflict(result: anyhow::Result<Restored>, path: &Path, fault: Fault) {
    let error = result.unwrap_err();
    match error.downcast_ref() {
        Some(BtrfsError::Conflict(Conflict::Unfit { unfit, .. })) => assert_eq!(unfit[..], [(path.to_owned(), fault)]),
        _ => panic!("{error:?}"),
    }
}

/// Makes a subvolume writable or read-only without the precautions of the `btrfs` command, as its old versions did.
fn set_read_only(path: &Path, read_only: bool) {
    const SET_FLAGS: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u64>(0x94, 26);
    let folder = fs::File::open(path).unwrap();
    let flags: u64 = if read_only { 2 } else { 0 };
    #[expect(unsafe_code, reason = "there is no other way to do this any more")]
    // SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads one 64-bit integer.
    unsafe {
        rustix::ioctl::ioctl(folder.as_fd(), rustix::ioctl::Setter::<SET_FLAGS, u64>::new(flags)).unwrap();
    }
}

fn edit(path: &Path) {
    set_read_only(path, false);
    fs::write(path.join("log"), "edited").unwrap();
    set_read_only(path, true);
}

fn candidate(number: u8, identity: SnapshotVersion) -> ParentCandidate {
    let created_at = Timestamp::from_second(number.into()).unwrap();
    ParentCandidate { manifest: ManifestId::from_bytes([number; 16]), identity, created_at }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_path_that_is_no_subvolume_is_told_what_it_is() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let folder = file_system.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "").unwrap();
    assert!(matches!(subvolume_info(&folder), Err(BtrfsError::NotASubvolume { path }) if path == folder));
    assert!(matches!(subvolume_info(&folder.join("none")), Err(BtrfsError::NotFound { .. })));
    assert!(matches!(subvolume_info(&folder.join("file")), Err(BtrfsError::NotADirectory { .. })));
    assert!(matches!(subvolume_info(Path::new("/proc")), Err(BtrfsError::NotBtrfs { .. })));
    assert!(subvolume_info(file_system.path()).unwrap().id == 5);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn all_subvolumes_are_listed_with_the_paths_by_which_they_can_be_reached() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let top = file_system.path().to_owned();
    for path in ["@", "other"] {
        subvolume(&top.join(path));
    }
    fs::create_dir_all(top.join("@/some where/below")).unwrap();
    subvolume(&top.join("@/some where/below/inner"));
    // More than one call's worth of results.
    let many: Vec<_> = (0..60).map(|number| top.join(format!("many-{number}"))).collect();
    for path in &many {
        subvolume(path);
    }
    succeed(command("btrfs").args(["subvolume", "delete"]).arg(&many[0]));

    let mount = SubvolumeMount::new(&file_system, "@");
    let mounted = mount.path().to_owned();
    let listed = list_subvolumes(&mounted).unwrap();
    assert_eq!(listed.len(), 1 + 3 + 59);
    let find = |path: &str| listed.iter().find(|found| found.path_from_top == Path::new(path)).unwrap();
    assert_eq!(find("@").path, Some(mounted.clone()));
    assert_eq!(find("@/some where/below/inner").path, Some(mounted.join("some where/below/inner")));
    assert_eq!(find("other").path, None);
    assert_eq!(find("").info.id, 5);
    for found in &list_subvolumes(&top).unwrap() {
        assert_eq!(subvolume_info(found.path.as_ref().unwrap()).unwrap(), found.info);
    }
    let nested = snapshots::nested_subvolumes(&find("@").info, &listed);
    assert_eq!(nested, [PathBuf::from("some where/below/inner")]);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn snapshots_of_the_same_instant_have_their_own_names_and_order() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let (source, base_dir) = (file_system.path().join("source"), file_system.path().join("snapshots"));
    subvolume(&source);
    let take = |name, seconds| {
        let clock = StoppedClock(Timestamp::from_second(seconds).unwrap());
        take_snapshot(&source, &base_dir, name, &clock).unwrap()
    };
    // The clock is even set back in between.
    let home = [take("home", 1000), take("home", 1000), take("home", 10), take("home", 1000)];
    let other = take("home.d", 1000);
    subvolume(&base_dir.join("home.20260102T030405.000000006Z"));
    fs::create_dir(base_dir.join("home.20260102T030405.000000007Z")).unwrap();
    fs::write(base_dir.join("home.20260102T030405.000000008Z"), "").unwrap();

    assert_eq!(snapshots::list(&base_dir, "home").unwrap(), home);
    assert_eq!(snapshots::list(&base_dir, "home.d").unwrap(), [other]);
    assert_eq!(snapshots::list(&base_dir.join("none"), "home").unwrap(), []);
    snapshots::delete(&home[1]).unwrap();
    assert!(matches!(snapshots::delete(&home[1]), Err(BtrfsError::NotFound { .. })));
    let left: Vec<_> = snapshots::list(&base_dir, "home").unwrap();
    assert_eq!(left, [home[0].clone(), home[2].clone(), home[3].clone()]);
    assert!(left.iter().all(|snapshot| snapshot.info.read_only));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_snapshot_keeps_the_identity_it_was_created_with() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let source = file_system.path().join("source");
    subvolume(&source);
    // Written but not on the disk yet, and deleted but still open: the kernel tidies such up in a snapshot, too.
    let mut open = fs::File::create(source.join("deleted")).unwrap();
    open.write_all(&vec![1; 500_000]).unwrap();
    fs::write(source.join("new"), vec![2; 500_000]).unwrap();
    fs::remove_file(source.join("deleted")).unwrap();
    let snapshot = take(&file_system);
    open.write_all(&vec![1; 500_000]).unwrap();
    sync_file_system(file_system.path()).unwrap();
    drop(open);
    let found = snapshots::list(&file_system.path().join("snapshots"), "source").unwrap();
    assert_eq!(sent_identity(&found[0].info), sent_identity(&snapshot.info));
    assert_eq!(send(&snapshot.path, None).facts.identity, sent_identity(&snapshot.info));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn snapshots_are_not_put_on_another_file_system() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let source = one.path().join("source");
    subvolume(&source);
    let create = |base_dir: &Path| take_snapshot(&source, base_dir, "source", &SystemClock).unwrap_err();
    for base_dir in [other.path().to_owned(), other.path().join("new"), PathBuf::from("/proc")] {
        assert!(matches!(create(&base_dir), BtrfsError::OtherFileSystem { .. }), "{base_dir:?}");
    }
    assert!(matches!(create(&one.path().join("no/new")), BtrfsError::NotFound { .. }));
    assert!(names(other.path()).is_empty());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_chain_is_restored_and_a_further_increment_applies() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (snapshots, streams) = three_nights(&one);
    let target = other.path().join("restored");
    let restored = restore(&target, &streams).unwrap();
    assert_eq!(names(other.path()), ["restored", "restored.received"]);
    assert_third_night(&target);
    fs::write(target.join("new"), "it is writable").unwrap();

    let kept = restored.received.unwrap();
    assert_third_night(&kept);
    let info = subvolume_info(&kept).unwrap();
    assert!(info.is_received_and_unchanged(), "{info:?}");
    assert_eq!((info.received_uuid, info.stransid), (Some(snapshots[2].info.uuid), snapshots[2].info.ctransid));

    fs::write(one.path().join("source/file 3"), "3").unwrap();
    let fourth = send(&take(&one).path, Some(&snapshots[2].path));
    let mut child = btrfs().receive(other.path()).unwrap();
    child.write_all(&fourth.bytes).unwrap();
    child.finish().unwrap();
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_host_that_was_restored_goes_on_with_incremental_backups() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, mut streams) = three_nights(&one);
    let restored = restore(&other.path().join("source"), &streams).unwrap();
    let candidates: Vec<_> =
        (1..).zip(&streams).map(|(number, stream)| candidate(number, stream.facts.identity)).collect();
    let choice = choose_parent(&list_subvolumes(other.path()).unwrap(), &candidates);
    let ParentChoice::Parent { snapshot: parent, manifest } = choice else { panic!("{choice:?}") };
    assert_eq!(parent.path, restored.received);
    assert_eq!(manifest, candidates[2].manifest);

    fs::write(other.path().join("source/file 3"), "3").unwrap();
    streams.push(send(&take(&other).path, parent.path.as_deref()));
    let stream = streams.last().unwrap();
    assert!(stream.bytes.len() < 10_000);
    // The parent is named by where it came from, but by the transaction it has here.
    let named = stream.facts.parent.unwrap();
    assert_eq!(named.uuid, candidates[2].identity.uuid);
    assert_ne!(named.ctransid, candidates[2].identity.ctransid);

    let third = TestBtrfs::new(SIZE_MIB, "");
    restore(&third.path().join("again"), &streams).unwrap();
    assert_eq!(fs::read_to_string(third.path().join("again/file 3")).unwrap(), "3");
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_stream_names_its_subvolumes_as_sent_identity_says() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let restored = restore(&other.path().join("source"), &streams).unwrap();
    let kept = restored.received.unwrap();
    for stream in [&streams[1], &send(&take(&other).path, Some(&kept)), &send(&kept, None)] {
        let file = other.path().join("stream");
        fs::write(&file, &stream.bytes).unwrap();
        let dump = succeed(command("btrfs").args(["receive", "--dump", "-f"]).arg(&file)).text();
        let SnapshotVersion { uuid, ctransid } = stream.facts.identity;
        assert!(dump.contains(&format!("uuid={uuid} transid={ctransid}")), "{dump}");
        if let Some(SnapshotVersion { uuid, ctransid }) = stream.facts.parent {
            assert!(dump.contains(&format!("parent_uuid={uuid} parent_transid={ctransid}")), "{dump}");
        }
    }
}

#[test]
#[ignore = "needs root and Btrfs"]
fn the_same_backup_can_be_restored_twice_also_beside_the_originals() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let (snapshots, streams) = three_nights(&file_system);
    edit(&snapshots[0].path);
    for name in ["first", "second"] {
        restore(&file_system.path().join(name), &streams).unwrap();
        assert_third_night(&file_system.path().join(name));
        restore(&file_system.path().join(format!("{name} night")), &streams[..1]).unwrap();
        assert_eq!(names(&file_system.path().join(format!("{name} night"))), ["file 0", "log"]);
    }
    // An untouched original stays the parent, whatever was restored beside it.
    let all = list_subvolumes(file_system.path()).unwrap();
    let choice = choose_parent(&all, &[candidate(1, streams[2].facts.identity)]);
    assert!(
        matches!(choice, ParentChoice::Parent { snapshot, .. } if snapshot.path.as_ref() == Some(&snapshots[2].path))
    );
}

#[test]
#[ignore = "needs root and Btrfs"]
fn an_earlier_restore_that_was_edited_is_refused_by_name() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let kept = restore(&other.path().join("old"), &streams[..1]).unwrap().received.unwrap();
    edit(&kept);
    let again = restore(&other.path().join("new"), &streams);
    assert_conflict(again, &kept, Fault::MaybeChanged);
    set_read_only(&kept, false);
    assert_conflict(restore(&other.path().join("new"), &streams), &kept, Fault::Writable);
    assert_eq!(names(other.path()), ["old", "old.received"]);

    let choice = choose_parent(&list_subvolumes(other.path()).unwrap(), &[candidate(1, streams[0].facts.identity)]);
    assert!(matches!(choice, ParentChoice::None { reason } if reason.contains("old.received")));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_copy_that_btrfs_received_by_itself_cannot_be_told_from_an_edited_one() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (snapshots, streams) = three_nights(&one);
    let mut child = btrfs().receive(other.path()).unwrap();
    child.write_all(&streams[0].bytes).unwrap();
    child.finish().unwrap();
    let copy = other.path().join(snapshots[0].name.to_string());
    assert_conflict(restore(&other.path().join("new"), &streams), &copy, Fault::MaybeChanged);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn an_increment_without_its_parent_is_refused_before_it_is_received() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (snapshots, streams) = three_nights(&one);
    let error = restore(&other.path().join("new"), &streams[1..]).unwrap_err();
    let expected = Conflict::Missing { uuid: snapshots[0].info.uuid };
    assert!(matches!(error.downcast_ref(), Some(BtrfsError::Conflict(conflict)) if *conflict == expected), "{error}");
    assert!(names(other.path()).is_empty());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_failed_restore_leaves_nothing_and_can_be_repeated() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let target = other.path().join("restored");
    let broken = |change: &dyn Fn(&mut Stream)| {
        let mut streams = streams.clone();
        change(&mut streams[1]);
        let error = format!("{:#}", restore(&target, &streams).unwrap_err());
        assert!(names(other.path()).is_empty(), "{:?}", names(other.path()));
        error
    };
    let cut_short = broken(&|stream| stream.bytes.truncate(stream.bytes.len() / 2));
    assert!(cut_short.starts_with("btrfs receive"), "{cut_short}");
    let no_end = broken(&|stream| stream.bytes.truncate(stream.bytes.len() - 10));
    assert!(no_end.starts_with("btrfs receive"), "{no_end}");
    let rubbish = broken(&|stream| stream.bytes = b"rubbish".repeat(1 << 20));
    assert!(rubbish.starts_with("btrfs receive") && !rubbish.contains("pipe"), "{rubbish}");
    broken(&|stream| stream.bytes.clear());
    broken(&|stream| stream.bytes.extend(b"more"));
    let other_one = broken(&|stream| stream.facts.identity.ctransid += 1);
    assert!(other_one.contains("another subvolume than was announced"), "{other_one}");

    restore(&target, &streams).unwrap();
    assert_third_night(&target);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_given_up_in_the_middle_of_a_stream_leaves_nothing() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let mut target = ReceiveTarget::prepare(&other.path().join("new"), TargetOptions::default()).unwrap();
    receive(&mut target, &streams[0]).unwrap();
    let mut child = target.start(&btrfs(), &streams[1].facts).unwrap();
    child.write_all(&streams[1].bytes[..200_000]).unwrap();
    drop(target);
    assert!(names(other.path()).is_empty());
    assert!(child.finish().is_err());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn what_a_killed_restore_has_left_is_removed_by_the_next_one_but_not_that_of_a_live_one() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let target = other.path().join("new");
    let staging = other.path().join(".btrfs_to_s3-restore-new");
    fs::create_dir_all(staging.join("0")).unwrap();
    subvolume(&staging.join("0/half received"));
    fs::write(staging.join("0/half received/file"), "").unwrap();

    let live = ReceiveTarget::prepare(&target, TargetOptions::default()).unwrap();
    assert!(names(&staging).is_empty());
    let second = ReceiveTarget::prepare(&target, TargetOptions::default()).unwrap_err();
    assert!(matches!(second, BtrfsError::RestoreRunning { .. }), "{second}");
    let beside = ReceiveTarget::prepare(&other.path().join("new2"), TargetOptions::default()).unwrap();
    drop((live, beside));
    restore(&target, &streams).unwrap();
    assert_eq!(names(other.path()), ["new", "new.received"]);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_target_is_read_only_or_alone_if_asked_for() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    let alone = other.path().join("alone");
    let options = TargetOptions { discard_received: true, ..TargetOptions::default() };
    let restored = restore_with(&alone, options, &streams).unwrap();
    assert_eq!(restored, Restored { target: alone.clone(), received: None });
    assert!(!subvolume_info(&alone).unwrap().read_only);
    assert_eq!(names(other.path()), ["alone"]);

    let read_only = other.path().join("read only");
    let options = TargetOptions { read_only: true, ..TargetOptions::default() };
    let restored = restore_with(&read_only, options, &streams).unwrap();
    assert_eq!(restored.received, Some(read_only.clone()));
    assert!(subvolume_info(&read_only).unwrap().is_received_and_unchanged());
    assert_eq!(names(other.path()), ["alone", "read only"]);
    assert_third_night(&read_only);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_target_that_cannot_be_is_refused_before_anything_is_received() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let top = file_system.path();
    fs::create_dir(top.join("there")).unwrap();
    fs::write(top.join("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", top.join("link")).unwrap();
    fs::create_dir(top.join("free.received")).unwrap();
    let prepare = |path: &Path| ReceiveTarget::prepare(path, TargetOptions::default()).unwrap_err();
    for name in ["there", "there/", "file", "link", "free"] {
        let error = prepare(&top.join(name));
        assert!(matches!(error, BtrfsError::TargetExists { .. }), "{name}: {error}");
    }
    assert!(matches!(prepare(&top.join("none/new")), BtrfsError::NotFound { .. }));
    assert!(matches!(prepare(&top.join("file/new")), BtrfsError::NotADirectory { .. }));
    assert!(matches!(prepare(&top.join("..")), BtrfsError::InvalidTarget { .. }));
    assert!(matches!(prepare(Path::new("/proc/new")), BtrfsError::NotBtrfs { .. }));
    assert_eq!(names(top), ["file", "free.received", "link", "there"]);
    let options = TargetOptions { discard_received: true, ..TargetOptions::default() };
    drop(ReceiveTarget::prepare(&top.join("free"), options).unwrap());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_restore_works_where_only_a_subvolume_is_mounted() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (_, streams) = three_nights(&one);
    subvolume(&other.path().join("@"));
    let mount = SubvolumeMount::new(&other, "@");
    let mounted = mount.path();
    fs::create_dir(mounted.join("folder")).unwrap();
    restore(&mounted.join("folder/new"), &streams).unwrap();
    assert_third_night(&other.path().join("@/folder/new"));
}

#[test]
#[ignore = "needs root and Btrfs"]
fn the_source_and_its_snapshots_can_be_on_different_mounts() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    subvolume(&file_system.path().join("@"));
    let mount = SubvolumeMount::new(&file_system, "@");
    let base_dir = file_system.path().join("snapshots");
    let take = || take_snapshot(mount.path(), &base_dir, "root", &SystemClock).unwrap();
    let first = take();
    fs::write(mount.path().join("file"), "new").unwrap();
    let second = take();
    let candidates = [candidate(1, sent_identity(&first.info))];
    // Through the mount of the source the snapshots are out of reach.
    let choice = choose_parent(&list_subvolumes(mount.path()).unwrap(), &candidates);
    assert!(matches!(choice, ParentChoice::None { reason } if reason.contains("cannot be reached")));
    let choice = choose_parent(&list_subvolumes(&base_dir).unwrap(), &candidates);
    let ParentChoice::Parent { snapshot: parent, .. } = choice else { panic!("{choice:?}") };
    assert_eq!(parent.path.as_ref(), Some(&first.path));
    send(&second.path, parent.path.as_deref());
}

#[test]
#[ignore = "needs root and Btrfs"]
fn a_send_that_cannot_be_says_why_in_the_words_of_the_command() {
    let file_system = TestBtrfs::new(SIZE_MIB, "");
    let (snapshots, _) = three_nights(&file_system);
    let mut writable = btrfs().send(&file_system.path().join("source"), None, &[], SendOptions::default()).unwrap();
    assert_eq!(io::copy(&mut writable, &mut io::sink()).unwrap(), 0);
    let error = writable.finish().unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");

    let options = SendOptions { protocol: None, compressed_data: true };
    let mut child = btrfs().send(&snapshots[0].path, None, &[], options).unwrap();
    let mut stream = Vec::new();
    child.read_to_end(&mut stream).unwrap();
    child.finish().unwrap();
    assert_eq!(stream[..17], *b"btrfs-stream\0\x02\0\0\0");

    // Nobody reads the stream to its end.
    let child = btrfs().send(&snapshots[2].path, None, &[], SendOptions::default()).unwrap();
    drop(child);
}

#[test]
#[ignore = "needs root and Btrfs"]
fn extents_shared_with_a_clone_source_are_found_or_missed_before_receiving() {
    let (one, other) = (TestBtrfs::new(SIZE_MIB, ""), TestBtrfs::new(SIZE_MIB, ""));
    let (snapshots, streams) = three_nights(&one);
    let original = snapshots[0].path.join("file 0");
    succeed(command("cp").arg("--reflink=always").arg(original).arg(one.path().join("source/reflink")));
    let last = take(&one);
    let sources = [snapshots[0].path.clone()];
    let mut child = btrfs().send(&last.path, None, &sources, SendOptions::default()).unwrap();
    let mut stream = Stream { facts: send(&last.path, None).facts, bytes: Vec::new() };
    child.read_to_end(&mut stream.bytes).unwrap();
    child.finish().unwrap();
    stream.facts.clone_sources = vec![streams[0].facts.identity];
    let target = other.path().join("new");
    let error = restore(&target, &[stream.clone()]).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(BtrfsError::Conflict(Conflict::Missing { .. }))), "{error}");
    restore(&target, &[streams[0].clone(), stream]).unwrap();
    assert_eq!(fs::read(target.join("reflink")).unwrap(), vec![0; 300_000]);
}
