//! The files that are named when something of a backup is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use btrfs_to_s3::check::report::{Affected, FileLosses};
use btrfs_to_s3::check::{CheckOptions, check};
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::packs::salvage_pack;
use btrfs_to_s3::store::{Key, ObjectStore};

use crate::samples::{Sample, random_bytes};
use crate::world::{Notes, World};

/// Enough for several data packs, and for small files that share a chunk.
fn files() -> Vec<Vec<u8>> {
    [1_100_000, 0, 900_000, 300, 400, 500, 700_000, 300_000]
        .into_iter()
        .zip(1..)
        .map(|(length, seed)| random_bytes(seed, length))
        .collect()
}

async fn affected(world: &World, named: Vec<Key>) -> Vec<Affected> {
    let named = named.iter().map(|key| layout::parse_pack_key(key).unwrap()).collect();
    let options = CheckOptions { named, files_at_most: 100, ..CheckOptions::new(world.host_folder("check")) };
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    check(&world.open().await, &options, &monitor).await.unwrap().affected
}

async fn losses(world: &World, named: Vec<Key>) -> FileLosses {
    let affected = affected(world, named).await;
    assert_eq!(affected.len(), 1, "{affected:?}");
    affected[0].losses.clone().unwrap()
}

/// How many bytes of each file are in a pack.
async fn in_pack(world: &World, key: &Key, files: &[Vec<u8>]) -> BTreeMap<String, u64> {
    let (class, pack) = layout::parse_pack_key(key).unwrap();
    let mut bytes = BTreeMap::new();
    for frame in salvage_pack(&world.open().await, class, pack).await.unwrap() {
        let mut plaintext = frame.plaintext.as_slice();
        while !plaintext.is_empty() {
            // Random bytes: eight of them are in one file only.
            let (number, at) = files
                .iter()
                .enumerate()
                .find_map(|(number, file)| Some((number, file.windows(8).position(|part| part == &plaintext[..8])?)))
                .unwrap();
            let common = files[number][at..].iter().zip(plaintext).take_while(|(one, other)| one == other).count();
            *bytes.entry(format!("file-{number}")).or_default() += common as u64;
            plaintext = &plaintext[common..];
        }
    }
    bytes
}

fn told(losses: &FileLosses) -> BTreeMap<String, u64> {
    let told = losses.files.iter().map(|file| (String::from_utf8(file.path.clone()).unwrap(), file.lost_bytes));
    told.collect()
}

async fn lost(world: &World, key: &Key) {
    world.memory.delete(key).await.unwrap();
}

#[tokio::test]
async fn the_files_of_a_lost_data_pack_are_named_with_what_each_has_lost() {
    let whole = World::new().await;
    let files = files();
    whole.back_up(&Sample::of_files(1, files.clone())).await;
    let keys = whole.keys("data/").await;
    assert!(keys.len() > 2, "{keys:?}");
    let mut told_in_all = BTreeMap::new();
    for key in keys {
        let world = whole.copy().await;
        let expected = in_pack(&world, &key, &files).await;
        lost(&world, &key).await;
        let losses = losses(&world, Vec::new()).await;
        assert_eq!(told(&losses), expected);
        assert_eq!(losses.data_bytes, expected.values().sum::<u64>());
        assert_eq!((losses.more, losses.commands_unreadable), (0, None));
        for (file, bytes) in expected {
            *told_in_all.entry(file).or_default() += bytes;
        }
    }
    let lengths = files.iter().enumerate().filter(|(_, file)| !file.is_empty());
    assert_eq!(told_in_all, lengths.map(|(number, file)| (format!("file-{number}"), file.len() as u64)).collect());
}

#[tokio::test]
async fn a_damaged_pack_that_is_named_is_read_and_its_files_are_told() {
    let world = World::new().await;
    let files = files();
    world.back_up(&Sample::of_files(1, files.clone())).await;
    let key = world.keys("data/").await.remove(0);
    let expected = in_pack(&world, &key, &files).await;
    let mut bytes = world.body(&key).await.to_vec();
    bytes[100..].fill(0);
    world.replace(&key, bytes.into()).await;
    assert_eq!(affected(&world, Vec::new()).await, []);
    assert_eq!(told(&losses(&world, vec![key]).await), expected);
}

#[tokio::test]
async fn where_commands_are_lost_it_is_told_that_files_cannot_be_named() {
    let whole = World::new().await;
    whole.back_up(&Sample::of_files(1, files())).await;
    let keys = whole.keys("meta/").await;
    let mut unreadable = 0;
    for key in &keys {
        let world = whole.copy().await;
        lost(&world, key).await;
        let Some(affected) = affected(&world, Vec::new()).await.pop() else { continue };
        let losses = affected.losses.unwrap();
        if losses.commands_unreadable.is_some() {
            assert!(losses.files.is_empty(), "{losses:?}");
            unreadable += 1;
        }
    }
    assert!(unreadable > 0, "{keys:?}");
}

#[tokio::test]
async fn a_backup_made_on_a_damaged_one_is_told_without_files_of_its_own() {
    let world = World::new().await;
    world.back_up(&Sample::random(1, 100_000)).await;
    let packs = world.keys("data/").await;
    world.back_up(&Sample::random(2, 50_000).on(1)).await;
    lost(&world, &packs[0]).await;
    let affected = affected(&world, Vec::new()).await;
    let own: BTreeSet<_> = affected.iter().map(|affected| (affected.is_own, affected.losses.is_some())).collect();
    assert_eq!(own, BTreeSet::from([(true, true), (false, false)]));
}
