//! Tests of the local index.

mod crash;
mod model;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const NO_FILES: [PathBuf; 0] = [];
const REPOSITORY: RepositoryId = RepositoryId::from_bytes([7; 16]);

fn open(directory: &TempDir) -> LocalIndex {
    let (index, problems) = LocalIndex::open(directory.path(), REPOSITORY, Access::Exclusive).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    index
}

fn segment(number: u8) -> IndexedSegment {
    IndexedSegment { id: SegmentId::from_bytes([number; 32]), session: SessionId::from_bytes([number; 16]) }
}

fn pack(number: u8, class: PackClass) -> IndexedPack {
    IndexedPack { id: PackId::from_bytes([number; 32]), class, stored_bytes: u64::from(number) << 20, frame_count: 64 }
}

fn entry(chunk: ChunkId, pack: u32, frame: u32) -> Entry {
    Entry { chunk, place: Place { pack, frame, length_bytes: 1000 + frame } }
}

/// A segment of one pack per class, with chunks that only it has.
fn simple_segment(number: u8, chunks: u32) -> NewSegment {
    let entries = (0..chunks).map(|n| entry(chunk(number, n), n % 2, n % 64)).collect();
    let packs = vec![pack(number, PackClass::Data), pack(number + 100, PackClass::Meta)];
    NewSegment { segment: segment(number), packs, entries, usable: true }
}

fn chunk(segment: u8, number: u32) -> ChunkId {
    ChunkId::of(format!("{segment}/{number}").as_bytes())
}

fn run_files(directory: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Checks that the index answers for the simple segment `number` as if it were usable.
fn assert_complete(index: &LocalIndex, number: u8, chunks: u32) {
    for n in 0..chunks {
        let expected = Location {
            pack: PackId::from_bytes([if n % 2 == 0 { number } else { number + 100 }; 32]),
            class: if n % 2 == 0 { PackClass::Data } else { PackClass::Meta },
            pack_stored_bytes: u64::from(if n % 2 == 0 { number } else { number + 100 }) << 20,
            frame: n % 64,
            length_bytes: 1000 + n % 64,
        };
        assert_eq!(index.lookup_all(&chunk(number, n)).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(index.lookup(&chunk(number, n), expected.class).unwrap(), Some(expected));
    }
}

#[test]
fn a_chunk_is_known_only_within_its_class() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    index.add_segment(simple_segment(1, 2)).unwrap();
    assert!(index.lookup(&chunk(1, 0), PackClass::Data).unwrap().is_some());
    assert_eq!(index.lookup(&chunk(1, 0), PackClass::Meta).unwrap(), None);
}

#[test]
fn no_pack_of_an_index_just_opened_is_usable() {
    let directory = TempDir::new().unwrap();
    open(&directory).add_segment(simple_segment(1, 2)).unwrap();
    let mut index = open(&directory);
    assert_eq!(index.lookup_all(&chunk(1, 0)).unwrap(), []);
    let mut seen = Vec::new();
    index
        .set_usable(|segment, pack| {
            seen.push((*segment, pack.clone()));
            true
        })
        .unwrap();
    assert_eq!(
        seen,
        [(segment(1), pack(1, PackClass::Data)), (segment(1), pack(101, PackClass::Meta))],
        "the caller sees all that was recorded"
    );
    assert_complete(&index, 1, 2);
}

#[test]
fn a_merger_keeps_what_was_usable_and_what_was_not() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    for number in 0..20 {
        index.add_segment(NewSegment { usable: number % 3 != 0, ..simple_segment(number, 40) }).unwrap();
    }
    index.maintain().unwrap();
    assert!(index.size().runs <= plan::RUNS_LIMIT);
    let assert_kept = |index: &LocalIndex| {
        assert_eq!(run_files(&directory).len(), index.size().runs, "the runs merged are removed");
        for number in 0..20 {
            if number % 3 == 0 {
                assert_eq!(index.lookup_all(&chunk(number, 0)).unwrap(), []);
            } else {
                assert_complete(index, number, 40);
            }
        }
    };
    assert_kept(&index);
    index.compact().unwrap();
    assert_eq!((index.size().runs, index.size().entries), (1, 800));
    assert_kept(&index);
}

#[test]
fn dropped_segments_leave_the_disk_when_their_run_is_written_anew() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    for number in 0..9 {
        index.add_segment(simple_segment(number, 10)).unwrap();
    }
    index.maintain().unwrap();
    assert_eq!((index.size().runs, index.size().entries), (1, 90));
    index.drop_segments(|dropped| dropped.id != segment(4).id).unwrap();
    assert_eq!(index.segments(), BTreeSet::from([segment(4).id]));
    assert_eq!(index.size().entries, 90);
    index.maintain().unwrap();
    assert_eq!((index.size().packs, index.size().entries), (2, 10));
    assert_complete(&index, 4, 10);
    index.drop_segments(|_| true).unwrap();
    index.maintain().unwrap();
    assert_eq!(index.size(), IndexSize::default());
    assert_eq!(run_files(&directory), NO_FILES);
}

#[test]
fn a_segment_that_contradicts_itself_is_refused_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    for (pack, frame) in [(2, 0), (0, 64)] {
        let mut unfit = simple_segment(1, 2);
        unfit.entries.push(entry(chunk(1, 0), pack, frame));
        assert!(matches!(index.add_segment(unfit), Err(LocalIndexError::Unfit { .. })));
    }
    assert_eq!(run_files(&directory), NO_FILES);
    assert!(index.segments().is_empty());
}

#[test]
fn chunks_that_share_a_bucket_beyond_all_bounds_are_still_found() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    let id = |n: u32| {
        let mut bytes = [0xab; 32];
        bytes[28..].copy_from_slice(&n.to_le_bytes());
        ChunkId::from_bytes(bytes)
    };
    let entries = (0..5000).map(|n| entry(id(n), 0, n % 64)).collect();
    index.add_segment(NewSegment { entries, ..simple_segment(1, 0) }).unwrap();
    for n in 0..5000 {
        let location = index.lookup(&id(n), PackClass::Data).unwrap();
        assert_eq!(location.map(|location| location.frame), Some(n % 64));
    }
    assert_eq!(index.lookup(&id(5000), PackClass::Data).unwrap(), None);
}

#[test]
fn a_segment_without_packs_is_covered() {
    let directory = TempDir::new().unwrap();
    let empty = NewSegment { segment: segment(1), packs: vec![], entries: vec![], usable: true };
    open(&directory).add_segment(empty).unwrap();
    let index = open(&directory);
    assert_eq!(index.segments(), BTreeSet::from([segment(1).id]));
    assert_eq!(index.lookup_all(&chunk(1, 0)).unwrap(), []);
}

#[test]
fn an_index_opened_for_reading_changes_nothing() {
    let directory = TempDir::new().unwrap();
    open(&directory).add_segment(simple_segment(1, 2)).unwrap();
    let (mut index, _) = LocalIndex::open(directory.path(), REPOSITORY, Access::Shared).unwrap();
    assert!(matches!(index.add_segment(simple_segment(2, 2)), Err(LocalIndexError::ReadOnly { .. })));
    assert!(matches!(index.maintain(), Err(LocalIndexError::ReadOnly { .. })));
    assert!(matches!(index.discard_damaged(), Err(LocalIndexError::ReadOnly { .. })));
    index.set_usable(|_, _| true).unwrap();
    assert_complete(&index, 1, 2);
}

#[test]
fn a_reader_goes_on_when_its_runs_are_replaced() {
    let directory = TempDir::new().unwrap();
    let mut writer = open(&directory);
    for number in 0..9 {
        writer.add_segment(simple_segment(number, 10)).unwrap();
    }
    let (mut reader, _) = LocalIndex::open(directory.path(), REPOSITORY, Access::Shared).unwrap();
    writer.maintain().unwrap();
    reader.set_usable(|_, _| true).unwrap();
    (0..9).for_each(|number| assert_complete(&reader, number, 10));
}

#[test]
fn many_threads_look_up_and_open_while_one_adds() {
    let directory = TempDir::new().unwrap();
    let mut writer = open(&directory);
    writer.add_segment(simple_segment(0, 200)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let (mut reader, _) = LocalIndex::open(directory.path(), REPOSITORY, Access::Shared).unwrap();
                    reader.set_usable(|_, _| true).unwrap();
                    for number in (0..30).filter(|number| reader.segments().contains(&segment(*number).id)) {
                        assert_complete(&reader, number, 5);
                    }
                }
            });
        }
        for number in 1..30 {
            writer.add_segment(simple_segment(number, 200)).unwrap();
            writer.maintain().unwrap();
        }
    });
}

#[test]
fn a_missing_directory_and_one_that_cannot_be_written_are_named() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let error = LocalIndex::open(&missing, REPOSITORY, Access::Exclusive).unwrap_err();
    assert!(!error.means_rebuild());
    assert_eq!(error.to_string(), format!("listing {}", missing.display()));

    // Even root cannot make files here, which it can in a directory without write permission.
    let (mut index, _) = LocalIndex::open(Path::new("/sys/kernel"), REPOSITORY, Access::Exclusive).unwrap();
    let error = index.add_segment(simple_segment(1, 2)).unwrap_err();
    assert!(!error.means_rebuild());
    assert_eq!(error.to_string(), "creating /sys/kernel/0000000000000000.run.tmp");
}

#[test]
fn the_memory_for_a_run_is_bounded() {
    assert_eq!(format::FanOut::bits_for(0), 0);
    assert_eq!(format::FanOut::bits_for(32), 0);
    assert_eq!(format::FanOut::bits_for(33), 1);
    assert_eq!(format::FanOut::bits_for(u32::MAX), 20);
    assert!(format::BUCKET_BYTES << format::FanOut::bits_for(u32::MAX) <= 8 << 20);
}
