//! Orders of a prune's and a backup's requests on which data hang, each with the one course of events that tells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use btrfs_to_s3::backup::Expected;
use btrfs_to_s3::forget::forget;
use btrfs_to_s3::id::{ManifestId, PackId};
use btrfs_to_s3::pack::format::PackClass;
use btrfs_to_s3::records::prune::Doomed;
use btrfs_to_s3::repository::cache::RecordCache;
use btrfs_to_s3::repository::plans::UnfinishedPlan;
use btrfs_to_s3::repository::session::end_dead_sessions;
use btrfs_to_s3::repository::{layout, plans};
use btrfs_to_s3::store::Store;
use btrfs_to_s3::store::recording::{Call, Operation, RecordingStore};
use jiff::SignedDuration;

use crate::interruption::abandoned_run;
use crate::pruning::{options, prune_on};
use crate::samples::Sample;
use crate::scripted::{Act, ScriptedStore, meanwhile, meanwhile_each_time};
use crate::world::{MemorySource, Notes, SteppingClock, World, begin, publish};

async fn forget_now(world: &World, id: ManifestId) {
    forget(&world.open().await, id, "one", "a test").await.unwrap();
}

async fn data_packs(world: &World) -> Vec<PackId> {
    let packs = world.keys(layout::packs(PackClass::Data)).await;
    packs.iter().map(|key| layout::parse_pack_key(key).unwrap().1).collect()
}

/// A backup that looks around before the plan is there and is heard of after the prune has looked would not be waited for.
#[tokio::test]
async fn a_backup_that_begins_just_before_the_plan_is_stored_is_waited_for() {
    let world = Arc::new(World::new().await);
    let sample = Sample::random(1, 200_000);
    let gone = world.back_up(&sample).await;
    forget_now(&world, gone.id).await;
    let begun = Arc::new(Mutex::new(None));
    let (others, running) = (Arc::clone(&world), Arc::clone(&begun));
    let begin_one = move || {
        let (world, running) = (Arc::clone(&others), Arc::clone(&running));
        async move {
            let run = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
            *running.lock().unwrap() = Some(run);
        }
    };
    let stores_plan = |operation, target: &str| operation == Operation::Put && target.ends_with("/plan");
    let store = meanwhile(world.store(), 1, stores_plan, begin_one) as Store;
    let report = prune_on("three", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
    let run = begun.lock().unwrap().take().unwrap();
    assert_eq!((report.waits_for.len(), report.deleted.packs), (1, 0));
    let made = publish(run, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    assert!(made.manifest.totals.new_bytes < 10_000, "it builds on what was to go");
    prune_on("three", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert!(world.restore(made.id()).await.unwrap() == sample.stream());
}

/// A plan that is carried out while a backup looks around: packs that it still saw are gone, and so is the plan.
#[tokio::test]
async fn a_backup_does_not_build_on_what_a_plan_deletes_while_it_looks_around() {
    let world = Arc::new(World::new().await);
    let sample = Sample::random(1, 200_000);
    let gone = world.back_up(&sample).await;
    forget_now(&world, gone.id).await;
    // What it remembers of the index it need not read.
    begin(&world.open().await, &world.host("four"), &Arc::new(Notes::default())).await.unwrap().give_up().await;
    let running = begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap();
    let waiting = prune_on("three", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(waiting.waits_for.len(), 1);
    running.give_up().await;
    let others = Arc::clone(&world);
    let go_on = move || {
        let world = Arc::clone(&others);
        async move {
            let done = prune_on("three", &world, world.store(), &options(SignedDuration::ZERO)).await.unwrap();
            assert!(done.deleted.packs > 0);
        }
    };
    let lists_plans = |operation, target: &str| operation == Operation::List && target == layout::PRUNE;
    let store = meanwhile(world.store(), 1, lists_plans, go_on) as Store;
    let repository = world.open_through(store).await.unwrap();
    let run = begin(&repository, &world.host("four"), &Arc::new(Notes::default())).await.unwrap();
    let made = publish(run, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap();
    assert!(world.restore(made.id()).await.unwrap() == sample.stream());
}

/// Two backups with the same chunks, each in packs of its own: with the second one's bytes and both lots of packs.
async fn everything_twice(world: &World) -> (ManifestId, Vec<u8>, Vec<PackId>, Vec<PackId>) {
    let sample = Sample::random(1, 200_000);
    let runs = [
        begin(&world.open().await, &world.host("one"), &Arc::new(Notes::default())).await.unwrap(),
        begin(&world.open().await, &world.host("two"), &Arc::new(Notes::default())).await.unwrap(),
    ];
    let mut made = Vec::new();
    let mut packs = Vec::new();
    for run in runs {
        made.push(publish(run, MemorySource::new(sample.stream()), Expected::Anything).await.unwrap().id());
        packs.push(data_packs(world).await);
    }
    let all = packs.pop().unwrap();
    let first = packs.pop().unwrap();
    let second: Vec<PackId> = all.iter().filter(|pack| !first.contains(pack)).copied().collect();
    assert_eq!(first.len(), second.len());
    forget_now(world, made[0]).await;
    (made[1], sample.stream(), first, second)
}

/// Announces that packs of file data are to go, by a plan that is listed before another.
async fn put_plan_before(world: &World, data_packs: &[PackId], other: Option<&UnfinishedPlan>) -> UnfinishedPlan {
    let repository = world.open().await;
    loop {
        let doomed = Doomed { data_packs: data_packs.to_vec(), ..Doomed::default() };
        let plan = plans::put_plan(&repository, doomed).await.unwrap();
        if other.is_none_or(|other| layout::plan_key(&plan.id) < layout::plan_key(&other.id)) {
            return plan;
        }
        plans::finish(&repository, plan.id).await.unwrap();
    }
}

/// Two prunes with a plan each, one for either of the two places of a chunk: each must not count on the other's.
#[tokio::test]
async fn two_plans_do_not_take_both_places_of_a_chunk() {
    let world = Arc::new(World::new().await);
    let (kept, stream, first, second) = everything_twice(&world).await;
    let plan = put_plan_before(&world, &first, None).await;
    let final_key = layout::plan_final_key(&plan.id).to_string();

    let (others, earlier) = (Arc::clone(&world), plan.clone());
    let plan_the_other = move || {
        let (world, earlier, second) = (Arc::clone(&others), earlier.clone(), second.clone());
        async move { drop(put_plan_before(&world, &second, Some(&earlier)).await) }
    };
    // The first time it looks for plans to go on with; the second time it marks.
    let lists_plans = |operation, target: &str| operation == Operation::List && target == layout::PRUNE;
    let store = meanwhile(world.store(), 2, lists_plans, plan_the_other) as Store;

    let (others, settled) = (Arc::clone(&world), final_key.clone());
    let other_prune = move || {
        let (world, settled) = (Arc::clone(&others), settled.clone());
        async move {
            // It carries the other plan out, and is never heard of again when it has come to the first.
            let swallow = move |operation, target: &str| {
                if operation == Operation::Put && target == settled { Act::Swallow } else { Act::Answer }
            };
            let store = Arc::new(ScriptedStore::new(world.store(), swallow));
            let options = options(SignedDuration::ZERO);
            tokio::select! {
                ended = prune_on("four", &world, Arc::clone(&store) as Store, &options) => panic!("{ended:?}"),
                () = store.silent.notified() => {}
            }
        }
    };
    let settles = move |operation, target: &str| operation == Operation::Put && target == final_key;
    let store = meanwhile(store, 1, settles, other_prune) as Store;
    prune_on("three", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
    assert!(world.restore(kept).await.unwrap() == stream);
}

/// Backups are published all the time: what a manifest needs is there by the time that packs are listed.
#[tokio::test]
async fn a_prune_beside_backups_that_are_published_whenever_it_looks_goes_on() {
    // One page, which does not grow while it is read.
    let world = Arc::new(World::with_pages(SteppingClock::new(SignedDuration::from_secs(1)), 1000));
    world.init(world.store()).await.unwrap();
    let gone = world.back_up(&Sample::random(1, 200_000)).await;
    forget_now(&world, gone.id).await;
    let others = Arc::clone(&world);
    let number = Arc::new(AtomicU64::new(2));
    let back_up = move || {
        let (world, number) = (Arc::clone(&others), number.fetch_add(1, Ordering::SeqCst));
        async move {
            let number = u8::try_from(number).unwrap();
            drop(world.back_up_from("two", &Sample::random(number, 20_000)).await);
        }
    };
    // Manifests are listed after the sessions whose ends make them count.
    let lists_sessions = |operation, target: &str| operation == Operation::List && target == layout::SESSIONS;
    let store = meanwhile_each_time(world.store(), lists_sessions, back_up) as Store;
    let report = prune_on("three", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
    assert!(report.deleted.packs > 0, "{report:?}");
    let published = world.published().await;
    assert!(published.len() >= 2, "{} backups were made meanwhile", published.len());
    for id in published {
        world.restore(id).await.unwrap();
    }
}

/// Which sessions count was listed while it was open: its packs seem to be in no segment.
#[tokio::test]
async fn what_a_run_has_stored_that_ends_while_packs_are_listed_is_left_alone() {
    let world = Arc::new(World::new().await);
    abandoned_run(&world, "two", Sample::random(1, 200_000).stream(), "manifests/").await;
    let packs = world.keys("data/").await;
    assert!(!packs.is_empty());
    let others = Arc::clone(&world);
    let end = move || {
        let world = Arc::clone(&others);
        async move {
            let host = world.host("two");
            let repository = world.open().await;
            let ended = end_dead_sessions(&repository, &host.name, &host.machine, &RecordCache::none()).await;
            assert_eq!(ended.unwrap(), 1);
        }
    };
    let lists_packs = |operation, target: &str| operation == Operation::List && target == "data/";
    let store = meanwhile(world.store(), 1, lists_packs, end);
    prune_on("one", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
    assert_eq!(world.keys("data/").await, packs, "the host's next run finds them");
}

/// What earlier prunes have deleted is asked for once, however much it was.
#[tokio::test]
async fn the_requests_of_a_prune_do_not_grow_with_what_was_pruned() {
    let world = World::new().await;
    world.back_up(&Sample::random(1, 50_000)).await;
    let mut requests = Vec::new();
    for number in [2, 3, 4] {
        let gone = world.back_up(&Sample::random(number, 20_000)).await;
        forget_now(&world, gone.id).await;
        let recording = Arc::new(RecordingStore::new(world.store()));
        let store = Arc::clone(&recording) as Store;
        prune_on("one", &world, store, &options(SignedDuration::ZERO)).await.unwrap();
        let calls = recording.calls();
        let is_marker = |call: &&Call| call.operation == Operation::Head && call.target.starts_with(layout::FORGOTTEN);
        requests.push(calls.iter().filter(is_marker).count());
    }
    assert_eq!(requests, [0, 0, 0], "markers that were asked for one by one");
}
