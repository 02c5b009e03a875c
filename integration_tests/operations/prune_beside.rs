//! Prune beside checks, repairs, restores, and runs that bring backups back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use btrfs_to_s3::backup::{BackupOptions, BackupRun, Expected, Stream, never_interrupted};
use btrfs_to_s3::forget::{forget, unforget};
use btrfs_to_s3::id::ManifestId;
use btrfs_to_s3::monitor::Monitor;
use btrfs_to_s3::prune::Voiding;
use btrfs_to_s3::records::prune::Doomed;
use btrfs_to_s3::repair::{repair_index, repair_packs};
use btrfs_to_s3::repository::catalog::read_manifest;
use btrfs_to_s3::repository::session::{WriteSession, list_sessions, void_session};
use btrfs_to_s3::repository::{Damage, layout, plans};
use btrfs_to_s3::store::recording::Operation;
use btrfs_to_s3::store::{ObjectStore, Store};
use bytes::Bytes;
use jiff::SignedDuration;

use crate::checking::check_it;
use crate::pruning::{options, prune_on, prune_through};
use crate::samples::{Sample, random_bytes};
use crate::scripted::meanwhile;
use crate::world::{MemorySource, Notes, SteppingClock, World, begin, publish, request, small_options};

async fn forget_now(world: &World, id: ManifestId) {
    forget(&world.open().await, id, "one", "a test").await.unwrap();
}

/// Everything that can go goes.
async fn prune_all(world: &World) {
    let report = prune_through(world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(report.waits_for, []);
}

/// A backup all of whose packs one segment names.
async fn back_up_in_one_segment(world: &World, sample: &Sample) -> ManifestId {
    let before = world.keys("index/").await.len();
    let run = begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap();
    let source = Box::new(MemorySource::new(sample.stream()));
    let stream = Stream { source, stop: None, interruption: never_interrupted() };
    let options = BackupOptions { segment_chunks: 100_000, ..small_options() };
    let made = Box::pin(run.publish(stream, &request(Expected::Anything), &options)).await.unwrap();
    assert_eq!(world.keys("index/").await.len(), before + 1);
    made.id()
}

/// A backup of which the next one needs a part, forgotten and pruned: a segment names packs that are gone and packs that stay.
async fn half_pruned() -> World {
    let world = World::new().await;
    let sample = Sample::of_files(1, vec![random_bytes(1, 2_500_000), random_bytes(2, 50_000)]);
    let gone = back_up_in_one_segment(&world, &sample).await;
    world.back_up(&Sample::of_files(2, vec![random_bytes(2, 50_000), random_bytes(3, 10_000)])).await;
    forget_now(&world, gone).await;
    let packs = world.keys("data/").await.len();
    prune_all(&world).await;
    let left = world.keys("data/").await.len();
    assert!(left < packs && left > 1, "{left} of {packs} packs are left");
    assert_eq!(world.keys("index/").await.len(), 2, "no segment could go");
    world
}

#[tokio::test]
async fn what_a_prune_has_deleted_is_missed_by_nobody() {
    let world = half_pruned().await;
    let report = check_it(&world, None).await;
    assert_eq!((report.findings, report.affected), (vec![], vec![]));
    let repair = repair_index(&world.open().await, None).await.unwrap();
    assert!(repair.is_empty() && repair.unreadable.is_empty(), "{repair:?}");
    // It asserts that no problem is told.
    world.back_up_from("new", &Sample::random(9, 1000)).await;
    // A pack that no prune has deleted is missed, as ever.
    let lost = world.keys("data/").await.remove(0);
    world.memory.delete(&lost).await.unwrap();
    assert!(!check_it(&world, None).await.findings.is_empty());
    assert_eq!(repair_index(&world.open().await, None).await.unwrap().lost.len(), 1);
}

/// The session that a repair stores with is given up before it has ended.
#[tokio::test]
async fn a_repair_that_a_prune_has_given_up_deletes_nothing() {
    for of_index in [true, false] {
        let world = Arc::new(World::new().await);
        let made = world.back_up(&Sample::random(1, 200_000)).await;
        let damaged = world.keys(if of_index { "index/" } else { "data/" }).await.remove(0);
        if of_index {
            world.replace(&damaged, Bytes::from_static(b"rubbish")).await;
        }
        let is_end = |operation, target: &str| operation == Operation::Put && target.ends_with("/end");
        let others = Arc::clone(&world);
        let give_up = move || {
            let world = Arc::clone(&others);
            async move {
                let repository = world.open().await;
                for session in list_sessions(&repository).await.unwrap().open_ids() {
                    void_session(&repository, session).await.unwrap();
                }
            }
        };
        let store = meanwhile(world.store(), 1, is_end, give_up);
        let repository = world.open_through(store).await.unwrap();
        let host = world.host("two");
        let failed = if of_index {
            repair_index(&repository, Some(&host)).await.map(drop)
        } else {
            let pack = layout::parse_pack_key(&damaged).unwrap();
            repair_packs(&repository, Some(&host), &[pack]).await.map(drop)
        };
        assert!(format!("{:#}", failed.unwrap_err()).contains("was given up by a prune"));
        assert!(world.keys("").await.contains(&damaged));
        world.assert_restorable(&[made]).await;
    }
}

/// A damaged pack is still there, with what is right of it in a new one: a run may build on either.
#[tokio::test]
async fn nothing_is_planned_while_packs_are_being_repaired() {
    let world = Arc::new(World::new().await);
    let made = world.back_up(&Sample::random(1, 200_000)).await;
    forget_now(&world, made.id).await;
    let pack = layout::parse_pack_key(&world.keys("data/").await[0]).unwrap();
    let (others, prunes) = (Arc::clone(&world), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&prunes);
    let prune_it = move || {
        let (world, prunes) = (Arc::clone(&others), Arc::clone(&counted));
        async move {
            let report = prune_on("one", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
            assert!(report.waits_for.iter().any(|session| session.host.as_deref() == Some("two")), "{report:?}");
            assert_eq!(world.keys("prune/").await, []);
            prunes.fetch_add(1, Ordering::SeqCst);
        }
    };
    let is_delete = |operation, _: &str| operation == Operation::Delete;
    let store = meanwhile(world.store(), 1, is_delete, prune_it);
    let repository = world.open_through(store).await.unwrap();
    repair_packs(&repository, Some(&world.host("two")), &[pack]).await.unwrap();
    assert_eq!(prunes.load(Ordering::SeqCst), 1);
    assert_eq!(list_sessions(&world.open().await).await.unwrap().open, []);
    prune_all(&world).await;
    assert_eq!(world.keys("data/").await, []);
}

#[tokio::test]
async fn a_repair_is_given_up_by_an_administrator_only() {
    let world = World::with_clock(SteppingClock::new(SignedDuration::from_hours(24)));
    world.init(world.store()).await.unwrap();
    let repository = world.open().await;
    let session = WriteSession::start(repository.clone(), world.host("two").session("repair", "")).await.unwrap();
    for (voiding, voided) in [(Voiding::IfSafe, 0), (Voiding::Always, 1)] {
        for _ in 0..40 {
            prune_through(&world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
        }
        assert!(list_sessions(&repository).await.unwrap().open_ids().any(|open| open == session.id()));
        let options = btrfs_to_s3::prune::PruneOptions { voiding, ..options(SignedDuration::ZERO) };
        assert_eq!(prune_through(&world, world.store(), &options).await.unwrap().voided, voided);
    }
}

/// A segment is replaced by a new one just before a request of a run that begins, whichever that is.
#[tokio::test]
async fn what_a_segment_said_that_was_replaced_meanwhile_is_known() {
    let scene = World::new().await;
    let sample = Sample::of_files(1, (1..4).map(|seed| random_bytes(seed, 1_500_000)).collect());
    back_up_in_one_segment(&scene, &sample).await;
    // The segment names a pack that is lost, and others.
    let lost = scene.keys("data/").await.remove(0);
    scene.memory.delete(&lost).await.unwrap();
    let left = scene.keys("data/").await.len();
    assert!(left > 2);
    for number in 1.. {
        let world = Arc::new(scene.copy().await);
        let (others, repairs) = (Arc::clone(&world), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&repairs);
        let repair = move || {
            let world = Arc::clone(&others);
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let repair = repair_index(&world.open().await, Some(&world.host("two"))).await.unwrap();
                assert_eq!(repair.replaced.len(), 1);
            }
        };
        let repository = world.open_through(meanwhile(world.store(), number, |_, _| true, repair)).await.unwrap();
        let run = begin(&repository, &world.host("three"), &Arc::new(Notes::default())).await.unwrap();
        let stored = publish(run, MemorySource::new(sample.stream()), Expected::Anything).await;
        stored.unwrap_or_else(|error| panic!("request {number}: {error:#}"));
        let there = world.keys("data/").await.len();
        assert_eq!(there, left + 1, "request {number}: what was lost is stored again, and nothing else");
        if repairs.load(Ordering::SeqCst) == 0 {
            assert!(number > 15, "{number}");
            break;
        }
    }
}

/// Where the chunks of a backup are changes while it is restored by the index.
#[tokio::test]
async fn a_restore_looks_again_when_a_prune_has_gone_on_since_it_looked() {
    let world = Arc::new(World::new().await);
    let sample = Sample::of_files(1, (1..4).map(|seed| random_bytes(seed, 1_500_000)).collect());
    let made = world.back_up(&sample).await;
    let old = world.objects("data/").await;
    // What another run has stored as well, and that counts in a moment.
    for (key, _) in &old {
        world.memory.delete(key).await.unwrap();
    }
    let again = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
    let again = publish(again, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    let end = layout::session_end_key(&again.manifest.session);
    let end_body = world.body(&end).await;
    world.memory.delete(&end).await.unwrap();
    let others = Arc::clone(&world);
    let go_on = move || {
        let (world, end, end_body) = (Arc::clone(&others), end.clone(), end_body.clone());
        async move {
            world.put(&end, end_body).await;
            let plan = plans::put_plan(&world.open().await, Doomed::default()).await.unwrap();
            plans::settle_final(&world.open().await, plan.id, Doomed::default()).await.unwrap();
        }
    };
    // The first listing is made for the index, the second as packs are missing, the third as the index has not helped.
    let lists_plans = |operation, target: &str| operation == Operation::List && target == "prune/";
    let store = meanwhile(world.store(), 3, lists_plans, go_on);
    let repository = world.open_through(store).await.unwrap();
    assert_eq!(world.restore_through(&repository, made.id).await.unwrap(), made.stream);
}

/// The manifest that a forgotten one was made on is being deleted, and all of its chunks are needed elsewhere.
#[tokio::test]
async fn what_was_made_on_a_backup_that_is_being_pruned_is_not_brought_back() {
    let world = World::new().await;
    let full = world.back_up(&Sample::random(1, 100_000)).await;
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    let repository = world.open().await;
    let run = BackupRun::begin(&repository, &world.host("one"), "data", &monitor).await.unwrap();
    let parent = read_manifest(&repository, full.id).await.unwrap();
    let unchanged = run.publish_unchanged(&parent, world.clock.now(), &never_interrupted()).await.unwrap();
    for id in [full.id, unchanged.id()] {
        forget_now(&world, id).await;
    }
    let bring_back = async |id| unforget(&repository, &world.host("one"), id, &never_interrupted(), &monitor).await;
    bring_back(full.id).await.unwrap();
    let running = begin(&repository, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
    let waiting = prune_on("three", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(waiting.waits_for.len(), 1);
    let error = bring_back(unchanged.id()).await.unwrap_err();
    assert!(format!("{error:#}").contains("is being pruned"), "{error:#}");
    running.give_up().await;
    prune_all(&world).await;
    let published = world.published().await;
    assert_eq!(published.len(), 1);
    assert_eq!(world.restore(published[0]).await.unwrap(), full.stream);
}

/// It waits for a backup which may have built on what is named: all of it may stay.
#[tokio::test]
async fn what_a_plan_names_and_nobody_has_deleted_is_not_called_damaged() {
    let world = World::new().await;
    let made = world.back_up(&Sample::random(1, 100_000)).await;
    forget_now(&world, made.id).await;
    let running = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
    let waiting = prune_on("three", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(waiting.waits_for.len(), 1);
    let monitor: Arc<dyn Monitor> = Arc::new(Notes::default());
    let repository = world.open().await;
    let error = unforget(&repository, &world.host("one"), made.id, &never_interrupted(), &monitor).await.unwrap_err();
    assert!(error.downcast_ref::<Damage>().is_none(), "{error:#}");
    assert!(format!("{error:#}").contains("a prune that is under way"), "{error:#}");
    running.give_up().await;
    // When it is gone it is gone.
    prune_all(&world).await;
    let error = unforget(&repository, &world.host("one"), made.id, &never_interrupted(), &monitor).await.unwrap_err();
    assert!(!format!("{error:#}").contains("under way"), "{error:#}");
}

/// Another prune, on the same plan, was faster, and has found that something is needed.
#[tokio::test]
async fn the_list_that_another_prune_has_settled_is_deleted_and_no_other() {
    let world = Arc::new(World::new().await);
    let made = world.back_up(&Sample::random(1, 200_000)).await;
    forget_now(&world, made.id).await;
    let before: BTreeSet<_> =
        [world.keys("data/").await, world.keys("manifests/").await].concat().into_iter().collect();
    let others = Arc::clone(&world);
    let settle = move || {
        let world = Arc::clone(&others);
        async move {
            let repository = world.open().await;
            let plan = plans::list_unfinished(&repository).await.unwrap().remove(0);
            assert!(plan.objects.packs().count() > 1);
            plans::settle_final(&repository, plan.id, Doomed::default()).await.unwrap();
        }
    };
    let settles = |operation, target: &str| operation == Operation::Put && target.ends_with("/final");
    let store = meanwhile(world.store(), 1, settles, settle) as Store;
    let report = prune_on("two", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!((report.deleted.packs, report.deleted.manifests), (0, 0));
    let left: BTreeSet<_> = world.keys("").await.into_iter().collect();
    assert!(before.is_subset(&left));
}

#[tokio::test]
async fn no_plan_is_made_beside_one_that_waits() {
    let world = World::new().await;
    let first = world.back_up(&Sample::random(1, 100_000)).await;
    let second = world.back_up(&Sample::random(2, 100_000)).await;
    forget_now(&world, first.id).await;
    let running = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
    let is_plan = |key: &btrfs_to_s3::store::Key| key.as_str().ends_with("/plan");
    for _ in 0..2 {
        let report = prune_on("one", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
        assert_eq!(report.waits_for.len(), 1);
        assert_eq!(world.keys("prune/").await.iter().filter(|key| is_plan(key)).count(), 1);
        forget_now(&world, second.id).await;
    }
    running.give_up().await;
    prune_all(&world).await;
    assert_eq!(world.keys("data/").await, [], "one run goes on with the plan, and makes the next");
}
