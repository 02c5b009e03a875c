//! Look-up tables: what a host without an index asks for, and that nothing hangs on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::check::report::Severity;
use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::prune::{MergeOptions, PruneOptions, RepackOptions};
use btrfs_to_s3::repair::repair_index;
use btrfs_to_s3::repository::session::list_sessions;
use btrfs_to_s3::store::faulty::{Damage, Fault, FaultyStore};
use btrfs_to_s3::store::recording::{Call, Operation, RecordingStore};
use btrfs_to_s3::store::{ObjectStore, Store, StoreErrorKind};
use jiff::SignedDuration;

use crate::checking::check_it;
use crate::merging::merging;
use crate::pruning::{options, prune_on, prune_through};
use crate::repacking::{back_up_finely, mixed, thorough};
use crate::samples::Sample;
use crate::scripted::meanwhile;
use crate::world::{Made, World, assert_same_bytes};

/// A prune that rewrites and merges all it can, and has everything in tables.
fn tabling() -> PruneOptions {
    let merging = MergeOptions { untabled_bytes_max: 0, ..merging().repack.merging };
    PruneOptions { repack: RepackOptions { merging, ..thorough().repack }, ..thorough() }
}

/// The same, but it makes no table and merges nothing.
fn without_tables() -> PruneOptions {
    let merging = MergeOptions { untabled_bytes_max: u64::MAX, small_least: 1000, ..MergeOptions::default() };
    PruneOptions { repack: RepackOptions { merging, ..thorough().repack }, ..thorough() }
}

/// A backup whose packs a prune has rewritten, beside so many others.
async fn rewritten(others: u8, options: &PruneOptions) -> (World, Made) {
    let world = World::new().await;
    let gone = back_up_finely(&world, &mixed(1, 300_000, 200_000)).await;
    let kept = back_up_finely(&world, &mixed(2, 60_000, 200_000)).await;
    for number in 0..others {
        world.back_up(&Sample::random(10 + number, 100_000)).await;
    }
    forget(&world.open().await, gone.id, "one", "a test").await.unwrap();
    let before = world.keys("data/").await;
    prune_through(&world, world.store(), options).await.unwrap();
    let after = world.keys("data/").await;
    assert!(before.iter().any(|pack| !after.contains(pack)));
    (world, kept)
}

/// What a restore asks for beside the backup's own packs and records: requests, and their bytes.
async fn cold_restore(world: &World, made: &Made) -> (Vec<Call>, u64) {
    let recording = Arc::new(RecordingStore::new(world.store()));
    let repository = world.open_through(Arc::clone(&recording) as Store).await.unwrap();
    assert_same_bytes(&world.restore_through(&repository, made.id).await.unwrap(), &made.stream);
    let is_of_index =
        |call: &Call| ["index/", "sessions/", "prune/"].iter().any(|prefix| call.target.starts_with(prefix));
    let calls: Vec<Call> = recording.calls().into_iter().filter(is_of_index).collect();
    let bytes = calls.iter().map(|call| call.body_bytes).sum();
    (calls, bytes)
}

fn count(calls: &[Call], operation: Operation, prefix: &str) -> usize {
    calls.iter().filter(|call| call.operation == operation && call.target.starts_with(prefix)).count()
}

#[tokio::test]
async fn a_host_without_an_index_finds_what_was_rewritten_with_as_few_requests_however_large_the_index() {
    let mut reads = BTreeSet::new();
    for others in [2, 20] {
        let (world, kept) = rewritten(others, &tabling()).await;
        let (calls, bytes) = cold_restore(&world, &kept).await;
        assert_eq!(count(&calls, Operation::Get, "index/"), 1, "no segment is read");
        assert_eq!(count(&calls, Operation::Get, "index/tables/"), 1);
        assert_eq!(count(&calls, Operation::GetRange, "index/blocks/"), 1);
        reads
            .insert(calls.iter().filter(|call| matches!(call.operation, Operation::Get | Operation::GetRange)).count());
        let (world, kept) = rewritten(others, &without_tables()).await;
        let (before, bytes_before) = cold_restore(&world, &kept).await;
        println!("{others}: {} requests, {bytes} bytes; without tables {}, {bytes_before}", calls.len(), before.len());
        assert!(count(&before, Operation::Get, "") > usize::from(others), "{before:?}");
    }
    assert_eq!(reads.len(), 1, "it does not grow with the index: {reads:?}");
}

#[tokio::test]
async fn what_no_table_has_is_read_from_its_segments() {
    let (world, kept) = rewritten(2, &tabling()).await;
    let newer = back_up_finely(&world, &mixed(3, 60_000, 200_000)).await;
    let lasting = back_up_finely(&world, &mixed(4, 60_000, 0)).await;
    forget(&world.open().await, newer.id, "one", "a test").await.unwrap();
    // It rewrites without renewing the table.
    prune_through(&world, world.store(), &without_tables()).await.unwrap();
    for made in [&kept, &lasting] {
        let (calls, _) = cold_restore(&world, made).await;
        assert!(count(&calls, Operation::Get, "sessions/") <= 1, "only the backup's own: {calls:?}");
    }
    world.assert_restorable(&[kept, lasting]).await;
}

#[tokio::test]
async fn a_damaged_table_costs_time_and_nothing_else_and_the_next_prune_makes_it_again() {
    let (scene, kept) = rewritten(2, &tabling()).await;
    assert_eq!(check_it(&scene, Some(Subset::All)).await.findings, vec![]);
    let objects = [scene.keys("index/tables/").await, scene.keys("index/blocks/").await].concat();
    assert_eq!(objects.len(), 2);
    for key in &objects {
        for damage in [Damage::Missing, Damage::FlippedBit(900), Damage::Truncated(60)] {
            let world = scene.copy().await;
            let store = Arc::new(FaultyStore::new(world.store()));
            store.damage(key, damage);
            let repository = world.open_through(Arc::clone(&store) as Store).await.unwrap();
            assert_same_bytes(&world.restore_through(&repository, kept.id).await.unwrap(), &kept.stream);
            // The same damage, for good.
            let body = world.body(key).await;
            world.memory.delete(key).await.unwrap();
            if matches!(damage, Damage::FlippedBit(_)) {
                let mut flipped = body.to_vec();
                flipped[100] ^= 1;
                world.put(key, flipped.into()).await;
            }
            let checked = check_it(&world, Some(Subset::All)).await;
            let is_missing_table =
                key.as_str().starts_with("index/tables/") && !matches!(damage, Damage::FlippedBit(_));
            let flaws = checked.findings.iter().filter(|finding| finding.invariant == "tables_can_be_read");
            assert_eq!(flaws.count(), usize::from(!is_missing_table), "{key} {damage:?}");
            assert!(checked.findings.iter().all(|finding| finding.severity == Severity::Flaw));
            assert_eq!(checked.affected, vec![]);
            // A prune does not read blocks.
            if key.as_str().starts_with("index/blocks/") && matches!(damage, Damage::FlippedBit(_)) {
                assert_eq!(repair_index(&world.open().await, Some(&world.host("one"))).await.unwrap().tables.len(), 1);
            }
            prune_through(&world, world.store(), &tabling()).await.unwrap();
            assert_tabled(&world, std::slice::from_ref(&kept)).await;
        }
    }
}

/// That there is one table, with its blocks and no others, by which the index need not be read.
async fn assert_tabled(world: &World, kept: &[Made]) {
    let objects = (world.keys("index/tables/").await.len(), world.keys("index/blocks/").await.len());
    assert_eq!(objects, (1, 1));
    world.assert_restorable(kept).await;
    let checked = check_it(world, None).await;
    assert_eq!((checked.findings, checked.affected), (vec![], vec![]));
    let (calls, _) = cold_restore(world, &kept[0]).await;
    assert_eq!(count(&calls, Operation::Get, "index/tables/"), 1);
    assert_eq!(count(&calls, Operation::Get, "index/"), 1, "{calls:?}");
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

#[tokio::test]
async fn tables_are_whole_after_the_failure_of_any_request() {
    let (scene, kept) = rewritten(1, &without_tables()).await;
    let only_tables = PruneOptions {
        repack: RepackOptions { max_unused: options(SignedDuration::ZERO).repack.max_unused, ..tabling().repack },
        ..tabling()
    };
    for fault in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = scene.copy().await;
            let store = Arc::new(FaultyStore::new(world.store()).with_fault(fault(number), StoreErrorKind::Transient));
            drop(prune_through(&world, Arc::clone(&store) as Store, &only_tables).await);
            if !store.has_failed() {
                assert!(number > 40);
                break;
            }
            assert_same_bytes(&world.restore(kept.id).await.unwrap(), &kept.stream);
            prune_on("one", &world, world.store(), &only_tables).await.unwrap();
            prune_on("two", &world, world.store(), &only_tables).await.unwrap();
            assert_tabled(&world, std::slice::from_ref(&kept)).await;
        }
    }
}

/// At each step of a prune that makes a table, another one does all of its own.
#[tokio::test]
async fn two_prunes_that_make_tables_leave_one_that_is_whole() {
    let (scene, kept) = rewritten(1, &without_tables()).await;
    for number in 1.. {
        let world = Arc::new(scene.copy().await);
        let other = Arc::clone(&world);
        let met = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&met);
        let is_step = |operation, target: &str| operation != Operation::Get && target.starts_with("index/");
        let store = meanwhile(world.store(), number, is_step, move || {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
            let world = Arc::clone(&other);
            async move { drop(prune_on("two", &world, world.store(), &tabling()).await.unwrap()) }
        });
        prune_on("one", &world, store, &tabling()).await.unwrap();
        assert_same_bytes(&world.restore(kept.id).await.unwrap(), &kept.stream);
        if !met.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(number > 8, "{number}");
            break;
        }
        for host in ["one", "two", "one"] {
            prune_on(host, &world, world.store(), &tabling()).await.unwrap();
        }
        assert_tabled(&world, std::slice::from_ref(&kept)).await;
    }
}
