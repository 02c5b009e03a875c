//! What is mended, and what holds when that is cut short.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::id::PackId;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::repair::{IndexRepair, repair_index, repair_packs};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::recording::{Operation, RecordingStore};
use btrfs_to_s3::store::{Key, ObjectStore, Store, StoreErrorKind};
use bytes::Bytes;

use crate::checking::{check_it, three};
use crate::interruption::abandoned_run;
use crate::samples::{Sample, random_bytes};
use crate::world::{Made, Notes, World, back_up};

type FaultAt = fn(u64) -> Fault;

async fn mend_index(world: &World) -> IndexRepair {
    repair_index(&world.open().await, Some(&world.host("one"))).await.unwrap()
}

/// Checks that nothing is wrong any more, and that a backup of what is there already stores no data.
async fn assert_mended(world: &World, made: &[Made]) {
    let report = check_it(world, Some(Subset::All)).await;
    assert_eq!((report.findings, report.affected), (vec![], vec![]));
    world.assert_restorable(made).await;
    let data = world.keys("data/").await;
    world.back_up_from("new", &Sample::random(1, 200_000)).await;
    assert_eq!(world.keys("data/").await, data);
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

fn pack_of(key: &Key) -> (PackClass, PackId) {
    layout::parse_pack_key(key).unwrap()
}

#[tokio::test]
async fn an_index_that_is_lost_is_made_again_without_reading_data_packs() {
    let world = World::new().await;
    let made = three(&world).await;
    let packs: BTreeSet<_> =
        [world.keys("data/").await, world.keys("meta/").await].concat().iter().map(pack_of).collect();
    for key in world.keys("index/").await {
        world.memory.delete(&key).await.unwrap();
    }
    let before = world.keys("").await;
    let plan = repair_index(&world.open().await, None).await.unwrap();
    assert_eq!((plan.added.clone(), world.keys("").await), (packs.clone(), before));
    let store = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&store) as Store).await.unwrap();
    let repair = repair_index(&repository, Some(&world.host("one"))).await.unwrap();
    assert_eq!(
        (repair.added, repair.lost, repair.unreadable, repair.replaced),
        (packs, BTreeSet::new(), vec![], vec![])
    );
    for operation in [Operation::Get, Operation::GetRange, Operation::GetEnd, Operation::Head] {
        assert_eq!(store.count(operation, "data/"), 0);
    }
    assert_mended(&world, &made).await;
    assert!(mend_index(&world).await.is_empty());
}

#[tokio::test]
async fn a_damaged_segment_is_replaced() {
    let world = World::new().await;
    let made = three(&world).await;
    for key in world.keys("index/").await {
        let world = world.copy().await;
        world.replace(&key, Bytes::from_static(b"rubbish")).await;
        let repair = mend_index(&world).await;
        assert!(repair.replaced.len() == 1 && !repair.added.is_empty() && !world.keys("index/").await.contains(&key));
        assert_mended(&world, &made).await;
    }
}

#[tokio::test]
async fn a_data_pack_whose_copy_of_the_footer_is_lost_too_tells_itself_what_it_has() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 200_000)).await;
    for key in [world.keys("index/").await, world.keys("meta/").await].concat() {
        world.memory.delete(&key).await.unwrap();
    }
    let repair = mend_index(&world).await;
    assert_eq!(repair.added.len(), world.keys("data/").await.len());
    // The backup is lost, but its data need not be sent again.
    let data = world.keys("data/").await;
    let again = world.back_up(&Sample::random(1, 200_000)).await;
    assert_eq!(world.keys("data/").await, data);
    assert_ne!(again.id, made.id);
}

#[tokio::test]
async fn packs_of_a_run_under_way_are_not_added() {
    let world = World::new().await;
    abandoned_run(&world, "two", Sample::random(20, 200_000).stream(), "index/").await;
    assert!(!world.keys("data/").await.is_empty());
    assert!(mend_index(&world).await.is_empty());
    assert_eq!(world.keys("index/").await, []);
}

#[tokio::test]
async fn lost_packs_are_taken_out_and_runs_look_for_them_no_longer() {
    let world = World::new().await;
    three(&world).await;
    let key = world.keys("data/").await.remove(0);
    world.memory.delete(&key).await.unwrap();
    let repair = mend_index(&world).await;
    assert_eq!(repair.lost, BTreeSet::from([pack_of(&key)]));
    // It tells problems, if there are any.
    world.back_up_from("new", &Sample::random(9, 1000)).await;
    let report = check_it(&world, None).await;
    assert!(report.findings.is_empty() && !report.affected.is_empty(), "{report:?}");
}

/// Flips a bit in the middle of a pack.
async fn damage(world: &World, key: &Key) {
    let mut bytes = world.body(key).await.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.replace(key, Bytes::from(bytes)).await;
}

/// What `repair packs` does.
async fn mend_packs(world: &World, store: Store) -> anyhow::Result<(usize, usize)> {
    let damaged = check_it(world, Some(Subset::All)).await.bad_packs;
    let repository = world.open_through(store).await?;
    let repairs = repair_packs(&repository, Some(&world.host("one")), &damaged).await?;
    repair_index(&repository, Some(&world.host("one"))).await?;
    Ok((repairs.iter().map(|repair| repair.kept).sum(), repairs.iter().map(|repair| repair.lost).sum()))
}

/// The snapshots of [`three`], all of them once more and in full.
async fn back_up_again(world: &World) {
    for sample in [Sample::random(1, 200_000), Sample::random(3, 100_000)] {
        world.back_up(&sample).await;
    }
    world.back_up(&Sample::of_files(2, vec![random_bytes(1, 200_000), random_bytes(2, 50_000)]).on(1)).await;
}

#[tokio::test]
async fn what_is_right_of_a_damaged_pack_is_kept_and_a_backup_of_the_same_heals_older_ones() {
    let world = World::new().await;
    let made = three(&world).await;
    for key in [world.keys("data/").await, world.keys("meta/").await].concat() {
        let world = world.copy().await;
        damage(&world, &key).await;
        let before = world.keys("").await;
        let damaged = [pack_of(&key)];
        let plan = repair_packs(&world.open().await, None, &damaged).await.unwrap();
        assert_eq!(world.keys("").await, before);
        let (kept, lost) = mend_packs(&world, world.store()).await.unwrap();
        assert_eq!((plan[0].kept, plan[0].lost), (kept, lost));
        assert!(kept + lost > 0);
        assert!(!world.keys("").await.contains(&key));
        back_up_again(&world).await;
        let report = check_it(&world, Some(Subset::All)).await;
        assert_eq!((report.findings, report.affected), (vec![], vec![]), "{key}");
        world.assert_restorable(&made).await;
    }
}

fn faulty(world: &World, fault: Fault) -> Arc<FaultyStore> {
    Arc::new(FaultyStore::new(world.store()).with_fault(fault, StoreErrorKind::Transient))
}

#[tokio::test]
async fn the_repair_of_an_index_survives_the_failure_of_any_request() {
    let whole = World::new().await;
    let made = [whole.back_up(&Sample::random(1, 200_000)).await];
    let segments = whole.keys("index/").await;
    whole.replace(&segments[0], Bytes::from_static(b"rubbish")).await;
    whole.memory.delete(segments.last().unwrap()).await.unwrap();
    for fault_at in [Fault::Before as FaultAt, Fault::After, Fault::From] {
        for number in 1.. {
            let world = whole.copy().await;
            let store = faulty(&world, fault_at(number));
            if let Ok(repository) = world.open_through(Arc::clone(&store) as Store).await {
                drop(repair_index(&repository, Some(&world.host("one"))).await);
            }
            world.assert_restorable(&made).await;
            mend_index(&world).await;
            assert_mended(&world, &made).await;
            if !store.has_failed() {
                assert!(number > 15, "{number} requests");
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_repair_of_packs_survives_the_failure_of_any_request() {
    let whole = World::new().await;
    let made = three(&whole).await;
    damage(&whole, &whole.keys("data/").await[0]).await;
    let before = check_it(&whole, Some(Subset::All)).await;
    for fault_at in [Fault::Before as FaultAt, Fault::After, Fault::From] {
        for number in 1.. {
            let world = whole.copy().await;
            let store = faulty(&world, fault_at(number));
            drop(mend_packs(&world, Arc::clone(&store) as Store).await);
            // Nothing that was right has been lost on the way: what is damaged is what was damaged.
            let after = check_it(&world, Some(Subset::All)).await;
            assert_eq!(before.affected.len(), after.affected.len(), "{fault_at:?} {number}");
            mend_packs(&world, world.store()).await.unwrap();
            // That takes long, and does not hang on the fault as what is above does.
            if number % 16 != 0 && store.has_failed() {
                continue;
            }
            let notes = Arc::new(Notes::default());
            let repository = world.open().await;
            for sample in [Sample::random(1, 200_000), Sample::random(3, 100_000)] {
                let (stream, host) = (sample.stream(), world.host("new"));
                back_up(&repository, &host, stream, Expected::Anything, &notes).await.unwrap();
            }
            let next = Sample::of_files(2, vec![random_bytes(1, 200_000), random_bytes(2, 50_000)]).on(1);
            back_up(&repository, &world.host("new"), next.stream(), Expected::Anything, &notes).await.unwrap();
            world.assert_restorable(&made).await;
            if !store.has_failed() {
                assert!(number > 25, "{number} requests");
                break;
            }
        }
    }
}
