//! Names on disk against a map in memory, and on disks that fail.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// An id for a number.
fn id(number: u64) -> NameId {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..24]);
    NameId::from_bytes(bytes)
}

/// These numbers' records with a value.
fn records(numbers: impl IntoIterator<Item = u64>, value: u64) -> Vec<NameRecord> {
    let mut records: Vec<_> = numbers.into_iter().map(|number| NameRecord { id: id(number), value }).collect();
    records.sort_unstable_by_key(|record| record.id);
    records
}

fn on_disk(folder: &TempDir) -> NamesOnDisk {
    NamesOnDisk { left_free_bytes: 0, ..NamesOnDisk::below(folder.path().join("scratch")) }
}

/// The files that names are in.
fn files(folder: &TempDir) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries(&folder.path().join("scratch")).flat_map(|folder| entries(&folder).collect::<Vec<_>>()).collect()
}

#[test]
fn nothing_is_on_disk_before_there_is_something_to_keep_nor_afterwards() {
    let folder = TempDir::new().unwrap();
    let mut names = on_disk(&folder);
    assert_eq!(names.get(&id(1)).unwrap(), None);
    assert!(!folder.path().join("scratch").exists());
    names.put(&records(0..10, 5)).unwrap();
    assert_eq!(names.get(&id(1)).unwrap(), Some(5));
    assert_eq!(files(&folder).len(), 1);
    drop(names);
    assert_eq!(fs::read_dir(folder.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn the_newest_value_of_an_id_is_what_it_has_however_often_runs_become_one() {
    let folder = TempDir::new().unwrap();
    let (mut names, mut model) = (on_disk(&folder), BTreeMap::new());
    for round in 0..70_u64 {
        // Most ids come several times; sizes differ, and one of them is less than a bucket.
        let numbers: Vec<_> = (0..=round * 13 % 300).map(|number| number * (round % 7 + 1) % 1500).collect();
        let numbers = numbers.into_iter().collect::<std::collections::BTreeSet<_>>();
        names.put(&records(numbers.iter().copied(), round)).unwrap();
        model.extend(numbers.into_iter().map(|number| (number, round)));
        let kept = names.kept.as_ref().unwrap();
        assert!(kept.runs.len() <= 12, "{round}");
        assert!(kept.runs.is_sorted_by(|a, b| a.level() >= b.level()));
        assert_eq!(files(&folder).len(), kept.runs.len(), "what has become one is removed");
    }
    for number in 0..2000 {
        assert_eq!(names.get(&id(number)).unwrap(), model.get(&number).copied(), "{number}");
    }
}

#[test]
fn a_run_of_many_buckets_is_read_in_pieces() {
    let folder = TempDir::new().unwrap();
    let mut names = on_disk(&folder);
    for quarter in 0..4 {
        names.put(&records(quarter * 5000..(quarter + 1) * 5000, quarter)).unwrap();
    }
    let kept = names.kept.as_ref().unwrap();
    assert_eq!(kept.runs.iter().map(|run| (run.level(), run.len())).collect::<Vec<_>>(), [(1, 20_000)]);
    assert!((0..20_000).all(|number| names.get(&id(number)).unwrap() == Some(number / 5000)));
    assert!((20_000..30_000).all(|number| names.get(&id(number)).unwrap().is_none()));
}

#[test]
fn a_bit_that_has_flipped_on_the_disk_is_an_error_and_no_answer() {
    let folder = TempDir::new().unwrap();
    let mut names = on_disk(&folder);
    names.put(&records(0..1000, 5)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&files(&folder)[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 31 * 32 + 30).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 31 * 32 + 30).unwrap();
    let answers: Vec<_> = (0..1000).map(|number| names.get(&id(number))).collect();
    assert!(answers.iter().flatten().all(|value| *value == Some(5)));
    let errors: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!errors.is_empty() && errors.iter().all(|error| error.to_string().ends_with("/1: it is damaged")));
    // It does not get into other runs either.
    (0..2).for_each(|_| names.put(&records(0..10, 6)).unwrap());
    assert!(names.put(&records(0..10, 6)).is_err());
}

#[test]
fn what_is_free_on_the_file_system_is_not_all_taken() {
    let folder = TempDir::new().unwrap();
    let mut names = NamesOnDisk { left_free_bytes: 1 << 60, ..on_disk(&folder) };
    let error = names.put(&records(0..10, 5)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("fewer than 1152921504606847296 bytes are free at "), "{error}");
    assert!(files(&folder).is_empty());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let mut names = NamesOnDisk::below(PathBuf::from("/proc/self/status/scratch"));
    let error = names.put(&records(0..10, 5)).unwrap_err();
    assert!(error.to_string().starts_with("making /proc/self/status/scratch: "), "{error}");
}
