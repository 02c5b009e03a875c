//! What a crash, a failing disk or an older copy leaves.

use super::*;

/// A run of nine merged segments, in several buckets.
fn merged_run(directory: &TempDir) -> Vec<u8> {
    let mut index = open(directory);
    for number in 0..9 {
        index.add_segment(simple_segment(number, 8)).unwrap();
    }
    index.maintain().unwrap();
    let [file] = run_files(directory).try_into().unwrap();
    fs::read(file).unwrap()
}

/// Opens a directory that has `bytes` as its only run, and checks that whatever is covered is answered rightly or
/// reported as damaged.
fn assert_never_wrong(directory: &TempDir, bytes: &[u8], what: &str) {
    fs::write(directory.path().join("0000000000000000.run"), bytes).unwrap();
    let (mut index, problems) = LocalIndex::open(directory.path(), REPOSITORY, Access::Exclusive).unwrap();
    assert!(problems.iter().all(LocalIndexError::means_rebuild), "{what}: {problems:?}");
    if !problems.is_empty() {
        assert!(index.segments().is_empty() && run_files(directory).is_empty(), "{what}");
        return;
    }
    index.set_usable(|_, _| true).unwrap();
    let mut damaged = 0;
    for (number, n) in (0..9).flat_map(|number| (0..8).map(move |n| (number, n))) {
        match index.lookup_all(&chunk(number, n)) {
            Err(error) => damaged += u32::from(error.means_rebuild()),
            Ok(locations) => {
                let found: Vec<_> =
                    locations.iter().map(|location| (location.pack.as_bytes()[0], location.frame)).collect();
                assert_eq!(found, [(if n % 2 == 0 { number } else { number + 100 }, n)], "{what}");
            }
        }
    }
    assert!(damaged > 0, "{what}: not noticed");
    assert_eq!(index.discard_damaged().unwrap().len(), 1, "{what}");
    assert!(index.segments().is_empty() && run_files(directory).is_empty(), "{what}");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_never_gives_a_wrong_answer() {
    let directory = TempDir::new().unwrap();
    let whole = merged_run(&directory);
    let directory = TempDir::new().unwrap();
    for position in 0..whole.len() {
        for flip in [1 << (position % 8), 0xff] {
            let mut bytes = whole.clone();
            bytes[position] ^= flip;
            assert_never_wrong(&directory, &bytes, &format!("byte {position} ^ {flip:#x}"));
        }
    }
}

#[test]
fn a_run_cut_short_or_grown_is_noticed() {
    let directory = TempDir::new().unwrap();
    let mut bytes = merged_run(&directory);
    let directory = TempDir::new().unwrap();
    for length in 0..bytes.len() {
        assert_never_wrong(&directory, &bytes[..length], &format!("cut to {length} bytes"));
    }
    bytes.push(0);
    assert_never_wrong(&directory, &bytes, "one byte more");
}

#[test]
fn damage_to_an_open_run_is_reported_and_the_segment_can_be_added_again() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    index.add_segment(simple_segment(1, 200)).unwrap();
    index.add_segment(simple_segment(2, 10)).unwrap();
    let damaged = &run_files(&directory)[0];
    let mut bytes = fs::read(damaged).unwrap();
    bytes[56 + 48 + 2 * 56..][..200 * 44].fill(0);
    fs::write(damaged, bytes).unwrap();

    let error = index.lookup(&chunk(1, 0), PackClass::Data).unwrap_err();
    assert!(error.to_string().contains(damaged.to_str().unwrap()), "{error}");
    assert_eq!(index.discard_damaged().unwrap().len(), 1);
    assert_eq!(index.segments(), BTreeSet::from([segment(2).id]));
    index.add_segment(simple_segment(1, 200)).unwrap();
    assert_complete(&index, 1, 200);
    assert_complete(&index, 2, 10);
}

#[test]
fn a_merger_of_a_damaged_run_fails_and_leaves_the_others() {
    let directory = TempDir::new().unwrap();
    let mut index = open(&directory);
    for number in 0..9 {
        index.add_segment(simple_segment(number, 20)).unwrap();
    }
    let damaged = &run_files(&directory)[4];
    let mut bytes = fs::read(damaged).unwrap();
    bytes[56 + 48 + 2 * 56 + 500] ^= 1;
    fs::write(damaged, bytes).unwrap();

    assert!(index.maintain().unwrap_err().means_rebuild());
    assert_eq!(run_files(&directory).len(), 9, "no temporary file is left");
    assert_eq!(index.discard_damaged().unwrap().len(), 1);
    index.maintain().unwrap();
    (0..9).filter(|number| *number != 4).for_each(|number| assert_complete(&index, number, 20));
}

#[test]
fn another_repository_s_run_is_left_out_and_removed() {
    let directory = TempDir::new().unwrap();
    open(&directory).add_segment(simple_segment(1, 2)).unwrap();
    let other = RepositoryId::from_bytes([8; 16]);
    let (shared, problems) = LocalIndex::open(directory.path(), other, Access::Shared).unwrap();
    assert!(matches!(problems[..], [LocalIndexError::OtherRepository { .. }]));
    assert!(shared.segments().is_empty());
    assert_eq!(run_files(&directory).len(), 1, "who only reads removes nothing");
    let (index, problems) = LocalIndex::open(directory.path(), other, Access::Exclusive).unwrap();
    assert!(matches!(problems[..], [LocalIndexError::OtherRepository { .. }]));
    assert!(index.segments().is_empty());
    assert_eq!(run_files(&directory), NO_FILES);
}

#[test]
fn a_run_of_another_layout_is_left_out_and_says_so() {
    let directory = TempDir::new().unwrap();
    open(&directory).add_segment(simple_segment(1, 2)).unwrap();
    let mut bytes = fs::read(&run_files(&directory)[0]).unwrap();
    bytes[8] = 9;
    fs::write(&run_files(&directory)[0], bytes).unwrap();
    let (_, problems) = LocalIndex::open(directory.path(), REPOSITORY, Access::Exclusive).unwrap();
    assert!(matches!(problems[..], [LocalIndexError::OtherVersion { version: 9, .. }]), "{problems:?}");
}

#[test]
fn the_rest_of_an_unfinished_run_is_removed_and_strange_files_stay() {
    let directory = TempDir::new().unwrap();
    open(&directory).add_segment(simple_segment(1, 2)).unwrap();
    let unfinished = directory.path().join("0000000000000001.run.tmp");
    let strange = ["notes.txt", "1.run", "000000000000000G.run", "ffffffffffffffff.run", "x.tmp"];
    fs::write(&unfinished, "half").unwrap();
    for name in strange {
        fs::write(directory.path().join(name), "?").unwrap();
    }

    let (_, problems) = LocalIndex::open(directory.path(), REPOSITORY, Access::Shared).unwrap();
    assert!(problems.is_empty() && unfinished.exists());
    let index = open(&directory);
    assert!(!unfinished.exists());
    assert_eq!(index.segments(), BTreeSet::from([segment(1).id]));
    assert!(strange.iter().all(|name| directory.path().join(name).exists()));
}

/// An index of one large run, with segments 0 to 8, and nine small ones.
fn index_to_merge(directory: &TempDir) -> LocalIndex {
    let mut index = open(directory);
    for number in 0..9 {
        index.add_segment(simple_segment(number, 10)).unwrap();
    }
    index.maintain().unwrap();
    for number in 9..18 {
        index.add_segment(simple_segment(number, 10)).unwrap();
    }
    index
}

#[test]
fn a_merger_counts_instead_of_the_runs_it_was_made_of() {
    let directory = TempDir::new().unwrap();
    let mut index = index_to_merge(&directory);
    let before: Vec<_> = run_files(&directory).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    index.drop_segments(|dropped| dropped.id == segment(3).id).unwrap();
    index.maintain().unwrap();
    let merged = run_files(&directory);
    assert_eq!((before.len(), merged.len()), (10, 1));

    // The crash came before the last of the old runs were removed.
    for (bytes, file) in &before {
        fs::write(file, bytes).unwrap();
    }
    let mut index = open(&directory);
    assert_eq!(run_files(&directory), merged);
    assert_eq!(index.segments(), (0..18).filter(|number| *number != 3).map(|number| segment(number).id).collect());
    index.set_usable(|_, _| true).unwrap();
    (0..18).filter(|number| *number != 3).for_each(|number| assert_complete(&index, number, 10));
}

#[test]
fn the_runs_a_damaged_merger_was_made_of_count_instead_of_it() {
    let directory = TempDir::new().unwrap();
    drop(index_to_merge(&directory));
    let before = run_files(&directory);
    fs::write(directory.path().join("0000000000001000.run"), "not a run").unwrap();
    let (mut index, problems) = LocalIndex::open(directory.path(), REPOSITORY, Access::Exclusive).unwrap();
    assert_eq!(problems.len(), 1);
    assert_eq!(run_files(&directory), before);
    index.set_usable(|_, _| true).unwrap();
    (0..18).for_each(|number| assert_complete(&index, number, 10));
}

#[test]
fn a_run_that_is_given_up_leaves_no_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("0000000000000000.run");
    let mut writer = RunWriter::create(&path, REPOSITORY, &[segment(1)], 10).unwrap();
    writer.push_entry(entry(chunk(1, 0), 0, 0)).unwrap();
    assert_eq!(run_files(&directory).len(), 1);
    drop(writer);
    assert_eq!(run_files(&directory), NO_FILES);
}
