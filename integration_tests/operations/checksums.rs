//! `check --checksums`: packs are compared by what the store has kept of them since they were stored, and none is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::check::report::Report;
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::check::{CheckOptions, check};
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::store::archiving::ArchivingStore;
use btrfs_to_s3::store::faulty::{Damage, FaultyStore};
use btrfs_to_s3::store::recording::{Operation, RecordingStore};
use btrfs_to_s3::store::{Key, ObjectStore, StorageClassName, Store};
use bytes::Bytes;

use crate::checking::three;
use crate::world::{Notes, World};

const INVARIANT: &str = "packs_are_those_that_were_stored";

async fn check_through(world: &World, store: Store, data: Option<Subset>, checksums: bool) -> Report {
    let repository = world.open_through(store).await.unwrap();
    let options = CheckOptions { data, checksums, ..CheckOptions::new(world.host_folder("check")) };
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    check(&repository, &options, &monitor).await.unwrap()
}

async fn compare(world: &World) -> Report {
    check_through(world, world.store(), None, true).await
}

async fn packs(world: &World) -> Vec<Key> {
    [world.keys("data/").await, world.keys("meta/").await].concat()
}

/// Puts bytes of the same length, one of them another one, in the place of an object.
async fn replace(world: &World, key: &Key) {
    let mut bytes = world.body(key).await.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.replace(key, Bytes::from(bytes)).await;
}

fn named(report: &Report, key: &Key) -> bool {
    let names = |finding: &&btrfs_to_s3::check::report::Finding| {
        finding.invariant == INVARIANT && finding.object.contains(key.as_str())
    };
    report.findings.iter().any(|finding| names(&finding))
}

#[tokio::test]
async fn packs_are_asked_for_once_each_and_none_of_data_is_read() {
    let world = World::new().await;
    three(&world).await;
    crate::interruption::abandoned_run(
        &world,
        "one",
        crate::samples::Sample::random(20, 20_000).stream(),
        "manifests/",
    )
    .await;
    let store = Arc::new(RecordingStore::new(world.store()));
    let report = check_through(&world, Arc::clone(&store) as Store, None, true).await;
    assert_eq!((report.findings, report.affected), (vec![], vec![]));
    // What a killed run has left is nobody's.
    let known = report.counts.packs - report.counts.packs_unused;
    assert!(report.counts.packs_unused > 0);
    assert_eq!((report.counts.checksums_compared, report.counts.checksums_not_kept), (known, 0));
    let asked = ["data/", "meta/"].map(|prefix| store.count(Operation::UploadChecksum, prefix));
    assert_eq!(asked.iter().sum::<usize>() as u64, known);
    let reads = [Operation::Get, Operation::GetRange, Operation::GetEnd, Operation::Head];
    assert_eq!(reads.map(|operation| store.count(operation, "data/")), [0; 4]);
    drop(store.take_calls());
    check_through(&world, Arc::clone(&store) as Store, None, false).await;
    assert_eq!(store.count(Operation::UploadChecksum, ""), 0);
}

#[tokio::test]
async fn a_replaced_pack_is_found_with_all_who_may_need_it() {
    let world = World::new().await;
    let made = three(&world).await;
    for key in packs(&world).await {
        let world = world.copy().await;
        replace(&world, &key).await;
        let is_data = key.as_str().starts_with("data/");
        let without = check_through(&world, world.store(), None, false).await;
        assert!(!is_data || without.findings.is_empty(), "{key}: {without:?}");
        let report = compare(&world).await;
        assert!(named(&report, &key), "{key}: {report:?}");
        let affected: BTreeSet<ManifestId> = report.affected.iter().map(|affected| affected.id).collect();
        for backup in &made {
            // Which of its chunks are right is not known, so all count as lost.
            assert!(world.restore(backup.id).await.is_ok() || affected.contains(&backup.id), "{key}: {report:?}");
        }
        assert!(!is_data || (!affected.is_empty() && affected.len() < 3), "{key}: {affected:?}");
    }
}

#[tokio::test]
async fn who_reads_a_replaced_pack_as_well_knows_which_chunks_are_right() {
    let world = World::new().await;
    let made = three(&world).await;
    for key in world.keys("data/").await {
        let world = world.copy().await;
        replace(&world, &key).await;
        let report = check_through(&world, world.store(), Some(Subset::All), true).await;
        assert!(named(&report, &key), "{key}: {report:?}");
        for backup in &made {
            let own = report.affected.iter().any(|affected| affected.is_own && affected.id == backup.id);
            assert_eq!(world.restore(backup.id).await.is_err(), own, "{key}: {report:?}");
        }
    }
}

#[tokio::test]
async fn bits_that_flip_after_the_upload_do_not_show_and_reading_shows_them() {
    let world = World::new().await;
    three(&world).await;
    let store = Arc::new(FaultyStore::new(world.store()));
    store.damage(&world.keys("data/").await[0], Damage::FlippedBit(1000));
    assert_eq!(check_through(&world, Arc::clone(&store) as Store, None, true).await.findings, []);
    assert_ne!(check_through(&world, store, Some(Subset::All), true).await.findings, []);
}

#[tokio::test]
async fn archived_packs_are_compared_without_a_thaw() {
    let world = World::new().await;
    three(&world).await;
    let class: StorageClassName = "DEEP_ARCHIVE".parse().unwrap();
    let archive = Arc::new(ArchivingStore::new(world.store(), class.clone(), Arc::clone(&world.clock)));
    let keys = world.keys("data/").await;
    for key in &keys {
        archive.archive(key, &class);
    }
    replace(&world, &keys[1]).await;
    let report = check_through(&world, Arc::clone(&archive) as Store, None, true).await;
    assert!(named(&report, &keys[1]), "{report:?}");
    assert_eq!(report.findings.len(), 1);
    assert_eq!((archive.refused_reads(), archive.take_requests().len()), (0, 0));
}

#[tokio::test]
async fn a_lost_pack_is_named_once() {
    let world = World::new().await;
    three(&world).await;
    let key = world.keys("data/").await[0].clone();
    world.memory.delete(&key).await.unwrap();
    let report = compare(&world).await;
    let naming: Vec<_> = report.findings.iter().filter(|finding| finding.object.contains(key.as_str())).collect();
    assert_eq!(naming.len(), 1, "{report:?}");
    assert_eq!(naming[0].invariant, "packs_are_there_with_their_lengths");
    assert!(report.has_damage());
}
