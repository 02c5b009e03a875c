//! Index segments are merged: what is said stays said, whenever that is cut off, and whoever reads meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use btrfs_to_s3::check::subset::Subset;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::ChunkId;
use btrfs_to_s3::local_index::Access;
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::prune::{MaxUnused, MergeOptions, PruneOptions, PruneReport, RepackOptions};
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::index::{ChunkIndex, list_packs, list_segments, read_segment};
use btrfs_to_s3::repository::layout;
use btrfs_to_s3::repository::session::{list_sessions, void_session};
use btrfs_to_s3::store::faulty::{Fault, FaultyStore};
use btrfs_to_s3::store::recording::Operation;
use btrfs_to_s3::store::{Store, StoreErrorKind};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::checking::check_it;
use crate::pruning::{options, prune_on, prune_through};
use crate::samples::Sample;
use crate::scripted::meanwhile;
use crate::world::{Made, Notes, World};

/// A prune that merges all segments it can, and leaves packs as they are.
pub(crate) fn merging() -> PruneOptions {
    let rarely = options(SignedDuration::ZERO);
    let merging = MergeOptions { small_least: 2, gone_least: 1, ..MergeOptions::default() };
    PruneOptions {
        repack: RepackOptions { merging, max_unused: MaxUnused::Bytes(u64::MAX), ..rarely.repack },
        ..rarely
    }
}

fn rewriting_nothing() -> PruneOptions {
    PruneOptions { repack: RepackOptions { max_unused: MaxUnused::Unlimited, ..merging().repack }, ..merging() }
}

async fn prune_now(world: &World) -> PruneReport {
    prune_through(world, world.store(), &merging()).await.unwrap()
}

/// Backups with several segments each, one of which was forgotten.
async fn scene() -> (World, Vec<Made>) {
    let world = World::new().await;
    let mut made = Vec::new();
    for number in 1..4 {
        made.push(world.back_up(&Sample::random(number, 700_000)).await);
    }
    let gone = made.remove(1);
    forget(&world.open().await, gone.id, "one", "a test").await.unwrap();
    (world, made)
}

/// The packs that the index names, a line for each time, and the chunks in them.
async fn named(world: &World) -> (Vec<String>, BTreeSet<(PackClass, ChunkId)>) {
    let repository = world.open().await;
    let (mut packs, mut chunks) = (Vec::new(), BTreeSet::new());
    for id in list_segments(&repository).await.unwrap() {
        for record in read_segment(&repository, id).await.unwrap().packs {
            packs.push(layout::pack_key(record.footer.class, &record.id).to_string());
            chunks.extend(record.footer.chunks.iter().map(|chunk| (record.footer.class, chunk.id)));
        }
    }
    packs.sort();
    (packs, chunks)
}

async fn packs_there(world: &World) -> Vec<String> {
    let packs = list_packs(&world.open().await).await.unwrap();
    let mut packs: Vec<String> = packs.keys().map(|(class, id)| layout::pack_key(*class, id).to_string()).collect();
    packs.sort();
    packs
}

/// That the index is one segment that names every pack once, and all restores.
async fn assert_merged(world: &World, kept: &[Made]) {
    assert_eq!(list_segments(&world.open().await).await.unwrap().len(), 1);
    assert_eq!(named(world).await.0, packs_there(world).await);
    world.assert_restorable(kept).await;
    let checked = check_it(world, Some(Subset::All)).await;
    assert_eq!((checked.findings, checked.affected), (vec![], vec![]));
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
}

#[tokio::test]
async fn many_segments_become_one_that_names_what_is_there() {
    let (world, kept) = scene().await;
    let before = list_segments(&world.open().await).await.unwrap().len();
    assert_eq!(before, 3);
    let report = prune_now(&world).await;
    assert!(report.merged.replaced.objects == 2 && report.merged.new.objects == 1, "{:?}", report.merged);
    assert_eq!(report.deleted.segments, before);
    assert_merged(&world, &kept).await;
    let again = prune_now(&world).await;
    assert_eq!((again.merged, again.deleted), Default::default(), "one is not merged");
    // A host that knew the old ones, and one that knows nothing, find everything.
    for host in ["one", "new"] {
        let again = world.back_up_from(host, &Sample::random(3, 700_000)).await;
        world.assert_restorable(&[again]).await;
    }
    assert_eq!(packs_there(&world).await.iter().filter(|pack| pack.starts_with("data/")).count(), {
        let data = named(&world).await.0;
        data.iter().filter(|pack| pack.starts_with("data/")).count()
    });
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_merged_and_merges_nothing() {
    let (world, _) = scene().await;
    let before = world.keys("").await;
    let nothing = prune_on("one", &world, world.store(), &PruneOptions { dry_run: true, ..rewriting_nothing() }).await;
    assert_eq!(nothing.unwrap().merged.replaced.objects, 0, "what rewrites nothing merges nothing");
    let dry = prune_through(&world, world.store(), &PruneOptions { dry_run: true, ..merging() }).await.unwrap();
    assert_eq!(world.keys("").await, before);
    let report = prune_now(&world).await;
    assert_eq!(dry.merged.replaced, report.merged.replaced);
    assert_eq!(dry.deleted.segments, report.deleted.segments);
}

/// Once no segment names a pack that is gone, nobody asks final lists what became of it.
#[tokio::test]
async fn what_is_gone_is_named_no_more_and_final_lists_may_be_damaged() {
    let (world, kept) = scene().await;
    prune_now(&world).await;
    for key in world.keys("prune/").await {
        world.replace(&key, Bytes::from_static(b"garbage")).await;
    }
    assert_merged(&world, &kept).await;
    world.back_up(&Sample::random(4, 100_000)).await;
}

#[tokio::test]
async fn a_merging_prune_survives_the_failure_of_any_request() {
    let (scene, kept) = scene().await;
    for fault in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = scene.copy().await;
            let store = Arc::new(FaultyStore::new(world.store()).with_fault(fault(number), StoreErrorKind::Transient));
            let pruned = prune_through(&world, Arc::clone(&store) as Store, &merging()).await;
            if !store.has_failed() {
                assert!(number > 40);
                break;
            }
            let chunks = named(&world).await.1;
            // One that merges only what is left over, and then one that merges everything.
            prune_on("two", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
            let report = prune_now(&world).await;
            assert_eq!(report.waits_for, [], "{number} {pruned:?}");
            assert_merged(&world, &kept).await;
            assert!(named(&world).await.1.is_subset(&chunks), "{:?} {pruned:?}", fault(number));
        }
    }
}

#[tokio::test]
async fn a_merge_that_was_given_up_replaces_nothing() {
    let (world, kept) = scene().await;
    let before: BTreeSet<ChunkId> = named(&world).await.1.into_iter().map(|(_, chunk)| chunk).collect();
    let world = Arc::new(world);
    let other = Arc::clone(&world);
    let met = Arc::new(std::sync::Mutex::new(false));
    // Whoever puts a segment in a prune is given up just then.
    let store = meanwhile(
        world.store(),
        1,
        |operation, target| operation == Operation::Put && target.starts_with("index/"),
        move || {
            let (world, met) = (Arc::clone(&other), Arc::clone(&met));
            async move {
                let repository = world.open().await;
                for open in list_sessions(&repository).await.unwrap().open {
                    void_session(&repository, open.id).await.unwrap();
                    *met.lock().unwrap() = true;
                }
            }
        },
    );
    let error = prune_through(&world, store, &merging()).await.unwrap_err();
    assert!(format!("{error:#}").contains("was given up by another prune"), "{error:#}");
    let after: BTreeSet<ChunkId> = named(&world).await.1.into_iter().map(|(_, chunk)| chunk).collect();
    assert_eq!(before, after);
    world.assert_restorable(&kept).await;
    prune_now(&world).await;
    assert_merged(&world, &kept).await;
}

/// At each step of a prune, another one does all of its own.
#[tokio::test]
async fn two_prunes_that_merge_the_same_leave_what_was_said_once() {
    let (scene, kept) = scene().await;
    for number in 1.. {
        let world = Arc::new(scene.copy().await);
        let other = Arc::clone(&world);
        let met = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&met);
        let is_step = |operation, target: &str| {
            matches!(operation, Operation::Put | Operation::Delete)
                || (operation == Operation::List && target.starts_with("index/"))
        };
        let store = meanwhile(world.store(), number, is_step, move || {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
            let world = Arc::clone(&other);
            async move { drop(prune_on("two", &world, world.store(), &merging()).await.unwrap()) }
        });
        prune_on("one", &world, store, &merging()).await.unwrap();
        if !met.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(number > 15, "{number}");
            break;
        }
        for host in ["one", "two", "one"] {
            prune_on(host, &world, world.store(), &merging()).await.unwrap();
        }
        assert_merged(&world, &kept).await;
    }
}

/// A prune merges everything just before a request of one that reads the index, whichever that is.
#[tokio::test]
async fn who_reads_the_index_beside_a_merge_finds_every_chunk() {
    let (scene, _) = scene().await;
    let whole = scene.copy().await;
    prune_now(&whole).await;
    let needed = named(&whole).await.1;
    for number in 1.. {
        let world = Arc::new(scene.copy().await);
        let other = Arc::clone(&world);
        let met = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&met);
        let store = meanwhile(
            world.store(),
            number,
            |_, _| true,
            move || {
                seen.store(true, std::sync::atomic::Ordering::SeqCst);
                let world = Arc::clone(&other);
                async move { drop(prune_on("two", &world, world.store(), &merging()).await.unwrap()) }
            },
        );
        let folder = tempfile::tempdir().unwrap();
        let (repository, notes) = (world.open_through(store).await.unwrap(), Notes::default());
        let (access, cache) = (Access::Exclusive, RecordCache::none());
        let index = ChunkIndex::open_to_read(&repository, folder.path(), access, &cache, &notes).await.unwrap();
        for (class, chunk) in &needed {
            let places = index.find_all(chunk).unwrap();
            assert!(places.iter().any(|place| place.class == *class), "request {number}: {chunk}");
        }
        if !met.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(number > 10, "{number}");
            break;
        }
    }
}
