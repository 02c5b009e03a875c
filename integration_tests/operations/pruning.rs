//! Prune: what goes and what stays, and what holds when it is cut off or fails at any request.

use std::sync::Arc;

use btrfs_to_s3::backup::{Expected, Host};
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::prune::{MaxUnused, PruneOptions, PruneReport, RepackOptions, Voiding, prune};
use btrfs_to_s3::records::session::Outcome;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::session::{list_sessions, read_outcome};
use btrfs_to_s3::store::faulty::{Damage, Fault, FaultyStore};
use btrfs_to_s3::store::{Key, ObjectStore, Store, StoreErrorKind};
use jiff::SignedDuration;

use crate::interruption::abandoned_run;
use crate::samples::{Sample, random_bytes};
use crate::world::{MemorySource, Notes, World, begin, publish};

pub(crate) fn options(grace: SignedDuration) -> PruneOptions {
    let repack = RepackOptions { max_unused: MaxUnused::Unlimited, ..RepackOptions::default() };
    PruneOptions { grace, voiding: Voiding::IfSafe, dry_run: false, repack }
}

pub(crate) async fn prune_through(world: &World, store: Store, options: &PruneOptions) -> anyhow::Result<PruneReport> {
    prune_on("one", world, store, options).await
}

pub(crate) async fn prune_on(
    host: &str,
    world: &World,
    store: Store,
    options: &PruneOptions,
) -> anyhow::Result<PruneReport> {
    let repository = world.open_through(store).await?;
    let host = Host { cache: RecordCache::none(), ..world.host(host) };
    prune(&repository, &host, options, &(Arc::new(Notes::default()) as Arc<dyn Monitor>)).await
}

pub(crate) async fn prune_now(world: &World) -> PruneReport {
    prune_through(world, world.store(), &options(SignedDuration::ZERO)).await.unwrap()
}

async fn forget_now(world: &World, id: ManifestId) {
    forget(&world.open().await, id, "one", "a test").await.unwrap();
}

async fn stored_bytes(world: &World) -> usize {
    world.objects("").await.iter().map(|(_, body)| body.len()).sum()
}

#[tokio::test]
async fn a_forgotten_backup_goes_and_the_others_stay() {
    let world = World::new().await;
    let gone = world.back_up(&Sample::random(1, 300_000)).await;
    let before = stored_bytes(&world).await;
    let kept = world.back_up(&Sample::random(2, 100_000)).await;
    let keys = world.keys("").await;
    assert_eq!(prune_now(&world).await.deleted.packs, 0, "nothing was forgotten");
    assert!(keys.iter().all(|key| !key.as_str().starts_with("prune/")));

    forget_now(&world, gone.id).await;
    let report = prune_now(&world).await;
    assert!(report.deleted.pack_bytes > 250_000, "{report:?}");
    assert_eq!((report.deleted.manifests, report.waits_for), (1, vec![]));
    assert!(stored_bytes(&world).await < before + 150_000);
    world.assert_restorable(&[kept]).await;
    assert_eq!(world.published().await.len(), 1);
    assert_eq!(prune_now(&world).await.deleted, PruneReport::default().deleted, "nothing is left to do");
}

#[tokio::test]
async fn a_forgotten_backup_stays_until_its_grace_period_is_over_by_the_clock_of_the_store() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 100_000)).await;
    forget_now(&world, made.id).await;
    let report = prune_through(&world, world.store(), &options(SignedDuration::from_hours(1))).await.unwrap();
    assert_eq!(report.deleted.packs, 0);
    assert_eq!(world.restore(made.id).await.unwrap(), made.stream);
    // The clock goes on by a second whenever it is asked.
    let report = prune_through(&world, world.store(), &options(SignedDuration::from_secs(2))).await.unwrap();
    assert!(report.deleted.packs > 0);
    assert!(world.restore(made.id).await.is_err());
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 200_000)).await;
    forget_now(&world, made.id).await;
    let keys = world.keys("").await;
    let dry = PruneOptions { dry_run: true, ..options(SignedDuration::ZERO) };
    let report = prune_through(&world, world.store(), &dry).await.unwrap();
    assert_eq!(world.keys("").await, keys);
    assert_eq!(prune_now(&world).await.deleted, report.deleted);
}

#[tokio::test]
async fn what_a_forgotten_parent_has_stays_as_long_as_its_child() {
    let world = World::new().await;
    let parent = world.back_up(&Sample::random(1, 100_000)).await;
    let child = world.back_up(&Sample::random(2, 100_000).on(1)).await;
    forget_now(&world, parent.id).await;
    assert_eq!(prune_now(&world).await.deleted.packs, 0);
    assert_eq!(world.restore(parent.id).await.unwrap(), parent.stream);
    forget_now(&world, child.id).await;
    assert_eq!(prune_now(&world).await.deleted.manifests, 2);
    assert_eq!(world.keys("data/").await, []);
    assert_eq!(world.keys("meta/").await, []);
    assert_eq!(world.keys("index/").await, []);
}

#[tokio::test]
async fn a_prune_waits_for_a_backup_that_was_there_before_it_and_keeps_what_that_needs() {
    let world = World::new().await;
    let sample = Sample::random(1, 200_000);
    let made = world.back_up(&sample).await;
    forget_now(&world, made.id).await;
    let notes = Arc::new(Notes::default());
    let running = begin(&world.open().await, &world.host("two"), &notes).await.unwrap();
    let report = prune_now(&world).await;
    assert_eq!(report.waits_for.len(), 1);
    assert_eq!(report.waits_for[0].host.as_deref(), Some("two"));
    assert_eq!(report.deleted.packs, 0);

    // One that begins now does not build on what the plan names, and is not waited for.
    let packs = world.keys("data/").await.len();
    let later = begin(&world.open().await, &world.host("three"), &notes).await.unwrap();
    publish(running, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    assert_eq!(world.keys("data/").await.len(), packs, "it builds on what was there before");
    let report = prune_now(&world).await;
    assert_eq!(report.waits_for, []);
    assert_eq!(world.keys("data/").await.len(), packs, "that is struck from the plan");
    publish(later, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    assert_eq!(world.keys("data/").await.len(), 2 * packs);
    for id in world.published().await {
        assert_eq!(world.restore(id).await.unwrap(), sample.stream());
    }
}

#[tokio::test]
async fn what_a_killed_run_has_left_goes_when_its_session_is_given_up() {
    let world = World::new().await;
    let session = abandoned_run(&world, "two", Sample::random(1, 200_000).stream(), "manifests/").await;
    assert_eq!(prune_now(&world).await.deleted.packs, 0, "it may be alive");
    let dead = World::with_clock(crate::world::SteppingClock::new(SignedDuration::from_hours(24)));
    dead.init(dead.store()).await.unwrap();
    let other = abandoned_run(&dead, "two", Sample::random(1, 200_000).stream(), "manifests/").await;
    for _ in 0..20 {
        prune_now(&dead).await;
    }
    assert_eq!(dead.keys("data/").await, []);
    assert_eq!(dead.keys("index/").await, []);
    let end = read_outcome(&dead.open().await, other, &RecordCache::none()).await.unwrap();
    assert_eq!(end.outcome, Outcome::Void);
    read_outcome(&world.open().await, session, &RecordCache::none()).await.unwrap_err();
}

#[tokio::test]
async fn nothing_is_deleted_while_something_that_a_backup_needs_is_missing_or_cannot_be_read() {
    let world = World::new().await;
    let gone = world.back_up(&Sample::random(1, 100_000)).await;
    let kept = world.back_up(&Sample::random(2, 100_000)).await;
    forget_now(&world, gone.id).await;
    let all = world.keys("").await;
    let manifest = Key::new(format!("manifests/{}", kept.id)).unwrap();
    let end = Key::new(format!("sessions/{}/end", kept.id)).unwrap();
    let of_prefix =
        |prefix: &str| all.iter().filter(|key| key.as_str().starts_with(prefix)).cloned().collect::<Vec<_>>();
    let mut cases =
        vec![(manifest.clone(), Damage::Missing), (manifest, Damage::FlippedBit(900)), (end, Damage::FlippedBit(900))];
    cases.extend(of_prefix("index/").into_iter().map(|key| (key, Damage::FlippedBit(900))));
    for (key, damage) in cases {
        let world = world.copy().await;
        let store = Arc::new(FaultyStore::new(world.store()));
        store.damage(&key, damage);
        // A host that remembers nothing, and has to read everything.
        prune_on("four", &world, store, &options(SignedDuration::ZERO)).await.unwrap_err();
        let left = world.keys("").await;
        assert!(all.iter().all(|key| left.contains(key)), "{key} {damage:?}");
    }
    // A pack that is lost: whether the backup that stays needs it, the mark tells.
    let mut refused = 0;
    for key in [of_prefix("data/"), of_prefix("meta/")].concat() {
        let world = world.copy().await;
        world.memory.delete(&key).await.unwrap();
        if prune_through(&world, world.store(), &options(SignedDuration::ZERO)).await.is_err() {
            refused += 1;
            assert_eq!(world.keys("").await.iter().filter(|key| all.contains(key)).count(), all.len() - 1, "{key}");
        } else {
            world.assert_restorable(std::slice::from_ref(&kept)).await;
        }
    }
    assert_eq!(refused, 2, "a pack of either class");
}

/// A repository with backups that stay and backups that go, what a killed run has left, and a plan that is unfinished.
async fn scene() -> (World, Vec<crate::world::Made>) {
    let world = World::new().await;
    let shared = random_bytes(99, 20_000);
    let mut kept = Vec::new();
    for number in 1..3 {
        let files = |seed: u64| vec![random_bytes(seed, 20_000), shared.clone()];
        let gone = world.back_up(&Sample::of_files(number, files(u64::from(number)))).await;
        kept.push(world.back_up(&Sample::of_files(number + 10, files(u64::from(number) + 10))).await);
        forget_now(&world, gone.id).await;
    }
    abandoned_run(&world, "one", Sample::random(30, 60_000).stream(), "manifests/").await;
    (world, kept)
}

#[tokio::test]
async fn a_prune_survives_the_failure_of_any_request() {
    let (scene, kept) = scene().await;
    let whole = scene.copy().await;
    let expected = prune_now(&whole).await;
    let left = |keys: Vec<Key>| -> Vec<Key> {
        let is_of_run = |key: &Key| ["sessions/", "prune/"].iter().any(|prefix| key.as_str().starts_with(prefix));
        keys.into_iter().filter(|key| !is_of_run(key)).collect()
    };
    let expected_keys = left(whole.keys("").await);
    assert!(expected.deleted.packs > 3);
    for fault in [Fault::Before as fn(u64) -> Fault, Fault::After, Fault::From] {
        for number in 1.. {
            let world = scene.copy().await;
            let store = Arc::new(FaultyStore::new(world.store()).with_fault(fault(number), StoreErrorKind::Transient));
            let pruned = prune_through(&world, Arc::clone(&store) as Store, &options(SignedDuration::ZERO)).await;
            if !store.has_failed() {
                assert!(number > 40);
                break;
            }
            // In one way or another, the next one does what is left.
            let report = prune_now(&world).await;
            assert_eq!(report.waits_for, [], "{number} {pruned:?}");
            assert_eq!(left(world.keys("").await), expected_keys, "{:?} {pruned:?}", fault(number));
            world.assert_restorable(&kept).await;
            assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
        }
    }
}
