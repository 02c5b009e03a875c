//! What a host remembers can be lost, damaged, old or another's: its next run is right all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use jiff::SignedDuration;

use crate::interruption::data_packs;
use crate::pruning::{options, prune_on};
use crate::samples::{Sample, random_bytes};
use crate::world::{Made, Notes, World, back_up};

/// A repository that host `one` has written to a few times.
async fn lived_in() -> (World, Vec<Made>) {
    let world = World::new().await;
    let mut made = Vec::new();
    for number in 1..4 {
        made.push(world.back_up(&Sample::random(number, 100_000)).await);
    }
    (world, made)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Backs up old and new data; gives how many bytes of file data were new to the repository.
async fn check_next_run(world: &World, made: &[Made]) -> u64 {
    let files = (1..4).map(|seed| random_bytes(seed, 100_000)).chain([random_bytes(99, 50_000)]).collect();
    let sample = Sample::of_files(9, files);
    let before = data_packs(world).await;
    let notes = Arc::new(Notes::default());
    let repository = world.open().await;
    let summary = back_up(&repository, &world.host("one"), sample.stream(), Expected::Anything, &notes).await.unwrap();
    assert_eq!(notes.problems(), Vec::<String>::new());
    let new_packs = data_packs(world).await.into_iter().filter(|(pack, _)| !before.contains_key(pack));
    let new_bytes = new_packs.flat_map(|(_, chunks)| chunks.into_values()).sum();

    let again = Made::new(&summary, sample.stream());
    let packs = world.keys("data/").await;
    let last = world.back_up(&sample).await;
    assert_eq!(world.keys("data/").await, packs, "the index is whole after one run");
    world.assert_restorable(&[made, &[again, last]].concat()).await;
    new_bytes
}

async fn assert_only_new_data_is_sent(spoil: impl Fn(&Path)) {
    let (world, made) = lived_in().await;
    spoil(&world.host_folder("one"));
    assert_eq!(check_next_run(&world, &made).await, 50_000);
}

#[tokio::test]
async fn everything_a_host_remembers_can_be_deleted() {
    assert_only_new_data_is_sent(|_| {}).await;
    assert_only_new_data_is_sent(|folder| fs::remove_dir_all(folder).unwrap()).await;
    assert_only_new_data_is_sent(|folder| fs::remove_dir_all(folder.join("index")).unwrap()).await;
    assert_only_new_data_is_sent(|folder| fs::remove_dir_all(folder.join("records")).unwrap()).await;
    assert_only_new_data_is_sent(|folder| files_below(folder).iter().for_each(|file| fs::remove_file(file).unwrap()))
        .await;
}

#[tokio::test]
async fn files_a_host_remembers_by_can_be_truncated() {
    for share in [0, 1, 2, 3] {
        assert_only_new_data_is_sent(|folder| {
            for file in files_below(folder) {
                let length = fs::metadata(&file).unwrap().len();
                fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length * share / 4).unwrap();
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_host_remembers_can_be_replaced_by_an_older_copy() {
    let world = World::new().await;
    let mut made = vec![world.back_up(&Sample::random(1, 100_000)).await];
    let older = world.copy().await;
    for number in 2..4 {
        made.push(world.back_up(&Sample::random(number, 100_000)).await);
    }
    fs::remove_dir_all(world.host_folder("one")).unwrap();
    fs::rename(older.host_folder("one"), world.host_folder("one")).unwrap();
    assert_eq!(check_next_run(&world, &made).await, 50_000);
}

#[tokio::test]
async fn what_a_host_remembers_can_be_newer_than_the_repository() {
    let world = World::new().await;
    let made = vec![world.back_up(&Sample::random(1, 100_000)).await];
    let newer = world.copy().await;
    for number in 2..4 {
        newer.back_up(&Sample::random(number, 100_000)).await;
    }
    fs::remove_dir_all(world.host_folder("one")).unwrap();
    fs::rename(newer.host_folder("one"), world.host_folder("one")).unwrap();
    assert_eq!(check_next_run(&world, &made).await, 250_000);
}

#[tokio::test]
async fn what_a_host_remembers_can_be_of_another_repository() {
    let (other, _) = lived_in().await;
    let (world, made) = lived_in().await;
    fs::remove_dir_all(world.host_folder("one")).unwrap();
    fs::rename(other.host_folder("one"), world.host_folder("one")).unwrap();
    assert_eq!(check_next_run(&world, &made).await, 50_000);
}

#[tokio::test]
async fn a_bit_of_a_record_that_a_host_remembers_can_be_flipped() {
    for offset in [0, 9, 20, 60, 120] {
        assert_only_new_data_is_sent(|folder| {
            for file in files_below(&folder.join("records")) {
                flip_bit(&file, offset);
            }
        })
        .await;
    }
}

fn flip_bit(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    let place = offset % bytes.len();
    bytes[place] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn records_that_a_host_remembers_can_be_exchanged() {
    assert_only_new_data_is_sent(|folder| {
        let files = files_below(&folder.join("records"));
        let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        for (file, content) in files.iter().zip(contents.iter().cycle().skip(1)) {
            fs::write(file, content).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_prune_mends_the_local_index_and_goes_on() {
    let (world, made) = lived_in().await;
    let runs = files_below(&world.host_folder("one").join("index"));
    let largest = runs.iter().max_by_key(|run| fs::metadata(run).unwrap().len()).unwrap();
    // In the entries, which are checked when they are looked up.
    let length = usize::try_from(fs::metadata(largest).unwrap().len()).unwrap();
    flip_bit(largest, length * 3 / 4);
    prune_on("one", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(check_next_run(&world, &made).await, 50_000);
}

#[tokio::test]
async fn a_bit_anywhere_in_the_local_index_can_be_flipped() {
    let (base, made) = lived_in().await;
    let runs = files_below(&base.host_folder("one").join("index"));
    assert!(!runs.is_empty());
    let length = usize::try_from(runs.iter().map(|run| fs::metadata(run).unwrap().len()).max().unwrap()).unwrap();
    // All of the beginning and the end, where everything is of importance, and samples of what is between.
    let places = (0..64).step_by(4).chain((64..length).step_by(length / 40)).chain([length - 9, length - 1]);
    for place in places {
        let world = base.copy().await;
        for run in files_below(&world.host_folder("one").join("index")) {
            flip_bit(&run, place);
        }
        // Damage met by a look-up makes chunks unknown to that run alone.
        let new_bytes = check_next_run(&world, &made).await;
        assert!((50_000..=350_000).contains(&new_bytes), "{new_bytes} bytes");
    }
}
